"""Server-Sent Events over ASGI (WHATWG HTML 9.2): one run on one response.

The body ends if and only if the terminal event was sent on it; otherwise it is broken, so that a client resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from twinwire.formats import View
from twinwire.log import EventLog
from twinwire.transports import Verdict
from twinwire.transports.asgi import Connection, Receive, Scope, Send
from twinwire.transports.pump import Presence, Pump, Sweep
from twinwire.wire import HEARTBEAT


class SseTransport:
    """See `Transport`."""

    def __init__(self, connection: Connection, send: Send) -> None:
        self._connection = connection
        self._send = send
        self._waiting: list[bytes] = []

    def write(self, frames: Sequence[bytes]) -> bool:
        """See `Transport`. The frames of a page go out as one piece."""
        self._waiting.extend(frames)
        return False

    async def drain(self) -> None:
        """See `Transport`."""
        body, self._waiting = b"".join(self._waiting), []
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def heartbeat(self) -> bool:
        """A comment."""
        return self.write([HEARTBEAT])

    async def close(self, verdict: Verdict) -> None:
        """End the body after the terminal event, else break it."""
        if verdict is Verdict.DONE:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif verdict is not Verdict.LEFT:
            await self._connection.cut(flush=verdict is not Verdict.SLOW)


async def serve(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    log: EventLog,
    presence: Presence,
    sweep: Sweep,
    run_id: str,
    after: int,
    view: View,
    headers: Iterable[tuple[bytes, bytes]],
    opening: bytes,
) -> None:
    """Answer a request with `opening`, then the run's events after number `after`, from the first byte to the last."""
    connection = Connection(scope, receive)
    transport = SseTransport(connection, send)
    pump = Pump(log, presence, transport, once=True)
    pump.attach(run_id, after, view)
    pump.say(opening)
    sweep.add(pump)
    listening = asyncio.create_task(connection.listen(pump))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        verdict = await pump.run()
    finally:
        sweep.discard(pump)
        listening.cancel()
        pump.close()
    await transport.close(verdict)
