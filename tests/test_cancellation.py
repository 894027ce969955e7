"""Every call of a socket, interrupted at every switch to the hub, by everything that interrupts.

Whatever cuts a call, no byte, datagram or connection is lost; nothing is left behind; the interruption
comes out as it went in; and the socket works on, or says plainly what is wrong with it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import gnet
from tests.canceller import LIMIT, Kind, Outcome, Scene, interrupt_at_every_switch
from tests.faults.peers import black_hole, closed_port

# The guard of calls that only look at what a run left behind; in milliseconds.
GUARD: Final = 5_000

every_kind = pytest.mark.parametrize("kind", Kind, ids=[kind.name.lower() for kind in Kind])
every_stream = pytest.mark.parametrize("family", ["tcp", "unix"])


# Connections

# Smaller ones would have TCP wait for its timers.
_SMALL_BUFFER: Final = 65536


@contextmanager
def connection(
    family: str = "tcp", *, buffered: bool = True, small_buffers: bool = False
) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A gnet socket and the gevent socket at its other end."""
    with ExitStack() as stack:
        if family == "unix":
            left, right = socket.socketpair()
        else:
            listener = stack.enter_context(socket.socket())
            if small_buffers:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            left = socket.create_connection(listener.getsockname())
            right = listener.accept()[0]
            right.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = stack.enter_context(right)
        peer.settimeout(GUARD / 1000)
        if small_buffers:
            left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL_BUFFER)
        ours = stack.enter_context(gnet.Socket.adopt(left, buffered=buffered))
        yield ours, peer


def read_to_the_end(peer: socket.socket) -> bytes:
    """Read all that comes, up to the end of the stream; a reset is no end."""
    parts = []
    while part := peer.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


# Reading. What arrives comes in pieces that cut everything that can be cut: lines, their CRLF, a delimiter,
# the counts that are asked for. Each piece is sent when the call waits for it.

PIECES: Final = [
    b"fir",
    b"st\r",
    b"\nse",
    b"cond li",
    b"ne\n",
    b"\n",
    b"thi",
    b"rd E",
    b"N",
    b"D four",
    b"th\r\ntail",
]
STREAM: Final = b"".join(PIECES)
# Read ahead of the call under test, so that it has to visit the loop for the sake of others.
_MANY: Final = 1200


@dataclass
class Reading:
    """A read and how to tell, from its result, what it took off the stream."""

    call: Callable[[gnet.Socket], Any]
    took: Callable[[Any], bytes]
    may_take: int = 0
    """Bytes that are gone when it is cut: what it was asked to drop."""


def _recv_into(ours: gnet.Socket) -> bytes:
    target = bytearray(21)
    count = ours.recv_into(target, timeout=LIMIT)
    return bytes(target[:count])


READINGS: Final = {
    "recv": Reading(lambda ours: ours.recv(25, LIMIT), bytes),
    "recv_into": Reading(_recv_into, bytes),
    "read_line": Reading(lambda ours: ours.read_line(LIMIT), lambda line: line + b"\r\n"),
    "next_of_lines": Reading(lambda ours: next(ours.lines(timeout=LIMIT)), lambda line: line + b"\r\n"),
    "next_of_lines_bare_cr": Reading(
        lambda ours: next(ours.lines(timeout=LIMIT, bare_cr=True)), lambda line: line + b"\r\n"
    ),
    "recv_some": Reading(lambda ours: ours.recv_some(9, LIMIT), bytes),
    "recv_exactly": Reading(lambda ours: ours.recv_exactly(33, LIMIT), bytes),
    "recv_until": Reading(lambda ours: ours.recv_until(b"END", timeout=LIMIT), bytes),
    "peek": Reading(lambda ours: ours.peek(9, LIMIT), lambda seen: b""),
    "recv_peek": Reading(lambda ours: ours.recv(9, LIMIT, gnet.SocketFlag.PEEK), lambda seen: b""),
    "skip": Reading(lambda ours: ours.skip(28, LIMIT), lambda count: STREAM[:count], may_take=28),
}


