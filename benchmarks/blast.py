"""How many of a model's tokens one processor can pass on: a few runs, as fast as it goes.

    uv run python -m benchmarks.blast [--runs 8] [--tokens 25000] [--rounds 3] [--json]

The model's server here writes ready bytes, so many tokens in one HTTP chunk, and the clients only count; what is
measured has a processor of its own. Where the model's server is the faster one, tokens wait and are joined.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from statistics import median

import uvloop

from benchmarks.command import Report, command
from benchmarks.processes import Program, program, twinwire
from benchmarks.relay import START, Stream, sse, websocket

JOINED = (1, 8, 64)
DELTA = b'"delta"'


class Counter(Stream):
    """A stream whose tokens are counted."""

    tokens = 0
    rest = b""  # what may be the first part of a name

    def data_received(self, data: bytes) -> None:
        """Count, also what a read cuts in two."""
        if self.command and data.startswith(b"HTTP/1.1 101"):
            self.transport.write(self.command)
        data = self.rest + data
        self.tokens += data.count(DELTA)
        self.rest = data[1 - len(DELTA) :]
        if (b"AGENT_FINISH" in data or b'"ERROR"' in data) and not self.done.done():
            self.done.set_result(None)
            self.transport.close()


async def model(joined: int, tokens: int) -> None:
    """A model's server: answers each request with `tokens` tokens, `joined` of them in a chunk. Prints its URL."""

    def chunk(events: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(events), events)

    token = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"123456789 "}}]}\n\n'
    piece = chunk(token * joined)
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for _ in range(tokens // joined):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(chunk(end) + b"0\r\n\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.Event().wait()


async def once(server: Program, port: int, transport: str, runs: int) -> dict[str, float]:
    """One round."""
    loop = asyncio.get_running_loop()
    request, command = (sse(), b"") if transport == "sse" else (websocket(), START)
    cpu, began = server.cpu(), time.monotonic()
    streams = []
    for _ in range(runs):
        _, stream = await loop.create_connection(lambda: Counter(request, [], [], command), "127.0.0.1", port)
        streams.append(stream)
    await asyncio.gather(*(stream.done for stream in streams))
    tokens, used = sum(stream.tokens for stream in streams), server.cpu() - cpu
    return {
        "tokens": tokens,
        "tokens_a_second": tokens / (time.monotonic() - began),
        "tokens_a_core": tokens / used,
        "cpu_us": used * 1e6 / tokens,
    }


async def run(runs: int, tokens: int, rounds: int) -> Report:
    """All of it; the rounds' medians."""
    report: Report = {"runs": runs, "tokens": tokens, "rounds": rounds}
    environ = {"OPENAI_API_KEY": "none", "TWINWIRE_RUN_TIMEOUT": "600"}
    for joined in JOINED:
        serving = (sys.executable, "-m", "benchmarks.blast", "serve", f"{joined}", f"{tokens}")
        with contextlib.ExitStack() as stack:
            upstream = stack.enter_context(program(*serving))
            server, port = stack.enter_context(twinwire("--base-url", upstream.line, "--model", "m", environ=environ))
            for transport in ("sse", "ws"):
                await once(server, port, transport, runs)  # the first round pays for what is loaded once
                taken = [await once(server, port, transport, runs) for _ in range(rounds)]
                assert all(row["tokens"] == runs * (tokens // joined) * joined for row in taken)
                report[f"{transport}, {joined} joined"] = {key: median(row[key] for row in taken) for key in taken[0]}
    return report


def table(report: Report) -> str:
    """The report for a person."""
    lines = [f"{report['runs']} runs of {report['tokens']} tokens, {report['rounds']} rounds", ""]
    lines.append(f"{'':16}{'tokens/s':>12}{'on a core':>12}{'CPU us/token':>14}")
    for name, row in report.items():
        if isinstance(row, dict):
            lines.append(f"{name:16}{row['tokens_a_second']:>12.0f}{row['tokens_a_core']:>12.0f}{row['cpu_us']:>14.2f}")
    return "\n".join(lines)


def main() -> None:
    """The command; or its model's server."""
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(model(*map(int, sys.argv[2:])))
    else:
        about = "Measure how many tokens one processor can pass on."
        command(about, run, table, runs=8, tokens=25_000, rounds=3)


if __name__ == "__main__":
    main()
