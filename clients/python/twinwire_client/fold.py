"""The state of a run so far, folded from its events: the same that `GET /runs/{run_id}/snapshot` gives.

Pure, and total: an odd event of somebody's own agent changes what can be read from it and never raises. The fold does
not check the order of events; `run` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinwire_client.events import Event

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
}


def _text(data: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these values that is a text."""
    return next((value for name in names if isinstance(value := data.get(name), str)), None)


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


class Fold:
    """The state that a run's events have come to, from its first event on, or from a snapshot's `state`.

    `apply` each event of a run in turn; `state` is a JSON object whose keys PROTOCOL.md, section 3, has. After the
    terminal event nothing changes any more.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self._state = {**_BLANK, **(state or {})}
        self._state["tools"] = dict(self._state["tools"])
        self._answer = [self._state["text"]]  # in parts: a text that grows by itself would be copied for each
        self._thinking = [self._state["thinking"]]

    @property
    def state(self) -> dict[str, Any]:
        """The state so far, which later events do not change; what is unknown is None."""
        self._answer = ["".join(self._answer)]
        self._thinking = ["".join(self._thinking)]
        tools = dict(self._state["tools"])
        return {**self._state, "text": self._answer[0], "thinking": self._thinking[0], "tools": tools}

    def apply(self, event: Event) -> None:
        """Take in the run's next event."""
        state = self._state
        data: Any = event.data
        if state["status"] != "running":
            return
        if not isinstance(data, dict):
            data = {}
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

    def _open(self, data: dict[str, Any]) -> None:
        call_id, parameters = _text(data, "tool_call_id"), data.get("parameters")
        if call_id is not None:
            known = parameters if isinstance(parameters, dict) else {}
            self._state["tools"][call_id] = {"name": _text(data, "tool_name") or "", "parameters": known}

    def _finish(self, kind: str, data: dict[str, Any]) -> None:
        state, usage, status = self._state, data.get("usage"), data.get("status")
        state["tools"].clear()
        state["usage"] = usage if isinstance(usage, dict) else None
        state["reason"] = _text(data, "reason")
        if kind == "ERROR":
            state["status"] = "error"
            state["error_type"] = _text(data, "error_type") or "agent_error"
            state["error"] = _text(data, "message", "error") or ""
        else:
            state["status"] = status if status in _STATUSES else _STATUSES[0]
            state["result"] = data.get("result")
