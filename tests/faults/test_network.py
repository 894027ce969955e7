"""What the network and a peer can do to an established stream: rows A1–A3, A5–A8, A22 of the fault catalogue.

A row is the name that a test begins with. Rows about sending, spurious wake-ups and floods are in
`test_load.py`, those about names and connecting in `test_connecting.py`, datagrams in `test_datagrams.py`.
"""

from __future__ import annotations

import errno
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket

import gnet
from gnet import SocketFlag
from tests.conftest import require_program
from tests.faults.peers import (
    GUARD,
    connection,
    elapsed,
    network_namespace,
    program,
    receive_exactly,
    receives_nothing,
    reset,
    run,
    wait_until,
)

NO_FLAGS = SocketFlag(0)


def state_of(ours: gnet.Socket) -> int:
    """Give the kernel's state of a TCP connection: 1 established, 7 closed, 8 close-wait."""
    return int(ours.get_sock_opt(socket.TCP_INFO, socket.IPPROTO_TCP)) & 0xFF


# A1: a reset


@pytest.mark.parametrize("waiting", [False, True], ids=["reset before the read", "reset during the read"])
def test_a1_lines_before_a_reset_are_delivered_and_then_it_raises(waiting: bool) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\ntwo\npart")
        if waiting:
            gevent.get_hub().loop.run_callback(reset, peer)
        else:
            reset(peer)
        lines = ours.lines()
        assert [next(lines), next(lines)] == [b"one", b"two"]
        with pytest.raises(ConnectionResetError, match=r"lines from 127\.0\.0\.1:\d+"):
            next(lines)
        assert ours.recv(100) == b"part"


def test_a1_a_reset_reads_as_the_end_under_safe_disconn() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\npart")
        reset(peer)
        assert [ours.read_line(), ours.read_line()] == [b"one", b""]
        assert [ours.recv(100), ours.recv(100), ours.recv_some(1)] == [b"part", b"", b""]


READS: dict[str, Callable[[gnet.Socket], Any]] = {
    "recv": lambda ours: ours.recv(10, flags=NO_FLAGS),
    "recv_into": lambda ours: ours.recv_into(bytearray(10), flags=NO_FLAGS),
    "recv_some": lambda ours: ours.recv_some(10, flags=NO_FLAGS),
    "recv_exactly": lambda ours: ours.recv_exactly(10),
    "recv_until": lambda ours: ours.recv_until(b"\n"),
    "read_line": lambda ours: ours.read_line(flags=NO_FLAGS),
    "lines": lambda ours: list(ours.lines()),
    "skip": lambda ours: ours.skip(10, flags=NO_FLAGS),
    "peek": lambda ours: ours.peek(10, flags=NO_FLAGS),
}


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a1_a_reset_is_raised_by_every_read_again_and_again(
    read: Callable[[gnet.Socket], Any], buffered: bool
) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"data")
        reset(peer)
        assert ours.recv(4) == b"data"
        for _ in range(3):
            with pytest.raises(ConnectionResetError, match=r"from 127\.0\.0\.1:\d+: Connection reset"):
                read(ours)


@pytest.mark.parametrize("first", ["send", "try_send", "get_socket_error"])
def test_a1_a_reset_that_another_call_meets_first_is_no_clean_end_for_reads(first: str) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\npart")
        reset(peer)
        wait_until(lambda: state_of(ours) == 7, "the reset is here")
        if first == "send":
            with pytest.raises(ConnectionResetError, match=r"send to 127\.0\.0\.1:\d+ \(0 of 4 bytes sent\)"):
                ours.send(b"more")
        elif first == "try_send":
            assert ours.try_send(b"more") is False
        else:
            assert ours.get_socket_error() == errno.ECONNRESET
        lines = ours.lines()
        assert next(lines) == b"one"
        with pytest.raises(ConnectionResetError):
            next(lines)
        assert ours.recv(100, flags=NO_FLAGS) == b"part"
        with pytest.raises(ConnectionResetError):
            ours.recv(100, flags=NO_FLAGS)


# A2, A3: the end of the stream


