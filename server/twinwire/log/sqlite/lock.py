"""The owner of a SQLite log's file: the server that holds a lock on the file itself, whatever name it was opened by.

A lock on `<file>.lock` alone would be a lock on a name: a symbolic link, a hard link or a cleaner of temporary files
lets a second server in. So on Linux the file itself is locked, by its open file description, at a place that SQLite
does not use. `<file>.lock` says who the owner is, and is the only lock if there are no such locks.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
from contextlib import suppress

from twinwire.log.sqlite.file import Place
from twinwire.protocol.errors import SettingsError

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("twinwire.log")

OWNED = (2**62, 1)
SHARED = (2**30 + 2, 510)  # what SQLite holds a read lock in while it has the file open, see its os.h
_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)

Identity = tuple[int, int]

_owned: set[Identity] = set()
"""This process's files. To open and close one of them once more would let go of SQLite's own locks (fcntl(2))."""


def identity(found: os.stat_result) -> Identity:
    """Return what a file is known by, whatever its name."""
    return found.st_dev, found.st_ino


class Lock:
    """The ownership of a log's file. `fd` is the file, open until the lock is released. Raises `SettingsError`."""

    def __init__(self, place: Place) -> None:
        if fcntl is None:
            raise SettingsError(
                "`--log` must be memory:// or redis://host:port/0: SQLite requires the file locks of POSIX.",
                field="--log",
            )
        self._place = place
        self._names = place.path.with_name(f"{place.path.name}.lock")
        if not place.path.parent.is_dir():
            raise SettingsError(f"`--log` names {place.name}, whose folder does not exist.", field="--log")
        with suppress(OSError):
            if identity(place.path.stat()) in _owned:
                raise self._in_use()
        try:
            # People's conversations are in it; SQLite's other files take the mode over.
            self.fd = os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(
                f"`--log` names {place.name}, which cannot be used: {error.strerror}.", field="--log"
            ) from None
        try:
            found = os.fstat(self.fd)
            if not stat.S_ISREG(found.st_mode):
                raise SettingsError(f"`--log` names {place.name}, which must be a regular file.", field="--log")
            try:
                self._set(fcntl.F_WRLCK, OWNED)
            except BlockingIOError:
                raise self._in_use() from None
            self._file = self._sign()
        except SettingsError:
            os.close(self.fd)
            raise
        self.identity = identity(found)
        _owned.add(self.identity)
        if found.st_nlink > 1:
            logger.warning(
                "The file %s has %d names (hard links). Open it by this one only: SQLite keeps what is not yet in the"
                " file beside the name.",
                place.name,
                found.st_nlink,
            )

    def guard(self) -> None:
        """Keep other programs from taking themselves for the last user of the file.

        The last one to close a database deletes its write-ahead log by name.
        """
        with suppress(BlockingIOError):
            self._set(fcntl.F_RDLCK, SHARED)

    def unguard(self) -> None:
        """Let the last connection that closes tidy up."""
        self._set(fcntl.F_UNLCK, SHARED)

    def release(self) -> None:
        """Let go. The lock file stays: to delete it would be a race with the next owner."""
        _owned.discard(self.identity)
        os.close(self.fd)
        os.close(self._file)

    def _set(self, kind: int, place: tuple[int, int]) -> None:
        """Set a lock (`struct flock`), if there are such locks. Raises `BlockingIOError` if somebody else has it."""
        if _SET is None:
            return
        try:
            fcntl.fcntl(self.fd, _SET, struct.pack("hhqqi4x", kind, os.SEEK_SET, *place, 0))
        except BlockingIOError:
            raise
        except PermissionError as error:  # EACCES is the other word for it
            raise BlockingIOError from error
        except OSError as error:
            logger.warning("The file system of %s has no locks of open files: %s.", self._place.name, error.strerror)

    def _sign(self) -> int:
        """Lock the lock file and write this process's number into it; return its descriptor."""
        try:
            file = os.open(self._names, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SettingsError(
                f"`--log` names {self._place.name}, whose lock file cannot be written: {error.strerror}.", field="--log"
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise self._in_use() from None
        with suppress(OSError):  # a full disk; the number is only for people
            os.truncate(file, 0)
            os.write(file, b"%d\n" % os.getpid())
        return file

    def _in_use(self) -> SettingsError:
        who = ""
        try:
            with self._names.open(encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = f" (pid {self._names.read_text(encoding='ascii').strip() or 'unknown'})"
        except (OSError, ValueError):
            pass
        return SettingsError(
            f"`--log` names {self._place.name}, which is in use by another server{who}.", field="--log"
        )
