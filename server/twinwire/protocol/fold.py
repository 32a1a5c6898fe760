"""The state of a run so far, folded from its events: for partial results, snapshots and history.

Pure, and total: an odd event of somebody's own agent changes what can be read from it and never raises. It does
not check the order of events or their numbers; that is the log's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from msgspec import Struct, field

from twinwire.protocol.events import INPUT_TYPES, TERMINAL_TYPES, StreamEvent, dump

STATUSES = ("completed", "incomplete", "cancelled", "max_steps")
"""The statuses of AGENT_FINISH. Any other one counts as the first."""


def as_text(result: Any) -> str:
    """Return a run's result as a text: itself if it is one, nothing if it is null, and JSON for anything else."""
    if result is None or isinstance(result, str):
        return result or ""
    return dump(result).decode()


def _text(data: dict[str, Any], *names: str) -> str | None:
    """Return the first of these values that is a text."""
    return next((value for name in names if isinstance(value := data.get(name), str)), None)


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _add(text: bytearray, more: str) -> None:
    """Add to a text that is kept in UTF-8: as a string, one emoji would make it take four times its bytes."""
    text += more.encode("utf-8", "surrogatepass")


def _asked(question: dict[str, Any]) -> str | None:
    """Return the id of the tool call that a question is about, if it is an approval."""
    return _text(question, "tool_call_id") if question.get("kind") == "approval" else None


