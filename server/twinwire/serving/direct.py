"""The connections of our server as an app may use them, around ASGI: see `transports.Direct`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from websockets.protocol import State

from twinwire.formats.native import SHARED_BYTES
from twinwire.protocol import wire
from twinwire.serving.bounds import BoundedHttp
from twinwire.serving.websocket import BoundedWebSocket
from twinwire.transports.lifetime import Lifetime, Phase

MAX_PARTS = 3  # of one event in `formats.native`

Rest = Callable[[Any, Any], Awaitable[None]]


def rest_of(direct: _Connection, receive: Any, send: Any) -> Awaitable[None] | None:
    """Return what the app has left to be awaited, or None."""
    rest, direct.rest = direct.rest, None
    return None if rest is None else rest(receive, send)


def is_large(frames: Sequence[bytes]) -> bool:
    """Return whether one event's frames are so large that they are written as they are, and not copied."""
    return len(frames) <= MAX_PARTS and any(len(frame) > SHARED_BYTES for frame in frames)


class _Connection:
    """The base of both connections."""

    __slots__ = ("_lifetime", "on_lost", "on_pause", "push", "rest", "transport")

    def __init__(self, protocol: BoundedHttp | BoundedWebSocket) -> None:
        self._lifetime: Lifetime = protocol.lifetime
        self.transport = protocol.transport
        self.push = protocol.transport.write
        self.on_pause: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.rest: Rest | None = None

    def listen(self, heard: Callable[[], None] | None) -> None:
        """See `Direct`. The client of a stream says nothing."""

    def take(self) -> Any:
        """See `Direct`."""
        return None

    def stranger(self, *, unknown: bool) -> None:
        """See `Direct`."""
        self._lifetime.enter(Phase.STRANGER if unknown else Phase.STREAMING)


class DirectHttp(_Connection):
    """See `Direct`. uvicorn sends a response without a length in chunks; so do we."""

    __slots__ = ("_cycle", "_flow")

    frame = staticmethod(wire.http_chunk)
    ping = None

    def __init__(self, protocol: BoundedHttp, cycle: RequestResponseCycle) -> None:
        super().__init__(protocol)
        self._flow = protocol.flow
        self._cycle = cycle

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Direct`."""
        if not self.transport.is_closing():
            if is_large(frames):
                self.transport.writelines(wire.http_chunk_parts(frames))
            else:
                self.transport.write(wire.http_chunk(frames))
        return not self._flow.write_paused

    async def drain(self) -> None:
        """See `Direct`."""
        await self._flow.drain()

    async def send(self, message: Any) -> None:
        """Send an ASGI message as uvicorn does. A client that leaves meanwhile is no error of the app's."""
        cycle = self._cycle
        if self.transport.is_closing():
            cycle.disconnected = True
        if message["type"] == "http.response.start" and self._lifetime.phase is Phase.WORKING:
            self._lifetime.send()
        try:
            await self._pass_on(message)
        except RuntimeError:
            if not self.transport.is_closing():
                raise
            cycle.disconnected = True
        self._lifetime.wrote()

    async def _pass_on(self, message: Any) -> None:
        await self._cycle.send(message)

    def returned(self) -> None:
        """Note that the app has returned. An answer that is incomplete because the client left is no error."""
        if self.transport.is_closing() and not self._cycle.response_complete:
            self._cycle.disconnected = True
        if self._lifetime.phase is Phase.STREAMING:
            self._lifetime.send()


class UnchunkedHttp(DirectHttp):
    """The same for HTTP/1.0, which has no chunks: a body without a length ends with the connection.

    uvicorn chunks a response that has no length. It is told that the head says so already, and that the request is a
    HEAD: then it sends no body, and ends the response as any other.
    """

    __slots__ = ()

    frame = staticmethod(b"".join)  # type: ignore[assignment]

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Direct`."""
        if not self.transport.is_closing():
            self.transport.writelines(frames)
        return not self._flow.write_paused

    async def _pass_on(self, message: Any) -> None:
        cycle = self._cycle
        if message["type"] == "http.response.start":
            if cycle.scope["method"] != "HEAD" and not any(
                name.lower() == b"content-length" for name, _ in message["headers"]
            ):
                cycle.chunked_encoding = True
            await cycle.send(message)
        elif cycle.chunked_encoding:
            cycle.scope["method"] = "HEAD"
            await self._flow.drain()
            if not self.transport.is_closing():
                self.transport.write(message.get("body", b""))
            await cycle.send(message)
        else:
            await cycle.send(message)


class DirectWebSocket(_Connection):
    """See `Direct`. Without extensions (permessage-deflate is off) a frame depends on nothing before it."""

    __slots__ = ("_protocol",)

    frame = staticmethod(wire.ws_text)

    def __init__(self, protocol: BoundedWebSocket) -> None:
        super().__init__(protocol)
        self._protocol = protocol

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Direct`. Nothing follows a close frame."""
        if self._protocol.conn.state is State.OPEN and not self.transport.is_closing():
            if is_large(frames):
                self.transport.writelines(wire.ws_text_parts(frames))
            else:
                self.transport.write(wire.ws_text(frames))
        return self._protocol.writable.is_set()

    def ping(self) -> bool:
        """See `Direct`."""
        self._protocol.ask()
        return self._protocol.writable.is_set()

    def listen(self, heard: Callable[[], None] | None) -> None:
        """See `Direct`."""
        self._protocol.queue.on_news = heard  # type: ignore[attr-defined]

    def take(self) -> Any:
        """See `Direct`."""
        return self._protocol.take()

    async def drain(self) -> None:
        """See `Direct`."""
        await self._protocol.writable.wait()
