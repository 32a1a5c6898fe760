"""What the logs cost: CPU per event appended and delivered, how many events they take and replay, how late they are.

    uv run python -m benchmarks.logs [memory sqlite redis] [--runs 100] [--rate 5000] [--seconds 5] [--json]

Runs' own writers put events into each log in this process, and pumps deliver them to connections that take everything
at once. `append`: as fast as the log takes them, with nobody following. `follow`: the same with followers; what each
delivery adds. `latency`: at a steady rate over all runs, from an event's making to its frame on the connection;
`across`: the same with the writers in a process of their own, where processes share the log. `replay`: one run of
100,000 events, from its first to its last. CPU is this process's, with SQLite's thread; that of Redis' server is apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.processes import ROOT, cpu_of, percentiles
from benchmarks.writers import Nobody, opened, settle, source, write, write_evenly
from twinwire.formats import native
from twinwire.log import Store
from twinwire.transports import Verdict
from twinwire.transports.pump import PAGE_EVENTS, Pump

sys.path.insert(0, str(ROOT / "tests"))
from support import redis_server

URLS: dict[str, Callable[[str], str]] = {
    "memory": lambda _: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder}/log.db",
    "redis": lambda _: redis_server.fresh(),  # a Valkey of our own on this machine, without persistence
}
FOLLOWERS = 16
REPLAYED = 100_000
_STAMP = re.compile(rb'"content":"(\d+) ')


class Sink:
    """A connection that takes everything at once and notes how many events, and how late each was.

    It is its own `Direct`.
    """

    name = "sink"
    asks = False
    ping = None
    rest: Callable[[Any, Any], Awaitable[None]] | None = None
    transport: asyncio.Transport  # there is none

    def __init__(self, latencies: list[int] | None = None) -> None:
        self.direct = self  # as on our own server
        self.push: Callable[[bytes], object] = self._take
        self.on_pause: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.frames = 0
        self.latencies = latencies

    def listen(self, heard: Callable[[], None] | None) -> None:
        """See `Direct`."""

    def take(self) -> Any:
        """See `Direct`."""
        return None

    def stranger(self, *, unknown: bool) -> None:
        """See `Direct`."""

    def frame(self, frames: Sequence[bytes]) -> bytes:
        """See `Direct`."""
        return b"".join(frames)

    def _take(self, data: bytes) -> None:
        self.frames += data.count(b'"id":"evt-')
        if self.latencies is not None:
            now = time.monotonic_ns()
            self.latencies += [now - int(match[1]) for match in _STAMP.finditer(data)]

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`."""
        self.push(self.frame(frames))
        return True

    async def drain(self) -> None:
        """See `Transport`."""

    def unsent(self) -> int | None:
        """Nobody takes anything."""
        return None

    def heartbeat(self) -> bool:
        """See `Transport`."""
        return True

    async def close(self, verdict: Verdict) -> None:
        """See `Transport`."""


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
    sources = [await source(log) for _ in range(runs)]
    following = [follow(log, one.run_id, Sink(latencies)) for one in sources]
    cpu = time.process_time()
    await write_evenly(sources, rate, seconds)
    await asyncio.gather(*following)
    return lateness(latencies, runs, rate, seconds, time.process_time() - cpu)


def lateness(latencies: Sequence[int], runs: int, rate: float, seconds: float, cpu: float) -> dict[str, Any]:
    """What there is to say of so many nanoseconds, and of the seconds of CPU they took."""
    assert len(latencies) == runs * int(seconds / (runs / rate))
    return {
        "events_per_second": rate,
        "latency_us": {name: value / 1000 for name, value in percentiles(latencies).items()},
        "cpu_us_per_event": cpu * 1e6 / len(latencies),
    }


async def across(log: Store, url: str, runs: int, rate: float, seconds: float) -> dict[str, Any]:
    """As `steady`, with the writers in a process of their own."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe()
    writer = spawning.Process(target=write, args=(url, runs, rate, seconds, there))
    writer.start()
    latencies: list[int] = []
    following = [follow(log, run_id, Sink(latencies)) for run_id in await asyncio.to_thread(here.recv)]
    await asyncio.sleep(0.5)  # until all are followed
    settle()
    cpu = time.process_time()
    here.send(None)
    await asyncio.gather(*following)
    report = lateness(latencies, runs, rate, seconds, time.process_time() - cpu)
    report["writer_cpu_us_per_event"] = (await asyncio.to_thread(here.recv)) * 1e6 / len(latencies)
    writer.join()
    return report


async def replay(log: Store) -> dict[str, float]:
    """All pages of one long run that has ended, as a late follower reads them."""
    one = await source(log)
    await one.write(REPLAYED - 1)
    began, seen = time.monotonic(), 0
    while (page := await log.page(one.run_id, seen, PAGE_EVENTS)).records:
        seen = page.records[-1].seq
    assert seen == REPLAYED
    return {"events": seen, "events_per_second": seen / (time.monotonic() - began)}


def store(name: str) -> float:
    """Seconds of CPU that the server of a log has used so far."""
    return cpu_of(redis_server.shared_pid()) if name == "redis" else 0.0


async def measure(name: str, folder: str, flags: argparse.Namespace) -> dict[str, Any]:
    """All of one log, each figure on an empty one."""
    report: dict[str, Any] = {}
    count = flags.events // flags.runs
    steadily = (flags.runs, flags.rate, flags.seconds)
    for part, work in (
        ("append", lambda log, _: burst(log, flags.runs, count, 0)),
        ("follow", lambda log, _: burst(log, flags.runs, count // 4, FOLLOWERS)),
        ("latency", lambda log, _: steady(log, *steadily)),
        ("replay", lambda log, _: replay(log)),
        ("across", lambda log, url: across(log, url, *steadily)),
    ):
        if part != "across" or name == "redis":
            with tempfile.TemporaryDirectory(dir=folder) as fresh:
                url = URLS[name](fresh)
                async with opened(url) as log:
                    before = store(name)
                    found = report[part] = await work(log, url)
                    events = found.get("events") or flags.rate * flags.seconds
                    found["store_us_per_event"] = (store(name) - before) * 1e6 / events
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
    heads = ("appended/s", "CPU us/append", "server's", "CPU us/delivery", "latency p50", "p99 us", "replayed/s")
    widths = (12, 15, 10, 17, 13, 9, 12)
    lines = [
        f"{report['runs']} runs at once; latency at {report['rate']:g} events/s; SQLite {report['sqlite_version']}",
        "",
    ]
    lines.append(" " * 8 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name, row in report["logs"].items():
        latency = row["latency"]["latency_us"]
        lines.append(
            f"{name:8}{row['append']['events_per_second']:>12.0f}{row['append']['cpu_us_per_event']:>15.1f}"
            f"{row['append']['store_us_per_event']:>10.1f}"
            f"{row['cpu_us_per_delivery']:>17.2f}{latency['p50']:>13.0f}{latency['p99']:>9.0f}"
            f"{row['replay']['events_per_second']:>12.0f}"
        )
        if "across" in row:
            latency, cpu = row["across"]["latency_us"], row["across"]["cpu_us_per_event"]
            stored = row["across"]["store_us_per_event"]
            lines.append(
                f"{'  from another process':35}{stored:>10.1f}{cpu:>17.2f}{latency['p50']:>13.0f}{latency['p99']:>9.0f}"
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
