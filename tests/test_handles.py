"""gnet.handles: the timeout, names and options of a socket, and the errors it keeps."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket  # for its constants
import struct
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import gevent
import pytest

import gnet
from gnet import SOBool, SocketFlag
from tests.faults.peers import black_hole, connection, elapsed, reset, wait_until
from tests.loopback import (
    GUARD,
    LATE,
    SOON,
    families,
    listening,
    listening_unix,
    needs_ipv6,
    pair,
    udp_socket,
    unix_socket,
    view_of,
)

SOL_SOCKET = stdlib_socket.SOL_SOCKET
IPPROTO_TCP = stdlib_socket.IPPROTO_TCP

# The timeout


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [(5, 5), (0, 0), (2.5, 2.5), (-1, -1), (None, -1), (timedelta(seconds=1.5), 1500), (float("inf"), -1)],
)
def test_the_timeout_is_kept_in_milliseconds(value: Any, milliseconds: float) -> None:
    with gnet.new_socket() as socket:
        socket.timeout = value
        assert socket.timeout == milliseconds


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), ValueError),
        (-2, ValueError),
        (-0.5, ValueError),
        (timedelta(milliseconds=-1), ValueError),
        ("5", TypeError),
        (True, TypeError),
        (b"5", TypeError),
    ],
    ids=repr,
)
def test_what_is_no_timeout_is_refused_and_the_old_one_stays(value: Any, kind: type[Exception]) -> None:
    with gnet.new_socket() as socket:
        socket.timeout = 7
        with pytest.raises(kind, match="timeout: expected"):
            socket.timeout = value
        assert socket.timeout == 7


READS: dict[str, Callable[..., Any]] = {
    "lines": lambda socket, **timeout: next(socket.lines(**timeout)),
    "peek": lambda socket, **timeout: socket.peek(1, **timeout),
    "read_line": lambda socket, **timeout: socket.read_line(**timeout),
    "recv": lambda socket, **timeout: socket.recv(1, **timeout),
    "recv_exactly": lambda socket, **timeout: socket.recv_exactly(1, **timeout),
    "recv_into": lambda socket, **timeout: socket.recv_into(bytearray(1), **timeout),
    "recv_some": lambda socket, **timeout: socket.recv_some(1, **timeout),
    "recv_until": lambda socket, **timeout: socket.recv_until(b"\n", **timeout),
    "skip": lambda socket, **timeout: socket.skip(1, **timeout),
}


@pytest.mark.parametrize("timeout", [SOON, timedelta(milliseconds=SOON)], ids=["number", "timedelta"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_timeout_of_the_socket_is_the_default_of_every_read(
    read: Callable[..., Any], timeout: Any
) -> None:
    with connection() as (ours, _):
        ours.timeout = timeout
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"):
            read(ours)
        assert SOON / 2 <= taken() < LATE


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_timeout_in_the_call_counts_instead_of_that_of_the_socket(read: Callable[..., Any]) -> None:
    with connection() as (ours, peer):
        ours.timeout = 0
        gevent.spawn_later(0.05, peer.sendall, b"\n")
        assert read(ours, timeout=-1) is not None
        ours.timeout = GUARD
        if ours.has_data_buffered():  # after a peek
            ours.recv(1)
        with pytest.raises(gnet.TimeoutError, match="within 1 ms"):
            read(ours, timeout=1)


def test_the_timeout_of_the_socket_is_the_default_of_the_other_calls_that_wait() -> None:
    with connection() as (ours, _), listening() as server, udp_socket() as datagrams:
        # More than the kernel ever takes: it takes some more when the peer's first acknowledgement is here.
        assert ours.try_send(bytes(8_000_000))
        calls: dict[gnet.Socket, list[Callable[[], Any]]] = {
            ours: [ours.flush, lambda: ours.send(b"x"), lambda: ours.shutdown(stdlib_socket.SHUT_WR)],
            server: [server.accept, server.accept_addr],
            datagrams: [lambda: datagrams.recv_from(1), lambda: datagrams.recv(1)],
        }
        for socket, waits in calls.items():
            socket.timeout = SOON
            for wait in waits:
                with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"):
                    wait()
    with black_hole() as address, gnet.new_socket() as client:
        client.timeout = SOON
        with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"):
            client.connect(*address)


# Identity


def test_a_socket_shows_its_descriptor_and_where_it_leads() -> None:
    with pair() as (client, accepted):
        (_, port), (_, peer) = client.get_local_addr(), accepted.get_local_addr()
        assert client.get_fd() == client.fileno() >= 0
        shown = f"<gnet.Socket fd={client.get_fd()} local=127.0.0.1:{port} peer=127.0.0.1:{peer}>"
        assert repr(client) == shown
    assert repr(client) == "<gnet.Socket closed>"


def test_a_socket_says_whether_it_was_closed_here_and_not_whether_the_peer_has() -> None:
    with connection() as (ours, peer):
        peer.close()
        assert (ours.recv(1), ours.closed) == (b"", False)
        ours.close()
        assert ours.closed is True


def test_a_plain_socket_is_no_tls_socket_before_and_after_it_is_closed() -> None:
    with gnet.new_socket() as socket:
        assert socket.is_ssl() is False
    assert socket.is_ssl() is False


# Addresses


@families
def test_both_ends_of_a_connection_agree_about_their_addresses(host: str) -> None:
    with pair(host) as (client, accepted):
        assert client.get_local_addr() == accepted.get_peer_addr()
        assert client.get_peer_addr() == accepted.get_local_addr()
        assert client.get_local_addr()[0] == host
        assert [type(part) for part in client.get_peer_addr()] == [str, int]


@needs_ipv6
def test_an_ipv4_peer_of_an_ipv6_socket_has_its_address_in_ipv6_form() -> None:
    # Recorded from Nim 1.6.10.
    with listening() as server, gnet.new_socket(gnet.AF_INET6) as client:
        client.connect(*server.get_local_addr(), timeout=GUARD)
        assert client.get_local_addr()[0] == client.get_peer_addr()[0] == "::ffff:127.0.0.1"


def test_unix_sockets_have_a_path_a_name_or_nothing_as_address() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory, "socket"))
        for name in (path, f"\0gnet-test-{os.getpid()}"):
            with listening_unix(name) as server, unix_socket() as client:
                client.connect_unix(name, timeout=GUARD)
                assert server.get_local_addr() == (name, 0)
                assert (client.get_local_addr(), client.get_peer_addr()) == (("", 0), (name, 0))
        assert f"local=unix:@gnet-test-{os.getpid()}" in repr_of_bound(f"\0gnet-test-{os.getpid()}")


def repr_of_bound(name: str) -> str:
    with unix_socket() as socket:
        socket.bind_unix(name)
        return repr(socket)


def test_an_unbound_socket_has_no_port_and_an_unconnected_one_no_peer() -> None:
    # Recorded from Nim 1.6.10.
    with gnet.new_socket() as socket:
        assert socket.get_local_addr() == ("0.0.0.0", 0)
        with pytest.raises(OSError, match="get_peer_addr of an unconnected socket") as caught:
            socket.get_peer_addr()
        assert caught.value.errno == errno.ENOTCONN


def test_a_reset_connection_has_no_peer_any_more() -> None:
    # Recorded from Nim 1.6.10.
    with connection() as (ours, peer):
        reset(peer)
        assert ours.recv(1) == b""
        with pytest.raises(OSError, match=r"get_peer_addr of 127\.0\.0\.1:\d+: ") as caught:
            ours.get_peer_addr()
        assert caught.value.errno == errno.ENOTCONN


# Options

SWITCHES = [
    SOBool.BROADCAST,
    SOBool.DONT_ROUTE,
    SOBool.KEEP_ALIVE,
    SOBool.OOB_INLINE,
    SOBool.REUSE_ADDR,
    SOBool.REUSE_PORT,
    SOBool.NO_DELAY,
]


@pytest.mark.parametrize("option", SWITCHES, ids=lambda option: option.name)
def test_an_option_is_switched_in_the_kernel_and_read_back(option: SOBool) -> None:
    with gnet.new_socket() as socket, view_of(socket) as view:
        for value in (True, False, True):
            socket.set_sock_opt(option, value)
            assert socket.get_sock_opt(option) is value
            assert bool(view.getsockopt(option.socket_level, option.to_cint())) is value
            assert socket.get_sock_opt(option, level=option.socket_level) is value


def test_whether_a_socket_listens_can_be_read_and_not_be_set() -> None:
    with gnet.new_socket() as socket:
        assert socket.get_sock_opt(SOBool.ACCEPT_CONN) is False
        socket.listen()
        assert socket.get_sock_opt(SOBool.ACCEPT_CONN) is True
        with pytest.raises(OSError, match=r"set_sock_opt SOBool\.ACCEPT_CONN to 0") as caught:
            socket.set_sock_opt(SOBool.ACCEPT_CONN, False)
        assert caught.value.errno == errno.ENOPROTOOPT


def test_no_delay_lives_at_the_level_of_tcp_and_leaves_debugging_alone() -> None:
    # In Nim NO_DELAY without its level is SO_DEBUG, which has the same number.
    with gnet.new_socket() as socket:
        socket.set_sock_opt(SOBool.NO_DELAY, False)
        socket.set_sock_opt(SOBool.NO_DELAY, True)
        assert socket.get_sock_opt(SOBool.DEBUG) is False
        assert socket.get_sock_opt(stdlib_socket.TCP_NODELAY, IPPROTO_TCP) == 1
        with pytest.raises(ValueError, match=r"NO_DELAY lives at level 6, got level 1"):
            socket.set_sock_opt(SOBool.NO_DELAY, False, level=SOL_SOCKET)
        assert socket.get_sock_opt(SOBool.NO_DELAY) is True


def test_other_options_go_by_number_and_level_with_an_int_or_bytes() -> None:
    with gnet.new_socket() as socket, view_of(socket) as view:
        socket.set_sock_opt(stdlib_socket.TCP_MAXSEG, 1000, level=IPPROTO_TCP)
        assert socket.get_sock_opt(stdlib_socket.TCP_MAXSEG, level=IPPROTO_TCP) == 1000
        linger = struct.pack("ii", 1, 3)
        socket.set_sock_opt(stdlib_socket.SO_LINGER, linger, level=SOL_SOCKET)
        assert view.getsockopt(SOL_SOCKET, stdlib_socket.SO_LINGER, 8) == linger


BAD_OPTIONS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "a number without level": ((stdlib_socket.SO_KEEPALIVE, 1), ValueError, "needs its level"),
    "an option by name": (("KEEP_ALIVE", 1, SOL_SOCKET), TypeError, "SOBool or a number.*got str"),
    "a bool as option": ((True, 1, SOL_SOCKET), TypeError, "SOBool or a number.*got bool"),
    "a level of another option": ((SOBool.KEEP_ALIVE, 1, IPPROTO_TCP), ValueError, "lives at level 1"),
    "text as value": ((SOBool.KEEP_ALIVE, "on"), TypeError, "expected a bool, got str"),
    "bytes as value of a switch": ((SOBool.KEEP_ALIVE, b"1"), TypeError, "expected a bool, got bytes"),
    "None as value": ((stdlib_socket.SO_KEEPALIVE, None, SOL_SOCKET), TypeError, "int or bytes, got None"),
    "a float as value": ((stdlib_socket.SO_KEEPALIVE, 1.0, SOL_SOCKET), TypeError, "int or bytes, got float"),
    "a huge value": ((stdlib_socket.SO_KEEPALIVE, 2**40, SOL_SOCKET), ValueError, "does not fit"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_what_is_no_option_is_refused_and_nothing_is_set(
    arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with gnet.new_socket() as socket:
        with pytest.raises(kind, match=f"set_sock_opt.*{message}"):
            socket.set_sock_opt(*arguments)
        assert socket.get_sock_opt(SOBool.KEEP_ALIVE) is False
        if "option" in message or "level" in message or "number" in message:
            option, _, *level = arguments
            with pytest.raises(kind, match=f"get_sock_opt.*{message}"):
                socket.get_sock_opt(option, *level)


@pytest.mark.parametrize("arguments", [(2**40, SOL_SOCKET), (stdlib_socket.SO_KEEPALIVE, 2**40)])
def test_a_number_that_no_option_can_have_is_a_value_error(arguments: tuple[int, int]) -> None:
    with gnet.new_socket() as socket, pytest.raises(ValueError, match="get_sock_opt"):
        socket.get_sock_opt(*arguments)


def test_an_option_that_the_system_has_not_is_named() -> None:
    with gnet.new_socket() as socket:
        with pytest.raises(OSError, match="get_sock_opt 9999") as caught:
            socket.get_sock_opt(9999, level=SOL_SOCKET)
        assert caught.value.errno == errno.ENOPROTOOPT


KEEPALIVE = [stdlib_socket.TCP_KEEPIDLE, stdlib_socket.TCP_KEEPINTVL, stdlib_socket.TCP_KEEPCNT]


def keepalive_of(socket: gnet.Socket) -> list[int]:
    probes = [socket.get_sock_opt(option, level=IPPROTO_TCP) for option in KEEPALIVE]
    return [*probes, int(socket.get_sock_opt(SOBool.KEEP_ALIVE))]


@pytest.mark.parametrize(
    ("idle", "interval", "count", "seconds"),
    [
        (30_000, 5_000, 4, [30, 5, 4, 1]),
        (timedelta(minutes=1), timedelta(seconds=2), 1, [60, 2, 1, 1]),
        (1, 1000.5, 9, [1, 2, 9, 1]),
    ],
    ids=["milliseconds", "timedelta", "rounded up"],
)
def test_keepalive_is_set_in_the_kernel(idle: Any, interval: Any, count: int, seconds: list[int]) -> None:
    with gnet.new_socket() as socket:
        socket.set_keepalive(idle, interval, count)
        assert keepalive_of(socket) == seconds


BAD_KEEPALIVES: dict[str, tuple[tuple[Any, Any, Any], type[Exception]]] = {
    "no idle time": ((0, 1000, 3), ValueError),
    "an idle time without limit": ((-1, 1000, 3), ValueError),
    "None": ((None, 1000, 3), ValueError),
    "no interval": ((1000, 0, 3), ValueError),
    "no number": ((1000, float("nan"), 3), ValueError),
    "no probe": ((1000, 1000, 0), ValueError),
    "text": (("1", 1000, 3), TypeError),
    "a float as count": ((1000, 1000, 3.0), TypeError),
    "a huge count": ((1000, 1000, 2**40), ValueError),
}


@pytest.mark.parametrize(("arguments", "kind"), BAD_KEEPALIVES.values(), ids=BAD_KEEPALIVES)
def test_bad_keepalive_times_are_refused_and_nothing_is_set(
    arguments: tuple[Any, Any, Any], kind: type[Exception]
) -> None:
    with gnet.new_socket() as socket:
        before = keepalive_of(socket)
        with pytest.raises(kind, match=r"set_keepalive: |timeout: expected"):
            socket.set_keepalive(*arguments)
        assert keepalive_of(socket) == before


def user_timeout_of(socket: gnet.Socket) -> int:
    return socket.get_sock_opt(stdlib_socket.TCP_USER_TIMEOUT, level=IPPROTO_TCP)


@pytest.mark.parametrize(
    ("timeout", "milliseconds"), [(1500, 1500), (timedelta(seconds=2), 2000), (0, 0), (0.5, 1)], ids=repr
)
def test_the_user_timeout_is_set_in_the_kernel(timeout: Any, milliseconds: int) -> None:
    # Half a millisecond must not become 0, which means the system's quarter of an hour.
    with gnet.new_socket() as socket:
        socket.set_user_timeout(timeout)
        assert user_timeout_of(socket) == milliseconds


@pytest.mark.parametrize("timeout", [-1, None, 2**31, float("nan"), "5", timedelta(days=365)], ids=repr)
def test_a_bad_user_timeout_is_refused_and_nothing_is_set(timeout: Any) -> None:
    with gnet.new_socket() as socket:
        socket.set_user_timeout(700)
        with pytest.raises((TypeError, ValueError), match="expected"):
            socket.set_user_timeout(timeout)
        assert user_timeout_of(socket) == 700


def test_options_of_tcp_are_an_error_on_other_sockets() -> None:
    with udp_socket() as socket:
        for name, call in {
            "set_keepalive": lambda: socket.set_keepalive(1000, 1000, 3),
            "set_user_timeout": lambda: socket.set_user_timeout(1000),
        }.items():
            with pytest.raises(OSError, match=name):
                call()


# Errors


def test_a_socket_without_an_error_says_that_none_is_known() -> None:
    # Nim does so too, but only if no other call of the thread ever failed.
    with connection() as (ours, _):
        with pytest.raises(FileNotFoundError):
            os.stat("/nonexistent")
        with pytest.raises(
            OSError, match=r"get_socket_error of 127\.0\.0\.1:\d+: no error is known"
        ) as caught:
            ours.get_socket_error()
        assert caught.value.errno == 0


def test_the_error_of_a_socket_is_its_own_and_stays() -> None:
    with connection() as (ours, peer), connection() as (other, _):
        reset(peer)
        closed_state = 7
        wait_until(
            lambda: ours.get_sock_opt(stdlib_socket.TCP_INFO, IPPROTO_TCP) & 0xFF == closed_state, "it is"
        )
        assert [ours.get_socket_error() for _ in range(3)] == [errno.ECONNRESET] * 3
        with pytest.raises(ConnectionResetError):
            ours.recv(1, flags=SocketFlag(0))
        with pytest.raises(OSError, match="no error is known"):
            other.get_socket_error()


def test_an_error_that_a_read_met_is_the_error_of_the_socket() -> None:
    with connection() as (ours, peer):
        reset(peer)
        assert ours.read_line() == b""
        assert ours.get_socket_error() == errno.ECONNRESET


NOTHING = SocketFlag(0)
SAFE = SocketFlag.SAFE_DISCONN

# Recorded from Nim 1.6.10 (plain sockets): err, async, last error, flags, what it raises.
SOCKET_ERRORS: list[tuple[int, bool, int, SocketFlag, type[OSError] | None]] = [
    (-2, False, errno.ECONNRESET, NOTHING, None),
    (0, False, errno.ECONNRESET, NOTHING, None),
    (1, False, errno.ECONNRESET, NOTHING, None),
    (-1, False, errno.ECONNRESET, NOTHING, ConnectionResetError),
    (-1, False, errno.ECONNRESET, SAFE, None),
    (-1, False, errno.EPIPE, NOTHING, BrokenPipeError),
    (-1, False, errno.EPIPE, SAFE, None),
    (-1, False, errno.ENETRESET, SAFE, None),
    (-1, False, errno.ETIMEDOUT, SAFE, TimeoutError),
    (-1, False, errno.EAGAIN, NOTHING, BlockingIOError),
    (-1, True, errno.EAGAIN, NOTHING, None),
    (-1, True, errno.ECONNREFUSED, SAFE, ConnectionRefusedError),
    (-1, False, 0, SAFE, OSError),
]


@pytest.mark.parametrize(("err", "async_", "last_error", "flags", "kind"), SOCKET_ERRORS)
def test_the_error_of_a_call_is_raised_unless_it_is_to_be_overlooked(
    err: int, async_: bool, last_error: int, flags: SocketFlag, kind: type[OSError] | None
) -> None:
    with gnet.new_socket() as socket:
        if kind is None:
            socket.socket_error(err, async_, last_error, flags)
            return
        with pytest.raises(kind, match="socket an unconnected socket: ") as caught:
            socket.socket_error(err, async_, last_error, flags)
        assert caught.value.errno == last_error


def test_without_a_number_the_error_of_the_socket_is_raised() -> None:
    with connection() as (ours, peer):
        with pytest.raises(OSError, match="no error is known"):
            ours.socket_error()
        reset(peer)
        assert ours.read_line() == b""
        with pytest.raises(ConnectionResetError, match=r"socket 127\.0\.0\.1:\d+: Connection reset"):
            ours.socket_error()
        ours.socket_error(flags=SAFE)


def test_flags_of_another_kind_are_refused() -> None:
    with gnet.new_socket() as socket, pytest.raises(TypeError, match="flags: expected a SocketFlag, got int"):
        socket.socket_error(-1, False, errno.EPIPE, 2)  # type: ignore[arg-type]
