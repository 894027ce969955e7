"""gnet.connecting: connecting to addresses, names and Unix paths.

Faults on the way are `tests.faults.test_connecting`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

import gnet
from tests.faults.peers import black_hole, closed_port, elapsed
from tests.loopback import (
    GUARD,
    LATE,
    SOON,
    error_of,
    families,
    family_of,
    listening,
    listening_unix,
    needs_ipv6,
    udp_socket,
    unix_socket,
)

# By address and name


@families
def test_a_socket_connects_to_a_literal_address(host: str) -> None:
    with listening(host) as server, gnet.new_socket(family_of(host)) as client:
        client.connect(*server.get_local_addr(), timeout=GUARD)
        with server.accept(timeout=GUARD) as accepted:
            assert client.get_peer_addr() == server.get_local_addr()
            assert accepted.get_peer_addr() == client.get_local_addr()
            accepted.send(b"hello\n")
            assert client.read_line(timeout=GUARD) == b"hello"


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost."])
def test_a_socket_connects_to_a_name(name: str) -> None:
    with listening() as server, gnet.new_socket() as client:
        client.connect(name, server.get_local_addr()[1], timeout=GUARD)
        assert client.get_peer_addr() == server.get_local_addr()


@needs_ipv6
def test_a_socket_of_ipv6_connects_to_an_ipv4_address() -> None:
    # Recorded from Nim 1.6.10.
    with listening() as server, gnet.new_socket(gnet.AF_INET6) as client:
        client.connect(*server.get_local_addr(), timeout=GUARD)
        assert client.get_peer_addr() == ("::ffff:127.0.0.1", server.get_local_addr()[1])


@needs_ipv6
def test_each_address_of_a_name_is_tried_until_one_answers() -> None:
    # Names below localhost have both addresses (RFC 6761); only the second one listens.
    with listening() as server, gnet.new_socket(gnet.AF_INET6) as client:
        client.connect("one.localhost", server.get_local_addr()[1], timeout=GUARD)
        assert client.get_peer_addr()[0] == "::ffff:127.0.0.1"


def test_an_address_of_the_other_family_is_an_error_that_names_it() -> None:
    with (
        gnet.new_socket() as client,
        pytest.raises(gevent.socket.gaierror, match=r"connect \[::1\]:80: .*AF_INET"),
    ):
        client.connect("::1", 80)


def test_a_datagram_socket_connects_to_one_peer_and_may_change_it() -> None:
    with udp_socket() as one, udp_socket() as two, udp_socket() as client:
        for peer in (one, two):
            client.connect(*peer.get_local_addr())
            client.send(b"for you")
            assert peer.recv_from(10, timeout=GUARD) == (b"for you", *client.get_local_addr())


# What goes wrong


def test_a_refused_socket_connects_at_the_next_try() -> None:
    with closed_port() as refusing, listening() as server, gnet.new_socket() as client:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError, match=rf"connect to 127\.0\.0\.1:{refusing[1]}: "):
                client.connect(*refusing, timeout=GUARD)
        client.connect(*server.get_local_addr(), timeout=GUARD)
        with server.accept(timeout=GUARD) as accepted:
            accepted.send(b"hello\n")
            client.send(b"there\n")
            assert client.read_line(timeout=GUARD) == b"hello"
            assert accepted.read_line(timeout=GUARD) == b"there"


def test_a_connected_socket_does_not_connect_again() -> None:
    # Recorded from Nim 1.6.10: EISCONN. Above all it must not look as if it led to the second peer.
    with listening() as first, listening() as second, gnet.new_socket() as client:
        client.connect(*first.get_local_addr(), timeout=GUARD)
        for server in (first, second):
            with pytest.raises(OSError, match="connect to 127") as caught:
                client.connect(*server.get_local_addr(), timeout=GUARD)
            assert caught.value.errno == errno.EISCONN
        assert f"peer=127.0.0.1:{first.get_local_addr()[1]}" in repr(client)
        client.send(b"to the first\n")
        with first.accept(timeout=GUARD) as accepted:
            assert accepted.read_line(timeout=GUARD) == b"to the first"


def test_reading_and_writing_too_early_does_not_spoil_the_connection_to_come() -> None:
    with listening() as server, gnet.new_socket() as client:
        with pytest.raises(OSError, match="unconnected"):
            client.recv(1)
        with pytest.raises(OSError, match="unconnected"):
            client.send(b"early")
        assert client.try_send(b"early") is False
        client.connect(*server.get_local_addr(), timeout=GUARD)
        with server.accept(timeout=GUARD) as accepted:
            assert client.try_send(b"request\n") is True
            accepted.send(b"answer\n")
            accepted.shutdown(1)
            assert accepted.read_line(timeout=GUARD) == b"request"
            assert (client.read_line(timeout=GUARD), list(client.lines(timeout=GUARD))) == (b"answer", [])


@pytest.mark.parametrize("by_property", [False, True], ids=["argument", "property"])
def test_a_connect_without_an_answer_ends_in_time_and_names_what_it_did(by_property: bool) -> None:
    with black_hole() as address, gnet.new_socket() as client:
        client.timeout = SOON
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match=rf"connect to 127.*{address[1]}"):
            client.connect(*address, timeout=None if by_property else SOON)
        assert SOON / 2 <= taken() < LATE


CLOSED_CALLS = {
    "connect": lambda client: client.connect("127.0.0.1", 9),
    "flush": lambda client: client.flush(),
    "read_line": lambda client: client.read_line(),
    "recv": lambda client: client.recv(1),
    "send": lambda client: client.send(b"x"),
    "shutdown": lambda client: client.shutdown(1),
    "try_send": lambda client: client.try_send(b"x"),
}


@pytest.mark.parametrize("kill", [False, True], ids=["timeout", "kill"])
def test_a_connect_that_was_cut_leaves_a_closed_socket(kill: bool) -> None:
    with black_hole() as address, gnet.new_socket() as client:
        if kill:
            greenlet = gevent.spawn(client.connect, *address)
            gevent.idle()
            greenlet.kill()
        else:
            with pytest.raises(gnet.TimeoutError):
                client.connect(*address, timeout=1)
        assert (client.closed, client.get_fd()) == (True, -1)
        for call in CLOSED_CALLS.values():
            with pytest.raises(gnet.ClosedError, match="the socket is closed"):
                call(client)


@pytest.mark.parametrize("looks_up", [False, True], ids=["connecting", "looking up the name"])
def test_a_second_connect_at_once_is_refused_and_the_first_goes_on(looks_up: bool) -> None:
    with listening() as server, gnet.new_socket() as client:
        host, port = server.get_local_addr()
        first = gevent.spawn(client.connect, "localhost" if looks_up else host, port, GUARD)
        gevent.sleep(0)
        with pytest.raises(gnet.BusyError, match="connect: another greenlet is already connecting"):
            client.connect(host, port)
        first.get()
        assert client.get_peer_addr() == (host, port)


def test_closing_wakes_who_waits_in_connect() -> None:
    with black_hole() as address, gnet.new_socket() as client:
        waiting = gevent.spawn(error_of, client.connect, *address)
        gevent.idle()
        client.close()
        error = waiting.get(timeout=GUARD / 1000)
        assert isinstance(error, gnet.ClosedError)
        assert error.__cause__ is not error


BAD_TARGETS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "a port too high": ({"port": 65536}, ValueError),
    "a negative port": ({"port": -1}, ValueError),
    "a port as text": ({"port": "80"}, TypeError),
    "a port as float": ({"port": 80.0}, TypeError),
    "a port as bool": ({"port": True}, TypeError),
    "an address as bytes": ({"address": b"127.0.0.1"}, TypeError),
    "None": ({"address": None}, TypeError),
    "no address": ({"address": ""}, ValueError),
    "a NUL in the name": ({"address": "localhost\0.example"}, ValueError),
    "an address with parts left out": ({"address": "127.1"}, ValueError),
    "a name too long": ({"address": "a." * 150 + "example"}, ValueError),
    "a timeout that is no number": ({"timeout": float("nan")}, ValueError),
    "a negative timeout": ({"timeout": -2}, ValueError),
    "a timeout as text": ({"timeout": "1"}, TypeError),
}


@pytest.mark.parametrize(("bad", "kind"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_what_is_no_target_is_refused_and_the_socket_is_as_before(
    bad: dict[str, Any], kind: type[Exception]
) -> None:
    with listening() as server, gnet.new_socket() as client:
        address, port = server.get_local_addr()
        arguments: dict[str, Any] = {"address": address, "port": port, "timeout": GUARD} | bad
        with pytest.raises(kind):
            client.connect(**arguments)
        assert client.get_local_addr() == ("0.0.0.0", 0)
        with pytest.raises(gnet.TimeoutError):
            server.accept(timeout=0)
        client.connect(address, port, timeout=GUARD)


def test_unix_sockets_connect_by_path_and_others_by_address() -> None:
    with unix_socket() as client, pytest.raises(ValueError, match="connect_unix"):
        client.connect("127.0.0.1", 80)
    with gnet.new_socket() as client:
        with pytest.raises(ValueError, match="connect_unix: needs an AF_UNIX socket"):
            client.connect_unix("/tmp/gnet")
        with pytest.raises(ValueError, match="bind_unix: needs an AF_UNIX socket"):
            client.bind_unix("/tmp/gnet")


# Unix paths and names


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory for sockets, by a short name: their paths have at most 107 bytes."""
    short = Path("/tmp", f"gnet-{os.getpid()}")
    short.symlink_to(tmp_path)
    yield short
    short.unlink()


