"""Exactly one terminal event, whatever the agent does; and nothing of its insides in it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from support.followers import KINDS, rest, start, text
from support.serving import serving, until
from twinwire.agents import RunRequest
from twinwire.auth import ANYBODY
from twinwire.protocol.errors import UpstreamError
from twinwire.protocol.events import StreamEvent

pytestmark = [
    pytest.mark.parametrize("kind", KINDS),
    pytest.mark.parametrize("below", ["direct", "plain"], indirect=True),
    pytest.mark.usefixtures("below"),
]

CANARY = "sk-canary-5ca1ab1e"


def chunk(word: str) -> StreamEvent:
    return StreamEvent(type="LLM_CHUNK", data={"content": word, "delta": word})


async def raises(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    yield chunk("a")
    raise RuntimeError(CANARY)


async def raises_at_once(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    raise RuntimeError(CANARY)
    yield chunk("never")


async def exits(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    yield chunk("a")
    sys.exit(CANARY)


async def cancels_itself(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    yield chunk("a")
    raise asyncio.CancelledError(CANARY)


async def yields_garbage(_: RunRequest) -> AsyncGenerator[Any, None]:
    yield chunk("a")
    yield {"type": "LLM_CHUNK", "content": CANARY}


async def yields_no_json(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    yield chunk("a")
    yield StreamEvent(type="LLM_CHUNK", data={"content": object()})


async def yields_a_circle(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    yield StreamEvent(type="LLM_CHUNK", data=circle)


def is_no_iterator(_: RunRequest) -> Any:
    return CANARY


async def returns_no_json(_: RunRequest) -> Any:
    return {"answer": object(), "key": CANARY}


async def raises_in_its_cleanup(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    try:
        yield chunk("a")
        yield StreamEvent(type="ERROR", data={"error_type": "agent_error", "error": "mine"})
    finally:
        raise RuntimeError(CANARY)


BAD = [
    raises,
    raises_at_once,
    exits,
    cancels_itself,
    yields_garbage,
    yields_no_json,
    yields_a_circle,
    is_no_iterator,
    returns_no_json,
    raises_in_its_cleanup,
]


@pytest.mark.parametrize("agent", BAD, ids=[agent.__name__ for agent in BAD])
async def test_a_failing_agent_ends_in_one_error(kind: str, agent: Callable[..., Any]) -> None:
    """Whatever goes wrong in an agent is one ERROR of type agent_error, without the exception's text."""
    async with serving({"bad": agent}) as server:
        seen = await rest(await start(kind, server))
        assert seen[0]["type"] == "AGENT_START"
        assert [event["type"] for event in seen if event["type"] in {"ERROR", "AGENT_FINISH"}] == ["ERROR"]
        data = seen[-1]["data"]
        assert data["error_type"] == "agent_error"
        assert data["message"] == data["error"]
        assert CANARY not in str(seen)
        assert len(server.runs) == 0


async def test_an_error_of_ours_keeps_its_type(kind: str) -> None:
    """A RunError that an agent lets through is told with its code and its text, which is written for clients."""

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("a")
        raise UpstreamError("the model's server is overloaded", code="upstream_rate_limited")

    async with serving({"bad": agent}) as server:
        seen = await rest(await start(kind, server))
        assert seen[-1]["data"] == {
            "error_type": "upstream_rate_limited",
            "message": "the model's server is overloaded",
            "error": "the model's server is overloaded",
        }


async def test_what_comes_after_the_terminal_event_is_dropped(kind: str) -> None:
    """An agent that goes on after its own terminal event is closed there."""
    closed = asyncio.Event()

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        try:
            yield chunk("a")
            yield StreamEvent(type="AGENT_FINISH", data={"result": "mine", "extra": 1})
            yield chunk("late")
            yield StreamEvent(type="ERROR", data={})
        finally:
            closed.set()

    async with serving({"late": agent}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
        assert seen[-1]["data"]["result"] == "mine"
        assert seen[-1]["data"]["extra"] == 1
        assert seen[-1]["data"]["status"] == "completed"
        assert {"duration", "usage"} <= seen[-1]["data"].keys()
        await closed.wait()


async def test_a_bare_error_event_is_filled_in(kind: str) -> None:
    """The guide's `StreamEvent(type="ERROR", data={"error": …})` gets its type and message."""

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield StreamEvent(type="ERROR", data={"error": "no luck"})

    async with serving({"bad": agent}) as server:
        seen = await rest(await start(kind, server))
        assert seen[-1]["data"] == {"error": "no luck", "error_type": "agent_error", "message": "no luck"}


async def test_an_agent_with_a_start_of_its_own(kind: str) -> None:
    """An agent's AGENT_START is not doubled."""

    async def agent(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield StreamEvent(type="AGENT_START", data={"input": request.message, "config": {"mine": 1}})
        yield chunk("a")

    async with serving({"own": agent}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "LLM_CHUNK", "AGENT_FINISH"]
        assert seen[0]["data"]["config"] == {"mine": 1}


async def test_an_agent_that_yields_nothing(kind: str) -> None:
    """A run without an event of the agent's own is a start and a finish with an empty result."""

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        return
        yield chunk("never")

    async with serving({"silent": agent}) as server:
        seen = await rest(await start(kind, server))
        assert [event["type"] for event in seen] == ["AGENT_START", "AGENT_FINISH"]
        assert seen[-1]["data"]["result"] == ""


async def test_lone_surrogates_do_not_end_a_run(kind: str) -> None:
    """Half an emoji, which no UTF-8 can hold, is replaced; the run goes on."""

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        yield chunk("a\ud83d")
        yield chunk("b")

    async with serving({"half": agent}) as server:
        assert text(await rest(await start(kind, server))) == "a?b"


async def test_cancel_races_the_finish(kind: str) -> None:
    """However a cancel falls between an agent's last steps, there is one terminal event and it is the last."""
    gates: list[asyncio.Event] = []

    async def agent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        yield chunk("a")
        await asyncio.sleep(0)
        yield StreamEvent(type="AGENT_FINISH", data={"result": "done"})

    async with serving({"racer": agent}) as server:
        outcomes = set()
        for turns in range(12):
            gates.clear()
            follower = await start(kind, server)
            await until(lambda: bool(gates))
            gates[0].set()
            for _ in range(turns):
                await asyncio.sleep(0)
            status = await server.runs.cancel(follower.run_id, ANYBODY)
            seen = await rest(follower)
            cancelled = seen[-1]["data"]["status"] == "cancelled"
            assert cancelled == (status == "accepted")
            outcomes.add(status)
        assert outcomes == {"accepted", "already_finished"}
