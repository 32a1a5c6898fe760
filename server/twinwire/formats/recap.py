"""Events that come to the same as those that a log has trimmed: a format that begins with a run's start has these.

They are of no log. Their ids have names instead of numbers, the same whenever the state is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinwire.protocol.events import StreamEvent

TRIMMED = "TRIMMED"
"""The type of the event that tells of it: `upto` is the number up to which single events are not shown."""


def recap(run_id: str, agent: str, created: str, seq: int, state: Mapping[str, Any]) -> list[StreamEvent]:
    """Return events that come to a run's state after event number `seq` (`Fold.state`), but for its end.

    `created` is when the run began. Of a run that waits for its user the questions come last, as they did.
    """

    def event(name: str, kind: str, data: dict[str, Any]) -> StreamEvent:
        return StreamEvent(kind, data, created, {}, f"evt-{run_id}-{name}")

    step, most = state["step"], {"max_steps": state["max_steps"]}
    steps = [] if step is None else [event(f"{step}", "STEP_START", {"step": step, **most})]
    said = [
        event(f"{step or 0}-{name}", kind, {"content": state[name]})
        for name, kind in (("thinking", "THINKING"), ("text", "LLM_CHUNK"))
        if state[name]
    ]
    asked: list[StreamEvent] = []
    for call_id, call in state["tools"].items():
        data = {"tool_call_id": call_id, "tool_name": call["name"], "parameters": call["parameters"]}
        asked.append(event(call_id, "TOOL_CALL_START", data))
    asked += [event(question["input_id"], "INPUT_REQUESTED", question) for question in state["questions"]]
    start, told = event("0", "AGENT_START", {"config": {"agent": agent}, **most}), event("0", TRIMMED, {"upto": seq})
    return [start, told, *steps, *said, *asked] if state["waiting"] else [start, *asked, told, *steps, *said]
