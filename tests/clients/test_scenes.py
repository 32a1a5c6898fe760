"""Users of the clients harm their connections to a real server: nothing is lost, nothing is cancelled.

Each scene is played by both clients over both transports, in programs of their own: with clocks and figures that are
scaled down on each commit, and as it was told with `full`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from support.chaos import chaos
from support.readers import LANGUAGES, Language, Reader, reading, teller
from support.serving import Running, serving, until
from twinwire.transports import Verdict
from twinwire.transports.pump import Pump

Pair = tuple[Language, str]
PAIRS: list[Pair] = [(language, transport) for language in LANGUAGES for transport in ("sse", "ws")]
DEFAULT = None


def each(*later: Pair) -> pytest.MarkDecorator:
    """One test for each pair; those of `later` with `full` only."""
    marks = {pair: [pytest.mark.full] for pair in later}
    return pytest.mark.parametrize(
        "pairs", [pytest.param([pair], id=" ".join(pair), marks=marks.get(pair, [])) for pair in PAIRS]
    )


each_client = each(("python", "sse"), ("javascript", "ws"))


@asynccontextmanager
async def readers(url: str, pairs: Sequence[Pair], **options: Any) -> AsyncIterator[list[Reader]]:
    """All of these, each with a run of its own, which has begun."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(reading(language, url, way, **options)) for language, way in pairs]
        await asyncio.gather(*(reader.begun() for reader in opened))
        yield opened


async def whole(opened: Sequence[Reader], count: int) -> list[dict[str, Any]]:
    """Wait until all have read their runs to their ends; see that all came, and that no run was cancelled."""
    outcomes = await asyncio.gather(*(reader.end() for reader in opened))
    for outcome in outcomes:
        assert (outcome["count"], outcome["status"]) == (count + 2, "completed"), outcomes
    return outcomes


def ended(server: Running, verdict: Verdict) -> int:
    """How many connections have ended so."""
    return sum(count for (_, why), count in server.service.heartbeats.closed.items() if why is verdict)


async def slow_reader(pairs: Sequence[Pair], count: int, rate: float, pace: float, **settings: Any) -> None:
    """Read each event for longer than it took to come; leaving for a moment would cancel the run."""
    async with (
        serving({"mine": teller(count, rate, 10)}, **settings) as server,
        readers(server.url, pairs, policy="cancel", pace=pace) as opened,
    ):
        outcomes = await whole(opened, count)
        assert [outcome["retries"] for outcome in outcomes] == [0] * len(pairs)
        assert ended(server, Verdict.SLOW) == 0


