"""Messages of a user to an agent that works."""

from __future__ import annotations

from typing import Any

import pytest

from support.scripted import (
    CALLS,
    STOP,
    Does,
    Echo,
    Scripted,
    call,
    clean_loop,  # noqa: F401 - a fixture
    collect,
    named,
    registry,
    types,
)
from support.talks import PlayedTalk
from twinwire import ReActAgent, RunRequest, SimpleAgent, StreamEvent, TwinwireError
from twinwire.agents import takes_messages
from twinwire.models import Finish, Text, Thinking

pytestmark = pytest.mark.usefixtures("clean_loop")


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def test_messages_are_read_before_each_call_of_the_model() -> None:
    """What was said before the first call, or while the tools ran, ends the next request, in order."""
    talk = PlayedTalk(said=["first"])

    async def work() -> str:
        talk.messages.say("second", "third")
        return "done"

    model = Scripted([[call(1, "work", "{}")], CALLS], [[Text("Well.")], STOP])
    await collect(ReActAgent("bot", model, registry(Does("work", work)))(RunRequest("go", talk=talk)))
    (first, _), (second, _) = model.asked
    assert first[1:] == [user("go"), user("first")]
    assert second[len(first) + 1 :] == [
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        user("second"),
        user("third"),
    ]


class Interrupted(Scripted):
    """A model during whose answers the user says something: one message for each answer."""

    def __init__(self, talk: PlayedTalk, *messages: str, script: list[Any]) -> None:
        super().__init__(*script)
        self.talk = talk
        self.messages = list(messages)

    async def stream(self, messages: Any, tools: Any = ()) -> Any:
        async for batch in super().stream(messages, tools):
            yield batch
        if self.messages:
            self.talk.messages.say(self.messages.pop(0))


async def test_a_message_during_the_answer_leads_to_another_step() -> None:
    """The answer so far stays in the conversation; the last answer is the result, and progress never goes back."""
    talk = PlayedTalk()
    script = [[[Text("Tea.")], STOP], [[Text("Coffee.")], STOP], [[Text("Water.")], STOP]]
    model = Interrupted(talk, "No, coffee.", "No, water.", script=script)
    events = await collect(ReActAgent("bot", model, max_steps=5)(RunRequest("What?", talk=talk)))
    assert model.asked[-1][0][1:] == [
        user("What?"),
        {"role": "assistant", "content": "Tea."},
        user("No, coffee."),
        {"role": "assistant", "content": "Coffee."},
        user("No, water."),
    ]
    assert (events[-1].data["result"], events[-1].data["status"]) == ("Water.", "completed")
    assert [data["action"] for data in named(events, "STEP_FINISH")] == ["answer"] * 3
    assert [data["progress"] for data in named(events, "PROGRESS")] == [20, 40, 100]


async def test_no_step_is_left() -> None:
    """In the last step a message that came during the answer stays unread."""
    talk = PlayedTalk()
    model = Interrupted(talk, "More!", script=[[[Text("Tea.")], STOP]])
    events = await collect(ReActAgent("bot", model, max_steps=1)(RunRequest("What?", talk=talk)))
    assert (events[-1].data["result"], events[-1].data["status"]) == ("Tea.", "completed")
    assert [said.content for said in talk.messages.unread] == ["More!"]


async def test_nothing_is_awaited_between_the_last_look_and_the_end() -> None:
    """The step's end and the run's are one `emit`, so that a message is read or comes after the end."""
    talk, told = PlayedTalk(), list[list[str]]()

    async def held_up() -> None:
        talk.messages.say("too late" if told[-1][-1] == "AGENT_FINISH" else f"while {told[-1][-1]} was told")

    def emit(*events: StreamEvent) -> Any:
        told.append([event.type for event in events])
        return held_up()

    model = Scripted([[Text("a")], STOP], [[Text("b")], STOP], [[Text("c")], [Finish("stop")]])
    await ReActAgent("bot", model, max_steps=3)(RunRequest("go", talk=talk)).for_each(emit)
    assert told[-1] == ["STEP_FINISH", "PROGRESS", "AGENT_FINISH"]
    read = {message["content"] for message in model.asked[-1][0] if message["role"] == "user"}
    assert read >= {"while PROGRESS was told", "while STEP_START was told", "while LLM_CHUNK was told"}


