"""WebSocket over ASGI (RFC 6455): a frame of ours is one text message."""

from __future__ import annotations

import asyncio

from twinwire.transports import Verdict
from twinwire.transports.asgi import FLUSH_SECONDS, AsgiTransport


class WebSocketTransport(AsgiTransport):
    """See `Transport`. A frame is one text message."""

    name = "ws"
    asks = True

    async def _send(self, frames: list[bytes]) -> None:
        for frame in frames:
            await self._connection.send({"type": "websocket.send", "text": frame.decode()})

    def heartbeat(self) -> bool:
        """A ping frame (RFC 6455, section 5.5.2). A server that is not ours sends them by itself."""
        return self.direct is None or self.direct.ping is None or self.direct.ping()

    async def close(self, verdict: Verdict) -> None:
        """Send a close frame with the verdict's code; a client that does not even take that is cut off."""
        if verdict is Verdict.LEFT:
            return
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._connection.send({"type": "websocket.close", "code": verdict.code, "reason": verdict.reason})
        except TimeoutError:
            await self._connection.cut(flush=False)
        except OSError:
            pass  # gone meanwhile
