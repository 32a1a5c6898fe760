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
from typing import NamedTuple

from twinwire.log.sqlite.file import Place, checkpointing

PAGE_BYTES = 4096
FRAME_BYTES = PAGE_BYTES + 24
PAGES = 1000  # about 8 ms of work
SECONDS = 1.0
REWRITE_BYTES = 2**26
PATIENCE_MS, USUAL_MS = 500, 5000  # for other programs that read: to empty the write-ahead log, and for all else


class Moved(NamedTuple):
    """The outcome of a checkpoint: pages in the write-ahead log, and how many of them are in the file."""

    frames: int
    done: int


class Checkpoints:
    """Of the connection `db`, whose thread calls all methods; nobody else may write or move anything.

    `moved` is the outcome of the last one.

    SQLite before 3.51.3 can lose events if a checkpoint begins while there is nothing to move, and a commit begins
    the write-ahead log anew at that moment. So none begins in the other thread before rows have been committed after
    the last one was done.
    """

    def __init__(self, place: Place, db: sqlite3.Connection) -> None:
        self._db = db
        self._mover = checkpointing(place)
        self._pool = ThreadPoolExecutor(1, "sqlite-log-checkpoint")
        self._moving: Future[Moved] | None = None
        self._pages = 0  # committed since the last one, about
        self._done_at = time.monotonic()
        self.moved = _move(db, "TRUNCATE")  # of a server that crashed, there may be much

    @contextmanager
    def counted(self, size: int = 0) -> Iterator[None]:
        """Within this block, count what is committed: rows of about `size` bytes, to be moved later."""
        before = self._db.total_changes
        yield
        if rows := self._db.total_changes - before:
            self._pages += rows + size // PAGE_BYTES

    @property
    def due(self) -> bool:
        """Return whether the next step begins one."""
        late = self._pages and time.monotonic() - self._done_at >= SECONDS
        return self.idle and (self._pages >= PAGES or bool(late))

    def step(self) -> None:
        """Begin or finish what is due, which is all that was committed `SECONDS` ago. Raises `sqlite3.Error`."""
        if self.due:
            self._moving = self._pool.submit(_move, self._mover)
        elif self._moving is not None and self._moving.done():
            moved, self._moving, self._pages = self._moving, None, 0
            self._done_at = time.monotonic()
            moved.result()
            self.moved = _move(self._db)
            if self.unmoved:  # a reader keeps them: when it has gone, they are moved though nothing is committed
                self._pages = 1

    def empty(self, *, rewrite: bool) -> bool:
        """Move all that is committed, and leave nothing in the write-ahead log: no copy of what has been deleted.

        A page that SQLite has reorganised may have a copy of a row in its unused part. With `rewrite` a file of at most
        `REWRITE_BYTES` is written anew, without these; that takes up to a second.
        Return False if another program, which reads, keeps it. Blocks. Raises `sqlite3.Error`.
        """
        if self._moving is not None:
            moved, self._moving = self._moving, None
            moved.result()
        self._db.execute(f"PRAGMA busy_timeout = {PATIENCE_MS}")
        try:
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            if rewrite and pages * PAGE_BYTES <= REWRITE_BYTES:
                self._db.execute("VACUUM")
            self.moved = _move(self._db, "TRUNCATE")
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {USUAL_MS}")
        self._pages, self._done_at = min(self.unmoved, 1), time.monotonic()
        return self.moved.frames == 0

    @property
    def unmoved(self) -> int:
        """Return how many pages a reader's transaction kept from being moved, the last time."""
        return self.moved.frames - self.moved.done

    @property
    def settled(self) -> bool:
        """Return whether the file is as the last checkpoint left it, which was able to move everything."""
        return self.idle and not self.unmoved

    @property
    def idle(self) -> bool:
        """Return whether none goes on in the other thread."""
        return self._moving is None

    def frames(self) -> int:
        """Return how many pages SQLite takes to be in the write-ahead log, or too many if it cannot read them."""
        try:
            self.moved = _move(self._db)
        except sqlite3.Error:
            return 2**31
        return self.moved.frames

    def close(self) -> None:
        """Let what goes on be done. Blocks."""
        self._pool.shutdown()
        self._mover.close()


def _move(db: sqlite3.Connection, how: str = "PASSIVE") -> Moved:
    [(_, frames, done)] = db.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
    return Moved(frames, done)
