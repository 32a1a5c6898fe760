"""A session on a WebSocket: many runs on one socket, and commands from the client beside their events.

What goes out is text messages only: replies (`commands`) and events, in one order, written by one pump.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from sys import getsizeof
from time import monotonic
from types import MappingProxyType
from typing import Any

from twinwire.auth import Identity, rfc3339, scopes
from twinwire.formats import native
from twinwire.log import Departure
from twinwire.log.saying import Saying
from twinwire.protocol import commands
from twinwire.protocol.commands import (
    Answer,
    AnyCommand,
    Attach,
    Auth,
    Cancel,
    Detach,
    Pause,
    Ping,
    Resume,
    Send,
    Start,
)
from twinwire.protocol.errors import (
    BadRequest,
    Busy,
    CursorGone,
    Forbidden,
    RunNotFound,
    TooManyFollowed,
    TwinwireError,
    Unauthenticated,
)
from twinwire.protocol.wire import check_run_id, check_types, parse_after
from twinwire.runs import RunSpec
from twinwire.transports import Direct, Verdict, asgi
from twinwire.transports.asgi import Connection, Message
from twinwire.transports.follower import Follower
from twinwire.transports.heartbeats import Heartbeats
from twinwire.transports.limiter import FREE_STATE, STATE_BYTES, Claim
from twinwire.transports.pump import MAX_FOLLOWED, Pump
from twinwire.transports.websocket import WebSocketTransport
from twinwire.web.guard import agent_headers
from twinwire.web.service import Service
from twinwire.web.turns import Turns

logger = logging.getLogger("twinwire.web")

MAX_REQUEST_IDS = 128  # of the runs that were started last on a socket
FEW_REQUEST_IDS = 16  # if half of what all sockets share is taken
MAX_SAYING = 16  # answers and messages whose outcome is not known, beside which other commands are obeyed
REQUEST_BYTES = 100  # that one of these takes beside its text
AUTH_SECONDS = 10.0  # within which a socket must say whose it is, if authentication is on
BURST_SECONDS = 10  # as many messages as may come in this time may come in one go


class Socket:
    """The session of one client on a WebSocket, which sends at most `socket_rate` messages a second for long.

    `by` is None until an `auth` names the user; then `claim` counts the socket as theirs.
    """

    claim: Claim
    direct: Direct | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    """Those of the handshake that agents may read."""

    def __init__(self, service: Service, pump: Pump, by: Identity | None) -> None:
        self._runs = service.runs
        self._metrics = service.metrics
        self._known = service.auth
        self._pump = pump
        self._rate = service.settings.socket_rate
        self._heard_at = monotonic()
        self._credit: float = self._rate * BURST_SECONDS
        self._by = by
        self._requests: dict[str, str] = {}
        self._requests_size = 0
        self._limiter = service.limiter
        self._turns = Turns(MAX_SAYING, self._fail)
        pump.lost = self._lost

    async def listen(
        self,
        entry: AbstractContextManager[Claim],
        transport: WebSocketTransport,
        heartbeats: Heartbeats,
        connection: Connection,
    ) -> None:
        """Serve the socket until it closes; a user who is not known has `AUTH_SECONDS` to say who they are."""
        patience = None
        if self._by is None:
            if connection.direct is not None:
                self.direct = connection.direct
                connection.direct.stranger(unknown=True)
            patience = asyncio.get_running_loop().call_later(AUTH_SECONDS, self.give_up)
        try:
            with entry as self.claim:
                await asgi.serve(connection, transport, self._pump, heartbeats, self.take)
        finally:
            self._turns.close()
            if patience is not None:
                patience.cancel()

    async def take(self, message: Message) -> None:
        """Take one message. Whatever is wrong with it, the socket lives, unless it is binary.

        The socket ends if too many messages come for too long, however fast they are answered.
        """
        now = monotonic()
        self._credit = min(self._credit + (now - self._heard_at) * self._rate, self._rate * BURST_SECONDS) - 1
        self._heard_at = now
        if self._credit < 0:
            self._pump.end(Verdict.BUSY)
            return
        text = message.get("text")
        if text is None:
            self._pump.end(Verdict.BINARY)
            return
        await self._hear(text)
        await self._pump.room()

    async def _hear(self, text: str) -> None:
        """Obey the command in a message, or answer with its error."""
        command = None
        try:
            command = commands.decode_command(text)
            await self._obey(command)
        except TwinwireError as error:
            self._refuse(error, commands.labels(text) if command is None else commands.labels(text, "run_id"))
            if self._by is None and isinstance(command, Auth):
                self.give_up()

    def _fail(self, error: Exception) -> None:
        """End the socket for an error that nobody thought of."""
        logger.error("A connection failed.", exc_info=error)
        self._pump.end(Verdict.BROKEN)

    def _refuse(self, error: TwinwireError, labels: Mapping[str, Any]) -> None:
        self._metrics.refuse(error, path="/ws")
        self._pump.say(commands.error_reply(error, **labels))

    def give_up(self) -> None:
        """End the socket of somebody who has not said who they are."""
        if self._by is None:
            self._pump.end(Verdict.UNAUTHENTICATED, when_idle=True)

    async def _obey(self, command: AnyCommand) -> None:
        if isinstance(command, Auth):
            if (by := self._authenticate(command.token)) is not None:
                self._pump.say(commands.reply("authenticated", command.ref, expires_at=rfc3339(by.expires_at)))
            return
        if (by := self._by) is None:
            raise Unauthenticated
        by.check(scopes.of_command("/ws", command))
        match command:
            case Start():
                await self._start(command, by)
            case Attach():
                await self._or_gap(self._attach(command, by), command)
            case Resume():
                await self._or_gap(self._go_on(command, by), command)
            case Detach(run_id=run_id, leave=leave):
                self._pump.detach(run_id, Departure.LEFT if leave else Departure.GONE)
                self._pump.say(commands.reply("detached", command.ref, run_id=run_id))
            case Pause(run_id=run_id):
                if not self._pump.pause(run_id):
                    raise _not_followed()
                self._pump.say(commands.reply("paused", command.ref, run_id=run_id))
            case Cancel():
                await self._cancel(command, by)
            case Answer(run_id=run_id, input_id=input_id, answer=answer):
                saying = Saying(message_id=command.message_id or "", by=by.user_id, input_id=input_id, answer=answer)
                await self._turns.take(self._say("answer_ack", command, saying, by, input_id=input_id))
            case Send(run_id=run_id, content=content):
                saying = Saying(message_id=command.message_id or "", by=by.user_id, content=content)
                await self._turns.take(self._say("send_ack", command, saying, by))
            case Ping():
                self._pump.say(commands.reply("pong", command.ref))

    def _authenticate(self, token: str) -> Identity | None:
        """Return the identity of this token, or None if the socket ends. Raise `TwinwireError`, and change nothing."""
        if not self._known.on:
            raise BadRequest("Authentication is off on this server: send no `auth`.")
        by = self._known.bearer(token)
        if self._by is not None and self._by.user_id != by.user_id:
            raise Forbidden(
                "`token` must be of the user of this socket. Open another socket for another user.", field="token"
            )
        if self._by is None and not self.claim(by.user_id):
            self._metrics.refuse(Verdict.BUSY.name.lower(), close=Verdict.BUSY.code)
            self._pump.end(Verdict.BUSY)
            return None
        if self._by is None and self.direct is not None:
            self.direct.stranger(unknown=False)
        self._by = self._pump.by = by
        return by

    async def _start(self, command: Start, by: Identity) -> None:
        if command.request_id in self._requests:
            raise BadRequest("`request_id` is in use on this socket. Send another one.", field="request_id")
        view = native.view("ws", check_types(command.types))
        self._check_followed()
        spec = RunSpec.of(command, by, interrupt=command.interrupt, headers=self.headers)
        info, _ = await self._runs.start(spec)
        self._requests[command.request_id] = info.run_id
        while self._too_many_requests():
            del self._requests[next(iter(self._requests))]
        self._pump.say(commands.reply("started", command.ref, request_id=command.request_id, run_id=info.run_id))
        self._pump.attach(info.run_id, 0, view)

    def _check_followed(self, run_id: str = "") -> None:
        """Raise `TooManyFollowed` or `Busy` if the socket may not follow one more run, and this is no run it follows.

        It is busy only for a socket that has more than its own share.
        """
        if self._pump.follows(run_id):
            return
        if self._pump.full:
            raise TooManyFollowed(MAX_FOLLOWED)
        if self._limiter.state >= STATE_BYTES and self._pump.state >= FREE_STATE:
            raise Busy("The server is keeping too many followed runs and filters of sockets. Try again later.")

    def _too_many_requests(self) -> bool:
        """Return whether the socket is to forget its oldest request id. Count what they take."""
        size = sum(REQUEST_BYTES + getsizeof(name) + getsizeof(run_id) for name, run_id in self._requests.items())
        self._pump.weigh(size - self._requests_size)
        self._requests_size = size
        scarce = self._limiter.state >= STATE_BYTES // 2
        return len(self._requests) > (FEW_REQUEST_IDS if scarce else MAX_REQUEST_IDS)

    async def _attach(self, command: Attach, by: Identity) -> None:
        if self._pump.gone:
            return  # commands are still obeyed, but nobody is there to follow
        run_id = check_run_id(command.run_id)
        after = parse_after(command.after, run_id)
        view = native.view("ws", check_types(command.types))
        self._check_followed(run_id)
        snapshot = claim = None
        if command.snapshot:
            claim = await self._runs.claim(run_id, by)
            if self._pump.gone:
                return
            after, folded = await self._runs.snapshot(run_id, by)
            snapshot = {"seq": after, "state": folded}
        state = await self._runs.seek(run_id, after, by)
        ended = state.terminal is not None
        head = {"metadata": state.info.metadata or None, "first": state.first, "last": state.last}
        held = {**head, "ended": ended, "snapshot": snapshot}
        self._pump.say(commands.reply("attached", command.ref, run_id=run_id, **held), claim)
        if not (ended and after == state.last):
            self._pump.attach(run_id, after, view)

    async def _or_gap(self, work: Awaitable[None], command: Attach | Resume) -> None:
        """Await this, or say that the events at the command's cursor are gone."""
        try:
            await work
        except CursorGone as error:
            self._metrics.refuse(error, path="/ws")
            self._gap(command.run_id, error, command.ref)

    async def _go_on(self, command: Resume, by: Identity) -> None:
        run_id, after = command.run_id, None
        if not self._pump.follows(run_id):
            raise _not_followed()
        if command.after is not None:
            after = parse_after(command.after, run_id)
            await self._runs.seek(run_id, after, by)
        if not self._pump.resume(run_id, after):
            raise _not_followed()  # its events were gone, as the socket has been told meanwhile
        self._pump.say(commands.reply("resumed", command.ref, run_id=run_id))

    async def _cancel(self, command: Cancel, by: Identity) -> None:
        run_id = command.run_id or self._requests.get(command.request_id or "")
        try:
            status = "not_found" if run_id is None else await self._runs.cancel(run_id, by)
        except RunNotFound:
            status = "not_found"
        self._pump.say(
            commands.reply("cancel_ack", command.ref, run_id=run_id, request_id=command.request_id, status=status)
        )

    async def _say(self, kind: str, command: Answer | Send, saying: Saying, by: Identity, **what: str) -> None:
        """Say something to a run, and acknowledge it once it is in the run's log."""
        try:
            told = (await self._runs.say(command.run_id, saying, by)).told
        except TwinwireError as error:
            if not (isinstance(error, RunNotFound) and isinstance(command, Answer)):
                self._refuse(error, {"run_id": command.run_id, "ref": command.ref})
                return
            told = {"message_id": command.message_id, "status": "not_found"}
        self._pump.say(commands.reply(kind, command.ref, run_id=command.run_id, **what, **told))

    def _lost(self, follower: Follower, error: TwinwireError) -> None:
        """A followed run's events are gone."""
        self._metrics.cursors["gap" if isinstance(error, CursorGone) else "not_found"] += 1
        self._tell_lost(follower, error)

    def _tell_lost(self, follower: Follower, error: TwinwireError) -> None:
        if isinstance(error, CursorGone):
            self._gap(follower.run_id, error, None)
        else:
            self._pump.say(commands.error_reply(error, run_id=follower.run_id))

    def _gap(self, run_id: str, error: CursorGone, ref: str | int | None) -> None:
        self._pump.say(commands.reply("gap", ref, run_id=run_id, first=error.first, last=error.last))


def _not_followed() -> BadRequest:
    return BadRequest("`run_id` must name a run that this socket follows. Attach to it first.", field="run_id")


async def serve(
    scope: asgi.Scope,
    receive: asgi.Receive,
    send: asgi.Send,
    *,
    service: Service,
    by: Identity | None,
    entry: AbstractContextManager[Claim],
    kind: Callable[[Service, Pump, Identity | None], Socket],
) -> None:
    """Serve a socket whose opening handshake is done, until it closes; see `Socket`.

    `entry` is entered for as long as that takes; see `Connection.go_on`.
    """
    connection = Connection(scope, receive, send)
    transport = WebSocketTransport(connection)
    pump = Pump(service.runs.log, service.runs, transport, once=False, limiter=service.limiter)
    if by is not None:
        pump.by = by
    socket = kind(service, pump, by)
    socket.headers = agent_headers(scope, service.settings.agent_header)
    await connection.go_on(functools.partial(socket.listen, entry, transport, service.heartbeats))
