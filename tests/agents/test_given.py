"""Agents that yield, emit and return texts and small values: each is told as the event that it stands for."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from support.followers import KINDS, rest, start, text
from support.serving import echo, serving
from twinwire import (
    DemoModel,
    Progress,
    RunRequest,
    SimpleAgent,
    StreamEvent,
    Text,
    Thinking,
    ToolEnd,
    ToolStart,
)

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]


class Words(str):
    """A text of a framework's own class."""

    __slots__ = ()


async def texts(_: RunRequest) -> AsyncGenerator[Any, None]:
    yield "a"
    yield Words("b")
    yield Text("c")
    yield StreamEvent("LLM_CHUNK", {"content": "d"})


async def emitted(request: RunRequest) -> None:
    request.emit("a", Words("b"))
    request.emit(Text("c"), StreamEvent("LLM_CHUNK", {"content": "d", "delta": "d"}))


@pytest.mark.parametrize("agent", [texts, emitted], ids=lambda agent: agent.__name__)
async def test_texts(kind: str, agent: Callable[[RunRequest], Any]) -> None:
    """Texts of any kind are increments of the answer, in order, beside events."""
    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
    assert [event["type"] for event in seen] == ["AGENT_START", *["LLM_CHUNK"] * 4, "AGENT_FINISH"]
    assert [event["data"] for event in seen[1:-1]] == [{"content": each, "delta": each} for each in "abcd"]
    assert seen[-1]["data"]["result"] == "abcd"


async def test_small_values(kind: str) -> None:
    """A thought, a tool call's start and end, and a progress are told with the keys of PROTOCOL.md's table."""

    async def agent(_: RunRequest) -> AsyncGenerator[Any, None]:
        yield Thinking("Let me see.")
        search = ToolStart("search", {"for": "x"})
        yield search
        yield Progress(50)
        yield ToolEnd(search, ["found"])
        yield ToolStart("fetch", id="c2")
        yield ToolEnd("c2", "no such page", "error", name="fetch", duration=1.5)
        yield Progress(step=3, total=4)
        yield "Done."

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
    told = [(event["type"], event["data"]) for event in seen[1:-1]]
    call_id, duration = told[1][1]["tool_call_id"], told[3][1]["duration"]
    assert told == [
        ("THINKING", {"content": "Let me see."}),
        ("TOOL_CALL_START", {"tool_call_id": call_id, "tool_name": "search", "parameters": {"for": "x"}}),
        ("PROGRESS", {"progress": 50}),
        (
            "TOOL_CALL_FINISH",
            {
                "tool_call_id": call_id,
                "tool_name": "search",
                "result": ["found"],
                "status": "ok",
                "duration": duration,
            },
        ),
        ("TOOL_CALL_START", {"tool_call_id": "c2", "tool_name": "fetch", "parameters": {}}),
        (
            "TOOL_CALL_FINISH",
            {
                "tool_call_id": "c2",
                "tool_name": "fetch",
                "result": "no such page",
                "status": "error",
                "duration": 1.5,
            },
        ),
        ("PROGRESS", {"progress": 75, "step": 3, "total": 4}),
        ("LLM_CHUNK", {"content": "Done.", "delta": "Done."}),
    ]
    assert 0 <= duration < 60


async def returns_text(_: RunRequest) -> str:
    return "whole"


async def returns_after_telling(request: RunRequest) -> str:
    request.emit("in pieces")
    return "whole"


async def returns_data(request: RunRequest) -> dict[str, Any]:
    request.emit("told")
    return {"answer": 42}


async def returns_an_event(_: RunRequest) -> Text:
    return Text("one")


async def returns_a_finish(_: RunRequest) -> StreamEvent:
    return StreamEvent("AGENT_FINISH", {"result": "mine", "status": "incomplete"})


async def returns_an_iterator(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    return echo(request)


RETURNED: dict[Callable[[RunRequest], Awaitable[Any]], tuple[str, Any]] = {
    returns_text: ("whole", "whole"),
    returns_after_telling: ("in pieces", "whole"),
    returns_data: ("told", {"answer": 42}),
    returns_an_event: ("one", "one"),
    returns_a_finish: ("", "mine"),
    returns_an_iterator: ("hi ", "hi "),
}


@pytest.mark.parametrize("agent", RETURNED, ids=lambda agent: agent.__name__)
async def test_returned(kind: str, agent: Callable[[RunRequest], Awaitable[Any]]) -> None:
    """A coroutine's value is the result, and a text that nothing came before is told as well."""
    told, result = RETURNED[agent]
    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
    assert text(seen) == told
    assert seen[-1]["type"] == "AGENT_FINISH"
    assert seen[-1]["data"]["result"] == result


async def test_our_agent_that_is_awaited(kind: str) -> None:
    """A coroutine may return what a call of another agent gives: the run goes on with that."""
    demo = SimpleAgent("simple", DemoModel(0))

    async def agent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        return demo(request)

    async with serving({"mine": agent, "demo": demo}) as server:
        first = await rest(await start(kind, server, agent="mine"))
        second = await rest(await start(kind, server, agent="demo"))
    assert text(first) == text(second) != ""


class Unknown:
    """A value that stands for no event."""


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "not None"),
        (5, "type int"),
        ({"type": "LLM_CHUNK"}, "type dict"),
        ([Text("a")], "type list"),
        (Unknown(), "Unknown"),
    ],
    ids=["None", "int", "dict", "list", "Unknown"],
)
async def test_unknown_values(kind: str, value: Any, named: str, caplog: pytest.LogCaptureFixture) -> None:
    """A value that stands for nothing ends its run, and the server's log names its type and what would be right."""

    async def agent(_: RunRequest) -> AsyncGenerator[Any, None]:
        yield "a"
        yield value

    async with serving({"mine": agent}) as server:
        seen = await rest(await start(kind, server))
    assert [event["type"] for event in seen] == ["AGENT_START", "LLM_CHUNK", "ERROR"]
    [error] = [record.exc_info for record in caplog.records if record.levelno >= logging.ERROR]
    assert error is not None
    assert named in str(error[1])
    assert "a StreamEvent, or a Text" in str(error[1])
