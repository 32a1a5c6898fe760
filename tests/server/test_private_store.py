"""`twinwire serve --workers 2` without a log: a store that only these workers use, and that leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from support.followers import KINDS, Broken, Refused, attach, cancel, rest, start, text
from support.private_stores import Served
from support.processes import ENVIRONMENT, MORTAL, Process, state, stopped
from support.redis_workers import Client
from support.serving import until

ENDLESS = 10**6
MISSING = "`--workers` requires Valkey or Redis, 6.2 or newer, which this machine does not have"

EMBEDDED = """
from twinwire import Settings, create_app

async def parrot(request):
    yield request.message

app = create_app({"parrot": parrot}, settings=Settings(port=1))
"""


def patched(change: str) -> tuple[str, ...]:
    """The command of a `twinwire` in which this has changed `store`."""
    lines = ("from twinwire.serving import store", change, "from twinwire.cli.main import main", "main()")
    return sys.executable, "-c", "\n".join(lines)


def program(folder: Path, name: str, version: str, then: str) -> dict[str, str]:
    """The environment in which a program of this name and version is found first; started, it does `then`."""
    (folder / "bin").mkdir()
    path = folder / "bin" / name
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\n{then}\n')
    path.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Two workers that share a private store."""
    with Served(tmp_path) as process:
        process.ready()
        yield process


async def ended(process: Served, seconds: float = 15) -> tuple[int, str]:
    """Wait for the end of the command; return its exit code and what it has logged. Nothing is left of it."""
    pids = process.processes()
    code, out, err = await asyncio.to_thread(process.end, seconds)
    assert out == ""
    assert process.gone(pids)
    return code, err


@pytest.mark.parametrize("kind", KINDS)
async def test_workers_share_it(kind: str, served: Served) -> None:
    """A run of one worker is followed and cancelled through the other, over either transport."""
    one, two = sorted(served.workers())
    with stopped(two):
        starter = await start(kind, served, str(ENDLESS), on_disconnect="continue")
        await starter.next()
    with stopped(one):
        assert await cancel(kind, served, starter.run_id) == "accepted"
    follower = await attach(kind, served, starter.run_id, 0)
    seen = await rest(follower)
    assert seen[-1]["data"]["status"] == "cancelled"
    assert seen[1]["data"]["pid"] == one
    served.popen.terminate()
    assert await ended(served) == (-signal.SIGTERM, "")


@pytest.mark.full
def test_nobody_else_reaches_it(served: Served) -> None:
    """It listens on no port, and its folder and socket are for this user alone; nothing but them is on disk."""
    (folder,) = served.folders
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["log.sock"]
    assert (folder / "log.sock").stat().st_mode & 0o777 == 0o700
    process = Path(f"/proc/{served.store}")
    sockets = {str(file.readlink()) for file in (process / "fd").iterdir()}
    assert any(name.startswith("socket:") for name in sockets)
    for table in "tcp", "tcp6":
        rows = [row.split() for row in (process / "net" / table).read_text().splitlines()[1:]]
        assert not sockets & {f"socket:[{row[9]}]" for row in rows}


async def test_which_log_it_is(served: Served) -> None:
    """The line at the start, `/healthz` and `/metrics` say which log it is, without its path."""
    assert served.line.endswith(". Events are kept in a private Valkey, which 2 workers share.\n")
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "log": "private"}
        metrics = (await client.get("/metrics")).text
    assert 'twinwire_log_workers{log="private"}' in metrics
    assert str(served.temporary) not in served.line + metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("group", [False, True], ids=["the command", "its group"])
