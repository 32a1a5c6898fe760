"""One HTTP/1.1 connection of a client (RFC 9112): a parser without I/O, and the asyncio protocol around it.

`ResponseParser` takes bytes and returns bytes of a body; it knows no connection. `ResponseStream` is the response that
httpx reads. `Connection` moves bytes between the two and the event loop. `pool` opens connections and keeps them.
A chunk costs no task, timer or generator of its own. Upgrades are errors, and trailers are dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum, auto
from typing import TypeAlias, cast

import httptools

from twinwire.models.openai.http import httpx

MAX_OVERHEAD = 64 * 2**10
"""The most bytes that may come with none of the body among them: headers, trailers, extensions of chunks."""

HIGH_WATER = 256 * 2**10
"""The most bytes of a body that wait to be read; then no more is received."""

_FOREVER = 1e8

Sink: TypeAlias = Callable[[bytes], Awaitable[None] | None]
"""Takes bytes of a body. If it returns an awaitable, it is given no more until that is done."""


class State(Enum):
    """The progress of a response."""

    HEAD = auto()
    BODY = auto()
    ENDED = auto()
    BROKEN = auto()


HEAD, BODY, ENDED, BROKEN = State  # looking a member up in its class takes as long as a call


class ResponseParser:
    """The response to one request: bytes in, bytes of its body out. It does no I/O.

    | state  | input                                        | next state                 |
    |--------|----------------------------------------------|----------------------------|
    | HEAD   | part of a head, an informational response    | HEAD                       |
    | HEAD   | the head: `status`, `headers` and `version`  | BODY                       |
    | HEAD   | end of file                                  | BROKEN                     |
    | BODY   | bytes of the body                            | BODY                       |
    | BODY   | end of the body, by its length or last chunk | ENDED                      |
    | BODY   | end of file, if nothing else ends the body   | ENDED                      |
    | BODY   | end of file in any other body                | BROKEN                     |
    | either | not HTTP/1.1, or more than `MAX_OVERHEAD`    | BROKEN                     |
    | ENDED  | more in the same read                        | ENDED, not to be kept      |

    `error` says why the response is BROKEN. `keep_alive` tells whether the connection can be used again once it is
    ENDED. Call `close` when no more is received.
    """

    def __init__(self) -> None:
        self.state = HEAD
        self.status = 0
        self.version = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.error = ""
        self._http = httptools.HttpResponseParser(self)
        self._http.set_dangerous_leniencies(
            lenient_chunked_length=True,  # RFC 9112, section 6.3: Transfer-Encoding overrides Content-Length
            lenient_spaces_after_chunk_size=True,
        )
        self._until_eof = False
        self._chunks: list[bytes] = []
        self._overhead = 0

    def receive(self, data: bytes) -> bytes:
        """Take bytes, and return those of the body among them."""
        self._overhead += len(data)
        try:
            self._http.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self.state is ENDED:
                self.keep_alive = False
            else:
                self._break("the answer is not HTTP/1.1")
        if self._overhead > MAX_OVERHEAD and self.state in {HEAD, BODY}:
            self._break("the answer's headers are too long")
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def receive_eof(self) -> None:
        """Take the end of file."""
        if self.state is HEAD:
            self._break("the server closed the connection without an answer")
        elif self.state is BODY and not self._until_eof:
            self._break("the server closed the connection in the middle of its answer")
        elif self.state is BODY:
            self.state = ENDED

    def close(self) -> None:
        """Let go of httptools' parser: it and this object hold each other."""
        del self._http

    def _break(self, error: str) -> None:
        self.state = BROKEN
        self.error = error

    # httptools calls what follows.

    def on_message_begin(self) -> None:  # noqa: D102
        if self.state is ENDED:
            raise ValueError("The server sent a second answer, which was not requested.")

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        if self.state is HEAD:  # else it is a trailer
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:  # noqa: D102
        status = self._http.get_status_code()
        if status < 200:
            return
        self.state = BODY
        self.status = status
        self.version = f"HTTP/{self._http.get_http_version()}".encode()
        fields = {name.lower(): value.lower() for name, value in self.headers}
        chunked = fields.get(b"transfer-encoding", b"").endswith(b"chunked")
        self._until_eof = not chunked and b"content-length" not in fields

    def on_body(self, data: bytes) -> None:  # noqa: D102
        self._overhead = 0
        self._chunks.append(data)

    def on_message_complete(self) -> None:  # noqa: D102
        if self.state is HEAD:  # the response was an informational one
            self.headers.clear()
        else:
            self.state = ENDED
            self.keep_alive = self._http.should_keep_alive()


