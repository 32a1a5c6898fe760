"""uvicorn as Twinwire runs it: it drains before it stops, and lets an app cut a connection off.

Small subclasses of uvicorn's own server and protocols; nothing of it is patched.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from litestar import Litestar
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from websockets.protocol import State

from twinwire.direct import DirectHttp, DirectWebSocket, rest_of
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


class HttpProtocol(BoundedHttp):
    """Offers a `Direct` to the app."""

    __slots__ = ("_direct",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct: DirectHttp | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `HttpToolsProtocol`. A WebSocket begins here too."""
        tune(transport)
        super().connection_made(transport)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """See `HttpToolsProtocol`."""
        super()._start_asgi_task(cycle, functools.partial(self._respond, app))

    async def _respond(self, app: ASGI3Application, scope: Any, receive: Any, send: Any) -> None:
        direct = self._direct = DirectHttp(self)
        scope["extensions"] = {EXTENSION: direct}
        await app(scope, receive, send)
        if (rest := rest_of(direct, receive, send)) is not None:
            if self.headers is scope["headers"]:  # not yet those of another request
                self.headers = []
            method = scope["method"]
            scope.clear()
            scope["method"] = method  # uvicorn's `send` asks for it
            await rest

    def connection_lost(self, exc: Exception | None) -> None:
        """See `HttpToolsProtocol`."""
        super().connection_lost(exc)
        if self._direct is not None and self._direct.on_lost is not None:
            self._direct.on_lost()

    def pause_writing(self) -> None:
        """See `HttpToolsProtocol`."""
        super().pause_writing()
        if self._direct is not None and self._direct.on_pause is not None:
            self._direct.on_pause()

    def refused(self, code: str) -> None:
        """See `BoundedHttp`: counted with what the app refuses."""
        service: Service = self.config.app.state.service  # type: ignore[union-attr]
        service.runs.figures.refused[code] += 1


class NegotiatedProtocol(asyncio.Protocol):
    """Over TLS: HTTP/2 where the client chose it (ALPN, RFC 7301), else `HttpProtocol`, as without `--http2`."""

    alpn_protocols: ClassVar[list[str]] = ["h2", "http/1.1"]  # uvicorn offers these

    def __init__(self, **options: Any) -> None:
        self._options = options

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hand the connection over, before there is any data."""
        protocol: asyncio.Protocol
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            from twinwire.http2 import Http2Protocol

            tune(transport)
            protocol = Http2Protocol(**self._options)
        else:
            protocol = HttpProtocol(**self._options)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class WebSocketProtocol(BoundedWebSocket):
    """Offers a `Direct` to the app, and closes with 1007 where uvicorn logs a traceback."""

    __slots__ = ("_direct",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct: DirectWebSocket | None = None

    def data_received(self, data: bytes) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().data_received(data)
        if self.conn.state is not State.OPEN:
            self._pause()  # nothing is pushed after a close frame

    def keepalive_timeout(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self._pause()
        super().keepalive_timeout()

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

    async def send(self, message: ASGISendEvent) -> None:
        """See `WebSocketsSansIOProtocol`. After a close frame of its own another comes too late, and is no mistake."""
        if self.close_sent and message["type"] == "websocket.close":
            raise ClientDisconnected
        await super().send(message)

    async def run_asgi(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self.app = functools.partial(self._respond, self.app)
        await super().run_asgi()

    async def _respond(self, app: ASGI3Application, scope: Any, receive: Any, send: Any) -> None:
        self._direct = scope["extensions"][EXTENSION] = DirectWebSocket(self)
        await app(scope, receive, send)
        if (rest := rest_of(self._direct, receive, send)) is not None:
            scope.clear()
            self.request.headers.clear()
            self.response.headers.clear()
            await rest

    def pause_writing(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().pause_writing()
        self._pause()

    def _pause(self) -> None:
        if self._direct is not None and self._direct.on_pause is not None:
            self._direct.on_pause()


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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second SIGINT waits for no run."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._service.runs.interrupt)

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
        http=NegotiatedProtocol if settings.http2 else HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # doubles the CPU and costs up to 200 kB a connection, for events of 200 bytes
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.heartbeat,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
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
