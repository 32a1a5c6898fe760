"""The Python client on a network that breaks, over both transports: every event comes, once, or one clear error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from support.chaos import Proxy, chaos
from support.following import NOWHERE, QUICK, Transport, both, connected, numbers, words
from support.serving import Puppets, Running, echo, serving, until
from twinwire.transports import Verdict
from twinwire_client import Backoff, Client, ConnectionLost
from twinwire_client.api import network
from twinwire_client.retry import Attempts, Broken, Patience, Retries, deadline


@pytest.fixture
async def proxy(server: Running) -> AsyncIterator[Proxy]:
    async with chaos(server.port) as running:
        yield running


@both
async def test_cut_mid_run(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """Ten resets in the middle of a run lose and repeat no event."""
    async with connected(proxy.url) as client, client.stream("go", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say("0")
        events = [await anext(run), await anext(run)]
        for number in range(1, 11):
            proxy.cut()
            puppet.say(f"a{number}", f"b{number}")
            events += [await anext(run), await anext(run)]
        puppet.end()
        events += [event async for event in run]
    assert numbers(events) == list(range(1, 24))
    assert words(events) == ["0", *(f"{half}{number}" for number in range(1, 11) for half in "ab")]
    assert proxy.accepted >= 11
    assert puppets.started == 1


@both
async def test_cut_anywhere(transport: Transport) -> None:
    """Wherever a connection breaks off, in the middle of a line or a frame too, all events come once."""
    async with serving({"echo": echo}) as server, chaos(server.port) as proxy:
        proxy.budgets.extend(range(150, 1500, 61))
        async with (
            connected(proxy.url, max_attempts=100) as client,
            client.stream("the quick brown fox", transport=transport) as run,
        ):
            events = [event async for event in run]
        assert numbers(events) == list(range(1, 7))
        assert proxy.accepted > 3
        assert server.runs.started == 1


@both
async def test_single_bytes(transport: Transport) -> None:
    """How the network splits what comes does not matter, in the middle of a character neither."""
    async with serving({"echo": echo}) as server, chaos(server.port) as proxy, connected(proxy.url) as client:
        proxy.split = True
        async with client.stream("naïve 🚀 日本", transport=transport) as run:
            assert await run.wait() == "naïve 🚀 日本 "
        assert proxy.accepted <= 2


@both
async def test_lost_start(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A start whose answer never arrives is made again and is the same run."""
    proxy.budgets.extend([0, 1, 300] if transport == "ws" else [0, 1, 20])
    async with connected(proxy.url) as client, client.stream("once", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say("hello")
        puppet.end()
        assert await run.wait() == "hello"
    assert proxy.accepted >= 4
    assert puppets.started == 1


@both
async def test_silence(transport: Transport, puppets: Puppets) -> None:
    """A connection on which not even a heartbeat comes is given up for another one; a quiet one is not."""
    async with serving({"mine": puppets}, heartbeat=0.4) as server, chaos(server.port) as proxy:
        client = Client(proxy.url, heartbeat=0.4, backoff=QUICK)
        async with client, client.stream("m", transport=transport) as run:
            puppet = await puppets.next()
            puppet.say("first")
            await anext(run), await anext(run)
            following = asyncio.ensure_future(anext(run))
            before = proxy.accepted
            await list(proxy.links.values())[-1].passes(4)
            assert proxy.accepted == before
            proxy.stall()
            puppet.say("second")
            assert (await following).data["content"] == "second"
            assert proxy.accepted == before + 1


@both
async def test_silent_start(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A server that takes a start and does not answer in time is asked again."""
    proxy.mute = 1
    async with connected(proxy.url, timeout=0.5) as client, client.stream("m", transport=transport) as run:
        (await puppets.next()).end()
        assert await run.wait() == ""
    assert proxy.accepted >= 2
    assert puppets.started == 1


@both
async def test_drain(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A server that shuts down ends the run with an ERROR, which is data; a start after that gives up in the end."""
    async with connected(server.url, max_attempts=2) as client:
        async with client.stream("m", transport=transport) as run:
            await puppets.next()
            draining = asyncio.ensure_future(server.service.drain())
            events = [event async for event in run]
            assert events[-1].type == "ERROR"
            assert events[-1].data["error_type"] == "interrupted"
            await draining
        with pytest.raises(ConnectionLost, match=r"gave up after 2 attempts\. .*(shutting down|restarting)"):
            async with client.stream("m", transport=transport):
                pass


@both
async def test_restart_in_the_middle(transport: Transport, proxy: Proxy, server: Running, puppets: Puppets) -> None:
    """A connection that the server ends for its own reasons is made again at the cursor."""
    async with connected(proxy.url) as client, client.stream("m", transport=transport) as run:
        puppet = await puppets.next()
        puppet.say("a")
        await anext(run), await anext(run)
        before = proxy.accepted
        server.cut(Verdict.RESTART)
        puppet.say("b")
        puppet.end()
        assert words([event async for event in run]) == ["b"]
        assert proxy.accepted > before


@both
async def test_type_filter(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """With a filter the other types are left out, also after a cut; the terminal event always comes."""
    async with (
        connected(proxy.url) as client,
        client.stream("m", transport=transport, types=["THINKING"]) as run,
    ):
        puppet = await puppets.next()
        puppet.say("x")
        puppet.emit("THINKING", content="hm")
        first = await anext(run)
        proxy.cut()
        puppet.say("y")
        puppet.emit("THINKING", content="ah")
        puppet.end()
        events = [first, *[event async for event in run]]
    assert [event.type for event in events] == ["THINKING", "THINKING", "AGENT_FINISH"]
    assert numbers(events) == [3, 5, 6]


@both
async def test_cancelled_while_entering(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A start that is cancelled while its answer is awaited is made once, and its connection or following ends."""
    proxy.mute = 1
    async with connected(proxy.url) as client:
        entering = asyncio.ensure_future(client.stream("m", transport=transport, on_disconnect="cancel").__aenter__())
        # Over WebSocket the handshake's answer is missing already, and the start is sent once that has come.
        if transport == "sse":
            await puppets.next()
        await proxy.arrived.wait()
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        if transport == "sse":
            await until(lambda: not proxy.links)
        else:
            proxy.flow()
            await (await puppets.next()).closed.wait()
        assert (proxy.accepted, puppets.started) == (1, 1)


@both
async def test_nobody_there(transport: Transport) -> None:
    """A server that is not there is an error after the attempts that were asked for."""
    async with serving({"echo": echo}) as server:
        url = server.url
    async with connected(url, max_attempts=3) as client:
        with pytest.raises(ConnectionLost, match=r"http://127\.0\.0\.1:\d+ and gave up after 3 attempts"):
            async with client.stream("m", transport=transport):
                pass
        with pytest.raises(ConnectionLost):
            await client.get(NOWHERE)


@both
async def test_patience_comes_with_success(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A client that would give up at the first failure does not at a server that it has reached, whatever it asks."""
    async with connected(proxy.url, first_attempts=1) as client:
        async with client.stream("go", transport=transport) as run:
            puppet = await puppets.next()
            puppet.say("0")
            events = [await anext(run), await anext(run)]
            proxy.cut()
            proxy.budgets.extend([0, 0, 0])
            puppet.end()
            events += [event async for event in run]
        assert numbers(events) == [1, 2, 3]
        proxy.budgets.extend([0, 0, 0])
        assert await client.runs(user_id="alice") == []
        proxy.budgets.extend([0, 0, 0])
        assert await client.cancel(run.run_id) == "already_finished"
    proxy.budgets.extend([0, 0, 0])
    async with connected(proxy.url, first_attempts=1) as client:
        with pytest.raises(ConnectionLost, match="gave up after 1 attempt"):
            await client.runs(user_id="alice")


@both
async def test_many_at_once(transport: Transport, server: Running, puppets: Puppets) -> None:
    """One client follows more runs at the same time than a connection pool usually has connections."""
    # On a busy machine a kept connection may be closed for idleness just as it is used again, which is tried again.
    async with connected(server.url, max_attempts=3, timeout=20.0) as client, AsyncExitStack() as stack:
        starts = (client.stream("m", transport=transport, on_disconnect="cancel") for _ in range(101))
        runs = await asyncio.gather(*(stack.enter_async_context(run) for run in starts))
        for _ in runs:
            (await puppets.next()).end()
        assert await asyncio.gather(*(run.wait() for run in runs)) == [""] * 101


def test_backoff_has_full_jitter() -> None:
    """The wait before an attempt is anything from nothing to a bound that doubles, up to the cap."""
    most = Backoff(rng=lambda: 1.0)
    assert [most.delay(failures) for failures in (1, 2, 3, 7, 1000)] == [0.25, 0.5, 1.0, 10.0, 10.0]
    assert Backoff(rng=lambda: 0.0).delay(5) == 0.0


async def test_long_connections_are_no_failures() -> None:
    """A quiet run whose connection lasts, and is cut by something between, is not given up for that."""
    attempts = Attempts(Retries("somewhere", Backoff(base=0.0, cap=10.0), Patience(attempts=2, first=2)))
    for _ in range(5):
        attempts.succeeded(lasted=11.0)
        await attempts.failed(Broken("cut"))
    attempts.succeeded(lasted=1.0)
    with pytest.raises(ConnectionLost, match=r"somewhere and gave up after 2 attempts\. cut"):
        await attempts.failed(Broken("cut"))


async def test_patience_is_a_matter_of_time() -> None:
    """A connection that has worked is tried again until failures in a row have gone on for too long."""
    attempts = Attempts(Retries("somewhere", Backoff(base=0.0), Patience(first=2, seconds=0.3)))
    attempts.worked()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        await attempts.failed(Broken("cut"))
    with pytest.raises(ConnectionLost):
        while True:
            await attempts.failed(Broken("cut"))
    assert loop.time() - began >= 0.3
    attempts = Attempts(Retries("somewhere", Backoff(base=0.0), Patience(first=2)))
    await attempts.failed(Broken("no"))
    with pytest.raises(ConnectionLost, match="gave up after 2 attempts"):
        await attempts.failed(Broken("no"))


async def test_a_program_that_stood_still_has_its_time_anew() -> None:
    """A deadline counts the time in which the program ran: a breakpoint is no silence of the server's."""
    async with deadline(0.2):
        time.sleep(1.0)  # noqa: ASYNC251 - it holds the event loop
        await asyncio.sleep(0.1)
    with pytest.raises(TimeoutError):
        async with deadline(0.2):
            await asyncio.sleep(60)
    task = asyncio.create_task(_waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_program_that_is_always_late_notices_silence() -> None:
    """A deadline is put off once: a program that never is on time still learns that its server is silent."""

    async def late() -> None:
        while True:
            time.sleep(0.8)  # noqa: ASYNC251 - it holds the event loop
            await asyncio.sleep(0)

    began = asyncio.get_running_loop().time()
    busy = asyncio.create_task(late())
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(8), deadline(0.1):
                await asyncio.Event().wait()
        assert asyncio.get_running_loop().time() - began < 5
    finally:
        busy.cancel()


async def _waits() -> None:
    async with deadline(60):
        await asyncio.Event().wait()


def test_broken_while_it_is_made() -> None:
    """Of a connection that breaks while it is made anyio tells by an AttributeError; others are faults of ours."""
    with pytest.raises(Broken), network():
        raise AttributeError("'NoneType' object has no attribute 'getpeername'", name="getpeername", obj=None)
    with pytest.raises(AttributeError), network():
        raise AttributeError("no such thing", name="thing", obj=None)
