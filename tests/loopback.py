"""Sockets over loopback for the tests of the core: listeners, connections of two gnet sockets, other threads.

For a peer that misbehaves, or is no gnet socket, see `tests.faults.peers`.
"""

from __future__ import annotations

import socket as stdlib_socket  # for its constants
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import gevent
import gevent.socket
import pytest

import gnet
from gnet.transports import yield_to_loop

_T = TypeVar("_T")

GUARD: Final = 15_000
"""Milliseconds: nothing in these tests takes this long unless it hangs."""

SOON: Final = 20
"""Milliseconds: a timeout that is meant to be over."""

LATE: Final = 5 * SOON + 400
"""Milliseconds within which a call with the timeout `SOON` must have ended, on a busy machine too."""


def _has_ipv6_loopback() -> bool:
    try:
        with gevent.socket.socket(stdlib_socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6: Final = pytest.mark.skipif(not _has_ipv6_loopback(), reason="this machine has no ::1")

families: Final = pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)], ids=["IPv4", "IPv6"]
)

buffering: Final = pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])


def family_of(host: str) -> int:
    """Give the address family of an IP literal."""
    return gnet.AF_INET6 if ":" in host else gnet.AF_INET


@contextmanager
def listening(host: str = "127.0.0.1", *, buffered: bool = True, backlog: int = 16) -> Iterator[gnet.Socket]:
    """A listening TCP socket on a port of the system's choice."""
    with gnet.new_socket(family_of(host), buffered=buffered) as server:
        server.bind_addr(address=host)
        server.listen(backlog)
        yield server


@contextmanager
def listening_unix(name: str = "", *, backlog: int = 16) -> Iterator[gnet.Socket]:
    """A listening Unix stream socket, with a name that the system chose unless one is given."""
    with gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, gnet.IPPROTO_IP) as server:
        server.bind_unix(name)
        server.listen(backlog)
        yield server


def unix_socket(sock_type: int = gnet.SOCK_STREAM) -> gnet.Socket:
    """Make a Unix socket that is neither bound nor connected."""
    return gnet.new_socket(gnet.AF_UNIX, sock_type, gnet.IPPROTO_IP)


def udp_socket(host: str = "127.0.0.1") -> gnet.Socket:
    """Make a UDP socket, bound to a port of the system's choice."""
    socket = gnet.new_socket(family_of(host), gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
    socket.bind_addr(address=host)
    return socket


@contextmanager
def pair(host: str = "127.0.0.1", *, buffered: bool = True) -> Iterator[tuple[gnet.Socket, gnet.Socket]]:
    """A dialled TCP socket and the accepted one at its other end, both of gnet."""
    with (
        listening(host, buffered=buffered) as server,
        gnet.dial(*server.get_local_addr(), buffered=buffered, timeout=GUARD) as client,
        server.accept(timeout=GUARD) as accepted,
    ):
        client.timeout = accepted.timeout = GUARD
        yield client, accepted


def view_of(socket: gnet.Socket) -> Any:
    """Give a gevent socket for the same kernel socket, to see what the kernel has; close it."""
    return gevent.socket.fromfd(
        socket.fileno(), stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM, gnet.IPPROTO_TCP
    )


def in_another_thread(call: Callable[[], _T]) -> _T | BaseException:
    """Make a call in a thread other than this one; give its result or what it raised."""

    def catch() -> _T | BaseException:
        try:
            return call()
        except BaseException as error:
            return error

    return gevent.get_hub().threadpool.apply(catch)  # type: ignore[no-any-return]


def error_of(call: Callable[..., object], *arguments: object) -> BaseException:
    """Make a call that is to raise, and give what it raised: for greenlets, which print what they raise."""
    try:
        result = call(*arguments)
    except Exception as error:
        return error
    raise AssertionError(f"no error, but {result!r}")


def send_in_pieces(peer: Any, pieces: Iterable[bytes]) -> None:
    """Send each piece in a segment of its own, which a reader at the other end gets before the next one."""
    peer.setsockopt(gnet.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
    for piece in pieces:
        peer.sendall(piece)
        yield_to_loop(gevent.get_hub())  # a sleep of 0 would not have the loop look for what arrived
