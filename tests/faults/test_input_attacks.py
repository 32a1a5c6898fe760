"""Hostile and clumsy questions, answers and messages harm nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from support.asking import Scripted, asks_a_branch, calls, told, until_asked
from support.followers import KINDS, attach, cancel, rest, say, start, text
from support.redis_server import fresh
from support.serving import Running, serving, until
from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.protocol.errors import InputNotPossible
from twinwire.protocol.events import StreamEvent

each_kind = pytest.mark.parametrize("kind", KINDS)
LOGS = ["memory", "sqlite", "redis"]


def url_of(log: str, folder: Any) -> str:
    return fresh() if log == "redis" else {"memory": "memory://", "sqlite": f"sqlite:///{folder}/log.db"}[log]


@each_kind
async def test_an_answer_that_is_dear_to_check(kind: str) -> None:
    """An address of 64 KiB of dots is checked in no time: the event loop serves everybody else."""
    agent = Scripted()

    async def asks(request: RunRequest) -> None:
        await request.ask("Where?", schema={"type": "string", "format": "email"})

    agent.script = asks
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        asked = await until_asked(follower)
        refused = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer="x@" + "." * 65_000 + "@")
        assert refused["code"] == "bad_request"
        deep: Any = {}
        for _ in range(200):
            deep = {"a": deep}
        refused = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer=deep)
        assert (refused["code"], refused["field"]) == ("bad_request", "answer")
        await follower.close()


@each_kind
async def test_a_deep_verdict(kind: str) -> None:
    """Parameters that are nested deeper than an event may be are refused, and the question stays open."""
    agent = Scripted()
    agent.script = calls
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        asked = await until_asked(follower)
        deep: Any = {}
        for _ in range(200):
            deep = {"a": deep}
        answer = {"decision": "approve", "parameters": deep}
        refused = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer=answer)
        assert (refused["code"], refused["field"]) == ("bad_request", "answer")
        answer = {"decision": "approve"}
        taken = await say(kind, server, follower.run_id, input_id=asked["input_id"], answer=answer)
        assert taken["status"] == "accepted"
        await rest(follower)


@each_kind
async def test_a_message_before_the_agent_begins(kind: str) -> None:
    """The run begins once, and its agent's own AGENT_START, which comes later, is left out."""
    agent, go_on = Scripted(), asyncio.Event()

    async def begins_late(request: RunRequest) -> None:
        await go_on.wait()
        request.emit(StreamEvent("AGENT_START", {"input": request.message, "config": {}, "max_steps": 3}))
        told(request, " ".join(said.content for said in request.messages.drain()))

    agent.script = begins_late
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        assert (await say(kind, server, follower.run_id, content="Hurry."))["status"] == "accepted"
        go_on.set()
        seen = await rest(follower)
        assert [event["type"] for event in seen] == ["AGENT_START", "USER_MESSAGE", "LLM_CHUNK", "AGENT_FINISH"]


@each_kind
@pytest.mark.parametrize("log", LOGS)
async def test_an_agent_that_asks_when_it_is_over(kind: str, log: str, tmp_path: Any) -> None:
    """An agent that asks after the run's end is told at once that nobody answers."""
    agent, outcomes = Scripted(), asyncio.Queue[BaseException]()

    async def asks_in_the_end(request: RunRequest) -> None:
        try:
            await asks_a_branch(request)
        finally:
            try:
                await request.ask("Really?")
            except InputNotPossible as error:
                outcomes.put_nowait(error)

    agent.script = asks_in_the_end
    async with serving({"mine": agent}, log=url_of(log, tmp_path)) as server:
        follower = await start(kind, server)
        await until_asked(follower)
        assert await cancel(kind, server, follower.run_id) == "accepted"
        async with asyncio.timeout(5):
            assert isinstance(await outcomes.get(), InputNotPossible)
        assert (await rest(follower))[-1]["data"]["status"] == "cancelled"


@each_kind
async def test_an_agent_that_asks_for_ever(kind: str) -> None:
    """One that asks again and again, though it cannot, holds up nobody, and ends at its deadline."""
    agent = Scripted()

    async def insists(request: RunRequest) -> None:
        while True:
            with contextlib.suppress(InputNotPossible):
                await request.ask("Please?")

    del kind
    agent.script = insists
    async with serving({"mine": agent}, run_timeout=0.5) as server, httpx.AsyncClient(trust_env=False) as client:
        refused = await client.get(f"{server.url}/chat", params={"message": "hi", "stream": "false"})
        assert (refused.status_code, refused.json()["code"]) == (424, "timeout")


@each_kind
async def test_an_agent_that_asks_from_a_thread(kind: str) -> None:
    """It is told that it must not; what it changes in its call afterwards changes nothing."""
    agent = Scripted()

    async def asks_elsewhere(request: RunRequest) -> None:
        with pytest.raises(RuntimeError, match="thread of the run's event loop"):
            await asyncio.to_thread(asyncio.run, request.ask("From here?"))
        parameters: dict[str, Any] = {"path": "a"}
        request.emit(StreamEvent("TOOL_CALL_START", {"tool_call_id": "c", "tool_name": "D", "parameters": {}}))
        asking = asyncio.create_task(request.approve(Call("c", "D", parameters)))
        await asyncio.sleep(0)
        parameters["path"] = object()
        decision = await asking
        told(request, json.dumps(decision.parameters))

    agent.script = asks_elsewhere
    async with serving({"mine": agent}) as server, httpx.AsyncClient(trust_env=False) as client:
        follower = await start(kind, server)
        asked = await until_asked(follower)
        assert (await client.get(f"{server.url}/runs/{follower.run_id}")).json()["questions"] == [asked]
        await say(kind, server, follower.run_id, input_id=asked["input_id"], answer={"decision": "approve"})
        assert text(await rest(follower)) == '{"path": "a"}'


