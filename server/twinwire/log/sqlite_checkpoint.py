"""Moves what is committed from SQLite's write-ahead log into the file, and holds commits up for little of that.

A thread of its own moves the bulk while commits go on; then the writer's moves what came meanwhile, and SQLite begins
the write-ahead log anew. With `?synchronous=normal` it is here that what is committed reaches the disk.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from twinwire.log.sqlite_file import Place, checkpointing

PAGE_BYTES = 4096
PAGES = 1000  # about 8 ms of work
SECONDS = 1.0


class Checkpoints:
    """Of the connection `db`, whose thread calls all methods; nobody else may write or move anything.

    SQLite before 3.51.3 can lose events where a checkpoint begins while there is nothing to move, and a commit begins
    the write-ahead log anew at that moment. So none begins in the other thread before rows have been committed after
    the last one was done.
    """

    def __init__(self, place: Place, db: sqlite3.Connection) -> None:
        self._db = db
        self._mover = checkpointing(place)
        self._pool = ThreadPoolExecutor(1, "sqlite-log-checkpoint")
        self._moving: Future[None] | None = None
        self._pages = 0  # committed since the last one, about
        self._done_at = time.monotonic()

    @contextmanager
    def counted(self, size: int = 0) -> Iterator[None]:
        """What is committed in it, rows of about `size` bytes, is to be moved."""
        before = self._db.total_changes
        yield
        if rows := self._db.total_changes - before:
            self._pages += rows + size // PAGE_BYTES

    def step(self) -> None:
        """Begin or finish what is due, which is all that was committed `SECONDS` ago. Raises `sqlite3.Error`."""
        if self._moving is None:
            if self._pages >= PAGES or (self._pages and time.monotonic() - self._done_at >= SECONDS):
                self._moving = self._pool.submit(_move, self._mover)
        elif self._moving.done():
            moved, self._moving, self._pages = self._moving, None, 0
            self._done_at = time.monotonic()
            moved.result()
            _move(self._db)

    def close(self) -> None:
        """Let what goes on be done. Blocks."""
        self._pool.shutdown()
        self._mover.close()


def _move(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
