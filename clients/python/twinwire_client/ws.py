"""A run over WebSocket: all runs of a client share one socket, which each of them asks for again when it broke."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

import msgspec

from twinwire_client.api import Api
from twinwire_client.errors import ApiError, ProtocolError, Unauthenticated
from twinwire_client.mailbox import Mailbox
from twinwire_client.retry import Broken
from twinwire_client.run import Connection, Position
from twinwire_client.socket import LARGE_BYTES, Message, Session
from twinwire_client.sse import start

MAX_WAITING, FEW_WAITING = 1024, 256
"""The number of events that wait for a slow reader here when its run is paused, and when it is resumed."""

ACK_SECONDS = 1.0
"""The seconds for which a command over a socket may be without a reply until it is sent as a request, too."""

_requests = itertools.count(1)


class Sockets:
    """The sockets of one client: one, unless a run is followed twice, or more runs than a socket follows."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sessions: list[Session] = []

    async def connect(self, at: Position) -> Connection | None:
        """See `run.Connect`. A token that is refused is asked for once more, if it can be."""
        if at.run_id is None and len(msgspec.json.encode(at.start)) >= LARGE_BYTES:
            await start(self._api, at)
        try:
            return await self._connect(at)
        except Unauthenticated:
            if not self._api.renewable:
                raise
        return await self._connect(at)

    async def command(self, run_id: str, command: Mapping[str, Any]) -> Message | None:
        """Give a command about a run to a socket that is open. Return the reply, or None if there is none soon.

        Raise the `ApiError` that is the reply.
        """
        self._api.check()
        following = sorted(self._sessions, key=lambda session: not session.follows(run_id))
        session = next((session for session in following if session.opened), None)
        if session is None:
            return None
        answer = session.tell(command)
        await asyncio.wait([answer], timeout=ACK_SECONDS)
        error = answer.exception() if answer.done() else Broken("The server has not answered.")
        if isinstance(error, ApiError) and session.alive:
            raise error
        return answer.result() if error is None else None

    async def aclose(self) -> None:
        """Close all."""
        await asyncio.gather(*(session.aclose() for session in self._sessions))
        self._sessions.clear()

    async def _connect(self, at: Position) -> Connection | None:
        self._api.check()
        connection = _Connection(self._session(at.run_id), at, renewable=self._api.renewable)
        going = False
        try:
            going = await connection.follow()
        finally:
            if not going:
                connection.close()
        return connection if going else None

    def _session(self, run_id: str | None) -> Session:
        """Return a socket that does not follow this run, and has room for one more."""
        self._sessions = [session for session in self._sessions if session.alive]
        fit = (session for session in self._sessions if not (session.full or session.follows(run_id)))
        free = next(fit, None)
        if free is None:
            free = Session(self._api)
            self._sessions.append(free)
        return free


class _Connection(Mailbox):
    """See `run.Connection` and `socket.Channel`."""

    def __init__(self, session: Session, at: Position, *, renewable: bool) -> None:
        super().__init__(renewable=renewable)
        self.left = False
        self.cancels = at.start.get("on_disconnect") == "cancel"
        self._session = session
        self._at = at
        self._past = 0  # the number of the last event that there was when the run was attached to
        self._paused = False

    @property
    def idle(self) -> bool:
        """See `run.Connection`."""
        return super().idle and self._at.after >= self._past

    async def follow(self) -> bool:
        """Start the run or attach to it; False if it has ended at the cursor."""
        at = self._at
        command: dict[str, Any]
        if at.run_id is None:
            command, due = {"type": "start", "request_id": f"r{next(_requests)}", **at.start}, "started"
        else:
            command, due = {"type": "attach", "run_id": at.run_id, "after": at.after}, "attached"
        if at.types is not None:
            command["types"] = at.types
        reply = await self._session.ask(command, self)
        if reply.type != due:
            raise ProtocolError(f"The server answered {reply.type!r}, but {due!r} was due.")
        at.found(reply.run_id)
        self._past = reply.last if at.types is None else 0  # which a filter may leave out
        return not (reply.ended and reply.last == at.after)

    async def receive(self) -> str:
        """See `run.Connection`."""
        text = await super().receive()
        if self._paused and len(self._texts) <= FEW_WAITING:
            self._pause(paused=False)
        return text

    def close(self) -> None:
        """See `run.Connection`."""
        if not self.left:
            self._session.leave(self._at.run_id, self)
        self.fail(Broken("The run is no longer followed."))

    async def aclose(self) -> None:
        """See `run.Connection`."""
        self.close()

    def deliver(self, text: str, *, last: bool) -> None:
        """See `Channel`. A reader that is far behind lags in the server's log, not here."""
        if self.left:
            return
        self.put(text)
        if len(self._texts) >= MAX_WAITING and not last and not self._paused:
            self._pause(paused=True)

    def _pause(self, *, paused: bool) -> None:
        """Say that no more is to come for now, or that more may.

        Commands are obeyed in order, so that nothing waits for the answer. An error is no matter: the run has ended, or
        the server, which does not know these commands, goes on.
        """
        self._paused = paused
        self._session.tell({"type": "pause" if paused else "resume", "run_id": self._at.run_id})
