"""`--run-tokens`: what docs/SETTINGS.md promises, against a model's server, whatever that counts and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from support.followers import KINDS, cancel, rest, start
from support.model_server import (
    ModelServer,
    Step,
    answer,
    call_deltas,
    calls,
    cut,
    delta,
    end,
    joined,
    reasoning,
    sse,
    stall,
    text,
)
from support.scripted import Does, Echo, registry
from support.serving import Running, serving, until
from twinwire import OpenAIChatModel, ReActAgent, RunRequest, SimpleAgent, StreamEvent
from twinwire.tools.base import ToolRegistry

BUDGET = 1000
COUNTED = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
EMPTY = {"role": "user", "content": ""}
Serve = Callable[..., AbstractAsyncContextManager[tuple[Running, ModelServer]]]


@asynccontextmanager
async def asking(tools: ToolRegistry | None = None, **settings: Any) -> AsyncIterator[tuple[Running, ModelServer]]:
    """Serve an agent that asks a scripted model's server, with this budget and these settings."""
    async with ModelServer() as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none", max_retries=0)
        agent = ReActAgent("react", model, tools, system_prompt="")
        async with serving({"react": agent}, run_tokens=BUDGET, **settings) as server:
            yield server, upstream
            await model.aclose()


async def ended(kind: str, server: Running, message: str = "go") -> tuple[dict[str, Any], list[str]]:
    """Return the data of a run's terminal event, and the types of all."""
    seen = await rest(await start(kind, server, message))
    return seen[-1]["data"], [event["type"] for event in seen]


LONG: dict[str, list[Step]] = {
    "words": [text(*["four"] * 4 * BUDGET)],
    "letters": [text(*"x" * 4 * BUDGET)],
    "one large word": [text("word" * 4 * BUDGET), text("a")],
    "Chinese": [text(*["\u6211\u4eec"] * 2 * BUDGET)],
    "thoughts": [reasoning(*["Hm. "] * 4 * BUDGET)],
    "the arguments of a call": [call_deltas(("echo", {"text": "word" * 4 * BUDGET}), pieces=BUDGET)],
    "the arguments of many calls": [call_deltas(*[("echo", {"text": "word"})] * BUDGET)],
    "a count in each chunk": [
        [delta({"content": "x"}, usage={"prompt_tokens": 900, "completion_tokens": number}) for number in range(200)]
    ],
}
"""Answers of about 4,000 tokens, which do not end by themselves."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", LONG.values(), ids=LONG)
async def test_a_long_answer_is_cut_off(kind: str, steps: list[Step]) -> None:
    """An answer that is over the budget ends its run while it comes, and the model's server is left at once."""
    async with asking(registry(Echo())) as (server, upstream):
        upstream.script(*steps, stall)
        last, types = await ended(kind, server)
        assert (last["error_type"], last["message"]) == ("budget", "The run exceeded its budget of 1000 tokens.")
        assert types.count("LLM_CHUNK") <= BUDGET
        async with asyncio.timeout(20):
            await upstream.requests[0].closed.wait()


@pytest.mark.parametrize("shape", [list, joined], ids=["each", "at once"])
@pytest.mark.parametrize("said", [600, 1200])
async def test_how_the_answer_comes_changes_nothing(shape: Callable[[list[bytes]], list[bytes]], said: int) -> None:
    """An answer is within the budget or over it by its estimate, whether its count comes with it or later."""
    async with asking() as (server, upstream):
        upstream.script(shape([*text(*["four"] * said), *end(usage=(5, 5))]))
        last, _ = await ended("sse", server)
        assert last.get("error_type") == (None if said < BUDGET else "budget")


async def test_steps_add_up() -> None:
    """The tokens of all steps count; the step that goes over the budget is the last."""
    async with asking(registry(Echo())) as (server, upstream):
        for number in range(6):
            upstream.script(call_deltas(("echo", {"text": str(number)})), end("tool_calls", usage=(200, 80)))
        last, types = await ended("sse", server)
        assert (last["error_type"], last["usage"]["total_tokens"]) == ("budget", 4 * 280)
        assert (types.count("STEP_START"), len(upstream.requests)) == (4, 4)


async def test_steps_without_a_count_add_up() -> None:
    """Of a model's server that counts nothing, all answers and all requests are estimated."""
    async with asking(registry(Echo())) as (server, upstream):
        for number in range(6):
            called = call_deltas(("echo", {"text": str(number)}))
            upstream.script(text(*["four"] * 100), called, end("tool_calls", usage=None))
        last, types = await ended("sse", server)
        assert (last["error_type"], "usage" in last) == ("budget", False)
        assert 2 <= len(upstream.requests) <= 4
        assert types.count("LLM_CHUNK") <= 400


async def test_a_request_over_the_budget_is_not_sent() -> None:
    """A conversation that is over the budget by itself is not sent, and the error says so."""
    async with asking() as (server, upstream):
        last, _ = await ended("sse", server, "word" * 2 * BUDGET)
        message = "The run would exceed its budget of 1000 tokens."
        assert (last["error_type"], last["message"], "usage" in last) == ("budget", message, False)
        assert upstream.requests == []


