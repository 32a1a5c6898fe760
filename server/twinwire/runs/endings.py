"""The ends of this process's runs, as its operator is told of them: by a function, and by webhooks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from twinwire.fence import Fence, enter

if TYPE_CHECKING:
    from twinwire.runs.run import Run

logger = logging.getLogger("twinwire.runs")

CALLS_AT_ONCE = 16
CALL_SECONDS = 30.0
WAITING = 1000
WAITING_BYTES = 2**26
"""The most runs whose calls wait, and the most bytes of their events."""
DRAIN_SECONDS = 2.0


class EndedRun(Struct, frozen=True, kw_only=True):
    """A run that has ended, as `on_end` and webhooks get it.

    `status`, `error_type`, `reason`, `usage` and `result` are those of its terminal event (PROTOCOL.md, section 1);
    `status` is `error` for an ERROR. `duration` is in seconds, `metadata` are the labels that its start gave it.
    """

    run_id: str
    agent: str
    user_id: str | None
    session_id: str | None
    status: str
    error_type: str | None
    reason: str | None
    usage: dict[str, int] | None
    duration: float
    result: Any
    metadata: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> EndedRun:
        """Return what is told of this run, whose terminal event is in the log, or whose log is somebody else's."""
        info, fold = run.info, run.fold
        lost = fold.status == "running"
        return cls(
            run_id=info.run_id,
            agent=info.agent,
            user_id=info.user_id,
            session_id=info.session_id,
            status="error" if lost else fold.status,
            error_type="interrupted" if lost else fold.error_type,
            reason=fold.reason,
            usage=fold.usage,
            duration=run.duration,
            result=fold.result,
            metadata=info.metadata,
        )


OnEnd = Callable[[EndedRun], object]
"""A function, async or not, that is called once for each run of this process that has ended."""


class Webhooks(Protocol):
    """See `runs.webhooks`."""

    def send(self, run: EndedRun) -> None:
        """Deliver this, soon. Never raise."""
        ...

    async def drain(self, seconds: float) -> None:
        """Deliver what waits, within this time."""
        ...


class Endings:
    """Calls `on_end` for each run that has ended, at most `CALLS_AT_ONCE` at a time, and sends its webhooks.

    A call that takes longer than `CALL_SECONDS` is cancelled. One that goes on nevertheless keeps its place.
    """

    def __init__(self, on_end: OnEnd | None = None, webhooks: Webhooks | None = None) -> None:
        self._on_end = on_end
        self._webhooks = webhooks
        self._waiting: deque[tuple[EndedRun, int]] = deque()
        self._size = 0
        self._closed = False
        self._calls: set[asyncio.Task[None]] = set()

    def add(self, run: Run) -> None:
        """Tell of a run that has ended, soon. Never raise."""
        if self._on_end is None and self._webhooks is None:
            return
        ended = EndedRun.of(run)
        if self._webhooks is not None:
            self._webhooks.send(ended)
        if self._on_end is None:
            return
        if self._closed or len(self._waiting) >= WAITING or (self._waiting and self._size + run.size > WAITING_BYTES):
            logger.error(
                "`on_end` is not called for the run %s: too many calls wait, or the server has ended.", ended.run_id
            )
            return
        self._waiting.append((ended, run.size))
        self._size += run.size
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._calls) < CALLS_AT_ONCE:
            run, size = self._waiting.popleft()
            self._size -= size
            task = asyncio.get_running_loop().create_task(self._call(run), name=f"on_end {run.run_id}")
            self._calls.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._next()

    async def _call(self, run: EndedRun) -> None:
        enter(run.run_id)
        with Fence(logger, "`on_end` failed for the run %s.", run.run_id):
            try:
                async with asyncio.timeout(CALL_SECONDS) as limit:
                    if self._on_end is not None and inspect.isawaitable(answer := self._on_end(run)):
                        await answer
            except TimeoutError:
                if not limit.expired():
                    raise
                logger.error("`on_end` was cancelled for the run %s: it took over %g s.", run.run_id, CALL_SECONDS)  # noqa: TRY400

    async def drain(self) -> None:
        """Wait until everybody was told, for `DRAIN_SECONDS`. What is left is lost, and a log line says so."""
        delivering = None if self._webhooks is None else asyncio.ensure_future(self._webhooks.drain(DRAIN_SECONDS))
        due = asyncio.get_running_loop().time() + DRAIN_SECONDS
        while self._calls and (left := due - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._calls, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # for the next calls to begin
        self._closed = True
        if lost := len(self._calls) + len(self._waiting):
            logger.error("The server ends, and `on_end` was not done for %d runs.", lost)
            self._waiting.clear()
            for task in self._calls:
                task.cancel()
        if delivering is not None:
            await delivering
