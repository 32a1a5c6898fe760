"""A run in Redis goes on elsewhere when its worker is gone: claims, checkpoints and releases."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from support.logs import LIMITS, append, records, run_info
from support.redis_server import fresh
from support.redis_workers import Heir, Listener, begun, bereave, follow, orphan_of, raw, worker
from support.serving import until
from twinwire.log import Folded, Quota, RunInfo, Wanted
from twinwire.log.orphan import Orphan
from twinwire.log.redis.log import RedisLog
from twinwire.log.redis.reader import load
from twinwire.log.saying import Noted
from twinwire.protocol.errors import RunNotFound, StaleWriter, TooManyRuns
from twinwire.protocol.events import Record

START = b"all that it takes to begin"
SLOW = "&lease=60"  # nothing happens by itself


@pytest.fixture
async def three() -> AsyncIterator[tuple[RedisLog, RedisLog, RedisLog]]:
    """Workers that share a log."""
    url = fresh(SLOW)
    async with worker(url) as one, worker(url) as two, worker(url) as three:
        yield one, two, three


async def fields(log: RedisLog, run_id: str, *names: str) -> list[bytes | None]:
    """These fields of the run's hash."""
    found: list[bytes | None] = await log._link.call("HMGET", log._keys.run(run_id), *names)
    return found


async def test_a_claim(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A claimed run goes on at its claimer, and followers on every worker see each event once, in order."""
    dead, heir, third = three
    run_id = (await begun(dead, 3, start=START, key="k")).run_id
    await dead.append(run_id, 3, records(run_id, 3, 2), b"halfway")
    following = [asyncio.create_task(follow(log, run_id)) for log in (heir, third)]
    await until(lambda: all(run_id in log._reader.held and log._reader.held[run_id].current for log in (heir, third)))
    heir.follow(run_id)
    third.follow(run_id)
    followers = heir._keys.followers(run_id)
    while await heir._link.call("HLEN", followers) < 2:
        pass
    await bereave(dead, by=heir)
    orphan = await orphan_of(heir, run_id)
    assert (orphan.owner, orphan.start, orphan.checkpoint) == (dead.worker, START, b"halfway")
    assert (orphan.first, orphan.last, orphan.epoch, orphan.claims) == (1, 5, 0, 0)
    assert orphan.size == sum(len(record.body) for record in records(run_id, 0, 5))
    assert await heir.claim(orphan, records(run_id, 5, 2))
    state = await third.state(run_id)
    assert (state.owner, state.info.owner, state.last) == (heir.worker, dead.worker, 7)
    assert await heir._link.call("HGET", heir._keys.live, run_id) == heir.worker.encode()
    assert await heir._link.call("HKEYS", followers) == [third.worker.encode()]  # those of its owner are none elsewhere
    await append(heir, run_id, 7, records(run_id, 7, 300))
    await append(heir, run_id, 307, records(run_id, 307, 1, end=True))
    assert await asyncio.gather(*following) == [list(range(1, 309))] * 2
    assert not heir._reader.held
    assert await heir._link.call("PTTL", heir._keys.idempotency(None, "k")) > 0  # the claimer knew the key's name


async def test_a_claim_by_a_worker_that_follows_nothing(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A claimer without followers holds the run as one that it has started: appends, joins and pages go on."""
    dead, heir, _ = three
    run_id = (await begun(dead, 50, start=START)).run_id
    await bereave(dead, by=heir)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 50, 1))
    assert heir.newest(run_id) == 51
    await append(heir, run_id, 51, records(run_id, 51, 1))
    assert [record.seq for record in (await heir.page(run_id, 0, 100)).records] == list(range(1, 53))
    assert heir._reader.held[run_id].own


Meanwhile = Callable[[RedisLog, RedisLog, RedisLog, Orphan], Awaitable[object]]
"""Something that happens to an orphan of the first worker after the second has read it; the third is another."""

REFUSED: dict[str, Meanwhile] = {
    "its owner lives": lambda dead, _heir, _third, _orphan: dead._leases.renew(),
    "its owner appended": lambda dead, _heir, _third, orphan: append(
        dead, orphan.info.run_id, 2, records(orphan.info.run_id, 2, 1)
    ),
    "another claimed it": lambda _dead, _heir, third, orphan: third.claim(
        orphan, records(orphan.info.run_id, 2, 1, size=9)
    ),
    "another claimed and released it": lambda _dead, _heir, third, orphan: _claim_and_release(third, orphan),
    "it has ended": lambda _dead, _heir, third, orphan: third._orphans.interrupt(orphan.info.run_id, orphan.owner),
    "it is gone": lambda _dead, _heir, third, orphan: third._link.call("DEL", third._keys.run(orphan.info.run_id)),
    "this worker claimed it": lambda _dead, heir, _third, orphan: heir.claim(orphan, records(orphan.info.run_id, 2, 1)),
}


