"""Reads of a SQLite log that memory cannot answer: older events, and runs that have ended."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from twinwire.log.base import (
    SCANNED,
    Folded,
    Listing,
    Page,
    Position,
    RunInfo,
    RunState,
    RunSummary,
    Wanted,
    folded_of,
    listing,
)
from twinwire.log.sqlite.file import Damage, damaged, reading
from twinwire.log.sqlite.tables import info_of
from twinwire.log.tail import PAGE_BYTES
from twinwire.protocol.errors import CursorGone, LogUnavailable, RunNotFound
from twinwire.protocol.events import TERMINAL_TYPES, Record, outcome, restored

T = TypeVar("T")

logger = logging.getLogger("twinwire.log")

THREADS = 2

_RUN = """
SELECT id, info, ended IS NOT NULL, coalesce(size, 0), coalesce((SELECT min(seq) FROM events WHERE run = id), 1),
    coalesce((SELECT max(seq) FROM events WHERE run = id), 0),
    (SELECT type FROM events WHERE run = id ORDER BY seq DESC LIMIT 1)
FROM runs WHERE run_id = :run_id AND (:user_id IS NULL OR user_id = :user_id)
"""
# SQLite reads into the event without the interpreter's lock: the result may be large, and nobody waits for it.
_WITHOUT_RESULT = "SELECT json_remove(CAST(body AS TEXT), '$.data.result') FROM events WHERE run = ? AND seq = ?"
_STATUS = """
CASE WHEN ended IS NULL THEN 'running' ELSE coalesce(status, (
    SELECT json_extract(CAST(body AS TEXT), '$.data.status') FROM events WHERE run = id ORDER BY seq DESC LIMIT 1
), 'error') END
"""
_LISTED, _LISTED_OF_USER = (
    f"SELECT created, run_id, info, {_STATUS} FROM runs WHERE {who} AND (created, run_id) < (:end, :end_id)"  # noqa: S608
    " AND created >= :since ORDER BY created DESC, run_id DESC LIMIT :limit"
    for who in ("TRUE", "user_id = :user_id")
)
_SIZE = "SELECT coalesce(sum(length(body)), 0) FROM events WHERE run = ?"
_NO_END = ("~", "")  # which is after all times
_EVENTS = "SELECT seq, type, body, start, stop FROM events WHERE run = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"


class Reader:
    """Threads that read, each over a connection of its own, and never hold the writer up.

    All methods raise `LogUnavailable`. `failing` tells whether the last read failed; damage is what `on_damage` is
    called with, in one of the threads.
    """

    def __init__(self, path: Path, on_damage: Callable[[sqlite3.Error], None]) -> None:
        self._path = path
        self._on_damage = on_damage
        self._pool = ThreadPoolExecutor(THREADS, "sqlite-log-reader")
        self._connections: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self.failing = False

    def open(self) -> None:
        """Connect, while the path names the file that is meant. Raises `sqlite3.Error`."""
        for _ in range(THREADS):
            db = reading(self._path)
            self._connections.put(db)
            db.execute("SELECT 1 FROM runs LIMIT 1").fetchall()  # SQLite opens a file when it is first read

    async def find(self, key: str) -> RunInfo | None:
        """Return the run with this key."""
        row = await self._run(lambda db: db.execute("SELECT info FROM runs WHERE key = ?", (key,)).fetchone())
        return None if row is None else info_of(row[0])

    async def listed(self, wanted: Wanted, limit: int, before: Position | None) -> Listing:
        """As `EventLog.listed`."""
        end, end_id = wanted.end(before) or _NO_END
        bounds = {"user_id": wanted.user_id, "end": end, "end_id": end_id, "since": wanted.created_after or ""}
        query = _LISTED if wanted.user_id is None else _LISTED_OF_USER

        def read(db: sqlite3.Connection) -> Listing:
            rows = db.execute(query, {**bounds, "limit": SCANNED}).fetchall()
            rest = rows[-1][:2] if len(rows) == SCANNED else None
            return listing([(info_of(info), status) for _, _, info, status in rows], wanted, limit, rest)

        return await self._run(read)

    async def state(self, run_id: str, user_id: str | None) -> RunState:
        """As `EventLog.state`."""

        def read(db: sqlite3.Connection) -> RunState:
            run, kept, ended, size, first, last = _run(db, run_id, user_id)
            info = info_of(kept)
            if not ended:  # it goes on nowhere: it is yet to be claimed, or was released
                return RunState(info, first, last, None, db.execute(_SIZE, (run,)).fetchone()[0])
            (terminal,) = _records(db, run, last - 1, last, 1)
            return RunState(info, first, last, terminal, size, info.owner)

        return await self._run(read)

    async def summary(self, run_id: str, user_id: str | None) -> RunSummary:
        """As `EventLog.summary`."""

        def read(db: sqlite3.Connection) -> RunSummary:
            run, info, ended, _, first, last = _run(db, run_id, user_id)
            told = db.execute(_WITHOUT_RESULT, (run, last)).fetchone()[0] if ended else ""
            try:
                how = outcome(told.encode()) if told else b""
            except (ValueError, TypeError, AttributeError):
                raise Damage("an event is not what was written") from None
            return RunSummary(info_of(info), first, last, how)

        return await self._run(read)

    async def folded(self, run_id: str) -> Folded | None:
        """As `EventLog.folded`."""

        def read(db: sqlite3.Connection) -> Folded | None:
            row = db.execute("SELECT state FROM folded WHERE run = ?", _run(db, run_id)[:1]).fetchone()
            try:
                return None if row is None else folded_of(row[0])
            except (ValueError, TypeError):
                raise Damage("a run's state is not what was written") from None

        return await self._run(read)

    async def page(self, run_id: str, after: int, limit: int, upto: int | None) -> Page:
        """As `EventLog.page`, of the run as it was when `upto` was its last event."""

        def read(db: sqlite3.Connection) -> Page:
            run, info, ended, _, first, last = _run(db, run_id)
            info_of(info)
            if upto is not None and upto < last:
                ended, last = False, upto
            if not first - 1 <= after <= last:
                raise CursorGone(first, last)
            return Page(_records(db, run, after, last, limit), first, last, bool(ended))

        return await self._run(read)

    def close(self) -> None:
        """Let what is being read be read, then let go. Blocks."""
        self._pool.shutdown(cancel_futures=True)
        while not self._connections.empty():
            self._connections.get().close()

    async def _run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, read)
        except RuntimeError:  # closed
            raise LogUnavailable from None

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        db = self._connections.get()
        try:
            db.execute("BEGIN")  # all that is read is of one moment
            try:
                found = read(db)
            finally:
                db.execute("ROLLBACK")
        except sqlite3.Error as error:
            if not self.failing:
                logger.error("The SQLite log cannot be read: %s.", error)  # noqa: TRY400 - the file's fault, not ours
            self.failing = True
            if damaged(error):
                self._on_damage(error)
            raise LogUnavailable from None
        finally:
            self._connections.put(db)
        if self.failing:
            logger.warning("The SQLite log can be read again.")
        self.failing = False
        return found


def _run(db: sqlite3.Connection, run_id: str, user_id: str | None = None) -> Any:
    """Return what is known of a run. One that has ended, and whose end another program has deleted, is none."""
    row = db.execute(_RUN, {"run_id": run_id, "user_id": user_id}).fetchone()
    if row is None or (row[2] and row[-1] not in TERMINAL_TYPES):
        raise RunNotFound
    return row[:-1]


def _records(db: sqlite3.Connection, run: int, after: int, last: int, limit: int) -> list[Record]:
    """Return at most `limit` records and `PAGE_BYTES` bytes, but one record at least, of those up to number `last`.

    They are contiguous. Raises `CursorGone` if the first one is missing: another program has deleted it; `Damage` if
    one of them is no event.
    """
    records: list[Record] = []
    size = 0
    for seq, kind, body, start, stop in db.execute(_EVENTS, (run, after, last, limit)):
        if seq != after + len(records) + 1:
            if not records:
                raise CursorGone(seq, last)
            break
        try:
            record = restored(seq, kind, body, start, stop)
        except (ValueError, TypeError, AttributeError):
            raise Damage("an event is not what was written") from None
        size += len(body)
        if records and size > PAGE_BYTES:
            break
        records.append(record)
    return records
