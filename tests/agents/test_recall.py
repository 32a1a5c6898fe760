"""What becomes of a tool call during which the process of its run has ended, by what its log has of the call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support.scripted import CALLS, STOP, Batch, Echo, Scripted, collect, named, types
from support.talks import PlayedTalk, yes
from twinwire import Call, Decision, InputExpired, ReActAgent, RunRequest, StreamEvent, ToolRegistry
from twinwire.agents.calls import UNKNOWN
from twinwire.agents.state import PlannedCall, ReActState, WholeAnswer
from twinwire.models import Finish, Text, ToolCall
from twinwire.protocol.errors import CursorGone
from twinwire.protocol.events import dump
from twinwire.tools import Effects

EFFECTS: Sequence[Effects] = ("none", "idempotent", "once")
PARAMETERS = {"text": "hi"}
EDITED = {"text": "bye"}


class Cut:
    """A `Past` whose agent has kept this state, after which the log has these events."""

    epoch = 1
    after = 4
    trimmed = False

    def __init__(self, state: ReActState, *events: StreamEvent) -> None:
        self.state = json.loads(dump(state))
        self._events = events

    async def events(self, after: int = 0, *, void: bool = False) -> AsyncIterator[StreamEvent]:
        assert (after, void) == (4, self.state["answer"] is None)
        for event in self._events:
            yield event


def calling(planned: PlannedCall) -> ReActState:
    """Return the state of a run before the tools of its first step, with this call."""
    return ReActState(answer=WholeAnswer("Look.", Finish("tool_calls", None, {"reasoning_content": "hm"}), [planned]))


def ended(result: str, status: str = "ok") -> StreamEvent:
    data = {"tool_call_id": "c1", "tool_name": "echo", "result": result, "status": status, "duration": 2.5}
    return StreamEvent("TOOL_CALL_FINISH", data)


ASKED = StreamEvent("INPUT_REQUESTED", {"input_id": "i1", "kind": "approval", "tool_call_id": "c1"})


def answered(**data: Any) -> StreamEvent:
    return StreamEvent("INPUT_ANSWERED", {"input_id": "i1", **data})


APPROVED = answered(answer={"decision": "approve"})
CHANGED = answered(answer={"decision": "approve", "parameters": EDITED})
REJECTED = answered(answer={"decision": "reject", "reason": "no"})
NOTE = 'The user changed the parameters of this call to {"text":"bye"}.\n\n'


async def resumed(
    effects: Effects, events: Sequence[StreamEvent], talk: PlayedTalk, *, approval: bool
) -> tuple[list[StreamEvent], Scripted, Echo]:
    """Return the events of the process that goes on, the model that it asked, and the tool."""
    echo, tools = Echo(), ToolRegistry()
    echo.effects = effects
    tools.register_tool(echo, approval=approval)
    planned = PlannedCall(ToolCall("c1", "echo", json.dumps(PARAMETERS), {"signature": "s"}), approval=approval)
    model = Scripted([[Text("Done.")], STOP])
    request = RunRequest("go", run_id="r", talk=talk, past=Cut(calling(planned), *events))
    return await collect(ReActAgent("bot", model, tools)(request)), model, echo


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize(("result", "status", "told"), [("hi", "ok", "hi"), ("no", "error", "Error: no")])
async def test_a_call_that_has_ended(effects: Effects, result: str, status: str, told: str) -> None:
    """It keeps its result and status, is not told again, and the model gets them with its answer's own state."""
    events, model, echo = await resumed(effects, [ended(result, status)], PlayedTalk(), approval=False)
    assert echo.runs == 0
    assert types(events) == ("AGENT_START STEP_FINISH PROGRESS STEP_START LLM_CHUNK STEP_FINISH PROGRESS AGENT_FINISH")
    function = {"name": "echo", "arguments": json.dumps(PARAMETERS)}
    asked = {"id": "c1", "type": "function", "function": function, "signature": "s"}
    said = {"role": "assistant", "content": "Look.", "reasoning_content": "hm", "tool_calls": [asked]}
    assert model.asked[0][0][-2:] == [said, {"role": "tool", "tool_call_id": "c1", "content": told}]


@pytest.mark.parametrize(("effects", "runs"), [("none", 1), ("idempotent", 1), ("once", 0)])
async def test_a_call_that_may_have_begun(effects: Effects, runs: int) -> None:
    """It is made again if its tool allows that; else its outcome is unknown, and the model is told what to do."""
    events, model, echo = await resumed(effects, [], PlayedTalk(), approval=False)
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert (echo.runs, finish["tool_call_id"]) == (runs, "c1")
    assert (finish["status"], finish["result"]) == (("ok", "hi") if runs else ("error", UNKNOWN))
    assert model.asked[0][0][-1]["content"] == ("hi" if runs else f"Error: {UNKNOWN}")


@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("events", [[], [ASKED], [ASKED, answered(expired=True)]], ids=["not asked", "open", "expired"])
async def test_a_call_that_was_not_approved_yet(effects: Effects, events: list[StreamEvent]) -> None:
    """It never began: the user is asked, as the model meant the call, and then it is run."""
    talk = PlayedTalk(yes)
    told, _, echo = await resumed(effects, events, talk, approval=True)
    assert talk.asked == [Call("c1", "echo", PARAMETERS)]
    assert (echo.runs, [data["result"] for data in named(told, "TOOL_CALL_FINISH")]) == (1, ["hi"])