@each()
async def test_a_slow_reader(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader at a third of the pace reads all, on the connection that it has; over a socket it pauses the run."""
    paused: list[str] = []
    pause = Pump.pause

    def counted(pump: Pump, run_id: str) -> bool:
        paused.append(run_id)
        return pause(pump, run_id)

    monkeypatch.setattr(Pump, "pause", counted)
    await slow_reader(pairs, count=3000, rate=2000, pace=0.001)
    assert bool(paused) == (pairs[0][1] == "ws")


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_fifty_events_a_second_of_a_hundred_and_fifty() -> None:
    """A loop that saves each event of 150 a second, in 20 ms, reads all 6,002."""
    await slow_reader(PAIRS, count=6000, rate=150, pace=0.02)


async def paused_reader(pairs: Sequence[Pair], seconds: float, count: int, size: int, **settings: Any) -> Running:
    """Read a few events, then none for a while, then the rest; return the server."""
    policy, rate = settings.pop("policy"), settings.pop("rate")
    async with (
        serving({"mine": teller(count, rate, size)}, **settings) as server,
        readers(server.url, pairs, policy=policy, pause=seconds) as opened,
    ):
        await whole(opened, count)
    return server


@each_client
async def test_a_pause_that_is_longer_than_any_grace(pairs: list[Pair]) -> None:
    """A reader that stops for longer than the send timeout and its run's grace reads all, dropped or not."""
    server = await paused_reader(
        pairs, 4.0, count=600, size=20_000, rate=400, policy="cancel_after:1", send_timeout=1.5, heartbeat=0.5
    )
    if pairs[0][1] == "sse":
        assert ended(server, Verdict.SLOW) >= 1


@pytest.mark.full
@pytest.mark.timeout(400)
async def test_a_pause_of_two_minutes() -> None:
    """With the defaults a reader that waits two minutes for a human reads all 22,502 events."""
    await paused_reader(PAIRS, 120.0, count=22_500, size=1000, rate=150, policy=DEFAULT, run_timeout=400)


async def frozen_reader(pairs: Sequence[Pair], seconds: float, count: int, **settings: Any) -> None:
    """Stop the program in the middle of its run; leaving for a moment would cancel the run."""
    rate, options = settings.pop("rate"), settings.pop("options", {})
    async with (
        serving({"mine": teller(count, rate, 3000)}, **settings) as server,
        readers(server.url, pairs, policy="cancel", **options) as opened,
    ):
        for reader in opened:
            reader.freeze()
        await asyncio.sleep(seconds)
        assert len(server.runs) == len(pairs)
        for reader in opened:
            reader.thaw()
        outcomes = await whole(opened, count)
        assert [outcome["retries"] for outcome in outcomes] == [0] * len(pairs)
        assert ended(server, Verdict.SLOW) == 0


@each_client
async def test_a_program_that_is_frozen(pairs: list[Pair]) -> None:
    """A program that stands still for longer than it would wait for the server keeps its connection, and reads all."""
    options = {"heartbeat": 1, "timeout": 1}
    await frozen_reader(pairs, 3.0, count=1200, rate=300, heartbeat=1, send_timeout=20, options=options)


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_a_breakpoint_of_a_minute() -> None:
    """With the defaults a program that stands still for a minute keeps its connection, and reads all."""
    await frozen_reader(PAIRS, 60.0, count=15_000, rate=150, run_timeout=200)


async def away(pairs: Sequence[Pair], seconds: float, count: int, **settings: Any) -> None:
    """Let nothing through for a while, on connections that there are and on new ones, then all."""
    rate, options = settings.pop("rate"), settings.pop("options", {})
    async with (
        serving({"mine": teller(count, rate, 100)}, **settings) as server,
        chaos(server.port) as proxy,
        readers(proxy.url, pairs, **options) as opened,
    ):
        proxy.there.clear()
        await asyncio.sleep(seconds)
        assert len(server.runs) == len(pairs)
        proxy.there.set()
        outcomes = await whole(opened, count)
        assert min(outcome["retries"] for outcome in outcomes) > 0
        assert server.runs.started == len(pairs)


@each_client
async def test_a_phone_that_is_away(pairs: list[Pair]) -> None:
    """A client whose network is gone for several of its time-outs finds its run going on, and reads all."""
    options = {"heartbeat": 0.3, "timeout": 0.5}
    await away(pairs, 2.0, count=400, rate=100, heartbeat=0.3, options=options)


@pytest.mark.full
@pytest.mark.timeout(300)
async def test_a_phone_that_is_away_for_a_minute() -> None:
    """With the defaults a client whose network is gone for a minute reads all."""
    await away(PAIRS, 60.0, count=12_000, rate=150, run_timeout=200)


@each_client
async def test_a_server_that_is_away(pairs: list[Pair]) -> None:
    """A client whose connections are refused at once for a while has the same patience."""
    async with (
        serving({"mine": teller(300, 100, 100)}) as server,
        AsyncExitStack() as stack,
    ):
        proxy = await stack.enter_async_context(chaos(server.port))
        async with readers(proxy.url, pairs) as opened:
            port, proxy._port = proxy._port, 1
            proxy.cut()
            await until(lambda: proxy.accepted > 4)
            proxy._port = port
            await whole(opened, 300)
