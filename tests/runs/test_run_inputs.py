"""Questions, approvals and messages of a run, over both transports, on every log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from support.asking import BRANCH, Scripted, asks_a_branch, calls, listens, told, until_asked
from support.followers import KINDS, attach, cancel, rest, say, start, text
from support.redis_server import fresh
from support.serving import Running, serving, until
from twinwire.agents import RunRequest
from twinwire.auth import ANYBODY
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.errors import InputExpired, LogUnavailable
from twinwire.protocol.fold import Fold
from twinwire.runs.inputs import InputLimits, Inputs
from twinwire.transports import Verdict

LOGS = ["memory", "sqlite", "redis"]


@pytest.fixture
def agent() -> Scripted:
    return Scripted()


@pytest.fixture(params=LOGS)
def log(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return (
        fresh()
        if request.param == "redis"
        else {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db"}[request.param]
    )


@pytest.fixture
async def server(agent: Scripted, log: str) -> AsyncIterator[Running]:
    async with serving({"mine": agent}, log=log) as running:
        yield running


async def described(server: Running, run_id: str) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        body: dict[str, Any] = (await client.get(f"{server.url}/runs/{run_id}")).json()
        return body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question(kind: str, server: Running) -> None:
    """A run asks, is answered, and goes on; everybody sees it, and a resume replays it."""
    follower = await start(kind, server)
    asked = await until_asked(follower)
    run_id = follower.run_id
    assert asked["input_id"] == f"ask-{run_id}-1"
    assert {name: asked[name] for name in ("kind", "prompt", "schema")} == {
        "kind": "question",
        "prompt": "Which branch?",
        "schema": BRANCH,
    }
    waiting = await described(server, run_id)
    assert (waiting["status"], waiting["waiting"], waiting["questions"]) == ("running", True, [asked])
    outcome = await say(kind, server, run_id, input_id=asked["input_id"], answer="dev", message_id="m1")
    assert outcome == {"message_id": "m1", "status": "accepted"}
    seen = await rest(follower)
    assert [event["type"] for event in seen] == ["INPUT_ANSWERED", "LLM_CHUNK", "AGENT_FINISH"]
    assert seen[0]["data"] == {"input_id": asked["input_id"], "answer": "dev", "message_id": "m1"}
    assert text(seen) == "It is dev."
    again = await rest(await attach(kind, server, run_id))
    assert [event["type"] for event in again] == ["AGENT_START", "INPUT_REQUESTED", *(e["type"] for e in seen)]
    ended = await described(server, run_id)
    assert (ended["waiting"], ended["questions"]) == (False, [])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_does_not_fit(kind: str, server: Running) -> None:
    """It is refused with its path, and the question stays open."""
    follower = await start(kind, server)
    asked = await until_asked(follower)
    refused = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer="prod")
    assert refused == {
        "code": "bad_request",
        "field": "answer",
        "message": "`answer` must be one of main, dev.",
    }
    large = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer="x" * 70_000)
    assert (large["code"], large["field"]) == ("payload_too_large", "answer")
    unknown = await say(kind, server, follower.run_id, input_id=f"ask-{follower.run_id}-2", answer="main")
    assert unknown["status"] == "not_found"
    assert (await say(kind, server, follower.run_id, input_id=asked["input_id"], answer="main"))["status"] == "accepted"
    assert text(await rest(follower)) == "It is main."


@pytest.mark.parametrize("kind", KINDS)
async def test_two_answers(kind: str, server: Running, agent: Scripted) -> None:
    """The first one wins, the second is told of it; each may be sent again, also once the run has ended."""

    async def asks_twice(request: RunRequest) -> None:
        await asks_a_branch(request)
        await asks_a_branch(request)

    agent.script = asks_twice
    follower = await start(kind, server)
    asked = await until_asked(follower)
    run_id, input_id = follower.run_id, asked["input_id"]
    outcomes = await asyncio.gather(
        *(
            say(each, server, run_id, input_id=input_id, answer="dev", message_id=f"m{n}")
            for n, each in enumerate(KINDS)
        )
    )
    assert sorted(outcome["status"] for outcome in outcomes) == ["accepted", "already_answered"]
    won = next(outcome["message_id"] for outcome in outcomes if outcome["status"] == "accepted")
    lost = next(outcome for outcome in outcomes if outcome["status"] == "already_answered")
    assert lost["message_id"] == won
    assert lost["at"].endswith("Z")
    for _ in range(2):  # while it goes on, and once it has ended
        repeated = await say(kind, server, run_id, input_id=input_id, answer="dev", message_id=won)
        assert repeated == {"message_id": won, "status": "accepted"}
        other = await say(kind, server, run_id, input_id=input_id, answer="main", message_id=won)
        assert (other["code"], other["field"]) == ("idempotency_mismatch", "message_id")
        await say(kind, server, run_id, input_id=f"ask-{run_id}-2", answer="main")
        await until(lambda: not len(server.runs))
    seen = await rest(follower)
    assert next(event["data"]["message_id"] for event in seen if event["type"] == "INPUT_ANSWERED") == won
    assert (await say(kind, server, run_id, input_id=input_id, answer="dev"))["status"] == "already_finished"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "come_to"),
    [
        ({"decision": "approve"}, ({"path": "a"}, "True None")),
        ({"decision": "approve", "parameters": {"path": "b"}}, ({"path": "b"}, "True None")),
        ({"decision": "reject", "reason": "Keep it."}, ({"path": "a"}, "False Keep it.")),
    ],
    ids=["approved", "edited", "rejected"],
)
async def test_an_approval(
    kind: str, server: Running, agent: Scripted, answer: dict[str, Any], come_to: tuple[dict[str, Any], str]
) -> None:
    """A tool call is approved, edited or rejected before the tool begins."""
    agent.script = calls
    follower = await start(kind, server)
    asked = await until_asked(follower)
    assert (asked["kind"], asked["tool_call_id"], asked["tool_name"]) == ("approval", "c", "Delete")
    assert (asked["prompt"], asked["parameters"]) == ("Delete it?", {"path": "a"})
    assert (await described(server, follower.run_id))["waiting"]
    outcome = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer=answer)
    assert outcome["status"] == "accepted"
    seen = await rest(follower)
    assert [event["type"] for event in seen[:2]] == ["INPUT_ANSWERED", "TOOL_CALL_FINISH"]
    assert (json.loads(seen[1]["data"]["result"]), text(seen)) == come_to


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ("yes", "answer"),
        ({}, "answer.decision"),
        ({"decision": "maybe"}, "answer.decision"),
        ({"decision": "approve", "parameters": []}, "answer.parameters"),
        ({"decision": "approve", "reason": "ok"}, "answer.reason"),
        ({"decision": "reject", "parameters": {}}, "answer.parameters"),
        ({"decision": "approve", "more": 1}, "answer.more"),
    ],
)
async def test_no_verdict(kind: str, server: Running, agent: Scripted, answer: Any, field: str) -> None:
    """An answer that is no verdict is refused with its path."""
    agent.script = calls
    follower = await start(kind, server)
    asked = await until_asked(follower)
    refused = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer=answer)
    assert (refused["code"], refused["field"]) == ("bad_request", field)
    assert await cancel(kind, server, follower.run_id) == "accepted"
    assert (await rest(follower))[-1]["data"]["status"] == "cancelled"
    gone = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer={"decision": "approve"})
    assert gone["status"] == "already_finished"


@pytest.mark.parametrize("kind", KINDS)
async def test_messages(kind: str, server: Running, agent: Scripted) -> None:
    """Messages to a run are in its log, once, and its agent reads them in order."""
    agent.script = listens
    follower = await start(kind, server)
    run_id = follower.run_id
    await until(lambda: run_id in server.runs._live)
    for n in range(3):
        for _ in range(2):
            assert await say(kind, server, run_id, content=f"n{n}", message_id=f"m{n}") == {
                "message_id": f"m{n}",
                "status": "accepted",
            }
    mismatch = await say(kind, server, run_id, content="else", message_id="m1")
    assert (mismatch["code"], mismatch["field"]) == ("idempotency_mismatch", "message_id")
    blank = await say(kind, server, run_id, content=" ")
    assert (blank["code"], blank["field"]) == ("bad_request", "content")
    made = (await say(kind, server, run_id, content="end"))["message_id"]
    seen = await rest(follower)
    assert [event["data"]["message_id"] for event in seen if event["type"] == "USER_MESSAGE"] == [
        "m0",
        "m1",
        "m2",
        made,
    ]
    assert text(seen) == "n0 n1 n2 end "
    assert "unread" not in seen[-1]["metadata"]
    assert await say(kind, server, run_id, content="n1", message_id="m1") == {"message_id": "m1", "status": "accepted"}
    assert (await say(kind, server, run_id, content="more"))["status"] == "already_finished"


@pytest.mark.parametrize("kind", KINDS)
async def test_unread_messages(kind: str, server: Running) -> None:
    """The terminal event names the messages that nobody read; more than a hundred are not taken."""
    follower = await start(kind, server)
    asked = await until_asked(follower)
    run_id = follower.run_id
    said = [await server.runs.say(run_id, saying(f"m{n}", "x"), ANYBODY) for n in range(100)]
    assert {outcome.status for outcome in said} == {"accepted"}
    full = await say(kind, server, run_id, content="one more")
    assert full["code"] == "too_many_messages"
    assert (await described(server, run_id))["waiting"]
    await say(kind, server, run_id, input_id=asked["input_id"], answer="main")
    end = (await rest(follower))[-1]
    assert end["metadata"]["unread"] == [f"m{n}" for n in range(100)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_expires(kind: str, server: Running, agent: Scripted) -> None:
    """Nobody answers in time: the question is closed, the agent is told, and an answer comes too late."""

    async def asks(request: RunRequest) -> None:
        try:
            await request.ask("Quick?", timeout=0.05)
        except InputExpired:
            told(request, "Nobody. ")
        await asks_a_branch(request)

    agent.script = asks
    follower = await start(kind, server)
    first = await until_asked(follower)
    second = await until_asked(follower)
    late = await say(kind, server, follower.run_id, input_id=first["input_id"], answer="yes")
    assert late["status"] == "expired"
    assert (await described(server, follower.run_id))["questions"] == [second]
    await say(kind, server, follower.run_id, input_id=second["input_id"], answer="main")
    seen = await rest(await attach(kind, server, follower.run_id))
    closed = [event["data"] for event in seen if event["type"] == "INPUT_ANSWERED"]
    assert closed[0] == {"input_id": first["input_id"], "expired": True}
    assert text(seen) == "Nobody. It is main."
    await follower.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_asks_no_longer(kind: str, server: Running, agent: Scripted) -> None:
    """An agent that gives up its question closes it; one that does not handle the expiry ends with its error."""

    async def gives_up(request: RunRequest) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await request.ask("Quick?")
        await request.ask("Again?", timeout=0.05)

    agent.script = gives_up
    seen = await rest(await start(kind, server))
    assert [event["data"].get("expired") for event in seen if event["type"] == "INPUT_ANSWERED"] == [True, True]
    assert (seen[-1]["type"], seen[-1]["data"]["error_type"]) == ("ERROR", "input_expired")


def saying(message_id: str, content: str) -> Saying:
    return Saying(message_id=message_id, content=content)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_question_outlives_its_connection(kind: str, server: Running) -> None:
    """The asker's connection is cut; another device answers, over the other transport; the first sees it, once."""
    other = "ws" if kind == "sse" else "sse"
    follower = await start(kind, server, on_disconnect="cancel")
    asked = await until_asked(follower)
    server.cut(Verdict.RESTART)
    await follower.close()
    await until(lambda: not server.service.heartbeats.pumps)
    phone = await attach(other, server, follower.run_id)
    assert await until_asked(phone) == asked
    again = await attach(kind, server, follower.run_id, 2)
    outcome = await say(other, server, follower.run_id, input_id=asked["input_id"], answer="main")
    assert outcome["status"] == "accepted"
    assert await rest(again) == await rest(phone)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_turn_knows(kind: str, server: Running, agent: Scripted) -> None:
    """A session's history has what the user said meanwhile, with the question; not what the agent did not read."""
    histories: list[Any] = []

    async def remembers(request: RunRequest) -> None:
        histories.append([message["content"] for message in request.history])
        if request.message == "first":
            await asks_a_branch(request)
            request.messages.drain()
            await request.ask("Done?")

    agent.script = remembers
    first = await start(kind, server, "first", session_id="s")
    await until_asked(first)
    await say(kind, server, first.run_id, content="In French.")
    await say(kind, server, first.run_id, input_id=f"ask-{first.run_id}-1", answer="main")
    await until_asked(first)
    await say(kind, server, first.run_id, content="Too late.")
    await say(kind, server, first.run_id, input_id=f"ask-{first.run_id}-2", answer="yes")
    await rest(first)
    await until(lambda: not server.runs._tasks)
    await rest(await start(kind, server, "second", session_id="s"))
    assert histories == [[], ["first\n\nIn French.", "It is main."]]


