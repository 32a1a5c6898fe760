"""The log in Redis as several workers see it: followed, cancelled and counted across, fenced, taken over."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from support.logs import LIMITS, append, records, run_info
from support.redis_server import fresh
from support.redis_workers import Listener, begun, die, follow, raw, worker
from support.serving import until
from twinwire.protocol.errors import CursorGone, IdempotencyMismatch, StaleWriter
from twinwire.protocol.events import decode


async def test_a_run_is_followed_on_another_worker() -> None:
    """What one worker appends arrives on another, once and in order, from before and after the follower came."""
    url = fresh()
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 150)).run_id
        following = [asyncio.create_task(follow(there, run_id)) for _ in range(3)]
        for start in range(150, 450, 3):
            await append(here, run_id, start, records(run_id, start, 3))
        await append(here, run_id, 450, records(run_id, 450, 1, end=True))
        assert await asyncio.gather(*following, follow(here, run_id)) == [list(range(1, 452))] * 4
        assert not here._reader.held
        assert not there._reader.held


async def test_a_follower_that_is_ahead_of_its_worker() -> None:
    """A cursor that another worker gave is no cursor in the future, though this one has not heard of the event yet."""
    url = fresh()
    async with worker(url) as here, worker(url) as there:
        run_id = (await begun(here, 1)).run_id
        leave = there.subscribe(run_id, lambda: None)
        await until(lambda: there._reader.held[run_id].current)
        for seq in range(1, 100):
            await append(here, run_id, seq, records(run_id, seq, 1))
            assert list((await there.page(run_id, seq + 1, 10)).records) == []
        leave()


async def test_many_followed_runs_take_one_connection() -> None:
    """A worker has three connections, one of which reads all runs that are followed there."""
    url = fresh()
    async with worker(url) as here, raw() as client:
        before = len(await client.client_list())
        async with worker(url) as there:
            runs = [(await begun(here, 1)).run_id for _ in range(50)]
            following = [asyncio.create_task(follow(there, run_id)) for run_id in runs]
            await until(lambda: len(there._reader.held) == 50)
            await asyncio.gather(*(append(here, run_id, 1, records(run_id, 1, 1)) for run_id in runs))
            assert len(await client.client_list()) <= before + 3
            await asyncio.gather(*(append(here, run_id, 2, records(run_id, 2, 1, end=True)) for run_id in runs))
            assert await asyncio.gather(*following) == [[1, 2, 3]] * 50


async def test_a_zombie_s_appends_are_refused() -> None:
    """Once another worker has ended a run, its owner's appends are refused, all of those that are under way too."""
    url = fresh()
    async with worker(url) as zombie, worker(url) as other:
        run_id = (await begun(zombie, 2)).run_id
        following = asyncio.create_task(follow(zombie, run_id))
        await append(other, run_id, 2, records(run_id, 2, 1, end=True))
        late = [append(zombie, run_id, seq, records(run_id, seq, 1, size=1)) for seq in (2, 3, 4)]
        refused = await asyncio.gather(*late, return_exceptions=True)
        assert [type(error) for error in refused] == [StaleWriter] * 3
        assert await following == [1, 2, 3]
        assert (await zombie.state(run_id)).last == 3


async def test_a_zombie_hears_that_its_run_has_ended() -> None:
    """Also where it writes nothing: it stops the run that another worker has ended, and no other of its runs."""
    url, owner = fresh("&lease=0.3"), Listener()
    async with worker(url, owner) as zombie, worker(url) as other:
        ended, ends, goes_on = [(await begun(zombie, 2)).run_id for _ in range(3)]
        await append(zombie, ends, 2, records(ends, 2, 1, end=True))
        await append(other, ended, 2, records(ended, 2, 1, end=True))
        for _ in range(20):
            await begun(zombie)
        await until(lambda: bool(owner.interrupted))
        assert owner.interrupted == {ended}
        assert goes_on in zombie._reader.held


@pytest.mark.parametrize("count", [0, 5])
async def test_a_dead_worker_s_runs_are_ended(count: int) -> None:
    """When its lease has run out, its runs get exactly one ERROR, from whichever worker comes first."""
    url = fresh("&lease=0.3")
    async with worker(url) as dead, worker(url) as one, worker(url) as two:
        info = await begun(dead, count)
        await one.occupy((None, "s"), info.run_id)
        following = [asyncio.create_task(follow(log, info.run_id)) for log in (one, two)]
        other = await begun(two, 1)
        die(dead)
        last = count + 1 if count else 2  # a run that had not begun gets its AGENT_START as well
        assert await asyncio.gather(*following) == [list(range(1, last + 1))] * 2
        terminal = (await one.state(info.run_id)).terminal
        assert terminal is not None
        event = decode(terminal.body)
        assert (event.type, event.data["error_type"]) == ("ERROR", "interrupted")
        assert event.metadata == {"events": last}
        assert event.id == f"evt-{info.run_id}-{last}"
        with pytest.raises(StaleWriter):
            await append(dead, info.run_id, count, records(info.run_id, count, 1))
        assert (await one.state(other.run_id)).terminal is None
        while (holder := await two.occupy((None, "s"), "next")) is not None:  # the session is free again
            assert holder == info.run_id


