"""Single take-overs: a server that stands still and comes back, what is said meanwhile, and runs that cannot go on."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Fleet, fleet
from support.followers import KINDS, Address, cancel, say
from support.following import connected
from support.forked import Worker
from support.outlived import Event, resumptions, verify
from support.outside import ASK, Plan
from support.players import Player, Wanderer, insist
from support.processes import stopped
from support.redis_server import fresh
from support.redis_workers import leftovers, raw
from support.sqlite_logs import counted, executed
from twinwire.log.redis.link import Address as Where
from twinwire.log.redis.scripts import Keys

pytestmark = pytest.mark.full

LEASE = 1.0
CLAIM_TIMEOUT = 1.0
HOW = [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGTERM, id="in order")]


class Scene:
    """Runs that begin on one server, the victim; whoever breaks off goes on at the address of all."""

    def __init__(self, servers: Fleet, victim: Worker) -> None:
        self.servers = servers
        self.victim = victim

    async def begin(self, group: asyncio.TaskGroup, *plans: Plan, agent: str = "react") -> list[Wanderer]:
        """Begin runs, and wait until each has."""
        begun = []
        for at, plan in enumerate(plans):
            one = Wanderer(KINDS[at % 2], lambda: self.servers, message=plan.message, agent=agent, heard=self._heard)
            group.create_task(one.run(self.victim))
            begun.append(one)
        for one in begun:
            await one.known.wait()
            assert one.started_on is self.victim
        return begun

    async def sees(self, one: Wanderer, kind: str) -> Event:
        """Wait until a client has seen an event of this type; that event."""
        await self.servers.outside.until(lambda: any(event["type"] == kind for event in one.seen))
        return next(event for event in one.seen if event["type"] == kind)

    def follow(self, group: asyncio.TaskGroup, one: Wanderer, first: Address) -> Wanderer:
        """Have one more follow a run, from a server of its own."""
        other = Wanderer("ws", lambda: self.servers, run_id=one.run_id, heard=self._heard)
        group.create_task(other.run(first))
        return other

    def verify(self, plan: Plan, one: Wanderer, **more: Any) -> None:
        """See `outlived.verify`."""
        outside = self.servers.outside
        verify(plan, one.seen, outside.asked[plan.run], outside.ledger[plan.run], **more)

    def _heard(self, _: Event) -> None:
        self.servers.outside.look()


def ended(one: Wanderer) -> str:
    """How a run has ended."""
    data = one.seen[-1]["data"]
    return str(data.get("error_type") or data["status"])


@pytest.mark.parametrize("how", HOW)
async def test_said_in_each_phase_of_a_hand_over(how: signal.Signals, tmp_path: Path, chance: random.Random) -> None:
    """What is acknowledged while a run changes its process counts: a cancel ends it, an answer and a message come once.

    Something is said all the time, from before its server's death until the other one has gone on.
    """
    log, phases, seconds = fresh(f"&lease={LEASE}"), 20, 1.8 * LEASE
    async with fleet(tmp_path, log, chance, size=2) as servers:
        scene = Scene(servers, servers.workers[0])
        stays = [Plan(f"stays{n}", [["Again"]], stays=True) for n in range(phases)]
        asks = [Plan(f"asks{n}", [[ASK]]) for n in range(phases)]
        hears = [Plan(f"hears{n}", [["Look", ASK]]) for n in range(2)]
        said: dict[str, list[str]] = {plan.run: [] for plan in hears}
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            staying = await scene.begin(group, *stays)
            asking = await scene.begin(group, *asks)
            hearing = await scene.begin(group, *hears)
            for one in (*asking, *hearing):
                await scene.sees(one, "INPUT_REQUESTED")
            await servers.outside.until(lambda: all(servers.outside.steps(plan.run) for plan in stays))

            async def ends(phase: int) -> None:
                kind = KINDS[phase % 2]
                assert await insist(lambda: cancel(kind, servers, staying[phase].run_id)) == "accepted"

            async def answers(phase: int) -> None:
                await answer(servers, KINDS[phase % 2], asking[phase], f"in phase {phase}")

            async def sends(phase: int) -> None:
                for plan, one in zip(hears, hearing, strict=True):
                    what = {"content": f"in phase {phase}", "message_id": f"phase{phase}"}
                    outcome = await insist(lambda: say(KINDS[phase % 2], servers, one.run_id, **what))  # noqa: B023
                    assert outcome["status"] == "accepted"
                    said[plan.run].append(f"phase{phase}")
                servers.outside.look()

            for phase in range(phases):
                if phase == 1:
                    servers.kill(scene.victim, how)
                    gone = group.create_task(servers.gone(scene.victim, how))
                for saying in (ends, answers, sends):
                    group.create_task(saying(phase))
                await asyncio.sleep(seconds / phases)
            await gone
            await servers.outside.until(lambda: all(len(ids) == phases for ids in said.values()))
            for one in hearing:
                await answer(servers, "sse", one, "at last")
        for plan, one in zip(stays, staying, strict=True):
            scene.verify(plan, one, status="cancelled")
        for plan, one in zip(asks, asking, strict=True):
            scene.verify(plan, one, said=[f"answer-{one.run_id}"])
        for plan, one in zip(hears, hearing, strict=True):
            scene.verify(plan, one, said=said[plan.run])
        assert all(resumptions(one.seen) for one in hearing)
        assert await leftovers(log) == []


async def answer(server: Address, kind: str, one: Wanderer, words: str) -> None:
    """Answer the only question of a run."""
    [asked] = {event["data"]["input_id"] for event in one.seen if event["type"] == "INPUT_REQUESTED"}
    what = {"input_id": asked, "answer": words, "message_id": f"answer-{one.run_id}"}
    outcome = await insist(lambda: say(kind, server, one.run_id, **what))
    assert outcome["status"] == "accepted"


async def test_a_zombie(tmp_path: Path, chance: random.Random) -> None:
    """A server that stands still for longer than its lease writes nothing to runs that went on, and serves on.

    What it was waiting for has come by then: the model's answers, and its tools' results.
    """
    log = fresh(f"&lease={LEASE}")
    async with fleet(tmp_path, log, chance, size=2) as servers:
        zombie, other = servers.workers
        scene, outside = Scene(servers, zombie), servers.outside
        plans = [Plan(f"z{n}", [["Once", "Again"], ["Look"]]) for n in range(6)]
        held = [plan.calls(1)[n % 2] if n < 4 else f"{plan.run}/1" for n, plan in enumerate(plans)]
        outside.hold(*held)
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            runs = await scene.begin(group, *plans)
            there = [scene.follow(group, one, other) for one in runs]
            await outside.until(lambda: all(outside.entered[name] for name in held))
            with stopped(zombie.pid):
                for one in there:
                    await scene.sees(one, "RUN_RESUMED")
                outside.let_go(*held)
                for one in there:
                    await outside.until(lambda: one.over)  # noqa: B023
        for plan, one, far in zip(plans, runs, there, strict=True):
            assert one.seen == far.seen
            scene.verify(plan, one)
        assert "The log refused the writer of the run" in zombie.said
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            again = Plan("again", [["Once"]])
            [one] = await scene.begin(group, again)
        scene.verify(again, one)
        assert await leftovers(log) == []


async def keep(servers: Fleet, size: int) -> None:
    """Begin another server for each that dies, for ever."""
    while True:
        for worker in [worker for worker in servers.workers if worker.end.done()]:
            await servers.lost(worker)
        while len(servers.workers) < size:
            await servers.begin(mortal=True)
        await asyncio.wait([worker.end for worker in servers.workers], return_when=asyncio.FIRST_COMPLETED)


@pytest.mark.parametrize("agent", ["poison", "react"])
@pytest.mark.parametrize("log", ["redis", "sqlite"])
async def test_poison(log: str, agent: str, tmp_path: Path, chance: random.Random) -> None:
    """A run that kills each process that has it is interrupted after three take-overs; another beside it completes."""
    url = fresh("&lease=0.5") if log == "redis" else "sqlite:///runs.db"
    size = 2 if log == "redis" else 1
    async with fleet(tmp_path, url, chance, size=size) as servers:
        plan = Plan("poison", [["Poison"]])
        beside = Player(servers, chance, Plan("beside", [["Once"], ["Again"], ["Look"], [ASK]]))
        one = Wanderer(chance.choice(KINDS), lambda: servers, message=plan.message, agent=agent)
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            keeping = group.create_task(keep(servers, size))
            went = group.create_task(beside.play())
            await one.run()
            await went
            keeping.cancel()
        assert ended(one) == "interrupted"
        assert len(resumptions(one.seen)) == 3
        assert servers.restarts == 4
        assert went.result()["completed"]


@pytest.mark.parametrize("known", [False, True])
async def test_an_agent_that_some_servers_know(known: bool, tmp_path: Path, chance: random.Random) -> None:
    """A run whose agent no server has is interrupted after the claim timeout; if one comes that has it, it goes on."""
    log, timeout = fresh(f"&lease={LEASE}"), 30.0 if known else CLAIM_TIMEOUT
    async with fleet(tmp_path, log, chance, "--claim-timeout", str(timeout), size=0) as servers:
        old = await servers.begin(AGENTS="react,counts")
        new = await servers.begin(AGENTS="react")
        one = Wanderer("ws", lambda: servers, message="200", agent="counts", heard=lambda _: servers.outside.look())
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            group.create_task(one.run(old))
            await servers.outside.until(lambda: len(one.seen) > 20)
            await servers.end(old)
            if known:
                far = Wanderer("sse", lambda: new, run_id=one.run_id)
                group.create_task(far.run())
                await servers.begin(AGENTS="counts,react")
        assert ended(one) == ("completed" if known else "interrupted")
        if known:
            assert far.seen == one.seen
            assert len(resumptions(one.seen)) == 1
        assert await leftovers(log) == []


@pytest.mark.parametrize("log", ["redis", "sqlite"])
@pytest.mark.parametrize("what", ["start", "checkpoint"])
async def test_what_cannot_be_read(log: str, what: str, tmp_path: Path, chance: random.Random) -> None:
    """A run whose start or checkpoint this version cannot read is interrupted; a run beside it goes on."""
    url = fresh(f"&lease={LEASE}") if log == "redis" else "sqlite:///runs.db"
    async with fleet(tmp_path, url, chance, "--claim-timeout", str(CLAIM_TIMEOUT), size=1) as servers:
        [victim] = servers.workers
        scene, plans = Scene(servers, victim), [Plan("broken", [["Once"]]), Plan("beside", [["Once"]])]
        held = [plan.calls(1)[0] for plan in plans]
        servers.outside.hold(*held)
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            broken, beside = await scene.begin(group, *plans)
            await servers.outside.until(lambda: all(servers.outside.entered[call] for call in held))
            await servers.end(victim)
            await spoil(url, tmp_path, broken.run_id, what)
            await servers.begin()
            servers.outside.let_go(*held)
        assert ended(broken) == "interrupted"
        assert resumptions(broken.seen) == []
        scene.verify(plans[1], beside)
        assert len(resumptions(beside.seen)) == 1


async def spoil(url: str, folder: Path, run_id: str, what: str) -> None:
    """Make of a run's start, or checkpoint, what no version has written."""
    if url.startswith("redis"):
        async with raw() as redis:
            run = Keys(Where(url).namespace).run(run_id)
            assert await redis.hexists(run, what)
            await redis.hset(run, what, b"\xff of another version")
    else:
        of_run = "WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
        tables = {"start": "starts SET start", "checkpoint": "resumable SET checkpoint"}
        assert executed(folder / "runs.db", f"UPDATE {tables[what]} = x'ff00' {of_run}", run_id) == 1


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("log", ["redis", "sqlite"])
async def test_an_agent_that_is_not_resumable(
    log: str, how: signal.Signals, tmp_path: Path, chance: random.Random
) -> None:
    """A run of an agent that cannot go on elsewhere is interrupted when its process ends."""
    url = fresh(f"&lease={LEASE}") if log == "redis" else "sqlite:///runs.db"
    async with fleet(tmp_path, url, chance, size=1) as servers:
        [victim] = servers.workers
        scene = Scene(servers, victim)
        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            [one] = await scene.begin(group, Plan("plain", []), agent="plain")
            await scene.sees(one, "LLM_CHUNK")
            await servers.end(victim, how)
            await servers.begin()
            gone = time.monotonic()
        assert one.ended - gone < LEASE + 5
        assert ended(one) == "interrupted"
        assert resumptions(one.seen) == []


