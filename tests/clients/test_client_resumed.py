"""The Python client and a run that another process goes on with: what is void is in no text, state or result."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.following import Transport, both, connected, words
from support.resuming import resumed, write, written
from support.serving import Puppets, Running, serving
from twinwire_client import Event, Fold, Question, Run, events


@pytest.fixture
async def server(puppets: Puppets) -> AsyncIterator[Running]:
    async with serving({"mine": puppets}) as running:
        yield running


async def read(run: Run, kind: str) -> list[Event]:
    """The events up to the next of this type."""
    seen = []
    async for event in run:
        seen.append(event)
        if event.type == kind:
            return seen
    raise AssertionError(f"The run has no {kind}.")


@both
async def test_what_is_void(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A fold, a snapshot and the result have what came after; each event is still handed out, once."""
    fold = Fold()
    async with connected(server.url, transport=transport) as client, client.stream("m") as run:
        puppet = await puppets.next()
        puppet.say("Hel")
        seen = await read(run, "LLM_CHUNK")
        resumed(puppet.request, 1)
        seen += await read(run, "RUN_RESUMED")
        assert seen[-1].payload == events.RunResumed(epoch=1, step=None, void_after=1)
        async with client.attach(run.run_id, snapshot=True) as late:
            assert late.snapshot is not None
            assert (late.snapshot.seq, late.snapshot.state["text"]) == (3, "")
            puppet.say("Hello")
            seen += await read(run, "LLM_CHUNK")
            resumed(puppet.request, 4, epoch=2, text="Hello")
            puppet.say("!")
            puppet.end()
            assert await late.wait() == "Hello!"
        seen += [event async for event in run]
        assert run.result == "Hello!"
    assert words(seen) == ["Hel", "Hello", "!"]
    for event in seen:
        fold.apply(event)
    assert (fold.state["text"], fold.state["result"]) == ("Hello!", "Hello!")


@both
async def test_a_question_stays_open(transport: Transport, server: Running, puppets: Puppets) -> None:
    """A question outlives the process that asked it: `on_input` hears of it once, also if it is asked once more."""
    heard: list[Question] = []
    async with (
        connected(server.url, transport=transport) as client,
        client.stream("m", on_input=heard.append) as run,
    ):
        puppet = await puppets.next()
        puppet.say("I ask.")
        await read(run, "LLM_CHUNK")
        write(puppet.request, "INPUT_REQUESTED", input_id=f"ask-{run.run_id}-1", kind="question", prompt="Which?")
        [*_, asked] = await read(run, "INPUT_REQUESTED")
        assert (await client.get(run.run_id))["waiting"]
        resumed(puppet.request, 1)
        await read(run, "RUN_RESUMED")
        assert run.questions == heard
        info = await client.get(run.run_id)
        assert (info["waiting"], [each["input_id"] for each in info["questions"]]) == (False, [heard[0].input_id])
        write(puppet.request, "INPUT_REQUESTED", **asked.data)
        await read(run, "INPUT_REQUESTED")
        assert (await client.get(run.run_id))["waiting"]
        assert run.questions == heard
        assert written(puppet.request) == 5
        puppet.end()
        await run.wait()
    assert len(heard) == 1