async def _claim_and_release(log: RedisLog, orphan: Orphan) -> None:
    await log.claim(orphan, records(orphan.info.run_id, 2, 1, size=9))
    await log.release(orphan.info.run_id)


@pytest.mark.parametrize("meanwhile", REFUSED)
async def test_a_claim_that_comes_too_late(meanwhile: str, three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A claim of what is no orphan any more, or another one, does nothing, and says so."""
    dead, heir, third = three
    run_id = (await begun(dead, 2, start=START)).run_id
    await bereave(dead, by=heir)
    orphan = await orphan_of(heir, run_id)
    await REFUSED[meanwhile](dead, heir, third, orphan)
    kept = await heir._link.call("HGETALL", heir._keys.run(run_id))
    assert not await heir.claim(orphan, records(run_id, 2, 1))
    assert await heir._link.call("HGETALL", heir._keys.run(run_id)) == kept


async def test_a_claim_whose_reply_was_lost(
    three: tuple[RedisLog, RedisLog, RedisLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that is sent twice, because nobody knows of the first, is one claim."""
    dead, heir, _ = three
    run_id = (await begun(dead, 2, start=START)).run_id
    await bereave(dead, by=heir)
    call = heir._writes.call

    def twice(*command: Any) -> asyncio.Future[Any]:
        call(*command)
        return call(*command)

    monkeypatch.setattr(heir._writes, "call", twice)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 2, 1))
    monkeypatch.setattr(heir._writes, "call", call)
    assert await fields(heir, run_id, "epoch", "claims", "last") == [b"1", b"1", b"3"]
    await append(heir, run_id, 3, records(run_id, 3, 1, end=True))


async def test_a_claim_while_the_run_is_looked_up(
    three: tuple[RedisLog, RedisLog, RedisLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker has read of a run before it claimed it does not count afterwards, though it comes in later."""
    dead, heir, _ = three
    run_id = (await begun(dead, 2, start=START)).run_id
    await bereave(dead, by=heir)
    orphan, read, late = await orphan_of(heir, run_id), asyncio.Event(), asyncio.Event()

    async def slow(*what: Any, **options: Any) -> Any:
        stored = await load(*what, **options)
        read.set()
        await late.wait()
        return stored

    monkeypatch.setattr("twinwire.log.redis.reader.load", slow)
    following = asyncio.create_task(follow(heir, run_id))
    await read.wait()
    monkeypatch.undo()
    assert await heir.claim(orphan, records(run_id, 2, 3))
    late.set()
    await until(lambda: heir._reader._waits)
    assert heir.newest(run_id) == 5
    await append(heir, run_id, 5, records(run_id, 5, 1, end=True))
    assert await following == [1, 2, 3, 4, 5, 6]


async def test_a_claimed_run_is_not_ended(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A worker that gives an orphan up for lost does not end it once another worker goes on with it."""
    dead, heir, third = three
    run_id = (await begun(dead, 2, start=START)).run_id
    await bereave(dead, by=heir)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 2, 1))
    await third._orphans.interrupt(run_id, dead.worker)
    assert (await third.state(run_id)).terminal is None
    await append(heir, run_id, 3, records(run_id, 3, 1))


async def test_only_one_worker_claims() -> None:
    """Of workers that claim the same orphan at the same time one gets it, and its record alone is in the log."""
    url = fresh(SLOW)
    async with AsyncExitStack() as stack:
        dead, *heirs = [await stack.enter_async_context(worker(url)) for _ in range(6)]
        run_id = (await begun(dead, 2, start=START)).run_id
        await bereave(dead, by=heirs[0])
        orphans = await asyncio.gather(*(orphan_of(log, run_id) for log in heirs))
        batches = [records(run_id, 2, 1, size=size) for size in range(len(heirs))]
        claims = [log.claim(orphan, batch) for log, orphan, batch in zip(heirs, orphans, batches, strict=True)]
        claimed = await asyncio.gather(*claims)
        assert sorted(claimed) == [False] * 4 + [True]
        winner = claimed.index(True)
        assert (await heirs[0].state(run_id)).owner == heirs[winner].worker
        assert (await heirs[0].page(run_id, 2, 9)).records == batches[winner]


