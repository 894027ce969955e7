"""What a `Watch` notes: what a connection waits for, since when, and how much went through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnet
from gnet import watching
from gnet.watching import Wait, Watch, count_lines
from tests.faults.peers import wait_until
from tests.loopback import GUARD, pair


class _Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds

    def pass_seconds(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """The clock of every watch in the test."""
    clock = _Clock()
    monkeypatch.setattr(watching, "monotonic", clock)
    return clock


class _Wire:
    """Drives a watch as a reader does."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock
        self.watch = Watch()

    def wait(self, operation: str = "read_line", *, in_message: bool = False) -> tuple[Wait, float]:
        """Begin to wait for input; give for what, and for how long it waits already."""
        self.watch.read_begins(operation, in_message)
        return self.watch.reads_what, self.clock() - self.watch.reads_since

    def receive(self, size: int = 1) -> None:
        """Have input end the wait."""
        self.watch.reads_waiter = None
        self.watch.bytes_in += size

    def interrupt(self) -> None:
        """Have a timeout of the call end the wait."""
        self.watch.read_interrupted()
        self.watch.reads_waiter = None

    def answer(self, size: int = 5) -> None:
        """Have input end the wait and be the answer."""
        self.receive(size)
        self.watch.message_ended()


@pytest.fixture
def wire(clock: _Clock) -> _Wire:
    """A watch that nothing has happened to, and what drives it."""
    return _Wire(clock)


# What it waits for


def test_the_first_wait_is_for_the_first_byte(wire: _Wire) -> None:
    assert wire.wait() == (Wait.FIRST_BYTE, 0)


@pytest.mark.parametrize("operation", ["read_line", "lines", "recv_until"])
def test_behind_a_lines_first_byte_the_wait_is_for_its_end(wire: _Wire, operation: str) -> None:
    wire.wait(operation)
    wire.receive()
    assert wire.wait(operation, in_message=True) == (Wait.LINE, 0)


@pytest.mark.parametrize("operation", ["recv", "recv_exactly", "recv_some", "skip", "peek"])
def test_other_reads_know_no_lines(wire: _Wire, operation: str) -> None:
    wire.wait(operation)
    wire.receive()
    assert wire.wait(operation, in_message=True) == (Wait.IDLE, 0)


def test_behind_an_answer_the_wait_is_idle(wire: _Wire) -> None:
    wire.wait()
    wire.answer()
    assert wire.wait() == (Wait.IDLE, 0)


def test_behind_a_long_line_the_wait_is_idle_again(wire: _Wire) -> None:
    wire.wait()
    wire.receive()
    wire.wait(in_message=True)
    wire.answer()
    assert wire.wait() == (Wait.IDLE, 0)


# Since when


def test_input_that_is_no_end_does_not_begin_the_lines_time_anew(wire: _Wire) -> None:
    wire.wait()
    wire.receive()
    for number in range(5):
        assert wire.wait(in_message=True) == (Wait.LINE, number)
        wire.clock.pass_seconds(1)
        wire.receive()


def test_each_line_has_a_time_of_its_own(wire: _Wire) -> None:
    wire.wait()
    for _ in range(3):
        wire.receive()
        assert wire.wait(in_message=True) == (Wait.LINE, 0)
        wire.clock.pass_seconds(1)
        wire.answer()


def test_a_line_that_begins_behind_another_ones_end_has_a_time_of_its_own(wire: _Wire) -> None:
    wire.wait()
    wire.receive()
    wire.wait(in_message=True)
    wire.clock.pass_seconds(1)
    wire.answer()  # and the next one's first bytes are here
    assert wire.wait(in_message=True) == (Wait.LINE, 0)


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (lambda wire: None, Wait.FIRST_BYTE),
        (lambda wire: (wire.wait(), wire.answer()), Wait.IDLE),
    ],
    ids=["first byte", "idle"],
)
def test_a_wait_that_was_interrupted_goes_on(
    wire: _Wire, begin: Callable[[_Wire], object], kind: Wait
) -> None:
    begin(wire)
    for number in range(5):
        what, waited = wire.wait()
        assert (what, round(waited, 6)) == (kind, number)
        wire.clock.pass_seconds(1)
        wire.interrupt()


def test_a_wait_for_a_lines_end_that_was_interrupted_goes_on(wire: _Wire) -> None:
    wire.wait()
    wire.receive()
    for number in range(5):
        what, waited = wire.wait(in_message=True)
        assert (what, round(waited, 6)) == (Wait.LINE, number)
        wire.clock.pass_seconds(1)
        wire.interrupt()


@pytest.mark.parametrize("in_message", [False, True])
def test_what_passes_between_two_waits_is_no_waiting(wire: _Wire, in_message: bool) -> None:
    wire.wait()
    wire.receive()
    wire.wait(in_message=in_message)
    wire.clock.pass_seconds(2)
    wire.interrupt()
    wire.clock.pass_seconds(100)  # the handler does something else
    assert round(wire.wait(in_message=in_message)[1], 6) == 2


def test_a_wake_up_without_input_does_not_begin_the_time_anew(wire: _Wire) -> None:
    wire.wait()
    wire.answer()
    for number in range(3):  # half a TLS record, say
        assert wire.wait() == (Wait.IDLE, number)
        wire.clock.pass_seconds(1)
        wire.receive(0)


def test_each_wait_of_a_read_without_an_end_has_a_time_of_its_own(wire: _Wire) -> None:
    wire.wait("recv_exactly")
    for _ in range(3):
        wire.clock.pass_seconds(1)
        wire.receive()
        assert wire.wait("recv_exactly", in_message=True) == (Wait.IDLE, 0)


