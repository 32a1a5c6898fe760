"""The contract of an agent: a callable that takes a RunRequest and yields, emits or returns what it has to tell.

An agent knows nothing of runs, logs or transports; `react` and `simple` are agents that ask a ChatModel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from msgspec import Struct, field

from twinwire.agents.given import Given
from twinwire.agents.past import Checkpoints, Past, unkept
from twinwire.agents.talk import Call, Decision, Messages, Talk, silent
from twinwire.fence import RunOver
from twinwire.models import Message, ToolCall, Usage
from twinwire.models.adapters import Take


class Emit(Take[Given], Protocol):
    """Tells events, in this order and at once; from any callback on the event loop, in the agent's task or not.

    `Given` has what stands for an event.

    Return None, or an awaitable. If it is an awaitable, await it before emitting more: the log applies backpressure, or
    a follower that reads as fast as it can is far behind. What is emitted all the same is written. But an agent that
    awaits nothing cannot be held up: the log may have to trim what its followers have yet to read.

    Raises `TypeError` for what is no event and `events.NotAnEvent`, a `ValueError`, for one that breaks the protocol's
    table. In a callback, whose caller could not handle that, it ends the run instead.

    After the run's end nothing is told any more. The first call in the agent's own task then raises
    `asyncio.CancelledError`, unless the agent was cancelled already; later ones do nothing, so that an agent can clean
    up. An endless loop of them, which would hold the event loop, gets that error again.
    """

    def __call__(self, *events: Given) -> Awaitable[None] | None:
        """See the class."""
        ...


class _Nobody:
    """Takes events that nobody is told: the request is of no run, or the run is over.

    Raises `RunOver` once so many of them come, or for so long, that the event loop cannot do anything else.
    """

    def __init__(self) -> None:
        self._count = 0
        self._began = 0.0
        self._turn: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, *_: Given) -> None:
        """See `Emit`."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # in a thread, which holds up nobody
        if loop is not self._loop or self._turn is None:
            self._loop, self._count, self._began = loop, 0, time.monotonic()
            self._turn = loop.call_soon(self._turned)
        self._count += 1
        if self._count >= MAX_LATE or time.monotonic() - self._began >= LATE_SECONDS:
            self._count, self._began = 0, time.monotonic()
            raise RunOver

    def _turned(self) -> None:
        self._turn = self._loop = None


MAX_LATE = 10_000
LATE_SECONDS = 1.0
"""The events that may be told to nobody in one turn of the event loop, and the seconds: more is an endless loop."""

nobody: Emit = _Nobody()


class AgentLimits(Struct, frozen=True, kw_only=True):
    """The server's settings of these names, for an agent to keep to; the server does not enforce them itself.

    `max_steps` steps in a run, `max_tool_calls` tool calls in a step. A tool may take `tool_timeout` seconds, and a
    model be silent for `model_timeout` seconds. Raises `ValueError` if `max_steps` is below 1.
    """

    max_steps: int = 8
    max_tool_calls: int = 32
    tool_timeout: float = 30.0
    model_timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ValueError("`max_steps` must be at least 1.")


class RunRequest(Struct):
    """The question of a run, and the means to answer it.

    `history` is the conversation before `message`, oldest first. `usage` is the agent's to add to as it goes, so that a
    run that is cancelled half-way or fails can still tell what it has cost. `emit` is how an agent tells what it does
    not yield. `limits` are what the server's settings allow an agent, `run_tokens` what all its calls of a model may
    use, which the server enforces; None is no bound. `talk` is what `ask`, `approve` and `messages` are made of.

    `params` are the settings that the start gave this run, and `parts` all of the message as OpenAI's chat form has it,
    if it is more than one text: the agent gets those that its attribute `accepts` names. `message` is then the texts of
    the parts. `metadata` are the run's labels, `headers` those of the request that the server's settings let agents
    read, by their names in lower case.

    `cancelled_by` tells an agent that is being cancelled, or closed, what has ended its run: `user`, `nobody_followed`,
    `deadline`, `shutdown`, `budget`, or `interrupted` (the log has lost the run). It is None while the run goes on, and
    if the agent itself has ended it.

    `past` is what another process has done of this run, which this one goes on with; None if the run begins here.
    `checkpoints` is what `checkpoint` and `can_resume` are made of.
    """

    message: str
    run_id: str = ""
    user_id: str | None = None
    session_id: str | None = None
    history: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    emit: Emit = nobody
    limits: AgentLimits = AgentLimits()
    run_tokens: int | None = None
    talk: Talk = silent
    params: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    cancelled_by: str | None = None
    past: Past | None = None
    checkpoints: Checkpoints = unkept

    @property
    def can_resume(self) -> bool:
        """True if another process can go on with the run: the agent is resumable, and the log outlives this one."""
        return self.checkpoints.kept

    async def checkpoint(self, state: Any, *, counts: bool = False) -> None:
        """Keep `state`, any JSON, for the process that goes on with the run if this one ends: its `past.state` then.

        What the agent has told until now is in the log on return, and counts. What it tells from now on counts only
        with `counts`, or from the next checkpoint on: else, cut off, it is void, and is to be told again. Does nothing
        unless `can_resume`. Raises as `events.dump` for what is no JSON.
        """
        await self.checkpoints.write(state, counts=counts)

    @property
    def can_ask(self) -> bool:
        """True if somebody could answer: not with `stream=false` or over `/v1`, whose callers wait for the result."""
        return self.talk.can_ask

    @property
    def messages(self) -> Messages:
        """The messages of the run's user, since the run began, that the agent has not read."""
        return self.talk.messages

    async def ask(self, prompt: str, *, schema: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Ask the run's user, and return the answer: any JSON that fits `schema`, or a text if there is none.

        `schema` is the flat part of JSON Schema that PROTOCOL.md, section 10, has. The user has `timeout` seconds, at
        most the server's `--input-timeout`. Meanwhile the run's deadline stands still, if all else in it waits too.

        Raises `InputExpired` if nobody answers, `InputNotPossible` if nobody can or too many questions are open, and
        `ValueError` for a schema that not every client can draw, or a question of over 64 KiB.
        """
        return await self.talk.ask(prompt, schema, timeout)

    async def approve(self, call: Call | ToolCall, *, prompt: str = "", timeout: float | None = None) -> Decision:
        """Ask whether a tool may be called, whose TOOL_CALL_START the agent has told. Raises as `ask`."""
        return await self.talk.approve(call, prompt, timeout)


Agent: TypeAlias = Callable[[RunRequest], AsyncIterable[Given] | Awaitable[Any]]
"""An async generator function, or a coroutine function that emits or returns. Either is done when it returns.

What a coroutine function returns is the run's result: any JSON, or one of `Given`, which is told. A text is told as the
answer unless the agent has told one before. If it is an async iterator, the run goes on with that.

One that does not read `RunRequest.messages` has an attribute `takes_messages` that is False. One that goes on from
`RunRequest.past` has an attribute `resumable` that is True: a run of any other ends with its process. An attribute
`accepts` names what it reads of `RunRequest.params` and `RunRequest.parts`, in a mapping with types; see
`accepts.Accepts`.
"""


def takes_messages(agent: Agent) -> bool:
    """Return whether an agent reads what its user says meanwhile: unless its attribute `takes_messages` is false."""
    return bool(getattr(agent, "takes_messages", True))
