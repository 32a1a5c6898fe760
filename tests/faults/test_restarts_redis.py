"""Rolling restarts under load on Redis: no run that can go on elsewhere is interrupted, and no client sees a seam.

As many as ROLLING_RESTARTS says: each replaces both servers, one after the other, as `SIGHUP` and orchestrators do.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from support.fleet import DRAIN, fleet
from support.players import Load, told
from support.processes import Process
from support.redis_server import fresh
from support.redis_workers import leftovers
from support.serving import until

HANGUPS = 20
RESTARTS = int(os.environ.get("ROLLING_RESTARTS", "20"))


@pytest.mark.timeout(60 + 6 * RESTARTS)
async def test_rolling_restarts(tmp_path: Path, chance: random.Random) -> None:
    """Runs complete on whichever server there is: none is interrupted, lost, doubled or reordered, and no step redone.

    The model is asked once for each step that was not cut off, and once more for one that was.
    """
    log = fresh("&lease=1")
    async with fleet(tmp_path, log, chance, size=2) as servers:
        load = Load(servers, chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for _ in range(RESTARTS):
                for old in list(servers.workers):
                    await servers.begin()
                    await servers.end(old, signal.SIGTERM)
            load.stopped = True
        assert await leftovers(log) == []
    print(f"{servers.restarts} servers replaced: {told(load.went)}")
    assert load.went["resumed"] >= RESTARTS / 5  # on a busy machine fewer runs are far enough
    assert load.went["cut answers"]
    assert load.went["cut calls"]


@pytest.mark.full
@pytest.mark.full
async def test_hangups(tmp_path: Path, chance: random.Random) -> None:
    """`SIGHUP` to `twinwire serve --workers 2`, again and again, interrupts no run that can go on elsewhere."""
    log = fresh("&lease=1")
    flags = ("--workers", "2", "--port", "0", "--log", log, "--drain-timeout", str(DRAIN))
    async with fleet(tmp_path, log, chance, size=0) as servers:
        environ = servers.environ()
        with Process("serve", "support.mortal:app", *flags, cwd=tmp_path, environ=environ) as process:
            await asyncio.to_thread(process.ready)
            servers.front.workers.append(process)
            load = Load(servers, chance)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                for _ in range(HANGUPS):
                    old = process.workers()
                    process.popen.send_signal(signal.SIGHUP)
                    await until(lambda: len(new := process.workers()) == 2 and not new & old)  # noqa: B023
                load.stopped = True
            process.popen.send_signal(signal.SIGTERM)
            code, _, err = await asyncio.to_thread(process.end)
        assert code == -signal.SIGTERM
        assert "Traceback" not in err
        assert await leftovers(log) == []
    print(told(load.went))
    assert load.went["resumed"] >= HANGUPS / 5
