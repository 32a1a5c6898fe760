"""Server CPU per delivered event, as a ratio to a floor in the same run: one run to many followers, and many runs.

    uv run python -m benchmarks.fanout [--connections 500] [--seconds 5] [--json]

`fan-out` is one run at 100 events/s to all connections, `many` a run of 50 events/s for each. The floor
(`benchmarks.floor`) writes the same bytes from a uvloop Protocol and does nothing else. Server on processor 0,
connections on processor 1; floor and Twinwire take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import sys
import time
from typing import Any, cast

import uvloop

from benchmarks.processes import Program, percentiles, program, twinwire
from benchmarks.relay import masked, websocket

TAKES = {"fan-out": 100.0, "many": 50.0}


class Sink(asyncio.Protocol):
    """A connection that asks and counts what comes."""

    def __init__(self, request: bytes, command: bytes) -> None:
        self.request, self.command = request, command
        self.events = 0
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count."""
        if self.command and b"101 Switching" in data:
            self.transport.write(self.command)
            self.command = b""
        if len(self.head) < 2048:
            self.head += data
        self.events += data.count(b"LLM_CHUNK")


async def connect(port: int, requests: list[tuple[bytes, bytes]]) -> list[Sink]:
    """Open connections, a few at a time."""
    loop = asyncio.get_running_loop()
    sinks = []
    for asked in requests:
        _, sink = await loop.create_connection(functools.partial(Sink, *asked), "127.0.0.1", port)
        sinks.append(sink)
        if len(sinks) % 50 == 0:
            await asyncio.sleep(0.02)
    return sinks


async def count(server: Program, sinks: list[Sink], begins: float, expected: int) -> dict[str, float]:
    """CPU of the server for the events from `begins` (monotonic) until all have come."""
    await asyncio.sleep(max(0.0, begins - 0.3 - time.monotonic()))
    cpu, before = server.cpu(), sum(sink.events for sink in sinks)
    end = begins + 60
    while sum(sink.events for sink in sinks) - before < expected * 0.98 and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    delivered = sum(sink.events for sink in sinks) - before
    used = server.cpu() - cpu
    for sink in sinks:
        sink.transport.close()
    return {"delivered": delivered, "cpu_us": used * 1e6 / delivered}


async def floor(take: str, transport: str, connections: int, seconds: float) -> dict[str, float]:
    """The floor's figure."""
    rate = TAKES[take]
    total = int(rate * seconds)
    delay = 1.5 + connections / 1000
    flags = ["--each"] if take == "many" else []
    command = (sys.executable, "-m", "benchmarks.floor", f"{rate}", f"{total}", f"{delay}", *flags)
    with program(*command, processor=0) as server:
        begins = time.monotonic() + delay
        request = f"GET /{transport} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        sinks = await connect(int(server.line), [(request, b"")] * connections)
        return await count(server, sinks, begins, total * connections)


async def ours(take: str, transport: str, connections: int, seconds: float) -> dict[str, float]:
    """Twinwire's figure."""
    rate = TAKES[take]
    total = int(rate * seconds)
    delay = 1.5 + connections / 300
    with twinwire("benchmarks.agents:steady", "--run-timeout", "600", "--max-runs", "2000") as (server, port):
        begins = time.monotonic() + delay
        requests = []
        loads = [f'{{"rate":{rate},"count":{total},"delay":{delay:.3f}}}']
        if take == "many":
            loads = [
                f'{{"rate":{rate},"count":{total},"delay":{delay + i / connections / rate:.4f}}}'
                for i in range(connections)
            ]
        for load in loads:
            quoted = load.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
            if transport == "sse":
                requests.append(
                    (f"GET /chat/stream?message={quoted} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
                )
            else:
                escaped = load.replace('"', '\\"')
                start = f'{{"type":"start","request_id":"r","message":"{escaped}"}}'
                requests.append((websocket(), masked(start)))
        sinks = await connect(port, requests)
        if take == "fan-out":
            while b"evt-" not in sinks[0].head:  # noqa: ASYNC110 - a connection of another program
                await asyncio.sleep(0.01)
            run_id = sinks[0].head.partition(b"evt-")[2][:26].decode()
            follow = (f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
            if transport == "ws":
                follow = (websocket(), masked(f'{{"type":"attach","run_id":"{run_id}"}}'))
            sinks += await connect(port, [follow] * (connections - 1))
        return await count(server, sinks, begins, total * connections)


async def run(connections: int, seconds: float, rounds: int) -> dict[str, Any]:
    """All of it, `rounds` times in turn; the medians."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    report: dict[str, Any] = {"connections": connections, "seconds": seconds, "rounds": rounds}
    for take in TAKES:
        for transport in ("sse", "ws"):
            floors, figures, ratios = [], [], []
            for _ in range(rounds):
                floors.append((await floor(take, transport, connections, seconds))["cpu_us"])
                figures.append((await ours(take, transport, connections, seconds))["cpu_us"])
                ratios.append(figures[-1] / floors[-1])
            report[f"{take} {transport}"] = {
                "floor_us": percentiles(floors)["p50"],
                "cpu_us": percentiles(figures)["p50"],
                "ratio": percentiles(ratios)["p50"],
            }
    return report


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [f"{report['connections']} connections, {report['seconds']:g} s, {report['rounds']} rounds", ""]
    lines.append(f"{'':14}{'floor us':>10}{'ours us':>10}{'ratio':>8}")
    for name, row in report.items():
        if isinstance(row, dict):
            lines.append(f"{name:14}{row['floor_us']:>10.2f}{row['cpu_us']:>10.2f}{row['ratio']:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what delivering an event costs, against a floor.")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = uvloop.run(run(flags.connections, flags.seconds, flags.rounds))
    print(json.dumps(report, indent=2) if flags.json else table(report))


if __name__ == "__main__":
    main()
