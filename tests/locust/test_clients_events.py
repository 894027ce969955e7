"""Recorder: what is counted directly is what Locust's own listener would have counted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from locust.env import Environment
from locust.event import Events

from gnet.locust.events import Recorder

MOMENT = 1_700_000_000.0  # the start of a second


@contextmanager
def counting() -> Iterator[Environment]:
    """An environment with a runner, whose listener is the only one."""
    environment = Environment(events=Events())
    runner = environment.create_local_runner()
    try:
        yield environment
    finally:
        runner.quit()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day, for Locust and for gnet."""
    now = [MOMENT]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("gnet.locust.events.time", lambda: now[0])
    return now


def state_of(environment: Environment) -> list[Any]:
    """Give all that Locust has counted, its copies for the last seconds included."""
    entries: list[Any] = [environment.stats.total, *environment.stats.entries.values()]
    return [
        [entry.serialize() | {"start_time": 0, "total_response_time": 0}, entry.response_times_cache]
        for entry in entries
    ]


def fire_each(
    environment: Environment, kind: str, name: str, groups: list[tuple[float, int]], size: int
) -> None:
    for milliseconds, number in groups:
        for _ in range(number):
            hooks: Any = environment.events
            hooks.request.fire(
                request_type=kind,
                name=name,
                response_time=milliseconds,
                response_length=size,
                exception=None,
                context={},
            )


@pytest.mark.parametrize("seed", range(5))
def test_what_is_counted_directly_is_what_locusts_listener_counts(clock: list[float], seed: int) -> None:
    rng = random.Random(seed)
    with counting() as ours, counting() as theirs:
        recorder = Recorder(ours)
        for turn in range(300):
            clock[0] += rng.choice([0, 0, 0.001, 0.3, 1, 5])
            kind, name = rng.choice([("LINE", "a"), ("LINE", "b"), ("TLS", "a")])
            groups = sorted((rng.expovariate(0.1), rng.randint(1, 5)) for _ in range(rng.randint(1, 3)))
            size = rng.randint(0, 100)
            if rng.random() < 0.5:
                recorder.record(kind, name, groups[0][0], size)
                fire_each(theirs, kind, name, [(groups[0][0], 1)], size)
            else:
                count = sum(number for _, number in groups)
                recorder.record_many(kind, name, groups, count * size)
                fire_each(theirs, kind, name, groups, size)
            for environment in (ours, theirs):
                if turn == 100:
                    environment.stats.reset_all()
                if turn == 200:
                    environment.stats.clear_all()
        assert state_of(ours) == state_of(theirs)
        assert ours.stats.total.total_response_time == pytest.approx(theirs.stats.total.total_response_time)
        assert ours.stats.num_requests > 100


def test_a_failure_is_counted_with_its_error() -> None:
    with counting() as environment:
        recorder = Recorder(environment)
        recorder.record("LINE", "a", 1.5, 0, ValueError("no"))
        assert environment.stats.num_failures == environment.stats.num_requests == 1
        assert [error.name for error in environment.stats.errors.values()] == ["a"]


def test_a_further_listener_gets_every_request() -> None:
    with counting() as environment:
        recorder = Recorder(environment)
        recorder.record_many("LINE", "a", [(0.5, 2)], 8)
        got: list[Any] = []
        hooks: Any = environment.events
        hooks.request.add_listener(lambda **event: got.append(event))
        recorder.record("LINE", "a", 0.25, 4)
        recorder.record_many("LINE", "a", [(0.5, 2), (0.75, 1)], 13)
        assert [event["response_time"] for event in got] == [0.25, 0.5, 0.5, 0.75]
        assert sum(event["response_length"] for event in got) == 17
        assert environment.stats.num_requests == 6
        hooks.request.remove_listener(hooks.request._handlers[-1])
        recorder.record("LINE", "a", 0.25, 4)
        assert (len(got), environment.stats.num_requests) == (4, 7)


def test_without_a_runner_every_request_is_fired() -> None:
    environment = Environment(events=Events())
    got: list[Any] = []
    hooks: Any = environment.events
    hooks.request.add_listener(lambda **event: got.append(event))
    Recorder(environment).record_many("LINE", "a", [(0.5, 3)], 3)
    assert len(got) == 3


def test_nothing_is_recorded_for_no_requests() -> None:
    with counting() as environment:
        Recorder(environment).record_many("LINE", "a", [], 0)
        assert environment.stats.num_requests == 0
        assert environment.stats.entries == {}
