"""Runs on a fleet whose servers die, and the clients that start, follow, answer, send and cancel meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
from websockets.exceptions import WebSocketException

from support.fleet import Fleet
from support.followers import KINDS, OTHER, Address, AnyFollower, Refused, cancel, say, text
from support.following import Transport
from support.outlived import Event, counted, resumptions, verify
from support.outside import ASK, Plan
from support.redis_workers import Client
from twinwire_client import Event as ClientEvent, Question

RUN_SECONDS = 60.0
UNSURE = {"unknown_outcome", "log_unavailable", "draining", "too_many_messages"}
"""The codes of answers to what is to be said again."""

T = TypeVar("T")
names = itertools.count(1)


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until there is an outcome, as long as servers die or do not know it."""
    while True:
        try:
            outcome = await attempt()
        except (OSError, httpx.TransportError, WebSocketException):
            pass
        except Refused as refused:
            if refused.code not in UNSURE:
                raise
        else:
            if not (isinstance(outcome, Mapping) and outcome.get("code") in UNSURE):
                return outcome
        await asyncio.sleep(0.02)


class Wanderer(Client):
    """A client that goes on over the other transport after each break. `heard` is told of each event."""

    def __init__(self, *args: Any, heard: Callable[[Event], None] = lambda _: None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._heard = heard

    async def _open(self, server: Address) -> AnyFollower:
        if self.breaks:
            self.kind = OTHER[self.kind]
        return await super()._open(server)

    def saw(self, event: dict[str, Any]) -> None:
        """See `Client`."""
        super().saw(event)
        self._heard(event)


def _sent(event: ClientEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("type", "data", "timestamp", "metadata", "id")}


class Mortal(ABC):
    """A run whose servers die; `deaths` are those since it was seen to come on: its work is in a checkpoint then."""

    deaths = 0
    _mark: object = None

    @abstractmethod
    async def play(self) -> Counter[str]:
        """Until all have seen the end. Return what the run went through."""

    @abstractmethod
    def _come_to(self) -> object:
        """Return what changes with each checkpoint."""

    @property
    def vulnerable(self) -> bool:
        """True if one more death may be one too many for the run: nobody has seen it come on since two."""
        return self.deaths >= 2 and self._mark == self._come_to()

    def died(self) -> None:
        """A server has died, maybe the run's."""
        mark = self._come_to()
        self.deaths = 1 if mark != self._mark else self.deaths + 1
        self._mark = mark


class Player(Mortal):
    """A run, and all who have to do with it. Messages are sent to it, so many; it is cancelled if its plan stays."""

    def __init__(self, fleet: Fleet, chance: random.Random, plan: Plan, *, messages: int = 0) -> None:
        self.plan = plan
        self.starter = Wanderer(
            chance.choice(KINDS), lambda: fleet, message=plan.message, agent="react", heard=self._heard
        )
        self.said: set[str] = set()  # the ids of what was acknowledged
        self._fleet = fleet
        self._chance = chance
        self._messages = messages
        self._cancel_at = chance.randint(1, 40) if plan.stays else 0
        self._cancelled: list[str] = []

    def _come_to(self) -> object:
        """See `Mortal`: the model's steps, and the calls of tools, which come after one."""
        outside, run = self._fleet.outside, self.plan.run
        return outside.steps(run), len({entry.call for entry in outside.ledger[run] if entry.tool != "Look"})

    async def play(self) -> Counter[str]:
        """See `Mortal`."""
        try:
            async with asyncio.timeout(RUN_SECONDS), asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self.starter.run())
                await self.starter.known.wait()
                run_id = self.starter.run_id
                others = [group.create_task(self._read(transport)) for transport in ("sse", "ws")]
                if self._messages:
                    group.create_task(self._send())
        except TimeoutError:
            raise AssertionError(
                f"{self.plan.run} did not end: {self.starter.run_id} {self.starter.seen[-5:]}"
            ) from None
        late = Wanderer(self._chance.choice(KINDS), lambda: self._fleet, run_id=run_id)
        log = await late.run()
        assert self.starter.seen == log
        for other in others:
            assert other.result() == log
        outside = self._fleet.outside
        status = "cancelled" if self.plan.stays else "completed"
        # A cancel may be carried out by a server that dies before it says so.
        assert set(self._cancelled) <= {"accepted", "already_finished"}
        assert bool(self._cancelled) == self.plan.stays
        went = verify(
            self.plan, log, outside.asked[self.plan.run], outside.ledger[self.plan.run], status=status, said=self.said
        )
        return went + Counter({status: 1, "acknowledged": len(self.said), "breaks": self.starter.breaks})

    async def _read(self, transport: Transport) -> list[dict[str, Any]]:
        client = self._fleet.client
        async with client.attach(self.starter.run_id, transport=transport, on_input=self._asked) as run:
            return [_sent(event) async for event in run]

    async def _asked(self, question: Question) -> None:
        """A reader answers with the client."""
        approves = question.kind == "approval"
        said = await (question.approve() if approves else question.answer(f"a client answers {question.prompt}"))
        if said.status == "accepted":
            self.said.add(said.message_id)

    def _heard(self, event: Event) -> None:
        """The starter answers what is asked, over the transport that it does not use, and cancels when it is time."""
        self._fleet.outside.look()
        if event["type"] == "INPUT_REQUESTED":
            self._group.create_task(self._answer(event["data"]))
        if len(self.starter.seen) == self._cancel_at:
            for kind in KINDS:
                self._group.create_task(self._cancel(kind))

    async def _answer(self, asked: Event) -> None:
        approval = asked["kind"] == "approval"
        answer = {"decision": "approve"} if approval else f"a starter answers {asked['prompt']}"
        message_id = f"starter-{asked['input_id']}"[-64:]
        await self._say(input_id=asked["input_id"], answer=answer, message_id=message_id)

    async def _send(self) -> None:
        """Send the messages, one after the other, at any moment and to any server."""
        for count in range(self._messages):
            await asyncio.sleep(self._chance.uniform(0, 0.1))
            await self._say(content=f"{self.plan.run} hears {count}", message_id=f"message-{count}")

    async def _say(self, **what: Any) -> None:
        kind = self._chance.choice(KINDS)
        outcome = await insist(lambda: say(kind, self._fleet, self.starter.run_id, **what))
        assert outcome["status"] in {"accepted", "already_answered", "already_finished"}, outcome
        if outcome["status"] == "accepted":
            assert outcome["message_id"] == what["message_id"]
            self.said.add(what["message_id"])

    async def _cancel(self, kind: str) -> None:
        self._cancelled.append(await insist(lambda: cancel(kind, self._fleet, self.starter.run_id)))


