"""An agent that holds the event loop is named in the log while it does, with the line that it is at."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from inspect import getsourcelines
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.followers import rest, start
from support.serving import Running, serving, until
from twinwire import RunRequest
from twinwire.runs.watchdog import HELD_SECONDS, Watchdog

noticed = threading.Event()
"""Set once a line says that the event loop is held."""


def block() -> None:
    noticed.wait(20)


def nap(seconds: float) -> None:
    time.sleep(seconds)


async def sleeps(_: RunRequest) -> AsyncGenerator[str, None]:
    yield "a"
    block()
    yield "b"


async def counts(_: RunRequest) -> AsyncGenerator[str, None]:
    then = time.monotonic() + 20
    while not noticed.is_set() and time.monotonic() < then:
        pass
    yield "a"


async def starts_a_task(_: RunRequest) -> AsyncGenerator[str, None]:
    async def child() -> None:
        await asyncio.sleep(0)
        block()

    yield "a"
    await asyncio.create_task(child())


async def waits(_: RunRequest) -> AsyncGenerator[str, None]:
    yield "a"
    await asyncio.sleep(3 * HELD_SECONDS)
    yield "b"


async def talks(_: RunRequest) -> AsyncGenerator[str, None]:
    until_then = time.monotonic() + 3 * HELD_SECONDS
    while time.monotonic() < until_then:
        nap(HELD_SECONDS / 10)
        await asyncio.sleep(0)
    yield "a"


class Notice(logging.Handler):
    """Sets `noticed`, in the thread that logs."""

    def emit(self, record: logging.LogRecord) -> None:
        if "held the event loop" in record.getMessage():
            noticed.set()


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    agents = {"sleeps": sleeps, "counts": counts, "task": starts_a_task, "waits": waits, "talks": talks}
    noticed.clear()
    handler = Notice()
    logging.getLogger("twinwire.runs").addHandler(handler)
    async with serving(agents) as server:
        yield server
    logging.getLogger("twinwire.runs").removeHandler(handler)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines about the event loop."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [line for line in found if "held the event loop" in line]


@pytest.mark.parametrize(("agent", "function"), [("sleeps", block), ("counts", counts), ("task", block)])
async def test_it_is_named(server: Running, agent: str, function: object, caplog: pytest.LogCaptureFixture) -> None:
    """One line names the agent, the run and the line of its own code, not the library's that it has called."""
    follower = await start("sse", server, agent=agent)
    await rest(follower)
    await until(lambda: bool(lines(caplog)))  # its thread has set `noticed` first
    [line] = lines(caplog)
    assert f"The agent {agent} has held the event loop for longer than 250 ms" in line
    assert follower.run_id in line
    source, first = getsourcelines(function)  # type: ignore[arg-type]
    places = [f"{Path(__file__)}:{number}" for number in range(first, first + len(source))]
    assert any(f"at {place}." in line for place in places)


@pytest.mark.parametrize("agent", ["waits", "talks"])
async def test_others_are_not(server: Running, agent: str, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that awaits, or that lets others have their turn, holds nothing."""
    await rest(await start("sse", server, agent=agent))
    assert lines(caplog) == []


async def test_its_thread_ends(server: Running) -> None:
    """The thread is there while runs go on, and ends soon after them."""
    others = set(threading.enumerate())

    def there() -> bool:
        return any(thread.name == "twinwire watchdog" for thread in set(threading.enumerate()) - others)

    await rest(await start("sse", server, agent="waits"))
    assert there()
    await until(lambda: not there())
    await rest(await start("sse", server, agent="waits"))
    assert there()


def test_its_thread_ends_with_its_loop() -> None:
    """A run that is left behind in a loop that was closed is watched no longer."""
    live: dict[str, Any] = {"left": SimpleNamespace(_at_work=False)}
    before = set(threading.enumerate())

    async def begin() -> set[threading.Thread]:
        watchdog = Watchdog(live)
        watchdog._turned = False  # it has asked the loop for a turn that never comes
        watchdog.start()
        return set(threading.enumerate()) - before

    [thread] = asyncio.run(begin())
    thread.join(10)
    assert not thread.is_alive()
