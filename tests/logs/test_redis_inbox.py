"""The inbox of a run in Redis while the run moves from worker to worker: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.logs import LIMITS, append, records
from support.redis_server import fresh
from support.redis_workers import Heir, Listener, begun, bereave, die, sweep, worker
from support.serving import until
from twinwire.log import RunInfo
from twinwire.log.redis.log import RedisLog
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import LogUnavailable, TooManyMessages, UnknownOutcome

START = b"start"
SLOW = "&lease=60"  # nothing happens by itself


class Scene:
    """A run of the worker `dead`, which `heir` takes over once it sweeps, and which `third` says things to."""

    def __init__(self, dead: RedisLog, heir: RedisLog, third: RedisLog, owner: Heir, info: RunInfo) -> None:
        self.dead = dead
        self.heir = heir
        self.third = third
        self.owner = owner
        self.info = info
        self.run_id = info.run_id

    async def waiting(self) -> int:
        """The number of entries in the run's inbox."""
        count: int = await self.third._link.call("XLEN", self.third._keys.inbox(self.run_id))
        return count

    def say(self, content: str) -> asyncio.Task[Outcome]:
        """Say something to the run; the outcome is to come."""
        return asyncio.create_task(self.third.tell(self.info, Saying(message_id=content, content=content)))

    async def said(self, content: str) -> asyncio.Task[Outcome]:
        """Say something, and wait until it is in the inbox."""
        before = await self.waiting()
        saying = self.say(content)
        while await self.waiting() == before:
            pass
        return saying


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    url, owner = fresh(SLOW), Heir()
    async with worker(url) as dead, worker(url, owner) as heir, worker(url) as third:
        yield Scene(dead, heir, third, owner, await begun(dead, 1, start=START))


