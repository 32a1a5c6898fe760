"""A status tells whether a run began: after it did, no client that retries by status asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from support.chats import http
from support.serving import Puppet, Puppets, Running, serving
from twinwire.auth import ANYBODY
from twinwire.protocol.errors import BudgetSpent, LogUnavailable, UpstreamError, UpstreamTimeout

End = Callable[[Running, Puppet], Awaitable[None] | None]


def _fails(error: Exception) -> End:
    return lambda _, puppet: puppet.fail(error)


async def _cancel(server: Running, puppet: Puppet) -> None:
    puppet.say("half")
    while (await server.runs.state(puppet.request.run_id, ANYBODY)).last < 2:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.005)
    await server.runs.cancel(puppet.request.run_id, ANYBODY)


def _lose_the_log(server: Running, puppet: Puppet) -> None:
    async def away(*_: Any) -> None:
        raise LogUnavailable

    server.runs.state = away  # type: ignore[method-assign, assignment]
    puppet.say("half")
    puppet.end()


RATE_LIMITED = UpstreamError("the model is busy", code="upstream_rate_limited", retry_after=7)
TOO_LONG = UpstreamError("too long", code="upstream_context_length")
ENDS: list[tuple[str, End, int, str]] = [
    ("an agent that raises", _fails(RuntimeError("secret")), 424, "agent_error"),
    ("a budget", _fails(BudgetSpent(3, "events")), 424, "budget"),
    ("429 of the model's server", _fails(RATE_LIMITED), 424, "upstream_rate_limited"),
    ("5xx of the model's server", _fails(UpstreamError("the model failed")), 424, "upstream_error"),
    ("a model that is silent", _fails(UpstreamTimeout(1)), 424, "upstream_timeout"),
    ("too long a context", _fails(TOO_LONG), 400, "upstream_context_length"),
    ("the run's deadline", lambda *_: None, 424, "timeout"),
    ("a shutdown", lambda server, _: server.runs.interrupt(), 424, "interrupted"),
    ("a cancel by somebody else", _cancel, 424, "cancelled"),
    ("a log that goes away", _lose_the_log, 424, "log_unavailable"),
]  # fmt: skip
ends = pytest.mark.parametrize(("end", "status", "code"), [case[1:] for case in ENDS], ids=[case[0] for case in ENDS])


async def _ended(server: Running, puppets: Puppets, end: End) -> None:
    if (work := end(server, await puppets.next())) is not None:
        await work


@ends
async def test_openai_client_runs_once(end: End, status: int, code: str, puppets: Puppets) -> None:
    """OpenAI's Python client, which retries twice by default, starts one run and raises the run's error_type."""
    limit = 0.5 if code == "timeout" else 60.0
    async with (
        serving({"mine": puppets}, run_timeout=limit) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client,
    ):
        ask = client.chat.completions.create(model="mine", messages=[{"role": "user", "content": "hi"}])
        asking = asyncio.create_task(ask)
        await _ended(server, puppets, end)
        with pytest.raises(openai.APIStatusError) as caught:
            await asking
        answer = caught.value.response
        assert (answer.status_code, caught.value.code) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers.get("retry-after") == ("7" if code == "upstream_rate_limited" else None)
        assert puppets.started == 1


@ends
async def test_stream_false(end: End, status: int, code: str, puppets: Puppets) -> None:
    """`stream=false` answers with the same status and code, and names the run, of which the events can be read."""
    async with (
        serving({"mine": puppets}, run_timeout=0.5 if code == "timeout" else 60.0) as server,
        http(server) as client,
    ):
        asking = asyncio.create_task(client.get("/chat?message=hi&stream=false"))
        await _ended(server, puppets, end)
        answer = await asking
        told = answer.json()
        assert (answer.status_code, told["code"], answer.headers["x-should-retry"]) == (status, code, "false")
        assert told["run_id"] == answer.headers["twinwire-run"]
        assert told.get("retry_after") == (7 if code == "upstream_rate_limited" else None)
        assert told.get("result") == ("half" if code == "cancelled" else None)
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat", {"message": "hi"}),
        ("/chat", {"message": "hi", "format": "ai-sdk"}),
        ("/runs", {"message": "hi"}),
        ("/ai-sdk/chat", {"id": "c", "messages": [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]}),
        ("/v1/chat/completions", {"model": "mine", "stream": True, "messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_a_log_that_goes_away_before_the_stream(path: str, body: dict[str, Any], puppets: Puppets) -> None:
    """A start whose stream cannot be opened any more is answered with 424 as well: its run has begun."""
    async with serving({"mine": puppets}) as server, http(server) as client:

        async def away(*_: Any, **__: Any) -> None:
            raise LogUnavailable

        server.runs.state = server.runs.seek = away  # type: ignore[method-assign, assignment]
        answer = await client.post(path, json=body)
        told = answer.json()
        assert (answer.status_code, (told.get("error") or told)["code"]) == (424, "log_unavailable")
        assert (answer.headers["x-should-retry"], puppets.started) == ("false", 1)


async def test_a_start_with_a_key_may_be_repeated(puppets: Puppets) -> None:
    """With an idempotency key the same answer is 503: the repeated start is the same run."""
    async with serving({"mine": puppets}) as server, http(server) as client:
        state = server.runs.state

        async def away(*_: Any) -> None:
            raise LogUnavailable

        server.runs.state = away  # type: ignore[method-assign, assignment]
        refused = await client.post("/runs", json={"message": "hi", "idempotency_key": "k"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        server.runs.state = state  # type: ignore[method-assign]
        again = await client.post("/runs", json={"message": "hi", "idempotency_key": "k"})
        assert (again.status_code, puppets.started) == (200, 1)


@pytest.mark.parametrize(("after", "told"), [(1.5, "2"), (0, "0"), (-1, None), (10**30, None)])
async def test_an_agents_own_error(after: float, told: str | None, puppets: Puppets) -> None:
    """An agent's own ERROR is answered alike; its `retry_after` is told in whole seconds, if it makes sense."""
    async with serving({"mine": puppets}) as server, http(server) as client:
        asking = asyncio.create_task(client.get("/chat?message=hi&stream=false"))
        (await puppets.next()).emit("ERROR", error_type="mine", message="no", retry_after=after)
        answer = await asking
        assert (answer.status_code, answer.json()["code"], answer.headers.get("retry-after")) == (424, "mine", told)


async def test_statuses_before_a_run_stay(puppets: Puppets) -> None:
    """Where no run began, 429 and 503 with Retry-After say so, and a client may ask again."""
    async with serving({"mine": puppets}, max_runs=1) as server, http(server) as client:
        assert (await client.post("/runs", json={"message": "hi"})).status_code == 201
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/chat", {"message": "hi", "stream": False}),
            ("/v1/chat/completions", {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}),
        ]
        for path, body in asked:
            refused = await client.post(path, json=body)
            assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
            assert "x-should-retry" not in refused.headers
        assert puppets.started == 1
