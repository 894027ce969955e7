"""gnet.dialing: one call from a name to a connected socket.

Several addresses, dead ones among them, and interrupted calls are `tests.faults.test_connecting`.
"""

from __future__ import annotations

import errno
import socket as stdlib_socket  # for its constants
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gevent.socket
import pytest
from gevent import subprocess

import gnet
from gnet import SOBool
from gnet.dialing import interleave
from tests.faults.peers import black_hole, closed_port, elapsed
from tests.loopback import GUARD, LATE, SOON, buffering, families, listening, needs_ipv6, udp_socket

# What it gives


@families
def test_dialling_an_address_gives_a_connected_socket(host: str) -> None:
    with listening(host) as server, gnet.dial(*server.get_local_addr(), timeout=GUARD) as client:
        assert client.get_peer_addr() == server.get_local_addr()
        assert f"peer={host}" in repr(client).replace("[", "").replace("]", "")
        assert (client.timeout, client.coalesce) == (-1, False)
        assert client.get_sock_opt(SOBool.NO_DELAY) is True
        with server.accept(timeout=GUARD) as accepted:
            client.send(b"ping\n")
            assert accepted.read_line(timeout=GUARD) == b"ping"


@needs_ipv6
@families
def test_dialling_a_name_tries_both_families(host: str) -> None:
    # Names below localhost have both addresses (RFC 6761); only one of them listens.
    with listening(host) as server:
        port = server.get_local_addr()[1]
        with gnet.dial("both.localhost", port, timeout=GUARD) as client:
            assert client.get_peer_addr() == (host, port)


@pytest.mark.parametrize("name", ["localhost", "LocalHost", "localhost."])
def test_localhost_is_found_however_it_is_written(name: str) -> None:
    with listening() as server, gnet.dial(name, server.get_local_addr()[1], timeout=GUARD) as client:
        assert client.get_peer_addr() == server.get_local_addr()


@buffering
def test_a_dialled_socket_is_buffered_as_was_asked_for(buffered: bool) -> None:
    # Nim's dial forgets `buffered`.
    with (
        listening() as server,
        gnet.dial(*server.get_local_addr(), buffered=buffered) as client,
        server.accept(timeout=GUARD) as accepted,
    ):
        accepted.send(b"line\nrest")
        assert client.read_line(timeout=GUARD) == b"line"
        assert client.has_data_buffered() is buffered


@families
def test_dialling_with_udp_gives_a_connected_datagram_socket(host: str) -> None:
    with udp_socket(host) as receiver, gnet.dial(*receiver.get_local_addr(), gnet.IPPROTO_UDP) as sender:
        assert sender.get_sock_opt(stdlib_socket.SO_TYPE, stdlib_socket.SOL_SOCKET) == gnet.SOCK_DGRAM
        sender.send(b"data")
        assert receiver.recv_from(10, timeout=GUARD) == (b"data", *sender.get_local_addr())


def test_a_dialled_socket_comes_from_the_address_and_port_that_were_asked_for() -> None:
    with listening() as server:
        address = server.get_local_addr()
        with gnet.dial(*address, source=("127.0.0.2", 0)) as client, server.accept(timeout=GUARD) as accepted:
            port = accepted.get_peer_addr()[1]
            assert accepted.get_peer_addr() == client.get_local_addr() == ("127.0.0.2", port)
            accepted.set_sock_opt(
                stdlib_socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]), stdlib_socket.SOL_SOCKET
            )
            accepted.close()  # with a reset, so that the port is free again
        with gnet.dial(*address, source=("127.0.0.3", port)) as client:
            assert client.get_local_addr() == ("127.0.0.3", port)


@needs_ipv6
@pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
@families
def test_a_source_without_a_port_takes_one_for_its_destination_alone(host: str) -> None:
    ip_bind_address_no_port = 24
    with listening(host) as server:
        source = (host, 0)
        with gnet.dial(host, server.get_local_addr()[1], source=source) as client:
            assert client.get_sock_opt(ip_bind_address_no_port, stdlib_socket.IPPROTO_IP) == 1


def test_just_addresses_of_the_family_of_the_source_are_tried() -> None:
    with listening("::1") as server:
        port = server.get_local_addr()[1]
        with gnet.dial("both.localhost", port, source=("::1", 0)) as client:
            assert client.get_local_addr()[0] == "::1"
        with pytest.raises(ConnectionRefusedError) as caught:
            gnet.dial("both.localhost", port, source=("127.0.0.1", 0))
        assert "127.0.0.1" in str(caught.value)
        assert "::1" not in str(caught.value)


def test_a_socket_that_dial_gave_does_not_connect_again() -> None:
    with listening() as first, listening() as second, gnet.dial(*first.get_local_addr()) as client:
        with pytest.raises(OSError, match="connect to 127") as caught:
            client.connect(*second.get_local_addr(), timeout=GUARD)
        assert caught.value.errno == errno.EISCONN


# What goes wrong


def test_a_refused_dial_names_the_address() -> None:
    with closed_port() as (host, port):
        message = rf"dial 127\.0\.0\.1:{port}: .*Connection refused"
        with pytest.raises(ConnectionRefusedError, match=message):
            gnet.dial(host, port, timeout=GUARD)


@needs_ipv6
def test_a_dial_that_is_refused_everywhere_names_each_attempt_and_has_them_as_cause() -> None:
    with closed_port() as (_, port), pytest.raises(ConnectionRefusedError) as caught:
        gnet.dial("both.localhost", port, timeout=GUARD)
    message = str(caught.value)
    assert f"dial both.localhost:{port}: all 2 attempts failed" in message
    assert f"[::1]:{port}: Connection refused" in message
    assert f"127.0.0.1:{port}: Connection refused" in message
    causes = caught.value.__cause__
    assert isinstance(causes, ExceptionGroup)
    assert [type(cause) for cause in causes.exceptions] == [ConnectionRefusedError, ConnectionRefusedError]


