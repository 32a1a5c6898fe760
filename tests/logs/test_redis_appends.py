"""Appends of many runs that go to Redis as one: each run has what it would have if each went by itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from support.logs import LIMITS, append, records, told
from support.redis_server import fresh, own_server
from support.redis_workers import begun, raw, worker
from twinwire.log import Limits
from twinwire.log.redis.appends import MOST_BYTES, MOST_RUNS
from twinwire.log.redis.link import WrongType
from twinwire.log.redis.log import RedisLog
from twinwire.log.redis.reader import Held, fields
from twinwire.log.redis.scripts import APPEND_ALL
from twinwire.protocol.errors import LogUnavailable, RunNotFound, StaleWriter
from twinwire.protocol.events import Record

TIME = re.compile(rb'"timestamp":"[^"]*"')
SMALL = msgspec.structs.replace(LIMITS, max_events=20, max_bytes=4000)


@pytest.fixture
async def log() -> AsyncIterator[RedisLog]:
    async with worker(fresh()) as found:
        yield found


def one_by_one(log: RedisLog) -> None:
    """Have each append go to Redis by itself."""

    def alone(_: str, run_id: str, __: Held, expected_last: int, new: Sequence[Record]) -> asyncio.Future[None]:
        return asyncio.ensure_future(log._append_alone(run_id, expected_last, new))

    setattr(log._appends, "append", alone)  # noqa: B010 - a method


async def calls(client: Redis) -> int:
    """How many scripts Redis has run so far."""
    return int((await client.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def story(log: RedisLog, client: Redis, seed: int) -> list[object]:
    """Runs that are appended to as this seed says, up to the end of some; all that Redis then has of them."""
    runs = await told(log, seed)
    found: list[object] = []
    for run_id in runs:
        fields = await client.hgetall(log._keys.run(run_id))
        del fields[b"info"], fields[b"owner"]
        rows: Any = await client.xrange(log._keys.events(run_id))
        found += [fields, [(number, entry | {b"body": TIME.sub(b"", entry[b"body"])}) for number, entry in rows]]
    return found


@pytest.mark.parametrize("limits", [LIMITS, SMALL], ids=["roomy", "small"])
@pytest.mark.parametrize("seed", range(5))
async def test_what_is_joined_and_what_is_not(seed: int, limits: Limits) -> None:
    """Joined or one by one, Redis has the same events and the same figures of each run, also at its bounds."""
    async with worker(fresh(), limits=limits) as joined, worker(fresh(), limits=limits) as plain, raw() as client:
        one_by_one(plain)
        assert await story(joined, client, seed) == await story(plain, client, seed)


async def test_runs_of_one_turn_are_one_call(log: RedisLog) -> None:
    """What many runs append in one turn of the loop is as many calls as its size needs."""
    async with raw() as client:
        runs = [(await begun(log)).run_id for _ in range(2 * MOST_RUNS + 1)]
        before = await calls(client)
        await asyncio.gather(*(append(log, run_id, 0, records(run_id, 0, 2)) for run_id in runs))
        assert 3 <= await calls(client) - before < 10  # this worker's leases and checks are scripts, too
        before = await calls(client)
        large = MOST_BYTES // 3
        await asyncio.gather(*(append(log, run_id, 2, records(run_id, 2, 1, size=large)) for run_id in runs[:9]))
        assert 3 <= await calls(client) - before < 10
    assert [(await log.state(run_id)).last for run_id in runs] == [3] * 9 + [2] * (len(runs) - 9)


@pytest.mark.parametrize("joined", [True, False])
async def test_one_run_s_fault_is_not_the_others(joined: bool, log: RedisLog) -> None:
    """In one call each run has its own outcome: stale, ended, gone, broken by another program, appended."""
    if not joined:
        one_by_one(log)
    async with raw() as client:
        good, stale, ended, gone, typed, crowded, last = [(await begun(log, 2)).run_id for _ in range(7)]
        await client.hset(log._keys.run(ended), "ended", 1)
        await client.delete(log._keys.run(gone), log._keys.run(typed))
        await client.set(log._keys.run(typed), "x")
        await client.xadd(log._keys.events(crowded), {"x": "y"}, id="9-0")
        numbers = {good: 2, stale: 1, ended: 2, gone: 2, typed: 2, crowded: 2, last: 2}
        found = await asyncio.gather(
            *(append(log, run_id, at, records("x" * 26, at, 1, size=9)) for run_id, at in numbers.items()),
            return_exceptions=True,
        )
        assert [type(error) for error in found] == [
            *(type(None), StaleWriter, StaleWriter, RunNotFound, WrongType, LogUnavailable, type(None))
        ]
        assert [(await log.state(run_id)).last for run_id in (good, last)] == [3, 3]


async def test_an_append_that_was_carried_out_before(log: RedisLog) -> None:
    """An append whose reply was lost is made again: that is no error, and no event is there twice."""
    async with raw() as client:
        info = await begun(log, 1)
        held = log._reader.held[info.run_id]
        new = records(info.run_id, 1, 2)
        names = log._keys.run(info.run_id), held.name
        bounds = {"max_events": LIMITS.max_events, "max_bytes": LIMITS.max_bytes}
        assert await log._writes.call(*APPEND_ALL(*names, rest=[1, 2, *fields(new)], **bounds)) == [1]
        await append(log, info.run_id, 1, new)
        assert await client.xlen(held.name) == 3
        assert (await log.state(info.run_id)).last == 3


async def test_redis_is_away(tmp_path: Path) -> None:
    """If Redis is gone, each append of a call hears it; once it is back, the same appends are carried out."""
    with own_server(tmp_path) as server:
        async with worker(server.url) as log:
            runs = [(await begun(log, 1)).run_id for _ in range(10)]
            server.kill()
            added = {run_id: records(run_id, 1, 1) for run_id in runs}
            found = await asyncio.gather(
                *(append(log, run_id, 1, new) for run_id, new in added.items()), return_exceptions=True
            )
            assert {type(error) for error in found} == {LogUnavailable}
            server.start()
            await asyncio.gather(*(append(log, run_id, 1, new) for run_id, new in added.items()))
            assert [(await log.state(run_id)).last for run_id in runs] == [2] * 10
