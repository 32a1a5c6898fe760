"""A run over WebSocket: all runs of a client share one socket, which each of them asks for again when it broke."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

from twinwire_client.api import Api
from twinwire_client.errors import ProtocolError, Unauthenticated
from twinwire_client.retry import Broken
from twinwire_client.run import Connection, Position
from twinwire_client.socket import Message, Session, Why

MAX_WAITING = 1024
"""How many events wait for a slow reader here; more wait in the server's log."""

_requests = itertools.count(1)


class Sockets:
    """The sockets of one client: one, unless a run is followed twice, or more runs than a socket follows."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._sessions: list[Session] = []

    async def connect(self, at: Position) -> Connection | None:
        """See `run.Connect`. A token that is refused is asked for once more, if it can be."""
        try:
            return await self._connect(at)
        except Unauthenticated:
            if not self._api.renewable:
                raise
        return await self._connect(at)

    async def aclose(self) -> None:
        """Close all."""
        await asyncio.gather(*(session.aclose() for session in self._sessions))
        self._sessions.clear()

    async def _connect(self, at: Position) -> Connection | None:
        connection = _Connection(self._session(at.run_id), at, renewable=self._api.renewable)
        going = False
        try:
            going = await connection.follow()
        finally:
            if not going:
                await connection.aclose()
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


class _Connection:
    """See `run.Connection` and `socket.Channel`."""

    def __init__(self, session: Session, at: Position, *, renewable: bool) -> None:
        self.left = False
        self._session = session
        self._at = at
        self._renewable = renewable
        self._texts: deque[str] = deque()
        self._why: Why | None = None
        self._arrived = asyncio.Event()
        self._ended = False
        self._paused: asyncio.Future[Message] | None = None

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
        return not (reply.ended and reply.last == at.after)

    async def receive(self) -> str:
        """See `run.Connection`."""
        try:
            while not self._texts:
                if self._why is not None:
                    raise self._why
                if self._paused is not None:
                    await self._resume(self._paused)
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        except Unauthenticated as error:
            if not self._renewable:
                raise
            raise Broken(str(error)) from None
        return self._texts.popleft()

    async def aclose(self) -> None:
        """See `run.Connection`."""
        self._session.leave(self._at.run_id, self)
        self.fail(Broken("The run is no longer followed."))

    def put(self, text: str, *, last: bool) -> None:
        """See `Channel`. A reader that is far behind lags in the server's log, not here."""
        if self.left:
            return
        self._texts.append(text)
        self._ended = last
        if len(self._texts) >= MAX_WAITING and not last and self._paused is None:
            self._paused = self._session.tell({"type": "detach", "run_id": self._at.run_id})
        self._arrived.set()

    def fail(self, error: Why) -> None:
        """See `Channel`."""
        self._why = error
        self._arrived.set()

    async def _resume(self, paused: asyncio.Future[Message]) -> None:
        """Once the socket follows the run no more, and what came until then was read, attach at the cursor."""
        await asyncio.wait([paused])
        if self._texts:
            return
        paused.result()
        self._paused = None
        if not self._ended and not await self.follow():
            raise Broken("The run ended while it was not followed.")
