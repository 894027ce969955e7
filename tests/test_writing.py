"""The write side of a stream: what is queued and when it leaves, who comes first, what a cut message leaves.

Most tests use a transport of their own, `Kernel`, which takes as many bytes as there is room for and
counts the calls; the last ones ask the same of real sockets. Interruptions at every switch are in
`tests/test_cancellation.py`.
"""

from __future__ import annotations

import array
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

import gnet
from gnet.deadlines import Deadline
from gnet.writing import StreamWriter, as_bytes
from tests.canceller import InterruptionError
from tests.faults.peers import GUARD, connection, elapsed, receive_exactly, reset, wait_until

SOON: Final = 20
"""Milliseconds: a timeout that is meant to be over."""

QUEUE_LIMIT: Final = 64 * 1024
"""Bytes that a writer queues before it asks the kernel."""

NO_LIMIT: Final = -1


class Kernel:
    """A transport without a kernel: takes as many bytes as there is room for, and counts the calls."""

    def __init__(self, room: int = 10**9) -> None:
        self.room = room
        self.error: OSError | None = None  # what the next send meets
        self.sends: list[bytes] = []  # what each call took
        self.refused = 0  # calls that took nothing
        self.visits = 0
        self.scheduled = 0  # callbacks that are to run in the loop
        self.before_next_send: Callable[[], object] | None = None
        self.drained = False
        self.failure: OSError | None = None
        self.closed = False
        self.unsent = 0  # all that it took, the peer has
        self.goodbyes = 0
        self._callback: Callable[[], None] | None = None
        self._waiting: list[Event] = []

    @property
    def sent(self) -> bytes:
        """All that was taken."""
        return b"".join(self.sends)

    def make_room(self, size: int) -> None:
        """Take more from now on, and wake who waits for that, as the loop does."""
        self.room += size
        gevent.get_hub().loop.run_callback(self._ready)

    def fail_with(self, error: OSError) -> None:
        """Let the next send meet an error, and wake who waits."""
        self.error = error
        self.make_room(0)

    def stop(self) -> None:
        self.closed = True
        self._callback = None
        self._wake()

    @property
    def calls_when_writable(self) -> bool:
        return self._callback is not None

    def _ready(self) -> None:
        if self._waiting:
            self._wake()
        elif self._callback is not None and (self.room or self.error):
            self._callback()
            gevent.get_hub().loop.run_callback(self._ready)

    def _wake(self) -> None:
        for waiting in self._waiting:
            waiting.set()
        self._waiting.clear()

    # What a writer asks of it

    def send(self, data: bytes | memoryview) -> int:
        before, self.before_next_send = self.before_next_send, None
        if before is not None:
            before()
        if self.error is not None:
            self.failure = self.failure or self.error
            raise self.error
        count = min(len(data), self.room)
        self.room -= count
        if count:
            self.sends.append(bytes(data[:count]))
        else:
            self.refused += bool(len(data))
        return count

    def wait_writable(self) -> None:
        changed = Event()
        self._waiting.append(changed)
        try:
            changed.wait()
        finally:
            if changed in self._waiting:  # something else has ended the wait
                self._waiting.remove(changed)

    def call_when_writable(self, callback: Callable[[], None] | None) -> None:
        self._callback = callback
        self.make_room(0)  # it is called at once if there is room

    def run_in_loop(self, callback: Callable[[], None]) -> None:
        self.scheduled += 1
        gevent.get_hub().loop.run_callback(callback)

    def yield_to_loop(self) -> None:
        self.visits += 1
        gevent.sleep(0)

    def in_hub(self) -> bool:
        return gevent.getcurrent() is gevent.get_hub()

    def check_thread(self) -> None:
        pass

    def finish(self, deadline: Deadline) -> None:
        self.goodbyes += 1

    def describe(self) -> str:
        return "a peer"

    def receive(self, size: int) -> bytes | None:
        raise NotImplementedError("a writer does not read")

    peek = receive

    def wait_readable(self) -> None:
        raise NotImplementedError("a writer does not read")


def made(room: int = 10**9, coalesce: bool = True) -> tuple[StreamWriter, Kernel]:
    kernel = Kernel(room)
    writer = StreamWriter(kernel)
    writer.coalesce = coalesce
    return writer, kernel


def waiting(call: Callable[..., Any], *arguments: Any) -> gevent.Greenlet:
    """Start a call in a greenlet and give it when it waits."""
    greenlet = gevent.spawn(call, *arguments)
    gevent.sleep(0)
    assert not greenlet.ready(), f"it does not wait: {greenlet.value!r}, {greenlet.exception!r}"
    return greenlet


def waiting_send(writer: StreamWriter, data: bytes) -> gevent.Greenlet:
    return waiting(writer.send, data, NO_LIMIT, False)


def finish(greenlet: gevent.Greenlet) -> Any:
    return greenlet.get(timeout=GUARD / 1000)


