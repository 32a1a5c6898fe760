"""The events as a client has them, and their data as typed objects: one Struct for each type of PROTOCOL.md, section 1.

Use them with `match event.payload: case LLMChunk(content=text): …`. Only types and their JSON; `run` checks which event
is due.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from twinwire_client.errors import ProtocolError
from twinwire_client.wire import TERMINAL_TYPES, is_event_type


class AgentStart(Struct, frozen=True):
    """The run begins. `config` names the agent; `max_steps` is None if there is no bound."""

    input: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None


class StepStart(Struct, frozen=True):
    """Step number `step` begins, of at most `max_steps`."""

    step: int = 0
    max_steps: int | None = None


class StepFinish(Struct, frozen=True):
    """The step ends; `action` is `tool_calls` or `answer`."""

    step: int = 0
    action: str = ""


class Thinking(Struct, frozen=True):
    """An increment of the model's reasoning."""

    content: str = ""


class LLMChunk(Struct, frozen=True):
    """An increment of the answer, twice."""

    content: str = ""
    delta: str = ""


class ToolCallStart(Struct, frozen=True):
    """A tool is called."""

    tool_call_id: str = ""
    tool_name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class ToolCallFinish(Struct, frozen=True):
    """It is done after `duration` seconds; `status` is `ok` or `error`."""

    tool_call_id: str = ""
    tool_name: str = ""
    result: Any = None
    status: str = ""
    duration: float = 0.0


class Progress(Struct, frozen=True):
    """How far the run is: `progress` is 0 to 100, at `step` of `total`."""

    progress: float = 0.0
    step: int | None = None
    total: int | None = None


class InputRequested(Struct, frozen=True):
    """The run asks its user: `kind` is `question`, whose answer has the form of `schema`, or `approval` of a tool call.

    Nobody can answer it any more after `expires_at`, a time of RFC 3339.
    """

    input_id: str = ""
    kind: str = ""
    prompt: str = ""
    schema: dict[str, Any] | None = None
    expires_at: str | None = None
    tool_call_id: str = ""
    tool_name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


class InputAnswered(Struct, frozen=True):
    """A question is closed: by the `answer` of `by`, if that is known, or because it has `expired`."""

    input_id: str = ""
    answer: Any = None
    message_id: str = ""
    by: str | None = None
    expired: bool = False


class UserMessage(Struct, frozen=True):
    """A message to the run while it went on; `by` is the user, if that is known."""

    content: str = ""
    message_id: str = ""
    by: str | None = None


class RunResumed(Struct, frozen=True):
    """Another process goes on with the run, for the `epoch`th time, as its own is gone.

    What came after event number `void_after` does not count, but for questions, answers and messages; if it is None,
    all counts. `step` is the step that was cut off. `text` and `thinking` are what of that step's answer and thoughts
    counts, if they go on from there.
    """

    epoch: int = 0
    step: int | None = None
    void_after: int | None = None
    text: str = ""
    thinking: str = ""


class AgentFinish(Struct, frozen=True):
    """The run has ended after `duration` seconds: `status` is `completed`, `incomplete`, `cancelled` or `max_steps`.

    `finish_reason` is why the model ended its answer: an `incomplete` one is cut off by `length` or `content_filter`.
    `reason` is who ended a `cancelled` run: `user` or `nobody_followed`. `usage` has `voided_tokens` if answers of the
    model were cut off and do not count (`RunResumed`).
    """

    result: Any = None
    duration: float = 0.0
    status: str = ""
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    reason: str | None = None


class Error(Struct, frozen=True):
    """The run has failed. `retry_after` is the model server's own Retry-After, in seconds.

    `usage` is what the run had used by then, if a model's server has counted it. `reason` is what ended a run from
    outside: `deadline` or `shutdown`.
    """

    error_type: str = ""
    message: str = ""
    retry_after: int | None = None
    usage: dict[str, int] | None = None
    reason: str | None = None


Payload = (
    AgentStart
    | StepStart
    | StepFinish
    | Thinking
    | LLMChunk
    | ToolCallStart
    | ToolCallFinish
    | Progress
    | InputRequested
    | InputAnswered
    | UserMessage
    | RunResumed
    | AgentFinish
    | Error
)

_PAYLOADS: dict[str, type[Payload]] = {
    "AGENT_START": AgentStart,
    "STEP_START": StepStart,
    "STEP_FINISH": StepFinish,
    "THINKING": Thinking,
    "LLM_CHUNK": LLMChunk,
    "TOOL_CALL_START": ToolCallStart,
    "TOOL_CALL_FINISH": ToolCallFinish,
    "PROGRESS": Progress,
    "INPUT_REQUESTED": InputRequested,
    "INPUT_ANSWERED": InputAnswered,
    "USER_MESSAGE": UserMessage,
    "RUN_RESUMED": RunResumed,
    "AGENT_FINISH": AgentFinish,
    "ERROR": Error,
}


EVENT_TYPES = tuple(_PAYLOADS)
"""The protocol's own event types. An agent may send types of its own beside them."""

INPUT_TYPES = frozenset({"INPUT_REQUESTED", "INPUT_ANSWERED", "USER_MESSAGE"})
"""The types of questions to the user, their answers, and messages to the run."""


class Event(Struct):
    """One event of a run, as PROTOCOL.md, section 1, has it.

    `type` is one of `EVENT_TYPES` or an agent's own, `data` a JSON object, `timestamp` RFC 3339, `metadata` a JSON
    object beside the data, and `id` the cursor after it. Raises `ValueError` for an ill-formed type.
    """

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    timestamp: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if self.type not in _PAYLOADS and not is_event_type(self.type):
            raise ValueError(f"An event's `type` must match [A-Z][A-Z0-9_]*, not {self.type!r}.")

    @property
    def payload(self) -> Payload | None:
        """`data` as the Struct of the event's type; None for an agent's own type.

        A key that an agent left out has an empty value, one that nobody knows is left aside. Raises `ProtocolError`
        if a value is of another type than the protocol's.
        """
        kind = _PAYLOADS.get(self.type)
        try:
            return None if kind is None else msgspec.convert(self.data, kind)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"The data of the {self.type} is not valid. {error}") from None


class Snapshot(Struct, frozen=True):
    """What a run's events up to number `seq` come to; PROTOCOL.md, section 3, has the keys of `state`."""

    seq: int
    state: dict[str, Any]


_decode = msgspec.json.Decoder(Event).decode


def decode_event(text: str) -> Event:
    """Return the event in its JSON. Raise `ProtocolError` for any other text."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ProtocolError(f"The server sent an event that is not well-formed: {error}.") from None


def is_terminal(event: Event) -> bool:
    """Return whether the event is its run's last."""
    return event.type in TERMINAL_TYPES
