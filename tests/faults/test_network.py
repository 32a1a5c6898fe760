"""What a network and a process's other work do to connections: half of them closed, nobody there, no thread free."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from faults import half_open
from support.followers import KINDS, check, events, rest, start
from support.serving import Puppets, Running, until


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_half_closes(kind: str, server: Running, puppets: Puppets) -> None:
    """Who says that nothing more will come has left: the connection ends, the run goes on, nothing is left behind."""
    first = await start(kind, server, on_disconnect="continue")
    puppet = await puppets.next()
    puppet.say("a")
    await first.next()
    if kind == "ws":
        socket = await connect(server.ws_url, proxy=None)
        await socket.send(json.dumps({"type": "attach", "run_id": first.run_id}))
        await socket.recv()
        await until(lambda: len(server.service.heartbeats.pumps) == 2)
        socket.transport.write_eof()
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /runs/{first.run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"event: LLM_CHUNK")
        writer.write_eof()
    await until(lambda: len(server.service.heartbeats.pumps) == 1)
    puppet.end()
    seen = [event async for event in events(first)]
    assert seen[-1]["data"]["status"] == "completed"
    await first.close()
    if kind == "ws":
        await socket.close()
    else:
        writer.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_no_thread_is_free(kind: str, server: Running, puppets: Puppets) -> None:
    """While every thread of the loop's pool is busy a run starts and its events come: a stream needs none."""
    release = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, release.wait) for _ in range(100)]
    try:
        async with asyncio.timeout(20):
            follower = await start(kind, server)
            puppet = await puppets.next()
            puppet.say("a")
            puppet.end()
            check(await rest(follower))
    finally:
        release.set()
        await asyncio.gather(*busy)
        await loop.shutdown_default_executor()


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_no_longer_there(kind: str) -> None:
    """A peer whose packets are lost without a word is given up after the time that is set for it (TCP_USER_TIMEOUT)."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urn", "true"], check=False).returncode:
        pytest.skip("no network namespaces here")
    told = subprocess.run(
        ["unshare", "-Urn", sys.executable, str(Path(half_open.__file__)), kind],
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert told.returncode == 0, told.stderr
    assert half_open.SECONDS * 0.8 < float(told.stdout) < half_open.SECONDS + 5
