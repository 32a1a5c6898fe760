"""The fence around other people's code: whatever an agent, a tool, a model, a format or a callback raises ends here.

A `SystemExit` or `KeyboardInterrupt` that leaves a task or a callback ends the event loop, and with it everybody's
runs. A `CancelledError` that nobody asked for passes through every `except Exception`. So each place that calls code
of others does it within a `Fence`, or handles `BaseException` by `stops` and `report`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Generator
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger("twinwire.fence")


class RunOver(asyncio.CancelledError):
    """Raised by `emit` in the task of an agent whose run is over: it stops the agent as a cancellation would."""


class Fault(Exception):
    """A task that an agent started raised `SystemExit` or `KeyboardInterrupt`, which is this error's cause."""


def stops(error: BaseException) -> bool:
    """Return whether the error is how this task was told to stop. Any other error is the fault of the code."""
    return isinstance(error, RunOver) or (isinstance(error, asyncio.CancelledError) and _cancelled())


def _cancelled() -> bool:
    """Return whether the current task, if there is one, is cancelled."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # no event loop runs
    return task is not None and task.cancelling() > 0


def report(log: logging.Logger, error: BaseException, message: str, *arguments: object) -> None:
    """Log one line with the error's traceback. Never raise: an exception of others may fail when it is formatted."""
    try:
        log.error(message, *arguments, exc_info=error)
    except BaseException:  # noqa: BLE001 - formatting a traceback runs the exception's own code
        log.error(message + " Its traceback cannot be shown.", *arguments)  # noqa: G003, TRY400


def let_go(error: BaseException) -> None:
    """Take the frames from an error that has been handled.

    A frame of the agent's often holds the error that came through it. Such a cycle keeps all that the frames hold, a
    run with its text among it, until the garbage collector comes to it.
    """
    BaseException.with_traceback(error, None)


class Fence:
    """`with Fence(log, message, *arguments) as fence:` other people's code runs in the block.

    What it raises is `fence.error` afterwards, and is logged once, with this message and the traceback, unless the
    current task is cancelled already: then nobody waits for its result. Only such a cancellation passes.
    """

    __slots__ = ("_arguments", "_log", "_message", "error")

    def __init__(self, log: logging.Logger, message: str, *arguments: object) -> None:
        self._log = log
        self._message = message
        self._arguments = arguments
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> bool:
        if error is None or stops(error):
            return False
        self.error = error
        if not _cancelled():
            report(self._log, error, self._message, *self._arguments)
        return True


_inside: ContextVar[str | None] = ContextVar("twinwire_fence", default=None)
"""The run whose agent has started the code that runs, if one has. Tasks and callbacks inherit it."""


def enter(run_id: str) -> None:
    """Mark the current task, and all that it starts, as those of a run's agent."""
    _inside.set(run_id)


def inside() -> bool:
    """Return whether the code that runs was started by an agent. A signal handler sees the code it interrupts."""
    return _inside.get() is not None


def within(frame: FrameType | None) -> str | None:
    """Return the run whose agent has started the task that this frame, or one that it was called from, carries on."""
    while frame is not None:
        if frame.f_code is _Fenced.send.__code__:
            fenced: _Fenced = frame.f_locals["self"]
            return fenced.run_id
        frame = frame.f_back
    return None


class _Fenced(Coroutine[Any, Any, Any]):
    """A coroutine of an agent's task: what would end the event loop becomes a `Fault`."""

    __slots__ = ("_work", "run_id")

    def __init__(self, work: Coroutine[Any, Any, Any], run_id: str) -> None:
        self._work = work
        self.run_id = run_id

    def send(self, value: Any) -> Any:
        try:
            return self._work.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise self._fault(error) from error

    def throw(self, *error: Any) -> Any:
        try:
            return self._work.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise self._fault(raised) from raised

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)  # its name and its frame, for whoever debugs

    def _fault(self, error: BaseException) -> Fault:
        name = getattr(self._work, "__qualname__", "a task")
        return Fault(f"{name}, a task that an agent started, raised {type(error).__name__}")


class _TaskFactory:
    """Makes the event loop's tasks; those that agents start are `_Fenced`."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        if (run_id := _inside.get()) is not None and asyncio.iscoroutine(work):
            work = _Fenced(work, run_id)
        return asyncio.Task(work, loop=loop, **options) if self._make is None else self._make(loop, work, **options)


def guard_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Fence the tasks that agents start on this loop. Idempotent; another task factory stays in use below it."""
    factory = loop.get_task_factory()
    if not isinstance(factory, _TaskFactory):
        loop.set_task_factory(_TaskFactory(factory))
