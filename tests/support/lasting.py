"""A log in memory that outlives its processes, and processes on it that die: all of them in one test."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec import Struct, structs

from support.logs import LIMITS
from support.serving import until
from twinwire.agents import Agent, AgentLimits, RunRequest
from twinwire.agents.spec import AgentSpec
from twinwire.auth import ANYBODY
from twinwire.log import Folded, Quota, RunInfo, RunState, SessionKey
from twinwire.log.base import Page
from twinwire.log.memory import MemoryLog
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import StaleWriter, TwinwireError
from twinwire.protocol.events import Record, StreamEvent, decode
from twinwire.runs import Runs, RunSpec
from twinwire.runs.policies import policies

NOBODY = "-"


class Kept(Struct):
    """What the log keeps of a run beside its events."""

    owner: str
    start: bytes
    checkpoint: bytes = b""
    epoch: int = 0
    claims: int = 0
    cancelled: bool = False
    inbox: list[tuple[Saying, asyncio.Future[Outcome]]] = []


_grave: list[asyncio.Future[None]] = []
"""What processes that are gone wait for."""


@pytest.fixture
async def buried() -> AsyncIterator[None]:
    """At the end of the test nothing is left of processes that are gone."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    _grave.clear()


async def go_on(_: str) -> None:
    """Do nothing at a step of the log."""


