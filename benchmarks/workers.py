"""The cost of several workers: CPU per event of the workers and of the Valkey that they share, apart.

    uv run python -m benchmarks.workers [--runs 100] [--rate 50] [--seconds 10] [--rounds 3] [--json]

Each run has its events at `rate` a second and one follower, over SSE and over WebSocket. `memory` is one process and
its own log, `1 worker` and `2 workers` share a Valkey behind a Unix socket. `own`: who starts a run follows it, so that
owner and follower are one worker. `any`: followers come over connections of their own, as a proxy would spread them, so
that of two workers every other follower is not the owner's. What is measured begins when all are connected.

The ceiling is what one Valkey takes before it fills a processor. More workers than `break even` do more than one
process with the memory log.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.command import Report, command
from benchmarks.generators import Generators, generators
from benchmarks.histogram import QUANTILES, Histogram
from benchmarks.load import Ask
from benchmarks.processes import ROOT, Program, cpu_of, twinwire
from benchmarks.schedule import Load
from benchmarks.targets import AGENT, FLAGS, Target

sys.path.insert(0, str(ROOT / "tests"))
from support import redis_server

DELAY = 4.0  # between a run's start and its first event
CONNECTING = 1.0  # seconds in which the connections are made
LEAD = 1.2  # after which they are there
TRANSPORTS = ("sse", "ws")
WORKERS = {"memory": 0, "1 worker": 1, "2 workers": 2}
"""The servers: so many workers on a Valkey, or one process with its own log."""


class Site:
    """A server, and the processes whose CPU counts: its own, and the store's."""

    def __init__(self, target: Target, workers: Sequence[int], store: int | None = None) -> None:
        self.target = target
        self._workers = workers
        self._store = store

    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU so far, of the workers and of the store."""
        return sum(map(cpu_of, self._workers)), 0.0 if self._store is None else cpu_of(self._store)


def _children(process: Program) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@contextmanager
def site(count: int) -> Iterator[Site]:
    """A server with so many workers on a store, or with none."""
    with ExitStack() as stack:
        flags, store = [*FLAGS], None
        if count:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tw-")))
            server = stack.enter_context(redis_server.own_server(folder, appendonly="no", unixsocket=f"{folder}/s"))
            store = server.pid
            flags += ["--log", f"unix://{folder}/s", "--workers", str(count)]
        process, port = stack.enter_context(twinwire(AGENT, *flags))
        yield Site(
            Target("twinwire", "127.0.0.1", port, process), _children(process) if count > 1 else [process.pid], store
        )


async def asks(target: Target, transport: str, way: str, loads: list[Load]) -> list[Ask]:
    """The requests of the connections: to start these runs, or to follow runs that are started here."""
    if way == "own":
        return [target.start(transport, load) for load in loads]
    runs = await asyncio.gather(*(target.run(load) for load in loads))
    return [target.follow(transport, run) for run in runs]


async def measure(
    bench: Generators, at: Site, transport: str, way: str, *, runs: int, rate: float, seconds: float
) -> dict[str, Any]:
    """One take."""
    count = int(rate * seconds)
    loads = [Load(rate=rate, count=count, delay=DELAY, seed=seed) for seed in range(runs)]
    asked = await asks(at.target, transport, way, loads)
    running = asyncio.ensure_future(
        bench.run(at.target, asked, begin=time.monotonic_ns(), gap=CONNECTING / runs, seconds=2 * seconds + DELAY + 10)
    )
    await asyncio.sleep(LEAD)
    before = at.cpu()
    out = await running
    workers, store = (after - earlier for after, earlier in zip(at.cpu(), before, strict=True))
    delivery = Histogram.from_pairs(out.delivery)
    return {
        "events": out.tokens,
        "failed": out.failed,
        "workers_us": workers * 1e6 / out.tokens,
        "store_us": store * 1e6 / out.tokens,
        "delivery_us": {name: delivery.quantile(rank) / 1000 for name, rank in QUANTILES.items()},
    }


async def run(runs: float, rate: float, seconds: float, rounds: float) -> Report:
    """All servers in turn, so often."""
    takes: dict[str, list[dict[str, Any]]] = {}
    async with generators() as bench:
        for _ in range(int(rounds)):
            for name, count in WORKERS.items():
                with site(count) as at:
                    for way in ("own", "any"):
                        for transport in TRANSPORTS:
                            key = f"{name}, {way}, {transport}"
                            take = await measure(bench, at, transport, way, runs=int(runs), rate=rate, seconds=seconds)
                            takes.setdefault(key, []).append(take)
    medians = {name: _median(found) for name, found in takes.items()}
    return {"runs": runs, "rate": rate, "takes": takes, "medians": medians, **_computed(medians)}


def _median(takes: list[dict[str, Any]]) -> dict[str, float]:
    figures = {name: median(take[name] for take in takes) for name in ("workers_us", "store_us")}
    return figures | {name: median(take["delivery_us"][name] for take in takes) for name in ("p50", "p99")}


def _computed(medians: dict[str, dict[str, float]]) -> Report:
    """The conclusions from the figures, for each way and transport."""
    found: Report = {"ceiling": {}, "break_even": {}, "two_against_one": {}}
    for way in ("own", "any"):
        for transport in TRANSPORTS:
            memory, one, two = (medians[f"{name}, {way}, {transport}"] for name in WORKERS)
            key = f"{way}, {transport}"
            found["ceiling"][key] = 1e6 / two["store_us"]
            found["break_even"][key] = two["workers_us"] / memory["workers_us"]
            found["two_against_one"][key] = two["workers_us"] / one["workers_us"]
    return found


def table(report: Report) -> str:
    """The report for a person."""
    lines = [
        f"{report['runs']:g} runs of {report['rate']:g} events/s, each with a follower; CPU per event.",
        "",
        "| server, followers, transport | workers | Valkey | p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    for name, row in report["medians"].items():
        lines.append(
            f"| {name} | {row['workers_us']:.1f} us | {row['store_us']:.1f} us | {row['p50'] / 1000:.1f} ms | "
            f"{row['p99'] / 1000:.1f} ms |"
        )
    lines += [
        "",
        "| followers, transport | one Valkey takes | break even | an event of two workers, against one |",
        "|---|---|---|---|",
    ]
    for key, ceiling in report["ceiling"].items():
        lines.append(
            f"| {key} | {ceiling:,.0f} events/s | {report['break_even'][key]:.1f} workers | "
            f"{report['two_against_one'][key]:.2f}x |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    command(__doc__ or "", run, table, published="workers", runs=100.0, rate=50.0, seconds=10.0, rounds=3.0)
