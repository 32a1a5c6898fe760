"""What connections cost that wait: memory of each, and CPU for their heartbeats.

    uv run python -m benchmarks.idle [--connections 5000] [--seconds 10] [--heartbeat 5] [--json]

All follow one run that says nothing. Memory is what the server's resident set has grown by; it holds nothing of the
kernel's. CPU is of one processor, in per cent, while heartbeats go out.
"""

from __future__ import annotations

import asyncio
import resource

from benchmarks.command import Report, command
from benchmarks.fanout import Sink, connect
from benchmarks.load import masked
from benchmarks.processes import twinwire
from benchmarks.relay import websocket

PING, PONG, MASKED = 0x89, 0x8A, 0x80  # RFC 6455, section 5.2
QUIET = "%7B%22rate%22:1,%22count%22:1,%22delay%22:100000%7D"


class Waiting(Sink):
    """A connection that answers pings."""

    def data_received(self, data: bytes) -> None:
        """Answer a ping, which comes alone; count the rest."""
        if data[0] == PING:
            payload = data[2 : 2 + data[1]]
            self.transport.write(bytes((PONG, MASKED | len(payload))) + bytes(4) + payload)
        else:
            super().data_received(data)


async def take(transport: str, connections: int, seconds: float, heartbeat: float) -> dict[str, float]:
    """One transport's figures."""
    flags = ("--run-timeout", "100000", "--max-connections", "100000", "--heartbeat", f"{heartbeat}")
    with twinwire("benchmarks.agents:steady", *flags, "--user-connections", "100000") as (server, port):
        start = f"GET /chat/stream?message={QUIET}&on_disconnect=continue HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        (first,) = await connect(port, [(start, b"")])
        while b"-1\n" not in first.head:  # noqa: ASYNC110 - another program's answer
            await asyncio.sleep(0.01)
        run_id = first.head.partition(b"evt-")[2][:26].decode()
        follow = (f"GET /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), b"")
        if transport == "ws":
            follow = (websocket(), masked(f'{{"type":"attach","run_id":"{run_id}"}}'))
        await warm(port, follow)
        before, cpu = server.rss(), server.cpu()
        sinks = await connect(port, [follow] * connections, Waiting)
        while not all(sink.events for sink in sinks):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
        figures = {
            "connect_us": (server.cpu() - cpu) * 1e6 / connections,
            "kB": (server.rss() - before) / connections / 1000,
        }
        cpu = server.cpu()
        await asyncio.sleep(seconds)
        figures["cpu_percent"] = (server.cpu() - cpu) / seconds * 100
        for sink in (*sinks, first):
            sink.transport.abort()
        return figures


async def warm(port: int, follow: tuple[bytes, bytes]) -> None:
    """Let what is loaded and allocated once be so: some connections that come and go."""
    sinks: list[Sink] = await connect(port, [follow] * 50)
    while not all(sink.events for sink in sinks):  # noqa: ASYNC110 - another program's answer
        await asyncio.sleep(0.05)
    for sink in sinks:
        sink.transport.abort()
    await asyncio.sleep(0.3)


async def run(connections: int, seconds: float, heartbeat: float) -> Report:
    """Both transports, one after the other."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if connections + 100 > most:
        raise SystemExit(f"--connections: only {most} files may be open here")
    report: Report = {"connections": connections, "heartbeat": heartbeat}
    for transport in ("sse", "ws"):
        report[transport] = await take(transport, connections, seconds, heartbeat)
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
    command("Measure what connections cost that wait.", run, table, connections=5000, seconds=10.0, heartbeat=15.0)


if __name__ == "__main__":
    main()