async def test_a_step_over_the_budget_is_not_sent() -> None:
    """A tool's result that leaves no room for another request ends the run, with what was used before."""

    async def read() -> str:
        return "word" * BUDGET

    async with asking(registry(Does("Read", read))) as (server, upstream):
        upstream.script(calls(("Read", {})))
        last, _ = await ended("sse", server)
        assert (last["error_type"], last["usage"]["total_tokens"]) == ("budget", 5)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_token_limit_is_lowered(name: str) -> None:
    """A model's own token limit is lowered to what is left of the budget; a lower one, or none, stays as it is."""
    async with ModelServer() as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        limits: list[Any] = [{name: 5 * BUDGET}, {name: 5}]
        models = [*(model.with_options(**limit) for limit in limits), model]
        for number, shaped in enumerate(models):
            agent = ReActAgent("react", shaped, registry(Echo()), system_prompt="")
            async with serving({"react": agent}, run_tokens=BUDGET) as server:
                upstream.script(call_deltas(("echo", {"text": "a"})), end("tool_calls", usage=(300, 300)))
                upstream.script(answer("done"))
                last, _ = await ended("sse", server)
                assert last["status"] == "completed"
            first, second = (request.body.get(name) for request in upstream.requests[-2:])
            if number == 0:
                assert BUDGET - 100 < first < BUDGET
                assert BUDGET - 700 < second < BUDGET - 600
            else:
                assert first == second == [5, None][number - 1]
        await model.aclose()


async def test_the_server_s_count_wins() -> None:
    """An estimate counts until the model's server has counted: so a run of many tokens by estimate goes on."""
    async with asking(registry(Echo())) as (server, upstream):
        for number in range(5):
            upstream.script(text("word" * 150), calls(("echo", {"text": str(number)})))
        upstream.script(answer("done"))
        last, _ = await ended("sse", server)
        assert (last["status"], last["usage"]["total_tokens"]) == ("completed", 30)


@pytest.mark.parametrize("content", ["word" * 300, [{"type": "image_url", "image_url": {"url": "data:" + "x" * 9999}}]])
async def test_a_count_replaces_the_estimate(content: object) -> None:
    """A run within its budget, as its model's server counts, ends as it will. An image is not counted as a text."""
    async with ModelServer() as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        agent = ReActAgent("react", model)

        def served(request: RunRequest) -> object:
            request.history.append({"role": "user", "content": content})
            return agent(request)

        async with serving({"react": served}, run_tokens=BUDGET) as server:  # type: ignore[dict-item]
            upstream.script(text(*["four"] * 600), end(usage=(300, 600)))
            last, _ = await ended("sse", server)
            assert (last["status"], last["usage"]["total_tokens"]) == ("completed", 900)
        await model.aclose()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["failure", "reported", "budget", "cancel", "deadline", "shutdown"])
async def test_what_was_counted_is_told(kind: str, how: str) -> None:
    """A usage that comes before a run fails, is cancelled, interrupted or reaches a limit is in its terminal event."""
    usage = sse({"choices": [], "usage": {**COUNTED, "completion_tokens_details": {"reasoning_tokens": 4}}})
    ends: dict[str, list[Step]] = {
        "failure": [cut],
        "reported": [sse({"error": {"message": "overloaded"}})],
        "budget": [text(*["four"] * BUDGET), stall],
    }
    async with asking(run_timeout=0.5 if how == "deadline" else 20.0) as (server, upstream):
        upstream.script(text("a"), usage, text("b"), *ends.get(how, [stall]))
        follower = await start(kind, server)
        if how in {"cancel", "shutdown"}:
            while b'"content":"b"' not in (await follower.next() or b""):
                pass
        if how == "cancel":
            assert await cancel(kind, server, follower.run_id) == "accepted"
        elif how == "shutdown":
            await server.runs.drain(0)
        last = (await rest(follower))[-1]["data"]
        types = {
            "failure": "upstream_truncated",
            "reported": "upstream_error",
            "deadline": "timeout",
            "shutdown": "interrupted",
        }
        assert last.get("error_type", how) == types.get(how, how)
        assert last["usage"] == {**COUNTED, "reasoning_tokens": 4}
        await until(lambda: len(server.runs) == 0)


async def test_the_usage_of_a_failed_run_is_kept() -> None:
    """A failed run's usage is in its record, too, and a run that used nothing has none."""
    async with asking() as (server, upstream):
        upstream.script(text("a"), sse({"choices": [], "usage": COUNTED}), cut)
        upstream.script(cut)
        last, _ = await ended("sse", server)
        assert last["usage"] == COUNTED
        last, _ = await ended("ws", server)
        assert "usage" not in last


async def test_an_agent_that_counts_last() -> None:
    """An agent whose last count is over the budget does not end as completed, whichever of the counts it fills in."""

    async def returns(request: RunRequest) -> None:
        request.usage.completion_tokens += 2 * BUDGET

    async def tells(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        request.usage.prompt_tokens += 2 * BUDGET
        yield StreamEvent("AGENT_FINISH", {"result": "done"})

    for agent in (returns, tells):
        async with serving({"mine": agent}, run_tokens=BUDGET) as server:
            last, _ = await ended("ws", server)
            assert (last["error_type"], last["usage"]["total_tokens"]) == ("budget", 2 * BUDGET)


async def test_an_agent_that_asks_no_model() -> None:
    """What an agent says that estimates nothing is no model's, and does not count."""

    async def says(_request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        for _ in range(2 * BUDGET):
            yield StreamEvent("LLM_CHUNK", {"content": "words", "delta": "words"})

    async with serving({"mine": says}, run_tokens=BUDGET) as server:
        last, types = await ended("ws", server)
        assert (last["status"], types.count("LLM_CHUNK")) == ("completed", 2 * BUDGET)


async def test_without_a_server() -> None:
    """Without a server an agent keeps to the budget between its steps, and its ERROR has the usage, too."""
    async with ModelServer() as upstream:
        model = OpenAIChatModel("scripted", base_url=upstream.url, api_key="none")
        upstream.script(text("a"), sse({"choices": [], "usage": COUNTED}), cut)
        events = [event async for event in SimpleAgent("simple", model).arun_stream("go")]
        assert (events[-1].type, events[-1].data["usage"]) == ("ERROR", COUNTED)
        await model.aclose()
