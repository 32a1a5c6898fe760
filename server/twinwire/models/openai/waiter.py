"""What a task awaits that is to go on at once when bytes have come. It knows nothing of connections."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator


class Waiter:
    """What one task awaits, once. It goes on at the moment of `wake`, and not in a later turn of the event loop.

    For a token that is half of what the loop would do for it. A task takes for a future whatever has what
    `asyncio.isfuture` looks for, and the methods below. Where `wake` is called in a task, that turn is waited for.
    """

    __slots__ = ("_asyncio_future_blocking", "_callback", "_cancelled", "_context", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = True
        self._loop = loop
        self._callback: Callable[[Waiter], object] | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Waiter, None, None]:
        yield self

    def wake(self) -> None:
        """Let the task go on, if it still waits."""
        callback, self._callback = self._callback, None
        if callback is not None:
            try:
                self._context.run(callback, self)
            except RuntimeError:  # a task runs already: this one was not entered
                self._loop.call_soon(callback, self, context=self._context)

    # What follows is called by the task.

    def get_loop(self) -> asyncio.AbstractEventLoop:  # noqa: D102
        return self._loop

    def add_done_callback(self, callback: Callable[[Waiter], object], *, context: contextvars.Context) -> None:  # noqa: D102
        self._callback, self._context = callback, context

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002, D102
        callback, self._callback = self._callback, None
        if callback is None:
            return False
        self._cancelled = True
        self._loop.call_soon(callback, self, context=self._context)
        return True

    def result(self) -> None:  # noqa: D102
        if self._cancelled:
            raise asyncio.CancelledError
