"""Calls over TLS, interrupted at every switch to the hub, by everything that interrupts.

As `tests.test_cancellation`, with records: whatever cuts a call, no byte is lost, nothing is left behind, and
every record that the peer gets is one that it can open.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from OpenSSL import SSL

import gnet
from tests.canceller import LIMIT, Kind, Outcome, Scene, interrupt_at_every_switch
from tests.test_cancellation import PAYLOAD, READINGS, STREAM, Reading
from tests.tls_transport.keys import HOST, client_context, openssl_context, server_context
from tests.tls_transport.peers import (
    CLOSE_NOTIFY,
    GUARD,
    Peer,
    RecordPeer,
    at_once,
    before_handshake,
    plain_listener,
    split_records,
    tls_listener,
    wire,
    with_peer,
    with_record_peer,
)

every_kind = pytest.mark.parametrize("kind", Kind, ids=[kind.name.lower() for kind in Kind])

# Smaller ones would have TCP wait for its timers.
BUFFERS: Final = 65536


def shares(data: bytes, count: int) -> list[bytes]:
    """Cut into so many pieces of one size, and the rest."""
    size = max(1, len(data) // count)
    return [data[at : at + size] for at in range(0, len(data), size)]


# Reading. What arrives comes in pieces that cut records, headers and what is asked for.


def read_scene(reading: Reading, version: str) -> Callable[[], Any]:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_peer(version=version) as (ours, peer):
            ciphertext = b"".join(peer.encrypt(part) for part in shares(STREAM, 5))
            peer.connection.shutdown()
            pieces = iter(shares(ciphertext + peer.take(), 40))

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                completed = outcome.error is None
                taken = reading.took(outcome.value) if completed else b""
                for piece in pieces:
                    peer.socket.sendall(piece)
                rest = b""
                while part := ours.recv(1 << 16, GUARD):
                    rest += part
                if not completed and reading.may_take:
                    assert len(rest) >= len(STREAM) - reading.may_take
                    taken = STREAM[: len(STREAM) - len(rest)]
                assert taken + rest == STREAM
                ours.send(b"goodbye", timeout=GUARD)  # writing does not mind
                assert peer.recv_exactly(7) == b"goodbye"

            steps = (lambda piece=piece: peer.socket.sendall(piece) for piece in pieces)
            yield Scene(lambda: reading.call(ours), check, steps)

    return scene


@every_kind
@pytest.mark.parametrize("name", READINGS)
def test_an_interrupted_read_loses_no_byte(name: str, kind: Kind) -> None:
    assert interrupt_at_every_switch(read_scene(READINGS[name], "TLSv1.3"), kind) > 3


@every_kind
def test_an_interrupted_read_loses_no_byte_on_tls_1_2(kind: Kind) -> None:
    assert interrupt_at_every_switch(read_scene(READINGS["recv_exactly"], "TLSv1.2"), kind) > 3


@every_kind
def test_an_interrupted_read_loses_no_record_without_data(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(server=False) as (ours, peer):
            ciphertext = b"".join(
                [
                    peer.data(b"first,"),
                    peer.key_update(request=True),
                    peer.ticket(),
                    peer.data(b""),
                    peer.data(b"second,"),
                    peer.key_update(request=False),
                    peer.data(b"third"),
                ]
            )
            pieces = iter(shares(ciphertext, 12))

            def check(outcome: Outcome) -> None:
                for piece in pieces:
                    peer.socket.sendall(piece)
                taken = b"" if outcome.error is not None else outcome.value
                assert taken + ours.recv(18 - len(taken), GUARD) == b"first,second,third"
                ours.send(b"goodbye", timeout=GUARD)
                assert peer.receive_data(7) == b"goodbye"
                assert peer.key_updates() == 1

            steps = (lambda piece=piece: peer.socket.sendall(piece) for piece in pieces)
            yield Scene(lambda: ours.recv_exactly(16, LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 3


# The handshake. The peer's flights come in pieces, too.


class Flights:
    """The peer's side of a handshake; an iterable of steps, each of which sends a piece of a flight."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._pending: list[bytes] = []

    def __iter__(self) -> Iterator[Callable[[], None]]:
        return itertools.repeat(self.step)

    def step(self) -> None:
        peer = self._peer
        if not self._pending and not self._makes_flight():  # a client's first one waits for nothing
            # What it waits for is on its way, unless it has all it needs.
            peer.socket.settimeout(0.2)
            with suppress(TimeoutError):
                peer.unread += peer.socket.recv(1 << 16)
            peer.socket.settimeout(GUARD / 1000)
            self._makes_flight()
        if self._pending:
            peer.socket.sendall(self._pending.pop(0))

    def _makes_flight(self) -> bool:
        advance(self._peer)
        self._pending = shares(self._peer.take(), 6)
        return bool(self._pending)

    def finish(self) -> None:
        """Make the rest of the handshake."""
        self._peer.socket.sendall(b"".join(self._pending))
        self._peer.handshake()


