"""The state of a run so far, folded from its events: the same that `GET /runs/{run_id}/snapshot` gives.

Pure, and total: an odd event of somebody's own agent changes what can be read from it and never raises. The fold does
not check the order of events; `run` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinwire_client.events import INPUT_TYPES, Event

_STATUSES = ("completed", "incomplete", "cancelled", "max_steps")
"""The statuses of AGENT_FINISH. Any other one counts as the first."""

_BLANK: dict[str, Any] = {
    "text": "",
    "thinking": "",
    "step": None,
    "max_steps": None,
    "progress": None,
    "tools": {},
    "usage": None,
    "status": "running",
    "result": None,
    "error_type": None,
    "error": None,
    "reason": None,
    "questions": [],
    "waiting": False,
}


def _text(data: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these values that is a text."""
    return next((value for name in names if isinstance(value := data.get(name), str)), None)


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _asked(question: Mapping[str, Any]) -> str | None:
    """Return the id of the tool call that a question is about, if it is an approval."""
    return _text(question, "tool_call_id") if question.get("kind") == "approval" else None


class Fold:
    """The state that a run's events have come to, from its first event on, or from a snapshot's `state`.

    `apply` each event of a run in turn; `state` is a JSON object whose keys PROTOCOL.md, section 3, has. After the
    terminal event nothing changes any more.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._state = {**_BLANK, **(state or {})}
        self._state["tools"] = dict(self._state["tools"])
        # Nothing but input and ends of tool calls has come since the newest question. A snapshot does not tell that
        # while a call is at work beside it; then it is taken to be so.
        self._quiet = self._state["waiting"] or not self._covered
        self._answer = [self._state["text"]]  # in parts: a text that grows by itself would be copied for each
        self._thinking = [self._state["thinking"]]

    @property
    def state(self) -> dict[str, Any]:
        """The state so far, which later events do not change; what is unknown is None."""
        self._answer = ["".join(self._answer)]
        self._thinking = ["".join(self._thinking)]
        copies = {"tools": dict(self._state["tools"]), "questions": list(self._state["questions"])}
        told = {"text": self._answer[0], "thinking": self._thinking[0], "waiting": self.waiting}
        return {**self._state, **told, **copies}

    @property
    def waiting(self) -> bool:
        """True if the run waits for its user: nothing can come of it before an answer."""
        return self._quiet and bool(self._state["questions"]) and self._covered

    @property
    def _covered(self) -> bool:
        """True if each open tool call has an open approval."""
        questions, tools = self._state["questions"], self._state["tools"]
        return set(tools) <= {_asked(each) for each in questions}

    def apply(self, event: Event) -> None:
        """Take in the run's next event."""
        state = self._state
        data: Any = event.data
        if state["status"] != "running":
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
        match event.type:
            case "LLM_CHUNK":
                self._answer.append(_text(data, "content", "delta") or "")
            case "THINKING":
                self._thinking.append(_text(data, "content") or "")
            case "STEP_START":
                self._answer, self._thinking = [], []
                state["step"] = _count(data.get("step"), state["step"])
                state["max_steps"] = _count(data.get("max_steps"), state["max_steps"])
            case "AGENT_START":
                state["max_steps"] = _count(data.get("max_steps"), state["max_steps"])
            case "TOOL_CALL_START":
                self._open(data)
            case "TOOL_CALL_FINISH":
                state["tools"].pop(_text(data, "tool_call_id") or "", None)
            case "PROGRESS":
                progress = data.get("progress")
                if isinstance(progress, int | float) and not isinstance(progress, bool) and 0 <= progress <= 100:
                    state["progress"] = progress
            case "AGENT_FINISH" | "ERROR":
                self._finish(event.type, data)

    def _hear(self, kind: str, data: dict[str, Any]) -> None:
        state, input_id = self._state, _text(data, "input_id")
        asked = next((each for each in state["questions"] if each["input_id"] == input_id), None)
        if kind == "INPUT_REQUESTED" and input_id is not None:
            state["questions"] = [each for each in state["questions"] if each is not asked] + [data]
            self._quiet = True
        elif kind == "INPUT_ANSWERED" and asked is not None:
            state["questions"] = [each for each in state["questions"] if each is not asked]
            self._edit(_asked(asked), data.get("answer"))

    def _resume(self, data: dict[str, Any]) -> None:
        """Take in that another process goes on: after the last event that counts, or else with all that there is."""
        if _count(data.get("void_after"), None) is not None:
            self._quiet = False
            self._state["tools"].clear()
            self._answer = [_text(data, "text") or ""]
            self._thinking = [_text(data, "thinking") or ""]

    def _edit(self, call_id: str | None, answer: Any) -> None:
        """Have an open tool call, which was approved with other parameters, show those."""
        tools = self._state["tools"]
        if call_id in tools and isinstance(answer, dict) and isinstance(answer.get("parameters"), dict):
            tools[call_id] = {**tools[call_id], "parameters": answer["parameters"]}

    def _open(self, data: dict[str, Any]) -> None:
        call_id, parameters = _text(data, "tool_call_id"), data.get("parameters")
        if call_id is not None:
            known = parameters if isinstance(parameters, dict) else {}
            self._state["tools"][call_id] = {"name": _text(data, "tool_name") or "", "parameters": known}

    def _finish(self, kind: str, data: dict[str, Any]) -> None:
        state, usage, status = self._state, data.get("usage"), data.get("status")
        state["tools"].clear()
        state["questions"] = []
        state["usage"] = usage if isinstance(usage, dict) else None
        state["reason"] = _text(data, "reason")
        if kind == "ERROR":
            state["status"] = "error"
            state["error_type"] = _text(data, "error_type") or "agent_error"
            state["error"] = _text(data, "message", "error") or ""
        else:
            state["status"] = status if status in _STATUSES else _STATUSES[0]
            state["result"] = data.get("result")