class ResponseStream(httpx.AsyncByteStream):
    """The response to one request: its head, then its body as it comes.

    `timeouts` is `{"read", "write"}`: for how many seconds (None: any) nothing may come, or be sent. Reading raises
    httpx's errors. `begun` tells whether any byte of the response has come.
    """

    def __init__(self, connection: Connection, timeouts: dict[str, float | None]) -> None:
        self.begun = False
        self.parser = ResponseParser()
        self._connection: Connection | None = connection  # until the response is over
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._chunks: list[bytes] = []  # not read yet
        self._size = 0
        self._error: httpx.TransportError | None = None
        self._sink: Sink | None = None  # while `for_each` waits
        self._room: Awaitable[None] | None = None  # the sink's result
        self._failure: BaseException | None = None  # the sink's error
        self._waiter: asyncio.Future[None] | None = None
        self._late: type[httpx.TimeoutException] = httpx.ReadTimeout
        self._patience = self._deadline = self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def response(self) -> httpx.Response:
        """Return the response when its head has come. Its extension `for_each` is this object's method."""
        try:
            while not self.parser.status:
                if self._connection is not None and self._connection.blocked:
                    await self._wait("write", httpx.WriteTimeout)
                else:
                    await self._wait("read", httpx.ReadTimeout)
        except BaseException:
            await self.aclose()
            raise
        parser = self.parser
        extensions = {"http_version": parser.version, "for_each": self.for_each}
        return httpx.Response(parser.status, headers=parser.headers, stream=self, extensions=extensions)

    async def for_each(self, sink: Sink) -> None:
        """Give the body's bytes to `sink` as they come, until its end. Raise what `sink` raises.

        The event loop calls `sink` as it reads the bytes, in no task. Only bytes that have waited are given here.
        """
        while True:
            while self._chunks:
                if (room := sink(self._take())) is not None:
                    await room
            if self.parser.state is ENDED:
                return
            self._sink = sink
            try:
                await self._wait("read", httpx.ReadTimeout)
            finally:
                failure, room = self._failure, self._room
                self._sink = self._failure = self._room = None
            if failure is not None:
                raise failure
            if room is not None:
                await room

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            while self._chunks:
                yield self._take()
            if self.parser.state is ENDED:
                return
            await self._wait("read", httpx.ReadTimeout)

    async def aclose(self) -> None:
        """Close the connection at once, unless the response is over."""
        if self._connection is not None:
            self._connection.abort(httpx.CloseError("the response was closed"))

    def receive(self, connection: Connection, data: bytes) -> None:
        """Take bytes that the connection has read, and close or pause it as they require."""
        self.begun = True
        parser = self.parser
        body = parser.receive(data)
        state = parser.state
        if state is BODY and self._sink is not None:
            if body:
                self._give(self._sink, body)
            return
        if body:
            self._chunks.append(body)
            self._size += len(body)
        if state is ENDED:
            connection.finish(keep_alive=parser.keep_alive)
        elif state is BROKEN:
            connection.abort(httpx.RemoteProtocolError(parser.error))
        else:
            if self._size > HIGH_WATER:
                connection.pause()
            self.wake()

    def eof(self) -> httpx.TransportError | None:
        """Take the end of file. Return the error that it is, or None if it ends the body."""
        self.parser.receive_eof()
        return httpx.RemoteProtocolError(self.parser.error) if self.parser.state is BROKEN else None

    def over(self, error: httpx.TransportError | None) -> None:
        """End the response: with an error, or because its body has ended."""
        self._error = error
        self._connection = None
        self.parser.close()
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def wake(self) -> None:
        """Let the waiting task, if there is one, look again in the loop's next turn."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _give(self, sink: Sink, body: bytes) -> None:
        """Give bytes to the sink at once. The task goes on if the sink raises, or has the stream wait."""
        self._deadline = self._loop.time() + self._patience
        try:
            self._room = sink(body)
        except BaseException as error:  # noqa: BLE001 - it is raised where `for_each` is awaited
            self._failure = error
        if self._room is not None or self._failure is not None:
            self._sink = None
            self.wake()

    def _take(self) -> bytes:
        """Return the bytes that wait, and receive again."""
        if self._size > HIGH_WATER and self._connection is not None:
            self._connection.resume()
        chunks, self._chunks, self._size = self._chunks, [], 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _wait(self, what: str, late: type[httpx.TimeoutException]) -> None:
        """Wait until anything comes. All waits share a timer, which is only moved when it goes off."""
        if self._error is not None:
            raise self._error
        timeout = self._timeouts.get(what)
        self._late = late
        self._patience = _FOREVER if timeout is None else timeout
        self._deadline = self._loop.time() + self._patience
        if self._timer is None or self._timer_at > self._deadline:
            self._set_timer()
        self._waiter = self._loop.create_future()
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
        if self._connection is None or self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._connection.abort(self._late("the server is silent"))


class Connection(asyncio.Protocol):
    """A connection to `origin` (scheme, host, port), for one request after another.

    `released(connection)` is called when a response is over. `blocked` while much of a request has not been sent.
    """

    def __init__(self, origin: tuple[str, str, int], released: Callable[[Connection], None]) -> None:
        self.origin = origin
        self.blocked = False
        self._released = released
        self._stream: ResponseStream | None = None
        self._paused = False
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Return whether a request can be sent, as far as is known."""
        return not self._transport.is_closing()

    def send(self, request: bytes, timeouts: dict[str, float | None]) -> ResponseStream:
        """Send a request, once the last response is over. Return its response."""
        if self._expiry is not None:
            self._expiry.cancel()
        stream = self._stream = ResponseStream(self, timeouts)
        if self.open:
            self._transport.write(request)
        else:
            self._over(stream.eof())
        return stream

    def expire(self, seconds: float) -> None:
        """Close after so many seconds without a request."""
        self._expiry = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def finish(self, *, keep_alive: bool) -> None:
        """End the response, whose body has ended."""
        self.resume()
        if not keep_alive or self._transport.get_write_buffer_size():
            self._transport.abort()
        self._over(None)

    def abort(self, error: httpx.TransportError) -> None:
        """Close at once. A response ends with this error."""
        self._transport.abort()
        self._over(error)

    def _over(self, error: httpx.TransportError | None) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.over(error)
            self._released(self)

    def pause(self) -> None:
        """Receive no more until `resume`."""
        if not self._paused and self.open:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Receive again."""
        if self._paused and self.open:
            self._paused = False
            self._transport.resume_reading()

    # The event loop calls what follows.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._stream is None:  # no request was sent
            self._transport.abort()
        else:
            self._stream.receive(self, data)

    def pause_writing(self) -> None:  # noqa: D102
        self.blocked = True

    def resume_writing(self) -> None:  # noqa: D102
        self.blocked = False
        if self._stream is not None:
            self._stream.wake()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: D102
        if self._expiry is not None:
            self._expiry.cancel()
        if self._stream is not None:
            self._over(httpx.ReadError("the connection broke") if error else self._stream.eof())
