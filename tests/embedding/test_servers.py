"""Twinwire on the ASGI servers of others: its streams end when they are told to end, and many processes are noticed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import httpx
import pytest

from support.followers import KINDS, AnyFollower, Broken, attach, rest, start
from support.hosts import ended, served

each_kind = pytest.mark.parametrize("kind", KINDS)

PROGRAM = """
import asyncio, logging, os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from twinwire import Settings, StreamEvent, Twinwire

logging.basicConfig()

async def talk(request):
    yield StreamEvent("LLM_CHUNK", {"content": request.message})
    if request.message != "short":
        await asyncio.Event().wait()

ai = Twinwire({"talk": talk}, settings=Settings(drain_timeout=0.1))
pid = Route("/pid", lambda request: PlainTextResponse(str(os.getpid())))
app = Starlette(routes=[Mount("/ai", ai), pid], lifespan=ai.lifespan)
beside = ai.beside(lambda scope, receive, send: asyncio.sleep(0))
"""

HYPERCORN = {"hypercorn": ("--workers", "0")} if sys.version_info >= (3, 12) else {}
"""Without it hypercorn 0.18 waits for its open connections for ever, since Python's `Server.wait_closed` does."""


async def how_it_ended(follower: AnyFollower) -> str | int | None:
    """Return the reason in the terminal event; if the server has closed the connection first, its code, or None."""
    reason = None
    try:
        while (body := await follower.next()) is not None:
            reason = json.loads(body)["data"].get("reason")
    except Broken as error:
        return error.code
    await follower.close()
    return reason


@each_kind
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
@pytest.mark.parametrize(
    ("server", "target"), [("uvicorn", "main:app"), ("uvicorn", "main:beside"), ("granian", "main:app")]
)
async def test_a_signal_ends_open_streams(
    server: str, target: str, number: signal.Signals, kind: str, tmp_path: Path
) -> None:
    """A server that is told to end while a run is followed ends within seconds; its follower is told of the end."""
    pytest.importorskip("starlette")
    (tmp_path / "main.py").write_text(PROGRAM)
    arguments = ["--lifespan", "off"] if target == "main:beside" else []
    with served(server, tmp_path, *arguments, target=target) as (process, address):
        follower = await start(kind, address, "hi")
        assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
        assert json.loads(await follower.next() or b"")["data"]["content"] == "hi"
        process.popen.send_signal(number)
        expected = ("shutdown",) if kind == "sse" else ("shutdown", 1012, None)  # some close sockets first
        assert await how_it_ended(follower) in expected
        _, told = await ended(process, 15)
        assert "Traceback" not in told or server == "granian", told


@each_kind
@pytest.mark.parametrize("server", ["hypercorn", "daphne"])
async def test_other_servers(server: str, kind: str, tmp_path: Path) -> None:
    """A run is followed to its end, another one's follower is told of the shutdown or cut, and the server ends."""
    pytest.importorskip("starlette")
    (tmp_path / "main.py").write_text(PROGRAM)
    target = "main:beside" if server == "daphne" else "main:app"
    with served(server, tmp_path, *HYPERCORN.get(server, ()), target=target) as (process, address):
        seen = await rest(await start(kind, address, "short"))
        assert seen[-1]["data"]["result"] == "short"
        resumed = await attach(kind, address, seen[0]["id"].split("-")[1], 1)
        assert (await rest(resumed))[-1]["type"] == "AGENT_FINISH"
        follower = await start(kind, address, "hi")
        assert json.loads(await follower.next() or b"")["type"] == "AGENT_START"
        process.popen.send_signal(signal.SIGTERM)
        await how_it_ended(follower)
        await ended(process, 20)


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_several_processes_are_noticed(server: str, tmp_path: Path) -> None:
    """Several processes on a log in memory are told in the log what to do."""
    pytest.importorskip("starlette")
    (tmp_path / "main.py").write_text(PROGRAM)
    with served(server, tmp_path, "--workers", "2") as (process, address):
        await _reach_both(address.home)
        process.popen.terminate()
        _, told = await ended(process, 20)
    assert told.count("Several processes serve this app") == 1, told
    assert "TWINWIRE_LOG=redis://" in told


async def _reach_both(url: str) -> None:
    """Send requests on connections of their own until each of the two processes has had one."""
    async with asyncio.timeout(30):
        pids: set[str] = set()
        while len(pids) < 2:
            async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
                pids.add((await http.get(f"{url}/pid")).text)
                await http.get(f"{url}/ai/healthz")  # of the same process, on the same connection


@pytest.mark.parametrize("server", ["uvicorn", "granian"])
async def test_one_process_is_not_told(server: str, tmp_path: Path) -> None:
    """One process of any server is told nothing."""
    pytest.importorskip("starlette")
    (tmp_path / "main.py").write_text(PROGRAM)
    with served(server, tmp_path) as (process, address):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            assert (await http.get(f"{address.url}/healthz")).status_code == 200
        process.popen.terminate()
        _, told = await ended(process, 20)
    assert "Several processes" not in told
