"""Open loop: requests that come when they are due, whether or not the server keeps up.

A user of Locust sends its next request when it has the last answer. A server that stops for a second so keeps
its users from asking: each of them counts one slow answer, and the requests that real clients would have sent
meanwhile are never made (coordinated omission). Here requests are due at given moments, and the response time
counts from that moment on:

    class Client(LineUser):
        wait_time = arrival_rate(10)    # tasks a second, for each user

or, for all users of all processes together, `--gnet-rate 5000` (gnet.locust.pacing), which takes the place of
every `wait_time` of gnet's users.

When users cannot keep up, because the server is slow or there are too few of them, what is due is not
forgotten: a user that comes back late starts its next task at once, and again, until it is back in its
schedule. These requests count from when they were due, so that the time in the queue is in their response
times. How many started late, and how many were still due when the test ended, is in the figures.

A task is an arrival. Its first request counts from when it was due, the others from when they are sent. Of an
idle user a start up to `SLACK_SECONDS` late is taken as on time: timers of the system count whole
milliseconds, and that is not the server's fault.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import gevent
from locust.runners import MasterRunner, WorkerRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.env import Environment

__all__ = ["SLACK_SECONDS", "Arrivals", "arrival_rate", "attach", "await_first"]

SLACK_SECONDS: Final = 0.002
"""An idle user that starts no later than this is on time: libev rounds timers up to whole milliseconds."""

_REPORT: Final = "gnet_arrivals"  # the key in what workers report

_MARK: Final = "_gnet_arrival_rate"


class Arrivals:
    """Counts how many tasks started when they were due, in one process; on a master in all of them."""

    _all: Final[WeakKeyDictionary[Any, Arrivals]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.schedules: WeakKeyDictionary[Any, _Schedule] = WeakKeyDictionary()  # of users and task sets
        self.pacer: Any = None  # gnet.locust.pacing.Pacer, while --gnet-rate holds
        self._frozen: int | None = None  # the backlog when the test stopped
        self._backlogs: dict[str, int] = {}  # by worker
        self._started = 0
        self._late = 0
        self._most_late = 0.0  # seconds

    @classmethod
    def of(cls, environment: Environment) -> Arrivals:
        """Give the counts of an environment."""
        arrivals = cls._all.get(environment)
        if arrivals is None:
            arrivals = cls._all[environment] = cls()
        return arrivals

    def install(self, environment: Environment) -> None:
        """Count anew with each test, and on a master what workers report."""
        hooks: Any = environment.events
        runner = environment.runner
        hooks.test_start.add_listener(self._clear)
        hooks.reset_stats.add_listener(self._clear_counts)
        # The counts end before users are stopped: those that are stopped start nothing more.
        hooks.test_stopping.add_listener(self._freeze)
        if environment.reset_stats:
            hooks.spawning_complete.add_listener(self._clear_counts)
        if isinstance(runner, WorkerRunner):
            hooks.report_to_master.add_listener(self._report)
        elif isinstance(runner, MasterRunner):
            hooks.worker_report.add_listener(self._add_report)

    def note(self, late_seconds: float) -> None:
        """Count a task that starts, so long after it was due."""
        self._started += 1
        if late_seconds > SLACK_SECONDS:
            self._late += 1
            self._most_late = max(self._most_late, late_seconds)

    def backlog(self) -> int:
        """Give how many tasks are due now and have not started."""
        if self._frozen is not None:
            return self._frozen
        now = time.perf_counter()
        count = sum(schedule.backlog(now) for schedule in self.schedules.values())
        if self.pacer is not None:
            count += self.pacer.backlog(now)
        return count + sum(self._backlogs.values())

    def summary(self) -> dict[str, Any] | None:
        """Give the counts for people; `None` where no user has an arrival rate."""
        backlog = self.backlog()
        if not self._started and not backlog:
            return None
        return {
            "started": self._started,
            "late": self._late,
            "most_late_ms": 1000 * self._most_late,
            "backlog": backlog,
        }

    def _clear(self, **_: Any) -> None:
        self._frozen = None
        self._backlogs = {}
        self._clear_counts()

    def _clear_counts(self, **_: Any) -> None:
        self._started = 0
        self._late = 0
        self._most_late = 0.0

    def _freeze(self, **_: Any) -> None:
        if self.schedules or self.pacer is not None:  # not so on a master: what its workers say changes yet
            self._frozen = self.backlog()

    def _report(self, data: dict[str, Any], **_: Any) -> None:
        data[_REPORT] = [self._started, self._late, self._most_late, self.backlog()]
        self._clear_counts()

    def _add_report(self, client_id: str, data: dict[str, Any], **_: Any) -> None:
        if _REPORT in data:
            started, late, most_late, self._backlogs[client_id] = data[_REPORT]
            self._started += started
            self._late += late
            self._most_late = max(self._most_late, most_late)


class _Schedule:
    """When the tasks of one user are due: at even distances."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # Users are spawned many at a time: without chance here all would ask at the same moments.
        self._due = time.perf_counter() - random.random() * seconds

    def take(self) -> float:
        """Give when the next task is due, and go on to the one after it."""
        self._due += self._seconds
        return self._due

    def backlog(self, now: float) -> int:
        return max(0, int((now - self._due) / self._seconds))


def arrival_rate(per_second: float) -> Callable[[Any], float]:
    """Give a `wait_time` with which each user starts so many tasks a second, open loop.

    Args:
        per_second: tasks a second of each user, at even distances; above 0.
    Raises:
        ValueError: the rate is not above 0.

    Like Locust's `constant_throughput`, which forgets what it could not do in time. A user has one task at a
    time: it keeps up if tasks take less than `1 / per_second` on average. With users of gnet the first
    task waits for its place in the schedule too; with others it starts at once.
    """
    if not 0 < per_second < float("inf"):
        raise ValueError(f"arrival_rate: expected tasks a second, above 0, got {per_second!r}")
    seconds = 1 / per_second

    def wait_time(user_or_tasks: Any) -> float:
        user = getattr(user_or_tasks, "user", user_or_tasks)
        arrivals = Arrivals.of(user.environment)
        schedule = arrivals.schedules.get(user_or_tasks)
        if schedule is None:
            schedule = arrivals.schedules[user_or_tasks] = _Schedule(seconds)
        due = schedule.take()
        seconds_left = due - time.perf_counter()
        if seconds_left > 0:
            # Here, not in the caller: what is counted has started, and not been stopped in its sleep.
            gevent.sleep(seconds_left)
            user.intended_start = due + SLACK_SECONDS
        else:
            user.intended_start = due
        arrivals.note(time.perf_counter() - due)
        return 0.0

    setattr(wait_time, _MARK, per_second)
    return wait_time


def attach(user: Any) -> None:
    """Have a new user of gnet wait for the arrivals of `--gnet-rate`, if that was given."""
    pacer = Arrivals.of(user.environment).pacer
    if pacer is not None:
        user.wait_time = pacer.wait_of(user)


def await_first(user: Any) -> None:
    """Wait until the first task of a user is due; return at once if it has no arrival rate."""
    pacer = Arrivals.of(user.environment).pacer
    if pacer is not None:
        pacer.await_first(user)
    elif hasattr(type(user).wait_time, _MARK):
        user.wait_time()
