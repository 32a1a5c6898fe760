"""What an agent is: any callable that takes a RunRequest and tells StreamEvents, by yielding or by emitting them.

An agent knows nothing of runs, logs or transports; `react` and `simple` are agents that ask a ChatModel.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Struct, field

from twinwire.events import StreamEvent
from twinwire.models import Message, Usage
from twinwire.models.pulled import Take, pulled


class Emit(Protocol):
    """Tells events, in this order and at once; from any callback on the event loop, in the agent's task or not.

    What it returns, if anything, is to be awaited where more may follow: the log is slow. After the run's end nothing
    is told any more. Raises `TypeError` or `ValueError` for what is no event.
    """

    def __call__(self, *events: StreamEvent) -> Awaitable[None] | None:
        """See the class."""
        ...


def nobody(*_: StreamEvent) -> None:
    """Tell nobody: the request is of no run, or the run is over."""


class RunRequest(Struct):
    """What a run is asked.

    `history` is the conversation before `message`, oldest first. `usage` is the agent's to add to as it goes, so that a
    run that is cancelled half-way can still tell what it has cost. `emit` is how an agent tells what it does not yield.
    """

    message: str
    run_id: str = ""
    user_id: str | None = None
    session_id: str | None = None
    history: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    emit: Emit = nobody


Agent: TypeAlias = Callable[[RunRequest], AsyncIterable[StreamEvent] | Awaitable[None]]
"""An async generator function, or a coroutine function that emits. Either is done when it returns.

An agent that is asked mostly by runs may have a method `push` beside its call, a coroutine function that emits what
calling the agent would yield: that costs a fraction of waking a task up and going through generators.
"""


def begin(agent: Agent, request: RunRequest) -> AsyncIterable[StreamEvent] | Awaitable[object]:
    """Ask an agent in the way that it does best."""
    ask: Agent = getattr(agent, "push", agent)
    return ask(request)


async def emitted(
    agent: Callable[[RunRequest], Awaitable[None]], request: RunRequest
) -> AsyncGenerator[StreamEvent, None]:
    """Yield what a coroutine function emits. Closing it cancels that; raises what it raises."""

    async def push(take: Take[StreamEvent]) -> None:
        def emit(*told: StreamEvent) -> Awaitable[None] | None:
            room = None
            for event in told:
                room = take(event)
            return room

        await agent(msgspec.structs.replace(request, emit=emit))

    async with aclosing(pulled(push)) as told:
        async for event in told:
            yield event
