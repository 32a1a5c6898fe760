"""What befalls a server's process: signals under load, no descriptors left, a loop that is blocked, a pause."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from faults import bare
from faults.leaks import descriptors, settled
from support.followers import KINDS, Broken, attach, events, rest, start, text
from support.processes import Process, stopped
from support.redis_server import fresh

MINE = """
import asyncio, time
from twinwire import StreamEvent

def word(text):
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text})

async def mine(request):
    verb, _, number = request.message.partition(" ")
    yield word("begun ")
    if verb == "wait":
        await asyncio.Event().wait()
    if verb == "block":
        time.sleep(float(number))
        yield word("blocked ")
    for n in range(int(number) if verb == "count" else 0):
        yield word(f"{n} ")
        await asyncio.sleep(0.02)

async def stubborn(request):
    yield word("begun ")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""
FOLLOWERS = 500  # of each transport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@pytest.fixture
def process(folder: Path) -> Iterator[Process]:
    """A server that is up, and ends without a traceback."""
    with Process("serve", "mine:mine", "--port", "0", cwd=folder) as process:
        process.ready()
        yield process
        process.popen.terminate()
        code, _, err = process.end()
        assert (code, "Traceback" in err) == (-signal.SIGTERM, False), err


async def test_sigterm_with_a_thousand_streams(folder: Path) -> None:
    """All bodies are complete with the terminal event, all sockets have it and 1012; the end comes within 5 s."""
    with Process("serve", "mine:mine", "--port", "0", cwd=folder) as process:
        process.ready()
        watched = await bare.stream(process, bare.chat("wait", on_disconnect="continue"))
        await watched.first(b"begun")
        async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, timeout=20) as client:
            run_id = (await client.post("/runs", json={"message": "wait"})).json()["run_id"]
        streams = await bare.streams(process, f"/runs/{run_id}/events", FOLLOWERS)
        sockets = await bare.sockets(process, FOLLOWERS, type="attach", run_id=run_id)
        for one in streams:
            await one.first(b"begun")
        for socket in sockets:
            while b"begun" not in await socket.recv(decode=False):
                pass
        hearing = [asyncio.create_task(bare.said(socket)) for socket in sockets]
        began = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        bodies = await asyncio.gather(*(one.whole() for one in [watched, *streams]))
        heard = await asyncio.gather(*hearing)
        code, _, err = await asyncio.to_thread(process.end, 20)
        took = time.monotonic() - began
        for one in [watched, *streams]:
            one.close()
    print(f"{len(bodies) + len(heard)} streams; the process ended after {took:.1f} s")
    assert (code, err) == (-signal.SIGTERM, "")
    assert {(body.count(b"event: ERROR"), body.endswith(b"\r\n0\r\n\r\n")) for body in bodies} == {(1, True)}
    assert {(tuple(types), code) for types, code in heard} == {(("ERROR",), 1012)}
    assert took < 15


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_interrupt(kind: str, folder: Path) -> None:
    """Who does not want to wait for the runs to end interrupts again; followers are told how it ends even so."""
    flags = ("--port", "0", "--drain-timeout", "60")
    with Process("serve", "mine:stubborn", *flags, cwd=folder) as process:
        process.ready()
        follower = await start(kind, process)
        await follower.next()
        async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, timeout=20) as client:
            assert (await client.get("/readyz")).status_code == 200
            process.popen.send_signal(signal.SIGINT)
            async with asyncio.timeout(10):
                while (await client.get("/readyz")).status_code == 200:  # over the connection that is there
                    pass
        assert process.popen.poll() is None
        process.popen.send_signal(signal.SIGINT)
        code, _, err = await asyncio.to_thread(process.end, 20)
        assert (code, "Traceback" in err) == (-signal.SIGINT, False), err
        try:
            seen = [event["type"] async for event in events(follower)]
        except Broken:
            pass  # the second signal came before the stream's end was out
        else:
            assert seen[-1] == "ERROR"
        await follower.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pause_of_the_process(kind: str, process: Process) -> None:
    """A server that was stopped for 2 s goes on where it was: nobody is dropped, nothing is lost."""
    follower = await start(kind, process, "count 50")
    await follower.next()
    with stopped(process.popen.pid):
        await asyncio.sleep(2)  # the fault itself
    assert len(await rest(follower)) == 52


@pytest.mark.parametrize("kind", KINDS)
async def test_a_blocked_loop(kind: str, process: Process) -> None:
    """An agent that blocks all for 2 s holds the others up for as long, and costs them nothing."""
    follower = await start(kind, process, "count 50")
    await follower.next()
    blocking = await start(kind, process, "block 2")
    seen = await rest(follower)
    assert text(seen).split()[-50:] == [str(number) for number in range(50)]
    assert "blocked" in text(await rest(blocking))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_zombie_that_says_nothing(kind: str, folder: Path) -> None:
    """A worker that was taken for dead, and whose agent says nothing, stops the run that another one has ended."""
    flags = ("--port", "0", "--log", fresh("&lease=1"))
    with (
        Process("serve", "mine:mine", *flags, cwd=folder) as zombie,
        Process("serve", "mine:mine", *flags, cwd=folder) as other,
    ):
        zombie.ready()
        other.ready()
        here = await start(kind, zombie, "wait")
        run_id = here.run_id
        there = await attach(kind, other, run_id)
        with stopped(zombie.popen.pid):
            seen = await rest(there)
        assert seen[-1]["data"]["error_type"] == "interrupted"
        async with asyncio.timeout(20), httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
            while "twinwire_runs_live 0.0" not in (await client.get(f"{zombie.url}/metrics")).text:
                pass
        assert await rest(here) == seen
        zombie.popen.terminate()
        _, _, err = await asyncio.to_thread(zombie.end, 10)
        assert f"The log refused the writer of the run {run_id}." in err


@pytest.mark.parametrize("kind", KINDS)
async def test_few_descriptors(kind: str, folder: Path) -> None:
    """A server that may open few files accepts as many connections as leave it some, and serves whoever asks."""
    limited = ("prlimit", "--nofile=64", "--")
    with Process("serve", "mine:mine", "--port", "0", cwd=folder, prefix=limited) as process:
        process.ready()
        pid = process.popen.pid
        fds = descriptors(pid)
        follower = await start(kind, process, "count 100", on_disconnect="continue")
        crowd = await bare.streams(process, "/healthz", 50) + [await bare.silent(process) for _ in range(50)]
        seen = [json.loads(await follower.next() or b"") for _ in range(30)]
        assert descriptors(pid) < 64
        assert len(await rest(await attach(kind, process, follower.run_id, 0))) == 103  # among the crowd
        seen += await rest(follower)
        assert [int(event["id"].rpartition("-")[2]) for event in seen] == list(range(1, 104))
        for one in crowd:
            one.close()
        await settled(process.url, pid, fds)
        process.popen.terminate()
        code, _, err = process.end()
        assert (code, "Traceback" in err) == (-signal.SIGTERM, False)
        assert "This process may open 64 files." in err
        assert len(err.splitlines()) == 1
