"""The metrics of one process, counted as they arise: plain numbers, written by one event loop and read by a scrape.

`web.health.Collected` shows them: Prometheus' own objects take a lock at each call. A number that a scrape can look up,
such as that of the runs that go on, is not here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS = (0, 1, 10, 100, 1000, 10_000, 100_000)
TOKENS = frozenset({"LLM_CHUNK", "THINKING"})
"""Types of events that are something the model said."""


class Histogram:
    """A histogram: the number of values up to each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Each bound, the last one `+Inf`, and how many values are not above it."""
        return zip((*map(str, self._bounds), "+Inf"), accumulate(self._counts), strict=True)


class Metrics:
    """The metrics of one process. Times are seconds.

    `first_token` is from a run's start to the first thing the model says, `token_gap` (a sample) between two appends of
    what it says with nothing else in between, `append` what an append takes that is not done at once, `cancelled` from
    the first cancel of a run to its terminal event in the log. `cursors` counts what became of each wish to follow a
    run from a cursor, and the gaps told to who followed already; `refused` what clients were refused, by code.
    """

    def __init__(self) -> None:
        self.first_token = Histogram()
        self.token_gap = Histogram()
        self.append = Histogram()
        self.cancelled = Histogram()
        self.cursors: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
