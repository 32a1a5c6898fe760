"""What the tests of the SQLite log share."""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from support.logs import LIMITS, Nobody
from twinwire.log import Limits, Store
from twinwire.log.sqlite.log import SqliteLog
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.events import Record

ROOMY = structs.replace(LIMITS, max_events=10**6, max_bytes=2**30)


class Clock:
    """A time of day that the test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def at(path: Path, limits: Limits = ROOMY, clock: Clock | None = None) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(f"sqlite:///{path}", limits, **({} if clock is None else {"clock": clock}))
    await log.open(Nobody())
    try:
        yield log
    finally:
        await log.close()


async def read(log: Store, run_id: str, after: int = 0) -> list[Record]:
    """Everything after a cursor."""
    found: list[Record] = []
    while batch := (await log.page(run_id, after, 256)).records:
        found.extend(batch)
        after = batch[-1].seq
    return found


def counted(path: Path, what: str) -> Any:
    """A figure from the file, as another program would read it."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return db.execute(f"SELECT {what}").fetchone()[0]
    finally:
        db.close()


def executed(path: Path, statement: str, *values: Any) -> int:
    """Change a file that no server uses, as another program would; the number of rows that were changed."""
    with closing(sqlite3.connect(path)) as db, db:
        return db.execute(statement, values).rowcount


def leftovers(path: Path) -> list[str]:
    """Name what a file keeps for runs that go on, though all have ended."""
    kept = {"runs that go on": "runs WHERE ended IS NULL", "starts": "starts", "resumable": "resumable"}
    return [name for name, rows in kept.items() if counted(path, f"count(*) FROM {rows}")]


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file may grow over the size that this one has."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def refused(path: Path) -> str:
    """Why a log cannot be opened: one line."""
    with pytest.raises(SettingsError) as caught:
        async with at(path):
            pass
    assert caught.value.field == "--log"
    assert "\n" not in str(caught.value)
    return caught.value.message


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [path.name for path in folder.iterdir()]


def traces(folder: Path, words: str) -> dict[str, int]:
    """How often each file of a folder has these words."""
    counts = {path.name: path.read_bytes().count(words.encode()) for path in folder.iterdir() if path.is_file()}
    return {name: count for name, count in counts.items() if count}
