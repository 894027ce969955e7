"""gnet.datagrams: one call, one datagram; over UDP and Unix. Faults are `tests.faults.test_datagrams`."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket  # for its constants
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import gevent
import pytest

import gnet
from gnet import SocketFlag
from tests.faults.peers import elapsed
from tests.loopback import (
    GUARD,
    LATE,
    SOON,
    error_of,
    families,
    needs_ipv6,
    udp_socket,
    unix_socket,
)


@contextmanager
def unix_datagrams(name: str = "") -> Iterator[tuple[gnet.Socket, gnet.Socket]]:
    """A bound Unix datagram socket and one that is connected to it."""
    with unix_socket(gnet.SOCK_DGRAM) as receiver, unix_socket(gnet.SOCK_DGRAM) as sender:
        receiver.bind_unix(name)
        receiver.timeout = GUARD
        sender.connect_unix(receiver.get_local_addr()[0])
        yield receiver, sender


@contextmanager
def udp(host: str = "127.0.0.1") -> Iterator[tuple[gnet.Socket, gnet.Socket]]:
    """A bound UDP socket and one that is connected to it."""
    with (
        udp_socket(host) as receiver,
        gnet.dial(*receiver.get_local_addr(), gnet.IPPROTO_UDP) as sender,
    ):
        receiver.timeout = GUARD
        yield receiver, sender


# Receiving


@families
def test_a_datagram_comes_with_the_address_of_its_sender(host: str) -> None:
    with udp(host) as (receiver, sender):
        sender.send(b"data")
        assert receiver.recv_from(100) == (b"data", *sender.get_local_addr())


@needs_ipv6
def test_an_ipv4_sender_is_shown_as_ipv4_on_a_socket_of_ipv6() -> None:
    # Recorded from Nim 1.6.10, where the addresses of connections stay in IPv6 form.
    with gnet.new_socket(gnet.AF_INET6, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as receiver:
        receiver.bind_addr()
        with udp_socket() as sender:
            sender.send_to("127.0.0.1", receiver.get_local_addr()[1], b"data")
            assert receiver.recv_from(100, timeout=GUARD) == (b"data", *sender.get_local_addr())


@pytest.mark.parametrize("name", ["", f"\0gnet-test-{os.getpid()}"], ids=["unbound", "abstract"])
def test_a_datagram_over_unix_comes_with_the_name_of_its_sender(name: str) -> None:
    with unix_datagrams() as (receiver, sender):
        if name:
            sender.bind_unix(name)
        sender.send(b"data")
        assert receiver.recv_from(100) == (b"data", name, 0)


@pytest.mark.parametrize("make", [udp, unix_datagrams])
def test_datagrams_stay_apart_and_none_is_read_ahead(make: Callable[[], Any]) -> None:
    # Nim glues those of a buffered socket together.
    with make() as (receiver, sender):
        for data in (b"one", b"", b"three", b"four", b"five"):
            sender.send(data)
        assert receiver.recv_from(100)[0] == b"one"
        assert receiver.has_data_buffered() is False
        assert [receiver.recv(100), receiver.recv_some(100), receiver.recv(5)] == [b"", b"three", b"four"]
        buffer = bytearray(8)
        assert (receiver.recv_into(buffer), buffer[:4]) == (4, b"five")


@pytest.mark.parametrize(
    "look",
    [
        lambda socket: socket.recv_from(100, SocketFlag.PEEK)[0],
        lambda socket: socket.recv_from(100, int(stdlib_socket.MSG_PEEK))[0],
        lambda socket: socket.recv(100, flags=SocketFlag.PEEK),
        lambda socket: socket.peek(100),
    ],
    ids=["recv_from", "recv_from with the number", "recv", "peek"],
)
def test_a_look_leaves_the_datagram(look: Callable[[gnet.Socket], bytes]) -> None:
    with udp() as (receiver, sender):
        sender.send(b"one")
        sender.send(b"two")
        assert [look(receiver), look(receiver)] == [b"one", b"one"]
        assert [receiver.recv(100), look(receiver)] == [b"one", b"two"]


@pytest.mark.parametrize("make", [udp, unix_datagrams])
def test_a_datagram_longer_than_asked_for_is_an_error_and_the_next_comes_whole(
    make: Callable[[], Any],
) -> None:
    with make() as (receiver, sender):
        for read in (lambda: receiver.recv_from(4)[0], lambda: receiver.recv(4)):
            sender.send(b"12345")
            sender.send(b"1234")
            with pytest.raises(OSError, match="the datagram is longer than 4 bytes") as caught:
                read()
            assert caught.value.errno == errno.EMSGSIZE
            assert read() == b"1234"


def test_the_start_of_a_long_datagram_is_given_where_that_was_asked_for() -> None:
    with udp() as (receiver, sender):
        sender.send(b"12345")
        sender.send(b"next")
        assert receiver.recv_from(2, truncate=True)[0] == b"12"
        assert receiver.recv_from(4, truncate=True)[0] == b"next"


def test_waiting_for_a_datagram_ends_in_time_and_loses_none() -> None:
    with udp() as (receiver, sender):
        for timeout in (0, SOON):
            late = pytest.raises(gnet.TimeoutError, match=f"recv_from.*within {timeout} ms")
            with elapsed() as taken, late:
                receiver.recv_from(10, timeout=timeout)
            assert taken() < LATE
        sender.send(b"late")
        assert receiver.recv_from(10, timeout=0)[0] == b"late"


def test_several_receivers_get_one_datagram_each_in_the_order_they_came() -> None:
    with udp() as (receiver, sender):
        waiting = [gevent.spawn(receiver.recv_from, 10) for _ in range(3)] + [gevent.spawn(receiver.recv, 10)]
        gevent.idle()
        for data in (b"1", b"2", b"3", b"4"):
            sender.send(data)
        got = [greenlet.get(timeout=GUARD / 1000) for greenlet in waiting]
        assert [one if isinstance(one, bytes) else one[0] for one in got] == [b"1", b"2", b"3", b"4"]


def test_closing_wakes_those_who_wait_for_datagrams() -> None:
    with udp() as (receiver, _):
        waiting = [gevent.spawn(error_of, receiver.recv_from, 10) for _ in range(2)]
        gevent.idle()
        receiver.close()
        for greenlet in waiting:
            assert isinstance(greenlet.get(timeout=GUARD / 1000), gnet.ClosedError)


# Sending


@families
@pytest.mark.parametrize("as_text", [True, False], ids=["text", "IpAddress"])
def test_a_datagram_is_sent_to_an_address(host: str, as_text: bool) -> None:
    with udp_socket(host) as receiver, udp_socket(host) as sender:
        port = receiver.get_local_addr()[1]
        assert sender.send_to(host if as_text else ip_address(host), port, b"data") == 4
        assert receiver.recv_from(10, timeout=GUARD) == (b"data", *sender.get_local_addr())


def test_a_datagram_is_sent_to_a_name() -> None:
    with udp_socket() as receiver, udp_socket() as sender:
        assert sender.send_to("localhost", receiver.get_local_addr()[1], bytearray(b"data")) == 4
        assert receiver.recv_from(10, timeout=GUARD)[0] == b"data"


@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", ip_address("127.0.0.1")], ids=repr)
def test_a_socket_of_ipv6_sends_to_ipv4_addresses(address: Any) -> None:
    sender = gnet.new_socket(gnet.AF_INET6, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
    with udp_socket() as receiver, sender:
        assert sender.send_to(address, receiver.get_local_addr()[1], b"data") == 4
        assert receiver.recv_from(10, timeout=GUARD)[:2] == (b"data", "127.0.0.1")


def test_an_empty_datagram_is_a_datagram() -> None:
    with udp() as (receiver, sender):
        assert sender.connect(*receiver.get_local_addr()) is None
        sender.send(b"")
        assert receiver.recv_from(10) == (b"", *sender.get_local_addr())


def test_a_datagram_that_is_too_long_is_an_error_and_none_is_sent() -> None:
    # Recorded from Nim 1.6.10: 65,507 bytes go.
    with udp() as (receiver, sender):
        address = receiver.get_local_addr()
        too_long = pytest.raises(OSError, match=rf"send_to 127\.0\.0\.1:{address[1]}")
        with udp_socket() as other, too_long as caught:
            other.send_to(*address, bytes(65_508))
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(OSError, match="send to 127") as caught:
            sender.send(bytes(65_508))
        assert caught.value.errno == errno.EMSGSIZE
        assert sender.try_send(bytes(65_508)) is False
        sender.send(bytes(65_507))
        assert len(receiver.recv(65_507)) == 65_507


def test_a_connected_socket_sends_in_every_way() -> None:
    with udp() as (receiver, sender):
        sender.send(b"send")
        assert sender.try_send(memoryview(b"try")) is True
        sender &= b"operator"
        sender.flush()
        assert [receiver.recv(10) for _ in range(3)] == [b"send", b"try", b"operator"]
        sender.coalesce = True
        assert sender.coalesce is False


def test_an_unconnected_socket_says_that_it_has_no_peer() -> None:
    with udp_socket() as socket, pytest.raises(OSError, match="send to an unconnected socket") as caught:
        socket.send(b"data")
    assert caught.value.errno == errno.EDESTADDRREQ


def test_senders_wait_while_the_receiver_has_no_room_and_each_datagram_arrives() -> None:
    with unix_datagrams() as (receiver, sender):
        sent = 0
        while sender.try_send(b"%d" % sent):
            sent += 1
        with pytest.raises(gnet.TimeoutError, match=r"send to unix:@.*within 20 ms"):
            sender.send(b"late", timeout=SOON)
        waiting = [gevent.spawn(sender.send, b"one"), gevent.spawn(sender.send, b"two")]
        gevent.idle()
        assert [receiver.recv(100) for _ in range(sent)] == [b"%d" % number for number in range(sent)]
        for greenlet in waiting:
            greenlet.get(timeout=GUARD / 1000)
        assert {receiver.recv(100), receiver.recv(100)} == {b"one", b"two"}


BAD_TARGETS: dict[str, tuple[tuple[Any, ...], dict[str, Any], Any, str]] = {
    "an address as bytes": ((b"127.0.0.1", 9), {}, TypeError, "address: .*got bytes"),
    "None": ((None, 9), {}, TypeError, "address: .*got NoneType"),
    "no address": (("", 9), {}, ValueError, "send_to: the host name is empty"),
    "a NUL in the name": (("localhost\0x", 9), {}, ValueError, "send_to: the host name .*x00x"),
    "an address with parts left out": (("127.1", 9), {}, ValueError, "send_to: '127.1' is no IP address"),
    "a port too high": (("127.0.0.1", 65536), {}, ValueError, "port: .*got 65536"),
    "a port as text": (("127.0.0.1", "9"), {}, TypeError, "port: .*got str"),
    "text of the other family": (("::1", 9), {}, OSError, "send_to.*::1.*AF_INET"),
    "an address of the other family": (
        (ip_address("::1"), 9),
        {},
        (ValueError, OSError),
        "send_to.*::1.*AF_INET",
    ),
    "a family that is not the socket's": (
        ("::1", 9),
        {"af": gnet.AF_INET6},
        (ValueError, OSError),
        "send_to.*AF_INET",
    ),
    "a family that is none": (("127.0.0.1", 9), {"af": 999}, ValueError, "999"),
}


@pytest.mark.parametrize(("target", "more", "kind", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_what_is_no_target_is_refused_and_nothing_is_sent(
    target: tuple[Any, ...], more: dict[str, Any], kind: Any, message: str
) -> None:
    with udp_socket() as receiver, gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as sender:
        with pytest.raises(kind, match=message):
            sender.send_to(*target, b"data", **more)
        assert sender.get_local_addr() == ("0.0.0.0", 0)
        sender.send_to(*receiver.get_local_addr(), b"sound")
        assert receiver.recv(10, timeout=GUARD) == b"sound"


BAD_RECEIVES: dict[str, tuple[tuple[Any, ...], type[Exception]]] = {
    "a negative length": ((-1,), ValueError),
    "a length as float": ((4.0,), TypeError),
    "a length as bool": ((True,), TypeError),
    "flags as text": ((4, "2"), TypeError),
    "flags as float": ((4, 2.5), TypeError),
    "no flags": ((4, None), TypeError),
    "huge flags": ((4, 2**40), ValueError),
    "a timeout that is no number": ((4, 0, float("nan")), ValueError),
}


@pytest.mark.parametrize(("arguments", "kind"), BAD_RECEIVES.values(), ids=BAD_RECEIVES)
def test_bad_arguments_are_refused_and_the_datagram_stays(
    arguments: tuple[Any, ...], kind: type[Exception]
) -> None:
    with udp() as (receiver, sender):
        sender.send(b"data")
        with pytest.raises(kind, match=r"recv_from|flags|timeout"):
            receiver.recv_from(*arguments)
        assert receiver.recv(4) == b"data"


# What is for streams only

STREAM_CALLS: dict[str, Callable[[gnet.Socket], Any]] = {
    "accept": lambda socket: socket.accept(),
    "iter": lambda socket: iter(socket),
    "lines": lambda socket: socket.lines(),
    "read_line": lambda socket: socket.read_line(),
    "recv_exactly": lambda socket: socket.recv_exactly(1),
    "recv_until": lambda socket: socket.recv_until(b"\n"),
    "skip": lambda socket: socket.skip(1),
    "try_read_line": lambda socket: socket.try_read_line(),
}


@pytest.mark.parametrize("call", STREAM_CALLS.values(), ids=STREAM_CALLS)
def test_calls_for_streams_are_refused_and_the_datagram_stays(call: Callable[[gnet.Socket], Any]) -> None:
    with udp() as (receiver, sender):
        sender.send(b"line\n")
        with pytest.raises(ValueError, match="needs a stream"):
            call(receiver)
        assert receiver.recv(5) == b"line\n"


# Packets in sequence: datagrams with a connection


def test_packets_keep_their_bounds_and_end_with_the_connection() -> None:
    with unix_socket(gnet.SOCK_SEQPACKET) as server, unix_socket(gnet.SOCK_SEQPACKET) as client:
        server.bind_unix("")
        server.listen()
        client.connect_unix(server.get_local_addr()[0], timeout=GUARD)
        with server.accept(timeout=GUARD) as accepted:
            client.send(b"one\n")
            client.send(b"two\n")
            assert [accepted.recv(100, GUARD), accepted.recv(100, GUARD)] == [b"one\n", b"two\n"]
            accepted.send(b"answer")
            assert client.recv(100, GUARD) == b"answer"
            client.close()
            assert accepted.recv(100, GUARD) == b""
