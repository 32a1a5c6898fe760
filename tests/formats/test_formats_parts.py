"""Other protocols' formats: whatever a run is, what they make of it is what the protocol's clients take."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from support.formats_rules import (
    RUN,
    RUNS,
    ag_ui_messages,
    check_ag_ui,
    check_ai_sdk,
    check_openai,
    datas,
    paged,
    records,
)
from twinwire.formats import SseView, View, ag_ui, ai_sdk, openai
from twinwire.formats.registry import TransformView, registry
from twinwire.protocol.events import StreamEvent

Events = list[StreamEvent]
SIZES = st.integers(1, 5)


@given(RUNS, SIZES)
def test_ai_sdk(events: Events, size: int) -> None:
    """Any run, in pages of any size, is a message stream of the AI SDK that ends with [DONE]."""
    *chunks, done = datas(paged(ai_sdk.view(), records(events), size))
    assert done == "[DONE]"
    check_ai_sdk(chunks)


@given(RUNS, SIZES)
def test_ai_sdk_on_a_socket(events: Events, size: int) -> None:
    """On a WebSocket the chunks are the same, numbered from 0 without a gap, and then there is an end."""
    run = records(events)
    *messages, last = [json.loads(frame) for frame in paged(ai_sdk.SocketView("r1", ai_sdk.Chunks()), run, size)]
    assert last == {"type": "end", "requestId": "r1"}
    assert [message["sequence"] for message in messages] == list(range(len(messages)))
    assert {message["type"] for message in messages} == {"chunk"}
    assert [message["chunk"] for message in messages] == datas(ai_sdk.view().frames(run))[:-1]


@given(RUNS, SIZES)
def test_ag_ui(events: Events, size: int) -> None:
    """Any run is a run of AG-UI 1.0, with nothing after its last event."""
    seen = datas(paged(SseView(ag_ui.Events()), records(events), size))
    check_ag_ui(seen)


@given(RUNS, SIZES, st.data())
def test_ag_ui_late(events: Events, size: int, data: st.DataObject) -> None:
    """Who joins late, at any event but the last, gets a valid run and has in the end just the same messages."""
    run = records(events)
    joined = data.draw(st.integers(0, len(run) - 1))
    asked = {"id": "u1", "role": "user", "content": "hi"}
    late = ag_ui.Late(ag_ui.Events(), [asked])
    late.skip(run[:joined])
    opening = late.join()
    assert bool(opening) == bool(joined)
    seen = datas([*([opening] if joined else []), *paged(late, run[joined:], size)])
    check_ag_ui(seen)
    whole = datas(SseView(ag_ui.Events()).frames(run))
    told = [asked] if joined else []
    assert ag_ui_messages(seen) == ag_ui_messages([{"type": "MESSAGES_SNAPSHOT", "messages": told}, *whole])


@given(RUNS, SIZES)
def test_openai(events: Events, size: int) -> None:
    """Any run is a stream of chat completion chunks that ends with [DONE]."""
    *chunks, done = datas(paged(openai.view("react", usage=True), records(events), size))
    assert done == "[DONE]"
    check_openai(chunks)


def test_a_late_join_keeps_nothing() -> None:
    """Once its opening was made, a follower keeps neither the client's messages nor the run's, and goes on."""
    asked = {"id": "u1", "role": "user", "content": "hi"}
    holders = sys.getrefcount(asked)
    run = records([StreamEvent("LLM_CHUNK", {"content": "a"}), *said("b")])
    late = ag_ui.Late(ag_ui.Events(), [asked])
    late.skip(run[:1])
    assert b'"hi"' in late.join()
    assert sys.getrefcount(asked) == holders
    assert datas(late.frames(run[1:]))[-1]["type"] == "RUN_FINISHED"


def test_calls_without_an_end_are_bounded() -> None:
    """A run that calls tools for ever and never finishes a call is valid in each format, and each call is answered."""
    calls = [StreamEvent("TOOL_CALL_START", {"tool_call_id": f"c{i}", "tool_name": "t"}) for i in range(1500)]
    late = [StreamEvent("TOOL_CALL_FINISH", {"tool_call_id": "c0", "result": "late"})]
    end = [StreamEvent("AGENT_FINISH", {"result": "", "status": "completed"})]
    run = records([StreamEvent("AGENT_START"), *calls, *late, *end])
    check_ag_ui(datas(SseView(ag_ui.Events()).frames(run)))
    *chunks, _ = datas(ai_sdk.view().frames(run))
    check_ai_sdk(chunks)
    assert sum(chunk["type"].startswith("tool-output") for chunk in chunks) == 1501


def said(*texts: str) -> Events:
    """A run that says these, one step each."""
    middle = [
        event for text in texts for event in (StreamEvent("STEP_START"), StreamEvent("LLM_CHUNK", {"content": text}))
    ]
    return [*middle, StreamEvent("AGENT_FINISH", {"result": texts[-1], "status": "completed", "usage": None})]


def test_texts_of_steps_are_parted() -> None:
    """To OpenAI's clients the texts of two steps are one, with a blank line between them."""
    chunks = datas(openai.view().frames(records(said("Let me see.", "It says hello."))))[:-1]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "Let me see.\n\nIt says hello."


