"""One run, followed: reconnect at the cursor whatever breaks, and verify that every event comes once and in order.

The same for both transports. What a transport adds is how to connect at a cursor (`Connect`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from twinwire_client.api import Api
from twinwire_client.commands import Commands
from twinwire_client.errors import ProtocolError, RunClosed, RunFailed, RunNotFound, TwinwireError, api_error
from twinwire_client.events import INPUT_TYPES, Event, Snapshot, decode_event
from twinwire_client.retry import Broken
from twinwire_client.talk import Acknowledgement, Question, Questions
from twinwire_client.wire import TERMINAL_TYPES, is_run_id, parse_event_id

_CLOSED = "The run was closed before its end was received. Attach to it again to read on."
_GONE = "The server no longer has the run, for example because it was restarted with its log in memory."
_ENTER = "Enter it first: `async with run`, or `with run` if its client is a SyncClient."
_OVER = "The run has been read and closed. Attach to it again to read it once more."


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
        """The next event's JSON. Raises `Broken`, even if the connection ended, and `TwinwireError`.

        If it is cancelled, the next event is still the next.
        """
        ...

    @property
    def idle(self) -> bool:
        """True if all events were received that have come, or are known to be on their way."""
        ...

    def whole(self) -> deque[str]:
        """The events that have come and were not received yet, if the terminal one is among them, else none."""
        ...

    def close(self) -> None:
        """Let nothing more come, in any state; whoever waits for it is told."""
        ...

    async def aclose(self) -> None:
        """The same, and wait until nothing of it is left."""
        ...


Connect = Callable[[Position], Awaitable[Connection | None]]
"""Make one attempt to open a connection at a position; None if the run has ended there. Raises as `receive`."""


class Run:
    """A run, as an async context manager and an async iterator over its events (`Event`).

    Entering starts or finds it and raises the server's verdict if there is one. Leaving closes it: the connection is
    closed; what then becomes of the run is up to its `on_disconnect`. An ERROR event is an event like others. If a wait
    for an event is cancelled or timed out, the next one is still the next. One task reads it at a time.

    `terminal` is the last event, once it was seen; `snapshot` what the events before the first one came to, if
    `Client.attach` was asked for it. Reading raises `RunClosed` once it was closed, unless all its events had come by
    then; `ConnectionLost`, `ProtocolError` if an event is missing, repeated or foreign (a server that lost the end of a
    run in a loss of power too: attach again, from 0), and the `ApiError` if the server will not go on.
    """

    def __init__(
        self,
        api: Api,
        connect: Connect,
        commands: Commands,
        at: Position,
        *,
        snapshot: bool = False,
        on_input: Callable[[Question], object] | None = None,
    ) -> None:
        self._api = api
        self._connect = connect
        self._commands = commands
        self._questions = Questions(self.answer, on_input)
        self._attempts = api.attempts()
        self._at = at
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._connected_at = 0.0
        self._entered = False
        self._reading = False
        self._closed = False
        self._left: deque[str] = deque()  # the events that a closed run still gives
        self._seen = False
        self._ended = False
        self._wants_snapshot = snapshot
        self.snapshot: Snapshot | None = None
        self.terminal: Event | None = None

    @property
    def run_id(self) -> str:
        """The run's id."""
        if self._at.run_id is None:
            raise RuntimeError(f"The run has not been started. {_ENTER}")
        return self._at.run_id

    @property
    def cursor(self) -> int:
        """The number of the last event seen; `Client.attach(run.run_id, after=run.cursor)` goes on from here."""
        return self._at.after

    @property
    def result(self) -> Any:
        """The result, as an AGENT_FINISH that has been seen told it; if the run was cancelled, as far as it came."""
        return None if self.terminal is None else self.terminal.data.get("result")

    @property
    def questions(self) -> list[Question]:
        """The questions that are open, the oldest first, as far as the events were read, or in `snapshot`."""
        return list(self._questions.open.values())

    async def __aenter__(self) -> Self:
        if self._closed:
            raise RunClosed(_OVER if self._ended or self._left else _CLOSED)
        self._api.check()
        self._api.followed.add(self)
        self._entered = True
        try:
            if self._connection is None and not self._ended:
                await self._connected(None)
        except BaseException:
            self._entered = False
            self._api.followed.discard(self)
            await self._drop()
            raise
        self._questions.tell()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow it no longer, as leaving the block does. From any task, and as often as one likes.

        Whoever waits for its next event gets `RunClosed`. If the terminal event has come, the events that have come
        are still read, and then it ends as always.
        """
        if not self._api.here():
            self._api.over_there(self.aclose)
            return
        self._close()
        await self._drop()
        await self._questions.aclose()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._api.followed.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._left = self._connection.whole()
            self._connection.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._reading:
            raise RuntimeError("The run is being read by another task. Attach to it again to read it twice.")
        self._reading = True
        lost: Broken | None = None
        try:
            while not self._closed:
                if not self._entered:
                    raise RuntimeError(f"The run's events can only be read inside its block. {_ENTER}")
                self._api.check()
                if self._ended:
                    await self._drop()
                    break
                try:
                    if self._connection is not None:
                        return self._take(await self._connection.receive())
                    await self._connected(lost)
                except Broken as error:
                    lost = error
                    await self._lost()
            if self._left:
                return self._take(self._left.popleft())
        except TwinwireError:
            await self._drop()
            raise
        finally:
            self._reading = False
        if self._ended:
            raise StopAsyncIteration
        raise RunClosed(_CLOSED)

    async def read(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None once the run has ended. Raise as iterating does.

        Raise `TimeoutError` if it does not come within so many seconds; the next one is then still the next.
        """
        if timeout is None or self._closed:
            return await anext(self, None)
        async with asyncio.timeout(timeout):
            return await anext(self, None)

    async def cancel(self) -> str:
        """Cancel the run: `accepted` or `already_finished`. Its terminal event is still to come."""
        return await self._commands.cancel(self.run_id)

    async def answer(self, input_id: str, value: Any, *, message_id: str | None = None) -> Acknowledgement:
        """Answer a question of this run. See `Client.answer`."""
        return await self._commands.answer(self.run_id, input_id, value, message_id=message_id)

    async def send(self, content: str, *, message_id: str | None = None) -> Acknowledgement:
        """Say something to the run while it goes on. See `Client.send`."""
        return await self._commands.send(self.run_id, content, message_id=message_id)

    async def wait(self, timeout: float | None = None) -> Any:
        """Read to the end; the run's result. Raises `RunFailed` if it ended with an ERROR event.

        Raise `TimeoutError` if it does not end within so many seconds; the events that have come by then are read.
        """
        if timeout is not None and not self._closed:
            async with asyncio.timeout(timeout):
                return await self.wait()
        async for _ in self:
            pass
        if self.terminal is not None:
            end, failed = self.terminal.data, self.terminal.type == "ERROR"
        else:  # attached after the terminal event
            end = await self._api.ask("GET", f"/runs/{self.run_id}")
            failed = end.get("status") == "error"
        if failed:
            raise RunFailed(str(end.get("error_type")), str(end.get("message")))
        return end.get("result")

    async def _connected(self, lost: Broken | None) -> None:
        """Wait until there is a connection, or the run has ended. If this is cancelled, the next read waits for it."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._reconnect(lost))
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        connecting = self._connecting
        await asyncio.wait([connecting])
        if self._connecting is connecting:
            self._connecting = None
        if self._closed or connecting.cancelled():
            raise RunClosed(_CLOSED)
        connecting.result()

    async def _reconnect(self, lost: Broken | None) -> None:
        """Connect, attempt after attempt."""
        while True:
            try:
                if lost is not None:
                    await self._attempts.failed(lost)
                await self._open()
            except Broken as error:
                lost = error
            except RunNotFound as error:
                if not (self._connected_at or self._at.start):
                    raise
                raise api_error({"code": error.code, "message": _GONE}, error.status) from error
            else:
                return

    async def _open(self) -> None:
        if self._wants_snapshot:
            told = await self._api.call("GET", f"/runs/{self.run_id}/snapshot")
            self.snapshot = _snapshot(told)
            self._at.after = self.snapshot.seq
            self._questions.begin(self.snapshot.state.get("questions"))
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

    async def _lost(self) -> None:
        """The connection broke, unless it was closed."""
        if not self._closed:
            self._attempts.succeeded(asyncio.get_running_loop().time() - self._connected_at)
            await self._drop()

    async def _drop(self) -> None:
        """Close what there is of a connection, or is to be one."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
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
        if event.type in INPUT_TYPES:
            self._questions.apply(event)
        elif event.type in TERMINAL_TYPES:
            self._questions.apply(event)
            if event.metadata.get("events") != number:
                raise ProtocolError(f"The last event is number {number}, but names {event.metadata.get('events')}.")
            self.terminal = event
            self._ended = True
        self._at.after = number
        self._seen = True
        self._attempts.succeeded()
        if self._questions.untold and (self._connection is None or self._connection.idle):
            self._questions.tell()
        return event


def _snapshot(told: dict[str, Any]) -> Snapshot:
    try:
        return msgspec.convert(told, Snapshot)
    except msgspec.ValidationError:
        raise ProtocolError("The server's answer is not a snapshot.") from None