def test_a2_an_end_in_a_line_is_incomplete_for_lines_and_takes_nothing() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\npart")
        peer.close()
        lines = ours.lines()
        assert next(lines) == b"one"
        for _ in range(2):
            with pytest.raises(
                gnet.IncompleteReadError, match=r"lines from 127\.0\.0\.1:\d+.* 4 bytes"
            ) as error:
                next(lines if _ == 0 else ours.lines())
            assert (error.value.received, error.value.expected) == (4, None)
        with pytest.raises(gnet.IncompleteReadError, match=r"recv_until .* 4 bytes without b'\\n'"):
            ours.recv_until(b"\n")
        with pytest.raises(gnet.IncompleteReadError, match=r"recv_exactly .* 4 bytes of 9"):
            ours.recv_exactly(9)
        assert [ours.recv(100), ours.recv(100)] == [b"part", b""]


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a2_an_end_in_a_line_leaves_the_line_to_recv_after_read_line(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"one\npart")
        peer.close()
        assert [ours.read_line(), ours.read_line(), ours.read_line()] == [b"one", b"", b""]
        assert ours.try_read_line() == (gnet.ReadLineResult.DISCONNECTED, b"part")
        assert [ours.recv(100), ours.recv(100)] == [b"part", b""]


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a3_an_end_between_lines_is_an_end_and_no_error(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"one\r\ntwo\n")
        peer.close()
        assert list(ours.lines()) == [b"one", b"two"]
        assert list(ours) == []
        assert ours.read_line(flags=NO_FLAGS) == ours.recv(9, flags=NO_FLAGS) == ours.recv_some(9) == b""
        assert ours.skip(9) == 0
        assert ours.try_read_line() == (gnet.ReadLineResult.DISCONNECTED, b"")
        with pytest.raises(OSError, match="no error is known"):
            ours.get_socket_error()


# A5, A6: the peer vanishes


@contextmanager
def vanishing(name: str) -> Iterator[dict[str, Any]]:
    """What a program found out whose connection stopped to carry anything, in a network of its own."""
    tc = require_program("tc")
    with network_namespace() as inside:
        yield run([*inside, *program(name, tc)])


def test_a5_a_peer_that_vanishes_while_we_read_ends_by_deadline_or_keepalive() -> None:
    with vanishing("vanish_while_reading") as found:
        by_deadline, by_keepalive, again = found["deadline"], found["keepalive"], found["again"]
        assert by_deadline["type"] == "gnet.errors.TimeoutError"
        assert 200 <= by_deadline["ms"] < 1000
        # The kernel's own error, which is final, after what had arrived: 1 s of silence, a probe, 1 s more.
        assert (by_keepalive["type"], by_keepalive["errno"]) == ("builtins.TimeoutError", errno.ETIMEDOUT)
        assert "read_line from 127.0.0.1:" in by_keepalive["text"]
        assert by_keepalive["ms"] < 3000 * 5
        assert found["rest"] == "part"
        assert (again["type"], again["errno"]) == ("builtins.TimeoutError", errno.ETIMEDOUT)


def test_a6_a_peer_that_vanishes_with_unsent_data_fails_the_send_within_the_user_timeout() -> None:
    with vanishing("vanish_while_sending") as found:
        send, again, read = found["send"], found["again"], found["read"]
        assert (send["type"], send["errno"]) == ("builtins.TimeoutError", errno.ETIMEDOUT)
        assert 0 < send["bytes_sent"] < 64 << 20
        assert "send to 127.0.0.1:" in send["text"]
        assert f"({send['bytes_sent']} of {64 << 20} bytes sent)" in send["text"]
        assert send["ms"] < 2000 * 5
        assert (again["type"], again["bytes_sent"]) == ("gnet.errors.BrokenSendError", send["bytes_sent"])
        assert (read["type"], read["errno"]) == ("builtins.TimeoutError", errno.ETIMEDOUT)


def test_a6_a_reader_learns_that_what_was_sent_before_was_never_acknowledged() -> None:
    with vanishing("vanish_after_sending") as found:
        assert (found["read"]["type"], found["read"]["errno"]) == ("builtins.TimeoutError", errno.ETIMEDOUT)
        assert found["read"]["ms"] < 2000 * 5


# A7: a peer that does not read


def test_a7_a_send_to_a_peer_that_does_not_read_ends_and_tells_how_much_went() -> None:
    message = bytes(range(251)) * 100_000  # 25 MB, more than any two kernel buffers hold
    with connection() as (ours, peer):
        with elapsed() as ms, pytest.raises(gnet.TimeoutError, match=r"send to 127\.0\.0\.1:\d+") as error:
            ours.send(message, timeout=200)
        assert 200 <= ms() < 1000
        sent = error.value.bytes_sent
        assert 0 < sent < len(message)
        assert f"({sent} of {len(message)} bytes sent)" in str(error.value)
        assert receive_exactly(peer, sent) == message[:sent]
        assert receives_nothing(peer)


