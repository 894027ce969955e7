"""Replays the facts recorded from Nim 1.6.10 about accepting, connecting, datagrams and Unix sockets.

The others, and an account of all, are in `test_nim_facts.py`.
"""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket  # for its constants
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.socket
import pytest

import gnet
from gnet import (
    AF_INET6,
    AF_UNIX,
    IPPROTO_UDP,
    Socket,
    SocketFlag,
)
from tests.nim_facts import (
    CLOSED_IS_SAID,
    DISCARD,
    LOOPBACK,
    NAMES_KEEP_NUMBERS,
    Outcome,
    connected,
    descriptor_flags,
    differs,
    listener,
    name_error,
    needs_ipv6,
    no_names,
    open_descriptors,
    port_of,
    said,
    same,
    tcp,
    udp,
    unix,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="numbers and rules of Linux were recorded")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is bound, so nobody else gets it, and that nobody listens on."""
    with tcp() as socket:
        socket.bind_addr(0, LOOPBACK)
        yield port_of(socket)


@pytest.fixture
def full_listener() -> Iterator[Socket]:
    """A listener whose queue is full: the kernel drops further attempts to connect."""
    with tcp() as server:
        server.bind_addr(0, LOOPBACK)
        server.listen(0)
        queued = [gevent.socket.socket() for _ in range(4)]
        for socket in queued:
            socket.setblocking(False)
            socket.connect_ex((LOOPBACK, port_of(server)))
        yield server
        for socket in queued:
            socket.close()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose own path leaves room in the 108 bytes that a Unix socket's has."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


# Accepting


@same("acceptAddr v4")
def test_an_accepted_connection_comes_with_its_address_and_is_closed_on_exec(nim: Outcome) -> None:
    with listener() as server, connected(server) as client:
        accepted, address = server.accept_addr()
        with accepted:
            peer, port = accepted.get_peer_addr()
            found = [address, peer, port == port_of(client), descriptor_flags(accepted)]
    assert {"r": found} == nim


@needs_ipv6
@differs("acceptAddr v6 address string", 'the address is the true one; Nim gives "0.0.0.0"')
def test_an_accepted_ipv6_connection_comes_with_its_address(nim: Outcome) -> None:
    with listener("::1") as server, connected(server, "::1"):
        accepted, address = server.accept_addr()
        with accepted:
            assert {"r": [address, accepted.get_peer_addr()[0]]} == {"r": ["::1", "::1"]} != nim


@needs_ipv6
@differs("acceptAddr dual stack, v4 peer", 'the address is the true one; Nim gives "0.0.0.0"')
def test_an_ipv4_connection_accepted_on_ipv6_comes_with_its_mapped_address(nim: Outcome) -> None:
    mapped = f"::ffff:{LOOPBACK}"
    with listener("::") as server, connected(server, LOOPBACK):
        accepted, address = server.accept_addr()
        with accepted:
            found = [address, accepted.get_peer_addr()[0], accepted.get_local_addr()[0]]
    assert {"r": found} == {"r": [mapped, mapped, mapped]} != nim


@differs("accept(inheritable=true): FD flags", "accept honours `inheritable`, which Nim's forgets")
def test_a_connection_from_accept_can_be_inheritable(nim: Outcome) -> None:
    with listener() as server, connected(server), server.accept(inheritable=True) as accepted:
        assert {"r": descriptor_flags(accepted)} == {"r": 0} != nim


@same("acceptAddr(inheritable=true): FD flags")
def test_a_connection_from_accept_addr_can_be_inheritable(nim: Outcome) -> None:
    with listener() as server, connected(server):
        accepted, _ = server.accept_addr(inheritable=True)
        with accepted:
            assert {"r": descriptor_flags(accepted)} == nim


@differs("accept reusing a client var: stale buffer, leaked fd", "each connection is a new Socket")
def test_a_second_connection_has_nothing_of_the_first(nim: Outcome) -> None:
    lines = []
    before = open_descriptors()
    with listener() as server:
        for data in (b"first\nleftover\n", b"second\n"):
            with connected(server) as client, server.accept() as accepted:
                client.send(data)
                lines.append(accepted.read_line().decode())
    assert {"r": [*lines, open_descriptors() > before]} == {"r": ["first", "second", False]}
    assert nim["r"] == ["first", "leftover", "second", True]


@same("accept inherits buffered=false")
def test_an_accepted_connection_is_unbuffered_as_its_listener(nim: Outcome) -> None:
    with listener(buffered=False) as server, connected(server) as client, server.accept() as accepted:
        client.send(b"abc")
        assert {"r": [accepted.recv(1).decode(), accepted.has_data_buffered()]} == nim


@same("accept on non-listening")
def test_a_socket_that_does_not_listen_accepts_nothing(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.accept) == nim


@differs("accept on closed", CLOSED_IS_SAID)
def test_a_closed_socket_accepts_nothing(nim: Outcome) -> None:
    with tcp() as socket:
        socket.close()
        assert said(socket.accept) == {"exc": "AssertionDefect"} != nim


@differs("accepted client, sendTo assert", "send_to is for datagrams on every socket; Nim forgets what it is")
def test_an_accepted_connection_sends_no_datagrams(nim: Outcome) -> None:
    with listener() as server, connected(server), server.accept() as accepted:
        assert said(lambda: accepted.send_to(LOOPBACK, DISCARD, b"x")) == {"exc": "ValueError"} != nim


# Connecting


@pytest.mark.parametrize("timeout", [None, 1000])
@same("connect refused", "connect refused, timeout")
def test_a_refused_connection_is_the_kernels_error(
    nim: Outcome, timeout: int | None, closed_port: int
) -> None:
    with tcp() as socket:
        assert said(lambda: socket.connect(LOOPBACK, closed_port, timeout)) == nim


@differs("connect bad name", NAMES_KEEP_NUMBERS)
def test_connecting_to_a_name_that_does_not_exist_is_a_name_error(nim: Outcome) -> None:
    with no_names(), tcp() as socket:
        wanted = name_error(stdlib_socket.EAI_NONAME)
        assert said(lambda: socket.connect("no.such.host", 80)) == wanted != nim


@differs("connect empty name", "an empty name is a mistake of the caller")
def test_connecting_to_an_empty_name_is_a_value_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.connect("", 80)) == {"exc": "ValueError"} != nim


@differs("connect v6 literal on v4 socket", NAMES_KEEP_NUMBERS)
def test_connecting_an_ipv4_socket_to_an_ipv6_address_is_a_name_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.connect("::1", 80)) == name_error(stdlib_socket.EAI_FAMILY) != nim


@needs_ipv6
@same("connect v4 literal on v6 socket (V4MAPPED)")
def test_an_ipv6_socket_connects_to_an_ipv4_address(nim: Outcome) -> None:
    with listener() as server, connected(server, LOOPBACK, AF_INET6) as client:
        assert {"r": [client.get_peer_addr()[0], client.get_local_addr()[0]]} == nim


@differs("connect shorthand '127.1'", "a name must never lead to another host than it says")
def test_an_address_with_parts_left_out_is_a_value_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.connect("127.1", 80)) == {"exc": "ValueError"} != nim


@same("connect localhost")
def test_an_ipv4_socket_connects_to_localhost(nim: Outcome) -> None:
    with listener() as server, connected(server, "localhost") as client:
        assert {"r": client.get_peer_addr()[0]} == nim


@same("connect twice")
def test_connecting_twice_is_the_kernels_error(nim: Outcome) -> None:
    with listener() as server, connected(server) as client:
        assert said(lambda: client.connect(LOOPBACK, port_of(server))) == nim


@same("connect ok with timeout, left blocking")
def test_a_descriptor_connected_with_a_timeout_is_blocking_once_it_is_given_away(nim: Outcome) -> None:
    with listener() as server, tcp() as socket:
        socket.connect(LOOPBACK, port_of(server), timeout=10_000)
        descriptor = socket.detach()
    found = os.get_blocking(descriptor)
    os.close(descriptor)
    assert {"r": found} == nim


@pytest.mark.parametrize("timeout", [0, 1, 200])
@same("connect timeout 0", "connect timeout 1", "connect timeout 200")
def test_a_connection_that_takes_too_long_is_a_timeout(
    nim: Outcome, timeout: int, full_listener: Socket
) -> None:
    with tcp() as socket:
        start = time.monotonic()
        assert said(lambda: socket.connect(LOOPBACK, port_of(full_listener), timeout)) == nim
    assert time.monotonic() - start < 1


@differs("after connect timeout: still non-blocking?", "the attempt is given up: the socket is closed")
def test_a_socket_is_closed_after_a_connection_that_took_too_long(
    nim: Outcome, full_listener: Socket
) -> None:
    with tcp() as socket:
        with pytest.raises(gnet.TimeoutError, match="the socket is closed now"):
            socket.connect(LOOPBACK, port_of(full_listener), timeout=1)
        assert socket.closed
        assert socket.get_fd() == -1
        assert nim == {"r": True}


# Dialling


@same("dial v4")
def test_dial_connects_to_an_ipv4_address(nim: Outcome) -> None:
    with listener() as server, gnet.dial(LOOPBACK, port_of(server)) as client:
        assert {"r": [client.get_peer_addr()[0]]} == nim


@needs_ipv6
@same("dial ::1")
def test_dial_connects_to_an_ipv6_address(nim: Outcome) -> None:
    with listener("::1") as server, gnet.dial("::1", port_of(server)) as client:
        assert {"r": [client.get_peer_addr()[0]]} == nim


@needs_ipv6
@same("dial localhost to a v6-only listener")
def test_dial_finds_an_ipv6_listener_where_localhost_has_an_ipv6_address(nim: Outcome) -> None:
    # It had none where this was recorded.
    with tcp(AF_INET6) as server:
        server.set_sock_opt(stdlib_socket.IPV6_V6ONLY, 1, level=stdlib_socket.IPPROTO_IPV6)
        server.bind_addr()
        server.listen()
        has_ipv6 = any(info[0] == AF_INET6 for info in gevent.socket.getaddrinfo("localhost", 80))
        wanted = {"r": "ok"} if has_ipv6 else nim
        assert said(lambda: gnet.dial("localhost", port_of(server)).close()) == wanted


@same("dial localhost to a v4-only listener")
def test_dial_finds_an_ipv4_listener_on_localhost(nim: Outcome) -> None:
    with listener() as server, gnet.dial("localhost", port_of(server)) as client:
        assert {"r": [client.get_peer_addr()[0]]} == nim


@same("dial refused")
def test_a_refused_dial_is_the_kernels_error(nim: Outcome, closed_port: int) -> None:
    assert said(lambda: gnet.dial(LOOPBACK, closed_port)) == nim


@differs("dial refused, fd leaked", "no call that fails leaves a descriptor open")
def test_a_refused_dial_leaves_no_descriptor(nim: Outcome, closed_port: int) -> None:
    before = open_descriptors()
    with pytest.raises(ConnectionRefusedError):
        gnet.dial(LOOPBACK, closed_port)
    assert {"r": open_descriptors() - before} == {"r": 0} != nim


@differs("dial bad name", NAMES_KEEP_NUMBERS)
def test_dialling_a_name_that_does_not_exist_is_a_name_error(nim: Outcome) -> None:
    with no_names():
        assert said(lambda: gnet.dial("no.such.host", 80)) == name_error(stdlib_socket.EAI_NONAME) != nim


@same("dial UDP")
def test_dial_with_udp_gives_a_connected_datagram_socket(nim: Outcome) -> None:
    with udp() as server, gnet.dial(LOOPBACK, port_of(server), IPPROTO_UDP) as client:
        client.send(b"hello")
        assert server.recv_from(10)[:2] == (b"hello", LOOPBACK)
        assert {"r": [client.get_peer_addr()[0]]} == nim


@same("dial(buffered=false) is buffered?")
def test_an_unbuffered_dial_reads_nothing_ahead(nim: Outcome) -> None:
    with (
        listener() as server,
        gnet.dial(LOOPBACK, port_of(server), buffered=False) as client,
        server.accept() as accepted,
    ):
        accepted.send(b"abc")
        assert client.recv(1) == b"a"
        assert {"r": client.has_data_buffered()} == nim


# Datagrams


@pytest.mark.parametrize("size", [10, 5])
@same("recvFrom v4")
def test_a_datagram_comes_with_the_address_of_its_sender(nim: Outcome, size: int) -> None:
    with udp() as sender, udp() as receiver:
        sender.send_to(LOOPBACK, port_of(receiver), b"hello")
        data, address, port = receiver.recv_from(size)
        assert {"r": [len(data), data.decode(), address, port == port_of(sender)]} == nim


@differs("recvFrom truncates", "data is lost in silence only where `truncate=True` asks for it")
def test_a_datagram_that_is_too_long_is_an_error_unless_a_part_will_do(nim: Outcome) -> None:
    with udp() as sender, udp() as receiver:
        for _ in range(2):
            sender.send_to(LOOPBACK, port_of(receiver), b"hello")
        assert said(lambda: receiver.recv_from(3)) == {"exc": "OSError", "errno": errno.EMSGSIZE} != nim
        data, *_ = receiver.recv_from(3, truncate=True)
        assert {"r": [len(data), data.decode()]} == nim


@same("recvFrom empty datagram")
def test_an_empty_datagram_is_no_end_of_stream(nim: Outcome) -> None:
    with udp() as sender, udp() as receiver:
        sender.send_to(LOOPBACK, port_of(receiver), b"")
        data, address, _ = receiver.recv_from(10)
        assert {"r": [len(data), data.decode(), address]} == nim


@pytest.mark.parametrize("flags", [SocketFlag.PEEK, stdlib_socket.MSG_PEEK])
@same("recvFrom peek flag")
def test_a_datagram_can_be_looked_at(nim: Outcome, flags: SocketFlag | int) -> None:
    with udp() as sender, udp() as receiver:
        sender.send_to(LOOPBACK, port_of(receiver), b"hi")
        assert {"r": [receiver.recv_from(10, flags)[0].decode(), receiver.recv_from(10)[0].decode()]} == nim
        assert said(lambda: receiver.recv_from(10, timeout=0)) == {"exc": "TimeoutError"}


@needs_ipv6
@same("recvFrom v6")
def test_an_ipv6_datagram_comes_with_the_address_of_its_sender(nim: Outcome) -> None:
    with udp("::1") as sender, udp("::1") as receiver:
        sender.send_to("::1", port_of(receiver), b"hello")
        data, address, port = receiver.recv_from(10)
        assert {"r": [len(data), data.decode(), address, port == port_of(sender)]} == nim


@needs_ipv6
@same("recvFrom v4-mapped on v6 socket")
def test_an_ipv4_datagram_on_an_ipv6_socket_comes_with_an_ipv4_address(nim: Outcome) -> None:
    with udp() as sender, udp("::") as receiver:
        sender.send_to(LOOPBACK, port_of(receiver), b"hello")
        data, address, port = receiver.recv_from(10)
        assert {"r": [len(data), data.decode(), address, port == port_of(sender)]} == nim


@differs(
    "recvFrom non-blocking, no data (data length after, errno)",
    "no socket is in non-blocking mode: timeout 0 asks for what is here now",
)
def test_no_datagram_at_hand_is_a_timeout(nim: Outcome) -> None:
    with udp() as socket:
        assert said(lambda: socket.recv_from(5, timeout=0)) == {"exc": "TimeoutError"} != nim


@differs("recvFrom on TCP", "a mistake of the caller is a ValueError, where Nim asserts")
def test_a_stream_receives_no_datagrams(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.recv_from(5)) == {"exc": "ValueError"} != nim


@differs("sendTo on TCP", "a mistake of the caller is a ValueError, where Nim asserts")
def test_a_stream_sends_no_datagrams(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.send_to(LOOPBACK, DISCARD, b"x")) == {"exc": "ValueError"} != nim


@differs("sendTo bad name", NAMES_KEEP_NUMBERS)
def test_sending_to_a_name_that_does_not_exist_is_a_name_error_that_names_the_call(nim: Outcome) -> None:
    with no_names(), udp() as socket:
        wanted = name_error(stdlib_socket.EAI_NONAME)
        assert said(lambda: socket.send_to("no.such.host", DISCARD, b"x")) == wanted != nim
        with pytest.raises(stdlib_socket.gaierror, match=r"^\[Errno -2\] send_to .*no\.such\.host"):
            socket.send_to("no.such.host", DISCARD, b"x")


@differs("sendTo v6 address from v4 socket", NAMES_KEEP_NUMBERS)
def test_sending_from_an_ipv4_socket_to_an_ipv6_address_is_a_name_error(nim: Outcome) -> None:
    with udp() as socket:
        wanted = name_error(stdlib_socket.EAI_FAMILY)
        assert said(lambda: socket.send_to("::1", DISCARD, b"x")) == wanted != nim


@needs_ipv6
@same("sendTo v4 address from v6 socket")
def test_an_ipv6_socket_sends_to_an_ipv4_address(nim: Outcome) -> None:
    with udp("::") as sender, udp() as receiver:
        sender.send_to(LOOPBACK, port_of(receiver), b"m")
        data, address, _ = receiver.recv_from(10)
        assert {"r": [data.decode(), address]} == nim


@same("sendTo too long")
def test_a_datagram_beyond_the_limit_of_udp_is_the_kernels_error(nim: Outcome) -> None:
    with udp() as socket:
        assert said(lambda: socket.send_to(LOOPBACK, DISCARD, bytes(65508))) == nim


@same("sendTo on closed")
def test_a_closed_socket_sends_no_datagrams(nim: Outcome) -> None:
    with udp() as socket:
        socket.close()
        assert said(lambda: socket.send_to(LOOPBACK, DISCARD, b"x")) == nim


@differs("UDP connect + buffered recv joins datagrams", "a datagram socket is never buffered: one at a time")
def test_a_receive_of_a_connected_datagram_socket_gives_one_datagram(nim: Outcome) -> None:
    with udp() as server, gnet.dial(LOOPBACK, port_of(server), IPPROTO_UDP) as client:
        for data in (b"abc", b"defg"):
            server.send_to(LOOPBACK, port_of(client), data)
        found = [client.recv(5).decode() for _ in range(2)]
    assert {"r": found} == {"r": ["abc", "defg"]} != nim


@differs("UDP connect + unbuffered recv", "one receive is one datagram; Nim's goes on until all is there")
def test_a_receive_with_a_timeout_does_not_wait_for_a_second_datagram(nim: Outcome) -> None:
    with udp() as server, gnet.dial(LOOPBACK, port_of(server), IPPROTO_UDP, buffered=False) as client:
        server.send_to(LOOPBACK, port_of(client), b"abc")
        assert said(lambda: client.recv(10, timeout=100).decode()) == {"r": "abc"} != nim


# Unix sockets


@differs("unix roundtrip", 'the address of an unbound Unix peer is the empty path; Nim gives "0.0.0.0"')
def test_a_unix_socket_carries_data_and_knows_that_its_peer_has_no_path(
    nim: Outcome, short_directory: Path
) -> None:
    path = str(short_directory / "socket")
    with unix(path) as server, unix() as client:
        server.listen()
        client.connect_unix(path)
        accepted, address = server.accept_addr()
        with accepted:
            client.send(b"hi")
            assert accepted.recv(2).decode() == nim["r"][0]
            assert address == "" != nim["r"][2]


@differs("unix getPeerAddr", "Unix sockets have addresses, too")
def test_the_peer_of_a_unix_socket_has_its_path(nim: Outcome, short_directory: Path) -> None:
    path = str(short_directory / "socket")
    with unix(path) as server, unix() as client:
        server.listen()
        client.connect_unix(path)
        assert said(client.get_peer_addr) == {"r": (path, 0)} != nim


@same("unix bind again")
def test_a_path_that_is_there_is_the_kernels_error(nim: Outcome, short_directory: Path) -> None:
    path = str(short_directory / "socket")
    with unix(path), unix() as second:
        assert said(lambda: second.bind_unix(path)) == nim


@same("unix connect missing")
def test_a_path_that_is_not_there_is_the_kernels_error(nim: Outcome, short_directory: Path) -> None:
    with unix() as socket:
        assert said(lambda: socket.connect_unix(short_directory / "missing")) == nim


@same("unix path 107", "unix path 108")
def test_a_path_has_up_to_107_bytes(nim: Outcome, short_directory: Path) -> None:
    length = 107 if nim == {"r": "ok"} else 108
    path = f"{short_directory}/".ljust(length, "x")
    with unix() as socket:
        assert said(lambda: socket.bind_unix(path)) == nim
    assert os.path.exists(path) == (length == 107)


@same("unix connect empty path")
def test_connecting_to_an_empty_path_is_the_kernels_error(nim: Outcome) -> None:
    with unix() as socket:
        assert said(lambda: socket.connect_unix("")) == nim


@same("unix bind empty path (autobind)")
def test_binding_to_an_empty_path_gives_an_abstract_name(nim: Outcome) -> None:
    with unix() as socket:
        assert said(lambda: socket.bind_unix("")) == nim
        assert socket.get_local_addr()[0].startswith("\0")


@same("unix abstract")
def test_an_abstract_name_is_met_by_other_programs_to_the_byte(nim: Outcome) -> None:
    name = f"\0gnet-test-{os.getpid()}"
    with unix(name) as server, gevent.socket.socket(AF_UNIX) as other:
        server.listen()
        other.connect(name.encode())
        with server.accept() as accepted:
            other.sendall(b"x")
            assert {"r": accepted.recv(1) == b"x"} == nim


@differs("unix on TCP socket", "a mistake of the caller is a ValueError, before any system call")
def test_a_tcp_socket_does_not_connect_to_a_path(nim: Outcome, short_directory: Path) -> None:
    with tcp() as socket:
        wanted = {"exc": "ValueError"}
        assert said(lambda: socket.connect_unix(short_directory / "socket")) == wanted != nim
