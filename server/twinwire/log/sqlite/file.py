"""The file of the SQLite log: how a URL names it, what is in it, and whether it is sound.

Connections come from here, with their settings; what is read and written over them is not this module's.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from twinwire.protocol.errors import SettingsError

logger = logging.getLogger("twinwire.log")

APPLICATION_ID = 0x74776972  # "twir": how SQLite's header says whose file it is
VERSION = 1
CHECK_SECONDS = 5.0
_ALTERED = re.compile("no such (table|column)|no column named|has [0-9]+ columns but|malformed JSON")
"""The words of SQLite, with a code that means anything, for a table that another program has dropped or altered."""
WAL_BYTES = 16 * 2**20  # what is kept of the write-ahead log when it has grown

SCHEMA = (
    # A deleted run's number is never used again: its events may still be here, see `garbage`.
    """CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, info BLOB NOT NULL,
    key TEXT UNIQUE, ended REAL, size INTEGER)""",
    "CREATE INDEX runs_ended ON runs (ended) WHERE ended IS NOT NULL",
    "CREATE INDEX runs_open ON runs (id) WHERE ended IS NULL",
    """CREATE TABLE events (run INTEGER NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL, start INTEGER NOT NULL,
    stop INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, seq)) WITHOUT ROWID""",
    "CREATE TABLE garbage (run INTEGER PRIMARY KEY)",
    "CREATE TABLE sessions (key TEXT PRIMARY KEY, used REAL NOT NULL, turns BLOB NOT NULL)",
    "CREATE INDEX sessions_used ON sessions (used)",
)

LATER = {"user_id": "TEXT", "created": "TEXT", "status": "TEXT", "expires": "REAL"}
"""Columns of `runs` that files of the first servers go without, and that those leave null.

`expires` is when a run with a retention of its own is forgotten, in the time of `ended`.
"""
INDEXES = {
    "runs_created": "(created, run_id)",
    "runs_of_user": "(user_id, created, run_id) WHERE user_id IS NOT NULL",
    "runs_kept": "(ended, id) WHERE ended IS NOT NULL AND expires IS NULL",
    "runs_expires": "(expires) WHERE expires IS NOT NULL",
}
TABLES = {
    "clock": "(id INTEGER PRIMARY KEY, at REAL NOT NULL)",
    "folded": "(run INTEGER PRIMARY KEY, state BLOB NOT NULL)",
    "starts": "(run INTEGER PRIMARY KEY, start BLOB NOT NULL)",
    "resumable": """(run INTEGER PRIMARY KEY, owner TEXT NOT NULL, epoch INTEGER NOT NULL, claims INTEGER NOT NULL,
    cancelled INTEGER NOT NULL, checkpoint BLOB NOT NULL)""",
}
"""Tables that files of the first servers go without."""
CHECKS = {
    "runs": "integrity_check",
    "sessions": "integrity_check",
    "starts": "quick_check",
    "resumable": "quick_check",
    "events": "quick_check",
}
"""The query that checks each table for damage, those of a file of any size first."""


class Damage(sqlite3.DatabaseError):
    """A row holds what this log never writes: the file is as damaged as one that SQLite cannot read."""


class Place(Struct, frozen=True):
    """A log's file: `name` as the user wrote it, and how durable a commit is (`PRAGMA synchronous`)."""

    path: Path
    name: str
    synchronous: str


def parse(url: str) -> Place:
    """Return the place that a URL such as `sqlite:///file?synchronous=full` names. Raises `SettingsError`."""
    parts = urlsplit(url)
    name = unquote(parts.path[1:])
    if parts.netloc or not url.startswith("sqlite:///") or parts.fragment or not name or "\0" in name:
        raise SettingsError(
            "`--log` must be sqlite:///file.db or sqlite:////absolute/file.db for a SQLite log.", field="--log"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "normal").lower()
    if options or synchronous not in {"normal", "full"}:
        raise SettingsError(
            "`--log` may only have the option ?synchronous=normal or ?synchronous=full for a SQLite log.", field="--log"
        )
    try:
        path = Path(name).resolve()  # one name for SQLite's other files, whichever link was given
    except (OSError, RuntimeError):
        raise SettingsError(f"`--log` names {name}, a link that leads nowhere.", field="--log") from None
    return Place(path, name, synchronous)


