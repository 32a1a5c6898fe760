"""A check that Redis still has the runs that are written or followed here. A loss is noticed within a lease.

A Redis that was emptied, or has evicted or deleted a key, says nothing: no read fails, nothing comes. So one timer of
each worker asks about all its runs, some hundreds in one command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from itertools import islice

from twinwire.log.base import LOST_EVENTS, Owner
from twinwire.log.redis.link import Link
from twinwire.log.redis.reader import Held, Reader
from twinwire.log.redis.scripts import CHECK, Keys
from twinwire.protocol.errors import LogUnavailable, RunNotFound

logger = logging.getLogger("twinwire.log")

CHECK_SECONDS = 2.0
RUNS = 256  # in one command, which holds Redis up for about a millisecond


class Check:
    """Asks about all runs that a `Reader` holds: five times within a lease of `seconds`, at least every two seconds.

    If a run is gone, its followers here learn it and, if it is written here, its owner, who stops it. So does the owner
    of a run that another worker has claimed: its followers here get the rest as everywhere else. If a run has lost
    events, its owner ends it with an ERROR, which all its followers get, on whichever worker.
    """

    def __init__(self, link: Link, keys: Keys, worker: str, seconds: float, *, owner: Owner, reader: Reader) -> None:
        self._link = link
        self._keys = keys
        lists = keys.sessions, keys.logged_out, keys.log_outs, keys.released
        self._shared = (keys.live, keys.waiting, *lists, keys.commands(worker))
        self._worker = worker
        self._interval = min(CHECK_SECONDS, seconds / 5)
        self._owner = owner
        self._reader = reader

    async def run(self) -> None:
        """Look for ever. While Redis is away there is nothing to see."""
        while True:
            await asyncio.sleep(self._interval * random.uniform(0.75, 1.25))
            with contextlib.suppress(LogUnavailable):
                await self.look()

    async def look(self) -> None:
        """Ask once. Raises `LogUnavailable`."""
        runs = iter([(run_id, held) for run_id, held in self._reader.held.items() if held.own or held.awaited])
        while True:
            some = [*islice(runs, RUNS)]
            # The numbers are as of now: Redis has had all of it.
            asked = [(run_id, held.key, held.tail.last, self._worker if held.own else "") for run_id, held in some]
            verdicts = await self._ask(asked)
            for (run_id, held), verdict in zip(some, verdicts, strict=True):
                if verdict != b"ok" and self._reader.held.get(run_id) is held:
                    self._act(run_id, held, verdict)
            if len(some) < RUNS:
                break
        await self._reader.reheard()

    async def look_at(self, run_id: str, key: str = "") -> None:
        """Ask about a run that may be followed by nobody: no timer does. `key` is its idempotency key's, if known.

        If `live` has lost a run that goes on, it is there again, and ends should its owner be dead. Raises
        `RunNotFound` if it cannot be read or go on, `LogUnavailable`.
        """
        [verdict] = await self._ask([(run_id, key, 0, "")])
        if verdict == b"gone":
            logger.warning("Redis has lost the run %s.", run_id)
            raise RunNotFound

    async def _ask(self, runs: list[tuple[str, str, int, str]]) -> list[bytes]:
        """Return the verdict on each run: its id, its idempotency key's, the last number known of it, its writer."""
        keys: list[str] = list(self._shared)
        arguments: list[str | int] = []
        for run_id, key, last, writer in runs:
            run = self._keys.run(run_id)
            keys += [run, self._keys.events(run_id), key or run]
            arguments += [run_id, last, writer]
        verdicts: list[bytes]
        replaced, *verdicts = await self._link.call(*CHECK(*keys, rest=arguments))
        if replaced:
            logger.warning("Another program had written %d of this log's keys in Redis. They were deleted.", replaced)
        return verdicts

    def _act(self, run_id: str, held: Held, verdict: bytes) -> None:
        if verdict == b"gone":
            logger.warning("Redis has lost the run %s.", run_id)
            held.lose()
        elif verdict in {b"older", b"ended"} and not held.own:  # the end may stand under a number that was seen here
            held.interrupt()
            self._reader.look()
        if held.own:
            if verdict == b"taken":
                logger.warning("Another worker has taken over the run %s.", run_id)
                self._reader.disown(run_id)
            if verdict == b"lost":
                logger.warning("Redis has lost events of the run %s, which ends.", run_id)
            self._owner.interrupt({run_id}, LOST_EVENTS)
