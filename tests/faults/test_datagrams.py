"""Datagrams that are too long and ports where nobody is: rows A24, A25 of the fault catalogue."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket

import gnet
from gnet import AF_INET, AF_INET6, AF_UNIX, IPPROTO_IP, IPPROTO_UDP, SOCK_DGRAM
from tests.faults.peers import GUARD, elapsed


@contextmanager
def datagram_pair(family: int = AF_INET) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A bound gnet socket, and a gevent socket that is connected to it and bound itself."""
    with (
        gnet.new_socket(family, SOCK_DGRAM, IPPROTO_IP if family == AF_UNIX else IPPROTO_UDP) as ours,
        socket.socket(family, socket.SOCK_DGRAM) as peer,
    ):
        if family == AF_UNIX:
            ours.bind_unix("")
            peer.bind("")
            peer.connect(ours.get_local_addr()[0])
        else:
            host = "::1" if family == AF_INET6 else "127.0.0.1"
            ours.bind_addr(address=host)
            peer.bind((host, 0))
            peer.connect(ours.get_local_addr())
        ours.timeout = GUARD
        peer.settimeout(GUARD / 1000)
        yield ours, peer


@contextmanager
def nobody() -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    """A UDP port that is taken and yet refuses all comers, and the socket that has it.

    Connected elsewhere, that socket gets nothing from others; connected to one of them, it does.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken, socket.socket(type=SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        taken.bind(("127.0.0.1", 0))
        taken.connect(other.getsockname())
        taken.settimeout(GUARD / 1000)
        yield taken, taken.getsockname()


# A24: a datagram that is longer than asked for


def receive_into(ours: gnet.Socket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: ours.recv_into(buffer)])


RECEIVES: dict[str, Callable[[gnet.Socket, int], bytes]] = {
    "recv_from": lambda ours, size: ours.recv_from(size)[0],
    "recv": lambda ours, size: ours.recv(size),
    "recv_into": receive_into,
    "recv_some": lambda ours, size: ours.recv_some(size),
}
every_family = pytest.mark.parametrize("family", [AF_INET, AF_INET6, AF_UNIX])


@every_family
@pytest.mark.parametrize("receive", RECEIVES.values(), ids=RECEIVES)
def test_a24_a_datagram_longer_than_asked_for_is_an_error_and_the_next_one_whole(
    receive: Callable[[gnet.Socket, int], bytes], family: int
) -> None:
    with datagram_pair(family) as (ours, peer):
        for size in (20_000, 8193, 8192, 5):
            peer.send(bytes(size))
        sender = peer.getsockname()
        shown = str(sender[1]) if isinstance(sender, tuple) else ""
        for _ in range(2):
            with pytest.raises(OSError, match=rf"recv\w* from .*{shown}.* longer than 8192 bytes") as error:
                receive(ours, 8192)
            assert error.value.errno == errno.EMSGSIZE
        assert [len(receive(ours, 8192)), len(receive(ours, 8192))] == [8192, 5]


@every_family
def test_a24_a_datagram_longer_than_asked_for_is_cut_where_that_was_asked_for(family: int) -> None:
    with datagram_pair(family) as (ours, peer):
        peer.send(bytes(range(250)) * 80)
        peer.send(b"next")
        assert ours.recv_from(100, truncate=True)[0] == bytes(range(100))
        assert ours.recv_from(100, truncate=True)[0] == b"next"


def test_a24_a_look_at_a_longer_datagram_leaves_it_whole() -> None:
    with datagram_pair() as (ours, peer):
        peer.send(bytes(20_000))
        assert ours.peek(100) == bytes(100)
        with pytest.raises(OSError, match="longer than 100 bytes"):
            ours.recv_from(100, gnet.SocketFlag.PEEK)
        assert len(ours.recv_from(20_000)[0]) == 20_000


def test_a24_the_longest_datagrams_go_and_one_byte_more_is_an_error() -> None:
    with datagram_pair() as (ours, peer):
        host, port = peer.getsockname()
        assert ours.send_to(host, port, bytes(65_507)) == 65_507
        assert len(peer.recv(70_000)) == 65_507
        with pytest.raises(OSError, match=re.escape(f"send_to {host}:{port}: Message too long")) as error:
            ours.send_to(host, port, bytes(65_508))
        assert error.value.errno == errno.EMSGSIZE
        assert ours.send_to(host, port, b"next") == 4
        assert peer.recv(10) == b"next"


# A25: a port where nobody is


def test_a25_a_connected_socket_learns_that_nobody_is_there_and_goes_on() -> None:
    with nobody() as (taken, address), gnet.dial(*address, IPPROTO_UDP) as ours:
        ours.timeout = GUARD
        for _ in range(3):
            ours.send(b"anybody?")
            with (
                elapsed() as ms,
                pytest.raises(ConnectionRefusedError, match=rf"recv .*127\.0\.0\.1:{address[1]}"),
            ):
                ours.recv(100)
            assert ms() < 10 * 5
        taken.connect(ours.get_local_addr())
        ours.send(b"somebody?")
        assert taken.recv(100) == b"somebody?"
        taken.send(b"yes")
        assert ours.recv(100) == b"yes"


def test_a25_a_receiver_that_waits_already_learns_it_too() -> None:
    with nobody() as (_, address), gnet.dial(*address, IPPROTO_UDP) as ours:
        waiting = gevent.spawn(ours.recv, 100, GUARD)
        gevent.sleep(0)
        ours.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            waiting.get()


def test_a25_a_sender_that_does_not_receive_learns_it_from_its_next_send() -> None:
    with nobody() as (_, address), gnet.dial(*address, IPPROTO_UDP) as ours:
        ours.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError, match=rf"send to {address[0]}:{address[1]}"):
            ours.send(b"anybody?")
        ours.send(b"the news was told")


def test_a25_an_unconnected_socket_does_not_hear_of_it_and_hears_others() -> None:
    with nobody() as (_, address), datagram_pair() as (ours, peer):
        for _ in range(3):
            assert ours.send_to(*address, b"anybody?") == 8
        with pytest.raises(gnet.TimeoutError):
            ours.recv_from(100, timeout=50)
        peer.send(b"I am")
        assert ours.recv_from(100) == (b"I am", *peer.getsockname())
