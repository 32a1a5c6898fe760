"""A TCP proxy that does to connections what networks do: cuts, stalls, splits."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar


class Link:
    """One client's connection. What comes from the server can be stalled, or cut after so many bytes."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, budget: int | None, *, split: bool) -> None:
        self._proxy = proxy
        self.flows = asyncio.Event()
        self.flows.set()
        self.passed = asyncio.Condition()
        self.chunks = 0
        self._client = client
        self._budget = budget
        self._split = split

    def cut(self) -> None:
        """Reset the connection (RST), unless it is over already."""
        if self._client.is_closing():
            return
        self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.transport.abort()

    async def down(self, server: asyncio.StreamReader) -> None:
        """Pass on what the server says."""
        while data := await server.read(65_536):
            await self.flows.wait()
            await self._proxy.there.wait()
            if self._proxy.dead:
                continue
            if self._budget is not None:
                data, self._budget = data[: self._budget], self._budget - len(data)
                if self._budget <= 0 and self._proxy.spares_ids and not data.endswith(b"\n\n"):
                    data = data.removesuffix(b"\n")
            for piece in (data[i : i + 1] for i in range(len(data))) if self._split else [data]:
                self._client.write(piece)
                await asyncio.sleep(0)  # so that the loop sends them one by one
            await self._client.drain()
            if self._budget is not None and self._budget <= 0:
                self.cut()
                return
            async with self.passed:
                self.chunks += 1
                self.passed.notify_all()
        await self.flows.wait()

    async def passes(self, chunks: int) -> None:
        """Wait until the server has said something so many times more."""
        async with self.passed:
            goal = self.chunks + chunks
            await self.passed.wait_for(lambda: self.chunks >= goal)


class Proxy:
    """Stands before a server.

    `budgets` are for the next connections: cut after so many bytes from the server. `mute` is how many of the next
    connections hear nothing.
    """

    def __init__(self, port: int) -> None:
        self.accepted = 0
        self.arrived = asyncio.Event()
        self.budgets: deque[int] = deque()
        self.mute = 0
        self.split = False
        self.spares_ids = False
        """Whether no cut comes between an event's id, the last line of its block, and the blank line behind it."""
        self.dead = False
        """Whether nothing passes any more and nobody is told, as behind a router that was switched off."""
        self.there = asyncio.Event()
        """Not set while all clients are away: what is said waits, also on connections that they make."""
        self.there.set()
        self.links: dict[asyncio.Task[None], Link] = {}
        self.url = self.ws_url = ""
        self._port = port

    def cut(self) -> None:
        """Reset all connections."""
        for link in self.links.values():
            link.cut()

    def stall(self) -> None:
        """Let nothing more through to those who are connected now; new connections flow."""
        for link in self.links.values():
            link.flows.clear()

    def flow(self) -> None:
        """Let through what was stalled."""
        for link in self.links.values():
            link.flows.set()

    def accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """One connection more."""
        self.accepted += 1
        self.arrived.set()
        link = Link(self, client, self.budgets.popleft() if self.budgets else None, split=self.split)
        if self.mute:
            self.mute -= 1
            link.flows.clear()
        # A task of our own: when one that asyncio made for this is cancelled, Python 3.11 raises in the loop.
        task = asyncio.create_task(self.serve(reader, client, link))
        self.links[task] = link
        task.add_done_callback(self.links.pop)

    def port(self) -> int:
        """Return the port of the server behind it. Raise `OSError` if there is none."""
        return self._port

    async def serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter, link: Link) -> None:
        """Pass on both ways, until either side ends it."""
        try:
            server_reader, server = await asyncio.open_connection("127.0.0.1", self.port())
            up = asyncio.create_task(self._up(client_reader, server))
            down = asyncio.create_task(link.down(server_reader))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server.transport.abort()
                up.cancel()
                down.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except OSError:
            pass  # the server refuses: so does the proxy
        finally:
            client.transport.abort()

    async def _up(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        """Pass on what the client says."""
        while data := await client.read(65_536):
            self.heard(data)
            await self.there.wait()
            if not self.dead:
                server.write(data)
                await server.drain()

    def heard(self, data: bytes) -> None:
        """What a client has said."""


AnyProxy = TypeVar("AnyProxy", bound=Proxy)


@asynccontextmanager
async def chaos(port: int) -> AsyncIterator[Proxy]:
    """A proxy before the server on this port of 127.0.0.1."""
    async with listening(Proxy(port)) as proxy:
        yield proxy


@asynccontextmanager
async def listening(proxy: AnyProxy) -> AsyncIterator[AnyProxy]:
    """The proxy, at its `url`, until the block ends."""
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    proxy.ws_url = f"ws{proxy.url.removeprefix('http')}/ws"
    try:
        yield proxy
    finally:
        listener.close()
        tasks = list(proxy.links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
