"""Resumed sessions: that clients and servers have them, and that nobody gets in by one who would not without.

Row E24 of the fault catalogue is the name that tests begin with.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, ssl

import gnet
from gnet import SslCVerifyMode, SslError
from gnet.tls import bindings
from tests.faults.peers import wait_until
from tests.loopback import GUARD, listening, needs_ipv6, view_of
from tests.tls.authorities import CLIENT, authority, root, top
from tests.tls.handshakes import AS_CLIENT, AS_SERVER, client_context, handshake, server_context, versions

NAMES: Final = ("localhost", "other.test")


@pytest.fixture
def at() -> Iterator[gnet.Socket]:
    """One listening socket: sessions go by its port."""
    with listening() as listener:
        yield listener


def connects(
    client: gnet.SslContext, server: gnet.SslContext, at: gnet.Socket, host: str = "localhost"
) -> bool:
    """Connect, have a line each way, close; tell whether it was a session that went on."""
    with handshake(client, server, host, at=at) as ends:
        ends.exchange()
        return ends.resumed


def refuses(
    client: gnet.SslContext, server: gnet.SslContext, at: gnet.Socket, host: str = "localhost"
) -> SslError:
    """Try to connect; give why the client did not."""
    with handshake(client, server, host, at=at) as ends:
        assert isinstance(ends.client_error, SslError), ends.client_error
        return ends.client_error


# That there are any


@versions
def test_the_second_connection_goes_on_with_the_session_of_the_first(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path)
    assert [connects(client, server, at) for _ in range(4)] == [False, True, True, True]


@versions
def test_dial_and_connect_have_sessions_too_and_the_same_ones(version: Any, tmp_path: Path) -> None:
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path)
    resumed = []
    with listening() as listener:
        server.wrap_socket(listener)
        for way in ("dial", "connect", "dial"):
            serving = gevent.spawn(serve_one, listener)
            with connected(way, client, listener.get_local_addr()[1]) as ours:
                ours.send(b"hello\n")
                assert ours.read_line(GUARD) == b"hello"
                resumed.append(bindings.session_reused(ours.ssl_handle))
            serving.get(timeout=GUARD / 1000)
    assert resumed == [False, True, True]


def serve_one(listener: gnet.Socket) -> None:
    with listener.accept(timeout=GUARD) as accepted:
        accepted.send(accepted.read_line(GUARD) + b"\n")
        accepted.recv(1, GUARD)


def connected(way: str, context: gnet.SslContext, port: int) -> gnet.Socket:
    if way == "dial":
        return gnet.dial("localhost", port, timeout=GUARD, ssl_context=context)
    ours = gnet.new_socket()
    context.wrap_socket(ours)
    ours.connect("localhost", port, GUARD)
    return ours


@versions
def test_a_server_of_the_stdlib_goes_on_with_our_sessions(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = authority().issue("localhost").write(tmp_path)
    theirs.load_cert_chain(files["cert_file"], files["key_file"])
    client = client_context(tmp_path, max_version=version)

    def serve() -> bool:
        with socket.socket(fileno=at.accept(timeout=GUARD).detach()) as raw:
            raw.settimeout(GUARD / 1000)
            with theirs.wrap_socket(raw, server_side=True) as served:
                served.sendall(served.recv(100))
                assert served.recv(100) == b""  # our close_notify
                return bool(served.session_reused)

    found = []
    for _ in range(3):
        serving = gevent.spawn(serve)
        with gnet.dial(*at.get_local_addr(), timeout=GUARD) as ours:
            client.wrap_connected_socket(ours, AS_CLIENT, "localhost", GUARD)
            ours.send(b"hello\n")
            assert ours.read_line(GUARD) == b"hello"
        found.append(serving.get(timeout=GUARD / 1000))
    assert found == [False, True, True]


@versions
def test_many_connections_at_once_take_from_the_cache_and_add_to_it(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path)
    connects(client, server, at)
    tries = [gevent.spawn(connects, client, server, at) for _ in range(10)]
    gevent.joinall(tries, timeout=GUARD / 1000, raise_error=True)
    assert [each.value for each in tries] == [True] * 10


def test_the_cache_keeps_no_more_than_it_should(at: gnet.Socket, tmp_path: Path) -> None:
    # 256 names; the one used longest ago goes first.
    hosts = [f"n{number}.example.test" for number in range(257)]
    client = client_context(tmp_path)
    server = server_context(tmp_path, authority().issue("*.example.test"))
    assert not any(connects(client, server, at, host) for host in hosts)
    assert connects(client, server, at, hosts[-1])
    assert connects(client, server, at, hosts[1])
    assert not connects(client, server, at, hosts[0])


def test_a_server_with_another_session_id_context_does_not_take_the_session(
    at: gnet.Socket, tmp_path: Path
) -> None:
    client = client_context(tmp_path)
    for number in range(2):
        server = server_context(tmp_path)
        server.session_id_context = f"server {number}"
        assert [connects(client, server, at) for _ in range(2)] == [False, True]


# Whose they are


@versions
def test_e24_sessions_are_kept_by_context(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    server = server_context(tmp_path)
    one, two = (client_context(tmp_path, max_version=version) for _ in range(2))
    assert [connects(each, server, at) for each in (one, two, one, two)] == [False, False, True, True]


@versions
def test_e24_sessions_are_kept_by_name(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    server = server_context(tmp_path, authority().issue(*NAMES))
    client = client_context(tmp_path, max_version=version)
    assert [connects(client, server, at, host) for host in NAMES * 2] == [False, False, True, True]


@versions
def test_e24_sessions_are_kept_by_port(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    server = server_context(tmp_path)
    client = client_context(tmp_path, max_version=version)
    with listening() as other:
        assert [connects(client, server, each) for each in (at, other, at, other)] == [
            False,
            False,
            True,
            True,
        ]


@needs_ipv6
def test_e24_the_same_name_and_port_by_another_way_is_the_same_server(
    at: gnet.Socket, tmp_path: Path
) -> None:
    server, client = server_context(tmp_path), client_context(tmp_path)
    with gnet.new_socket(gnet.AF_INET6) as other:
        other.bind_addr(at.get_local_addr()[1], "::1")
        other.listen()
        assert [connects(client, server, each) for each in (at, other)] == [False, True]


@versions
def test_e24_a_session_for_one_name_opens_no_other(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    server = server_context(tmp_path, authority().issue(NAMES[0]))
    client = client_context(tmp_path, max_version=version)
    connects(client, server, at, NAMES[0])
    for host in (NAMES[1], "127.0.0.1", f"www.{NAMES[0]}"):
        assert refuses(client, server, at, host).verify_code in (62, 64)
    assert connects(client, server, at, NAMES[0])


@versions
@pytest.mark.filterwarnings("ignore::gnet.InsecureWarning")
def test_e24_a_session_that_nobody_verified_is_none_for_a_client_that_verifies(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    server = server_context(tmp_path, root().issue("localhost"))
    trusting = gnet.new_context(verify_mode=SslCVerifyMode.NONE, max_version=version)
    assert [connects(trusting, server, at) for _ in range(2)] == [False, True]
    for _ in range(2):
        assert refuses(client_context(tmp_path, max_version=version), server, at).verify_code == 20


@versions
def test_e24_a_refused_server_leaves_no_session(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    server = server_context(tmp_path, authority().issue("other.test"))
    client = client_context(tmp_path, max_version=version)
    for _ in range(3):
        assert refuses(client, server, at).verify_code == 62


@versions
@pytest.mark.parametrize(
    ("leaf", "code"),
    [
        (lambda: authority().issue("other.test"), 62),
        (lambda: root().issue("localhost"), 20),
        (lambda: authority().issue("localhost", not_before=-2, not_after=-1), 10),
    ],
    ids=["another name", "another authority", "expired"],
)
def test_e24_a_server_that_does_not_know_the_session_is_verified(
    leaf: Callable[[], Any], code: int, version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    client = client_context(tmp_path, max_version=version)
    connects(client, server_context(tmp_path), at)
    # Another server at the same port, as after a restart, or somebody in between.
    assert refuses(client, server_context(tmp_path, leaf()), at).verify_code == code


def test_e24_a_session_outlives_no_certificate(at: gnet.Socket, tmp_path: Path) -> None:
    leaf = authority().issue("localhost", not_after=4 / 86400)
    server = server_context(tmp_path, leaf)
    clients = [client_context(tmp_path, max_version=version) for version in ("TLSv1.2", "TLSv1.3")]
    assert [connects(client, server, at) for client in clients * 2] == [False, False, True, True]
    # It is valid all that second, and the clock of OpenSSL (time(3)) is behind by up to a tick of the kernel.
    end = leaf.certificate.not_valid_after_utc + datetime.timedelta(seconds=1.2)
    wait_until(lambda: datetime.datetime.now(datetime.UTC) > end, "the certificate has expired")
    assert [refuses(client, server, at).verify_code for client in clients] == [10, 10]


# What is known of a peer whose session goes on


@versions
def test_the_chain_of_a_resumed_session_is_that_of_the_first_connection(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    leaf = authority().issue("localhost")
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path, leaf)
    for resumed in (False, True, True):
        with handshake(client, server, at=at) as ends:
            ends.exchange()
            assert ends.resumed == resumed
            assert ends.client.get_peer_certificates() == [each.der for each in leaf.line()]


@versions
def test_a_session_keeps_its_own_chain_though_another_server_came_in_between(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    leaf = authority().issue("localhost")
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path, leaf)
    connects(client, server, at)
    with handshake(client, server, at=at) as ends:
        ends.exchange()
        assert ends.resumed
        # Another one, at the same name and port, whose session is the latest until this one ends.
        assert not connects(client, server_context(tmp_path), at)
    with handshake(client, server, at=at) as ends:
        ends.exchange()
        assert ends.resumed
        assert ends.client.get_peer_certificates() == [each.der for each in leaf.line()]


def mutual(directory: Path, version: Any, **arguments: Any) -> tuple[gnet.SslContext, gnet.SslContext]:
    """Make a client with a certificate, and a server that demands one."""
    mine = authority().issue(common_name="a client", extended=[CLIENT])
    client = client_context(directory, max_version=version, **mine.write(directory))
    asking: dict[str, Any] = {"verify_mode": SslCVerifyMode.PEER, "require_client_cert": True}
    return client, server_context(directory, **asking | top().write_ca(directory) | arguments)


@versions
def test_a_server_knows_the_client_whose_session_goes_on(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    client, server = mutual(tmp_path, version)
    shown = []
    for _ in range(3):
        with handshake(client, server, at=at) as ends:
            ends.exchange()
            shown.append(ends.server.get_peer_certificates())
    assert len(shown[0]) == 3
    assert shown == [shown[0]] * 3


@versions
def test_the_protocol_is_agreed_on_anew(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    client = client_context(tmp_path, max_version=version, alpn=["h2"])
    server = server_context(tmp_path, alpn=["h2"])
    for resumed in (False, True):
        with handshake(client, server, at=at) as ends:
            ends.exchange()
            assert ends.resumed == resumed
            assert ends.client.alpn_protocol == ends.server.alpn_protocol == "h2"


# Servers: nobody gets past what they ask for


def greeted(at: gnet.Socket, server: gnet.SslContext, context: Any, host: str, session: Any = None) -> Any:
    """Connect with the stdlib, which offers whatever session one likes for whatever name; be greeted.

    Returns:
        The new session.
    Raises:
        OSError: the handshake failed, at either end.
    """
    with (
        socket.create_connection(at.get_local_addr(), timeout=GUARD / 1000) as raw,
        at.accept(timeout=GUARD) as accepted,
    ):
        serving = gevent.spawn(server.wrap_connected_socket, accepted, AS_SERVER, "", GUARD)
        with context.wrap_socket(raw, server_hostname=host, session=session) as client:
            serving.get(timeout=GUARD / 1000)
            accepted.send(b"welcome\n")
            assert client.recv(100) == b"welcome\n"
            return client.session


def stdlib_context(directory: Path, version: str) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(top().write_ca(directory)["ca_file"])
    context.maximum_version = getattr(ssl.TLSVersion, version.replace("TLSv1.", "TLSv1_"))
    return context


@versions
def test_e24_a_session_of_a_name_that_asks_for_nothing_opens_none_that_demands_a_certificate(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    leaf = authority().issue("open.test", "strict.test")
    _, strict = mutual(tmp_path, version, **leaf.write(tmp_path))
    server = server_context(tmp_path, leaf, contexts_by_name={"strict.test": strict})
    context = stdlib_context(tmp_path, version)
    session = greeted(at, server, context, "open.test")
    assert session is not None
    # What CVE-2025-23419 was for nginx: OpenSSL looks up the session before it learns the name.
    with pytest.raises((OSError, SslError)):
        greeted(at, server, context, "strict.test", session)


@versions
def test_e24_a_session_of_one_authority_opens_no_name_of_another(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    leaf, own = authority().issue("a.test", "b.test"), root()
    _, for_a = mutual(tmp_path, version, **leaf.write(tmp_path), **own.write_ca(tmp_path))
    _, for_b = mutual(tmp_path, version, **leaf.write(tmp_path))
    server = server_context(tmp_path, leaf, contexts_by_name={"a.test": for_a, "b.test": for_b})
    context = stdlib_context(tmp_path, version)
    files = own.issue(common_name="a client of a", extended=[CLIENT]).write(tmp_path)
    context.load_cert_chain(files["cert_file"], files["key_file"])
    session = greeted(at, server, context, "a.test")
    with pytest.raises((OSError, SslError)):
        greeted(at, server, context, "b.test", session)


@versions
def test_e24_a_server_that_demands_a_certificate_takes_no_session_from_another_context(
    version: Any, at: gnet.Socket, tmp_path: Path
) -> None:
    leaf = authority().issue("localhost")
    open_to_all = server_context(tmp_path, leaf)
    _, strict = mutual(tmp_path, version, **leaf.write(tmp_path))
    strict.session_id_context = open_to_all.session_id_context  # as if they shared one
    context = stdlib_context(tmp_path, version)
    session = greeted(at, open_to_all, context, "localhost")
    with pytest.raises((OSError, SslError)):
        greeted(at, strict, context, "localhost", session)


def test_sessions_by_name_go_on_as_well(at: gnet.Socket, tmp_path: Path) -> None:
    leaf = authority().issue("a.test")
    server = server_context(tmp_path, leaf, contexts_by_name={"a.test": server_context(tmp_path, leaf)})
    client = client_context(tmp_path)
    assert [connects(client, server, at, "a.test") for _ in range(3)] == [False, True, True]


# The end


def test_a_destroyed_context_keeps_no_sessions_and_its_connections_end_well(
    at: gnet.Socket, tmp_path: Path
) -> None:
    client, server = client_context(tmp_path), server_context(tmp_path)
    with handshake(client, server, at=at) as ends:
        client.destroy_context()
        ends.exchange()
        ends.client.close()
        assert ends.server.recv(1, GUARD) == b""


@versions
def test_a_connection_that_was_cut_harms_no_later_one(version: Any, at: gnet.Socket, tmp_path: Path) -> None:
    client, server = client_context(tmp_path, max_version=version), server_context(tmp_path)
    for _ in range(2):
        with handshake(client, server, at=at) as ends:
            ends.exchange()
            with view_of(ends.server) as raw:
                raw.shutdown(socket.SHUT_RDWR)  # no close_notify
            with pytest.raises(SslError):
                ends.client.recv(1, GUARD)
    connects(client, server, at)
    assert connects(client, server, at)
