"""A cancel that races its run's end: one terminal event, and it is the one that the acknowledgement told (P5)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from faults.leaks import leakless
from support.followers import KINDS, cancel, rest, start
from support.serving import serving
from twinwire import RunRequest, StreamEvent

AT_ONCE = 8
SPREAD_S = {"sse": 0.08, "ws": 0.016}  # about what it takes to connect and cancel, until that is known


async def brief(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that ends after as many milliseconds as it is told."""
    yield StreamEvent("LLM_CHUNK", {"content": "a", "delta": "a"})
    await asyncio.sleep(float(request.message) / 1000)
    yield StreamEvent("LLM_CHUNK", {"content": "b", "delta": "b"})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "races", [500, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])], ids=str
)
@pytest.mark.full
async def test_cancel_races_finish(kind: str, races: int, chance: random.Random) -> None:
    """Two cancels at once, at about the time when the run ends: it is cancelled if one was accepted, else it is not.

    A cancel that ends a run takes hardly longer than one that comes after the end and does nothing.
    """
    ends: Counter[str] = Counter()
    times: list[float] = []
    controls: list[float] = []
    left = iter(range(races))

    async def race() -> None:
        for number in left:
            spread = 1.5 * controls[-1] if controls else SPREAD_S[kind]
            brief_ms = f"{chance.uniform(0, spread) * 1000:.3f}"
            follower = await start(kind, server, brief_ms, on_disconnect="continue")
            began = time.perf_counter()
            told = await asyncio.gather(*(cancel(kind, server, follower.run_id) for _ in range(2)))
            seen = await rest(follower)
            status = seen[-1]["data"]["status"]
            assert (status == "cancelled") == ("accepted" in told), (status, told)
            assert told.count("accepted") <= 1
            ends[status] += 1
            if status == "cancelled":
                times.append(time.perf_counter() - began)
            if number % 5 == 0:
                began = time.perf_counter()
                told = await asyncio.gather(*(cancel(kind, server, follower.run_id) for _ in range(2)))
                controls.append(time.perf_counter() - began)
                assert told == ["already_finished"] * 2

    async with serving({"mine": brief}) as server, leakless(server), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(race())
    assert set(ends) == {"cancelled", "completed"}
    assert ends.total() == races
    (p50, p99), (idle50, idle99) = (
        (each[len(each) // 2], each[len(each) * 99 // 100]) for each in (sorted(times), sorted(controls))
    )
    print(
        f"{kind}: {dict(ends)}; from cancel to terminal event p50 {p50 * 1000:.0f} and p99 {p99 * 1000:.0f} ms, "
        f"of a cancel after the end {idle50 * 1000:.0f} and {idle99 * 1000:.0f} ms"
    )
    assert p50 < 3 * idle50
    assert p99 < 6 * idle99