async def test_checkpoints(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A checkpoint replaces the one before, needs no record, is fenced, counts claims anew, and ends with its run."""
    dead, heir, _ = three
    run_id = (await begun(dead, 1, start=START)).run_id
    assert await fields(dead, run_id, "start", "checkpoint") == [START, None]
    await dead.append(run_id, 1, records(run_id, 1, 1), b"one")
    third = records(run_id, 2, 1)
    await dead.append(run_id, 2, third)
    assert await fields(dead, run_id, "start", "checkpoint") == [START, b"one"]
    await dead.append(run_id, 3, [], b"two")
    assert await fields(dead, run_id, "checkpoint", "last") == [b"two", b"3"]
    for stale in ([], records(run_id, 1, 1, size=1)):
        with pytest.raises(StaleWriter):
            await heir.append(run_id, 1, stale, b"three")
    assert await fields(dead, run_id, "checkpoint", "last") == [b"two", b"3"]
    await dead.append(run_id, 2, third, b"again")  # the same again is no error, and changes nothing
    assert await fields(dead, run_id, "checkpoint") == [b"two"]
    await bereave(dead, by=heir)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 3, 1))
    assert await fields(heir, run_id, "epoch", "claims", "checkpoint") == [b"1", b"1", b"two"]
    await heir.append(run_id, 4, [], b"x" * 2**20)
    assert await fields(heir, run_id, "epoch", "claims") == [b"1", b"0"]
    assert (await orphan_of(heir, run_id)).checkpoint == b"x" * 2**20
    await heir.append(run_id, 4, records(run_id, 4, 1, end=True))
    assert await fields(heir, run_id, "start", "checkpoint") == [None, None]
    with pytest.raises(StaleWriter):
        await heir.append(run_id, 5, [], b"late")


async def test_a_run_that_says_it_cannot_be_taken_over(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """After an empty checkpoint, and without a start, nothing is kept of a run for another worker."""
    log, *_ = three
    given_up, plain = (await begun(log, 1, start=START)).run_id, (await begun(log, 1)).run_id
    await log.append(given_up, 1, records(given_up, 1, 1), b"one")
    await log.append(given_up, 2, records(given_up, 2, 1), b"")
    await log.append(given_up, 3, [], b"two")
    await log.append(plain, 1, [], b"one")
    for run_id in (given_up, plain):
        assert await fields(log, run_id, "start", "checkpoint") == [None, None]


async def test_nothing_is_left_of_what_was_kept(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A run that was taken over is listed once, and a deletion leaves no key that has its id, and no live entry."""
    dead, heir, third = three
    info = msgspec.structs.replace(run_info("u"), owner=dead.worker)
    await dead.create(info, idempotency_key="k", start=START)
    await dead.append(info.run_id, 0, records(info.run_id, 0, 1), b"one")
    await bereave(dead, by=heir)
    await third._inboxes.cancel(info.run_id)
    assert await heir.claim(await orphan_of(heir, info.run_id), records(info.run_id, 1, 1))
    assert [*(await third.listed(Wanted(user_id="u"), 10)).run_ids] == [info.run_id]
    assert not await third.delete(info.run_id)
    await append(heir, info.run_id, 2, records(info.run_id, 2, 1, end=True))
    assert await third.delete(info.run_id)
    async with raw() as client:
        left = [name async for name in client.scan_iter(match=f"{heir._keys._tag}*{info.run_id}*")]
        assert left == []
        assert await client.hlen(heir._keys.live) == 0
    with pytest.raises(RunNotFound):
        await heir.state(info.run_id)


async def test_a_zombie_that_writes(
    three: tuple[RedisLog, RedisLog, RedisLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appends of a worker whose run was claimed are refused, and its followers get what the claimer writes."""
    zombie, heir, _ = three
    run_id = (await begun(zombie, 3, start=START)).run_id
    following = asyncio.create_task(follow(zombie, run_id))
    await _lapse(zombie, heir, monkeypatch)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 3, 1))
    late = [zombie.append(run_id, 3, records(run_id, 3, count, size=1), b"late") for count in (1, 2)]
    refused = await asyncio.gather(*late, zombie.append(run_id, 3, [], b"late"), return_exceptions=True)
    assert [type(error) for error in refused] == [StaleWriter] * 3
    assert await fields(heir, run_id, "checkpoint") == [None]
    await append(heir, run_id, 4, records(run_id, 4, 100))
    await append(heir, run_id, 104, records(run_id, 104, 1, end=True))
    assert await following == list(range(1, 106))
    assert not zombie._reader.held


async def test_a_zombie_that_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker hears that its quiet run was claimed and stops that run alone; its followers get what comes then."""
    url, owner = fresh(SLOW), Listener()
    async with worker(url, owner) as zombie, worker(url) as heir:
        claimed, kept = (await begun(zombie, 3, start=START)).run_id, (await begun(zombie, 3, start=START)).run_id
        following = asyncio.create_task(follow(zombie, claimed))
        await _lapse(zombie, heir, monkeypatch)
        assert await heir.claim(await orphan_of(heir, claimed), records(claimed, 3, 1))
        await until(lambda: bool(owner.interrupted))
        assert owner.interrupted == {claimed}
        assert not zombie._reader.held[claimed].own
        assert zombie._reader.held[kept].own
        await append(heir, claimed, 4, records(claimed, 4, 1, end=True))
        assert await following == [1, 2, 3, 4, 5]


async def _lapse(zombie: RedisLog, other: RedisLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this worker's lease run out while it goes on with all else, as when it was stopped for long."""

    async def renew() -> None: ...

    monkeypatch.setattr(zombie._leases, "renew", renew)
    await asyncio.sleep(0)  # what was on its way is sent
    await zombie._link.call("PING")
    await other._link.call("DEL", other._keys.worker(zombie.worker))


async def test_what_a_zombie_says_of_its_run(
    three: tuple[RedisLog, RedisLog, RedisLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose run was claimed neither changes what the run asks, nor its kept state, nor trims it."""
    zombie, heir, _ = three
    info = await begun(zombie, 3, start=START)
    held = zombie._reader.held[info.run_id]
    await _lapse(zombie, heir, monkeypatch)
    assert await heir.claim(await orphan_of(heir, info.run_id), records(info.run_id, 3, 1))
    heir.note(info, Noted(({"input_id": "new"},), True))
    while not (await heir.noted(info.run_id)).questions:
        pass
    zombie.note(info, Noted(({"input_id": "old"},), False))
    await until(lambda: not zombie._notes)
    await zombie._keep_notes({info.run_id: (None, b"")})
    assert await heir.noted(info.run_id) == Noted([{"input_id": "new"}], True)
    await zombie._keep_folded(info.run_id, held, Folded(3, {"text": "old"}))
    await zombie._trim_events(info.run_id, 2)
    assert await fields(heir, info.run_id, "folded", "first") == [None, b"1"]


async def test_what_redis_has_lost_of_a_claimed_run(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """An entry of the list of live runs that is lost, or names another owner, becomes the claimer's."""
    dead, heir, third = three
    run_id = (await begun(dead, 1, start=START)).run_id
    await bereave(dead, by=heir)
    assert await heir.claim(await orphan_of(heir, run_id), records(run_id, 1, 1))
    live = heir._keys.live
    for damage in (("HDEL", live, run_id), ("HSET", live, run_id, dead.worker)):
        await heir._link.call(*damage)
        await third.state(run_id)
        assert await heir._link.call("HGET", live, run_id) == heir.worker.encode()


async def test_a_claimed_run_counts_for_its_user(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A run counts for its user's quota while it is an orphan and once it was claimed, and holds its session."""
    dead, heir, third = three
    quota = Quota(runs=1, starts=99, longest=1.0)
    info = msgspec.structs.replace(run_info("u"), owner=dead.worker)
    session = (info.user_id, info.session_id)
    assert await dead.occupy(session, info.run_id) is None
    await dead.create(info, idempotency_key=None, quota=quota, start=START)
    await append(dead, info.run_id, 0, records(info.run_id, 0, 1))
    await bereave(dead, by=heir)

    async def refused() -> None:
        with pytest.raises(TooManyRuns):
            await third.create(run_info("u"), idempotency_key=None, quota=quota)
        assert await third.holder(session) == info.run_id

    await refused()
    assert await heir.claim(await orphan_of(heir, info.run_id), records(info.run_id, 1, 1))
    await refused()
    left = await heir._link.call("PTTL", heir._keys.starts("u"))
    assert left > 1000 * LIMITS.longest - 60_000  # however long it is between two workers
    await append(heir, info.run_id, 2, records(info.run_id, 2, 1, end=True))
    await third.create(run_info("u"), idempotency_key=None, quota=quota)


async def test_a_released_run_goes_on_at_once() -> None:
    """A run that its worker gives up is claimed elsewhere in no time, also by a worker that has only just begun."""
    url, heir = fresh(SLOW), Heir()
    async with worker(url) as leaving:
        runs = [(await begun(leaving, 2, start=START)).run_id for _ in range(50)]
        async with worker(url, heir) as log:
            following = [asyncio.create_task(follow(each, run_id)) for each in (leaving, log) for run_id in runs]
            await append(leaving, runs[0], 2, records(runs[0], 2, 1))
            since = time.monotonic()
            await asyncio.gather(*(leaving.release(run_id) for run_id in runs))
            await until(lambda: heir.going == set(runs))
            print(f"50 released runs go on elsewhere after {time.monotonic() - since:.3f} s")
            assert time.monotonic() - since < 2  # a sweep takes two seconds to come
            for run_id in runs:
                last = 4 if run_id == runs[0] else 3
                await append(log, run_id, last, records(run_id, last, 1, end=True))
            lasts = [5, *[4] * 49] * 2
            assert await asyncio.gather(*following) == [list(range(1, last + 1)) for last in lasts]
            assert await fields(log, runs[0], "epoch", "claims") == [b"1", b"1"]


async def test_a_release(three: tuple[RedisLog, RedisLog, RedisLog]) -> None:
    """A released run has no owner and no claims; a run of another worker, or one that has ended, is not released."""
    leaving, other, _ = three
    released, ended, others = [(await begun(log, 1, start=START)).run_id for log in (leaving, leaving, other)]
    await append(leaving, ended, 1, records(ended, 1, 1, end=True))
    await leaving._link.call("HSET", leaving._keys.run(released), "claims", 2)
    for run_id in (released, ended, others):
        await leaving.release(run_id)
    assert [(await other.state(run_id)).owner for run_id in (released, others)] == ["", other.worker]
    assert await fields(other, released, "claims", "start") == [b"0", START]
    assert (await other.state(ended)).owner == leaving.worker
    assert await other._leases._orphans() == {released: "-"}
    assert released not in leaving._reader.held


async def test_the_state_of_a_trimmed_run_is_kept_before_its_release() -> None:
    """A worker that has trimmed a run and then gives it up has kept its state: whoever goes on needs it."""
    limits = msgspec.structs.replace(LIMITS, max_events=10)

    class Folds(Listener):
        def folded(self, run_id: str) -> Folded | None:  # noqa: ARG002 - the protocol's
            return Folded(12, {"text": "all"})

    async with worker(fresh(SLOW), Folds(), limits) as log:
        run_id = (await begun(log, 9, start=START)).run_id
        await append(log, run_id, 9, records(run_id, 9, 3))
        await log.release(run_id)
        assert await log.folded(run_id) == Folded(12, {"text": "all"})


class Passes(Heir):
    """Goes on with each run for some events, gives it up, and ends it when it is long enough."""

    def __init__(self, chance: random.Random, until: int) -> None:
        super().__init__()
        self._chance = chance
        self._until = until
        self._tasks: set[asyncio.Task[None]] = set()

    async def take_over(self, orphan: Orphan) -> bool:
        taken = await super().take_over(orphan)
        if orphan.info.run_id in self.going:
            self.going.discard(orphan.info.run_id)
            self._tasks.add(asyncio.create_task(self.go_on(orphan.info, orphan.last + 1)))
        return taken

    async def go_on(self, info: RunInfo, last: int) -> None:
        for _ in range(self._chance.randint(0, 5)):
            batch: Sequence[Record] = records(info.run_id, last, self._chance.choice([1, 1, 2, 200]))
            await self.log.append(info.run_id, last, batch, self._chance.choice([None, b"kept"]))
            last = batch[-1].seq
        if last >= self._until:
            await append(self.log, info.run_id, last, records(info.run_id, last, 1, end=True))
        else:
            await self.log.release(info.run_id)


@pytest.mark.full
async def test_runs_that_are_passed_on_and_on() -> None:
    """Followers on every worker see each event once, in order, however often their runs move from worker to worker."""
    url, chance = fresh(SLOW), random.Random(20)
    heirs = [Passes(chance, 2000) for _ in range(3)]
    async with AsyncExitStack() as stack:
        logs = [await stack.enter_async_context(worker(url, heir)) for heir in heirs]
        infos = [await begun(logs[0], 1, start=START) for _ in range(10)]
        following = [asyncio.create_task(follow(log, info.run_id)) for log in logs for info in infos]
        await asyncio.gather(*(heirs[0].go_on(info, 1) for info in infos))
        seen = await asyncio.gather(*following)
        for numbers in seen:
            assert all(after == before + 1 for before, after in pairwise([0, *numbers]))
        epochs = [int((await fields(logs[0], info.run_id, "epoch"))[0] or 0) for info in infos]
        print(f"{len(infos)} runs moved {sum(epochs)} times")
        assert sum(epochs) > 50
        assert not any(log._reader.held for log in logs)
