"""A log-out counts on all workers that share a log in Redis, those included that start later or could not hear it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from support.credentials import AUTH, asking, bearer, ticket
from support.followers import Broken, SseFollower
from support.redis_server import fresh, own_server
from support.redis_workers import raw, worker
from support.serving import Puppets, Running, serving

SHARED: dict[str, Any] = {**AUTH, "secret": "a secret of 32 characters or more"}
METRICS = "/metrics"


@pytest.fixture
async def two(puppets: Puppets) -> AsyncIterator[tuple[Running, Running]]:
    """Two workers that take each other's tickets."""
    url = fresh()
    async with serving({"mine": puppets}, log=url, **SHARED) as a, serving({"mine": puppets}, log=url, **SHARED) as b:
        yield a, b


async def status(server: Running, text: str) -> int:
    """What who comes with this ticket is answered."""
    async with asking(server) as client:
        return (await client.get(f"{METRICS}?ticket={text}")).status_code


async def log_out(server: Running, user: str = "alice") -> int:
    """The answer's status."""
    async with asking(server, user) as client:
        return (await client.post("/logout")).status_code


async def refused(server: Running, text: str) -> None:
    """Wait until the ticket is good no more."""
    async with asyncio.timeout(10):
        while await status(server, text) != 401:
            pass


async def closed(socket: ClientConnection) -> int | None:
    """The code that a socket is closed with."""
    await socket.wait_closed()
    return socket.close_code


async def test_the_other_worker_hears(two: tuple[Running, Running], puppets: Puppets) -> None:
    """Tickets and cookies are refused and both transports' streams end there within a second; nobody else's are."""
    a, b = two
    hers, his = await ticket(a), await ticket(a, "bob")
    async with asking(a, "alice") as browser:
        await browser.post("/login")
        cookie = {"cookie": f"twinwire_login={browser.cookies['twinwire_login']}"}
    streams = [
        await SseFollower(f"{b.url}/chat/stream?message=hi&envelope=1&ticket={text}", {}).open() for text in (hers, his)
    ]
    theirs = [await puppets.next() for _ in streams]
    async with (
        asking(b) as anybody,
        connect(f"{b.ws_url}?ticket={hers}", proxy=None) as one,
        connect(b.ws_url, proxy=None, additional_headers=bearer("alice")) as another,
        connect(f"{b.ws_url}?ticket={his}", proxy=None) as bobs,
    ):
        assert (await anybody.get(METRICS, headers=cookie)).status_code == 200
        began = time.monotonic()
        assert await log_out(a) == 204
        assert [await closed(one), await closed(another)] == [4501, 4501]
        with pytest.raises(Broken):
            while True:
                await streams[0].next()
        assert time.monotonic() - began < 15
        assert [await status(server, text) for text in (hers, his) for server in two] == [401, 401, 200, 200]
        assert (await anybody.get(METRICS, headers=cookie)).status_code == 401
        await bobs.send('{"type":"ping"}')
        assert await bobs.recv() == '{"type":"pong"}'
    for puppet in theirs:
        puppet.end()
    while await streams[1].next() is not None:
        pass
    for stream in streams:
        await stream.close()
    assert await status(b, await ticket(a)) == 200


async def test_a_new_login_is_not_ended(two: tuple[Running, Running]) -> None:
    """The worker that answers does not end, when it hears of it from Redis, what was opened after the log-out."""
    a, b = two
    async with connect(b.ws_url, proxy=None, additional_headers=bearer("alice")) as there:
        assert await log_out(a) == 204
        async with connect(a.ws_url, proxy=None, additional_headers=bearer("alice")) as after:
            assert await closed(there) == 4501  # what Redis tells has come
            assert await log_out(b, "bob") == 204
            async with connect(b.ws_url, proxy=None, additional_headers=bearer("bob")) as bobs:
                assert await log_out(a, "bob") == 204
                assert await closed(bobs) == 4501
            await after.send('{"type":"ping"}')
            assert await after.recv() == '{"type":"pong"}'


async def test_a_worker_that_starts_later(puppets: Puppets) -> None:
    """What was taken back before it started it does not take, from its first request on; the rest it does."""
    url = fresh()
    async with serving({"mine": puppets}, log=url, **SHARED) as a:
        before, bobs = await ticket(a), await ticket(a, "bob")
        assert await log_out(a) == 204
        after = await ticket(a)
    async with serving({"mine": puppets}, log=url, **SHARED) as b:
        assert [await status(b, text) for text in (before, bobs, after)] == [401, 200, 200]


async def test_redis_is_away(tmp_path: Path, puppets: Puppets) -> None:
    """Then a log-out is 503 and has taken nothing back here; asked again once Redis is there it counts everywhere.

    Who could not hear of it meanwhile hears of it then, though nothing is said any more.
    """
    with own_server(tmp_path) as redis, ExitStack() as outage:
        async with (
            serving({"mine": puppets}, log=redis.url, **SHARED) as a,
            serving({"mine": puppets}, log=redis.url, **SHARED) as b,
        ):
            text = await ticket(a)
            outage.enter_context(redis.frozen())
            assert await log_out(a) == 503
            assert await status(a, text) == 200
            outage.close()
            async with asyncio.timeout(10):
                while await log_out(a) != 204:
                    pass
            await refused(b, text)
            text = await ticket(a, "bob")
            redis.kill()
            redis.start()
            async with asyncio.timeout(10):
                while await log_out(a, "bob") != 204:
                    pass
            await refused(b, text)


async def test_what_was_missed_is_recalled() -> None:
    """A worker whose connection was lost hears of the log-outs that it did not read, though they are told no more."""
    url = fresh()
    async with worker(url) as log, raw() as client:
        told: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        log._reader._heard = lambda *who: told.put_nowait(who)
        when = time.time()
        await client.zadd(log._keys.logged_out, {"alice": when})
        await client.client_kill_filter(_type="normal", skipme=True)
        assert await told.get() == ("alice", when)


async def test_only_what_counts_is_kept() -> None:
    """Of each user the last log-out, for as long as anything from before it can be good, whoever tells it last."""
    async with worker(fresh()) as log, raw() as client:
        now = time.time()
        for user, when in (("old", now - 100), ("alice", now), ("alice", now - 1), ("b:[]\n", now + 0.123456)):
            await log.log_out(user, when, 60)
        kept = await client.zrange(log._keys.logged_out, 0, -1, withscores=True)
        assert kept == [(b"alice", now), (b"b:[]\n", now + 0.123456)]
        for key in (log._keys.logged_out, log._keys.log_outs):
            assert 0 < await client.pttl(key) <= 60_000
