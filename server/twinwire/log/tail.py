"""The newest records of one run, in memory and in order, and who wants to hear of more. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from time import monotonic
from typing import Protocol

from twinwire.formats import View
from twinwire.log.base import Page, Unsubscribe
from twinwire.protocol.errors import CursorGone, StaleWriter
from twinwire.protocol.events import Record

PAGE_BYTES = 64 * 1024


class Live(Protocol):
    """A follower that has seen all there is, on a connection that takes bytes at any time."""

    @property
    def view(self) -> View:
        """What it sees."""
        ...

    def frame(self, frames: Sequence[bytes]) -> bytes:
        """Put frames into bytes for the connection. The same for all followers with this view."""
        ...

    @property
    def push(self) -> Callable[[bytes], object]:
        """Write such bytes to the connection. May raise `RuntimeError` where that has gone."""
        ...

    def lag(self) -> None:
        """Subscribe, and call `Tail.leave`; what is `last` now is the last event it has seen."""
        ...


class Audience:
    """The live followers with one view. What is appended is framed once for all of them."""

    __slots__ = ("_members", "_pushes", "frame", "pushed_at", "view")

    def __init__(self, view: View, frame: Callable[[Sequence[bytes]], bytes]) -> None:
        self.view = view
        self.frame = frame
        self.pushed_at = 0.0  # the monotonic clock's time
        self._members: dict[Live, Callable[[bytes], object]] = {}
        self._pushes: tuple[Callable[[bytes], object], ...] | None = ()  # to each member; None: not put together yet

    @property
    def members(self) -> tuple[Live, ...]:
        """Who is live now."""
        return tuple(self._members)

    def add(self, follower: Live) -> None:
        """Write to this follower, too."""
        self._members[follower] = follower.push
        self._pushes = None

    def remove(self, follower: Live) -> bool:
        """Write to it no more; whether any are left."""
        del self._members[follower]
        self._pushes = None
        return bool(self._members)

    def push(self, records: Sequence[Record]) -> None:
        """Write to each member what it sees of the records."""
        frames = self.view.frames(records)
        if not frames:
            return
        data = self.frame(frames)
        self.pushed_at = monotonic()
        if self._pushes is None:
            self._pushes = tuple(self._members.values())
        for push in self._pushes:  # some may leave meanwhile
            try:  # noqa: SIM105 - a context manager would cost more than the rest
                push(data)
            except RuntimeError:
                pass  # the connection has gone, and its pump has yet to hear of it


class Tail:
    """Records `first`..`last` of one run."""

    __slots__ = ("_audiences", "_records", "_subscribers", "first", "size")

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._audiences: tuple[Audience, ...] = ()
        self.first = 1
        self.size = 0  # bytes of the records' bodies

    @property
    def last(self) -> int:
        """The number of the newest event; 0 where there was none."""
        return self.first + len(self._records) - 1

    @property
    def count(self) -> int:
        """Return how many records are here."""
        return len(self._records)

    @property
    def ended(self) -> bool:
        """Return whether the terminal event is here."""
        return bool(self._records) and self._records[-1].last

    @property
    def followed(self) -> bool:
        """Return whether anybody subscribes."""
        return bool(self._subscribers or self._audiences)

    def append(self, expected_last: int, records: Sequence[Record]) -> int:
        """Add records, write them to who is live and wake the others; the number of bytes added.

        The terminal event and more than a page are for nobody live to be written. Raises `StaleWriter`.
        """
        kept = self._records
        if expected_last != self.first + len(kept) - 1 or (kept and kept[-1].last):
            if self._has(records):
                return 0
            raise StaleWriter(expected_last, self.last)
        added = 0
        for record in records:
            added += len(record.body)
        if self._audiences and (added > PAGE_BYTES or records[-1].last):
            self._settle()
        kept.extend(records)
        self.size += added
        for audience in self._audiences:
            audience.push(records)
        if self._subscribers:
            self._wake()
        return added

    def _settle(self) -> None:
        """Let nobody be live."""
        for audience in self._audiences:
            for follower in audience.members:
                follower.lag()

    def join(self, follower: Live) -> Audience:
        """From now on write to this follower what is appended. It has seen all there is, and need not subscribe."""
        audience = self._audience(follower.view)
        if audience is None:
            audience = Audience(follower.view, follower.frame)
            self._audiences = (*self._audiences, audience)
        audience.add(follower)
        return audience

    def leave(self, follower: Live) -> None:
        """Write to it no more."""
        left = self._audience(follower.view)
        if left is not None and not left.remove(follower):
            self._audiences = tuple(audience for audience in self._audiences if audience is not left)

    def _audience(self, view: View) -> Audience | None:
        return next((audience for audience in self._audiences if audience.view is view), None)

    @property
    def terminal(self) -> Record | None:
        """The terminal event, once it is here."""
        return self._records[-1] if self.ended else None

    def _has(self, records: Sequence[Record]) -> bool:
        start = records[0].seq - self.first
        return start >= 0 and [r.body for r in self._records[start : start + len(records)]] == [r.body for r in records]

    def page(self, after: int, limit: int) -> Page:
        """At most `limit` records and `PAGE_BYTES` bytes (but one record at least) after `after`."""
        last = self.last
        if not self.first - 1 <= after <= last:
            raise CursorGone(self.first, last)
        start = after + 1 - self.first
        records = self._records[start : start + limit]
        if len(records) > 1:
            sizes = list(accumulate([len(record.body) for record in records]))
            if sizes[-1] > PAGE_BYTES:
                del records[max(1, bisect_right(sizes, PAGE_BYTES)) :]
        return Page(records, self.first, last, self.ended)

    def subscribe(self, wake: Callable[[], None]) -> Unsubscribe:
        """Have `wake` called after each append."""
        key = object()
        self._subscribers[key] = wake

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def wake(self) -> None:
        """Let everybody look again: nobody is live, and the subscribers are woken."""
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
        """Drop the oldest records until an eighth below the bounds; the number of bytes dropped.

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