@pytest.mark.parametrize("effects", EFFECTS)
async def test_a_call_that_was_rejected(effects: Effects) -> None:
    """It is not run, whatever its tool does, and the model has the reason."""

    async def no(call: Call) -> Decision:
        return Decision(False, call.parameters, "no")

    _, model, echo = await resumed(effects, [ASKED, REJECTED], PlayedTalk(no), approval=True)
    assert (echo.runs, model.asked[0][0][-1]["content"]) == (0, "Error: The user refused this call: no.")


@pytest.mark.parametrize("effects", EFFECTS)
async def test_a_call_that_nobody_decided_about(effects: Effects) -> None:
    """A question that nobody has answered in time stays unanswered, and the call is not run."""

    async def late(_: Call) -> Decision:
        raise InputExpired

    _, model, echo = await resumed(effects, [ASKED, answered(expired=True)], PlayedTalk(late), approval=True)
    assert echo.runs == 0
    assert "requires the user's approval and was not run" in model.asked[0][0][-1]["content"]


@pytest.mark.parametrize(("answer", "note"), [(APPROVED, ""), (CHANGED, NOTE)], ids=["approved", "changed"])
@pytest.mark.parametrize("effects", EFFECTS)
@pytest.mark.parametrize("end", [[], [ended("bye")]], ids=["cut", "ended"])
async def test_a_call_that_was_approved(
    answer: StreamEvent, note: str, effects: Effects, end: list[StreamEvent]
) -> None:
    """It is run as it was approved, or its outcome is unknown; the model is told of parameters that were changed."""

    async def again(call: Call) -> Decision:
        return Decision(True, EDITED if note else call.parameters)

    talk = PlayedTalk(again)
    events, model, echo = await resumed(effects, [ASKED, answer, *end], talk, approval=True)
    repeated = not end and effects != "once"
    assert (len(talk.asked), echo.runs) == (repeated, repeated)
    content = model.asked[0][0][-1]["content"]
    if end:
        assert (content, named(events, "TOOL_CALL_FINISH")) == (f"{note}bye", [])
    elif repeated:
        assert content == f"{note}{'bye' if note else 'hi'}"
    else:
        assert content == f"Error: {note}{UNKNOWN}"


async def test_a_tool_that_is_gone() -> None:
    """A call of a tool that is not registered here may have had effects: its outcome is unknown."""
    planned = PlannedCall(ToolCall("c1", "gone", "{}"))
    model = Scripted([[Text("Done.")], STOP])
    request = RunRequest("go", run_id="r", past=Cut(calling(planned)))
    events = await collect(ReActAgent("bot", model)(request))
    assert [data["result"] for data in named(events, "TOOL_CALL_FINISH")] == [UNKNOWN]


async def test_refusals_stand() -> None:
    """A call that was refused stays so, and its end is not told again, whatever the limits are here."""
    refusal = "Only the first 0 calls of a step are run."
    planned = PlannedCall(ToolCall("c1", "echo", json.dumps(PARAMETERS)), refusal=refusal)
    echo, tools = Echo(), ToolRegistry()
    tools.register_tool(echo)
    model = Scripted([[Text("Done.")], STOP])
    events = await collect(ReActAgent("bot", model, tools)(RunRequest("go", run_id="r", past=Cut(calling(planned)))))
    assert (echo.runs, named(events, "TOOL_CALL_FINISH")) == (0, [])
    assert model.asked[0][0][-1]["content"] == f"Error: {refusal}"


async def test_repetitions_are_counted_across_processes() -> None:
    """A call that was made twice in other processes is refused the third time."""
    echo, tools = Echo(), ToolRegistry()
    tools.register_tool(echo)
    part = ToolCall("c9", "echo", json.dumps(PARAMETERS))
    model = Scripted([[part], CALLS], [[Text("Done.")], STOP])
    twice: Batch = [ToolCall("c1", "echo", '{"text":"hi"}'), ToolCall("c2", "echo", '{ "text": "hi" }')]
    first = Scripted([twice, CALLS], [STOP])
    states: list[Any] = []

    class Keeping:
        kept = True

        async def write(self, state: Any, *, counts: bool) -> None:
            if not counts:
                states.append(json.loads(dump(state)))

    await collect(ReActAgent("bot", first, tools)(RunRequest("go", run_id="r", checkpoints=Keeping())))
    past = Cut(ReActState.restored(*states))
    events = await collect(ReActAgent("bot", model, tools)(RunRequest("go", run_id="r", past=past)))
    assert [data["status"] for data in named(events, "TOOL_CALL_FINISH")] == ["error"]
    assert echo.runs == 2


async def test_a_log_that_was_trimmed() -> None:
    """If the log no longer has what the tools had done, the run ends as interrupted: no call is made twice."""
    echo, tools = Echo(), ToolRegistry()
    tools.register_tool(echo)

    class Trimmed(Cut):
        async def events(self, after: int = 0, *, void: bool = False) -> AsyncIterator[StreamEvent]:
            async for event in super().events(after, void=void):
                yield event
            raise CursorGone(9, 12)

    past = Trimmed(calling(PlannedCall(ToolCall("c1", "echo", json.dumps(PARAMETERS)))))
    events = await collect(ReActAgent("bot", Scripted([STOP]), tools)(RunRequest("go", run_id="r", past=past)))
    assert (events[-1].data["error_type"], echo.runs) == ("interrupted", 0)
