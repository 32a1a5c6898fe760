"""Server-Sent Events over ASGI (WHATWG HTML 9.2): one run on one response.

The body ends if and only if the terminal event was sent on it; otherwise it is broken, so that a client resumes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from twinwire.auth import Identity
from twinwire.formats import View
from twinwire.log import EventLog
from twinwire.protocol.wire import HEARTBEAT
from twinwire.transports import Verdict, asgi
from twinwire.transports.asgi import AsgiTransport, Connection, Receive, Scope, Send
from twinwire.transports.heartbeats import Heartbeats
from twinwire.transports.pump import Presence, Pump


class SseTransport(AsgiTransport):
    """See `Transport`."""

    name = "sse"

    async def _send(self, frames: list[bytes]) -> None:
        """See `AsgiTransport`. The frames of a page go out as one piece, and are not kept beside it."""
        body = b"".join(frames)
        frames.clear()
        await self._connection.send({"type": "http.response.body", "body": body, "more_body": True})

    def heartbeat(self) -> bool:
        """A comment."""
        return self.write([HEARTBEAT])

    async def close(self, verdict: Verdict) -> None:
        """End the body after the terminal event, else break it."""
        if verdict is Verdict.DONE:
            await self._connection.send({"type": "http.response.body", "body": b"", "more_body": False})
        elif verdict is not Verdict.LEFT:
            await self._connection.cut(flush=verdict is not Verdict.SLOW)


async def put_off(
    scope: Scope, receive: Receive, send: Send, *, headers: Iterable[tuple[bytes, bytes]], opening: bytes
) -> None:
    """Answer a request with `opening` alone and break off: EventSource comes again; any refusal would end it."""
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await send({"type": "http.response.body", "body": opening, "more_body": True})
    await SseTransport(Connection(scope, receive, send)).close(Verdict.BUSY)


async def serve(
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    log: EventLog,
    presence: Presence,
    heartbeats: Heartbeats,
    run_id: str,
    after: int,
    view: View,
    by: Identity,
    entry: AbstractContextManager[Any],
    headers: Iterable[tuple[bytes, bytes]],
    opening: bytes,
    sent: Callable[[], None] | None = None,
) -> None:
    """Answer a request with `opening`, then the run's events after number `after`, from the first byte to the last.

    `sent` is called when the client has taken the opening. `entry` is entered for as long as the stream lasts; see
    `Connection.go_on`.
    """
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    connection = Connection(scope, receive, send)
    transport = SseTransport(connection)
    pump = Pump(log, presence, transport, once=True)
    pump.by = by
    pump.say(opening, sent)
    del opening, sent
    attach = functools.partial(pump.attach, run_id, after, view)
    rest = functools.partial(
        asgi.serve, transport=transport, pump=pump, heartbeats=heartbeats, entry=entry, begin=attach
    )
    await connection.go_on(rest)
