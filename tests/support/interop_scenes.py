"""A server for other people's clients: an agent that plays a scene by its message, and the programs that drive them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.model_server import ModelServer, call_deltas, end, reasoning, text
from support.resuming import resumed
from support.scripted import Echo, raising, registry
from support.serving import Running, serving
from twinwire.agents import RunRequest
from twinwire.agents.react import ReActAgent
from twinwire.agents.talk import Call
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.protocol.errors import UpstreamError
from twinwire.protocol.events import StreamEvent
from twinwire.tools.base import ToolError
from twinwire.transports import Verdict

PROGRAMS = Path(__file__).parents[1] / "interop"
NODE = shutil.which("node") if (PROGRAMS / "node_modules").is_dir() else None
needs_node = pytest.mark.skipif(NODE is None, reason="no Node, or no npm ci in tests/interop")

TEXT = "Let me see.|It says hello."
PARTS = [
    {"type": "text", "text": "hi"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
]
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}


def _word(word: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": word, "delta": word})


class Scenes:
    """The agent. `tools` is a whole run of the ReAct agent, asked of a model over HTTP; `slow` waits for `release`."""

    def __init__(self, model: ModelServer) -> None:
        self.release = asyncio.Event()
        self.cancelled = 0
        self.asked: Counter[str] = Counter()
        """How many runs each message started."""
        self._model = model
        tools = registry(Echo(), raising(ToolError("no such file")))
        self._react = ReActAgent("react", OpenAIChatModel("scripted", api_key="none", base_url=model.url), tools)

    async def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        self.asked[request.message] += 1
        if request.message == "tools":
            calls = call_deltas(("echo", {"text": "hello"}), ("raising", {}))
            self._model.script(reasoning("Hm", "m."), text("Let me ", "see."), calls, end("tool_calls", (10, 5)))
            self._model.script(reasoning("So."), text("It says ", "hello."), end("stop", (10, 5)))
            async for event in self._react(request):
                yield event
        elif request.message == "history":
            yield _word("/".join(f"{said['role']}: {said['content']}" for said in request.history))
        elif request.message == "call":
            call = {"tool_call_id": "1", "tool_name": "echo"}
            yield StreamEvent("TOOL_CALL_START", {**call, "parameters": {}})
            yield StreamEvent("TOOL_CALL_FINISH", {**call, "result": "x", "status": "ok", "duration": 0.1})
            yield _word("done")
        elif request.message == "approve":
            async for event in self._approve(request):
                yield event
        elif request.message == "choose":
            yield _word(str(await request.ask("Which branch?", schema={"type": "string", "enum": ["main", "dev"]})))
        elif request.message == "ask and wait":
            yield _word(f"{await request.ask('Which branch?')} ")
            await self.release.wait()
            self.release.clear()
            yield _word("two")
        elif request.message == "both":
            async for event in self._approve(request):
                yield event
            yield _word(f"; {await request.ask('Which branch?')}")
        elif request.message == "resumed":
            yield StreamEvent("STEP_START", {"step": 1, "max_steps": None})
            yield StreamEvent("THINKING", {"content": "Hm"})
            yield _word("no")
            call = {"tool_call_id": "1", "tool_name": "echo"}
            yield StreamEvent("TOOL_CALL_START", {**call, "parameters": {}})
            resumed(request, 1)
            yield StreamEvent("STEP_START", {"step": 1, "max_steps": None})
            yield StreamEvent("THINKING", {"content": "So"})
            yield _word("one ")
            await self.release.wait()
            self.release.clear()
            yield _word("two")
        elif request.message == "fail":
            yield _word("one ")
            raise UpstreamError("the model is away")
        elif request.message in {"slow", "silent"}:
            if request.message == "slow":
                yield _word("one ")
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.release.clear()
            yield _word("two")
        else:
            yield StreamEvent("NOTHING")

    async def _approve(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        """Delete a file if that is approved, or say why not."""
        call = Call("1", "delete", {"path": "a"})
        told = {"tool_call_id": call.id, "tool_name": call.name}
        yield StreamEvent("TOOL_CALL_START", {**told, "parameters": call.parameters})
        decision = await request.approve(call, prompt="Delete a?")
        if decision.approved:
            result, status = f"{decision.parameters['path']} is gone", "ok"
        else:
            result, status = f"rejected: {decision.reason}", "error"
        yield StreamEvent("TOOL_CALL_FINISH", {**told, "result": result, "status": status, "duration": 0.1})
        yield _word(result)


class Given:
    """An agent that answers with what it was given, in its result alone: none of it is told before."""

    accepts = ("image", "params")

    async def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        given = {"message": request.message, "params": request.params, "metadata": request.metadata}
        yield StreamEvent("AGENT_FINISH", {"result": {**given, "parts": request.parts}})


@asynccontextmanager
async def playing(**settings: Any) -> AsyncIterator[tuple[Running, Scenes]]:
    """A server with that agent, with `given`, and a format of its own, `mine`: the type of each event and its data."""

    def mine(event: StreamEvent) -> bytes | None:
        return None if event.type == "THINKING" else f"{event.type}\n{json.dumps(event.data)}".encode()

    async with ModelServer() as model:
        scenes = Scenes(model)
        async with serving(
            {"scenes": scenes, "given": Given()}, formats={"mine": mine}, retry_ms=50, **settings
        ) as server:
            yield server, scenes


def cut(server: Running) -> None:
    """Break all connections off, as a server does that restarts."""
    for pump in tuple(server.service.heartbeats.pumps):
        pump.end(Verdict.RESTART)


async def node(program: str, *arguments: str, send: Any = None, scene: tuple[Running, Scenes] | None = None) -> Any:
    """What a program of `interop` reports; while it runs it may ask to release the scene, or to cut connections."""
    assert NODE is not None, "CI has Node, and npm ci was run in tests/interop"
    process = await asyncio.create_subprocess_exec(
        NODE, PROGRAMS / f"{program}.mjs", *arguments, stdin=-1, stdout=-1, limit=2**24
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(send).encode())
        process.stdin.close()
        while line := await asyncio.wait_for(process.stdout.readline(), 30):
            told: Mapping[str, Any] = json.loads(line)
            if "seen" in told:
                assert told["complaints"] == [], told["complaints"][:5]
                return told["seen"]
            assert scene is not None
            server, scenes = scene
            if told["ask"] == "release":
                scenes.release.set()
            else:
                cut(server)
        raise AssertionError(f"{program} ended without a report")
    finally:
        if process.returncode is None and not process.stdout.at_eof():
            process.kill()
        await process.wait()
