"""What Twinwire adds to a model's tokens on their way: latency, CPU per token, and how soon a cancel reaches the model.

    uv run python -m benchmarks.relay [--runs 100] [--rate 50] [--seconds 10] [--rounds 3] [--obfuscated] [--json]

A model's server of our own (tests/support/model_server.py) gives each token the time at which it was sent. In each
round the same number of streams is read straight from it, through nginx without buffering (the floor), and through
Twinwire over SSE and over WebSocket, by raw sockets in this process; what is measured has a processor of its own.
With `--obfuscated` each chunk has the random field that api.openai.com adds.
`ratio` is the CPU over nginx's; added latency is the difference of the percentiles. Cancel is measured from the
command's sending to the moment the model's server sees its connection closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks.command import Report, command
from benchmarks.load import masked
from benchmarks.processes import ROOT, Program, percentiles, program, twinwire

sys.path.insert(0, str(ROOT / "tests"))
from support.model_server import ModelServer, Request, Script, steady

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


def sse(agent: str = "simple") -> bytes:
    """A request to Twinwire over SSE."""
    return f"GET /chat/stream?message=x&agent={agent} HTTP/1.1\r\n{_HEADERS}\r\n".encode()


def websocket() -> bytes:
    """The handshake of a WebSocket."""
    opening = (
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return opening.encode()


def start(agent: str) -> bytes:
    """Return the command that starts a run on a WebSocket."""
    return masked(f'{{"type":"start","request_id":"r","message":"x","agent":"{agent}"}}')


START = start("simple")


async def measure(
    server: Program, port: int, request: bytes, runs: int, rate: float, *, frame: bytes = b""
) -> dict[str, float]:
    """Read `runs` streams, their starts spread over a token's period many times over; what they cost `server`."""
    loop = asyncio.get_running_loop()
    latencies: list[int] = []
    first: list[float] = []
    streams = []
    before = server.cpu(), server.kernel()
    for i in range(runs):
        _, stream = await loop.create_connection(lambda: Stream(request, latencies, first, frame), "127.0.0.1", port)
        streams.append(stream)
        await asyncio.sleep((1 + 0.618034 * i % 1) / rate / 4)
    await asyncio.gather(*(stream.done for stream in streams))
    figures = {
        "tokens": len(latencies),
        "cpu_us": (server.cpu() - before[0]) * 1e6 / len(latencies),
        "kernel_us": (server.kernel() - before[1]) * 1e6 / len(latencies),
    }
    for name in ("p50", "p99"):
        figures[f"{name}_us"] = percentiles(latencies)[name] / 1000
        figures[f"first_{name}_ms"] = percentiles(first)[name] * 1000
    return figures


async def cancelled(port: int, server: ModelServer, count: int) -> dict[str, float]:
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


@contextmanager
def nginx(upstream: str) -> Iterator[tuple[Program, int]]:
    """The floor and its port: nginx, passing on what it reads from `upstream` (a URL)."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise SystemExit("the floor is nginx, which is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        temporary = "".join(
            f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = Path(folder, "nginx.conf")
        configuration.write_text(
            f"daemon off; master_process off; pid {folder}/pid; events {{ worker_connections 16384; }}\n"
            f"http {{ access_log off; {temporary}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; proxy_http_version 1.1;\n"
            "proxy_set_header Connection ''; proxy_buffering off; } } }"
        )
        # It prints nothing when it is ready; a connection that comes before is refused and tried again.
        shell = ("sh", "-c", 'echo; exec "$@"', "sh", found, "-e", "stderr", "-c", str(configuration))
        with program(*shell, measured=True) as server:
            while True:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield server, port


async def run(runs: int, rate: float, seconds: float, rounds: int, cancels: int, *, obfuscated: bool) -> Report:
    """All of it. The rounds' medians."""
    environ = {"OPENAI_API_KEY": "none", "TWINWIRE_RUN_TIMEOUT": "600"}
    steady_rate = ("--stamp", "--rate", f"{rate}", "--tokens", f"{int(rate * seconds)}")
    chunks = ("--obfuscated",) if obfuscated else ()
    model = (sys.executable, ROOT / "tests/support/model_server.py", *steady_rate, *chunks)
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in ("straight", "nginx", "sse", "ws")}
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(program(*model))
        origin = upstream.line.removesuffix("/v1")
        floor, floor_port = stack.enter_context(nginx(origin))
        server, port = stack.enter_context(twinwire("--base-url", upstream.line, "--model", "m", environ=environ))
        await measure(server, port, sse(), runs, rate)  # imports, connections, the first garbage collections
        for _ in range(rounds):
            to_model = (upstream, int(origin.rpartition(":")[2]), straight())
            taken["straight"].append(await measure(*to_model, runs, rate))
            taken["nginx"].append(await measure(floor, floor_port, straight(), runs, rate))
            taken["sse"].append(await measure(server, port, sse(), runs, rate))
            taken["ws"].append(await measure(server, port, websocket(), runs, rate, frame=START))

    def endless(_: Request) -> Script:
        return steady(rate, 10_000, stamp=True)

    async with ModelServer(endless) as upstream_here:
        with twinwire("--base-url", upstream_here.url, "--model", "m", environ=environ) as (_, port):
            cancel = await cancelled(port, upstream_here, cancels)
    report = {name: {key: median(row[key] for row in rows) for key in rows[0]} for name, rows in taken.items()}
    for row in report.values():
        for name in ("p50", "p99"):
            row[f"added_{name}_us"] = row[f"{name}_us"] - report["straight"][f"{name}_us"]
        row["ratio"] = row["cpu_us"] / report["nginx"]["cpu_us"]
    return {"runs": runs, "rate": rate, "seconds": seconds, "rounds": rounds, **report, "cancel_ms": cancel}


def table(report: Report) -> str:
    """The report for a person."""
    columns = {
        "tokens": 0, "cpu_us": 1, "kernel_us": 1, "ratio": 2, "p50_us": 0, "p99_us": 0,
        "added_p50_us": 0, "added_p99_us": 0, "first_p50_ms": 2, "first_p99_ms": 2,
    }  # fmt: skip
    lines = [
        f"{report['runs']} runs x {report['rate']:g} tokens/s x {report['seconds']:g} s, {report['rounds']} rounds",
        "",
    ]
    lines.append(" " * 8 + "".join(f"{name:>13}" for name in columns))
    for name in ("straight", "nginx", "sse", "ws"):
        row = report[name]
        lines.append(f"{name:8}" + "".join(f"{row[key]:>13.{digits}f}" for key, digits in columns.items()))
    cancel = report["cancel_ms"]
    lines += ["", f"cancel to the model's connection closed: p50 {cancel['p50']:.2f} ms, p99 {cancel['p99']:.2f} ms"]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    about = "Measure what Twinwire adds to a model's tokens."
    command(about, run, table, runs=100, rate=50.0, seconds=10.0, rounds=3, cancels=200, obfuscated=False)


if __name__ == "__main__":
    main()
