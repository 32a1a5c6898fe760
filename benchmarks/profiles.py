"""What is measured: each profile is a kind of work, done once on one server over one transport; its figures come out.

A figure's name and unit are in `metrics`. Times are nanoseconds; CPU is in microseconds for each token (or connection).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from benchmarks.framing import per_token
from benchmarks.generators import BUSY, Generators
from benchmarks.histogram import Histogram
from benchmarks.load import Ask, Outcome
from benchmarks.processes import program
from benchmarks.schedule import Load
from benchmarks.targets import Target

FIRSTS = 20
CROWDED = 0.1  # of the time, in which the server or a load generator was ready and others ran
SETTLE_NS = 50_000_000  # from the plan's making to its first connection


@dataclass(frozen=True)
class Sizes:
    """How much of each; `quick` by default."""

    seconds: float = 0.6  # of a run
    chat_rate: float = 100.0
    rate: float = 50.0  # of each of many runs
    many: int = 50
    fanout: int = 100
    saturate: int = 2_500  # tokens of each of 16 runs
    idle: int = 1_000
    commands: int = 20  # cancels of each kind, resumptions
    resumed: int = 100  # tokens that a resumption brings


FULL = Sizes(seconds=4.0, many=200, fanout=500, saturate=10_000, idle=5_000, commands=40)


@dataclass
class Row:
    """One round's figures of one series."""

    values: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    timeline: list[tuple[float, float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Bench:
    """What a profile works with."""

    generators: Generators
    sizes: Sizes
    seed: int


async def loaded(
    bench: Bench,
    target: Target,
    transport: str,
    asks: Sequence[Ask],
    expected: int,
    *,
    gap: float,
    seconds: float,
    lead: float = 0.0,
) -> Row:
    """Have these connections made, and take the figures that all kinds of load have.

    The server's CPU counts after `lead` seconds: where they come before the first token, making connections does not.
    """
    running = asyncio.ensure_future(
        bench.generators.run(target, asks, begin=time.monotonic_ns() + SETTLE_NS, gap=gap, seconds=seconds * 2 + 10)
    )
    await asyncio.sleep(lead)
    before, began = target.process.cpu() if target.process else 0.0, time.monotonic()
    ready = target.process.waited() if target.process else 0.0
    out = await running
    row = Row(timeline=out.series)
    took = time.monotonic() - began
    tokens = max(out.tokens, 1)
    if target.process:
        used = target.process.cpu() - before
        row.values |= {"server_us": used * 1e6 / tokens, "server_share": used / took}
    row.values |= {
        "tokens": out.tokens,
        "reconnects": out.reconnects,
        "throughput": tokens / out.seconds if out.seconds else 0.0,
        "load_us": out.cpu * 1e6 / tokens,
        "load_share": out.cpu / out.wall,
        "wire_bytes": out.bytes / tokens,
        "head_bytes": out.head_bytes / (len(asks) + out.reconnects),
    }
    if not target.tls and (framing := per_token(transport, base64.b64decode(out.tap))) is not None:
        row.values["framing_bytes"] = framing
    row.histograms = {
        name: Histogram.from_pairs(getattr(out, name)) for name in ("delivery", "first", "gaps") if getattr(out, name)
    }
    row.warnings = _warnings(out, expected if target.stamped else 0)
    lost = max(out.waited / out.wall, (target.process.waited() - ready) / took if target.process else 0.0)
    if lost > CROWDED:
        row.warnings.append(
            f"other programs had the processor over {CROWDED:.0%} of the time: the latencies are theirs too"
        )
    return row


def _warnings(out: Outcome, expected: int) -> list[str]:
    found = []
    if out.cpu / out.wall > BUSY:
        found.append(f"the load generator was busy {out.cpu / out.wall:.0%} of the time: it may be what limits")
    if out.failed:
        found.append(f"{out.failed} connections failed or did not end")
    if expected and out.tokens != expected:
        found.append(f"{out.tokens} of {expected} tokens came")
    return found


async def chat(bench: Bench, target: Target, transport: str) -> Row:
    """1 run, 1 follower, at a fast model's pace."""
    sizes = bench.sizes
    load = Load(rate=sizes.chat_rate, count=max(2, int(sizes.chat_rate * sizes.seconds)), seed=bench.seed)
    return await loaded(
        bench, target, transport, [target.start(transport, load)], load.count, gap=0, seconds=sizes.seconds
    )


async def first(bench: Bench, target: Target, transport: str) -> Row:
    """Short runs one after another: what comes before the first token."""
    load = Load(count=1, seed=bench.seed)
    asks = [target.start(transport, load)] * FIRSTS
    row = await loaded(bench, target, transport, asks, FIRSTS, gap=0.015, seconds=1)
    return Row({"run_us": row.values["server_us"]} if target.process else {}, {"first": row.histograms["first"]})


async def many(bench: Bench, target: Target, transport: str) -> Row:
    """N runs at once, each with its follower."""
    sizes = bench.sizes
    load = Load(rate=sizes.rate, count=max(2, int(sizes.rate * sizes.seconds)))
    asks = [target.start(transport, replace(load, seed=bench.seed + i)) for i in range(sizes.many)]
    spread = min(0.3, sizes.seconds / 2)
    return await loaded(
        bench, target, transport, asks, sizes.many * load.count, gap=spread / sizes.many, seconds=sizes.seconds + spread
    )


async def lossy(bench: Bench, target: Target, transport: str) -> Row:
    """N runs, each with a follower on a bad network (see `benchmarks.lossy`), who comes back at its cursor."""
    sizes = bench.sizes
    load = Load(rate=sizes.rate, count=int(sizes.rate * sizes.seconds * 2))
    asks = [
        target.start(transport, replace(load, seed=bench.seed + i), key=secrets.token_hex(8))
        for i in range(sizes.many // 2)
    ]
    command = (sys.executable, "-m", "benchmarks.lossy", str(target.port), str(bench.seed))
    with program(*command) as proxy:
        through = replace(target, port=int(proxy.line))
        gap = 0.3 / len(asks)
        return await loaded(
            bench, through, transport, asks, len(asks) * load.count, gap=gap, seconds=sizes.seconds * 2 + 0.3
        )


async def fanout(bench: Bench, target: Target, transport: str) -> Row:
    """1 run, N followers, all there from the start."""
    sizes = bench.sizes
    delay = 0.25 + sizes.fanout / 1000
    load = Load(rate=sizes.chat_rate, count=int(sizes.chat_rate * sizes.seconds), delay=delay, seed=bench.seed)
    ask = await target.shared(transport, load)
    row = await loaded(
        bench,
        target,
        transport,
        [ask] * sizes.fanout,
        sizes.fanout * load.count,
        gap=delay / 2 / sizes.fanout,
        seconds=sizes.seconds + delay,
        lead=delay - 0.05,
    )
    del row.histograms["first"]  # they wait for the run
    return row


async def saturate(bench: Bench, target: Target, transport: str) -> Row:
    """16 runs whose tokens come as fast as they are taken, each with its follower."""
    load = Load(rate=0, count=bench.sizes.saturate)
    asks = [target.start(transport, replace(load, seed=bench.seed + i)) for i in range(16)]
    row = await loaded(bench, target, transport, asks, 16 * load.count, gap=0.0, seconds=30)
    row.histograms, row.timeline = {}, []  # there is no time at which they were due
    return row
