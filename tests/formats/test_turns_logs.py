"""A run that asks in turns, on each log: on Redis another worker shows the question, and takes the answer.

Its `on_disconnect` is `cancel`: nobody follows between two turns, and that must not end it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from support.chats import frames, http, said
from support.redis_server import fresh
from support.serving import Puppets, Running, serving, until
from support.turns import answered, approved, begin, kinds, ui

CHAT = "/ai-sdk/chat?on_disconnect=cancel"
AG_UI = "/ag-ui?on_disconnect=cancel"


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def two(
    request: pytest.FixtureRequest, puppets: Puppets, tmp_path: Path
) -> AsyncIterator[tuple[Running, Running]]:
    """The server on which runs start, and one that is asked later: another one, if they can share the log."""
    log = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/log.db", "redis": ""}[request.param] or fresh()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving({"mine": puppets}, log=log))
        shared = request.param == "redis"
        yield first, (await stack.enter_async_context(serving({"mine": puppets}, log=log)) if shared else first)


async def test_ai_sdk(two: tuple[Running, Running], puppets: Puppets) -> None:
    """The chat's stream ends at the question, and the answers to two of them go on in turn, from either worker."""
    here, there = two
    async with http(here) as client, http(there) as other:
        first, run = await begin(client, puppets, CHAT, {"id": "c", "messages": said("a")})
        decided = await run.approve(here)
        told = frames(await first)
        again = {"id": "c", "trigger": "submit-message"}
        assert frames(await other.get("/ai-sdk/chat/c/stream")) == told
        second = asyncio.create_task(other.post(CHAT, json={**again, "messages": [*said("a"), approved(ui(told))]}))
        assert (await decided).approved
        run.finish()
        run.puppet.say("well")
        await until(lambda: here.runs._live[run.run_id].fold.text == "well")
        choice = run.ask()
        more = frames(await second)
        assert kinds(more)[-3:] == ["tool-input-available", "finish", "[DONE]"]
        message = answered(ui(told, more), "dev")
        third = asyncio.create_task(other.post(CHAT, json={**again, "messages": [*said("a"), message]}))
        assert await choice == "dev"
        run.end("done")
        parts = ui(told, more, frames(await third))["parts"]
        assert [part["type"] for part in parts] == ["dynamic-tool", "text", "dynamic-tool", "step-start", "text"]
        late = await other.post(CHAT, json={**again, "messages": [*said("a"), approved(ui(told))]})
        assert kinds(frames(late))[-2:] == ["finish", "[DONE]"]
    assert puppets.started == 1


async def test_ag_ui(two: tuple[Running, Running], puppets: Puppets) -> None:
    """The name of a resumed run is known to each worker, from the run's log."""
    here, there = two
    body = {"threadId": "t", "messages": [{"id": "u1", "role": "user", "content": "a"}], "protocolVersion": "1.0"}
    async with http(here) as client, http(there) as other:
        first, run = await begin(client, puppets, AG_UI, {**body, "runId": "r1"})
        choice = run.ask()
        [interrupt] = frames(await first)[-1]["outcome"]["interrupts"]
        assert frames(await other.post(AG_UI, json={**body, "runId": "r1"}))[-1]["outcome"]["interrupts"] == [interrupt]
        resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "dev"}]
        second = asyncio.create_task(other.post(AG_UI, json={**body, "runId": "r2", "resume": resume}))
        assert await choice == "dev"
        joined = asyncio.create_task(client.post(AG_UI, json={**body, "runId": "r2"}))
        await until(lambda: sum(len(server.service.heartbeats.pumps) for server in {here, there}) == 2)
        run.end("done")
        for answer in (second, joined):
            seen = frames(await answer)
            assert (seen[0]["runId"], seen[-1]["outcome"]) == ("r2", {"type": "success"})
    assert puppets.started == 1
