"""A model's server with scripted answers: HTTP/1.1 over asyncio, speaking OpenAI's streamed chat completions.

    async with ModelServer() as server:
        server.script(calls(("Read", {"path": "README.md"})))    # the answer to the first request
        server.script(answer("It ", "says ", "hello."))          # ... and to the second
        model = OpenAIChatModel("scripted", base_url=server.url)
        request = await server.arrived()         # the next one not yet taken: `headers`, `body` (decoded JSON)
        await request.closed.wait()              # until the client, or the script, has closed its connection

A script is a sequence of steps: `bytes` are sent at once as one HTTP chunk of the body; an action is a coroutine
function of the `Exchange`; a list is its steps in turn. Then the body is ended as it should be (without `end()` that is
a clean EOF without finish_reason), and the connection is kept for the next request.

    whole answers   answer("a", "b"), calls(("Read", {"path": "x"}), ...), status(429, {"retry-after": "1"}, body)
    deltas          text("a", "b"), reasoning("hm"), call_deltas(...), end("stop", usage=(3, 2)), delta({...}), sse(...)
    shapes          joined(...): one write; bytewise(...): a chunk for each byte; crlf(...)
    actions         gate(event): wait for an asyncio.Event; headers: send only those; cut: close in mid-body;
                    reset: RST; stall: wait until the client closes (as the first step: without headers)

`ModelServer(respond)` asks `respond(request)` for a script where none is queued.
As a program, `python tests/model_server.py --port 0 --rate 50 --tokens 200` prints its URL and answers every request
with that many tokens at that rate, the first one at once. With `--stamp` each token is
`<time.monotonic_ns() at its sending> `. With `--obfuscated` each chunk has the random field that api.openai.com adds.
Both serve `GET /v1/models`. It knows HTTP no further than clients need here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import string
import struct
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias, cast

import uvloop

Action = Callable[["Exchange"], Awaitable[None]]
Step: TypeAlias = "bytes | Action | Sequence[Step]"
Script: TypeAlias = Sequence[Step]
Fields: TypeAlias = dict[str, Any]
DONE = b"data: [DONE]\n\n"


class Request:
    """One request: `method`, `path`, `headers` (lower-case names), `body` (decoded JSON or None), `closed`."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: Any, closed: asyncio.Event) -> None:
        self.method, self.path, self.headers, self.body, self.closed = method, path, headers, body, closed