def test_a_client_before_ag_ui_1_0() -> None:
    """It is told no version, outcome or usage: it would refuse a cancelled one."""
    run = records([StreamEvent("AGENT_FINISH", {"result": "so f", "status": "cancelled", "usage": {}})])
    old = datas(SseView(ag_ui.Events("t", "r", modern=False)).frames(run))
    for event in old:
        del event["timestamp"], event["metadata"]
    ids = {"threadId": "t", "runId": "r"}
    assert old == [{"type": "RUN_STARTED", **ids}, {"type": "RUN_FINISHED", **ids, "result": "so f"}]
    new = datas(SseView(ag_ui.Events("t", "r")).frames(run))
    assert new[-1]["outcome"] == {"type": "cancelled"}


def test_who_ended_a_run_is_told() -> None:
    """AG-UI and the AI SDK have a place for `reason`: metadata of the event that ends the run."""
    cancelled = records([StreamEvent("AGENT_FINISH", {"status": "cancelled", "usage": {}, "reason": "user"})])
    assert datas(SseView(ag_ui.Events("t", "r")).frames(cancelled))[-1]["metadata"]["reason"] == "user"
    *_, abort, finish = datas(ai_sdk.view().frames(cancelled)[:-1])
    assert (abort, finish["messageMetadata"]["reason"]) == ({"type": "abort"}, "user")
    late = records([StreamEvent("ERROR", {"error_type": "timeout", "message": "late", "reason": "deadline"})])
    end = datas(SseView(ag_ui.Events("t", "r")).frames(late))[-1]
    assert (end["type"], end["metadata"]["reason"]) == ("RUN_ERROR", "deadline")
    *_, metadata, error = datas(ai_sdk.view().frames(late)[:-1])
    assert (metadata["messageMetadata"], error["type"]) == ({"reason": "deadline"}, "error")


def test_ids_are_the_openers() -> None:
    """Texts and calls are named after the event that opened them, so that no two of any runs share a name."""
    events = [
        StreamEvent("TOOL_CALL_START", {"tool_call_id": "call_1", "tool_name": "Read", "parameters": {}}),
        StreamEvent("TOOL_CALL_FINISH", {"tool_call_id": "call_1", "result": "x", "status": "ok"}),
    ]
    chunks = datas(ai_sdk.view().frames(records([*events, *events])))
    assert [chunk["toolCallId"] for chunk in chunks if chunk["type"] == "tool-output-available"] == [
        f"{RUN}-1",
        f"{RUN}-3",
    ]


@pytest.mark.parametrize("timestamp", ["", "yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31"])
@pytest.mark.parametrize("view", [ai_sdk.view, openai.view, lambda: SseView(ag_ui.Events())])
def test_an_odd_timestamp(timestamp: str, view: Callable[[], View]) -> None:
    """A time that is none, of an agent's own, breaks nobody's stream."""
    run = records([StreamEvent("LLM_CHUNK", {"content": "x"}, timestamp), StreamEvent("ERROR", {}, timestamp)])
    values: list[Any] = datas(view().frames(run))
    assert len(values) >= 4
    assert all(isinstance(value.get("timestamp", 0), int) for value in values if value != "[DONE]")


def test_an_apps_own_format(caplog: pytest.LogCaptureFixture) -> None:
    """What the function gives is the data of a block with the event's id; None and an exception leave the event out."""
    answers = iter([b"one", None, b"two\nlines\r\nor three", b"", ValueError("secret")])

    def mine(event: StreamEvent) -> bytes | None:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    run = records([StreamEvent("X")] * 5)
    assert list(TransformView(mine).frames(run)) == [
        b"data: one\nid: evt-%b-1\n\n" % RUN.encode(),
        b"data: two\ndata: lines\ndata: or three\nid: evt-%b-3\n\n" % RUN.encode(),
        b"data: \nid: evt-%b-4\n\n" % RUN.encode(),
    ]
    assert [record.message for record in caplog.records] == [f"A format failed on evt-{RUN}-5. The event is left out."]


@pytest.mark.parametrize("name", ["native", "ai-sdk"])
def test_a_name_in_use(name: str) -> None:
    """An app's format cannot take the name of one that is there."""
    with pytest.raises(ValueError, match=name):
        registry({name: lambda _: None})
