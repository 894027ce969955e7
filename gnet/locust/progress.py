"""A line about the test under way, after each of the tables that Locust prints: times with three digits."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import gevent
import locust.stats
from locust.runners import WorkerRunner

from gnet.locust.figures import milliseconds

if TYPE_CHECKING:
    from locust.env import Environment

__all__ = ["install", "progress_line"]

_console = logging.getLogger("locust.stats_logger")  # where Locust's tables go


def install(environment: Environment) -> None:
    """Print such lines during an environment's tests, where Locust prints its tables."""
    options: Any = environment.parsed_options
    wanted = getattr(options, "headless", False) or getattr(options, "print_stats", False)
    if not wanted or options.only_summary or isinstance(environment.runner, WorkerRunner):
        return
    printer: gevent.Greenlet[..., None] | None = None

    def start(**_: Any) -> None:
        nonlocal printer
        stop()
        printer = gevent.spawn(_print, environment)

    def stop(**_: Any) -> None:
        if printer is not None:
            printer.kill(block=False)

    hooks: Any = environment.events
    hooks.test_start.add_listener(start)
    hooks.test_stopping.add_listener(stop)


def progress_line(environment: Environment) -> str:
    """Give how many requests there were, and how long those of the last ten seconds took."""
    total = environment.stats.total
    runner: Any = environment.runner
    median, p99 = (
        milliseconds(
            total.get_current_response_time_percentile(part) or total.get_response_time_percentile(part)
        )
        for part in (0.5, 0.99)
    )
    per_second = total.current_rps or total.total_rps  # the former lags by some seconds
    return (
        f"gnet: {time.time() - total.start_time:.0f} s, {runner.user_count} users, "
        f"{total.num_requests} requests, {total.num_failures} failed, {per_second:.0f}/s; "
        f"50% in {median} ms, 99% in {p99} ms (last 10 s); at most {milliseconds(total.max_response_time)} ms"
    )


def _print(environment: Environment) -> None:
    while True:
        gevent.sleep(locust.stats.CONSOLE_STATS_INTERVAL_SEC)
        if environment.stats.total.num_requests:
            _console.info(progress_line(environment))
            _console.info("")
