"""uvicorn's WebSocket within bounds: of what is parsed before the app takes it, of fragments and of pongs."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import uvicorn
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidHandshake, InvalidHeader
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import State

from twinwire.protocol.errors import BadRequest, Busy
from twinwire.settings import unmapped
from twinwire.transports import Verdict
from twinwire.transports.lifetime import Lifetime, Phase
from twinwire.web.service import Service

TURN_BYTES = 8 * 1024  # of one WebSocket's frames are parsed before others have their turn
FRAGMENT_BYTES = 64  # a message may have as many fragments as if each had so many bytes, and JOINED_FRAGMENTS at least
JOINED_FRAGMENTS = 1024  # are kept one by one
MESSAGE_SECONDS = 30.0  # that a client may take for the fragments of one message
CONTROL_FRAMES, CONTROL_SECONDS = 1000, 10.0  # So many pings and pongs of a client are parsed within this time.
PING = b"\x89\x00"  # RFC 6455, section 5.5.2: without a payload
PONG, PONG_BYTES = b"\x8a\x80", 6  # a client's answer to that: this, and its mask
PIECE_BYTES = 1024  # parsed at once, if its messages are to be counted
HANDSHAKE = "This is not the handshake of a WebSocket (RFC 6455, section 4.1)."
KEY = "`Sec-WebSocket-Key` must be there once, and be 16 bytes in Base64."
Port = TypeVar("Port", int, int | None)

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
    """The messages that a socket's app has yet to take, in one task. An `asyncio.Queue` is three kilobytes."""

    __slots__ = ("_items", "_news", "on_news")

    def __init__(self) -> None:
        self.on_news: Callable[[], None] | None = None  # called, if set, when something is added
        self._items: list[Any] = []
        self._news: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        """Return whether there is nothing to take."""
        return not self._items

    def size(self) -> int:
        """Return how many bytes the newest message takes: a text with one emoji in it takes four for each character."""
        return sys.getsizeof(self._items[-1].get("text") or b"") if self._items else 0

    def put_nowait(self, item: Any) -> None:
        """Add something."""
        self._items.append(item)
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        if self.on_news is not None:
            self.on_news()

    def get_nowait(self) -> Any:
        """Take what has been here longest."""
        return self._items.pop(0)

    async def news(self) -> None:
        """Wait until something is added."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news


def service(config: uvicorn.Config) -> Service:
    """Return what the server's app shares."""
    found: Service = config.app.state.service  # type: ignore[union-attr]
    return found


def numeric(address: tuple[str, Port] | None) -> tuple[str, Port] | None:
    """Return an address with IPv4 in its own form."""
    return address and (unmapped(address[0]), address[1])


