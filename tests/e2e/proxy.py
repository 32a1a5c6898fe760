"""A TCP proxy between a browser and a server, which writes down the requests it sees and cuts connections off."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_REQUEST = re.compile(rb"^(?:GET|POST) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.MULTILINE | re.DOTALL)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST


class Proxy:
    """What passes through `url`. `requests` are the targets asked for, each with its Last-Event-ID if it has one."""

    def __init__(self, upstream_port: int) -> None:
        self.requests: list[tuple[str, str | None]] = []
        self.url = ""
        self.outage = False
        """Whether new connections are answered with 503, as a load balancer does that has no server left."""
        self.refused = asyncio.Event()
        self.dead = False
        """Whether nothing passes any more and nobody is told, as behind a router that was switched off."""
        self._upstream_port = upstream_port
        self._clients: set[asyncio.StreamWriter] = set()

    def heal(self) -> None:
        """Begin anew: everything passes, nothing is written down yet."""
        self.outage = self.dead = False
        self.requests.clear()
        self.refused.clear()

    def asked(self, prefix: str) -> list[tuple[str, str | None]]:
        """The requests whose target starts so."""
        return [request for request in self.requests if request[0].startswith(prefix)]

    def cut(self) -> None:
        """Reset all connections, as a network does that loses its state."""
        for client in self._clients:
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.outage:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            self.refused.set()
            return
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._clients.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, upstream, watched=True))
                group.create_task(self._pass_on(upstream_reader, writer, watched=False))
        finally:
            self._clients.discard(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, watched: bool) -> None:
        try:
            while data := await reader.read(65536):
                if watched:
                    self._write_down(data)
                if not self.dead:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass  # one side has gone: so does the other
        finally:
            writer.close()

    def _write_down(self, data: bytes) -> None:
        for target, headers in _REQUEST.findall(data):
            found = re.search(rb"^last-event-id: (\S+)", headers, re.MULTILINE | re.IGNORECASE)
            self.requests.append((target.decode(), found[1].decode() if found else None))


@asynccontextmanager
async def proxying(upstream_port: int) -> AsyncIterator[Proxy]:
    """Pass everything on to this local port until the block ends."""
    proxy = Proxy(upstream_port)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        proxy.cut()
