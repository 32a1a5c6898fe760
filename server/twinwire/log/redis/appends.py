"""The appends of many runs as one: what they tell while the connection is busy goes to Redis as one script call.

A fast path: it takes what is appended most, and leaves all else to `APPEND`, which does the same for one run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from twinwire.log.redis.link import Link, WrongType
from twinwire.log.redis.scripts import APPEND_ALL
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import Record

MOST_RUNS = 128  # in one call, which holds Redis up for two milliseconds
MOST_BYTES = 2**18


class _Batch:
    """The appends that are to go out as one: the script's keys and arguments, and who waits for each number."""

    __slots__ = ("arguments", "keys", "numbers", "size")

    def __init__(self) -> None:
        self.keys: list[str | bytes] = []
        self.arguments: list[Any] = []
        self.numbers: list[asyncio.Future[int]] = []
        self.size = 0


class Appends:
    """Joins the appends of this worker's runs, each of which may have `max_events` events and `max_bytes` bytes."""

    def __init__(self, link: Link, max_events: int, max_bytes: int) -> None:
        self._link = link
        self._bounds = {"max_events": max_events, "max_bytes": max_bytes}
        self._open: _Batch | None = None

    def append(self, run: str, events: bytes, expected_last: int, records: Sequence[Record]) -> asyncio.Future[int]:
        """Append to a run, of which these are the keys, records that do not end it.

        Return the number of the first event that is kept, or 0: then `APPEND` has to find out what is the matter, or to
        trim the run. Raises `LogUnavailable`.
        """
        batch = self._open or self._begin()
        batch.keys += (run, events)
        arguments = batch.arguments
        arguments += (expected_last, len(records))
        for record in records:
            arguments += (record.type, record.body, record.start, record.stop)
            batch.size += len(record.body)
        number: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        batch.numbers.append(number)
        if len(batch.numbers) == MOST_RUNS or batch.size >= MOST_BYTES:
            self._open = None
        return number

    def _begin(self) -> _Batch:
        """Return a new batch, which grows until the connection takes it."""
        batch = self._open = _Batch()

        def command() -> tuple[Any, ...]:
            self._close(batch)
            return APPEND_ALL(*batch.keys, rest=batch.arguments, **self._bounds)

        def replied(reply: asyncio.Future[list[int]]) -> None:
            self._close(batch)
            _tell(batch.numbers, reply)

        self._link.call_later(command).add_done_callback(replied)
        return batch

    def _close(self, batch: _Batch) -> None:
        """Let nothing more come to a batch."""
        if self._open is batch:
            self._open = None


def _tell(numbers: Sequence[asyncio.Future[int]], reply: asyncio.Future[list[int]]) -> None:
    """Pass the reply on to those who wait for a number of it."""
    failure = LogUnavailable() if reply.cancelled() else reply.exception()
    if isinstance(failure, WrongType):  # whose key it is, `APPEND` finds out
        failure, found = None, [0] * len(numbers)
    elif failure is None:
        found = reply.result()
    for at, number in enumerate(numbers):
        if number.done():
            continue
        if failure is not None:
            number.set_exception(failure)
        else:
            number.set_result(found[at])
