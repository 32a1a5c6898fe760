"""The tool calls of an agent that its user must approve, and the questions that its model asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from support.scripted import (
    CALLS,
    STOP,
    Batch,
    Does,
    Echo,
    Scripted,
    Stuck,
    call,
    clean_loop,  # noqa: F401 - a fixture
    collect,
    named,
    types,
)
from support.talks import PlayedTalk, yes
from twinwire import AskTool, Call, Decision, InputExpired, InputNotPossible, ReActAgent, RunRequest, ToolRegistry
from twinwire.models import Text
from twinwire.protocol.events import StreamEvent
from twinwire.tools.base import Approval, Tool

pytestmark = pytest.mark.usefixtures("clean_loop")

DONE: list[Batch] = [[Text("Done.")], STOP]


def needing(tool: Tool, *others: Tool, approval: Approval = True) -> ToolRegistry:
    """Return a registry in which the calls of the first tool need approval."""
    tools = ToolRegistry()
    tools.register_tool(tool, approval=approval)
    for other in others:
        tools.register_tool(other)
    return tools


async def run(model: Scripted, tools: ToolRegistry, talk: PlayedTalk | None, **options: Any) -> list[StreamEvent]:
    """Return the events of a run whose user is this talk."""
    request = RunRequest("go") if talk is None else RunRequest("go", talk=talk)
    return await collect(ReActAgent("bot", model, tools, **options)(request))


async def test_an_approved_call_is_run() -> None:
    """The user is asked after TOOL_CALL_START, with the call; the tool runs once it is approved."""
    echo = Echo()
    model = Scripted([[call(1)], CALLS], DONE)
    order: list[str] = []

    async def reply(asked: Call) -> Decision:
        order.append(f"asked, {echo.runs} runs")
        return await yes(asked)

    talk = PlayedTalk(reply)

    def emit(*events: StreamEvent) -> None:
        order.extend(event.type for event in events if event.type.startswith("TOOL"))

    await ReActAgent("bot", model, needing(echo))(RunRequest("go", talk=talk)).for_each(emit)
    assert order == ["TOOL_CALL_START", "asked, 0 runs", "TOOL_CALL_FINISH"]
    assert talk.asked == [Call("c1", "echo", {"text": "hi"})]
    assert model.asked[1][0][-1]["content"] == "hi"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("not today", "The user refused this call: not today."),
        ("Too risky!", "The user refused this call: Too risky!"),
        (" \n", "The user refused this call."),
        (None, "The user refused this call."),
    ],
)
async def test_a_rejected_call_is_a_tool_error(reason: str | None, told: str) -> None:
    """It is not run, its finish has status error and the user's reason, and the model is told."""
    echo = Echo()
    model = Scripted([[call(1)], CALLS], DONE)

    async def no(asked: Call) -> Decision:
        return Decision(False, asked.parameters, reason)

    events = await run(model, needing(echo), PlayedTalk(no))
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert (finish["status"], finish["result"], finish["duration"]) == ("error", told, 0)
    assert (model.asked[1][0][-1]["content"], echo.runs) == (f"Error: {told}", 0)
    assert events[-1].data["result"] == "Done."


@pytest.mark.parametrize("edited", [{"text": "bye"}, {"text": 1, "to": ["é"]}, {}])
async def test_an_edited_call_is_run_as_edited(edited: dict[str, Any]) -> None:
    """The tool gets the user's parameters; the model is told them with the result, and sees its own call as it was."""
    echo = Echo()
    model = Scripted([[call(1)], CALLS], DONE)

    async def edit(_: Call) -> Decision:
        return Decision(True, edited)

    events = await run(model, needing(echo), PlayedTalk(edit))
    (finish,) = named(events, "TOOL_CALL_FINISH")
    text = str(edited["text"]) if edited else "The tool echo failed."
    assert (finish["result"], finish["status"]) == (text, "ok" if edited else "error")
    said, result = model.asked[1][0][-2:]
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"text": "hi"}
    told, _, rest = result["content"].partition("\n\n")
    assert told.startswith("The user changed" if edited else "Error: The user changed")
    assert json.loads(told[told.index("{") :].removesuffix(".")) == edited
    assert rest == text