def stopped(call: Callable[[], object], kind: type[BaseException]) -> Any:
    """Call something that has to raise; give what it raised."""
    with pytest.raises(kind) as info:
        call()
    return info.value


# What a send takes


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"bytes", b"bytes"),
        (bytearray(b"bytearray"), b"bytearray"),
        (memoryview(b"a view")[2:], b"view"),
        (memoryview(array.array("H", [0x4141, 0x4242])), b"AABB"),
        (memoryview(bytearray(4)).cast("B", (2, 2)), bytes(4)),
        (bytearray(), b""),
        (memoryview(b""), b""),
    ],
)
def test_what_holds_bytes_is_sent_as_its_bytes(data: Any, content: bytes) -> None:
    assert bytes(as_bytes(data, "send")) == content


@pytest.mark.parametrize("data", ["text", 5, None, [1, 2], object(), memoryview(b"strided")[::2]])
def test_what_holds_no_bytes_is_a_type_error_that_names_the_call(data: Any) -> None:
    with pytest.raises(TypeError, match="send: expected"):
        as_bytes(data, "send")


def test_a_str_is_to_be_encoded_and_the_error_says_so() -> None:
    with pytest.raises(TypeError, match=r"try_send: expected bytes, got str 'text'; encode it"):
        as_bytes("text", "try_send")


# Coalescing: what is queued


def test_with_no_input_waiting_each_send_goes_straight_out() -> None:
    writer, kernel = made()
    for data in (b"one", b"two"):
        writer.send(data, NO_LIMIT, False)
    assert kernel.sends == [b"one", b"two"]


def test_without_coalescing_each_send_goes_straight_out_even_if_input_waits() -> None:
    writer, kernel = made(coalesce=False)
    for data in (b"one", b"two"):
        writer.send(data, NO_LIMIT, True)
    assert kernel.sends == [b"one", b"two"]


def test_what_is_sent_while_input_waits_is_queued_and_leaves_in_one_call_before_the_wait() -> None:
    writer, kernel = made()
    for number in range(100):
        writer.send(b"%d," % number, NO_LIMIT, True)
    assert kernel.sends == []
    assert kernel.scheduled == 1
    writer.flush_before_wait()
    assert kernel.sends == [b"".join(b"%d," % number for number in range(100))]


def test_the_last_answer_of_a_batch_leaves_with_the_others_in_one_call() -> None:
    writer, kernel = made()
    writer.send(b"one,", NO_LIMIT, True)
    writer.send(b"two", NO_LIMIT, False)
    assert kernel.sends == [b"one,two"]


def test_a_queue_that_would_pass_64_kib_goes_out() -> None:
    writer, kernel = made()
    piece = b"x" * 10_000
    for _ in range(6):
        writer.send(piece, NO_LIMIT, True)
        assert kernel.sends == []
    writer.send(b"y" * 10_000, NO_LIMIT, True)
    assert kernel.sent == 6 * piece + b"y" * 10_000
    assert writer.unsent == 0


@pytest.mark.parametrize("size", [QUEUE_LIMIT - 1, QUEUE_LIMIT])
def test_a_message_that_fits_the_queue_is_queued(size: int) -> None:
    writer, kernel = made()
    writer.send(b"x" * size, NO_LIMIT, True)
    assert kernel.sends == []
    assert writer.unsent == size


def test_a_message_larger_than_the_queue_goes_straight_out_behind_what_was_queued() -> None:
    writer, kernel = made()
    writer.send(b"queued", NO_LIMIT, True)
    writer.send(b"x" * (QUEUE_LIMIT + 1), NO_LIMIT, True)
    assert kernel.sent == b"queued" + b"x" * (QUEUE_LIMIT + 1)


def test_what_is_queued_is_a_copy() -> None:
    writer, kernel = made()
    data = bytearray(b"before")
    writer.send(as_bytes(data, "send"), NO_LIMIT, True)
    data[:] = b"after!"
    writer.flush(NO_LIMIT)
    assert kernel.sent == b"before"


# Coalescing: when it leaves


def test_a_flush_sends_what_is_queued() -> None:
    writer, kernel = made()
    writer.send(b"queued", NO_LIMIT, True)
    writer.flush(NO_LIMIT)
    assert kernel.sends == [b"queued"]


def test_a_close_sends_what_is_queued() -> None:
    writer, kernel = made()
    writer.send(b"queued", NO_LIMIT, True)
    kernel.stop()
    assert writer.close(GUARD)
    assert kernel.sends == [b"queued"]


def test_what_is_queued_leaves_before_the_loop_polls_if_nobody_waits_for_input() -> None:
    writer, kernel = made()
    left, right = socket.socketpair()
    with left, right:
        seen: list[bytes] = []
        reader = waiting(lambda: (left.recv(1), seen.append(kernel.sent)))
        right.send(b"x")  # the reader runs when the loop has polled
        writer.send(b"one,", NO_LIMIT, True)
        writer.send(b"two", NO_LIMIT, True)
        finish(reader)
    assert seen == [b"one,two"]
    assert kernel.sends == [b"one,two"]


