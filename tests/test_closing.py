"""gnet.sockets: shutdown, close, detach, being dropped; calls that come too late or from another thread."""

from __future__ import annotations

import errno
import gc
import os
import socket as stdlib_socket  # for its constants; in a patched process its sockets are gevent's
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent import subprocess

import gnet
from gnet import SOBool, SocketFlag
from tests.faults.peers import connection, reset, wait_until
from tests.loopback import (
    GUARD,
    error_of,
    in_another_thread,
    listening,
    udp_socket,
    unix_socket,
)

# Ending: shutdown


def test_a_half_closed_connection_still_receives() -> None:
    with connection() as (ours, peer):
        ours.send(b"request")
        ours.shutdown(stdlib_socket.SHUT_WR)
        assert (peer.recv(10), peer.recv(10)) == (b"request", b"")
        peer.sendall(b"answer\n")
        assert ours.read_line() == b"answer"
        with pytest.raises(BrokenPipeError, match=r"send to 127\.0\.0\.1:\d+: the write side is shut down"):
            ours.send(b"more")
        assert ours.try_send(b"more") is False


def test_after_the_read_side_is_shut_down_reads_end_and_sends_go_on() -> None:
    with connection() as (ours, peer):
        ours.shutdown(stdlib_socket.SHUT_RD)
        assert ours.recv(1) == b""
        ours.send(b"still")
        assert peer.recv(10) == b"still"


def test_a_shutdown_of_both_sides_ends_both() -> None:
    with connection() as (ours, peer):
        ours.shutdown(stdlib_socket.SHUT_RDWR)
        assert (peer.recv(10), ours.recv(10)) == (b"", b"")
        with pytest.raises(BrokenPipeError):
            ours.send(b"more")


@pytest.mark.parametrize("end", ["shutdown", "close"])
def test_what_is_queued_goes_out_before_the_end(end: str) -> None:
    with connection(accepted=True) as (ours, peer):
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"
        wait_until(ours.has_data_buffered, "the second line is here")
        ours.send(b"answer")
        if end == "shutdown":
            ours.shutdown(stdlib_socket.SHUT_WR)
        else:
            assert ours.read_line() == b"two"
            ours.close()
        assert (peer.recv(10), peer.recv(10)) == (b"answer", b"")


@pytest.mark.parametrize("how", [-1, 3, None, "SHUT_WR"])
def test_a_direction_that_is_none_is_refused_and_nothing_is_shut(how: Any) -> None:
    with connection() as (ours, peer):
        with pytest.raises((TypeError, ValueError), match="expected SHUT_RD, SHUT_WR or SHUT_RDWR"):
            ours.shutdown(how)
        ours.send(b"go on")
        assert peer.recv(10) == b"go on"


def test_a_shutdown_without_a_connection_says_so() -> None:
    with gnet.new_socket() as socket:
        with pytest.raises(OSError, match="shutdown of an unconnected socket") as caught:
            socket.shutdown(stdlib_socket.SHUT_WR)
        assert caught.value.errno == errno.ENOTCONN


# Ending: close


def test_closing_is_done_once_and_again_without_effect() -> None:
    with connection() as (ours, peer):
        ours.close()
        ours.close()
        ours.close(SocketFlag(0), timeout=0)
        assert peer.recv(1) == b""
        assert (ours.closed, ours.get_fd(), ours.fileno()) == (True, -1, -1)
        assert repr(ours) == "<gnet.Socket closed>"


def test_a_with_block_closes_and_lets_errors_through() -> None:
    seen = []

    def fail() -> None:
        with gnet.new_socket() as socket:
            seen.append(socket)
            raise KeyError(socket.closed)

    with pytest.raises(KeyError, match="False"):
        fail()
    assert seen[0].closed


