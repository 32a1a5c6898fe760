"""The TCP proxy between a browser and a server: it writes down the requests that it sees, and can have an outage."""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager

from support.chaos import Link, Proxy as ChaosProxy, listening

_REQUEST = re.compile(rb"^(?:GET|POST) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.MULTILINE | re.DOTALL)


class Proxy(ChaosProxy):
    """What passes through `url`. `requests` are the targets asked for, each with its Last-Event-ID if it has one."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.requests: list[tuple[str, str | None]] = []
        self.outage = False
        """Whether new connections are answered with 503, and a request on another one resets it: no server is left."""
        self.refused = asyncio.Event()

    def heal(self) -> None:
        """Begin anew: everything passes, nothing is written down yet."""
        self.outage = self.dead = False
        self.requests.clear()
        self.refused.clear()

    def asked(self, prefix: str) -> list[tuple[str, str | None]]:
        """The requests whose target starts so."""
        return [request for request in self.requests if request[0].startswith(prefix)]

    async def serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter, link: Link) -> None:
        """See `chaos.Proxy`."""
        if not self.outage:
            await super().serve(client_reader, client, link)
            return
        await client_reader.readuntil(b"\r\n\r\n")
        client.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        client.close()
        self.refused.set()

    def heard(self, data: bytes) -> None:
        """See `chaos.Proxy`."""
        requests = _REQUEST.findall(data)
        if self.outage and requests:
            raise ConnectionResetError
        for target, headers in requests:
            found = re.search(rb"^last-event-id: (\S+)", headers, re.MULTILINE | re.IGNORECASE)
            self.requests.append((target.decode(), found[1].decode() if found else None))


def proxying(upstream_port: int) -> AbstractAsyncContextManager[Proxy]:
    """Pass everything on to this local port until the block ends."""
    return listening(Proxy(upstream_port))
