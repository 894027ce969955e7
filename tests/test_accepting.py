"""gnet.sockets: binding, listening and accepting."""

from __future__ import annotations

import _socket
import errno
import os
import socket as stdlib_socket  # for its constants
import tempfile
from datetime import timedelta
from typing import Any

import gevent
import gevent.socket
import pytest

import gnet
from gnet import SOBool, SocketFlag, SslAcceptResult
from tests.faults.peers import elapsed
from tests.loopback import (
    GUARD,
    LATE,
    SOON,
    buffering,
    error_of,
    families,
    in_another_thread,
    listening,
    listening_unix,
    needs_ipv6,
    udp_socket,
    unix_socket,
)

# Binding


@pytest.mark.parametrize(
    ("family", "any_address"),
    [(gnet.AF_INET, "0.0.0.0"), pytest.param(gnet.AF_INET6, "::", marks=needs_ipv6)],
    ids=["IPv4", "IPv6"],
)
def test_a_socket_binds_to_every_address_and_a_free_port_unless_told_otherwise(
    family: int, any_address: str
) -> None:
    with gnet.new_socket(family) as socket:
        socket.bind_addr()
        address, port = socket.get_local_addr()
        assert address == any_address
        assert port > 0


@needs_ipv6
def test_a_socket_of_ipv6_that_is_bound_to_every_address_serves_ipv4_too() -> None:
    with gnet.new_socket(gnet.AF_INET6) as server:
        server.bind_addr()
        server.listen()
        with gnet.dial("127.0.0.1", server.get_local_addr()[1]) as client:
            accepted, address = server.accept_addr(timeout=GUARD)
            with accepted:
                assert address == "::ffff:127.0.0.1"
                assert accepted.get_peer_addr() == (address, client.get_local_addr()[1])


@families
def test_a_socket_binds_to_the_address_and_port_that_were_asked_for(host: str) -> None:
    with listening(host) as first:
        port = first.get_local_addr()[1]
    with listening(host) as second:
        second.close()
        with gnet.new_socket(gnet.AF_INET6 if ":" in host else gnet.AF_INET) as again:
            again.set_sock_opt(SOBool.REUSE_ADDR, True)
            again.bind_addr(port, host)
            assert again.get_local_addr() == (host, port)


def test_a_socket_binds_to_the_first_address_of_a_name() -> None:
    with gnet.new_socket() as socket:
        socket.bind_addr(address="localhost")
        assert socket.get_local_addr()[0] == "127.0.0.1"


@needs_ipv6
def test_an_ipv4_address_binds_a_socket_of_ipv6_to_its_ipv6_form() -> None:
    # Recorded from Nim 1.6.10.
    with gnet.new_socket(gnet.AF_INET6) as socket:
        socket.bind_addr(address="127.0.0.1")
        assert socket.get_local_addr()[0] == "::ffff:127.0.0.1"


def test_a_port_that_is_taken_and_an_address_of_others_are_named() -> None:
    with listening() as server, gnet.new_socket() as socket:
        port = server.get_local_addr()[1]
        with pytest.raises(OSError, match=rf"bind_addr to 127\.0\.0\.1:{port}") as caught:
            socket.bind_addr(port, "127.0.0.1")
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match=r"bind_addr to 192\.0\.2\.1:0") as caught:
            socket.bind_addr(address="192.0.2.1")
        assert caught.value.errno == errno.EADDRNOTAVAIL


BAD_ADDRESSES: dict[str, tuple[tuple[Any, ...], type[Exception]]] = {
    "a port too high": ((65536, "127.0.0.1"), ValueError),
    "a negative port": ((-1, "127.0.0.1"), ValueError),
    "a port as text": (("80", "127.0.0.1"), TypeError),
    "a port as bool": ((True, "127.0.0.1"), TypeError),
    "an address as bytes": ((0, b"127.0.0.1"), TypeError),
    "no bytes": ((0, b""), TypeError),
    "None": ((0, None), TypeError),
    "a number": ((0, 0), TypeError),
    "a NUL in the name": ((0, "127.0.0.1\0x"), ValueError),
    "an address with parts left out": ((0, "127.1"), ValueError),
    "an address of the other family": ((0, "::1"), OSError),
}


