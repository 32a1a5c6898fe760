"""The time in which a SQLite log's file is open for writing, from its lock to its release."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twinwire.log.sqlite.checkpoint import Checkpoints
from twinwire.log.sqlite.file import Place, writing
from twinwire.log.sqlite.lock import Lock
from twinwire.log.sqlite.reader import Reader
from twinwire.log.sqlite.tables import Tables
from twinwire.log.sqlite.watch import Watch
from twinwire.protocol.errors import SettingsError


@contextmanager
def opening(
    place: Place, reader: Reader, recover: Callable[[sqlite3.Connection], Tables]
) -> Iterator[tuple[Tables, Checkpoints, Watch]]:
    """Enter and leave in the writer thread: the file is ours, sound, and recovered. Raises `SettingsError`."""
    lock = Lock(place)
    lost = False
    try:
        db = writing(place)
        try:
            tables = recover(db)
            checkpoints = Checkpoints(place, db)
            reader.open()
            watch = Watch(place, lock.fd, checkpoints)
            if (trouble := watch.look()) is not None:
                raise SettingsError(f"`--log` names {place.name}, which {trouble.text}.", field="--log")
        except (sqlite3.Error, OSError) as error:
            db.close()
            raise SettingsError(f"`--log` names {place.name}, which cannot be used: {error}.", field="--log") from None
        lock.guard()
        try:
            yield tables, checkpoints, watch
        finally:
            lost = watch.lost
            if not lost:
                lock.unguard()
            reader.close()
            checkpoints.close()
            tables.close(whole=not lost)
    finally:
        if not lost:  # else until the process ends: what is at the path now is not ours to tidy up
            lock.release()
