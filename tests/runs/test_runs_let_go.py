"""A run that has ended leaves memory at once: no cycle keeps its text until the garbage collector comes to it."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterator

import pytest

from support.followers import KINDS, cancel, rest, start
from support.serving import Puppet, Puppets, Running, serving, until
from twinwire.protocol.errors import RunError


async def complete(puppet: Puppet, *_: object) -> None:
    puppet.end()


async def fail(puppet: Puppet, *_: object) -> None:
    puppet.fail(ValueError("by the agent"))


async def refuse(puppet: Puppet, *_: object) -> None:
    puppet.fail(RunError("by the agent, on purpose"))


async def exit_(puppet: Puppet, *_: object) -> None:
    puppet.fail(SystemExit(1))


async def break_the_table(puppet: Puppet, *_: object) -> None:
    puppet.emit("LLM_CHUNK", content=7)


async def be_cancelled(_: Puppet, kind: str, server: Running, run_id: str) -> None:
    await cancel(kind, server, run_id)


async def be_late(*_: object) -> None:
    """Wait for the run's deadline."""


End = Callable[[Puppet, str, Running, str], Awaitable[None]]


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    """Collect no garbage, and let pytest keep no log record, which has the traceback."""
    gc.collect()
    gc.disable()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [complete, fail, refuse, exit_, break_the_table, be_cancelled, be_late])
async def test_nothing_keeps_an_ended_run(end: End, kind: str, puppets: Puppets) -> None:
    """Whichever way a run ends, it is gone as soon as its follower has read the end, without a collection."""
    async with serving({"mine": puppets}, run_timeout=1 if end is be_late else 60) as server:
        follower = await start(kind, server)
        puppet = await puppets.next()
        puppet.say("a", "b")
        run = weakref.ref(server.runs._live[follower.run_id])
        await end(puppet, kind, server, follower.run_id)
        del puppet
        await rest(follower)
        await until(lambda: run() is None)
