"""Open loop: when tasks are due, who gets them, and what becomes of those for which nobody is idle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import gevent
import pytest
from locust.env import Environment

from gnet.locust.arrival import SLACK_SECONDS, Arrivals, arrival_rate, attach, await_first
from gnet.locust.pacing import Pacer, shares

PATIENCE: Final = 20.0


class Someone:
    """What arrivals need of a user."""

    wait_time: Any = None

    def __init__(self, environment: Environment | None = None) -> None:
        self.environment = environment or Environment()
        self.intended_start: float | None = None

    @property
    def start(self) -> float:
        """When the task was due, that an idle user was given."""
        assert self.intended_start is not None
        return self.intended_start - SLACK_SECONDS


# Each user its own rate


def test_a_user_in_time_waits_for_its_next_task() -> None:
    user, wait_time = Someone(), arrival_rate(20)
    assert wait_time(user) == 0.0
    assert user.start - SLACK_SECONDS <= time.perf_counter()
    before = user.start
    wait_time(user)
    assert before + 0.05 - SLACK_SECONDS <= time.perf_counter()
    assert user.start == pytest.approx(before + 0.05, abs=2 * SLACK_SECONDS)


def test_tasks_are_due_at_even_distances() -> None:
    user, wait_time = Someone(), arrival_rate(50)
    starts = []
    for _ in range(4):
        wait_time(user)
        starts.append(user.start)
    distances = [after - before for before, after in pairwise(starts)]
    assert distances == pytest.approx([0.02] * 3, abs=2 * SLACK_SECONDS)


def test_a_user_that_is_late_catches_up_task_by_task() -> None:
    user, wait_time = Someone(), arrival_rate(1000)
    wait_time(user)
    first = user.start
    gevent.sleep(0.05)
    assert wait_time(user) == 0.0
    assert user.intended_start == pytest.approx(first + 0.001, abs=2 * SLACK_SECONDS)
    second = user.intended_start
    assert wait_time(user) == 0.0
    assert user.intended_start == pytest.approx(second + 0.001)


def test_what_is_late_is_counted() -> None:
    user, wait_time = Someone(), arrival_rate(1000)
    wait_time(user)
    gevent.sleep(0.05)
    wait_time(user)
    summary = Arrivals.of(user.environment).summary()
    assert summary is not None
    assert summary["started"] == 2
    assert summary["late"] >= 1
    assert summary["most_late_ms"] >= 40
    assert summary["backlog"] >= 40


def test_users_do_not_start_all_at_the_same_moment() -> None:
    users, wait_time = [Someone() for _ in range(10)], arrival_rate(10)
    gevent.joinall([gevent.spawn(wait_time, user) for user in users], timeout=PATIENCE, raise_error=True)
    assert len({user.start for user in users}) > 1
    assert max(user.start for user in users) - min(user.start for user in users) < 0.1 + 0.05


def test_a_user_that_is_stopped_while_it_waits_counts_no_task() -> None:
    user = Someone()
    greenlet = gevent.spawn(arrival_rate(0.001), user)
    gevent.sleep(0)
    greenlet.kill()
    assert Arrivals.of(user.environment).summary() is None


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_is_above_0(rate: float) -> None:
    with pytest.raises(ValueError, match="arrival_rate: expected tasks a second, above 0"):
        arrival_rate(rate)


def test_the_first_task_waits_too() -> None:
    class User(Someone):
        wait_time = arrival_rate(50)

    user = User()
    await_first(user)
    assert user.intended_start is not None
    assert time.perf_counter() >= user.start - SLACK_SECONDS


def test_a_user_without_a_rate_starts_at_once() -> None:
    user = Someone()
    attach(user)
    await_first(user)
    assert user.intended_start is None


# One rate for all


@pytest.fixture
def late() -> list[float]:
    """Gets how many seconds each task of the pacer started late."""
    return []


@pytest.fixture
def pacer(late: list[float]) -> Iterator[Pacer]:
    pacer = Pacer(late.append)
    yield pacer
    pacer.close()


def waiting(pacer: Pacer, count: int) -> list[tuple[Someone, gevent.Greenlet]]:
    """Give users that wait for a task of the pacer, in this order."""
    users = [Someone() for _ in range(count)]
    started = [(user, gevent.spawn(pacer.wait_of(user))) for user in users]
    gevent.sleep(0)
    return started


def test_idle_users_get_the_tasks_in_turn(pacer: Pacer, late: list[float]) -> None:
    users = waiting(pacer, 5)
    pacer.set_rate(200)
    gevent.joinall([greenlet for _, greenlet in users], timeout=PATIENCE, raise_error=True)
    starts = [user.start for user, _ in users]
    assert [after - before for before, after in pairwise(starts)] == pytest.approx([0.005] * 4)
    assert len(late) == 5


def test_without_an_idle_user_tasks_wait_and_keep_their_time(pacer: Pacer, late: list[float]) -> None:
    pacer.set_rate(1000)
    gevent.sleep(0.05)
    assert pacer.backlog(time.perf_counter()) >= 50
    user = Someone()
    starts = []
    for _ in range(3):
        pacer.wait_of(user)()
        starts.append(user.intended_start)
    assert [after - before for before, after in pairwise(starts)] == pytest.approx([0.001] * 2)  # type: ignore[operator]
    assert late[0] >= 0.05


def test_no_task_is_due_while_users_are_idle(pacer: Pacer) -> None:
    waiting(pacer, 1)
    pacer.set_rate(0.001)
    gevent.sleep(0.01)
    waiting(pacer, 1)
    assert pacer.backlog(time.perf_counter() + 10_000) == 0


def test_tasks_that_are_due_stay_so_at_another_rate(pacer: Pacer) -> None:
    pacer.set_rate(1000)
    gevent.sleep(0.05)
    before = pacer.backlog(time.perf_counter())
    pacer.set_rate(0.001)
    assert before <= pacer.backlog(time.perf_counter()) <= before + 1000
    after = pacer.backlog(time.perf_counter())
    gevent.sleep(0.02)
    assert pacer.backlog(time.perf_counter()) == after


def test_a_user_that_is_killed_takes_no_task_with_it(pacer: Pacer, late: list[float]) -> None:
    (_, killed), (user, greenlet) = waiting(pacer, 2)
    killed.kill()
    pacer.set_rate(100)
    greenlet.get(timeout=PATIENCE)
    assert len(late) == 1
    assert user.intended_start is not None


def test_users_that_have_not_begun_end_when_the_test_does(pacer: Pacer) -> None:
    greenlet = gevent.spawn(pacer.await_first, Someone())
    gevent.sleep(0)
    pacer.close()
    assert isinstance(greenlet.get(timeout=PATIENCE), gevent.GreenletExit)


def test_no_task_starts_once_the_test_stops(pacer: Pacer, late: list[float]) -> None:
    waiting(pacer, 3)
    pacer.set_rate(1000)
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass  # so that tasks are due, and the clock has had no turn: as when Locust's stop() is slow
    pacer.close()
    gevent.sleep(0.02)
    assert late == []


@pytest.mark.parametrize(
    ("users", "ramp", "expected"),
    [
        ({"a": 1, "b": 3}, 1.0, {"a": 25.0, "b": 75.0}),
        ({"a": 1, "b": 3}, 0.5, {"a": 12.5, "b": 37.5}),
        ({"a": 0, "b": 2}, 1.0, {"a": 0.0, "b": 100.0}),
        ({"a": 0}, 1.0, {"a": 0.0}),
        ({}, 1.0, {}),
    ],
)
def test_processes_share_the_rate_by_their_users(
    users: dict[str, int], ramp: float, expected: dict[str, float]
) -> None:
    assert shares(100, users, ramp) == expected
