"""A `PushStream`, iterated over: its order, its end, its errors and who waits for whom."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from twinwire.models.adapters import PushStream, Take


async def test_all_in_order() -> None:
    """What is pushed in the task, from a callback and at its very end comes out in order."""

    async def push(take: Take[int]) -> None:
        take(1)
        take(2)
        asyncio.get_running_loop().call_soon(take, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        take(4)

    assert [item async for item in PushStream(push)] == [1, 2, 3, 4]


async def test_waits_until_it_is_taken() -> None:
    """Who pushes and awaits what it is told to is never more than one ahead."""
    pushed = 0

    async def push(take: Take[int]) -> None:
        nonlocal pushed
        for pushed in range(1, 4):
            room = take(pushed)
            assert room is not None
            await room

    seen = []
    async for item in PushStream(push):
        await asyncio.sleep(0)
        seen.append((item, pushed))
    assert seen == [(1, 1), (2, 2), (3, 3)]


async def test_its_error_comes_after_what_it_pushed() -> None:
    """An error is raised where all that was pushed before it is taken."""

    async def push(take: Take[int]) -> None:
        take(1)
        raise KeyError("mine")

    items = PushStream(push)
    assert await anext(items) == 1
    with pytest.raises(KeyError, match="mine"):
        await anext(items)


@pytest.mark.parametrize("error", [None, KeyError("of no interest")])
async def test_closing_ends_it(error: Exception | None) -> None:
    """Who pushes is cancelled, and has cleaned up, when the iterator is closed; what that raises is dropped."""
    clean = False

    async def push(take: Take[int]) -> None:
        nonlocal clean
        take(1)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            clean = True
            if error is not None:
                raise error

    async with aclosing(PushStream(push)) as items:
        assert await anext(items) == 1
        assert not clean
    assert clean


async def test_cancelling_who_iterates_ends_it() -> None:
    """A task that is cancelled while it waits for the next item is cancelled, and so is who pushes."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def push(_: Take[int]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def iterate() -> None:
        async for _ in PushStream(push):
            pass

    task = asyncio.create_task(iterate())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