async def test_it_ends_with_the_server(number: signal.Signals, group: bool, tmp_path: Path) -> None:
    """SIGTERM and SIGINT, also as a terminal sends it to all processes, end the runs first: their followers hear it."""
    with Served(tmp_path) as process:
        process.ready()
        followers = [await start(kind, process, str(ENDLESS)) for kind in KINDS]
        for follower in followers:
            await follower.next()
        reading = [asyncio.create_task(rest(follower)) for follower in followers]
        pids = {process.popen.pid, *process.processes()} if group else {process.popen.pid}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        for seen in await asyncio.gather(*reading):
            assert seen[-1]["data"]["error_type"] == "interrupted"
        assert await ended(process) == (-number, "")


@pytest.mark.full
async def test_it_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    """If the supervisor is killed, the store is there until the workers have drained; then nothing is left."""
    with Served(tmp_path, "--drain-timeout", "20") as process:
        process.ready()
        followers = [await start(kind, process, "50") for kind in KINDS]
        for follower in followers:
            await follower.next()
        pids = process.processes()
        process.popen.kill()
        for follower in followers:
            assert (await rest(follower))[-1]["data"]["status"] == "completed"
        await until(lambda: process.gone(pids))


async def test_a_store_that_dies(served: Served) -> None:
    """Another takes its place, empty: the runs that went on are unknown to all followers, and new ones complete."""
    followers = [await start(kind, served, str(ENDLESS), on_disconnect="continue") for kind in KINDS]
    for follower in followers:
        await follower.next()
    os.kill(before := served.store, signal.SIGKILL)
    for follower in followers:
        with pytest.raises((Broken, Refused)):
            await rest(follower)
        with pytest.raises(Refused) as refused:
            await attach("ws", served, follower.run_id, 0)
        assert refused.value.code == "run_not_found"
    for kind in KINDS:
        client = Client(kind, lambda: served, message="3")
        assert text(await client.run()) == "0 1 2 "
    assert served.store != before
    served.popen.terminate()
    code, err = await ended(served)
    assert code == -signal.SIGTERM
    assert "The private Valkey died (-9). It starts again, empty: runs that went on end." in err
    assert "Traceback" not in err


@pytest.mark.full
async def test_a_keeper_that_dies(served: Served) -> None:
    """The store of a keeper that is killed ends; another keeper starts another store, and new runs complete."""
    keeper, store = served.keeper, served.store
    os.kill(keeper, signal.SIGKILL)
    await until(lambda: state(store) in "XZ")
    client = Client("ws", lambda: served, message="3")
    assert text(await client.run()) == "0 1 2 "
    assert (served.keeper, served.store) != (keeper, store)
    served.popen.terminate()
    code, err = await ended(served)
    assert code == -signal.SIGTERM
    assert "The process that keeps the private Valkey died. Another takes its place." in err


@pytest.mark.full
async def test_workers_are_replaced(served: Served) -> None:
    """SIGHUP replaces both workers, and the store stays: a run that has ended is there yet."""
    before, store = served.workers(), served.store
    client = Client("ws", lambda: served, message="3")
    await client.run()
    served.popen.send_signal(signal.SIGHUP)
    await until(lambda: len(now := served.workers()) == 2 and not now & before)
    assert served.store == store
    assert text(await rest(await attach("sse", served, client.run_id, 0))) == "0 1 2 "


async def test_runs_go_on_in_the_next_workers(tmp_path: Path) -> None:
    """Runs that can go on elsewhere do so when SIGHUP replaces their workers, and their followers see them end."""
    with Served(tmp_path, agent="lasting") as served:
        served.ready()
        before = served.workers()
        clients = [Client(kind, lambda: served, message=str(ENDLESS)) for kind in KINDS]
        running = [asyncio.create_task(client.run()) for client in clients]
        await until(lambda: all(len(client.seen) > 5 for client in clients))
        served.popen.send_signal(signal.SIGHUP)
        await until(lambda: len(now := served.workers()) == 2 and not now & before)
        resumed = [len(client.seen) for client in clients]
        await until(lambda: all(len(client.seen) > 5 + count for client, count in zip(clients, resumed, strict=True)))
        (tmp_path / "enough").touch()
        for seen in await asyncio.gather(*running):
            assert "RUN_RESUMED" in {event["type"] for event in seen}
            assert seen[-1]["data"]["status"] == "completed"


