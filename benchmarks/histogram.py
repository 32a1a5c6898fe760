"""A log-linear histogram of times, as HdrHistogram's: fixed relative precision, any range, small, and it adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

SUB = 64
"""Buckets for each power of two: a value is known to 1/64 of itself. Values below are exact."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
ENOUGH = 10  # a quantile needs so many values beyond it to say anything


class Histogram:
    """Counts of whole numbers of nanoseconds; negative ones (two clocks' reading) count as 0."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    @staticmethod
    def bucket(value: int) -> int:
        """The bucket that a value is in."""
        if value < SUB:
            return max(value, 0)
        shift = value.bit_length() - SUB.bit_length()
        return shift * SUB + (value >> shift)

    @staticmethod
    def value(bucket: int) -> int:
        """The middle of a bucket."""
        if bucket < 2 * SUB:
            return bucket
        shift = bucket // SUB - 1
        return ((bucket - shift * SUB) << shift) + (1 << shift) // 2

    @classmethod
    def of(cls, values: Iterable[int]) -> Histogram:
        """The histogram of these values."""
        return cls(Counter(map(cls.bucket, values)))

    def add(self, other: Histogram) -> None:
        """Take in another one's counts."""
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        """How many values."""
        return self.counts.total()

    def quantile(self, rank: float) -> int:
        """The smallest value that this share of all values does not exceed; there is one value at least."""
        goal, seen, bucket = rank * self.total, 0, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= goal:
                break
        return self.value(bucket)

    def summary(self) -> dict[str, float]:
        """p50 to p99.9 in nanoseconds, those that enough values lie beyond, and the largest."""
        known = [(name, rank) for name, rank in QUANTILES.items() if (1 - rank) * self.total >= ENOUGH]
        found: dict[str, float] = {name: self.quantile(rank) for name, rank in known}
        if self.counts:
            found["max"] = self.quantile(1.0)
        return found

    def cdf(self) -> list[tuple[int, float]]:
        """Value and the share of values up to it, for each bucket that has any."""
        points, seen, total = [], 0, self.total
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            points.append((self.value(bucket), seen / total))
        return points

    def pairs(self) -> list[list[int]]:
        """`[bucket, count]` in order, for JSON."""
        return [[bucket, count] for bucket, count in sorted(self.counts.items())]

    @classmethod
    def from_pairs(cls, pairs: Iterable[Sequence[int]]) -> Histogram:
        """See `pairs`."""
        return cls({bucket: count for bucket, count in pairs})  # noqa: C416 - JSON has lists for pairs
