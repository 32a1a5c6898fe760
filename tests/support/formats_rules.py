"""Runs as an agent might yield them, and the rules by which other people's clients judge what they are sent.

The rules are those of the clients' own verifiers and schemas, as far as our views can break them; the real verifiers
are fed the same runs in test_interop.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from twinwire.formats import View
from twinwire.protocol.events import Record, StreamEvent, encode

RUN = "mfrggzdfmztwq2lknnwg23tpob"

TEXTS = st.sampled_from(["", "Hello", " wörld\n\n", "data: x", "\r\n", "\u2028", '{"type":"x"}'])
ODD: st.SearchStrategy[Any] = st.sampled_from([None, 7, "x", [], {"a": None}])
CALLS = st.sampled_from(["c1", "c2", "c3"])
ANSWERS: st.SearchStrategy[Any] = st.sampled_from(
    [
        "dev",
        True,
        {"decision": "approve"},
        {"decision": "approve", "parameters": {"path": "y"}},
        {"decision": "reject", "reason": "no"},
    ]
)


def _event(name: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[StreamEvent]:
    whole = st.fixed_dictionaries(fields)
    odd = st.dictionaries(st.sampled_from([*fields, "other"]), ODD, max_size=3)
    return st.one_of(whole, whole, whole, odd).map(lambda data: StreamEvent(name, data))


def _own(name: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[StreamEvent]:
    """An event that the server writes itself: nothing in it is odd."""
    return st.fixed_dictionaries(fields).map(lambda data: StreamEvent(name, data))


MIDDLE = st.one_of(
    _event("LLM_CHUNK", content=TEXTS, delta=TEXTS),
    _event("THINKING", content=TEXTS),
    _event("STEP_START", step=st.integers(1, 3), max_steps=st.just(3)),
    _event("STEP_FINISH", step=st.integers(1, 3), action=st.just("answer")),
    _event("TOOL_CALL_START", tool_call_id=CALLS, tool_name=st.just("Read"), parameters=st.just({"path": "x"})),
    _event(
        "TOOL_CALL_FINISH",
        tool_call_id=CALLS,
        tool_name=st.just("Read"),
        result=st.one_of(TEXTS, ODD),
        status=st.sampled_from(["ok", "error"]),
        duration=st.just(0.1),
    ),
    _event("PROGRESS", progress=st.just(50), step=st.just(1), total=st.just(2)),
    _event("MY_OWN", anything=ODD),
    _own("INPUT_REQUESTED", kind=st.just("question"), prompt=st.just("Which?"), schema=st.just({"type": "boolean"})),
    _own(
        "INPUT_REQUESTED",
        kind=st.just("approval"),
        prompt=st.just("May I?"),
        expires_at=st.just("2026-02-21T11:30:45.123Z"),
        tool_call_id=CALLS,
        tool_name=st.just("Read"),
        parameters=st.just({"path": "x"}),
    ),
    _own("INPUT_ANSWERED", answer=ANSWERS, message_id=st.just("m1"), by=st.just("ann")),
    st.just(StreamEvent("INPUT_ANSWERED", {"expired": True})),
    st.just(StreamEvent("INPUT_REQUESTED", {"again": True})),
    _own("USER_MESSAGE", content=TEXTS, message_id=st.just("m2")),
    _own("RUN_RESUMED", epoch=st.just(1), step=st.just(1), void_after=st.one_of(st.none(), st.integers(1, 3))),
    _event("AGENT_START", input=TEXTS),
)
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
PARTS = {**USAGE, "cached_tokens": 8, "reasoning_tokens": 2}
LAST = st.one_of(
    st.sampled_from(["completed", "incomplete", "cancelled", "max_steps"]).map(
        lambda status: StreamEvent(
            "AGENT_FINISH", {"result": "done", "duration": 0.1, "status": status, "usage": PARTS}
        )
    ),
    st.sampled_from([None, 1, {"prompt_tokens": "many"}]).map(
        lambda usage: StreamEvent("AGENT_FINISH", {"result": usage, "status": "completed", "usage": usage})
    ),
    st.sampled_from([None, USAGE, PARTS]).map(
        lambda usage: StreamEvent(
            "ERROR", {"error_type": "upstream_error", "message": "no", "error": "no", "usage": usage}
        )
    ),
    st.just(StreamEvent("ERROR", {"error_type": "upstream_error", "message": "no", "error": "no"})),
)
FIRST = st.sampled_from([[StreamEvent("AGENT_START", {"input": "hi", "config": {"agent": "a"}})], []])


CLOSING = {"STEP_START", "STEP_FINISH", "TOOL_CALL_START", "INPUT_REQUESTED"}
"""The types of events at which a text ends in every format."""


def _numbered(events: Sequence[StreamEvent]) -> list[StreamEvent]:
    """The events with the questions numbered, as the server does it; each answer is to the oldest open one.

    What is asked again is that one. A RUN_RESUMED voids all after one of the newest events at which a text ends.
    """
    asked: list[dict[str, Any]] = []
    answered = 0
    numbered: list[StreamEvent] = []
    for event in events:
        data = event.data
        if event.type == "INPUT_REQUESTED" and "again" in data:
            if answered == len(asked):
                continue
            data = asked[answered]
        elif event.type == "INPUT_REQUESTED":
            data = {**data, "input_id": f"ask-{RUN}-{len(asked) + 1}"}
            asked.append(data)
        elif event.type == "INPUT_ANSWERED":
            if answered == len(asked):
                continue
            answered += 1
            data = {**data, "input_id": f"ask-{RUN}-{answered}"}
        elif event.type == "RUN_RESUMED" and data["void_after"] is not None:
            ends = [0, *(number for number, each in enumerate(numbered, 1) if each.type in CLOSING)]
            data = {**data, "void_after": ends[-data["void_after"] :][0]}
        numbered.append(StreamEvent(event.type, data))
    return numbered


RUNS = st.builds(
    lambda first, middle, last: _numbered([*first, *middle, last]), FIRST, st.lists(MIDDLE, max_size=14), LAST
)
"""Any run: as the ReAct agent yields it, or in an order and with data of an agent's own."""


