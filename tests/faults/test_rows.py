"""Rows of the table of faults and abuse that go through the whole server: each ends as it should, for its client alone.

What is tried in one place only, such as a model's connection or a parser, is with that place's tests.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from faults.leaks import leakless
from support.chaos import chaos
from support.credentials import AUTH, asking, bearer
from support.followers import KINDS, attach, cancel, check, rest, start, text
from support.model_failures import KEY, REFUSED
from support.model_server import ModelServer, Script
from support.scripted import CALLS, Scripted, Stuck, call, registry
from support.serving import Puppets, Running, serving, until
from twinwire import OpenAIChatModel, ReActAgent, SimpleAgent
from twinwire.agents import Agent
from twinwire.protocol.wire import new_run_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("script", "code"), REFUSED.values(), ids=REFUSED)
async def test_upstream(
    kind: str, script: Script, code: str, puppets: Puppets, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the model's server does, the run ends in one ERROR of its type, with no secret; another run goes on."""
    async with ModelServer() as upstream:
        upstream.script(*script)
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key=KEY, max_retries=0)
        agents: dict[str, Agent] = {"simple": SimpleAgent("simple", model), "mine": puppets}
        async with serving(agents) as server, leakless(server):
            other = await start(kind, server, agent="mine")
            puppet = await puppets.next()
            seen = await rest(await start(kind, server, "secret", agent="simple"))
            puppet.end()
            assert (await rest(other))[-1]["type"] == "AGENT_FINISH"
            await model.aclose()
    assert (seen[-1]["type"], seen[-1]["data"]["error_type"]) == ("ERROR", code)
    told = json.dumps(seen[1:]) + caplog.text
    assert not [word for word in ("canary", "secret") if word in told]
    assert ("127.0.0.1" in told) == (code == "upstream_unreachable")  # whose address is loopback's: no secret


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancel_in_a_tool(kind: str) -> None:
    """A run is cancelled while a tool runs: the tool is stopped, and the run ends with what came before."""
    stuck = Stuck()
    agent = ReActAgent("bot", Scripted([[call(0, "stuck", "{}")], CALLS]), registry(stuck.tool))
    async with serving({"mine": agent}) as server, leakless(server):
        follower = await start(kind, server)
        await stuck.entered.wait()
        assert await cancel(kind, server, follower.run_id) == "accepted"
        seen = await rest(follower)
        await until(lambda: not stuck.inside)
    assert [event["type"] for event in seen][-2:] == ["TOOL_CALL_START", "AGENT_FINISH"]
    assert seen[-1]["data"]["status"] == "cancelled"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reconnect_while_the_old_connection_lives(kind: str, server: Running, puppets: Puppets) -> None:
    """Who comes again before the server has noticed that they left has all after the cursor; the run goes on."""
    async with chaos(server.port) as proxy:
        old = await start(kind, proxy, on_disconnect="cancel")
        puppet = await puppets.next()
        puppet.say("a")
        seen = [json.loads(await old.next() or b"") for _ in range(2)]
        proxy.stall()
        puppet.say("b")
        new = await attach(kind, server, old.run_id, seen[-1]["id"])
        assert len(server.service.heartbeats.pumps) == 2
        proxy.cut()
        await until(lambda: len(server.service.heartbeats.pumps) == 1)
        puppet.say("c")
        puppet.end()
        seen += await rest(new)
        await old.close()
    check(seen)
    assert (text(seen), seen[-1]["data"]["status"]) == ("abc", "completed")


@pytest.mark.parametrize("guesses", [500, pytest.param(10_000, marks=pytest.mark.full)], ids=str)
async def test_guessed_ids(guesses: int, puppets: Puppets) -> None:
    """Ids that are guessed are answered alike, and like somebody else's: nobody learns which there are."""
    async with serving({"mine": puppets}, **AUTH, socket_rate=guesses) as server, asking(server, "alice") as alice:
        theirs = (await alice.post("/runs", json={"message": "hi"})).json()["run_id"]
        answers: Counter[str] = Counter()
        async with (
            asking(server, "bob") as bob,
            connect(server.ws_url, proxy=None, additional_headers=bearer("bob")) as socket,
        ):
            for run_id in (theirs, *(new_run_id() for _ in range(guesses))):
                for path in ("", "/events"):
                    answer = await bob.get(f"/runs/{run_id}{path}")
                    del answer.headers["date"], answer.headers["x-request-id"]
                    answers[f"{path} {answer.status_code} {answer.headers} {answer.text}"] += 1
                await socket.send(json.dumps({"type": "attach", "run_id": run_id}))
                answers[str(await socket.recv()).replace(run_id, "")] += 1
    assert list(answers.values()) == [guesses + 1] * 3
    assert all("run_not_found" in answer for answer in answers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", ["state", "create", "page", "history"])
async def test_a_canary_in_the_log_s_exceptions(
    kind: str, broken: str, server: Running, puppets: Puppets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an unexpected exception says reaches no client: neither an answer nor a close reason; others go on."""

    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError(KEY)

    other = await start(kind, server)
    puppet = await puppets.next()
    told = ""
    starts = broken in {"create", "history"}
    with monkeypatch.context() as patched:
        patched.setattr(server.runs.log, broken, fails)
        if kind == "sse":
            path = "/chat/stream?message=hi&session_id=s&user_id=u" if starts else f"/runs/{other.run_id}/events"
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client:
                with suppress(httpx.RemoteProtocolError):
                    async with client.stream("GET", path) as answer:
                        told += f"{answer.status_code} {answer.headers} "
                        async for piece in answer.aiter_text():
                            told += piece
        else:
            asked = {"type": "start", "request_id": "r", "message": "hi", "session_id": "s", "user_id": "u"}
            async with connect(server.ws_url, proxy=None) as socket:
                await socket.send(json.dumps(asked if starts else {"type": "attach", "run_id": other.run_id}))
                with suppress(ConnectionClosed):
                    while True:
                        told += str(await socket.recv())
                told += f"{socket.close_code} {socket.close_reason}"
    assert {"sse": "200" if broken == "page" else "500", "ws": "1011"}[kind] in told
    assert KEY not in told
    puppet.end()
    assert (await rest(other))[-1]["type"] == "AGENT_FINISH"


@pytest.mark.parametrize("kind", KINDS)
async def test_claimed_addresses(kind: str, puppets: Puppets) -> None:
    """Whatever addresses a client says that it comes from, its user's limits stay."""
    async with serving({"mine": puppets}, user_runs=1, **AUTH) as server:
        claims = [{"x-forwarded-for": f"10.0.0.{n}", "forwarded": f"for=10.0.0.{n}"} for n in range(3)]
        refused = 0
        for claim in claims:
            async with asking(server, "alice", **claim) as client:
                if kind == "sse":
                    refused += (await client.post("/runs", json={"message": "hi"})).status_code == 429
                    continue
                async with connect(
                    server.ws_url, proxy=None, additional_headers={**bearer("alice"), **claim}
                ) as socket:
                    await socket.send('{"type":"start","request_id":"r","message":"hi","on_disconnect":"continue"}')
                    refused += json.loads(await socket.recv()).get("code") == "too_many_runs"
    assert (refused, puppets.started) == (2, 1)
