"""HTTP/2 (RFC 9113) as uvicorn has it, on the extra `http2`: plain ASGI, for streams that share a connection.

Put right here: zttp keeps without bound what a peer gives no credit for, and offers WebSockets (RFC 8441) that uvicorn
does not serve; uvicorn logs a broken stream as the app's error, bounds neither a request's time nor the answers to
frames, and logs each bad frame.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any

import zttp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle, ZttpH2Protocol

from twinwire.protocol.errors import Busy
from twinwire.serving.bounds import FIELD_COST, REQUEST_SECONDS
from twinwire.serving.websocket import numeric, service
from twinwire.transports.asgi import UNSENT
from twinwire.transports.intake import SMALL_BYTES
from twinwire.transports.lifetime import TICK_SECONDS, Lifetime, Phase, unacknowledged
from twinwire.web.answers import STREAM

logger = logging.getLogger("twinwire.serving")

MAX_TASKS = 256  # of a connection's requests, those included that the client has reset; zttp allows 128 streams at once
PROTOCOL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 1, 7, 11  # RFC 9113, section 7
_CONNECT_PROTOCOL = b"\0\x08\0\0\0"  # SETTINGS_ENABLE_CONNECT_PROTOCOL, without the last byte of its value


class Exchange:
    """One request on a stream, which waits for its body, for the app, or for credit.

    Each wait has a deadline, as the phases of a connection have; see `transports.lifetime`.
    """

    __slots__ = ("_begun", "_code", "_pending", "_since", "cycle", "following", "head")

    def __init__(self, cycle: RequestResponseCycle, now: float) -> None:
        self.cycle = cycle
        self.head = sum(len(name) + len(value) + FIELD_COST for name, value in cycle.scope["headers"])
        self.following = False  # a run: the pump has the deadlines, but for credit
        self._since = now
        self._code = "request_timeout" if cycle.more_body else "unanswered"
        self._begun = False
        self._pending = 0

    def held(self) -> int:
        """Return how many bytes of the request are here if they are many; what the app has taken is its to count."""
        size = self.head + len(self.cycle.body)
        return size if size > SMALL_BYTES else 0

    def shed(self) -> None:
        """Let go of the request."""
        self.head = 0
        self.cycle.body = bytearray()

    def unsent(self) -> int:
        """Return how many bytes wait for the stream's credit or, if none do, for the connection that all share."""
        transport = self.cycle.transport
        return self.cycle.stream.pending_bytes or transport.get_write_buffer_size() + unacknowledged(transport)

    def overdue(self, now: float, seconds: Mapping[str, float]) -> str | None:
        """Return the code of what has taken too long, if anything has. A wait begins anew if the client takes some."""
        cycle, pending = self.cycle, self.cycle.stream.pending_bytes or 0
        code = "request_timeout" if cycle.more_body else "unread" if pending else "unanswered"
        taken = code == "unread" and pending < self._pending
        if code != self._code or cycle.response_started != self._begun or taken:
            self._since, self._code, self._begun = now, code, cycle.response_started
        self._pending = pending
        if (code == "unanswered" and self.following) or now - self._since < seconds[code]:
            return None
        return code


