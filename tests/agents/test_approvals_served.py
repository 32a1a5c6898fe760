"""An agent whose user is slow to approve, on a real server: what goes on beside a question, and the deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.asking import until_asked
from support.followers import KINDS, AnyFollower, events, say, start
from support.scripted import CALLS, STOP, Batch, Does, Echo, Scripted, call
from support.serving import Running, serving
from twinwire import ReActAgent, ToolRegistry
from twinwire.models import Text

DONE: list[Batch] = [[Text("Done.")], STOP]


async def quick() -> str:
    return "quick"


def agent(script: list[Batch]) -> ReActAgent:
    tools = ToolRegistry()
    tools.register_tool(Echo(), approval=True)
    tools.register_tool(Does("quick", quick))
    return ReActAgent("bot", Scripted(script, DONE), tools)


async def finished(follower: AnyFollower) -> None:
    async for event in events(follower):
        if event["type"] == "TOOL_CALL_FINISH":
            return


async def approve(kind: str, server: Running, question: dict[str, Any], run_id: str) -> None:
    outcome = await say(kind, server, run_id, input_id=question["input_id"], answer={"decision": "approve"})
    assert outcome["status"] == "accepted"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_ends_beside_a_question(kind: str) -> None:
    """Once it has ended the run waits for its user alone: its deadline stands still."""
    script: list[Batch] = [[call(1), call(2, "quick", "{}")], CALLS]
    async with serving({"bot": agent(script)}, run_timeout=0.5) as server:
        follower = await start(kind, server)
        question = await until_asked(follower)
        await finished(follower)
        await asyncio.sleep(1)  # the time that the deadline must not count
        await approve(kind, server, question, follower.run_id)
        seen = [event async for event in events(follower)]
        await follower.close()
    assert (seen[-1]["type"], seen[-1]["data"].get("result")) == ("AGENT_FINISH", "Done.")


@pytest.mark.parametrize("kind", KINDS)
async def test_two_questions_answered_one_after_the_other(kind: str) -> None:
    """After the first call has been approved and has ended, the run waits for the second answer."""
    script: list[Batch] = [[call(1), call(2)], CALLS]
    async with serving({"bot": agent(script)}, run_timeout=0.5) as server:
        follower = await start(kind, server)
        questions = [await until_asked(follower) for _ in range(2)]
        await approve(kind, server, questions[0], follower.run_id)
        await finished(follower)
        await asyncio.sleep(1)  # the time that the deadline must not count
        await approve(kind, server, questions[1], follower.run_id)
        seen = [event async for event in events(follower)]
        await follower.close()
    assert (seen[-1]["type"], seen[-1]["data"].get("result")) == ("AGENT_FINISH", "Done.")
