"""How what is committed gets from SQLite's write-ahead log into the file while runs go on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.logs import append, records, started
from support.serving import until
from support.sqlite_logs import at, read
from twinwire.log.sqlite import checkpoint
from twinwire.log.sqlite.checkpoint import Checkpoints
from twinwire.log.sqlite.file import WAL_BYTES, parse, writing


def alone(path: Path) -> int:
    """The events that the file has without the write-ahead log."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        try:
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                return 0
            count: int = db.execute("SELECT count(*) FROM events").fetchone()[0]
        except sqlite3.DatabaseError:  # read, without a lock, while the checkpoint is being written
            return 0
        return count


async def test_what_is_committed_is_moved_soon(tmp_path: Path) -> None:
    """Without a load and without an end, the file alone has all events a moment later."""
    path = tmp_path / "log.db"
    async with at(path) as log:
        run_id = await started(log, 50)
        await until(lambda: alone(path) == 50)
        await append(log, run_id, 50, records(run_id, 50, 1))
        assert len(await read(log, run_id)) == 51


async def test_the_write_ahead_log_stays_small(tmp_path: Path) -> None:
    """However much is written without a pause, it begins anew again and again; the file is sound and has all of it."""
    path = tmp_path / "log.db"
    largest = 0
    async with at(path) as log:
        runs = [await started(log) for _ in range(20)]
        for start in range(0, 3000, 100):
            await asyncio.gather(*(append(log, run, start, records(run, start, 100, size=300)) for run in runs))
            largest = max(largest, path.with_name("log.db-wal").stat().st_size)
        assert path.stat().st_size > 2 * largest
        assert largest < 2 * WAL_BYTES
        assert [record.seq for record in await read(log, runs[-1])] == list(range(1, 3001))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, Checkpoints]]:
    place = parse(f"sqlite:///{tmp_path}/log.db")
    db = writing(place)
    found = Checkpoints(place, db)
    yield db, found
    found.close()
    db.close()


def test_none_begins_where_nothing_was_committed(
    checkpoints: tuple[sqlite3.Connection, Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither at first, nor after a transaction that failed or wrote nothing, nor once all was moved."""
    db, moves = checkpoints
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)

    def began() -> bool:
        moves.step()
        return moves._moving is not None

    assert not began()
    with moves.counted(10**6):
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
    with pytest.raises(RuntimeError), moves.counted():
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO garbage VALUES (1)")
        db.execute("ROLLBACK")
        raise RuntimeError
    assert not began()
    with moves.counted():
        db.execute("INSERT INTO garbage VALUES (2)")
    assert began()
    while began():
        time.sleep(0.001)
    assert not began()
    assert db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[0] == 0
