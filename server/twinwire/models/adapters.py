"""What is pushed, as something to iterate over. It knows nothing of models or agents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeAlias, TypeVar

from twinwire.fence import stops

T = TypeVar("T")

Take: TypeAlias = Callable[[T], Awaitable[None] | None]
"""Takes what is pushed; what it returns, if anything, is awaited before more is pushed."""


async def pulled(push: Callable[[Take[T]], Awaitable[None]]) -> AsyncGenerator[T, None]:
    """Yield what `push` gives; it is told to wait while something is not yet taken. Raises what it raises.

    It runs in a task of its own, which is over when the generator is closed.
    """
    loop = asyncio.get_running_loop()
    items: list[T] = []
    news = asyncio.Event()
    room: asyncio.Future[None] = loop.create_future()

    def take(item: T) -> Awaitable[None]:
        nonlocal room
        items.append(item)
        news.set()
        if room.done():
            room = loop.create_future()
        return room

    failure: list[BaseException] = []

    async def work() -> None:
        try:
            await push(take)
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
