"""The log in memory: the fastest one, gone with its process. Bounded by events, bytes and retention."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import islice

from msgspec import Struct

from twinwire.log.backpressure import EXCESS_BYTES
from twinwire.log.base import (
    Cursor,
    Folded,
    Limits,
    Listing,
    Owner,
    Page,
    Position,
    Quota,
    RunInfo,
    RunState,
    RunSummary,
    Unsubscribe,
    Wanted,
    folded_of,
    listing,
)
from twinwire.log.control import LocalControl
from twinwire.log.order import Order
from twinwire.log.quotas import Quotas
from twinwire.log.tail import RECORD_BYTES, Tail
from twinwire.log.tails import Tails
from twinwire.protocol.errors import IdempotencyMismatch, RunNotFound
from twinwire.protocol.events import Record, dump, outcome, status_of

RUN_BYTES = 1024
"""Bytes that a run takes in memory beside its labels, its events, and what is kept of its end."""
SPARE = 100  # what the heap of those that are due may have beyond twice the runs that have ended


class _Entry(Struct, gc=False):
    info: RunInfo
    tail: Tail
    key: tuple[str | None, str] | None
    outcome: bytes = b""
    folded: bytes = b""  # of an ended run that was trimmed, or may be for its followers' sake

    @property
    def cost(self) -> int:
        """Return the bytes that all of the run takes in memory."""
        return RUN_BYTES + self.info.weight + self.tail.cost + len(self.outcome) + len(self.folded)


class MemoryLog(LocalControl, Tails):
    """See `Store`.

    The limit on bytes is on what the runs take in memory, objects too. It holds give or take one append, and what
    followers have yet to read (`EXCESS_BYTES`); if no ended run is left, the oldest events of the run that appends go.
    """

    outlives = False

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limits)
        self._max_events = limits.max_events
        self._max_bytes = limits.max_bytes
        self._max_ended = limits.max_ended
        self._retention = limits.retention
        self._clock = clock
        self._runs: dict[str, _Entry] = {}
        self._keys: dict[tuple[str | None, str], str] = {}
        self._all = Order(self._runs)
        self._users: dict[str, Order] = {}  # the runs of each named user
        self._ended: dict[str, float] = {}  # when each ended run is forgotten, oldest end first
        self._due: list[tuple[float, str]] = []  # a heap of the same; some of these are forgotten already
        self._quotas = Quotas(self._goes_on, waiting=self._waiting)
        self.size = 0

    async def open(self, owner: Owner) -> None:
        """See `Store`; there is nothing to recover."""
        self._owner = owner

    async def close(self) -> None:
        pass

    async def create(
        self,
        run: RunInfo,
        *,
        idempotency_key: str | None,
        quota: Quota | None = None,
        start: bytes = b"",  # noqa: ARG002 - the protocol's
    ) -> RunInfo:
        """See `EventLog`. The start is not kept: it would end with the process."""
        self._expire()
        key = None if idempotency_key is None else (run.user_id, idempotency_key)
        if key is not None and key in self._keys:
            known = self._runs[self._keys[key]].info
            if known.fingerprint != run.fingerprint:
                raise IdempotencyMismatch
            return known
        self._quotas.admit(run, quota)
        if key is not None:
            self._keys[key] = run.run_id
        self._runs[run.run_id] = entry = _Entry(run, Tail(), key)
        self.size += entry.cost
        self._all.add(place := (run.created, run.run_id))
        if run.user_id is not None:
            self._users.setdefault(run.user_id, Order(self._runs)).add(place)
        return run

    def append(
        self, run_id: str, expected_last: int, records: Sequence[Record], checkpoint: bytes | None = None
    ) -> None:
        """See `EventLog`; done when it returns. A checkpoint is not kept: it would end with the process."""
        entry = self._entry(run_id)
        tail = entry.tail
        if checkpoint is not None and not records:
            tail.check(expected_last)
            return
        if added := tail.append(expected_last, records):
            self.size += added + RECORD_BYTES * len(records)
        if records[-1].last and run_id not in self._ended:
            kept = entry.info.retention
            self._ended[run_id] = due = self._clock() + (self._retention if kept is None else kept)
            heappush(self._due, (due, run_id))
            entry.outcome = outcome(records[-1].body)
            self.size += len(entry.outcome)
        if self.size > self._max_bytes or len(self._ended) > self._max_ended:
            self._evict(run_id)
        if self.size > self._max_bytes or records[-1].seq - tail.first >= self._max_events:
            self._bound(run_id, tail)
        if records[-1].last and not entry.folded and (tail.first > 1 or tail.backpressure is not None):
            self._keep(run_id, entry)

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        self._expire()
        run_id = self._keys.get((user_id, idempotency_key))
        return None if run_id is None else self._runs[run_id].info

    async def listed(self, wanted: Wanted, limit: int, before: Position | None = None) -> Listing:
        self._expire()
        order = self._all if wanted.user_id is None else self._users.get(wanted.user_id)
        if order is None:
            return Listing((), None)
        run_ids, rest = order.before(wanted.end(before), wanted.created_after or "")
        entries = [self._runs[run_id] for run_id in run_ids]
        return listing([(entry.info, status_of(entry.outcome)) for entry in entries], wanted, limit, rest)

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        entry = self._entry(run_id, user_id)
        tail, info = entry.tail, entry.info
        return RunState(info, tail.first, tail.last, tail.terminal, tail.size, info.owner)

    async def summary(self, run_id: str, user_id: str | None = None) -> RunSummary:
        entry = self._entry(run_id, user_id)
        return RunSummary(entry.info, entry.tail.first, entry.tail.last, entry.outcome)

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """See `EventLog`; never suspends."""
        tail = self._entry(run_id).tail
        if tail.backpressure is not None:
            self._reached(run_id, tail, after)
        return tail.page(after, limit)

    async def delete(self, run_id: str) -> bool:
        tail = self._entry(run_id).tail
        if run_id not in self._ended:
            return False
        self._drop(run_id)
        tail.wake()
        return True

    async def forget(self, user_id: str) -> None:
        self._sessions.forget(user_id)
        self._quotas.forget(user_id)
        self._expire()
        order = self._users.get(user_id)
        rest: Position | None = None
        while order is not None:
            run_ids, rest = order.before(rest, "")
            for run_id in run_ids:
                with suppress(RunNotFound):  # its retention ends
                    await self.delete(run_id)
            if rest is None:
                break
            await asyncio.sleep(0)

    async def folded(self, run_id: str) -> Folded | None:
        kept = self._entry(run_id).folded
        return folded_of(kept) if kept else None

    async def ping(self) -> None:
        """See `EventLog`; it is always there."""

    def _tail(self, run_id: str) -> Tail | None:
        entry = self._runs.get(run_id)
        return None if entry is None else entry.tail

    def subscribe(self, run_id: str, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        entry = self._runs.get(run_id)
        return (lambda: None) if entry is None else entry.tail.subscribe(wake, cursor)

    def _bound(self, run_id: str, tail: Tail) -> None:
        """Trim a run to its bounds, or have its followers read what is to be trimmed."""
        patient = self.size <= self._max_bytes + EXCESS_BYTES
        if patient and tail.backpressure is not None and tail.backpressure.due:
            return
        due = tail.excess(self._max_events, max(self._max_bytes - (self.size - tail.cost), 0))
        if patient and due > self._slowest(run_id, tail):
            self._wait(run_id, tail, due)
        else:
            self._cut(tail, due)

    def _trim(self, run_id: str, upto: int) -> None:
        if (tail := self._tail(run_id)) is None:
            return
        if upto < tail.last:
            self._cut(tail, upto)
            self._bound(run_id, tail)
        else:
            self._evict("")

    def _cut(self, tail: Tail, upto: int) -> None:
        self.size -= tail.cost
        tail.trim(upto)
        self.size += tail.cost

    def _keep(self, run_id: str, entry: _Entry) -> None:
        """Keep the state of an ended run, unless it alone is too large."""
        folded = self._owner.folded(run_id)
        entry.folded = b"" if folded is None else dump(folded)
        self.size += len(entry.folded)
        if self.size > self._max_bytes:
            self._evict(run_id)
            if self.size > self._max_bytes:
                self.size -= len(entry.folded)
                entry.folded = b""

    def _goes_on(self, run_id: str) -> bool:
        return run_id in self._runs and run_id not in self._ended

    def _entry(self, run_id: str, user_id: str | None = None) -> _Entry:
        if run_id in self._ended:
            self._expire()
        entry = self._runs.get(run_id)
        if entry is None or user_id not in {None, entry.info.user_id}:
            raise RunNotFound
        return entry

    def _expire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, run_id = heappop(self._due)
            if run_id in self._ended:
                self._drop(run_id)

    def _evict(self, appending: str) -> None:
        """Forget ended runs until the log is within its bounds; those that are being read last."""
        spared = 0
        while self.size > self._max_bytes or len(self._ended) > self._max_ended:
            if (oldest := next(islice(self._ended, spared, None), appending)) == appending:
                break
            tail = self._runs[oldest].tail
            if self.size <= self._max_bytes + EXCESS_BYTES and self._slowest(oldest, tail) < tail.last:
                self._wait(oldest, tail, tail.last)
                spared += 1
            else:
                self._drop(oldest)

    def _drop(self, run_id: str) -> None:
        entry = self._runs.pop(run_id)
        del self._ended[run_id]
        if len(self._due) > 2 * len(self._ended) + SPARE:
            self._due = [(due, ended) for ended, due in self._ended.items()]
            heapify(self._due)
        if entry.key is not None:
            del self._keys[entry.key]
        self._all.gone()
        if (user_id := entry.info.user_id) is not None:
            self._users[user_id].gone()
            if not self._users[user_id]:
                del self._users[user_id]
        self.size -= entry.cost
