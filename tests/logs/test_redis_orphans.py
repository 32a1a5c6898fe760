"""What becomes of an orphan in Redis: workers are offered it, one of them goes on with it, or it is ended."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from support.logs import LIMITS, append, records
from support.redis_server import fresh
from support.redis_workers import Heir, begun, bereave, die, follow, sweep, worker
from support.serving import until
from twinwire.log.orphan import MOST_CLAIMS, Orphan
from twinwire.protocol.events import decode

START = b"all that it takes to begin"
SLOW = "&lease=60"  # nothing happens by itself


async def test_a_dead_worker_s_run_goes_on() -> None:
    """A run that can go on is offered when its worker's lease is over, and goes on within 5 s; any other is ended."""
    url, heirs = fresh("&lease=0.3"), [Heir(), Heir()]
    async with worker(url) as dead, worker(url, heirs[0]) as one, worker(url, heirs[1]) as two:
        runs = [(await begun(dead, 1, start=START)).run_id for _ in range(20)]
        plain = (await begun(dead, 1)).run_id
        await until(lambda: one._leases._settled and two._leases._settled)
        following = [asyncio.create_task(follow(two, run_id)) for run_id in [*runs, plain]]
        die(dead)
        async with asyncio.timeout(5.3):
            await until(lambda: heirs[0].going | heirs[1].going == set(runs))
            assert await following[-1] == [1, 2]
        assert not heirs[0].going & heirs[1].going
        for run_id in runs:
            log = one if run_id in heirs[0].going else two
            await append(log, run_id, 2, records(run_id, 2, 1, end=True))
        assert await asyncio.gather(*following[:-1]) == [[1, 2, 3]] * 20


async def test_a_worker_that_cannot_go_on() -> None:
    """An orphan that one worker cannot take is offered to it again, and to others; one of them takes it."""
    url, cannot = fresh("&lease=0.3"), Heir(willing=False)
    async with worker(url) as dead, worker(url, cannot):
        run_id = (await begun(dead, 1, start=START)).run_id
        die(dead)
        await until(lambda: len(cannot.offered) >= 3)
        heir = Heir()
        async with worker(url, heir):
            await until(lambda: heir.going == {run_id})
        assert {orphan.info.run_id for orphan in cannot.offered} == {run_id}


async def test_an_orphan_that_nobody_takes() -> None:
    """An orphan that no worker takes is ended as interrupted once the time for it is over, and frees its session."""
    url, cannot, limits = fresh("&lease=0.3"), Heir(willing=False), msgspec.structs.replace(LIMITS, claim_timeout=0.5)
    async with worker(url) as dead, worker(url, cannot, limits) as log:
        info = await begun(dead, 1, start=START)
        await dead.occupy((None, "s"), info.run_id)
        following = asyncio.create_task(follow(log, info.run_id))
        die(dead)
        await until(lambda: bool(cannot.offered))
        offered = time.monotonic()
        assert await following == [1, 2]
        assert time.monotonic() - offered > 0.4
        terminal = (await log.state(info.run_id)).terminal
        assert terminal is not None
        assert decode(terminal.body).data["error_type"] == "interrupted"
        while await log.holder((None, "s")) is not None:
            pass


@pytest.mark.parametrize("claims", [MOST_CLAIMS - 1, MOST_CLAIMS])
async def test_a_run_that_ends_its_workers(claims: int) -> None:
    """A run that was claimed three times since its checkpoint is offered to nobody, and ended."""
    url, heir = fresh(SLOW), Heir()
    async with worker(url) as dead, worker(url, heir) as log:
        run_id = (await begun(dead, 1, start=START)).run_id
        await log._link.call("HSET", log._keys.run(run_id), "claims", claims, "epoch", 5)
        await bereave(dead, by=log)
        await sweep(log)
        if claims < MOST_CLAIMS:
            assert [(orphan.claims, orphan.epoch) for orphan in heir.offered] == [(claims, 5)]
            assert await log._link.call("HMGET", log._keys.run(run_id), "claims", "epoch") == [b"3", b"6"]
        else:
            assert heir.offered == []
            assert (await log.state(run_id)).terminal is not None


async def test_an_owner_that_does_not_return(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An owner that hangs, or fails, on an orphan is offered it again, and holds up no other orphan."""
    monkeypatch.setattr("twinwire.log.redis.orphans.TAKE_SECONDS", 0.05)
    url, calls = fresh("&lease=0.3"), []

    class Hangs(Heir):
        async def take_over(self, orphan: Orphan) -> bool:
            calls.append(orphan.info.run_id)
            if calls.count(orphan.info.run_id) == 1:
                await asyncio.Event().wait()
            if calls.count(orphan.info.run_id) == 2:
                raise OSError
            return await super().take_over(orphan)

    heir = Hangs()
    async with worker(url) as dead, worker(url, heir):
        runs = {(await begun(dead, 1, start=START)).run_id for _ in range(20)}
        plain = (await begun(dead, 1)).run_id
        die(dead)
        await until(lambda: heir.going == runs)
        assert plain not in calls
    assert "could not be taken over" in caplog.text


async def test_a_run_that_its_own_worker_has_lost() -> None:
    """A worker goes on with a run of its own that it knows nothing of, as with any other's."""
    url, heir = fresh(SLOW), Heir()
    async with worker(url, heir) as log:
        run_id = (await begun(log, 3, start=START)).run_id
        heir.lost.add(run_id)
        following = asyncio.create_task(follow(log, run_id))
        await sweep(log)
        assert heir.going == {run_id}
        assert heir.offered[0].owner == log.worker
        await append(log, run_id, 4, records(run_id, 4, 1, end=True))
        assert await following == [1, 2, 3, 4, 5]
