"""What the logs cost: CPU per event appended and delivered, how many events they take and replay, how late they are.

    uv run python -m benchmarks.logs [memory sqlite redis] [--runs 100] [--rate 5000] [--seconds 5] [--json]

Runs' own writers put events into each log in this process, and pumps deliver them to connections that take everything
at once. `append`: as fast as the log takes them, with nobody following. `follow`: the same with followers; what each
delivery adds. `latency`: at a steady rate over all runs, from an event's making to its frame on the connection.
`replay`: one run of 100,000 events, from its first to its last. CPU is this process's, with SQLite's thread and without
Redis' server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.processes import ROOT, percentiles
from twinwire.events import StreamEvent, timestamp
from twinwire.formats import native
from twinwire.log import Limits, RunInfo, Store, open_log
from twinwire.runs.writer import Writer
from twinwire.transports import Verdict
from twinwire.transports.pump import PAGE_EVENTS, Pump
from twinwire.wire import new_run_id

sys.path.insert(0, str(ROOT / "tests"))
import redis_server

LIMITS = Limits(
    max_events=10**6, max_bytes=2**33, retention=3600.0, max_sessions=10, session_bytes=2**16, session_idle=60.0
)
URLS: dict[str, Callable[[str], str]] = {
    "memory": lambda _: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder}/log.db",
    "redis": lambda _: redis_server.fresh(),  # a Valkey of our own on this machine, without persistence
}
FOLLOWERS = 16
REPLAYED = 100_000
_STAMP = re.compile(rb'"content":"(\d+) ')


class Nobody:
    """The owner of no runs, and nobody's presence."""

    def cancel_here(self, run_id: str) -> None:
        """See `Owner`."""

    def unfollowed(self, run_id: str) -> None:
        """See `Owner`."""

    def owns(self, run_id: str) -> bool:  # noqa: ARG002 - the protocol's
        """See `Owner`."""
        return True

    def follow(self, run_id: str) -> None:
        """See `Presence`."""

    def unfollow(self, run_id: str) -> None:
        """See `Presence`."""


