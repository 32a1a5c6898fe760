"""The floor: a uvloop Protocol that only writes ready bytes to its connections, at a steady rate.

    python -m benchmarks.floor RATE COUNT DELAY [--each [--made]]

Prints its port. A request's path says what a connection speaks (`/sse`, `/ws`). After DELAY seconds COUNT events go out
at RATE a second: to all connections in one tick, or with `--each` to each at a phase of its own. With `--made` each
event is made, encoded and framed as Twinwire does it, and still of no run and in no log.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from benchmarks.agents import TEXT
from twinwire.formats import native
from twinwire.protocol.events import StreamEvent, encode
from twinwire.protocol.wire import http_chunk, new_run_id, ws_text

RUN_ID = new_run_id()


def sse(seq: int) -> bytes:
    """An event, made and framed."""
    event = StreamEvent("LLM_CHUNK", {"content": TEXT, "delta": TEXT})
    return http_chunk([native.sse_block(encode(event, RUN_ID, seq))])


def ws(seq: int) -> bytes:
    """The same for a WebSocket."""
    event = StreamEvent("LLM_CHUNK", {"content": TEXT, "delta": TEXT})
    return ws_text([native.ws_message(encode(event, RUN_ID, seq))])


MADE = "--made" in sys.argv
SSE, WS = sse(1000), ws(1000)
SSE_OPENING = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WS_OPENING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
connections: list[Connection] = []


class Connection(asyncio.Protocol):
    """One connection; it is written to from outside."""

    transport: asyncio.Transport
    frame = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. On a WebSocket the client then speaks again, as Twinwire's do."""
        if self.frame:
            connections.append(self)
        elif b"GET /ws" in data:
            self.frame = WS
            self.transport.write(WS_OPENING)
        else:
            self.frame = SSE
            self.transport.write(SSE_OPENING)
            connections.append(self)


async def main(rate: float, count: int, delay: float, *, each: bool) -> None:
    """Serve once."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(delay)
    if each:
        for i, connection in enumerate(connections):
            loop.call_later(i / len(connections) / rate, write, loop, connection, 1 / rate, count)
        await asyncio.sleep(count / rate + 5)
        return
    due = loop.time()
    for _ in range(count):
        due = max(due + 1 / rate, loop.time())
        await asyncio.sleep(due - loop.time())
        for connection in connections:
            connection.transport.write(connection.frame)
    await asyncio.sleep(5)


def write(loop: asyncio.AbstractEventLoop, connection: Connection, period: float, count: int) -> None:
    """Write an event to one connection, and see to the next one."""
    if connection.transport.is_closing():
        return
    if MADE:
        connection.transport.write(sse(count) if connection.frame is SSE else ws(count))
    else:
        connection.transport.write(connection.frame)
    if count > 1:
        loop.call_later(period, write, loop, connection, period, count - 1)


if __name__ == "__main__":
    numbers = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    uvloop.run(main(float(numbers[0]), int(numbers[1]), float(numbers[2]), each="--each" in sys.argv))