def converse(name: Any, connect_to: Any = None) -> str:
    """Listen on a name, connect to it, send a line each way; give the listener's address."""
    with listening_unix(name) as server, unix_socket() as client:
        client.connect_unix(name if connect_to is None else connect_to, timeout=GUARD)
        with server.accept(timeout=GUARD) as accepted:
            client.send(b"ping\n")
            accepted.send(b"pong\n")
            assert accepted.read_line(timeout=GUARD) == b"ping"
            assert client.read_line(timeout=GUARD) == b"pong"
        assert client.get_peer_addr() == server.get_local_addr()
        return server.get_local_addr()[0]


def test_paths_may_be_text_bytes_or_path_objects(directory: Path) -> None:
    path = directory / "söcket"
    for name in (str(path), os.fsencode(path), path):
        assert converse(name) == str(path)
        path.unlink()


def test_abstract_names_are_exact_and_may_be_text_or_bytes() -> None:
    name = f"\0gnet-test-{os.getpid()}"
    assert converse(name, name.encode()) == name
    with listening_unix(name), gevent.socket.socket(gnet.AF_UNIX) as theirs, unix_socket() as ours:
        theirs.connect(name.encode())
        for other in (name + "\0", name[:-1]):
            with pytest.raises(ConnectionRefusedError, match="unix:@gnet-test"):
                ours.connect_unix(other)


