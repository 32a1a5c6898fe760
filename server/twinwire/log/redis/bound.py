"""A bound on the memory of a private Redis: above it the oldest runs that have ended go, then unused conversations.

Redis must not evict by itself: it would take a lease or a run that goes on as soon as one that has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

from twinwire.log.redis.link import Link, lenient
from twinwire.log.redis.lists import Lists
from twinwire.log.redis.scripts import Keys
from twinwire.protocol.errors import LogUnavailable

BOUND_SECONDS = 1.0
CONVERSATIONS = 100  # that go in one go


class Bound:
    """Holds the memory that Redis uses under `max_bytes`. Each worker does, and none minds what another has deleted."""

    def __init__(self, link: Link, keys: Keys, lists: Lists, max_bytes: int) -> None:
        self._link = link
        self._keys = keys
        self._lists = lists
        self._max_bytes = max_bytes

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(BOUND_SECONDS * random.uniform(0.75, 1.25))
            with contextlib.suppress(LogUnavailable):
                await self.look()

    async def look(self) -> None:
        """Delete what is too much, once: it may be a moment until Redis has freed it. Raises `LogUnavailable`."""
        excess = int((await memory(self._link))["used_memory"]) - self._max_bytes
        if excess > 0 and not await self._lists.delete_oldest(excess):
            await self._delete_conversations()

    async def _delete_conversations(self) -> None:
        """Delete some that nobody has used for longest."""
        keys = self._keys
        names: list[bytes] = await lenient(self._link.call("ZRANGE", keys.sessions, 0, CONVERSATIONS - 1)) or []
        if names:
            await self._link.call("DEL", *names)
            await self._link.call("ZREM", keys.sessions, *names)


async def memory(link: Link) -> dict[str, str]:
    """Return what Redis says of its memory. Raises `LogUnavailable`, also if it does not let this user know."""
    told: bytes = await link.call("INFO", "memory")
    return dict(line.partition(":")[::2] for line in told.decode().splitlines())