def test_greenlets_that_are_ready_may_add_to_the_queue_before_it_leaves() -> None:
    writer, kernel = made()
    others = [gevent.spawn(writer.send, b"%d," % number, NO_LIMIT, True) for number in range(3)]
    writer.send(b"first,", NO_LIMIT, True)
    gevent.joinall(others, raise_error=True)
    gevent.sleep(0)
    assert kernel.sent == b"first,0,1,2,"
    assert len(kernel.sends) <= 2


def test_what_the_kernel_refuses_then_leaves_in_the_background() -> None:
    writer, kernel = made(room=4)
    writer.send(b"12345678", NO_LIMIT, True)
    writer.flush_before_wait()
    assert kernel.sent == b"1234"
    assert writer.unsent == 4
    kernel.make_room(3)
    wait_until(lambda: kernel.sent == b"1234567", "the loop sends what there is room for")
    kernel.make_room(10)
    wait_until(lambda: kernel.sent == b"12345678", "the loop sends the rest")
    gevent.sleep(0)
    assert not kernel.calls_when_writable
    assert writer.unsent == 0


def test_what_is_sent_during_a_flush_in_the_background_comes_behind_it() -> None:
    writer, kernel = made(room=4)
    writer.send(b"12345678", NO_LIMIT, True)
    writer.flush_before_wait()
    writer.send(b"coalesced,", NO_LIMIT, False)
    sender = waiting_send(writer, b"X" * QUEUE_LIMIT)
    kernel.make_room(10**6)
    finish(sender)
    assert kernel.sent == b"12345678coalesced," + b"X" * QUEUE_LIMIT
    assert not kernel.calls_when_writable


def test_a_peer_that_never_reads_bounds_what_is_queued_by_64_kib() -> None:
    writer, kernel = made(room=0)
    sent = 0

    def answer() -> None:
        nonlocal sent
        while True:
            writer.send(b"x" * 1000, NO_LIMIT, sent % 3 != 0)
            sent += 1

    sender = waiting(answer)
    for _ in range(10):
        gevent.sleep(0)
    assert not sender.ready()
    assert writer.unsent <= QUEUE_LIMIT
    assert sent * 1000 <= QUEUE_LIMIT
    kernel.make_room(10_000)
    wait_until(lambda: len(kernel.sent) == 10_000, "there is no more room")
    assert writer.unsent <= QUEUE_LIMIT
    sender.kill()


# try_send: all or nothing


def test_try_send_sends_if_there_is_room() -> None:
    writer, kernel = made()
    assert writer.try_send(b"data", False)
    assert kernel.sends == [b"data"]


def test_try_send_takes_nothing_if_there_is_no_room() -> None:
    writer, kernel = made(room=0)
    assert not writer.try_send(b"data", False)
    kernel.make_room(100)
    gevent.sleep(0)
    assert kernel.sent == b""
    assert writer.unsent == 0


def test_try_send_queues_what_there_is_no_room_for_once_a_part_is_out() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    assert kernel.sent == b"123"
    assert writer.unsent == 5
    assert not writer.try_send(b"no", False), "while that waits, nothing more is taken"
    kernel.make_room(100)
    wait_until(lambda: kernel.sent == b"12345678", "the loop sends the rest")
    assert writer.try_send(b"yes", False)
    assert kernel.sent == b"12345678yes"


def test_try_send_queues_while_input_waits() -> None:
    writer, kernel = made(room=0)
    assert writer.try_send(b"one,", True)
    assert not writer.try_send(b"x" * QUEUE_LIMIT, True)
    kernel.make_room(100)
    assert writer.try_send(b"two", False)
    assert kernel.sent == b"one,two"


def test_try_send_takes_nothing_while_another_sends() -> None:
    writer, kernel = made(room=2)
    sender = waiting_send(writer, b"123456")
    assert not writer.try_send(b"no", False)
    kernel.make_room(100)
    finish(sender)
    assert kernel.sent == b"123456"


def test_try_send_of_nothing_is_done() -> None:
    writer, _ = made(room=0)
    assert writer.try_send(b"", False)
    assert writer.unsent == 0


def test_try_send_keeps_its_error_for_the_next_call() -> None:
    writer, kernel = made()
    kernel.error = ConnectionResetError(errno.ECONNRESET, "reset")
    assert not writer.try_send(b"data", False)
    assert kernel.failure is kernel.error
    assert not writer.try_send(b"data", False)
    with pytest.raises(ConnectionResetError, match=r"send to a peer \(0 of 4 bytes sent\)"):
        writer.send(b"data", NO_LIMIT, False)


# Cut messages and errors


