"""The order of the runs that a log in memory has, for lists of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container

from twinwire.log.base import SCANNED, Position


class Order:
    """The places of runs. `known` has the ids of those that are not gone.

    A place that is gone is passed over until half of all are: taking one out of a long list moves the list.
    """

    __slots__ = ("_gone", "_known", "_places")

    def __init__(self, known: Container[str]) -> None:
        self._known = known
        self._places: list[Position] = []
        self._gone = 0

    def __len__(self) -> int:
        return len(self._places) - self._gone

    def add(self, place: Position) -> None:
        """Add a run: mostly the newest."""
        insort(self._places, place)

    def gone(self) -> None:
        """One of the runs is known no more."""
        self._gone += 1
        if 2 * self._gone > len(self._places):
            self._places = [place for place in self._places if place[1] in self._known]
            self._gone = 0

    def before(self, end: Position | None, since: str) -> tuple[list[str], Position | None]:
        """Return the newest runs before `end`, created at `since` or later, and the place of the rest if there is more.

        At most `SCANNED` places are looked at.
        """
        last = len(self._places) if end is None else bisect_left(self._places, end)
        oldest = bisect_left(self._places, (since, ""))
        first = max(oldest, last - SCANNED)
        found = [run_id for _, run_id in reversed(self._places[first:last]) if run_id in self._known]
        return found, self._places[first] if first > oldest else None
