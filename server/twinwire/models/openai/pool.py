"""The transport of httpx for a model's requests: a pool of connections, at a fraction of the cost of httpx's own.

It connects directly; proxies are left to httpx's own transport, redirects and retries to httpx and the SDK. They
need most of a call's time to write the same head each time: what they have written twice is written here from then on.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

from twinwire.models.openai.connection import Connection
from twinwire.models.openai.http import httpx
from twinwire.telemetry import tracing

MAX_CONNECTIONS = 1000
"""The most requests at once; more wait. This and the next number are the SDK's."""

MAX_IDLE = 100
"""The most idle connections that are kept."""

IDLE_SECONDS = 30.0
"""For how long an idle connection is kept: less than what is between us forgets it after, a minute at the least."""

STAGGER = 0.25
"""Seconds after which the next address is tried beside the last (RFC 8305, section 5)."""

Origin: TypeAlias = tuple[str, str, int]

_PORTS = {"http": 80, "https": 443}
_FORBIDDEN = re.compile(rb"[\r\n\0]")


_outcome: ContextVar[httpx.Response | httpx.TransportError | None] = ContextVar("outcome", default=None)


@contextmanager
def first(outcome: httpx.Response | httpx.TransportError | None) -> Iterator[None]:
    """Answer the next request made in this block with `outcome` instead of sending it. If it is None, send it."""
    token = _outcome.set(outcome)
    try:
        yield
    finally:
        _outcome.reset(token)


class NotHttp(httpx.RemoteProtocolError):
    """The server has answered, in something else than HTTP/1.1."""


class _Head(NamedTuple):
    """The part that requests have in common if they differ in their bodies alone."""

    origin: Origin
    lines: bytes
    timeouts: dict[str, float | None]


class Transport(httpx.AsyncBaseTransport):
    """A pool of connections on one event loop, over TLS with the context `tls`.

    `request.extensions["timeout"]` is heeded. Raises httpx's errors. A response's extension
    `for_each` is that method of its `connection.ResponseStream`.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._busy: set[Connection] = set()
        self._idle: list[Connection] = []
        self._head: _Head | None = None  # of the last request that was `learn`ed
        self._constant = False  # it was that of the one before too

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request; return the response when its head has come. See also `first`."""
        if (outcome := _outcome.get()) is not None:
            _outcome.set(None)
            if isinstance(outcome, httpx.TransportError):
                raise outcome
            return outcome
        if request.url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol("a URL begins with http:// or https://")
        return await self._send(_head(request), await request.aread(), reuse=True)

    def learn(self, request: httpx.Request) -> None:
        """Take note of a request that others shall be like, but for the body."""
        head = _head(request)
        self._constant = head == self._head
        self._head = head

    async def like(self, body: bytes, timeout: float | None = None) -> httpx.Response | httpx.TransportError | None:
        """Send a request like those that were learned, with this body. Return its response or its error.

        Return None, and send nothing, if the last two that were learned were not alike, or had another `timeout`.
        """
        if self._head is None or not self._constant:
            return None
        if timeout is not None and self._head.timeouts.get("read") != timeout:
            return None
        try:
            return await self._send(self._head, body, reuse=True)
        except httpx.TransportError as error:
            return error

    async def aclose(self) -> None:
        """Close all connections; what is under way is broken off."""
        self._head = None
        for connection in [*self._busy, *self._idle]:
            connection.abort(httpx.CloseError("the transport was closed"))

    async def _send(self, head: _Head, body: bytes, *, reuse: bool) -> httpx.Response:
        origin, lines, timeouts = head
        if self._slots.locked():
            await self._room(timeouts.get("pool"))
        else:
            await self._slots.acquire()
        idle = self._take(origin) if reuse else None
        try:
            connection = idle or await self._connect(origin, timeouts.get("connect"))
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(connection)
        trace = "".join(f"{name}: {value}\r\n" for name, value in tracing.current.get().headers().items()).encode()
        stream = connection.send(b"%b%bcontent-length: %d\r\n\r\n%b" % (lines, trace, len(body), body), timeouts)
        try:
            return await stream.response()
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            if stream.begun and isinstance(error, httpx.RemoteProtocolError):
                raise NotHttp(str(error)) from None
            if idle is None or stream.begun:
                raise
        # The server closed the idle connection as it was asked. The SDK would ask again too, but only after a pause.
        return await self._send(head, body, reuse=False)

    async def _room(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("all connections are in use") from None

    def _take(self, origin: Origin) -> Connection | None:
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
                self._idle.pop(0).abort(httpx.CloseError("too many connections are idle"))

    async def _connect(self, origin: Origin, timeout: float | None) -> Connection:
        scheme, host, port = origin
        secure = scheme == "https"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                target: dict[str, Any]
                if len(found) == 1:  # the loop does it in a third of the time
                    target = dict(zip(("host", "port"), found[0][4], strict=False))
                else:
                    target = {"sock": await _dial([(family, address) for family, _, _, _, address in found])}
                _, connection = await loop.create_connection(
                    lambda: Connection(origin, self._release),
                    ssl=self._tls if secure else None,
                    server_hostname=host if secure else None,
                    **target,
                )
        except TimeoutError:
            raise httpx.ConnectTimeout("the server does not answer") from None
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error)) from error
        return connection


class OnceTransport(Transport):
    """The same for the SDK, which would ask again after an answer that is no HTTP, with the whole prompt.

    Such an answer is a response with the extension `fault`, which says why.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `Transport`."""
        try:
            return await super().handle_async_request(request)
        except NotHttp as error:
            return httpx.Response(502, headers={"x-should-retry": "false"}, extensions={"fault": str(error)})


def _head(request: httpx.Request) -> _Head:
    """Return what is sent of the request before its body's length (RFC 9112, section 3)."""
    url = request.url
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), url.raw_path)]
    lines += [b"%b: %b" % field for field in request.headers.raw if field[0].lower() != b"content-length"]
    if any(_FORBIDDEN.search(line) for line in lines):
        raise httpx.LocalProtocolError("a header has a character that none may have")
    if "transfer-encoding" in request.headers:
        raise httpx.LocalProtocolError("the length of a request's body must be known")
    origin = (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
    return _Head(origin, b"\r\n".join([*lines, b""]), request.extensions.get("timeout", {}))


async def _dial(addresses: Iterable[tuple[int, Any]]) -> socket.socket:
    """Connect to the first (family, address) to answer; the next is tried when the last one has failed or is late."""
    rest = iter(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    error: BaseException = OSError("The host has no address.")
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
