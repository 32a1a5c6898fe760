"""One run: drives an agent, and sees to it that exactly one terminal event ends it, whatever the agent does."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Generator
from typing import Any, Literal

import msgspec

from twinwire.agents import Agent, RunRequest, begin, nobody
from twinwire.errors import RunError, RunTimeout
from twinwire.events import TERMINAL_TYPES, StreamEvent, StreamEventType, timestamp
from twinwire.fold import Fold
from twinwire.log import EventLog, RunInfo
from twinwire.logs import tell
from twinwire.metrics import Figures
from twinwire.runs.budget import Check
from twinwire.runs.writer import Room, Writer

logger = logging.getLogger("twinwire.runs")


class Run:
    """A run that goes on in this process.

    `linger` is how long it may go on with nobody following it, in seconds, or None. `on_abandoned(run)` is called
    when it has had no follower here for that long, `on_end(run)` once, when the terminal event is in the log.
    """

    def __init__(
        self,
        log: EventLog,
        info: RunInfo,
        agent: Agent,
        request: RunRequest,
        *,
        deadline: float,
        budget: Check | None,
        linger: float | None,
        figures: Figures,
        on_abandoned: Callable[[Run], None],
        on_end: Callable[[Run], None],
    ) -> None:
        self.info = info
        self.request = request
        request.emit = self.emit
        self.fold = Fold()
        self.over = False  # the terminal event is written: nothing else will be
        self.task: asyncio.Task[None] | None = None
        self._agent = agent
        self._deadline = deadline
        self._check = None if budget is None else functools.partial(budget.check, request)
        self._linger = linger
        self._on_abandoned = on_abandoned
        self._on_end = on_end
        self._figures = figures
        self._writer = Writer(log, info.run_id, self._ended, figures)
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._cancelled_at: float | None = None
        self._at_work = False  # the agent's task runs, and appends when it suspends
        self._pulled = False  # the agent yields, and is closed where it is to stop
        self._followers = 0
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def start(self) -> asyncio.Task[None]:
        """Begin: the task that drives the agent.

        A run with a grace for followers has it from the start, so that it does not wait for one for ever.
        """
        self._tell("run started")
        self.task = self._loop.create_task(self._work(), name=f"run {self.info.run_id}")
        self._deadline_timer = self._loop.call_later(self._deadline, self.fail, RunTimeout(self._deadline))
        if self._linger:
            self.linger(self._linger)
        return self.task

    def linger(self, seconds: float) -> None:
        """Call the run abandoned after this time, unless somebody follows it here before."""
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        if self._followers == 0 and not self.over:
            self._linger_timer = self._loop.call_later(seconds, self._on_abandoned, self)

    def follow(self) -> None:
        """Somebody follows."""
        self._followers += 1
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def unfollow(self) -> None:
        """Somebody has left."""
        self._followers -= 1
        self.unfollowed()

    def unfollowed(self) -> None:
        """Somebody has left, here or elsewhere."""
        if self._linger is not None:
            self.linger(self._linger)

    @property
    def size(self) -> int:
        """How many bytes of events the run has written; its state is no larger."""
        return self._writer.size

    async def snapshot(self) -> tuple[int, dict[str, Any]]:
        """The number of the last event in the log, and the state up to it (`Fold.state`).

        Raises `LogUnavailable` where the log is no longer ours to write, and so has something else.
        """
        await self._writer.flushed()
        return self._writer.last, self.fold.state

    def cancel(self) -> bool:
        """End the run as cancelled, with the answer so far; False where it is over already."""
        if not self.over:
            self._cancelled_at = time.monotonic()
        return self._stop(self._finish("cancelled"))

    def fail(self, error: RunError) -> bool:
        """End the run with an ERROR; False where it is over already."""
        return self._stop(_error_event(error))

    def _stop(self, terminal: StreamEvent) -> bool:
        """End the run from outside: without waiting for an agent that may not stop."""
        if self.over:
            return False
        self._terminate(terminal)
        self._writer.flush()
        if self.task is not None:
            self.task.cancel()
        return True

    async def _work(self) -> None:
        """Be a native coroutine: from Python 3.12 on, `create_task` refuses any other."""
        await self._stepped()

    @types.coroutine
    def _stepped(self) -> Generator[Any, None, None]:
        """Drive the agent, and append what it has told each time it suspends and when it is done.

        So what an agent tells in one go is one append, made at once and not in a later turn of the loop.
        """
        work = self._drive()
        proceed: Callable[[Any], Any] = work.send
        value: BaseException | None = None
        while True:
            self._at_work = True
            try:
                awaited = proceed(value)
            except StopIteration:
                return
            finally:
                self._at_work = False
                self._writer.flush()
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - the coroutine's to handle
                proceed, value = work.throw, error
            else:
                proceed, value = work.send, None

    async def _drive(self) -> None:
        try:
            work = begin(self._agent, self.request)
            if isinstance(work, AsyncIterable):
                await self._pull(work)
            elif await work is not None:
                raise TypeError("an agent returns nothing: it yields or emits")
            self._terminate(self._finish("completed"))
        except RunError as error:
            self._terminate(_error_event(error))
        except asyncio.CancelledError:
            # Ours comes after the terminal event; any other is the agent's own doing.
            self._terminate(_error_event(RunError("the agent was cancelled")))
        except (Exception, SystemExit):
            if not self.over:
                logger.exception("run %s: agent %s failed", self.info.run_id, self.info.agent)
            self._terminate(_error_event(RunError()))

    async def _pull(self, events: AsyncIterable[StreamEvent]) -> None:
        self._pulled = True
        try:
            async for event in events:
                if (room := self.emit(event)) is not None:
                    await room
                if self.over:
                    break
        finally:
            if (aclose := getattr(events, "aclose", None)) is not None:
                await aclose()

    def emit(self, *events: StreamEvent) -> Awaitable[None] | None:
        """See `agents.Emit`. An agent is stopped when it has told its terminal event, or more than it may."""
        writer = self._writer
        for event in events:
            if self.over:
                break
            if not isinstance(event, StreamEvent):
                raise TypeError(f"an agent tells StreamEvents, not {type(event).__name__}")
            if event.type in TERMINAL_TYPES:
                self._terminate(event)
                continue
            if writer.last == 0:
                self._begin(event)
            try:
                writer.put(event, self._check)
            except RunError as error:
                self._terminate(_error_event(error))  # now: the agent may take its time to end
            else:
                self.fold.apply(event)
        if not self._at_work:
            writer.flush()
        if self.over and not self._pulled and self.task is not None:
            self.task.cancel()
        return Room(writer) if writer.full else None

    def _begin(self, event: StreamEvent) -> None:
        """Put an AGENT_START where the agent's first event is none."""
        if event.type != StreamEventType.AGENT_START:
            start = {"input": self.request.message, "config": {"agent": self.info.agent}, "max_steps": None}
            self._writer.put(StreamEvent(StreamEventType.AGENT_START, start))

    def _put(self, terminal: StreamEvent) -> None:
        if self._writer.last == 0:
            self._begin(terminal)
        self._writer.put(terminal)
        self.fold.apply(terminal)

    def _terminate(self, event: StreamEvent) -> None:
        """Write the terminal event, completed where the agent left something out. Only the first call does anything."""
        if self.over:
            return
        filled = self._filled(event)
        try:
            self._put(filled)
        except (TypeError, ValueError, RecursionError):
            logger.exception("run %s: the terminal event of agent %s is no JSON", self.info.run_id, self.info.agent)
            self._put(self._filled(_error_event(RunError())))
        self.over = True
        for timer in (self._deadline_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()

    def _filled(self, event: StreamEvent) -> StreamEvent:
        data: dict[str, Any]
        if event.type == StreamEventType.ERROR:
            text = event.data.get("message") or event.data.get("error") or "the agent failed"
            data = {"error_type": "agent_error", **event.data, "message": text, "error": text}
        else:
            data = {**self._finish("completed").data, **event.data}
            if data["status"] not in {"completed", "cancelled", "max_steps"}:
                data["status"] = "completed"
        step = {} if self.fold.step is None else {"step": self.fold.step}
        # An AGENT_START comes first, if only now.
        events = max(self._writer.last, 1) + 1
        return StreamEvent(event.type, data, event.timestamp, {**step, **event.metadata, "events": events})

    def _finish(self, status: Literal["completed", "cancelled"]) -> StreamEvent:
        data = {
            "result": self.fold.text,
            "duration": self._duration(),
            "status": status,
            "usage": msgspec.to_builtins(self.request.usage),
        }
        return StreamEvent(StreamEventType.AGENT_FINISH, data, timestamp())

    def _duration(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def _tell(self, what: str, **fields: Any) -> None:
        info = self.info
        tell(logger, what, run_id=info.run_id, user_id=info.user_id, agent=info.agent, **fields)

    def _ended(self) -> None:
        """The terminal event is in the log, or the log is somebody else's."""
        if not self.over:
            self.over = True
            if self.task is not None:
                self.task.cancel()
        self.request.emit = nobody  # it and the run hold each other
        if self._cancelled_at is not None:
            self._figures.cancelled.add(time.monotonic() - self._cancelled_at)
        self._tell(
            "run ended",
            status=self.fold.status,
            error_type=self.fold.error_type,
            duration=self._duration(),
            events=self._writer.last,
            usage=self.fold.usage,
        )
        self._on_end(self)


def _error_event(error: RunError) -> StreamEvent:
    data: dict[str, Any] = {"error_type": error.code, "message": error.message, "error": error.message}
    if error.retry_after is not None:
        data["retry_after"] = error.retry_after
    return StreamEvent(StreamEventType.ERROR, data)