def read_scene(reading: Reading, family: str, buffered: bool, before: bytes = b"") -> Callable[[], Any]:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, buffered=buffered) as (ours, peer):
            pieces = iter([before + PIECES[0], *PIECES[1:]] if before else PIECES)

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                completed = outcome.error is None
                taken = reading.took(outcome.value) if completed else b""
                for piece in pieces:
                    peer.sendall(piece)
                peer.shutdown(socket.SHUT_WR)
                rest = b""
                while part := ours.recv(1 << 16, GUARD):
                    rest += part
                if not completed and reading.may_take:
                    assert len(rest) >= len(STREAM) - reading.may_take
                    taken = STREAM[: len(STREAM) - len(rest)]
                assert taken + rest == STREAM
                ours.send(b"goodbye", timeout=GUARD)  # writing does not mind
                assert peer.recv(100) == b"goodbye"

            steps = (lambda piece=piece: peer.sendall(piece) for piece in pieces)
            yield Scene(lambda: reading.call(ours), check, steps)

    return scene


@every_kind
@every_stream
@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("name", READINGS)
def test_an_interrupted_read_loses_no_byte(name: str, buffered: bool, family: str, kind: Kind) -> None:
    assert interrupt_at_every_switch(read_scene(READINGS[name], family, buffered), kind) > 0


def _each_line(ours: gnet.Socket) -> Iterator[bytes]:
    for line in ours.lines(timeout=LIMIT):
        yield line + b"\n"


def _each(read: Callable[[gnet.Socket], bytes]) -> Callable[[gnet.Socket], Iterator[bytes]]:
    return lambda ours: iter(lambda: read(ours), b"")


LOOPS: Final[dict[str, Callable[[gnet.Socket], Iterator[bytes]]]] = {
    "lines": _each_line,
    "read_line": _each(lambda ours: ours.read_line(LIMIT) + b"\n"),
    "recv": _each(lambda ours: ours.recv(8, LIMIT)),
    "recv_exactly": _each(lambda ours: ours.recv_exactly(8, LIMIT)),
    "recv_until": _each(lambda ours: ours.recv_until(b"\n", timeout=LIMIT)),
}


@every_kind
@pytest.mark.parametrize("name", LOOPS)
def test_an_interrupted_visit_to_the_loop_loses_no_byte(name: str, kind: Kind) -> None:
    # With data always at hand a reader visits the loop now and then for the sake of others: a switch, too.
    stream = b"".join(b"%07d\n" % number for number in range(_MANY))

    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection() as (ours, peer):
            peer.sendall(stream)
            taken: list[bytes] = []

            def operation() -> None:
                for line in itertools.islice(LOOPS[name](ours), _MANY):
                    taken.append(line)

            def check(outcome: Outcome) -> None:
                peer.shutdown(socket.SHUT_WR)
                assert b"".join(taken) + ours.recv(len(stream), GUARD) == stream

            yield Scene(operation, check)

    interruptions = interrupt_at_every_switch(scene, kind)
    # The visit itself needs no deadline, so gnet's own can not end there.
    assert interruptions > 0 or kind is Kind.OWN_TIMEOUT


# Writing. The peer is slow: it reads what there is each time that the call waits.

PAYLOAD: Final = bytes(itertools.islice(itertools.cycle(range(251)), 600_000))


def slow_reader(peer: socket.socket, received: bytearray) -> Iterator[Callable[[], None]]:
    """Steps that read something, as long as there is something."""

    def read() -> None:
        received.extend(peer.recv(1 << 20))

    while True:
        yield read


def receive_until_there_are(peer: socket.socket, size: int, received: bytearray) -> None:
    while len(received) < size:
        part = peer.recv(1 << 20)
        assert part, f"the stream ends after {len(received)} bytes of {size}"
        received.extend(part)