def reading(path: Path) -> sqlite3.Connection:
    """Return a connection that only reads; it sees each commit at once and never holds the writer up."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA query_only = 1")
    return db


def checkpointing(place: Place) -> sqlite3.Connection:
    """Return a connection that only moves what is committed into the file, as durably as the one that writes."""
    db = sqlite3.connect(f"{place.path.as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA synchronous = {place.synchronous}")
    return db


def writing(place: Place) -> sqlite3.Connection:
    """Return the connection that writes, to a file that is ours, sound and of our schema. Raises `SettingsError`."""
    db = None
    try:
        db = sqlite3.connect(place.path, isolation_level=None)
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID and (application or db.execute("SELECT 1 FROM sqlite_master").fetchone()):
            raise SettingsError(
                f"`--log` must name a new file or a log, but {place.name} is a database of something else.",
                field="--log",
            )
        if version > VERSION:
            raise SettingsError(
                f"`--log` names {place.name}, which a newer Twinwire wrote. "
                f"Its schema is {version}, and this Twinwire knows {VERSION}.",
                field="--log",
            )
        if version:
            _check(db, place)
        _prepare(db, place, new=version == 0)
    except (sqlite3.Error, OSError, SettingsError) as error:
        if db is not None:
            db.close()
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"`--log` names {place.name}, which cannot be used: {error}.", field="--log") from None
    if sqlite3.sqlite_version_info < (3, 51, 3):
        logger.warning(
            "SQLite %s can damage a file in WAL mode that two programs write at once (fixed in 3.51.3). Twinwire"
            " avoids what leads to it and keeps other servers out. Let no other program write to %s.",
            sqlite3.sqlite_version,
            place.name,
        )
    return db


def _prepare(db: sqlite3.Connection, place: Place, *, new: bool) -> None:
    if new:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise SettingsError(
            f"`--log` names {place.name}, whose file system does not support a write-ahead log.", field="--log"
        )
    db.execute(f"PRAGMA synchronous = {place.synchronous}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # `Checkpoints` does it
    db.execute("PRAGMA secure_delete = 1")  # what is deleted is overwritten with zeros
    # What a file that was tampered with could do beyond being wrong data.
    db.execute("PRAGMA trusted_schema = 0")
    db.execute("BEGIN IMMEDIATE")  # also if nothing is new: it shows whether the file can be written
    if new:
        for statement in SCHEMA:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
    known = {name for (name,) in db.execute("SELECT name FROM pragma_table_info('runs')")}
    for name, kind in LATER.items():
        if name not in known:
            db.execute(f"ALTER TABLE runs ADD COLUMN {name} {kind}")
    for name in ("user_id", "created"):  # of runs that a server without this column wrote
        if name not in known or name == "created":
            fill = f"UPDATE runs SET {name} = json_extract(CAST(info AS TEXT), '$.{name}') WHERE {name} IS NULL"  # noqa: S608
            db.execute(fill)
    db.execute("DROP INDEX IF EXISTS runs_user")  # of the user and the id
    for name, indexed in INDEXES.items():
        db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON runs {indexed}")
    for name, columns in TABLES.items():
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} {columns}")
    db.execute("COMMIT")


def _check(db: sqlite3.Connection, place: Place) -> None:
    """Look for damage in each table, in the order of `CHECKS`, for some seconds at most.

    With a damaged index a run would seem not to exist. SQLite cannot see that a text has another content: it has no
    checksums.
    """
    deadline = time.monotonic() + CHECK_SECONDS
    db.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        absent = TABLES.keys() - {name for (name,) in tables}
        for table in [table for table in CHECKS if table not in absent]:
            found = db.execute(f"PRAGMA {CHECKS[table]}('{table}')").fetchone()[0]
            if found != "ok":
                what = found.splitlines()[-1]
                raise SettingsError(
                    f"`--log` names {place.name}, which is damaged ({what}). Restore it or use another file.",
                    field="--log",
                )
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_INTERRUPT":
            raise
        logger.warning(
            "The file %s is too large for a complete check for damage within %g s.", place.name, CHECK_SECONDS
        )
    except sqlite3.DatabaseError as error:
        raise SettingsError(
            f"`--log` names {place.name}, which is damaged ({error}). Restore it or use another file.", field="--log"
        ) from None
    finally:
        db.set_progress_handler(None, 0)


def key_of(*parts: str | None) -> str:
    """Return the parts as one text that no other parts make; ASCII, so that any string has one."""
    return json.dumps(parts)


def damaged(error: BaseException) -> bool:
    """Return whether SQLite says that a file is no sound database, ends too soon, or has not our tables any more."""
    if isinstance(error, Damage):
        return True
    code = getattr(error, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_ERROR:
        return _ALTERED.search(str(error)) is not None
    unsound = code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return unsound or code in {sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_CONSTRAINT_TRIGGER}
