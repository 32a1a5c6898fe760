"""`emit` in a loop without an await: the run's budget, its deadline and a cancel end it all the same."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import pytest

from support.followers import KINDS, rest, start, text
from support.serving import echo, serving
from twinwire import RunRequest, StreamEvent
from twinwire.agents import MAX_LATE, nobody
from twinwire.auth import ANYBODY
from twinwire.fence import RunOver

pytestmark = pytest.mark.parametrize("kind", KINDS)


def chunk(word: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": word, "delta": word})


class Endless:
    """Agents that emit without end, with so long a pause; `stopped` is set once they are out of it."""

    def __init__(self, pause: float) -> None:
        self.stopped = asyncio.Event()
        self.pause = pause

    def loop(self, request: RunRequest) -> None:
        try:
            while True:
                request.emit(chunk("x"))
                time.sleep(self.pause)
        finally:
            self.stopped.set()

    async def in_its_task(self, request: RunRequest) -> None:
        self.loop(request)

    async def that_excepts(self, request: RunRequest) -> None:
        try:
            while True:
                with suppress(Exception):  # as careless loops do
                    request.emit(chunk("x"))
        finally:
            self.stopped.set()

    async def in_a_child(self, request: RunRequest) -> None:
        async def child() -> None:
            self.loop(request)

        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async def in_a_callback(self, request: RunRequest) -> None:
        asyncio.get_running_loop().call_soon(self.loop, request)
        await asyncio.Event().wait()

    async def while_yielding(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("a")
        self.loop(request)

    async def by_yielding(self, _: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        try:
            while True:
                yield chunk("x")
        finally:
            self.stopped.set()


WAYS: dict[str, Callable[[Endless, RunRequest], Awaitable[None] | AsyncGenerator[StreamEvent, None]]] = {
    "in its task": Endless.in_its_task,
    "in a loop that excepts": Endless.that_excepts,
    "in a child task": Endless.in_a_child,
    "in a callback": Endless.in_a_callback,
    "in an agent that yields": Endless.while_yielding,
    "by yielding": Endless.by_yielding,
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(
    ("limit", "code", "pause"),
    [({"run_events": 500}, "budget", 0), ({"run_timeout": 0.2}, "timeout", 0), ({"run_timeout": 0.2}, "timeout", 0.01)],
    ids=["budget", "deadline", "deadline with pauses"],
)
async def test_it_ends(kind: str, way: str, limit: dict[str, float], code: str, pause: float) -> None:
    """A budget, and a deadline that the blocked event loop does not get to, each end an endless agent in one ERROR."""
    endless = Endless(pause)
    async with serving({"mine": lambda request: WAYS[way](endless, request), "echo": echo}, **limit) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen if event["type"] != "LLM_CHUNK"] == ["AGENT_START", "ERROR"]
        assert seen[-1]["data"]["error_type"] == code
        await endless.stopped.wait()
        assert text(await rest(await start(kind, server, "it still serves", agent="echo"))) == "it still serves "


async def test_a_deadline_is_noticed_between_slow_events(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that holds the event loop past the deadline ends at its next event, and a line says what happened."""

    async def agent(request: RunRequest) -> None:
        request.emit(chunk("a"))
        time.sleep(1.3)  # noqa: ASYNC251 - that is what is tried
        request.emit(chunk("b"))
        raise AssertionError

    async with serving({"mine": agent}, run_timeout=0.2) as server:
        seen = await rest(await start(kind, server))
        assert text(seen) == "ab"
        assert seen[-1]["data"]["error_type"] == "timeout"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines
    assert all("held the event loop" in line for line in lines)


async def test_what_emit_raises(kind: str) -> None:
    """Once the run is over `emit` raises CancelledError in the agent's own task, once; elsewhere it drops events."""
    told: list[str] = []
    done = asyncio.Event()

    async def agent(request: RunRequest) -> None:
        loop = asyncio.get_running_loop()
        emit = request.emit
        emit(StreamEvent("AGENT_FINISH", {"result": "mine"}))
        try:
            emit(chunk("late"))
        except asyncio.CancelledError as error:
            told.append(type(error).__name__)
        emit(chunk("in its cleanup"))
        await asyncio.sleep(0)  # which nothing cuts off
        loop.call_soon(emit, chunk("from a callback"))
        await asyncio.sleep(0)
        told.append("cleaned up")
        done.set()

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "AGENT_FINISH"]
        await done.wait()
        assert told == [RunOver.__name__, "cleaned up"]


async def test_a_cancelled_agent_cleans_up(kind: str) -> None:
    """An agent that was cancelled may emit in its cleanup: it is dropped, and does not cut the cleanup off."""
    done, waits = asyncio.Event(), asyncio.Event()

    async def agent(request: RunRequest) -> None:
        try:
            waits.set()
            await asyncio.Event().wait()
        finally:
            request.emit(chunk("bye"))
            await asyncio.sleep(0)
            done.set()

    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        await waits.wait()
        await server.runs.cancel(follower.run_id, ANYBODY)
        assert text(await rest(follower)) == ""
        await done.wait()


async def test_nobody_listens_for_ever(kind: str) -> None:
    """Emitting for no run does nothing, but for a loop that lets the event loop do nothing else."""
    for _ in range(3):
        for _ in range(MAX_LATE - 1):
            nobody(chunk("x"))
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        for _ in range(MAX_LATE):
            nobody(chunk("x"))


async def test_another_thread_is_told(kind: str) -> None:
    """`emit` in another thread raises an error that says what to do."""

    async def agent(request: RunRequest) -> None:
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            await asyncio.to_thread(request.emit, chunk("a"))
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(loop.call_soon_threadsafe, request.emit, chunk("b"))
        await asyncio.sleep(0)

    async with serving({"mine": agent}) as server:
        assert text(await rest(await start(kind, server))) == "b"
