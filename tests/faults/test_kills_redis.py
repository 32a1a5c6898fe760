"""`kill -9` of servers on Redis under load: what was begun goes on elsewhere, as if nothing had been.

As many as WORKER_KILLS says, at random moments, also while another server takes over what the last one had.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from support.fleet import fleet
from support.players import Load, told
from support.redis_server import fresh
from support.redis_workers import leftovers

KILLS = int(os.environ.get("WORKER_KILLS", "20"))
LEASE = 1.0


@pytest.mark.timeout(60 + 6 * KILLS)
async def test_kills(tmp_path: Path, chance: random.Random) -> None:
    """Runs complete on whichever server lives, with nothing lost, doubled or reordered, and what was said is honoured.

    A call whose tool has effects `once` is never made twice, and a run is interrupted only by deaths of its own making.
    """
    log = fresh(f"&lease={LEASE}")
    async with fleet(tmp_path, log, chance, size=3) as servers:
        load = Load(servers, chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(0, LEASE / 2))  # at any moment
                await load.safe()
                load.died()
                victim = chance.choice(servers.workers)
                servers.kill(victim)
                group.create_task(servers.gone(victim))
                await servers.begin()
            load.stopped = True
        assert await leftovers(log) == []
    print(f"{servers.restarts} servers killed: {told(load.went)}")
    assert load.went["resumed"] >= KILLS / 10  # on a busy machine fewer runs are far enough
    assert load.went["cut answers"]
    assert load.went["cut calls"]
