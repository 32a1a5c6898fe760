"""The Python client's runs are closed from anywhere and read by anyone, over both transports: nothing hangs or lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from support.chaos import Proxy, chaos
from support.following import NOWHERE, Transport, both, connected, numbers, words
from support.serving import Puppet, Puppets, Running, echo, serving, until
from twinwire_client import Backoff, Client, ConnectionLost, Event, Run, RunClosed


@pytest.fixture
async def proxy(server: Running) -> AsyncIterator[Proxy]:
    async with chaos(server.port) as running:
        yield running


async def begun(run: Run, puppets: Puppets) -> Puppet:
    """Read the first two events of a run."""
    puppet = await puppets.next()
    puppet.emit("TOLD")
    await anext(run), await anext(run)
    return puppet


async def waiting(run: Run) -> asyncio.Task[Event]:
    """A task that waits for the run's next event."""
    task = asyncio.ensure_future(anext(run))
    await until(lambda: run._reading)
    await asyncio.sleep(0)
    return task


@both
async def test_closed_while_it_is_read(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A read that waits is told when another task closes the run, as is each read after it; closing twice is quiet."""
    async with connected(server.url, transport=transport) as client, client.stream("m") as run:
        (await puppets.next()).say("a")
        await anext(run), await anext(run)
        reading = await waiting(run)
        await run.aclose()
        await run.aclose()
        with pytest.raises(RunClosed):
            await reading
        for read in (lambda: anext(run), run.read, run.wait):
            with pytest.raises(RunClosed):
                await read()
        assert run.cursor == 2
        async with client.attach(run.run_id, after=run.cursor) as again:
            assert await client.cancel(run.run_id) == "accepted"
            assert numbers([event async for event in again]) == [3]


@both
async def test_closed_while_it_starts(transport: Transport, proxy: Proxy) -> None:
    """Entering is a wait like others: it ends when the run is closed."""
    proxy.mute = 1
    async with connected(proxy.url, transport=transport) as client:
        run = client.stream("m")
        entering = asyncio.ensure_future(run.__aenter__())
        await proxy.arrived.wait()
        await run.aclose()
        with pytest.raises(RunClosed):
            await entering
        with pytest.raises(RunClosed):
            await run.__aenter__()


@both
async def test_closed_before_and_after(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A run that is closed before it starts is not started; one that is closed after its end keeps what it told."""
    async with connected(server.url, transport=transport) as client:
        early = client.stream("m")
        await early.aclose()
        with pytest.raises(RunClosed):
            async with early:
                pass
        assert puppets.started == 0
        async with client.stream("m") as run:
            puppet = await puppets.next()
            puppet.say("a")
            puppet.end()
            async for event in run:
                if event.type == "AGENT_FINISH":
                    await run.aclose()
        await run.aclose()
        assert [event async for event in run] == []
        assert await run.read() is None
        assert await run.wait() == run.result == "a"


@both
async def test_closed_when_all_has_come(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A run whose terminal event had come by when it was closed is read to its end."""
    async with connected(server.url, transport=transport) as client:
        async with client.stream("m") as run:
            puppet = await puppets.next()
            puppet.say("a", "b")
            puppet.end()
            await run.wait()
        async with client.attach(run.run_id) as late:
            await anext(late)
            connection: Any = late._connection
            await until(connection.whole)
            await late.aclose()
            assert late.result is None
            assert words([await anext(late), await anext(late)]) == ["a", "b"]
            assert await late.wait() == late.result == "ab"
            assert await late.read() is None


@both
async def test_entered_twice(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A run that was read to its end, or whose end had come, is not said to have been closed before it."""
    async with connected(server.url, transport=transport) as client:
        run = client.stream("m")
        async with run:
            (await puppets.next()).end()
            assert await run.wait() == ""
        with pytest.raises(RunClosed, match="has been read and closed"):
            async with run:
                pass
        with pytest.raises(RunClosed, match="before its end was received"):
            async with (left := client.stream("m")):
                await left.aclose()
                async with left:
                    pass


@both
async def test_a_client_that_is_dropped(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A client that was in use and is not closed warns once when nobody has it any more."""
    client = Client(server.url, transport=transport)
    async with client.stream("m") as run:
        (await puppets.next()).end()
        await run.wait()
    sockets = client._sockets
    with pytest.warns(ResourceWarning) as warned:
        del client, run
    await sockets.aclose()
    assert [str(warning.message) for warning in warned] == [
        "A Client was not closed: use it in `async with`, or `aclose` it."
    ]


@both
async def test_a_client_that_is_closed(transport: Transport, server: Running, puppets: Puppets) -> None:
    """Closing the client closes its runs, twice too; each call after it says why not."""
    async with connected(server.url, transport=transport) as client:
        async with client.stream("m", on_disconnect="cancel") as run:
            puppet = await begun(run, puppets)
            reading = await waiting(run)
            late = client.attach(run.run_id)
            await asyncio.gather(client.aclose(), client.aclose())
            with pytest.raises(RunClosed):
                await reading
            await puppet.closed.wait()
        for call in (
            lambda: client.get(run.run_id),
            run.cancel,
            late.__aenter__,
            client.runs,
            lambda: client.stream("m").__aenter__(),
            lambda: client.attach(run.run_id).__aenter__(),
        ):
            with pytest.raises(RuntimeError, match=r"The client is closed\."):
                await call()


@both
async def test_closed_while_a_request_is_tried_again(transport: Transport) -> None:
    """A call that waits for its next attempt ends with the client."""
    told = asyncio.Event()
    slow = Backoff(base=60, cap=60, rng=lambda: 1.0)
    async with serving({"echo": echo}) as gone:
        url = gone.url
    client = Client(url, transport=transport, backoff=slow, first_attempts=9, on_retry=lambda _: told.set())
    asking = asyncio.ensure_future(client.get(NOWHERE))
    await told.wait()
    entering = asyncio.ensure_future(client.stream("m").__aenter__())
    told.clear()
    await told.wait()
    await client.aclose()
    with pytest.raises(RuntimeError, match=r"The client is closed\."):
        await asking
    with pytest.raises(RunClosed):
        await entering


@both
async def test_two_readers(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A second reader of a run is refused at once; the first one goes on."""
    async with connected(server.url, transport=transport) as client, client.stream("m") as run:
        puppet = await begun(run, puppets)
        reading = await waiting(run)
        for read in (lambda: anext(run), run.read, run.wait):
            with pytest.raises(RuntimeError, match="another task"):
                await read()
        puppet.say("a")
        assert words([await reading]) == ["a"]
        puppet.end()
        assert await run.wait() == "a"


@both
async def test_reads_that_are_given_up(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A read that is timed out or cancelled loses no event and keeps the connection: the run is followed all along."""
    async with connected(proxy.url, transport=transport) as client:  # noqa: SIM117
        async with client.stream("m", on_disconnect="cancel") as run:
            puppet = await puppets.next()
            puppet.say("0")
            await anext(run), await anext(run)
            before, seen = proxy.accepted, list[str]()
            for number in range(1, 8):
                with pytest.raises(TimeoutError):
                    await run.read(timeout=0.01)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await anext(run)
                reading = await waiting(run)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                puppet.say(f"a{number}", f"b{number}")
                while len(seen) < 2 * number:
                    with suppress(TimeoutError):
                        event = await run.read(timeout=0.001)
                        assert event is not None
                        seen.append(event.data["content"])
            assert seen == [f"{half}{number}" for number in range(1, 8) for half in "ab"]
            assert proxy.accepted == before
            puppet.end()
            assert await run.wait() == "0" + "".join(seen)


@both
async def test_reads_that_are_given_up_while_it_reconnects(
    transport: Transport, proxy: Proxy, puppets: Puppets
) -> None:
    """Reads with less patience than a new connection takes do not begin it again and again: it is made once."""
    async with connected(proxy.url, transport=transport) as client, client.stream("m") as run:
        puppet = await begun(run, puppets)
        before = proxy.accepted
        proxy.arrived.clear()
        proxy.mute = 1
        proxy.cut()
        with pytest.raises(TimeoutError):
            while not proxy.arrived.is_set():
                await run.read(timeout=0.2)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await run.read(timeout=0.01)
        proxy.flow()
        puppet.say("a")
        assert words([await anext(run)]) == ["a"]
        assert proxy.accepted == before + 1


@both
async def test_another_event_loop(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A client in use is told apart in another event loop; closing works from there, and wakes the reader."""
    async with connected(server.url, transport=transport) as client, client.stream("m") as run:
        await begun(run, puppets)
        for use in (lambda: client.get(run.run_id), run.read, client.stream("m2").__aenter__):
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(lambda use=use: asyncio.run(use()))  # type: ignore[misc]
        reading = await waiting(run)
        await asyncio.to_thread(lambda: asyncio.run(run.aclose()))
        with pytest.raises(RunClosed):
            await reading
        await asyncio.to_thread(lambda: asyncio.run(client.aclose()))
        with pytest.raises(RuntimeError, match=r"The client is closed\."):
            while True:
                await client.get(run.run_id)


def test_one_event_loop_after_another() -> None:
    """A client that was used in one `asyncio.run` says so in the next, and is closed there without a word."""
    client = Client("http://127.0.0.1:1", first_attempts=1)

    async def use() -> None:
        await client.get(NOWHERE)

    with pytest.raises(ConnectionLost, match="gave up after 1 attempt"):
        asyncio.run(use())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(use())
    asyncio.run(client.aclose())


@both
@pytest.mark.parametrize("result", [{"rows": [1, None, "é"]}, [], 7, False, None])
async def test_results_of_any_type(transport: Transport, server: Running, puppets: Puppets, result: Any) -> None:
    """A result is given as the agent gave it, of whatever type, to whoever saw the end and whoever comes after it."""
    async with connected(server.url, transport=transport) as client:
        async with client.stream("m") as run:
            puppet = await puppets.next()
            puppet.emit("AGENT_FINISH", result=result)
            puppet.end()
            assert await run.wait() == result
            assert run.result == result
        async with client.attach(run.run_id, after=run.cursor) as late:
            assert await late.wait() == result
        assert (await client.get(run.run_id)).get("result") == result


@both
async def test_closing_waits_for_nobody(transport: Transport, proxy: Proxy, puppets: Puppets) -> None:
    """A client whose server says nothing more is closed at once."""
    async with connected(proxy.url, transport=transport) as client, client.stream("m") as run:
        await begun(run, puppets)
        proxy.stall()
        began = time.monotonic()
        await run.aclose()
        await client.aclose()
        assert time.monotonic() - began < 3
