"""The writes of the SQLite log, as transactions on one connection: runs, events, and what is deleted.

No threads and no asyncio: `writer` has those.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from twinwire.log.backpressure import EXCESS_BYTES, NOBODY
from twinwire.log.base import Limits, Quota, RunInfo
from twinwire.log.quotas import Quotas
from twinwire.log.sqlite.conversations import Conversations
from twinwire.log.sqlite.file import Damage
from twinwire.log.sqlite.resumable import Resumable
from twinwire.protocol.errors import IdempotencyMismatch, RunNotFound, StaleWriter
from twinwire.protocol.events import Record, outcome, status_of

DELETE_EVENTS = 500  # in one transaction
DELETE_BYTES = 2**20
DELETE_RUNS = 256
TRIM_EVENTS = 4096  # in one transaction, after followers were waited for
VACUUM_PAGES = 16

_COLUMNS = 6
# Each statement lets go of the interpreter's lock and may wait milliseconds to get it back from a busy event loop: a
# batch takes few statements, of many rows each.
_INSERTS = tuple(
    (count, f"INSERT INTO events VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * count)}")  # noqa: S608 - no input in it
    for count in (256, 64, 16, 4, 1)
)
_HEAD = """
SELECT id, coalesce((SELECT min(seq) FROM events WHERE run = id), 1),
    coalesce((SELECT max(seq) FROM events WHERE run = id), 0),
    coalesce(size, (SELECT sum(length(body)) FROM events WHERE run = id), 0), ended IS NOT NULL,
    coalesce((SELECT length(start) FROM starts WHERE run = id), 0),
    coalesce((SELECT length(checkpoint) FROM resumable WHERE run = id), 0)
FROM runs WHERE
"""
_OLDEST = """
SELECT max(seq) FROM (
    SELECT seq, sum(size) OVER (ORDER BY seq) - size AS before FROM (
        SELECT seq, length(body) AS size FROM events WHERE run = ? ORDER BY seq LIMIT ?))
WHERE before < ?
"""
_DUE = """
SELECT id, size, run_id FROM runs WHERE ended IS NOT NULL AND expires IS NULL AND ended <= ? ORDER BY ended, id LIMIT ?
"""
_DUE_ALONE = "SELECT id, size, run_id FROM runs WHERE expires IS NOT NULL AND expires <= ? ORDER BY expires LIMIT ?"

_info = msgspec.json.Decoder(RunInfo)


class Head(Struct, gc=False):
    """The place of a run's events in the file, with those of the transaction that goes on.

    `start` and `checkpoint` are the bytes of those that are kept; without a start nobody can go on with the run.
    """

    id: int
    first: int
    last: int
    size: int
    ended: bool
    start: int
    checkpoint: int

    @property
    def weight(self) -> int:
        """Return the bytes of all that is kept of the run."""
        return self.size + self.start + self.checkpoint


def info_of(kept: Any) -> RunInfo:
    """Return a run's info. Raises `Damage`."""
    try:
        return _info.decode(kept)
    except (ValueError, TypeError):
        raise Damage("a run's info is not what was written") from None