@each_kind
async def test_no_room_for_a_question(kind: str) -> None:
    """A question that goes over the run's budget ends the run with that, even if the agent goes on regardless."""
    agent = Scripted()

    async def asks_much(request: RunRequest) -> None:
        while True:
            await asyncio.gather(*(request.ask("x" * 60_000) for _ in range(4)), return_exceptions=True)

    agent.script = asks_much
    async with serving({"mine": agent}, run_bytes=200 * 1024) as server:
        seen = await rest(await start(kind, server))
        assert seen[-1]["data"]["error_type"] == "budget"
        asked = {event["data"]["input_id"] for event in seen if event["type"] == "INPUT_REQUESTED"}
        assert {event["data"]["input_id"] for event in seen if event["type"] == "INPUT_ANSWERED"} <= asked


@each_kind
async def test_a_run_that_nobody_ever_followed(kind: str) -> None:
    """With `cancel` it is not ended by its first answer: nobody has left."""
    agent = Scripted()

    async def asks_twice(request: RunRequest) -> None:
        await asks_a_branch(request)
        await asks_a_branch(request)

    agent.script = asks_twice
    async with serving({"mine": agent}) as server, httpx.AsyncClient(trust_env=False) as client:
        body = {"message": "hi", "on_disconnect": "cancel"}
        run_id = (await client.post(f"{server.url}/runs", json=body)).json()["run_id"]
        for number in (1, 2):
            await until(lambda: bool(server.runs._live[run_id].fold.questions))
            outcome = await say(kind, server, run_id, input_id=f"ask-{run_id}-{number}", answer="dev")
            assert outcome["status"] == "accepted"
        await until(lambda: not len(server.runs))
        assert (await rest(await attach(kind, server, run_id)))[-1]["data"]["status"] == "completed"


@each_kind
async def test_the_same_id_for_something_like_it(kind: str) -> None:
    """1 is not true, also once the run has ended."""
    agent = Scripted()

    async def asks(request: RunRequest) -> None:
        await request.ask("Sure?", schema={"type": "boolean"})

    agent.script = asks
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        asked = await until_asked(follower)
        what = {"input_id": asked["input_id"], "message_id": "m"}
        assert (await say(kind, server, follower.run_id, answer=True, **what))["status"] == "accepted"
        await rest(follower)
        assert (await say(kind, server, follower.run_id, answer=1, **what))["code"] == "idempotency_mismatch"
        assert (await say(kind, server, follower.run_id, answer=True, **what))["status"] == "accepted"


@pytest.mark.full
async def test_a_cancel_beside_an_owner_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message to a run that does not answer holds up neither the socket's pings nor its cancels."""
    url, agent = fresh(), Scripted()
    async with serving({"mine": agent}, log=url) as a, serving({"mine": agent}, log=url) as b:
        silent, other = await start("ws", a), await start("ws", b)
        await until_asked(silent)
        monkeypatch.setattr(a.runs.log._reader, "_obey", lambda *_: None)  # type: ignore[attr-defined]
        async with connect(b.ws_url, compression=None, proxy=None) as socket:
            for n in range(3):
                await socket.send(json.dumps({"type": "send", "run_id": silent.run_id, "content": f"{n}", "ref": n}))
            await socket.send(json.dumps({"type": "cancel", "run_id": other.run_id}))
            assert json.loads(await socket.recv())["type"] == "cancel_ack"
            unknown = json.loads(await socket.recv())
            assert (unknown["code"], unknown["ref"]) == ("unknown_outcome", 0)
        await other.close()
        await silent.close()


async def test_long_questions_in_a_list(tmp_path: Any) -> None:
    """A list of runs has the ids of questions whose texts are long, whichever worker it is asked from."""
    url, agent = fresh(), Scripted()

    async def asks_much(request: RunRequest) -> None:
        await asyncio.gather(*(request.ask("x" * 60_000) for _ in range(3)))

    del tmp_path
    agent.script = asks_much
    async with serving({"mine": agent}, log=url) as a, serving({"mine": agent}, log=url) as b:
        follower = await start("ws", a, user_id="u")
        for _ in range(3):
            await until_asked(follower)
        assert [len(await listed(server)) for server in (a, b)] == [3, 3]
        await follower.close()


async def listed(server: Running) -> list[dict[str, Any]]:
    """The questions of the newest run of `u`, once there are three."""
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            answer = await client.get(f"{server.url}/runs", params={"user_id": "u"})
            questions: list[dict[str, Any]] = answer.json()["runs"][0]["questions"]
            if len(questions) == 3:
                assert len(answer.content) < 16 * 1024
                assert [sorted(question) for question in questions] == [["expires_at", "input_id", "kind"]] * 3
                return questions
            await asyncio.sleep(0.01)
