"""The appends of many runs as one: what they tell within a millisecond, or while the connection is busy, is one call.

A fast path: it takes what is appended most, and leaves all else to `APPEND`, which does the same for one run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from twinwire.log.base import Limits
from twinwire.log.pace import Pace
from twinwire.log.redis.link import Link, WrongType
from twinwire.log.redis.reader import Held
from twinwire.log.redis.scripts import APPEND_ALL
from twinwire.protocol.errors import LogUnavailable
from twinwire.protocol.events import Record

MOST_RUNS = 128  # in one call, which holds Redis up for two milliseconds
MOST_BYTES = 2**18


class _Append(Struct, eq=False):
    """Records for a run of this worker, none of which ends it. `done` is done when Redis has them."""

    run_id: str
    held: Held
    expected_last: int
    records: Sequence[Record]
    done: asyncio.Future[None]


class _Batch:
    """Appends that go out as one, with the script's keys and arguments. `sent` says that the connection has them."""

    __slots__ = ("appends", "arguments", "keys", "sent", "size")

    def __init__(self) -> None:
        self.appends: list[_Append] = []
        self.keys: list[str | bytes] = []
        self.arguments: list[Any] = []
        self.size = 0
        self.sent = False


class Appends:
    """Joins the appends of this worker's runs.

    `kept(run_id, held, records, first)` is called when Redis has one; the run's oldest event is number `first`. What
    Redis did not take is for `alone(run_id, expected_last, records)`, which finds out what is the matter, or trims the
    run.
    """

    def __init__(
        self,
        link: Link,
        limits: Limits,
        *,
        kept: Callable[[str, Held, Sequence[Record], int], None],
        alone: Callable[[str, int, Sequence[Record]], Coroutine[Any, Any, None]],
    ) -> None:
        self._link = link
        self._bounds = {"max_events": limits.max_events, "max_bytes": limits.max_bytes}
        self._kept = kept
        self._alone = alone
        self._open: _Batch | None = None
        self._pace = Pace(self.send)

    def append(
        self, key: str, run_id: str, held: Held, expected_last: int, records: Sequence[Record]
    ) -> asyncio.Future[None]:
        """Append to the run with this key. The future has `LogUnavailable`, or the error of `alone`, if that fails."""
        batch = self._open
        if batch is None:
            batch = self._open = _Batch()
            self._pace.ask()
        arguments = batch.arguments
        batch.keys += (key, held.name)
        arguments += (expected_last, len(records))
        for record in records:
            arguments += (record.type, record.body, record.start, record.stop)
            batch.size += len(record.body)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch.appends.append(_Append(run_id, held, expected_last, records, done))
        if len(batch.appends) == MOST_RUNS or batch.size >= MOST_BYTES:
            self.send()
            self._open = None
        return done

    def send(self) -> None:
        """Let the open batch go out. It grows until the connection takes it."""
        batch = self._open
        if batch is None or batch.sent:
            return
        batch.sent = True

        def command() -> tuple[Any, ...]:
            self._close(batch)
            self._pace.sent()
            return APPEND_ALL(*batch.keys, rest=batch.arguments, **self._bounds)

        def replied(reply: asyncio.Future[list[int]]) -> None:
            self._close(batch)
            self._tell(batch, reply)

        self._link.call_later(command).add_done_callback(replied)

    def _close(self, batch: _Batch) -> None:
        """Let nothing more come to a batch."""
        if self._open is batch:
            self._open = None

    def _tell(self, batch: _Batch, reply: asyncio.Future[list[int]]) -> None:
        """Pass the reply on to those who wait for a part of it."""
        failure = LogUnavailable() if reply.cancelled() else reply.exception()
        if isinstance(failure, WrongType):  # whose key it is, `alone` finds out
            failure, firsts = None, [0] * len(batch.appends)
        elif failure is None:
            firsts = reply.result()
        for at, append in enumerate(batch.appends):
            done = append.done
            if done.done():
                continue
            if failure is not None:
                done.set_exception(failure)
            elif not firsts[at]:
                task = asyncio.ensure_future(self._alone(append.run_id, append.expected_last, append.records))
                task.add_done_callback(partial(_pass, done))
            else:
                try:
                    self._kept(append.run_id, append.held, append.records, firsts[at])
                except Exception as error:  # noqa: BLE001 - the others go on
                    done.set_exception(error)
                else:
                    done.set_result(None)


def _pass(done: asyncio.Future[None], task: asyncio.Task[None]) -> None:
    """Pass a task's outcome on."""
    if done.done():
        return
    failure = LogUnavailable() if task.cancelled() else task.exception()
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)
