"""gnet.sockets: making sockets, taking over others, and speaking."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket  # for its constants; in a patched process its sockets are gevent's
import sys
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent import monkey

import gnet
from gnet import SOBool
from tests.faults.peers import connection
from tests.loopback import (
    GUARD,
    listening,
    needs_ipv6,
    pair,
)

SO_DOMAIN = 39  # Linux; the stdlib has no names for these two
SO_PROTOCOL = 38

linux = pytest.mark.skipif(sys.platform != "linux", reason="SO_DOMAIN and abstract names are Linux's")

KINDS = {
    "TCP over IPv4": (gnet.AF_INET, gnet.SOCK_STREAM, gnet.IPPROTO_TCP),
    "TCP over IPv6": (gnet.AF_INET6, gnet.SOCK_STREAM, gnet.IPPROTO_TCP),
    "UDP over IPv4": (gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP),
    "UDP over IPv6": (gnet.AF_INET6, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP),
    "Unix stream": (gnet.AF_UNIX, gnet.SOCK_STREAM, gnet.IPPROTO_IP),
    "Unix datagram": (gnet.AF_UNIX, gnet.SOCK_DGRAM, gnet.IPPROTO_IP),
    "Unix seqpacket": (gnet.AF_UNIX, gnet.SOCK_SEQPACKET, gnet.IPPROTO_IP),
}


# Making


@linux
@pytest.mark.parametrize("as_ints", [False, True], ids=["enums", "ints"])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs_ipv6) if "6" in name else kind for name, kind in KINDS.items()]
)
def test_a_socket_is_of_the_kind_that_was_asked_for(kind: tuple[int, int, int], as_ints: bool) -> None:
    numbers = [int(number) for number in kind]
    with gnet.new_socket(*(numbers if as_ints else kind)) as socket:
        options = (SO_DOMAIN, stdlib_socket.SO_TYPE, SO_PROTOCOL)
        assert [socket.get_sock_opt(option, stdlib_socket.SOL_SOCKET) for option in options] == numbers


@linux
def test_a_socket_is_tcp_over_ipv4_unless_asked_otherwise_and_does_not_delay_small_messages() -> None:
    with gnet.new_socket() as socket:
        assert socket.get_sock_opt(SO_PROTOCOL, stdlib_socket.SOL_SOCKET) == stdlib_socket.IPPROTO_TCP
        assert socket.get_sock_opt(SO_DOMAIN, stdlib_socket.SOL_SOCKET) == stdlib_socket.AF_INET
        assert socket.get_sock_opt(SOBool.NO_DELAY) is True
        assert (socket.timeout, socket.coalesce, socket.closed) == (-1, False, False)


@pytest.mark.parametrize("inheritable", [False, True])
def test_a_descriptor_is_closed_on_exec_unless_it_is_to_be_inherited(inheritable: bool) -> None:
    with gnet.new_socket(inheritable=inheritable) as socket:
        assert os.get_inheritable(socket.get_fd()) is inheritable


REFUSED_KINDS = {
    "a Unix socket with the default protocol": ((gnet.AF_UNIX,), errno.EPROTONOSUPPORT),
    "datagrams with the default protocol": ((gnet.AF_INET, gnet.SOCK_DGRAM), errno.EPROTONOSUPPORT),
    "a family that is none": ((2000, gnet.SOCK_STREAM, 0), errno.EAFNOSUPPORT),
}


@pytest.mark.parametrize(("arguments", "code"), REFUSED_KINDS.values(), ids=REFUSED_KINDS)
def test_a_kind_that_the_system_has_not_is_an_error_that_names_it(
    arguments: tuple[int, ...], code: int
) -> None:
    # The first is recorded from Nim 1.6.10, where the protocol does not follow the domain either.
    with pytest.raises(OSError, match=r"new_socket\(") as caught:
        gnet.new_socket(*arguments)
    assert caught.value.errno == code
    if code == errno.EPROTONOSUPPORT:
        assert "IPPROTO_UDP" in str(caught.value)


BAD_NUMBERS = {
    "a negative domain": ({"domain": -1}, ValueError, "domain.*-1"),
    "a huge protocol": ({"protocol": 2**31}, ValueError, "protocol.*2147483648"),
    "a domain by name": ({"domain": "AF_INET"}, TypeError, "domain.*expected an int, got str"),
    "a bool as type": ({"sock_type": True}, TypeError, "sock_type.*expected an int, got bool"),
    "a float as protocol": ({"protocol": 6.0}, TypeError, "protocol.*expected an int, got float"),
    "a negative descriptor": ({"fd": -1}, ValueError, "fd.*at least 0, got -1"),
    "a bool as descriptor": ({"fd": True}, TypeError, "fd.*expected an int, got bool"),
    "a huge descriptor": ({"fd": 2**40}, ValueError, "fd.*1099511627776"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD_NUMBERS.values(), ids=BAD_NUMBERS)
def test_numbers_that_describe_no_socket_are_refused(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        gnet.new_socket(**arguments)


# Around what exists: descriptors, sockets of others


def test_a_socket_can_be_made_around_a_descriptor() -> None:
    left, right = gevent.socket.socketpair()
    fd = left.detach()
    with right, gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, gnet.IPPROTO_IP, fd=fd) as socket:
        assert socket.get_fd() == fd
        assert os.get_blocking(fd) is False
        right.sendall(b"over\n")
        socket.send(b"and out")
        assert (socket.read_line(timeout=GUARD), right.recv(10)) == (b"over", b"and out")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_connection_taken_over_by_its_descriptor_knows_its_peer() -> None:
    with connection() as (ours, _):
        address, port = ours.get_peer_addr()
        with gnet.new_socket(fd=ours.detach()) as again:
            assert f"peer={address}:{port}" in repr(again)


def test_a_descriptor_that_is_no_socket_is_refused_and_left_open() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match=rf"new_socket\(fd={reader}\).*non-socket"):
            gnet.new_socket(fd=reader)
        os.write(writer, b"still here")
        assert os.read(reader, 20) == b"still here"
    finally:
        os.close(reader)
        os.close(writer)


ORIGINAL_SOCKET = monkey.get_original("socket", "socket")

adopted_classes = pytest.mark.parametrize(
    "make", [ORIGINAL_SOCKET, gevent.socket.socket], ids=["stdlib", "gevent"]
)


@adopted_classes
def test_a_connected_socket_is_taken_over_and_left_detached(make: Callable[[], Any]) -> None:
    with listening() as server:
        theirs = make()
        theirs.connect(server.get_local_addr())
        fd = theirs.fileno()
        with gnet.Socket.adopt(theirs) as ours, server.accept(timeout=GUARD) as peer:
            assert (ours.get_fd(), theirs.fileno()) == (fd, -1)
            assert f"peer=127.0.0.1:{server.get_local_addr()[1]}" in repr(ours)
            peer.send(b"line\nrest")
            assert ours.read_line(timeout=GUARD) == b"line"
            assert ours.has_data_buffered()


@adopted_classes
def test_a_listening_socket_can_be_taken_over(make: Callable[[], Any]) -> None:
    theirs = make()
    theirs.bind(("127.0.0.1", 0))
    theirs.listen()
    with (
        gnet.Socket.adopt(theirs) as server,
        gnet.dial(*server.get_local_addr()) as client,
        server.accept(timeout=GUARD) as accepted,
    ):
        assert accepted.get_peer_addr() == client.get_local_addr()


def test_what_is_taken_over_may_be_unbuffered_or_of_datagrams() -> None:
    left, right = gevent.socket.socketpair()
    with right, gnet.Socket.adopt(left, buffered=False) as stream:
        right.sendall(b"line\nrest")
        assert (stream.read_line(timeout=GUARD), stream.has_data_buffered()) == (b"line", False)
    left, right = gevent.socket.socketpair(type=stdlib_socket.SOCK_DGRAM)
    with right, gnet.Socket.adopt(left) as datagrams:
        right.send(b"one")
        right.send(b"two")
        assert datagrams.recv(10, timeout=GUARD) == b"one"


def test_a_tls_socket_is_refused_and_stays_as_it_was() -> None:
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with context.wrap_socket(gevent.socket.socket()) as theirs:
        with pytest.raises(TypeError, match="TLS socket can not be taken over"):
            gnet.Socket.adopt(theirs)
        assert theirs.fileno() >= 0


def test_closed_and_detached_sockets_are_refused() -> None:
    closed = gevent.socket.socket()
    closed.close()
    detached = gevent.socket.socket()
    os.close(detached.detach())
    for socket in (closed, detached):
        with pytest.raises(ValueError, match="closed or detached"):
            gnet.Socket.adopt(socket)


@pytest.mark.parametrize("thing", [None, 3, "socket", object(), sys.stdin, gnet.Socket])
def test_what_is_no_socket_is_refused_by_its_type(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"expected a stdlib or gevent socket, got {type(thing).__name__}"):
        gnet.Socket.adopt(thing)


# Both ends


def test_both_ends_of_a_pair_speak() -> None:
    with pair() as (client, accepted):
        client.send(b"ping\n")
        assert accepted.read_line() == b"ping"
        accepted &= b"pong\n"
        assert [client.read_line(), client.is_ssl(), accepted.is_ssl()] == [b"pong", False, False]
