"""A run played by a test: what is left of it when its process ends, and the process that goes on with it.

    kept = Kept()
    await Process(kept, cut=3).carry_out(agent)      # ends at the third append
    await Process(kept).carry_out(agent)             # goes on
    kept.counted                                     # the events that are not void

An append is atomic, with the checkpoint that comes with it. What an agent emits is appended when its task suspends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Self

import msgspec
from msgspec import Struct

from twinwire.agents import Agent, RunRequest
from twinwire.agents.given import Given, event_of, returned
from twinwire.agents.talk import Call, Decision, Said
from twinwire.models import ToolCall, Usage
from twinwire.models.adapters import PushStream
from twinwire.protocol.errors import InputExpired
from twinwire.protocol.events import INPUT_TYPES, TERMINAL_TYPES, StreamEvent, dump

RUN_ID = "a" * 26
EXPIRED = object()
"""What a user answers who does not answer in time."""

User = Callable[[dict[str, Any]], Any]


class Checkpoint(Struct):
    """What a process has kept with its append of event `after`."""

    state: Any
    after: int
    counts: bool
    usage: dict[str, int]
    read: list[str]


class Kept:
    """The log of one run. `appends` are the types of the events of each append, then `checkpoint` if it had one."""

    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.checkpoint: Checkpoint | None = None
        self.appends: list[list[str]] = []
        self.epoch = -1  # no process has begun

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1].type in TERMINAL_TYPES

    @property
    def counted(self) -> list[StreamEvent]:
        """The events that are not void, without those that tell of a take-over."""
        return [event for _, event in self.numbered(0, void=False) if event.type != "RUN_RESUMED"]

    def numbered(self, after: int, *, void: bool) -> list[tuple[int, StreamEvent]]:
        """Return the events after this number."""
        found: list[tuple[int, StreamEvent]] = []
        for number, event in enumerate(self.events, 1):
            since = event.data["void_after"] if event.type == "RUN_RESUMED" else None
            if since is not None and not void:
                never = INPUT_TYPES | {"RUN_RESUMED"}
                found = [each for each in found if each[0] <= since or each[1].type in never]
            found.append((number, event))
        return [each for each in found if each[0] > after]

    def append(self, events: list[StreamEvent], checkpoint: Checkpoint | None) -> None:
        assert not self.ended
        self.events += events
        self.appends.append([*(event.type for event in events), *(["checkpoint"] if checkpoint else [])])
        if checkpoint is not None:
            self.checkpoint = checkpoint


class PlayedPast:
    """The `Past` of a run, as its log has it, whose last event tells that a process goes on."""

    trimmed = False

    def __init__(self, kept: Kept) -> None:
        checkpoint = kept.checkpoint
        self.epoch = kept.epoch
        self.state = checkpoint and checkpoint.state
        self.after = checkpoint.after if checkpoint else 0
        self._events = {void: kept.numbered(0, void=void)[:-1] for void in (False, True)}

    async def events(self, after: int = 0, *, void: bool = False) -> AsyncIterator[StreamEvent]:
        for number, event in self._events[void]:
            await asyncio.sleep(0)
            if number > after:
                yield event


class Process:
    """One process's part in a run: the run of its `request`.

    It ends at its append number `cut`: with `lost` that append is refused, and until then the agent has gone on; else
    the append is made, and the agent goes on no more. `user` answers what the agent asks. `says` are messages of the
    user's by the words that they follow, each of which is said once.
    """

    can_ask = True
    kept = True

    def __init__(
        self,
        log: Kept,
        *,
        cut: int | None = None,
        lost: bool = True,
        user: User | None = None,
        says: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self.cut = cut
        self.messages = self
        self.dead = False
        self._lost = lost
        self._user = user
        self._says = says or {}
        self._pending: list[StreamEvent] = []
        self._read: list[str] = []
        self._unread: list[Said] = []
        self._given: list[tuple[str, dict[str, Any]]] = []  # the questions of processes before
        self._answers: dict[str, Any] = {}
        self._appends = 0
        self._task: asyncio.Task[None] | None = None
        self.request = RunRequest("go", run_id=RUN_ID, emit=self.emit, talk=self, checkpoints=self)
        log.epoch += 1
        if log.epoch:
            self._take_over(log)

    def _take_over(self, log: Kept) -> None:
        checkpoint = log.checkpoint
        if not log.events:
            log.events.append(StreamEvent("AGENT_START"))
        void_after = (None if checkpoint.counts else checkpoint.after) if checkpoint else 1
        log.events.append(StreamEvent("RUN_RESUMED", {"epoch": log.epoch, "step": None, "void_after": void_after}))
        self.request.past = past = PlayedPast(log)
        if checkpoint is not None:
            self.request.usage = msgspec.convert(checkpoint.usage, Usage)
            self._read = list(checkpoint.read)
        for number, event in log.numbered(0, void=False):
            data = event.data
            if event.type == "USER_MESSAGE" and data["message_id"] not in self._read:
                self._unread.append(Said(data["content"], data["message_id"]))
            elif event.type == "INPUT_REQUESTED" and number > past.after:
                self._given.append((data["input_id"], data))
            elif event.type == "INPUT_ANSWERED":
                self._answers[data["input_id"]] = EXPIRED if data.get("expired") else data["answer"]

    async def carry_out(self, agent: Agent) -> bool:
        """Run the agent until it is done, or until this process ends. Return whether the run has ended."""
        self._task = asyncio.get_running_loop().create_task(self._drive(agent))
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()
        return self.log.ended

    async def _drive(self, agent: Agent) -> None:
        told: Any = agent(self.request)
        if not isinstance(told, AsyncIterable):
            told = await told
        if isinstance(told, PushStream):
            await told.for_each(self.emit)
        elif isinstance(told, AsyncIterable):
            async for each in told:
                self.emit(each)
        self._flush()
        if not self.log.ended and not self.dead:
            result = returned(told, self.emit, silent=not self._text)
            self.emit(StreamEvent("AGENT_FINISH", {"result": self._text if result is None else result}))
            self._flush()

    @property
    def _text(self) -> str:
        text = ""
        for event in [*self.log.counted, *self._pending]:
            text = "" if event.type == "STEP_START" else text + event.data.get("delta", "")
        return text

    def emit(self, *events: Given) -> Awaitable[None] | None:
        """See `agents.Emit`."""
        for each in events:
            event = event_of(each)
            if event.type == "AGENT_START" and self.request.past is not None:
                continue
            if not self._pending:
                asyncio.get_running_loop().call_soon(self._flush)
            self._pending.append(event)
        return None

    def _flush(self, checkpoint: Checkpoint | None = None) -> None:
        events, self._pending = self._pending, []
        if not (events or checkpoint) or self.dead:
            return
        if self._appends == self.cut and self._lost:
            self._die()
            return
        self._appends += 1
        if checkpoint is not None:
            checkpoint.after = len(self.log.events) + len(events)
        self.log.append(events, checkpoint)
        if self._appends == self.cut and not self._lost:
            self._die()
            return
        for event in events:
            if (more := self._says.get(event.data.get("delta", ""))) is not None and more not in self._said:
                self._say(more)

    def _die(self) -> None:
        self.dead = True
        assert self._task is not None
        self._task.cancel()

    async def write(self, state: Any, *, counts: bool) -> None:
        """See `agents.past.Checkpoints`."""
        usage = msgspec.to_builtins(self.request.usage)
        self._flush(Checkpoint(msgspec.json.decode(dump(state)), 0, counts, usage, list(self._read)))
        await asyncio.sleep(0)

    @property
    def _said(self) -> set[str]:
        return {event.data["content"] for event in self.log.events if event.type == "USER_MESSAGE"}

    def _say(self, content: str) -> None:
        said = Said(content, f"m{len(self._said)}")
        self._pending.append(StreamEvent("USER_MESSAGE", {"content": content, "message_id": said.message_id}))
        self._flush()
        self._unread.append(said)

    def drain(self) -> list[Said]:
        """See `agents.talk.Messages`."""
        said, self._unread = self._unread, []
        self._read += [each.message_id for each in said]
        return said

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Said:
        raise StopAsyncIteration

    async def ask(self, prompt: str, schema: Mapping[str, Any] | None, timeout: float | None) -> Any:  # noqa: ARG002
        """See `agents.talk.Talk`."""
        return await self._ask({"kind": "question", "prompt": prompt}, {"schema": schema})

    async def approve(self, call: Call | ToolCall, prompt: str, timeout: float | None) -> Decision:  # noqa: ARG002
        """See `agents.talk.Talk`."""
        assert isinstance(call, Call)
        answer = await self._ask({"kind": "approval", "tool_call_id": call.id}, {"parameters": call.parameters})
        parameters = answer.get("parameters", call.parameters)
        return Decision(answer["decision"] == "approve", parameters, answer.get("reason"))

    async def _ask(self, same: dict[str, Any], more: dict[str, Any]) -> Any:
        """Ask the user; but what a process before has asked, with the `same` data, is not asked again."""
        data = {**same, **more}
        before = next((each for each in self._given if same.items() <= each[1].items()), None)
        if before is not None:
            self._given.remove(before)
            input_id = before[0]
        else:
            input_id = f"i{sum(event.type == 'INPUT_REQUESTED' for event in [*self.log.events, *self._pending])}"
            self._pending.append(StreamEvent("INPUT_REQUESTED", {"input_id": input_id, **data}))
            self._flush()
        if input_id not in self._answers:
            assert self._user is not None
            await asyncio.sleep(0)  # the user takes a while
            answer = self._user(data)
            told = {"expired": True} if answer is EXPIRED else {"answer": answer}
            self._pending.append(StreamEvent("INPUT_ANSWERED", {"input_id": input_id, **told}))
            self._flush()
            self._answers[input_id] = answer
        await asyncio.sleep(0)
        if self._answers[input_id] is EXPIRED:
            raise InputExpired
        return self._answers[input_id]


async def carried_out(agent: Agent, *cuts: tuple[int, bool], **options: Any) -> Kept:
    """Return the log of a run whose processes end at these appends, each lost or made, until the last ends it."""
    log = Kept()
    for cut, lost in cuts:
        if await Process(log, cut=cut, lost=lost, **options).carry_out(agent):
            return log
    assert await Process(log, **options).carry_out(agent)
    return log
