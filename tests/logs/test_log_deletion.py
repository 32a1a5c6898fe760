"""The end of what a log keeps: a run's own retention, the deletion of a run, and of all that is a user's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.logs import FACTORIES, LogFactory, Nobody, append, kept, listed, opened, records, run_info
from support.redis_server import fresh
from support.sqlite_logs import ROOMY, Clock, at
from twinwire.log import Quota, Store, Wanted
from twinwire.log.memory import MemoryLog
from twinwire.log.redis.log import RedisLog
from twinwire.protocol.errors import RateLimited, RunNotFound
from twinwire.protocol.wire import new_run_id

SESSION = ("alice", "s")


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    factory: LogFactory = request.param
    async with opened(factory(tmp_path)) as log:
        yield log


async def gone(log: Store, run_id: str) -> bool:
    """True if nothing can be read of a run; then none of the ways to read it can."""
    found = []
    for read in (log.state(run_id), log.summary(run_id), log.page(run_id, 0, 10)):
        try:
            await read
            found.append(True)
        except RunNotFound:
            found.append(False)
    assert len(set(found)) == 1
    return not found[0]


async def test_delete(log: Store) -> None:
    """A run that has ended is unknown once it is deleted, with its idempotency key; other runs and its turn stay."""
    run_id, other = await kept(log, 1, key="k"), await kept(log, 2, key="other")
    await log.remember(SESSION, "question", "answer")
    assert await log.delete(run_id)
    assert await gone(log, run_id)
    assert await log.find("alice", "k") is None
    assert (await log.find("alice", "other")) is not None
    assert not await gone(log, other)
    assert await listed(log, Wanted(user_id="alice")) == [[other]]
    assert len(await log.history(SESSION)) == 2


async def test_deleting_what_is_not_there(log: Store) -> None:
    """A run that is unknown, or was deleted, cannot be deleted."""
    run_id = await kept(log, 1)
    await log.delete(run_id)
    for unknown in (run_id, new_run_id()):
        with pytest.raises(RunNotFound):
            await log.delete(unknown)


async def test_a_run_that_goes_on_is_not_deleted(log: Store) -> None:
    """Nothing is done to a run without its terminal event; its writer goes on."""
    run_id = await kept(log, 1, end=False, key="k")
    assert not await log.delete(run_id)
    await append(log, run_id, 2, records(run_id, 2, 1, end=True))
    assert (await log.page(run_id, 0, 10)).last == 3
    assert await log.find("alice", "k") is not None


async def test_a_key_can_be_used_again(log: Store) -> None:
    """After a run was deleted, the start that it stood for is a new one."""
    first = await kept(log, 1, key="k")
    await log.delete(first)
    again = run_info("alice", "another")
    assert await log.create(again, idempotency_key="k") == again


async def test_followers_are_woken(log: Store) -> None:
    """Whoever follows a run that is deleted is woken, and finds it gone."""
    run_id = await kept(log, 1, end=False)
    woken = asyncio.Event()
    leave = log.subscribe(run_id, woken.set)
    await log.page(run_id, 0, 10)
    await append(log, run_id, 2, records(run_id, 2, 1, end=True))
    woken.clear()
    assert await log.delete(run_id)
    async with asyncio.timeout(5):
        await woken.wait()
    with pytest.raises(RunNotFound):
        await log.page(run_id, 2, 10)
    leave()


async def test_forget(log: Store) -> None:
    """All of a user's ended runs, keys and conversations go; those of others stay, and so do runs that go on."""
    mine = [await kept(log, second, key=f"k{second}") for second in range(5)]
    going = await kept(log, 8, end=False, key="going")
    theirs = [await kept(log, second, user_id=user, key="k1") for second, user in ((3, "bob"), (4, None))]
    sessions = [SESSION, ("alice", None), ("alice", "other")]
    others = [("bob", "s"), (None, "alice"), ("alice2", "s"), ('alice"', "s"), ("ali%e", "s")]
    for session in (*sessions, *others):
        await log.remember(session, "question", "answer")
    for _ in range(2):
        await log.forget("alice")
        for run_id in mine:
            assert await gone(log, run_id)
        for session in sessions:
            assert await log.history(session) == []
        for session in others:
            assert len(await log.history(session)) == 2
        assert [await log.find("alice", f"k{second}") for second in range(5)] == [None] * 5
        assert await listed(log, Wanted(user_id="alice")) == [[going]]
        assert await listed(log, Wanted()) == [[going, *theirs[::-1]]]
    assert await log.find("alice", "going") is not None
    assert await log.find("bob", "k1") is not None
    await append(log, going, 2, records(going, 2, 1, end=True))
    await log.forget("alice")
    assert await listed(log, Wanted(user_id="alice")) == [[]]


