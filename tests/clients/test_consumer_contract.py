"""Both clients keep what they promise to the code that uses them: `vectors/consumer.json`.

A vector plays a program of a user's on a run: each step has an outcome. The run's agent says the chunks of its `parts`,
with a gate between two of them, which the step `open` opens, or a question if it `asks`. Its result is the number of
its chunks, or what `result` says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any

import pytest

from support.following import Transport, connected, numbers
from support.node import node
from support.serving import serving
from support.vector_files import Vector, vectors
from twinwire import RunRequest, StreamEvent
from twinwire_client import Client, Event, Run, RunClosed, RunFailed

TRANSPORTS: tuple[Transport, ...] = ("sse", "ws")


def cases(language: str) -> list[tuple[Vector, Transport]]:
    """The vectors that are for clients in this language, over each transport."""
    chosen = [vector for vector in vectors("consumer") if vector.get("only", language) == language]
    return [(vector, transport) for vector in chosen for transport in TRANSPORTS]


def each(language: str) -> pytest.MarkDecorator:
    """Run a test for each of them."""
    names = [f"{vector['name']}-{transport}" for vector, transport in cases(language)]
    return pytest.mark.parametrize(("vector", "transport"), cases(language), ids=names)


class Scripted:
    """A vector's agent."""

    def __init__(self, vector: Vector) -> None:
        self._parts: list[int] = vector["parts"]
        self._result: dict[str, Any] = vector.get("result", {"is": str(sum(self._parts))})
        self._asks: bool = vector.get("asks", False)
        self._gate = asyncio.Event()

    async def __call__(self, request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
        if request.message == "open":
            self._gate.set()
            return
        for part, count in enumerate(self._parts):
            if part and self._asks:
                await request.ask("Which branch?")
            elif part:
                await self._gate.wait()
            for _ in range(count):
                yield StreamEvent(type="LLM_CHUNK", data={"delta": "x"})
        if "fails" in self._result:
            raise RuntimeError("as told")
        yield StreamEvent(type="AGENT_FINISH", data={"result": self._result["is"]})


def span(events: list[Event]) -> str:
    """The numbers of these events, of which none is missing, as a vector writes them."""
    seen = numbers(events)
    assert seen == list(range(seen[0], seen[-1] + 1))
    return f"{seen[0]}-{seen[-1]}"


class Program:
    """A user's program, step by step."""

    def __init__(self, client: Client, other: Client, run: Run, agent: str) -> None:
        self._client = client
        self._other = other
        self._run = run
        self._agent = agent
        self._task: asyncio.Task[Any] | None = None

    async def step(self, verb: str, count: int = 0) -> Any:
        """Return the outcome of a step: what it gives, or the name of what it raises."""
        try:
            async with asyncio.timeout(20):
                return await getattr(self, verb)(*([count] if count else []))
        except RunClosed:
            return "closed"
        except RunFailed:
            return "failed"

    async def watch(self) -> None:
        """Look at all that consumes nothing."""
        assert (self._run.cursor, self._run.terminal, self._run.snapshot) == (0, None, None)

    async def ended(self) -> None:
        """Wait until the run has ended."""
        async with self._other.attach(self._run.run_id) as run:
            await run.wait()

    async def in_hand(self, count: int) -> None:
        """Wait until the server has sent so many events to somebody."""
        async with self._other.attach(self._run.run_id) as run, aclosing(_some(run, count)) as events:
            assert len([event async for event in events]) == count

    async def read(self, count: int) -> str:
        """Read so many events."""
        return span([await anext(self._run) for _ in range(count)])

    async def read_rest(self) -> str:
        """Read to the end."""
        return span([event async for event in self._run])

    async def consume(self) -> None:
        """Read to the end in the background."""
        self._task = asyncio.create_task(self.read_rest())

    async def consumed(self) -> Any:
        """Return what was read there."""
        assert self._task is not None
        return await self._task

    async def begin_read(self) -> None:
        """Have a read wait."""
        self._task = asyncio.create_task(self.read(1))
        await asyncio.sleep(0)

    end_read = consumed

    async def second_read(self) -> str:
        """Read beside the read that waits."""
        return await _refusal(anext(self._run))

    async def give_up(self) -> str:
        """Wait for an event, for a moment."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(self._run)
        return "given_up"

    async def throw_in_loop(self, count: int) -> str:
        """Raise in a loop's body."""
        with pytest.raises(ZeroDivisionError):
            async with self._run:
                async for event in self._run:
                    if numbers([event]) == [count]:
                        raise ZeroDivisionError
        return "thrown"

    async def wait(self) -> Any:
        """Wait for the result."""
        return await self._run.wait()

    async def cancel(self) -> str:
        """Cancel the run."""
        return await self._run.cancel()

    async def questions(self) -> int:
        """Count the open questions."""
        return len(self._run.questions)

    async def answer(self) -> str:
        """Answer the first question."""
        return (await self._run.answer(f"ask-{self._run.run_id}-1", "main")).status

    async def answer_elsewhere(self) -> str:
        """Answer it as another client."""
        return (await self._other.answer(self._run.run_id, f"ask-{self._run.run_id}-1", "dev")).status

    async def close(self) -> None:
        """Leave the run."""
        await self._run.aclose()

    async def close_client(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def open(self) -> None:
        """Let the agent go on."""
        async with self._other.stream("open", agent=self._agent) as run:
            await run.wait()

    async def another(self) -> str:
        """Begin another run."""

        async def begin() -> None:
            async with self._client.stream("no"):
                pass

        return await _refusal(begin())


async def _some(run: Run, count: int) -> AsyncGenerator[Event, None]:
    async for event in run:
        yield event
        if (count := count - 1) == 0:
            return


async def _refusal(work: Awaitable[object]) -> str:
    with pytest.raises(RuntimeError) as caught:
        await work
    return "refused" if "read" in str(caught.value) else str(caught.value)


@each("python")
async def test_python(vector: Vector, transport: Transport) -> None:
    """The Python client does what the vector says."""
    async with (
        serving({"mine": Scripted(vector)}) as server,
        Client(server.url, transport="sse") as other,
        connected(server.url, transport=transport) as client,
        client.stream("begin", agent="mine", on_disconnect="continue") as run,
    ):
        program = Program(client, other, run, "mine")
        assert [await program.step(*step) for step in vector["steps"]] == vector["expected"]


@pytest.fixture(scope="module")
def played() -> dict[str, list[Any]]:
    """The outcomes of all vectors, each with an agent of its own, played by one Node."""
    return asyncio.run(_play_all())


async def _play_all() -> dict[str, list[Any]]:
    chosen = cases("javascript")
    agents = {f"agent{number}": Scripted(vector) for number, (vector, _) in enumerate(chosen)}
    async with serving(agents) as server:
        programs = [
            {"url": server.url, "agent": agent, "transport": transport, "steps": vector["steps"]}
            for agent, (vector, transport) in zip(agents, chosen, strict=True)
        ]
        outcomes = json.loads(await node("test/consume.js", stdin=json.dumps(programs)))
    return {vector["name"] + transport: outcome for (vector, transport), outcome in zip(chosen, outcomes, strict=True)}


@each("javascript")
def test_javascript(vector: Vector, transport: Transport, played: dict[str, list[Any]]) -> None:
    """The JS client does what the vector says."""
    assert played[vector["name"] + transport] == vector["expected"]