class Lasting(MemoryLog):
    """One worker's view of the log. `step(name)` is awaited before each of its operations, and after a claim."""

    outlives = True

    def __init__(self) -> None:
        super().__init__(LIMITS)
        self.kept: dict[str, Kept] = {}
        self.workers: dict[str, Lasting] = {self.worker: self}
        self.dead = False
        self.followed_here: list[str] = []
        self.step: Callable[[str], Awaitable[None]] = go_on

    def another(self) -> Lasting:
        """The view of another worker."""
        other = copy.copy(self)
        other.worker, other.followed_here, other.step, other.dead = secrets.token_hex(8), [], go_on, False
        other.workers[other.worker] = other
        return other

    async def _step(self, name: str) -> None:
        await self.step(name)
        await asyncio.sleep(0)
        if self.dead:
            _grave.append(asyncio.get_running_loop().create_future())
            await _grave[-1]

    async def create(
        self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None, start: bytes = b""
    ) -> RunInfo:
        known = await super().create(run, idempotency_key=idempotency_key, quota=quota)
        if known is run:
            self.kept[run.run_id] = Kept(self.worker, start, inbox=[])
        return known

    def append(  # type: ignore[override]
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> Awaitable[None]:
        return self._append(run_id, expected_last, records, checkpoint)

    async def _append(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None
    ) -> None:
        await self._step("append")
        kept, tail = self.kept[run_id], self._entry(run_id).tail
        if kept.owner != self.worker or tail.last != expected_last or tail.ended:
            raise StaleWriter(expected_last, tail.last)
        if records:
            MemoryLog.append(self, run_id, expected_last, records)
        if checkpoint is not None:
            kept.checkpoint, kept.claims = checkpoint, 0
            kept.start = kept.start if checkpoint else b""
        if records and records[-1].last:
            kept.start = kept.checkpoint = b""
            for saying, reply in kept.inbox:
                reply.set_result(Outcome(status="already_finished", message_id=saying.message_id))
            kept.inbox.clear()

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        await self._step("page")
        return await super().page(run_id, after, limit)

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        await self._step("state")
        return structs.replace(await super().state(run_id, user_id), owner=self.kept[run_id].owner)

    async def folded(self, run_id: str) -> Folded | None:
        await self._step("folded")
        return await super().folded(run_id)

    async def occupy(self, session: SessionKey, run_id: str) -> str | None:
        await self._step("occupy")
        return await super().occupy(session, run_id)

    async def claim(self, orphan: Orphan, records: Sequence[Record]) -> bool:
        await self._step("claim")
        run_id = orphan.info.run_id
        kept, tail = self.kept[run_id], self._entry(run_id).tail
        if tail.ended or (kept.owner, kept.epoch, tail.last) != (orphan.owner, orphan.epoch, orphan.last):
            return False
        kept.owner, kept.epoch, kept.claims = self.worker, kept.epoch + 1, kept.claims + 1
        MemoryLog.append(self, run_id, orphan.last, records)
        await self._step("claimed")  # the reply is on its way
        return True

    async def release(self, run_id: str) -> None:
        await self._step("release")
        self.kept[run_id].owner, self.kept[run_id].claims = NOBODY, 0

    async def cancel(self, run: RunInfo) -> None:
        await self._step("cancel")
        self.kept[run.run_id].cancelled = True
        self._wake(run.run_id)

    async def tell(self, run: RunInfo, saying: Saying) -> Outcome:
        await self._step("tell")
        if self._entry(run.run_id).tail.ended:
            return Outcome(status="already_finished", message_id=saying.message_id)
        reply: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.kept[run.run_id].inbox.append((saying, reply))
        self._wake(run.run_id)
        return await reply

    def follow(self, run_id: str) -> None:
        self.followed_here.append(run_id)

    def unfollow(self, run_id: str, *, left: bool = False) -> None:  # noqa: ARG002 - the protocol's
        self.followed_here.remove(run_id)

    def _wake(self, run_id: str) -> None:
        owner = self.workers.get(self.kept[run_id].owner)
        if owner is not None:
            asyncio.get_running_loop().create_task(owner.look(run_id))

    async def look(self, run_id: str) -> None:
        """Have the owner hear what is in a run's inbox. What it does not hear stays there."""
        if self.kept[run_id].cancelled:
            self._owner.cancel_here(run_id)
        for entry in list(self.kept[run_id].inbox):
            saying, reply = entry
            try:
                outcome = await self._owner.hear(run_id, saying)
            except TwinwireError as error:
                outcome = Outcome(refusal=error.payload())
            if outcome is None or entry not in self.kept[run_id].inbox:
                return
            self.kept[run_id].inbox.remove(entry)
            if not reply.done():
                reply.set_result(outcome)

    def orphan(self, run_id: str) -> Orphan:
        """A run as it is offered."""
        entry, kept = self._entry(run_id), self.kept[run_id]
        tail = entry.tail
        return Orphan(
            info=entry.info,
            owner=kept.owner,
            epoch=kept.epoch,
            claims=kept.claims,
            first=tail.first,
            last=tail.last,
            size=tail.size,
            start=kept.start,
            checkpoint=kept.checkpoint,
        )


class Process:
    """A process with runs of this agent, called `mine`, on its view of a log."""

    def __init__(self, agent: Agent | AgentSpec, log: Lasting | None = None, **options: Any) -> None:
        spec = agent if isinstance(agent, AgentSpec) else AgentSpec(agent, resumable=True)
        self.log = Lasting() if log is None else log.another()
        own = policies({"mine": spec}, deadline=options.pop("deadline", 60.0), limits=AgentLimits())
        self.runs = Runs(self.log, {"mine": spec}, policies=own, max_runs=options.pop("max_runs", 100), **options)
        self.log._owner = self.runs
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, message: str = "hi", **fields: Any) -> str:
        info, _ = await self.runs.start(RunSpec(message=message, **fields))
        return info.run_id

    async def take_over(self, run_id: str) -> bool:
        """Be offered a run, and go on with it as a log has one do."""
        taken = await self.runs.take_over(self.log.orphan(run_id))
        if taken:
            await self.log.look(run_id)
        return taken

    async def waits(self) -> None:
        """Return once its one run waits for its user, as its log has it, too."""
        await until(lambda: self.runs.waiting == (1, 1) and all(run.writer.idle for run in self.runs._live.values()))

    async def put_down(self) -> None:
        """Give all runs up, as a process does that is told to end."""
        self.runs.draining = True
        self.runs.put_down()
        while self.runs._live:  # noqa: ASYNC110 - turn by turn, for whoever counts them
            await asyncio.sleep(0)

    def die(self) -> None:
        """Be gone, as after `kill -9`: nothing that it does has an effect any more."""
        self.log.dead = True
        self.log.workers.pop(self.log.worker)
        for run in self.runs._live.values():
            run._deadline.stop()
            run.followers.stop()

    async def answer(self, run_id: str, answer: Any, number: int = 1, message_id: str = "m") -> str:
        saying = Saying(message_id=message_id, input_id=f"ask-{run_id}-{number}", answer=answer)
        return (await self.runs.say(run_id, saying, ANYBODY)).status

    async def send(self, run_id: str, content: str, message_id: str = "s") -> str:
        return (await self.runs.say(run_id, Saying(message_id=message_id, content=content), ANYBODY)).status

    async def cancel(self, run_id: str) -> str:
        return await self.runs.cancel(run_id, ANYBODY)

    async def events(self, run_id: str) -> list[StreamEvent]:
        """All events that the log has of a run."""
        after = self.log._entry(run_id).tail.first - 1
        return [decode(record.body) for record in (await MemoryLog.page(self.log, run_id, after, 10_000)).records]

    async def ended(self, run_id: str) -> list[StreamEvent]:
        """The same, once it has ended."""
        await until(lambda: self.log._entry(run_id).tail.ended)
        return await self.events(run_id)


class Steps:
    """A resumable agent that tells numbers, with a checkpoint after each; it stops where the test lets it go on."""

    takes_messages = True

    def __init__(self, count: int = 4, *, counts: bool = False) -> None:
        self.requests: list[RunRequest] = []
        self.halted = asyncio.Event()
        self._count = count
        self._counts = counts
        self.halt = True

    async def __call__(self, request: RunRequest) -> None:
        self.requests.append(request)
        at = 0 if request.past is None else request.past.state or 0
        for number in range(at + 1, self._count + 1):
            request.emit(f"{number}")
            if number == 3 and self.halt:
                self.halt = False
                self.halted.set()
                await asyncio.Event().wait()
            await request.checkpoint(number, counts=self._counts)


def types(events: Sequence[StreamEvent]) -> str:
    """The events' types."""
    return " ".join(event.type for event in events)