def advance(peer: Peer) -> None:
    """Take the handshake as far as it goes with what is here."""
    records, _ = split_records(peer.unread)
    for record in [b"", *records]:
        if record:
            peer.connection.bio_write(record)
            peer.unread = peer.unread[len(record) :]
        with suppress(SSL.WantReadError):
            peer.connection.do_handshake()
            return


def check_handshake(ours: gnet.Socket, peer: Peer, flights: Flights, outcome: Outcome) -> None:
    assert outcome.interrupted or outcome.error is None
    assert not ours.closed
    at_once(lambda: ours.do_handshake(GUARD), flights.finish)
    assert ours.got_handshake()
    at_once(lambda: ours.send(b"hello"), lambda: peer.send(b"you too"))
    assert peer.recv_exactly(5) == b"hello"
    assert ours.recv(7) == b"you too"


SERVER_CALLS: Final[dict[str, Callable[[gnet.Socket], object]]] = {
    "do_handshake": lambda ours: ours.do_handshake(LIMIT),
    "send": lambda ours: ours.send(b"hello", timeout=LIMIT),
}


@every_kind
@pytest.mark.parametrize("name", SERVER_CALLS)
def test_an_interrupted_handshake_of_a_server_goes_on(name: str, kind: Kind) -> None:
    context = server_context()

    @contextmanager
    def scene() -> Iterator[Scene]:
        with before_handshake(context) as (ours, peer):
            flights = Flights(peer)

            def check(outcome: Outcome) -> None:
                check_handshake(ours, peer, flights, outcome)
                if name == "send" and outcome.error is None:
                    assert peer.recv_exactly(5) == b"hello"  # this one, and the one of the check

            yield Scene(lambda: SERVER_CALLS[name](ours), check, flights)

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_handshake_of_a_client_goes_on(kind: Kind) -> None:
    context = client_context()
    peers_context = openssl_context(server=True)

    @contextmanager
    def scene() -> Iterator[Scene]:
        with wire() as (ours, other):
            peer = Peer(other, peers_context, server=True)
            flights = Flights(peer)
            yield Scene(
                lambda: context.wrap_connected_socket(ours, gnet.SslHandshakeType.AS_CLIENT, HOST, LIMIT),
                lambda outcome: check_handshake(ours, peer, flights, outcome),
                flights,
            )

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_dial_leaves_nothing_and_the_peer_sees_its_end(kind: Kind) -> None:
    context = client_context()
    peers_context = openssl_context(server=True)

    @contextmanager
    def scene() -> Iterator[Scene]:
        with plain_listener() as listener, ExitStack() as stack:
            accepted: list[Peer] = []

            def steps() -> Iterator[Callable[[], None]]:
                def accept() -> None:
                    accepted.append(
                        stack.enter_context(Peer(listener.accept()[0], peers_context, server=True))
                    )
                    flights.append(Flights(accepted[0]))
                    flights[0].step()  # that it is connected need not have been a wait

                flights: list[Flights] = []
                yield accept
                yield from flights[0]

            def check(outcome: Outcome) -> None:
                if outcome.error is None:
                    with outcome.value as ours:
                        assert ours.got_handshake()
                    return
                assert outcome.interrupted
                for peer in accepted:
                    peer.socket.settimeout(GUARD / 1000)
                    with suppress(ConnectionResetError):
                        while peer.socket.recv(1 << 16):
                            pass

            address = listener.getsockname()
            yield Scene(lambda: gnet.dial(*address, timeout=LIMIT, ssl_context=context), check, steps())

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_accept_loses_no_connection(kind: Kind) -> None:
    context = server_context()
    peers_context = openssl_context(server=False)

    @contextmanager
    def scene() -> Iterator[Scene]:
        with tls_listener(context) as listener, ExitStack() as stack:
            clients: list[Peer] = []

            def connect() -> None:
                connected = socket.create_connection(listener.get_local_addr())
                clients.append(stack.enter_context(Peer(connected, peers_context, server=False)))

            def check(outcome: Outcome) -> None:
                while not clients:
                    connect()
                with listener.accept(timeout=GUARD) if outcome.error is not None else outcome.value as ours:
                    at_once(lambda: ours.do_handshake(GUARD), clients[0].handshake)

            yield Scene(lambda: listener.accept(timeout=LIMIT), check, iter([connect]))

    assert interrupt_at_every_switch(scene, kind) > 0


