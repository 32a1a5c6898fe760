"""The connections of our server as an app may use them, around ASGI: see `transports.Direct`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.protocol import State

from twinwire import wire
from twinwire.formats.native import SHARED_BYTES
from twinwire.protocols import BoundedWebSocket

MAX_PARTS = 3  # of one event in `formats.native`

Rest = Callable[[Any, Any], Awaitable[None]]


def rest_of(direct: _Connection, receive: Any, send: Any) -> Awaitable[None] | None:
    """What the app has left to be awaited, if anything."""
    rest, direct.rest = direct.rest, None
    return None if rest is None else rest(receive, send)


def is_large(frames: Sequence[bytes]) -> bool:
    """Return whether one event's frames are so large that they are written as they are, and not copied."""
    return len(frames) <= MAX_PARTS and any(len(frame) > SHARED_BYTES for frame in frames)


class _Connection:
    """What both have."""

    __slots__ = ("on_lost", "on_pause", "push", "rest", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.push = transport.write
        self.on_pause: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.rest: Rest | None = None


class DirectHttp(_Connection):
    """See `Direct`. uvicorn sends a response without a length in chunks; so do we."""

    __slots__ = ("_flow",)

    frame = staticmethod(wire.http_chunk)
    ping = None

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        super().__init__(protocol.transport)
        self._flow = protocol.flow

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


class DirectWebSocket(_Connection):
    """See `Direct`. Without extensions (permessage-deflate is off) a frame depends on nothing before it."""

    __slots__ = ("_protocol",)

    frame = staticmethod(wire.ws_text)

    def __init__(self, protocol: BoundedWebSocket) -> None:
        super().__init__(protocol.transport)
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

    async def drain(self) -> None:
        """See `Direct`."""
        await self._protocol.writable.wait()
