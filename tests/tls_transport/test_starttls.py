"""TLS that begins on a connection that is there: what was sent in clear, who else uses it, one deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket

import gnet
from gnet import SslHandshakeType
from tests.faults.peers import black_hole, elapsed, wait_until
from tests.loopback import LATE, SOON
from tests.tls_transport.keys import HOST, client_context, openssl_context, server_context
from tests.tls_transport.peers import GUARD, Peer, at_once, error_of, plain_listener, wire

pytestmark = pytest.mark.usefixtures("engine")

SMALL = 4096
"""SO_RCVBUF and SO_SNDBUF of connections on which writes get stuck soon."""

QUEUED = bytes(range(251)) * 4000


@contextmanager
def stuck() -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A connection in clear with `QUEUED` on its way, which waits for the peer to read."""
    with wire(buffers=SMALL) as (ours, other):
        assert ours.try_send(QUEUED)
        yield ours, other


def wrap(ours: gnet.Socket, timeout: float = GUARD) -> None:
    server_context().wrap_connected_socket(ours, SslHandshakeType.AS_SERVER, timeout=timeout)


def fetch(other: socket.socket, size: int = len(QUEUED)) -> bytes:
    data = b""
    while len(data) < size and (part := other.recv(size - len(data))):
        data += part
    return data


def assert_works_in_clear(ours: gnet.Socket, other: socket.socket) -> None:
    assert not ours.is_ssl()
    other.sendall(b"question\n")
    assert ours.read_line() == b"question"
    ours.send(b"answer")
    assert fetch(other, 6) == b"answer"


def assert_wraps(ours: gnet.Socket, other: socket.socket) -> None:
    """Make the handshake and talk."""
    peer = Peer(other, openssl_context(server=False), server=False)
    at_once(lambda: wrap(ours), peer.handshake)
    ours.send(b"secret")
    assert peer.recv_exactly(6) == b"secret"


# The deadline


def test_the_deadline_of_a_wrap_covers_what_is_still_to_be_sent_in_clear() -> None:
    with stuck() as (ours, other):
        ours.timeout = GUARD  # this is not what counts
        with (
            elapsed() as taken,
            pytest.raises(
                gnet.TimeoutError,
                match=rf"wrap_connected_socket to 127\.0\.0\.1:\d+ \(sending what was queued in clear\): "
                rf"not done within {SOON} ms",
            ),
        ):
            wrap(ours, SOON)
        assert taken() < LATE
        assert fetch(other) == QUEUED
        assert_works_in_clear(ours, other)
        assert_wraps(ours, other)


def test_one_deadline_covers_what_is_sent_in_clear_and_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Counted(gevent.Timeout):
        def start(self) -> None:
            started.append(self.seconds)
            super().start()

    with stuck() as (ours, other):
        monkeypatch.setattr(gevent, "Timeout", Counted)
        wrapping = gevent.spawn(error_of, wrap, ours)
        assert fetch(other) == QUEUED
        wait_until(ours.is_ssl, "the handshake does not begin")
        gevent.idle()  # and now it waits
        assert started == [GUARD / 1000]
        ours.close(timeout=0)
        assert isinstance(wrapping.get(), gnet.ClosedError)


def test_a_handshake_that_was_cut_by_the_deadline_can_be_gone_on_with() -> None:
    with wire() as (ours, other), Peer(other, openssl_context(server=False), server=False) as peer:
        with pytest.raises(gnet.TimeoutError, match=r"wrap_connected_socket to .*\(TLS handshake\)"):
            wrap(ours, 0)
        at_once(ours.do_handshake, peer.handshake)


def test_a_bad_timeout_is_refused_before_anything_is_done() -> None:
    with wire() as (ours, other):
        with pytest.raises(ValueError, match="timeout"):
            wrap(ours, -5)
        assert_works_in_clear(ours, other)


# What is here in clear


def test_bytes_that_are_read_while_a_wrap_waits_are_seen() -> None:
    with stuck() as (ours, other):
        wrapping = gevent.spawn(error_of, wrap, ours)
        gevent.idle()
        other.sendall(b"a line\ninjected\n")
        assert ours.read_line() == b"a line"
        assert ours.has_data_buffered()
        assert fetch(other) == QUEUED
        error = wrapping.get()
        assert isinstance(error, gnet.SslError)
        assert error.reason == "data in clear"
        assert ours.read_line() == b"injected"
        assert_works_in_clear(ours, other)


def test_bytes_of_an_interrupted_read_are_seen() -> None:
    with wire() as (ours, other):
        other.sendall(b"no line end")
        with pytest.raises(gnet.TimeoutError):
            ours.read_line(timeout=SOON)
        with pytest.raises(gnet.SslError, match=r"bytes from 127\.0\.0\.1:\d+ had arrived in clear"):
            wrap(ours)
        assert ours.recv(11) == b"no line end"
        assert_works_in_clear(ours, other)


def test_bytes_in_clear_that_the_kernel_has_are_no_handshake() -> None:
    with wire() as (ours, other):
        other.sendall(b"injected\n")
        with pytest.raises(gnet.SslError, match="wrap_connected_socket to"):
            wrap(ours)
        with pytest.raises(gnet.SslError):
            ours.read_line()


# Who else uses the connection


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a_wrap_is_refused_while_another_greenlet_reads(buffered: bool) -> None:
    with plain_listener() as listener, gnet.new_socket(buffered=buffered) as ours:
        ours.timeout = GUARD
        ours.connect(*listener.getsockname())
        with listener.accept()[0] as other:
            reading = gevent.spawn(ours.read_line)
            gevent.idle()
            with pytest.raises(
                gnet.BusyError, match=r"wrap_connected_socket: another greenlet is reading from 127\.0\.0\.1"
            ):
                wrap(ours)
            other.sendall(b"in clear\n")
            assert reading.get() == b"in clear"
            assert_works_in_clear(ours, other)


