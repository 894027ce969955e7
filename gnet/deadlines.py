"""Timeouts as users give them, and one deadline for everything a call does.

A *timeout* is a length: milliseconds (`int` or `float`) or a `timedelta`; -1 means no limit. A
*deadline* is the moment when it is over. The timer behind a deadline is a `gevent.Timeout`, armed
by the first wait: a `gevent.Timeout` costs some 3 µs, a read from the buffer a tenth of one.

libev's timers run on the monotonic clock, and each start first brings the loop's idea of "now" up
to date, so neither a jump of the wall clock nor a long computation before the call moves a deadline.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import gevent

from gnet.errors import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NO_DEADLINE", "NO_LIMIT", "Deadline", "Timeout", "deadline", "to_milliseconds"]

Timeout = int | float | timedelta | None
"""Milliseconds, or a `timedelta`; -1: no limit; `None`: the socket's own, or no limit."""

NO_LIMIT: Final = -1

# Longer than this (31 years) is no limit: libev adds the length to the time of day in a double.
_LONGEST: Final = 1e12


def to_milliseconds(timeout: object) -> float:
    """Check a timeout and give it in milliseconds; -1 for no limit (also for `None`).

    Raises:
        TypeError: not a number, a `timedelta` or `None`.
        ValueError: NaN, or negative and not -1.
    """
    if timeout is None:
        return NO_LIMIT
    if isinstance(timeout, timedelta):
        milliseconds: float = timeout / timedelta(milliseconds=1)
        if milliseconds < 0:  # a timedelta has no sentinel: -1 ms is a mistake
            raise ValueError(f"timeout: expected a timedelta of at least 0, got {timeout!r}")
    elif isinstance(timeout, (int, float)) and not isinstance(timeout, bool):
        milliseconds = timeout
        # Written so that NaN, for which every comparison is false, does not pass.
        if not (milliseconds >= 0 or milliseconds == NO_LIMIT):
            raise ValueError(f"timeout: expected milliseconds from 0, or -1 for no limit, got {timeout!r}")
    else:
        raise TypeError(
            f"timeout: expected milliseconds (a number), a timedelta or None, got {type(timeout).__name__}"
        )
    return milliseconds if milliseconds < _LONGEST else NO_LIMIT


class Deadline:
    """The deadline of one call, armed by its first wait.

    Use: `arm()` before each wait; around them, `except gevent.Timeout as expired` with `owns` to
    tell this deadline's end from somebody else's; `close()` at the end, whatever happened.
    """

    __slots__ = ("_timer", "milliseconds")

    def __init__(self, milliseconds: float) -> None:
        self.milliseconds = milliseconds
        """The length, checked by `to_milliseconds`; -1: no limit."""
        self._timer: gevent.Timeout | None = None

    def arm(self) -> None:
        """Start the timer, if there is a limit and it is not running yet."""
        if self._timer is None and self.milliseconds != NO_LIMIT:
            self._timer = gevent.Timeout(self.milliseconds / 1000)
            self._timer.start()

    def owns(self, expired: BaseException) -> bool:
        """Whether `expired` is the end of this deadline, and not of a `gevent.Timeout` elsewhere."""
        return expired is self._timer

    def close(self) -> None:
        """Stop the timer. Nothing of this deadline will be raised any more."""
        timer = self._timer
        if timer is not None:
            # Not kept: an expired one has a traceback, whose frames hold this deadline.
            self._timer = None
            timer.close()

    def error(self, operation: str, *, bytes_sent: int = 0) -> TimeoutError:
        """Give the user's error: `operation` was not done in time."""
        return TimeoutError(
            f"{operation}: not done within {self.milliseconds:g} ms",
            bytes_sent=bytes_sent,
        )


NO_DEADLINE: Final = Deadline(NO_LIMIT)
"""A deadline that never is; shared, as it has no state."""


@contextmanager
def deadline(timeout: Timeout) -> Iterator[None]:
    """Bound a whole block: a context manager that ends it with `gnet.TimeoutError` when time is over.

    Whatever waits inside is ended, calls of gnet or not, and what gnet's calls had received stays
    readable. A block that computes and never waits is not cut. Blocks nest and the shortest wins;
    the end of an outer one passes through the inner ones and through `except Exception` in them,
    for inside the blocks it is still a `gevent.Timeout`, a `BaseException`.

    Args:
        timeout: milliseconds, or a `timedelta`; -1 or `None`: no limit; 0: the first wait ends it.
    Raises:
        TimeoutError: on leaving the block, if this deadline ended it.
        ValueError, TypeError: at once, if `timeout` is none.
    """
    limit = Deadline(to_milliseconds(timeout))
    limit.arm()
    try:
        yield
    except gevent.Timeout as expired:
        if not limit.owns(expired):
            raise
        raise limit.error("deadline block") from None
    finally:
        limit.close()