# Writing. The peer is slow: it reads what there is each time that the call waits.


def slow_reader(peer: RecordPeer) -> Iterator[Callable[[], object]]:
    while True:
        yield peer.receive


def collect(peer: RecordPeer) -> None:
    while peer.receive():
        pass


def check_cut_message(ours: gnet.Socket, peer: RecordPeer, outcome: Outcome) -> None:
    """Check what a send leaves that was cut: a start of the message, and a write side that knows how much."""
    reading = gevent.spawn(collect, peer)
    try:
        ours.send(b"later", timeout=GUARD)
    except gnet.BrokenSendError as broken:
        sent = broken.bytes_sent
    else:  # all of it was taken, if it was cut at all; then in its wait for the kernel
        sent = len(PAYLOAD)
    finally:
        reading.kill()
    if sent == len(PAYLOAD):
        assert peer.receive_data(len(PAYLOAD) + 5) == PAYLOAD + b"later"
        return
    assert outcome.error is not None
    assert 0 < sent < len(PAYLOAD)
    if isinstance(outcome.error, gnet.TimeoutError):
        assert outcome.error.bytes_sent == sent
    assert not ours.try_send(b"later")
    peer.send(peer.data(b"still here\n"))
    assert ours.read_line(GUARD) == b"still here"
    assert peer.receive_data(sent) == PAYLOAD[:sent]
    ours.close()
    check_end(peer, whole=False)


def check_end(peer: RecordPeer, *, whole: bool) -> None:
    """Check that the peer sees an orderly end only if it got everything."""
    if whole:
        peer.receive_until(lambda _: False)
        assert peer.records[-1] == CLOSE_NOTIFY
    else:
        with pytest.raises(ConnectionResetError):
            peer.receive_until(lambda _: False)
        assert CLOSE_NOTIFY not in peer.records


@every_kind
def test_an_interrupted_send_breaks_the_write_side_and_tells_how_much_went(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(buffers=BUFFERS) as (ours, peer):
            yield Scene(
                lambda: ours.send(PAYLOAD, timeout=LIMIT),
                lambda outcome: check_cut_message(ours, peer, outcome),
                slow_reader(peer),
            )

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_flush_loses_nothing(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(buffers=BUFFERS) as (ours, peer):
            assert ours.try_send(PAYLOAD)

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                assert peer.receive_data(len(PAYLOAD)) == PAYLOAD
                ours.send(b"later", timeout=GUARD)
                assert peer.receive_data(len(PAYLOAD) + 5) == PAYLOAD + b"later"

            yield Scene(lambda: ours.flush(LIMIT), check, slow_reader(peer))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_shutdown_loses_nothing_and_can_be_repeated(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(buffers=BUFFERS) as (ours, peer):
            assert ours.try_send(PAYLOAD)
            ours.timeout = LIMIT

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                ours.timeout = GUARD
                at_once(lambda: ours.shutdown(socket.SHUT_WR), lambda: check_end(peer, whole=True))
                assert peer.received() == PAYLOAD
                peer.send(peer.data(b"still here\n"))
                assert ours.read_line() == b"still here"

            yield Scene(lambda: ours.shutdown(socket.SHUT_WR), check, slow_reader(peer))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_close_closes_and_ends_in_order_only_if_all_went(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(buffers=BUFFERS) as (ours, peer):
            assert ours.try_send(PAYLOAD)
            descriptor = ours.fileno()

            def check(outcome: Outcome) -> None:
                assert ours.closed
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptor)
                check_end(peer, whole=not outcome.interrupted)
                assert PAYLOAD.startswith(peer.received())
                assert outcome.interrupted or peer.received() == PAYLOAD
                ours.close()

            yield Scene(lambda: ours.close(timeout=LIMIT), check, slow_reader(peer))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
def test_an_interrupted_close_of_a_client_that_never_read_closes(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with with_record_peer(server=False) as (ours, peer):
            ours.send(b"the data", timeout=GUARD)
            descriptor = ours.fileno()

            def end() -> None:
                peer.send(peer.close_notify())
                peer.socket.shutdown(socket.SHUT_WR)

            def answer(record: Callable[[], bytes]) -> None:
                peer.receive_data(8)
                peer.send(record())

            steps = [
                lambda: answer(peer.ticket),
                lambda: answer(lambda: peer.data(b"what nobody reads")),
                end,
            ]

            def check(outcome: Outcome) -> None:
                assert ours.closed
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptor)
                assert outcome.interrupted or outcome.error is None
                # It was in the kernel's hands before the close.
                assert peer.receive_data(8) == b"the data"

            yield Scene(lambda: ours.close(timeout=LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 1