async def test_an_answer_that_never_comes_into_the_log() -> None:
    """The agent is not told of it: a call is not approved by words that nobody else will ever see."""

    async def lost() -> None:
        raise LogUnavailable

    limits = InputLimits()
    inputs = Inputs("a" * 26, lambda _: None, lost, limits, fold=Fold(), can_ask=True, takes_messages=True)
    asking = asyncio.create_task(inputs.ask("Sure?", None, None))
    await asyncio.sleep(0)
    with pytest.raises(LogUnavailable):
        await inputs.hear(Saying(message_id="m", input_id=f"ask-{'a' * 26}-1", answer="yes"))
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_error_that_nobody_thought_of(agent: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket whose message meets one is closed, as for any other command; another one goes on."""
    async with serving({"mine": agent}) as server:
        follower = await start("ws", server)
        asked = await until_asked(follower)
        hear = Inputs.hear

        async def fails(inputs: Inputs, saying: Saying) -> Outcome:
            if saying.content == "fail":
                raise OSError
            return await hear(inputs, saying)

        monkeypatch.setattr(Inputs, "hear", fails)
        with pytest.raises(ConnectionClosed) as closed:
            await say("ws", server, follower.run_id, content="fail")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        what = {"input_id": asked["input_id"], "answer": "main"}
        assert (await say("ws", server, follower.run_id, **what))["status"] == "accepted"
        await rest(follower)
