"""`--gnet-rate`: so many tasks a second start in the whole test, shared among its processes and users.

There is one schedule in each process that runs users, and whoever of them is idle takes the next task that is
due. When all are busy, the tasks that are due wait, and each user that becomes idle takes the oldest: the
queue that a server with slow answers has in front of it. The more users, the longer the rate can be kept.

While Locust spawns users the rate grows with them, up to the one asked for when all are there. A master tells
its workers their shares, by how many users of gnet each of them has, and again when that changes. Users of
other packages in the same test keep their own wait times and have no part in this.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final, cast

import gevent
from gevent.event import AsyncResult, Event
from locust.runners import MasterRunner, WorkerRunner

from gnet.locust.arrival import SLACK_SECONDS, Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from locust.env import Environment

__all__ = ["Pacer", "add_arguments", "install", "shares"]

_log = logging.getLogger(__name__)

_RATE: Final = "gnet_rate"  # the message with a worker's share

_ADAPT_SECONDS: Final = 0.2  # how often the shares are looked at
_REPEAT_SECONDS: Final = 1.0  # how often workers are told even so: one may have connected just now


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--gnet-rate`, which is in the form of the web UI too."""
    options: dict[str, Any] = {"env_var": "LOCUST_GNET_RATE"}  # an extension of Locust's parser
    parser.add_argument(
        "--gnet-rate",
        type=_rate,
        metavar="N",
        help="Start N tasks a second in the whole test, open loop: response times count from when a task was "
        "due. In place of the wait times of gnet's users.",
        **options,
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"expected tasks a second, above 0, got {text!r}")
    return rate


def install(environment: Environment) -> None:
    """Keep the rate in the tests of an environment, if its options have one when a test starts."""
    runner = environment.runner
    hooks: Any = environment.events
    if not isinstance(runner, MasterRunner):
        hooks.test_start.add_listener(lambda **_: _start_pacer(environment))
        hooks.test_stopping.add_listener(lambda **_: _stop_pacer(environment))
    if isinstance(runner, WorkerRunner):

        def take_share(msg: Any, **_: Any) -> None:
            pacer = Arrivals.of(environment).pacer
            if pacer is not None:
                pacer.set_rate(msg.data["per_second"])

        runner.register_message(_RATE, take_share)
    else:
        sharing = _Sharing(environment)
        hooks.test_start.add_listener(sharing.start)
        hooks.test_stopping.add_listener(sharing.stop)


def _asked(environment: Environment) -> float | None:
    """Give the rate that the command line or the form of the web UI asks for."""
    asked = getattr(environment.parsed_options, "gnet_rate", None)
    if not asked:
        return None
    try:
        return _rate(asked)
    except argparse.ArgumentTypeError as error:
        _log.error("--gnet-rate: %s; the wait times of the users hold", error)
        return None


def _start_pacer(environment: Environment) -> None:
    arrivals = Arrivals.of(environment)
    arrivals.pacer = None if _asked(environment) is None else Pacer(arrivals.note)


def _stop_pacer(environment: Environment) -> None:
    arrivals = Arrivals.of(environment)
    if arrivals.pacer is not None:
        arrivals.pacer.close()


# ---------------------------------------------------------------------- the schedule of a process


