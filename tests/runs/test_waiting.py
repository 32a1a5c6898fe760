"""A run that waits for its user: its deadline stands still, nobody's absence ends it, and it counts on its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from support.asking import Scripted, asks_a_branch, told, until_asked
from support.followers import KINDS, Refused, attach, rest, say, start, text
from support.redis_server import fresh
from support.serving import Running, serving, until
from twinwire.agents import RunRequest
from twinwire.agents.talk import Call
from twinwire.protocol.errors import RunError
from twinwire.protocol.events import StreamEvent

pytestmark = pytest.mark.parametrize("kind", KINDS)


async def answered(kind: str, server: Running, run_id: str, number: int = 1) -> None:
    outcome = await say(kind, server, run_id, input_id=f"ask-{run_id}-{number}", answer="main")
    assert outcome["status"] == "accepted"


async def test_the_deadline_stands_still(kind: str) -> None:
    """A run that waits for longer than its deadline goes on; what is left of the deadline counts from then on."""
    agent = Scripted()

    async def asks_then_hangs(request: RunRequest) -> None:
        await asks_a_branch(request)
        await asyncio.sleep(60)

    agent.script = asks_then_hangs
    async with serving({"mine": agent}, run_timeout=0.5) as server:
        follower = await start(kind, server)
        await until_asked(follower)
        await asyncio.sleep(1)  # the time that the deadline must not count
        await answered(kind, server, follower.run_id)
        seen = await rest(follower)
        assert (seen[-1]["data"]["error_type"], text(seen)) == ("timeout", "It is main.")


async def test_a_run_waits_for_a_bounded_time(kind: str) -> None:
    """Once it has waited for as long as it may, its deadline goes on."""
    async with serving({"mine": Scripted()}, run_timeout=0.3, max_wait=0.3) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "INPUT_REQUESTED", "ERROR"]
        assert seen[-1]["data"]["error_type"] == "timeout"


async def test_work_beside_a_question_has_its_deadline(kind: str) -> None:
    """A run that says more after its question does not wait: nothing stands still."""
    agent = Scripted()

    async def asks_and_talks(request: RunRequest) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asks_a_branch(request))
            await asyncio.sleep(0)
            told(request, "Meanwhile.")

    agent.script = asks_and_talks
    async with serving({"mine": agent}, run_timeout=0.3) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "INPUT_REQUESTED", "LLM_CHUNK", "ERROR"]
        assert seen[-1]["data"]["error_type"] == "timeout"


@pytest.mark.parametrize("policy", ["cancel", "cancel_after:0.2"])
async def test_nobody_follows(kind: str, policy: str) -> None:
    """A run that waits is not ended because nobody follows it; its grace begins once it goes on."""
    agent = Scripted()

    async def asks_then_hangs(request: RunRequest) -> None:
        await asks_a_branch(request)
        await asyncio.sleep(60)

    agent.script = asks_then_hangs
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server, on_disconnect=policy)
        await until_asked(follower)
        await follower.close()
        await until(lambda: not server.service.heartbeats.pumps)
        await asyncio.sleep(0.5)  # longer than the grace
        assert len(server.runs) == 1
        await answered(kind, server, follower.run_id)
        await until(lambda: not len(server.runs))
        end = (await rest(await attach(kind, server, follower.run_id)))[-1]
        assert (end["data"]["status"], end["data"]["reason"]) == ("cancelled", "nobody_followed")


@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
async def test_the_quota_of_those_who_wait(kind: str, log: str, tmp_path: Any) -> None:
    """Runs that wait are not among the user's runs at once, but have a number of their own; one answered is free."""
    url = fresh() if log == "redis" else "memory://" if log == "memory" else f"sqlite:///{tmp_path}/log.db"
    async with serving({"mine": Scripted()}, log=url, user_runs=1, user_waiting=2) as server:
        first = await asks(kind, server, "first")
        await until_asked(first)
        second = await asks(kind, server, "second")
        await until_asked(second)
        with pytest.raises(Refused) as refused:
            await asks(kind, server, "one too many")
        assert refused.value.answer["code"] == "too_many_runs"
        await answered(kind, server, first.run_id)
        await rest(first)
        third = await asks(kind, server, "third", patient=True)
        for follower in (second, third):
            await answered(kind, server, follower.run_id)
            await rest(follower)


async def asks(kind: str, server: Running, session_id: str, *, patient: bool = False) -> Any:
    """Start a run of one user once the log has heard that the one before waits; if `patient`, or waits no longer."""
    while True:
        try:
            return await start(kind, server, user_id="u", session_id=session_id)
        except Refused as refused:
            if "wait for their user" in refused.answer["message"] and not patient:
                raise
        await asyncio.sleep(0.01)


async def test_callers_who_wait_for_the_result(kind: str) -> None:
    """A run whose caller could not answer cannot ask: the agent sees that, or the run says so."""
    del kind
    agent = Scripted()

    async def looks(request: RunRequest) -> None:
        told(request, str(request.can_ask))
        if request.message == "ask":
            await asks_a_branch(request)

    agent.script = looks
    async with serving({"mine": agent}) as server, httpx.AsyncClient(trust_env=False) as client:
        result = await client.get(f"{server.url}/chat", params={"message": "hi", "stream": "false"})
        assert result.json()["result"] == "False"
        refused = await client.get(f"{server.url}/chat", params={"message": "ask", "stream": "false"})
        assert (refused.status_code, refused.json()["code"]) == (424, "input_not_possible")


async def test_an_agent_cannot_play_the_run(kind: str) -> None:
    """An agent that emits an event of the run's own is refused, and told how it would ask."""
    agent = Scripted()

    async def pretends(request: RunRequest) -> None:
        with pytest.raises(ValueError, match=r"must not emit INPUT_REQUESTED\. It calls `request\.ask`"):
            request.emit(StreamEvent("INPUT_REQUESTED", {"input_id": "mine", "kind": "question", "prompt": "?"}))
        with pytest.raises(ValueError, match=r"must not emit RUN_RESUMED\. It calls .* `checkpoint`\."):
            request.emit(StreamEvent("RUN_RESUMED", {"epoch": 1, "step": None, "void_after": 1}))
        with pytest.raises(ValueError, match="TOOL_CALL_START"):
            await request.approve(Call("c", "Delete", {}))
        with pytest.raises(ValueError, match="`schema` must have a `type`"):
            await request.ask("?", schema={"type": "array"})
        with pytest.raises(ValueError, match="at most 65536 bytes"):
            await request.ask("x" * 70_000)
        told(request, "Refused.")

    agent.script = pretends
    async with serving({"mine": agent}) as server:
        assert text(await rest(await start(kind, server))) == "Refused."


async def test_many_questions(kind: str) -> None:
    """A run has 32 open questions, each answered by itself; one more is refused to the agent."""
    agent = Scripted()

    async def asks_much(request: RunRequest) -> None:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(request.ask(f"{n}?")) for n in range(32)]
            await asyncio.sleep(0)
            with pytest.raises(RunError, match="32 open questions"):
                await request.ask("One more?")
        told(request, " ".join([task.result() for task in asked]))

    agent.script = asks_much
    async with serving({"mine": agent}) as server:
        follower = await start(kind, server)
        ids = [(await until_asked(follower))["input_id"] for _ in range(32)]
        await asyncio.gather(*(say(kind, server, follower.run_id, input_id=name, answer=name[-2:]) for name in ids))
        seen = await rest(follower)
        assert text(seen) == " ".join(name[-2:] for name in ids)
        assert json.dumps(seen).count("INPUT_ANSWERED") == 32