def records(events: Sequence[StreamEvent]) -> list[Record]:
    """The events as they lie in a log."""
    return [encode(event, RUN, number) for number, event in enumerate(events, 1)]


def datas(frames: Sequence[bytes]) -> list[Any]:
    """The JSON values in SSE blocks that have `data` alone; `[DONE]` as that text."""
    values = []
    for frame in b"".join(frames).removesuffix(b"\n\n").split(b"\n\n"):
        assert frame.startswith(b"data: "), frame
        assert b"\n" not in frame
        data = frame.removeprefix(b"data: ")
        values.append("[DONE]" if data == b"[DONE]" else json.loads(data))
    return values


def paged(view: View, run: Sequence[Record], size: int) -> list[bytes]:
    """What the view makes of the run in pages of this size."""
    return [frame for start in range(0, len(run), size) for frame in view.frames(run[start : start + size])]


STRINGS = {"id", "delta", "toolCallId", "toolName", "errorText", "messageId", "threadId", "runId", "stepName"}


def _strings(values: Sequence[dict[str, Any]]) -> None:
    for value in values:
        assert all(isinstance(value[name], str) and value[name] for name in STRINGS & value.keys()), value


def check_ai_sdk(chunks: list[dict[str, Any]]) -> None:
    """What `processUIMessageStream` of the AI SDK and its chunk schema throw at."""
    kinds = [chunk["type"] for chunk in chunks]
    assert kinds[0] == "start"
    assert kinds.count("start") == 1
    assert kinds[-1] in {"finish", "error"}
    assert sum(kind in {"finish", "error"} for kind in kinds) == 1
    _strings([chunk for chunk in chunks if chunk.get("errorText") != ""])
    opened: set[tuple[str, str]] = set()
    called: dict[str, str] = {}
    answered: set[str] = set()
    denied: set[str] = set()
    step: list[str] | None = None
    for chunk in chunks:
        part, _, what = chunk["type"].partition("-")
        if part in {"text", "reasoning"}:
            key = (part, chunk["id"])
            assert (key in opened) == (what != "start")
            (opened.add if what != "end" else opened.remove)(key)
            assert what != "delta" or chunk["delta"]
        elif chunk["type"] == "tool-input-start":
            assert chunk["toolCallId"] not in called
            called[chunk["toolCallId"]] = chunk["toolName"]
        elif chunk["type"] == "tool-input-available":
            assert called[chunk["toolCallId"]] == chunk["toolName"]
            assert isinstance(chunk["input"], dict)
        elif chunk["type"] == "tool-approval-request":
            assert chunk["toolCallId"] in called
            assert chunk["toolCallId"] not in answered - denied
        elif chunk["type"].startswith("tool-output"):
            assert chunk["toolCallId"] in called.keys() - (answered - denied)
            answered.add(chunk["toolCallId"])
            (denied.add if what == "output-denied" else denied.discard)(chunk["toolCallId"])
        elif chunk["type"] in {"start-step", "finish-step"}:
            assert opened == set()
            assert (step is None) == (what == "step" and part == "start")
            step = [] if part == "start" else None
        assert None not in [value for name, value in chunk.items() if name not in {"output", "data"}]
    assert opened == set()
    assert called.keys() == answered
    assert step is None
    if kinds[-1] == "finish":
        last = ai_sdk_parts(chunks)
        steps = [index for index, part in enumerate(last) if part["type"] == "step-start"]
        assert all(part.get("providerExecuted", True) for part in last[max(steps, default=0) :]), (
            "a page that answers tools by itself would send the chat for ever"
        )