@pytest.mark.parametrize(
    "arguments",
    [{"timeout": float("nan")}, {"timeout": -2}, {"timeout": "1"}, {"flags": 2}, {"flags": None}],
    ids=str,
)
def test_a_close_with_bad_arguments_does_not_close(arguments: dict[str, Any]) -> None:
    with connection() as (ours, peer):
        with pytest.raises((TypeError, ValueError), match="expected"):
            ours.close(**arguments)
        ours.send(b"open")
        assert peer.recv(10) == b"open"


CALLS: dict[str, Callable[[gnet.Socket], Any]] = {
    "accept": lambda socket: socket.accept(),
    "accept_addr": lambda socket: socket.accept_addr(),
    "bind_addr": lambda socket: socket.bind_addr(),
    "bind_unix": lambda socket: socket.bind_unix(""),
    "connect": lambda socket: socket.connect("127.0.0.1", 9),
    "connect_unix": lambda socket: socket.connect_unix("\0name"),
    "detach": lambda socket: socket.detach(),
    "flush": lambda socket: socket.flush(),
    "get_local_addr": lambda socket: socket.get_local_addr(),
    "get_peer_addr": lambda socket: socket.get_peer_addr(),
    "get_sock_opt": lambda socket: socket.get_sock_opt(SOBool.KEEP_ALIVE),
    "get_socket_error": lambda socket: socket.get_socket_error(),
    "iter": lambda socket: next(iter(socket)),
    "lines": lambda socket: next(socket.lines()),
    "listen": lambda socket: socket.listen(),
    "peek": lambda socket: socket.peek(1),
    "peek of nothing": lambda socket: socket.peek(0),
    "read_line": lambda socket: socket.read_line(),
    "read_line of nothing": lambda socket: socket.read_line(max_length=0),
    "recv": lambda socket: socket.recv(1),
    "recv of nothing": lambda socket: socket.recv(0),
    "recv peeking": lambda socket: socket.recv(1, flags=SocketFlag.PEEK),
    "recv_exactly": lambda socket: socket.recv_exactly(1),
    "recv_into": lambda socket: socket.recv_into(bytearray(1)),
    "recv_some": lambda socket: socket.recv_some(1),
    "recv_until": lambda socket: socket.recv_until(b"\n"),
    "send": lambda socket: socket.send(b"x"),
    "set_keepalive": lambda socket: socket.set_keepalive(1000, 1000, 3),
    "set_sock_opt": lambda socket: socket.set_sock_opt(SOBool.KEEP_ALIVE, True),
    "set_user_timeout": lambda socket: socket.set_user_timeout(1000),
    "shutdown": lambda socket: socket.shutdown(stdlib_socket.SHUT_WR),
    "skip": lambda socket: socket.skip(1),
    "socket_error": lambda socket: socket.socket_error(),
    "try_read_line": lambda socket: socket.try_read_line(),
    "try_send": lambda socket: socket.try_send(b"x"),
}

