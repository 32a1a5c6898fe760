"""When to try again, and when to give up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from twinwire_client.errors import ConnectionLost

LATE_SECONDS = 0.5
"""By how much a timer may be late on a busy machine."""


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` after so many seconds in which the program ran.

    A timer that fires late tells that the program stood still, at a breakpoint or stopped by a signal: what has come
    meanwhile is still to be read, so that it waits once more. It does so once only: a busy program may always be late.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds

    def look() -> None:
        now = loop.time()
        timeout.reschedule(now + seconds if now - due > LATE_SECONDS else now)

    async with asyncio.timeout(None) as timeout:
        timer = loop.call_at(due, look)
        try:
            yield
        finally:
            timer.cancel()


class Broken(Exception):
    """Something that another attempt may mend; the server asks for at least `retry_after` seconds before it."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Muted(Broken):
    """A stream on which nothing came at all: what is between may hold it back."""


class Backoff(NamedTuple):
    """Exponential backoff with full jitter: 0 to min(cap, base * 2^n) seconds before attempt n + 1.

    `rng` gives a number from 0 to 1.
    """

    base: float = 0.25
    cap: float = 10.0
    rng: Callable[[], float] = random.random

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (1, 2, …)."""
        return self.rng() * min(self.cap, self.base * 2.0 ** (min(failures, 64) - 1))


class Patience(NamedTuple):
    """The bounds of failures in a row: `attempts` (None for any number) and `seconds`.

    `first` is the number of attempts of a connection that has never worked.
    """

    attempts: int | None = None
    first: int | None = 10
    seconds: float = 300.0


class Attempts:
    """Failures in a row, of one thing."""

    def __init__(self, url: str, backoff: Backoff, patience: Patience) -> None:
        self._url = url
        self._backoff = backoff
        self._patience = patience
        self._limit = patience.first
        self._failures = 0
        self._since = 0.0

    def worked(self) -> None:
        """Be as patient from now on as with what has worked once."""
        self._limit = self._patience.attempts

    def succeeded(self, lasted: float | None = None) -> None:
        """Start counting anew; if it `lasted` only so many seconds, if that is longer than any wait between."""
        if lasted is None or lasted > self._backoff.cap:
            self._failures = 0
            self.worked()

    async def failed(self, error: Broken) -> None:
        """Count a failure and wait. Raises `ConnectionLost` if it was one too many."""
        now = asyncio.get_running_loop().time()
        if self._failures == 0:
            self._since = now
        self._failures += 1
        spent = self._limit is not None and self._failures >= self._limit
        if spent or now - self._since >= self._patience.seconds:
            failures, self._failures = self._failures, 0
            attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
            raise ConnectionLost(
                f"The client could not reach {self._url} and gave up after {attempts}. {error}"
            ) from error
        await asyncio.sleep(error.retry_after + self._backoff.delay(self._failures))
