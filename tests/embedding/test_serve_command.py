"""`twinwire serve` of somebody's application with Twinwire in it: it serves the whole of it, and ends its streams."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest

from support.followers import SseFollower, WsFollower
from support.processes import Process

PROGRAM = """
import asyncio
from litestar import Litestar, get
from twinwire import Twinwire

async def parrot(request):
    yield f"You said {request.message}."

async def patient(request):
    yield "wait"
    await asyncio.Event().wait()

ai = Twinwire({"parrot": parrot, "patient": patient})

@get("/hello")
async def hello() -> str:
    return "hello"

plugged = Litestar([hello], plugins=[ai.plugin("/ai")], logging_config=None)
"""

FASTAPI = """
from fastapi import FastAPI
from mine import ai

app = FastAPI(lifespan=ai.lifespan)
bare = FastAPI()
alone = FastAPI()

for each in app, bare:
    each.mount("/ai", ai)

    @each.get("/hello")
    async def hello() -> str:
        return "hello"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "main.py").write_text(FASTAPI)
    return tmp_path


@pytest.mark.parametrize("target", ["mine:ai", "mine:plugged", "main", "main:bare"])
async def test_it_serves_all_of_it(target: str, folder: Path) -> None:
    """Twinwire's routes and the application's own answer, and SIGTERM ends streams on both transports."""
    if target.startswith("main"):
        pytest.importorskip("fastapi")
    prefix = "" if target == "mine:ai" else "/ai"
    with Process("serve", target, "--port", "0", cwd=folder) as process:
        await asyncio.to_thread(process.ready)
        url = f"{process.url}{prefix}"
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{url}/chat?message=hi&stream=false&agent=parrot")
            assert answer.json()["result"] == "You said hi."
            if prefix:
                assert "hello" in (await client.get(f"{process.url}/hello")).text
        sse = await SseFollower(f"{url}/chat/stream?message=hi&envelope=1&agent=patient", {}).open()
        command = {"type": "start", "request_id": "r1", "message": "hi", "agent": "patient"}
        ws = await WsFollower(f"ws{url.removeprefix('http')}/ws").open(command)
        for follower in (sse, ws):
            for kind in ("AGENT_START", "LLM_CHUNK"):
                assert json.loads(await follower.next() or b"")["type"] == kind
        process.popen.send_signal(signal.SIGTERM)
        for follower in (sse, ws):
            last = json.loads(await follower.next() or b"")
            assert (last["type"], last["data"]["error_type"]) == ("ERROR", "interrupted")
            assert await follower.next() is None
        await sse.close()
        await ws.close()
        code, _, err = await asyncio.to_thread(process.end)
        assert (code, err) == (-signal.SIGTERM, "")


def test_an_application_without_twinwire(folder: Path) -> None:
    """FastAPI alone is refused, with the command that serves it."""
    pytest.importorskip("fastapi")
    (folder / "alone.py").write_text("from fastapi import FastAPI\napp = FastAPI()\n")
    with Process("serve", "alone:app", "--port", "0", cwd=folder) as process:
        code, out, err = process.end()
    assert (code, out) == (2, "")
    assert err.endswith("serve it as it is with another server: uvicorn alone:app.\n")
