"""The AI SDK's and AG-UI's views of a run that asks its user: turns that end at a question, and what comes after it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from support.formats_rules import RUN, RUNS, ag_ui_messages, ai_sdk_parts, check_ag_ui, datas, records
from twinwire.formats import SseTurnView, ag_ui, ai_sdk
from twinwire.formats.parts import Parts
from twinwire.protocol.events import Record, StreamEvent, decode
from twinwire.protocol.fold import Fold

ASK = f"ask-{RUN}"
SIZES = st.integers(1, 5)
START = StreamEvent("TOOL_CALL_START", {"tool_call_id": "c1", "tool_name": "Delete", "parameters": {"path": "a"}})
FINISH = StreamEvent("TOOL_CALL_FINISH", {"tool_call_id": "c1", "tool_name": "Delete", "result": "gone"})
APPROVAL = StreamEvent(
    "INPUT_REQUESTED", {"input_id": f"{ASK}-1", "kind": "approval", "prompt": "May I?", **START.data}
)
SCHEMA = {"type": "string", "enum": ["main", "dev"]}
QUESTION = StreamEvent(
    "INPUT_REQUESTED",
    {
        "input_id": f"{ASK}-1",
        "kind": "question",
        "prompt": "Which branch?",
        "schema": SCHEMA,
        "expires_at": "2026-02-21T11:30:45.123Z",
    },
)
WORD = StreamEvent("LLM_CHUNK", {"content": "ok"})
END = StreamEvent("AGENT_FINISH", {"result": "ok", "status": "completed"})


def answered(answer: Any) -> StreamEvent:
    return StreamEvent("INPUT_ANSWERED", {"input_id": f"{ASK}-1", "answer": answer, "message_id": "m"})


def asked(run: list[Record]) -> int:
    """The number of the newest question."""
    return max(record.seq for record in run if record.type == "INPUT_REQUESTED")


def values(frames: Any) -> list[dict[str, Any]]:
    return [value for value in datas(frames) if value != "[DONE]"] if frames else []


def kinds(frames: Any) -> list[str]:
    return [value["type"] for value in values(frames)]


@given(RUNS, SIZES)
def test_a_run_that_waits_ends_a_turn(events: list[StreamEvent], size: int) -> None:
    """Wherever a run waits for its user by the protocol, so it does by the formats; once it has ended by neither."""
    fold, parts = Fold(), Parts()
    for event in map(decode, (record.body for record in records(events))):
        call = event.data.get("tool_call_id")
        known = str(call) in fold.tools
        approval = event.type == "INPUT_REQUESTED" and event.data["kind"] == "approval"
        if not known and (event.type == "TOOL_CALL_FINISH" or approval):
            continue  # the formats show such calls, which the fold does not count
        if event.type == "TOOL_CALL_START" and not isinstance(call, str):
            continue
        fold.apply(event)
        parts.take(event)
        assert parts.waiting or not fold.waiting
    assert not parts.waiting


@given(RUNS, SIZES)
def test_ai_sdk_in_turns(events: list[StreamEvent], size: int) -> None:
    """A client that is shown a run in turns has the message in the end which one has that is shown it at once."""
    run = records(events)
    view, seen, shown = ai_sdk.view(), [], 0
    for start in range(0, len(run), size):
        told = values(view.frames(run[start : start + size]))
        seen += told
        shown += sum(chunk["type"] in {"text-start", "reasoning-start", "tool-input-start"} for chunk in told)
        if not view.waiting:
            continue
        *told, done = datas(view.end_turn())
        assert done == "[DONE]"
        assert told[-1] == {"type": "finish", "finishReason": "tool-calls"}
        assert [chunk["type"] for chunk in told[:-1]] in ([], ["finish-step"])
        chunks = ai_sdk.Chunks()
        after = asked(run[: start + size])
        chunks.skip(run[:after])
        assert chunks.shown == shown
        assert chunks.go_on(RUN)["messageId"] == RUN
        view = ai_sdk.view(chunks)
        seen += values(view.frames(run[after : start + size]))
    assert ai_sdk_parts(seen) == ai_sdk_parts(values(ai_sdk.view().frames(run)))


@given(RUNS, SIZES)
def test_ag_ui_in_turns(events: list[StreamEvent], size: int) -> None:
    """Each turn is a whole run to AG-UI's clients, and after the last one they have the same messages."""
    run = records(events)
    view = ag_ui.Late(ag_ui.Events("t", "r1"))
    seen: list[dict[str, Any]] = []
    turns = [seen]
    for start in range(0, len(run), size):
        seen += values(view.frames(run[start : start + size]))
        if not view.waiting:
            continue
        seen += values(view.end_turn())
        check_ag_ui(seen)
        after = asked(run[: start + size])
        view = ag_ui.Late(ag_ui.Events("t", f"r{len(turns) + 1}"))
        view.skip(run[:after])
        seen = values([view.join(), *view.frames(run[after : start + size])])
        turns.append(seen)
    check_ag_ui(seen)
    assert {event["runId"] for event in seen if "runId" in event} == {f"r{len(turns)}"}
    whole = values(SseTurnView(ag_ui.Events()).frames(run))
    assert ag_ui_messages([event for turn in turns for event in turn]) == ag_ui_messages(whole)


