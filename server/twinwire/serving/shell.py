"""uvicorn as Twinwire runs it: it drains before it stops, and lets an app cut a connection off.

Small subclasses of uvicorn's own server and protocols; nothing of it is patched.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ClassVar

import uvicorn
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from twinwire.fence import RunOver, inside, report
from twinwire.serving.allocator import Allocator
from twinwire.serving.bounds import REQUEST_SECONDS, BoundedHttp
from twinwire.serving.direct import DirectHttp, DirectWebSocket, UnchunkedHttp, rest_of
from twinwire.serving.sharing import Sharing
from twinwire.serving.websocket import BoundedWebSocket, service
from twinwire.settings import Settings
from twinwire.transports.asgi import EXTENSION
from twinwire.transports.lifetime import RESERVED_FILES, Lifetime, Lifetimes, Phase, open_files
from twinwire.web.service import Service

logger = logging.getLogger("twinwire.serving")

UNSENT_BYTES = 128 * 1024
UNACKNOWLEDGED_MS = 120_000  # longer than the send timeout, which tells why it ends a connection
ACCEPTED_AT_ONCE = 100
PAUSE_SECONDS = 1.0
HELD_SECONDS = 1.0  # without a turn of the event loop, after which a server that was told to end has lost its patience
MAX_HELD = 5  # times that what holds the loop is interrupted, before the process ends without it
CLOSE_SECONDS = 1.0  # for answers when the server stops, after its streams have ended
SHUTDOWN_SECONDS = 3600.0  # for TLS to send the remaining bytes; `Lifetimes` is stricter if the client takes none


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
        assert app is self.app  # noqa: S101 - there is no `limit_concurrency`
        super()._start_asgi_task(cycle, self._respond)

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        del send  # a stream waits here: what it need not hold is let go
        assert self._served is not None  # noqa: S101 - it is what is answered
        kind = UnchunkedHttp if scope["http_version"] == "1.0" else DirectHttp
        direct = self._direct = kind(self, self._served)
        scope["extensions"] = {EXTENSION: direct}
        try:
            await self.app(scope, receive, direct.send)
            if (rest := rest_of(direct, receive, direct.send)) is not None:
                self._forget(scope)
                await rest
        except asyncio.CancelledError:
            if not self.transport.is_closing():
                raise
        direct.returned()
        scope.pop("extensions", None)  # it and `direct` refer to each other, and would wait for the collector

    def _forget(self, scope: Any) -> None:
        """Let go of a stream's request."""
        if self.headers is scope["headers"]:  # not yet those of another request
            self.headers = []
        method = scope["method"]
        scope.clear()
        scope["method"] = method  # uvicorn's `send` asks for it
        if self._served is not None:
            self._served.body = bytearray()
        self.rest_parser()
        self.lifetime.enter(Phase.STREAMING)

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


class Handshake:
    """A TLS handshake, which so is counted and has a deadline; then the protocol that ALPN (RFC 7301) chose takes over.

    A `Carrier` of its connection until then. uvicorn leaves the handshake to the loop's own server, which tells of a
    connection only afterwards.
    """

    transport = None

    def __init__(self, connection: socket.socket, config: TlsConfig, options: dict[str, Any]) -> None:
        self._connection = connection
        self._config = config
        self._options = options
        self._lifetime = service(config).lifetimes.accept(self, REQUEST_SECONDS)

    async def run(self) -> None:
        """Make the handshake; leave nothing behind if it fails."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Chosen(self._config, self._options, self._lifetime),
                self._connection,
                ssl=self._config.tls,
                ssl_handshake_timeout=REQUEST_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError:  # also those of TLS
            self._lifetime.end()

    def unsent(self) -> int:
        """See `Carrier`."""
        return 0

    held = unsent

    def drop(self) -> None:
        """See `Carrier`. The loop then finds that nobody shakes hands any more."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    expire = stop = shed = drop

    def tick(self, now: float) -> None:
        """See `Carrier`."""


class _Chosen(asyncio.Protocol):
    """The protocol of a connection before it is known which one the client will speak."""

    def __init__(self, config: TlsConfig, options: dict[str, Any], lifetime: Lifetime) -> None:
        self._config = config
        self._options = options
        self._lifetime = lifetime

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        options = {"config": self._config, "lifetime": self._lifetime, **self._options}
        protocol: asyncio.Protocol
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            from twinwire.serving.http2 import Http2Protocol

            tune(transport)
            protocol = Http2Protocol(**options)
        else:
            protocol = HttpProtocol(**options)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._lifetime.phase is Phase.ENDED:  # dropped meanwhile
            transport.abort()


