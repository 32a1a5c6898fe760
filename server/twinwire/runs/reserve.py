"""The memory that large replies of all connections share: snapshots, and openings of late joins.

What a client asks for costs memory from when it is made until the client has taken it. A client chooses how many it
asks for and how slowly it reads; the reserve bounds what all of that comes to.
"""

from __future__ import annotations

import asyncio
from collections import deque

from twinwire.protocol.errors import Busy

SMALL_BYTES = 64 * 1024
"""A reply up to this size needs no reserve: its connection's own budget of replies has room for it."""


class Claim:
    """A share of the reserve. Calling it gives the share back, and so does dropping it."""

    __slots__ = ("_reserve", "size")

    def __init__(self, reserve: Reserve, size: int) -> None:
        self._reserve = reserve
        self.size = size

    def __call__(self) -> None:
        """Give the share back. Idempotent."""
        size, self.size = self.size, 0
        if size:
            self._reserve.give(size)

    def __del__(self) -> None:
        self()


class Reserve:
    """Grant at most `total` bytes at once, first come, first served; wait for at most `patience` seconds.

    A claim over `total` is granted when nothing else is.
    """

    def __init__(self, total: int, patience: float) -> None:
        self._total = total
        self._patience = patience
        self._waiting: deque[tuple[asyncio.Future[Claim], int]] = deque()
        self.taken = 0

    async def take(self, size: int) -> Claim:
        """Wait until so many bytes are free, and return the claim to them.

        Raises `Busy` if they are not free in time.
        """
        if size <= SMALL_BYTES:
            return Claim(self, 0)
        granted: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        self._waiting.append((granted, size))
        self._grant()
        try:
            async with asyncio.timeout(self._patience):
                return await granted
        except TimeoutError:
            raise Busy from None
        finally:
            self._waiting = deque(waiting for waiting in self._waiting if waiting[0] is not granted)
            self._grant()  # who waited in front of others may have given up

    def give(self, size: int) -> None:
        """Take back what was granted; a claim does it."""
        self.taken -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting:
            granted, size = self._waiting[0]
            if not granted.done():
                if self.taken and self.taken + size > self._total:
                    return
                self.taken += size
                granted.set_result(Claim(self, size))
            self._waiting.popleft()