def test_a7_a_send_to_a_peer_that_does_not_read_takes_no_memory() -> None:
    message = bytes(64 << 20)
    with connection() as (ours, _):
        tracemalloc.start()
        try:
            with pytest.raises(gnet.TimeoutError):
                ours.send(message, timeout=200)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


def test_a7_answers_that_a_pipelining_peer_does_not_read_are_held_back_and_none_is_lost() -> None:
    answer = bytes(range(250)) * 4
    with connection(accepted=True) as (ours, peer):
        peer.sendall(b"question\n" * 10)
        assert ours.read_line() == b"question"
        assert ours.coalesce
        assert ours.has_data_buffered()
        sent = 0
        tracemalloc.start()
        try:
            with pytest.raises(gnet.TimeoutError) as error:  # noqa: PT012  # which of them waits is the kernel's
                while True:
                    ours.send(answer, timeout=100)
                    sent += len(answer)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20
        sent += error.value.bytes_sent
        reading = gevent.spawn(receive_exactly, peer, sent)
        if not error.value.bytes_sent:
            ours.flush()
        assert reading.get() == (answer * (sent // len(answer) + 1))[:sent]
        assert receives_nothing(peer)


# A8: a peer that sends slowly


@contextmanager
def dripping(peer: socket.socket) -> Iterator[None]:
    """Have the peer send a byte every 20 ms."""

    def drip() -> None:
        while True:
            peer.sendall(b"x")
            gevent.sleep(0.02)

    dropping = gevent.spawn(drip)
    try:
        yield
    finally:
        dropping.kill()


SLOW_READS: dict[str, Callable[[gnet.Socket], Any]] = {
    "read_line": lambda ours: ours.read_line(200),
    "recv": lambda ours: ours.recv(10_000, 200),
    "recv_exactly": lambda ours: ours.recv_exactly(10_000, 200),
    "recv_until": lambda ours: ours.recv_until(b"\n", timeout=200),
    "lines": lambda ours: next(ours.lines(timeout=200)),
    "by property": lambda ours: (setattr(ours, "timeout", 200), ours.read_line()),
}


@pytest.mark.parametrize(
    ("name", "buffered"),
    # recv of an unbuffered socket is content with one byte.
    [(name, buffered) for name in SLOW_READS for buffered in (True, False) if buffered or name != "recv"],
)
def test_a8_the_deadline_holds_while_bytes_drip_and_they_stay(name: str, buffered: bool) -> None:
    read = SLOW_READS[name]
    with connection(buffered=buffered) as (ours, peer):
        with dripping(peer):
            with elapsed() as ms, pytest.raises(gnet.TimeoutError, match="200 ms"):
                read(ours)
            assert 200 <= ms() < 1000
        peer.sendall(b"|end\n")
        line = ours.read_line(GUARD)
        assert line.endswith(b"|end")
        assert len(line) > len("|end") + 2  # several drops, among them those from before the timeout
        assert set(line[:-4]) == {ord("x")}


def test_a8_a_block_deadline_holds_while_bytes_drip() -> None:
    with connection() as (ours, peer), dripping(peer):
        with elapsed() as ms, pytest.raises(gnet.TimeoutError), gnet.deadline(200):
            ours.read_line()
        assert 200 <= ms() < 1000


# A22: urgent data


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a22_an_urgent_byte_does_not_put_lines_out_of_step(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"one\nt")
        peer.send(b"!", socket.MSG_OOB)
        peer.sendall(b"wo\nthree\n")
        peer.close()
        assert list(ours.lines()) == [b"one", b"two", b"three"]


def test_a22_an_urgent_byte_alone_is_neither_data_nor_an_end() -> None:
    with connection() as (ours, peer):
        reading = gevent.spawn(ours.read_line, GUARD)
        gevent.sleep(0)
        peer.send(b"!", socket.MSG_OOB)
        with pytest.raises(gevent.Timeout):
            reading.get(timeout=0.05)
        peer.sendall(b"line\n")
        assert reading.get() == b"line"


def test_a22_an_urgent_byte_is_in_line_where_that_was_asked_for() -> None:
    with connection() as (ours, peer):
        ours.set_sock_opt(socket.SO_OOBINLINE, 1, socket.SOL_SOCKET)
        peer.sendall(b"one\nt")
        peer.send(b"!", socket.MSG_OOB)
        peer.sendall(b"wo\nthree\n")
        peer.close()
        assert list(ours.lines()) == [b"one", b"t!wo", b"three"]
