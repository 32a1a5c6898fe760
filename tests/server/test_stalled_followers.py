"""Followers that do not read: memory stays bounded, nobody else notices, and nothing is lost to them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from support.followers import KINDS, Broken, attach, check, number, rest, start
from support.serving import Puppet, Puppets, Running, serving, until

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]

BIG = "x" * 60_000
COUNT = 250  # 15 MB: more than the sockets between server and client hold


def flood(puppet: Puppet) -> None:
    """Have the agent yield `COUNT` big events, none of which is part of its answer."""
    for _ in range(COUNT):
        puppet.emit("NOISE", noise=BIG)


def buffered(server: Running) -> int:
    """The bytes that the server's connections hold to be sent."""
    return max(connection.transport.get_write_buffer_size() for connection in server.server.server_state.connections)


async def test_a_stalled_follower_is_dropped_and_resumes(kind: str, puppets: Puppets) -> None:
    """A follower that takes nothing is dropped after the send timeout; another misses nothing; the first resumes."""
    async with serving({"mine": puppets}, send_timeout=0.4) as server:
        stalled = await start(kind, server, on_disconnect="continue")
        puppet = await puppets.next()
        puppet.say("first")
        healthy = await attach(kind, server, stalled.run_id, 0)
        seen = [json.loads(await stalled.next() or b"")]
        pumps = set(server.service.heartbeats.pumps)
        flood(puppet)
        reading = asyncio.create_task(_until(healthy, COUNT))
        held = [0]

        def dropped() -> bool:
            held.append(buffered(server))
            return len(server.service.heartbeats.pumps) < len(pumps)

        await until(dropped)
        assert max(held) <= 256 * 1024
        await reading
        seen += await _all_there_is(stalled)
        assert len(seen) < COUNT
        puppet.end()
        seen += await rest(await attach(kind, server, stalled.run_id, seen[-1]["id"]))
        check(seen)
        assert len(seen) == COUNT + 3
        assert await healthy.next() is not None
        await healthy.close()
        await stalled.close()


async def _until(follower: Any, count: int) -> None:
    while number(json.loads(await follower.next())) <= count:
        pass


async def _all_there_is(follower: Any) -> list[dict[str, Any]]:
    """What was sent before the follower was dropped."""
    seen = []
    with pytest.raises(Broken) as broken:
        while (body := await follower.next()) is not None:
            seen.append(json.loads(body))
    assert broken.value.code in {None, 1006, 4008}
    return seen


async def test_a_slow_follower_is_not_dropped(kind: str, puppets: Puppets) -> None:
    """A follower that is merely behind catches up from the log."""
    async with serving({"mine": puppets}, send_timeout=1) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        flood(puppet)
        puppet.end()
        seen = []
        for _ in range(12):
            seen += [json.loads(await follower.next() or b"") for _ in range(20)]
            await asyncio.sleep(0.1)  # slower than the agent, though never silent for as long as the send timeout
        seen += await rest(follower)
        check(seen)
        assert len(seen) == COUNT + 2


async def test_shutdown_does_not_wait_for_a_stalled_follower(kind: str, puppets: Puppets) -> None:
    """A server stops in bounded time though a client takes nothing."""
    async with serving({"mine": puppets}) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        flood(puppet)
        await until(lambda: buffered(server) > 0)
        async with asyncio.timeout(20):
            await server.service.drain()
        assert not server.service.heartbeats.pumps
    await follower.close()


async def test_a_client_that_vanishes_leaves_nothing_behind(kind: str, server: Running, puppets: Puppets) -> None:
    """Connections that are reset leave no pump, no subscription and no task."""
    first = await start(kind, server)
    puppet = await puppets.next()
    puppet.say("first")
    before = len(asyncio.all_tasks())
    for _ in range(20):
        follower = await attach(kind, server, first.run_id, 0)
        await follower.next()
        await follower.close()
    puppet.say("a")
    await until(lambda: len(server.service.heartbeats.pumps) == 1 and len(asyncio.all_tasks()) <= before)
    puppet.end()
    await rest(first)
    await until(lambda: not server.service.heartbeats.pumps)
