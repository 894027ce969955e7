"""Where a server listens: addresses, names, Unix paths, sockets that it takes over; what it refuses to do."""

from __future__ import annotations

import os
import re
import socket as stdlib_socket
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gevent.socket
import pytest

import gnet
from gnet.server import Server
from gnet.serving.shared import SharedListeners
from tests.loopback import needs_ipv6
from tests.server.peers import (
    answer_lines,
    ask,
    connect,
    connect_unix,
    ending,
    open_descriptors,
    serving,
    wait_until,
)

# Addresses


@needs_ipv6
def test_the_empty_address_serves_ipv4_and_ipv6_on_one_port() -> None:
    with serving(answer_lines, "") as server:
        for host in ("127.0.0.1", "::1"):
            with closing(connect(server, host)) as client:
                assert ask(client) == b"ping\n"


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_a_literal_is_served_alone(host: str) -> None:
    with serving(answer_lines, host) as server:
        assert server.address == host
        assert server.port > 0
        with closing(connect(server, host)) as client:
            assert ask(client) == b"ping\n"
        other = "127.0.0.2" if host == "127.0.0.1" else "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            connect(server, other)


def test_a_name_is_looked_up() -> None:
    with serving(answer_lines, "localhost") as server:
        assert server.address in ("127.0.0.1", "::1")
        with closing(connect(server, server.address)) as client:
            assert ask(client) == b"ping\n"


def test_port_and_address_are_known_before_and_after_the_start() -> None:
    server = Server(answer_lines, "127.0.0.1")
    assert (server.address, server.port) == ("127.0.0.1", 0)
    with server:
        assert server.port > 0
        port = server.port
    assert server.port == port


def test_f13_a_port_in_use_is_an_error_that_names_it_and_leaves_nothing() -> None:
    with serving(answer_lines) as taken:
        before = open_descriptors()
        server = Server(answer_lines, "127.0.0.1", taken.port)
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{taken.port}.*in use"):
            server.start()
        assert open_descriptors() == before
        server.close()


def test_a_port_that_is_free_again_can_be_tried_again() -> None:
    with serving(answer_lines) as taken:
        server = Server(answer_lines, "127.0.0.1", taken.port)
        with pytest.raises(OSError, match="in use"):
            server.start()
    server.start()
    try:
        with closing(connect(server)) as client:
            assert ask(client) == b"ping\n"
    finally:
        server.close()


def test_f13_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        Server(answer_lines, "192.0.2.1").start()


def test_a_name_that_nobody_has_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"no-such-host\.invalid"):
        Server(answer_lines, "no-such-host.invalid").start()


def test_a_server_that_was_stopped_can_be_followed_by_one_on_the_same_port() -> None:
    with serving(answer_lines) as first, closing(connect(first)) as client:
        assert ask(client) == b"ping\n"  # its end stays in TIME_WAIT
    with serving(answer_lines, port=first.port) as second, closing(connect(second)) as client:
        assert ask(client) == b"ping\n"


def test_two_servers_share_a_port_with_reuse_port() -> None:
    with serving(answer_lines, reuse_port=True) as first:
        with serving(answer_lines, port=first.port, reuse_port=True) as second:
            assert second.port == first.port
        with pytest.raises(OSError, match="in use"):
            Server(answer_lines, "127.0.0.1", first.port).start()


# Unix paths


@contextmanager
def listening_at(path: Path) -> Iterator[stdlib_socket.socket]:
    """Somebody else's socket at a path."""
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        yield other


def test_a_unix_path_is_served_is_private_and_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(answer_lines, unix_path=path) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (server.address, server.port) == (str(path), 0)
        with closing(connect_unix(str(path))) as client:
            assert ask(client) == b"ping\n"
    assert not path.exists()


