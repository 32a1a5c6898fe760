"""A server whose SQLite log meets a loss of power or a full disk, as its clients see it over either transport."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support.followers import KINDS, Refused, attach, number, rest, start, text
from support.logs import append, records, run_info, started
from support.serving import Puppets, echo, serving
from support.sqlite_logs import at, full_disk, read
from twinwire.log.sqlite.checkpoint import Checkpoints
from twinwire.protocol.errors import LogUnavailable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0, 4])
async def test_a_loss_of_power(kind: str, kept: int, tmp_path: Path) -> None:
    """Commits that had not reached the disk are gone: the run ends under the next number, nobody is given another one.

    Whoever had seen no more than is kept gets the rest; whoever had seen more gets a gap; and a cursor at the number of
    the end is one at the end of the run, whatever its owner had seen under it.
    """
    (tmp_path / "before").mkdir()
    async with at(tmp_path / "before/log.db") as log:
        run_id = await started(log, kept)
        synced = (tmp_path / "before/log.db-wal").stat().st_size
        await append(log, run_id, kept, records(run_id, kept, 6))
        shutil.copytree(tmp_path / "before", tmp_path / "after")
    with (tmp_path / "after/log.db-wal").open("r+b") as wal:
        wal.truncate(synced)
    end = max(kept + 1, 2)  # a run without an event gets its AGENT_START, too
    async with serving(log=f"sqlite:///{tmp_path}/after/log.db") as server:
        for after in range(end):
            seen = await rest(await attach(kind, server, run_id, after))
            assert [number(event) for event in seen] == list(range(after + 1, end + 1))
            assert seen[-1]["data"]["error_type"] == "interrupted"
        follower = await attach(kind, server, run_id, end)
        assert follower.ended
        await follower.close()
        for after in range(end + 1, kept + 7):
            with pytest.raises(Refused) as refused:
                await attach(kind, server, run_id, after)
            assert (refused.value.code, refused.value.answer["first"], refused.value.answer["last"]) == ("gap", 1, end)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_disk(kind: str, tmp_path: Path, puppets: Puppets) -> None:
    """Runs wait and new ones get 503; with room again they go on, and nobody has missed or repeated anything."""
    path = tmp_path / "log.db"
    async with serving({"mine": puppets}, log=f"sqlite:///{path}") as server, httpx.AsyncClient() as client:
        follower = await start(kind, server)
        puppet = await puppets.next()
        following = asyncio.create_task(rest(follower))
        with full_disk(path.with_name("log.db-wal")):
            for n in range(200):
                puppet.say(f"{n:500}")
            async with asyncio.timeout(10):
                while (answer := await client.post(f"{server.url}/runs", json={"message": "hi"})).status_code == 201:
                    (await puppets.next()).end()
            assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
            assert "retry-after" in answer.headers
            assert not following.done()
        puppet.end()
        seen = await following
        assert text(seen) == "".join(f"{n:500}" for n in range(200))
        assert number(seen[0]) == 1
        assert (await client.post(f"{server.url}/runs", json={"message": "hi"})).status_code == 201
        (await puppets.next()).end()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit])
async def test_a_fault_in_a_job(fault: type[BaseException], tmp_path: Path) -> None:
    """A fault of ours in one job fails the jobs of its transaction, and the log goes on."""
    async with at(tmp_path / "log.db") as log:

        def fail(_: object) -> None:
            raise fault

        with pytest.raises(LogUnavailable):
            await log._do(fail)
        await log.ping()
        assert await read(log, await started(log, 3))


@pytest.mark.parametrize("fault", [RuntimeError, SystemExit])
async def test_the_writer_dies(
    fault: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a fault of ours ends the thread, whoever waits and whoever comes is told so, as is who asks `/readyz`."""
    path = tmp_path / "log.db"
    async with serving({"echo": echo}, log=f"sqlite:///{path}") as server, httpx.AsyncClient() as client:
        log = server.runs.log
        assert (await client.get(f"{server.url}/readyz")).status_code == 200
        faulty, queued = threading.Event(), threading.Event()

        def fail(_: Checkpoints) -> None:
            faulty.set()
            queued.wait()
            raise fault("the disk fell off")

        monkeypatch.setattr(Checkpoints, "step", fail)
        waking = asyncio.create_task(log.create(run_info(), idempotency_key=None))
        await asyncio.to_thread(faulty.wait)
        waiting = [asyncio.create_task(log.create(run_info(), idempotency_key=None)) for _ in range(10)]
        await asyncio.sleep(0)  # they have begun
        queued.set()
        await asyncio.wait([waking])  # it may have been the first of those that failed
        for result in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(result, LogUnavailable)
        ready = await client.get(f"{server.url}/readyz")
        assert (ready.status_code, ready.json()["code"]) == (503, "log_unavailable")
        answer = await client.post(f"{server.url}/runs", json={"message": "hi"})
        assert (answer.status_code, answer.json()["code"]) == (503, "log_unavailable")
        assert "fell off" not in ready.text + answer.text
    assert "has failed" in caplog.text
    monkeypatch.undo()
    async with at(path) as log:  # it can be opened again
        await log.ping()