def check_broken(writer: StreamWriter, kernel: Kernel, bytes_sent: int) -> None:
    """Check that the write side says that it is broken, each time, and sends no more."""
    before = kernel.sent
    kernel.make_room(10**6)
    for call in (
        lambda: writer.send(b"later", NO_LIMIT, False),
        lambda: writer.send(b"later", NO_LIMIT, True),
        lambda: writer.flush(NO_LIMIT),
        lambda: writer.flush(NO_LIMIT, "shutdown"),
    ):
        for _ in range(2):
            assert stopped(call, gnet.BrokenSendError).bytes_sent == bytes_sent
    assert not writer.try_send(b"later", False)
    gevent.sleep(0)
    gevent.sleep(0)
    assert kernel.sent == before
    kernel.stop()
    assert not writer.close(GUARD), "the peer would see an orderly end of a cut message"
    assert kernel.sent == before


def test_a_send_that_is_killed_part_way_breaks_the_write_side() -> None:
    writer, kernel = made(room=4)
    sender = waiting_send(writer, b"12345678")
    sender.kill()
    assert isinstance(sender.value, gevent.GreenletExit)
    check_broken(writer, kernel, 4)


def test_a_send_that_is_killed_before_a_byte_went_breaks_nothing() -> None:
    writer, kernel = made(room=0)
    sender = waiting_send(writer, b"12345678")
    sender.kill()
    kernel.make_room(100)
    writer.send(b"next", NO_LIMIT, False)
    assert kernel.sent == b"next"


def test_a_timeout_tells_how_much_went_and_breaks_the_write_side_if_it_was_a_part() -> None:
    writer, kernel = made(room=4)
    error = stopped(lambda: writer.send(b"12345678", SOON, False), gnet.TimeoutError)
    assert error.bytes_sent == 4
    assert "send to a peer (4 of 8 bytes sent): not done within 20 ms" in str(error)
    check_broken(writer, kernel, 4)


def test_a_timeout_before_a_byte_went_breaks_nothing() -> None:
    writer, kernel = made(room=0)
    assert stopped(lambda: writer.send(b"12345678", SOON, False), gnet.TimeoutError).bytes_sent == 0
    kernel.make_room(100)
    writer.send(b"next", NO_LIMIT, False)
    assert kernel.sent == b"next"


@pytest.mark.parametrize("queued", [b"", b"queued,"])
def test_room_that_nobody_told_of_wins_over_the_timeout(queued: bytes) -> None:
    writer, kernel = made(room=4)
    if queued:
        writer.send(queued, NO_LIMIT, True)
    sender = waiting(writer.send, b"x" * QUEUE_LIMIT, SOON, False)
    kernel.room = 10**6
    finish(sender)
    assert kernel.sent == queued + b"x" * QUEUE_LIMIT
    writer.send(b"next", NO_LIMIT, False)


def test_a_timeout_of_0_is_one_try() -> None:
    writer, kernel = made(room=100)
    writer.send(b"fits", 0, False)
    kernel.room = 0
    assert stopped(lambda: writer.send(b"does not", 0, False), gnet.TimeoutError).bytes_sent == 0
    assert kernel.sent == b"fits"


def test_what_was_queued_while_a_message_was_cut_never_leaves() -> None:
    writer, kernel = made(room=4)
    sender = waiting_send(writer, b"12345678")
    writer.send(b"QUEUED", NO_LIMIT, True)
    sender.kill()
    check_broken(writer, kernel, 4)
    assert kernel.sent == b"1234"


def test_who_waits_to_send_behind_a_message_that_is_cut_gets_the_error() -> None:
    writer, kernel = made(room=4)
    sender = waiting_send(writer, b"12345678")
    others = [
        waiting(stopped, lambda: writer.send(b"next", NO_LIMIT, False), gnet.BrokenSendError)
        for _ in range(3)
    ]
    flushing = waiting(stopped, lambda: writer.flush(NO_LIMIT), gnet.BrokenSendError)
    sender.kill()
    assert [finish(other).bytes_sent for other in [*others, flushing]] == [4] * 4
    check_broken(writer, kernel, 4)


def test_an_error_of_the_kernel_names_the_call_and_the_peer_and_tells_how_much_went() -> None:
    writer, kernel = made()
    kernel.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    error = stopped(lambda: writer.send(b"12345678", NO_LIMIT, False), BrokenPipeError)
    assert str(error) == "[Errno 32] send to a peer (0 of 8 bytes sent): Broken pipe"
    assert error.bytes_sent == 0
    assert error.__cause__ is kernel.error


def test_an_error_part_way_tells_how_much_went_and_breaks_the_write_side() -> None:
    writer, kernel = made(room=4)
    sender = waiting(stopped, lambda: writer.send(b"12345678", NO_LIMIT, False), ConnectionResetError)
    kernel.fail_with(ConnectionResetError(errno.ECONNRESET, "reset"))
    error = finish(sender)
    assert error.bytes_sent == 4
    assert "(4 of 8 bytes sent)" in str(error)
    check_broken(writer, kernel, 4)


