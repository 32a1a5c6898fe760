"""The log in memory: the fastest one, gone with its process. Bounded by events, bytes and retention."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice

from msgspec import Struct

from twinwire.log.backpressure import EXCESS_BYTES
from twinwire.log.base import Cursor, Limits, Owner, Page, Quota, RunInfo, RunState, RunSummary, Unsubscribe
from twinwire.log.control import LocalControl
from twinwire.log.quotas import Quotas
from twinwire.log.tail import Tail
from twinwire.log.tails import Tails
from twinwire.protocol.errors import IdempotencyMismatch, RunNotFound
from twinwire.protocol.events import Record, outcome


class _Entry(Struct, gc=False):
    info: RunInfo
    tail: Tail
    key: tuple[str | None, str] | None
    outcome: bytes = b""


class MemoryLog(LocalControl, Tails):
    """See `Store`.

    The limit on bytes, of events and labels, holds give or take one append, and what followers have yet to read
    (`EXCESS_BYTES`); if no ended run is left, the oldest events of the run that appends go. Ended runs have a limit of
    their own, since small ones take more memory than their events' bytes.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(limits)
        self._max_events = limits.max_events
        self._max_bytes = limits.max_bytes
        self._max_ended = limits.max_ended
        self._retention = limits.retention
        self._clock = clock
        self._runs: dict[str, _Entry] = {}
        self._keys: dict[tuple[str | None, str], str] = {}
        self._users: dict[str, dict[str, None]] = {}  # the runs of each named user, in the order of their starts
        self._ended: dict[str, float] = {}  # when each ended run is forgotten, oldest end first
        self._quotas = Quotas(self._goes_on, waiting=self._waiting)
        self.size = 0

    async def open(self, owner: Owner) -> None:
        """See `Store`; there is nothing to recover."""
        self._owner = owner

    async def close(self) -> None:
        pass

    async def create(self, run: RunInfo, *, idempotency_key: str | None, quota: Quota | None = None) -> RunInfo:
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
        self._runs[run.run_id] = _Entry(run, Tail(), key)
        self.size += run.weight
        if run.user_id is not None:
            self._users.setdefault(run.user_id, {})[run.run_id] = None
        return run

    def append(self, run_id: str, expected_last: int, records: Sequence[Record]) -> None:
        """See `EventLog`; done when it returns."""
        entry = self._entry(run_id)
        tail = entry.tail
        self.size += tail.append(expected_last, records)
        if records[-1].last and run_id not in self._ended:
            self._ended[run_id] = self._clock() + self._retention
            entry.outcome = outcome(records[-1].body)
        if self.size > self._max_bytes or len(self._ended) > self._max_ended:
            self._evict(run_id)
        if self.size > self._max_bytes or records[-1].seq - tail.first >= self._max_events:
            self._bound(run_id, tail)

    async def find(self, user_id: str | None, idempotency_key: str) -> RunInfo | None:
        self._expire()
        run_id = self._keys.get((user_id, idempotency_key))
        return None if run_id is None else self._runs[run_id].info

    async def recent(self, user_id: str, limit: int) -> Sequence[str]:
        self._expire()
        return list(islice(reversed(self._users.get(user_id, {})), limit))

    async def state(self, run_id: str, user_id: str | None = None) -> RunState:
        entry = self._entry(run_id, user_id)
        return RunState(entry.info, entry.tail.first, entry.tail.last, entry.tail.terminal, entry.tail.size)

    async def summary(self, run_id: str, user_id: str | None = None) -> RunSummary:
        entry = self._entry(run_id, user_id)
        return RunSummary(entry.info, entry.tail.first, entry.tail.last, entry.outcome)

    async def page(self, run_id: str, after: int, limit: int) -> Page:
        """See `EventLog`; never suspends."""
        tail = self._entry(run_id).tail
        if tail.backpressure is not None:
            self._reached(run_id, tail, after)
        return tail.page(after, limit)

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
        due = tail.excess(self._max_events, max(self._max_bytes - (self.size - tail.size), 0))
        if patient and due > self._slowest(run_id, tail):
            self._wait(run_id, tail, due)
        else:
            self.size -= tail.trim(due)

    def _trim(self, run_id: str, upto: int) -> None:
        if (tail := self._tail(run_id)) is None:
            return
        if upto < tail.last:
            self.size -= tail.trim(upto)
            self._bound(run_id, tail)
        else:
            self._evict("")

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
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now:
            self._drop(oldest)

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
        if entry.key is not None:
            del self._keys[entry.key]
        if (user_id := entry.info.user_id) is not None:
            del self._users[user_id][run_id]
            if not self._users[user_id]:
                del self._users[user_id]
        self.size -= entry.tail.size + entry.info.weight
