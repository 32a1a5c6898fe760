"""Runs' own writers, which put events into a log: in the process that measures, or in one of their own."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

import uvloop

from twinwire.log import Departure, Folded, Limits, RunInfo, Store, open_log
from twinwire.log.orphan import Orphan
from twinwire.log.saying import Outcome, Saying
from twinwire.protocol.events import StreamEvent, timestamp
from twinwire.protocol.wire import new_run_id
from twinwire.runs.writer import Writer

LIMITS = Limits(
    max_events=10**6, max_bytes=2**33, retention=3600.0, max_sessions=10, session_bytes=2**16, session_idle=60.0
)


class Nobody:
    """The owner of no runs, and nobody's presence."""

    def cancel_here(self, run_id: str) -> None:
        """See `Owner`."""

    def unfollowed(self, run_id: str, *, left: bool) -> None:
        """See `Owner`."""

    def interrupt(self, run_ids: Collection[str] | None = None, why: str = "") -> None:
        """See `Owner`."""

    def block(self, run_id: str) -> None:
        """See `Owner`."""

    def unblock(self, run_id: str) -> None:
        """See `Owner`."""

    async def hear(self, run_id: str, saying: Saying) -> Outcome | None:  # noqa: ARG002 - the protocol's
        """See `Owner`."""
        return None

    def folded(self, run_id: str) -> Folded | None:  # noqa: ARG002 - the protocol's
        """See `Owner`."""
        return None

    def owns(self, run_id: str) -> bool:  # noqa: ARG002 - the protocol's
        """See `Owner`."""
        return True

    async def take_over(self, orphan: Orphan) -> bool:  # noqa: ARG002 - the protocol's
        """See `Owner`."""
        return False

    def follow(self, run_id: str) -> None:
        """See `Presence`."""

    def unfollow(self, run_id: str, departure: Departure) -> None:
        """See `Presence`."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """The log at this URL."""
    log = open_log(url, LIMITS)
    await log.open(Nobody())
    try:
        yield log
    finally:
        await log.close()


def settle() -> None:
    """Have the garbage collector leave alone what there is, as a server does when it is ready."""
    gc.collect()
    gc.freeze()


def token() -> StreamEvent:
    """An event like a model's token, which tells when it was made."""
    text = f"{time.monotonic_ns()} "
    return StreamEvent("LLM_CHUNK", {"content": text, "delta": text}, metadata={"step": 1})


class Source:
    """A run and its writer."""

    def __init__(self, log: Store, run_id: str) -> None:
        self.run_id = run_id
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writer = Writer(log, run_id, lambda: self.ended.set_result(None))

    async def write(self, count: int, pace: float = 0.0, delay: float = 0.0) -> None:
        """`count` events, then the end; one each `pace` seconds after `delay`, or as fast as the log takes them."""
        if pace:
            await asyncio.sleep(delay)
        began = time.monotonic()
        for number in range(count):
            self.writer.put(token())
            if pace:
                self.writer.flush()
                await asyncio.sleep(began + (number + 1) * pace - time.monotonic())
            elif number % 8 == 7:  # what a burst of tokens brings in one turn of the loop
                self.writer.flush()
                await (self.writer.room() if self.writer.full else asyncio.sleep(0))
        self.writer.put(StreamEvent("AGENT_FINISH", {"result": ""}))
        self.writer.flush()
        await self.ended


async def source(log: Store) -> Source:
    """A new run."""
    info = RunInfo(run_id=new_run_id(), agent="bench", created=timestamp(), owner=log.worker)
    await log.create(info, idempotency_key=None)
    return Source(log, info.run_id)


async def write_evenly(sources: Sequence[Source], rate: float, seconds: float) -> None:
    """`rate` events a second over all of these runs, evenly spread."""
    pace = len(sources) / rate
    await asyncio.gather(
        *(one.write(int(seconds / pace), pace, pace * i / len(sources)) for i, one in enumerate(sources))
    )


def write(url: str, runs: int, rate: float, seconds: float, pipe: Connection) -> None:
    """In a process of its own: new runs, whose ids it tells; their events, once it is told; the CPU that they took."""

    async def work() -> None:
        async with opened(url) as log:
            sources = [await source(log) for _ in range(runs)]
            pipe.send([one.run_id for one in sources])
            await asyncio.to_thread(pipe.recv)
            settle()
            cpu = time.process_time()
            await write_evenly(sources, rate, seconds)
            pipe.send(time.process_time() - cpu)

    uvloop.run(work())