async def test_forgetting_nobody(log: Store) -> None:
    """To forget a user of whom nothing is kept is no error."""
    await log.forget("nobody")


async def test_forgetting_many_runs(log: Store) -> None:
    """A user with more runs than any batch has is forgotten whole."""
    runs = await asyncio.gather(*(kept(log, second % 60) for second in range(600)))
    other = await kept(log, 1, user_id="bob")
    await log.forget("alice")
    assert await gone(log, runs[0])
    assert await listed(log, Wanted()) == [[other]]


async def test_to_be_forgotten_starts_no_more_runs(log: Store) -> None:
    """The starts of the last minute count on: nobody gets round the limit by being forgotten."""
    quota = Quota(runs=5, starts=3, longest=60.0)
    for _ in range(3):
        info = run_info("alice")
        await log.create(info, idempotency_key=None, quota=quota)
        await append(log, info.run_id, 0, records(info.run_id, 0, 1, end=True))
    await log.forget("alice")
    with pytest.raises(RateLimited):
        await log.create(run_info("alice"), idempotency_key=None, quota=quota)


async def test_retentions_in_memory() -> None:
    """A run is kept for its own retention after its end, shorter or longer than the log's, which others have."""
    clock = Clock()
    log = MemoryLog(ROOMY, clock=clock)
    short, usual, long = [await kept(log, 1, retention=seconds) for seconds in (10.0, None, 1000.0)]
    for seconds, left in ((9.0, [short, usual, long]), (2.0, [usual, long]), (50.0, [long]), (940.0, [])):
        clock.now += seconds
        assert {*(await listed(log, Wanted()))[0]} == {*left}
    assert len(log._due) == 0


async def test_what_is_due_takes_no_more_memory_than_what_has_ended() -> None:
    """Runs that were deleted long before they would be due leave nothing behind."""
    log = MemoryLog(ROOMY)
    for second in range(1000):
        await log.delete(await kept(log, second % 60, retention=1e6))
    assert len(log._due) < 200
    assert len(log._all._places) < 3
    assert log._users == {}


async def test_retentions_in_sqlite(tmp_path: Path) -> None:
    """The same in a file, also after a restart; the log's own may be another one then."""
    clock = Clock()
    path = tmp_path / "log.db"
    async with at(path, clock=clock) as log:
        short, usual, long = [await kept(log, 1, retention=seconds) for seconds in (10.0, None, 1000.0)]
        clock.now += 9.0
        assert {*(await listed(log, Wanted()))[0]} == {short, usual, long}
        clock.now += 2.0
        async with asyncio.timeout(10):
            while short in (await listed(log, Wanted()))[0]:
                pass
    async with at(path, clock=clock) as log:
        clock.now += 50.0
        async with asyncio.timeout(10):
            while usual in (await listed(log, Wanted()))[0]:
                pass
        assert await listed(log, Wanted()) == [[long]]
        clock.now += 1000.0
        async with asyncio.timeout(10):
            while long in (await listed(log, Wanted()))[0]:
                pass


async def test_retentions_in_redis() -> None:
    """Redis expires each run by its own retention."""
    log = RedisLog(fresh(), ROOMY)
    await log.open(Nobody())
    try:
        short, usual, long = [await kept(log, 1, key=f"{seconds}", retention=seconds) for seconds in (0.2, None, 1e5)]
        lives = [await log._link.call("PTTL", log._keys.run(run_id)) for run_id in (usual, long)]
        assert 55_000 < lives[0] <= 60_000
        assert 9e7 < lives[1] <= 1e8
        async with asyncio.timeout(10):
            while await log.find("alice", "0.2") is not None:
                pass
        assert await gone(log, short)
        while await log._lists.tidy_some():
            pass
        entries = await log._link.call("ZRANGE", log._keys.runs, 0, -1)
        assert {entry.split(b" ")[1].decode() for entry in entries} == {usual, long}
    finally:
        await log.close()
