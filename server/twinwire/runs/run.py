"""One run: drives an agent, and sees to it that exactly one terminal event ends it, whatever the agent does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextvars import copy_context
from threading import get_ident
from typing import Any, Literal

import msgspec

from twinwire.agents import Agent, RunRequest, nobody, takes_messages
from twinwire.agents.given import Given, awaitable, event_of, returned
from twinwire.agents.past import unkept
from twinwire.agents.talk import silent
from twinwire.fence import Fence, RunOver, enter, let_go, report
from twinwire.log import EventLog, RunInfo
from twinwire.models.adapters import PushStream
from twinwire.protocol.errors import BudgetSpent, RunError, RunInterrupted
from twinwire.protocol.events import (
    OWN_TYPES,
    TERMINAL_TYPES,
    NotAnEvent,
    StreamEvent,
    StreamEventType,
    checked,
    chunk_text,
    dump,
)
from twinwire.runs.budget import Share
from twinwire.runs.checkpoints import Checkpoint, Keeper
from twinwire.runs.deadline import Deadline
from twinwire.runs.due import Due
from twinwire.runs.failure import error_event
from twinwire.runs.followers import Followers
from twinwire.runs.inputs import InputLimits, Inputs
from twinwire.runs.resumption import Resumption
from twinwire.runs.spec import RunSpec
from twinwire.runs.telling import Telling
from twinwire.runs.thoughts import Held
from twinwire.runs.work import Work
from twinwire.runs.writer import Room, Writer
from twinwire.telemetry.logging import tell
from twinwire.telemetry.metrics import Metrics
from twinwire.telemetry.tracing import Span

logger = logging.getLogger("twinwire.runs")

_THINKING = StreamEventType.THINKING


class Run(Telling):
    """A run that goes on in this process.

    `orphan_timeout` is the number of seconds that the run may go on with nobody following it, or None.
    `on_orphaned(run)` is called when it has had no follower here for that long, `on_input(run)` when something was
    asked or said, or the run waits no longer, `on_end(run)` once, when the terminal event is in the log, or never will
    be written here. With `debug` an ERROR has the words of the exception that the agent raised.

    With a `keeper` other processes can go on with the run, until it is `put_down`; `resumed` is what this one goes on
    with. Such a run that is `elsewhere` has not ended here: it was put down, or another process has claimed it.

    `spec` and `span` are for whoever hears of its end.

    While the agent's task runs, `_at_work` is set: what it emits is appended when it suspends. A call of `emit` from
    elsewhere, such as a callback, appends at once. A run whose terminal event is written is `over`. The agent learns
    that when it is cancelled, closed, or `emit` raises; then `_told` is set.

    | `over` | `_told` | `emit` in the agent's task | `emit` elsewhere |
    |---|---|---|---|
    | no | no | writes the event | writes and appends it |
    | yes | no | raises `RunOver` | drops it |
    | yes | yes | drops the event | drops it |
    """

    __slots__ = (  # CPython's objects share the keys of 30 attributes at most
        *("_agent", "_asks_again", "_at_work", "_cancelled_at", "_context", "_deadline", "_keeper", "_loop"),
        *("_metrics", "_on_end", "_on_input", "_on_orphaned", "_thread", "_told", "elsewhere", "followers", "inputs"),
        *("span", "spec", "task"),
    )

    spec: RunSpec
    span: Span

    def __init__(
        self,
        log: EventLog,
        info: RunInfo,
        agent: Agent,
        request: RunRequest,
        *,
        deadline: float,
        due_together: Due | None = None,
        share: Share | None,
        orphan_timeout: float | None,
        inputs: InputLimits,
        can_ask: bool,
        held: Held,
        metrics: Metrics,
        debug: bool = False,
        resumed: Resumption | None = None,
        keeper: Callable[[Run], Keeper] | None = None,
        on_orphaned: Callable[[Run], None],
        on_input: Callable[[Run], None],
        on_end: Callable[[Run], None],
    ) -> None:
        # Whoever ends the run: its last line in the log has its own ids, those of the context that it begins in.
        self._context = copy_context()
        last, size = (0, 0) if resumed is None else (resumed.last, resumed.size)
        writer = Writer(log, info.run_id, self._ended, metrics, last=last, size=size)
        super().__init__(info, request, writer, resumed, share=share, held=held, debug=debug)
        request.emit = self.emit
        self.followers = Followers(orphan_timeout, self._orphaned)
        self.task: asyncio.Task[None] | None = None
        self._agent = agent
        before = Checkpoint() if resumed is None else resumed.checkpoint
        spent = {"spent": before.elapsed - before.waited, "waited": before.waited}
        self._deadline = Deadline(deadline, inputs.longest, self._expire, due_together, **spent)
        self._on_orphaned = on_orphaned
        self._on_input = on_input
        self._on_end = on_end
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        may = {"can_ask": can_ask, "takes_messages": takes_messages(agent)}
        self.inputs = Inputs(
            info.run_id, self._hear, writer.flushed, inputs, fold=self.fold, on_attached=self._attached, **may
        )
        request.talk = self.inputs
        self._keeper = None if keeper is None else keeper(self)
        request.checkpoints = self._keeper or unkept
        if resumed is not None:
            request.past, request.usage = resumed.past, msgspec.structs.replace(before.usage)
            self.inputs.restore(resumed.found)
        self._cancelled_at: float | None = None
        self._at_work = self._told = self._asks_again = False
        self.elsewhere = False

    @property
    def duration(self) -> float:
        """Return the seconds since the run began."""
        return self._ends.duration

    def start(self) -> asyncio.Task[None]:
        """Begin. Return the task that drives the agent."""
        past = self.request.past
        if past is None:
            self._tell("The run started.")
        else:
            self._tell("The run was resumed.", epoch=past.epoch)
        self.task = self._loop.create_task(Work(self, self._drive()), name=f"run {self.info.run_id}")
        self._deadline.start()
        self.followers.start()
        if self.inputs.asked:  # in another process
            self._look(waited=False)
        return self.task

    def block(self) -> None:
        """Have `emit` return an awaitable until `unblock`, or until the run is over."""
        if not self.over:
            self.writer.block()

    def unblock(self) -> None:
        """Let the agent go on."""
        self.writer.unblock()

    def cancel(self, reason: Literal["user", "nobody_followed"]) -> bool:
        """End the run as cancelled, with the answer so far. Return False if it is over already."""
        if not self.over:
            self._cancelled_at = time.monotonic()
        terminal = self._ends.finish("cancelled")
        terminal.data["reason"] = reason
        return self._stop(terminal, reason)

    def fail(self, error: RunError) -> bool:
        """End the run with an ERROR. Return False if it is over already."""
        return self._stop(error_event(error), error.reason or error.code)

    def hurry(self, error: RunError, seconds: float) -> None:
        """Let `emit` end the run with this error once the time is up, even if the event loop does not get to it.

        If the server stops, a run that another process can go on with is put down instead.
        """
        self._deadline.hurry(error, seconds)

    def _expire(self) -> None:
        """End a run that is due: called by the deadline's timer, or by `emit` if the agent holds the event loop."""
        error = self._deadline.error
        if not (isinstance(error, RunInterrupted) and self.put_down()):
            self.fail(error)

    @property
    def can_resume(self) -> bool:
        """Return whether another process can go on with the run, as its log is now."""
        return self._keeper is not None and self._keeper.kept and self.writer.log.outlives

    @property
    def spent(self) -> tuple[float, float]:
        """Return the seconds that the run has gone on for, and those of them in which it has waited for its user."""
        return self.duration, self._deadline.waited

    def checkpoint(self, state: msgspec.Raw, *, counts: bool) -> Checkpoint:
        """Return a checkpoint of the run as it is, with this `state` of its agent's. Raises `BudgetSpent`."""
        if self.writer.last == 0:
            self._begin()
        self._release()
        elapsed, waited = self.spent
        return Checkpoint(
            state=state,
            after=self.writer.last,
            counts=counts,
            kept={} if counts else msgspec.json.decode(dump(self.fold.kept)),
            usage=msgspec.structs.replace(self._ends.usage()),
            elapsed=elapsed,
            waited=waited,
            size=self.writer.size,
            asked=self.inputs.asked,
            read=list(self.inputs.messages.read),
        )

    def put_down(self) -> bool:
        """Stop the agent, for another process to go on with the run: nothing more is told, and no terminal event.

        Return False, having done nothing, if the run is over already, or no other process can go on with it.
        """
        if self.over or not self.can_resume:
            return False
        self.request.cancelled_by = "shutdown"  # before the agent learns of it
        with contextlib.suppress(RunError):  # there is no room for it
            self._release()
        self.elsewhere = True
        self._close()
        self.writer.flush()
        if self.task is not None:
            self.task.cancel()
        return True

    def leave(self) -> None:
        """Let go of a run that was put down."""
        self._tell("The run was put down.")
        self._let_go()

    def _stop(self, terminal: StreamEvent, by: str) -> bool:
        """End the run from outside: without waiting for an agent that may not stop."""
        if self.over:
            return False
        self.request.cancelled_by = by  # before the agent learns of it
        self._terminate(terminal)
        self.writer.flush()
        if self.task is not None:
            self.task.cancel()
        return True

    def step(self, proceed: Callable[..., Any], *given: Any) -> Any:
        """Carry the agent on until it suspends or is done, and append what it has told meanwhile; see `Work`.

        So what an agent tells in one go is one append, made at once and not in a later turn of the loop.
        """
        self._at_work = True
        try:
            awaited = proceed(*given)
        finally:
            self._at_work = False
            self.writer.flush()
        if self.over and not self._told and self.task is not None:
            self._told = True
            self.task.cancel()
        return awaited

    def thrown(self) -> None:
        """The agent learns that it is to end, if the run is over; see `Work`."""
        self._told = self._told or self.over

    async def _drive(self) -> None:
        """Run the agent within the fence: whatever it raises, this returns, and the run is over."""
        enter(self.info.run_id)
        terminal: StreamEvent | None = None
        try:
            told: Any = self._agent(self.request)
            if not isinstance(told, AsyncIterable):
                told = await awaitable(told)
            if isinstance(told, PushStream):
                await told.for_each(self.emit)
            elif isinstance(told, AsyncIterable):
                await self._pull(told)
            result = returned(told, self.emit, silent=not self.fold.text)
            self._release()
            self._afford()
            terminal = self._ends.finish("completed", result)
        except RunError as error:
            with Fence(
                logger,
                "In the run %s the agent %s gave an error that cannot be used.",
                self.info.run_id,
                self.info.agent,
            ):
                terminal = error_event(error)
            let_go(error)
        except BaseException as error:  # noqa: BLE001 - this is the fence around the agent
            if time.monotonic() >= self._deadline.due:  # the agent may have been interrupted for that
                self._expire()
            elif not self.over:
                report(logger, error, "In the run %s the agent %s failed.", self.info.run_id, self.info.agent)
                terminal = self._ends.failed(error)
            let_go(error)
        self._terminate(terminal or self._ends.failed(None))

    async def _pull(self, events: AsyncIterable[Given]) -> None:
        try:
            async for event in events:
                if (room := self.emit(event)) is not None:
                    await room
                if self.over:
                    break
        finally:
            self._told = self._told or self.over
            if (aclose := getattr(events, "aclose", None)) is not None:
                await aclose()

    def emit(self, *events: Given) -> Awaitable[None] | None:
        """See `agents.Emit`. An agent is stopped after its terminal event, or if it goes over the run's budget."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "`emit` was called in another thread. Use loop.call_soon_threadsafe(request.emit, event)."
            )
        late = time.monotonic() >= self._deadline.due
        if late and isinstance(self._deadline.error, RunInterrupted):
            self._expire()  # before the events: a checkpoint may be to come with them
        if self.over:
            self._emit_late(events)
            return None
        writer = self.writer
        try:
            for event in events:
                if not isinstance(event, StreamEvent):
                    event = event_of(event)  # noqa: PLW2901 - no name more for each token
                if event.type == _THINKING and (phrases := self._thought.add(event)) is not None:
                    self._think(phrases)
                    continue
                if self._thought.text:
                    self._release()
                if (text := chunk_text(event)) is not None and writer.last and not self.fold.questions:
                    writer.put(event, self._check)
                    self.fold.say(text)
                    continue
                told = checked(event)
                if told.type in OWN_TYPES:
                    raise NotAnEvent(f"An agent must not emit {told.type}. It calls `request.ask` or `checkpoint`.")
                if told.type in TERMINAL_TYPES:
                    if told.type == StreamEventType.AGENT_FINISH:
                        self._afford()
                    self._terminate(told)
                    break
                self._write(told)
        except RunError as error:
            self.request.cancelled_by = error.code
            self._terminate(error_event(error))  # now: the agent may take its time to end
            if self._at_work:
                self._told = True
                raise RunOver from None
        except BaseException as error:  # noqa: BLE001 - this is the fence around the agent's objects
            self._refuse(error)
        if late:
            self._expire()
            if self._at_work:
                self._told = True
                raise RunOver
        if not self._at_work:
            writer.flush()
            if self.over and self.task is not None:
                self.task.cancel()
        return Room(writer) if len(writer.pending) >= writer.most else None  # which is `writer.full`

    def _emit_late(self, events: Sequence[Given]) -> None:
        """Drop events of a run that is over. In the agent's own task this raises, unless the agent knows."""
        if self._at_work and not self._told:
            self._told = True
            raise RunOver
        nobody(*events)

    def _refuse(self, error: BaseException) -> None:
        """Raise what is wrong with an event to whoever has told it.

        A callback has nobody to raise it to: the event loop would log it and go on, or end. There the run ends.
        """
        if asyncio.current_task() is None:
            report(logger, error, "In the run %s the agent %s failed.", self.info.run_id, self.info.agent)
            self._terminate(self._ends.failed(error))
            return
        if not self._at_work:
            self.writer.flush()
        if not isinstance(error, Exception):
            raise TypeError(
                "The event could not be encoded."
            ) from error  # a task that raises the error may end the loop
        raise error

    def _look(self, *, waited: bool) -> None:
        """Stop or start what must not end the run while it waits; see `Telling`."""
        if self.fold.waiting != waited:
            for each in (self._deadline, self.followers):
                each.go_on() if waited else each.hold()
            self._wait_again()
        self._on_input(self)

    def _hear(self, event: StreamEvent) -> None:
        """Write an event of `inputs`. Raises `BudgetSpent`, and ends the run with that if the event is a question."""
        if self.over:
            return
        try:
            self._release()
            self._write(event)
        except BudgetSpent as error:
            if event.type == StreamEventType.INPUT_REQUESTED:
                self.fail(error)
            raise
        if not self._at_work:
            self.writer.flush()

    def _terminate(self, event: StreamEvent) -> None:
        """Write the terminal event, completed if the agent left something out. Only the first call does anything."""
        if self.over:
            return
        with contextlib.suppress(RunError):  # there is no room for it
            self._release()
        with Fence(
            logger, "In the run %s the agent %s failed while it was ended.", self.info.run_id, self.info.agent
        ) as fence:
            self._end_with(event, self.inputs.messages.ids)
        if fence.error is not None:
            self._end_with(self._ends.failed(fence.error), self.inputs.messages.ids)
        self._close()

    def _close(self) -> None:
        """Be over: nothing waits for the run any more, and it waits for nobody."""
        self.over = True
        self.writer.unblock()
        self.inputs.close()
        self._deadline.stop()
        self.followers.stop()

    def _tell(self, what: str, **fields: Any) -> None:
        info = self.info
        tell(logger, what, run_id=info.run_id, user_id=info.user_id, agent=info.agent, **fields)

    def tell_end(self) -> None:
        """Write the line that the run has ended to the log of the process."""
        told = {"status": self.fold.status, "error_type": self.fold.error_type, "duration": self.duration}
        self._tell("The run ended.", **told, events=self.writer.last, usage=self.fold.usage)

    def _attached(self) -> None:
        """The agent asks again what it has asked in another process."""
        self._asks_again = True
        self._wait_again()

    def _wait_again(self) -> None:
        """Have the log know once the run waits for its user again: no claim before counts as one that was in vain."""
        if self._asks_again and self.fold.waiting and self._keeper is not None:
            self._keeper.again()

    def _orphaned(self) -> None:
        self._on_orphaned(self)

    def _ended(self) -> None:
        """The terminal event is in the log, or the log is somebody else's."""
        self._context.run(self._end)

    def _end(self) -> None:
        if not self.over:
            self.request.cancelled_by = "interrupted"
            self._close()
            if self.task is not None:
                self.task.cancel()
        if self._cancelled_at is not None:
            self._metrics.cancelled.add(time.monotonic() - self._cancelled_at)
        self.elsewhere = self.elsewhere or (self.writer.refused and self.can_resume)
        self._let_go()

    def _let_go(self) -> None:
        """Hold nothing any more that holds the run."""
        self._held.remove(self._release_held)
        self._thought.text = ""
        self.request.emit, self.request.talk, self.request.checkpoints = nobody, silent, unkept
        self._keeper = None
        on_end, self._on_end = self._on_end, _nobody
        on_end(self)


def _nobody(_: Run) -> None:
    """The run is over, and whoever is to know it does."""