def test_the_system_chooses_a_name_for_an_empty_path() -> None:
    # Recorded from Nim 1.6.10, where connecting to an empty path is EINVAL.
    with unix_socket() as server, unix_socket() as client:
        server.bind_unix("")
        assert server.get_local_addr()[0].startswith("\0")
        with pytest.raises(OSError, match="connect_unix to") as caught:
            client.connect_unix("")
        assert caught.value.errno == errno.EINVAL


def test_the_longest_path_has_107_bytes_and_the_longest_abstract_name_108(directory: Path) -> None:
    # Recorded from Nim 1.6.10 for the paths.
    longest = str(directory / "x").ljust(107, "x")
    assert converse(longest) == longest
    os.unlink(longest)
    abstract = f"\0gnet-test-{os.getpid()}".ljust(108, "x")
    assert converse(abstract) == abstract


BAD_PATHS: dict[str, tuple[Any, type[Exception], str]] = {
    "a path of 108 bytes": ("/" + "x" * 107, ValueError, "path of 108 bytes.*limit 107"),
    "a path of 108 bytes in 107 characters": ("/" + "x" * 105 + "é", ValueError, "path of 108 bytes"),
    "an abstract name of 109 bytes": ("\0" + "x" * 108, ValueError, "109 bytes.*limit 108"),
    "a NUL inside": ("/tmp/a\0b", ValueError, "has a NUL in it"),
    "None": (None, TypeError, "expected a path as str, bytes or PathLike, got NoneType"),
    "a number": (7, TypeError, "expected a path as str, bytes or PathLike, got int"),
    "a bytearray": (bytearray(b"/tmp/x"), TypeError, "got bytearray"),
}


