"""Requests to Locust's figures: one event each, with float milliseconds and the exception.

Firing an event costs 3.6 µs, most of it Locust's own listener, which counts it in `environment.stats`. As
long as that one listens alone, nobody could tell an event from its result, and the result is made directly:
the same counts in the same two `StatsEntry`s (tests compare them with what Locust's listener makes), with one
look at the clock, and for a pipeline all at once. With any further listener each request is fired, with
everything about it.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Any, Final

import locust.stats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from locust import User
    from locust.env import Environment

__all__ = ["Recorder"]

_statistics: Final[Any] = locust.stats

# Where the listener lives that a runner adds to count requests.
_LOCUSTS_OWN: Final = "locust.runners"


class Recorder:
    """Records the requests of one user."""

    __slots__ = ("_handlers", "_hook", "_locusts_own", "_stats", "_user")

    def __init__(self, environment: Environment, user: User | None = None) -> None:
        """Record in the figures of `environment`, with the context of `user`."""
        self._hook: Any = environment.events.request
        self._stats: Any = environment.stats
        self._user = user
        # Only looked at: where Locust has it no more, every request is fired.
        self._handlers: list[Callable[..., Any]] = getattr(self._hook, "_handlers", [])
        own = [each for each in self._handlers if getattr(each, "__module__", "") == _LOCUSTS_OWN]
        self._locusts_own = own[0] if len(own) == 1 else None

    def record(
        self,
        kind: str,
        name: str,
        milliseconds: float,
        size: int,
        exception: BaseException | None = None,
        response: object = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """Record one request.

        Args:
            kind: the row's type, as `LINE`.
            milliseconds: from the start of the request to its end, or to its failure.
            size: bytes of the answer.
        """
        handlers = self._handlers
        if exception is None and len(handlers) == 1 and handlers[0] is self._locusts_own:
            if not self._add(kind, name, ((milliseconds, 1),), 1, size):
                self._stats.log_request(kind, name, milliseconds, size)
            return
        own_context = self._user.context() if self._user is not None else {}
        self._hook.fire(
            request_type=kind,
            name=name,
            response_time=milliseconds,
            response_length=size,
            response=response,
            context={**own_context, **(context or {})},
            exception=exception,
            start_time=time() - milliseconds / 1000,
        )

    def record_many(
        self,
        kind: str,
        name: str,
        groups: Sequence[tuple[float, int]],
        size: int,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        """Record requests that all went well.

        Args:
            groups: milliseconds, ascending, and how many requests took them.
            size: bytes of all answers together.
        """
        count = sum(number for _, number in groups)
        if not count:
            return
        handlers = self._handlers
        if not (len(handlers) == 1 and handlers[0] is self._locusts_own):
            own_context = self._user.context() if self._user is not None else {}
            merged = {**own_context, **(context or {})}
            now = time()
            share, rest = divmod(size, count)
            for milliseconds, number in groups:
                for _ in range(number):
                    self._hook.fire(
                        request_type=kind,
                        name=name,
                        response_time=milliseconds,
                        response_length=share + rest,
                        response=None,
                        context=merged,
                        exception=None,
                        start_time=now - milliseconds / 1000,
                    )
                    rest = 0
            return
        if self._add(kind, name, groups, count, size):
            return
        (milliseconds, number), *others = groups
        share = size // count
        self._stats.log_request(kind, name, milliseconds, share)
        left = [(milliseconds, number - 1), *others] if number > 1 else others
        self.record_many(kind, name, left, size - share, context)

    def _add(self, kind: str, name: str, groups: Sequence[tuple[float, int]], count: int, size: int) -> bool:
        """Count successes as Locust's listener does.

        Returns:
            False, and nothing is counted, if this is the first request of a row or of a second: then
            Locust does more, and is to count one itself.
        """
        now = time()
        second = int(now)
        stats = self._stats
        entry, total = stats.entries.get((name, kind)), stats.total
        if entry is None or (entry.last_request_timestamp or 0) < second:
            return False
        bucket_of = _statistics.bucket_response_time  # looked up: it is there to be replaced
        for milliseconds, number in groups:
            bucket = bucket_of(milliseconds)
            entry.response_times[bucket] += number
            total.response_times[bucket] += number
            entry.total_response_time += milliseconds * number
            total.total_response_time += milliseconds * number
        fastest, slowest = groups[0][0], groups[-1][0]
        for each in (entry, total):
            each.num_requests += count
            each.num_reqs_per_sec[second] += count
            each.last_request_timestamp = now
            each.total_content_length += size
            if each.min_response_time is None or fastest < each.min_response_time:
                each.min_response_time = fastest
            if slowest > each.max_response_time:
                each.max_response_time = slowest
        return True
