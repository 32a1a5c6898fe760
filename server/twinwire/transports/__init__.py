"""The adapter layer: how the events of a log get onto a connection.

One `pump` per connection, for both transports; `sse` and `websocket` adapt it to ASGI. Nothing here knows a route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Protocol


class Verdict(Enum):
    """Why a connection ends. The value is the WebSocket close code (RFC 6455, section 7.4) and its reason."""

    DONE = (1000, "")  # everything was sent
    LEFT = (1001, "The client has left.")  # nobody is there to be told
    RESTART = (1012, "The server is restarting. Resume at your cursor.")
    EXPIRED = (4001, "The token has expired. Reconnect with a new one.")
    UNAUTHENTICATED = (4501, "A valid credential is required.")
    BUSY = (4029, "The client exceeded a limit. Reconnect later.")
    SLOW = (4008, "The client reads too slowly. Resume at your cursor.")
    BINARY = (1003, "Messages must be text, not binary.")
    BROKEN = (1011, "The server had an internal error. Resume at your cursor.")

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason


class Direct(Protocol):
    """The connection under an ASGI response that has begun, or under a WebSocket that is open."""

    transport: asyncio.Transport
    push: Callable[[bytes], object]
    """Write what `frame` has made. Raises `RuntimeError`, or does nothing, if the connection has gone."""
    on_pause: Callable[[], None] | None
    """Called, if set, when the connection rises above its high-water mark (also by a `push`), or is being closed."""
    on_lost: Callable[[], None] | None
    """Called, if set, when the connection is gone."""
    rest: Callable[[Any, Any], Awaitable[None]] | None
    """Called, if set, when the app has returned, with the server's own `receive` and `send`: what the app goes on with.
    """

    @property
    def ping(self) -> Callable[[], bool] | None:
        """Asks a WebSocket's client whether it is there, or drops one that did not answer the last time; as `write`.

        None if there is no such question.
        """
        ...

    def listen(self, heard: Callable[[], None] | None) -> None:
        """Have `heard` called for each message of a WebSocket's client that comes from now on; None ends that."""
        ...

    def take(self) -> Any:
        """Return the ASGI message that has waited for longest, None if there is none.

        Whoever takes one is done with the one before.
        """
        ...

    def stranger(self, *, unknown: bool) -> None:
        """Say whether the stream's user is unknown yet: then the connection yields to others if there is no room."""
        ...

    def frame(self, frames: Sequence[bytes]) -> bytes:
        """Return frames as they are on the wire."""
        ...

    def write(self, frames: Sequence[bytes]) -> bool:
        """Write frames. Return False if the connection is above its high-water mark; if it is gone, do nothing."""
        ...

    async def drain(self) -> None:
        """Wait until the connection is below its high-water mark, or gone."""
        ...


class Transport(Protocol):
    """One connection, as the pump sees it; `name` is `sse` or `ws`."""

    name: str
    asks: bool
    """True if a heartbeat is a question, which is due also while events are sent."""

    @property
    def direct(self) -> Direct | None:
        """The connection itself, if that can be written to outside the pump's task."""
        ...

    def write(self, frames: Sequence[bytes]) -> bool:
        """Take frames to send. Return False if they still wait in here: call `drain` before writing on."""
        ...

    async def drain(self) -> None:
        """Send what waits. Raises `OSError` if the client has gone."""
        ...

    def unsent(self) -> int | None:
        """Return how many bytes the client has yet to take; None if the server below does not say."""
        ...

    def heartbeat(self) -> bool:
        """Write something that is no event, so that nobody takes the connection for dead; as `write`."""
        ...

    async def close(self, verdict: Verdict) -> None:
        """End the connection as the verdict says, in bounded time."""
        ...
