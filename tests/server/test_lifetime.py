"""The table of connections, without a server: when a carrier that has something unsent is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from twinwire.telemetry.metrics import Metrics
from twinwire.transports import lifetime


class Full:
    """A carrier whose buffer is as full whenever it is looked at."""

    transport = None
    dropped = False

    def unsent(self) -> int:
        return 1000

    def held(self) -> int:
        return 0

    def shed(self) -> None:
        raise NotImplementedError

    def drop(self) -> None:
        self.dropped = True

    def expire(self) -> None:
        raise AssertionError("its time is not over")

    stop = expire

    def tick(self, now: float) -> None:
        """There is nothing else to look after."""


async def test_a_buffer_that_is_filled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who takes some is not dropped though as much is unsent at each look; who takes nothing is."""
    metrics, carrier = Metrics(), Full()
    table = lifetime.Lifetimes(most=10, send_timeout=0.3, answer_seconds=60, metrics=metrics)
    one = table.accept(carrier, 60)
    one.send()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for count in range(1, 13):
        monkeypatch.setattr(loop, "time", lambda now=began + 0.05 * count: now)
        one.moved()
        table._tick()
    assert not carrier.dropped
    monkeypatch.setattr(loop, "time", lambda: began + 1)
    table._tick()
    assert carrier.dropped
    assert (table.accepted, metrics.refused["unread"]) == (0, 1)


class Late(Full):
    """A carrier whose time is over."""

    expired = False

    def expire(self) -> None:
        self.expired = True


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_time_that_has_come(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A phase whose time has come already ends in the next turn of the loop, and others may begin before."""

    async def two() -> tuple[Late, Late]:
        table = lifetime.Lifetimes(most=10, send_timeout=10, answer_seconds=60)
        carriers = Late(), Late()
        for carrier in carriers:
            table.accept(carrier, -1)
        for _ in range(3):
            await asyncio.sleep(0)
        return carriers

    with asyncio.Runner(loop_factory=loop) as runner:
        assert [carrier.expired for carrier in runner.run(two())] == [True, True]
