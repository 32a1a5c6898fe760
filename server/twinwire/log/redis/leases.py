"""The owners of runs, which renew a lease: any worker ends the runs of one whose lease is gone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from twinwire.log.base import Owner
from twinwire.log.redis.link import Link
from twinwire.log.redis.reader import Stored, load
from twinwire.log.redis.scripts import VACATE, Keys
from twinwire.protocol.errors import LogUnavailable, RunNotFound, StaleWriter

logger = logging.getLogger("twinwire.log")

REAP_SECONDS = 2.0
RENEW_SECONDS = 1.0


class Leases:
    """One worker's lease, `seconds` long, and its part in ending the runs of workers that are no more.

    `renewed()` is called three times within a lease. `look(run_id)` deletes an orphan that cannot be read and raises
    `RunNotFound`; `end(run_id, stored)` appends the terminal event of any other. A run is an orphan too if this worker
    is its owner and knows nothing of it: its start, or its last append, was lost.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        worker: str,
        seconds: float,
        owner: Owner,
        *,
        renewed: Callable[[], Awaitable[None]],
        look: Callable[[str], Awaitable[None]],
        end: Callable[[str, Stored], Awaitable[None]],
    ) -> None:
        self.starting: set[str] = set()
        self._link = link
        self._keys = keys
        self._worker = worker
        self._seconds = seconds
        self._renewal = min(seconds / 3.3, RENEW_SECONDS)  # how often the lease is renewed
        self._owner = owner
        self._renewed = renewed
        self._look = look
        self._end = end
        self._absent: dict[str, float] = {}  # the workers without a lease, and since when
        self._renewing_since: float | None = None

    async def renew(self) -> None:
        """Renew the lease, and with it what is kept for as long as the worker lives. Raises `LogUnavailable`."""
        milliseconds = round(self._seconds * 1000)
        await asyncio.gather(
            self._link.call("SET", self._keys.worker(self._worker), 1, "PX", milliseconds),
            self._link.call("PEXPIRE", self._keys.commands(self._worker), 3 * milliseconds),
        )

    async def keep(self) -> None:
        """Renew for ever, at least three times within each lease."""
        announced = 0.0
        while True:
            try:
                await self.renew()
                now = time.monotonic()
                self._renewing_since = self._renewing_since or now
                if now - announced >= self._seconds / 3.5:
                    await self._renewed()
                    announced = now
            except LogUnavailable:
                self._renewing_since = None
            await asyncio.sleep(self._renewal)

    async def reap(self) -> None:
        """End orphans for ever.

        Not before Redis could be reached for half a lease: when it was away, all leases have run out, and those who
        live need time to renew theirs.
        """
        while True:
            await asyncio.sleep(min(REAP_SECONDS, self._seconds / 5) * random.uniform(0.75, 1.25))
            since = self._renewing_since
            if since is not None and time.monotonic() - since >= self._seconds / 2:
                try:
                    for run_id in await self._orphans(1.25 * self._renewal):
                        await self._interrupt(run_id)
                except LogUnavailable:
                    pass  # the next sweep finds them again

    async def release(self) -> None:
        """Give up the lease. Raises `LogUnavailable`."""
        await self._link.call("DEL", self._keys.worker(self._worker), self._keys.commands(self._worker))

    async def _orphans(self, patience: float = 0.0) -> list[str]:
        """Return the runs whose owner is dead: it has had no lease for so many seconds.

        A worker that lives renews its lease within that time, should Redis have lost it.
        """
        flat = [name.decode() for name in await self._link.call("HGETALL", self._keys.live)]
        live = dict(zip(flat[::2], flat[1::2], strict=True))
        others = list(set(live.values()) - {self._worker})
        leased = await asyncio.gather(*(self._link.call("EXISTS", self._keys.worker(name)) for name in others))
        now = time.monotonic()
        self._absent = {
            name: self._absent.get(name, now) for name, lives in zip(others, leased, strict=True) if not lives
        }
        dead = {name for name, since in self._absent.items() if now - since >= patience}
        return [
            run_id
            for run_id, name in live.items()
            if name in dead or (name == self._worker and run_id not in self.starting and not self._owner.owns(run_id))
        ]

    async def _interrupt(self, run_id: str) -> None:
        try:
            await self._look(run_id)
            stored = await load(self._link, self._keys, run_id)
            if stored.terminal is None:
                await self._end(run_id, stored)
                logger.warning("This worker ended the run %s for a worker that is gone.", run_id)
        except StaleWriter:
            return  # somebody else was faster, or the owner lives after all; the next sweep sees
        except RunNotFound:
            pass
        else:
            session = (stored.info.user_id, stored.info.session_id)
            await self._link.call(*VACATE(self._keys.busy(session), run_id=run_id))
        await asyncio.gather(*(self._link.call("HDEL", name, run_id) for name in (self._keys.live, self._keys.waiting)))
