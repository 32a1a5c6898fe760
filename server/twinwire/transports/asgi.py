"""What both adapters need of an ASGI connection: to hear that the client has gone, and to cut it off.

ASGI has no way to break a response off. Our server's protocol classes offer one in the scope, as the extension
`twinwire.transport` (the asyncio transport); on another server an adapter just returns, which that server logs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twinwire.transports import Verdict
from twinwire.transports.pump import Pump

Message = Mapping[str, Any]
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

EXTENSION = "twinwire.transport"
FLUSH_SECONDS = 1.0

logger = logging.getLogger("twinwire.transports")


class Connection:
    """One ASGI connection, beside its `send`."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._transport: asyncio.Transport | None = (scope.get("extensions") or {}).get(EXTENSION)
        self._receive = receive

    async def listen(self, pump: Pump, take: Callable[[Message], Awaitable[None]] | None = None) -> None:
        """Give each message of the client to `take` (or to nobody) until it goes; then end the pump.

        Always reading matters: uvicorn's WebSockets answer no ping while a message is unread.
        """
        try:
            while not (message := await self._receive())["type"].endswith(".disconnect"):
                if take is not None:
                    await take(message)
            pump.end(Verdict.LEFT)
        except Exception:
            logger.exception("a connection failed")
            pump.end(Verdict.BROKEN)

    async def cut(self, *, flush: bool) -> None:
        """Close the connection under the response, which so stays visibly incomplete.

        With `flush`, what was written still goes out if the client takes it soon. Returns when the connection is
        gone: only then does uvicorn take the app's return for a client that left.
        """
        if self._transport is None:
            return
        if flush:
            self._transport.close()
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._gone()
            except TimeoutError:
                pass
            else:
                return
        self._transport.abort()
        await self._gone()

    async def _gone(self) -> None:
        while not (await self._receive())["type"].endswith(".disconnect"):
            pass
