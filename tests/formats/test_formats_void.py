"""Other protocols' formats of a run that another process goes on with: what is void is closed, and marked."""

from __future__ import annotations

from typing import Any

import pytest

from support.formats_rules import RUN, ag_ui_messages, check_ag_ui, check_ai_sdk, check_openai, datas, records
from twinwire.formats import SseView, ag_ui, ai_sdk, openai
from twinwire.formats.recap import recap
from twinwire.protocol.events import StreamEvent
from twinwire.protocol.fold import Fold

ASK = f"ask-{RUN}-1"
START = StreamEvent("AGENT_START", {"input": "hi", "config": {"agent": "react"}})
STEP = StreamEvent("STEP_START", {"step": 1})
THOUGHT = StreamEvent("THINKING", {"content": "Hm"})
CALL = StreamEvent("TOOL_CALL_START", {"tool_call_id": "c1", "tool_name": "Read", "parameters": {"path": "a"}})
RESULT = StreamEvent("TOOL_CALL_FINISH", {"tool_call_id": "c1", "tool_name": "Read", "result": "x", "status": "ok"})
APPROVAL = StreamEvent("INPUT_REQUESTED", {"input_id": ASK, "kind": "approval", "prompt": "May I?", **CALL.data})
QUESTION = StreamEvent("INPUT_REQUESTED", {"input_id": ASK, "kind": "question", "prompt": "Which?"})
ANSWER = StreamEvent("INPUT_ANSWERED", {"input_id": ASK, "answer": {"decision": "approve"}, "message_id": "m"})
MESSAGE = StreamEvent("USER_MESSAGE", {"content": "And more.", "message_id": "m1"})
END = StreamEvent("AGENT_FINISH", {"result": "Hello", "status": "completed", "usage": {}})


def word(text: str) -> StreamEvent:
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text})


def resumed(after: int | None, **kept: str) -> StreamEvent:
    return StreamEvent("RUN_RESUMED", {"epoch": 1, "step": 1, "void_after": after, **kept})


CUT = [START, STEP, THOUGHT, word("Hel"), MESSAGE, CALL, resumed(1), STEP, THOUGHT, word("Hello"), END]
"""A step that is cut off in the middle and done again."""
TOOLS = [START, STEP, word("Let me "), resumed(None), word("see."), CALL, resumed(None), RESULT, END]
"""A run of which nothing is void."""


def ai(events: list[StreamEvent], chunks: ai_sdk.Chunks | None = None) -> list[dict[str, Any]]:
    *values, _ = datas(ai_sdk.view(chunks).frames(records(events)))
    check_ai_sdk(list(values))
    return values


def agui(events: list[StreamEvent]) -> list[dict[str, Any]]:
    values = datas(SseView(ag_ui.Events()).frames(records(events)))
    check_ag_ui(values)
    return values


def contents(values: list[dict[str, Any]]) -> list[str]:
    """What the messages of an AG-UI client are then, but for the user's."""
    return [message.get("content", "") for message in ag_ui_messages(values) if message["role"] != "user"]


def completion(events: list[StreamEvent], name: str = "content") -> str:
    *chunks, _ = datas(openai.view("react", usage=True).frames(records(events)))
    told = "".join(choice["delta"].get(name, "") for chunk in chunks for choice in chunk.get("choices", ()))
    check_openai(chunks)
    return told


def test_ai_sdk() -> None:
    """Text, reasoning and call are closed, a data part of the message marks the place, and new ones begin."""
    values = ai(CUT)
    kinds = [value["type"] for value in values]
    mark = kinds.index("data-run-resumed")
    assert kinds[mark - 3 : mark + 3] == [
        "tool-input-start",
        "tool-input-available",
        "tool-output-error",
        "data-run-resumed",
        "finish-step",
        "start-step",
    ]
    assert values[mark] == {"type": "data-run-resumed", "id": f"{RUN}-7", "data": resumed(1).data}
    texts = [value["id"] for value in values if value["type"] == "text-start"]
    assert texts == [f"{RUN}-4", f"{RUN}-10"]
    assert kinds.index("text-end") < mark


def test_ag_ui() -> None:
    """Messages and call are closed, and an event of its own tells the number beyond which nothing counts."""
    values = agui(CUT)
    [mark] = [value for value in values if value.get("name") == "RUN_RESUMED"]
    assert mark["value"] == resumed(1).data
    before = [value["type"] for value in values[: values.index(mark)]]
    assert before[-1] == "TOOL_CALL_RESULT"
    assert before.count("TEXT_MESSAGE_START") == before.count("TEXT_MESSAGE_END") == 2  # one is the user's
    assert contents(values) == ["Hello", "Hm"]


@pytest.mark.parametrize("joined", range(len(CUT)))
def test_ag_ui_late(joined: int) -> None:
    """Whoever joins after it has a snapshot without what is void, even if they had it; the user's message stays."""
    run = records(CUT)
    had = {"id": f"{RUN}-4", "role": "assistant", "content": "Hel"}
    late = ag_ui.Late(ag_ui.Events(), [had] if joined else [])
    late.skip(run[:joined])
    opening = late.join()
    values = datas([*([opening] if opening else []), *late.frames(run[joined:])])
    check_ag_ui(values)
    assert contents(values) == ["Hello", "Hm"]
    assert [message["content"] for message in ag_ui_messages(values) if message["role"] == "user"] == ["And more."]
    if joined > 6:
        assert b"Hel" not in opening.replace(b"Hello", b"")
        assert b"toolCalls" not in opening