@pytest.mark.parametrize("kind", KINDS)
async def test_runs_end_with_the_server(kind: str, tmp_path: Path) -> None:
    """Runs that could go on elsewhere end with the server, since their store does: nobody waits for them in vain."""
    with Served(tmp_path, agent="lasting") as served:
        served.ready()
        follower = await start(kind, served, str(ENDLESS))
        await follower.next()
        served.popen.terminate()
        assert (await rest(follower))[-1]["data"]["error_type"] == "interrupted"
        assert await ended(served) == (-signal.SIGTERM, "")


@pytest.mark.full
async def test_two_side_by_side(served: Served, tmp_path: Path) -> None:
    """Each command has a store of its own: a run of one is unknown to the other, which its end leaves alone."""
    (tmp_path / "other").mkdir()
    with Served(tmp_path / "other") as other:
        other.ready()
        client = Client("ws", lambda: served, message="3")
        await client.run()
        with pytest.raises(Refused):
            await attach("ws", other, client.run_id, 0)
        other.popen.terminate()
        await ended(other)
    assert text(await rest(await attach("sse", served, client.run_id, 0))) == "0 1 2 "


def test_no_program(tmp_path: Path) -> None:
    """Without Valkey and Redis the command ends with one sentence, which says what to install, and leaves nothing."""
    command = patched("store._candidates = lambda: []")
    with Process("serve", "--workers", "2", "--port", "0", cwd=tmp_path, command=command) as process:
        code, out, err = process.end()
    assert (code, out) == (2, "")
    assert err.startswith(f"twinwire: {MISSING}: pip install 'twinwire[workers]', or ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("then", ["exit 3", "exec sleep 1000"], ids=["it ends", "it does not answer"])
def test_a_program_that_does_not_start(then: str, tmp_path: Path) -> None:
    """A Valkey that cannot be started is one sentence, and neither it nor its folder is left."""
    environ = program(tmp_path, "valkey-server", "Valkey server v=9.9.9 sha=0", then)
    with Process(
        *("serve", "--workers", "2", "--port", "0"),
        cwd=tmp_path,
        environ={**environ, "TMPDIR": str(tmp_path)},
        command=patched("store.START_SECONDS = 1"),
    ) as process:
        code, out, err = process.end()
    assert (code, out) == (2, "")
    assert err == f"twinwire: The program {tmp_path}/bin/valkey-server did not start for `--workers`.\n"
    assert [*tmp_path.glob("twinwire-*")] == []


@pytest.mark.parametrize("told", ["Redis server v=6.0.16 sha=0", "gibberish"])
def test_a_program_that_is_too_old(told: str, tmp_path: Path) -> None:
    """A Redis that is too old, or that does not say what it is, is passed over for the wheel's Valkey."""
    finding = "from twinwire.serving.store import find_program\nprint(find_program().path)"
    found = subprocess.run(
        [*MORTAL, sys.executable, "-c", finding],
        env={**ENVIRONMENT, **program(tmp_path, "redis-server", told, "exit 3")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "/bin/redis-server" not in found
    assert found.endswith("valkey-server\n")


def test_an_app_with_another_log(tmp_path: Path) -> None:
    """An app whose own settings keep its runs where only one worker finds them is refused, and nothing is left."""
    (tmp_path / "mine.py").write_text(EMBEDDED)
    environ = {"TMPDIR": str(tmp_path)}
    with Process("serve", "mine:app", "--workers", "2", "--port", "0", cwd=tmp_path, environ=environ) as process:
        code, out, err = process.end()
    assert (code, out) == (2, "")
    assert [*tmp_path.glob("twinwire-*")] == []
    assert "`--workers` requires a log that all workers share. The app has settings of its own" in err
