"""What the log in a file adds: it survives, it is one server's, it refuses what it cannot use; a full disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from support.logs import LIMITS, append, opened, records, run_info, started
from support.processes import Process
from support.sqlite_logs import at, full_disk, names, read, refused
from twinwire.log import open_log
from twinwire.log.sqlite import reader
from twinwire.log.sqlite.log import SqliteLog
from twinwire.protocol.errors import LogUnavailable, SettingsError
from twinwire.protocol.events import StreamEvent, decode
from twinwire.runs.writer import Writer


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///runs.db", Path.cwd() / "runs.db"),
        ("sqlite:///a/b.db", Path.cwd() / "a/b.db"),
        ("sqlite:////a/b%20c.db", Path("/a/b c.db")),
        ("sqlite:///runs.db?synchronous=FULL", Path.cwd() / "runs.db"),
    ],
)
def test_urls(url: str, path: Path) -> None:
    """Three slashes are relative to where the server was started, four absolute."""
    log = open_log(url, LIMITS)
    assert isinstance(log, SqliteLog)
    assert log._place.path == path
    assert log._place.synchronous == ("full" if "FULL" in url else "normal")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://runs.db",
        "sqlite:runs.db",
        "sqlite:///a.db?synchronous=off",
        "sqlite:///a.db?x=1",
        "sqlite:///a.db#x",
        "sqlite:///a%00.db",
    ],
)
def test_bad_urls(url: str) -> None:
    """What names no file, or asks for something else, is one clear line."""
    with pytest.raises(SettingsError, match=r"^`--log` .* for a SQLite log") as caught:
        open_log(url, LIMITS)
    assert caught.value.field == "--log"


@pytest.mark.parametrize("synchronous", ["normal", "full"])
async def test_it_survives(tmp_path: Path, synchronous: str) -> None:
    """Runs, events, idempotency keys and conversations are there after a clean restart; nothing is recovered."""
    url = f"sqlite:///{tmp_path}/log.db?synchronous={synchronous}"
    async with opened(url) as log:
        info = await log.create(run_info("u"), idempotency_key="k")
        batch = records(info.run_id, 0, 500, end=True, size=300)
        await append(log, info.run_id, 0, batch)
        await log.remember(("u", "s"), "q\0 \ud800", "a")
    assert sorted(names(tmp_path)) == ["log.db", "log.db.lock"]
    async with opened(url) as log:
        state = await log.state(info.run_id)
        assert (state.info, state.first, state.last, state.terminal) == (info, 1, 500, batch[-1])
        assert await read(log, info.run_id) == batch
        assert await log.find("u", "k") == info
        assert await log.history(("u", "s")) == [
            {"role": "user", "content": "q\0 ?"},
            {"role": "assistant", "content": "a"},
        ]
        await append(log, info.run_id, 0, batch)  # a retry whose first attempt was before the restart


async def test_recovery(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that a crash left open gets one ERROR, the next number, its count; one that had ended gets nothing.

    One that had not begun gets its AGENT_START as well: no run is without.
    """
    async with at(tmp_path / "log.db") as log:
        ended, begun, empty = await started(log, 5, end=True), await started(log, 300), await started(log)
        before = {run_id: await read(log, run_id) for run_id in (ended, begun, empty)}
        shutil.copytree(tmp_path, tmp_path / "after")  # what a killed process leaves
    assert (tmp_path / "after/log.db-wal").stat().st_size > 0
    for count in (2, 0):
        caplog.clear()
        async with at(tmp_path / "after/log.db") as log:
            assert [r.args for r in caplog.records if "interrupted" in r.msg] == ([(count,)] if count else [])
            assert ("3.51.3" in caplog.text) == (sqlite3.sqlite_version_info < (3, 51, 3))
            assert await read(log, ended) == before[ended]
            for run_id in (begun, empty):
                *same, last = await read(log, run_id)
                if run_id == empty:
                    start = decode(same.pop().body)
                    assert (start.type, start.data["config"]) == ("AGENT_START", {"agent": "react"})
                assert same == before[run_id]
                event = decode(last.body)
                assert (event.type, last.seq, last.last) == ("ERROR", len(same) + 1 + (run_id == empty), True)
                assert event.id == f"evt-{run_id}-{last.seq}"
                assert event.metadata == {"events": last.seq}
                assert (event.data["error_type"], event.data["reason"]) == ("interrupted", "shutdown")
                assert event.data["message"] == event.data["error"]
                assert (await log.state(run_id)).terminal == last


