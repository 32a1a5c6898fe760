"""The agents' events, their messages to the model, and how they tell errors."""

from __future__ import annotations

import asyncio

import pytest

from support.scripted import (
    CALLS,
    STOP,
    Batch,
    Echo,
    Scripted,
    call,
    clean_loop,  # noqa: F401 - a fixture
    collect,
    named,
    registry,
    types,
)
from twinwire.agents import RunRequest
from twinwire.agents.react import ReActAgent
from twinwire.agents.simple import SimpleAgent
from twinwire.models import Finish, Part, Text, Thinking, ToolCall, Usage
from twinwire.protocol.errors import RunError, UpstreamTimeout

pytestmark = pytest.mark.usefixtures("clean_loop")


async def test_events_of_an_answer() -> None:
    """An answer without tools gives each event of the contract once, in order, with its data and its step."""
    model = Scripted([[Thinking("hm")], [Text("Hel"), Text("lo")], STOP])
    events = await collect(ReActAgent("bot", model, registry(Echo()), max_steps=4).arun_stream("hi"))
    finish = events.pop().data
    assert finish.pop("duration") >= 0
    assert finish == {
        "result": "Hello",
        "status": "completed",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }
    config = {"agent": "bot", "model": "scripted", "tools": ["echo"]}
    step = {"step": 1}
    assert [(event.type, event.data, event.metadata) for event in events] == [
        ("AGENT_START", {"input": "hi", "config": config, "max_steps": 4}, {}),
        ("STEP_START", {"step": 1, "max_steps": 4}, step),
        ("THINKING", {"content": "hm"}, step),
        ("LLM_CHUNK", {"content": "Hel", "delta": "Hel"}, step),
        ("LLM_CHUNK", {"content": "lo", "delta": "lo"}, step),
        ("STEP_FINISH", {"step": 1, "action": "answer"}, step),
        ("PROGRESS", {"progress": 100, "step": 1, "total": 4}, step),
    ]


async def test_events_of_a_tool_step() -> None:
    """A step with a tool call tells of its start and finish, and the next step answers with all usage added up."""
    model = Scripted([[Text("Look.")], [call(1)], CALLS], [[Text("Done.")], STOP])
    request = RunRequest("go")
    events = await collect(ReActAgent("bot", model, registry(Echo()), max_steps=4)(request))
    assert types(events) == (
        "AGENT_START STEP_START LLM_CHUNK TOOL_CALL_START TOOL_CALL_FINISH STEP_FINISH PROGRESS "
        "STEP_START LLM_CHUNK STEP_FINISH PROGRESS AGENT_FINISH"
    )
    assert named(events, "TOOL_CALL_START") == [
        {"tool_call_id": "c1", "tool_name": "echo", "parameters": {"text": "hi"}}
    ]
    (finish,) = named(events, "TOOL_CALL_FINISH")
    assert finish.pop("duration") >= 0
    assert finish == {"tool_call_id": "c1", "tool_name": "echo", "result": "hi", "status": "ok"}
    assert [data["action"] for data in named(events, "STEP_FINISH")] == ["tool_calls", "answer"]
    assert [data["progress"] for data in named(events, "PROGRESS")] == [25, 100]
    assert [event.metadata.get("step") for event in events] == [None, *[1] * 6, *[2] * 4, None]
    assert events[-1].data["result"] == "Done."
    assert request.usage == Usage(12, 23, 35)


