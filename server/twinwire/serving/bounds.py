"""uvicorn's HTTP/1.1 within bounds: of what a client may send, and for how long, before anything of ours sees it.

What uvicorn and its parser leave open: the size of a request's head, the time that its head and body take, how much is
parsed before it is needed. What is wrong is answered as the app answers, in JSON. For WebSockets see `websocket`.
"""

from __future__ import annotations

import asyncio
import re
from enum import Enum
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from twinwire.protocol.errors import (
    BadRequest,
    Busy,
    HeadTooLarge,
    RequestTimeout,
    TwinwireError,
    UnknownCoding,
    UpgradeRequired,
)
from twinwire.protocol.events import dump
from twinwire.serving.websocket import PIECE_BYTES, BoundedWebSocket, light, numeric, own, service
from twinwire.telemetry import ids
from twinwire.transports.intake import TOO_LARGE
from twinwire.transports.lifetime import Lifetime, Phase

HEAD_BYTES = 64 * 1024
HEAD_FIELDS = 256
HIGH_WATER = 16 * 1024  # bytes that a connection may have unsent without being waited for; the kernel has more
FIELD_COST = 160  # that a field of a head takes beside its bytes
HANDSHAKE_LINE = 8190  # what the WebSocket's own parser takes
HANDSHAKE_FIELDS = 128
REQUEST_SECONDS = 30.0
AHEAD_REQUESTS = 2  # parsed while one is answered; the next ones stay bytes
AHEAD_BYTES = 512 * 1024  # of these; with as many nothing is read, even if the app would hear of a client that goes
END_OF_HEAD = b"\r\n\r\n"
_CODINGS = "transfer-encoding"
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(?=[/?]|\Z)", re.IGNORECASE)


class Part(Enum):
    """The part of a request that is being read."""

    HEAD = "head"
    BODY = "body"


def _size(cycle: RequestResponseCycle) -> int:
    """Return how many bytes a request holds. A stream has let go of its head."""
    fields = cycle.scope.get("headers", ())
    return len(cycle.body) + sum(len(name) + len(value) + FIELD_COST for name, value in fields)


