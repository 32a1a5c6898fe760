"""The search for the most runs that a server carries, and a few runs of each server that is searched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from benchmarks.capacity import BOUNDS, DELAY, FINE, Take, measure, most, rows
from benchmarks.generators import generators
from benchmarks.processes import program

RUNS, RATE, SECONDS = 10, 20.0, 1.0
ROWS = {f"{agent}-{server}-{transport}": (agent, transport, start) for agent, server, transport, start in rows()}


def take(p99: Callable[[int], float], failed_from: int = 10**9) -> Callable[[int], object]:
    """Return a measurement whose outcome depends on the number of runs alone."""

    async def made(runs: int) -> Take:
        return {"failed": float(runs >= failed_from), "p99_ms": p99(runs)}

    return made


@pytest.mark.parametrize("limit", [17, 130, 999, 1900])
async def test_the_most_runs_are_found(limit: int) -> None:
    """The number is within a twentieth of the limit, never over it, and what is known is not measured again."""
    known: dict[int, Take] = {}
    found = await most(take(lambda runs: 1.0 if runs <= limit else 500.0), BOUNDS["p99_20"], 2000, known)
    assert limit / FINE - 1 <= found <= limit
    before = len(known)
    assert await most(take(lambda _: 1.0), BOUNDS["p99_20"], 2000, known) == found
    assert len(known) == before


async def test_bounds_of_the_search() -> None:
    """Runs that fail are too many; no more than the highest number is tried; too slow from the first is the least."""
    assert 285 <= await most(take(lambda _: 1.0, failed_from=300), 20.0, 2000, {}) < 300
    assert await most(take(lambda _: 1.0), 20.0, 700, {}) == 700
    assert await most(take(lambda _: 50.0), 20.0, 700, {}) == 10


@pytest.mark.full
@pytest.mark.parametrize("name", ROWS)
async def test_each_server(name: str) -> None:
    """A few runs of each give all their tokens, and what they cost."""
    agent, transport, start = ROWS[name]
    serving = (sys.executable, "-m", "benchmarks.upstream", f"{RATE}", f"{int(RATE * SECONDS)}", f"{DELAY}")
    with ExitStack() as stack:
        upstream = stack.enter_context(program(*serving)).line if agent == "relay" else None
        site, ask = stack.enter_context(start(upstream))
        async with generators() as bench:
            seen = await measure(bench, site, ask, transport, runs=RUNS, rate=RATE, seconds=SECONDS)
    assert not seen["failed"]
    assert seen["cpu_us"] > 0
    assert 0 < seen["p50_ms"] <= seen["p99_ms"]
    assert (seen["store_us"] > 0) == ("-redis-" in name)
