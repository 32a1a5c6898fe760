"""What httpx2 sends a model's requests through: a pool of `http1` connections, at a fraction of its own one's cost.

It connects directly; proxies are left to httpx2's own transport, redirects and retries to httpx2 and the SDK.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpx2

from twinwire.models.http1 import Connection

MAX_CONNECTIONS = 1000
"""How many exchanges there may be at once; more wait. This and the next two numbers are the SDK's."""

MAX_IDLE = 100
"""How many idle connections are kept."""

IDLE_SECONDS = 5.0
"""For how long an idle connection is kept."""

STAGGER = 0.25
"""Seconds after which the next address is tried beside the last (RFC 8305, section 5)."""

_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(rb"[\r\n\0]")


class Transport(httpx2.AsyncBaseTransport):
    """A pool of connections on one event loop, over TLS with the context `tls`.

    `request.extensions["timeout"]` is heeded. Raises httpx2's errors. A response's extension `push` is the `push` of
    its `http1.Exchange`.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._busy: set[Connection] = set()
        self._idle: list[Connection] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request; return the response when its head has come."""
        if request.url.scheme not in _PORTS:
            raise httpx2.UnsupportedProtocol("a URL begins with http:// or https://")
        return await self._send(request, await _encode(request), reuse=True)

    async def aclose(self) -> None:
        """Close all connections; what is under way is broken off."""
        for connection in [*self._busy, *self._idle]:
            connection.abort(httpx2.CloseError("the transport was closed"))

    async def _send(self, request: httpx2.Request, data: bytes, *, reuse: bool) -> httpx2.Response:
        url, timeouts = request.url, request.extensions.get("timeout", {})
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        try:
            async with asyncio.timeout(timeouts.get("pool")):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx2.PoolTimeout("all connections are in use") from None
        idle = self._take(origin) if reuse else None
        try:
            connection = idle or await self._connect(origin, timeouts.get("connect"))
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(connection)
        exchange = connection.ask(data, timeouts)
        try:
            return await exchange.answer()
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            if idle is None or exchange.begun:
                raise
        # The server closed the idle connection as it was asked. The SDK would ask again too, but only after a pause.
        return await self._send(request, data, reuse=False)

    def _take(self, origin: tuple[str, str, int]) -> Connection | None:
        """Return the idle connection that was used last."""
        for connection in reversed(self._idle):
            if connection.origin == origin and connection.open:
                self._idle.remove(connection)
                return connection
        return None

    def _release(self, connection: Connection) -> None:
        self._slots.release()
        self._busy.discard(connection)
        self._idle = [idle for idle in self._idle if idle.open]
        if connection.open:
            self._idle.append(connection)
            connection.expire(IDLE_SECONDS)
            if len(self._idle) > MAX_IDLE:
                self._idle.pop(0).abort(httpx2.CloseError("too many connections are idle"))

    async def _connect(self, origin: tuple[str, str, int], timeout: float | None) -> Connection:
        scheme, host, port = origin
        secure = scheme == "https"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                _, connection = await loop.create_connection(
                    lambda: Connection(origin, self._release),
                    sock=await _dial([(family, address) for family, _, _, _, address in found]),
                    ssl=self._tls if secure else None,
                    server_hostname=host if secure else None,
                )
        except TimeoutError:
            raise httpx2.ConnectTimeout("the server does not answer") from None
        except (OSError, UnicodeError) as error:
            raise httpx2.ConnectError(str(error)) from error
        return connection


async def _encode(request: httpx2.Request) -> bytes:
    """Return the request as it is sent (RFC 9112, section 3)."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw]
    if any(_FORBIDDEN.search(line) for line in lines):
        raise httpx2.LocalProtocolError("a header has a character that none may have")
    if "transfer-encoding" in request.headers:
        raise httpx2.LocalProtocolError("the length of a request's body must be known")
    return b"\r\n".join([*lines, b"", await request.aread()])


async def _dial(addresses: Iterable[tuple[int, Any]]) -> socket.socket:
    """Connect to the first (family, address) to answer; the next is tried when the last one has failed or is late."""
    rest = iter(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    error: BaseException = OSError("the host has no address")
    try:
        while True:
            target = next(rest, None)
            if target is not None:
                attempts.add(asyncio.create_task(_attempt(*target)))
            elif not attempts:
                raise error
            stagger = None if target is None else STAGGER
            done, _ = await asyncio.wait(attempts, timeout=stagger, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                attempts.remove(attempt)
                failure = attempt.exception()
                if failure is None:
                    return attempt.result()
                error = failure
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_discard)


async def _attempt(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
