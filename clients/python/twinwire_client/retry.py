"""When to try again, and when to give up."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

from twinwire_client.errors import ConnectionLost

logger = logging.getLogger("twinwire_client")

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


@contextmanager
def fenced(name: str) -> Iterator[None]:
    """Log what a function of the program's own raises: it harms nothing but itself."""
    try:
        yield
    except Exception:
        logger.exception("The client's `%s` function failed.", name)


class Broken(Exception):
    """Something that another attempt may mend. It never leaves this package.

    `code`, `status` and `retry_after` are those of a `ConnectionLost`, `said` is what the server said of it. If the
    server has never been reached, this is no network's fault after `hope` seconds in a row, and waiting mends nothing.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float | None = None,
        code: str | None = None,
        status: int | None = None,
        said: str | None = None,
        hope: float = math.inf,
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.code = code
        self.status = status
        self.said = said
        self.hope = hope


class Muted(Broken):
    """A stream on which nothing came at all: what is between may hold it back."""


class Retry(NamedTuple):
    """A failure, after which the client tries again; times are in seconds.

    `attempt` is the number of failures in a row, `wait` the time until the next attempt. `code`, `status` and
    `retry_after` are those of a `ConnectionLost`. `reason` tells the failure to people, `said` is the server's own
    message, if there is one.
    """

    attempt: int
    code: str | None
    status: int | None
    retry_after: float | None
    wait: float
    reason: str
    said: str | None


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

    `first` is the number of attempts at a server that was never reached; all of them are made only if the client
    `insists`. The server's own Retry-After is waited for up to `wait` seconds.
    """

    attempts: int | None = None
    first: int | None = 10
    seconds: float = 300.0
    wait: float = 60.0
    insists: bool = False


class Retries:
    """Whatever all attempts of one client have in common: they are made to reach one server."""

    def __init__(
        self,
        url: str,
        backoff: Backoff = Backoff(),  # noqa: B008 - immutable
        patience: Patience = Patience(),  # noqa: B008 - immutable
        on_retry: Callable[[Retry], object] | None = None,
    ) -> None:
        self.url = url
        self.backoff = backoff
        self.patience = patience
        self.reached = False
        self.closed = asyncio.Event()
        self._on_retry = on_retry

    def tell(self, retry: Retry) -> None:
        """Tell the program what went wrong."""
        logger.info("An attempt to reach %s failed, the next is made in %.1f s. %s", self.url, retry.wait, retry.reason)
        if self._on_retry is not None:
            with fenced("on_retry"):
                self._on_retry(retry)

    async def sleep(self, seconds: float) -> None:
        """Wait. Raise `RuntimeError` as soon as the client is closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closed.wait()
        self.check()

    def check(self) -> None:
        """Raise `RuntimeError` if the client is closed."""
        if self.closed.is_set():
            raise RuntimeError("The client is closed.")


class Attempts:
    """Failures in a row, of one thing."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._failures = 0
        self._since = 0.0

    def worked(self) -> None:
        """Be as patient from now on as with what has worked once, in all that this client does."""
        self._retries.reached = True

    def succeeded(self, lasted: float | None = None) -> None:
        """Start counting anew; if it `lasted` only so many seconds, if that is longer than any wait between."""
        if lasted is None or lasted > self._retries.backoff.cap:
            self._failures = 0
            self.worked()

    async def failed(self, error: Broken) -> None:
        """Count a failure and wait. Raises `ConnectionLost` if it was one too many, or waiting is no use."""
        retries, patience = self._retries, self._retries.patience
        retries.check()
        now = asyncio.get_running_loop().time()
        if self._failures == 0:
            self._since = now
        self._failures += 1
        lasted, asked = now - self._since, error.retry_after or 0.0
        wait = asked + retries.backoff.delay(self._failures)
        limit = patience.attempts if retries.reached else patience.first
        hopeless = not retries.reached and lasted + wait >= error.hope and (error.hope == 0 or not patience.insists)
        too_long = asked > patience.wait
        if too_long or hopeless or lasted >= patience.seconds or (limit is not None and self._failures >= limit):
            failures, self._failures = self._failures, 0
            attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
            reason = (
                f"{error} It asks to wait for {asked:g} s, longer than `max_wait` allows." if too_long else str(error)
            )
            raise ConnectionLost(
                f"The client could not reach {retries.url} and gave up after {attempts}. {reason}",
                code=error.code,
                status=error.status,
                retry_after=error.retry_after,
                attempts=failures,
            ) from error
        retries.tell(Retry(self._failures, error.code, error.status, error.retry_after, wait, str(error), error.said))
        await retries.sleep(wait)