DATAGRAM_CALLS: dict[str, Callable[[gnet.Socket], Any]] = {
    "flush": lambda socket: socket.flush(),
    "peek": lambda socket: socket.peek(1),
    "recv": lambda socket: socket.recv(1),
    "recv_from": lambda socket: socket.recv_from(1),
    "send": lambda socket: socket.send(b"x"),
    "send_to": lambda socket: socket.send_to("127.0.0.1", 9, b"x"),
    "try_send": lambda socket: socket.try_send(b"x"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_socket_says_so_in_every_call(call: Callable[[gnet.Socket], Any]) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"never read\n")
        ours.peek(1)
        ours.close()
        with pytest.raises(gnet.ClosedError, match="the socket is closed"):
            call(ours)


@pytest.mark.parametrize("call", DATAGRAM_CALLS.values(), ids=DATAGRAM_CALLS)
def test_a_closed_datagram_socket_says_so_in_every_call(call: Callable[[gnet.Socket], Any]) -> None:
    with udp_socket() as socket:
        socket.close()
        with pytest.raises(gnet.ClosedError, match="the socket is closed"):
            call(socket)


def test_no_error_is_its_own_cause() -> None:
    # Who follows the causes of an error to the first one would never come to it.
    circular = []
    with udp_socket() as datagrams, listening() as server, gnet.new_socket() as stream:
        timeouts: dict[str, Callable[[], Any]] = {
            "accept": lambda: server.accept(timeout=1),
            "recv_from": lambda: datagrams.recv_from(1, timeout=1),
        }
        for name, late in timeouts.items():
            with pytest.raises(gnet.TimeoutError) as caught:
                late()
            if caught.value.__cause__ is caught.value:
                circular.append(f"TimeoutError of {name}")
        for socket, calls in ((datagrams, DATAGRAM_CALLS), (stream, CALLS)):
            socket.close()
            for name, call in calls.items():
                try:
                    call(socket)
                except gnet.ClosedError as error:
                    if error.__cause__ is error:
                        circular.append(f"ClosedError of {name}")
    assert circular == []


def test_what_was_buffered_is_dropped_by_close_and_a_loop_over_lines_ends_with_the_error() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\ntwo\nthree\n")
        lines = ours.lines()
        assert next(lines) == b"one"
        ours.close()
        assert ours.has_data_buffered() is False
        with pytest.raises(gnet.ClosedError):
            next(lines)


def test_closing_wakes_a_reader_at_once() -> None:
    with connection() as (ours, peer):
        reader = gevent.spawn(error_of, ours.read_line)
        gevent.idle()
        ours.close()
        assert isinstance(reader.get(timeout=GUARD / 1000), gnet.ClosedError)
        assert peer.recv(1) == b""


# Ending: detach and being dropped


def test_a_detached_descriptor_is_blocking_again_and_the_socket_is_done() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"line\n")
        assert ours.read_line() == b"line"
        fd = ours.detach()
        try:
            assert (ours.closed, ours.fileno()) == (True, -1)
            assert os.get_blocking(fd) is True
            with pytest.raises(gnet.ClosedError):
                ours.recv(1)
            peer.sendall(b"by descriptor")
            assert os.read(fd, 20) == b"by descriptor"
        finally:
            os.close(fd)


def test_detaching_is_refused_while_bytes_are_buffered_in_either_direction() -> None:
    with connection(accepted=True) as (ours, peer):
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"
        wait_until(ours.has_data_buffered, "the second line is here")
        with pytest.raises(ValueError, match="bytes are buffered"):
            ours.detach()
        ours.send(b"queued")
        assert ours.read_line() == b"two"
        with pytest.raises(ValueError, match="bytes are buffered"):
            ours.detach()
        ours.flush()
        os.close(ours.detach())
        assert peer.recv(10) == b"queued"


def test_detaching_wakes_a_reader_with_the_error_of_a_closed_socket() -> None:
    with connection() as (ours, _):
        reader = gevent.spawn(error_of, ours.read_line)
        gevent.idle()
        os.close(ours.detach())
        assert isinstance(reader.get(timeout=GUARD / 1000), gnet.ClosedError)


def test_a_socket_that_is_dropped_unclosed_warns_where_it_was_made_and_is_closed() -> None:
    with connection() as (ours, peer):
        fd = ours.detach()
        tracemalloc.start(5)
        try:
            dropped = gnet.new_socket(fd=fd)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                del dropped
                gc.collect()
            source = tracemalloc.get_object_traceback(caught[0].source)
        finally:
            tracemalloc.stop()
        assert [warning.category for warning in caught] == [ResourceWarning]
        assert f"unclosed <gnet.Socket fd={fd}" in str(caught[0].message)
        assert source is not None
        assert any(frame.filename == __file__ for frame in source)
        assert peer.recv(1) == b""


