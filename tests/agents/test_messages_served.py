"""Messages to an agent on a real server that race the end of its run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from support.followers import KINDS, rest, say, start
from support.serving import serving
from twinwire import Finish, ReActAgent, SimpleAgent, Text
from twinwire.models import Message, Part, ToolSpec

CHANCE = random.Random(4)
RUNS = 40


class Recording:
    """A model that answers with a word, and keeps what it was asked last."""

    name = "recording"

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        del tools
        self.messages = list(messages)
        await asyncio.sleep(CHANCE.random() / 50)  # about as long as it takes to say something
        yield [Text("Well."), Finish("stop")]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_is_read_or_comes_too_late(kind: str) -> None:
    """While steps are left, the model has each message that was accepted; any other is told that the run has ended."""
    model = Recording()
    seen: set[str] = set()
    async with serving({"bot": ReActAgent("bot", model, max_steps=30)}) as server:
        for number in range(RUNS):
            follower = await start(kind, server, "Go")

            async def send(content: str, run_id: str) -> tuple[str, str]:
                for _ in range(CHANCE.randrange(30)):
                    await asyncio.sleep(0)
                return content, (await say(kind, server, run_id, content=content))["status"]

            contents = [f"{number}, {message}" for message in range(3)]
            outcomes = await asyncio.gather(*(send(content, follower.run_id) for content in contents))
            events = await rest(follower)
            accepted = {content for content, status in outcomes if status == "accepted"}
            assert {event["data"]["content"] for event in events if event["type"] == "USER_MESSAGE"} == accepted
            assert {message["content"] for message in model.messages if message["role"] == "user"} == {"Go", *accepted}
            assert "unread" not in events[-1]["metadata"]
            seen |= {status for _, status in outcomes}
    assert seen == {"accepted", "already_finished"}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_simple_agent_takes_none(kind: str) -> None:
    """A message to an agent that reads none is refused, rather than left unread."""
    going, asked = asyncio.Event(), asyncio.Event()

    class Waiting(Recording):
        async def stream(self, messages: Any, tools: Any = ()) -> Any:
            asked.set()
            await going.wait()
            async for batch in super().stream(messages, tools):
                yield batch

    async with serving({"simple": SimpleAgent("simple", Waiting())}) as server:
        follower = await start(kind, server, "Go")
        await asked.wait()
        assert (await say(kind, server, follower.run_id, content="Wait!"))["status"] == "not_accepted"
        going.set()
        events = await rest(follower)
    assert "USER_MESSAGE" not in {event["type"] for event in events}
