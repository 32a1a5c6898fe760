"""An agent's tool calls, and that nothing is left running wherever it is stopped."""

from __future__ import annotations

import asyncio

import pytest

from support.scripted import (
    CALLS,
    STOP,
    Does,
    Echo,
    Scripted,
    Stuck,
    call,
    clean_loop,  # noqa: F401 - a fixture
    collect,
    named,
    raising,
    registry,
)
from twinwire.agents.react import ReActAgent
from twinwire.models import Text, ToolCall
from twinwire.tools.base import ToolError

pytestmark = pytest.mark.usefixtures("clean_loop")


async def test_tools_run_in_parallel() -> None:
    """Two calls of one step that each wait for the other both finish."""
    barrier = asyncio.Barrier(2)

    async def meet() -> str:
        return str(await barrier.wait() >= 0)

    model = Scripted([[call(1, "meet", "{}"), call(2, "meet", "{}")], CALLS], [STOP])
    events = await collect(ReActAgent("bot", model, registry(Does("meet", meet))).arun_stream("go"))
    assert [data["result"] for data in named(events, "TOOL_CALL_FINISH")] == ["True", "True"]


async def test_tools_finish_as_they_are_done() -> None:
    """A quick call finishes before a slow one that came first; the model is answered in its own order."""
    quick_told = asyncio.Event()

    async def slow() -> str:
        await quick_told.wait()
        return "slow"

    model = Scripted([[call(1, "slow", "{}"), call(2)], CALLS], [STOP])
    order = []
    async for event in ReActAgent("bot", model, registry(Does("slow", slow), Echo())).arun_stream("go"):
        if event.type.startswith("TOOL"):
            order.append((event.type, event.data["tool_call_id"]))
        if event.type == "TOOL_CALL_FINISH":
            quick_told.set()
    start, finish = "TOOL_CALL_START", "TOOL_CALL_FINISH"
    assert order == [(start, "c1"), (start, "c2"), (finish, "c2"), (finish, "c1")]
    assert [message["tool_call_id"] for message in model.asked[1][0][-2:]] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (call(1, "echo", '{"text": '), "The call's arguments must be valid JSON."),
        (call(1, "echo", "[1]"), "The call's arguments must be a JSON object."),
        (call(1, "nope", "{}"), "There is no tool named 'nope'. The tools are: echo, raising."),
        (call(1, "raising", "{}"), "no luck"),
        (call(1, "echo", "{}"), "The tool echo failed."),
    ],
)
async def test_failed_calls_are_told(asked: ToolCall, told: str) -> None:
    """A call that cannot be run or fails is a finish with status error, the model is told, and the run goes on."""
    model = Scripted([[asked], CALLS], [[Text("Sorry.")], STOP])
    tools = registry(Echo(), raising(ToolError("no luck")))
    events = await collect(ReActAgent("bot", model, tools).arun_stream("go"))
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert (finish["tool_call_id"], finish["status"], finish["result"]) == ("c1", "error", told)
    assert model.asked[1][0][-1]["content"] == f"Error: {told}"
    assert model.asked[1][0][-2]["content"] is None
    assert model.asked[1][0][-2]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert events[-1].data["result"] == "Sorry."


async def test_tool_that_cancels_itself() -> None:
    """A tool that ends by a cancellation of its own fails like any other and does not cancel the run."""
    model = Scripted([[call(1, "raising", "{}")], CALLS], [[Text("Well.")], STOP])
    events = await collect(ReActAgent("bot", model, registry(raising(asyncio.CancelledError()))).arun_stream("go"))
    assert [data["result"] for data in named(events, "TOOL_CALL_FINISH")] == ["The tool raising failed."]
    assert events[-1].data["status"] == "completed"


async def test_tool_timeout() -> None:
    """A tool that is too slow is a tool error, not an error of the run, and does not run on."""
    stuck = Stuck()
    model = Scripted([[call(1, "stuck", "{}")], CALLS], [[Text("Well.")], STOP])
    events = await collect(ReActAgent("bot", model, registry(stuck.tool), tool_timeout=0.01).arun_stream("go"))
    assert [data["result"] for data in named(events, "TOOL_CALL_FINISH")] == [
        "The tool stuck did not finish in 0.01 s."
    ]
    assert (events[-1].data["status"], stuck.inside) == ("completed", 0)


async def test_repeated_calls() -> None:
    """The third time the same call is refused, in whatever order its parameters are; then the model must answer."""
    echo = Echo()
    model = Scripted(
        [[call(1, arguments='{"text": "hi", "n": 1}')], CALLS],
        [[call(2, arguments='{"n":1,"text":"hi"}'), call(3, arguments='{"text": "other"}')], CALLS],
        [[call(4, arguments='{"n":1, "text":"hi"}'), call(5, arguments='{"text": "third"}')], CALLS],
        [[call(6, arguments='{"n":1,"text":"hi"}')], CALLS],
        [[Text("Enough.")], STOP],
    )
    events = await collect(ReActAgent("bot", model, registry(echo)).arun_stream("go"))
    refused = {data["tool_call_id"] for data in named(events, "TOOL_CALL_FINISH") if data["status"] == "error"}
    assert (refused, echo.runs) == ({"c4", "c6"}, 4)
    assert "not run again" in model.asked[4][0][-1]["content"]
    assert [bool(tools) for _, tools in model.asked] == [True, True, True, True, False]
    assert events[-1].data["result"] == "Enough."


@pytest.mark.parametrize("how", ["close", "cancel"])
@pytest.mark.parametrize("where", ["STEP_START", "LLM_CHUNK", "TOOL_CALL_START", "TOOL_CALL_FINISH"])
async def test_stopped_anywhere(how: str, where: str) -> None:
    """Closing the generator, or cancelling who iterates it, ends model and tools at once, at any event."""
    stuck = Stuck()
    model = Scripted([[Text("a")], [call(1), call(2, "stuck", "{}"), call(3, "stuck", "{}")], CALLS])
    agent = ReActAgent("bot", model, registry(Echo(), stuck.tool))
    events = agent.arun_stream("go")
    reached = asyncio.Event()

    async def follow() -> None:
        async for event in events:
            if event.type == where:
                reached.set()
                if how == "close":
                    return
                await asyncio.Event().wait()

    task = asyncio.create_task(follow())
    await reached.wait()
    assert (stuck.inside, model.open) == {"LLM_CHUNK": (0, 1), "TOOL_CALL_FINISH": (2, 0)}.get(where, (0, 0))
    if how == "cancel":
        task.cancel()
    await asyncio.wait([task])
    await events.aclose()
    assert (stuck.inside, model.open) == (0, 0)


@pytest.mark.parametrize("waits_for", ["model", "tool"])
async def test_cancelled_while_waiting(waits_for: str) -> None:
    """Cancelled while it waits for the model or a tool, the run ends both and raises the cancellation."""
    stuck = Stuck()
    model = Scripted([None]) if waits_for == "model" else Scripted([[call(1, "stuck", "{}")], CALLS])
    task = asyncio.create_task(ReActAgent("bot", model, registry(stuck.tool)).arun("go"))
    await (stuck if waits_for == "tool" else model).entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (stuck.inside, model.open) == (0, 0)
