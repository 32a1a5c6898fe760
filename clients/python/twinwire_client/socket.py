"""One WebSocket that carries many runs (PROTOCOL.md, section 5): commands and their replies, events by their run.

A session is one connection and lives once; whoever wants another opens another (`ws`). Whether the server still lives
is asked with the protocol's own `ping`, and only while a run is followed.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Protocol

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

from twinwire_client.api import Api, broken, network
from twinwire_client.errors import ApiError, ProtocolError, TwinwireError, api_error
from twinwire_client.retry import LATE_SECONDS, Broken, deadline
from twinwire_client.wire import PASSING, STATUSES, TERMINAL_TYPES

MAX_FOLLOWED = 100
"""How many runs a socket follows at most (PROTOCOL.md, section 6)."""

LARGE_BYTES = 65_536
"""The size from which on a command is a request of its own: whatever refuses it then ends no socket that others use."""

IDLE_SECONDS = 10.0  # how long a socket that nobody uses stays open for the next run
CLOSE_SECONDS = 1.0  # how long to wait for the end of a socket that is closed

TOO_LARGE = 1009  # RFC 6455, section 7.4.1: a message was too large for its receiver

_FINAL = {1003, 1008, TOO_LARGE, 1010}
"""Close codes (RFC 6455, section 7.4.1) that say that the client is wrong. Those from 4500 are Twinwire's own.

1002 and 1007 are what the library here reports of frames that are none: a connection that is broken.
"""

_CODES = {4500: "bad_request", 4501: "unauthenticated"}
"""The errors that close codes of Twinwire's own tell (PROTOCOL.md, section 5)."""

Why = Exception
"""Why no more comes: `Broken` or a `TwinwireError`."""


class Message(msgspec.Struct):
    """What the client looks at in a message. An event is one whose type is upper case."""

    type: str
    id: str = ""
    ref: int | str | None = None
    run_id: str | None = None
    code: str | None = None
    message: str | None = None
    field: str | None = None
    retry_after: float | None = None
    status: Any = None
    message_id: str | None = None
    at: str | None = None
    by: str | None = None
    expires_at: datetime | None = None
    first: int = 0
    last: int = 0
    ended: bool = False


class _Named(msgspec.Struct):
    """Whatever tells which run a message is about, ill-formed or not."""

    id: Any = None
    run_id: Any = None
    ref: Any = None


class Channel(Protocol):
    """A receiver of a run's events. It has `left` once it wants no more of them, for good if it `cancels`."""

    left: bool
    cancels: bool

    def deliver(self, text: str, *, last: bool) -> None:
        """An event's JSON; whether it is the terminal one."""
        ...

    def fail(self, error: Why) -> None:
        """No more comes, and why."""
        ...


class _Asked(NamedTuple):
    answer: asyncio.Future[Message]
    channel: Channel | None
    size: int


_decode = msgspec.json.Decoder(Message).decode


def _closed(code: int, reason: str) -> Broken | ApiError:
    """What a close code means."""
    text = f"The server closed the socket with {code}{f' ({reason})' if reason else ''}."
    if code in _FINAL or 4500 <= code <= 4999:
        return api_error({"code": _CODES.get(code, "closed"), "message": text})
    return Broken(text, said=reason or None)


def _verdict(message: Message) -> Broken | ApiError:
    """What an `error` or `gap` message means."""
    if message.type == "gap":
        message.code, message.message = "gap", f"The log holds events {message.first} to {message.last}."
    if message.code in PASSING:
        said = message.message
        status = STATUSES.get(message.code)
        return Broken(
            said or message.code, retry_after=message.retry_after, code=message.code, status=status, said=said
        )
    return api_error(msgspec.structs.asdict(message))