@pytest.mark.parametrize("when", ["before the death", "after the death", "before it begins", "after the claim"])
async def test_a_cancel_in_a_hand_over(when: str, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that is said at any moment of a hand-over is heard by whoever goes on with the run, and stays."""
    cancelling = scene.third.cancel
    if when == "before the death":
        die(scene.dead)
        await cancelling(scene.info)
    await bereave(scene.dead, by=scene.heir)
    if when == "after the death":
        await cancelling(scene.info)
    if when == "before it begins":
        claim = scene.heir.claim

        async def claims(*what: Any) -> bool:
            claimed = await claim(*what)
            await cancelling(scene.info)
            await until(lambda: bool(obeyed))  # the claimer was woken, and has no such run yet
            await until(lambda: not scene.heir._inboxes._hearing)
            return claimed

        obeyed: list[str] = []
        obey = scene.heir._reader._obey

        def obeys(operation: str, run_id: str, outcome: bytes) -> None:
            obeyed.append(operation)
            obey(operation, run_id, outcome)

        monkeypatch.setattr(scene.heir._reader, "_obey", obeys)
        monkeypatch.setattr(scene.heir, "claim", claims)
    await sweep(scene.heir)
    assert scene.owner.going == {scene.run_id}
    if when == "after the claim":
        await cancelling(scene.info)
    await until(lambda: bool(scene.owner.cancelled))
    assert set(scene.owner.cancelled) == {scene.run_id}
    assert await scene.waiting() == 1  # until the run has ended: this worker may die, too
    await append(scene.heir, scene.run_id, 2, records(scene.run_id, 2, 1, end=True))
    assert 0 < await scene.heir._link.call("PTTL", scene.heir._keys.inbox(scene.run_id)) <= LIMITS.retention * 1000


async def test_messages_in_a_hand_over(scene: Scene) -> None:
    """What was said to a worker that died, and to nobody, is heard in order by the claimer, which tells the outcome."""
    die(scene.dead)
    outcomes = [await scene.said("one")]
    await bereave(scene.dead, by=scene.heir)
    outcomes += [await scene.said("two"), await scene.said("three")]
    await sweep(scene.heir)
    outcomes.append(scene.say("four"))
    assert [outcome.message_id for outcome in await asyncio.gather(*outcomes)] == ["one", "two", "three", "four"]
    assert scene.owner.said == ["one", "two", "three", "four"]
    while await scene.waiting():
        pass


async def test_a_message_that_comes_too_early(scene: Scene) -> None:
    """A worker that is woken for a run which it has claimed and not begun neither answers nor removes what is said."""
    scene.owner.willing = False
    await bereave(scene.dead, by=scene.heir)
    orphan = await scene.heir._orphans._read(scene.run_id)
    assert orphan is not None
    assert await scene.heir.claim(orphan, records(scene.run_id, 1, 1))
    outcome = await scene.said("early")
    scene.heir._inboxes.look(scene.run_id)
    await until(lambda: not scene.heir._inboxes._hearing)
    assert not outcome.done()
    assert await scene.waiting() == 1
    scene.owner.going.add(scene.run_id)
    scene.heir._inboxes.look(scene.run_id)
    assert (await outcome).status == "accepted"


async def test_a_message_to_a_released_run(scene: Scene) -> None:
    """What is said to a run that nobody has waits for whoever claims it, and wakes nobody."""
    scene.owner.willing = False
    await scene.dead.release(scene.run_id)
    outcome = await scene.said("waits")
    scene.owner.willing = True
    await sweep(scene.heir)
    assert (await outcome).status == "accepted"
    assert await scene.third._link.call("EXISTS", scene.third._keys.commands("-")) == 0


async def test_a_message_to_a_run_that_has_ended(scene: Scene) -> None:
    """A message that its run's owner finds after the end has come too late, and is removed."""
    outcome = await scene.said("late")
    await append(scene.dead, scene.run_id, 1, records(scene.run_id, 1, 1, end=True))
    scene.dead._inboxes.look(scene.run_id)
    assert (await outcome).status == "already_finished"
    while await scene.waiting():
        pass
    assert (await scene.say("later")).status == "already_finished"


async def test_a_cancel_is_one_entry(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a run is cancelled, its inbox has one entry for it, for which there is room in a full inbox."""
    monkeypatch.setattr("twinwire.log.redis.inbox.MOST", 1)
    saying = await scene.said("fills it")
    with pytest.raises(TooManyMessages):
        await scene.say("too many")
    for _ in range(3):
        await scene.third.cancel(scene.info)
    assert await scene.waiting() == 2
    life = await scene.third._link.call("PTTL", scene.third._keys.inbox(scene.run_id))
    assert life > LIMITS.longest * 1000 - 60_000  # as long as the run may go on
    saying.cancel()


async def test_an_owner_that_has_lost_its_run() -> None:
    """What an owner cannot tell the outcome of stays in the inbox: the run may have another owner, who can."""

    class Lost(Listener):
        async def hear(self, run_id: str, saying: Saying) -> Outcome | None:  # noqa: ARG002 - the protocol's
            heard.append(saying.content)
            raise UnknownOutcome(saying.message_id)

    heard: list[str | None] = []
    url = fresh(SLOW)
    async with worker(url, Lost()) as here, worker(url) as there:
        info = await begun(here, 1, start=START)
        saying = asyncio.create_task(there.tell(info, Saying(message_id="m", content="hello")))
        await until(lambda: heard == ["hello"])
        await until(lambda: not here._inboxes._hearing)
        assert await there._link.call("XLEN", there._keys.inbox(info.run_id)) == 1
        saying.cancel()


async def test_a_look_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that could not look into an inbox, because Redis was away, looks again: the cancel was acknowledged."""
    monkeypatch.setattr("twinwire.log.redis.inbox.RETRY_SECONDS", 0.01)
    url, owner, failures = fresh(SLOW), Listener(), list[tuple[Any, ...]]()
    async with worker(url, owner) as here, worker(url) as there:
        info = await begun(here, 1)
        call = here._inboxes._link.call

        def fails(*command: Any) -> Any:
            if command[0] == "XRANGE" and len(failures) < 3:
                failures.append(command)
                raise LogUnavailable
            return call(*command)

        monkeypatch.setattr(here._link, "call", fails)
        await there.cancel(info)
        await until(lambda: bool(owner.cancelled))
        assert len(failures) == 3
        assert owner.cancelled == [info.run_id]
