"""Calls that are all due the same time after they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context


class Due:
    """Calls functions `seconds` after they were added. One timer, of the one that has waited longest, serves all.

    A timer of the event loop for each takes half a kilobyte.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Callable[[], None], float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def add(self, call: Callable[[], None]) -> None:
        """Call this `seconds` after the first of these calls, unless it is taken out before."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # another one is closed, with all that was due on it
            self._loop, self._timer = loop, None
            self._due.clear()
        self._due.setdefault(call, loop.time() + self._seconds)
        if self._timer is None:
            # Without the ids of a run: the timer is everybody's.
            self._timer = loop.call_later(self._seconds, self._expire, loop, context=Context())

    def remove(self, call: Callable[[], None]) -> None:
        """Call it no more."""
        self._due.pop(call, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._due and self._due[first := next(iter(self._due))] <= now:
            del self._due[first]
            loop.call_soon(first)  # not here: if one fails, the others are not touched
        self._timer = loop.call_at(next(iter(self._due.values())), self._expire, loop) if self._due else None