class Exchange:
    """A request and the answer to it, for actions."""

    def __init__(self, request: Request, transport: asyncio.Transport) -> None:
        self.request, self.transport, self.begun = request, transport, False

    def begin(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send the head, once."""
        if not self.begun:
            self.begun = True
            fields = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **(headers or {})}
            lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in fields.items())]
            self.transport.write("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send a part of the body as one HTTP chunk; an empty one ends the body."""
        self.begin()
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def play(self, script: Script) -> None:
        """Take each step in turn."""
        for step in script:
            if callable(step):
                await step(self)
            elif isinstance(step, bytes):
                self.send(step)
            else:
                await self.play(step)


def sse(data: object) -> bytes:
    """One event whose data is this object as JSON."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def delta(fields: Fields, finish_reason: str | None = None, **more: object) -> bytes:
    """Make a chunk with this delta, and with `more` behind its choices."""
    choices = [{"index": 0, "delta": fields, "finish_reason": finish_reason}]
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "scripted", "choices": choices}
    return sse(chunk | more)


def obfuscation(chance: random.Random) -> Fields:
    """Return the field that api.openai.com adds to each chunk, so that its size does not tell the token's."""
    return {"obfuscation": "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randint(1, 16)))}


def text(*tokens: str) -> list[bytes]:
    """Make a chunk for each token."""
    return [delta({"content": token}) for token in tokens]


def reasoning(*tokens: str, field: str = "reasoning_content") -> list[bytes]:
    """Make a chunk for each token of the model's reasoning."""
    return [delta({field: token}) for token in tokens]


def call_deltas(*tools: tuple[str, Any], pieces: int = 3) -> list[bytes]:
    """Tool calls as OpenAI sends them: for each its id and name, then its arguments in pieces."""
    chunks = []
    for index, (name, arguments) in enumerate(tools):
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        size = max(1, -(-len(written) // pieces))
        first: Fields = {"id": f"call_{index + 1}", "type": "function", "function": {"name": name, "arguments": ""}}
        rest: list[Fields] = [{"function": {"arguments": written[i : i + size]}} for i in range(0, len(written), size)]
        chunks += [delta({"tool_calls": [{"index": index, **part}]}) for part in (first, *rest)]
    return chunks


def end(finish_reason: str = "stop", usage: tuple[int, int] | None = (3, 2)) -> list[bytes]:
    """Make the finish_reason, the usage (prompt and completion tokens) in a chunk without choices, `[DONE]`."""
    chunks = [delta({}, finish_reason)]
    if usage is not None:
        tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        chunks.append(sse({"choices": [], "usage": tokens}))
    return [*chunks, DONE]


def answer(*tokens: str) -> list[bytes]:
    """Make a whole answer of these tokens."""
    return [*text(*tokens), *end()]


def calls(*tools: tuple[str, Any], pieces: int = 3) -> list[bytes]:
    """Make a whole answer that calls these tools, each a name and its parameters (or the text of its arguments)."""
    return [*call_deltas(*tools, pieces=pieces), *end("tool_calls")]


def joined(chunks: Sequence[bytes]) -> list[bytes]:
    """Send the same bytes in one write."""
    return [b"".join(chunks)]


def bytewise(chunks: Sequence[bytes]) -> list[bytes]:
    """Send the same bytes, each a chunk of its own."""
    return [bytes([byte]) for chunk in chunks for byte in chunk]


def crlf(chunks: Sequence[bytes]) -> list[bytes]:
    """Send the same events with CRLF as line ends."""
    return [chunk.replace(b"\n", b"\r\n") for chunk in chunks]


def status(code: int, fields: dict[str, str] | None = None, body: object = None) -> Action:
    """Answer with this status, these headers and this JSON body, and with nothing else."""

    async def act(exchange: Exchange) -> None:
        exchange.begin(code, {"content-type": "application/json", **(fields or {})})
        exchange.send(json.dumps(body or {"error": {"message": "scripted"}}).encode())

    return act


def gate(event: asyncio.Event) -> Action:
    """Wait until the test opens the gate."""

    async def act(_: Exchange) -> None:
        await event.wait()

    return act


async def headers(exchange: Exchange) -> None:
    """Send the headers alone."""
    exchange.begin()


async def cut(exchange: Exchange) -> None:
    """Close the connection without ending the body."""
    exchange.transport.close()
    await exchange.request.closed.wait()


async def reset(exchange: Exchange) -> None:
    """Reset the connection (RST)."""
    exchange.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.transport.abort()
    await exchange.request.closed.wait()


async def stall(exchange: Exchange) -> None:
    """Send nothing more until the client closes."""
    await exchange.request.closed.wait()


def steady(rate: float, tokens: int, *, stamp: bool = False, obfuscated: bool = False) -> Script:
    """`tokens` tokens, `rate` a second (0: no pause), the first at once; `obfuscated` as `obfuscation` tells."""
    chance = random.Random(1)

    async def act(exchange: Exchange) -> None:
        start = time.monotonic()
        for number in range(tokens):
            await asyncio.sleep(start + number / rate - time.monotonic() if rate else 0)
            content = f"{time.monotonic_ns()} " if stamp else f"token{number} "
            exchange.send(delta({"content": content}, **(obfuscation(chance) if obfuscated else {})))

    return [headers, act, *end(usage=(1, tokens))]


class _Connection(asyncio.Protocol):
    def __init__(self, server: ModelServer) -> None:
        self._server, self._buffer, self._closed = server, b"", asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._server.connections.discard(self._transport)
        self._closed.set()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, ended, rest = self._buffer.partition(b"\r\n\r\n")
        if not ended:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, path, _ = first.split(" ")
        request = Request(method, path, fields, json.loads(rest[:length]) if length else None, self._closed)
        script = self._server.choose(request)
        self._task = asyncio.create_task(Exchange(request, self._transport).play([script, b""]))


class ModelServer:
    """The server, on a free port of 127.0.0.1 unless told; `url` is the base URL, `connections` its open transports."""

    def __init__(self, respond: Callable[[Request], Script] | None = None, *, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.connections: set[asyncio.Transport] = set()
        self._arrivals: asyncio.Queue[Request] = asyncio.Queue()
        self._scripts: deque[Script] = deque()
        self._respond = respond or (lambda _: [status(400, body={"error": {"message": "no script is queued"}})])
        self._port = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", self._port
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for transport in list(self.connections):
            transport.abort()
        await self._server.wait_closed()

    def script(self, *steps: Step) -> None:
        """Queue the answer to one request."""
        self._scripts.append(steps)

    async def arrived(self) -> Request:
        """Wait for the next chat request that was not yet taken."""
        return await self._arrivals.get()

    def choose(self, request: Request) -> Script:
        """Record the request; the script for it."""
        if (request.method, request.path) == ("GET", "/v1/models"):
            return [status(200, body={"object": "list", "data": [{"id": "scripted", "object": "model"}]})]
        if request.method != "POST" or not request.path.partition("?")[0].endswith("/chat/completions"):
            return [status(404)]
        self.requests.append(request)
        self._arrivals.put_nowait(request)
        return self._scripts.popleft() if self._scripts else self._respond(request)


async def main() -> None:
    """Serve tokens at a steady rate until killed."""
    parser = argparse.ArgumentParser(description="A model's server that answers with tokens at a steady rate.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each answer; 0: no pause")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each answer")
    parser.add_argument("--stamp", action="store_true", help="each token is the time.monotonic_ns() of its sending")
    parser.add_argument("--obfuscated", action="store_true", help="each chunk has a random field, as OpenAI's have")
    flags = parser.parse_args()

    def respond(_: Request) -> Script:
        return steady(flags.rate, flags.tokens, stamp=flags.stamp, obfuscated=flags.obfuscated)

    async with ModelServer(respond, port=flags.port) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