@pytest.mark.parametrize("error", [InputExpired(), InputNotPossible()])
async def test_a_question_without_an_answer_is_a_tool_error(error: Exception) -> None:
    """If nobody answers, or nobody can, the call is not run, the model is told why, and the run goes on."""
    echo = Echo()
    model = Scripted([[call(1)], CALLS], DONE)

    async def nobody(_: Call) -> Decision:
        raise error

    events = await run(model, needing(echo), PlayedTalk(nobody))
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert finish["status"] == "error"
    assert finish["result"] == f"This call requires the user's approval and was not run. {error}"
    assert (echo.runs, events[-1].data["status"]) == (0, "completed")


async def test_a_request_of_no_run() -> None:
    """Without a server nobody can be asked: a call that needs approval is a tool error."""
    echo = Echo()
    events = await run(Scripted([[call(1)], CALLS], DONE), needing(echo), None)
    assert [data["status"] for data in named(events, "TOOL_CALL_FINISH")] == ["error"]
    assert (echo.runs, events[-1].data["result"]) == (0, "Done.")


async def test_a_predicate_decides() -> None:
    """Only the calls for which it returns True are asked about."""
    echo = Echo()
    model = Scripted([[call(1), call(2, arguments='{"text": "rm"}')], CALLS], DONE)
    talk = PlayedTalk(yes)
    await run(model, needing(echo, approval=lambda parameters: parameters["text"] == "rm"), talk)
    assert ([asked.id for asked in talk.asked], echo.runs) == (["c2"], 2)


async def test_calls_are_asked_for_in_parallel() -> None:
    """All starts come first; each call has a question of its own, and one that needs none does not wait for them."""
    model = Scripted([[call(1), call(2, "free", "{}"), call(3)], CALLS], DONE)
    both, free = asyncio.Event(), asyncio.Event()
    order: list[tuple[str, str]] = []

    async def reply(asked: Call) -> Decision:
        if len(talk.asked) == 2:
            both.set()
        await both.wait()
        await free.wait()
        return await yes(asked)

    async def work() -> str:
        await both.wait()
        return "free"

    def emit(*events: StreamEvent) -> None:
        order.extend((event.type, event.data["tool_call_id"]) for event in events if event.type.startswith("TOOL"))
        if order[3:]:
            free.set()

    talk = PlayedTalk(reply)
    tools = needing(Echo(), Does("free", work))
    await ReActAgent("bot", model, tools)(RunRequest("go", talk=talk)).for_each(emit)
    start, finish = "TOOL_CALL_START", "TOOL_CALL_FINISH"
    assert order[:4] == [(start, "c1"), (start, "c2"), (start, "c3"), (finish, "c2")]
    assert set(order[4:]) == {(finish, "c1"), (finish, "c3")}
    assert [message["tool_call_id"] for message in model.asked[1][0][-3:]] == ["c1", "c2", "c3"]


