"""The one state machine of all formats: the text, reasoning, tool calls and step that are open in a run.

Other people's clients break on a delta without its start, a result without its call or an end too few; an agent may
yield its events in any order. `Parts` takes any sequence of events and gives one in which everything is opened before
it is used, closed before the end, and named once. An answer that was never told but in the run's result is a text at
its end. It knows no format.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from twinwire.protocol.events import TERMINAL_TYPES, StreamEvent
from twinwire.protocol.fold import as_text

Kind = Literal["text", "reasoning"]

UNANSWERED = "the run ended before this call did"
VOID = "this call was cut off, and does not count"
YES = "approve"
MAX_CALLS = 1000
"""Calls that are open at once: each follower keeps them. Over it the oldest one is told as unanswered."""


class Begin(Struct, frozen=True):
    """The run begins; always the first part."""

    run_id: str


class Open(Struct, frozen=True):
    """A text or a piece of reasoning begins."""

    kind: Kind
    id: str


class Delta(Struct, frozen=True):
    """The next piece of a text or a reasoning, never empty."""

    kind: Kind
    id: str
    text: str


class Close(Struct, frozen=True):
    """A text or a reasoning is complete."""

    kind: Kind
    id: str


class StepBegin(Struct, frozen=True):
    """A step begins; at most one is open."""

    name: str


class StepEnd(Struct, frozen=True):
    """A step ends."""

    name: str


class Call(Struct, frozen=True):
    """A tool is called with these parameters."""

    id: str
    name: str
    parameters: dict[str, Any]


class Answer(Struct, frozen=True):
    """The outcome of a call: any JSON, mostly a text. `ok` is False if it failed."""

    id: str
    result: Any
    ok: bool


class Question(Struct, frozen=True):
    """The run asks its user. `id` is that of the question, `data` the data of its INPUT_REQUESTED.

    `call` is the open call that is to be approved; None for a plain question.
    """

    id: str
    call: str | None
    data: dict[str, Any]


class QuestionEnd(Struct, frozen=True):
    """A question is closed. `data` is that of its INPUT_ANSWERED; it is empty if the run ended before."""

    question: Question
    data: dict[str, Any]

    @property
    def rejected(self) -> bool:
        """Return whether it was asked about a call that is not to be made."""
        answer = self.data.get("answer")
        return isinstance(answer, dict) and self.question.call is not None and answer.get("decision") != YES

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters that a call is made with, which its user may have edited."""
        for said in (self.data.get("answer"), self.question.data):
            if isinstance(said, dict) and isinstance(parameters := said.get("parameters"), dict):
                return parameters
        return {}


class UserMessage(Struct, frozen=True):
    """A message of the user's to the run: the data of its USER_MESSAGE."""

    id: str
    data: dict[str, Any]


class Void(Struct, frozen=True):
    """Another process goes on with the run. What came after event `after` does not count, but for what its user said.

    All texts, reasonings and calls are closed. `data` is that of the RUN_RESUMED.
    """

    id: str
    after: int
    data: dict[str, Any]


class Note(Struct, frozen=True):
    """An event that opens and closes nothing: PROGRESS, a type of the agent's own, a RUN_RESUMED that voids nothing."""

    type: str
    data: dict[str, Any]


class TurnEnd(Struct, frozen=True):
    """The run waits for its user; always the last part of a turn. `questions` are the open ones, oldest first."""

    questions: list[Question]


class End(Struct, frozen=True):
    """The terminal event; always the last part."""

    type: str
    data: dict[str, Any]


_USAGE = {
    "inputTokens": "prompt_tokens",
    "outputTokens": "completion_tokens",
    "totalTokens": "total_tokens",
    "cachedInputTokens": "cached_tokens",
    "reasoningTokens": "reasoning_tokens",
}


