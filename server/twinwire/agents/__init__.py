"""What an agent is: any callable that takes a RunRequest and gives an async iterator of StreamEvents.

An agent knows nothing of runs, logs or transports; `react` and `simple` are agents that ask a ChatModel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from msgspec import Struct, field

from twinwire.events import StreamEvent
from twinwire.models import Message, Usage


class RunRequest(Struct):
    """What a run is asked.

    `history` is the conversation before `message`, oldest first. `usage` is the agent's to add to as it goes, so that a
    run that is cancelled half-way can still tell what it has cost.
    """

    message: str
    run_id: str = ""
    user_id: str | None = None
    session_id: str | None = None
    history: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


Agent: TypeAlias = Callable[[RunRequest], AsyncIterator[StreamEvent]]
