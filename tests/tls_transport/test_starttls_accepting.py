"""TLS listeners: accepting without waiting, while others wait, and while the listener is being closed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket
from OpenSSL import SSL

import gnet
from gnet import SslAcceptResult
from gnet.compiling import is_compiled
from gnet.transports import PlainTransport
from tests.faults.peers import wait_until
from tests.loopback import listening
from tests.tls_transport.keys import openssl_context, server_context
from tests.tls_transport.peers import GUARD, Peer, at_once, error_of, tls_listener

pytestmark = pytest.mark.usefixtures("engine")


@contextmanager
def client_of(listener: gnet.Socket, version: str = "TLSv1.3") -> Iterator[Peer]:
    """A client that is connected and has not said anything."""
    with socket.create_connection(listener.get_local_addr(), timeout=GUARD / 1000) as other:
        yield Peer(other, openssl_context(server=False, version=version), server=False)


def say_hello(peer: Peer) -> None:
    """Send the ClientHello."""
    with pytest.raises(SSL.WantReadError):
        peer.connection.do_handshake()
    peer.flush()


def try_accept(listener: gnet.Socket) -> tuple[SslAcceptResult, gnet.Socket]:
    result, ours = listener.try_accept()
    assert ours is not None
    ours.timeout = GUARD
    return result, ours


def test_trying_to_accept_finds_nobody_where_nobody_is() -> None:
    with tls_listener() as listener:
        assert listener.try_accept() == (SslAcceptResult.NO_CLIENT, None)


def test_a_client_that_says_nothing_is_accepted_and_its_handshake_is_still_to_be_made() -> None:
    with tls_listener() as listener, client_of(listener) as peer:
        result, ours = try_accept(listener)
        with ours:
            assert result is SslAcceptResult.NO_HANDSHAKE
            assert (ours.is_ssl(), ours.got_handshake(), ours.coalesce) == (True, False, True)
            at_once(ours.do_handshake, peer.handshake)
            ours.send(b"hello")
            assert peer.recv_exactly(5) == b"hello"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_the_handshake_of_a_client_that_has_begun_it_is_taken_as_far_as_it_goes(version: str) -> None:
    with tls_listener() as listener, client_of(listener, version) as peer:
        say_hello(peer)
        result, ours = try_accept(listener)
        with ours:
            assert result is SslAcceptResult.NO_HANDSHAKE  # it is the client's turn
            peer.socket.setblocking(False)
            assert peer.socket.recv(1, socket.MSG_PEEK) == b"\x16"  # the server's flight is here
            peer.socket.settimeout(GUARD / 1000)
            at_once(peer.handshake, ours.do_handshake)
            assert ours.got_handshake()


@pytest.mark.skipif(is_compiled(), reason="compiled modules call a transport's send past its class")
def test_a_client_that_answers_within_the_call_is_accepted_with_its_handshake_complete(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tls_listener() as listener, client_of(listener) as peer:
        say_hello(peer)
        send = PlainTransport.send

        def send_and_have_the_client_answer(transport: PlainTransport, data: bytes | memoryview) -> int:
            sent = send(transport, data)
            monkeypatch.setattr(PlainTransport, "send", send)
            peer.handshake()
            return sent

        monkeypatch.setattr(PlainTransport, "send", send_and_have_the_client_answer)
        result, ours = try_accept(listener)
        with ours:
            assert (result, ours.got_handshake()) == (SslAcceptResult.SUCCESS, True)
            peer.send(b"hello\n")
            assert ours.read_line() == b"hello"


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.0\r\n\r\n", bytes(100)], ids=["HTTP", "zeros"])
def test_a_handshake_that_fails_at_once_is_told_by_its_own_socket_and_not_by_the_listener(
    garbage: bytes,
) -> None:
    with tls_listener() as listener, client_of(listener) as bad, client_of(listener) as good:
        bad.socket.sendall(garbage)
        result, ours = try_accept(listener)
        with ours:
            assert result is SslAcceptResult.NO_HANDSHAKE
            for _ in range(2):
                with pytest.raises(gnet.SslError, match="do_handshake to"):
                    ours.do_handshake()
            with pytest.raises(gnet.SslError):
                ours.read_line()
        result, ours = try_accept(listener)
        with ours:
            at_once(ours.do_handshake, good.handshake)


def test_a_client_that_has_left_already_is_told_by_its_own_socket() -> None:
    with tls_listener() as listener:
        with client_of(listener):
            pass
        result, ours = try_accept(listener)
        with ours:
            assert result is SslAcceptResult.NO_HANDSHAKE
            with pytest.raises(gnet.SslError):
                ours.do_handshake()
        assert listener.try_accept() == (SslAcceptResult.NO_CLIENT, None)


def test_a_destroyed_context_fails_its_clients_and_leaves_no_socket() -> None:
    context = server_context()
    with tls_listener(context) as listener, client_of(listener) as peer:
        context.destroy_context()
        assert isinstance(error_of(listener.try_accept), gnet.SslError | ValueError)
        assert peer.socket.recv(1) == b""


def test_a_greenlet_that_waits_in_accept_while_its_listener_is_wrapped_gets_one_that_speaks_tls() -> None:
    with listening() as listener:
        accepting = gevent.spawn(listener.accept, timeout=GUARD)
        gevent.idle()
        server_context().wrap_socket(listener)
        with client_of(listener) as peer, accepting.get() as ours:
            assert ours.is_ssl()
            at_once(ours.do_handshake, peer.handshake)


def test_greenlets_that_wait_before_and_after_a_wrap_get_one_connection_each() -> None:
    with listening() as listener:
        before = gevent.spawn(listener.accept, timeout=GUARD)
        gevent.idle()
        server_context().wrap_socket(listener)
        after = gevent.spawn(listener.accept, timeout=GUARD)
        gevent.idle()
        with client_of(listener) as first, before.get() as one:
            at_once(one.do_handshake, first.handshake)
        with client_of(listener) as second, after.get() as other:
            at_once(other.do_handshake, second.handshake)


def test_closing_a_tls_listener_wakes_all_who_wait_in_it() -> None:
    with tls_listener() as listener:
        waiting = [gevent.spawn(error_of, listener.accept) for _ in range(3)]
        gevent.idle()
        listener.close()
        for greenlet in waiting:
            assert isinstance(greenlet.get(timeout=GUARD / 1000), gnet.ClosedError)
        for call in (listener.accept, listener.try_accept):
            with pytest.raises(gnet.ClosedError):
                call()


def test_a_listener_that_is_closed_leaves_what_it_accepted_alone() -> None:
    with tls_listener() as listener, client_of(listener) as peer:
        accepting = gevent.spawn(listener.accept)
        wait_until(accepting.ready, "nothing is accepted")
        listener.close()
        with accepting.get() as ours:
            at_once(lambda: ours.do_handshake(GUARD), peer.handshake)