def test_a_unix_path_is_private_whatever_the_umask_says_and_the_umask_stays(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with serving(answer_lines, unix_path=tmp_path / "socket"):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_f12_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening_at(path):
        pass
    assert path.is_socket()
    with serving(answer_lines, unix_path=path), closing(connect_unix(str(path))) as client:
        assert ask(client) == b"ping\n"


def test_f12_a_socket_that_somebody_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening_at(path) as other:
        before = open_descriptors()
        with pytest.raises(OSError, match=rf"{re.escape(str(path))}.*in use"):
            Server(answer_lines, unix_path=path).start()
        assert open_descriptors() == before
        with closing(connect_unix(str(path))):
            other.accept()[0].close()


def test_f12_a_socket_whose_queue_is_full_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening_at(path) as other:
        other.listen(0)
        with closing(connect_unix(str(path))):
            with pytest.raises(OSError, match="in use"):
                Server(answer_lines, unix_path=path).start()
            assert path.is_socket()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link_to_stale_socket(path: Path) -> None:
    with listening_at(path.with_name("elsewhere")):
        pass
    path.symlink_to(path.with_name("elsewhere"))


def make_broken_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("make", [make_file, make_directory, make_link_to_stale_socket, make_broken_link])
def test_f12_what_is_no_socket_is_left_alone(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    make(path)
    before = path.lstat()
    everything = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match=re.escape(str(path))):
        Server(answer_lines, unix_path=path).start()
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (
        before.st_ino,
        before.st_mode,
        before.st_mtime_ns,
    )
    assert sorted(tmp_path.iterdir()) == everything


def test_f12_a_path_that_somebody_took_over_is_not_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(answer_lines, unix_path=path) as server:
        path.unlink()
        other = stdlib_socket.socket(stdlib_socket.AF_UNIX)
        other.bind(str(path))
        other.listen(1)
        server.close()
        assert path.is_socket()
    with closing(connect_unix(str(path))):
        other.accept()[0].close()
    other.close()


def test_f12_a_path_that_is_gone_at_the_end_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(answer_lines, unix_path=path) as server:
        path.unlink()
        server.close()


def test_f12_a_new_server_takes_the_path_over_from_one_that_closes_later(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(answer_lines, unix_path=path) as old:
        os.unlink(path)
        with serving(answer_lines, unix_path=path):
            old.close()
            with closing(connect_unix(str(path))) as client:
                assert ask(client) == b"ping\n"
    assert not path.exists()


def test_an_abstract_name_is_served(tmp_path: Path) -> None:
    name = f"\0gnet-test-{os.getpid()}-{tmp_path.name}"
    with serving(answer_lines, unix_path=name) as server:
        assert server.address == name
        with closing(connect_unix(name)) as client:
            assert ask(client) == b"ping\n"
        with pytest.raises(OSError, match="in use"):
            Server(answer_lines, unix_path=name).start()


def test_unix_clients_with_and_without_a_name_are_served(tmp_path: Path) -> None:
    addresses = []

    def handler(client: gnet.Socket, address: str) -> None:
        addresses.append(address)
        answer_lines(client, address)

    with serving(handler, unix_path=tmp_path / "socket"):
        for own in ("", str(tmp_path / "own"), f"\0gnet-client-{os.getpid()}"):
            with closing(connect_unix(str(tmp_path / "socket"), own)) as client:
                assert ask(client) == b"ping\n"
    assert addresses == ["", str(tmp_path / "own"), f"\0gnet-client-{os.getpid()}"]


@pytest.mark.parametrize("name", ["no/such/directory", "x" * 200])
def test_a_unix_path_that_cannot_be_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError), match=re.escape(str(tmp_path)[:15])):
        Server(answer_lines, unix_path=tmp_path / name).start()
    assert not list(tmp_path.iterdir())


def test_a_directory_without_permission_is_an_error_that_names_it(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        with pytest.raises(OSError, match="/proc/x"):
            Server(answer_lines, unix_path="/proc/x").start()
        return
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path))):
        Server(answer_lines, unix_path=tmp_path / "socket").start()


