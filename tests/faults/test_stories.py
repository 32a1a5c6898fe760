"""One run, told over both transports and from any cursor: the same bytes, or the same gap; never less (P4, P9)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from faults.leaks import leakless
from support.followers import KINDS, AnyFollower, Refused, attach, start
from support.redis_server import fresh
from support.serving import serving
from twinwire import RunRequest, StreamEvent
from twinwire.protocol.errors import RunError

KEPT = 50
AT_ONCE = 8


async def teller(request: RunRequest) -> AsyncGenerator[StreamEvent, None]:
    """An agent that tells what its message chooses: how much, in what pieces, of what types, and how it ends."""
    chance = random.Random(request.message)
    for n in range(int(request.message.split()[1])):
        word = chance.choice(["é\r\n", "\u2028x", "", "\0", "y" * 500]) + str(n)
        yield StreamEvent(chance.choice(["LLM_CHUNK", "THINKING", "MINE"]), {"content": word, "delta": word})
        if chance.random() < 0.2:
            await asyncio.sleep(chance.choice([0, 0.001]))
    if chance.random() < 0.2:
        raise RunError


async def told(follower: AnyFollower) -> list[bytes]:
    """All that is still to come."""
    bodies = []
    while not follower.ended and (body := await follower.next()) is not None:
        bodies.append(body)
    await follower.close()
    return bodies


@pytest.mark.parametrize("runs", [60, pytest.param(2_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])], ids=str)
async def test_both_tell_the_same(runs: int, chance: random.Random) -> None:
    """A run followed over both while it goes on, and replayed over both from any event: equal bytes everywhere."""
    left = iter(range(runs))
    events = 0

    async def tell() -> None:
        nonlocal events
        for number in left:
            first, second = chance.sample(KINDS, 2)
            one = await start(first, server, f"{number} {chance.randrange(40)}", on_disconnect="continue")
            live, also = await asyncio.gather(told(one), told(await attach(second, server, one.run_id)))
            after = chance.randrange(len(live))
            replays = await asyncio.gather(*[told(await attach(kind, server, one.run_id, after)) for kind in KINDS])
            assert (also, replays) == (live, [live[after:]] * 2)
            events += len(live)

    async with serving({"mine": teller}) as server, leakless(server), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(tell())
    print(f"{runs} runs, {events} events, each told four times")
    assert events > 5 * runs


async def outcome(kind: str, url: object, run_id: str, after: int) -> tuple[object, ...]:
    """The events after a cursor, or what was said instead."""
    try:
        return tuple(await told(await attach(kind, url, run_id, after)))  # type: ignore[arg-type]
    except Refused as refused:
        return refused.code, refused.answer["first"], refused.answer["last"]


@pytest.mark.parametrize("log", ["memory", "sqlite", "redis"])
@pytest.mark.parametrize(
    "cursors", [60, pytest.param(2_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])], ids=str
)
async def test_any_cursor(log: str, cursors: int, chance: random.Random, tmp_path: Path) -> None:
    """Of a run whose oldest events are trimmed: all after the cursor, or a gap that says what there is; on each log."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/runs.db", "redis": fresh()}[log]
    verdicts: Counter[str] = Counter()
    async with serving({"mine": teller}, log=url, log_events=KEPT) as server:
        for number in range(cursors // 10):
            one = await start("ws", server, f"{number} {chance.randrange(KEPT, 4 * KEPT)}", on_disconnect="continue")
            await one.close()
            while (state := await server.runs.log.state(one.run_id)).terminal is None:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.002)
            first, last = state.first, state.last
            for after in [*chance.sample(range(last + 10), 7), first - 2, first - 1, last + 1]:
                over_sse, over_ws = [await outcome(kind, server, one.run_id, after) for kind in KINDS]
                assert over_sse == over_ws
                if first - 1 <= after <= last:
                    numbers = [int(body.rpartition(b"-")[2].rstrip(b'"}')) for body in over_sse]  # type: ignore[attr-defined]
                    assert numbers == list(range(after + 1, last + 1))
                else:
                    assert over_sse == ("gap", first, last)
                verdicts["trimmed" if after < first - 1 else "future" if after > last else "whole"] += 1
    print(f"{log}: {dict(verdicts)}, each over SSE and WebSocket")
    assert set(verdicts) == {"trimmed", "future", "whole"}