def check_cut_message(
    ours: gnet.Socket, peer: socket.socket, received: bytearray, outcome: Outcome, before: bytes = b""
) -> None:
    """Check what a send leaves that was cut: a start of the message, and a write side that knows how much."""
    if outcome.error is None:
        receive_until_there_are(peer, len(before + PAYLOAD), received)
        assert received == before + PAYLOAD
        return
    with pytest.raises(gnet.BrokenSendError) as broken:
        ours.send(b"later", timeout=GUARD)
    bytes_sent = broken.value.bytes_sent
    assert 0 < bytes_sent < len(PAYLOAD)
    if isinstance(outcome.error, gnet.TimeoutError):
        assert outcome.error.bytes_sent == bytes_sent
    with pytest.raises(gnet.BrokenSendError):
        ours.flush(GUARD)
    assert not ours.try_send(b"later")
    peer.sendall(b"still here\n")
    assert ours.read_line(GUARD) == b"still here"
    receive_until_there_are(peer, len(before) + bytes_sent, received)
    assert received == before + PAYLOAD[:bytes_sent]
    ours.close()
    check_end(peer, received, whole=False)
    assert received == before + PAYLOAD[:bytes_sent]


def check_end(peer: socket.socket, received: bytearray, *, whole: bool) -> None:
    """Check that the peer sees an orderly end only if it got everything."""
    if whole or peer.family == socket.AF_UNIX:  # where nothing makes a reset of an end
        received.extend(read_to_the_end(peer))
    else:
        with pytest.raises(ConnectionResetError):  # noqa: PT012
            while part := peer.recv(1 << 20):
                received.extend(part)