class Sink:
    """A connection that takes everything at once and notes how many events, and how late each was."""

    def __init__(self, latencies: list[int] | None = None) -> None:
        self.direct = True  # as on our own server
        self.frames = 0
        self.latencies = latencies

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`."""
        self.frames += len(frames)
        if self.latencies is not None:
            now = time.monotonic_ns()
            self.latencies += [now - int(match[1]) for frame in frames if (match := _STAMP.search(frame))]
        return True

    async def drain(self) -> None:
        """See `Transport`."""

    def heartbeat(self) -> bool:
        """See `Transport`."""
        return True

    async def close(self, verdict: Verdict) -> None:
        """See `Transport`."""


def token() -> StreamEvent:
    """An event like a model's token, which tells when it was made."""
    text = f"{time.monotonic_ns()} "
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text}, metadata={"step": 1})


class Source:
    """A run and its writer."""

    def __init__(self, log: Store, run_id: str) -> None:
        self.run_id = run_id
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writer = Writer(log, run_id, lambda: self.ended.set_result(None))

    async def write(self, count: int, pace: float = 0.0, delay: float = 0.0) -> None:
        """`count` events, then the end; one each `pace` seconds after `delay`, or as fast as the log takes them."""
        if pace:
            await asyncio.sleep(delay)
        began = time.monotonic()
        for number in range(count):
            self.writer.put(token())
            if pace:
                await asyncio.sleep(began + (number + 1) * pace - time.monotonic())
            elif self.writer.full:
                await self.writer.room()
            elif number % 8 == 7:
                await asyncio.sleep(0)  # what a burst of tokens brings in one turn of the loop
        self.writer.put(StreamEvent("AGENT_FINISH", {"result": ""}))
        await self.ended


async def source(log: Store) -> Source:
    """A new run."""
    info = RunInfo(run_id=new_run_id(), agent="bench", created=timestamp())
    await log.create(info, idempotency_key=None)
    return Source(log, info.run_id)


def follow(log: Store, run_id: str, sink: Sink) -> asyncio.Task[Verdict]:
    """A follower of a run from its first event, until its last."""
    pump = Pump(log, Nobody(), sink, once=True)
    pump.attach(run_id, 0, native.view("ws", None))
    return asyncio.create_task(pump.run())


async def burst(log: Store, runs: int, count: int, followers: int) -> dict[str, float]:
    """`count` events into each run as fast as they are taken, each run followed by so many."""
    sources = [await source(log) for _ in range(runs)]
    sinks = [Sink() for _ in range(runs * followers)]
    following = [follow(log, sources[i % runs].run_id, sink) for i, sink in enumerate(sinks)]
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.gather(*(one.write(count) for one in sources))
    seconds = time.monotonic() - began
    await asyncio.gather(*following)
    events = runs * (count + 1)
    assert sum(sink.frames for sink in sinks) == events * followers
    return {
        "events": events,
        "events_per_second": events / seconds,
        "cpu_us_per_event": (time.process_time() - cpu) * 1e6 / events,
    }


async def steady(log: Store, runs: int, rate: float, seconds: float) -> dict[str, Any]:
    """`rate` events a second over all runs, evenly spread, one follower each: how late each event was."""
    latencies: list[int] = []
    pace = runs / rate
    sources = [await source(log) for _ in range(runs)]
    following = [follow(log, one.run_id, Sink(latencies)) for one in sources]
    cpu = time.process_time()
    await asyncio.gather(*(one.write(int(seconds / pace), pace, pace * i / runs) for i, one in enumerate(sources)))
    await asyncio.gather(*following)
    cpu = time.process_time() - cpu
    assert len(latencies) == runs * int(seconds / pace)
    return {
        "events_per_second": rate,
        "latency_us": {name: value / 1000 for name, value in percentiles(latencies).items()},
        "cpu_us_per_event": cpu * 1e6 / len(latencies),
    }


async def replay(log: Store) -> dict[str, float]:
    """All pages of one long run that has ended, as a late follower reads them."""
    one = await source(log)
    await one.write(REPLAYED - 1)
    began, seen = time.monotonic(), 0
    while (page := await log.page(one.run_id, seen, PAGE_EVENTS)).records:
        seen = page.records[-1].seq
    assert seen == REPLAYED
    return {"events": seen, "events_per_second": seen / (time.monotonic() - began)}


@asynccontextmanager
async def opened(name: str, folder: str) -> AsyncIterator[Store]:
    """An empty log of this kind."""
    log = open_log(URLS[name](folder), LIMITS)
    await log.open(Nobody())
    try:
        yield log
    finally:
        await log.close()


async def measure(name: str, folder: str, flags: argparse.Namespace) -> dict[str, Any]:
    """All of one log, each figure on an empty one."""
    report: dict[str, Any] = {}
    count = flags.events // flags.runs
    for part, work in (
        ("append", lambda log: burst(log, flags.runs, count, 0)),
        ("follow", lambda log: burst(log, flags.runs, count // 4, FOLLOWERS)),
        ("latency", lambda log: steady(log, flags.runs, flags.rate, flags.seconds)),
        ("replay", replay),
    ):
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            async with opened(name, fresh) as log:
                report[part] = await work(log)
    followed = report["follow"]["cpu_us_per_event"] - report["append"]["cpu_us_per_event"]
    report["cpu_us_per_delivery"] = followed / FOLLOWERS
    return report


async def run(flags: argparse.Namespace) -> dict[str, Any]:
    """All logs asked for."""
    with tempfile.TemporaryDirectory(prefix="logs-", dir=flags.folder) as folder:
        logs = {name: await measure(name, folder, flags) for name in flags.logs}
    return {"runs": flags.runs, "rate": flags.rate, "sqlite_version": sqlite3.sqlite_version, "logs": logs}


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    heads = ("appended/s", "CPU us/append", "CPU us/delivery", "latency p50", "p99 us", "replayed/s")
    widths = (12, 15, 17, 13, 9, 12)
    lines = [
        f"{report['runs']} runs at once; latency at {report['rate']:g} events/s; SQLite {report['sqlite_version']}",
        "",
    ]
    lines.append(" " * 8 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name, row in report["logs"].items():
        latency = row["latency"]["latency_us"]
        lines.append(
            f"{name:8}{row['append']['events_per_second']:>12.0f}{row['append']['cpu_us_per_event']:>15.1f}"
            f"{row['cpu_us_per_delivery']:>17.2f}{latency['p50']:>13.0f}{latency['p99']:>9.0f}"
            f"{row['replay']['events_per_second']:>12.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure the logs.")
    parser.add_argument("logs", nargs="*", metavar="LOG", default=list(URLS), help=f"of {', '.join(URLS)}; default all")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--events", type=int, default=200_000, help="appended in a burst, over all runs")
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, help="where the files go; default: the system's temporary folder")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = uvloop.run(run(flags))
    print(json.dumps(report, indent=2) if flags.json else table(report))


if __name__ == "__main__":
    main()