def test_a_socket_that_waited_and_is_dropped_unclosed_is_collected_too() -> None:
    with connection() as (ours, peer):
        dropped = gnet.new_socket(fd=ours.detach())
        with pytest.raises(gnet.TimeoutError):
            dropped.recv(1, timeout=1)
        gevent.sleep(0)  # the hub, which threw the timeout, still holds it and so its traceback
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del dropped
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]
        assert peer.recv(1) == b""


DROPPED_WITH_WARNINGS_AS_ERRORS = """
import gc, gnet, os, sys
server = gnet.new_socket()
server.bind_addr(address="127.0.0.1")
server.listen()
client = gnet.dial(*server.get_local_addr())
peer = server.accept()
sys.unraisablehook = lambda unraisable: None
del client
gc.collect()
assert peer.recv(1, timeout=5000) == b""
peer.close()
server.close()
"""


@pytest.mark.plain_only
def test_a_dropped_socket_is_closed_also_where_warnings_are_errors() -> None:
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", DROPPED_WITH_WARNINGS_AS_ERRORS]
    done = subprocess.run(command, capture_output=True, timeout=GUARD / 1000, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_and_detached_sockets_are_dropped_without_a_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for end in (lambda socket: os.close(socket.detach()), gnet.Socket.close):
            socket = gnet.new_socket()
            end(socket)
            del socket
            gc.collect()
    assert [str(warning.message) for warning in caught] == []


# Whose it is


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name not in ("bind_unix", "connect_unix") and "nothing" not in name]
)
def test_a_call_from_another_thread_is_refused(name: str) -> None:
    with connection() as (ours, peer):
        peer.sendall(b"line\n")
        ours.peek(1)
        error = in_another_thread(lambda: CALLS[name](ours))
        assert type(error) is RuntimeError, repr(error)
        assert "another thread" in str(error)
        assert ours.read_line() == b"line"


@pytest.mark.parametrize("name", ["send", "flush", "shutdown", "close"])
def test_a_call_from_another_thread_is_refused_while_answers_are_queued(name: str) -> None:
    calls = CALLS | {"close": lambda socket: socket.close()}
    with connection(accepted=True) as (ours, peer):
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"
        wait_until(ours.has_data_buffered, "the second line is here")
        error = in_another_thread(lambda: calls[name](ours))
        assert type(error) is RuntimeError, repr(error)
        ours.send(b"answer")
        ours.flush()
        assert peer.recv(10) == b"answer"


@pytest.mark.parametrize("call", DATAGRAM_CALLS.values(), ids=DATAGRAM_CALLS)
def test_a_call_on_a_datagram_socket_from_another_thread_is_refused(
    call: Callable[[gnet.Socket], Any],
) -> None:
    with udp_socket() as socket:
        socket.connect(*socket.get_local_addr())
        socket.send(b"1")
        error = in_another_thread(lambda: call(socket))
        assert type(error) is RuntimeError, repr(error)
        assert socket.recv(10, timeout=GUARD) == b"1"


def test_a_unix_socket_is_no_other_threads_either() -> None:
    for name in ("bind_unix", "connect_unix"):
        with unix_socket() as socket:
            assert type(in_another_thread(lambda: CALLS[name](socket))) is RuntimeError  # noqa: B023


def test_a_reset_closes_as_quietly_as_an_end() -> None:
    with connection() as (ours, peer):
        reset(peer)
        closed_state = 7  # of TCP, in the first byte of TCP_INFO
        wait_until(
            lambda: ours.get_sock_opt(stdlib_socket.TCP_INFO, gnet.IPPROTO_TCP) & 0xFF == closed_state,
            "the reset is here",
        )
        ours.close(SocketFlag(0))
        assert ours.closed


def test_a_close_that_cannot_hand_over_what_was_sent_resets_the_connection() -> None:
    with connection(accepted=True, receive_buffer=4096) as (ours, peer):
        while ours.try_send(bytes(65536)):
            pass
        ours.close(timeout=0)
        assert isinstance(error_of(lambda: [*iter(lambda: peer.recv(1 << 20), b"")]), ConnectionResetError)
