"""Work that is done in turn, beside whoever gives it out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Turns:
    """Does one piece of work after the other, in a task that is there only while there is something to do.

    At most `most` pieces wait: whoever has one more waits until there is room. `failed` is called with
    what a piece raises.
    """

    def __init__(self, most: int, failed: Callable[[Exception], None]) -> None:
        self._most = most
        self._failed = failed
        self._work: list[Coroutine[Any, Any, None]] = []
        self._task: asyncio.Task[None] | None = None
        self._taken: asyncio.Event | None = None  # made by the first who waits: each socket has its turns

    async def take(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this when it is its turn. What need not wait is done when this returns."""
        self._work.append(work)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._do())
            await asyncio.sleep(0)
        while len(self._work) > self._most:
            self._taken = self._taken or asyncio.Event()
            self._taken.clear()
            await self._taken.wait()

    async def _do(self) -> None:
        while self._work:
            work = self._work.pop(0)
            self._tell()
            try:
                await work
            except Exception as error:  # noqa: BLE001 - it is `failed`'s to tell
                self._failed(error)

    def close(self) -> None:
        """Do nothing more. What has begun is broken off."""
        if self._task is not None:
            self._task.cancel()
        while self._work:
            self._work.pop(0).close()
        self._tell()

    def _tell(self) -> None:
        """Let those go on who wait for room."""
        if self._taken is not None:
            self._taken.set()
