"""The state of a ReActAgent's run, from which another process goes on in the middle or at the end of a step."""

from __future__ import annotations

from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from twinwire.agents.past import Past
from twinwire.models import BYTES_PER_TOKEN, Finish, Message, ToolCall, bytes_of
from twinwire.protocol.errors import CursorGone, RunInterrupted
from twinwire.protocol.events import StreamEventType as Type


class PlannedCall(Struct, frozen=True):
    """A tool call of the model's, and what was decided about it before any tool of its step began.

    A call with a `refusal` is not run; `repeated` says that it was refused as a repetition. `approval` says that the
    user must approve the call, `question` that the call is a question to the user.
    """

    part: ToolCall
    refusal: str = ""
    repeated: bool = False
    approval: bool = False
    question: bool = False


class WholeAnswer(Struct, frozen=True):
    """The model's answer in one step, which is not asked for again."""

    text: str
    finish: Finish
    calls: list[PlannedCall]


class ReActState(Struct, forbid_unknown_fields=True):
    """The state of a run before `step`; with an `answer`, in the middle of it, before its tools.

    `messages` are those to the model after the request's own. `seen` counts the calls so far, by `calls.digest`, and
    `repeated` the last steps in a row that only repeated calls.
    """

    step: int = 1
    messages: list[Message] = []
    seen: dict[str, int] = {}
    repeated: int = 0
    answer: WholeAnswer | None = None
    version: Literal[1] = 1

    @classmethod
    def restored(cls, state: Any) -> Self:
        """Return the state that a checkpoint had. Raise `RunInterrupted` if it is another version's."""
        try:
            return msgspec.convert(state, cls)
        except msgspec.ValidationError:
            raise RunInterrupted("The run was interrupted: its agent has another version here.") from None

    @property
    def least_steps(self) -> int:
        """The steps that the run takes at least, whatever it may here: it has begun them, or has results to show."""
        return self.step if self.answer is None else self.step + 1


async def voided(past: Past, prompt: int) -> int:
    """Return about how many tokens the model's calls have cost that were cut since the newest checkpoint.

    `prompt` are those of one request. What the calls had said is estimated, as far as the log still has it.
    """
    calls = said = 0
    try:
        async for event in past.events(past.after, void=True):
            if event.type == Type.STEP_START:
                calls += 1
            elif event.type in {Type.LLM_CHUNK, Type.THINKING}:
                said += bytes_of(event.data["content"])
    except CursorGone:
        calls = max(calls, 1)
    return calls * prompt + said // BYTES_PER_TOKEN