class Pipeline(list[Any]):
    """The requests behind the one that is answered. uvicorn has a deque, of which an empty one is 640 bytes."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        """See `collections.deque`."""
        self.insert(0, item)

    def popleft(self) -> Any:
        """See `collections.deque`."""
        return self.pop(0)


class Flow(FlowControl):
    """Reads no further while it is `full`, whatever the app waits for."""

    full = False

    def resume_reading(self) -> None:
        """See `FlowControl`."""
        if not self.full:
            super().resume_reading()


class BoundedHttp(HttpToolsProtocol):
    """Parses little ahead, and answers a head too large, a request too slow or a wrong one with 431, 408 or 400.

    Requests that are pipelined are answered in order (RFC 9112, section 9.3.2): a WebSocket opens, and what is wrong is
    refused, once each request before it is answered.

    Its `lifetime` has the deadlines; see `transports.lifetime`. For the Host see RFC 9112, section 3.2. The trailers of
    a chunked body are discarded (RFC 9110, section 6.5.1).
    """

    # Beside uvicorn's attributes, whose dict is a kilobyte larger when there are more than thirty in it.
    __slots__ = (
        "_ahead",
        "_head_bytes",
        "_late",
        "_left",
        "_more_bytes",
        "_reading",
        "_refusal",
        "_served",
        "lifetime",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.lifetime: Lifetime = options.pop("lifetime", None)  # until it is connected
        super().__init__(*arguments, **options)
        self.pipeline = Pipeline()  # type: ignore[assignment]
        self._head_bytes = 0  # of the URL and of whole fields, trailers included
        self._more_bytes = 0  # of the head, after what came with its first byte
        self._reading: Part | None = None  # of the request that is not all there
        self._left: int | None = 0  # bytes of the body that are to come; None for a chunked one
        self._ahead = b""  # what is parsed when the requests before it are answered
        self._refusal: BadRequest | None = None
        self._late: TwinwireError | None = None  # to be refused when the requests before it are answered
        self._served: RequestResponseCycle | None = None  # `cycle` is the newest, which may wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `HttpToolsProtocol`."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(HIGH_WATER)
        self.client, self.server = numeric(self.client), own(self.server)
        self.flow = Flow(transport)
        light(self.flow._is_writable_event)
        if self.lifetime is None:
            self.lifetime = service(self.config).lifetimes.accept(self, REQUEST_SECONDS)
        else:
            self.lifetime.carrier = self

    def connection_lost(self, exc: Exception | None) -> None:
        """See `HttpToolsProtocol`, which tells the newest request alone."""
        self.lifetime.end()
        self._ahead = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._tell_gone()

    def _tell_gone(self) -> None:
        for cycle in {self._served, self.cycle}:
            if cycle is None:
                continue
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """See `HttpToolsProtocol`."""
        self._served = cycle
        light(cycle.message_event)
        super()._start_asgi_task(cycle, app)
        if not cycle.more_body:
            self.lifetime.serve()

    def _answering(self) -> RequestResponseCycle | None:
        """The request whose answer is not complete."""
        return None if self._served is None or self._served.response_complete else self._served

    def resume_writing(self) -> None:
        """See `HttpToolsProtocol`."""
        super().resume_writing()
        self.lifetime.moved()

    # A `Carrier`

    def unsent(self) -> int:
        """See `Carrier`."""
        return self.transport.get_write_buffer_size()

    def held(self) -> int:
        """See `Carrier`. What the app has taken of a body is the app's to count."""
        cycles = {self._served, self.cycle, *(waiting for waiting, _ in self.pipeline)}
        reading = self._head_bytes + self._more_bytes if self._reading is Part.HEAD else 0
        return reading + len(self._ahead) + sum(_size(cycle) for cycle in cycles if cycle is not None)

    def shed(self) -> None:
        """See `Carrier`."""
        if self.lifetime.phase is Phase.REQUEST and self._answering() in {None, self.cycle}:
            self._refuse(Busy(TOO_LARGE))
        else:
            self.lifetime.drop("busy")

    def expire(self) -> None:
        """See `Carrier`."""
        phase = self.lifetime.phase
        if phase in {Phase.WORKING, Phase.SENDING}:
            self.lifetime.drop("unanswered")
        elif phase is not Phase.REQUEST or (self._reading is Part.BODY and self._answering() is None):
            self.transport.close()  # nothing was asked, or it was answered
        else:
            self._refuse(RequestTimeout(REQUEST_SECONDS))

    def drop(self) -> None:
        """See `Carrier`."""
        self._tell_gone()
        self.transport.abort()

    def stop(self) -> None:
        """See `Carrier`. Who has yet to send the rest of a request is not waited for."""
        self._ahead = b""
        self.pipeline.clear()
        if self.lifetime.phase is Phase.REQUEST:
            self.lifetime.drop("draining")
        elif (served := self._answering()) is None:
            self.transport.close()
        else:
            served.keep_alive = False

    def tick(self, now: float) -> None:
        """See `Carrier`."""

    # Parsing

    def rest_parser(self) -> None:
        """Let go of the parser, which is a kilobyte, until more comes: a stream may go on for long without."""
        if self._reading is None:
            self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """See `HttpToolsProtocol`, whose parser takes all that comes, however many requests there are in it."""
        if self._ahead or self._late is not None:
            self._keep(self._ahead + data)
        else:
            self._parse(data)
        self.lifetime.took()

    def _keep(self, data: bytes) -> None:
        """Keep what is parsed later, and read no more but if the app wants to hear of its client."""
        self._ahead = data
        self.flow.pause_reading()
        self.flow.full = len(data) >= AHEAD_BYTES  # type: ignore[attr-defined]

    def _parse(self, data: bytes) -> None:
        """Feed the parser a request at a time, until as many wait for their turn as may."""
        if self.parser is None:
            self.parser = httptools.HttpRequestParser(self)
        at = 0
        while at < len(data) and not self.transport.is_closing():
            if len(self.pipeline) >= AHEAD_REQUESTS:
                self._keep(data[at:])
                return
            end = self._end_of_piece(data, at)
            piece = data if end - at == len(data) else data[at:end]
            begun = self.headers if self._reading is Part.HEAD else None
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                at += upgrade.args[0]
                if self._should_upgrade():
                    self._become_websocket(data[at:])
                    return
                data, at = self._head(b"upgrade") + data[at:], 0
                continue
            except httptools.HttpParserError:
                self._refuse(self._refusal or BadRequest("The request must be valid HTTP/1.1."))
                return
            at = end
            if self._reading is Part.HEAD and self.headers is begun:  # a field that has no end is nowhere else seen
                self._more_bytes += len(piece)
                if self._more_bytes > HEAD_BYTES:
                    self._refuse(HeadTooLarge(HEAD_BYTES, HEAD_FIELDS))

    def _should_upgrade(self) -> bool:
        """See `HttpToolsProtocol`. In HTTP/1.0 an Upgrade is ignored (RFC 9110, section 7.8).

        The handshake of a WebSocket is a GET (RFC 6455, section 4.1).
        """
        parser = self.parser
        return parser.get_http_version() == "1.1" and parser.get_method() == b"GET" and super()._should_upgrade()

    def _head(self, without: bytes | None = None) -> bytes:
        """Return the head, for a new parser: the old one parses nothing behind an upgrade.

        Without its `Upgrade`, what follows is HTTP (RFC 9110, section 7.8): the request's body, or the next request.
        """
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != without]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(fields))

    def _declines_upgrade(self) -> bool:
        """Return whether the request asks for an upgrade that is not taken, and is parsed again without it."""
        return bool(self.parser.should_upgrade()) and not self._should_upgrade()

    def _end_of_piece(self, data: bytes, at: int) -> int:
        """Return where to stop, so that hardly more than one request ends in the piece."""
        if self._reading is Part.BODY and self._left:
            return min(len(data), at + self._left)
        found = data.find(END_OF_HEAD, at if self._reading is not Part.BODY else at + PIECE_BYTES)
        return len(data) if found < 0 else found + len(END_OF_HEAD)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES or len(self.headers) > HEAD_FIELDS:
            self._fail(HeadTooLarge(HEAD_BYTES, HEAD_FIELDS))

    def _fail(self, refusal: BadRequest) -> None:
        """Stop the parser; `_parse` refuses the request."""
        self._refusal = refusal
        raise refusal

    def on_message_begin(self) -> None:
        """See `HttpToolsProtocol`."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._head_bytes = self._more_bytes = 0
        self._reading = Part.HEAD
        if self._answering() is None:
            self._await_request()

    def _await_request(self) -> None:
        """Enter REQUEST. The first request has the time from accept, which no first byte prolongs."""
        lifetime = self.lifetime
        lifetime.enter(Phase.REQUEST, None if lifetime.phase is Phase.OPENING else REQUEST_SECONDS)

    def on_url(self, url: bytes) -> None:
        """See `HttpToolsProtocol`."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `HttpToolsProtocol`. A trailer comes here too, and is no part of the head, to which it came too late."""
        size = len(name) + len(value) + 4
        if self._reading is Part.HEAD:
            super().on_header(name, value)
            self._count(size)
        else:
            self._count(size)

    def on_headers_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        fields: dict[bytes, list[bytes]] = {b"host": [], b"content-length": [], b"transfer-encoding": []}
        for name, value in self.headers:
            if name in fields:
                fields[name].append(value)
        if len(fields[b"host"]) > 1 or (not fields[b"host"] and self.parser.get_http_version() == "1.1"):
            self._fail(BadRequest("`Host` must be there exactly once.", field="host"))
        if not self.url.startswith((b"/", b"*")):
            self._aim()
        if self.parser.get_method() == b"CONNECT":
            self._fail(BadRequest("CONNECT is not supported: this server is not a proxy."))
        self._check_codings(fields[b"transfer-encoding"])
        if self._declines_upgrade():
            return
        self._reading = Part.BODY
        chunked = bool(fields[b"transfer-encoding"])
        self._left = None if chunked else int(next(iter(fields[b"content-length"]), b"0"))
        if (chunked or self._left) and self.parser.should_upgrade() and self._should_upgrade():
            field = "transfer-encoding" if chunked else "content-length"
            self._fail(BadRequest("The handshake of a WebSocket must not have a body.", field=field))
        super().on_headers_complete()

    def _check_codings(self, values: list[bytes]) -> None:
        """Refuse a body in another coding than `chunked`: the parser takes its bytes for the body itself.

        See RFC 9112, sections 6.1 and 6.3. The parser refuses Transfer-Encoding beside Content-Length, and anything
        behind `chunked`.
        """
        if not values:
            return
        *others, last = b",".join(values).lower().split(b",")
        if self.parser.get_http_version() == "1.0":
            self._fail(BadRequest("HTTP/1.0 has no `Transfer-Encoding`: send `Content-Length`.", field=_CODINGS))
        if last.strip() != b"chunked":
            self._fail(BadRequest("The last coding of `Transfer-Encoding` must be `chunked`.", field=_CODINGS))
        if any(other.strip() for other in others):
            self._fail(UnknownCoding("`Transfer-Encoding` may only be `chunked`.", field=_CODINGS))

    def _aim(self) -> None:
        """Replace the Host by that of an absolute-form target, as all of the request is about that (section 3.2.2)."""
        target = _ABSOLUTE.match(self.url)
        if target is None:
            self._fail(BadRequest("The request's target must be a path, or a URL with a host and without a user."))
        else:
            self.headers[:] = [(name, target[1] if name == b"host" else value) for name, value in self.headers]
            self.url = b"/" + self.url[target.end() :].removeprefix(b"/")

    def on_body(self, body: bytes) -> None:
        """See `HttpToolsProtocol`."""
        if self._left:
            self._left -= len(body)
        if self.lifetime.phase is not Phase.STREAMING or self.cycle is not self._served:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        if self._declines_upgrade():
            return
        self._reading = None
        super().on_message_complete()
        upgraded = self.parser.should_upgrade() and self._should_upgrade()
        if self.cycle is self._served and not upgraded:
            if self.cycle.response_complete:
                self._rest()
            elif self.lifetime.phase is Phase.REQUEST:
                self.lifetime.serve()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self.flow.full = False  # type: ignore[attr-defined]
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._answering() is None:
            if self._reading is None:
                self._rest()
            else:
                self._unset_keepalive_if_required()
                self._await_request()
        elif self._served is not None and self._served.more_body:
            self._await_request()
        if self._late is not None:
            self._refuse(self._late)
        elif self._ahead and len(self.pipeline) < AHEAD_REQUESTS:
            data, self._ahead = self._ahead, b""
            self._parse(data)

    def _rest(self) -> None:
        self.lifetime.enter(Phase.IDLE, min(self.timeout_keep_alive, REQUEST_SECONDS))

    def _become_websocket(self, early: bytes) -> None:
        """Hand the connection over. What the WebSocket's parser would not take it does not even answer."""
        if self._answering() is not None:  # its answer would go on in the middle of the WebSocket's frames
            self._keep(self._head() + early)
            return
        lines = [len(self.url) + len("GET  HTTP/1.1"), *(len(name) + len(value) + 2 for name, value in self.headers)]
        if max(lines) > HANDSHAKE_LINE or len(self.headers) > HANDSHAKE_FIELDS:
            self._refuse(HeadTooLarge(HANDSHAKE_LINE, HANDSHAKE_FIELDS))
        elif [value for name, value in self.headers if name == b"sec-websocket-version"] != [b"13"]:
            message = "The server speaks one version of WebSockets: send `Sec-WebSocket-Version: 13`."
            self._refuse(UpgradeRequired(message, field="sec-websocket-version"))
        else:
            self._reading = None
            self.headers[:] = [field for field in self.headers if field[0] != b"content-length"]  # it is 0
            self.handle_websocket_upgrade()
            socket = self.transport.get_protocol()
            if isinstance(socket, BoundedWebSocket):
                if self.flow.write_paused:
                    socket.pause_writing()
                if not socket.adopt(self.lifetime, early):
                    self._refuse(socket.refusal)

    def _refuse(self, error: TwinwireError) -> None:
        """Answer, once the requests before are answered, and close. Nothing that comes behind is parsed."""
        if self.transport.is_closing():
            return
        served = self._answering()
        if served is not None and not served.more_body:
            if self._late is None and self.cycle.more_body:
                self.pipeline.popleft()  # the one that is refused
            self._late = error
            return
        if served is not None and served.response_started:
            self.lifetime.drop(error.code)
            return
        body = dump(error.payload())
        head = STATUS_LINE[error.status]
        if isinstance(error, UpgradeRequired):
            head += b"sec-websocket-version: 13\r\nupgrade: websocket\r\n"  # RFC 6455, section 4.4
        elif isinstance(error, Busy):
            head += b"retry-after: 1\r\n"
        begun = self._reading is not None  # else the head is that of a request before
        named = ids.of_request(self.headers if begun else ())
        for name, value in (*self.server_state.default_headers, *named.header):  # Date
            head += b"%b: %b\r\n" % (name, value)
        head += b"cache-control: no-store\r\nx-content-type-options: nosniff\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(head + body)
        self.transport.close()
        self._tell_gone()
        path = self.url.partition(b"?")[0].decode("latin-1") if begun else None
        service(self.config).metrics.refuse(error, path=path, request_id=named.request_id)
