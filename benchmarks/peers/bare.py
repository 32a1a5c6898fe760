"""No framework: uvloop Protocols that write to sockets, and speak just as much HTTP and WebSocket as that takes."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import parse_qs

import uvloop

from benchmarks.peers.hub import Event, block, encoded, event, listen
from benchmarks.schedule import Load, tokens

SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WS_HEAD = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
RUN = "a" * 26
rooms: dict[str, list[Connection]] = {}
tasks: set[asyncio.Task[None]] = set()


def sse_frame(one: Event) -> bytes:
    """A chunk with an SSE block."""
    body = block(one).encode()
    return b"%x\r\n%b\r\n" % (len(body), body)


def ws_frame(one: Event) -> bytes:
    """A text message."""
    body = encoded(one).encode()
    return (b"\x81%c" % len(body) if len(body) < 126 else b"\x81\x7e" + len(body).to_bytes(2, "big")) + body


class Connection(asyncio.Protocol):
    """One connection."""

    transport: asyncio.Transport
    over_sse = True
    task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if data.startswith(b"GET /sse?"):
            query = parse_qs(data.partition(b"?")[2].partition(b" ")[0].decode())
            self.transport.write(SSE_HEAD)
            self.ask({name: values[0] for name, values in query.items()})
        elif data.startswith(b"GET /ws"):
            self.over_sse = False
            self.transport.write(WS_HEAD)
        elif data[0] == 0x81:  # masked with zeros, as our own load generator does
            self.ask(json.loads(data[data.index(b"{") :]))

    def ask(self, asked: dict[str, Any]) -> None:
        """Join a room; the first in it starts its run."""
        topic = asked.get("topic") or str(id(self))
        rooms.setdefault(topic, []).append(self)
        if len(rooms[topic]) == 1:
            self.task = asyncio.create_task(publish(topic, asked["message"]))
            tasks.add(self.task)
            self.task.add_done_callback(tasks.discard)

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        for room in rooms.values():
            with suppress(ValueError):
                room.remove(self)
        if self.task is not None and str(id(self)) in rooms:
            self.task.cancel()


async def publish(topic: str, message: str) -> None:
    """Each event is encoded once, and written to all who follow."""
    number = 0

    def give(kind: str, data: dict[str, Any]) -> None:
        one = event(kind, data, RUN, number)
        frames = sse_frame(one), ws_frame(one)
        for connection in rooms[topic]:
            connection.transport.write(frames[not connection.over_sse])

    async with aclosing(tokens(Load.of(message))) as texts:
        async for text in texts:
            number += 1
            give("LLM_CHUNK", {"content": text, "delta": text})
    give("AGENT_FINISH", {"result": "", "status": "completed"})
    del rooms[topic]


async def main() -> None:
    """Serve until the process is ended."""
    await asyncio.get_running_loop().create_server(Connection, sock=listen())
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
