"""The metrics of one process, counted as they arise: plain numbers, written by one event loop and read by a scrape.

`web.health.Collected` shows them: Prometheus' own objects take a lock at each call. A number that a scrape can look up,
such as that of the runs that go on, is not here.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from twinwire.protocol.errors import TwinwireError
from twinwire.telemetry.refusals import Refusals
from twinwire.telemetry.shared import Slot

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
EVENTS = (0, 1, 10, 100, 1000, 10_000, 100_000)
TOKENS = frozenset({"LLM_CHUNK", "THINKING"})
"""Types of events that are something the model said."""
MAX_LABELS = 512
"""The most combinations of labels of one counter; what comes after them is counted as `other`."""
OTHER = "other"
USED = {"prompt_tokens": "prompt", "completion_tokens": "completion"}
"""The counts of a usage that are counted by agent, and their labels."""

_CODE = re.compile(r"[a-z0-9_]{1,64}")


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
    `started` counts runs by agent, `resumed` those of other processes that this one goes on with, `ended` by agent and
    status, `errors` by agent and error type, and `tokens` what runs have used, by agent and kind.

    `slot` is where one process of several shares its metrics with the others.
    """

    slot: Slot | None = None

    def __init__(self) -> None:
        self.first_token = Histogram()
        self.token_gap = Histogram()
        self.append = Histogram()
        self.cancelled = Histogram()
        self.cursors: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.started: Counter[tuple[str, ...]] = Counter()
        self.resumed: Counter[tuple[str, ...]] = Counter()
        self.ended: Counter[tuple[str, ...]] = Counter()
        self.errors: Counter[tuple[str, ...]] = Counter()
        self.tokens: Counter[tuple[str, ...]] = Counter()
        self._refusals = Refusals()

    def refuse(self, refusal: TwinwireError | str, **about: Any) -> None:
        """Count what a client is refused, an error or a code, and log it with what is known `about` it."""
        code = refusal if isinstance(refusal, str) else refusal.code
        self.refused[code] += 1
        self._refusals.log(code, refusal, about)

    def run_started(self, agent: str) -> None:
        """Count a run."""
        _count(self.started, agent)

    def run_resumed(self, agent: str) -> None:
        """Count a run that another process has begun."""
        _count(self.resumed, agent)

    def run_ended(self, agent: str, status: str, error_type: str | None, usage: Mapping[str, Any] | None) -> None:
        """Count a run that has ended. An agent may choose its error type: what is no code is `other`."""
        _count(self.ended, agent, status)
        if status == "error":
            _count(self.errors, agent, error_type if error_type and _CODE.fullmatch(error_type) else OTHER)
        for name, kind in USED.items():
            count = (usage or {}).get(name)
            if isinstance(count, int) and count > 0:
                _count(self.tokens, agent, kind, by=count)


def _count(counter: Counter[tuple[str, ...]], *labels: str, by: int = 1) -> None:
    known = labels in counter or len(counter) < MAX_LABELS
    counter[labels if known else (OTHER,) * len(labels)] += by