def test_an_error_part_way_tells_how_much_went_although_an_earlier_one_is_known() -> None:
    writer, kernel = made(room=4)
    kernel.failure = ConnectionResetError(errno.ECONNRESET, "what a read has met")
    sender = waiting(stopped, lambda: writer.send(b"12345678", NO_LIMIT, False), BrokenPipeError)
    kernel.fail_with(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    error = finish(sender)
    assert error.bytes_sent == 4
    assert "send to a peer (4 of 8 bytes sent)" in str(error)


@pytest.mark.parametrize("way", ["before a wait", "in the loop", "in the background", "by the next send"])
def test_what_was_queued_and_could_not_be_sent_raises_from_the_next_call(way: str) -> None:
    writer, kernel = made(room=3)
    writer.send(b"12345678", NO_LIMIT, True)
    if way == "in the background":
        writer.flush_before_wait()
        kernel.fail_with(ConnectionResetError(errno.ECONNRESET, "reset by the peer"))
        wait_until(lambda: kernel.failure is not None, "the loop tries to send")
    else:
        kernel.error = ConnectionResetError(errno.ECONNRESET, "reset by the peer")
        if way == "before a wait":
            writer.flush_before_wait()
        elif way == "in the loop":
            gevent.sleep(0)
    bytes_sent = len(kernel.sent)
    error = stopped(lambda: writer.send(b"next", NO_LIMIT, False), gnet.BrokenSendError)
    assert error.bytes_sent == bytes_sent
    assert f"cut after {bytes_sent} bytes (reset by the peer)" in str(error)
    assert error.__cause__ is kernel.failure
    assert writer.unsent == 0
    assert not kernel.calls_when_writable
    check_broken(writer, kernel, bytes_sent)


def test_a_flush_meets_the_error_of_what_it_flushes() -> None:
    writer, kernel = made(room=3)
    writer.send(b"12345678", NO_LIMIT, True)
    flushing = waiting(stopped, lambda: writer.flush(NO_LIMIT), OSError)
    kernel.fail_with(ConnectionResetError(errno.ECONNRESET, "reset"))
    assert finish(flushing).errno == errno.ECONNRESET
    check_broken(writer, kernel, 3)


def test_a_flush_that_is_cut_leaves_the_rest_to_the_background() -> None:
    writer, kernel = made(room=3)
    writer.send(b"12345678", NO_LIMIT, True)
    assert isinstance(stopped(lambda: writer.flush(SOON), gnet.TimeoutError), gnet.TimeoutError)
    assert writer.unsent == 5
    kernel.make_room(100)
    wait_until(lambda: kernel.sent == b"12345678", "the loop sends the rest")
    writer.send(b"next", NO_LIMIT, False)
    assert kernel.sent == b"12345678next"


@pytest.mark.parametrize("coalesce", [True, False])
def test_after_a_shutdown_a_send_is_a_broken_pipe_and_a_flush_has_nothing_to_do(coalesce: bool) -> None:
    writer, kernel = made(coalesce=coalesce)
    writer.shut()
    for input_waits in (True, False):
        error = stopped(lambda: writer.send(b"data", NO_LIMIT, input_waits), BrokenPipeError)  # noqa: B023
        assert "the write side is shut down" in str(error)
        assert not writer.try_send(b"data", input_waits)
    writer.flush(NO_LIMIT)
    kernel.stop()
    assert writer.close(0)
    assert kernel.sent == b""


def test_after_a_close_every_call_says_that_it_is_closed() -> None:
    writer, kernel = made()
    kernel.stop()
    assert writer.close(0)
    for call in (
        lambda: writer.send(b"data", NO_LIMIT, False),
        lambda: writer.send(b"data", NO_LIMIT, True),
        lambda: writer.try_send(b"data", False),
        lambda: writer.flush(NO_LIMIT),
    ):
        stopped(call, gnet.ClosedError)
    assert writer.close(0)
    assert kernel.sent == b""


# Closing


def test_a_close_waits_for_what_is_queued() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.stop()
    closing = waiting(writer.close, GUARD)
    kernel.make_room(3)
    gevent.sleep(0)
    gevent.sleep(0)
    assert not closing.ready()
    kernel.make_room(100)
    assert finish(closing) is True
    assert kernel.sent == b"12345678"


def test_a_close_gives_up_after_its_timeout_and_says_that_not_all_went() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.stop()
    with elapsed() as milliseconds:
        assert writer.close(5 * SOON) is False
    assert 4.5 * SOON <= milliseconds() < 25 * SOON
    assert writer.unsent == 0


def test_a_close_says_goodbye_once_all_went_and_not_where_something_was_lost() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.stop()
    closing = waiting(writer.close, GUARD)
    assert kernel.goodbyes == 0
    kernel.make_room(100)
    assert finish(closing) is True
    assert writer.close(GUARD) is True
    assert kernel.goodbyes == 1
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.stop()
    assert writer.close(0) is False
    assert kernel.goodbyes == 0


def test_what_the_transport_holds_back_counts_as_unsent_and_is_flushed() -> None:
    writer, kernel = made()
    writer.send(b"data", NO_LIMIT, False)
    assert writer.unsent == 0
    kernel.unsent = 5  # ciphertext, for which the kernel has no room
    assert writer.unsent == 5
    flushing = waiting(writer.flush, GUARD)
    kernel.make_room(1)
    gevent.sleep(0)
    gevent.sleep(0)
    assert not flushing.ready()
    kernel.unsent = 0
    kernel.make_room(1)
    finish(flushing)
    assert writer.unsent == 0


@pytest.mark.parametrize("timeout", [0, GUARD])
def test_a_close_that_must_not_wait_tries_once(timeout: float) -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.room = 3
    kernel.stop()
    if timeout:  # in the hub, which can not wait
        ends: list[bool] = []
        gevent.get_hub().loop.run_callback(lambda: ends.append(writer.close(timeout)))
        gevent.sleep(0)
        assert ends == [False]
    else:
        assert writer.close(timeout) is False
    assert kernel.sent == b"123456"


def test_a_close_that_meets_an_error_says_that_not_all_went() -> None:
    writer, kernel = made()
    writer.send(b"queued", NO_LIMIT, True)
    kernel.error = ConnectionResetError(errno.ECONNRESET, "reset")
    kernel.stop()
    assert writer.close(GUARD) is False


def test_a_close_that_is_interrupted_passes_on_what_interrupted_it_and_is_closed() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    kernel.stop()
    error = InterruptionError()
    closing = waiting(stopped, lambda: writer.close(GUARD), InterruptionError)
    closing.kill(error, block=False)
    assert finish(closing) is error
    stopped(lambda: writer.send(b"data", NO_LIMIT, False), gnet.ClosedError)


def close_as_a_socket_does(writer: StreamWriter, kernel: Kernel) -> bool:
    kernel.stop()  # wakes those who wait, but they do not run before the next line
    return writer.close(GUARD)


def test_a_close_during_a_flush_still_sends_what_is_queued() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    flushing = waiting(stopped, lambda: writer.flush(NO_LIMIT), gnet.ClosedError)
    closing = gevent.spawn(close_as_a_socket_does, writer, kernel)
    gevent.sleep(0)
    kernel.make_room(100)
    finish(flushing)
    assert finish(closing) is True
    assert kernel.sent == b"12345678"


def test_a_close_during_a_send_that_has_not_begun_still_sends_what_is_queued() -> None:
    writer, kernel = made(room=3)
    assert writer.try_send(b"12345678", False)
    sending = waiting(stopped, lambda: writer.send(b"x" * QUEUE_LIMIT, NO_LIMIT, False), gnet.ClosedError)
    closing = gevent.spawn(close_as_a_socket_does, writer, kernel)
    gevent.sleep(0)
    kernel.make_room(100)
    finish(sending)
    assert finish(closing) is True
    assert kernel.sent == b"12345678"


def test_a_close_during_a_send_whose_part_is_out_says_that_not_all_went() -> None:
    writer, kernel = made(room=3)
    sending = waiting(stopped, lambda: writer.send(b"12345678", NO_LIMIT, False), gnet.ClosedError)
    assert close_as_a_socket_does(writer, kernel) is False
    finish(sending)
    assert kernel.sent == b"123"


# Several writers


def test_those_who_wait_to_send_do_so_in_the_order_they_came() -> None:
    writer, kernel = made(room=2, coalesce=False)
    senders = [waiting_send(writer, b"<message %d>" % number) for number in range(5)]
    for _ in range(200):
        kernel.make_room(1)
        gevent.sleep(0)
    gevent.joinall(senders, timeout=GUARD / 1000, raise_error=True)
    assert kernel.sent == b"".join(b"<message %d>" % number for number in range(5))


def test_who_sends_again_stands_behind_those_who_wait() -> None:
    writer, kernel = made(room=2, coalesce=False)
    busy = waiting(lambda: [writer.send(b"<busy>", NO_LIMIT, False) for _ in range(3)])
    other = waiting_send(writer, b"<other>")
    for _ in range(100):
        kernel.make_room(1)
        gevent.sleep(0)
    gevent.joinall([busy, other], timeout=GUARD / 1000, raise_error=True)
    assert kernel.sent == b"<busy><other><busy><busy>"


def test_who_gives_up_waiting_to_send_is_in_nobodys_way() -> None:
    writer, kernel = made(room=2, coalesce=False)
    first = waiting_send(writer, b"<first>")
    killed = waiting_send(writer, b"<killed>")
    late = waiting(stopped, lambda: writer.send(b"<late>", SOON, False), gnet.TimeoutError)
    last = waiting_send(writer, b"<last>")
    killed.kill()
    assert finish(late).bytes_sent == 0
    kernel.make_room(100)
    finish(first)
    finish(last)
    assert kernel.sent == b"<first><last>"


def test_who_is_killed_when_its_turn_has_just_come_hands_it_on() -> None:
    writer, kernel = made(room=2, coalesce=False)
    first = waiting_send(writer, b"<first>")
    killed = waiting_send(writer, b"<killed>")
    last = waiting_send(writer, b"<last>")
    # The kill comes behind the hand-over, but before `killed` runs.
    kernel.before_next_send = lambda: killed.kill(block=False)
    kernel.make_room(100)
    finish(first)
    finish(last)
    assert isinstance(killed.value, gevent.GreenletExit)
    assert kernel.sent == b"<first><last>"


def test_what_others_queue_during_a_message_leaves_behind_it() -> None:
    writer, kernel = made(room=4)
    sender = waiting_send(writer, b"12345678")
    for number in range(3):
        writer.send(b",%d" % number, NO_LIMIT, True)
    writer.flush_before_wait()
    gevent.sleep(0)
    assert kernel.sent == b"1234"
    kernel.make_room(100)
    finish(sender)
    wait_until(lambda: writer.unsent == 0, "the queue has gone")
    assert kernel.sent == b"12345678,0,1,2"


def test_a_flush_waits_for_the_message_of_another() -> None:
    writer, kernel = made(room=4)
    sender = waiting_send(writer, b"12345678")
    flushing = waiting(writer.flush, NO_LIMIT)
    kernel.make_room(100)
    finish(flushing)
    assert kernel.sent == b"12345678"
    finish(sender)


def test_a_sender_whose_peer_always_reads_visits_the_loop_now_and_then() -> None:
    writer, kernel = made(room=10**12, coalesce=False)
    data = b"x" * 100_000
    for _ in range(200):
        writer.send(data, NO_LIMIT, False)
    assert 1 <= kernel.visits <= 10
    assert len(kernel.sent) == 200 * len(data)


# Whatever happens

actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["send", "try_send"]), st.sampled_from([1, 1000, 100_000]), st.booleans()),
        st.tuples(st.just("room"), st.sampled_from([1, 700, 30_000]), st.booleans()),
        st.tuples(st.just("kill"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("flush"), st.just(0), st.booleans()),
    ),
    min_size=3,
    max_size=20,
).map(lambda drawn: [("send", 100_000, False), *drawn])


