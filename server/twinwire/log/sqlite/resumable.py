"""The runs in a SQLite log that another process can go on with: their starts and checkpoints, until their end.

A start is in a table of its own, so that no checkpoint writes it again.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from twinwire.log.orphan import Orphan
from twinwire.log.sqlite.file import Damage

_TABLES = ("starts", "resumable")
_OPEN = "(SELECT id FROM runs WHERE run_id = ? AND ended IS NULL)"
_KEPT = "SELECT owner, epoch, claims, cancelled, start, checkpoint FROM resumable JOIN starts USING (run) WHERE run = ?"


class Kept(NamedTuple):
    """The facts that are kept of one run, as `Orphan` has them. `cancelled`: by its user, meanwhile."""

    owner: str
    epoch: int
    claims: int
    cancelled: int
    start: bytes
    checkpoint: bytes


class Resumable:
    """See `Tables`, which this is a part of. A run is named by its number in the file, if not by its id."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, run: int, owner: str, start: bytes) -> None:
        """Keep the start of a new run of this worker."""
        self._db.execute("INSERT INTO starts VALUES (?, ?)", (run, start))
        self._db.execute("INSERT INTO resumable VALUES (?, ?, 0, 0, 0, x'')", (run, owner))

    def put(self, run: int, checkpoint: bytes) -> None:
        """Keep this checkpoint instead of the one before."""
        self._db.execute("UPDATE resumable SET checkpoint = ?, claims = 0 WHERE run = ?", (checkpoint, run))

    def claim(self, run: int, orphan: Orphan, worker: str) -> bool:
        """Make this worker the owner of the run. Return False, having done nothing, if somebody else has claimed it."""
        claimed = self._db.execute(
            "UPDATE resumable SET owner = ?, epoch = epoch + 1, claims = claims + 1"
            " WHERE run = ? AND owner = ? AND epoch = ?",
            (worker, run, orphan.owner, orphan.epoch),
        )
        return claimed.rowcount == 1

    def release(self, run_id: str) -> None:
        """Count no claim any more: a run that was put down has ended no process."""
        self._db.execute(f"UPDATE resumable SET claims = 0 WHERE run = {_OPEN}", (run_id,))  # noqa: S608

    def cancel(self, run_id: str) -> None:
        """Keep it for whoever goes on with the run that it is cancelled."""
        self._db.execute(f"UPDATE resumable SET cancelled = 1 WHERE run = {_OPEN}", (run_id,))  # noqa: S608

    def get(self, run: int) -> Kept | None:
        """Return what is kept of a run; None if no other process can go on with it. Raises `Damage`."""
        row = self._db.execute(_KEPT, (run,)).fetchone()
        if row is not None and not all(isinstance(part, bytes) for part in row[-2:]):
            raise Damage("a run's checkpoint is not what was written")
        return None if row is None else Kept(*row)

    def drop(self, run: int) -> None:
        """Keep nothing of this run any more."""
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - no input in it

    def tidy(self) -> None:
        """Drop what is kept of runs that another program has ended or deleted."""
        for table in _TABLES:
            self._db.execute(f"DELETE FROM {table} WHERE run NOT IN (SELECT id FROM runs WHERE ended IS NULL)")  # noqa: S608
