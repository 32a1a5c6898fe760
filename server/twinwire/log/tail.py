"""The newest records of one run, in memory and in order, and the sinks and subscribers that hear of more. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from twinwire.log.base import Page, Sink, Unsubscribe
from twinwire.protocol.errors import CursorGone, StaleWriter
from twinwire.protocol.events import Record

PAGE_BYTES = 32 * 1024


def fitting(records: list[Record]) -> list[Record]:
    """Return the first of these records, which have `PAGE_BYTES` bytes at most, but one record at least."""
    if len(records) > 1:
        sizes = list(accumulate([len(record.body) for record in records]))
        if sizes[-1] > PAGE_BYTES:
            return records[: max(1, bisect_right(sizes, PAGE_BYTES))]
    return records


class Tail:
    """Records `first`..`last` of one run."""

    __slots__ = ("_records", "_sinks", "_subscribers", "first", "size")

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._sinks: dict[Sink, Sink] = {}
        self.first = 1
        self.size = 0  # bytes of the records' bodies

    @property
    def last(self) -> int:
        """Return the number of the newest event; 0 if there was none."""
        return self.first + len(self._records) - 1

    @property
    def ended(self) -> bool:
        """Return whether the terminal event is here."""
        return bool(self._records) and self._records[-1].last

    @property
    def followed(self) -> bool:
        """Return whether there are sinks or subscribers."""
        return bool(self._subscribers or self._sinks)

    def append(self, expected_last: int, records: Sequence[Record]) -> int:
        """Add records, give them to the sinks and wake the subscribers. Return the number of bytes added.

        Before the terminal event, or more than `PAGE_BYTES`, the sinks lag: they never get those. Raise `StaleWriter`.
        """
        kept = self._records
        if expected_last != self.first + len(kept) - 1 or (kept and kept[-1].last):
            if self._has(records):
                return 0
            raise StaleWriter(expected_last, self.last)
        added = 0
        for record in records:
            added += len(record.body)
        if self._sinks and (added > PAGE_BYTES or records[-1].last):
            self._settle()
        kept.extend(records)
        self.size += added
        if self._sinks:
            for sink in tuple(self._sinks):
                sink.push(records)
        if self._subscribers:
            self._wake()
        return added

    def _settle(self) -> None:
        """Have all sinks lag."""
        sinks, self._sinks = self._sinks, {}
        for sink in sinks:
            sink.lag()

    def join(self, after: int, sink: Sink) -> Sink | None:
        if after != self.last or self.ended:
            return None
        return self._sinks.setdefault(sink, sink)

    def leave(self, sink: Sink) -> None:
        self._sinks.pop(sink, None)

    @property
    def terminal(self) -> Record | None:
        """Return the terminal event, once it is here."""
        return self._records[-1] if self.ended else None

    def _has(self, records: Sequence[Record]) -> bool:
        start = records[0].seq - self.first
        return start >= 0 and [r.body for r in self._records[start : start + len(records)]] == [r.body for r in records]

    def page(self, after: int, limit: int) -> Page:
        """See `EventLog.page`."""
        last = self.last
        if not self.first - 1 <= after <= last:
            raise CursorGone(self.first, last)
        start = after + 1 - self.first
        return Page(fitting(self._records[start : start + limit]), self.first, last, self.ended)

    def subscribe(self, wake: Callable[[], None]) -> Unsubscribe:
        """Have `wake` called after each append."""
        key = object()
        self._subscribers[key] = wake

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def wake(self) -> None:
        """Let everybody look again: the sinks lag, and the subscribers are woken."""
        self._settle()
        self._wake()

    def _wake(self) -> None:
        for wake in tuple(self._subscribers.values()):
            wake()

    def restart(self, first: int, records: Sequence[Record] = ()) -> None:
        """Hold these records instead, which begin with number `first`. The subscribers stay, and are not woken."""
        self._settle()
        self._records[:] = records
        self.first = first
        self.size = sum([len(record.body) for record in records])

    def trim(self, max_events: int, max_bytes: int) -> int:
        """Drop the oldest records until an eighth below the bounds. Return the number of bytes dropped.

        An eighth, so that a run at its bound does not move its whole list for each event. The last record stays.
        """
        if len(self._records) <= max_events and self.size <= max_bytes:
            return 0
        excess_events = max(0, len(self._records) - max_events * 7 // 8)
        excess_bytes = max(0, self.size - max_bytes * 7 // 8)
        dropped, count = 0, 0
        while count < len(self._records) - 1 and (count < excess_events or dropped < excess_bytes):
            dropped += len(self._records[count].body)
            count += 1
        del self._records[:count]
        self.first += count
        self.size -= dropped
        return dropped


class Tails(ABC):
    """The part of an `EventLog` that the tails of its runs answer."""

    @abstractmethod
    def _tail(self, run_id: str) -> Tail | None:
        """Return the tail of a run, or None if this process holds none."""

    def newest(self, run_id: str) -> int | None:
        return None if (tail := self._tail(run_id)) is None else tail.last

    def join(self, run_id: str, after: int, sink: Sink) -> Sink | None:
        return None if (tail := self._tail(run_id)) is None else tail.join(after, sink)

    def leave(self, run_id: str, sink: Sink) -> None:
        if (tail := self._tail(run_id)) is not None:
            tail.leave(sink)