@pytest.mark.parametrize(("arguments", "kind"), BAD_ADDRESSES.values(), ids=BAD_ADDRESSES)
def test_what_is_no_address_to_bind_to_is_refused_and_binds_nothing(
    arguments: tuple[Any, ...], kind: type[Exception]
) -> None:
    with gnet.new_socket() as socket:
        with pytest.raises(kind):
            socket.bind_addr(*arguments)
        assert socket.get_local_addr() == ("0.0.0.0", 0)
        socket.bind_addr(address="127.0.0.1")


def test_a_unix_socket_has_a_bind_of_its_own() -> None:
    with unix_socket() as socket, pytest.raises(ValueError, match="bind_unix"):
        socket.bind_addr()


# Listening


def test_a_socket_that_is_not_bound_listens_on_a_port_of_the_systems_choice() -> None:
    # Recorded from Nim 1.6.10.
    with gnet.new_socket() as server:
        server.listen()
        assert server.get_local_addr()[1] > 0
        assert server.get_sock_opt(SOBool.ACCEPT_CONN) is True


@pytest.mark.parametrize("backlog", [0, -1, 1, 2**31, 10**30])
def test_any_number_is_a_backlog(backlog: int) -> None:
    # Recorded from Nim 1.6.10 for 0 and -1; the system cuts what is too much.
    with gnet.new_socket() as server:
        server.listen(backlog)
        assert server.get_sock_opt(SOBool.ACCEPT_CONN) is True


@pytest.mark.parametrize("backlog", [None, "5", 5.0, True])
def test_a_backlog_that_is_no_number_is_refused_and_the_socket_does_not_listen(backlog: Any) -> None:
    with gnet.new_socket() as server:
        with pytest.raises(TypeError, match="listen: backlog: expected an int"):
            server.listen(backlog)
        assert server.get_sock_opt(SOBool.ACCEPT_CONN) is False


def test_datagram_sockets_do_not_listen() -> None:
    with udp_socket() as socket:
        with pytest.raises(OSError, match="listen") as caught:
            socket.listen()
        assert caught.value.errno == errno.EOPNOTSUPP
        with pytest.raises(ValueError, match="accept: needs a stream socket; datagrams have recv_from"):
            socket.accept()


# Accepting: whom


@families
def test_accepting_tells_the_true_address_of_the_peer(host: str) -> None:
    with listening(host) as server, gnet.dial(*server.get_local_addr()) as client:
        accepted, address = server.accept_addr(timeout=GUARD)
        with accepted:
            assert address == host
            assert accepted.get_peer_addr() == client.get_local_addr()
            assert accepted.get_local_addr() == server.get_local_addr()


@pytest.mark.parametrize("name", ["", "\0gnet-test-accept-{pid}", "{directory}/peer"])
def test_accepting_over_unix_tells_the_path_or_name_of_the_peer(name: str) -> None:
    with tempfile.TemporaryDirectory() as directory, listening_unix() as server, unix_socket() as client:
        name = name.format(pid=os.getpid(), directory=directory)
        if name:
            client.bind_unix(name)
        client.connect_unix(server.get_local_addr()[0], timeout=GUARD)
        accepted, address = server.accept_addr(timeout=GUARD)
        with accepted:
            assert address == name
            assert accepted.get_peer_addr() == (name, 0)


def test_each_accept_makes_a_new_socket_that_knows_nothing_of_those_before() -> None:
    # In Nim bytes left over from one connection come out of the next one.
    with listening() as server:
        address = server.get_local_addr()
        with gnet.dial(*address) as first, gnet.dial(*address) as second:
            first.send(b"line\nleft over")
            second.send(b"fresh\n")
            with server.accept(timeout=GUARD) as one, server.accept(timeout=GUARD) as two:
                assert one.read_line(timeout=GUARD) == b"line"
                assert (one is two, one.get_fd() == two.get_fd()) == (False, False)
                assert two.read_line(timeout=GUARD) == b"fresh"
                assert one.recv(9, timeout=GUARD) == b"left over"


@buffering
def test_an_accepted_socket_is_buffered_as_its_listener_and_coalesces(buffered: bool) -> None:
    with listening(buffered=buffered) as server, gnet.dial(*server.get_local_addr()) as client:
        client.send(b"line\nrest")
        with server.accept(timeout=GUARD) as accepted:
            assert accepted.read_line(timeout=GUARD) == b"line"
            assert accepted.has_data_buffered() is buffered
            assert (accepted.coalesce, client.coalesce) == (True, False)
            assert accepted.get_sock_opt(SOBool.NO_DELAY) is True


