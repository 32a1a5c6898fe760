"""Webhooks: each run's end is sent to the URLs that the operator names, signed, and again until it was received.

As the Standard Webhooks specification has it. A delivery lives in this process's memory: it is made at least once while
the process lives, within `PATIENCE_SECONDS`, and what it has not delivered goes with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from twinwire import __version__
from twinwire.protocol.errors import SettingsError
from twinwire.protocol.events import dump, timestamp
from twinwire.protocol.webhooks import webhook_headers, webhook_key
from twinwire.runs.endings import EndedRun

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("twinwire.webhooks")

TRY_SECONDS = 15.0
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
"""The pause after the first failure, which doubles with each, and the longest one. Of each, half is random."""
PATIENCE_SECONDS = 3600.0
AT_ONCE = 8
WAITING = 1000
WAITING_BYTES = 2**24
"""The most deliveries to one URL that are under way or wait, and their bytes."""
RESULT_BYTES = 2**16
"""A longer result, as JSON, is left out."""
GONE = 410


class Failure(Struct, frozen=True):
    """Why an attempt failed. The receiver may say `after` how many seconds to come back, or that it wants no more."""

    text: str
    after: float = 0.0
    final: bool = False


class Delivery(Struct, frozen=True):
    """A webhook: its id, which is the same at each attempt, and its body."""

    id: str
    body: bytes


class Webhooks:
    """The receivers of all ends, at these URLs; each webhook is signed with each of the `keys`."""

    def __init__(self, urls: Sequence[str], keys: Sequence[bytes]) -> None:
        self._receivers = [Receiver(url, keys) for url in urls]

    def send(self, run: EndedRun) -> None:
        """Deliver this, soon. Never raise."""
        delivery = Delivery(f"run-ended-{run.run_id}", payload(run))
        for receiver in self._receivers:
            receiver.send(delivery)

    async def drain(self, seconds: float) -> None:
        """Try what waits once more, at once, within this time. What is left is lost, and a log line says so."""
        await asyncio.gather(*(receiver.drain(seconds) for receiver in self._receivers))


def open_webhooks(urls: Sequence[str], secrets: Sequence[str]) -> Webhooks | None:
    """Return what sends webhooks to these URLs, signed with each secret; None without a URL.

    Raise `SettingsError` without a secret, and `ValueError` for what is no URL.
    """
    if not urls:
        return None
    if not secrets:
        raise SettingsError(
            "`--webhook` requires the variable `TWINWIRE_WEBHOOK_SECRET`, which webhooks are signed with.",
            field="--webhook",
        )
    if not all(urlsplit(url).scheme in {"http", "https"} and urlsplit(url).hostname for url in urls):
        raise ValueError("`webhooks` must be URLs such as https://host/path.")
    return Webhooks(urls, [webhook_key(secret) for secret in secrets])


def payload(run: EndedRun) -> bytes:
    """Return the body of a run's webhook."""
    result = dump(run.result)
    data = {name: value for name, value in msgspec.structs.asdict(run).items() if value is not None}
    if len(result) > RESULT_BYTES:
        del data["result"]
        data["result_bytes"] = len(result)
    return dump({"type": "run.ended", "timestamp": timestamp(), "data": data})


class Receiver:
    """One URL, and what is on its way there."""

    def __init__(self, url: str, keys: Sequence[bytes]) -> None:
        self._url = url
        self._name = urlsplit(url).hostname or ""  # a URL may have a secret in its path or its query
        self._keys = keys
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._hurry = asyncio.Event()
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._size = 0
        self._failing = False
        self._http: httpx.AsyncClient | None = None

    def send(self, delivery: Delivery) -> None:
        """Begin a delivery, unless too many are under way."""
        if self._closed:
            logger.error("The webhook %s is lost: the server has ended.", delivery.id)
            return
        if len(self._tasks) >= WAITING or self._size + len(delivery.body) > WAITING_BYTES:
            logger.error("The webhook %s is lost: too many are on their way to %s.", delivery.id, self._name)
            return
        self._size += len(delivery.body)
        task = asyncio.get_running_loop().create_task(self._deliver(delivery), name=delivery.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            failure = await self._insist(delivery)
        except asyncio.CancelledError:
            failure = Failure("The server ends.")
        finally:
            self._size -= len(delivery.body)
        if failure is not None:
            logger.error("The webhook %s was lost on its way to %s. %s", delivery.id, self._name, failure.text)

    async def _insist(self, delivery: Delivery) -> Failure | None:
        """Try until it is received, for `PATIENCE_SECONDS`. Return the last failure, or None."""
        due = time.monotonic() + PATIENCE_SECONDS
        pause = FIRST_SECONDS
        while True:
            last = self._hurry.is_set()
            async with self._slots:
                failure = await self._try(delivery)
            self._tell(failure)
            if failure is None or failure.final or last:
                return failure
            wait = max(pause * random.uniform(0.5, 1.0), failure.after)
            pause = min(2 * pause, LONGEST_SECONDS)
            if time.monotonic() + wait > due:
                return failure
            try:
                async with asyncio.timeout(wait):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    def _tell(self, failure: Failure | None) -> None:
        """Log once when a receiver fails, and once when it is there again."""
        if failure is not None and not self._failing:
            logger.warning("The receiver of webhooks at %s has failed. %s", self._name, failure.text)
        elif failure is None and self._failing:
            logger.warning("The receiver of webhooks at %s is there again.", self._name)
        self._failing = failure is not None

    async def _try(self, delivery: Delivery) -> Failure | None:
        import httpx

        if self._http is None:
            self._http = httpx.AsyncClient(timeout=TRY_SECONDS, follow_redirects=False)
        headers = {
            "content-type": "application/json",
            "user-agent": f"twinwire/{__version__}",
            **webhook_headers(self._keys, delivery.id, int(time.time()), delivery.body),
        }
        asked: dict[str, Any] = {"content": delivery.body, "headers": headers}
        try:
            async with asyncio.timeout(TRY_SECONDS), self._http.stream("POST", self._url, **asked) as answer:
                if answer.is_success:
                    return None
                after = _seconds(answer.headers.get("retry-after", ""))
                return Failure(f"It answered {answer.status_code}.", after, final=answer.status_code == GONE)
        except TimeoutError:
            return Failure(f"It did not answer within {TRY_SECONDS:g} s.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Failure(f"The connection has failed ({type(error).__name__}).")

    async def drain(self, seconds: float) -> None:
        """See `Webhooks`."""
        self._hurry.set()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        self._closed = True
        if self._http is not None:
            await self._http.aclose()
            self._http = None


def _seconds(field: str) -> float:
    """Return the seconds that a `Retry-After` names, as a number or a date (RFC 9110, section 10.2.3); else 0."""
    if field.isascii() and field.isdigit():
        return float(field)
    try:
        return max(0.0, (parsedate_to_datetime(field) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