class Http2Protocol(ZttpH2Protocol):
    """Resets a stream whose response the app does not complete (CANCEL), or whose request, app or reader is too slow.

    Its `lifetime` has the deadlines of the connection; while there are streams these have deadlines of their own.
    """

    def __init__(self, *arguments: Any, lifetime: Lifetime, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lifetime = lifetime
        self._credit = asyncio.Event()  # set for a moment, when there may be some
        self._exchanges: dict[int, Exchange] = {}  # until the app has returned

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `ZttpH2Protocol`, which would wait forever for a client that says nothing.

        With no WebSockets over HTTP/2 in its SETTINGS, a browser opens a connection of HTTP/1.1 for each.
        """
        self.lifetime.carrier = self
        self.conn.initiate_connection()
        settings = self.conn.data_to_send()
        transport.write(settings.replace(_CONNECT_PROTOCOL + b"\1", _CONNECT_PROTOCOL + b"\0"))
        super().connection_made(transport)
        self.client, self.server = numeric(self.client), numeric(self.server)

    def data_received(self, data: bytes) -> None:
        """See `ZttpH2Protocol`, which logs each bad frame, also those behind the one that has closed the connection."""
        if self.transport.is_closing():
            return
        try:
            self.conn.receive_data(data)
            self.handle_events()
            self.flush()
        except zttp.RemoteProtocolError as error:
            logger.info("A connection was closed because of a bad HTTP/2 frame: %s.", error)
            service(self.config).metrics.refuse("bad_request")
            self.flush()
            self.transport.close()
        if self.flow.write_paused:  # until `resume_writing`
            self.flow.pause_reading()  # its PINGs and SETTINGS would be answered without end
        self._news()
        self.lifetime.took()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `ZttpH2Protocol`."""
        self.lifetime.end()
        super().connection_lost(exc)
        self._news()

    def resume_writing(self) -> None:
        """See `ZttpH2Protocol`."""
        super().resume_writing()
        self.flow.resume_reading()
        self.lifetime.moved()

    def _news(self) -> None:
        self._credit.set()
        self._credit.clear()

    # A `Carrier`

    def unsent(self) -> int:
        """See `Carrier`. Bytes that wait for a stream's credit are not among them."""
        return self.transport.get_write_buffer_size()

    def held(self) -> int:
        """See `Carrier`."""
        return sum(exchange.held() for exchange in self._exchanges.values())

    def shed(self) -> None:
        """See `Carrier`. Others on this connection may be somebody else's: the largest request goes."""
        largest = max(self._exchanges, key=lambda stream_id: self._exchanges[stream_id].held())
        self._exchanges[largest].shed()
        self._reset(largest, ENHANCE_YOUR_CALM)
        self.lifetime.refuse(Busy.code)
        self.lifetime.took()

    def expire(self) -> None:
        """See `Carrier`."""
        self._close_connection()

    def drop(self) -> None:
        """See `Carrier`."""
        for cycle in self.cycles.values():
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.abort()

    def stop(self) -> None:
        """See `Carrier`."""
        for stream_id, exchange in tuple(self._exchanges.items()):
            if exchange.cycle.more_body:
                self._reset(stream_id, REFUSED_STREAM)
        self.shutdown()

    def tick(self, now: float) -> None:
        """See `Carrier`: look after the streams that are open."""
        shared = service(self.config)
        seconds = {
            "request_timeout": REQUEST_SECONDS,
            "unread": shared.settings.send_timeout + TICK_SECONDS,  # a follower's pump is to notice first
            "unanswered": shared.lifetimes.answer_seconds,
        }
        for stream_id, exchange in tuple(self._exchanges.items()):
            if stream_id in self.cycles and (code := exchange.overdue(now, seconds)) is not None:
                shared.metrics.refuse(code)
                self._reset(stream_id)

    def _reset(self, stream_id: int, *code: int) -> None:
        """Reset a stream, and forget it: its app may never return."""
        if not self.transport.is_closing() and (cycle := self.cycles.pop(stream_id, None)) is not None:
            cycle.stream.reset(*code)
            self.flush()
            cycle.disconnected = True
            cycle.message_event.set()
            self._news()
            self.on_stream_closed()

    # Streams

    def handle_request(self, event: zttp.Request) -> None:
        """See `ZttpH2Protocol`, which answers 503 when it stops: no EventSource would come back from that."""
        code = REFUSED_STREAM if self.shutdown_requested or self.lifetime.crowded else None
        if code is None and len(self._exchanges) >= MAX_TASKS:
            code = ENHANCE_YOUR_CALM
        if code is None and not event.path.isascii():  # malformed (RFC 9113, section 8.1.1); uvicorn fails on it
            service(self.config).metrics.refuse("bad_request")
            code = PROTOCOL_ERROR
        if code is not None:
            self.conn.stream(event.stream_id).reset(code)
            return
        self.app = functools.partial(self._respond, event.stream_id)
        super().handle_request(event)
        cycle = self.cycles[event.stream_id]
        cycle.more_body = not event.end_stream
        self._exchanges[event.stream_id] = Exchange(cycle, self.loop.time())
        self.lifetime.exchange(1)
        if self.lifetime.phase in {Phase.OPENING, Phase.IDLE}:
            self.lifetime.enter(Phase.WORKING, float("inf"))

    def on_stream_closed(self) -> None:
        """See `ZttpH2Protocol`."""
        super().on_stream_closed()
        self._unset_keepalive_if_required()
        if not self.cycles and not self.transport.is_closing():
            self.lifetime.enter(Phase.IDLE, self.timeout_keep_alive)

    async def _respond(self, stream_id: int, scope: Any, receive: Any, send: Any) -> None:
        exchange = self._exchanges[stream_id]
        cycle = exchange.cycle
        try:
            if cycle.disconnected or stream_id not in self.cycles:  # reset before this began
                cycle.disconnected = True
                return

            async def paced(message: Any) -> None:
                if self.transport.is_closing():
                    cycle.disconnected = True
                if message["type"] == "http.response.start":
                    exchange.following = dict(message["headers"]).get(b"content-type", b"").startswith(STREAM)
                await send(message)
                while (cycle.stream.pending_bytes or 0) > HIGH_WATER_LIMIT and not cycle.disconnected:
                    await self._credit.wait()

            scope["extensions"][UNSENT] = exchange.unsent
            await self.config.loaded_app(scope, receive, paced)
            if self.transport.is_closing():
                cycle.disconnected = True
            elif cycle.response_started and not cycle.response_complete and not cycle.disconnected:
                cycle.abort_stream()
        finally:
            del self._exchanges[stream_id]
            self.lifetime.exchange(-1)
