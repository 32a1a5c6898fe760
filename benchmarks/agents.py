"""Agents that do nothing but yield events at a steady rate, served by `twinwire serve benchmarks.agents:steady`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from twinwire import RunRequest, StreamEvent, Text
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.protocol.events import encode

TEXT = "x" * 60  # makes an SSE block of about 200 bytes


class Load(msgspec.Struct):
    """The work that a message asks for, as JSON: `rate` events a second, `count` in all, after `delay` seconds."""

    rate: float
    count: int
    delay: float = 0.0


async def steady(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """Yield `count` events, each at its time; where it is late it does not try to catch up in bursts."""
    load = msgspec.json.decode(request.message, type=Load)
    loop = asyncio.get_running_loop()
    yield StreamEvent(type="LLM_CHUNK", data={"content": TEXT, "delta": TEXT})
    await asyncio.sleep(load.delay)
    due = loop.time()
    for _ in range(load.count):
        due = max(due + 1 / load.rate, loop.time())
        await asyncio.sleep(due - loop.time())
        yield StreamEvent(type="LLM_CHUNK", data={"content": TEXT, "delta": TEXT})


async def silent(_: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """Yield one event, and wait for ever with as little as there can be."""
    yield StreamEvent(type="LLM_CHUNK", data={"content": TEXT, "delta": TEXT})
    await asyncio.get_running_loop().create_future()


async def ticking(request: RunRequest) -> None:
    """The same events, emitted by timers: no task wakes up for one."""
    load = msgspec.json.decode(request.message, type=Load)
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tick(left: int) -> None:
        request.emit(StreamEvent("LLM_CHUNK", {"content": TEXT, "delta": TEXT}))
        if left > 1:
            loop.call_later(1 / load.rate, tick, left - 1)
        elif not done.done():
            done.set_result(None)

    request.emit(StreamEvent("LLM_CHUNK", {"content": TEXT, "delta": TEXT}))
    loop.call_later(load.delay, tick, load.count)
    await done


async def yielding(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """Yield a model's tokens, as agents of users do."""
    async for batch in OpenAIChatModel().stream([{"role": "user", "content": request.message}]):
        for part in batch:
            if isinstance(part, Text):
                yield StreamEvent("LLM_CHUNK", {"content": part.text, "delta": part.text})


class Bulk(msgspec.Struct):
    """The work that a run's message asks for, as JSON: `count` events of `size` bytes each; with `stay`, it goes on."""

    count: int
    size: int
    stay: bool = False


async def bulk(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """Yield events as fast as they are taken, and give others their turn after each hundred."""
    load = msgspec.json.decode(request.message, type=Bulk)
    empty = encode(StreamEvent("LLM_CHUNK", {"content": "", "delta": ""}), request.run_id, 100)
    text = "x" * ((load.size - len(empty.body)) // 2)
    for number in range(load.count):
        if number % 100 == 0:
            await asyncio.sleep(0)
        yield StreamEvent("LLM_CHUNK", {"content": text, "delta": text})
    if load.stay:
        await asyncio.sleep(100_000)