# Sockets that are taken over


def gnet_socket() -> Any:
    socket = gnet.new_socket()
    socket.bind_addr(address="127.0.0.1")
    socket.listen()
    return socket


def gevent_socket() -> Any:
    socket = gevent.socket.socket()
    socket.bind(("127.0.0.1", 0))
    socket.listen()
    return socket


def stdlib_listener() -> Any:
    return stdlib_socket.create_server(("127.0.0.1", 0))


def bound_only() -> Any:
    socket = stdlib_socket.socket()
    socket.bind(("127.0.0.1", 0))
    return socket


def descriptor() -> Any:
    return stdlib_listener().detach()


@pytest.mark.parametrize("make", [gnet_socket, gevent_socket, stdlib_listener, bound_only, descriptor])
def test_a_listener_is_taken_over_and_closed_at_the_end(make: Callable[[], Any]) -> None:
    before = open_descriptors()
    with serving(answer_lines, listener=make()) as server:
        assert server.address == "127.0.0.1"
        with closing(connect(server)) as client:
            assert ask(client) == b"ping\n"
        assert "127.0.0.1:" in repr(server)
    wait_until(lambda: open_descriptors() == before, "its descriptor is closed")
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_several_listeners_are_taken_over() -> None:
    first, second = stdlib_listener(), gnet_socket()
    ports = first.getsockname()[1], second.get_local_addr()[1]
    with serving(answer_lines, listener=[first, second]):
        for port in ports:
            with closing(connect(("127.0.0.1", port))) as client:
                assert ask(client) == b"ping\n"
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", port))


def test_clients_that_waited_in_a_listeners_queue_are_served() -> None:
    listener = stdlib_listener()
    with closing(connect(listener.getsockname())) as early:
        early.sendall(b"early\n")
        with serving(answer_lines, listener=listener):
            assert early.recv(100) == b"early\n"


def test_a_unix_listener_that_is_taken_over_keeps_its_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = stdlib_socket.socket(stdlib_socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with serving(answer_lines, listener=listener), closing(connect_unix(str(path))) as client:
        assert ask(client) == b"ping\n"
    assert path.is_socket(), "who bound it removes it"


def test_answers_on_a_listener_taken_over_do_not_wait_for_acknowledgements() -> None:
    delays: list[int] = []

    def handler(client: gnet.Socket, _address: str) -> None:
        with closing(stdlib_socket.socket(fileno=os.dup(client.fileno()))) as view:
            delays.append(view.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY))

    with serving(handler, listener=stdlib_listener()) as server, closing(connect(server)) as client:
        assert ending(client) == "end"
    with serving(handler) as server, closing(connect(server)) as client:
        assert ending(client) == "end"
    assert [bool(delay) for delay in delays] == [True, True]


def datagram_socket() -> Any:
    socket = stdlib_socket.socket(type=stdlib_socket.SOCK_DGRAM)
    socket.bind(("127.0.0.1", 0))
    return socket


@pytest.mark.parametrize("wrong", ["x", 1.5, object(), True, -1, [], None.__class__])
def test_what_is_no_listener_is_refused_before_anything_is_opened(wrong: Any) -> None:
    before = open_descriptors()
    with pytest.raises((TypeError, ValueError), match="Server: listener"):
        Server(answer_lines, listener=wrong)
    assert open_descriptors() == before


def test_a_datagram_socket_is_refused_and_stays_its_owners() -> None:
    with datagram_socket() as mine:
        with pytest.raises(ValueError, match="stream"):
            Server(answer_lines, listener=mine).start()
        assert mine.fileno() >= 0
        mine.getsockname()


def test_a_connected_socket_is_refused_and_stays_its_owners() -> None:
    ours, theirs = stdlib_socket.socketpair()
    with ours, theirs:
        with pytest.raises((OSError, ValueError), match="listen"):
            Server(answer_lines, listener=ours).start()
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"