@pytest.mark.parametrize("timeout", [SOON, timedelta(milliseconds=SOON)], ids=["number", "timedelta"])
def test_a_dial_without_an_answer_ends_in_time(timeout: Any) -> None:
    with black_hole() as (host, port):
        with (
            elapsed() as taken,
            pytest.raises(gnet.TimeoutError, match=rf"dial 127.*:{port}.*within {SOON} ms"),
        ):
            gnet.dial(host, port, timeout=timeout)
        assert SOON / 2 <= taken() < LATE


def test_a_source_that_is_no_address_of_this_machine_is_named() -> None:
    with listening() as server:
        with pytest.raises(OSError, match=rf"dial 127\.0\.0\.1:{server.get_local_addr()[1]}") as caught:
            gnet.dial(*server.get_local_addr(), source=("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an address as bytes": (
        {"address": b"127.0.0.1"},
        TypeError,
        "dial: expected a host name as str, got bytes",
    ),
    "None": ({"address": None}, TypeError, "dial: expected a host name as str, got NoneType"),
    "no address": ({"address": ""}, ValueError, "dial: the host name is empty"),
    "a NUL in the name": ({"address": "localhost\0.evil"}, ValueError, "dial: the host name .*x00"),
    "an address with parts left out": ({"address": "127.1"}, ValueError, "dial: '127.1' is no IP address"),
    "a port too high": ({"port": 65536}, ValueError, "port: expected 0 to 65535, got 65536"),
    "a negative port": ({"port": -1}, ValueError, "port: expected 0 to 65535, got -1"),
    "a port as text": ({"port": "80"}, TypeError, "port: .*got str"),
    "a protocol by name": ({"protocol": "tcp"}, TypeError, "dial: protocol: expected an int, got str"),
    "a protocol as bool": ({"protocol": True}, TypeError, "dial: protocol: expected an int, got bool"),
    "a negative protocol": ({"protocol": -1}, ValueError, "dial: protocol"),
    "a huge protocol": ({"protocol": 2**40}, ValueError, "dial: protocol"),
    "a timeout that is no number": ({"timeout": float("nan")}, ValueError, "timeout: expected"),
    "a negative timeout": ({"timeout": -7}, ValueError, "timeout: expected"),
    "a source without port": (
        {"source": "127.0.0.1"},
        TypeError,
        r"dial: source: expected \(address, port\)",
    ),
    "a source of three": ({"source": ("127.0.0.1", 0, 0)}, TypeError, r"dial: source: expected"),
    "a source by name": ({"source": ("localhost", 0)}, ValueError, "dial: source.*localhost"),
    "a source with a port too high": ({"source": ("127.0.0.1", 65536)}, ValueError, "port: .*got 65536"),
    "a source with a number": ({"source": (5, 0)}, TypeError, "dial: source: .*got int"),
}


@pytest.mark.parametrize(("bad", "kind", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused_and_nothing_is_connected(
    bad: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with listening() as server:
        address, port = server.get_local_addr()
        with pytest.raises(kind, match=message):
            gnet.dial(**({"address": address, "port": port, "timeout": GUARD} | bad))
        with pytest.raises(gnet.TimeoutError):
            server.accept(timeout=0)


# Without a look-up

LITERALS_AND_KNOWN_NAMES = """
import os, gnet
server = gnet.new_socket()
server.bind_addr(address="127.0.0.1")
server.listen()
port = server.get_local_addr()[1]
udp = gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
udp.bind_addr(address="localhost")
for host in ("127.0.0.1", "localhost"):
    gnet.dial(host, port).close()
    server.accept().close()
    client = gnet.new_socket()
    client.connect(host, port)
    client.close()
    server.accept().close()
    udp.send_to(host, port, b"data")
server.close()
udp.close()
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.plain_only
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how many threads there are")
def test_literal_addresses_and_localhost_never_reach_the_threads_of_the_resolver() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LITERALS_AND_KNOWN_NAMES],
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


# The order of the attempts

V4: Callable[[int], Any] = lambda number: (gnet.AF_INET, 1, 6, (f"192.0.2.{number}", 80))  # noqa: E731
V6: Callable[[int], Any] = lambda number: (gnet.AF_INET6, 1, 6, (f"2001:db8::{number}", 80, 0, 0))  # noqa: E731

ORDERS: dict[str, tuple[list[Any], list[Any]]] = {
    "in turns": ([V6(1), V6(2), V4(1), V4(2)], [V6(1), V4(1), V6(2), V4(2)]),
    "the first one's family first": ([V4(1), V6(1), V6(2)], [V4(1), V6(1), V6(2)]),
    "more of one": ([V6(1), V6(2), V6(3), V4(1)], [V6(1), V4(1), V6(2), V6(3)]),
    "one family": ([V4(1), V4(2)], [V4(1), V4(2)]),
    "each once": ([V4(1), V4(1), V6(1), V4(1)], [V4(1), V6(1)]),
    "none": ([], []),
}


@pytest.mark.parametrize(("found", "tried"), ORDERS.values(), ids=ORDERS)
def test_the_families_take_turns(found: list[Any], tried: list[Any]) -> None:
    assert interleave(found) == tried


def test_a_dial_to_a_name_that_nobody_has_is_a_gaierror_with_the_name() -> None:
    # .invalid is nobody's (RFC 6761); the answer may be that no name server is to be had.
    with pytest.raises(
        gevent.socket.gaierror, match=r"dial nobody\.invalid:80: looking up 'nobody\.invalid'"
    ):
        gnet.dial("nobody.invalid", 80, timeout=GUARD)