def test_each_wait_for_room_has_a_time_of_its_own(wire: _Wire) -> None:
    for _ in range(3):
        wire.watch.write_begins()
        assert wire.watch.writes_since == wire.clock()
        wire.clock.pass_seconds(1)


# Pauses


def test_a_pause_is_told_between_two_messages_only(wire: _Wire) -> None:
    told: list[str] = []
    wire.wait()
    wire.answer()
    wire.watch.on_pause = lambda: told.append("pause")
    wire.wait(in_message=True)
    assert told == []
    wire.answer()
    wire.wait()
    assert told == ["pause"]
    assert wire.watch.between_messages


def test_a_pause_before_the_first_byte_is_none(wire: _Wire) -> None:
    told: list[str] = []
    wire.watch.on_pause = lambda: told.append("pause")
    wire.wait()
    assert told == []


# What readers and writers note


@pytest.fixture
def watched() -> Iterator[tuple[gnet.Socket, gnet.Socket, Watch]]:
    """A client, and the watched socket at its other end."""
    with pair() as (client, accepted):
        watch = Watch()
        accepted._reader.watch = accepted._writer.watch = watch  # type: ignore[union-attr]  # streams
        yield client, accepted, watch


def test_a_reader_that_waits_is_noted_and_no_longer(watched: tuple[gnet.Socket, gnet.Socket, Watch]) -> None:
    client, accepted, watch = watched
    reader = gevent.spawn(accepted.read_line)
    wait_until(lambda: watch.reads_waiter is reader, "the reader waits")
    assert (watch.operation, watch.reads_what, watch.between_messages) == ("read_line", Wait.FIRST_BYTE, True)
    client.send(b"par")
    wait_until(lambda: watch.reads_what is Wait.LINE, "the line has begun")
    assert watch.reads_waiter is reader
    assert not watch.between_messages
    client.send(b"tial\n")
    assert reader.get(timeout=GUARD / 1000) == b"partial"
    assert watch.reads_waiter is None
    assert (watch.bytes_in, watch.lines_in) == (8, 1)


def test_a_read_that_needs_no_wait_notes_none(watched: tuple[gnet.Socket, gnet.Socket, Watch]) -> None:
    client, accepted, watch = watched
    client.send(b"one\ntwo\n")
    assert accepted.read_line() == b"one"
    since = watch.reads_since
    assert accepted.read_line() == b"two"
    assert (watch.reads_since, watch.reads_waiter) == (since, None)


def test_a_read_that_is_cut_notes_that_nobody_waits(watched: tuple[gnet.Socket, gnet.Socket, Watch]) -> None:
    _, accepted, watch = watched
    with pytest.raises(gnet.TimeoutError):
        accepted.read_line(timeout=10)
    assert watch.reads_waiter is None
    reader = gevent.spawn(accepted.read_line)
    wait_until(lambda: watch.reads_waiter is reader, "the reader waits")
    reader.kill()
    assert watch.reads_waiter is None


def test_a_writer_that_waits_is_noted_and_no_longer(watched: tuple[gnet.Socket, gnet.Socket, Watch]) -> None:
    client, accepted, watch = watched
    size = 20_000_000
    writer = gevent.spawn(accepted.send, b"x" * size)
    wait_until(lambda: watch.writes_waiter is writer, "the writer waits")
    assert 0 < watch.bytes_out < size
    assert client.skip(size) == size
    writer.get(timeout=GUARD / 1000)
    assert watch.writes_waiter is None
    assert (watch.bytes_out, watch.lines_out) == (size, 0)


@pytest.mark.parametrize("coalesce", [True, False])
def test_bytes_and_lines_out_are_counted_however_they_go(
    watched: tuple[gnet.Socket, gnet.Socket, Watch], coalesce: bool
) -> None:
    client, accepted, watch = watched
    accepted.coalesce = coalesce
    client.send(b"a\nb\nc\n")
    for _ in range(3):
        accepted.send(accepted.read_line() + b"\n")
    accepted.try_send(b"d\n")
    accepted.send(memoryview(b"e\n"))
    accepted.flush()
    assert client.recv_exactly(10) == b"a\nb\nc\nd\ne\n"
    assert (watch.bytes_out, watch.lines_out) == (10, 5)


def test_what_is_flushed_by_the_end_is_counted(watched: tuple[gnet.Socket, gnet.Socket, Watch]) -> None:
    client, accepted, watch = watched
    accepted.coalesce = True
    client.send(b"a\nb\n")
    accepted.read_line()
    accepted.send(b"answer\n")  # queued: a line is here still
    accepted.close()
    assert client.recv(100) == b"answer\n"
    assert (watch.bytes_out, watch.lines_out) == (7, 1)


def test_a_line_that_try_read_line_took_does_not_count_for_the_next_one(
    watched: tuple[gnet.Socket, gnet.Socket, Watch],
) -> None:
    client, accepted, watch = watched
    client.send(b"slow")
    with pytest.raises(gnet.TimeoutError):
        accepted.read_line(timeout=100)
    assert watch.reads_what is Wait.LINE
    client.send(b"ly\nnext")
    wait_until(lambda: accepted.try_read_line()[0] is gnet.ReadLineResult.FULL_LINE, "the line is whole")
    before = watching.monotonic()
    with suppress(gnet.TimeoutError):
        accepted.read_line(timeout=1)
    assert watch.reads_since >= before


def test_sockets_without_a_watch_need_none() -> None:
    with pair() as (client, accepted):
        client.send(b"line\n")
        assert accepted.read_line() == b"line"
        accepted.send(b"x" * 100_000)
        assert client.skip(100_000) == 100_000


@given(st.lists(st.binary(max_size=700), max_size=8))
def test_line_ends_are_counted_in_data_of_any_size(pieces: list[bytes]) -> None:
    data = b"\n".join(pieces)
    assert count_lines(data) == data.count(b"\n")
