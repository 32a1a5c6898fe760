"""HTTP/2 (RFC 9113) as uvicorn has it, on the extra `http2`: plain ASGI, for streams that share a connection.

Put right here: zttp keeps without bound what a peer gives no credit for, and offers WebSockets (RFC 8441) that uvicorn
does not serve; uvicorn logs a broken stream as the app's error, bounds neither a request's time nor the answers to
frames, and logs each bad frame.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import zttp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle, ZttpH2Protocol

from twinwire.frames import numeric, service
from twinwire.protocols import REQUEST_SECONDS
from twinwire.transports.lifetime import TICK_SECONDS, Lifetime, Phase

logger = logging.getLogger("twinwire.http2")

MAX_TASKS = 256  # of a connection's requests, those included that the client has reset; zttp allows 128 streams at once
PROTOCOL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM = 1, 7, 11  # RFC 9113, section 7
_CONNECT_PROTOCOL = b"\0\x08\0\0\0"  # SETTINGS_ENABLE_CONNECT_PROTOCOL, without the last byte of its value


class Exchange:
    """One request on a stream: since when it is read, or waits for credit."""

    __slots__ = ("cycle", "following", "pending", "since")

    def __init__(self, cycle: RequestResponseCycle, now: float) -> None:
        self.cycle = cycle
        self.since = now
        self.pending = 0
        self.following = False


class Http2Protocol(ZttpH2Protocol):
    """Resets a stream whose response the app does not complete (CANCEL), or whose request or reader takes too long.

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
            logger.info("a connection was closed for a bad HTTP/2 frame: %s", error)
            service(self.config).runs.figures.refused["bad_request"] += 1
            self.flush()
            self.transport.close()
        if self.flow.write_paused:  # until `resume_writing`
            self.flow.pause_reading()  # its PINGs and SETTINGS would be answered without end
        self._news()

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
        """See `Carrier`. What waits for a stream's credit is the stream's to answer for."""
        return self.transport.get_write_buffer_size()

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
        patience = service(self.config).settings.send_timeout
        for stream_id, exchange in tuple(self._exchanges.items()):
            cycle = exchange.cycle
            if cycle.disconnected or stream_id not in self.cycles:
                continue
            pending = cycle.stream.pending_bytes or 0
            if pending < exchange.pending or not (pending or cycle.more_body):
                exchange.since = now
            exchange.pending = pending
            if cycle.more_body and now - exchange.since >= REQUEST_SECONDS:
                self._refuse(stream_id, "request_timeout")
            elif pending and now - exchange.since >= patience + TICK_SECONDS:  # a follower's pump is to notice first
                self._refuse(stream_id, "unread")

    def _refuse(self, stream_id: int, code: str) -> None:
        service(self.config).runs.figures.refused[code] += 1
        self._reset(stream_id)

    def _reset(self, stream_id: int, *code: int) -> None:
        cycle = self.cycles.get(stream_id)
        if cycle is not None and not self.transport.is_closing():
            cycle.stream.reset(*code)
            self.flush()
            cycle.disconnected = True
            cycle.message_event.set()
            self._news()

    # Streams

    def handle_request(self, event: zttp.Request) -> None:
        """See `ZttpH2Protocol`, which answers 503 when it stops: no EventSource would come back from that."""
        if self.shutdown_requested:
            self.conn.stream(event.stream_id).reset(REFUSED_STREAM)
            return
        if len(self._exchanges) >= MAX_TASKS:
            self.conn.stream(event.stream_id).reset(ENHANCE_YOUR_CALM)
            return
        if (
            not event.path.isascii()
        ):  # malformed (RFC 9113, section 8.1.1); uvicorn fails on it, and ends the connection
            service(self.config).runs.figures.refused["bad_request"] += 1
            self.conn.stream(event.stream_id).reset(PROTOCOL_ERROR)
            return
        self.app = functools.partial(self._respond, event.stream_id)
        super().handle_request(event)
        cycle = self.cycles[event.stream_id]
        cycle.more_body = not event.end_stream
        self._exchanges[event.stream_id] = Exchange(cycle, self.loop.time())
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
                await send(message)
                while (cycle.stream.pending_bytes or 0) > HIGH_WATER_LIMIT and not cycle.disconnected:
                    await self._credit.wait()

            await self.config.loaded_app(scope, receive, paced)
            if self.transport.is_closing():
                cycle.disconnected = True
            elif cycle.response_started and not cycle.response_complete and not cycle.disconnected:
                cycle.abort_stream()
        finally:
            del self._exchanges[stream_id]
