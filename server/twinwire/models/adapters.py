"""`PushStream`: the items of an agent or a model, pushed as they arise. It knows nothing of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from twinwire.fence import stops

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Take(Protocol[T_contra]):
    """Takes items, in this order and at once.

    Return None, or an awaitable. If it is an awaitable, await it before pushing more: the taker applies backpressure.
    """

    def __call__(self, *items: T_contra) -> Awaitable[None] | None:
        """See the class."""
        ...


Produce: TypeAlias = Callable[[Take[T]], Awaitable[None]]
"""Calls what it is given with each item, in its task or in a callback, and is done when all are pushed."""


class PushStream(AsyncGenerator[T, None]):
    """The items that `produce` pushes. Call `for_each` once, or iterate once; nothing happens before that.

    An ordinary async generator is the public form of what an agent or a model gives. This is one as well, so that
    whoever calls ours can iterate. `for_each` wakes no task and passes through no generator, at a fraction of the cost.
    """

    def __init__(self, produce: Produce[T]) -> None:
        self._produce = produce
        self._pulled = _pull(produce)

    def for_each(self, take: Take[T]) -> Awaitable[None]:
        """Give each item to `take`. Cancelling it ends the producer at once. Raises what the producer raises."""
        return self._produce(take)

    async def asend(self, value: None) -> T:
        """Return the next item, as async generators do. The producer then runs in a task of its own until the end."""
        return await self._pulled.asend(value)

    async def athrow(self, *error: Any) -> T:
        """Raise an error in the place of the next item, which ends the producer."""
        return await self._pulled.athrow(*error)

    async def aclose(self) -> None:
        """End the producer, and return when it has ended."""
        await self._pulled.aclose()


async def _pull(produce: Produce[T]) -> AsyncGenerator[T, None]:
    """Yield each item; the producer waits until an item is taken. Raise what the producer raises.

    The producer runs in a task of its own, which is over when the generator is closed.
    """
    loop = asyncio.get_running_loop()
    items: list[T] = []
    news = asyncio.Event()
    room: asyncio.Future[None] = loop.create_future()

    def take(*more: T) -> Awaitable[None]:
        nonlocal room
        items.extend(more)
        news.set()
        if room.done():
            room = loop.create_future()
        return room

    failure: list[BaseException] = []

    async def work() -> None:
        try:
            await produce(take)
        except BaseException as error:
            if stops(error):
                raise
            failure.append(error)  # not the task's: it might end the event loop

    task = loop.create_task(work())
    task.add_done_callback(lambda _: news.set())
    try:
        while items or not task.done():
            await news.wait()
            news.clear()
            while items:
                yield items.pop(0)
            if not room.done():
                room.set_result(None)
    finally:
        task.cancel()
        await asyncio.wait([task])
    if failure:
        raise failure[0]
    task.result()