def test_a_wrap_is_refused_if_another_greenlet_began_to_read_while_it_waited() -> None:
    with stuck() as (ours, other):
        wrapping = gevent.spawn(error_of, wrap, ours)
        gevent.idle()
        reading = gevent.spawn(ours.read_line)
        gevent.idle()
        assert fetch(other) == QUEUED
        assert isinstance(wrapping.get(), gnet.BusyError)
        other.sendall(b"in clear\n")
        assert reading.get() == b"in clear"
        assert_works_in_clear(ours, other)


def test_what_others_send_while_a_wrap_waits_goes_out_encrypted() -> None:
    with stuck() as (ours, other):
        wrapping = gevent.spawn(wrap, ours)
        gevent.idle()
        sending = gevent.spawn(ours.send, b"secret")
        gevent.idle()
        assert fetch(other) == QUEUED
        peer = Peer(other, openssl_context(server=False), server=False)
        peer.handshake()  # which would fail if there were bytes in clear
        assert peer.recv_exactly(6) == b"secret"
        wrapping.get()
        sending.get()


def test_of_two_that_wrap_at_once_one_is_refused() -> None:
    with stuck() as (ours, other):
        wrapping = [gevent.spawn(wrap, ours), gevent.spawn(error_of, wrap, ours)]
        gevent.idle()
        assert fetch(other) == QUEUED
        Peer(other, openssl_context(server=False), server=False).handshake()
        assert wrapping[0].get() is None
        error = wrapping[1].get()
        assert isinstance(error, TypeError)
        assert "speaks TLS already" in str(error)


def test_closing_wakes_a_wrap_that_still_sends_in_clear() -> None:
    with stuck() as (ours, _other):
        wrapping = gevent.spawn(error_of, wrap, ours)
        gevent.idle()
        ours.close(timeout=0)
        assert isinstance(wrapping.get(), gnet.ClosedError)


def test_a_wrap_that_is_killed_while_it_still_sends_in_clear_changes_nothing() -> None:
    with stuck() as (ours, other):
        wrapping = gevent.spawn(wrap, ours)
        gevent.idle()
        wrapping.kill()
        assert fetch(other) == QUEUED
        assert_works_in_clear(ours, other)
        assert_wraps(ours, other)


# Sockets that are not connected yet


def test_a_socket_is_not_wrapped_while_another_greenlet_connects_it() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        connecting = gevent.spawn(error_of, ours.connect, *address[:2])
        gevent.idle()
        refusals: list[Callable[[], object]] = [
            lambda: client_context().wrap_socket(ours),
            lambda: client_context().wrap_connected_socket(ours, SslHandshakeType.AS_CLIENT, HOST),
        ]
        for refused in refusals:
            with pytest.raises(gnet.BusyError, match="another greenlet is connecting this socket"):
                refused()
        assert not ours.is_ssl()
        ours.close()
        assert isinstance(connecting.get(), gnet.ClosedError)


def test_a_socket_is_not_wrapped_while_its_name_is_looked_up() -> None:
    with plain_listener() as listener, gnet.new_socket() as ours:
        connecting = gevent.spawn(ours.connect, "localhost", listener.getsockname()[1])
        gevent.sleep(0)
        with pytest.raises(gnet.BusyError):
            client_context().wrap_socket(ours)
        connecting.get()
        with listener.accept()[0] as other:
            assert_works_in_clear(ours, other)


def test_a_wrap_without_effect_does_not_stand_in_the_way_of_the_next_connect() -> None:
    with plain_listener() as listener, gnet.new_socket() as ours:
        with pytest.raises(OSError, match="connect"):
            ours.connect("no-such-name.invalid", 1)
        client_context().wrap_socket(ours)
        connecting = gevent.spawn(ours.connect, *listener.getsockname(), GUARD)
        with Peer(listener.accept()[0], openssl_context(server=True), server=True) as peer:
            peer.handshake()
            connecting.get()
            ours.send(b"secret")
            assert peer.recv_exactly(6) == b"secret"


@pytest.mark.parametrize("call", ["send", "try_send", "recv", "peek"])
def test_a_wrapped_socket_moves_nothing_in_clear_while_another_greenlet_connects_it(call: str) -> None:
    with plain_listener() as listener, gnet.new_socket() as ours:
        client_context().wrap_socket(ours)
        connecting = gevent.spawn(ours.connect, *listener.getsockname(), GUARD)
        gevent.sleep(0)  # the kernel is connected by now, which that greenlet has not learnt yet
        if call == "try_send":
            assert not ours.try_send(b"secret")
        else:
            with pytest.raises(OSError, match=f"{call} .*not connected"):
                getattr(ours, call)(b"secret" if call == "send" else 1, timeout=SOON)
        with Peer(listener.accept()[0], openssl_context(server=True), server=True) as peer:
            peer.handshake()
            connecting.get()
            ours.send(b"hello")
            assert peer.recv_exactly(5) == b"hello"
            peer.send(b"there")
            assert ours.recv(5, GUARD) == b"there"


def test_a_connection_that_can_not_become_tls_is_closed_and_does_not_stay_in_clear() -> None:
    context = client_context()
    with plain_listener() as listener, gnet.new_socket() as ours:
        context.wrap_socket(ours)
        context.destroy_context()
        assert isinstance(error_of(ours.connect, *listener.getsockname(), GUARD), gnet.SslError | ValueError)
        assert ours.closed
        with listener.accept()[0] as other:
            assert other.recv(1) == b""
