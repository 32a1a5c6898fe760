"""What connections cost that wait: memory of each, and CPU for their heartbeats.

    uv run python -m benchmarks.idle [--connections 5000] [--seconds 15] [--heartbeat 15] [--json]

All follow one run that says nothing. Memory is what the server's resident set has grown by; it holds nothing of the
kernel's. CPU is of one processor, in per cent, while heartbeats go out.
"""

from __future__ import annotations

import resource
import time

from benchmarks.command import Report, command
from benchmarks.fanout import Sinks
from benchmarks.load import masked
from benchmarks.processes import twinwire
from benchmarks.relay import websocket

QUIET = "%7B%22rate%22:1,%22count%22:1,%22delay%22:100000%7D"


def take(transport: str, connections: int, seconds: float, heartbeat: float) -> dict[str, float]:
    """One transport's figures."""
    flags = ("--run-timeout", "100000", "--max-connections", "100000", "--heartbeat", f"{heartbeat}")
    with twinwire("benchmarks.agents:steady", *flags, "--user-connections", "100000") as (server, port):
        start = f"GET /chat/stream?message={QUIET}&on_disconnect=continue HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        first = Sinks()
        first.connect(port, [(start, b"")])
        while b"-1\n" not in first.all[0].head:
            first.read(0.01)
        run_id = first.all[0].head.partition(b"evt-")[2][:26].decode()
        follow = (f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
        if transport == "ws":
            follow = (websocket(), masked(f'{{"type":"attach","run_id":"{run_id}"}}'))
        connected(port, [follow] * 50).close()  # what is loaded and allocated once
        time.sleep(0.3)
        before, cpu = server.rss(), server.cpu()
        sinks = connected(port, [follow] * connections)
        figures = {
            "connect_us": (server.cpu() - cpu) * 1e6 / connections,
            "kB": (server.rss() - before) / connections / 1000,
        }
        cpu = server.cpu()
        sinks.read(seconds)
        figures["cpu_percent"] = (server.cpu() - cpu) / seconds * 100
        sinks.close()
        first.close()
        return figures


def connected(port: int, requests: list[tuple[bytes, bytes]]) -> Sinks:
    """Connections that have had an event each."""
    sinks = Sinks()
    sinks.connect(port, requests)
    while not all(sink.events for sink in sinks.all):
        sinks.read(0.05)
    return sinks


async def run(connections: int, seconds: float, heartbeat: float) -> Report:
    """Both transports, one after the other."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if connections + 100 > most:
        raise SystemExit(f"--connections: only {most} files may be open here")
    report: Report = {"connections": connections, "heartbeat": heartbeat}
    for transport in ("sse", "ws"):
        report[transport] = take(transport, connections, seconds, heartbeat)
    return report


def table(report: Report) -> str:
    """The report for a person."""
    lines = [f"{report['connections']} connections, a heartbeat each {report['heartbeat']:g} s", ""]
    lines.append(f"{'':6}{'kB each':>10}{'connect us':>12}{'CPU %':>8}")
    for transport in ("sse", "ws"):
        row = report[transport]
        lines.append(f"{transport:6}{row['kB']:>10.1f}{row['connect_us']:>12.0f}{row['cpu_percent']:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    command("Measure what connections cost that wait.", run, table, connections=5000, seconds=15.0, heartbeat=15.0)


if __name__ == "__main__":
    main()
