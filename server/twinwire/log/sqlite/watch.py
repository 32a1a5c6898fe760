"""A watch over the files of a SQLite log: they must be those that were opened, and whole.

SQLite goes on with a file that was deleted, and serves one that was cut or overwritten for as long as its caches last:
all that clients see then is lost with the process. So the thread that writes looks, once a second, by `stat` alone and
100 bytes of the file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from msgspec import Struct

from twinwire.log.sqlite.checkpoint import FRAME_BYTES, Checkpoints
from twinwire.log.sqlite.file import APPLICATION_ID, WAL_BYTES, Place
from twinwire.log.sqlite.lock import identity

AWAY_SECONDS = 5.0  # a file that was moved may come back as long
WARN_BYTES = 64 * 2**20
LIMIT_BYTES = 2**30

_MAGIC = b"SQLite format 3\0"
_MIB = 2**20


class Trouble(Struct, frozen=True):
    """Why nothing can be written: a sentence about the file. What is `final` lasts until the server is restarted.

    Meanwhile what is committed may still be `moving` into the file, or must not be.
    """

    text: str
    final: bool
    moving: bool = False


class Watch:
    """The files of a log whose database is open as `fd`. All of it belongs to the thread that writes.

    `wal_bytes` is the size of the write-ahead log. `lost` tells whether a trouble was final.
    """

    def __init__(self, place: Place, fd: int, checkpoints: Checkpoints) -> None:
        self._place = place
        self._fd = fd
        self._checkpoints = checkpoints
        self._wal, self._shm = (place.path.with_name(place.path.name + end) for end in ("-wal", "-shm"))
        self._beside = {path: identity(path.stat()) for path in (self._wal, self._shm)}
        self._counter = 0
        self._ours = False
        self._away_since: float | None = None
        self._warned = WARN_BYTES
        self.wal_bytes = 0
        self.lost = False

    def look(self) -> Trouble | None:
        """Return what is wrong now."""
        try:
            trouble = self._name() or self._content() or self._others() or self._size()
        except OSError as error:
            return Trouble(f"cannot be looked at: {error.strerror}", final=False)
        self.lost = trouble is not None and trouble.final
        return trouble

    def swollen(self) -> str | None:
        """Return a warning if the write-ahead log has grown, once for each doubling."""
        if self.wal_bytes < WARN_BYTES:
            self._warned = WARN_BYTES
        if self.wal_bytes < self._warned or not self._checkpoints.unmoved:
            return None
        while self._warned <= self.wal_bytes:
            self._warned *= 2
        return (
            f"{self._wal.name} has grown to {self.wal_bytes // _MIB} MiB: another program (a backup, a sqlite3 shell)"
            f" keeps a transaction open that reads. End it; at {LIMIT_BYTES // _MIB} MiB nothing more is written"
        )

    def _name(self) -> Trouble | None:
        """Return what is wrong unless the file still has its name."""
        own = os.fstat(self._fd)
        found = _stat(self._place.path)
        if found is not None and identity(found) == identity(own):
            self._away_since = None
            return None
        if own.st_nlink == 0:
            return Trouble("was deleted" if found is None else "was replaced by another file", final=True)
        self._away_since = self._away_since or time.monotonic()
        gone = "was moved away" if found is None else "was moved away, and another file is in its place"
        return Trouble(gone, final=time.monotonic() - self._away_since >= AWAY_SECONDS)

    def _content(self) -> Trouble | None:
        """Return what is wrong unless the file begins as it did, is as long as it says, and is no older than it was."""
        if not self._checkpoints.settled:
            return None
        head, size = os.pread(self._fd, 100, 0), os.fstat(self._fd).st_size
        if head[:16] != _MAGIC:
            return Trouble("was overwritten" if head else "was emptied", final=True)
        page = int.from_bytes(head[16:18], "big")
        if size < int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page):
            return Trouble("was cut off", final=True)
        ours = head[68:72] == APPLICATION_ID.to_bytes(4, "big")
        counter = int.from_bytes(head[24:28], "big")
        if counter < self._counter or ours < self._ours:
            return Trouble("was overwritten by another database", final=True)
        self._counter, self._ours = counter, ours
        return None

    def _others(self) -> Trouble | None:
        """Return what is wrong unless SQLite's other files are those that were opened, and the WAL is whole."""
        for path, known in self._beside.items():
            found = _stat(path)
            if found is None or identity(found) != known:
                return Trouble(f"has lost {path.name}, which was {'replaced' if found else 'deleted'}", final=True)
        size = self._wal.stat().st_size
        least = min(max(self.wal_bytes, self._checkpoints.moved.frames * FRAME_BYTES), WAL_BYTES)
        if size < least:  # SQLite cuts it off there, and another program may at a checkpoint of its own
            if not self._checkpoints.idle:
                return None
            if size < self._checkpoints.frames() * FRAME_BYTES:
                return Trouble(f"has lost what {self._wal.name} had, which was cut off", final=True)
        self.wal_bytes = size
        return None

    def _size(self) -> Trouble | None:
        if self.wal_bytes >= LIMIT_BYTES and self._checkpoints.unmoved:
            text = f"cannot take more: {self._wal.name} has reached {LIMIT_BYTES // _MIB} MiB, as another program"
            return Trouble(f"{text} keeps a transaction open that reads", final=False, moving=True)
        return None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
