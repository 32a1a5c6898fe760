"""Restarts of a server with a SQLite log under load, in order and by `kill -9`: its runs go on in the next process.

As many as SQLITE_RESTARTS says. Between two processes nobody serves.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest

from support.fleet import fleet
from support.players import Load, told
from support.sqlite_logs import leftovers

RESTARTS = int(os.environ.get("SQLITE_RESTARTS", "20"))
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)


@pytest.mark.timeout(60 + 6 * RESTARTS)
async def test_restarts(tmp_path: Path, chance: random.Random) -> None:
    """Runs complete over all restarts, with nothing lost, doubled or reordered, and what was said is honoured."""
    async with fleet(tmp_path, "sqlite:///runs.db", chance, size=1) as servers:
        load = Load(servers, chance)
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            for number in range(RESTARTS):
                await asyncio.sleep(chance.uniform(0, 0.5))  # at any moment
                await load.safe()
                by = SIGNALS[number % len(SIGNALS)]
                if by != signal.SIGTERM:
                    load.died()
                await servers.end(servers.workers[0], by)
                await servers.begin()
            load.stopped = True
    print(f"{servers.restarts} restarts: {told(load.went)}")
    assert leftovers(tmp_path / "runs.db") == []
    assert load.went["resumed"] >= RESTARTS / 5  # on a busy machine fewer runs are far enough
    assert load.went["cut answers"]
    assert load.went["cut calls"]
