"""The answer to one request on a connection of `http1`: parsed where its bytes arrive, and pushed on from there.

A chunk costs no task, timer or generator of its own. No upgrades and no trailers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import httptools
import httpx2

from twinwire.models.openai.waiter import Waiter

if TYPE_CHECKING:
    from twinwire.models.openai.http1 import Connection

MAX_OVERHEAD = 64 * 2**10
"""How many bytes may come with none of the body among them: headers, trailers, extensions of chunks."""

HIGH_WATER = 256 * 2**10
"""How many bytes of a body may wait to be read before no more is received."""

_FOREVER = 1e8

Sink: TypeAlias = Callable[[bytes], Awaitable[None] | None]
"""Takes bytes of a body. If it returns an awaitable, it is given no more until that is done."""


class Exchange(httpx2.AsyncByteStream):
    """The answer to one request: its head, then its body as it comes.

    `timeouts` is `{"read", "write"}`: for how many seconds (None: any) nothing may come, or be sent. It raises
    httpx2's errors; `begun` tells whether any byte of the answer had come.
    """

    def __init__(self, connection: Connection, timeouts: dict[str, float | None]) -> None:
        self.begun = False
        self._connection: Connection | None = connection
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._version = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._until_eof = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._overhead = 0
        self._ended = False
        self._keep_alive = False
        self._error: httpx2.TransportError | None = None
        self._sink: Sink | None = None
        self._room: Awaitable[None] | None = None  # what the sink has returned
        self._failure: BaseException | None = None  # what it has raised
        self._waiter: Waiter | None = None
        self._late: type[httpx2.TimeoutException] = httpx2.ReadTimeout
        self._patience = self._deadline = self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self) -> httpx2.Response:
        """Return the response when its head has come; its extension `push` is `self.push`."""
        try:
            while not self._status:
                if self._connection is not None and self._connection.blocked:
                    await self._wait("write", httpx2.WriteTimeout)
                else:
                    await self._wait("read", httpx2.ReadTimeout)
        except BaseException:
            await self.aclose()
            raise
        extensions = {"http_version": self._version, "push": self.push}
        return httpx2.Response(self._status, headers=self._headers, stream=self, extensions=extensions)

    async def push(self, sink: Sink) -> None:
        """Give `sink` what comes of the body, at least a byte at a time, until its end. Raises what `sink` raises.

        It is called where the bytes arrive, in no task, but for what has waited for it.
        """
        while True:
            while self._chunks:
                if (room := sink(self._taken())) is not None:
                    await room
            if self._ended:
                return
            self._sink = sink
            try:
                await self._wait("read", httpx2.ReadTimeout)
            finally:
                self._sink = None
            failure, room = self._failure, self._room
            self._failure = self._room = None
            if failure is not None:
                raise failure
            if room is not None:
                await room

    def _taken(self) -> bytes:
        """Return what has come, which no longer waits."""
        if self._size > HIGH_WATER and self._connection is not None:
            self._connection.resume()
        chunks, self._chunks, self._size = self._chunks, [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._taken()
            if self._ended:
                return
            await self._wait("read", httpx2.ReadTimeout)

    async def aclose(self) -> None:
        """Give up what has not come, if anything: the connection is closed at once."""
        if self._connection is not None:
            self._connection.abort(httpx2.CloseError("the response was closed"))

    async def _wait(self, what: str, late: type[httpx2.TimeoutException]) -> None:
        """Wait until anything comes. All waits share a timer, which is only moved when it goes off."""
        if self._error is not None:
            raise self._error
        timeout = self._timeouts.get(what)
        self._late = late
        self._patience = _FOREVER if timeout is None else timeout
        self._deadline = self._loop.time() + self._patience
        if self._timer is None or self._timer_at > self._deadline:
            self._set_timer()
        self._waiter = Waiter(self._loop)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._timer_at, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        if self._connection is None or self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._connection.abort(self._late("the server is silent"))

    def wake(self) -> None:
        """Let whoever waits look again, in the loop's next turn: whoever calls this is not done yet."""
        if self._waiter is not None:
            self._loop.call_soon(self._waiter.wake)

    def feed(self, connection: Connection, data: bytes) -> None:
        """Take what was received."""
        self.begun = well = True
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            well = False
        if self._ended:
            connection.finish(keep_alive=well and self._keep_alive)
        elif not well:
            connection.abort(httpx2.RemoteProtocolError("the answer is not HTTP/1.1"))
        elif self._overhead > MAX_OVERHEAD:
            connection.abort(httpx2.RemoteProtocolError("the answer's headers are too long"))
        elif self._sink is not None:
            if self._chunks:
                self._deadline = self._loop.time() + self._patience
                chunks, self._chunks, self._size = self._chunks, [], 0
                try:
                    self._room = self._sink(chunks[0] if len(chunks) == 1 else b"".join(chunks))
                except BaseException as error:  # noqa: BLE001 - it is raised where `push` is awaited
                    self._failure = error
                if self._room is not None or self._failure is not None:
                    self._sink = None
                    self.wake()
        else:
            if self._size > HIGH_WATER:
                connection.pause()
            if self._waiter is not None:
                self._waiter.wake()

    def over(self, error: httpx2.TransportError | None) -> None:
        """Nothing more comes: because of an error, or because the body has come to its end."""
        self._error = error
        self._connection = None
        del self._parser  # it holds `self`
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def disconnected(self) -> httpx2.TransportError | None:
        """Return what it means that the server has closed the connection: None where that ends the body."""
        if not self._status:
            return httpx2.RemoteProtocolError("the server closed the connection without an answer")
        if not self._until_eof:
            return httpx2.RemoteProtocolError("the server closed the connection in the middle of its answer")
        self._ended = True
        return None

    # What follows is called by the parser.

    def on_message_begin(self) -> None:  # noqa: D102
        if self._ended:
            raise ValueError("a second answer, which was not asked for")

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if not self._status:  # else it is a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._status = status
        self._version = f"HTTP/{self._parser.get_http_version()}".encode()
        fields = {name.lower(): value.lower() for name, value in self._headers}
        chunked = fields.get(b"transfer-encoding", b"").endswith(b"chunked")
        self._until_eof = not chunked and b"content-length" not in fields

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._overhead = 0
        self._size += len(data)
        self._chunks.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if not self._status:  # 1xx
            self._headers.clear()
        else:
            self._ended = True
            self._keep_alive = self._parser.should_keep_alive()
