"""One server owns a SQLite log's file, by whichever name others open it; a damaged file is not served."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from support.logs import append, records, started
from support.processes import Process
from support.sqlite_logs import at, names, read, refused


def linked(folder: Path) -> Path:
    (folder / "link.db").symlink_to(folder / "log.db")
    return folder / "link.db"


def hard(folder: Path) -> Path:
    os.link(folder / "log.db", folder / "hard.db")
    return folder / "hard.db"


def unlocked(folder: Path) -> Path:
    (folder / "log.db.lock").unlink()
    return folder / "log.db"


def through_a_folder(folder: Path) -> Path:
    (folder / "elsewhere").symlink_to(folder)
    return folder / "elsewhere/log.db"


def moved(folder: Path) -> Path:
    (folder / "log.db").rename(folder / "moved.db")
    return folder / "moved.db"


NAMES = [linked, hard, unlocked, through_a_folder, moved]


@pytest.mark.parametrize("name", NAMES)
async def test_the_same_file_by_another_name(name: Callable[[Path], Path], tmp_path: Path) -> None:
    """A second log in this process is refused, and the first one goes on, with SQLite's own locks as they were."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log, 2)
        assert "is in use by another server" in await refused(name(tmp_path))
        if name is moved:
            moved_back = tmp_path / "moved.db"
            moved_back.rename(tmp_path / "log.db")
        await append(log, run_id, 2, records(run_id, 2, 1))
        with closing(sqlite3.connect(tmp_path / "log.db")) as db:  # takes itself for the last user, if it can
            assert db.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        assert (tmp_path / "log.db-wal").stat().st_size > 0
        await append(log, run_id, 3, records(run_id, 3, 1))
    async with at(tmp_path / "log.db") as log:
        assert len(await read(log, run_id)) == 5


@pytest.mark.parametrize(
    "name",
    [linked, unlocked, *(pytest.param(name, marks=pytest.mark.full) for name in (hard, through_a_folder, moved))],
)
def test_another_server(name: Callable[[Path], Path], tmp_path: Path) -> None:
    """A second server is refused in one line, ends none of the first one's runs, and leaves its files alone."""
    with Process("serve", "--port", "0", "--log", f"sqlite:///{tmp_path}/log.db", cwd=tmp_path) as first:
        first.ready()
        other = name(tmp_path)
        with Process("serve", "--port", "0", "--log", f"sqlite:///{other}", cwd=tmp_path) as second:
            code, _, err = second.end()
            assert code == 2
            assert "is in use by another server" in err.splitlines()[-1]
            assert "Traceback" not in err
        if name is moved:
            other.rename(tmp_path / "log.db")
        first.popen.send_signal(signal.SIGTERM)
        code, _, err = first.end()
        assert (code, "Traceback" in err) == (-signal.SIGTERM, False)
    assert not [left for left in names(tmp_path) if left.endswith(("-wal", "-shm"))]


async def test_several_names_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with a second hard link is opened with a warning: what is not yet in the file is beside one name only."""
    async with at(tmp_path / "log.db"):
        pass
    hard(tmp_path)
    async with at(tmp_path / "log.db"):
        assert "has 2 names (hard links)" in caplog.text


def spoil(path: Path, root: str) -> None:
    """Write over a page of the table or index of this name."""
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (root,)).fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize("root", ["runs", "sqlite_autoindex_runs_1", "runs_ended", "sessions", "events"])
async def test_damage_after_a_clean_end(root: str, tmp_path: Path) -> None:
    """A file that was damaged while no server had it is refused with a sentence, whichever part of it was."""
    async with at(tmp_path / "log.db") as log:
        for _ in range(10):
            await started(log, 50, end=True)
        await log.remember(("u", "s"), "q", "a")
    spoil(tmp_path / "log.db", root)
    assert "log.db, which is damaged" in await refused(tmp_path / "log.db")


async def test_an_index_of_another_time(tmp_path: Path) -> None:
    """An index that is sound and lacks a run is damage too: that run would be one that does not exist."""
    async with at(tmp_path / "log.db") as log:
        await started(log, 1, end=True)
    with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = 1")
        root = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_runs_1'"
        page = db.execute(root).fetchone()[0]
    with (tmp_path / "log.db").open("r+b") as file:
        file.seek((page - 1) * 4096)
        leaf = bytearray(file.read(4096))
        leaf[3:5] = b"\0\0"  # of how many entries it is
        file.seek((page - 1) * 4096)
        file.write(leaf)
    assert "log.db, which is damaged" in await refused(tmp_path / "log.db")


@pytest.mark.parametrize("size", [0.5, 0.9])
async def test_a_file_that_was_cut(size: float, tmp_path: Path) -> None:
    """A file that lacks its end is refused."""
    async with at(tmp_path / "log.db") as log:
        await started(log, 500, end=True)
    shutil.copy(tmp_path / "log.db", tmp_path / "whole.db")
    os.truncate(tmp_path / "log.db", int((tmp_path / "log.db").stat().st_size * size) // 4096 * 4096)
    message = await refused(tmp_path / "log.db")
    assert "damaged" in message or "malformed" in message
