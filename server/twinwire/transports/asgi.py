"""The part of an ASGI connection that both adapters need: to hear that the client has gone, and to cut it off.

ASGI can only be awaited, message by message, and has no way to break a response off. Our server's protocol classes
offer a `Direct` in the scope, as the extension `twinwire.direct`; then frames are written straight to the connection.
On another server everything works the same through `send`, but for that an adapter that breaks off just returns, which
that server logs. Over our HTTP/2 it does too; there the extension `twinwire.unsent` says what the client has yet to
take.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any

from twinwire.transports import Direct, Transport, Verdict
from twinwire.transports.heartbeats import Heartbeats
from twinwire.transports.lifetime import unacknowledged
from twinwire.transports.pump import Pump

Message = Mapping[str, Any]
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

EXTENSION = "twinwire.direct"
UNSENT = "twinwire.unsent"
FLUSH_SECONDS = 1.0
UNCOUNTED: AbstractContextManager[Any] = contextlib.nullcontext()

logger = logging.getLogger("twinwire.transports")


def gone(scope: Scope) -> bool:
    """Return whether the client of this request is known to have left, as far as the server below can tell."""
    direct: Direct | None = (scope.get("extensions") or {}).get(EXTENSION)
    return direct is not None and direct.transport.is_closing()


class Connection:
    """One ASGI connection. It has `direct` if our own server is below, and `unsent` if that speaks HTTP/2."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send
        extensions = scope.get("extensions") or {}
        self.direct: Direct | None = extensions.get(EXTENSION)
        self.unsent: Callable[[], int] | None = extensions.get(UNSENT)
        self._receive = receive

    async def go_on(self, rest: Callable[[Connection], Awaitable[None]]) -> None:
        """Call `rest`, as the last thing the app does. Our own server calls it once the app has returned.

        A stream then holds nothing of what led to it: the framework's frames, its request, the scope.
        """
        if self.direct is None:
            await rest(self)
        else:
            self.direct.rest = functools.partial(self._beyond, rest)

    def _beyond(self, rest: Callable[[Connection], Awaitable[None]], receive: Receive, send: Send) -> Awaitable[None]:
        self._receive, self.send = receive, send
        return rest(self)

    async def listen(self, pump: Pump, take: Callable[[Message], Awaitable[None]] | None = None) -> None:
        """Give each message of the client to `take`, if that is given, until the client goes; then end the pump.

        Always reading matters: uvicorn's WebSockets answer no ping while a message is unread.
        """
        try:
            while not (message := await self._receive())["type"].endswith(".disconnect"):
                if take is not None:
                    await take(message)
            pump.end(Verdict.LEFT)
        except Exception:
            logger.exception("A connection failed.")
            pump.end(Verdict.BROKEN)

    async def cut(self, *, flush: bool) -> None:
        """Close the connection under the response, which so stays visibly incomplete.

        With `flush`, what was written still goes out if the client takes it soon. Returns when the connection is
        gone: only then does uvicorn take the app's return for a client that left.
        """
        if self.direct is None:
            return
        if flush:
            self.direct.transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._gone()
                    return
        self.direct.transport.abort()
        await self._gone()

    async def _gone(self) -> None:
        while not (await self._receive())["type"].endswith(".disconnect"):
            pass


class AsgiTransport(Transport):
    """The base of both transports: frames go straight to the connection, or wait to be sent."""

    asks = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: list[bytes] = []
        if connection.direct is not None:
            self.write = connection.direct.write  # type: ignore[method-assign]  # a call less for each event

    @property
    def direct(self) -> Direct | None:
        return self._connection.direct

    def write(self, frames: Sequence[bytes]) -> bool:
        self._waiting.extend(frames)
        return False

    async def drain(self) -> None:
        if self._connection.direct is not None:
            await self._connection.direct.drain()
        else:
            frames, self._waiting = self._waiting, []
            await self._send(frames)

    def unsent(self) -> int | None:
        if (direct := self._connection.direct) is not None:
            return direct.transport.get_write_buffer_size() + unacknowledged(direct.transport)
        return None if self._connection.unsent is None else self._connection.unsent()

    @abstractmethod
    async def _send(self, frames: list[bytes]) -> None:
        """Send frames through ASGI."""


class Listener:
    """Gives each message of a WebSocket's client to `take` until the client goes; then it ends the pump.

    There is a task only while there are messages: one that waits takes more than a kilobyte.
    """

    __slots__ = ("_context", "_direct", "_pump", "_take", "_task")

    def __init__(self, direct: Direct, pump: Pump, take: Callable[[Message], Awaitable[None]]) -> None:
        self._direct = direct
        self._pump = pump
        self._take = take
        self._context = copy_context()  # a message comes in the event loop's own
        self._task: asyncio.Task[None] | None = None
        direct.listen(self._hear)
        self._hear()

    def _hear(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen(), context=self._context)

    async def _listen(self) -> None:
        try:
            while (message := self._direct.take()) is not None:
                if message["type"].endswith(".disconnect"):
                    self._pump.left()
                else:
                    await self._take(message)
        except Exception:
            logger.exception("A connection failed.")
            self._pump.end(Verdict.BROKEN)
        finally:
            self._task = None

    def cancel(self) -> None:
        """Listen no more. A message that is being taken is given up."""
        self._direct.listen(None)
        if self._task is not None:
            self._task.cancel()


async def serve(
    connection: Connection,
    transport: Transport,
    pump: Pump,
    heartbeats: Heartbeats,
    take: Callable[[Message], Awaitable[None]] | None = None,
    *,
    entry: AbstractContextManager[Any] = UNCOUNTED,
    begin: Callable[[], None] | None = None,
) -> None:
    """Call `begin`, then run the pump until the connection is to end, reading what the client sends; then end that.

    `entry` is entered for as long as it lasts.
    """
    with entry:
        if begin is not None:
            begin()
            del begin  # what waits here for long holds no more than it needs
        heartbeats.add(pump)
        listening = _listen(connection, pump, take)
        try:
            verdict = await pump.run()
        except Exception:
            logger.exception("A connection failed.")
            verdict = Verdict.BROKEN
        finally:
            heartbeats.discard(pump)
            if listening is not None:
                listening.cancel()
            pump.close()
        heartbeats.closed[transport.name, verdict] += 1
        await transport.close(verdict)


def _listen(
    connection: Connection, pump: Pump, take: Callable[[Message], Awaitable[None]] | None
) -> asyncio.Task[None] | Listener | None:
    """Have the pump end when the client goes, and `take` called for what it says. Return what is to be cancelled."""
    direct = connection.direct
    if direct is None:
        return asyncio.create_task(connection.listen(pump, take))
    if take is not None:
        return Listener(direct, pump, take)
    direct.on_lost = pump.left
    if direct.transport.is_closing():
        pump.left()
    return None
