"""The timeout of one client's requests, on one timer that is not moved for each of them.

A request notes until when it may wait, and that is all: 0.2 µs, where a `gevent.Timeout` takes 2. The timer
fires when the oldest of those moments has come, finds that the request of then is long done, and is set to
the moment of the present one. So with a timeout of 5 s it fires once in 5 s.
"""

from __future__ import annotations

import sys
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import getcurrent

if TYPE_CHECKING:
    from greenlet import greenlet

__all__ = ["ExpiredError", "RequestTimeout"]

_NEVER: Final = inf


class ExpiredError(BaseException):
    """Thrown into whoever waits for an answer. Never leaves this package."""


class RequestTimeout:
    """One client's: `begin`, wait, `due = 0.0`."""

    __slots__ = ("_fires_at", "_hub", "_timer", "_waiter", "due")

    def __init__(self) -> None:
        self.due = 0.0
        """The moment (`perf_counter`) when the request under way has taken too long; 0.0: there is none."""
        self._hub: Any = gevent.get_hub()
        self._timer: Any = None
        self._fires_at = _NEVER
        self._waiter: greenlet | None = None

    def begin(self, started: float, seconds: float) -> None:
        """Have `ExpiredError` thrown into the current greenlet unless `due` is 0.0 again in time."""
        self._waiter = getcurrent()
        self.due = due = started + seconds
        if due < self._fires_at:
            self._set(due)

    def close(self) -> None:
        """Stop the timer. A later `begin` starts it again."""
        self.due = 0.0
        self._waiter = None
        self._fires_at = _NEVER
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._fires_at = due
        # Not counted as work of the loop: what waits for the answer is.
        self._timer = self._hub.loop.timer(max(0.0, due - perf_counter()), ref=False)
        self._timer.start(self._on_timer, update=True)

    def _on_timer(self) -> None:
        # In the hub: nothing here may wait or raise.
        self._fires_at = _NEVER
        due = self.due
        if not due:
            return  # between two requests: the next one starts the timer
        if due > perf_counter():
            if due < _NEVER:
                self._set(due)
            return
        waiter = self._waiter
        self.due = 0.0
        self._waiter = None
        if waiter is None:
            return
        try:
            # As gevent.Timeout does it: whoever waits is where it can be interrupted.
            waiter.throw(ExpiredError())
        except BaseException:  # it ended with that, and the hub was its parent
            self._hub.handle_error(waiter, *sys.exc_info())
