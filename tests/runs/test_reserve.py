"""The reserve: what large replies share is bounded, goes round in turn, and always comes back."""

from __future__ import annotations

import asyncio

import pytest

from support.serving import until
from twinwire.protocol.errors import Busy
from twinwire.runs.reserve import SMALL_BYTES, Reserve

SIZE = 2 * SMALL_BYTES


async def test_who_comes_first_is_served_first() -> None:
    """Claims beyond the total wait in order, also those that would fit; what one gives back the next one gets."""
    reserve = Reserve(2 * SIZE, 10)
    first, second = await reserve.take(SIZE), await reserve.take(SIZE)
    large = asyncio.create_task(reserve.take(2 * SIZE))
    small = asyncio.create_task(reserve.take(SIZE))
    await asyncio.sleep(0)
    first()
    await asyncio.sleep(0)
    assert not large.done()
    assert not small.done()
    second()
    (await large)()
    (await small)()
    assert reserve.taken == 0


async def test_small_replies_never_wait() -> None:
    """A small reply needs nothing of a reserve that is all taken."""
    reserve = Reserve(SIZE, 10)
    claim = await reserve.take(SIZE)
    (await reserve.take(SMALL_BYTES))()
    assert reserve.taken == SIZE
    claim()


async def test_one_larger_than_all_goes_alone() -> None:
    """A claim over the total is granted, but with no other."""
    reserve = Reserve(SIZE, 10)
    claim = await reserve.take(5 * SIZE)
    other = asyncio.create_task(reserve.take(SIZE))
    await asyncio.sleep(0)
    assert not other.done()
    claim()
    claim()  # a second time it has nothing to give
    (await other)()
    assert reserve.taken == 0


async def test_patience_ends() -> None:
    """Who waits too long is refused, and who waits behind them is served when it can be."""
    reserve = Reserve(2 * SIZE, 0.05)
    claim = await reserve.take(SIZE)
    with pytest.raises(Busy):
        await reserve.take(2 * SIZE)
    other = await reserve.take(SIZE)
    claim()
    other()
    assert reserve.taken == 0


async def test_what_is_dropped_comes_back() -> None:
    """A claim that nobody gives back does so when it is forgotten, and one that is cancelled in line takes nothing."""
    reserve = Reserve(SIZE, 10)
    claim = await reserve.take(SIZE)
    waiting = asyncio.create_task(reserve.take(SIZE))
    behind = asyncio.create_task(reserve.take(SIZE))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    del claim
    await behind
    assert reserve.taken == SIZE
    del behind
    await until(lambda: reserve.taken == 0)


async def test_cancelled_as_it_is_granted() -> None:
    """A claim that is granted to a task which is being cancelled comes back."""
    reserve = Reserve(SIZE, 10)
    claim = await reserve.take(SIZE)
    waiting = asyncio.create_task(reserve.take(SIZE))
    await asyncio.sleep(0)
    claim()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    await until(lambda: reserve.taken == 0)
