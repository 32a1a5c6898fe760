"""A model's server that costs little: tokens at a steady rate, each with its time, to as many streams as ask.

    python -m benchmarks.upstream RATE COUNT DELAY

Prints its URL. A stream begins DELAY seconds after it was asked for. The streams' times are spread evenly over the
period of the rate. It knows HTTP and OpenAI's chat completions no further than relays need here.
"""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count

import uvloop

SLOTS = 20  # in a period
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BEFORE = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"@'
AFTER = b' xxxxx"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def chunk(data: bytes) -> bytes:
    """Frame a part of the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection; its streams follow one another."""

    slots: tuple[dict[Upstream, int], ...] = tuple({} for _ in range(SLOTS))
    """Of each time the connections that get a token, and how many they are still to get."""
    numbers = count()
    tokens = 0
    delay = 0.0
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = transport  # type: ignore[assignment]
        self.read = b""

    def data_received(self, data: bytes) -> None:
        """Answer a request that is whole."""
        self.read += data
        head, found, body = self.read.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length:")[2].split()[0]):
            return
        self.read = b""
        self.transport.write(HEAD)
        asyncio.get_running_loop().call_later(self.delay, self.begin)

    def begin(self) -> None:
        """Get tokens from now on."""
        if not self.transport.is_closing():
            self.slots[next(self.numbers) * 7 % SLOTS][self] = self.tokens

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        for slot in self.slots:
            slot.pop(self, None)


async def main(rate: float, tokens: int, delay: float) -> None:
    """Serve until the process is ended."""
    Upstream.tokens, Upstream.delay = tokens, delay
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    due = time.monotonic()
    while True:
        for slot in Upstream.slots:
            due = max(due + 1 / rate / SLOTS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            token = chunk(BEFORE + b"%d" % time.monotonic_ns() + AFTER)
            for connection, left in tuple(slot.items()):
                slot[connection] = left - 1
                if left:
                    connection.transport.write(token)
                else:
                    del slot[connection]
                    connection.transport.write(chunk(END) + b"0\r\n\r\n")


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