@pytest.mark.parametrize("call", ["bind_unix", "connect_unix"])
@pytest.mark.parametrize(("path", "kind", "message"), BAD_PATHS.values(), ids=BAD_PATHS)
def test_what_is_no_path_is_refused_and_the_socket_is_as_before(
    call: str, path: Any, kind: type[Exception], message: str
) -> None:
    with unix_socket() as socket:
        with pytest.raises(kind, match=f"{call}.*{message}"):
            getattr(socket, call)(path)
        assert socket.get_local_addr() == ("", 0)
        socket.bind_unix("")


def test_paths_that_are_taken_or_missing_are_named_and_nothing_is_removed(directory: Path) -> None:
    path = directory / "taken"
    with unix_socket() as server:
        server.bind_unix(path)
    assert path.is_socket()
    with unix_socket() as socket:
        with pytest.raises(OSError, match=f"bind_unix to unix:{path}") as caught:
            socket.bind_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(ConnectionRefusedError, match=f"connect_unix to unix:{path}"):
            socket.connect_unix(path)
        with pytest.raises(FileNotFoundError, match=r"connect_unix to unix:.*missing"):
            socket.connect_unix(directory / "missing")
    assert path.is_socket()


def test_a_connected_unix_socket_does_not_connect_again() -> None:
    with listening_unix() as first, listening_unix() as second, unix_socket() as client:
        client.connect_unix(first.get_local_addr()[0], timeout=GUARD)
        with pytest.raises(OSError, match="connect_unix to") as caught:
            client.connect_unix(second.get_local_addr()[0], timeout=GUARD)
        assert caught.value.errno == errno.EISCONN
        assert client.get_peer_addr() == first.get_local_addr()


def test_a_full_queue_is_waited_for() -> None:
    with listening_unix(backlog=0) as server, unix_socket() as filler, unix_socket() as client:
        name = server.get_local_addr()[0]
        filler.connect_unix(name, timeout=GUARD)
        waiting = gevent.spawn(client.connect_unix, name, timeout=GUARD)
        gevent.sleep(0.02)
        assert not waiting.ready()
        server.accept(timeout=GUARD).close()
        waiting.get(timeout=GUARD / 1000)
        with server.accept(timeout=GUARD) as accepted:
            client.send(b"in\n")
            assert accepted.read_line(timeout=GUARD) == b"in"


@pytest.mark.parametrize("timeout", [0, SOON])
def test_a_full_queue_is_waited_for_no_longer_than_the_timeout(timeout: int) -> None:
    with listening_unix(backlog=0) as server, unix_socket() as filler, unix_socket() as client:
        name = server.get_local_addr()[0]
        filler.connect_unix(name, timeout=GUARD)
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match="connect_unix to unix:@"):
            client.connect_unix(name, timeout=timeout)
        assert timeout / 2 <= taken() < LATE
