"""One run, followed: reconnect at the cursor whatever breaks, and verify that every event comes once and in order.

The same for both transports. What a transport adds is how to connect at a cursor (`Connect`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from twinwire_client.api import Api
from twinwire_client.errors import ProtocolError, RunFailed
from twinwire_client.events import Event, Snapshot, decode_event
from twinwire_client.retry import Broken
from twinwire_client.wire import TERMINAL_TYPES, is_run_id, parse_event_id


class Position:
    """Where a client stands: the run (or how to start it, while it has no id) and the last event seen of it."""

    def __init__(
        self,
        *,
        start: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        after: int = 0,
        types: Sequence[str] | None = None,
    ) -> None:
        self.start = start or {}
        self.run_id = run_id
        self.after = after
        self.types = types

    def found(self, run_id: Any) -> None:
        """The server says that this is the run. Raises `ProtocolError` if it cannot be."""
        if not is_run_id(run_id):
            raise ProtocolError("The server's answer does not name a run.")
        if self.run_id not in {None, run_id}:
            raise ProtocolError("The server's answer is about another run.")
        self.run_id = run_id


class Connection(Protocol):
    """A connection that is open at a cursor."""

    async def receive(self) -> str:
        """The next event's JSON. Raises `Broken`, even if the connection ended, and `TwinwireClientError`."""
        ...

    async def aclose(self) -> None:
        """Close it now, in any state."""
        ...


Connect = Callable[[Position], Awaitable[Connection | None]]
"""Make one attempt to open a connection at a position; None if the run has ended there. Raises as `receive`."""


class Run:
    """A run, as an async context manager and an async iterator over its events (`Event`).

    Entering starts or finds it and raises the server's verdict if there is one. Leaving closes the connection;
    what then becomes of the run is up to its `on_disconnect`. An ERROR event is an event like others. Where waiting
    for an event is cancelled, the next one is still the next: it is asked for again on a new connection.

    `terminal` is the last event, once it was seen; `snapshot` what the events before the first one came to, if
    `Client.attach` was asked for it. Reading raises `ConnectionLost`, `ProtocolError` if an event is missing,
    repeated or foreign (a server that lost the end of a run in a loss of power too: attach again, from 0), and the
    `ApiError` if the server will not go on.
    """

    def __init__(self, api: Api, connect: Connect, at: Position, *, snapshot: bool = False) -> None:
        self._api = api
        self._connect = connect
        self._attempts = api.attempts()
        self._at = at
        self._connection: Connection | None = None
        self._connected_at = 0.0
        self._seen = False
        self._ended = False
        self._left = True
        self._wants_snapshot = snapshot
        self.snapshot: Snapshot | None = None
        self.terminal: Event | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        if self._at.run_id is None:
            raise RuntimeError("The run has not been started. Enter it with `async with` first.")
        return self._at.run_id

    @property
    def cursor(self) -> int:
        """The number of the last event seen; `Client.attach(run.run_id, after=run.cursor)` goes on from here."""
        return self._at.after

    @property
    def result(self) -> str | None:
        """The answer, once an AGENT_FINISH has been seen; if the run was cancelled, as far as it came."""
        return None if self.terminal is None else self.terminal.data.get("result")

    async def __aenter__(self) -> Self:
        self._left = False
        while self._connection is None and not self._ended:
            try:
                await self._reconnect()
            except Broken as error:
                await self._attempts.failed(error)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow it no longer, as leaving the block does. A wait for its next event ends with a `RuntimeError`."""
        self._left = True
        await self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._left:
            if self._ended:
                await self._drop()
                raise StopAsyncIteration
            try:
                if self._connection is None:
                    await self._reconnect()
                else:
                    return self._take(await self._connection.receive())
            except Broken as error:
                if self._left:
                    continue
                if self._connection is not None:
                    self._attempts.succeeded(asyncio.get_running_loop().time() - self._connected_at)
                    await self._drop()
                await self._attempts.failed(error)
            except BaseException:
                await self._drop()
                raise
        raise RuntimeError("A run's events can only be read inside its `async with` block.")

    async def cancel(self) -> str:
        """Cancel the run: `accepted` or `already_finished`. Its terminal event is still to come."""
        return str((await self._api.ask("POST", f"/runs/{self.run_id}/cancel")).get("status"))

    async def wait(self) -> str:
        """Read to the end; the run's result. Raises `RunFailed` if it ended with an ERROR event."""
        async for _ in self:
            pass
        if self.terminal is not None:
            end, failed = self.terminal.data, self.terminal.type == "ERROR"
        else:  # attached after the terminal event
            end = await self._api.ask("GET", f"/runs/{self.run_id}")
            failed = end["status"] == "error"
        if failed:
            raise RunFailed(end["error_type"], end["message"])
        return str(end["result"])

    async def _reconnect(self) -> None:
        if self._wants_snapshot:
            told = await self._api.call("GET", f"/runs/{self.run_id}/snapshot")
            self.snapshot = _snapshot(told)
            self._at.after = self.snapshot.seq
            self._wants_snapshot = False
        self._connection = await self._connect(self._at)
        self._connected_at = asyncio.get_running_loop().time()
        self._attempts.worked()
        if self._connection is None:
            if self._seen:
                raise ProtocolError(
                    "The run has ended, but its terminal event did not come. Read the run again from 0."
                )
            self._ended = True

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    def _take(self, text: str) -> Event:
        """The event, if it is the one that is due."""
        event = decode_event(text)
        named = parse_event_id(event.id)
        if named is None:
            raise ProtocolError("The server sent an event without an event id.")
        run_id, number = named
        due = self._at.after + 1
        if run_id != self._at.run_id:
            raise ProtocolError("The server sent an event of another run.")
        if number < due or (number > due and self._at.types is None):
            raise ProtocolError(f"The server sent event {number}, but event {due} was due.")
        if event.type in TERMINAL_TYPES:
            if event.metadata.get("events") != number:
                raise ProtocolError(f"The last event is number {number}, but names {event.metadata.get('events')}.")
            self.terminal = event
            self._ended = True
        self._at.after = number
        self._seen = True
        self._attempts.succeeded()
        return event


def _snapshot(told: dict[str, Any]) -> Snapshot:
    try:
        return msgspec.convert(told, Snapshot)
    except msgspec.ValidationError:
        raise ProtocolError("The server's answer is not a snapshot.") from None
