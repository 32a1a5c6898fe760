"""What one run may come to, over both transports, and what bounds the calls, the results and the prompts in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import httpx
import pytest

from support.followers import KINDS, rest, start
from support.scripted import CALLS, STOP, Echo, Scripted, call, collect, named, registry
from support.serving import Puppets, serving
from twinwire import ReActAgent, RunRequest, StreamEvent

BUDGETS = [
    ({"run_events": 10}, "10 events"),
    ({"run_bytes": 5_000}, "5000 bytes of events"),
    ({"run_tokens": 100}, "100 tokens"),
]


async def endless(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that never ends, and asks a model all the time."""
    while True:
        yield StreamEvent(type="LLM_CHUNK", data={"content": "x" * 100, "delta": "x" * 100})
        request.usage.total_tokens += 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("settings", "spent"), BUDGETS, ids=[spent for _, spent in BUDGETS])
async def test_a_budget_ends_a_run(kind: str, settings: dict[str, int], spent: str) -> None:
    """A run over its budget ends at once with one ERROR that names it, with all that came before in the log."""
    async with serving({"endless": endless}, **settings) as server:
        seen = await rest(await start(kind, server))
        last = seen[-1]["data"]
        assert (last["error_type"], last["message"]) == ("budget", f"The run exceeded its budget of {spent}.")
        assert 11 <= len(seen) <= 25
        sizes = [len(json.dumps(event)) for event in seen[:-2]]
        assert sum(sizes) < 6_000


async def test_a_budget_of_an_agent_that_does_not_stop() -> None:
    """The ERROR does not wait for an agent that takes its time to end."""
    leave = asyncio.Event()

    async def stubborn(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        try:
            async for event in endless(request):
                yield event
        finally:
            await leave.wait()

    async with serving({"stubborn": stubborn}, run_events=10) as server:
        async with asyncio.timeout(20):
            seen = await rest(await start("sse", server))
        assert (len(seen), seen[-1]["data"]["error_type"]) == (11, "budget")
        leave.set()


async def test_a_budget_s_answer_without_a_stream() -> None:
    """`stream=false` answers with the budget's code."""
    async with (
        serving({"endless": endless}, run_events=10) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, timeout=20) as client,
    ):
        response = await client.get("/chat?message=x&stream=false")
        assert (response.status_code, response.json()["code"]) == (424, "budget")


async def test_a_run_within_its_budget(puppets: Puppets) -> None:
    """The terminal event is above the budget: a run that has just as many events before it ends as it will."""
    async with serving({"mine": puppets}, run_events=3) as server:
        follower = await start("sse", server)
        puppet = await puppets.next()
        puppet.say("a", "b")
        puppet.end()
        assert [event["type"] for event in await rest(follower)][2:] == ["LLM_CHUNK", "AGENT_FINISH"]


async def test_tool_calls_of_a_step_are_bounded() -> None:
    """Of a step's calls the first ones are run; the others end in an error that the model is told of too."""
    echo = Echo()
    model = Scripted([[call(n, arguments=f'{{"text": "{n}"}}') for n in range(100)], CALLS], [STOP])
    agent = ReActAgent("bot", model, registry(echo), max_tool_calls=5)
    results = named(await collect(agent.arun_stream("go")), "TOOL_CALL_FINISH")
    assert echo.runs == 5
    refused = [result["result"] for result in results if result["status"] == "error"]
    assert refused == ["Only the first 5 calls of a step are run."] * 95
    assert [message["content"] for message in model.asked[1][0]].count(f"Error: {refused[0]}") == 95


async def test_all_runs_share_what_goes_on(puppets: Puppets) -> None:
    """A run that takes more than is left of `--live-bytes` ends with `budget`; what a run has held comes back."""
    async with serving({"puppet": puppets}, live_bytes=100_000) as server:
        follower = await start("ws", server)
        large = await puppets.next()
        large.say("x" * 30_000)
        other = await start("sse", server)
        small = await puppets.next()
        small.say("y" * 30_000)
        seen = await rest(other)
        assert seen[-1]["data"]["error_type"] == "budget"
        assert seen[-1]["data"]["message"] == "The run exceeded its budget of 100000 bytes that all runs share."
        large.end()
        assert (await rest(follower))[-1]["data"]["status"] == "completed"
        again = await start("ws", server)
        last = await puppets.next()
        last.say("z" * 30_000)
        last.end()
        assert (await rest(again))[-1]["data"]["status"] == "completed"


async def test_a_conversation_counts_while_its_run_goes_on(puppets: Puppets) -> None:
    """A run is not started if the conversation that it is given has no room, and nothing is kept of it."""
    question = {"role": "user", "content": "?"}
    async with serving({"puppet": puppets}, live_bytes=50_000) as server, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(3):
            messages = [{"role": "user", "content": "x" * 60_000}, question]
            answer = await client.post(
                f"{server.url}/v1/chat/completions", json={"model": "puppet", "messages": messages}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_runs")
        assert puppets.started == 0
        follower = await start("sse", server)
        (await puppets.next()).end()
        assert (await rest(follower))[-1]["data"]["status"] == "completed"