class TlsListener:
    """Accepts connections for TLS: the loop's own server would keep handshakes to itself, for a minute each."""

    def __init__(self, listener: socket.socket, config: TlsConfig, options: dict[str, Any]) -> None:
        self._listener = listener
        self._config = config
        self._options = options
        self._loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more. Idempotent."""
        self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """See `asyncio.Server`."""

    def _accept(self) -> None:
        tasks: set[asyncio.Task[None]] = self._options["server_state"].tasks
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors are left
                logger.warning("The server cannot accept connections for %g s: %s.", PAUSE_SECONDS, error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            task = self._loop.create_task(Handshake(connection, self._config, self._options).run())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)


class NegotiatingProtocol(HttpProtocol):
    """Has uvicorn offer HTTP/2 beside; `_Chosen` makes the choice."""

    __slots__ = ()

    alpn_protocols: ClassVar[list[str]] = ["h2", "http/1.1"]


class TlsConfig(uvicorn.Config):
    """Keeps TLS for `TlsListener`, if our protocols are served."""

    tls: ssl.SSLContext | None = None

    def load(self) -> None:
        """See `uvicorn.Config`."""
        super().load()
        if issubclass(self.http_protocol_class, HttpProtocol):
            self.tls, self.ssl = self.ssl, None


class WebSocketProtocol(BoundedWebSocket):
    """Offers a `Direct` to the app, and closes with 1007 for bad UTF-8, for which uvicorn logs a traceback."""

    __slots__ = ("_direct",)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct: DirectWebSocket | None = None

    def _parse(self, data: bytes) -> None:
        """See `BoundedWebSocket`."""
        super()._parse(data)
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
        """See `WebSocketsSansIOProtocol`. A message to a connection that is being closed is no mistake."""
        await self.writable.wait()
        if self.transport.is_closing() or (self.close_sent and message["type"] == "websocket.close"):
            raise ClientDisconnected
        await super().send(message)
        self._go_on()  # what has come before the handshake was complete, or waited before a close frame was sent

    async def run_asgi(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        self.app = self._respond
        await super().run_asgi()

    async def _respond(self, scope: Any, receive: Any, send: Any) -> None:
        self.app = self.config.loaded_app
        self._direct = scope["extensions"][EXTENSION] = DirectWebSocket(self)
        await self.app(scope, receive, send)
        if (rest := rest_of(self._direct, receive, send)) is not None:
            scope.clear()
            self.request.headers.clear()
            self.response.headers.clear()
            self._direct.stranger(unknown=False)
            await rest
        self.lifetime.send()

    def pause_writing(self) -> None:
        """See `WebSocketsSansIOProtocol`."""
        super().pause_writing()
        self._pause()

    def _pause(self) -> None:
        if self._direct is not None and self._direct.on_pause is not None:
            self._direct.on_pause()


class Server(uvicorn.Server):
    """Stops in bounded time: takes no connection, drains the service, then does what uvicorn does."""

    drains = True
    """This server's signal handlers end the streams of the app."""

    ends: Callable[[], bool] | None = None
    """Returns, when the server stops, whether its log ends too. Without it the log stays, if it is one that does."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None], *others: Service) -> None:
        super().__init__(config)
        self._service = service
        self._services = (service, *others)
        self._ready = ready
        self._allocator = Allocator()
        self._sharing = Sharing(service)
        self._turned = True  # the event loop, since the last `_free`
        self._held = 0  # calls of `_free` in a row that found that it had not

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so. Here and not in the app's lifespan, an error is told as such and a signal is heeded."""
        starting = asyncio.create_task(self._start())
        while not starting.done() and not self.should_exit:
            await asyncio.wait([starting], timeout=0.1)
        if self.should_exit:
            starting.cancel()
            await asyncio.wait([starting])
            return
        await starting
        if isinstance(self.config, TlsConfig) and self.config.tls is not None:
            await super().startup([])
            options = {"server_state": self.server_state, "app_state": self.lifespan.state}
            for listener in sockets or []:
                self.servers.append(TlsListener(listener, self.config, options))  # type: ignore[arg-type]
        else:
            await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    async def _start(self) -> None:
        for each in self._services:
            await each.start()

    async def on_tick(self, counter: int) -> bool:
        """See `uvicorn.Server`, which calls it ten times a second."""
        self._allocator.look()
        self._sharing.look()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the runs in time, even if an agent holds the event loop. A second SIGINT waits for no run."""
        super().handle_exit(sig, frame)
        grace = max(each.settings.drain_timeout for each in self._services)
        for each in self._services:
            each.runs.hurry(each.settings.drain_timeout)
            if self.force_exit:
                asyncio.get_running_loop().call_soon_threadsafe(each.runs.put_down)
        if hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) != self._free:
            signal.signal(signal.SIGALRM, self._free)
            signal.setitimer(signal.ITIMER_REAL, grace + HELD_SECONDS, HELD_SECONDS)

    def _free(self, _number: int, _frame: FrameType | None) -> None:
        """Interrupt an agent's code that holds the event loop, such as `time.sleep`; if that is in vain, end.

        A signal handler, called each `HELD_SECONDS` until the server has ended. It raises in the code it interrupts.
        """
        if self._turned:
            self._turned, self._held = False, 0
            asyncio.get_running_loop().call_soon_threadsafe(self._turn)
            return
        self._held += 1
        if self._held > MAX_HELD:
            logger.critical("Code that cannot be interrupted holds the event loop. The process ends without it.")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        if inside():
            raise RunOver

    def _turn(self) -> None:
        self._turned = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal. A callback of other people's code that raises `SystemExit` does not end the server."""
        with asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner, contextlib.ExitStack() as stack:
            if hasattr(signal, "setitimer"):  # without it nothing interrupts an agent that holds the loop
                stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
            loop = runner.get_loop()
            serving = loop.create_task(self.serve(sockets))
            while True:
                try:
                    return loop.run_until_complete(serving)
                except (SystemExit, KeyboardInterrupt) as error:
                    # Ours are raised by `serve` itself, or, before it has begun, by Python's own handler of SIGINT.
                    if serving.done() or signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                        raise
                    report(logger, error, "A callback raised what would have ended the server.")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain first: an open stream would hold uvicorn's own shutdown up, or be cut in the middle."""
        for server in self.servers:
            server.close()
        if self.ends is not None and self.ends():
            for each in self._services:
                each.runs.log.outlives = False  # nobody will go on with what is left of its runs
        await asyncio.gather(*(each.drain() for each in self._services))
        await self._service.lifetimes.stop(CLOSE_SECONDS)
        self._sharing.share()
        await super().shutdown(sockets)