async def test_messages_to_the_model() -> None:
    """The model is asked once a step: system prompt, history, message, then the calls and their answers in order."""
    model = Scripted([[Text("Look."), call(1), call(2, "nope", "")], CALLS], [[Text("Done.")], STOP])
    tools = registry(Echo())
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    agent = ReActAgent("bot", model, tools, system_prompt="Be brief.")
    assert await agent.arun("c", history) == "Done."
    (first, first_tools), (second, second_tools) = model.asked
    assert first == [{"role": "system", "content": "Be brief."}, *history, {"role": "user", "content": "c"}]
    assert first_tools == second_tools == tools.specs
    assert second[len(first) :] == [
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "echo", "arguments": '{"text": "hi"}'}},
                {"id": "c2", "type": "function", "function": {"name": "nope", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "hi"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: There is no tool named 'nope'. The tools are: echo."},
    ]
    assert len(history) == 2


@pytest.mark.parametrize(("prompt", "roles"), [(None, ["system", "user"]), ("", ["user"])])
async def test_system_prompt(prompt: str | None, roles: list[str]) -> None:
    """There is a system prompt unless it is given as empty."""
    for kind in (ReActAgent, SimpleAgent):
        model = Scripted([STOP])
        assert await kind("bot", model, system_prompt=prompt).arun("hi") == ""
        assert [message["role"] for message in model.asked[0][0]] == roles


async def test_max_steps() -> None:
    """Where the steps run out, the last step's text is the result and the calls nobody would read are not run."""
    echo = Echo()
    script: list[list[Batch]] = [
        [[Text(f"Step {n}."), call(n, arguments=f'{{"text": "{n}"}}')], CALLS] for n in (1, 2, 3)
    ]
    events = await collect(ReActAgent("bot", Scripted(*script), registry(echo), max_steps=3).arun_stream("go"))
    assert (events[-1].data["status"], events[-1].data["result"]) == ("max_steps", "Step 3.")
    assert [data["action"] for data in named(events, "STEP_FINISH")] == ["tool_calls"] * 3
    assert [data["progress"] for data in named(events, "PROGRESS")] == [33, 66, 100]
    assert echo.runs == len(named(events, "TOOL_CALL_START")) == 2
    with pytest.raises(ValueError, match="max_steps"):
        ReActAgent("bot", Scripted([STOP]), max_steps=0)


async def test_model_error_is_told() -> None:
    """A model's own error becomes one ERROR event with its code and text, after what was said before it."""
    model = Scripted([[Text("Hel")], UpstreamTimeout(30)])
    events = await collect(ReActAgent("bot", model).arun_stream("go"))
    assert types(events) == "AGENT_START STEP_START LLM_CHUNK ERROR"
    text = "The model sent nothing for 30 s, which `--model-timeout` allows."
    assert events[-1].data == {"error_type": "upstream_timeout", "message": text, "error": text}


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_is_cut_off(reason: str) -> None:
    """An answer that was cut off ends the run as `incomplete`, with the reason; an empty one is an ERROR."""
    cut: list[Part] = [Finish(reason, Usage(2, 3, 5))]
    events = await collect(ReActAgent("bot", Scripted([[Text("Hel")], cut])).arun_stream("go"))
    finish = events[-1].data
    assert (finish["result"], finish["status"], finish["finish_reason"]) == ("Hel", "incomplete", reason)
    events = await collect(ReActAgent("bot", Scripted([[Thinking("hm")], cut])).arun_stream("go"))
    assert events[-1].type == "ERROR"
    codes = {"length": "upstream_truncated", "content_filter": "upstream_rejected"}
    assert events[-1].data["error_type"] == codes[reason]


async def test_state_is_sent_back() -> None:
    """What a message and its calls brought beside what is known goes back to the model with them, unread."""
    signed = ToolCall("c1", "echo", '{"text": "hi"}', {"extra_content": {"sign": "x"}, "function": {"more": 1}})
    finish = Finish("tool_calls", None, {"reasoning_content": "hm", "role": "not ours"})
    model = Scripted([[Text("Look."), signed, finish]], [[Text("Done.")], STOP])
    await collect(ReActAgent("bot", model, registry(Echo())).arun_stream("go"))
    said = model.asked[1][0][-2]
    function = {"name": "echo", "arguments": '{"text": "hi"}', "more": 1}
    assert said == {
        "role": "assistant",
        "content": "Look.",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "c1", "type": "function", "function": function, "extra_content": {"sign": "x"}}],
    }


async def test_unexpected_error_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Any other exception is logged; the ERROR event has a fixed text without it."""
    events = await collect(ReActAgent("bot", Scripted([KeyError("sk-canary")])).arun_stream("go"))
    assert events[-1].type == "ERROR"
    assert events[-1].data == {
        "error_type": "agent_error",
        "message": "The agent failed.",
        "error": "The agent failed.",
    }
    assert "sk-canary" in caplog.text


async def test_truncated_answer() -> None:
    """A model that ends without saying so has not answered."""
    with pytest.raises(RunError, match="broke off") as caught:
        await ReActAgent("bot", Scripted([[Text("Hel")]])).arun("go")
    assert caught.value.code == "upstream_truncated"


async def test_a_batch_is_not_suspended() -> None:
    """Parts that came in one batch are yielded within one turn of the loop."""
    turns: list[int] = []
    seen = []
    async for event in ReActAgent("bot", Scripted([[Text("a"), Text("b"), Text("c")], STOP])).arun_stream("go"):
        if event.type == "LLM_CHUNK":
            asyncio.get_running_loop().call_soon(turns.append, 1)
            seen.append(len(turns))
    assert seen == [0, 0, 0]


async def test_runs_do_not_mix() -> None:
    """One agent serves two runs at once, each with its own messages, steps and usage."""
    model = Scripted([[Text("x")], STOP])
    agent = ReActAgent("bot", model)
    requests = [RunRequest("one"), RunRequest("two")]
    both = await asyncio.gather(*(collect(agent(request)) for request in requests))
    assert [events[0].data["input"] for events in both] == ["one", "two"]
    assert [request.usage.total_tokens for request in requests] == [5, 5]
    assert sorted(messages[-1]["content"] for messages, _ in model.asked) == ["one", "two"]


async def test_simple_agent() -> None:
    """The SimpleAgent offers no tools, makes one call, and runs nothing even where the model calls a tool."""
    model = Scripted([[Text("Hi.")], STOP], [[call(1)], CALLS])
    agent = SimpleAgent("simple", model)
    events = await collect(agent.arun_stream("hello"))
    assert types(events) == "AGENT_START STEP_START LLM_CHUNK STEP_FINISH PROGRESS AGENT_FINISH"
    assert events[0].data["config"]["tools"] == []
    assert events[0].data["max_steps"] == 1
    assert events[-1].data["result"] == "Hi."
    events = await collect(agent.arun_stream("hello"))
    assert events[-1].data["status"] == "max_steps"
    assert [tools for _, tools in model.asked] == [[], []]
