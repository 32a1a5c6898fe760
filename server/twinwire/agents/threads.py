"""`from_thread`: a blocking function as an agent. It runs in a thread, and what it yields is told as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from twinwire.agents import RunRequest

AHEAD = 32
"""The values that a thread may be ahead of what the run has taken. Then it waits: that is its backpressure."""


class Threads:
    """Daemon threads for blocking work, at most `most` at once in each event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def start(self, work: Callable[[], object], name: str) -> None:
        """Start a thread of this name, once there is room, for work that does not raise.

        It has a copy of the context variables, and keeps its place until it ends, which nobody waits for.
        """
        loop = asyncio.get_running_loop()
        place = self._places.setdefault(loop, asyncio.Semaphore(self._most))
        await place.acquire()

        def run() -> None:
            try:
                work()
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(place.release)

        try:
            threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True).start()
        except BaseException:
            place.release()
            raise


class _Left(BaseException):
    """Raised in the thread, at its next value, when nobody takes any more."""


class _Feed:
    """The values on their way from one thread to its run."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.news = asyncio.Event()
        self.left = False
        self._loop = asyncio.get_running_loop()
        self._slots = threading.Semaphore(AHEAD)

    def put(self, item: Any) -> None:
        """In the thread: hand a value over. Wait while the run is far behind; raise `_Left` once it is over."""
        self._slots.acquire()
        if self.left:
            raise _Left
        self.items.append(item)
        self.call(self.news.set)

    def call(self, what: Callable[[], object]) -> None:
        """In the thread: have the event loop call this. Raise `_Left` if it is closed."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            raise _Left from None

    def take(self) -> Any:
        """In the event loop: take the oldest value, which makes room for another."""
        self._slots.release()
        return self.items.popleft()

    def leave(self) -> None:
        """In the event loop: take no more."""
        self.left = True
        self._slots.release(AHEAD)


def from_thread(function: Callable[[RunRequest], Any], *, threads: int = 32) -> Callable[[RunRequest], Awaitable[Any]]:
    """Return an agent that calls a blocking function, mostly a generator function, in a thread of its own.

    What the function yields is told as it comes, and what it returns is the result, as an agent's. At most `threads`
    calls of it run at once; further runs wait for one to end. The function is called in a copy of the run's context
    variables.

    It cannot call `request.emit`, `ask` or `approve`. When its run is over, its next `yield` raises, so that its
    `finally` blocks run. Nothing can interrupt it before: code that waits keeps its thread until it has waited.
    Raises `TypeError` for a function that is async, and `ValueError` if `threads` is below 1.
    """
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("The function must be a plain `def`: an async one is an agent as it is.")
    if threads < 1:
        raise ValueError("`threads` must be at least 1.")
    places = Threads(threads)

    async def agent(request: RunRequest) -> Any:
        feed = _Feed()
        await places.start(functools.partial(_work, function, request, feed), f"agent {request.run_id}")
        try:
            while True:
                await feed.news.wait()
                feed.news.clear()
                while feed.items:
                    item = feed.take()
                    if isinstance(item, _End):
                        return item.result()
                    if (room := request.emit(item)) is not None:
                        await room
        finally:
            feed.leave()

    functools.update_wrapper(agent, function)
    del agent.__dict__["__wrapped__"]  # whoever looks at the agent sees that it is async
    agent.__dict__.setdefault("takes_messages", False)
    return agent


class _End:
    """The end of the thread: what the function returned, or the error that it raised."""

    def __init__(self, value: Any, error: BaseException | None = None) -> None:
        self._value = value
        self._error = error

    def result(self) -> Any:
        """Return or raise it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._value


def _work(function: Callable[[RunRequest], Any], request: RunRequest, feed: _Feed) -> None:
    """Be the thread: call the function, hand over what it yields, then how it ended."""
    try:
        end = _End(_values(function(request), feed))
    except _Left:
        return
    except BaseException as error:  # noqa: BLE001 - it is the agent's, and raised in its run
        end = _End(None, error)
    with contextlib.suppress(_Left):
        feed.put(end)


def _values(told: Any, feed: _Feed) -> Any:
    """Hand over each value of an iterator, and return what it returned; return anything else as it is."""
    if not isinstance(told, Iterator):
        return told
    try:
        while True:
            try:
                value = next(told)
            except StopIteration as stop:
                return stop.value
            feed.put(value)
    finally:
        if (close := getattr(told, "close", None)) is not None:
            close()
