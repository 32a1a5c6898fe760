"""A run over WebSocket: one socket for each run, reopened and attached at the cursor when it breaks.

Whether the server still lives is asked with the protocol's own `ping`, and only while the client waits for it: so a
program that takes its time over an event is not mistaken for a dead connection.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
import httpx
import msgspec
from httpx_ws import (
    AsyncWebSocketSession,
    HTTPXWSException,
    WebSocketDisconnect,
    WebSocketInvalidTypeReceived,
    WebSocketUpgradeError,
    aconnect_ws,
)
from wsproto.utilities import ProtocolError as SocketError

from twinwire.errors import Draining, LogUnavailable, RateLimited, TooManyRuns
from twinwire_client.api import Api, refusal
from twinwire_client.errors import ApiError, ProtocolError, api_error
from twinwire_client.retry import Broken
from twinwire_client.run import Position

PASSING = {kind.code for kind in (Draining, LogUnavailable, RateLimited, TooManyRuns)}
"""The errors of a socket that HTTP would answer with 429 or 503."""

_FINAL = {1003, 1008, 1009, 1010}
"""Close codes (RFC 6455, section 7.4.1) that say that the client is wrong. Those from 4500 are Twinwire's own.

1002 and 1007 are what the library here reports of frames that are none: a connection that is broken.
"""


class _Message(msgspec.Struct):
    """What the client looks at in a message. An event is one whose type is upper case."""

    type: str
    run_id: str | None = None
    code: str | None = None
    message: str | None = None
    field: str | None = None
    retry_after: float = 0.0
    first: int = 0
    last: int = 0
    ended: bool = False


class _Received(NamedTuple):
    message: _Message
    text: str


_decode = msgspec.json.Decoder(_Message).decode


def _closed(code: int, reason: str) -> Broken | ApiError:
    """What a close code means."""
    text = f"the socket was closed with {code}{f' ({reason})' if reason else ''}"
    if code in _FINAL or 4500 <= code <= 4999:
        return api_error({"code": "unauthenticated" if code == 4501 else "closed", "message": text}, code)
    return Broken(text)


class _Connection:
    """See `run.Connection`."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._session: AsyncWebSocketSession | None = None
        self._why: Broken | ApiError = Broken("no connection")
        self._opened = asyncio.Event()
        self._holder = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        """Hold the session open. It has a task group, which must be entered and left in one and the same task."""
        try:
            async with aconnect_ws(
                "/ws", self._api.http, keepalive_ping_interval_seconds=None, session_class=AsyncWebSocketSession
            ) as self._session:
                self._opened.set()
                await asyncio.get_running_loop().create_future()
        except WebSocketUpgradeError as error:
            self._why = refusal(error.response)
        except (httpx.TransportError, HTTPXWSException, ExceptionGroup) as error:
            self._why = Broken(str(error) or type(error).__name__)
        finally:
            self._opened.set()

    async def _receive(self, session: AsyncWebSocketSession) -> str:
        """The next message, asking for one where none comes by itself."""
        try:
            return await session.receive_text(self._api.heartbeat)
        except TimeoutError:
            await session.send_text('{"type":"ping"}')
            return await session.receive_text(self._api.heartbeat)

    async def _next(self) -> _Received:
        """The next message that is no error."""
        if self._session is None:
            raise self._why
        try:
            text = await self._receive(self._session)
            message = _decode(text)
        except TimeoutError:
            raise Broken("the server is silent") from None
        except WebSocketDisconnect as error:
            raise _closed(error.code, error.reason) from None
        except (WebSocketInvalidTypeReceived, msgspec.DecodeError):
            raise ProtocolError("a message came that is none of the protocol") from None
        except (HTTPXWSException, SocketError, anyio.ClosedResourceError, anyio.EndOfStream):
            raise Broken("the connection broke") from None
        if message.type == "gap":
            message.code, message.message = "gap", f"the log holds events {message.first} to {message.last}"
        elif message.type != "error":
            return _Received(message, text)
        if message.code in PASSING:
            raise Broken(message.message or message.code, message.retry_after)
        raise api_error(msgspec.structs.asdict(message))

    async def follow(self, at: Position) -> bool:
        """Start the run or attach to it; False where it has ended at the cursor."""
        await self._opened.wait()
        command: dict[str, Any]
        if at.run_id is None:
            command, answer = {"type": "start", "request_id": "run", **at.start}, "started"
        else:
            command, answer = {"type": "attach", "run_id": at.run_id, "after": at.after}, "attached"
        if at.types is not None:
            command["types"] = at.types
        if self._session is not None:
            with suppress(HTTPXWSException, SocketError):  # what has come before it broke tells more
                await self._session.send_text(msgspec.json.encode(command).decode())
        reply = (await self._next()).message
        if reply.type != answer:
            raise ProtocolError(f"{reply.type!r} came where {answer!r} was due")
        at.found(reply.run_id)
        return not (reply.ended and reply.last == at.after)

    async def receive(self) -> str:
        """See `run.Connection`."""
        while not (received := await self._next()).message.type.isupper():
            pass
        return received.text

    async def aclose(self) -> None:
        """See `run.Connection`."""
        self._holder.cancel()
        await asyncio.wait([self._holder])


async def connect(api: Api, at: Position) -> _Connection | None:
    """See `run.Connect`."""
    connection = _Connection(api)
    try:
        async with asyncio.timeout(api.timeout):
            going = await connection.follow(at)
    except TimeoutError:
        await connection.aclose()
        raise Broken("the server is silent") from None
    except BaseException:
        await connection.aclose()
        raise
    if going:
        return connection
    await connection.aclose()
    return None
