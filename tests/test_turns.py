"""gnet.turns: several greenlets that wait for whole things on one socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gevent
import pytest
from gevent.event import Event

import gnet
from gnet.deadlines import Deadline
from gnet.turns import Turns
from tests.faults.peers import elapsed
from tests.loopback import GUARD, LATE, SOON, error_of


class Source:
    """A transport that gives what is put into it: each thing can be taken once."""

    def __init__(self) -> None:
        self.closed = False
        self.waits = 0
        self._things: list[Any] = []
        self._something = Event()

    def put(self, *things: Any) -> None:
        self._things += things
        self._something.set()

    def take(self) -> Any:
        """Give the next thing, or raise it; `None` if there is none."""
        if not self._things:
            self._something.clear()
            return None
        thing = self._things.pop(0)
        if isinstance(thing, BaseException):
            raise thing
        return thing

    def check_thread(self) -> None:
        pass

    def wait_readable(self) -> None:
        self.waits += 1
        self._something.wait()

    def close(self) -> None:
        self.closed = True
        self._something.set()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def turns(source: Source) -> Iterator[Turns]:
    made = Turns(source, source.wait_readable)  # type: ignore[arg-type]  # it has what is asked of it
    yield made
    source.put("free again")
    assert made.take(source.take, Deadline(0), "test") == "free again"


def take_in_time(turns: Turns, source: Source, timeout: float) -> Any:
    """Take a thing within so many milliseconds."""
    with closing(Deadline(timeout)) as deadline:
        return turns.take(source.take, deadline, "test")


def waiting(turns: Turns, source: Source, timeout: float = GUARD) -> gevent.Greenlet:
    greenlet = gevent.spawn(take_in_time, turns, source, timeout)
    gevent.idle()
    return greenlet


def test_what_is_here_is_taken_without_waiting(source: Source, turns: Turns) -> None:
    source.put("one", "two")
    assert [turns.take(source.take, Deadline(timeout), "test") for timeout in (-1, 0)] == ["one", "two"]
    assert source.waits == 0


@pytest.mark.parametrize("timeout", [0, SOON])
def test_a_wait_for_nothing_ends_in_time(source: Source, turns: Turns, timeout: float) -> None:
    with elapsed() as taken, pytest.raises(gnet.TimeoutError, match=f"test: not done within {timeout} ms"):
        take_in_time(turns, source, timeout)
    assert timeout / 2 <= taken() < LATE


def test_things_are_given_in_the_order_in_which_they_were_asked_for(source: Source, turns: Turns) -> None:
    greenlets = [waiting(turns, source) for _ in range(3)]
    source.put("one", "two", "three")
    assert [greenlet.get(timeout=GUARD / 1000) for greenlet in greenlets] == ["one", "two", "three"]


def test_who_comes_later_does_not_overtake_and_who_would_not_wait_gets_nothing(
    source: Source, turns: Turns
) -> None:
    first = waiting(turns, source)
    source.put("one")
    with pytest.raises(gnet.TimeoutError):
        turns.take(source.take, Deadline(0), "test")
    assert first.get(timeout=GUARD / 1000) == "one"


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_one_gives_up_its_turn_and_takes_nothing(source: Source, turns: Turns, number: int) -> None:
    greenlets = [waiting(turns, source) for _ in range(3)]
    greenlets.pop(number).kill()
    source.put("one", "two")
    assert [greenlet.get(timeout=GUARD / 1000) for greenlet in greenlets] == ["one", "two"]


def test_one_whose_time_is_over_leaves_the_others_theirs(source: Source, turns: Turns) -> None:
    patient, hasty = waiting(turns, source), waiting(turns, source, SOON)
    with pytest.raises(gnet.TimeoutError):
        hasty.get(timeout=GUARD / 1000)
    source.put("one")
    assert patient.get(timeout=GUARD / 1000) == "one"


def test_what_is_here_when_time_is_over_wins(source: Source, turns: Turns) -> None:
    late = gevent.spawn(take_in_time, turns, source, 1)
    gevent.sleep(0)
    source._things.append("in time")  # without waking anybody
    assert late.get(timeout=GUARD / 1000) == "in time"


def test_a_timeout_of_somebody_else_passes_through(source: Source, turns: Turns) -> None:
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(SOON / 1000) as outer:
        take_in_time(turns, source, GUARD)
    assert caught.value is outer


def test_an_error_ends_one_wait_and_not_the_others(source: Source, turns: Turns) -> None:
    greenlets = [waiting(turns, source) for _ in range(2)]
    error = ConnectionAbortedError(103, "gone")
    source.put(error, "one")
    with pytest.raises(ConnectionAbortedError) as caught:
        greenlets[0].get(timeout=GUARD / 1000)
    assert caught.value is error
    assert greenlets[1].get(timeout=GUARD / 1000) == "one"


def test_closing_ends_all_waits_and_none_begins(source: Source) -> None:
    turns = Turns(source, source.wait_readable)  # type: ignore[arg-type]
    greenlets = [gevent.spawn(error_of, take_in_time, turns, source, GUARD) for _ in range(3)]
    gevent.idle()
    source.close()
    for greenlet in greenlets:
        assert isinstance(greenlet.get(timeout=GUARD / 1000), gnet.ClosedError)
    with pytest.raises(gnet.ClosedError, match="test: the socket is closed"):
        turns.take(source.take, Deadline(0), "test")