own = functools.lru_cache(maxsize=16)(numeric)
"""The same for an address of the server's own. There are few of them, which connections share."""


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """Parses little ahead of the app, and bounds a message's fragments; of pongs that cannot be sent yet it keeps one.

    Has no timers: who uses it calls `ask` at its interval, and its `lifetime` has the deadline of the handshake. A
    frame that is not all there keeps the answer to `ask` from being read, and so has as long as that.
    """

    __slots__ = (
        "_ahead",
        "_asked_at",
        "_begun_at",
        "_controls",
        "_controls_since",
        "_fragments",
        "_pong",
        "_taken_bytes",
        "_refusal",
        "lifetime",
        *SLOTTED,
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lifetime: Lifetime = None  # type: ignore[assignment]  # until `adopt`
        self._refusal: BadRequest | None = None  # of a handshake that is none
        self._ahead = b""  # what is parsed when the app has taken the messages before it
        self._fragments = 0  # of the message that is not all there
        self._begun_at: float | None = None  # when `ask` first found that message
        self._taken_bytes = 0  # of the message that the app has, or is about to take
        self._controls = 0  # pings and pongs that came since `_controls_since`
        self._controls_since = self.loop.time()
        self._pong = b""
        self._asked_at: float | None = None  # when `ask` sent the first ping that is not answered
        self.queue = Inbox()  # type: ignore[assignment]
        light(self.writable)
        self.conn.id = None  # type: ignore[assignment]  # for its own log lines, which it writes with DEBUG only

    @property
    def refusal(self) -> BadRequest:
        """The answer to a handshake that is none."""
        return self._refusal or BadRequest(HANDSHAKE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().connection_made(transport)
        self.client, self.server = numeric(self.client), own(self.server)

    def handle_connect(self, event: Request) -> None:
        """See `WebSocketsSansIOProtocol`, which answers a bad handshake in plain text."""
        try:
            self.conn.process_request(event)
        except InvalidHandshake as error:
            if isinstance(error, InvalidHeader):
                field = error.name.lower()
                message = KEY if field == "sec-websocket-key" else f"{HANDSHAKE} `{error.name}` is not valid."
                self._refusal = BadRequest(message, field=field)
            return
        super().handle_connect(event)

    def adopt(self, lifetime: Lifetime, early: bytes) -> bool:
        """Take a connection over, and what came behind its handshake; False if that was none."""
        self.lifetime = lifetime
        lifetime.carrier = self
        if self.handshake_initiated:
            lifetime.enter(Phase.WORKING)  # until the app accepts
            if early:
                self.data_received(early)
        return self.handshake_initiated

    def connection_lost(self, exc: Exception | None) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self.lifetime.end()
        super().connection_lost(exc)
        self._rest()  # the parser and its `conn` refer to each other: half a message would wait for the collector
        self._let_go()

    # A `Carrier`

    def unsent(self) -> int:
        """See `Carrier`."""
        return self.transport.get_write_buffer_size()

    def held(self) -> int:
        """See `Carrier`."""
        begun = sum([len(frame) for frame in self.frames])
        return len(self._ahead) + sys.getsizeof(self.conn.reader.buffer) + begun + self._taken_bytes

    def shed(self) -> None:
        """See `Carrier`."""
        if self.close_sent or not self.handshake_complete:
            self.lifetime.drop(Busy.code)
            return
        self._close(Busy.close_code, "The server is reading too many large messages. Reconnect later.")
        self._let_go()
        self.lifetime.refuse(Busy.code)

    def _let_go(self) -> None:
        """Forget what has come of a message: nothing more is read."""
        self._ahead = b""
        self.frames = []
        self.conn.reader.buffer.clear()

    def expire(self) -> None:
        """See `Carrier`. The app has not accepted the handshake, or the closing one takes too long."""
        self.lifetime.drop("unanswered")

    def drop(self) -> None:
        """See `Carrier`."""
        self.disconnected = True
        self.transport.abort()

    def stop(self) -> None:
        """See `Carrier`."""
        self.shutdown()

    def tick(self, now: float) -> None:
        """See `Carrier`."""

    def shutdown(self) -> None:
        """See `WebSocketsSansIOProtocol`, which answers a handshake that there may not have been."""
        if self.handshake_complete:
            if not self.transport.is_closing():
                super().shutdown()
        else:
            self.lifetime.drop("draining")

    # Frames

    def start_keepalive(self) -> None:
        """See `WebSocketsSansIOProtocol`."""

    def ask(self) -> None:
        """Send a ping, or, if none was answered for `ping_timeout`, close the connection as `keepalive_timeout` does.

        While a message waits for the app nothing is read: then the answer may have come.
        """
        now = self.loop.time()
        if self.frames and not self.read_paused and not self._has_time():
            self._close(Verdict.SLOW.code, "The fragments of a message took too long to come.")
        elif self._asked_at is not None and not self.read_paused and now >= self._asked_at + (self.ping_timeout or 0.0):
            self.keepalive_timeout()
        elif not self.close_sent and not self.transport.is_closing():
            self._asked_at = self._asked_at or now
            self.transport.write(PING)

    def _has_time(self) -> bool:
        """Return whether the client may still end the message that it has begun."""
        now = self.loop.time()
        self._begun_at = self._begun_at or now
        return now - self._begun_at < MESSAGE_SECONDS

    def _close(self, code: int, reason: str) -> None:
        if not self.close_sent:
            self.conn.send_close(code, reason)
            self.handle_parser_exception()

    def data_received(self, data: bytes) -> None:
        """See `WebSocketsSansIOProtocol`, which parses all that comes, however many messages there are in it.

        An answer to `ask` that comes alone is not worth its parser's time.
        """
        if len(data) == PONG_BYTES and data.startswith(PONG) and not self._ahead and self._between_frames():
            self._asked_at = None
            return
        if self._ahead or (self.handshake_initiated and not self.handshake_complete):
            self._keep(self._ahead + data)
        else:
            self._parse(data)
            if self.conn.state is State.OPEN and self._between_frames():
                self._rest()
        if self.lifetime is not None:
            self.lifetime.took()

    def _keep(self, data: bytes) -> None:
        """Keep what is parsed later, and read no more."""
        self._ahead = data
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _parse(self, data: bytes) -> None:
        """Parse frames until the app has a message to take, or others their turn."""
        for at in range(0, len(data), PIECE_BYTES):
            waiting = not self.queue.empty() and self.handshake_complete and not self.close_sent
            if waiting or at >= TURN_BYTES:
                self._keep(data[at:])
                if not waiting:
                    self.loop.call_soon(self._go_on)
                return
            if self.transport.is_closing():
                return
            if self.conn.parser is None:
                self.conn.parser = self.conn.parse()
                next(self.conn.parser)
            super().data_received(data if len(data) <= PIECE_BYTES else data[at : at + PIECE_BYTES])
            self._send_pongs()

    def _rest(self) -> None:
        """Let go of the parser, which is a kilobyte and has the handshake and the last frame, until more comes."""
        if self.conn.parser is not None:
            self.conn.parser.close()
            self.conn.parser = None  # type: ignore[assignment]

    def _go_on(self) -> None:
        """Parse what was kept, and read on once the app has taken all there is."""
        if self._ahead and self.handshake_complete and not self.transport.is_closing():
            data, self._ahead = self._ahead, b""
            self._parse(data)
        if self.read_paused and not self._ahead and (self.queue.empty() or self.close_sent):
            self.read_paused = False
            self.transport.resume_reading()

    async def receive(self) -> ASGIReceiveEvent:
        """See `WebSocketsSansIOProtocol`."""
        while (message := self.take()) is None:
            await self.queue.news()  # type: ignore[attr-defined]
        received: ASGIReceiveEvent = message
        return received

    def take(self) -> Any:
        """Return the message that has waited for longest, None if none does. The app is done with the one before."""
        if self._taken_bytes and self.queue.empty():
            self._taken_bytes = 0
            self.lifetime.took()
        if self.queue.empty():
            return None
        message = self.queue.get_nowait()
        if self.queue.empty():
            self._go_on()
        return message

    def send_receive_event_to_app(self) -> None:
        """See `WebSocketsSansIOProtocol`. Behind a close frame of ours a message comes too late."""
        self._fragments = 0
        self._begun_at = None
        if self.close_sent:
            self.frames = []
        else:
            super().send_receive_event_to_app()
            self._taken_bytes += self.queue.size()  # type: ignore[attr-defined]

    def _between_frames(self) -> bool:
        """Return whether the next byte is a frame's first; False also if the parser does not show it."""
        step: Any = self.conn.parser
        if step is None:
            return True
        while step.gi_yieldfrom is not None:
            step = step.gi_yieldfrom
        return bool(step.__name__ == "at_eof")

    def handle_pong(self, event: Frame) -> None:  # noqa: ARG002 - whatever it says
        """See `WebSocketsSansIOProtocol`."""
        self._asked_at = None
        self._count_control()

    def _count_control(self) -> None:
        """Close the socket of a client that sends pings or pongs without end: nobody else would be served."""
        self._controls += 1
        if self._controls > CONTROL_FRAMES:
            now = self.loop.time()
            if now - self._controls_since < CONTROL_SECONDS:
                self._close(Verdict.BUSY.code, "The client sent too many pings or pongs.")
            self._controls, self._controls_since = 1, now

    def handle_cont(self, event: Frame) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self._fragments += 1
        if self._fragments < max(JOINED_FRAGMENTS, self.config.ws_max_size // FRAGMENT_BYTES):
            if len(self.frames) >= JOINED_FRAGMENTS:
                self.frames = [b"".join(self.frames)]
            super().handle_cont(event)
        else:
            self._close(CloseCode.MESSAGE_TOO_BIG, "A message has too many fragments.")

    def handle_ping(self) -> None:
        """See `WebSocketsSansIOProtocol`, and RFC 6455, section 5.5.3: to who does not read the last is enough."""
        answers = self.conn.data_to_send()  # to all that came in one go, at the first of them
        if self.writable.is_set():
            self._pong += b"".join(answers)
        elif answers:
            self._pong = answers[-1]
        self._count_control()

    def _send_pongs(self) -> None:
        """Answer the pings of a piece at once: one by one they would cost a system call each."""
        if self._pong and self.writable.is_set():
            pong, self._pong = self._pong, b""
            if not self.transport.is_closing():
                self.transport.write(pong)

    def handle_close(self, event: Frame) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self._send_pongs()
        super().handle_close(event)

    def handle_parser_exception(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self._send_pongs()
        super().handle_parser_exception()

    def resume_writing(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().resume_writing()
        self._send_pongs()