def config(app: Any, settings: Settings, *, foreign: bool = False) -> uvicorn.Config:
    """Return uvicorn's settings for a Twinwire app, or for a `foreign` app that has Twinwire in it.

    That app has uvicorn's own protocols: ours bound the time and the memory of Twinwire's answers, and write past what
    is around it.
    """
    ours: Any = NegotiatingProtocol if settings.http2 else HttpProtocol
    return TlsConfig(
        app,
        loop="auto",  # uvloop if it is installed
        http=HttpToolsProtocol if foreign else ours,
        ws=WebSocketsSansIOProtocol if foreign else WebSocketProtocol,
        ws_max_size=settings.max_body,
        ws_per_message_deflate=False,  # doubles the CPU and costs up to 200 kB a connection, for events of 200 bytes
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.send_timeout,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        lifespan="auto" if foreign else "on",  # Django has none
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


def _raise_file_limit(settings: Settings, lifetimes: Lifetimes) -> None:
    """Let the process open as many files as its connections and runs may need; warn if it may not."""
    needed = lifetimes.most + settings.max_runs + RESERVED_FILES
    _, hard = open_files(needed)
    if hard < needed:
        logger.warning("This process may open %d files. It accepts %d connections at once.", hard, lifetimes.most)


def serve(
    app: Any,
    services: Sequence[Service],
    settings: Settings,
    listener: socket.socket,
    ready: Callable[[], None],
    *,
    foreign: bool = False,
    ends: Callable[[], bool] | None = None,
) -> None:
    """Serve the app, which has these services, on a bound socket until a signal ends it.

    See `config` and `Server.ends`.
    """
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    first, *others = services
    _raise_file_limit(settings, first.lifetimes)

    def settled() -> None:
        # Imported objects stay. Without this each full collection walks them, for 100 ms and more.
        gc.collect()
        gc.freeze()
        ready()

    server = Server(config(app, settings, foreign=foreign), first, settled, *others)
    server.ends = ends
    server.run(sockets=[listener])
