"""Faults of concurrency (group D): timeouts and kills in the middle of a call, a close under those who wait,
several readers, several writers, deadlines that end together.

Each test is named after its row. What interrupts a call at every single one of its switches is in
`tests/test_cancellation.py`; D6, D7 and D17 to D19 are about TLS and serving.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from gevent.event import Event

import gnet
from tests.canceller import armed_timers
from tests.conftest import require_program
from tests.faults.peers import (
    GUARD,
    black_hole,
    connection,
    elapsed,
    listener,
    open_descriptors,
    receive_exactly,
)

_ROOT: Final = Path(__file__).parents[2]

# Milliseconds until a timeout that is meant to end a call does so.
SOON: Final = 20
# Within this time "at once" has to be, on a busy machine too.
AT_ONCE: Final = 500

BIG: Final = b"x" * 8_000_000
"""More than a connection takes from a sender while nobody reads."""

buffering = pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])

READS: Final[dict[str, Callable[[gnet.Socket], Any]]] = {
    "recv": lambda ours: ours.recv(1000),
    "recv_into": lambda ours: ours.recv_into(bytearray(1000)),
    "read_line": lambda ours: ours.read_line(),
    "lines": lambda ours: next(ours.lines()),
    "lines_bare_cr": lambda ours: next(ours.lines(bare_cr=True)),
    "recv_some": lambda ours: ours.recv_some(1000),
    "recv_exactly": lambda ours: ours.recv_exactly(1000),
    "recv_until": lambda ours: ours.recv_until(b"END"),
    "peek": lambda ours: ours.peek(1000),
    "skip": lambda ours: ours.skip(1000),
}


@contextmanager
def listening() -> Iterator[gnet.Socket]:
    with gnet.new_socket() as server:
        server.bind_addr(address="127.0.0.1")
        server.listen()
        yield server


@contextmanager
def datagram_pair() -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A gnet socket, and the gevent one that sends to it."""
    with gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as ours:
        ours.bind_addr(address="127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.connect(ours.get_local_addr())
            yield ours, peer


def waiting(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> gevent.Greenlet:
    """Start a call in a greenlet and give it when it waits."""
    greenlet = gevent.spawn(call, *arguments, **keywords)
    gevent.sleep(0)
    assert not greenlet.ready(), f"it does not wait: {greenlet.value!r}, {greenlet.exception!r}"
    return greenlet


def error_of(greenlet: gevent.Greenlet) -> BaseException | None:
    """Wait for a greenlet and give what it ended with."""
    greenlet.join(GUARD / 1000)
    assert greenlet.ready(), "it still waits"
    return greenlet.exception


def caught(kind: type[BaseException], call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call something that has to raise; give what it raised. (gevent prints what a greenlet raises.)"""
    with pytest.raises(kind) as info:
        call(*arguments, **keywords)
    return info.value


def hold_up_the_hub(milliseconds: float) -> None:
    """Compute, as a program does that does not think of others."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass


# D1, D2, D3: a timeout in the middle of a read


@buffering
def test_d1_a_gevent_timeout_in_mid_line_loses_nothing(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"first\nsec")
        assert ours.read_line() == b"first"
        with pytest.raises(gevent.Timeout), gevent.Timeout(SOON / 1000):
            ours.read_line()
        peer.sendall(b"ond\r")
        with pytest.raises(gevent.Timeout), gevent.Timeout(SOON / 1000):
            ours.read_line()  # the CR needs one more byte to be judged
        peer.sendall(b"\nthird\n")
        assert [ours.read_line(), ours.read_line()] == [b"second", b"third"]


@buffering
def test_d1_a_gevent_timeout_in_mid_line_of_a_loop_over_lines_loses_nothing(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"first\nsec")
        lines = []
        with pytest.raises(gevent.Timeout), gevent.Timeout(SOON / 1000):
            lines.extend(ours.lines())
        peer.sendall(b"ond\n")
        peer.shutdown(socket.SHUT_WR)
        for line in ours.lines():
            lines.append(line)
        assert lines == [b"first", b"second"]


@buffering
def test_d2_after_a_timeout_in_read_line_one_reads_again(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        for piece in (b"on", b"e li", b"ne\r"):
            peer.sendall(piece)
            with pytest.raises(gnet.TimeoutError):
                ours.read_line(timeout=SOON)
        peer.sendall(b"\ntwo\n")
        assert [ours.read_line(), ours.read_line()] == [b"one line", b"two"]


@pytest.mark.parametrize("name", ["recv", "recv_exactly"])
def test_d3_a_timeout_leaves_the_bytes_that_came_short_of_one(name: str) -> None:
    size = 100_000
    with connection() as (ours, peer):
        peer.sendall(b"x" * (size - 1))
        with pytest.raises(gnet.TimeoutError):
            getattr(ours, name)(size, timeout=5 * SOON)
        assert ours.has_data_buffered()
        peer.sendall(b"y")
        assert getattr(ours, name)(size) == b"x" * (size - 1) + b"y"


# D4: a timeout in a call that takes a whole thing


def test_d4_a_timeout_in_recv_from_loses_no_datagram() -> None:
    with datagram_pair() as (ours, peer):
        receiving = waiting(caught, gevent.Timeout, ours.recv_from, 100)
        peer.send(b"one")
        receiving.kill(gevent.Timeout)  # before the loop polls
        receiving.get()
        assert ours.recv_from(100, timeout=GUARD)[0] == b"one"


def test_d4_a_timeout_in_accept_drops_no_connection() -> None:
    with listening() as server, socket.socket() as client:
        accepting = waiting(caught, gevent.Timeout, server.accept)
        client.setblocking(False)
        client.connect_ex(server.get_local_addr())
        accepting.kill(gevent.Timeout)  # before the loop polls
        accepting.get()
        with server.accept(timeout=GUARD) as accepted:
            assert accepted.get_peer_addr() == client.getsockname()


@pytest.mark.parametrize("count", [1, 3])
def test_d4_what_comes_with_the_timeouts_of_those_who_wait_is_not_lost(count: int) -> None:
    with datagram_pair() as (ours, peer):
        received = []

        def receive() -> None:
            with suppress(gnet.TimeoutError):
                received.append(ours.recv_from(100, timeout=SOON)[0])

        receiving = [waiting(receive) for _ in range(count)]
        sent = [b"%d" % number for number in range(count)]
        for datagram in sent:
            peer.send(datagram)
        hold_up_the_hub(2 * SOON)
        gevent.joinall(receiving, raise_error=True, timeout=GUARD / 1000)
        while len(received) < count:
            received.append(ours.recv_from(100, timeout=GUARD)[0])
        assert sorted(received) == sent


# D5: a timeout in connect


class _SilentResolver:
    """In place of gevent's: never answers."""

    def getaddrinfo(self, *question: object) -> Any:
        Event().wait()


@pytest.fixture
def silent_resolver() -> Iterator[None]:
    hub = gevent.get_hub()
    before = hub.resolver
    hub.resolver = _SilentResolver()
    yield
    hub.resolver = before


def _connect(host: str, port: int) -> None:
    with gnet.new_socket() as ours:
        ours.connect(host, port, timeout=5 * SOON)


def _dial(host: str, port: int) -> None:
    gnet.dial(host, port, timeout=5 * SOON)


def _bind(host: str, port: int) -> None:
    with gnet.new_socket() as ours:
        ours.timeout = 5 * SOON
        ours.bind_addr(port, host)


def _send_to(host: str, port: int) -> None:
    with gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as ours:
        ours.timeout = 5 * SOON
        ours.send_to(host, port, b"data")


@pytest.mark.usefixtures("silent_resolver")
@pytest.mark.parametrize("call", [_connect, _dial, _bind, _send_to])
def test_d5_a_timeout_in_the_look_up_says_so_and_leaves_no_descriptor(call: Callable[..., None]) -> None:
    before = open_descriptors()
    with pytest.raises(gnet.TimeoutError, match=r"somewhere\.test:80 \(looking up the name\)") as info:
        call("somewhere.test", 80)
    assert open_descriptors() == before
    assert info.value.__cause__ is None


@pytest.mark.parametrize("call", [_connect, _dial])
def test_d5_a_timeout_while_connecting_says_so_and_leaves_no_descriptor(call: Callable[..., None]) -> None:
    with black_hole() as (host, port):
        before = open_descriptors()
        with pytest.raises(gnet.TimeoutError, match=f"connect.* {host}:{port}"):
            call(host, port)
        assert open_descriptors() == before


def test_d5_a_socket_whose_connect_timed_out_is_closed() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        with pytest.raises(gnet.TimeoutError, match="the socket is closed now"):
            ours.connect(*address, timeout=SOON)
        assert ours.closed
        with pytest.raises(gnet.ClosedError):
            ours.connect(*address)


# D8: a kill


@buffering
@pytest.mark.parametrize("name", READS)
def test_d8_a_killed_reader_ends_and_what_had_arrived_stays(name: str, buffered: bool) -> None:
    arrived = b"" if name in ("peek", "recv_some") or not buffered else b"some"
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(arrived)
        reader = waiting(READS[name], ours)
        reader.kill(timeout=GUARD / 1000)
        assert isinstance(reader.value, gevent.GreenletExit)
        peer.sendall(b"more\n")
        expected = b"more" if name == "skip" else arrived + b"more"  # what it skipped is skipped
        assert ours.read_line() == expected


def test_d8_a_killed_sender_ends_and_the_next_send_says_that_a_message_was_cut() -> None:
    with connection() as (ours, peer):
        sender = waiting(ours.send, BIG)
        sender.kill(timeout=GUARD / 1000)
        assert isinstance(sender.value, gevent.GreenletExit)
        with pytest.raises(gnet.BrokenSendError, match=r"cut after [0-9]+ bytes") as broken:
            ours.send(b"next")
        assert len(receive_exactly(peer, broken.value.bytes_sent)) == broken.value.bytes_sent
        peer.sendall(b"reading goes on\n")
        assert ours.read_line() == b"reading goes on"


def test_d8_a_killed_accept_ends_and_the_next_one_goes_on() -> None:
    with listening() as server:
        first, second = waiting(server.accept), waiting(server.accept)
        first.kill(timeout=GUARD / 1000)
        assert isinstance(first.value, gevent.GreenletExit)
        with socket.create_connection(server.get_local_addr()), second.get(timeout=GUARD / 1000):
            pass


def test_d8_a_killed_connect_ends_and_leaves_no_descriptor() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        before = open_descriptors()
        for call in (ours.connect, gnet.dial):
            connecting = waiting(call, *address)
            connecting.kill(timeout=GUARD / 1000)
            assert isinstance(connecting.value, gevent.GreenletExit)
        assert open_descriptors() == before - 1  # and `ours` is closed, for the kernel would go on with it


# D9: close() while another greenlet reads


@buffering
@pytest.mark.parametrize("name", READS)
def test_d9_a_close_ends_the_reader_at_once_and_the_peer_sees_the_end(name: str, buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(caught, gnet.ClosedError, READS[name], ours)
        with elapsed() as milliseconds:
            ours.close()
            reader.get()
            assert peer.recv(1) == b""
        assert milliseconds() < AT_ONCE


@pytest.mark.parametrize("count", [1, 5])
def test_d9_a_close_ends_all_who_wait_in_accept(count: int) -> None:
    with listening() as server:
        accepting = [waiting(caught, gnet.ClosedError, server.accept) for _ in range(count)]
        with elapsed() as milliseconds:
            server.close()
            gevent.joinall(accepting, raise_error=True)
        assert milliseconds() < AT_ONCE


@pytest.mark.parametrize("count", [1, 5])
def test_d9_a_close_ends_all_who_wait_for_a_datagram(count: int) -> None:
    with datagram_pair() as (ours, _):
        receiving = [waiting(caught, gnet.ClosedError, ours.recv_from, 100) for _ in range(count)]
        with elapsed() as milliseconds:
            ours.close()
            gevent.joinall(receiving, raise_error=True)
        assert milliseconds() < AT_ONCE


def test_d9_a_close_ends_a_connect() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        connecting = waiting(caught, gnet.ClosedError, ours.connect, *address)
        with elapsed() as milliseconds:
            ours.close()
            error = connecting.get()
        assert milliseconds() < AT_ONCE
        assert error.__cause__ is None


def test_d9_a_detach_ends_the_reader_too() -> None:
    with connection() as (ours, peer):
        reader = waiting(caught, gnet.ClosedError, ours.read_line)
        descriptor = ours.detach()
        reader.get(timeout=GUARD / 1000)
        os.write(descriptor, b"still open")
        os.close(descriptor)
        assert peer.recv(100) == b"still open"


# D10: close() while another greenlet sends; the number of the descriptor in new hands


@contextmanager
def reused(descriptor: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection of which one end has the number of a descriptor that was just closed."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    pair = sorted(socket.socketpair(), key=lambda end: end.fileno() != descriptor)
    first, second = pair  # the first one has the number already, or else is moved to it
    if first.fileno() != descriptor:
        os.dup2(first.fileno(), descriptor)
        first.close()
        first = socket.socket(fileno=descriptor)
    with first, second:
        for end in (first, second):
            end.settimeout(GUARD / 1000)
        yield first, second


def check_untouched(end: socket.socket, other: socket.socket) -> None:
    """Check that nobody reads from a connection or writes to it, or changes its mode."""
    gevent.sleep(0)
    for source, target in ((end, other), (other, end)):
        source.sendall(b"mine")
        assert target.recv(100) == b"mine"


@pytest.mark.parametrize("count", [1, 5])
def test_d10_a_close_ends_those_who_send_at_once(count: int) -> None:
    with connection() as (ours, peer):
        senders = [waiting(caught, gnet.ClosedError, ours.send, BIG) for _ in range(count)]
        with elapsed() as milliseconds:
            ours.close()
            gevent.joinall(senders, raise_error=True)
        assert milliseconds() < AT_ONCE
        with pytest.raises(ConnectionResetError):  # a cut message must not look like a whole one
            receive_exactly(peer, len(BIG))


def test_d10_who_reads_or_sends_never_touches_the_descriptors_next_owner() -> None:
    with connection() as (ours, _):
        tasks = [
            waiting(caught, gnet.ClosedError, ours.send, BIG),
            waiting(caught, gnet.ClosedError, ours.send, b"next"),
            waiting(caught, gnet.ClosedError, ours.read_line),
        ]
        descriptor = ours.fileno()
        ours.close()
        with reused(descriptor) as (end, other):
            gevent.joinall(tasks, raise_error=True, timeout=GUARD / 1000)
            check_untouched(end, other)


def test_d10_what_goes_out_in_the_background_never_goes_to_the_descriptors_next_owner() -> None:
    with connection() as (ours, _):
        assert ours.try_send(BIG)
        descriptor = ours.fileno()
        ours.close(timeout=0)
        with reused(descriptor) as (end, other):
            check_untouched(end, other)


def test_d10_what_was_queued_never_goes_to_the_descriptors_next_owner() -> None:
    with connection(accepted=True) as (ours, peer):
        peer.sendall(b"one\ntwo\n")
        ours.read_line()
        ours.send(b"queued")
        descriptor = ours.fileno()
        ours.close()
        with reused(descriptor) as (end, other):
            check_untouched(end, other)
        assert receive_exactly(peer, 100) == b"queued"


def test_d10_who_accepts_never_takes_from_the_descriptors_next_owner() -> None:
    with listening() as server, listener() as next_server:
        accepting = [waiting(caught, gnet.ClosedError, server.accept) for _ in range(3)]
        descriptor = server.fileno()
        server.close()
        os.dup2(next_server.fileno(), descriptor)
        try:
            with socket.create_connection(next_server.getsockname()) as client:
                gevent.joinall(accepting, raise_error=True, timeout=GUARD / 1000)
                accepted, address = next_server.accept()
                accepted.close()
                assert address == client.getsockname()
        finally:
            os.close(descriptor)


def test_d10_who_connects_never_touches_the_descriptors_next_owner() -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        connecting = waiting(caught, gnet.ClosedError, ours.connect, *address)
        descriptor = ours.fileno()
        ours.close()
        with reused(descriptor) as (end, other):
            connecting.get(timeout=GUARD / 1000)
            check_untouched(end, other)


def test_d10_what_was_sent_before_a_close_arrives_although_others_wait_to_flush_it() -> None:
    with connection() as (ours, peer):
        assert ours.try_send(BIG)
        flushing = waiting(caught, gnet.ClosedError, ours.flush)
        closing = gevent.spawn(ours.close, timeout=GUARD)
        assert receive_exactly(peer, len(BIG) + 1) == BIG
        gevent.joinall([flushing, closing], raise_error=True, timeout=GUARD / 1000)


# D11: two readers of one stream


@buffering
@pytest.mark.parametrize("first", READS)
def test_d11_a_second_reader_is_refused_at_once_and_the_first_goes_on(first: str, buffered: bool) -> None:
    seconds = {**READS, "try_read_line": lambda ours: ours.try_read_line()}
    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(READS[first], ours)
        for name, second in seconds.items():
            with pytest.raises(gnet.BusyError, match="another greenlet is already reading"):
                second(ours)
            assert not reader.ready(), f"{name} has disturbed the first one"
        everything = b"line\n" + b"END".rjust(995, b"x")
        peer.sendall(everything)
        result = reader.get(timeout=GUARD / 1000)
        whole = {
            "recv_into": 1000,
            "skip": 1000,
            "read_line": b"line",
            "lines": b"line",
            "lines_bare_cr": b"line",
        }
        assert result == whole.get(first, everything)


def test_d11_lines_split_ahead_are_not_handed_out_past_a_reader_that_waits() -> None:
    with connection() as (ours, peer):
        stream = b"".join(b"%d\n" % number for number in range(100))
        peer.sendall(stream)
        lines = ours.lines()
        assert next(lines) == b"0"
        rest = stream.removeprefix(b"0\n")
        reader = waiting(ours.recv_exactly, len(rest) + 1)
        with pytest.raises(gnet.BusyError):
            next(lines)
        peer.sendall(b"!")
        assert reader.get(timeout=GUARD / 1000) == rest + b"!"


def test_d11_a_reader_that_lets_others_run_is_still_the_one_who_reads() -> None:
    with connection() as (ours, peer):
        stream = b"".join(b"%07d\n" % number for number in range(3000))
        peer.sendall(stream)
        taken: list[bytes] = []
        refused = 0
        reader = gevent.spawn(lambda: taken.extend(ours.recv(8) for _ in range(3000)))
        while not reader.ready():
            gevent.sleep(0)
            if not reader.ready():
                with pytest.raises(gnet.BusyError):
                    ours.recv(8)
                refused += 1
        assert refused > 0
        assert b"".join(taken) == stream


def test_d11_lines_split_ahead_are_not_handed_out_past_a_reader_that_lets_others_run() -> None:
    with connection() as (ours, peer):
        count = 3000
        peer.sendall(b"".join(b"%07d\n" % number for number in range(count)))
        refused = 0
        lines = ours.lines()
        for number in range(count):
            if number % 100:
                assert next(lines) == b"%07d" % number
                continue
            reader = gevent.spawn(ours.recv, 8)
            gevent.sleep(0)
            if not reader.ready():
                with pytest.raises(gnet.BusyError):
                    next(lines)
                refused += 1
                lines = ours.lines()
            assert reader.get(timeout=GUARD / 1000) == b"%07d\n" % number
        assert refused > 0


def test_d11_a_reader_whose_call_has_ended_is_in_nobodys_way() -> None:
    with connection() as (ours, peer):
        with pytest.raises(gnet.TimeoutError):
            ours.read_line(timeout=SOON)
        waiting(ours.read_line).kill()
        reader = waiting(ours.read_line)
        peer.sendall(b"line\n")
        assert reader.get(timeout=GUARD / 1000) == b"line"


# D12: several writers


def message(number: int, size: int) -> bytes:
    return b"%d:%d:" % (number, size) + bytes([number + 97]) * size


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("coalesce", [True, False], ids=["coalescing", "direct"])
def test_d12_messages_of_several_writers_never_interleave(count: int, coalesce: bool) -> None:
    sizes = [3_000_000, 10, 300_000, 70_000]
    with connection(accepted=True) as (ours, peer):
        ours.coalesce = coalesce
        peer.sendall(b"one\ntwo\n")
        assert ours.read_line() == b"one"  # and input waits, so that small messages are queued

        def write(number: int) -> None:
            for size in sizes:
                ours.send(message(number, size))

        writers = [gevent.spawn(write, number) for number in range(count)]
        total = sum(len(message(number, size)) for number in range(count) for size in sizes)
        stream = receive_exactly(peer, total)
        gevent.joinall(writers, raise_error=True, timeout=GUARD / 1000)
        seen: dict[int, list[int]] = {number: [] for number in range(count)}
        while stream:
            head, size, stream = stream.split(b":", 2)
            body, stream = stream[: int(size)], stream[int(size) :]
            assert body == bytes([int(head) + 97]) * int(size), (
                f"a message of writer {int(head)} was mixed up"
            )
            seen[int(head)].append(int(size))
        assert all(sent == sizes for sent in seen.values())


def test_d12_who_waits_to_send_comes_before_the_next_message_of_who_sends() -> None:
    with connection() as (ours, peer):
        busy = waiting(lambda: [ours.send(BIG) for _ in range(10)])
        other = waiting(ours.send, b"!")
        stream = receive_exactly(peer, 10 * len(BIG) + 1)
        gevent.joinall([busy, other], raise_error=True, timeout=GUARD / 1000)
        assert stream.find(b"!") == len(BIG)


# D13: a reader and a writer


def test_d13_reading_and_writing_do_not_wait_for_each_other() -> None:
    # Each side sends more than fits before it reads: whoever waits for its own send first never ends.
    with connection() as (ours, peer):
        writer = gevent.spawn(ours.send, BIG)
        reader = gevent.spawn(ours.recv_exactly, len(BIG))
        answering = gevent.spawn(peer.sendall, BIG)
        assert receive_exactly(peer, len(BIG)) == BIG
        assert reader.get(timeout=GUARD / 1000) == BIG
        gevent.joinall([writer, answering], raise_error=True, timeout=GUARD / 1000)


# D14: a timeout in the same turn of the loop as data


@buffering
@pytest.mark.parametrize("times", range(3))
def test_d14_data_that_comes_with_the_timeout_is_read(buffered: bool, times: int) -> None:
    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(ours.read_line, timeout=SOON)
        peer.sendall(b"line\n")
        hold_up_the_hub(2 * SOON)  # both are due in the next turn of the loop
        assert reader.get(timeout=GUARD / 1000) == b"line"


@buffering
def test_d14_data_that_comes_with_somebody_elses_timeout_is_read_or_kept(buffered: bool) -> None:
    def read() -> bytes:
        try:
            with gevent.Timeout(SOON / 1000):
                return ours.read_line()
        except gevent.Timeout:
            return ours.read_line()

    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(read)
        peer.sendall(b"line\nnext\n")
        hold_up_the_hub(2 * SOON)
        assert reader.get(timeout=GUARD / 1000) == b"line"
        assert ours.read_line() == b"next"


@buffering
def test_d14_of_a_part_that_comes_with_the_timeout_nothing_is_lost(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(caught, gnet.TimeoutError, ours.read_line, timeout=SOON)
        peer.sendall(b"li")
        hold_up_the_hub(2 * SOON)
        reader.get(timeout=GUARD / 1000)
        peer.sendall(b"ne\n")
        assert ours.read_line() == b"line"


# D15: nested deadlines


def test_d15_an_inner_deadline_does_not_swallow_the_end_of_an_outer_one() -> None:
    with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"), gnet.deadline(SOON):  # noqa: PT012
        with suppress(gnet.TimeoutError), gnet.deadline(GUARD):
            Event().wait()
        pytest.fail("the inner deadline has taken the outer one's end for its own")


def test_d15_an_inner_deadline_ends_the_inner_block_only() -> None:
    with connection() as (ours, peer), gnet.deadline(GUARD):
        with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"), gnet.deadline(SOON):
            ours.read_line()
        peer.sendall(b"line\n")
        assert ours.read_line() == b"line"


def nested(ours: gnet.Socket, outer: float, inner: float) -> list[str]:
    """Read with a limit in a block with a limit, then wait on in the block; give the ends in their order."""
    ends = []
    try:
        with gnet.deadline(outer):
            try:
                ours.read_line(timeout=inner)
            except gnet.TimeoutError as error:
                ends.append(f"inner: {error}")
            Event().wait()
    except gnet.TimeoutError as error:
        ends.append(f"outer: {error}")
    return ends


@pytest.mark.parametrize(("outer", "inner"), [(20, 21), (21, 20)])
def test_d15_of_two_deadlines_that_are_over_at_once_each_ends_its_own(outer: int, inner: int) -> None:
    with connection() as (ours, peer):
        reader = waiting(nested, ours, outer, inner)
        hold_up_the_hub(3 * SOON)
        ends = reader.get(timeout=GUARD / 1000)
        assert ends[-1].startswith("outer: ")
        assert f"within {outer} ms" in ends[-1]
        if len(ends) > 1:
            assert ends[0].startswith("inner: ")
            assert f"within {inner} ms" in ends[0]
        peer.sendall(b"line\n")
        assert ours.read_line() == b"line"


def test_d15_of_many_nested_deadlines_the_shortest_wins() -> None:
    with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"), ExitStack() as stack:  # noqa: PT012
        for limit in (GUARD, 3 * GUARD, SOON, GUARD, -1, None):
            stack.enter_context(gnet.deadline(limit))
        Event().wait()


def test_d15_the_end_of_a_block_passes_through_except_exception() -> None:
    def handler(ours: gnet.Socket) -> None:
        while True:
            with suppress(Exception):  # what handlers do
                ours.read_line(timeout=GUARD)

    with connection() as (ours, _), pytest.raises(gnet.TimeoutError), gnet.deadline(SOON):
        handler(ours)


# D16: nothing of a deadline is left

LIMIT: Final = 77_777
"""Milliseconds: the limit of the calls here, by which their timers are known."""


def calls_that_wait(ours: gnet.Socket) -> dict[str, Callable[[float], Any]]:
    return {
        "recv": lambda timeout: ours.recv(5, timeout),
        "recv_into": lambda timeout: ours.recv_into(bytearray(5), timeout=timeout),
        "read_line": lambda timeout: ours.read_line(timeout),
        "lines": lambda timeout: next(ours.lines(timeout=timeout)),
        "recv_some": lambda timeout: ours.recv_some(5, timeout),
        "recv_exactly": lambda timeout: ours.recv_exactly(5, timeout),
        "recv_until": lambda timeout: ours.recv_until(b"\n", timeout=timeout),
        "peek": lambda timeout: ours.peek(5, timeout),
        "skip": lambda timeout: ours.skip(5, timeout),
    }


@buffering
@pytest.mark.parametrize("name", calls_that_wait(None))  # type: ignore[arg-type]  # for the names only
def test_d16_a_read_leaves_no_timer_however_it_ends(name: str, buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        loop = gevent.get_hub().loop
        before = loop.activecnt
        call = calls_that_wait(ours)[name]
        with pytest.raises(gnet.TimeoutError):
            call(SOON)
        assert not armed_timers(SOON)
        reader = waiting(call, LIMIT)
        assert armed_timers(LIMIT), "this test looks for the wrong thing"
        peer.sendall(b"line\n")
        reader.get(timeout=GUARD / 1000)
        assert not armed_timers(LIMIT)
        assert loop.activecnt == before
        peer.close()
        with suppress(StopIteration, gnet.IncompleteReadError):
            call(LIMIT)
        assert not armed_timers(LIMIT)


def test_d16_a_send_leaves_no_timer_however_it_ends() -> None:
    # With a buffer of its own choice the kernel may take all of it in the end.
    with connection(receive_buffer=65536) as (ours, peer):
        sender, second = (waiting(ours.send, BIG, timeout=LIMIT) for _ in range(2))
        assert len(armed_timers(LIMIT)) == 2
        assert len(receive_exactly(peer, 2 * len(BIG))) == 2 * len(BIG)
        gevent.joinall([sender, second], raise_error=True, timeout=GUARD / 1000)
        assert not armed_timers(LIMIT)
        assert ours.try_send(BIG)
        with pytest.raises(gnet.TimeoutError):
            ours.flush(SOON)
        ours.close(timeout=SOON)
        assert not armed_timers(SOON)


def test_d16_accept_and_recv_from_leave_no_timer_however_they_end() -> None:
    with listening() as server, datagram_pair() as (ours, peer):
        for call in (server.accept, lambda timeout: ours.recv_from(9, timeout=timeout)):
            with pytest.raises(gnet.TimeoutError):
                call(timeout=SOON)
        assert not armed_timers(SOON)
        accepting = waiting(server.accept, timeout=LIMIT)
        receiving = waiting(ours.recv_from, 9, timeout=LIMIT)
        with socket.create_connection(server.get_local_addr()), accepting.get(timeout=GUARD / 1000):
            peer.send(b"datagram")
            receiving.get(timeout=GUARD / 1000)
        assert not armed_timers(LIMIT)


def test_d16_connecting_leaves_no_timer_however_it_ends() -> None:
    with black_hole() as hole, listener() as server:
        with pytest.raises(gnet.TimeoutError):
            gnet.dial(*hole, timeout=SOON)
        with gnet.new_socket() as ours, pytest.raises(gnet.TimeoutError):
            ours.connect(*hole, timeout=SOON)
        assert not armed_timers(SOON)
        with gnet.dial(*server.getsockname(), timeout=LIMIT), gnet.new_socket() as ours:
            ours.connect(*server.getsockname(), timeout=LIMIT)
            assert not armed_timers(LIMIT)
        for _ in range(2):
            server.accept()[0].close()


def test_d16_a_deadline_block_leaves_no_timer_however_it_ends() -> None:
    with gnet.deadline(LIMIT):
        assert armed_timers(LIMIT)
    with pytest.raises(ZeroDivisionError), gnet.deadline(LIMIT):
        raise ZeroDivisionError
    with pytest.raises(gnet.TimeoutError), gnet.deadline(SOON):
        Event().wait()
    assert not armed_timers(LIMIT) + armed_timers(SOON)


# D20: no call ever stops the hub, in a process where nothing is patched

_SLOW_LOOK_UPS: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <time.h>

/* Every look-up by the C library takes 600 ms and finds 127.0.0.1. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **)
        = dlsym(RTLD_NEXT, "getaddrinfo");
    struct timespec pause = {0, 600000000};
    nanosleep(&pause, 0);
    return real("127.0.0.1", service, hints, found);
}
"""

_EVERYTHING_AT_ONCE: Final = r"""
import sys, time
import gevent, gnet
from gevent import monkey, socket

assert not any(map(monkey.is_module_patched, ("socket", "select", "time", "threading", "ssl")))
WAIT = 600  # milliseconds that each call waits
worst = 0.0
done = []

def tick():
    global worst
    last = time.monotonic()
    while True:
        gevent.sleep(0.005)
        now = time.monotonic()
        worst = max(worst, now - last)
        last = now

def over(name, call, *arguments, **keywords):
    start = time.monotonic()
    try:
        call(*arguments, **keywords)
    except gnet.TimeoutError:
        pass
    assert time.monotonic() - start > 0.8 * WAIT / 1000, name + " did not wait"
    done.append(name)

def pair():
    left, right = socket.socketpair()
    return gnet.Socket.adopt(left), right

hole = socket.socket(); hole.bind(("127.0.0.1", 0)); hole.listen(0)
fillers = [socket.socket() for _ in range(4)]
for filler in fillers:
    filler.setblocking(False)
    filler.connect_ex(hole.getsockname())
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
port = server.getsockname()[1]
full = socket.socket(socket.AF_UNIX); full.bind(""); full.listen(0)
filler = socket.socket(socket.AF_UNIX); filler.connect(full.getsockname())
listener = gnet.new_socket(); listener.bind_addr(address="127.0.0.1"); listener.listen()
udp = gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP); udp.bind_addr(address="127.0.0.1")
BIG = b"x" * 8_000_000

def stuffed():
    ours, peer = pair()
    ours.try_send(BIG)
    ours.timeout = WAIT
    keep.append((ours, peer))
    return ours

def block():
    with gnet.deadline(WAIT):
        gevent.sleep(60)

keep = []
ends = {name: pair() for name in
        "recv read_line lines recv_some recv_exactly recv_until peek skip send blocked".split()}
of = {name: ours for name, (ours, peer) in ends.items()}
gevent.spawn(tick)
gevent.sleep(0.02)
jobs = [
    gevent.spawn(over, "recv", of["recv"].recv, 5, WAIT),
    gevent.spawn(over, "read_line", of["read_line"].read_line, WAIT),
    gevent.spawn(over, "lines", lambda: next(of["lines"].lines(timeout=WAIT))),
    gevent.spawn(over, "recv_some", of["recv_some"].recv_some, 5, WAIT),
    gevent.spawn(over, "recv_exactly", of["recv_exactly"].recv_exactly, 5, WAIT),
    gevent.spawn(over, "recv_until", of["recv_until"].recv_until, b"!", timeout=WAIT),
    gevent.spawn(over, "peek", of["peek"].peek, 5, WAIT),
    gevent.spawn(over, "skip", of["skip"].skip, 5, WAIT),
    gevent.spawn(over, "send", of["send"].send, BIG, timeout=WAIT),
    gevent.spawn(over, "flush", stuffed().flush),
    gevent.spawn(over, "shutdown", stuffed().shutdown, socket.SHUT_WR),
    gevent.spawn(over, "close", stuffed().close, timeout=WAIT),
    gevent.spawn(over, "accept", listener.accept, timeout=WAIT),
    gevent.spawn(over, "recv_from", udp.recv_from, 100, timeout=WAIT),
    gevent.spawn(over, "connect", gnet.new_socket().connect, *hole.getsockname(), timeout=WAIT),
    gevent.spawn(over, "dial", gnet.dial, *hole.getsockname(), timeout=WAIT),
    gevent.spawn(over, "connect_unix",
                 gnet.new_socket(gnet.AF_UNIX, protocol=0).connect_unix, full.getsockname(), WAIT),
    gevent.spawn(over, "deadline", block),
]
if sys.argv[1:] == ["slow"]:
    jobs += [
        gevent.spawn(over, "dial a name", gnet.dial, "somewhere.test", port),
        gevent.spawn(over, "connect to a name", gnet.new_socket().connect, "somewhere.test", port),
        gevent.spawn(over, "send_to a name", udp.send_to, "somewhere.test", port, b"data"),
        gevent.spawn(over, "bind to a name", gnet.new_socket().bind_addr, 0, "somewhere.test"),
    ]
gevent.joinall(jobs, raise_error=True)
assert len(done) == len(jobs)
print(round(worst * 1000))
"""


def _longest_standstill(*arguments: str, **environment: str) -> int:
    """Run every call that waits in a process without patches; give its hub's longest standstill in ms."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EVERYTHING_AT_ONCE, *arguments],
        cwd=_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


# A call that stops the hub stops it for the 600 ms that it waits.
_STANDSTILL: Final = 300


@pytest.mark.plain_only
def test_d20_no_call_stops_the_hub_of_an_unpatched_process() -> None:
    assert _longest_standstill() < _STANDSTILL


@pytest.mark.plain_only
def test_d20_no_look_up_stops_the_hub_of_an_unpatched_process(tmp_path: Path) -> None:
    source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(_SLOW_LOOK_UPS)
    gcc = require_program("gcc")
    subprocess.run([gcc, "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl"], check=True)
    assert _longest_standstill("slow", LD_PRELOAD=str(shim)) < _STANDSTILL
