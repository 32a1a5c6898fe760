"""A model with a script, small tools, and shorthands for the tests of agents."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from twinwire.models import Finish, Message, Part, ToolCall, ToolSpec, Usage
from twinwire.protocol.events import StreamEvent
from twinwire.tools.base import Tool, ToolRegistry

Batch = list[Part]
STOP: Batch = [Finish("stop", Usage(2, 3, 5))]
CALLS: Batch = [Finish("tool_calls", Usage(10, 20, 30))]


class Scripted:
    """A model with a script: per call, batches to give, errors to raise, and None to wait for ever."""

    name = "scripted"

    def __init__(self, *script: Sequence[Batch | Exception | None]) -> None:
        self.script = itertools.chain(script, itertools.repeat(script[-1]))
        self.asked: list[tuple[list[Message], list[ToolSpec]]] = []
        self.open = 0
        self.entered = asyncio.Event()

    async def stream(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()
    ) -> AsyncGenerator[Sequence[Part], None]:
        self.asked.append((list(messages), list(tools)))
        self.open += 1
        try:
            for batch in next(self.script):
                await asyncio.sleep(0)
                if batch is None:
                    self.entered.set()
                    await asyncio.Event().wait()
                elif isinstance(batch, Exception):
                    raise batch
                else:
                    yield batch
        finally:
            self.open -= 1


class Echo(Tool):
    """Gives back its `text`, counted."""

    name = "echo"
    description = "echo"

    def __init__(self) -> None:
        self.runs = 0

    async def run(self, parameters: Mapping[str, Any]) -> str:
        self.runs += 1
        return str(parameters["text"])


class Does(Tool):
    """Does what it is made with."""

    description = "does"

    def __init__(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        self.name = name
        self.work = work

    async def run(self, parameters: Mapping[str, Any]) -> str:  # noqa: ARG002 - the interface's
        return await self.work()


class Stuck:
    """Never finishes; knows how many of it are inside."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = asyncio.Event()
        self.tool = Does("stuck", self.work)

    async def work(self) -> str:
        self.inside += 1
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.inside -= 1
        return "never"


def raising(error: BaseException) -> Tool:
    async def work() -> str:
        raise error

    return Does("raising", work)


def registry(*tools: Tool) -> ToolRegistry:
    made = ToolRegistry()
    for tool in tools:
        made.register_tool(tool)
    return made


def call(number: int, name: str = "echo", arguments: str = '{"text": "hi"}') -> ToolCall:
    return ToolCall(f"c{number}", name, arguments)


async def collect(events: AsyncIterator[StreamEvent]) -> list[StreamEvent]:
    return [event async for event in events]


def types(events: Sequence[StreamEvent]) -> str:
    return " ".join(event.type for event in events)


def named(events: Sequence[StreamEvent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.type == kind]


@pytest.fixture
async def clean_loop() -> AsyncIterator[None]:
    """After each test no task is left and the loop has nothing to complain of."""
    problems: list[dict[str, Any]] = []
    before = asyncio.all_tasks()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    gc.collect()
    await asyncio.sleep(0)
    assert problems == []
