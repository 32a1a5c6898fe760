"""The newest records of one run, in memory and in order, and the sinks and subscribers that hear of more. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from twinwire.log.backpressure import NOBODY, Backpressure
from twinwire.log.base import Cursor, Page, Sink, Unsubscribe
from twinwire.protocol.errors import CursorGone, StaleWriter
from twinwire.protocol.events import Record

PAGE_BYTES = 32 * 1024
RECORD_BYTES = 144
"""Bytes that a record takes in memory beside those of its body, as `benchmarks.memory` measures them.

They are its objects (itself, its body's head, its number), its place in the list, and what the allocator rounds up.
"""


def fitting(records: list[Record]) -> list[Record]:
    """Return the first of these records, which have `PAGE_BYTES` bytes at most, but one record at least."""
    if len(records) > 1:
        sizes = list(accumulate([len(record.body) for record in records]))
        if sizes[-1] > PAGE_BYTES:
            return records[: max(1, bisect_right(sizes, PAGE_BYTES))]
    return records


class Tail:
    """Records `first`..`last` of one run."""

    __slots__ = ("_records", "_sinks", "_subscribers", "backpressure", "first", "size")

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._subscribers: dict[object, tuple[Callable[[], None], Cursor | None]] = {}  # a follower has a cursor
        self._sinks: dict[Sink, Sink] = {}
        self.first = 1
        self.size = 0  # bytes of the records' bodies
        self.backpressure: Backpressure | None = None  # once followers have been waited for

    @property
    def last(self) -> int:
        """Return the number of the newest event; 0 if there was none."""
        return self.first + len(self._records) - 1

    @property
    def cost(self) -> int:
        """Return the bytes that the records take in memory."""
        return self.size + RECORD_BYTES * len(self._records)

    @property
    def ended(self) -> bool:
        """Return whether the terminal event is here."""
        return bool(self._records) and self._records[-1].last

    @property
    def followed(self) -> bool:
        """Return whether there are sinks or subscribers, or the log waits for followers on any worker."""
        return bool(self._subscribers or self._sinks or (self.backpressure is not None and self.backpressure.due))

    def append(self, expected_last: int, records: Sequence[Record]) -> int:
        """Add records, give them to the sinks and wake the subscribers.

        Return the bytes of their bodies, or 0 if they are here already. Before the terminal event, or more than
        `PAGE_BYTES`, the sinks lag: they never get those. Raise `StaleWriter`.
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

    def check(self, expected_last: int) -> None:
        """Raise `StaleWriter` unless this is the number of the newest event, after which there may be more."""
        if expected_last != self.last or self.ended:
            raise StaleWriter(expected_last, self.last)

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

    def subscribe(self, wake: Callable[[], None], cursor: Cursor | None = None) -> Unsubscribe:
        """Have `wake` called after each append; `cursor` is that of a follower."""
        key = object()
        self._subscribers[key] = wake, cursor

        def unsubscribe() -> None:
            _, left = self._subscribers.pop(key, (None, None))
            if not self._subscribers:
                self._subscribers.clear()  # an empty dict that had entries keeps 160 bytes for more
            backpressure = self.backpressure
            if left is not None and backpressure is not None and backpressure.look is not None:
                backpressure.look()

        return unsubscribe

    def wake(self) -> None:
        """Let everybody look again: the sinks lag, and the subscribers are woken."""
        self._settle()
        self._wake()

    def _wake(self) -> None:
        for wake, _ in tuple(self._subscribers.values()):
            wake()

    def restart(self, first: int, records: Sequence[Record] = ()) -> None:
        """Hold these records instead, which begin with number `first`. The subscribers stay, and are not woken."""
        self._settle()
        self._records[:] = records
        self.first = first
        self.size = sum([len(record.body) for record in records])

    @property
    def cursors(self) -> dict[object, int]:
        """Return the number of the last event that each follower has read; all sinks together are one."""
        cursors = {key: cursor() for key, (_, cursor) in self._subscribers.items() if cursor is not None}
        if self._sinks:
            cursors[Sink] = self.last
        return cursors

    def slowest(self, cursors: Mapping[object, int]) -> int:
        """Return the lowest of these cursors of followers, of those that are waited for, or `NOBODY`."""
        backpressure = self.backpressure
        return min(cursors.values(), default=NOBODY) if backpressure is None else backpressure.slowest(cursors)

    def excess(self, max_events: int, max_bytes: int) -> int:
        """Return the number up to which records are to be trimmed, or 0 if the tail is within its bounds.

        `max_bytes` are bytes in memory. What is left is an eighth below the bounds, so that a run at its bound does not
        move its whole list for each event. The last record stays.
        """
        count, cost = len(self._records), self.cost
        if count <= max_events and cost <= max_bytes:
            return 0
        index = max(0, count - max_events * 7 // 8)
        if cost > max_bytes:
            excess = cost - max_bytes * 7 // 8
            sizes = accumulate(len(record.body) + RECORD_BYTES for record in self._records)
            index = max(index, next((number for number, size in enumerate(sizes, 1) if size >= excess), count))
        return self.first - 1 + min(index, count - 1)

    def trim(self, upto: int) -> None:
        """Drop the records up to this number."""
        count = max(0, upto + 1 - self.first)
        self.size -= sum([len(record.body) for record in self._records[:count]])
        del self._records[:count]
        self.first += count
