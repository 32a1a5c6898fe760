"""The tools in a request to a model: they stay beside calls, and a model that repeats itself is asked without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from support.model_server import ModelServer, Request, Script, answer, calls, status, text
from support.scripted import CALLS, STOP, Batch, Echo, Scripted, call, collect, named, registry, types
from twinwire import OpenAIChatModel, ReActAgent, SimpleAgent
from twinwire.agents.conversation import without_calls
from twinwire.models import Message
from twinwire.tools.base import ToolRegistry

REFUSED = status(400, body={"error": {"message": "`tools` is required: the messages have tool calls."}})
CALLED: list[Message] = [
    {"role": "user", "content": "What does a say?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "Read", "arguments": '{"path": "a"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "It says hello."},
    {"role": "assistant", "content": "Hello."},
]


def has_calls(request: Request) -> bool:
    return any("tool_calls" in message or message["role"] == "tool" for message in request.body["messages"])


class Strict:
    """A model's server as strict as Anthropic's, which calls the same tool again and again.

    `knows` says what it makes of `tool_choice` none: it obeys, refuses or ignores it, or fails on it.
    """

    def __init__(self, knows: str) -> None:
        self.knows = knows

    def __call__(self, request: Request) -> Script:
        body = request.body
        if has_calls(request) and not body.get("tools"):
            return [REFUSED]
        if body.get("tool_choice") == "none" and self.knows in {"refuses", "fails"}:
            body = {"error": {"message": "tool_choice 'none' is not supported."}}
            return [status(400 if self.knows == "refuses" else 500, body=body)]
        if not body.get("tools") or (body.get("tool_choice") == "none" and self.knows == "obeys"):
            return answer("Enough.")
        return calls(("echo", {"text": "hi"}))


async def run(upstream: ModelServer, tools: ToolRegistry, **options: Any) -> list[Any]:
    """Return the events of a run with this model's server."""
    model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none", max_retries=0)
    try:
        return await collect(ReActAgent("bot", model, tools, **options).arun_stream("go"))
    finally:
        await model.aclose()


@pytest.mark.parametrize("knows", ["obeys", "refuses", "fails", "ignores"])
async def test_a_model_that_repeats_itself(knows: str) -> None:
    """It is made to answer, whatever its server makes of `tool_choice`; no request has calls without tools."""
    echo = Echo()
    async with ModelServer(Strict(knows)) as upstream:
        events = await run(upstream, registry(echo))
        assert (events[-1].type, events[-1].data.get("result")) == ("AGENT_FINISH", "Enough.")
        assert events[-1].data["status"] == "completed"
        assert echo.runs == 2
        *tooled, last = upstream.requests
        assert all(request.body["tools"] for request in tooled)
        assert [request.body.get("tool_choice") for request in tooled[:3]] == [None] * 3
        assert (last if knows == "obeys" else tooled[-1]).body["tool_choice"] == "none"
        if knows != "obeys":
            assert not has_calls(last)
            assert "tools" not in last.body
            assert "tool_choice" not in last.body
            assert "hi" in json.dumps(last.body["messages"])
        assert len(upstream.requests) == (4 if knows == "obeys" else 5)


async def test_another_call_ends_that() -> None:
    """A model that was told to call nothing, and calls something new, has it run, and may call again."""
    async with ModelServer() as upstream:
        for number in (1, 1, 1, 2):
            upstream.script(calls(("echo", {"text": str(number)})))
        upstream.script(answer("Well."))
        echo = Echo()
        events = await run(upstream, registry(echo))
        assert (events[-1].data["result"], echo.runs) == ("Well.", 3)
        assert [request.body.get("tool_choice") for request in upstream.requests] == [None] * 3 + ["none", None]
        assert all(request.body["tools"] for request in upstream.requests)


async def test_a_model_that_calls_without_tools() -> None:
    """A model that goes on calling without any tools is refused each call, until its steps have run out."""
    async with ModelServer(lambda _: calls(("echo", {"text": "hi"}))) as upstream:
        echo = Echo()
        events = await run(upstream, registry(echo), max_steps=7)
        assert (events[-1].data["status"], echo.runs) == ("max_steps", 2)
        results = named(events, "TOOL_CALL_FINISH")
        assert [result["status"] for result in results] == ["ok", "ok"] + ["error"] * 4
        assert ["tools" in request.body for request in upstream.requests] == [True] * 4 + [False] * 3


async def test_a_refusal_that_has_another_reason() -> None:
    """A request that its server refuses with `tool_choice` and without tools ends the run with that refusal."""
    async with ModelServer() as upstream:
        for _ in range(3):
            upstream.script(calls(("echo", {"text": "hi"})))
        upstream.script(status(400, body={"error": {"message": "bad"}}))
        upstream.script(status(400, body={"error": {"message": "bad"}}))
        events = await run(upstream, registry(Echo()))
        assert (events[-1].type, events[-1].data["error_type"]) == ("ERROR", "upstream_rejected")
        assert len(upstream.requests) == 5