def test_ag_ui_late_in_the_middle_of_a_text() -> None:
    """Of a text, of calls and of results only those that count are in a snapshot."""
    other = {**CALL.data, "tool_call_id": "c2"}
    events = [START, word("One. "), CALL, RESULT, word("Two. "), StreamEvent("TOOL_CALL_START", other), word("Thr")]
    run = records([*events, resumed(4, text="One. "), word("2."), END])
    late = ag_ui.Late(ag_ui.Events())
    late.skip(run[:9])
    values = datas([late.join(), *late.frames(run[9:])])
    check_ag_ui(values)
    snapshot = values[1]["messages"]
    assert [(each["role"], each.get("content")) for each in snapshot] == [("assistant", "One. "), ("tool", "x")]
    assert [call["id"] for call in snapshot[0]["toolCalls"]] == [f"{RUN}-3"]
    cut = records([START, word("One. "), word("Tw"), resumed(2, text="One. ")])
    late = ag_ui.Late(ag_ui.Events())
    late.skip(cut)
    assert datas([late.join()])[1]["messages"] == [{"id": f"{RUN}-2", "role": "assistant", "content": "One. "}]


def test_openai() -> None:
    """What is void and what comes after it are parted by a blank line, thoughts too."""
    assert completion(CUT) == "Hel\n\nHello"
    assert completion(CUT, "reasoning_content") == "Hm\n\nHm"


def test_nothing_is_void() -> None:
    """Text and call go on, and what tells of it is kept by no message."""
    values = ai(TOOLS)
    assert [value["type"] for value in values].count("text-start") == 1
    assert [value for value in values if value["type"] == "data-run-resumed"] == [
        {"type": "data-run-resumed", "data": resumed(None).data, "transient": True}
    ] * 2
    assert [value["type"] for value in values if "output" in value["type"]] == ["tool-output-available"]
    assert contents(agui(TOOLS)) == ["Let me see.", "x"]
    assert completion(TOOLS) == "Let me see."


def test_a_result_alone() -> None:
    """A result is told as a text if all that was told is void, and is not if some of it counts."""
    void = [START, word("Hel"), resumed(1), END]
    kept = [START, word("Hello"), word(" wor"), resumed(2, text="Hello"), END]
    assert (completion(void), completion(kept)) == ("Hel\n\nHello", "Hello wor")
    assert contents(agui(void)) == ["Hello"]
    assert sum(value["type"] == "text-start" for value in ai(kept)) == 1


@pytest.mark.parametrize("approvals", [True, False])
def test_a_call_that_is_asked_about_once_more(approvals: bool) -> None:
    """The run waits only once the question is asked again, which then is of the new call; the answer decides that."""
    events = [START, STEP, CALL, APPROVAL, resumed(1)]
    view = ai_sdk.view(ai_sdk.Chunks(approvals=approvals))
    view.frames(records(events[:4]))
    assert view.waiting
    view.frames(records(events)[4:])
    assert not view.waiting
    events += [STEP, CALL, APPROVAL]
    view.frames(records(events)[5:])
    assert view.waiting
    values = ai([*events, ANSWER, RESULT, END], ai_sdk.Chunks(approvals=approvals))
    outputs = [(value["type"], value["toolCallId"]) for value in values if value["type"].startswith("tool-output")]
    asked = [] if approvals else [("tool-output-available", ASK)]
    assert outputs == [("tool-output-error", f"{RUN}-3"), *asked, ("tool-output-available", f"{RUN}-7")]
    shown = [value["toolCallId"] for value in values if value["type"] == "tool-approval-request"]
    assert shown == ([f"{RUN}-3", f"{RUN}-7"] if approvals else [])
    turn = ag_ui.Late(ag_ui.Events())
    turn.frames(records(events))
    assert datas(turn.end_turn())[-1]["outcome"]["interrupts"][0]["toolCallId"] == f"{RUN}-7"


def test_a_question_that_is_asked_once_more() -> None:
    """It is shown once, stays open in between, and is answered once."""
    events = [START, word("I ask."), QUESTION, resumed(1), word("I ask."), QUESTION]
    values = ai([*events, ANSWER, word("ok"), END])
    assert [value["type"] for value in values if value.get("toolCallId") == ASK] == [
        "tool-input-start",
        "tool-input-available",
        "tool-output-available",
    ]
    view = ai_sdk.view()
    for event, waits in zip(records(events), [False, False, True, False, False, True], strict=True):
        view.frames([event])
        assert view.waiting == waits


def test_a_trimmed_run() -> None:
    """A view that begins with the state of a run takes a RUN_RESUMED behind it, and one whose state had one before."""
    events = [START, STEP, word("Hel"), CALL, resumed(1), STEP, word("Hello"), END]
    for seq in range(1, len(events)):
        fold = Fold()
        for event in events[:seq]:
            fold.apply(event)
        start, rest = recap(RUN, "react", START.timestamp, seq, fold.state), records(events)[seq:]
        view = ai_sdk.view()
        *chunks, _ = datas([*view.recap(start), *view.frames(rest)])
        check_ai_sdk(chunks)
        late = ag_ui.Late(ag_ui.Events())
        check_ag_ui(values := datas([*late.recap(start), *late.frames(rest)]))
        assert values[-1]["result"] == "Hello"
        text = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")
        assert text == ("Hello" if seq > 4 else "HelHello")