async def test_one_server(tmp_path: Path) -> None:
    """A second server is told who has the file, and gets it once that one has closed it."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log, 2)
        assert f"in use by another server (pid {os.getpid()})" in await refused(tmp_path / "log.db")
        await append(log, run_id, 2, records(run_id, 2, 1))
    async with at(tmp_path / "log.db") as log:
        assert (await log.state(run_id)).last == 4


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A newer schema, another program's database, no database, a folder, a missing folder: each one clear line."""
    async with at(tmp_path / "new.db"):
        pass
    db = sqlite3.connect(tmp_path / "new.db")
    db.execute("PRAGMA user_version = 2")
    db.close()
    assert "newer Twinwire wrote. Its schema is 2, and this Twinwire knows 1." in await refused(tmp_path / "new.db")
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE t (x)")
    db.close()
    assert "something else" in await refused(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("not a database " * 1000)
    assert "not a database" in await refused(tmp_path / "text.db")
    (tmp_path / "folder.db").mkdir()
    assert "cannot be used" in await refused(tmp_path / "folder.db")
    assert "whose folder does not exist" in await refused(tmp_path / "missing/log.db")
    assert "cannot be" in await refused(Path("/proc/log.db"))


async def test_a_damaged_file(tmp_path: Path) -> None:
    """After an unclean end the file is checked, and one that is damaged is refused instead of served."""
    async with at(tmp_path / "log.db") as log:
        await started(log, 2000, end=True)
    data = bytearray((tmp_path / "log.db").read_bytes())
    for page in range(5 * 4096, len(data), 2 * 4096):
        data[page : page + 200] = b"\xff" * 200
    (tmp_path / "log.db").write_bytes(data)
    (tmp_path / "log.db-wal").write_bytes(b"cut off")
    assert "log.db, which is damaged" in await refused(tmp_path / "log.db")


async def test_a_full_disk(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not kept: appends and starts fail whole, reads go on, and so does all later."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log, 10)
        ended = await started(log, 3, end=True)
        batch = records(run_id, 10, 200, size=500)
        with full_disk(tmp_path / "log.db-wal"):
            for _ in range(2):
                with pytest.raises(LogUnavailable):
                    await append(log, run_id, 10, batch)
            with pytest.raises(LogUnavailable):
                await log.create(run_info(), idempotency_key="k")
            with pytest.raises(LogUnavailable):
                await log.ping()
            assert [record.seq for record in await read(log, run_id)] == list(range(1, 11))
            assert len(await read(log, ended)) == 3
        await log.ping()
        await append(log, run_id, 10, batch)
        await log.ping()
        assert (await read(log, run_id))[10:] == batch
        assert await log.find(None, "k") is None
    async with at(tmp_path / "log.db") as log:
        assert [record.seq for record in await read(log, run_id)] == list(range(1, 212))


async def test_a_run_on_a_full_disk(tmp_path: Path) -> None:
    """A run's writer holds what is pending, bounded, and writes all of it, in order, once there is room again."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log)
        over = asyncio.Event()
        writer = Writer(log, run_id, over.set)
        with full_disk(tmp_path / "log.db-wal"):
            while not writer.full:
                writer.put(StreamEvent("LLM_CHUNK", {"content": "x" * 200}))
                writer.flush()
                await asyncio.sleep(0)
            with pytest.raises(LogUnavailable):
                while True:
                    await log.ping()
                    await asyncio.sleep(0)
            assert writer.last < 2000
        await writer.room()
        writer.put(StreamEvent("AGENT_FINISH", {}))
        writer.flush()
        await over.wait()
        assert [record.seq for record in await read(log, run_id)] == list(range(1, writer.last + 1))


async def test_a_closed_log(tmp_path: Path) -> None:
    """What was appended before the close is kept, though nobody waited for it; afterwards there is only an error."""
    async with at(tmp_path / "log.db") as log:
        run_id = await started(log)
        pending = [log.append(run_id, seq, records(run_id, seq, 1)) for seq in range(50)]
        await log.close()
        await log.close()
        await asyncio.gather(*pending)
        for use in (
            log.create(run_info(), idempotency_key=None),
            append(log, run_id, 50, records(run_id, 50, 1)),
            log.find(None, "k"),
            log.history(("u", None)),
        ):
            with pytest.raises(LogUnavailable):
                await use
    async with at(tmp_path / "log.db") as log:
        assert (await log.state(run_id)).last == 51


async def test_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who reads meanwhile gets an error, and is woken to try again, whether the run goes on or has ended."""

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with at(tmp_path / "log.db") as log:
        ended, running = await started(log, 3, end=True), await started(log, 3000)
        with monkeypatch.context() as broken:
            broken.setattr(reader, "_run", fail)
            for run_id in (ended, running):
                woken = asyncio.Event()
                leave = log.subscribe(run_id, woken.set)
                with pytest.raises(LogUnavailable):
                    await log.page(run_id, 0, 10)
                await woken.wait()
                leave()
        assert [len(await read(log, run_id)) for run_id in (ended, running)] == [3, 3000]
    assert caplog.text.count("cannot be read") == caplog.text.count("can be read again") == 1


def test_the_command(tmp_path: Path) -> None:
    """A log that cannot be used ends the command with one line; it tells who has the file."""
    arguments = ("serve", "--port", "0", "--log", "sqlite:///runs.db")
    with Process(*arguments, cwd=tmp_path) as first:
        first.ready()
        with Process(*arguments, cwd=tmp_path) as second:
            code, out, err = second.end()
            assert (code, out) == (2, "")
            assert err.splitlines()[-1].endswith(
                f"`--log` names runs.db, which is in use by another server (pid {first.popen.pid})."
            )
            assert "Traceback" not in err
        first.popen.send_signal(signal.SIGTERM)
        code, _, err = first.end()
        assert (code, "Traceback" in err) == (-signal.SIGTERM, False)
    assert sorted(names(tmp_path)) == ["runs.db", "runs.db.lock"]