async def test_a_failure_is_not_asked_again() -> None:
    """Only a refusal is asked again in another way: another failure would be paid for twice."""
    async with ModelServer() as upstream:
        for _ in range(3):
            upstream.script(calls(("echo", {"text": "hi"})))
        upstream.script(text("a"))
        events = await run(upstream, registry(Echo()))
        assert events[-1].data["error_type"] == "upstream_truncated"
        assert len(upstream.requests) == 4


async def test_a_model_of_ones_own() -> None:
    """A model that has no options is asked without tools, and without calls in its messages."""
    script: list[list[Batch]] = [[[call(number)], CALLS] for number in range(3)]
    model = Scripted(*script, [STOP])
    events = await collect(ReActAgent("bot", model, registry(Echo())).arun_stream("go"))
    assert types(events).endswith("AGENT_FINISH")
    messages, tools = model.asked[3]
    assert tools == []
    assert [message["role"] for message in messages] == ["system", "user"] + ["assistant", "user"] * 3
    assert not any("tool_calls" in message for message in messages)
    assert "not run again" in messages[-1]["content"]


async def test_an_agent_without_tools() -> None:
    """An agent that has no tools now is asked with the calls of earlier turns as texts, as strict servers require."""
    async with ModelServer(Strict("obeys")) as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        agent = SimpleAgent("simple", model, system_prompt="")
        assert await agent.arun("And now?", CALLED) == "Enough."
        await model.aclose()
        assert upstream.requests[0].body["messages"] == [
            CALLED[0],
            {"role": "assistant", "content": 'I call Read with {"path": "a"}.'},
            {"role": "user", "content": "The result of Read:\n\nIt says hello."},
            CALLED[3],
            {"role": "user", "content": "And now?"},
        ]


async def test_an_agent_with_tools() -> None:
    """An agent that has tools is asked with the calls of earlier turns as they are, and with its tools."""
    async with ModelServer(lambda _: answer("Well.")) as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        agent = ReActAgent("bot", model, registry(Echo()), system_prompt="")
        await agent.arun("And now?", CALLED)
        await model.aclose()
        [request] = upstream.requests
        assert request.body["messages"] == [*CALLED, {"role": "user", "content": "And now?"}]
        assert [tool["function"]["name"] for tool in request.body["tools"]] == ["echo"]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
PARTS: list[Message] = [
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE], "name": "alice"},
    {"role": "assistant", "content": [{"type": "text", "text": "A dot."}], "reasoning_details": [{"signature": "s"}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}, {"type": "of_tomorrow", "x": [None]}]},
]


@pytest.mark.parametrize("tools", [ToolRegistry(), registry(Echo())], ids=["no tools", "tools"])
async def test_messages_of_several_parts(tools: ToolRegistry) -> None:
    """Texts, images, sounds and parts that nobody knows yet reach the model as they are."""
    async with ModelServer(lambda _: answer("Well.")) as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        await ReActAgent("bot", model, tools, system_prompt="").arun("And now?", PARTS)
        assert upstream.requests[0].body["messages"] == [*PARTS, {"role": "user", "content": "And now?"}]
        assert [batch async for batch in model.stream(PARTS)]
        assert upstream.requests[1].body["messages"] == PARTS
        await model.aclose()


def asking(*names: str, content: Any = None) -> Message:
    functions = [{"id": f"c{n}", "function": {"name": name, "arguments": "{}"}} for n, name in enumerate(names)]
    return {"role": "assistant", "content": content, "tool_calls": functions, "reasoning_content": "hm"}


def result(number: int, content: Any) -> Message:
    return {"role": "tool", "tool_call_id": f"c{number}", "content": content}


CONVERSATIONS: dict[str, tuple[list[Message], list[Message]]] = {
    "nothing": ([], []),
    "no calls": (PARTS, PARTS),
    "two calls at once": (
        [asking("A", "B", content="I look."), result(1, "b"), result(0, "a")],
        [
            {"role": "assistant", "content": "I look.\n\nI call A with {}.\n\nI call B with {}."},
            {"role": "user", "content": "The result of B:\n\nb\n\nThe result of A:\n\na"},
        ],
    ),
    "a result of parts": (
        [asking("A", content=[{"type": "text", "text": "I look."}]), result(0, [IMAGE])],
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "I look."}, {"type": "text", "text": "I call A with {}."}],
            },
            {"role": "user", "content": [{"type": "text", "text": "The result of A:"}, IMAGE]},
        ],
    ),
    "an empty result": (
        [asking("A"), result(0, "")],
        [{"role": "assistant", "content": "I call A with {}."}, {"role": "user", "content": "The result of A:"}],
    ),
    "a result without its call": ([result(7, "a")], [{"role": "user", "content": "The result of c7:\n\na"}]),
    "an odd call": (
        [{"role": "assistant", "tool_calls": [{"id": None}]}],
        [{"role": "assistant", "content": "I call None with None."}],
    ),
    "no calls but the field": (
        [{"role": "assistant", "content": "a", "tool_calls": []}],
        [{"role": "assistant", "content": "a", "tool_calls": []}],
    ),
}


@pytest.mark.parametrize(("messages", "told"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_without_calls(messages: Sequence[Message], told: list[Message]) -> None:
    """A conversation is told without calls: what was asked, and what came of it; other messages are the same."""
    assert without_calls(messages) == told