def usage(data: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens in the data of a terminal event, named as the AI SDK and AG-UI name them."""
    told = data.get("usage")
    known = told if isinstance(told, dict) else {}
    return {theirs: known[ours] for theirs, ours in _USAGE.items() if type(known.get(ours)) is int}


def seconds(event: StreamEvent) -> float:
    """Return the event's time in seconds since 1970; 0 if an agent gave it a time that is none."""
    try:
        return datetime.fromisoformat(event.timestamp).timestamp()
    except (ValueError, OverflowError):
        return 0.0


Part: TypeAlias = (
    Begin
    | Open
    | Delta
    | Close
    | StepBegin
    | StepEnd
    | Call
    | Answer
    | Question
    | QuestionEnd
    | UserMessage
    | Void
    | Note
    | TurnEnd
    | End
)


class Parts:
    """The state of one run, from its first event on.

    The ids of texts, reasonings and calls are the id of the event that opened them, `<run>-<number>`: unique in all
    runs, and the same whenever the run is read. A model's own ids of calls repeat from step to step.
    """

    def __init__(self) -> None:
        self._begun = False
        self._kind: Kind | None = None
        self._id = ""
        self._step: str | None = None
        self._steps = 0
        self._calls: dict[str, str] = {}  # open ones: our id, and the event's
        self._questions: dict[str, Question] = {}  # open ones
        self._quiet = False  # the agent itself has told nothing since the newest question
        self._spoken = False  # there was a text since the newest step began

    @property
    def waiting(self) -> bool:
        """Return whether the run waits for its user, as far as a turn can tell.

        That is more often than by PROTOCOL.md, section 10: a call's result, progress and an agent's own types do not
        count, and of the open calls that are not to be approved each may be the one that asks a plain question.
        """
        if not (self._quiet and self._questions):
            return False
        asked = [question.data for question in self._questions.values() if question.call is not None]
        approvals = {str(data.get("tool_call_id")) for data in asked}
        at_work = sum(theirs not in approvals for theirs in self._calls.values())
        return at_work <= len(self._questions) - len(asked)

    def end_turn(self) -> list[Part]:
        """Return what ends a turn, if the run waits; else nothing. All that is said after it is another turn's."""
        if not self.waiting:
            return []
        step: list[Part] = [] if self._step is None else [StepEnd(self._step)]
        return [*step, TurnEnd(list(self._questions.values()))]

    def take(self, event: StreamEvent) -> list[Part]:
        """Return the parts of the run's next event. Never raises for an odd event."""
        where, data = event.id.removeprefix("evt-"), event.data
        parts: list[Part] = []
        if not self._begun:
            self._begun = True
            parts.append(Begin(where.rpartition("-")[0]))
        match event.type:
            case "AGENT_START":
                pass
            case "LLM_CHUNK":
                content = data.get("content")
                self._more(parts, "text", where, content if isinstance(content, str) else data.get("delta"))
            case "THINKING":
                self._more(parts, "reasoning", where, data.get("content"))
            case "STEP_START":
                self._end_step(parts)
                self._quiet = self._spoken = False
                self._steps += 1
                step = data.get("step")
                self._step = f"step {step if isinstance(step, int) else self._steps}"
                parts.append(StepBegin(self._step))
            case "STEP_FINISH":
                self._end_step(parts)
                self._quiet = False
            case "TOOL_CALL_START":
                self._close(parts)
                self._quiet = False
                self._call(parts, where, data)
            case "TOOL_CALL_FINISH":
                asked = str(data.get("tool_call_id"))
                if (call := next((ours for ours, theirs in self._calls.items() if theirs == asked), None)) is None:
                    self._close(parts)
                    self._quiet = False
                    call = self._call(parts, where, data)
                del self._calls[call]
                parts.append(Answer(call, data.get("result"), data.get("status") != "error"))
            case "INPUT_REQUESTED" | "INPUT_ANSWERED":
                self._ask(parts, event.type, where, data)
            case "USER_MESSAGE":
                parts.append(UserMessage(where, data))
            case "RUN_RESUMED" if type(after := data.get("void_after")) is int:
                self._void(parts, Void(where, after, data))
            case kind if kind in TERMINAL_TYPES:
                self._end(parts, kind, where, data)
            case kind:
                parts.append(Note(kind, data))
        return parts

    def _end(self, parts: list[Part], kind: str, where: str, data: dict[str, Any]) -> None:
        self._close(parts)
        parts += [QuestionEnd(question, {}) for question in self._questions.values()]
        self._questions.clear()
        self._give_up(parts, UNANSWERED)
        whole = kind == "AGENT_FINISH" and data.get("status") != "cancelled"
        if whole and not self._spoken:  # the answer is in the result alone
            self._more(parts, "text", where, as_text(data.get("result")))
        self._end_step(parts)
        parts.append(End(kind, data))

    def _void(self, parts: list[Part], void: Void) -> None:
        self._close(parts)
        self._give_up(parts, VOID)
        self._quiet, self._spoken = False, bool(void.data.get("text"))
        parts.append(void)

    def _give_up(self, parts: list[Part], why: str) -> None:
        """End the calls that are open without a result."""
        parts += [Answer(call, why, ok=False) for call in self._calls]
        self._calls.clear()

    def _more(self, parts: list[Part], kind: Kind, where: str, text: Any) -> None:
        if not isinstance(text, str) or not text:
            return
        self._quiet = False
        self._spoken = self._spoken or kind == "text"
        if self._kind != kind:
            self._close(parts)
            self._kind, self._id = kind, where
            parts.append(Open(kind, where))
        parts.append(Delta(kind, self._id, text))

    def _close(self, parts: list[Part]) -> None:
        if self._kind is not None:
            parts.append(Close(self._kind, self._id))
            self._kind = None

    def _end_step(self, parts: list[Part]) -> None:
        self._close(parts)
        if self._step is not None:
            parts.append(StepEnd(self._step))
            self._step = None

    def _call(self, parts: list[Part], where: str, data: dict[str, Any]) -> str:
        if len(self._calls) >= MAX_CALLS:
            oldest = next(iter(self._calls))
            del self._calls[oldest]
            parts.append(Answer(oldest, UNANSWERED, ok=False))
        name, parameters = data.get("tool_name"), data.get("parameters")
        self._calls[where] = str(data.get("tool_call_id"))
        known = name if isinstance(name, str) and name else "tool"
        parts.append(Call(where, known, parameters if isinstance(parameters, dict) else {}))
        return where

    def _ask(self, parts: list[Part], kind: str, where: str, data: dict[str, Any]) -> None:
        input_id = data.get("input_id")
        if not isinstance(input_id, str) or not input_id:
            return
        if kind == "INPUT_ANSWERED":
            if (question := self._questions.pop(input_id, None)) is not None:
                parts.append(QuestionEnd(question, data))
            return
        self._close(parts)
        self._quiet = True
        call = None
        if data.get("kind") == "approval":
            asked = str(data.get("tool_call_id"))
            call = next((ours for ours, theirs in self._calls.items() if theirs == asked), None)
            call = call or self._call(parts, where, data)
        if (known := self._questions.get(input_id)) is None or known.call != call:  # else it is asked once more
            question = self._questions[input_id] = Question(input_id, call, data)
            parts.append(question)
