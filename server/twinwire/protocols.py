"""uvicorn's protocols within bounds: of what a client may send, and for how long, before anything of ours sees it.

What uvicorn and its parsers leave open: the size of a request's head, the time that its head and body take, the number
of a message's fragments, pongs to who does not read. What is wrong is answered as the app answers, in JSON.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from twinwire.errors import BadRequest, HeadTooLarge, RequestTimeout, UpgradeRequired
from twinwire.events import dump

HEAD_BYTES = 64 * 1024
HEAD_FIELDS = 256
HANDSHAKE_LINE = 8190  # what the WebSocket's own parser takes
HANDSHAKE_FIELDS = 128
REQUEST_SECONDS = 30.0
MAX_FRAGMENTS = 1024
PING = b"\x89\x00"  # RFC 6455, section 5.5.2: without a payload
PONG, PONG_BYTES = b"\x8a\x80", 6  # a client's answer to that: this, and its mask

# Attributes of uvicorn's WebSocket that are set for each. In slots they are not in its dict, which is a kilobyte larger
# when there are more than thirty in it.
SLOTTED = (
    "ping_interval",
    "ping_timeout",
    "ping_timer",
    "pong_timer",
    "pending_ping_payload",
    "ping_sent_at",
    "last_ping_rtt",
    "initial_response",
    "close_timeout",
    "curr_msg_data_type",
)


def light(event: asyncio.Event) -> None:
    """Keep its waiters, if there are any, in a list: it keeps them in a deque, of which an empty one is 760 bytes."""
    event._waiters = []  # type: ignore[assignment]


class Inbox:
    """What a socket's app has yet to take; one task at a time does. An `asyncio.Queue` is three kilobytes."""

    __slots__ = ("_items", "_news")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._news: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._items

    def put_nowait(self, item: Any) -> None:
        """Add something."""
        self._items.append(item)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def get(self) -> Any:
        """Take what has been here longest; wait while there is nothing."""
        while not self._items:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._items.pop(0)


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection with 431, 408 or 400 for a head too large, a request too slow, and no Host or two.

    The time is from when the connection was made or the request began until all of it is there. For the Host see
    RFC 9112, section 3.2.
    """

    # Beside uvicorn's attributes, whose dict is a kilobyte larger when there are more than thirty in it.
    __slots__ = ("_head_bytes", "_in_head", "_more_bytes", "_refusal", "_served", "_timer")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0  # of the URL and of whole fields
        self._more_bytes = 0  # of the head, after what came with its first byte
        self._in_head = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: BadRequest | None = None
        self._served: RequestResponseCycle | None = None  # `cycle` is the newest, which may wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `HttpToolsProtocol`."""
        super().connection_made(transport)
        light(self.flow._is_writable_event)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `HttpToolsProtocol`, which tells the newest request alone."""
        self._waited()
        super().connection_lost(exc)
        if (served := self._answering()) is not None:
            served.disconnected = True
            served.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """See `HttpToolsProtocol`."""
        self._served = cycle
        light(cycle.message_event)
        super()._start_asgi_task(cycle, app)

    def _answering(self) -> RequestResponseCycle | None:
        """The request whose answer is not complete."""
        return None if self._served is None or self._served.response_complete else self._served

    def _wait(self) -> None:
        self._waited()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _waited(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.headers is None:
            self.transport.close()  # nothing was asked
        else:
            self._refuse(RequestTimeout(REQUEST_SECONDS))

    def data_received(self, data: bytes) -> None:
        """See `HttpToolsProtocol`."""
        begun = self.headers if self._in_head else None
        super().data_received(data)
        if self._in_head and self.headers is begun:  # a field that has no end is nowhere else seen
            self._more_bytes += len(data)
            if self._more_bytes > HEAD_BYTES:
                self._refuse(HeadTooLarge(HEAD_BYTES, HEAD_FIELDS))
        idle = self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]
        if self._timer is None and idle and self.transport.get_protocol() is self:
            self._wait()  # what came has stopped uvicorn's own timer, and began no request

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES or len(self.headers) > HEAD_FIELDS:
            self._fail(HeadTooLarge(HEAD_BYTES, HEAD_FIELDS))

    def _fail(self, refusal: BadRequest) -> None:
        """Stop the parser; `send_400_response` follows."""
        self._refusal = refusal
        raise refusal

    def on_message_begin(self) -> None:
        """See `HttpToolsProtocol`."""
        super().on_message_begin()
        self._head_bytes = self._more_bytes = 0
        self._in_head = True
        self._wait()

    def on_url(self, url: bytes) -> None:
        """See `HttpToolsProtocol`."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `HttpToolsProtocol`. The trailer of a chunked body comes here too."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self._in_head = False
        hosts = [value for name, value in self.headers if name == b"host"]
        if len(hosts) > 1 or (not hosts and self.parser.get_http_version() == "1.1"):
            self._fail(BadRequest("one Host is needed", field="host"))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self._waited()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """See `HttpToolsProtocol`. What the WebSocket's parser would not take it does not even answer."""
        self._waited()
        if self._answering() is not None:
            self.transport.abort()  # the answer would go on in the middle of the WebSocket's frames
            return
        lines = [len(self.url) + len("GET  HTTP/1.1"), *(len(name) + len(value) + 2 for name, value in self.headers)]
        if max(lines) > HANDSHAKE_LINE or len(self.headers) > HANDSHAKE_FIELDS:
            self._refuse(HeadTooLarge(HANDSHAKE_LINE, HANDSHAKE_FIELDS))
        elif [value for name, value in self.headers if name == b"sec-websocket-version"] != [b"13"]:
            self._refuse(UpgradeRequired("only version 13 is spoken", field="sec-websocket-version"))
        else:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's
        """See `HttpToolsProtocol`."""
        self._refuse(self._refusal or BadRequest("not HTTP"))

    def _refuse(self, error: BadRequest) -> None:
        """Answer, unless something else is being answered, and close."""
        if self.transport.is_closing():
            return
        served = self._answering()
        if served is not None and (served.response_started or not served.more_body):
            self.transport.abort()
            return
        body = dump(error.payload())
        head = STATUS_LINE[error.status]
        if isinstance(error, UpgradeRequired):
            head += b"sec-websocket-version: 13\r\nupgrade: websocket\r\n"  # RFC 6455, section 4.4
        for name, value in self.server_state.default_headers:  # Date
            head += b"%b: %b\r\n" % (name, value)
        head += b"cache-control: no-store\r\nx-content-type-options: nosniff\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(head + body)
        self.transport.close()
        self.refused(error.code)

    def refused(self, code: str) -> None:
        """Called with the code of each refusal that was answered."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Bounds a message's fragments, which may be empty; of the pongs that cannot be sent yet it keeps the last.

    Has no timers: who uses it calls `ask` at its interval.
    """

    __slots__ = ("_asked", "_pong", *SLOTTED)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._pong = b""
        self._asked = False
        self.queue = Inbox()  # type: ignore[assignment]
        light(self.writable)

    def start_keepalive(self) -> None:
        """See `WebSocketsSansIOProtocol`."""

    def ask(self) -> None:
        """Send a ping, or, where the last one is not answered, close the connection as `keepalive_timeout` does.

        While a message waits for the app nothing is read: then the answer may have come.
        """
        if self._asked and not self.read_paused:
            self.keepalive_timeout()
        elif not self.close_sent and not self.transport.is_closing():
            self._asked = True
            self.transport.write(PING)

    def data_received(self, data: bytes) -> None:
        """See `WebSocketsSansIOProtocol`. An answer to `ask` that comes alone is not worth its parser's time."""
        if len(data) == PONG_BYTES and data.startswith(PONG) and self._between_frames():
            self._asked = False
        else:
            super().data_received(data)

    def _between_frames(self) -> bool:
        """Whether the next byte is a frame's first; False also where the parser does not show it."""
        step: Any = self.conn.parser
        while step.gi_yieldfrom is not None:
            step = step.gi_yieldfrom
        return bool(step.__name__ == "at_eof")

    def handle_pong(self, event: Frame) -> None:  # noqa: ARG002 - whatever it says
        """See `WebSocketsSansIOProtocol`."""
        self._asked = False

    def handle_cont(self, event: Frame) -> None:
        """See `WebSocketsSansIOProtocol`."""
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.send_close(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """See `WebSocketsSansIOProtocol`, and RFC 6455, section 5.5.3: the latest ping is the one to answer."""
        answers = self.conn.data_to_send()  # to all that came in one go, at the first of them
        if self.writable.is_set():
            self.transport.write(b"".join(answers))
        elif answers:
            self._pong = answers[-1]

    def resume_writing(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().resume_writing()
        if self._pong and not self.transport.is_closing():
            self.transport.write(self._pong)
        self._pong = b""