class Session:
    """See the module. It opens by itself, and closes if `close` is called, it breaks, or nobody uses it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._why: Why | None = None
        self._refs = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._channels: dict[str | None, Channel] = {}
        self._unsent: asyncio.Queue[str] = asyncio.Queue()
        self._idle: asyncio.TimerHandle | None = None
        self._opened = False
        self._task = asyncio.create_task(self._live())

    @property
    def alive(self) -> bool:
        """Whether it can be spoken to, or will be."""
        return self._why is None

    @property
    def opened(self) -> bool:
        """True if its handshake is done, and it has not ended."""
        return self._opened and self.alive

    @property
    def full(self) -> bool:
        """Whether it follows as many runs as it may, or will when all that was asked has been answered."""
        return len(self._channels) + len(self._asked) >= MAX_FOLLOWED

    def follows(self, run_id: str | None) -> bool:
        """Whether a run is followed here: it can be so once."""
        channel = self._channels.get(run_id)
        return channel is not None and not channel.left

    def tell(self, command: Mapping[str, Any], channel: Channel | None = None) -> asyncio.Future[Message]:
        """Send a command; the future has the reply, or raises what `receive` of a `run.Connection` does.

        Events of the run that the reply names go to the `channel`, from the first one on.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # if nobody waits for it
        if self._why is not None:
            answer.set_exception(self._why)
            return answer
        ref = next(self._refs)
        text = msgspec.json.encode({**command, "ref": ref}).decode()
        self._asked[ref] = _Asked(answer, channel, len(text))
        self._unsent.put_nowait(text)
        self._rest()
        return answer

    async def ask(self, command: Mapping[str, Any], channel: Channel) -> Message:
        """As `tell`; a reply that does not come in time ends the session."""
        try:
            async with deadline(self._api.timeout):
                return await self.tell(command, channel)
        except TimeoutError:
            silent = Broken("The server was silent for too long.")
            self.close(silent)
            raise silent from None

    def leave(self, run_id: str | None, channel: Channel) -> None:
        """Stop following a run, if this channel still does."""
        channel.left = True
        if self._channels.get(run_id) is channel:
            self.tell({"type": "detach", "run_id": run_id} | ({"leave": True} if channel.cancels else {}))

    def close(self, why: Why) -> None:
        """End it, and with it all that waits for it."""
        self._fail(why)
        self._task.cancel()

    async def aclose(self) -> None:
        """The same, and wait until it is closed."""
        self.close(Broken("The client was closed."))
        await asyncio.wait([self._task], timeout=CLOSE_SECONDS)

    def _fail(self, why: Why) -> None:
        if self._why is not None:
            return
        self._why = why
        for asked in self._asked.values():
            if not asked.answer.done():
                asked.answer.set_exception(why)
        for channel in self._channels.values():
            channel.fail(why)
        self._asked.clear()
        self._channels.clear()
        self._rest()

    def _rest(self) -> None:
        """Close the session after a while in which nobody uses it."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.alive and not self._asked and not self._channels:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(IDLE_SECONDS, self.close, Broken("The socket was not used."))

    async def _live(self) -> None:
        """Hold the connection open. It has a task group, which must be entered and left in one and the same task."""
        why: Why = Broken("The connection broke.")
        try:
            with network():
                async with aconnect_ws(
                    self._api.url("/ws"),
                    self._api.http,
                    keepalive_ping_interval_seconds=None,
                    session_class=AsyncWebSocketSession,
                    **self._api.options(),
                ) as session:
                    await self._talk(session)
        except WebSocketUpgradeError as error:
            why = self._api.refused(error.response)
        except (HTTPXWSException, ExceptionGroup) as error:
            why = broken(error)
        except Exception as error:  # noqa: BLE001 - it is raised where a run is followed here
            why = error
        finally:
            self._fail(why)

    async def _talk(self, session: AsyncWebSocketSession) -> None:
        self._opened = True
        beside = [asyncio.create_task(self._write(session))]
        if session.response is not None:
            beside.append(asyncio.create_task(self._renew(session.response.request)))
        try:
            self._fail(await self._read(session))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    async def _write(self, session: AsyncWebSocketSession) -> None:
        try:
            while True:
                await session.send_text(await self._unsent.get())
        except (HTTPXWSException, SocketError, anyio.ClosedResourceError):
            pass  # what has come before it broke tells more

    async def _renew(self, opening: httpx.Request) -> None:
        async def say(token: str) -> datetime | None:
            return (await self.tell({"type": "auth", "token": token})).expires_at

        with suppress(Exception):  # a server that asks nobody, or no newer token; then 4001 comes in its time
            await self._api.renew(opening, say)

    async def _read(self, session: AsyncWebSocketSession) -> Why:
        """Take what comes, until no more does; why not."""
        asked = False
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                text = await session.receive_text(self._api.heartbeat)
                asked = False
                self._hear(text)
            except TimeoutError:
                # If the program stood still, what has come meanwhile is yet to be read.
                if asked and loop.time() - since <= self._api.heartbeat + LATE_SECONDS:
                    return Broken("The server was silent for too long.")
                if self._channels:
                    asked = True
                    self.tell({"type": "ping"})
            except WebSocketDisconnect as error:
                return self._blame(error.code, _closed(error.code, error.reason))
            except WebSocketInvalidTypeReceived:
                return ProtocolError("The server sent a message that is not a text.")
            except (HTTPXWSException, SocketError, anyio.ClosedResourceError, anyio.EndOfStream):
                return Broken("The connection broke.")
            except (Broken, TwinwireError) as error:
                return error

    def _blame(self, code: int, why: Why) -> Why:
        """Return why all else ends if the socket was closed because of one command: that has an error of its own."""
        unanswered = [asked for asked in self._asked.values() if not asked.answer.done()]
        if code != TOO_LARGE or not unanswered:
            return why
        largest = max(unanswered, key=lambda asked: asked.size)
        message = f"The message is larger than the server accepts. {why}"
        largest.answer.set_exception(api_error({"code": "payload_too_large", "message": message}))
        return Broken(str(why))

    def _hear(self, text: str) -> None:
        try:
            message = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            self._garbled(text)
            return
        if not message.type.isupper():
            self._reply(message)
            return
        run_id, last = message.id[4:30], message.type in TERMINAL_TYPES
        channel = self._channels.get(run_id)
        if channel is None:
            raise ProtocolError("The server sent an event of another run.")
        if last:
            del self._channels[run_id]
            self._rest()
        channel.deliver(text, last=last)

    def _garbled(self, text: str) -> None:
        """End the run that an ill-formed message is about. Raise if it does not name one that is followed here."""
        fault = ProtocolError("The server sent a message that is not well-formed.")
        try:
            named = msgspec.json.decode(text, type=_Named)
        except (msgspec.DecodeError, RecursionError):
            raise fault from None
        asked = self._asked.pop(named.ref, None) if isinstance(named.ref, int) else None
        if asked is not None:
            if not asked.answer.done():
                asked.answer.set_exception(fault)
            return
        run_id = named.run_id if isinstance(named.run_id, str) else str(named.id)[4:30]
        channel = self._channels.get(run_id)
        if channel is None:
            raise fault
        if not channel.left:
            self.leave(run_id, channel)
            channel.fail(fault)

    def _reply(self, message: Message) -> None:
        bad = message.type in {"error", "gap"}
        asked = self._asked.pop(message.ref, None) if isinstance(message.ref, int) else None
        followed = self._channels.get(message.run_id)
        if message.type == "detached":
            self._channels.pop(message.run_id, None)
        if asked is None:
            if not bad:
                return
            if message.run_id is None:
                raise _verdict(message)
            self._channels.pop(message.run_id, None)
            if followed is not None:
                followed.fail(_verdict(message))
        elif bad:
            if not asked.answer.done():
                asked.answer.set_exception(_verdict(message))
        else:
            if asked.channel is not None:
                if followed is not None:
                    followed.fail(Broken("The run is now followed from another cursor on this socket."))
                self._channels[message.run_id] = asked.channel
                if asked.answer.done():  # who asked has gone meanwhile
                    self.leave(message.run_id, asked.channel)
            if not asked.answer.done():
                asked.answer.set_result(message)
        self._rest()