@settings(max_examples=300)
@given(actions, st.booleans())
def test_whatever_happens_whole_messages_leave_and_a_cut_one_is_the_last(
    todo: list[tuple[str, int, bool]], coalesce: bool
) -> None:
    writer, kernel = made(room=800, coalesce=coalesce)
    messages: list[bytes] = []
    accepted: set[int] = set()
    tasks: list[gevent.Greenlet] = []

    def send(number: int, input_waits: bool) -> None:
        with suppress(gnet.BrokenSendError):
            writer.send(messages[number], NO_LIMIT, input_waits)
            accepted.add(number)

    def flush() -> None:
        with suppress(gnet.BrokenSendError):
            writer.flush(NO_LIMIT)

    for action, size, flag in todo:
        under_way = [task for task in tasks if not task.ready()]
        if action == "room":
            kernel.make_room(size)
        elif action == "kill" and under_way:
            under_way[size % len(under_way)].kill(block=False)
        elif action == "flush":
            tasks.append(gevent.spawn(flush))
        elif action in ("send", "try_send"):
            number = len(messages)
            messages.append(b"<%d:%d:" % (number, size) + b"x" * size + b">")
            if action == "send":
                tasks.append(gevent.spawn(send, number, flag))
            elif writer.try_send(messages[number], flag):
                accepted.add(number)
        gevent.sleep(0)
    kernel.make_room(10**9)
    gevent.joinall(tasks, timeout=GUARD / 1000, raise_error=True)
    for _ in range(3):
        gevent.sleep(0)

    rest, left = kernel.sent, []
    while rest and (whole := next((each for each in messages if rest.startswith(each)), None)):
        left.append(messages.index(whole))
        rest = rest.removeprefix(whole)
    assert len(left) == len(set(left)), "a message left twice"
    assert accepted.issuperset(left), "a message left whole of which its sender does not know"
    if not rest:
        assert set(left) == accepted
        writer.send(b"", NO_LIMIT, False)
    else:
        assert any(each.startswith(rest) for each in messages), "something follows a cut message"
        assert stopped(lambda: writer.flush(NO_LIMIT), gnet.BrokenSendError).bytes_sent == len(rest)


