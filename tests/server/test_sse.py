"""What is particular to SSE: its opening, its frames, heartbeats, broken bodies, 204, `stream=false`, CORS."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from httpx_sse import aconnect_sse

from support.followers import Broken, Refused, SseFollower, attach, events, rest, start
from support.serving import Puppets, Running, serving, until
from twinwire.transports import Verdict

GUIDE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "twinwire-heartbeat": "15",
}


def browser(server: Running, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, verify=False, timeout=20)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/chat/stream?message=hi", None),
        ("POST", "/chat/stream?message=hi", None),
        ("GET", "/chat?message=hi&stream=true", None),
        ("POST", "/chat", {"message": "hi", "stream": True}),
        ("POST", "/chat/stream", {"message": "hi"}),
    ],
)
async def test_the_guides_requests(
    method: str, path: str, body: dict[str, object] | None, server: Running, puppets: Puppets
) -> None:
    """Each way the guide shows gives the same stream: headers, an opening, then events with their data."""
    async with browser(server) as client, aconnect_sse(client, method, path, json=body) as source:
        puppet = await puppets.next()
        puppet.say("Hello")
        puppet.end()
        assert source.response.headers.items() >= GUIDE_HEADERS.items()
        seen = [event async for event in source.aiter_sse()]
    assert puppet.request.message == "hi"
    assert [event.event for event in seen] == ["message", "AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
    assert (seen[0].data, seen[0].id) == ("", f"evt-{puppet.request.run_id}-0")
    assert 500 <= (seen[0].retry or 0) <= 1500
    assert json.loads(seen[2].data) == {"content": "Hello", "delta": "Hello"}
    assert [event.id.rpartition("-")[2] for event in seen] == ["0", "1", "2", "3"]


async def test_stream_false_answers_with_the_result(server: Running, puppets: Puppets) -> None:
    """Without a stream the answer is the run's result, and a failed run is an error with its type."""
    async with browser(server) as client:
        for path, body in (("/chat?message=hi&stream=false", None), ("/chat", {"message": "hi", "stream": False})):
            asking = asyncio.create_task(client.request("POST", path, json=body))
            puppet = await puppets.next()
            puppet.say("a", "b")
            puppet.end()
            response = await asking
            assert (response.status_code, response.json()["result"]) == (200, "ab")
        asking = asyncio.create_task(client.get("/chat?message=hi&stream=false"))
        (await puppets.next()).fail(RuntimeError("secret"))
        response = await asking
        assert response.status_code == 424
        run_id = response.headers["twinwire-run"]
        message = f"The agent failed. The server's log says why, under the run {run_id}."
        assert response.json() == {"code": "agent_error", "message": message, "run_id": run_id}


async def test_stream_false_is_cancelled_when_its_caller_goes(server: Running, puppets: Puppets) -> None:
    """A caller that hangs up before its answer has cancelled the run."""
    async with browser(server) as client:
        asking = asyncio.create_task(client.get("/chat?message=hi&stream=false"))
        puppet = await puppets.next()
        puppet.say("a")
        asking.cancel()
        await puppet.closed.wait()
        response = await client.get(f"/runs/{puppet.request.run_id}")
        while response.json()["status"] == "running":
            response = await client.get(f"/runs/{puppet.request.run_id}")
        assert response.json()["status"] == "cancelled"


async def test_a_run_as_a_resource(server: Running, puppets: Puppets) -> None:
    """A run is started, found, followed and ended by its URL; a repeated start with the same key finds it."""
    async with browser(server) as client:
        created = await client.post("/runs", json={"message": "hi", "session_id": "s", "idempotency_key": "k"})
        run = created.json()
        assert created.status_code == 201
        assert created.headers["location"] == f"/runs/{run['run_id']}"
        assert (run["agent"], run["session_id"], run["status"], run["last"]) == ("mine", "s", "running", 0)
        again = await client.post("/runs", json={"message": "hi", "session_id": "s", "idempotency_key": "k"})
        assert (again.status_code, again.json()["run_id"]) == (200, run["run_id"])
        puppet = await puppets.next()
        puppet.say("a")
        puppet.end()
        await rest(await attach("sse", server, run["run_id"], 0))
        ended = (await client.get(f"/runs/{run['run_id']}")).json()
        assert (ended["status"], ended["result"], ended["first"], ended["last"]) == ("completed", "a", 1, 3)
        assert puppets.started == 1


async def test_heartbeats_come_while_nothing_else_does(puppets: Puppets) -> None:
    """A silent run gets comments, which no EventSource shows, at the announced interval."""
    async with serving({"mine": puppets}, heartbeat=0.1) as server:
        follower = await start("sse", server)
        assert isinstance(follower, SseFollower)
        assert follower.response.headers["twinwire-heartbeat"] == "0.1"
        puppet = await puppets.next()
        waiting = asyncio.create_task(rest(follower))
        await until(lambda: follower.comments >= 3)
        puppet.end()
        assert len(await waiting) == 2


async def test_a_stream_that_ends_early_is_broken(puppets: Puppets) -> None:
    """A stream without its terminal event ends without the end of its body, and nothing is logged as an error."""
    async with serving({"mine": puppets}) as server:
        follower = await start("sse", server, on_disconnect="continue")
        puppet = await puppets.next()
        puppet.say("a")
        await follower.next()
        server.cut(Verdict.RESTART)
        with pytest.raises(Broken):
            [event async for event in events(follower)]
        await follower.close()
        puppet.end()
        seen = await rest(await attach("sse", server, follower.run_id, 1))
        assert [event["type"] for event in seen] == ["LLM_CHUNK", "AGENT_FINISH"]


async def test_too_many_runs(puppets: Puppets) -> None:
    """A start over the bound is refused with Retry-After; a resume is not."""
    async with serving({"mine": puppets}, max_runs=1) as server:
        follower = await start("sse", server)
        with pytest.raises(Refused) as refused:
            await start("ws", server)
        assert refused.value.code == "too_many_runs"
        async with browser(server) as client:
            response = await client.get("/chat?message=x")
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        (await puppets.next()).end()
        await rest(await attach("sse", server, follower.run_id, 0))
        await follower.close()


async def test_health(server: Running) -> None:
    """Liveness, readiness, figures and the OpenAPI of every route are there."""
    async with browser(server) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "log": "memory"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        figures = (await client.get("/metrics")).text
        assert "twinwire_runs_live 0.0" in figures
        schema = (await client.get("/schema")).json()
        assert schema == (await client.get("/schema/openapi.json")).json()
        assert {"/chat", "/chat/stream", "/runs", "/runs/{run_id}", "/runs/{run_id}/events"} <= schema["paths"].keys()
        parameters = {parameter["name"] for parameter in schema["paths"]["/chat"]["get"]["parameters"]}
        assert {"message", "stream", "types", "envelope", "session_id", "after"} <= parameters
        assert "requestBody" in schema["paths"]["/runs"]["post"]
        for path in ("/chat", "/chat/stream"):
            assert "requestBody" in schema["paths"][path]["post"]
            assert "requestBody" not in schema["paths"][path]["get"]
        asked = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert asked["properties"]["messages"]["items"] == {"type": "object"}
        assert asked["properties"]["stream_options"]["properties"]["include_usage"]["type"] == "boolean"
        server.runs.draining = True
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["code"]) == (503, "draining")
        server.runs.draining = False