async def test_a_worker_that_closes_leaves_at_once() -> None:
    """Its lease need not run out: what it may have left open is ended by the next sweep."""
    url = fresh("&lease=60")
    async with worker(url) as other, raw() as client:
        async with worker(url) as leaving:
            run_id = (await begun(leaving, 1)).run_id
            name = other._keys.worker(leaving.worker)
            assert 50_000 < await client.pttl(name) <= 60_000
        assert await client.exists(name, other._keys.commands(leaving.worker)) == 0
        assert await other._leases._orphans() == {run_id: leaving.worker}


async def test_a_run_that_its_own_worker_has_lost() -> None:
    """A worker ends a run of its own that it knows nothing of: its start was lost on the way."""
    url, owner = fresh("&lease=0.3"), Listener()
    async with worker(url, owner) as log:
        kept, lost = await begun(log, 1), await begun(log, 1)
        following = asyncio.create_task(follow(log, lost.run_id))
        owner.lost.add(lost.run_id)
        assert await following == [1, 2]
        assert (await log.state(kept.run_id)).terminal is None


async def test_no_run_is_ended_while_leases_are_renewed() -> None:
    """Runs of workers that live outlast many leases."""
    url = fresh("&lease=0.1")
    async with worker(url) as one, worker(url) as two:
        info = await begun(one, 1)
        swept = two._leases._orphans
        for _ in range(20):
            assert await swept() == {}
            await asyncio.sleep(0.02)
        assert (await two.state(info.run_id)).terminal is None


async def test_cancel_reaches_the_owner() -> None:
    """Any worker's cancel is heard by the run's owner, and by nobody else."""
    url, mine, theirs = fresh(), Listener(), Listener()
    async with worker(url, mine) as here, worker(url, theirs) as there:
        info = await begun(here, 1)
        await there.cancel(info)
        await until(lambda: mine.cancelled == [info.run_id])
        assert theirs.cancelled == []


async def test_presence_is_counted_everywhere() -> None:
    """A run is followed while any other worker that lives follows it; the owner hears when one has left."""
    url, owner = fresh("&lease=0.3"), Listener()
    async with worker(url, owner) as here, worker(url) as there, worker(url) as dead:
        run_id = (await begun(here, 1)).run_id
        assert not await here.followed(run_id)
        there.follow(run_id)
        while not await here.followed(run_id):
            pass
        assert not await there.followed(run_id)
        there.unfollow(run_id)
        await until(lambda: owner.left == [run_id])
        there.follow(run_id)
        there.unfollow(run_id, left=True)
        await until(lambda: owner.left_for_good == [run_id])
        assert not await here.followed(run_id)
        dead.follow(run_id)
        while not await here.followed(run_id):
            pass
        die(dead)
        while await here.followed(run_id):
            pass


async def test_conversations_are_shared() -> None:
    """One worker remembers what another was told; a session is busy everywhere, and freed by its holder alone."""
    url, session = fresh(), ("u", None)
    async with worker(url) as here, worker(url) as there:
        await here.remember(session, "q1", "a1")
        await there.remember(session, 'q"\u2028\x00🪢', "")
        expected = [("user", "q1"), ("assistant", "a1"), ("user", 'q"\u2028\x00🪢'), ("assistant", "")]
        assert await there.history(session) == [{"role": role, "content": text} for role, text in expected]
        assert await there.history(("u", "")) == []
        assert await here.occupy(session, "one") is None
        assert await there.occupy(session, "two") == "one"
        assert await here.occupy(session, "one") is None
        assert await there.holder(session) == "one"
        await there.vacate(session, "two")
        assert await there.occupy(session, "two") == "one"
        await there.vacate(session, "one")
        assert await here.holder(session) is None
        assert await there.occupy(session, "two") is None


async def test_a_key_starts_one_run_on_all_workers() -> None:
    """Workers that get the same start at once agree on one run."""
    url = fresh()
    async with worker(url) as here, worker(url) as there:
        infos = [msgspec.structs.replace(run_info("u"), owner=log.worker) for log in (here, there) * 5]
        runs = [log.create(info, idempotency_key="k") for log, info in zip((here, there) * 5, infos, strict=True)]
        [first, *others] = await asyncio.gather(*runs)
        assert others == [first] * 9
        assert await there.find("u", "k") == first
        with pytest.raises(IdempotencyMismatch):
            await there.create(run_info("u", "another"), idempotency_key="k")


async def test_trimmed_under_a_reader() -> None:
    """Events that were trimmed before this worker had read them are a gap, never skipped."""
    limits = msgspec.structs.replace(LIMITS, max_events=50)
    url = fresh()
    async with worker(url, limits=limits) as here, worker(url) as there:
        run_id = (await begun(here, 10)).run_id
        woken = asyncio.Event()
        leave = there.subscribe(run_id, woken.set)
        await until(lambda: there._reader.held[run_id].current)
        await append(here, run_id, 10, records(run_id, 10, 200))
        await woken.wait()
        with pytest.raises(CursorGone) as caught:
            await there.page(run_id, 10, 100)
        first, last = caught.value.first, caught.value.last
        assert (first, last) == (210 - 43 + 1, 210)
        assert [record.seq for record in (await there.page(run_id, first - 1, 100)).records] == list(range(first, 211))
        leave()