# The same with real sockets


@contextmanager
def serving(request: bytes) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """An accepted socket, whose peer has sent this."""
    with connection(accepted=True) as (ours, peer):
        peer.sendall(request)
        yield ours, peer


def test_accepted_sockets_coalesce_and_dialled_ones_do_not() -> None:
    with connection() as (dialled, _), connection(accepted=True) as (accepted, _):
        assert (accepted.coalesce, dialled.coalesce) == (True, False)
        accepted.coalesce, dialled.coalesce = False, True
        assert (accepted.coalesce, dialled.coalesce) == (False, True)


def test_answers_to_a_batch_leave_before_the_server_waits_for_more() -> None:
    with serving(b"".join(b"%d\n" % number for number in range(50))) as (ours, peer):

        def serve() -> None:
            for line in ours.lines():
                ours.send(b"<" + line + b">")

        server = gevent.spawn(serve)
        answers = b"".join(b"<%d>" % number for number in range(50))
        assert receive_exactly(peer, len(answers)) == answers
        server.kill()


def test_what_is_queued_leaves_at_a_shutdown() -> None:
    with serving(b"one\ntwo\n") as (ours, peer):
        ours.read_line()
        ours.send(b"queued")
        ours.shutdown(socket.SHUT_WR)
        assert receive_exactly(peer, 100) == b"queued"
        stopped(lambda: ours.send(b"later"), BrokenPipeError)
        assert ours.read_line() == b"two"


