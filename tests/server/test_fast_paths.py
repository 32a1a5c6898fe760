"""Fast paths of the whole server beside their plain twins: one script each, which both play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from websockets.frames import Opcode

from support.followers import KINDS, rest, start
from support.model_server import ModelServer, answer, calls, reasoning
from support.serving import Puppets, serving
from support.websocket_wire import heard, masked, opened
from twinwire.agents import Agent, RunRequest
from twinwire.agents.react import ReActAgent
from twinwire.log.memory import MemoryLog
from twinwire.models import ChatModel, Message, Part, ToolSpec
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.protocol.events import Record, StreamEvent

UNLIKE = {"id", "timestamp", "duration"}


def alike(value: Any) -> Any:
    """Return a value without what differs from run to run."""
    if isinstance(value, list):
        return [alike(item) for item in value]
    return {key: alike(item) for key, item in value.items() if key not in UNLIKE} if isinstance(value, dict) else value


class Iterated:
    """A model like one of a user's: an async generator."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self._model = model

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        async with aclosing(self._model.stream(messages, tools)) as batches:
            async for batch in batches:
                yield batch


def iterated(agent: ReActAgent) -> Agent:
    """Return an agent like one of a user's: an async generator function."""

    async def run(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        async with aclosing(agent(request)) as events:
            async for event in events:
                yield event

    return run


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_pushed_and_what_is_iterated_over(kind: str) -> None:
    """A run has the same events whether its agent and its model push or are iterated over."""
    async with ModelServer() as upstream:
        model = OpenAIChatModel("m", api_key="k", base_url=upstream.url)

        def agent(model: ChatModel) -> ReActAgent:
            return ReActAgent("mine", model)

        agents: dict[str, Agent] = {
            "pushed": agent(model),
            "model iterated": agent(Iterated(model)),
            "agent iterated": iterated(agent(model)),
            "both iterated": iterated(agent(Iterated(model))),
        }
        runs = []
        async with serving(agents) as server:
            for name in agents:
                upstream.script(*reasoning("Hm."), *calls(("Read", {"path": "x"}), ("Read", {"path": "y"})))
                upstream.script(*answer("grün ", "🚀", *map(str, range(100))))
                runs.append(alike(await rest(await start(kind, server, agent=name))))
        assert runs[0][0]["type"] == "AGENT_START"
        assert len(runs[0]) > 100
        for run in runs[1:]:
            assert run == runs[0]
        await model.aclose()


def chunk(text: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text})


async def yields(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    for text in "abc":
        yield chunk(text)


async def emits(request: RunRequest) -> None:
    for text in "abc":
        request.emit(chunk(text))


async def calls_back(request: RunRequest) -> None:
    loop = asyncio.get_running_loop()
    for text in "abc":
        loop.call_soon(request.emit, chunk(text))
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_told_in_one_go(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent tells in its task before it suspends is one append; the events are those of single appends."""
    sizes: list[int] = []
    append = MemoryLog.append

    def counted(log: MemoryLog, run_id: str, last: int, records: Sequence[Record]) -> None:
        sizes.append(len(records))
        append(log, run_id, last, records)

    monkeypatch.setattr(MemoryLog, "append", counted)
    runs: dict[str, Any] = {}
    async with serving({"mine": yields, "emits": emits, "calls_back": calls_back}) as server:
        for name, expected in (("mine", [5]), ("emits", [5]), ("calls_back", [2, 1, 1, 1])):
            sizes.clear()  # the server has runs of its own as it starts
            seen = await rest(await start(kind, server, agent=name))
            seen[0]["data"]["config"]["agent"] = "any"
            runs[name] = alike(seen)
            assert sizes == expected, name
    assert runs["mine"] == runs["emits"] == runs["calls_back"]


async def until_two_heartbeats(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str) -> None:
    """Read a silent stream until two heartbeats have come, and answer those that ask."""
    for _ in range(2):
        if kind == "sse":
            await reader.readuntil(b": heartbeat\n\n")
            continue
        while (frame := await heard(reader))[0] != Opcode.PING:
            pass
        writer.write(masked(Opcode.PONG, frame[1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("below", ["direct", "plain"], indirect=True)
@pytest.mark.usefixtures("below")
async def test_heartbeats(kind: str, puppets: Puppets) -> None:
    """A silent run's follower hears heartbeats, and then the rest of the run, from our server and from a plain one."""
    async with serving({"mine": puppets}, heartbeat=0.2) as server:
        first = await start(kind, server)
        puppet = await puppets.next()
        attach = b'{"type":"attach","run_id":"%b"}' % first.run_id.encode()
        if kind == "ws":
            async with opened(server) as (reader, writer):
                writer.write(masked(Opcode.TEXT, attach))
                await until_two_heartbeats(reader, writer, kind)
                puppet.say("a")
                puppet.end()
                while b"AGENT_FINISH" not in (await heard(reader))[1]:
                    pass
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /runs/%b/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % first.run_id.encode())
            await until_two_heartbeats(reader, writer, kind)
            puppet.say("a")
            puppet.end()
            await reader.readuntil(b"event: AGENT_FINISH")
            writer.close()
        assert [event["type"] for event in await rest(first)] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
