"""Counts of whole numbers in buckets narrower than 0.1 %, as HdrHistogram keeps them.

Locust rounds response times to whole milliseconds below 100 ms and to two digits above, so it shows a server
that answers in 0.3 ms as 0. This keeps three digits at any size, in a few KiB however many values come.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

# Of each value so many leading bits count: buckets are 1/1024 to 1/2048 as wide as their values.
_BITS = 11


class Histogram:
    """Values, integers of at least 0 in any unit; their exact number, sum, least and most are kept too."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.least = 0
        self.most = 0
        self._buckets: dict[int, int] = {}  # its lowest value: how many

    def record(self, value: int) -> None:
        if value < 0:
            raise ValueError(f"expected a value of at least 0, got {value}")
        shift = max(0, value.bit_length() - _BITS)
        bucket = value >> shift << shift
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.least = min(self.least, value) if self.count else value
        self.most = max(self.most, value)
        self.count += 1
        self.total += value

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Give the value that `percent` of all are not above (nearest rank), 0.1 % off at most; 0 of none."""
        rank = max(1, -int(-self.count * percent // 100))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                width = 1 << max(0, bucket.bit_length() - _BITS)
                middle = bucket + (width - 1) / 2
                return min(max(middle, self.least), self.most)
        return 0.0

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Self:
        merged = cls()
        for one in histograms:
            if one.count:
                merged.least = min(merged.least, one.least) if merged.count else one.least
                merged.most = max(merged.most, one.most)
            merged.count += one.count
            merged.total += one.total
            for bucket, count in one._buckets.items():
                merged._buckets[bucket] = merged._buckets.get(bucket, 0) + count
        return merged

    def as_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "total": self.total,
            "least": self.least,
            "most": self.most,
            "buckets": sorted(self._buckets.items()),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        histogram = cls()
        histogram.count, histogram.total = data["count"], data["total"]
        histogram.least, histogram.most = data["least"], data["most"]
        histogram._buckets = {int(bucket): int(count) for bucket, count in data["buckets"]}
        return histogram