def ai_sdk_parts(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of the message that the AI SDK's client has after these chunks, of one turn or several."""
    parts: list[dict[str, Any]] = []
    texts: dict[str, dict[str, Any]] = {}
    calls: dict[str, dict[str, Any]] = {}
    for chunk in chunks:
        kind, _, what = chunk["type"].partition("-")
        call = calls.get(chunk.get("toolCallId", ""), {})
        if chunk["type"] == "start-step":
            parts.append({"type": "step-start"})
        elif kind in {"text", "reasoning"} and what == "start":
            texts[chunk["id"]] = {"type": kind, "text": ""}
            parts.append(texts[chunk["id"]])
        elif kind in {"text", "reasoning"} and what == "delta":
            texts[chunk["id"]]["text"] += chunk["delta"]
        elif what == "input-start":
            here = parts[max((i for i, part in enumerate(parts) if part["type"] == "step-start"), default=0) :]
            if call not in here:
                call = {"type": "dynamic-tool", "toolCallId": chunk["toolCallId"]}
                parts.append(call)
            call |= {"toolName": chunk["toolName"], "providerExecuted": chunk.get("providerExecuted", False)}
            calls[chunk["toolCallId"]] = call
        elif what == "input-available":
            call |= {"state": what, "input": chunk["input"]}
        elif what == "approval-request":
            call |= {"state": "approval-requested", "approval": {"id": chunk["approvalId"]}}
        elif kind == "tool":
            call |= {"state": what, "output": chunk.get("output"), "errorText": chunk.get("errorText")}
        elif kind == "data" and not chunk.get("transient"):
            parts[:] = [part for part in parts if part.get("id") != chunk["id"]] + [
                {name: chunk[name] for name in ("type", "id", "data")}
            ]
    return parts


def _void(messages: dict[str, dict[str, Any]], after: int) -> None:
    """Take from an AG-UI client what does not count: what has a higher number than this, but for the user's."""

    def counts(id: str) -> bool:  # noqa: A002 - AG-UI's name
        named = re.fullmatch(rf"{RUN}-(\d+)(-message|-result)?", id)
        return named is None or int(named[1]) <= after

    for id, message in list(messages.items()):  # noqa: A001
        if message["role"] == "user":
            continue
        if not counts(id):
            del messages[id]
        elif "toolCalls" in message:
            message["toolCalls"] = [call for call in message["toolCalls"] if counts(call["id"])]
            if not message["toolCalls"]:
                del message["toolCalls"]


def check_ag_ui(events: list[dict[str, Any]]) -> None:
    """What `verifyEvents` and the schemas of AG-UI 1.0 refuse."""
    kinds = [event["type"] for event in events]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] in {"RUN_FINISHED", "RUN_ERROR"}
    assert sum(kind in {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"} for kind in kinds) == 2
    _strings(events)
    opened: set[tuple[str, str]] = set()
    closes = {"TEXT_MESSAGE_END", "REASONING_MESSAGE_END", "REASONING_END", "TOOL_CALL_END", "STEP_FINISHED"}
    for event in events:
        group = event["type"].rpartition("_")[0]
        key = (group, event.get("toolCallId") or event.get("messageId") or event.get("stepName") or "")
        if event["type"] in closes:
            opened.remove(key)
        elif event["type"].endswith(("_CONTENT", "_ARGS")):
            assert key in opened
            assert event["delta"]
        elif event["type"].endswith(("_START", "STEP_STARTED")):
            assert key not in opened
            opened.add(key)
        elif event["type"] == "TOOL_CALL_RESULT":
            assert isinstance(event["content"], str)
        assert None not in [value for name, value in event.items() if name != "value"]
    assert opened == set()


def ag_ui_messages(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that an AG-UI client has after these events, as its reducer makes them, without their order.

    It hides what does not count, as section 9 says it may.
    """
    messages: dict[str, dict[str, Any]] = {}
    calls: dict[str, dict[str, Any]] = {}
    for event in events:
        id = event.get("messageId", "")  # noqa: A001 - AG-UI's name
        match event["type"]:
            case "MESSAGES_SNAPSHOT":
                messages = {message["id"]: message for message in json.loads(json.dumps(event["messages"]))}
                calls = {call["id"]: call for m in messages.values() for call in m.get("toolCalls", [])}
            case "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START":
                messages.setdefault(id, {"id": id, "role": event["role"], "content": ""})
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                messages[id]["content"] += event["delta"]
            case "TOOL_CALL_START":
                parent = event["parentMessageId"]
                call = {"id": event["toolCallId"], "type": "function"}
                calls[call["id"]] = {**call, "function": {"name": event["toolCallName"], "arguments": ""}}
                owner = messages.setdefault(parent, {"id": parent, "role": "assistant"})
                owner.setdefault("toolCalls", []).append(calls[call["id"]])
            case "TOOL_CALL_ARGS":
                calls[event["toolCallId"]]["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                about = {name: event[name] for name in ("role", "content", "toolCallId")}
                messages[id] = {"id": id, **about}
            case "CUSTOM" if event["name"] == "RUN_RESUMED" and event["value"]["void_after"] is not None:
                _void(messages, event["value"]["void_after"])
    return sorted(messages.values(), key=lambda message: str(message["id"]))


def check_openai(chunks: list[dict[str, Any]]) -> None:
    """What OpenAI's clients rely on: one id, one role, one finish_reason and then only the usage, or an error.

    The usage of a run that failed comes before its error, if there is one.
    """
    if failed := "error" in chunks[-1]:
        assert set(chunks.pop()["error"]) == {"message", "type", "param", "code"}
        if chunks[-1]["usage"] is not None:
            assert chunks.pop()["choices"] == []
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    if not failed:
        assert chunks.pop()["choices"] == []
        assert chunks.pop()["choices"][0]["finish_reason"] in {"stop", "length"}
    for chunk in chunks:
        assert chunk["usage"] is None
        assert chunk["choices"][0]["finish_reason"] is None
        assert all(isinstance(value, str) for value in chunk["choices"][0]["delta"].values())