class Pacer:
    """The tasks that are due in one process, and the users that wait for them."""

    def __init__(self, note: Callable[[float], None]) -> None:
        """
        Args:
            note: told of each task that starts, how many seconds after it was due.
        """
        self._note = note
        self._step = 0.0  # seconds between two tasks; 0: none are due
        self._next = 0.0  # when the oldest task is due that has not started
        self._owed: deque[float] = deque()  # those before it, that were due at another rate
        self._idle: OrderedDict[AsyncResult[float], bool] = (
            OrderedDict()
        )  # whether it waits for its first task
        self._changed = Event()
        self._clock: gevent.Greenlet[..., None] | None = gevent.spawn(self._run)

    def set_rate(self, per_second: float) -> None:
        """Have so many tasks a second due from now on; what is due already stays so."""
        step = 1 / per_second if per_second > 0 else 0.0
        if step == self._step:
            return
        now = time.perf_counter()
        if not self._step:
            self._next = now
        while self._step and self._next <= now:
            self._owed.append(self._next)
            self._next += self._step
        # The wait that has begun goes on in proportion.
        if self._step and step:
            self._next = now + (self._next - now) * step / self._step
        self._step = step
        self._changed.set()

    def backlog(self, now: float) -> int:
        """Give how many tasks are due and have not started, for want of an idle user."""
        if self._idle:
            return 0
        due = int((now - self._next) / self._step) + 1 if self._step and self._next <= now else 0
        return due + len(self._owed)

    def close(self) -> None:
        """End the schedule: the test stops. Users that wait for their first task end; others, Locust ends."""
        self._step = 0.0  # the clock may have a turn yet before it is killed
        if self._clock is not None:
            self._clock.kill(block=False)
            self._clock = None
        for waiter, is_first in list(self._idle.items()):
            if is_first:
                waiter.set_exception(gevent.GreenletExit())

    def wait_of(self, user: Any) -> Callable[[], float]:
        """Give a `wait_time` for a user. It waits itself, as nobody knows yet how long, and then gives 0."""

        def wait_time() -> float:
            self._wait(user, is_first=False)
            return 0.0

        return wait_time

    def await_first(self, user: Any) -> None:
        """Wait until a task is due for a user that has just been spawned."""
        self._wait(user, is_first=True)

    def _wait(self, user: Any, *, is_first: bool) -> None:
        now = time.perf_counter()
        due = self._take(now)
        if due is not None:
            user.intended_start = due
            self._note(now - due)
            return
        if is_first and self._clock is None:
            raise gevent.GreenletExit  # spawned while the test stops
        waiter: AsyncResult[float] = AsyncResult()
        if not self._idle:
            self._changed.set()
        self._idle[waiter] = is_first
        try:
            due = cast("float", waiter.get())
        finally:
            self._idle.pop(waiter, None)
        user.intended_start = due + SLACK_SECONDS
        self._note(time.perf_counter() - due)

    def _take(self, now: float) -> float | None:
        """Give when the oldest task that is due was due, and count it as started; `None`: none is."""
        if self._clock is None or self._idle or not self._step:
            return None
        return self._oldest() if self._owed or self._next <= now else None

    def _oldest(self) -> float:
        if self._owed:
            return self._owed.popleft()
        due = self._next
        self._next += self._step
        return due

    def _run(self) -> None:
        """Hand the tasks to idle users as they become due; without such users, `_wait` takes them."""
        while True:
            self._changed.clear()
            now = time.perf_counter()
            while self._idle and self._step and (self._owed or self._next <= now):
                waiter, _ = self._idle.popitem(last=False)
                waiter.set(self._oldest())
            self._changed.wait(self._next - now if self._idle and self._step else None)


# ---------------------------------------------------------------------- the shares of the processes


def shares(rate: float, users: Mapping[str, int], ramp: float) -> dict[str, float]:
    """Share a rate among processes, by how many users of gnet each has.

    Args:
        rate: tasks a second when all users are there.
        users: how many users of gnet each process has now.
        ramp: which part of the test's users is there now, 0 to 1.
    """
    total = sum(users.values())
    return {name: rate * ramp * count / total if total else 0.0 for name, count in users.items()}


class _Sharing:
    """Looks how many users there are, in the master or the only process, and sets the rates."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self, **_: Any) -> None:
        self.stop()
        rate = _asked(self._environment)
        if rate is not None:
            self._greenlet = gevent.spawn(self._run, rate)

    def stop(self, **_: Any) -> None:
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
            self._greenlet = None

    def _run(self, rate: float) -> None:
        told: dict[str, float] = {}
        tell_all = time.monotonic()
        while True:
            now = shares(rate, self._users(), self._ramp())
            if time.monotonic() >= tell_all:
                told = {}
                tell_all = time.monotonic() + _REPEAT_SECONDS
            for name, share in now.items():
                if told.get(name) != share:
                    self._tell(name, share)
            told = now
            gevent.sleep(_ADAPT_SECONDS)

    def _users(self) -> dict[str, int]:
        """Count the users of gnet in each process: those whose requests can count from when they were due."""
        runner: Any = self._environment.runner
        if isinstance(runner, MasterRunner):
            nodes = {name: node.user_classes_count for name, node in runner.clients.items()}
        else:
            nodes = {"": runner.user_classes_count}
        ours = {user.__name__ for user in self._environment.user_classes if hasattr(user, "intended_start")}
        return {
            name: sum(count for user, count in counts.items() if user in ours)
            for name, counts in nodes.items()
        }

    def _ramp(self) -> float:
        runner: Any = self._environment.runner
        return min(1.0, runner.user_count / runner.target_user_count) if runner.target_user_count else 0.0

    def _tell(self, name: str, share: float) -> None:
        runner: Any = self._environment.runner
        if isinstance(runner, MasterRunner):
            runner.send_message(_RATE, {"per_second": share}, client_id=name)
            return
        pacer = Arrivals.of(self._environment).pacer
        if pacer is not None:
            pacer.set_rate(share)
