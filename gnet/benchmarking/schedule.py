"""When the requests of an open loop are due: pure numbers."""

from __future__ import annotations

import math

__all__ = ["Schedule"]

# Of a period: what sums of floating-point numbers may be off.
_TOLERANCE = 1e-9


class Schedule:
    """Requests at equal distances, numbered from 0; times are nanoseconds since the start."""

    def __init__(self, rate: float, offset: float = 0.0) -> None:
        """Prepare.

        Args:
            rate: requests per second.
            offset: when the first one is due, in periods.
        """
        self._period = 1e9 / rate
        self._offset = offset

    def moment(self, number: int) -> int:
        """Give when a request is due."""
        return math.ceil((number + self._offset) * self._period)

    def due(self, now: int) -> int:
        """Give how many are due by then; that of `moment(n)` is more than `n`."""
        return max(0, math.floor(now / self._period - self._offset + _TOLERANCE) + 1)

    def due_before(self, seconds: float) -> int:
        """Give how many are due in so many seconds; one that would be due right at their end is not."""
        return max(0, math.ceil(seconds * 1e9 / self._period - self._offset - _TOLERANCE))
