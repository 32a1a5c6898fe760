"""When to try again, and when to give up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple

from twinwire_client.errors import ConnectionLost


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


class Attempts:
    """Failures in a row, of one thing: at most `first` until it has succeeded once, then `limit`."""

    def __init__(self, url: str, backoff: Backoff, limit: int, first: int) -> None:
        self._url = url
        self._backoff = backoff
        self._limit = limit
        self._first = first
        self._failures = 0

    def succeeded(self, lasted: float | None = None) -> None:
        """Start counting anew; if it `lasted` only so many seconds, if that is longer than any wait between."""
        if lasted is None or lasted > self._backoff.cap:
            self._failures = 0
            self._first = self._limit

    async def failed(self, error: Broken) -> None:
        """Count a failure and wait. Raises `ConnectionLost` if it was one too many."""
        self._failures += 1
        if self._failures >= self._first:
            failures, self._failures = self._failures, 0
            attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
            raise ConnectionLost(
                f"The client could not reach {self._url} and gave up after {attempts}. {error}"
            ) from error
        await asyncio.sleep(error.retry_after + self._backoff.delay(self._failures))
