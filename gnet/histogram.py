"""Counts of whole numbers in buckets narrower than 0.1 %, as HdrHistogram keeps them. Private.

Three digits are kept at any size, in a few KiB however many values come: latencies in nanoseconds or
microseconds, for `python -m gnet bench` and for Locust (which itself rounds to whole milliseconds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Histogram"]

# Of each value so many leading bits count: buckets are 1/1024 to 1/2048 as wide as their values.
_BITS: Final = 11


class Histogram:
    """Values, integers of at least 0 in any unit; their exact number, sum, least and most are kept too."""

    __slots__ = ("_buckets", "count", "least", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.least = 0
        self.most = 0
        self._buckets: dict[int, int] = {}  # its lowest value: how many

    def record(self, value: int, times: int = 1) -> None:
        """Add a value, once or several times.

        Raises:
            ValueError: it is below 0; or it came less than once.
        """
        if value < 0:
            raise ValueError(f"expected a value of at least 0, got {value}")
        if times < 1:
            raise ValueError(f"expected a value that came at least once, got {times} times")
        shift = value.bit_length() - _BITS
        bucket = value >> shift << shift if shift > 0 else value
        buckets = self._buckets
        buckets[bucket] = buckets.get(bucket, 0) + times
        if value > self.most:
            self.most = value
        if value < self.least or not self.count:
            self.least = value
        self.count += times
        self.total += value * times

    @property
    def mean(self) -> float:
        """The mean of all values, exact; 0 of none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Give the value that `percent` of all are not above (nearest rank), 0.1 % off at most; 0 of none."""
        return self.percentiles([percent])[0]

    def percentiles(self, percents: Iterable[float]) -> list[float]:
        """Give several percentiles, in their order, for the price of one."""
        wanted = [max(1, -int(-self.count * percent // 100)) for percent in percents]
        found: dict[int, float] = {}
        seen = 0
        buckets = iter(sorted(self._buckets.items()))
        for rank in sorted(set(wanted)):
            while seen < rank and (entry := next(buckets, None)) is not None:
                bucket, times = entry
                seen += times
                middle = bucket + ((1 << max(0, bucket.bit_length() - _BITS)) - 1) / 2
                value = min(max(middle, self.least), self.most)
            found[rank] = value if seen else 0.0
        return [found[rank] for rank in wanted]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go through the buckets in their order: the lowest value of each, and how many came."""
        return iter(sorted(self._buckets.items()))

    def add(self, other: Histogram) -> None:
        """Add all values of another one."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.most = max(self.most, other.most)
        self.count += other.count
        self.total += other.total
        for bucket, times in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + times

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Self:
        """Give a new one with the values of all."""
        merged = cls()
        for one in histograms:
            merged.add(one)
        return merged

    def as_json(self) -> dict[str, Any]:
        """Give all of it as what JSON has; see `from_json`."""
        return {
            "count": self.count,
            "total": self.total,
            "least": self.least,
            "most": self.most,
            "buckets": sorted(self._buckets.items()),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Make one of what `as_json` gave."""
        histogram = cls()
        histogram.count, histogram.total = data["count"], data["total"]
        histogram.least, histogram.most = data["least"], data["most"]
        histogram._buckets = {int(bucket): int(times) for bucket, times in data["buckets"]}
        return histogram
