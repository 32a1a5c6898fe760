"""HTTP/2 (RFC 9113) as uvicorn has it, on the extra `http2`: plain ASGI, for streams that share a connection.

Put right here: zttp keeps without bound what a peer gives no credit for, and offers WebSockets (RFC 8441) that uvicorn
does not serve; uvicorn logs a broken stream as the app's error. What `protocols` bounds is not bounded here.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import zttp
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol

from twinwire.protocols import REQUEST_SECONDS

_CONNECT_PROTOCOL = b"\0\x08\0\0\0"  # SETTINGS_ENABLE_CONNECT_PROTOCOL, without the last byte of its value


class Http2Protocol(ZttpH2Protocol):
    """Resets (CANCEL) a stream whose response the app does not complete; its client sees an error, and no end."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._credit = asyncio.Event()  # set for a moment, when there may be some

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `ZttpH2Protocol`, which would wait forever for a client that says nothing.

        With no WebSockets over HTTP/2 in its SETTINGS, a browser opens a connection of HTTP/1.1 for each.
        """
        self.conn.initiate_connection()
        settings = self.conn.data_to_send()
        transport.write(settings.replace(_CONNECT_PROTOCOL + b"\1", _CONNECT_PROTOCOL + b"\0"))
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(REQUEST_SECONDS, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """See `ZttpH2Protocol`."""
        super().data_received(data)
        self._news()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `ZttpH2Protocol`."""
        super().connection_lost(exc)
        self._news()

    def _news(self) -> None:
        self._credit.set()
        self._credit.clear()

    def handle_request(self, event: zttp.Request) -> None:
        """See `ZttpH2Protocol`."""
        self.app = functools.partial(self._respond, event.stream_id)
        super().handle_request(event)

    async def _respond(self, stream_id: int, scope: Any, receive: Any, send: Any) -> None:
        cycle = self.cycles.get(stream_id)
        if cycle is None:  # reset before this began
            return

        async def paced(message: Any) -> None:
            await send(message)
            while (cycle.stream.pending_bytes or 0) > HIGH_WATER_LIMIT and not cycle.disconnected:
                await self._credit.wait()

        await self.config.loaded_app(scope, receive, paced)
        if cycle.response_started and not cycle.response_complete and not cycle.disconnected:
            cycle.abort_stream()