@pytest.mark.parametrize("asks", [ASK, "Approved"])
@pytest.mark.parametrize("log", ["redis", "sqlite"])
async def test_a_question_over_ten_restarts(log: str, asks: str, tmp_path: Path, chance: random.Random) -> None:
    """A question that is open over ten restarts keeps its id and its time, and the run goes on with its answer."""
    url = fresh("&lease=0.5") if log == "redis" else "sqlite:///runs.db"
    async with fleet(tmp_path, url, chance, size=1) as servers:
        scene = Scene(servers, servers.workers[0])
        plan = Plan("patient", [["Once"], [asks, "Look"]])
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            [one] = await scene.begin(group, plan)
            asked = await scene.sees(one, "INPUT_REQUESTED")
            for restarts in range(1, 11):
                how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
                await servers.end(servers.workers[0], how)
                await servers.begin()
                await servers.outside.until(lambda: len(resumptions(one.seen)) == restarts)  # noqa: B023
                while await claims(url, tmp_path, one.run_id):  # noqa: ASYNC110 - nothing announces it
                    await asyncio.sleep(0.01)
            snapshot = await state(servers, one.run_id)
            words = {"decision": "approve"} if asks == "Approved" else "at last"
            assert [each["input_id"] for each in snapshot["questions"]] == [asked["data"]["input_id"]]
            assert snapshot["waiting"]
            what = {"input_id": asked["data"]["input_id"], "answer": words}
            assert (await insist(lambda: say("ws", servers, one.run_id, **what)))["status"] == "accepted"
        scene.verify(plan, one)
        assert [event["data"] for event in one.seen if event["type"] == "INPUT_REQUESTED"] == [asked["data"]]
        assert servers.outside.entered["patient/2"] == 1
        assert len(resumptions(one.seen)) == 10


async def claims(url: str, folder: Path, run_id: str) -> int:
    """Return how often a run was taken over since its newest checkpoint."""
    if url.startswith("redis"):
        async with raw() as redis:
            return int(await redis.hget(Keys(Where(url).namespace).run(run_id), "claims") or 0)
    of_run = f"resumable JOIN runs ON runs.id = resumable.run WHERE run_id = '{run_id}'"
    return int(counted(folder / "runs.db", f"claims FROM {of_run}"))


async def state(server: Address, run_id: str) -> dict[str, Any]:
    """Return the state of a run's snapshot."""
    async with connected(server.url) as client, client.attach(run_id, snapshot=True) as run:
        assert run.snapshot is not None
        return run.snapshot.state
