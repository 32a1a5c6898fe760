"""`from_thread`: blocking functions as agents, with their values as they come, backpressure, cancel and bounds."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from support.followers import KINDS, cancel, events, rest, start, text
from support.serving import serving, until
from twinwire import RunRequest, StreamEvent, from_thread
from twinwire.agents.threads import AHEAD

both = pytest.mark.parametrize("kind", KINDS)


@both
async def test_values_as_they_come(kind: str) -> None:
    """A value is with the client while the generator still blocks, off the event loop; the return is the result."""
    go_on = threading.Event()
    threads: list[int] = []

    def agent(request: RunRequest) -> Generator[Any, None, str]:
        threads.append(threading.get_ident())
        yield request.message
        go_on.wait()
        yield StreamEvent("MINE", {"a": 1})
        return "whole"

    async with serving({"mine": from_thread(agent)}) as server:
        follower = await start(kind, server, "first")
        stream = events(follower)
        assert [(await anext(stream))["type"], (await anext(stream))["data"]["content"]] == ["AGENT_START", "first"]
        go_on.set()
        seen = await rest(follower)
    assert [event["type"] for event in seen] == ["MINE", "AGENT_FINISH"]
    assert seen[-1]["data"]["result"] == "whole"
    assert threads != [threading.get_ident()]


@both
async def test_a_plain_function(kind: str) -> None:
    """What a blocking function returns is the answer."""

    def agent(request: RunRequest) -> str:
        return request.message.upper()

    async with serving({"mine": from_thread(agent)}) as server:
        seen = await rest(await start(kind, server, "hi"))
    assert (text(seen), seen[-1]["data"]["result"]) == ("HI", "HI")


@both
@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), StopIteration()], ids=repr)
async def test_errors(kind: str, error: BaseException) -> None:
    """What the function raises, whatever it is, is one ERROR of its run."""

    def agent(_: RunRequest) -> Iterator[str]:
        yield "a"
        raise error

    async with serving({"mine": from_thread(agent)}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "LLM_CHUNK", "ERROR"]
        assert "secret" not in str(seen)


@both
async def test_cancel(kind: str) -> None:
    """After a cancel the generator is closed at its next value, in its own thread."""
    ended = threading.Event()
    threads: list[int] = []

    def agent(_: RunRequest) -> Iterator[str]:
        threads.append(threading.get_ident())
        try:
            while True:
                yield "a"
        finally:
            threads.append(threading.get_ident())
            ended.set()

    async with serving({"mine": from_thread(agent)}) as server:
        follower = await start(kind, server)
        stream = events(follower)
        while (await anext(stream))["type"] != "LLM_CHUNK":
            pass
        assert await cancel(kind, server, follower.run_id) == "accepted"
        seen = await rest(follower)
        assert seen[-1]["data"]["status"] == "cancelled"
        await until(ended.is_set)
    assert threads[0] == threads[1]


async def test_backpressure() -> None:
    """A thread gets no further ahead of what the run takes than it may."""
    yielded = 0
    waits = asyncio.Event()
    go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def agent(_request: RunRequest) -> Iterator[str]:
        nonlocal yielded
        for _ in range(4 * AHEAD):
            yielded += 1
            yield "a"

    taken = 0

    def emit(*told: Any) -> Any:
        nonlocal taken
        taken += len(told)
        waits.set()
        return go_on

    request = RunRequest("hi")
    request.emit = emit
    run = asyncio.ensure_future(from_thread(agent)(request))
    await waits.wait()
    await until(lambda: yielded >= AHEAD + 2)  # one is taken, and one waits to be handed over
    assert (yielded, taken) == (AHEAD + 2, 1)
    go_on.set_result(None)
    await run
    assert (yielded, taken) == (4 * AHEAD, 4 * AHEAD)


async def test_no_more_threads_than_allowed() -> None:
    """Runs above the bound wait for a thread, also for one whose run was cancelled long before."""
    go_on = threading.Event()
    at_once, most = 0, 0
    lock = threading.Lock()

    def agent(_: RunRequest) -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        go_on.wait()
        with lock:
            at_once -= 1
        return "done"

    bounded = from_thread(agent, threads=2)
    first = [asyncio.ensure_future(bounded(RunRequest("hi"))) for _ in range(2)]
    await until(lambda: at_once == 2)
    first[0].cancel()
    later = [asyncio.ensure_future(bounded(RunRequest("hi"))) for _ in range(3)]
    await asyncio.wait([first[0]])
    assert at_once == 2
    go_on.set()
    assert await asyncio.gather(first[1], *later) == ["done"] * 4
    assert most == 2


async def test_context() -> None:
    """The function sees the context variables of its run."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")
    name.set("mine")
    assert await from_thread(lambda _: name.get())(RunRequest("hi")) == "mine"


async def test_emit_in_the_thread() -> None:
    """In the thread `emit` of a run is refused with what to do."""

    def agent(request: RunRequest) -> str:
        with pytest.raises(RuntimeError, match="in another thread"):
            request.emit("a")
        return "refused"

    async with serving({"mine": from_thread(agent)}) as server:
        assert (await rest(await start("sse", server)))[-1]["data"]["result"] == "refused"


def test_what_is_refused() -> None:
    """An async function and a bound below 1 are refused where they are given."""

    async def agent(_: RunRequest) -> None: ...

    with pytest.raises(TypeError, match="an async one is an agent as it is"):
        from_thread(agent)
    with pytest.raises(ValueError, match="`threads` must be at least 1"):
        from_thread(print, threads=0)


def test_its_name() -> None:
    """The agent has the function's name, and reads no messages unless the function says so."""

    def talks(_: RunRequest) -> str:
        return ""

    talks.takes_messages = True  # type: ignore[attr-defined]
    assert from_thread(talks).__name__ == "talks"
    assert from_thread(talks).takes_messages is True  # type: ignore[attr-defined]
    assert from_thread(lambda _: "").takes_messages is False  # type: ignore[attr-defined]
