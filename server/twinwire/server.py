"""uvicorn as Twinwire runs it: it drains before it stops, and lets an app cut a connection off.

Small subclasses of uvicorn's own server and protocols; nothing of it is patched.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from litestar import Litestar
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from twinwire import wire
from twinwire.protocols import BoundedHttp, BoundedWebSocket
from twinwire.settings import Settings
from twinwire.transports.asgi import EXTENSION
from twinwire.web.service import Service

UNSENT_BYTES = 128 * 1024
UNACKNOWLEDGED_MS = 30_000


def tune(transport: asyncio.BaseTransport) -> None:
    """Bound what the kernel keeps for a peer that does not read, and how long it keeps a peer that is not there.

    Without TCP_NOTSENT_LOWAT a stalled follower holds megabytes of socket buffer; without TCP_USER_TIMEOUT (RFC 5482)
    a half-open one is held for a quarter of an hour.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in {socket.AF_INET, socket.AF_INET6}:
        for option, value in (("TCP_NOTSENT_LOWAT", UNSENT_BYTES), ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS)):
            if hasattr(socket, option):  # Linux has both
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Framing:
    """Frames for the wire, framed once for all who get the same ones in turn."""

    def __init__(self, frame: Callable[[Sequence[bytes]], bytes]) -> None:
        self._frame = frame
        self._frames: Sequence[bytes] = ()
        self._framed = b""

    def __call__(self, frames: Sequence[bytes]) -> bytes:
        """The frames' bytes; the frames are not changed afterwards."""
        if frames is not self._frames:
            self._framed, self._frames = self._frame(frames), frames
        return self._framed


http_chunk = Framing(wire.http_chunk)
ws_text = Framing(wire.ws_text)


class DirectHttp:
    """See `Direct`. uvicorn sends a response without a length in chunks; so do we."""

    __slots__ = ("_flow", "transport")

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self.transport = protocol.transport
        self._flow = protocol.flow

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Direct`."""
        if not self.transport.is_closing():
            self.transport.write(http_chunk(frames))
        return not self._flow.write_paused

    async def drain(self) -> None:
        """See `Direct`."""
        await self._flow.drain()


class DirectWebSocket:
    """See `Direct`. Without extensions (permessage-deflate is off) a frame depends on nothing before it."""

    __slots__ = ("_protocol", "transport")

    def __init__(self, protocol: WebSocketsSansIOProtocol) -> None:
        self.transport = protocol.transport
        self._protocol = protocol

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Direct`."""
        if self._protocol.conn.state is State.OPEN and not self.transport.is_closing():
            self.transport.write(ws_text(frames))
        return self._protocol.writable.is_set()

    async def drain(self) -> None:
        """See `Direct`."""
        await self._protocol.writable.wait()


class HttpProtocol(BoundedHttp):
    """Offers a `Direct` to the app."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `HttpToolsProtocol`. A WebSocket begins here too."""
        tune(transport)
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        """See `HttpToolsProtocol`."""
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: DirectHttp(self)}  # type: ignore[dict-item]


class WebSocketProtocol(BoundedWebSocket):
    """Offers a `Direct` to the app, and closes with 1007 where uvicorn logs a traceback."""

    def send_receive_event_to_app(self) -> None:
        """See `WebSocketsSansIOProtocol`. A text message is UTF-8 (RFC 6455, section 8.1)."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.conn.send_close(1007)
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    async def run_asgi(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[EXTENSION] = DirectWebSocket(self)
        await super().run_asgi()


class Server(uvicorn.Server):
    """Stops in bounded time: takes no connection, drains the service, then does what uvicorn does."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so. Here and not in the app's lifespan, an error is told as such and a signal is heeded."""
        starting = asyncio.create_task(self._service.start())
        while not starting.done() and not self.should_exit:
            await asyncio.wait([starting], timeout=0.1)
        if self.should_exit:
            starting.cancel()
            await asyncio.wait([starting])
            return
        await starting
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain first: an open stream would hold uvicorn's own shutdown up, or be cut in the middle."""
        for server in self.servers:
            server.close()
        await self._service.drain()
        await super().shutdown(sockets)


def config(app: Litestar, settings: Settings) -> uvicorn.Config:
    """uvicorn's settings for a Twinwire app."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # doubles the CPU and costs up to 200 kB a connection, for events of 200 bytes
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.heartbeat,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


def serve(app: Litestar, settings: Settings, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve the app on a bound socket until a signal ends it."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)

    def settled() -> None:
        # What was imported stays: without this each full collection walks it, for 100 ms and more.
        gc.collect()
        gc.freeze()
        ready()

    Server(config(app, settings), app.state.service, settled).run(sockets=[listener])
