"""The owners of runs, which renew a lease: any worker finds the runs of one whose lease is gone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from math import inf

from twinwire.log.base import Owner
from twinwire.log.redis.link import Link
from twinwire.log.redis.scripts import RELEASED, Keys
from twinwire.protocol.errors import LogUnavailable

REAP_SECONDS = 2.0
RENEW_SECONDS = 1.0
HURRY_SECONDS = 0.05
"""Within this time of a run's release a worker looks for it: one that ends releases many, and all others look."""


class Leases:
    """One worker's lease, `seconds` long, and its look-out for the runs of workers that are no more.

    `renewed()` is called three times within a lease, `orphaned(runs)` with all orphans that there are, each with the
    owner that it had, again and again. A run is an orphan too if its owner has released it, or if this worker is its
    owner and knows nothing of it: its start, or its last append, was lost.
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
        orphaned: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.starting: set[str] = set()  # runs that are this worker's from now on
        self._link = link
        self._keys = keys
        self._worker = worker
        self._seconds = seconds
        self._renewal = min(seconds / 3.3, RENEW_SECONDS)  # how often the lease is renewed
        self._patience = 1.25 * self._renewal  # a worker that lives renews within it, should Redis have lost its lease
        self._owner = owner
        self._renewed = renewed
        self._orphaned = orphaned
        self._absent: dict[str, float] = {}  # the workers without a lease, and since when
        self._renewing_since: float | None = None
        self._hurried = asyncio.Event()

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

    def hurry(self) -> None:
        """A run was released: look soon."""
        self._hurried.set()

    async def reap(self) -> None:
        """Look for orphans for ever."""
        while True:
            await self._pause()
            with contextlib.suppress(LogUnavailable):  # the next sweep finds them again
                self._orphaned(await self._orphans(self._patience if self._settled else inf))

    @property
    def _settled(self) -> bool:
        """Return whether an absent lease says that its worker is gone.

        Not before Redis could be reached for half a lease: when it was away, all leases have run out, and those who
        live need time to renew theirs.
        """
        since = self._renewing_since
        return since is not None and time.monotonic() - since >= self._seconds / 2

    async def _pause(self) -> None:
        """Wait until it is time to look again: soon if a run was released, or if a worker is missed already."""
        now = time.monotonic()
        due = [now + min(REAP_SECONDS, self._seconds / 5) * random.uniform(0.75, 1.25)]
        due += [since + self._patience for since in self._absent.values() if since + self._patience > now]
        try:
            async with asyncio.timeout(min(due) - now):
                await self._hurried.wait()
        except TimeoutError:
            return
        await asyncio.sleep(HURRY_SECONDS * random.uniform(0.2, 1.0))
        self._hurried.clear()

    async def release(self) -> None:
        """Give up the lease. Raises `LogUnavailable`."""
        await self._link.call("DEL", self._keys.worker(self._worker), self._keys.commands(self._worker))

    async def _orphans(self, patience: float = 0.0) -> dict[str, str]:
        """Return the runs that have no owner, each with the one that it had.

        An owner is dead if it has had no lease for so many seconds.
        """
        flat = [name.decode() for name in await self._link.call("HGETALL", self._keys.live)]
        live = dict(zip(flat[::2], flat[1::2], strict=True))
        others = list(set(live.values()) - {self._worker, RELEASED})
        leased = await asyncio.gather(*(self._link.call("EXISTS", self._keys.worker(name)) for name in others))
        now = time.monotonic()
        self._absent = {
            name: self._absent.get(name, now) for name, lives in zip(others, leased, strict=True) if not lives
        }
        gone = {RELEASED, *(name for name, since in self._absent.items() if now - since >= patience)}
        return {
            run_id: name
            for run_id, name in live.items()
            if name in gone or (name == self._worker and run_id not in self.starting and not self._owner.owns(run_id))
        }
