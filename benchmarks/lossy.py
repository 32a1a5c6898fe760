"""A proxy that does what a bad mobile network does: `python -m benchmarks.lossy PORT SEED` prints its own port.

Each way takes 20 to 30 ms. A read from the server is lost now and then, and comes 200 ms late with all behind it, as
TCP sends it again; and a connection is reset after a few hundred milliseconds to seconds. The same seed is the same
weather.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import deque
from typing import cast

import uvloop

DELAY, JITTER = 0.020, 0.010  # seconds
LOST, AGAIN = 0.02, 0.200  # the share of reads, and TCP's smallest retransmission time on Linux in seconds
LIFE = 1.5  # mean of a connection's life in seconds (exponential)


class Side(asyncio.Protocol):
    """One of a link's two connections; what it reads goes to `other`, late."""

    def __init__(self, rng: random.Random, lost: float) -> None:
        self.rng, self.lost = rng, lost
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self.late: deque[bytes] = deque()
        self.waiting: list[bytes] = []
        self.free = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)
        for data in self.waiting:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        loop = asyncio.get_running_loop()
        late = DELAY + JITTER * self.rng.random() + (AGAIN if self.rng.random() < self.lost else 0)
        self.free = max(self.free, loop.time() + late)
        self.late.append(data)
        loop.call_at(self.free, self._pass)

    def _pass(self) -> None:
        """The oldest that is on its way, whichever timer this is: timers that are due together come in any order."""
        data = self.late.popleft()
        assert self.other is not None
        if self.other.transport is None:
            self.other.waiting.append(data)
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`. What is on its way still arrives."""
        asyncio.get_running_loop().call_at(self.free + 0.002, self._close_other)

    def _close_other(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def cut(self) -> None:
        """Reset both."""
        for side in (self, self.other):
            if side is not None and side.transport is not None:
                side.transport.abort()


async def main(port: int, seed: int) -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    rngs = random.Random(seed)
    tasks: set[asyncio.Task[object]] = set()

    def link() -> Side:
        rng = random.Random(rngs.random())
        client, server = Side(rng, 0.0), Side(rng, LOST)
        client.other, server.other = server, client
        task: asyncio.Task[object] = loop.create_task(loop.create_connection(lambda: server, "127.0.0.1", port))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        loop.call_later(0.2 + rng.expovariate(1 / LIFE), client.cut)
        return client

    listener = await loop.create_server(link, "127.0.0.1", 0, backlog=2048)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