@pytest.mark.parametrize("thought", [[], [Thinking("hm")]])
async def test_an_empty_answer_is_not_sent_back(thought: list[Any]) -> None:
    """Servers refuse an assistant's message without content, so that an empty answer is left out."""
    talk = PlayedTalk()
    model = Interrupted(talk, "Hello?", script=[[*([thought] if thought else []), STOP], [[Text("Yes.")], STOP]])
    events = await collect(ReActAgent("bot", model)(RunRequest("go", talk=talk)))
    assert model.asked[1][0][1:] == [user("go"), user("Hello?")]
    assert events[-1].data["result"] == "Yes."


async def test_state_of_an_answer_is_sent_back() -> None:
    """What a server sent with its answer goes back with it, as it does with calls."""
    talk = PlayedTalk()
    finish = Finish("stop", None, {"reasoning_content": "hm"})
    model = Interrupted(talk, "And?", script=[[[Text("Tea."), finish]], [[Text("Yes.")], STOP]])
    await collect(ReActAgent("bot", model)(RunRequest("go", talk=talk)))
    assert model.asked[1][0][2] == {"role": "assistant", "content": "Tea.", "reasoning_content": "hm"}


async def test_a_message_gives_the_tools_back() -> None:
    """A model that only repeated itself must answer without tools; told something new, it has them again."""
    talk, echo = PlayedTalk(), Echo()
    script = [[[call(n)], CALLS] for n in (1, 2, 3)] + [[[Text("Enough.")], STOP], [[Text("Yes.")], STOP]]
    model = Interrupted(talk, script=script)
    agent = ReActAgent("bot", model, registry(echo))
    async for event in agent(RunRequest("go", talk=talk)):
        if event.type == "LLM_CHUNK" and event.data["content"] == "Enough.":
            talk.messages.say("Look elsewhere.")
    assert [bool(tools) for _, tools in model.asked] == [True, True, True, False, True]


async def test_an_error_is_the_end_whatever_was_said() -> None:
    """A run that fails does not go on for a message."""
    talk = PlayedTalk()

    class Failing(Scripted):
        async def stream(self, messages: Any, tools: Any = ()) -> Any:
            talk.messages.say("Hello?")
            async for batch in super().stream(messages, tools):
                yield batch

    model = Failing([TwinwireError("No.")], [[Text("Yes.")], STOP])
    events = await collect(ReActAgent("bot", model)(RunRequest("go", talk=talk)))
    assert types(events) == "AGENT_START STEP_START ERROR"
    assert len(talk.messages.unread) == 1


async def test_the_simple_agent_reads_none() -> None:
    """It says so, and leaves messages unread."""
    talk = PlayedTalk(said=["first"])
    model = Scripted([[Text("Tea.")], STOP])
    agent = SimpleAgent("simple", model)
    await collect(agent(RunRequest("What?", talk=talk)))
    assert model.asked[0][0][1:] == [user("What?")]
    assert len(talk.messages.unread) == 1


async def plain(request: RunRequest) -> None:
    request.emit()


async def deaf(request: RunRequest) -> None:
    request.emit()


deaf.takes_messages = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("agent", "takes"),
    [
        (plain, True),
        (deaf, False),
        (ReActAgent("bot", Scripted([STOP])), True),
        (SimpleAgent("bot", Scripted([STOP])), False),
    ],
)
def test_an_agent_says_whether_it_reads_messages(agent: Any, takes: bool) -> None:
    """One that does not say so is taken to read them."""
    assert takes_messages(agent) is takes


def test_a_request_of_no_run_has_none() -> None:
    """A request of no run has no messages and cannot ask."""
    request = RunRequest("go")
    assert (request.messages.drain(), request.can_ask) == ([], False)
