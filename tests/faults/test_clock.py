"""The wall clock jumps: no deadline, heartbeat, grace or retention of ours is counted on it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from faults.leaks import leakless
from support.followers import KINDS, attach, rest, start
from support.serving import Puppets, serving, until

HOUR = 3600.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
@pytest.mark.parametrize("log", ["memory://", "sqlite:///log.db"])
async def test_the_wall_clock_jumps(
    kind: str, jump: float, log: str, *, puppets: Puppets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run, its follower and an ended run live through an hour's jump in either direction; time limits still hold."""
    clock = time.time
    url = log.replace("///", f"///{tmp_path}/")
    async with serving({"mine": puppets}, heartbeat=0.2, retention=60.0, log=url) as server, leakless(server):
        ended = await start(kind, server)
        (await puppets.next()).end()
        before = await rest(ended)
        follower = await start(kind, server, user_id="eve")
        puppet = await puppets.next()
        puppet.say("a")
        await follower.next()
        monkeypatch.setattr(time, "time", lambda: clock() + jump)
        (pump,) = server.service.heartbeats.pumps
        for _ in range(2):
            beat_at = pump._beat_at
            await until(lambda beat_at=beat_at: pump._beat_at > beat_at)  # type: ignore[misc]
        puppet.say("b")
        assert await rest(await attach(kind, server, ended.run_id)) == before
        abandoned = await start(kind, server, on_disconnect="cancel_after:0.3")
        left = await puppets.next()
        await abandoned.close()
        async with asyncio.timeout(20):
            await left.closed.wait()
        puppet.end()
        assert len(await rest(follower)) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_wrong_clock_at_the_start(
    kind: str, jump: float, puppets: Puppets, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a SQLite log keeps outlives servers whose clock was wrong by an hour, whichever of them it was."""
    clock = time.time
    url = f"sqlite:///{tmp_path}/log.db"
    ended: dict[str, list[dict[str, Any]]] = {}
    for wrong in (0, jump, 0):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: clock() + wrong)
        async with serving({"mine": puppets}, retention=60.0, log=url) as server:
            log = server.runs.log
            follower = await start(kind, server, user_id="u", session_id="s")
            (await puppets.next()).end()
            ended[follower.run_id] = await rest(follower)
            while not await log.history(("u", "s")):
                pass
            await asyncio.sleep(1.2)  # what is old is deleted each second
            for run_id, events in ended.items():
                assert await rest(await attach(kind, server, run_id)) == events
            assert len(await log.history(("u", "s"))) == 2 * len(ended)
