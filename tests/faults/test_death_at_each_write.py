"""A server dies before or after each write to its log, and so does the one that goes on: the third ends the run."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Fleet, fleet
from support.forked import forge
from support.outside import ASK, Plan
from support.players import Player, told
from support.redis_server import fresh

pytestmark = pytest.mark.full

AT_ONCE = 4
WHEN = ("before", "after")
SECONDS = 60.0
STEPS = [["Look", "Again"], ["Once", ASK], ["Approved"]]
LOGS = ("redis", "sqlite")
names = itertools.count(1)


async def relay(servers: Fleet, player: Player, *deaths: str) -> tuple[Counter[str], int]:
    """Play a run on one server after the other, each of which dies as it is told, and the last one lives.

    Return what the run went through, and how many servers have died.
    """
    died = 0
    await servers.begin(DIE_AT=deaths[0])
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(player.play())
        for death in [*deaths[1:], ""]:
            [worker] = servers.workers
            ends: list[asyncio.Future[Any]] = [playing, worker.end]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                break
            died += 1
            await servers.lost(worker)
            await servers.begin(mortal=bool(death), DIE_AT=death)
    return playing.result(), died


async def rounds(folder: Path, log: str, chance: random.Random, deaths: Iterator[tuple[str, ...]]) -> Counter[str]:
    """Play a run with each of these deaths, some at once, until a server of one outlives it."""
    went: Counter[str] = Counter()

    async def some() -> None:
        for death in deaths:
            if went["outlived"]:
                return
            name = f"w{next(names)}"
            (folder / name).mkdir()
            url = fresh("&lease=0.5") if log == "redis" else "sqlite:///runs.db"
            async with fleet(folder / name, url, chance, size=0, forged=forged) as servers:
                player = Player(servers, chance, Plan(name, STEPS), messages=3)
                async with asyncio.timeout(SECONDS):
                    one, died = await relay(servers, player, *death)
            went.update(one)
            went.update({"deaths": died, "outlived": int(died < len(death))})

    async with forge() as forged, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return went


def all_after(*first: str) -> Iterator[tuple[str, ...]]:
    """Return deaths the last of which is at each write, one after the other."""
    return ((*first, f"{at} {when}") for at in itertools.count(1) for when in WHEN)


@pytest.mark.full
@pytest.mark.parametrize("log", LOGS)
async def test_the_first_server_dies(log: str, tmp_path: Path, chance: random.Random) -> None:
    """A run goes on as if nothing had been, whichever write its first server dies at."""
    went = await rounds(tmp_path, log, chance, all_after())
    print(told(went))
    assert went["deaths"] > 20


@pytest.mark.full
@pytest.mark.parametrize("first", [3, 6, 9])
@pytest.mark.parametrize("log", LOGS)
async def test_the_second_server_dies(log: str, first: int, tmp_path: Path, chance: random.Random) -> None:
    """A run goes on as if nothing had been, whichever write the server dies at that has taken it over."""
    went = await rounds(tmp_path, log, chance, all_after(f"{first} after"))
    print(told(went))
    assert went["deaths"] > 20


@pytest.mark.parametrize("log", LOGS)
async def test_some_deaths(log: str, tmp_path: Path, chance: random.Random) -> None:
    """The same, at some writes of the first server and of the second."""
    points = [f"{chance.randint(1, 9)} {when}" for when in WHEN * 2]
    deaths = [*((point,) for point in points[:2]), *((f"{chance.randint(2, 6)} after", point) for point in points[2:])]
    went = await rounds(tmp_path, log, chance, iter(deaths))
    print(told(went))
    assert went["deaths"]
