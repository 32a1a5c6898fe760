"""`Client(app=…)`: an app in the same process, without a network, whose streams come as they come."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from support.following import numbers, words
from support.hosts import fastapi_app, settings
from support.serving import Puppets, echo, until
from twinwire import Twinwire
from twinwire_client import AgentNotFound, Client, ConnectionLost, RunFailed, SyncClient


async def test_events_come_as_they_happen(puppets: Puppets) -> None:
    """Each event is read before the agent gives the next one; the run is listed, asked about and cancelled."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    async with ai.lifespan(), Client(app=ai) as client:
        async with client.stream("hi", user_id="ann") as run:
            puppet = await puppets.next()
            events = aiter(run)
            puppet.say("a")
            seen = [await anext(events), await anext(events)]
            for word in "bc":
                puppet.say(word)
                seen.append(await anext(events))
            assert words(seen) == ["a", "b", "c"]
            assert numbers(seen) == [1, 2, 3, 4]
            assert [run["status"] for run in await client.runs(user_id="ann")] == ["running"]
            assert await client.cancel(run.run_id) == "accepted"
            assert (await anext(events)).data["status"] == "cancelled"
        assert (await client.get(run.run_id))["status"] == "cancelled"
        async with client.attach(run.run_id, after=2) as again:
            assert numbers([event async for event in again]) == [3, 4, 5]


async def test_a_client_that_leaves(puppets: Puppets) -> None:
    """A client that leaves a run is a follower no more, and the app's task for it ends."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    async with ai.lifespan():
        async with Client(app=ai) as client, client.stream("hi", on_disconnect="cancel"):
            puppet = await puppets.next()
            await until(lambda: len(ai.service.heartbeats.pumps) == 1)
        await puppet.closed.wait()
        assert not ai.service.heartbeats.pumps


async def test_a_mounted_app(puppets: Puppets) -> None:
    """`url` has the prefix of an app within another one; what goes on without a lifespan starts by itself."""
    ai = Twinwire({"echo": echo}, settings=settings(), authenticate=lambda connection: connection.headers.get("x-user"))
    app = fastapi_app(ai)
    async with Client("http://localhost/ai", {"x-user": "ann"}, app=app) as client:
        async with client.stream("a b") as run:
            assert await run.wait() == "a b "
        assert (await client.get(run.run_id))["user_id"] == "ann"
    await ai.drain()


async def test_errors() -> None:
    """What the app refuses is the error that it is over a network."""
    ai = Twinwire({"echo": echo}, settings=settings())
    async with ai.lifespan(), Client(app=ai) as client:
        with pytest.raises(AgentNotFound):
            async with client.stream("hi", agent="nobody"):
                pass


async def test_an_end_of_the_app(puppets: Puppets) -> None:
    """A run that a drain interrupts ends for the client as over a network."""
    ai = Twinwire({"mine": puppets}, settings=settings())
    async with ai.lifespan(), Client(app=ai) as client, client.stream("hi") as run:
        await puppets.next()
        await asyncio.gather(ai.drain(), _fails(run))


async def _fails(run: Any) -> None:
    with pytest.raises(RunFailed) as caught:
        await run.wait()
    assert caught.value.error_type == "interrupted"


def test_without_an_event_loop() -> None:
    """A SyncClient asks an app, too, in its own thread."""
    ai = Twinwire({"echo": echo}, settings=settings())
    with SyncClient(app=ai) as client, client.stream("a b") as run:
        assert run.wait() == "a b "


async def broken(scope: Any, receive: Any, send: Any) -> None:
    """An app that ends in the middle of its answers, and has none to a path."""
    if scope["path"] == "/none":
        return
    if scope["path"] == "/raises":
        raise LookupError("mine")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})


async def test_an_app_that_breaks() -> None:
    """An answer that is not whole is a broken connection; an error before an answer is the app's own."""
    client = Client(app=broken)
    async with client, client._api.http as http:
        with pytest.raises(httpx.RemoteProtocolError, match="before its answer was complete"):
            await http.get("http://localhost/cut")
        with pytest.raises(httpx.RemoteProtocolError, match="without an answer"):
            await http.get("http://localhost/none")
        with pytest.raises(LookupError, match="mine"):
            await http.get("http://localhost/raises")
    async with Client(app=broken, max_attempts=1) as client:
        with pytest.raises(ConnectionLost):
            async with client.attach("a" * 26) as run:
                await run.wait()


def test_arguments() -> None:
    """With an app there is neither a socket nor a network."""
    with pytest.raises(ValueError, match="`transport` must be sse or auto with `app`"):
        Client(app=broken, transport="ws")
    with pytest.raises(ValueError, match="`app` is only valid without `http_client`"):
        Client(app=broken, http_client=httpx.AsyncClient())
    with pytest.raises(TypeError, match="`url` must be an address"):
        Client()
