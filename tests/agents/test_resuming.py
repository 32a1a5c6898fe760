"""A ReActAgent goes on from wherever its process has ended: cut at each append, once and again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from support.cuts import Kept, Process, carried_out
from support.model_server import ModelServer, Request, Script, answer, calls, reasoning, text
from support.scripted import Batch, clean_loop  # noqa: F401 - a fixture
from twinwire import AskTool, OpenAIChatModel, ReActAgent, SimpleAgent, Tool, ToolRegistry, call_key
from twinwire.agents.calls import UNKNOWN
from twinwire.models import Finish, Message, Part, Text, Thinking, ToolCall, ToolSpec, Usage
from twinwire.protocol.events import StreamEvent
from twinwire.tools import Effects


class Counting(Tool):
    """Counts its calls by their keys; each takes a few turns of the loop."""

    description = "counts"

    def __init__(self, name: str, effects: Effects, turns: int = 1) -> None:
        self.name = name
        self.effects = effects
        self.turns = turns
        self.runs: Counter[str] = Counter()

    async def run(self, parameters: Mapping[str, Any]) -> str:
        self.runs[call_key()] += 1
        for _ in range(self.turns):
            await asyncio.sleep(0)
        return f"{self.name} {json.dumps(parameters, sort_keys=True)}"


class ByStep:
    """A model that gives the answer of the step that the conversation has come to. `asked` are those steps, from 0."""

    name = "by step"

    def __init__(self, *answers: Sequence[Sequence[Part]]) -> None:
        self.answers = answers
        self.asked: list[int] = []
        self.messages: list[list[Message]] = []

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        del tools
        step = sum(message["role"] == "assistant" for message in messages)
        self.asked.append(step)
        self.messages.append(list(messages))
        for batch in self.answers[step]:
            await asyncio.sleep(0)
            yield batch


def call(number: int, name: str, **parameters: Any) -> ToolCall:
    return ToolCall(f"c{number}", name, json.dumps(parameters), {"signature": f"s{number}"})


def finish(reason: str = "tool_calls") -> list[Part]:
    return [Finish(reason, Usage(7, 3, 10), {"reasoning_content": "because"})]


TALK: list[Sequence[Sequence[Part]]] = [
    [
        [Thinking("Hm.")],
        [Text("Let me "), Text("look.")],
        [call(1, "read", path="a"), call(2, "pay", euros=3), call(3, "note", text="x"), call(4, "nope")],
        [ToolCall("c5", "read", "[")],
        finish(),
    ],
    [[call(6, "read", path="a"), call(7, "read", path="a"), call(8, "pay", euros=4)], finish()],
    [
        [Text("May I?")],
        [call(9, "wipe", disk=1), call(10, "wipe", disk=2), call(11, "refund", euros=5), call(12, "wipe", disk=3)],
        [call(13, "Ask", question="Which?"), call(14, "note", text="y")],
        finish(),
    ],
    [[call(15, "Ask", question="Which?")], finish()],
    [[Thinking("So.")], [Text("All "), Text("done.")], finish("stop")],
]
"""Calls in parallel: reads, payments, one that is made up, one that is broken, repetitions, approvals, questions."""


def user(asked: dict[str, Any]) -> Any:
    """Approve one call as it is, one with other parameters, and reject one; answer the questions."""
    answers = {
        "c9": {"decision": "approve"},
        "c10": {"decision": "reject", "reason": "not that one"},
        "c11": {"decision": "approve", "parameters": {"euros": 1}},
        "c12": {"decision": "approve", "parameters": {"disk": 4}},
    }
    return answers.get(asked.get("tool_call_id", ""), "the left one")


class World:
    """An agent, its model and its tools, which no process takes along when it ends."""

    def __init__(self, *answers: Sequence[Sequence[Part]]) -> None:
        self.model = ByStep(*answers)
        self.tools = {
            "read": Counting("read", "none", 3),
            "note": Counting("note", "idempotent", 2),
            "pay": Counting("pay", "once", 4),
            "wipe": Counting("wipe", "once", 2),
            "refund": Counting("refund", "idempotent", 1),
        }
        self.registry = ToolRegistry()
        for name, tool in self.tools.items():
            self.registry.register_tool(tool, approval=name in {"wipe", "refund"})
        self.registry.register_tool(AskTool())
        self.agent = ReActAgent("bot", self.model, self.registry, max_steps=8)


def essence(events: Sequence[StreamEvent]) -> tuple[list[Any], dict[str, Any]]:
    """Return what must not depend on cuts: the events but the ends of calls, and these by call with their results."""
    told = [
        (event.type, event.data, event.metadata)
        for event in events
        if event.type not in {"AGENT_START", "AGENT_FINISH", "INPUT_ANSWERED", "INPUT_REQUESTED", "TOOL_CALL_FINISH"}
    ]
    ended = [event.data for event in events if event.type == "TOOL_CALL_FINISH"]
    results = {data["tool_call_id"]: (data["status"], data["result"]) for data in ended}
    assert len(results) == len(ended), "no call ends twice"
    questions = [event.data for event in events if event.type == "INPUT_REQUESTED"]
    answers = Counter(event.data["input_id"] for event in events if event.type == "INPUT_ANSWERED")
    assert answers == Counter(data["input_id"] for data in questions), "each question is asked and answered once"
    asked = sorted((data.get("tool_call_id", ""), data.get("prompt", "")) for data in questions)
    last = {name: value for name, value in events[-1].data.items() if name not in {"duration", "usage"}}
    counts = {name: count for name, count in events[-1].data["usage"].items() if name != "voided_tokens"}
    return told, {"ended": results, "asked": asked, "last": last, "usage": counts}


async def check(cuts: Sequence[tuple[int, bool]]) -> Kept:
    """Cut a run at these appends, and check all that must hold however it was cut."""
    whole = essence((await carried_out(World(*TALK).agent, user=user)).counted)
    world, log = World(*TALK), Kept()
    model = world.model
    for cut, lost in [*cuts, (None, True)]:
        if log.ended:
            break
        finished = sum(event.type == "STEP_FINISH" for event in log.counted)
        whole_steps = finished + bool(log.checkpoint and log.checkpoint.counts)
        before = len(model.asked)
        await Process(log, cut=cut, lost=lost, user=user).carry_out(world.agent)
        here = model.asked[before:]
        assert here == sorted(set(here)), "a process asks for each step once"
        assert not here or here[0] >= whole_steps, "no finished half of a step is asked for again"
    assert log.ended
    told, facts = essence(log.counted)
    assert told == whole[0]
    unknown = {call for call, result in facts["ended"].items() if result == ("error", UNKNOWN)}
    assert unknown <= {"c2", "c8", "c9", "c12"}
    expected = {call: facts["ended"][call] if call in unknown else result for call, result in whole[1]["ended"].items()}
    assert facts == {**whole[1], "ended": expected}
    for name in ("pay", "wipe"):
        assert set(world.tools[name].runs.values()) <= {1}, "a tool of this kind never runs twice"
    assert sum(world.tools["pay"].runs.values()) >= 2 - len(unknown & {"c2", "c8"})
    made = {name: len(world.tools[name].runs) for name in ("read", "note", "refund")}
    assert made == {"read": 2, "note": 2, "refund": 1}
    results = {m["tool_call_id"]: m["content"] for m in model.messages[-1] if m["role"] == "tool"}
    assert results["c11"].startswith('The user changed the parameters of this call to {"euros":1}.')
    assert "The user changed" in results["c12"]
    assert results["c10"] == "Error: The user refused this call: not that one."
    assert results["c13"] == results["c15"] == "the left one"
    assert [m["reasoning_content"] for m in model.messages[-1] if m["role"] == "assistant"] == ["because"] * 4
    return log


async def appends() -> int:
    """Return how many appends the whole run makes."""
    return len((await carried_out(World(*TALK).agent, user=user)).appends)


@pytest.mark.usefixtures("clean_loop")
async def test_cut_at_each_append() -> None:
    """Cut before or after any append, the run ends with the same events and usage, and asks for nothing that it has."""
    count = await appends()
    assert count > 25
    for cut in range(count):
        for lost in (True, False):
            await check([(cut, lost)])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=8))
async def test_cut_again_and_again(cuts: list[tuple[int, bool]]) -> None:
    """The same holds for a run whose next processes end as well."""
    await check(cuts)


async def test_what_is_one_append() -> None:
    """The starts of a step's calls are one append with a checkpoint, and so are a step's end and what it led to."""
    log = await carried_out(World(*TALK).agent, user=user)
    kept = [append for append in log.appends if "checkpoint" in append]
    start, end = "TOOL_CALL_START", "TOOL_CALL_FINISH"
    assert kept[::2] == [
        [*[start] * 5, end, end, "checkpoint"],
        [*[start] * 3, end, "checkpoint"],
        [*[start] * 5, "checkpoint"],
        ["checkpoint"],
    ]
    assert all(append[-3:] == ["STEP_FINISH", "PROGRESS", "checkpoint"] for append in kept[1::2])
    assert {*kept[1][:-3], *kept[3][:-3]} == {end}


async def test_a_run_that_cannot_be_resumed() -> None:
    """No state is made for a run that no other process could go on with."""

    class Nowhere(Process):
        kept = False

        async def write(self, state: Any, *, counts: bool) -> None:
            raise AssertionError(state, counts)

    log = Kept()
    assert await Nowhere(log, user=user).carry_out(World(*TALK).agent)
    assert log.checkpoint is None


async def test_a_message_is_read_once() -> None:
    """A message is answered wherever the run is cut, and the model has it in its last request once."""
    first: list[Batch] = [[call(1, "read", path="a")], finish()]
    early: list[Batch] = [[Text("Tea.")], [Text(" ")], finish("stop")]
    late: list[Batch] = [[Text("Coffee.")], finish("stop")]

    class Listening(ByStep):
        async def stream(self, messages: Any, tools: Any = ()) -> Any:
            told = {"role": "user", "content": "No."} in messages
            self.answers = (first, late if told else early, late)
            async for batch in super().stream(messages, tools):
                yield batch

    for cut in range(15):
        for lost in (True, False):
            model, world = Listening(), World()
            agent = ReActAgent("bot", model, world.registry)
            log = await carried_out(agent, (cut, lost), says={"Tea.": "No."})
            assert log.counted[-1].data["result"] == "Coffee."
            assert model.messages[-1].count({"role": "user", "content": "No."}) == 1


async def test_an_agent_without_tools() -> None:
    """A SimpleAgent that is cut asks again, and its result has nothing of the answer before."""
    for cut in range(5):
        model = ByStep([[Text("Hel")], [Text("lo")], finish("stop")])
        log = await carried_out(SimpleAgent("simple", model), (cut, True))
        assert log.counted[-1].data["result"] == "Hello"
        assert "".join(event.data["delta"] for event in log.counted if event.type == "LLM_CHUNK") == "Hello"
        assert len(model.asked) <= 2


async def test_fewer_steps() -> None:
    """A run goes on for as far as it has come, if the settings would no longer let it come so far."""
    world, log = World(*TALK), Kept()
    await Process(log, cut=12, user=user).carry_out(world.agent)
    assert log.checkpoint is not None
    begun = log.checkpoint.state["step"] + log.checkpoint.counts
    assert begun > 1
    agent = ReActAgent("bot", world.model, world.registry, max_steps=1)
    assert await Process(log, user=user).carry_out(agent)
    assert log.counted[-1].data["status"] == "max_steps"
    assert sum(event.type == "STEP_FINISH" for event in log.counted) == begun


@pytest.mark.parametrize("state", [{"version": 2}, {"more": 1}, {"step": "one"}, [], "state"])
async def test_a_state_of_another_version(state: Any) -> None:
    """A state that this version does not know ends the run as interrupted, and no model is asked."""
    world, log = World(*TALK), Kept()
    await Process(log, cut=12, user=user).carry_out(world.agent)
    assert log.checkpoint is not None
    log.checkpoint.state = state if not isinstance(state, dict) else {**log.checkpoint.state, **state}
    before = len(world.model.asked)
    assert await Process(log, user=user).carry_out(world.agent)
    assert log.events[-1].type == "ERROR"
    assert log.events[-1].data["error_type"] == "interrupted"
    assert len(world.model.asked) == before


async def test_void_tokens() -> None:
    """What a cut call of the model has cost is counted: its prompt and the words that are void, of each cut."""
    words = [Text("word" * 5)], [Text("word" * 5)]
    agent = ReActAgent("bot", ByStep([*words, finish("stop")]), system_prompt="p" * 400)
    log = await carried_out(agent, (3, True))
    assert [event.type for event in log.events][:5] == [
        "AGENT_START",
        "STEP_START",
        "LLM_CHUNK",
        "LLM_CHUNK",
        "RUN_RESUMED",
    ]
    assert log.counted[-1].data["usage"]["voided_tokens"] == 100 + 10
    log = await carried_out(agent, (3, True), (2, True))
    assert log.counted[-1].data["usage"]["voided_tokens"] == 100 + 10 + 100 + 5
    log = await carried_out(agent)
    assert "voided_tokens" not in log.counted[-1].data["usage"]


async def test_keys_of_calls() -> None:
    """Each call of a run has a key of its own, and a call that is made again has the same."""
    world, log = World(*TALK), Kept()
    await Process(log, cut=5, lost=True, user=user).carry_out(world.agent)
    first = set(world.tools["note"].runs)
    assert await Process(log, user=user).carry_out(world.agent)
    assert first < set(world.tools["note"].runs)
    keys = [key for tool in world.tools.values() for key in tool.runs]
    assert len(keys) == len(set(keys))


def respond(request: Request) -> Script:
    """Answer as a model's server: look, pay, then tell what came of it."""
    step = sum(message["role"] == "assistant" for message in request.body["messages"])
    if step == 0:
        return [*reasoning("Hm."), *text("Let me look."), *calls(("read", {"path": "a"}), ("note", {"text": "x"}))]
    if step == 1:
        return calls(("pay", {"euros": 3}))
    return answer("All ", "done.")


async def test_over_http() -> None:
    """Against a model's server it is the same: each finished step's request comes once, a cut step's once more."""
    async with ModelServer(respond) as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none", max_retries=0)
        cut, whole = 0, False
        while not whole:
            world, log = World(), Kept()
            agent = ReActAgent("bot", model, world.registry)
            upstream.requests.clear()
            whole = await Process(log, cut=cut).carry_out(agent)
            done = sum(event.type == "STEP_FINISH" for event in log.counted) + bool(
                log.checkpoint and log.checkpoint.counts
            )
            assert whole or await Process(log).carry_out(agent)
            steps = Counter(
                sum(message["role"] == "assistant" for message in request.body["messages"])
                for request in upstream.requests
            )
            assert steps.keys() == {0, 1, 2}
            assert all(count == 1 or (step == done and count == 2) for step, count in steps.items())
            assert log.counted[-1].data["result"] == "All done."
            said = upstream.requests[-1].body["messages"][2]
            assert (said["content"], said["reasoning_content"]) == ("Let me look.", "Hm.")
            assert sum(world.tools["pay"].runs.values()) <= 1
            cut += 1
        await model.aclose()
    assert cut > 8
