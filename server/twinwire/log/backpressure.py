"""The backpressure of followers: for a bounded time a log does not trim what they have yet to read. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping

TICK_SECONDS = 0.05
STALL_SECONDS = 1.0
"""A follower that reads nothing for so long is waited for no longer."""

WAIT_SECONDS = 10.0
"""The most seconds that one run waits in all, not counting those in which its slowest follower reads.

Time is counted in ticks of `TICK_SECONDS`: what holds the event loop up holds the followers up as well.
"""

EXCESS_BYTES = 2**24
"""The most bytes over its bound that a log keeps for followers. Over it, it trims at once."""

NOBODY = 2**62
"""The cursor of nobody: no event is kept for them."""


class Backpressure:
    """The followers of one run that its log waits for.

    `due` is the number up to which the log is to trim the run; 0 if it waits for nobody. While it waits, `look` is to
    be called if a follower has left. `ticks` is set while a timer is to call `tick`. A cursor is that of a follower, or
    of the slowest one on another worker.
    """

    __slots__ = ("_lost", "_seen", "_slowest", "_waited", "due", "look", "ticks")

    def __init__(self) -> None:
        self.due = 0
        self.look: Callable[[], object] | None = None
        self.ticks = False
        self._lost = 0  # who is before this number has lost events already
        self._waited = 0.0  # seconds in which the slowest has read nothing
        self._slowest = -1  # where it was at the last tick
        self._seen: dict[object, tuple[int, int]] = {}  # where each was, and for how many ticks it has been there

    @property
    def waits(self) -> bool:
        """Return whether the run may wait any longer, now or later."""
        return self._waited < WAIT_SECONDS

    def slowest(self, cursors: Mapping[object, int]) -> int:
        """Return the lowest cursor of those that are waited for, or `NOBODY`."""
        if not self.waits:
            return NOBODY
        patience = STALL_SECONDS / TICK_SECONDS
        return min(
            (
                cursor
                for key, cursor in cursors.items()
                if cursor >= self._lost and (key not in self._seen or self._seen[key][1] < patience)
            ),
            default=NOBODY,
        )

    def tick(self, cursors: Mapping[object, int]) -> None:
        """Count the time since the last tick for those that have read nothing."""
        seen = {}
        for key, cursor in cursors.items():
            before, ticks = self._seen.get(key, (-1, 0))
            seen[key] = cursor, ticks + 1 if before == cursor < self.due else 0
        self._seen = seen
        slowest = self.slowest(cursors)
        if slowest <= self._slowest:
            self._waited += TICK_SECONDS
        self._slowest = slowest

    def end(self) -> int:
        """Wait no longer. Return the number up to which the log trims the run now."""
        due, self.due = self.due, 0
        self.look = None  # it and the run's tail hold each other
        self._lost = due
        self._slowest = -1
        self._seen = {}
        return due