def test_an_approval_in_the_ai_sdk() -> None:
    """It is the approval of its call, which the turn ends at; an approved call is shown again, with what was edited."""
    view = ai_sdk.view()
    [*_, request] = values(view.frames(records([START, APPROVAL])))
    call = f"{RUN}-1"
    assert request == {
        "type": "tool-approval-request",
        "approvalId": f"{ASK}-1",
        "toolCallId": call,
        "reason": "May I?",
    }
    for answer, parameters in (
        ({"decision": "approve"}, {"path": "a"}),
        ({"decision": "approve", "parameters": {"path": "b"}}, {"path": "b"}),
    ):
        run = records([START, APPROVAL, answered(answer), FINISH, WORD, END])
        message = ai_sdk_parts(values(ai_sdk.view().frames(run)))
        assert [part["type"] for part in message] == ["dynamic-tool", "text"]
        assert (message[0]["input"], message[0]["output"]) == (parameters, "gone")


def test_a_rejected_call_in_the_ai_sdk() -> None:
    """It is denied, and its error is not told beside that; an agent that has a result all the same is believed."""
    no = answered({"decision": "reject", "reason": "no"})
    failed = StreamEvent("TOOL_CALL_FINISH", {**FINISH.data, "result": "rejected", "status": "error"})
    for end, state in ((failed, "output-denied"), (END, "output-denied"), (FINISH, "output-available")):
        call, *_ = ai_sdk_parts(values(ai_sdk.view().frames(records([START, APPROVAL, no, end]))))
        assert call["state"] == state


def test_a_call_that_is_rejected_too_late() -> None:
    """A call whose agent had its result without waiting is not denied afterwards."""
    no = answered({"decision": "reject", "reason": "no"})
    told = values(ai_sdk.view().frames(records([START, APPROVAL, FINISH, no, END])))
    assert "tool-output-denied" not in [chunk["type"] for chunk in told]
    call, *_ = ai_sdk_parts(told)
    assert call["state"] == "output-available"