async def test_time_begins_with_the_approval(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that the user takes counts neither for the tool's timeout nor for its `duration`."""
    now = 0.0
    monkeypatch.setattr("twinwire.agents.calls.time.monotonic", lambda: now)

    async def late(asked: Call) -> Decision:
        nonlocal now
        now += 3600
        return await yes(asked)

    events = await run(Scripted([[call(1)], CALLS], DONE), needing(Echo()), PlayedTalk(late))
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert (finish["status"], finish["duration"]) == ("ok", 0)


async def test_an_answer_may_take_longer_than_a_tool() -> None:
    """A question is open for longer than `tool_timeout`, which then ends the tool alone."""
    stuck, slow = Stuck(), asyncio.Event()

    async def late(asked: Call) -> Decision:
        asyncio.get_running_loop().call_later(0.05, slow.set)
        await slow.wait()
        return await yes(asked)

    model = Scripted([[call(1), call(2, "stuck", "{}")], CALLS], DONE)
    events = await run(model, needing(Echo(), stuck.tool), PlayedTalk(late), tool_timeout=0.01)
    told = {data["tool_call_id"]: data["result"] for data in named(events, "TOOL_CALL_FINISH")}
    assert told == {"c1": "hi", "c2": "The tool stuck did not finish in 0.01 s."}


async def test_refused_calls_are_not_asked_about() -> None:
    """Calls that are not run anyway, of unknown tools, with bad arguments, too many or repeated, need no answer."""
    model = Scripted(
        [[call(1, "nope"), call(2, arguments="["), call(3), call(4)], CALLS],
        [[call(5)], CALLS],
        [[call(6)], CALLS],
        DONE,
    )
    talk = PlayedTalk(yes)
    await run(model, needing(Echo()), talk, max_tool_calls=3)
    assert [asked.id for asked in talk.asked] == ["c3"]


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_stopped_while_it_asks(how: str) -> None:
    """Cancelled or closed while questions are open, the run leaves neither a question nor a tool behind."""
    stuck, asked = Stuck(), asyncio.Event()

    async def never(_: Call) -> Decision:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    talk = PlayedTalk(never)
    model = Scripted([[call(1), call(2, "stuck", "{}"), call(3)], CALLS])
    events = ReActAgent("bot", model, needing(Echo(), stuck.tool))(RunRequest("go", talk=talk))
    following = asyncio.create_task(collect(events))
    await asked.wait()
    await stuck.entered.wait()
    following.cancel()
    await asyncio.wait([following])
    if how == "close":
        await events.aclose()
    assert (talk.open, stuck.inside) == (0, 0)


async def test_a_talk_that_fails() -> None:
    """An error of the run's own ends it, and no other call of the step is left."""
    stuck = Stuck()

    async def broken(_: Call) -> Decision:
        await stuck.entered.wait()
        raise RuntimeError

    model = Scripted([[call(1), call(2, "stuck", "{}")], CALLS], DONE)
    events = await run(model, needing(Echo(), stuck.tool), PlayedTalk(broken))
    assert (events[-1].type, stuck.inside) == ("ERROR", 0)


SCHEMA = {"type": "object", "properties": {"cups": {"type": "integer"}}}


def question(number: int, **parameters: Any) -> Any:
    return call(number, "Ask", json.dumps(parameters))


@pytest.mark.parametrize(("answer", "told"), [("Earl Grey", "Earl Grey"), ({"cups": 2}, '{"cups":2}'), (True, "true")])
async def test_a_model_asks(answer: object, told: str) -> None:
    """A call of Ask is a question and no tool call of the run's; the model is given the answer."""
    model = Scripted([[question(1, question="Which tea?", schema=SCHEMA)], CALLS], DONE)

    async def reply(_: object) -> object:
        return answer

    talk = PlayedTalk(reply)
    events = await run(model, needing(Echo(), AskTool()), talk)
    assert talk.asked == [("Which tea?", SCHEMA)]
    assert model.asked[1][0][-1] == {"role": "tool", "tool_call_id": "c1", "content": told}
    assert "TOOL" not in types(events)


@pytest.mark.parametrize(
    ("parameters", "error", "told"),
    [
        ({"question": "?"}, InputExpired(), "Error: The run asked its user, and nobody answered in time."),
        ({"question": "?"}, ValueError("`schema` is too deep."), "Error: `schema` is too deep."),
        ({"question": 1}, None, "Error: The parameters are not valid: Expected `str`, got `int` - at `$.question`."),
        ({}, None, "Error: The parameters are not valid: Object missing required field `question`."),
    ],
)
async def test_a_question_that_fails(parameters: Mapping[str, Any], error: Exception | None, told: str) -> None:
    """A question that cannot be asked or is not answered is an error that the model is told; the run goes on."""
    model = Scripted([[question(1, **parameters)], CALLS], DONE)

    async def reply(_: object) -> object:
        assert error is not None
        raise error

    events = await run(model, needing(Echo(), AskTool()), PlayedTalk(reply))
    assert model.asked[1][0][-1]["content"] == told
    assert events[-1].data["result"] == "Done."
