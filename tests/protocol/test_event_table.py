"""An agent's event is as PROTOCOL.md's section 1 says, or its run ends with one ERROR and a line that says why."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.followers import KINDS, rest, start
from support.serving import serving
from twinwire import RunRequest, StreamEvent
from twinwire.protocol.events import MAX_DEPTH, NotAnEvent, checked, chunk_text, encode

SPECIFICATION = (Path(__file__).parents[2] / "server" / "PROTOCOL.md").read_text()
PLAIN = {"content": "a", "delta": "a"}


def nested(depth: int) -> Any:
    value: Any = "[{"  # which is no nesting
    for _ in range(depth - 1):
        value = [value]
    return {"value": value}


BAD: dict[str, tuple[StreamEvent, str]] = {
    "an error_type that is a list": (StreamEvent("ERROR", {"error_type": ["a"]}), "ERROR.*`str.*error_type"),
    "a message that is a number": (StreamEvent("ERROR", {"message": 1}), "ERROR.*`str.*message"),
    "content that is a number": (StreamEvent("LLM_CHUNK", {"content": 1, "delta": "a"}), "LLM_CHUNK.*`str`.*content"),
    "a delta that is null": (StreamEvent("LLM_CHUNK", {"content": "a", "delta": None}), "LLM_CHUNK.*`str`.*delta"),
    "a thought that is a list": (StreamEvent("THINKING", {"content": ["a"]}), "THINKING.*`str`.*content"),
    "a step that is a text": (StreamEvent("STEP_START", {"step": "one"}), r"STEP_START.*step"),
    "an action that is a number": (StreamEvent("STEP_FINISH", {"action": 1}), "STEP_FINISH.*action"),
    "parameters that are a list": (StreamEvent("TOOL_CALL_START", {"parameters": []}), "TOOL_CALL_START.*parameters"),
    "a tool's id that is a number": (StreamEvent("TOOL_CALL_START", {"tool_call_id": 1}), "tool_call_id"),
    "an unknown status of a tool": (StreamEvent("TOOL_CALL_FINISH", {"status": "success"}), r"ok\|error.*status"),
    "a progress of 101": (StreamEvent("PROGRESS", {"progress": 101}), "PROGRESS.*100.*progress"),
    "a progress of NaN": (StreamEvent("PROGRESS", {"progress": float("nan")}), "PROGRESS.*progress"),
    "a progress of true": (StreamEvent("PROGRESS", {"progress": True}), "PROGRESS.*progress"),
    "a duration that is a text": (StreamEvent("AGENT_FINISH", {"duration": "1 s"}), "AGENT_FINISH.*duration"),
    "a status that is a list": (StreamEvent("AGENT_FINISH", {"status": ["completed"]}), "AGENT_FINISH.*status"),
    "a usage that is a list": (StreamEvent("AGENT_FINISH", {"usage": [1]}), "AGENT_FINISH.*usage"),
    "an error's usage that is a text": (StreamEvent("ERROR", {"usage": "3"}), "ERROR.*usage"),
    "a cached count that is a text": (StreamEvent("AGENT_FINISH", {"usage": {"cached_tokens": "3"}}), "cached_tokens"),
    "a usage of texts": (StreamEvent("AGENT_FINISH", {"usage": {"total_tokens": "3"}}), "total_tokens"),
    "a void count that is a text": (StreamEvent("AGENT_FINISH", {"usage": {"voided_tokens": "3"}}), "voided_tokens"),
    "an epoch of 0": (StreamEvent("RUN_RESUMED", {"epoch": 0}), "RUN_RESUMED.*epoch"),
    "void after a text": (StreamEvent("RUN_RESUMED", {"void_after": "1"}), "RUN_RESUMED.*void_after"),
    "an input that is an object": (StreamEvent("AGENT_START", {"input": {}}), "AGENT_START.*input"),
    "a config that is a text": (StreamEvent("AGENT_START", {"config": "a"}), "AGENT_START.*config"),
    "data that is a list": (StreamEvent("MINE", ["a"]), "`data` of MINE.*object"),  # type: ignore[arg-type]
    "data that is None": (StreamEvent("MINE", None), "`data` of MINE.*object"),  # type: ignore[arg-type]
    "a key that is None": (StreamEvent("MINE", {None: 1}), "`data` of MINE.*keys"),  # type: ignore[dict-item]
    "a key that is a tuple": (StreamEvent("MINE", {(1, 2): 1}), "`data` of MINE.*keys"),  # type: ignore[dict-item]
    "a value that is no JSON": (StreamEvent("MINE", {"a": object()}), "`data` of MINE"),
    "nesting without end": (StreamEvent("MINE", nested(5000)), "`data` of MINE"),
    "too much nesting": (StreamEvent("MINE", nested(MAX_DEPTH + 1)), f"nested at most {MAX_DEPTH}"),
    "metadata that is a list": (StreamEvent("LLM_CHUNK", PLAIN, metadata=[]), "`metadata` of LLM_CHUNK"),  # type: ignore[arg-type]
    "a step in the metadata that is a text": (
        StreamEvent("LLM_CHUNK", PLAIN, metadata={"step": "1"}),
        "metadata.*step",
    ),
    "a timestamp that is a number": (StreamEvent("MINE", timestamp=1.5), "`timestamp` of MINE"),  # type: ignore[arg-type]
    "a timestamp that is no time": (StreamEvent("LLM_CHUNK", PLAIN, "yesterday"), "`timestamp` of LLM_CHUNK"),
    "a timestamp without a zone": (StreamEvent("LLM_CHUNK", PLAIN, "2026-02-21T10:30:45.123"), "`timestamp`"),
}


def changed(kind: Any) -> StreamEvent:
    event = StreamEvent("MINE")
    event.type = kind
    return event


BAD |= {
    f"the key {wrong} of {kind}": (StreamEvent(kind, {wrong: value}), f"{kind} has a key '{wrong}'.*`{right}`")
    for kind, wrong, value, right in (
        ("LLM_CHUNK", "contents", "a", "content"),
        ("LLM_CHUNK", "Delta", "a", "delta"),
        ("THINKING", "conten", "a", "content"),
        ("TOOL_CALL_START", "toolName", "a", "tool_name"),
        ("TOOL_CALL_START", "parameter", {}, "parameters"),
        ("TOOL_CALL_FINISH", "results", [1], "result"),
        ("TOOL_CALL_FINISH", "tool-call-id", "a", "tool_call_id"),
        ("PROGRESS", "porgress", 5, "progress"),
        ("AGENT_FINISH", "finishReason", "stop", "finish_reason"),
        ("ERROR", "mesage", "a", "message"),
    )
}
BAD |= {
    "a chunk of nothing": (StreamEvent("LLM_CHUNK", {"text": "a"}), "LLM_CHUNK must have `content`"),
    "a type in lower case": (changed("mine"), "`type`"),
    "a type that is a list": (changed(["MINE"]), "`type`"),
    "a type with a line end": (changed("MINE\n"), "`type`"),
}


@pytest.mark.parametrize("what", list(BAD))
def test_what_breaks_the_table(what: str) -> None:
    """The error names the type, the key and what would be right."""
    event, named = BAD[what]
    assert chunk_text(event) is None
    with pytest.raises(NotAnEvent, match=named):
        checked(event)


@pytest.mark.parametrize("kind", KINDS)
async def test_it_ends_its_run(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each of these ends its run with one ERROR and one line that says what is wrong; its run can be asked about."""

    async def yielding(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield BAD[request.message][0]

    async def emitting(request: RunRequest) -> None:
        request.emit(BAD[request.message][0])

    async with (
        serving({"yielding": yielding, "emitting": emitting}) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        for number, what in enumerate(BAD):
            caplog.clear()
            follower = await start(kind, server, what, agent=("yielding", "emitting")[number % 2])
            seen = await rest(follower)
            assert [event["type"] for event in seen] == ["AGENT_START", "ERROR"], what
            assert seen[-1]["data"]["error_type"] == "agent_error"
            [line] = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert line.exc_info is not None
            assert type(line.exc_info[1]) is NotAnEvent
            state = await client.get(f"/runs/{follower.run_id}")
            assert (state.status_code, state.json()["error_type"]) == (200, "agent_error")


class Mine(StrEnum):
    TYPE = "MINE"


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (StreamEvent("LLM_CHUNK", {"content": "a"}), PLAIN),
        (StreamEvent("LLM_CHUNK", {"delta": "a", "more": 1}), {**PLAIN, "more": 1}),
        (
            StreamEvent(Mine.TYPE, {"a": float("inf"), 1: "b", "c": (1, Mine.TYPE)}),  # type: ignore[dict-item]
            {"a": None, "1": "b", "c": [1, "MINE"]},
        ),
        (StreamEvent("MINE", {"a": "\ud83d", "\ud83d": float("nan")}), {"a": "?", "?": None}),
        (StreamEvent("MINE", nested(MAX_DEPTH - 1)), nested(MAX_DEPTH - 1)),
        (StreamEvent("ERROR", {"message": "a", "messages": ["a", "b"]}), {"message": "a", "messages": ["a", "b"]}),
        (StreamEvent("MINE", {"contents": 1}), {"contents": 1}),
        (StreamEvent("TOOL_CALL_START", {"names": 1}), {"names": 1}),
        (StreamEvent("TOOL_CALL_FINISH", {"result": [1], "status": "ok"}), {"result": [1], "status": "ok"}),
        (StreamEvent("AGENT_FINISH", {"usage": None, "result": None}), {"usage": None, "result": None}),
    ],
)
def test_what_is_mended(event: StreamEvent, data: dict[str, Any]) -> None:
    """What PROTOCOL.md says is mended is, and all else stays as it is; the type is a plain text."""
    told = checked(event)
    assert (told.data, type(told.type)) == (data, str)


def test_a_time_of_another_zone() -> None:
    """Any time of RFC 3339 becomes one in UTC with milliseconds."""
    event = StreamEvent("MINE", timestamp="2026-02-21T12:30:45.123456+02:00")
    assert checked(event).timestamp == "2026-02-21T10:30:45.123Z"


@pytest.mark.parametrize(
    "event",
    [
        StreamEvent("LLM_CHUNK", PLAIN),
        StreamEvent("LLM_CHUNK", {"delta": "b", "content": "é\ud83d"}, metadata={"step": 1}),
        StreamEvent("LLM_CHUNK", PLAIN, "2026-02-21T10:30:45.123Z"),
    ],
)
def test_a_plain_chunk(event: StreamEvent) -> None:
    """What is told to be a plain chunk is encoded the same whether it was checked at length or not."""
    assert chunk_text(event) == event.data["content"]
    assert encode(checked(event), "a" * 26, 7) == encode(event, "a" * 26, 7)


def test_it_is_written_down() -> None:
    """PROTOCOL.md says what the server checks, and to what depth."""
    assert f"nested at most {MAX_DEPTH} deep" in SPECIFICATION