class Counting(Mortal):
    """A run of the agent that counts, and goes on from its own checkpoints."""

    def __init__(self, fleet: Fleet, chance: random.Random, numbers: int) -> None:
        self._fleet = fleet
        self._numbers = numbers
        self.starter = Wanderer(
            chance.choice(KINDS),
            lambda: fleet,
            message=str(numbers),
            agent="counts",
            heard=lambda _: fleet.outside.look(),
        )

    def _come_to(self) -> int:
        """See `Mortal`: the highest number that was seen, as those before it are in a checkpoint."""
        words = [event["data"]["content"] for event in self.starter.seen if event["type"] == "LLM_CHUNK"]
        return max((int(word.strip(" .")) for word in words), default=-1)

    async def play(self) -> Counter[str]:
        """See `Mortal`."""
        async with asyncio.timeout(RUN_SECONDS):
            log = await self.starter.run()
        assert log[-1]["data"].get("status") == "completed", log[-1]
        assert text(counted(log)) == "".join(f"{n} {n}. " for n in range(self._numbers))
        return Counter({"runs": 1, "resumed": len(resumptions(log)), "counted": 1})


def planned(chance: random.Random) -> Plan:
    """Return a plan of some steps, with any tools."""
    tools = ["Once", "Again", "Look", "Approved", ASK]
    steps = [chance.sample(tools, chance.randint(1, 3)) for _ in range(chance.randint(2, 4))]
    return Plan(f"r{next(names)}", steps)


class Load:
    """Runs of all kinds, one after the other in each of some places, until it is `stopped`."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self.going: set[Mortal] = set()
        self.stopped = False
        self.went: Counter[str] = Counter()
        self._fleet = fleet
        self._chance = chance

    async def safe(self) -> None:
        """Wait until no run is ended by one death more, as one that ends its processes."""
        await self._fleet.outside.until(lambda: not any(each.vulnerable for each in self.going))

    def died(self) -> None:
        """A server has died."""
        for each in self.going:
            each.died()

    async def run(self) -> None:
        """Play all kinds at once. Raise if any run is not as it must be."""
        async with asyncio.TaskGroup() as group:
            for kind in (self._plain, self._plain, self._talked_to, self._cancelled, self._counting):
                group.create_task(self._repeat(kind))

    async def _repeat(self, kind: Callable[[], Mortal]) -> None:
        while not self.stopped:
            playing = kind()
            self.going.add(playing)
            self.went += await playing.play()
            self.going.discard(playing)
            self._fleet.outside.look()

    def _plain(self) -> Player:
        return Player(self._fleet, self._chance, planned(self._chance))

    def _talked_to(self) -> Player:
        return Player(self._fleet, self._chance, planned(self._chance), messages=10)

    def _cancelled(self) -> Player:
        plan = planned(self._chance)
        return Player(self._fleet, self._chance, Plan(plan.run, plan.steps, stays=True))

    def _counting(self) -> Counting:
        return Counting(self._fleet, self._chance, self._chance.randint(5, 40))


def told(went: Mapping[str, int]) -> str:
    """What runs went through, in a line."""
    return ", ".join(f"{count} {what}" for what, count in sorted(went.items()))
