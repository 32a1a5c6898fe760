"""The bound on a private Redis: the oldest runs that have ended go first, then conversations, and never a live run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from support.logs import LIMITS, append, records
from support.redis_server import own_server
from support.redis_workers import begun, worker
from twinwire.log import RunInfo
from twinwire.log.redis.log import RedisLog
from twinwire.protocol.errors import RunNotFound

EVENT = 10_000
EVENTS = 20
MANY = 100  # runs, of 20 MB in all
SMALL = msgspec.structs.replace(LIMITS, max_bytes=8 * 2**20, sessions_bytes=2 * 2**20, session_bytes=2**20)


@asynccontextmanager
async def log_of(folder: Path, kind: str = "private") -> AsyncIterator[RedisLog]:
    """A log in a server of the test's own, which a worker has to itself if it is private; its bound is not looked at.

    The test does that.
    """
    socket = folder / "log.sock"
    with own_server(folder, unixsocket=str(socket)):
        async with worker(f"{kind}://{socket}", limits=SMALL) as log:
            for task in bounds(log):
                task.cancel()
            yield log


def bounds(log: RedisLog) -> list[asyncio.Task[None]]:
    """The tasks of a worker that hold its bound."""
    return [task for task in log._tasks if "Bound.run" in repr(task)]


async def run(log: RedisLog, *, end: bool) -> RunInfo:
    """A run of many bytes."""
    info = await begun(log)
    await append(log, info.run_id, 0, records(info.run_id, 0, EVENTS, end=end, size=EVENT))
    return info


async def there(log: RedisLog, info: RunInfo) -> bool:
    """Whether the log has this run."""
    try:
        await log.state(info.run_id)
    except RunNotFound:
        return False
    return True


async def test_the_oldest_go(tmp_path: Path) -> None:
    """Above the bound the runs that are oldest go, with their events; the newest and those that go on stay."""
    async with log_of(tmp_path) as log:
        live = [await run(log, end=False) for _ in range(3)]
        ended = [await run(log, end=True) for _ in range(MANY)]
        await log._bound().look()
        left = [await there(log, info) for info in sorted(ended, key=lambda info: (info.created, info.run_id))]
        assert left == sorted(left)
        assert 0 < sum(left) < MANY
        assert EVENTS * EVENT * sum(left) < SMALL.max_bytes + SMALL.sessions_bytes
        assert [await there(log, info) for info in live] == [True] * 3


async def test_below_it_all_stays(tmp_path: Path) -> None:
    """Below the bound nothing goes."""
    async with log_of(tmp_path) as log:
        ended = [await run(log, end=True) for _ in range(10)]
        await log._bound().look()
        assert [await there(log, info) for info in ended] == [True] * 10


async def test_conversations_go_last(tmp_path: Path) -> None:
    """If no run that has ended is left, the conversations that were unused for longest go."""
    async with log_of(tmp_path) as log:
        ended = await run(log, end=True)
        for number in range(120):
            await log.remember((None, str(number)), "q" * 100_000, "a")
        await log._bound().look()
        assert not await there(log, ended)
        assert await log.history((None, "0")) != []  # and so it is used
        await log._bound().look()
        assert await log.history((None, "1")) == []
        assert await log.history((None, "119")) != []
        assert await log.history((None, "0")) != []


@pytest.mark.parametrize(("kind", "count"), [("private", 1), ("unix", 0)])
async def test_who_bounds_it(kind: str, count: int, tmp_path: Path) -> None:
    """The memory of a Redis that others use too is not this log's to bound."""
    async with log_of(tmp_path, kind) as log:
        assert len(bounds(log)) == count
