"""One HTTP/1.1 connection of a client (RFC 9112), and the answer to one request on it.

Bytes are parsed where they arrive and wait in a list: a chunk costs no task, no timer and no generator of its own.
`transport` opens the connections, keeps them and speaks to httpx2. It knows GET and POST, no upgrades and no trailers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httptools
import httpx2

MAX_HEAD = 64 * 2**10
"""How many bytes that are not body may come in a row: the status line and headers, trailers, chunk extensions."""

HIGH_WATER = 256 * 2**10
"""How many bytes of a body may wait to be read before the connection is read no more."""


class Exchange(httpx2.AsyncByteStream):
    """The answer to one request: its head, and its body as it comes. httpx2 has it as the response's stream.

    `timeouts` is httpx2's `{"read": seconds or None, "write": …}`: how long each may make no progress.
    """

    def __init__(self, connection: Connection, timeouts: dict[str, float | None]) -> None:
        self.begun = False
        """Whether a byte of the answer has come."""
        self.ended = False
        """Whether the body has come to its end."""
        self._connection = connection
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._response: httpx2.Response | None = None
        self._until_eof = False
        self._keep_alive = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._overhead = 0
        self._error: httpx2.TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._late: type[httpx2.TimeoutException] = httpx2.ReadTimeout
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self) -> httpx2.Response:
        """Return the response once its head has come; where it does not, the connection is closed."""
        try:
            while self._response is None:
                if self._connection.blocked:
                    await self._wait("write", httpx2.WriteTimeout)
                else:
                    await self._wait("read", httpx2.ReadTimeout)
        except BaseException:
            await self.aclose()
            raise
        return self._response

    async def read(self) -> bytes:
        """Return all bytes of the body that have come since the last read, at least one; at its end b""."""
        while not self._chunks:
            if self.ended:
                return b""
            await self._wait("read", httpx2.ReadTimeout)
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._connection.resume(self)
        return data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def aclose(self) -> None:
        """Give up what has not come: that closes the connection at once."""
        if not self.ended:
            self._connection.abort(self, httpx2.ReadError("the response was closed"))

    async def _wait(self, what: str, late: type[httpx2.TimeoutException]) -> None:
        """Wait until anything has come. One timer serves all waits: it is only moved when it goes off."""
        if self._error is not None:
            raise self._error
        timeout = self._timeouts.get(what)
        self._late = late
        self._deadline = float("inf") if timeout is None else self._loop.time() + timeout
        if timeout is not None and (self._timer is None or self._timer.when() > self._deadline):
            self._set_timer()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        if self._waiter is None or self._deadline == float("inf"):
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._connection.abort(self, self._late("the server is silent"))

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self.begun = True
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._keep_alive = False  # after the answer's end, that is all there is to it
            self._connection.abort(self, httpx2.RemoteProtocolError("the answer is not HTTP/1.1"))
        if self.ended:
            self._connection.finish(self, keep=self._keep_alive)
        elif self._overhead > MAX_HEAD:
            self._connection.abort(self, httpx2.RemoteProtocolError("the answer's headers are too long"))
        elif self._size > HIGH_WATER:
            self._connection.pause()
        self.wake()

    def over(self, error: httpx2.TransportError | None = None) -> None:
        """Nothing more will come: the connection is closed, or another's; `error` says why, the body's end apart."""
        self._error = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.wake()

    def lose(self, cause: Exception | None) -> httpx2.TransportError | None:
        """The connection has ended, by itself where there is no cause. Return what that means, None for the end."""
        if cause is not None:
            return httpx2.ReadError("the connection was reset")
        if self._response is None:
            return httpx2.RemoteProtocolError("the server closed the connection without an answer")
        if not self._until_eof:
            return httpx2.RemoteProtocolError("the server closed the connection in the middle of its answer")
        self.ended = True
        return None

    # What the parser calls; exceptions do not pass through it.

    def on_message_begin(self) -> None:
        self._keep_alive = False  # where there was an answer already, this one was not asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is None:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._response is not None:
            return
        self._overhead = 0
        length = ((name.lower(), value.lower()) for name, value in self._headers)
        self._until_eof = not any(
            name == b"content-length" or (name == b"transfer-encoding" and value.endswith(b"chunked"))
            for name, value in length
        )
        version = f"HTTP/{self._parser.get_http_version()}".encode()
        extensions: dict[str, Any] = {"http_version": version, "exchange": self}
        self._response = httpx2.Response(status, headers=self._headers, stream=self, extensions=extensions)

    def on_body(self, data: bytes) -> None:
        self._overhead = 0
        self._size += len(data)
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        if self._response is None:  # 1xx
            self._headers.clear()
        elif not self.ended:
            self.ended = True
            self._keep_alive = self._parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """An open connection to `origin` (scheme, host, port), for one exchange after another.

    `released(connection)` is called when an exchange is over, and when the connection is lost while it has none.
    """

    def __init__(self, origin: tuple[str, str, int], released: Callable[[Connection], None]) -> None:
        self.origin = origin
        self.blocked = False
        """Whether much of the request has not been sent yet."""
        self.closed = False
        self._released = released
        self._exchange: Exchange | None = None
        self._paused = False
        self._expiry: asyncio.TimerHandle | None = None

    def ask(self, data: bytes, timeouts: dict[str, float | None]) -> Exchange:
        """Send a request; the connection has none that is not over."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._exchange = Exchange(self, timeouts)
        self._transport.write(data)
        return self._exchange

    def expire(self, seconds: float) -> None:
        """Close in so many seconds, unless something is asked before."""
        self._expiry = asyncio.get_running_loop().call_later(seconds, self.close)

    def close(self) -> None:
        """Close at once, and break off what is under way."""
        if self._exchange is not None:
            self.abort(self._exchange, httpx2.ReadError("the client was closed"))
        self._close()