class Tables:
    """One owner's tables.

    `size` is the bytes of all events' bodies that are not deleted, and of starts and checkpoints. All methods but
    `tidy` and `close` are called in a `transaction`.

    Ages are counted in the time that the log was open, by the monotonic `clock`. The times in the file begin as Unix
    time, and go on from the newest one that the file has: if it was closed, from then. So no clock that is wrong, for
    however long, ends what is to be kept; nor does the time that the server was down.

    Of ended runs those that are `spared` go last; another thread may add to them.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        spared: Collection[str] = (),
        waiting: Collection[str] = (),
    ) -> None:
        self._db = db
        self._spared = spared
        self._limits = limits
        kept = ("SELECT max(ended) FROM runs", "SELECT max(used) FROM sessions", "SELECT at FROM clock")
        newest = [self._one(query) for query in kept]
        offset = (max((at for at in newest if at is not None), default=None) or time.time()) - clock()
        self._clock: Callable[[], float] = lambda: offset + clock()
        self._heads: dict[str, Head] = {}
        self._rows: list[Any] = []  # of events not inserted yet, one value after the other
        self.quotas = Quotas(self._goes_on, waiting=waiting)
        self.conversations = Conversations(db, limits, self._clock)
        self.resumable = Resumable(db)
        self._chores = (self._sweep, self._expire, self.conversations.expire, self._shrink)
        self.size: int = self._one("SELECT coalesce(sum(size), 0) FROM runs")
        self._version = self._one("PRAGMA data_version")

    @property
    def crowded(self) -> bool:
        """Return whether there is more than may be kept."""
        return self.size > self._limits.max_bytes

    @property
    def _patient(self) -> bool:
        """Return whether there is room for what followers have yet to read."""
        return self.size <= self._limits.max_bytes + EXCESS_BYTES

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done in it, or nothing."""
        size = self.size
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._insert()
            self._db.execute("COMMIT")
        except BaseException:
            self._rows.clear()
            self._heads.clear()
            self.size = size
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def create(self, run: RunInfo, key: str | None, quota: Quota | None, start: bytes) -> RunInfo:
        """Add a run, or return the one that has this key. Raises as `EventLog.create`."""
        if key is not None:
            found = self._db.execute("SELECT info FROM runs WHERE key = ?", (key,)).fetchone()
            if found is not None:
                known = info_of(found[0])
                if known.fingerprint != run.fingerprint:
                    raise IdempotencyMismatch
                return known
        self.quotas.admit(run, quota)
        added = self._db.execute(
            "INSERT INTO runs (run_id, info, key, user_id, created) VALUES (?, ?, ?, ?, ?)",
            (run.run_id, msgspec.json.encode(run), key, run.user_id, run.created),
        )
        self._heads[run.run_id] = head = Head(added.lastrowid or 0, 1, 0, 0, False, len(start), 0)
        if start:
            self.resumable.add(head.id, run.owner, start)
            self.size += len(start)
        return run

    def _goes_on(self, run_id: str) -> bool:
        return bool(self._one("SELECT count(*) FROM runs WHERE run_id = ? AND ended IS NULL", run_id))

    def append(
        self,
        run_id: str,
        expected_last: int,
        records: Sequence[Record],
        slowest: int = NOBODY,
        retention: float | None = None,
        *,
        checkpoint: bytes | None = None,
    ) -> tuple[int, int] | None:
        """Add events, and keep the checkpoint that comes with them.

        Return the first number that the run has now, or None if no event was new.
        `slowest` is the lowest cursor of the run's followers, `retention` the run's own. The other number returned is
        that up to which the run is to be trimmed once they are there, or 0. Raises `StaleWriter`, `RunNotFound`.
        """
        head = self._heads.get(run_id) or self.load(run_id)
        if expected_last != head.last or head.ended:
            self._compare(head, expected_last, records)
            return None
        if checkpoint is not None:
            self._put(head, checkpoint)
            if not records:
                return None
        due = self.add(head, records, slowest)
        if records[-1].last:
            self.end(head, records[-1], retention)
            del self._heads[run_id]
        return head.first, due

    def _put(self, head: Head, checkpoint: bytes) -> None:
        """Keep a run's newest checkpoint; an empty one says that nobody can go on with the run any more."""
        if not checkpoint:
            self._withdraw(head)
        elif head.start:
            self.resumable.put(head.id, checkpoint)
            self.size += len(checkpoint) - head.checkpoint
            head.checkpoint = len(checkpoint)

    def _withdraw(self, head: Head) -> None:
        """Keep nothing for anybody who would go on with the run."""
        if head.start:
            self.resumable.drop(head.id)
            self.size -= head.start + head.checkpoint
            head.start = head.checkpoint = 0

    def trim(self, run_id: str, upto: int) -> int:
        """Delete some of a run's events up to this number. Return the first number it has now. Raise `RunNotFound`."""
        head = self._heads.get(run_id) or self.load(run_id)
        self._trim(head, min(upto, head.first + TRIM_EVENTS - 1, head.last - 1))
        if head.ended:
            self._db.execute("UPDATE runs SET size = ? WHERE id = ?", (head.size, head.id))
        return head.first

    def keep(self, run_id: str, folded: bytes) -> None:
        """Keep the state of a run that was trimmed. Raise `RunNotFound`."""
        head = self.load(run_id)
        self._db.execute("INSERT OR REPLACE INTO folded VALUES (?, ?)", (head.id, folded))
        self._db.execute("UPDATE runs SET size = size + ? WHERE id = ?", (len(folded), head.id))
        self.size += len(folded)

    def disturbed(self) -> bool:
        """Return whether another program has written to the file since the last call."""
        before, self._version = self._version, self._one("PRAGMA data_version")
        return bool(before != self._version)

    def damaged(self, known: Mapping[str, int]) -> dict[str, bool]:
        """Return the runs that have other events, of those that go on with these last numbers, and which can be ended.

        Raises `Damage` for a run whose info cannot be read.

        That is done under the number after the last one that is known: nobody has seen another event under it.
        """
        lost: dict[str, bool] = {}
        for run_id, last in known.items():
            before = self._heads.pop(run_id, None)
            try:
                head = self.load(run_id)
            except RunNotFound:
                lost[run_id] = False
                continue
            self.info(head)
            count = self._one("SELECT count(*) FROM events WHERE run = ?", head.id)
            whole = count == head.last - head.first + 1 and head.last >= last
            foreign = before is not None and (before.first, before.last) != (head.first, head.last)
            if head.ended or not whole or foreign:
                lost[run_id] = not head.ended
                head.last = max(head.last, last)
        return lost

    def discard(self, run_id: str) -> None:
        """Make a run that goes on unknown, if there is such a run; `tidy` deletes its events."""
        self._heads.pop(run_id, None)
        self._insert()
        row = self._db.execute(f"{_HEAD} run_id = ?", (run_id,)).fetchone()
        if row is not None and not (head := Head(*row)).ended:
            self._withdraw(head)
            self._drop(head.id, head.size)

    def delete(self, run_id: str) -> int | None:
        """Make a run that has ended unknown. Return its number, for `sweep`, or None if it goes on."""
        row = self._db.execute("SELECT id, size, ended FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound
        if row[2] is None:
            return None
        self._drop(*row[:2])
        return int(row[0])

    def forget(self, user_id: str) -> dict[int, str]:
        """Delete a user's conversations, and make some runs that have ended unknown: their numbers, for `sweep`."""
        self.conversations.forget(user_id)
        self.quotas.forget(user_id)
        ended = "SELECT id, size, run_id FROM runs WHERE user_id = ? AND ended IS NOT NULL LIMIT ?"
        rows = self._db.execute(ended, (user_id, DELETE_RUNS)).fetchall()
        for row in rows:
            self._drop(*row[:2])
        return {number: run_id for number, _, run_id in rows}

    def _drop(self, number: int, size: int | None) -> None:
        self._db.execute("INSERT INTO garbage VALUES (?)", (number,))
        self._db.execute("DELETE FROM runs WHERE id = ?", (number,))
        self.size -= size or 0  # NULL if another program has ended the run

    def touch(self) -> None:
        """Write without changing anything: shows whether the file takes it."""
        self._db.execute(f"PRAGMA user_version = {self._one('PRAGMA user_version')}")

    def tidy(self) -> bool:
        """Delete a little of what is not to be kept any more. Return False if there is nothing to delete."""
        for chore in self._chores:
            with self.transaction():
                if chore():
                    return True
        return False

    def close(self, *, whole: bool = True) -> None:
        """Move what the write-ahead log has into the file, unless that is not whole, and close it."""
        try:
            if whole:
                self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (self._clock(),))
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()

    def _one(self, query: str, *values: Any) -> Any:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def rows(self, query: str) -> list[Any]:
        """Return what a query finds."""
        return self._db.execute(query).fetchall()

    def info(self, head: Head) -> RunInfo:
        """Return a run's info. Raises `Damage`."""
        return info_of(self._one("SELECT info FROM runs WHERE id = ?", head.id))

    def unload(self, run_id: str) -> None:
        """Hold nothing of a run in memory."""
        self._heads.pop(run_id, None)

    def load(self, run_id: str) -> Head:
        """Read what the file has of a run, and hold it if the run goes on. Raise `RunNotFound`."""
        self._insert()
        row = self._db.execute(f"{_HEAD} run_id = ?", (run_id,)).fetchone()
        if row is None:
            raise RunNotFound
        head = Head(*row)
        if not head.ended:
            self._heads[run_id] = head
        return head

    def add(self, head: Head, records: Sequence[Record], slowest: int = NOBODY) -> int:
        """Add events. Return the number up to which the run is to be trimmed, but has `slowest` behind it; or 0."""
        for record in records:
            self._rows += (head.id, record.seq, record.type, record.start, record.stop, record.body)
        added = sum([len(record.body) for record in records])
        head.last = records[-1].seq
        head.size += added
        self.size += added
        due = 0
        if head.last - head.first >= self._limits.max_events:
            # An eighth less than the bound, so that not every append of a long run is one that deletes.
            spare = min(self._limits.max_events // 8, DELETE_EVENTS)
            due = min(head.last - self._limits.max_events + spare, head.last - 1)
        elif self.crowded and self._oldest() is None:
            self._insert()
            excess = self.size - self._limits.max_bytes * 7 // 8
            most = max(DELETE_EVENTS, 2 * len(records))
            due = min(self._one(_OLDEST, head.id, most, excess), head.last - 1)
        if due > slowest and self._patient:
            return due
        if due:
            self._trim(head, due)
        return 0

    def _trim(self, head: Head, last: int) -> None:
        """Delete a run's events up to number `last`."""
        self._insert()
        doomed = (head.id, last)
        freed = self._one("SELECT coalesce(sum(length(body)), 0) FROM events WHERE run = ? AND seq <= ?", *doomed)
        self._db.execute("DELETE FROM events WHERE run = ? AND seq <= ?", doomed)
        head.first = max(head.first, last + 1)
        head.size -= freed
        self.size -= freed

    def end(self, head: Head, terminal: Record, retention: float | None) -> None:
        """Count the run as one that has ended with this event, which was added."""
        now = self._clock()
        expires = None if retention is None else now + retention
        status = status_of(outcome(terminal.body))
        self._db.execute(
            "UPDATE runs SET ended = ?, size = ?, expires = ?, status = ? WHERE id = ?",
            (now, head.size, expires, status, head.id),
        )
        self._withdraw(head)

    def _compare(self, head: Head, expected_last: int, records: Sequence[Record]) -> None:
        """Events that are here already are no error. Raises `StaleWriter`."""
        if not records:
            raise StaleWriter(expected_last, head.last)
        self._insert()
        bounds = (head.id, records[0].seq, records[-1].seq)
        rows = self._db.execute("SELECT body FROM events WHERE run = ? AND seq BETWEEN ? AND ? ORDER BY seq", bounds)
        if [body for (body,) in rows.fetchall()] != [record.body for record in records]:
            raise StaleWriter(expected_last, head.last)

    def _insert(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        done = 0
        for count, statement in _INSERTS:
            width = count * _COLUMNS
            while len(rows) - done >= width:
                self._db.execute(statement, rows[done : done + width])
                done += width

    def _sweep(self) -> bool:
        """Delete some events of a run that is gone."""
        run = self._one("SELECT run FROM garbage LIMIT 1")
        if run is None:
            return False
        self.sweep(run)
        return True

    def sweep(self, run: int) -> bool:
        """Delete some events of the run with this number, which is gone. Return whether there are more."""
        last = self._one(_OLDEST, run, DELETE_EVENTS, DELETE_BYTES)
        self._db.execute("DELETE FROM events WHERE run = ? AND seq <= ?", (run, last))
        if self._one("SELECT 1 FROM events WHERE run = ? LIMIT 1", run) is not None:
            return True
        for table in ("garbage", "folded"):
            self._db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - no input in it
        return False

    def _oldest(self) -> Any:
        """Return the id, the size and the name of the run that ended first and may go."""
        return self._first("SELECT id, size, run_id FROM runs WHERE ended IS NOT NULL ORDER BY ended, id LIMIT ?")

    def _due(self) -> Any:
        """Return the same of a run whose retention is over."""
        now = self._clock()
        return self._first(_DUE, now - self._limits.retention) or self._first(_DUE_ALONE, now)

    def _first(self, query: str, *values: Any) -> Any:
        rows = self._db.execute(query, (*values, len(self._spared) + 1)).fetchall()
        return next((row for row in rows if row[2] not in self._spared or not self._patient), None)

    def _expire(self) -> bool:
        """Forget a run after its retention, or the one that ended first if it is `crowded`; `_sweep` goes on."""
        row = self._oldest() if self.crowded else self._due()
        if row is None:
            return False
        self._drop(*row[:2])
        return True

    def _shrink(self) -> bool:
        """Give some of the file back if over a quarter of it is free; the rest is for what comes next."""
        free, pages = self._one("PRAGMA freelist_count"), self._one("PRAGMA page_count")
        if free <= max(pages // 4, VACUUM_PAGES):
            return False
        self._db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        return True
