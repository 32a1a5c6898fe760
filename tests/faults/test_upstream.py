"""What a cancel, a flood and a huge delta of the model's come to, through the whole of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from faults.leaks import leakless
from support.followers import KINDS, cancel, rest, start, text
from support.following import Transport
from support.model_server import ModelServer, answer, end, headers, joined, stall, text as tokens
from support.serving import serving
from twinwire import OpenAIChatModel, RunRequest, SimpleAgent, StreamEvent
from twinwire.agents import Agent
from twinwire_client import Client

TURNS = 100
"""The turns of the event loop within which a connection must close: a few milliseconds."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [0, 3])
async def test_a_cancel_closes_the_model_s_connection(kind: str, said: int) -> None:
    """Before the first token and in the middle: the model's server sees its client go about when a cancel is answered.

    All are in one event loop: its turns tell how long that is, however busy the machine.
    """
    async with ModelServer() as upstream:
        upstream.script(headers, *tokens(*"abc"[:said]), stall)
        agent = SimpleAgent("simple", OpenAIChatModel("scripted", base_url=upstream.url, api_key="none"))
        async with serving({"simple": agent}) as server, leakless(server):
            follower = await start(kind, server)
            request = await upstream.arrived()
            for _ in range(said):
                while b"LLM_CHUNK" not in (await follower.next() or b""):
                    pass
            assert await cancel(kind, server, follower.run_id) == "accepted"
            turns = 0
            while not request.closed.is_set():
                turns += 1
                assert turns < TURNS
                await asyncio.sleep(0)
            print(f"{kind}: the model's connection closed {turns} turns of the loop after the answer to the cancel")
            await follower.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_many_tiny_deltas(kind: str) -> None:
    """Fifty thousand deltas in a few reads are as many events, for a follower that has to keep up."""
    words = [f"{number} " for number in range(50_000)]
    async with ModelServer() as upstream:
        upstream.script(*joined([*tokens(*words), *end()]))
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        async with serving({"simple": SimpleAgent("simple", model)}) as server, leakless(server):
            assert text(await rest(await start(kind, server))) == "".join(words)
            await model.aclose()


HUGE = "x" * 10_000_000


async def huge(request: RunRequest) -> AsyncIterator[StreamEvent]:
    """An agent that says it all at once."""
    yield StreamEvent("LLM_CHUNK", {"content": HUGE, "delta": HUGE})


async def lateness(done: asyncio.Event) -> float:
    """How long at most the loop, with all whom it serves, kept somebody waiting."""
    worst, clock = 0.0, asyncio.get_running_loop().time
    while not done.is_set():
        began = clock()
        await asyncio.sleep(0.005)
        worst = max(worst, clock() - began)
    return worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whose", ["model", "agent"])
async def test_one_delta_of_10_mb(kind: Transport, whose: str) -> None:
    """It is one event, and comes whole, on either transport; nobody else waits much longer than it takes to parse."""
    async with ModelServer() as upstream:
        upstream.script(answer(HUGE))
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        agent: Agent = SimpleAgent("simple", model) if whose == "model" else huge
        async with serving({"mine": agent}) as server, leakless(server), Client(server.url) as client:
            began = time.perf_counter()
            for _ in range(3):
                json.loads(json.dumps(HUGE))
            parsing = (time.perf_counter() - began) / 3
            done = asyncio.Event()
            waiting = asyncio.create_task(lateness(done))
            async with client.stream("hi", transport=kind) as run:
                seen = [event async for event in run]
            done.set()
            worst = await waiting
            await model.aclose()
            print(f"{kind}, {whose}: all else waited {worst * 1000:.0f} ms at most, JSON takes {parsing * 1000:.0f} ms")
            assert [event.data["delta"] == HUGE for event in seen if event.type == "LLM_CHUNK"] == [True]
            assert (seen[-1].type, seen[-1].data["result"] == HUGE) == ("AGENT_FINISH", True)
            assert worst < 10 * parsing


@pytest.mark.parametrize("kind", KINDS)
async def test_one_delta_over_the_budget(kind: Transport) -> None:
    """An event that the run's budget has no room for is not sent to anybody: the run ends instead."""
    async with (
        serving({"mine": huge}, run_bytes=2**20) as server,
        Client(server.url) as client,
        client.stream("hi", transport=kind) as run,
    ):
        seen = [event async for event in run]
    assert [event.type for event in seen] == ["AGENT_START", "ERROR"]
    assert seen[-1].data["error_type"] == "budget"
