"""gnet.dataflow: what the calls that move data make of bad arguments, and how they send.

The writer behind them is `test_writing.py`, the readers are `test_reading.py` and `test_datagrams.py`.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import gnet
from gnet import SocketFlag
from tests.faults.peers import connection, wait_until
from tests.loopback import GUARD, udp_socket

# Bad arguments

BAD_SIZES: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (-1, ValueError, "at least 0, got -1"),
    "very negative": (-(10**30), ValueError, "at least 0"),
    "more than there is memory": (sys.maxsize + 1, ValueError, "at most"),
    "a float": (1.0, TypeError, "expected an int, got float"),
    "a bool": (True, TypeError, "expected an int, got bool"),
    "text": ("1", TypeError, "expected an int, got str"),
    "None": (None, TypeError, "expected an int, got NoneType"),
}

SIZED: dict[str, Callable[[gnet.Socket, Any], Any]] = {
    "lines: max_length": lambda socket, size: socket.lines(max_length=size),
    "peek: size": lambda socket, size: socket.peek(size),
    "read_line: max_length": lambda socket, size: socket.read_line(max_length=size),
    "recv: size": lambda socket, size: socket.recv(size),
    "recv_exactly: size": lambda socket, size: socket.recv_exactly(size),
    "recv_into: size": lambda socket, size: socket.recv_into(bytearray(10), size),
    "recv_some: max_size": lambda socket, size: socket.recv_some(size),
    "recv_until: max_length": lambda socket, size: socket.recv_until(b"\n", max_length=size),
    "skip: size": lambda socket, size: socket.skip(size),
    "try_read_line: max_length": lambda socket, size: socket.try_read_line(max_length=size),
}

TIMED: dict[str, Callable[..., Any]] = {
    "flush": lambda socket, **more: socket.flush(**more),
    "lines": lambda socket, **more: socket.lines(**more),
    "peek": lambda socket, **more: socket.peek(1, **more),
    "read_line": lambda socket, **more: socket.read_line(**more),
    "recv": lambda socket, **more: socket.recv(1, **more),
    "recv_exactly": lambda socket, **more: socket.recv_exactly(1, **more),
    "recv_into": lambda socket, **more: socket.recv_into(bytearray(10), **more),
    "recv_some": lambda socket, **more: socket.recv_some(1, **more),
    "recv_until": lambda socket, **more: socket.recv_until(b"\n", **more),
    "send": lambda socket, **more: socket.send(b"never sent", **more),
    "skip": lambda socket, **more: socket.skip(1, **more),
}

BAD_TIMEOUTS = {
    "no number": float("nan"),
    "negative": -2,
    "a little negative": -0.001,
    "text": "1",
    "a bool": False,
}


def check_as_before(ours: gnet.Socket, peer: Any) -> None:
    """Fail unless nothing was taken from a socket for which `data` was sent, and nothing was sent on it."""
    ours.send(b"first ")
    assert (ours.recv_exactly(9), peer.recv(100)) == (b"all data\n", b"first ")


@pytest.mark.parametrize("buffered_already", [False, True], ids=["in the kernel", "in the buffer"])
@pytest.mark.parametrize("name", SIZED)
def test_a_size_that_is_none_is_refused_and_nothing_is_taken(name: str, buffered_already: bool) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"all data\n")
        if buffered_already:
            assert ours.peek(9) == b"all data\n"
        ours.timeout = 1000  # for what is not refused
        for size, kind, message in BAD_SIZES.values():
            with pytest.raises(kind, match=f"{name}: .*{message}"):
                SIZED[name](ours, size)
        check_as_before(ours, peer)


@pytest.mark.parametrize("name", TIMED)
def test_a_timeout_that_is_none_is_refused_and_nothing_is_taken_or_sent(name: str) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"all data\n")
        assert ours.peek(9) == b"all data\n"
        for timeout in BAD_TIMEOUTS.values():
            with pytest.raises((TypeError, ValueError), match="timeout: expected"):
                TIMED[name](ours, timeout=timeout)
        check_as_before(ours, peer)


@pytest.mark.parametrize("name", ["peek", "read_line", "recv", "recv_into", "recv_some", "send", "skip"])
def test_flags_of_another_kind_are_refused_and_nothing_is_taken_or_sent(name: str) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"all data\n")
        for flags in (2, None, "PEEK", True):
            with pytest.raises(TypeError, match="flags: expected a SocketFlag"):
                TIMED[name](ours, flags=flags)
        check_as_before(ours, peer)


BAD_CALLS: dict[str, tuple[Callable[[gnet.Socket], Any], type[Exception], str]] = {
    "at least a byte": (lambda socket: socket.recv_some(0), ValueError, "at least 1, got 0"),
    "a delimiter as text": (lambda socket: socket.recv_until("\n"), TypeError, "expected bytes, got str"),
    "no delimiter": (lambda socket: socket.recv_until(b""), ValueError, "the delimiter is empty"),
    "a limit of nothing": (
        lambda socket: socket.recv_until(b"\n", max_length=0),
        ValueError,
        "recv_until: max_length",
    ),
    "a limit below the delimiter": (
        lambda socket: socket.recv_until(b"\r\n", max_length=1),
        ValueError,
        "recv_until: max_length",
    ),
    "no buffer": (lambda socket: socket.recv_into("text"), TypeError, "expected a writable buffer, got str"),
    "a read-only buffer": (lambda socket: socket.recv_into(b"1234"), TypeError, "is read-only"),
    "a buffer too small": (
        lambda socket: socket.recv_into(bytearray(2), 3),
        ValueError,
        "3 bytes wanted into a buffer of 2",
    ),
    "a buffer with gaps": (
        lambda socket: socket.recv_into(memoryview(bytearray(8))[::2]),
        TypeError,
        "recv_into",
    ),
    "recv_from": (lambda socket: socket.recv_from(9), ValueError, "recv_from: needs a datagram socket"),
    "send_to": (
        lambda socket: socket.send_to("127.0.0.1", 9, b"x"),
        ValueError,
        "send_to: needs a datagram socket",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_that_makes_no_sense_is_refused_and_the_socket_is_as_before(
    call: Callable[[gnet.Socket], Any], kind: type[Exception], message: str
) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"all data\n")
        with pytest.raises(kind, match=message):
            call(ours)
        check_as_before(ours, peer)


BAD_DATA: dict[str, tuple[Any, str]] = {
    "text": ("text", r"expected bytes, got str 'text'; encode it"),
    "None": (None, "expected bytes, bytearray or memoryview, got NoneType"),
    "a number": (5, "got int"),
    "a list": ([1, 2], "got list"),
    "a view with gaps": (memoryview(b"abcdef")[::2], "contiguous"),
}

SENDS: dict[str, Callable[[gnet.Socket, Any], Any]] = {
    "send": lambda socket, data: socket.send(data),
    "try_send": lambda socket, data: socket.try_send(data),
    "send_to": lambda socket, data: socket.send_to("127.0.0.1", 9, data),
    "send with &=": lambda socket, data: socket.__iand__(data),
}


@pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)
@pytest.mark.parametrize(("data", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_what_is_no_data_is_refused_and_nothing_is_sent(
    data: Any, message: str, send: Callable[[gnet.Socket, Any], Any]
) -> None:
    is_send_to = send is SENDS["send_to"]
    with connection() as (ours, peer), udp_socket() as datagrams:
        with pytest.raises(TypeError, match=message):
            send(datagrams if is_send_to else ours, data)
        ours.send(b"sound")
        assert peer.recv(10) == b"sound"


# Sending

DATA: dict[str, Any] = {
    "bytes": b"1234",
    "bytearray": bytearray(b"1234"),
    "memoryview": memoryview(b"xx1234xx")[2:6],
    "a view of numbers": memoryview(array.array("H", [0x3231, 0x3433])),
}


@pytest.mark.skipif(sys.byteorder != "little", reason="the numbers are written for it")
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_bytes_and_views_of_bytes_are_sent_as_they_are(data: Any) -> None:
    with connection() as (ours, peer):
        ours.send(data)
        assert ours.try_send(data) is True
        ours &= data
        ours.send(b"")
        assert ours.try_send(b"") is True
        ours.flush()
        assert b"".join(peer.recv(4) for _ in range(3)) == b"1234" * 3


def test_the_operator_sends_and_gives_the_socket_itself() -> None:
    with connection() as (ours, peer):
        before = ours
        ours &= b"with an operator"
        assert ours is before
        assert peer.recv(100) == b"with an operator"


@pytest.mark.parametrize("flags", [SocketFlag.SAFE_DISCONN, SocketFlag(0)])
def test_flags_do_not_change_what_send_does(flags: SocketFlag) -> None:
    with connection() as (ours, peer):
        ours.send(b"data", flags)
        assert peer.recv(10) == b"data"
        peer.close()

        def send_until_it_fails() -> None:
            while True:
                ours.send(b"more", flags)
                gevent.sleep(0)

        with pytest.raises((ConnectionResetError, BrokenPipeError), match=r"send to 127\.0\.0\.1:\d+ "):
            send_until_it_fails()


def test_trying_to_send_takes_all_or_nothing() -> None:
    with connection() as (ours, peer):
        taken = 0
        while ours.try_send(b"%07d\n" % taken * 2048):
            taken += 1
        assert ours.try_send(b"not this") is False
        assert taken > 0
        received = bytearray()
        while len(received) < taken * 8 * 2048:
            received += peer.recv(1 << 20)
        assert received == b"".join(b"%07d\n" % number * 2048 for number in range(taken))
        ours.send(b"but this")
        assert peer.recv(100) == b"but this"


@pytest.mark.parametrize("coalesce", [True, False])
def test_answers_wait_for_each_other_just_while_input_waits_and_coalesce_is_on(coalesce: bool) -> None:
    with connection(accepted=True) as (ours, peer):
        assert ours.coalesce is True
        ours.coalesce = coalesce
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"
        wait_until(ours.has_data_buffered, "the second line is here")
        peer.setblocking(False)
        ours.send(b"1")
        if coalesce:
            with pytest.raises(BlockingIOError):
                peer.recv(10)
        else:
            assert peer.recv(10) == b"1"
        assert ours.read_line() == b"two"
        ours.send(b"2")
        assert peer.recv(10) == (b"12" if coalesce else b"2")


def test_a_dialled_socket_coalesces_where_that_was_asked_for() -> None:
    with connection() as (ours, peer):
        assert ours.coalesce is False
        ours.coalesce = True
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"
        wait_until(ours.has_data_buffered, "the second line is here")
        peer.setblocking(False)
        ours.send(b"1")
        with pytest.raises(BlockingIOError):
            peer.recv(10)
        ours.flush()
        assert peer.recv(10) == b"1"


def test_a_flush_waits_until_the_kernel_has_all_and_no_longer_than_its_timeout() -> None:
    with connection() as (ours, peer):
        while ours.try_send(bytes(65536)):
            pass
        with pytest.raises(gnet.TimeoutError, match=r"flush to 127\.0\.0\.1:\d+: not done within 20 ms"):
            ours.flush(timeout=20)
        flushing = gevent.spawn(ours.flush, GUARD)
        while not flushing.ready():
            peer.recv(1 << 20)
        flushing.get()