def test_an_accepted_socket_does_not_take_over_the_timeout_of_its_listener() -> None:
    with listening() as server, gnet.dial(*server.get_local_addr()):
        server.timeout = GUARD
        with server.accept() as accepted:
            assert accepted.timeout == -1


@pytest.mark.parametrize("call", ["accept", "accept_addr"])
@pytest.mark.parametrize("inheritable", [False, True])
def test_an_accepted_descriptor_is_inherited_just_if_that_was_asked_for(call: str, inheritable: bool) -> None:
    # Nim's accept forgets `inheritable`.
    with listening() as server, gnet.dial(*server.get_local_addr()):
        answer = getattr(server, call)(inheritable=inheritable, timeout=GUARD)
        with answer[0] if isinstance(answer, tuple) else answer as accepted:
            assert os.get_inheritable(accepted.get_fd()) is inheritable


# Accepting: when


def test_a_connection_that_is_here_is_accepted_without_waiting() -> None:
    with listening() as server:
        with pytest.raises(gnet.TimeoutError, match=r"accept.*not done within 0 ms"):
            server.accept(timeout=0)
        with gnet.dial(*server.get_local_addr()), server.accept(timeout=0) as accepted:
            assert not accepted.closed


@pytest.mark.parametrize("timeout", [SOON, float(SOON), timedelta(milliseconds=SOON), None], ids=repr)
def test_waiting_for_a_connection_ends_in_time_and_loses_none(timeout: Any) -> None:
    with listening() as server:
        server.timeout = SOON
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match=f"accept.*within {SOON} ms"):
            server.accept_addr(timeout=timeout)
        assert SOON / 2 <= taken() < LATE
        with gnet.dial(*server.get_local_addr()), server.accept(timeout=GUARD):
            pass


def test_several_greenlets_accept_and_each_gets_one_in_the_order_they_came() -> None:
    order = []
    with listening() as server:

        def take(number: int) -> None:
            with server.accept(timeout=GUARD) as accepted:
                order.append((number, accepted.read_line(timeout=GUARD)))

        acceptors = [gevent.spawn(take, number) for number in range(4)]
        gevent.idle()
        for number in range(4):
            with gnet.dial(*server.get_local_addr()) as client:
                client.send(b"%d\n" % number)
                acceptors[number].get(timeout=GUARD / 1000)
    assert order == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3")]


def test_a_killed_acceptor_hands_its_turn_on() -> None:
    with listening() as server:
        first, second = gevent.spawn(server.accept), gevent.spawn(server.accept, timeout=GUARD)
        gevent.idle()
        first.kill()
        with gnet.dial(*server.get_local_addr()), second.get(timeout=GUARD / 1000) as accepted:
            assert not accepted.closed


def test_closing_a_listener_wakes_all_who_wait_in_it() -> None:
    with listening() as server:
        waiting = [gevent.spawn(error_of, server.accept) for _ in range(3)]
        gevent.idle()
        server.close()
        for greenlet in waiting:
            assert isinstance(greenlet.get(timeout=GUARD / 1000), gnet.ClosedError)


def test_accepting_without_listening_says_so() -> None:
    with gnet.new_socket() as socket:
        socket.bind_addr(address="127.0.0.1")
        port = socket.get_local_addr()[1]
        with pytest.raises(OSError, match=rf"accept on 127\.0\.0\.1:{port}: Invalid argument") as caught:
            socket.accept(timeout=GUARD)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "arguments",
    [{"flags": 2}, {"flags": None}, {"timeout": float("nan")}, {"timeout": -5}, {"timeout": "5"}],
    ids=str,
)
def test_an_accept_with_bad_arguments_takes_no_connection(arguments: dict[str, Any]) -> None:
    with listening() as server, gnet.dial(*server.get_local_addr()):
        with pytest.raises((TypeError, ValueError), match="expected"):
            server.accept(**arguments)
        server.accept(timeout=0).close()


class _Aborting(_socket.socket):
    """A listener whose first connection ended before it was accepted, as Linux reports that."""

    aborts = 1

    def _accept(self) -> Any:
        if self.aborts:
            self.aborts -= 1
            raise ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
        return super()._accept()  # type: ignore[misc]  # not in the stubs


def aborting_listener() -> gnet.Socket:
    raw = _Aborting(stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM)
    raw.bind(("127.0.0.1", 0))
    raw.listen()
    return gnet.Socket(raw)


