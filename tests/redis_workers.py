"""Workers that share a log in Redis, and what a test does with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from redis.asyncio import Redis

from logs import LIMITS, Nobody, append, records, run_info
from redis_server import shared
from twinwire.log import Limits, RunInfo
from twinwire.log.redis import RedisLog


class Listener(Nobody):
    """An `Owner` that keeps what it is told. It owns all but what it has `lost`."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.left: list[str] = []
        self.lost: set[str] = set()

    def cancel_here(self, run_id: str) -> None:
        self.cancelled.append(run_id)

    def unfollowed(self, run_id: str) -> None:
        self.left.append(run_id)

    def owns(self, run_id: str) -> bool:
        return run_id not in self.lost


@asynccontextmanager
async def worker(url: str, owner: Listener | None = None, limits: Limits = LIMITS) -> AsyncIterator[RedisLog]:
    """One worker's log, open until the block ends."""
    log = RedisLog(url, limits)
    await log.open(owner or Listener())
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def raw() -> AsyncIterator[Redis]:
    """A client that sees the keys."""
    async with Redis(port=shared().port, protocol=2) as client:
        yield client


async def begun(log: RedisLog, count: int = 0) -> RunInfo:
    """A run that this worker owns."""
    info = msgspec.structs.replace(run_info(), owner=log.worker)
    await log.create(info, idempotency_key=None)
    if count:
        await append(log, info.run_id, 0, records(info.run_id, 0, count))
    return info


def die(log: RedisLog) -> None:
    """Stop this worker as `kill -9` would, as far as the others can tell: its lease is not renewed."""
    for task in log._tasks:
        task.cancel()


async def follow(log: RedisLog, run_id: str) -> list[int]:
    """The numbers of all events of the run, read as a pump reads, as far as they come until the run ends."""
    news = asyncio.Event()
    leave = log.subscribe(run_id, news.set)
    seen: list[int] = []
    while True:
        page = await log.page(run_id, seen[-1] if seen else 0, 100)
        seen += [record.seq for record in page.records]
        if page.records:
            continue
        if page.ended:
            leave()
            return seen
        await news.wait()
        news.clear()