def test_what_is_queued_leaves_at_a_close() -> None:
    with serving(b"one\ntwo\n") as (ours, peer):
        ours.read_line()
        ours.send(b"queued")
        ours.close()
        assert receive_exactly(peer, 100) == b"queued"


def test_what_is_queued_leaves_while_the_handler_waits_for_something_else() -> None:
    with serving(b"one\ntwo\n") as (ours, peer):
        go_on = Event()

        def handle() -> None:
            ours.read_line()
            ours.send(b"queued")
            go_on.wait()

        handler = gevent.spawn(handle)
        assert receive_exactly(peer, 6) == b"queued"
        go_on.set()
        finish(handler)


def test_what_was_queued_and_could_not_be_sent_is_known_to_writes_and_reads() -> None:
    with serving(b"one\ntwo\nthree\n") as (ours, peer):
        assert ours.read_line() == b"one"
        reset(peer)
        wait_until(
            lambda: ours.get_sock_opt(socket.TCP_INFO, socket.IPPROTO_TCP) & 0xFF == 7, "the reset is here"
        )
        ours.send(b"queued")
        gevent.sleep(0)  # it leaves, or rather not
        for _ in range(2):
            assert stopped(lambda: ours.send(b"next"), gnet.BrokenSendError).bytes_sent == 0
        assert ours.read_line() == b"two"
        assert ours.read_line() == b"three"
        for _ in range(2):
            error = stopped(lambda: ours.read_line(flags=gnet.SocketFlag(0)), OSError)
            assert error.errno in (errno.ECONNRESET, errno.EPIPE)
        assert ours.read_line() == b""


def test_a_close_of_what_the_peer_does_not_read_gives_up_in_time_and_resets() -> None:
    with connection() as (ours, peer):
        size = 8_000_000
        assert ours.try_send(b"x" * size)
        with elapsed() as milliseconds:
            ours.close(timeout=5 * SOON)
        assert 4.5 * SOON <= milliseconds() < 25 * SOON
        received = 0
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while part := peer.recv(1 << 20):
                received += len(part)
        assert received < size


def test_a_close_of_what_the_peer_reads_slowly_ends_in_order() -> None:
    with connection() as (ours, peer):
        data = b"x" * 8_000_000
        assert ours.try_send(data)
        closing = waiting(ours.close)
        assert receive_exactly(peer, len(data) + 1) == data
        finish(closing)


def test_messages_of_several_greenlets_arrive_whole_and_in_the_order_of_the_calls() -> None:
    with connection() as (ours, peer):
        messages = [bytes([65 + number]) * 2_000_000 for number in range(6)]
        senders = [gevent.spawn(ours.send, message) for message in messages]
        gevent.sleep(0)
        assert receive_exactly(peer, 12_000_000) == b"".join(messages)
        gevent.joinall(senders, raise_error=True, timeout=GUARD / 1000)


@pytest.mark.parametrize("coalesce", [True, False])
def test_an_empty_send_while_input_waits_is_told_that_the_write_side_is_shut(coalesce: bool) -> None:
    with connection() as (ours, peer):
        ours.coalesce = coalesce
        peer.sendall(b"1\n2\n")
        assert ours.read_line() == b"1"
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            ours.send(b"")


def test_empty_sends_while_input_waits_leave_nothing_behind() -> None:
    with connection() as (ours, peer):
        ours.coalesce = True
        peer.sendall(b"1\n2\n")
        assert ours.read_line() == b"1"
        for _ in range(10):
            ours.send(b"")
        assert not any(ours._writer.queue.pieces)
        assert len(ours._writer.queue.pieces) <= 1