def test_of_several_listeners_one_that_is_wrong_takes_none_from_its_owner() -> None:
    with stdlib_listener() as good, datagram_socket() as wrong:
        with pytest.raises(ValueError, match="stream"):
            Server(answer_lines, listener=[good, wrong]).start()
        with closing(connect(good.getsockname())):
            good.accept()[0].close()


# Arguments


WRONG_ARGUMENTS: list[tuple[type[Exception], dict[str, Any]]] = [
    (TypeError, {"handler": 5}),
    (TypeError, {"address": None}),
    (TypeError, {"address": b"127.0.0.1"}),
    (ValueError, {"address": "a b"}),
    (TypeError, {"port": "80"}),
    (TypeError, {"port": True}),
    (ValueError, {"port": -1}),
    (ValueError, {"port": 65_536}),
    (TypeError, {"unix_path": 5}),
    (ValueError, {"unix_path": "a\0b"}),
    (ValueError, {"unix_path": "/x", "port": 5}),
    (ValueError, {"unix_path": "/x", "address": "127.0.0.1"}),
    (TypeError, {"ssl_context": 5}),
    (TypeError, {"ssl_context": lambda: 5}),
    (TypeError, {"pool_size": 1.5}),
    (TypeError, {"pool_size": True}),
    (ValueError, {"pool_size": 0}),
    (TypeError, {"max_connections": "5"}),
    (ValueError, {"max_connections": 0}),
    (ValueError, {"max_per_address": 0}),
    (ValueError, {"max_handshakes": 0}),
    (TypeError, {"max_handshakes": None}),
    (ValueError, {"overflow": "queue"}),
    ((TypeError, ValueError), {"overflow": None}),  # type: ignore[list-item]
    (TypeError, {"idle_timeout": "5"}),
    (ValueError, {"first_byte_timeout": float("nan")}),
    (ValueError, {"line_timeout": -5}),
    (ValueError, {"write_timeout": -5}),
    (ValueError, {"handshake_timeout": -5}),
    (ValueError, {"drain_timeout": -5}),
    (ValueError, {"proxy_protocol": "v3", "proxy_trusted": ["127.0.0.1"]}),
    (ValueError, {"proxy_protocol": "v1"}),
    (TypeError, {"proxy_protocol": "v1", "proxy_trusted": "127.0.0.1"}),
    (ValueError, {"proxy_protocol": "v1", "proxy_trusted": ["nowhere"]}),
    (TypeError, {"proxy_protocol": "v1", "proxy_trusted": [5]}),
]


@pytest.mark.parametrize(("kind", "arguments"), WRONG_ARGUMENTS, ids=lambda value: str(value)[:50])
def test_wrong_arguments_are_refused_by_name_before_anything_is_opened(
    kind: type[Exception], arguments: dict[str, Any]
) -> None:
    before = open_descriptors()
    name = next(iter(arguments)) if len(arguments) == 1 else "unix_path|proxy"
    with pytest.raises(kind, match=name):
        Server(**{"handler": answer_lines, **arguments})
    assert open_descriptors() == before


def test_bytes_are_a_unix_path_too(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "socket")
    with serving(answer_lines, unix_path=path), closing(connect_unix(path)) as client:
        assert ask(client) == b"ping\n"
    assert not os.path.exists(path)


def test_a_server_is_started_once_and_start_again_changes_nothing() -> None:
    with serving(answer_lines) as server:
        port, before = server.port, open_descriptors()
        server.start()
        assert (server.port, open_descriptors()) == (port, before)
        with closing(connect(server)) as client:
            assert ask(client) == b"ping\n"
        wait_until(lambda: not server._admission.connections, "the client is gone")


def test_a_path_in_bytes_is_shared_by_workers_as_it_is_served_by_one(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with SharedListeners("", 0, unix_path=bytes(path)) as shared:
        assert shared.names == [f"unix:{path}"]
        assert path.is_socket()
    assert not path.exists()
