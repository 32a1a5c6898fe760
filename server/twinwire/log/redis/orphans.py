"""The runs whose owner is gone: this worker goes on with each of them, or another one does, or it is ended."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from msgspec import Struct

from twinwire.log.base import Owner, RunInfo
from twinwire.log.orphan import MOST_CLAIMS, Orphan
from twinwire.log.redis.link import Link, lenient
from twinwire.log.redis.reader import MALFORMED, Stored, load
from twinwire.log.redis.scripts import VACATE, Keys
from twinwire.protocol.errors import LogUnavailable, RunNotFound, StaleWriter

logger = logging.getLogger("twinwire.log")

OFFERED_AT_ONCE = 8  # each may have some megabytes
ENDED_AT_ONCE = 32
TAKE_SECONDS = 10.0
"""The time within which this worker has begun an orphan, or says that it cannot."""
AGAIN_SECONDS = 10.0
"""The longest time after which an orphan that nobody could take is offered again."""

_FIELDS = ("info", "owner", "epoch", "claims", "first", "last", "bytes", "start", "checkpoint")
_info = msgspec.json.Decoder(RunInfo)


class _Met(Struct):
    """An orphan of this owner, `since` this worker saw it first; it was `offered` last at that time."""

    owner: str
    since: float
    offered: float | None = None

    def due(self, now: float) -> bool:
        """Return whether to offer it: at first at once, then after twice the time until then."""
        return self.offered is None or now - self.offered >= min(self.offered - self.since, AGAIN_SECONDS)


class Orphans:
    """Offers orphans to the `owner` of this worker's runs, and ends those that no worker can go on with.

    `look(run_id)` deletes an orphan that cannot be read and raises `RunNotFound`; `end(run_id, stored)` appends the
    terminal event of any other; `lost(run_id)` is called before a run is offered that this worker had itself, and
    `taken(run_id)` once one goes on here. An orphan that nobody has taken within `claim_timeout` seconds of when this
    worker saw it first is ended.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        worker: str,
        owner: Owner,
        *,
        look: Callable[[str], Awaitable[None]],
        end: Callable[[str, Stored], Awaitable[None]],
        lost: Callable[[str], None],
        taken: Callable[[str], None],
        claim_timeout: float,
    ) -> None:
        self._link = link
        self._keys = keys
        self._worker = worker
        self._owner = owner
        self._look = look
        self._end = end
        self._lost = lost
        self._taken = taken
        self._claim_timeout = claim_timeout
        self._met: dict[str, _Met] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._offering = asyncio.Semaphore(OFFERED_AT_ONCE)
        self._ending = asyncio.Semaphore(ENDED_AT_ONCE)

    def meet(self, runs: Mapping[str, str]) -> None:
        """See to all orphans that there are now, each given with its owner."""
        now = time.monotonic()
        before, self._met = self._met, {}
        for run_id, name in runs.items():
            met = before.get(run_id)
            self._met[run_id] = met if met is not None and met.owner == name else _Met(name, now)
        some = [run_id for run_id, met in self._met.items() if run_id not in self._tasks and self._due(met, now)]
        random.shuffle(some)  # so that workers which see the same orphans begin with different ones
        for run_id in some:
            self._tasks[run_id] = asyncio.create_task(self._settle(run_id, self._met[run_id]))

    def _due(self, met: _Met, now: float) -> bool:
        return met.due(now) or self._late(met, now)

    def _late(self, met: _Met, now: float) -> bool:
        return now - met.since >= self._claim_timeout

    async def _settle(self, run_id: str, met: _Met) -> None:
        """Offer an orphan, or end it."""
        try:
            if await self._can_go_on(run_id) and not self._late(met, time.monotonic()):
                async with self._offering:
                    await self._offer(run_id, met)
            else:
                async with self._ending:
                    await self.interrupt(run_id, met.owner)
        except LogUnavailable:
            pass  # the next sweep finds it again
        except Exception:
            logger.exception("The run %s could not be taken over.", run_id)
        finally:
            del self._tasks[run_id]

    async def _can_go_on(self, run_id: str) -> bool:
        """Return whether a run has all that another process needs, and has not been the end of too many."""
        name = self._keys.run(run_id)
        claims, size = await asyncio.gather(
            lenient(self._link.call("HGET", name, "claims")), lenient(self._link.call("HSTRLEN", name, "start"))
        )
        return bool(size) and _count(claims) < MOST_CLAIMS

    async def _offer(self, run_id: str, met: _Met) -> None:
        try:
            await self._look(run_id)
            orphan = await self._read(run_id)
        except RunNotFound:
            await self._forget(run_id)
            return
        if orphan is None or orphan.owner != met.owner or not orphan.start:
            return  # it has another owner since, or has ended
        if orphan.owner == self._worker:
            if self._owner.owns(run_id):
                return
            self._lost(run_id)
        met.offered = time.monotonic()
        try:
            async with asyncio.timeout(TAKE_SECONDS):
                taken = await self._owner.take_over(orphan)
        except TimeoutError:
            logger.warning("The run %s could not be taken over within %.0f s.", run_id, TAKE_SECONDS)
            return
        if taken:
            self._taken(run_id)

    async def _read(self, run_id: str) -> Orphan | None:
        """Return an orphan with all that is kept for whoever goes on with it, in one go, so that it all fits."""
        fields = await self._link.call("HMGET", self._keys.run(run_id), *_FIELDS)
        info, owner, epoch, claims, first, last, size, start, checkpoint = fields
        try:
            return Orphan(
                info=_info.decode(info),
                owner=owner.decode(),
                epoch=_count(epoch),
                claims=_count(claims),
                first=int(first),
                last=int(last),
                size=int(size),
                start=start or b"",
                checkpoint=checkpoint or b"",
            )
        except MALFORMED:
            return None

    async def interrupt(self, run_id: str, owner: str) -> None:
        """End an orphan of this owner that nobody goes on with, and free its session. Raises `LogUnavailable`."""
        try:
            await self._look(run_id)
            stored = await load(self._link, self._keys, run_id)
            if stored.terminal is None:
                if stored.owner != owner:
                    return  # somebody goes on with it; a claim after this look makes the end stale
                await self._end(run_id, stored)
                logger.warning("This worker ended the run %s for a worker that is gone.", run_id)
        except StaleWriter:
            return  # somebody else was faster, or the owner lives after all; the next sweep sees
        except RunNotFound:
            pass
        else:
            session = (stored.info.user_id, stored.info.session_id)
            await self._link.call(*VACATE(self._keys.busy(session), run_id=run_id))
        await self._forget(run_id)

    async def _forget(self, run_id: str) -> None:
        """Have no worker look for this run any more."""
        await asyncio.gather(*(self._link.call("HDEL", name, run_id) for name in (self._keys.live, self._keys.waiting)))

    async def close(self) -> None:
        """Take no more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _count(digits: bytes | None) -> int:
    """Return a number that counts from 0, and is not there before."""
    return int(digits) if digits is not None and digits.isdigit() else 0