def test_a_connection_that_is_gone_before_it_is_accepted_is_passed_over() -> None:
    with (
        aborting_listener() as server,
        gnet.dial(*server.get_local_addr()) as client,
        server.accept(timeout=GUARD) as accepted,
    ):
        assert accepted.get_peer_addr() == client.get_local_addr()


def test_a_connection_that_is_gone_before_it_is_accepted_is_an_error_without_safe_disconn() -> None:
    with aborting_listener() as server, gnet.dial(*server.get_local_addr()):
        with pytest.raises(ConnectionAbortedError, match=r"accept on 127\.0\.0\.1:\d+: Software caused"):
            server.accept(SocketFlag(0), timeout=GUARD)
        server.accept(SocketFlag(0), timeout=GUARD).close()


def test_a_connection_that_is_gone_does_not_hide_the_one_behind_it() -> None:
    with aborting_listener() as server, gnet.dial(*server.get_local_addr()):
        server.accept(timeout=0).close()


# Accepting without waiting


def test_trying_to_accept_finds_nobody_where_nobody_is() -> None:
    with listening() as server:
        assert server.try_accept() == (SslAcceptResult.NO_CLIENT, None)


@buffering
def test_trying_to_accept_gives_a_socket_as_accept_does(buffered: bool) -> None:
    with listening(buffered=buffered) as server, gnet.dial(*server.get_local_addr()) as client:
        client.send(b"line\nrest")
        result, accepted = server.try_accept()
        assert accepted is not None
        with accepted:
            assert result is SslAcceptResult.SUCCESS
            assert accepted.get_peer_addr() == client.get_local_addr()
            assert accepted.read_line(timeout=GUARD) == b"line"
            assert accepted.has_data_buffered() is buffered
            assert (accepted.coalesce, accepted.is_ssl()) == (True, False)
            assert accepted.get_sock_opt(SOBool.NO_DELAY) is True
        assert server.try_accept() == (SslAcceptResult.NO_CLIENT, None)


def test_trying_to_accept_works_over_unix() -> None:
    with listening_unix() as server, unix_socket() as client:
        client.connect_unix(server.get_local_addr()[0], timeout=GUARD)
        result, accepted = server.try_accept()
        assert accepted is not None
        accepted.close()
        assert result is SslAcceptResult.SUCCESS


def test_trying_to_accept_lets_nobody_else_run() -> None:
    with listening(backlog=128) as server:
        clients = [gnet.dial(*server.get_local_addr()) for _ in range(100)]
        other = gevent.spawn(lambda: None)
        results = []
        for _ in range(200):
            result, accepted = server.try_accept()
            results.append(result)
            if accepted is not None:
                accepted.close()
        assert not other.ready()
        assert results == [SslAcceptResult.SUCCESS] * 100 + [SslAcceptResult.NO_CLIENT] * 100
        other.join()
        for client in clients:
            client.close()


def test_trying_to_accept_comes_before_those_who_wait_and_they_wait_on() -> None:
    with listening() as server:
        waiting = gevent.spawn(server.accept, timeout=GUARD)
        gevent.idle()
        with gevent.socket.socket() as first, gevent.socket.socket() as second:
            first.setblocking(False)
            assert first.connect_ex(server.get_local_addr()) == errno.EINPROGRESS
            _result, accepted = server.try_accept()
            assert accepted is not None
            with accepted:
                assert accepted.get_peer_addr() == first.getsockname()
            second.connect(server.get_local_addr())
            with waiting.get(timeout=GUARD / 1000) as other:
                assert other.get_peer_addr() == second.getsockname()


def test_trying_to_accept_passes_over_a_connection_that_is_gone() -> None:
    with aborting_listener() as server, gnet.dial(*server.get_local_addr()):
        result, accepted = server.try_accept()
        assert result is SslAcceptResult.SUCCESS
        assert accepted is not None
        accepted.close()


def test_trying_to_accept_where_that_makes_no_sense_is_an_error() -> None:
    with udp_socket() as datagrams, pytest.raises(ValueError, match="try_accept: needs a stream socket"):
        datagrams.try_accept()
    with gnet.new_socket() as socket:
        socket.bind_addr(address="127.0.0.1")
        with pytest.raises(OSError, match=r"try_accept on 127\.0\.0\.1:\d+: Invalid argument"):
            socket.try_accept()
        assert isinstance(in_another_thread(socket.try_accept), RuntimeError)
    with pytest.raises(gnet.ClosedError, match="try_accept"):
        socket.try_accept()
