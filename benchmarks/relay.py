"""What Twinwire adds to a model's tokens on their way: latency, CPU per token, and how soon a cancel reaches the model.

    uv run python -m benchmarks.relay [--runs 100] [--rate 50] [--seconds 10] [--json]

A model's server of our own (tests/model_server.py) gives each token the time at which it was sent. The same number of
streams is read straight from it, then through Twinwire over SSE and over WebSocket, by raw sockets in this process; the
server has a processor of its own. Added latency is the difference of the percentiles. Cancel is measured from the
command's sending to the moment the model's server sees its connection closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import sys
import time
from typing import Any, cast

import uvloop

from benchmarks.processes import ROOT, percentiles, program, twinwire

sys.path.insert(0, str(ROOT / "tests"))
from model_server import ModelServer, Request, Script, steady

_STAMP = re.compile(rb'"content":\s?"(\d{9,}) "')
_HEADERS = "Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Stream(asyncio.Protocol):
    """One connection that asks once (on a WebSocket, with a command once it is open) and notes when each token came."""

    def __init__(self, request: bytes, latencies: list[int], first: list[float], command: bytes = b"") -> None:
        self.request = request
        self.command = command
        self.latencies = latencies
        self.first = first
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self.transport = cast("asyncio.Transport", transport)
        self.began = time.monotonic()
        self.transport.write(self.request)
        self.waiting = True

    def data_received(self, data: bytes) -> None:
        """Note the tokens in it."""
        now = time.monotonic_ns()
        if self.command and data.startswith(b"HTTP/1.1 101"):
            self.transport.write(self.command)
        self.buffer += data
        end = 0
        for match in _STAMP.finditer(self.buffer):
            self.latencies.append(now - int(match[1]))
            end = match.end()
            if self.waiting:
                self.waiting = False
                self.first.append(time.monotonic() - self.began)
        ended = b"[DONE]" in self.buffer or b"AGENT_FINISH" in self.buffer or b'"ERROR"' in self.buffer
        self.buffer = self.buffer[end:][-4096:]
        if ended and not self.done.done():
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """The other side has gone."""
        if not self.done.done():
            self.done.set_result(None)


def straight() -> bytes:
    """A request to the model's server itself."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True})
    return f"POST /v1/chat/completions HTTP/1.1\r\n{_HEADERS}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def sse() -> bytes:
    """A request to Twinwire over SSE."""
    return f"GET /chat/stream?message=x&agent=simple HTTP/1.1\r\n{_HEADERS}\r\n".encode()


def masked(text: str) -> bytes:
    """A client's WebSocket text frame, masked with zeros."""
    data = text.encode()
    assert len(data) < 126
    return bytes([0x81, 0x80 | len(data)]) + bytes(4) + data


def websocket() -> bytes:
    """The handshake of a WebSocket."""
    opening = (
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return opening.encode()


START = masked('{"type":"start","request_id":"r","message":"x","agent":"simple"}')


async def measure(port: int, request: bytes, runs: int, rate: float, *, frame: bytes = b"") -> dict[str, Any]:
    """Read `runs` streams, their starts spread over a token's period many times over."""
    loop = asyncio.get_running_loop()
    latencies: list[int] = []
    first: list[float] = []
    streams = []
    for i in range(runs):
        _, stream = await loop.create_connection(lambda: Stream(request, latencies, first, frame), "127.0.0.1", port)
        streams.append(stream)
        await asyncio.sleep((1 + 0.618034 * i % 1) / rate / 4)
    await asyncio.gather(*(stream.done for stream in streams))
    return {
        "tokens": len(latencies),
        "latency_us": {name: value / 1000 for name, value in percentiles(latencies).items()},
        "first_token_ms": {name: value * 1000 for name, value in percentiles(first).items()},
    }


async def cancels(port: int, server: ModelServer, count: int) -> dict[str, float]:
    """Milliseconds from a WebSocket cancel's sending to the model's server seeing its connection closed."""
    taken = []
    loop = asyncio.get_running_loop()
    for _ in range(count):
        _, stream = await loop.create_connection(lambda: Stream(websocket(), [], [], START), "127.0.0.1", port)
        request: Request = await server.arrived()
        while stream.waiting:  # noqa: ASYNC110 - a pause between the cancels, too
            await asyncio.sleep(0.001)
        began = time.monotonic()
        stream.transport.write(masked('{"type":"cancel","request_id":"r"}'))
        await request.closed.wait()
        taken.append((time.monotonic() - began) * 1000)
        await stream.done
    return percentiles(taken)


async def run(runs: int, rate: float, seconds: float, cancel_count: int) -> dict[str, Any]:
    """All of it; the server on processor 0, everything else on processor 1."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    report: dict[str, Any] = {"runs": runs, "rate": rate, "seconds": seconds}
    steady_rate = ("--stamp", "--rate", f"{rate}", "--tokens", f"{int(rate * seconds)}")
    model = (sys.executable, ROOT / "tests/model_server.py", *steady_rate)
    environ = {"OPENAI_API_KEY": "none", "TWINWIRE_RUN_TIMEOUT": "600"}
    with program(*model, processor=1) as upstream:
        port = int(upstream.line.partition("//")[2].partition("/")[0].rpartition(":")[2])
        report["straight"] = await measure(port, straight(), runs, rate)
        with twinwire("--base-url", upstream.line, "--model", "m", environ=environ) as (server, port):
            await measure(port, sse(), runs, rate)  # imports, connections, the first garbage collections
            for name, request, frame in (("sse", sse(), b""), ("ws", websocket(), START)):
                before = server.cpu()
                report[name] = await measure(port, request, runs, rate, frame=frame)
                report[name]["cpu_us_per_token"] = (server.cpu() - before) * 1e6 / report[name]["tokens"]
                report[name]["added_us"] = {
                    key: value - report["straight"]["latency_us"][key]
                    for key, value in report[name]["latency_us"].items()
                }

    def endless(_: Request) -> Script:
        return steady(rate, 10_000, 0.0, stamp=True)

    async with ModelServer(endless) as upstream_here:
        with twinwire("--base-url", upstream_here.url, "--model", "m", environ=environ) as (_, port):
            report["cancel_ms"] = await cancels(port, upstream_here, cancel_count)
    return report


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    lines = [f"{report['runs']} runs x {report['rate']:g} tokens/s x {report['seconds']:g} s", ""]
    heads = ("tokens", "CPU us/token", "latency p50", "p99 us", "added p50", "p99 us", "first p50", "p99 ms")
    widths = (8, 14, 13, 9, 11, 9, 11, 9)
    lines.append(" " * 10 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for name in ("straight", "sse", "ws"):
        row = report[name]
        added = row.get("added_us", {"p50": 0, "p99": 0})
        lines.append(
            f"{name:10}{row['tokens']:>8}{row.get('cpu_us_per_token', 0):>14.1f}{row['latency_us']['p50']:>13.0f}"
            f"{row['latency_us']['p99']:>9.0f}{added['p50']:>11.0f}{added['p99']:>9.0f}"
            f"{row['first_token_ms']['p50']:>11.2f}{row['first_token_ms']['p99']:>9.2f}"
        )
    cancel = report["cancel_ms"]
    lines += ["", f"cancel to the model's connection closed: p50 {cancel['p50']:.2f} ms, p99 {cancel['p99']:.2f} ms"]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what Twinwire adds to a model's tokens.")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--cancels", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = uvloop.run(run(flags.runs, flags.rate, flags.seconds, flags.cancels))
    print(json.dumps(report, indent=2) if flags.json else table(report))


if __name__ == "__main__":
    main()
