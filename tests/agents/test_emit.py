"""Agents that emit, from their task or from callbacks, within the same bounds as those that yield."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest

from support.followers import KINDS, AnyFollower, rest, start, text
from support.serving import serving
from twinwire import DemoModel, RunRequest, SimpleAgent, StreamEvent
from twinwire.auth import ANYBODY
from twinwire.models import Finish, Text
from twinwire.runs.writer import MAX_PENDING

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


def chunk(word: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": word, "delta": word})


async def some(follower: AnyFollower, count: int) -> list[dict[str, Any]]:
    """Read so many events."""
    return [msgspec.json.decode(await follower.next() or b"") for _ in range(count)]


def types(seen: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in seen]


async def test_from_a_callback(kind: str) -> None:
    """What a callback emits while the agent's task waits is sent at once, in order with what the task emits."""
    tell: asyncio.Future[RunRequest] = asyncio.get_running_loop().create_future()
    heard = asyncio.Event()

    async def agent(request: RunRequest) -> None:
        request.emit(chunk("a"))
        tell.set_result(request)
        await heard.wait()
        request.emit(chunk("d"))

    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        request = await tell
        assert types(await some(follower, 2)) == ["AGENT_START", "LLM_CHUNK"]
        asyncio.get_running_loop().call_soon(request.emit, chunk("b"), chunk("c"))
        assert text(await some(follower, 2)) == "bc"
        heard.set()
        seen = await rest(follower)
        assert types(seen) == ["LLM_CHUNK", "AGENT_FINISH"]
        assert (seen[-1]["data"]["result"], seen[-1]["data"]["status"]) == ("abcd", "completed")
        assert request.emit(chunk("late")) is None


async def test_more_than_may_wait(kind: str) -> None:
    """An agent that emits more in one go than may wait for the log, and does not care, loses nothing."""

    async def agent(request: RunRequest) -> None:
        for _ in range(3):
            request.emit(*[chunk("x")] * MAX_PENDING)

    async with serving({"mine": agent}) as server:
        assert text(await rest(await start(kind, server))) == 3 * MAX_PENDING * "x"


async def test_beside_yielding(kind: str) -> None:
    """An agent that yields may emit, too, as from a callback of a tool; the order is that of the calls."""

    async def agent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("a")
        request.emit(chunk("b"))
        yield chunk("c")
        request.emit(chunk("d"))

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
        assert text(seen) == "abcd"
        assert [int(event["id"].rpartition("-")[2]) for event in seen] == [1, 2, 3, 4, 5, 6]


async def test_after_its_terminal_event(kind: str) -> None:
    """An agent that goes on after its own terminal event is cancelled, and what it emits then is dropped."""
    stopped = asyncio.Event()

    async def agent(request: RunRequest) -> None:
        try:
            request.emit(StreamEvent("AGENT_FINISH", {"result": "mine"}), chunk("late"))
            await asyncio.Event().wait()
        finally:
            request.emit(chunk("later"))
            stopped.set()

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
        assert types(seen) == ["AGENT_START", "AGENT_FINISH"]
        assert seen[-1]["data"]["result"] == "mine"
        await stopped.wait()


async def test_over_the_budget(kind: str) -> None:
    """An agent whose callback emits more than its run may have is cancelled, with one ERROR that names the budget."""
    stopped = asyncio.Event()

    async def agent(request: RunRequest) -> None:
        for _ in range(20):
            asyncio.get_running_loop().call_soon(request.emit, chunk("x"))
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving({"mine": agent}, run_events=5) as server:
        seen = await rest(await start(kind, server))
        assert types(seen) == ["AGENT_START", *["LLM_CHUNK"] * 4, "ERROR"]
        assert seen[-1]["data"]["error_type"] == "budget"
        await stopped.wait()


@pytest.mark.parametrize("garbage", [None, {"type": "LLM_CHUNK"}, chunk("a").to_sse])
async def test_garbage(kind: str, garbage: Any) -> None:
    """A value that stands for no event is refused where it is emitted, and uncaught ends the run in one ERROR."""

    async def agent(request: RunRequest) -> None:
        with pytest.raises(TypeError, match=r"must yield or emit a text, a StreamEvent, .* not "):
            request.emit(garbage)
        request.emit(chunk("a"))
        request.emit(garbage)

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
        assert types(seen) == ["AGENT_START", "LLM_CHUNK", "ERROR"]
        assert seen[-1]["data"]["error_type"] == "agent_error"


async def test_cancelled(kind: str) -> None:
    """A cancel ends an agent that waits with CancelledError; the partial answer is what was emitted."""
    stopped = asyncio.Event()

    async def agent(request: RunRequest) -> None:
        request.emit(chunk("a"))
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        await some(follower, 2)
        await server.runs.cancel(follower.run_id, ANYBODY)
        seen = await rest(follower)
        assert types(seen) == ["AGENT_FINISH"]
        assert (seen[-1]["data"]["result"], seen[-1]["data"]["status"]) == ("a", "cancelled")
        await stopped.wait()


async def test_an_agent_within_an_agent(kind: str) -> None:
    """An agent may hand its request on to one of ours, or iterate over that and yield what it likes."""
    demo = SimpleAgent("simple", DemoModel(0))

    async def handed_on(request: RunRequest) -> None:
        await demo(request).for_each(request.emit)

    async def iterated(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        async for event in demo(request):
            if event.type == "LLM_CHUNK":
                yield event

    def returned(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        return demo(request)

    async with serving({"handed_on": handed_on, "iterated": iterated, "returned": returned}) as server:
        first = await rest(await start(kind, server, agent="handed_on"))
        second = await rest(await start(kind, server, agent="iterated"))
        third = await rest(await start(kind, server, agent="returned"))
        assert text(first) == text(second) == text(third) != ""
        assert types(third) == types(first)
        assert types(first)[:2] == ["AGENT_START", "STEP_START"]
        assert set(types(second)) == {"AGENT_START", "LLM_CHUNK", "AGENT_FINISH"}
        usages = [seen[-1]["data"]["usage"] for seen in (first, second)]
        assert usages[0] == usages[1] != {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


async def test_its_run_is_let_go(kind: str) -> None:
    """A request that somebody keeps does not keep the run, once that is over."""
    kept: list[RunRequest] = []

    async def agent(request: RunRequest) -> None:
        kept.append(request)
        request.emit(chunk("a"))

    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        await rest(follower)
        assert len(server.runs) == 0
        assert kept[0].emit is RunRequest("of no run").emit


class Repository:
    """A user's agent and model in one class, with a method of its own that happens to be called `push`."""

    name = "mine"

    def push(self, branch: str = "main") -> str:
        raise AssertionError(f"nobody asked to push {branch}")

    async def __call__(self, _: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("agent")

    async def stream(self, *_: Any) -> AsyncGenerator[list[Any], None]:
        yield [Text("model")]
        yield [Finish("stop")]


class Overriding(SimpleAgent):
    """One of our agents, of which a user changes what calling it gives."""

    async def __call__(self, _: RunRequest) -> AsyncGenerator[StreamEvent, None]:  # type: ignore[override]
        yield chunk("overridden")


async def test_methods_of_their_own(kind: str) -> None:
    """An agent is called and a model's `stream` is read, whatever else their classes have or override."""
    own = Repository()
    agents: dict[str, Any] = {"agent": own, "model": SimpleAgent("simple", own)}
    agents["overridden"] = Overriding("simple", own)
    async with serving(agents) as server:
        for name in agents:
            seen = await rest(await start(kind, server, agent=name))
            assert (text(seen), seen[-1]["type"]) == (name, "AGENT_FINISH")
