"""docs/TALK.md: its agents ask, and are answered and steered, on a real server and over both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from support.documents import ROOT, run, snippets
from support.followers import KINDS, OTHER, AnyFollower, events, rest, say, start, text
from support.model_server import ModelServer, answer as said, calls, end, gate, text as words
from support.serving import Running, serving
from twinwire.agents import Agent

DOCUMENT = (ROOT / "docs/TALK.md").read_text()
TOOLS, OWN = snippets(DOCUMENT, "python")


def agents(program: str) -> dict[str, Agent]:
    """Return the agents of a program of the document."""
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - it is the document's
    return dict(names["app"].state.service.runs.agents)


@pytest.fixture
async def upstream(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelServer]:
    """The model's server that the document's model asks."""
    async with ModelServer() as upstream:
        monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        yield upstream


async def until(follower: AnyFollower, kind: str) -> dict[str, Any]:
    """Return the data of the next event of this type."""
    async for event in events(follower):
        if event["type"] == kind:
            data = event["data"]
            assert isinstance(data, dict)
            return data
    raise AssertionError(kind)


async def reply(kind: str, server: Running, follower: AnyFollower, value: Any) -> dict[str, Any]:
    """Wait for a question, and answer it. Return the question."""
    question = await until(follower, "INPUT_REQUESTED")
    outcome = await say(kind, server, follower.run_id, input_id=question["input_id"], answer=value)
    assert outcome["status"] == "accepted"
    return question


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("verdict", "status", "result"),
    [
        ({"decision": "approve"}, "ok", "Paid back 60 euros."),
        ({"decision": "approve", "parameters": {"euros": 55}}, "ok", "Paid back 55 euros."),
        ({"decision": "approve", "parameters": {}}, "error", "The tool Refund failed."),
        ({"decision": "reject", "reason": "not today"}, "error", "The user refused this call: not today."),
    ],
)
async def test_a_tool_that_needs_approval(
    kind: str, verdict: dict[str, Any], status: str, result: str, upstream: ModelServer
) -> None:
    """The dear call is asked about, the cheap one is not; the model is told what came of both."""
    upstream.script(calls(("Refund", {"euros": 60}), ("Refund", {"euros": 20})))
    upstream.script(said("Done."))
    async with serving(agents(TOOLS)) as server:
        follower = await start(kind, server, "Pay back", agent="desk")
        question = await reply(kind, server, follower, verdict)
        assert (question["kind"], question["tool_name"], question["parameters"]) == (
            "approval",
            "Refund",
            {"euros": 60},
        )
        seen = [event async for event in events(follower)]
        await follower.close()
    finished = {event["data"]["tool_call_id"]: event["data"] for event in seen if event["type"] == "TOOL_CALL_FINISH"}
    mine = finished[question["tool_call_id"]]
    assert (mine["status"], mine["result"]) == (status, result)
    assert seen[-1]["data"]["result"] == "Done."
    await upstream.arrived()
    *_, first, second = (await upstream.arrived()).body["messages"]
    assert result in first["content"]
    assert ("changed the parameters" in first["content"]) == ("parameters" in verdict)
    assert second["content"] == "Paid back 20 euros."


@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_asks(kind: str, upstream: ModelServer) -> None:
    """The model's question has the form that it gave, and the answer goes to the model."""
    upstream.script(calls(("Ask", {"question": "How many?", "schema": {"type": "integer", "minimum": 1}})))
    upstream.script(said("Two."))
    async with serving(agents(TOOLS)) as server:
        follower = await start(kind, server, "Pay back", agent="desk")
        question = await until(follower, "INPUT_REQUESTED")
        assert (question["prompt"], question["schema"]["type"]) == ("How many?", "integer")
        which = {"input_id": question["input_id"]}
        refused = await say(kind, server, follower.run_id, **which, answer=0)
        assert (refused["code"], refused["field"]) == ("bad_request", "answer")
        assert (await say(kind, server, follower.run_id, **which, answer=2))["status"] == "accepted"
        await until(follower, "AGENT_FINISH")
        await follower.close()
    await upstream.arrived()
    assert (await upstream.arrived()).body["messages"][-1]["content"] == "2"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_while_the_model_answers(kind: str, upstream: ModelServer) -> None:
    """It is answered in another step, and the terminal event names no unread message."""
    more = asyncio.Event()
    upstream.script(words("Tea"), gate(more), *end())
    upstream.script(said("Coffee."))
    async with serving(agents(TOOLS)) as server:
        follower = await start(kind, server, "What?", agent="desk")
        await until(follower, "LLM_CHUNK")
        assert (await say(kind, server, follower.run_id, content="No, coffee."))["status"] == "accepted"
        assert (await until(follower, "USER_MESSAGE"))["content"] == "No, coffee."
        more.set()
        seen = [event async for event in events(follower)]
        await follower.close()
    assert seen[-1]["data"]["result"] == "Coffee."
    assert "unread" not in seen[-1]["metadata"]
    await upstream.arrived()
    assert [message["content"] for message in (await upstream.arrived()).body["messages"][1:]] == [
        "What?",
        "Tea",
        "No, coffee.",
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("verdict", "result"),
    [
        ({"decision": "approve"}, "Released dev."),
        ({"decision": "approve", "parameters": {"branch": "main"}}, "Released main."),
        ({"decision": "reject", "reason": "too late"}, "Refused: too late."),
    ],
)
async def test_an_agent_of_ones_own(kind: str, verdict: dict[str, Any], result: str) -> None:
    """It asks, then has its call approved; the answers may come over the other transport."""
    async with serving(agents(OWN)) as server:
        follower = await start(kind, server, "Go", agent="release")
        asked = await reply(OTHER[kind], server, follower, "dev")
        approval = await reply(OTHER[kind], server, follower, verdict)
        seen = [event async for event in events(follower)]
        await follower.close()
    assert (asked["prompt"], asked["kind"]) == ("Which branch?", "question")
    assert (approval["prompt"], approval["parameters"]) == ("Release dev?", {"branch": "dev"})
    assert text(seen) == result


@pytest.mark.parametrize("kind", KINDS)
async def test_steering_an_agent_of_ones_own(kind: str) -> None:
    """It does what it is told until that is the last word."""
    async with serving(agents(OWN)) as server:
        follower = await start(kind, server, "Write", agent="secretary")
        for content in ("Milk", "Bread", "stop"):
            assert (await say(kind, server, follower.run_id, content=content))["status"] == "accepted"
        seen = await rest(follower)
    assert text(seen) == "Milk. Bread. "
    assert seen[-1]["data"]["status"] == "completed"


async def test_nobody_can_be_asked() -> None:
    """Whoever waits for the whole answer could give none: the agent's run ends with an error that says so."""
    async with serving(agents(OWN)) as server, httpx.AsyncClient(trust_env=False) as client:
        reply = await client.get(f"{server.url}/chat?message=Go&stream=false&agent=release")
    assert (reply.status_code, reply.json()["code"]) == (424, "input_not_possible")


async def test_the_commands() -> None:
    """The document's commands start a run and see its question, say something more, and reject the call."""
    (commands,) = snippets(DOCUMENT, "sh")
    async with serving() as server:
        code, out, err = await run("bash", "-c", commands, server=server)
    assert code == 0, err
    asked, _, answered = out.partition('{"run_id"')
    assert "event: INPUT_REQUESTED" in asked
    assert answered.count('"status":"accepted"') == 2
    assert "The user refused this call: not today." in answered
    assert '"tool_name":"Search","parameters":{"pattern":"asyncio"}' in answered
    assert "event: AGENT_FINISH" in answered
