"""The processes that make load, and what they report together. They never share a processor with what is measured."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from benchmarks.histogram import Histogram
from benchmarks.load import Ask, Outcome, Plan
from benchmarks.processes import BESIDE, ROOT
from benchmarks.targets import Target, Unusable

BUSY = 0.8  # of a processor; a generator over it may be what limits
_LINE = 2**26


class Generators:
    """Processes of `benchmarks.load`."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def run(self, target: Target, asks: Sequence[Ask], *, begin: int, gap: float, seconds: float) -> Outcome:
        """Give each a share of the connections; all that they saw. `begin` and `gap` are as in `Plan`."""
        count = min(len(self._processes), len(asks))
        plans = [
            Plan(
                target.host, target.port, begin + int(i * gap * 1e9), gap * count, list(asks[i::count]), seconds,
                target.tls, target.ca, target.stamped,
            )
            for i in range(count)
        ]  # fmt: skip
        return merged(await asyncio.gather(*map(self._one, self._processes, plans)))

    @staticmethod
    async def _one(process: asyncio.subprocess.Process, plan: Plan) -> Outcome:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(plan) + b"\n")
        line = await process.stdout.readline()
        if not line:
            raise Unusable("a process of the load generator has died")
        return msgspec.json.decode(line, type=Outcome)


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of several processes; `cpu` and `waited` are of the worst."""
    whole = outcomes[0]
    for other in outcomes[1:]:
        for name in ("tokens", "ended", "failed", "reconnects", "head_bytes", "bytes"):
            setattr(whole, name, getattr(whole, name) + getattr(other, name))
        for name in ("cpu", "waited", "wall", "seconds"):
            setattr(whole, name, max(getattr(whole, name), getattr(other, name)))
        for name in ("delivery", "first", "gaps"):
            histogram = Histogram.from_pairs(getattr(whole, name))
            histogram.add(Histogram.from_pairs(getattr(other, name)))
            setattr(whole, name, histogram.pairs())
    return whole


@asynccontextmanager
async def generators(count: int | None = None) -> AsyncIterator[Generators]:
    """So many processes, by default one for each processor that is not the server's. This one has stepped aside."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.load", stdin=-1, stdout=-1, limit=_LINE, cwd=ROOT
        )
        for _ in range(count or len(BESIDE))
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        yield Generators(processes)
    finally:
        for process in processes:
            process.kill()
            await process.wait()
