"""The wall clock jumps: no deadline, heartbeat, grace or retention of ours is counted on it."""

from __future__ import annotations

import asyncio
import time

import pytest

from faults.leaks import leakless
from followers import KINDS, attach, rest, start
from serving import Puppets, serving

HOUR = 3600.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_the_wall_clock_jumps(kind: str, jump: float, puppets: Puppets, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, its follower and an ended run live through an hour's jump in either direction; time limits still hold."""
    clock = time.time
    async with serving({"mine": puppets}, heartbeat=0.2, retention=60.0) as server, leakless(server):
        ended = await start(kind, server)
        (await puppets.next()).end()
        before = await rest(ended)
        follower = await start(kind, server, user_id="eve")
        puppet = await puppets.next()
        puppet.say("a")
        await follower.next()
        monkeypatch.setattr(time, "time", lambda: clock() + jump)
        await asyncio.sleep(0.5)  # two heartbeats of the new time
        puppet.say("b")
        assert await rest(await attach(kind, server, ended.run_id)) == before
        abandoned = await start(kind, server, on_disconnect="cancel_after:0.3")
        left = await puppets.next()
        await abandoned.close()
        async with asyncio.timeout(5):
            await left.closed.wait()
        puppet.end()
        assert len(await rest(follower)) == 3