class Fold(Struct):
    """The state that a run's events have come to; `state` is the same as a JSON object.

    `status` is `running`, `completed`, `incomplete`, `cancelled`, `max_steps` or `error`. `result` is the finished
    answer, `error_type` and `error` what an ERROR told, `reason` who ended the run, if not the agent. `tools` are the
    open tool calls by id, none after the end; each is `{"name", "parameters"}`. `questions` are the open ones, oldest
    first, each the data of its INPUT_REQUESTED; `waiting` is as PROTOCOL.md, section 10, has it.
    A RUN_RESUMED whose `void_after` is a number takes back what the current step has said and called, but for what it
    says of that itself. After the terminal event nothing changes any more.
    """

    step: int | None = None
    max_steps: int | None = None
    progress: float | None = None
    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    status: str = "running"
    result: Any = None
    error_type: str | None = None
    error: str | None = None
    reason: str | None = None
    questions: list[dict[str, Any]] = field(default_factory=list)
    _quiet: bool = False  # nothing but input and ends of tool calls has come since the newest question
    _answer: bytearray = field(default_factory=bytearray)
    _thinking: bytearray = field(default_factory=bytearray)
    _before: int = 0  # bytes of the steps before
    _finished: int = -1  # bytes of all steps when the newest was finished

    @property
    def text(self) -> str:
        """The answer of the current step so far; of an agent without steps, all that it answered."""
        return self._answer.decode("utf-8", "surrogatepass")

    @property
    def thinking(self) -> str:
        """The reasoning of the current step so far, as `text`."""
        return self._thinking.decode("utf-8", "surrogatepass")

    @property
    def waiting(self) -> bool:
        """True if the run waits for its user: nothing can come of it before an answer."""
        return self._quiet and bool(self.questions) and self.tools.keys() <= {_asked(each) for each in self.questions}

    @property
    def quiet(self) -> bool:
        """True if nothing but input and ends of tool calls has come since the newest question."""
        return self._quiet

    @property
    def said(self) -> int:
        """The bytes of all answers and thoughts of the run so far, in UTF-8."""
        return self._before + len(self._answer) + len(self._thinking)

    @property
    def kept(self) -> dict[str, str]:
        """Return the `text` and `thinking` of a step that is not finished, as a RUN_RESUMED tells what of them counts.

        What is empty is left out.
        """
        said = {} if self.said == self._finished else {"text": self.text, "thinking": self.thinking}
        return {name: text for name, text in said.items() if text}

    @property
    def state(self) -> dict[str, Any]:
        """Everything above as one JSON object, which later events do not change; what is unknown is null."""
        known = {name: getattr(self, name) for name in self.__struct_fields__ if not name.startswith("_")}
        copies = {"tools": dict(self.tools), "questions": list(self.questions)}
        return {"text": self.text, "thinking": self.thinking, **known, **copies, "waiting": self.waiting}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """Return the fold that had come to this `state`, to be gone on with."""
        fold = cls(**{name: state[name] for name in cls.__struct_fields__ if not name.startswith("_")})
        fold._quiet = state["waiting"]
        _add(fold._answer, state["text"])
        _add(fold._thinking, state["thinking"])
        return fold

    def say(self, text: str) -> None:
        """Take in an LLM_CHUNK with this increment, before the run's end and with no question open."""
        _add(self._answer, text)

    def apply(self, event: StreamEvent) -> None:
        """Take in the run's next event. Never raises; what cannot be read is left out."""
        data: Any = event.data
        if self.status != "running":
            return
        if not isinstance(data, dict):
            data = {}
        if event.type in INPUT_TYPES:
            self._hear(event.type, data)
            return
        if event.type == "RUN_RESUMED":
            self._resume(data)
            return
        self._quiet = self._quiet and event.type == "TOOL_CALL_FINISH"
        if event.type == "LLM_CHUNK":
            content = data.get("content")
            _add(self._answer, content if isinstance(content, str) else _text(data, "delta") or "")
        elif event.type == "THINKING":
            content = data.get("content")
            _add(self._thinking, content if isinstance(content, str) else "")
        elif event.type == "STEP_START":
            self._before = self.said
            self._clear()
            self.step = _count(data.get("step"), self.step)
            self.max_steps = _count(data.get("max_steps"), self.max_steps)
        elif event.type in TERMINAL_TYPES:
            self._finish(event.type, data)
        else:
            self._note(event.type, data)

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        input_id = _text(data, "input_id")
        if input_id is None:
            return
        if kind == "INPUT_REQUESTED":
            self.questions = [each for each in self.questions if each["input_id"] != input_id] + [data]
            self._quiet = True
        elif kind == "INPUT_ANSWERED":
            asked = next((each for each in self.questions if each["input_id"] == input_id), None)
            if asked is None:
                return
            self.questions = [each for each in self.questions if each is not asked]
            self._edit(_asked(asked), data.get("answer"))

    def _resume(self, data: dict[str, Any]) -> None:
        """Take in that another process goes on: after the last event that counts, or else with all that there is."""
        if _count(data.get("void_after"), None) is None:
            return
        self._quiet = False
        self.tools.clear()
        self._clear()
        _add(self._answer, _text(data, "text") or "")
        _add(self._thinking, _text(data, "thinking") or "")

    def _clear(self) -> None:
        self._answer.clear()
        self._thinking.clear()
        self._finished = -1

    def _edit(self, call_id: str | None, answer: Any) -> None:
        """Have an open tool call, which was approved with other parameters, show those."""
        if call_id in self.tools and isinstance(answer, dict) and isinstance(answer.get("parameters"), dict):
            self.tools[call_id] = {**self.tools[call_id], "parameters": answer["parameters"]}

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "AGENT_START":
            self.max_steps = _count(data.get("max_steps"), self.max_steps)
        elif kind == "TOOL_CALL_START":
            call_id, name, parameters = _text(data, "tool_call_id"), _text(data, "tool_name"), data.get("parameters")
            if call_id is not None:
                known = parameters if isinstance(parameters, dict) else {}
                self.tools[call_id] = {"name": name or "", "parameters": known}
        elif kind == "TOOL_CALL_FINISH":
            self.tools.pop(_text(data, "tool_call_id") or "", None)
        elif kind == "STEP_FINISH":
            self._finished = self.said
        elif kind == "PROGRESS":
            progress = data.get("progress")
            if isinstance(progress, int | float) and not isinstance(progress, bool) and 0 <= progress <= 100:
                self.progress = progress

    def _finish(self, kind: str, data: dict[str, Any]) -> None:
        self.tools.clear()
        self.questions = []
        usage = data.get("usage")
        self.usage = usage if isinstance(usage, dict) else None
        self.reason = _text(data, "reason")
        if kind == "ERROR":
            self.status = "error"
            self.error_type = _text(data, "error_type") or "agent_error"
            self.error = _text(data, "message", "error") or ""
            return
        status = data.get("status")
        self.status = status if status in STATUSES else STATUSES[0]
        self.result = data.get("result")