@every_kind
@every_stream
def test_an_interrupted_send_breaks_the_write_side_and_tells_how_much_went(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            yield Scene(
                lambda: ours.send(PAYLOAD, timeout=LIMIT),
                lambda outcome: check_cut_message(ours, peer, received, outcome),
                slow_reader(peer, received),
            )

    assert interrupt_at_every_switch(scene, kind) > 3


def queue_something(ours: gnet.Socket, peer: socket.socket, data: bytes) -> None:
    """Have `data` queued: sent while input waits to be read."""
    ours.coalesce = True
    peer.sendall(b"one\ntwo\n")
    assert ours.read_line(GUARD) == b"one"
    assert ours.has_data_buffered()
    ours.send(data)


@every_kind
@every_stream
def test_what_was_queued_goes_before_a_send_that_is_interrupted(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            queue_something(ours, peer, b"queued")

            def check(outcome: Outcome) -> None:
                assert ours.read_line(GUARD) == b"two"
                check_cut_message(ours, peer, received, outcome, b"queued")

            yield Scene(lambda: ours.send(PAYLOAD, timeout=LIMIT), check, slow_reader(peer, received))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
@every_stream
def test_what_others_queue_never_follows_a_cut_message(family: str, kind: Kind) -> None:
    # It is queued while the message is under way, and the message is cut then.
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()

            def steps() -> Iterator[Callable[[], object]]:
                read, *_ = steps = list(itertools.islice(slow_reader(peer, received), 100))
                yield lambda: (queue_something(ours, peer, b"QUEUED"), read())
                yield from steps

            def check(outcome: Outcome) -> None:
                if ours.has_data_buffered():
                    assert ours.read_line(GUARD) == b"two"
                if outcome.error is None:
                    receive_until_there_are(peer, len(PAYLOAD + b"QUEUED"), received)
                    assert received == PAYLOAD + b"QUEUED"
                else:
                    check_cut_message(ours, peer, received, outcome)

            yield Scene(lambda: ours.send(PAYLOAD, timeout=LIMIT), check, steps())

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
@every_stream
def test_an_interrupted_send_that_waited_for_another_leaves_no_trace(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            first = gevent.spawn(ours.send, PAYLOAD, timeout=GUARD)
            gevent.sleep(0)  # it has begun, and waits for room

            def check(outcome: Outcome) -> None:
                expected = PAYLOAD if outcome.error is not None else PAYLOAD + b"second"
                if isinstance(outcome.error, gnet.TimeoutError):
                    assert outcome.error.bytes_sent == 0
                receive_until_there_are(peer, len(expected), received)
                first.get()
                ours.send(b"third", timeout=GUARD)
                receive_until_there_are(peer, len(expected + b"third"), received)
                assert received == expected + b"third"

            steps = [lambda: receive_until_there_are(peer, len(PAYLOAD), received)]
            yield Scene(lambda: ours.send(b"second", timeout=LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 0


@every_kind
@every_stream
def test_an_interrupted_flush_loses_nothing(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            assert ours.try_send(PAYLOAD)

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                receive_until_there_are(peer, len(PAYLOAD), received)
                ours.send(b"later", timeout=GUARD)
                receive_until_there_are(peer, len(PAYLOAD + b"later"), received)
                assert received == PAYLOAD + b"later"

            yield Scene(lambda: ours.flush(LIMIT), check, slow_reader(peer, received))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
@every_stream
def test_an_interrupted_shutdown_loses_nothing_and_can_be_repeated(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            assert ours.try_send(PAYLOAD)
            ours.timeout = LIMIT

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                ours.timeout = GUARD
                again = gevent.spawn(ours.shutdown, socket.SHUT_WR)
                received.extend(read_to_the_end(peer))
                again.get()
                assert received == PAYLOAD
                with pytest.raises(BrokenPipeError):
                    ours.send(b"later")

            yield Scene(lambda: ours.shutdown(socket.SHUT_WR), check, slow_reader(peer, received))

    assert interrupt_at_every_switch(scene, kind) > 3


@every_kind
@every_stream
def test_an_interrupted_close_closes_and_ends_in_order_only_if_all_went(family: str, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with connection(family, small_buffers=True) as (ours, peer):
            received = bytearray()
            assert ours.try_send(PAYLOAD)
            descriptor = ours.fileno()

            def check(outcome: Outcome) -> None:
                assert ours.closed
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptor)
                check_end(peer, received, whole=not outcome.interrupted)
                assert PAYLOAD.startswith(received)
                assert outcome.interrupted or received == PAYLOAD
                ours.close()

            yield Scene(lambda: ours.close(timeout=LIMIT), check, slow_reader(peer, received))

    assert interrupt_at_every_switch(scene, kind) > 3


# Connections and datagrams: whole things, of which each goes to one of those who wait


@contextmanager
def listening() -> Iterator[gnet.Socket]:
    with gnet.new_socket() as listener:
        listener.bind_addr(address="127.0.0.1")
        listener.listen()
        yield listener


ACCEPTS: Final[dict[str, Callable[[gnet.Socket, float], gnet.Socket]]] = {
    "accept": lambda listener, timeout: listener.accept(timeout=timeout),
    "accept_addr": lambda listener, timeout: listener.accept_addr(timeout=timeout)[0],
}


@every_kind
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("name", ACCEPTS)
def test_an_interrupted_accept_loses_no_connection(name: str, others: int, kind: Kind) -> None:
    accept = ACCEPTS[name]

    @contextmanager
    def scene() -> Iterator[Scene]:
        with listening() as listener, ExitStack() as stack:
            address = listener.get_local_addr()
            waiting = [gevent.spawn(accept, listener, GUARD) for _ in range(others)]
            gevent.sleep(0)
            ports = []

            def connect() -> None:
                client = stack.enter_context(socket.create_connection(address))
                ports.append(client.getsockname()[1])

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                while len(ports) < others + 1:
                    connect()
                accepted = [greenlet.get() for greenlet in waiting]
                accepted.append(accept(listener, GUARD) if outcome.error is not None else outcome.value)
                assert sorted(client.get_peer_addr()[1] for client in accepted) == sorted(ports)
                for client in accepted:
                    client.close()

            steps = [lambda: [connect() for _ in range(others + 1)]]
            yield Scene(lambda: accept(listener, LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 0


@contextmanager
def datagram_sockets(family: str) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A gnet socket and a gevent one, connected with each other."""
    with ExitStack() as stack:
        if family == "unix":
            left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        else:
            left, right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
            for end in (left, right):
                end.bind(("127.0.0.1", 0))
            left.connect(right.getsockname())
            right.connect(left.getsockname())
        peer = stack.enter_context(right)
        peer.settimeout(GUARD / 1000)
        yield stack.enter_context(gnet.Socket.adopt(left)), peer


DATAGRAM_READS: Final[dict[str, Callable[[gnet.Socket, float], bytes]]] = {
    "recv_from": lambda ours, timeout: ours.recv_from(100, timeout=timeout)[0],
    "recv": lambda ours, timeout: ours.recv(100, timeout),
    "recv_some": lambda ours, timeout: ours.recv_some(100, timeout),
}


@every_kind
@pytest.mark.parametrize("family", ["udp", "unix"])
@pytest.mark.parametrize("others", [0, 2])
@pytest.mark.parametrize("name", DATAGRAM_READS)
def test_an_interrupted_receive_loses_no_datagram(name: str, others: int, family: str, kind: Kind) -> None:
    receive = DATAGRAM_READS[name]

    @contextmanager
    def scene() -> Iterator[Scene]:
        with datagram_sockets(family) as (ours, peer):
            waiting = [gevent.spawn(receive, ours, GUARD) for _ in range(others)]
            gevent.sleep(0)
            sent: list[bytes] = []

            def send() -> None:
                sent.append(b"datagram %d" % len(sent))
                peer.send(sent[-1])

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                while len(sent) < others + 1:
                    send()
                received = [greenlet.get() for greenlet in waiting]
                received.append(receive(ours, GUARD) if outcome.error is not None else outcome.value)
                assert sorted(received) == sent

            steps = [lambda: [send() for _ in range(others + 1)]]
            yield Scene(lambda: receive(ours, LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 0


@every_kind
def test_an_interrupted_peek_leaves_the_datagram(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with datagram_sockets("udp") as (ours, peer):

            def check(outcome: Outcome) -> None:
                if outcome.interrupted:
                    peer.send(b"datagram")
                else:
                    assert outcome.value == b"data"
                assert ours.recv(100, GUARD) == b"datagram"

            yield Scene(lambda: ours.peek(4, LIMIT), check, [lambda: peer.send(b"datagram")])

    assert interrupt_at_every_switch(scene, kind) > 0


@every_kind
@pytest.mark.parametrize("others", [0, 2])
def test_an_interrupted_send_of_a_datagram_sends_all_of_it_or_nothing(others: int, kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with datagram_sockets("unix") as (ours, peer):
            queued = 0
            while ours.try_send(b"filling"):
                queued += 1
            waiting = [gevent.spawn(ours.send, b"another", timeout=GUARD) for _ in range(others)]
            gevent.sleep(0)
            received: list[bytes] = []

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                expected = [b"filling"] * queued + [b"another"] * others
                expected += [b"message"] if outcome.error is None else []
                while len(received) < len(expected):
                    received.append(peer.recv(100))
                assert sorted(received) == sorted(expected)
                for greenlet in waiting:
                    greenlet.get()
                ours.send(b"later", timeout=GUARD)
                assert peer.recv(100) == b"later"

            # Of all of these, or the kernel takes no more yet.
            steps = [lambda: received.extend(peer.recv(100) for _ in range(queued))]
            yield Scene(lambda: ours.send(b"message", timeout=LIMIT), check, steps)

    assert interrupt_at_every_switch(scene, kind) > 0


# Names and connecting. The look-up waits until a step of the scene lets it go on.


class SlowResolver:
    """In place of gevent's resolver: gives one answer to all questions, once it is let go on."""

    def __init__(self, answer: list[tuple[Any, ...]]) -> None:
        self._answer = answer
        self.answers = Event()

    def getaddrinfo(self, host: str, port: int, family: int, kind: int, protocol: int, flags: int) -> Any:
        self.answers.wait()
        return [(af, kind, protocol, "", sockaddr) for af, sockaddr in self._answer]


@contextmanager
def slow_resolver(*sockaddrs: tuple[Any, ...]) -> Iterator[SlowResolver]:
    hub = gevent.get_hub()
    before = hub.resolver
    hub.resolver = resolver = SlowResolver([(socket.AF_INET, sockaddr) for sockaddr in sockaddrs])
    try:
        yield resolver
    finally:
        hub.resolver = before


@contextmanager
def gevent_listener(backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.settimeout(GUARD / 1000)
        listener.bind(("127.0.0.1", 0))
        listener.listen(backlog)
        yield listener


def check_connected(ours: gnet.Socket, listener: socket.socket) -> None:
    """Check that this connection arrived, and that it carries data both ways."""
    while True:  # a client that was interrupted may stand before it in the queue
        with listener.accept()[0] as peer:
            if peer.getpeername() == ours.get_local_addr():
                peer.sendall(b"welcome\n")
                assert ours.read_line(GUARD) == b"welcome"
                ours.send(b"thanks", timeout=GUARD)
                assert peer.recv(100) == b"thanks"
                return


@every_kind
def test_an_interrupted_connect_leaves_no_half_connected_socket(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with ExitStack() as stack:
            listener = stack.enter_context(gevent_listener())
            closed = stack.enter_context(closed_port())
            resolver = stack.enter_context(slow_resolver(closed, listener.getsockname()))
            ours = stack.enter_context(gnet.new_socket())

            def check(outcome: Outcome) -> None:
                assert outcome.interrupted or outcome.error is None
                if outcome.error is not None and resolver.answers.is_set():
                    # The kernel would go on with the attempt; a later one would find it.
                    assert ours.closed
                    with pytest.raises(gnet.ClosedError):
                        ours.connect(*listener.getsockname(), timeout=GUARD)
                    return
                if outcome.error is not None:
                    ours.connect(*listener.getsockname(), timeout=GUARD)
                check_connected(ours, listener)

            yield Scene(
                lambda: ours.connect("somewhere.test", 80, timeout=LIMIT), check, [resolver.answers.set]
            )

    assert interrupt_at_every_switch(scene, kind) > 1


@every_kind
def test_an_interrupted_dial_leaves_nothing(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with ExitStack() as stack:
            listener = stack.enter_context(gevent_listener())
            closed = stack.enter_context(closed_port())
            hole = stack.enter_context(black_hole())
            resolver = stack.enter_context(slow_resolver(closed, hole, listener.getsockname()))

            def check(outcome: Outcome) -> None:
                if outcome.error is None:
                    with outcome.value as ours:
                        check_connected(ours, listener)
                else:
                    assert outcome.interrupted

            yield Scene(lambda: gnet.dial("somewhere.test", 80, timeout=LIMIT), check, [resolver.answers.set])

    assert interrupt_at_every_switch(scene, kind) > 1


@every_kind
def test_an_interrupted_connect_unix_leaves_no_half_connected_socket(kind: Kind, tmp_path: Path) -> None:
    paths = (str(tmp_path / str(number)) for number in itertools.count())

    @contextmanager
    def scene() -> Iterator[Scene]:
        path = next(paths)
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen(0)
            # One connection fills its queue.
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            ours = stack.enter_context(gnet.new_socket(gnet.AF_UNIX, protocol=gnet.IPPROTO_IP))

            def accept() -> socket.socket:
                return stack.enter_context(listener.accept()[0])

            def check(outcome: Outcome) -> None:
                if outcome.error is not None:
                    assert outcome.interrupted
                    assert ours.closed
                    return
                peer = accept()
                ours.send(b"hello", timeout=GUARD)
                assert peer.recv(100) == b"hello"

            yield Scene(lambda: ours.connect_unix(path, LIMIT), check, [accept])

    assert interrupt_at_every_switch(scene, kind) > 0


@every_kind
def test_an_interrupted_send_to_sends_nothing(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with ExitStack() as stack:
            peer = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            peer.settimeout(GUARD / 1000)
            peer.bind(("127.0.0.1", 0))
            resolver = stack.enter_context(slow_resolver(peer.getsockname()))
            ours = stack.enter_context(gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP))
            ours.timeout = LIMIT

            def check(outcome: Outcome) -> None:
                if outcome.error is None:
                    assert peer.recv(100) == b"first"
                ours.send_to(*peer.getsockname(), b"second")
                assert peer.recv(100) == b"second"

            yield Scene(lambda: ours.send_to("somewhere.test", 80, b"first"), check, [resolver.answers.set])

    assert interrupt_at_every_switch(scene, kind) > 0


@every_kind
def test_an_interrupted_bind_to_a_name_binds_nothing(kind: Kind) -> None:
    @contextmanager
    def scene() -> Iterator[Scene]:
        with slow_resolver(("127.0.0.1", 0)) as resolver, gnet.new_socket() as ours:
            ours.timeout = LIMIT

            def check(outcome: Outcome) -> None:
                if outcome.error is not None:
                    ours.bind_addr(address="127.0.0.1")
                assert ours.get_local_addr()[1] != 0

            yield Scene(lambda: ours.bind_addr(0, "somewhere.test"), check, [resolver.answers.set])

    assert interrupt_at_every_switch(scene, kind) > 0