def test_a_question_in_the_ai_sdk() -> None:
    """It is a tool for the page to answer; what comes after it begins a step, so that the page sends it only once."""
    view = ai_sdk.view()
    told = values(view.frames(records([QUESTION])))
    assert [chunk["type"] for chunk in told] == ["start", "tool-input-start", "tool-input-available"]
    call = {"toolCallId": f"{ASK}-1", "toolName": "ask_user", "dynamic": True}
    about = {"kind": "question", "prompt": "Which branch?", "schema": SCHEMA, "expires_at": "2026-02-21T11:30:45.123Z"}
    assert told[2] == {"type": "tool-input-available", **call, "input": about}
    assert kinds(view.end_turn()) == ["finish"]
    rest = records([QUESTION, answered("dev"), WORD, END])[1:]
    assert kinds(view.frames(rest)) == [
        *("tool-output-available", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"),
    ]


def test_a_question_that_nobody_answers_in_the_ai_sdk() -> None:
    """It has an error, whether it expires or its run ends; no tool of the last step is the page's then."""
    for end in ([StreamEvent("INPUT_ANSWERED", {"input_id": f"{ASK}-1", "expired": True}), END], [END]):
        told = values(ai_sdk.view().frames(records([QUESTION, *end])))
        assert [chunk["type"] for chunk in told[3:]] == [
            *("tool-output-error", "start-step", "text-start", "text-delta", "text-end", "finish-step", "finish"),
        ]
        assert told[3]["errorText"] == "Nobody answered this question."


def test_an_approval_for_a_client_without_them() -> None:
    """To npm `ai` 5 an approval is a question, whose answer is the decision."""
    chunks = ai_sdk.Chunks(approvals=False)
    run = records([START, APPROVAL, answered({"decision": "approve"}), FINISH, END])
    told = values(ai_sdk.view(chunks).frames(run))
    [call, question, *_] = ai_sdk_parts(told)
    assert (call["state"], question["output"]) == ("output-available", {"decision": "approve"})
    assert (question["toolName"], question["input"]["toolCallId"]) == ("ask_user", f"{RUN}-1")
    assert "tool-approval-request" not in [chunk["type"] for chunk in told]


def test_interrupts_of_ag_ui() -> None:
    """A turn ends with an interrupt for each question, with the form of its answer, and closes its step."""
    second = StreamEvent("INPUT_REQUESTED", {**QUESTION.data, "input_id": f"{ASK}-2"})
    view = ag_ui.Late(ag_ui.Events("t", "r1", modern=False))
    view.frames(records([StreamEvent("STEP_START", {"step": 1}), START, APPROVAL, second]))
    step, finished = values(view.end_turn())
    assert step["type"] == "STEP_FINISHED"
    assert (finished["type"], finished["runId"], finished["outcome"]["type"]) == ("RUN_FINISHED", "r1", "interrupt")
    assert finished["metadata"]["id"] == f"evt-{RUN}-4"
    assert finished["outcome"]["interrupts"] == [
        {
            "id": f"{ASK}-1",
            "reason": "tool_call",
            "toolCallId": f"{RUN}-2",
            "message": "May I?",
            "responseSchema": ag_ui.APPROVAL,
        },
        {
            "id": f"{ASK}-2",
            "reason": "input_required",
            "message": "Which branch?",
            "responseSchema": SCHEMA,
            "expiresAt": "2026-02-21T11:30:45.123Z",
        },
    ]


def test_a_call_beside_a_question() -> None:
    """A turn goes on while a tool is at work that nobody approves; its progress and its result end no wait."""
    other = StreamEvent("TOOL_CALL_START", {"tool_call_id": "c2", "tool_name": "Read"})
    events = [START, other, APPROVAL]
    for kind, data, waiting in (
        ("PROGRESS", {"progress": 1}, False),
        ("TOOL_CALL_FINISH", {"tool_call_id": "c2", "result": "x"}, True),
        ("USER_MESSAGE", {"content": "hurry"}, True),
        ("LLM_CHUNK", {"content": "well"}, False),
    ):
        events.append(StreamEvent(kind, data))
        view = ai_sdk.view()
        view.frames(records(events))
        assert view.waiting == waiting, kind


def test_messages_to_a_run() -> None:
    """The AI SDK has them as data of the message, once; AG-UI as the user's messages, if the client knows those."""
    said = StreamEvent("USER_MESSAGE", {"content": "shorter", "message_id": "m", "by": "ann"})
    run = records([WORD, said, WORD, END])
    message = ai_sdk_parts(values(ai_sdk.view().frames(run)))
    assert [part["type"] for part in message] == ["text", "data-user-message"]
    assert message[1] == {"type": "data-user-message", "id": f"{RUN}-2", "data": said.data}
    for modern, roles in ((True, ["assistant", "user"]), (False, ["assistant"])):
        told = values(SseTurnView(ag_ui.Events(modern=modern)).frames(run))
        check_ag_ui(told)
        assert [one["role"] for one in ag_ui_messages(told)] == roles
        assert ("CUSTOM" in [one["type"] for one in told]) != modern


def test_what_is_asked_elsewhere_is_told() -> None:
    """AG-UI's clients hear of a question, and of its answer, in CUSTOM events with the data of ours."""
    told = values(SseTurnView(ag_ui.Events()).frames(records([QUESTION, answered("dev"), END])))
    custom = [(one["name"], one["value"]) for one in told if one["type"] == "CUSTOM"]
    assert custom == [("INPUT_REQUESTED", QUESTION.data), ("INPUT_ANSWERED", answered("dev").data)]


def test_a_question_answered_at_once() -> None:
    """A page that ends at the question ends the turn; one that has the answer as well does not."""
    run = records([QUESTION, answered("dev"), WORD, END])
    for size, waiting in ((1, True), (2, False)):
        view = ai_sdk.view()
        view.frames(run[:size])
        assert view.waiting == waiting
