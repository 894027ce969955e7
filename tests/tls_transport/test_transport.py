"""The TLS transport over loopback: its waits, the order of its records, its ends."""

from __future__ import annotations

import fcntl
import gc
import itertools
import math
import random
import termios
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from OpenSSL import SSL

import gnet
from gnet.options import BUFFER_SIZE
from gnet.tls.contexts import Session
from tests.canceller import LIMIT, armed_timers
from tests.loopback import LATE, SOON
from tests.tls_transport.keys import HOST, client_context, openssl_context, server_context, stdlib_context
from tests.tls_transport.peers import (
    APPLICATION_DATA,
    CLOSE_NOTIFY,
    GUARD,
    LARGEST_RECORD,
    Peer,
    RecordPeer,
    at_once,
    before_handshake,
    error_of,
    plain_listener,
    reset,
    secure,
    tls_listener,
    wire,
    with_peer,
    with_record_peer,
)

pytestmark = pytest.mark.usefixtures("engine")

every_version = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
both_roles = pytest.mark.parametrize("server", [True, False], ids=["as server", "as client"])

PATTERN: Final = bytes(range(251))  # a prime length: no power of two can shift it without a trace
MEGABYTE: Final = (PATTERN * 4000)[:1_000_000]

SMALL: Final = 4096
"""SO_RCVBUF and SO_SNDBUF of connections on which writes get stuck soon."""


# Reading: what is here is read without waiting, whoever holds it


@every_version
@both_roles
def test_data_goes_both_ways(server: bool, version: str) -> None:
    with with_peer(server=server, version=version) as (ours, peer):
        assert ours.is_ssl()
        assert ours.got_handshake()
        peer.send(b"a line\nand a tail")
        assert ours.read_line() == b"a line"
        assert ours.recv(10) == b"and a tail"
        ours.send(b"an answer")
        assert peer.recv_exactly(9) == b"an answer"
        peer.close_notify()
        assert ours.read_line() == b""
        assert ours.recv(10) == b""


def test_lines_of_one_record_are_read_without_waiting() -> None:
    with with_peer() as (ours, peer):
        peer.send(b"one\ntwo\nthree\n")
        assert ours.read_line() == b"one"
        assert ours.has_data_buffered()
        assert ours.read_line(timeout=0) == b"two"
        assert ours.read_line(timeout=0) == b"three"
        assert not ours.has_data_buffered()


def test_the_rest_of_a_large_record_is_read_without_waiting() -> None:
    with with_peer() as (ours, peer):
        peer.send(MEGABYTE[:16_000])
        first = ours.recv_some(10)
        assert ours.recv(16_000 - len(first), timeout=0) == MEGABYTE[len(first) : 16_000]


def test_what_openssl_holds_counts_as_buffered() -> None:
    with with_peer() as (ours, peer):
        peer.send(bytes(16_000))
        received = len(ours.recv_some(BUFFER_SIZE))
        while received < 16_000:
            assert ours.has_data_buffered(), f"{received} of 16000 bytes read"
            received += len(ours.recv_some(BUFFER_SIZE, timeout=0))
        assert not ours.has_data_buffered()


def test_records_that_came_together_are_read_without_waiting() -> None:
    with with_record_peer() as (ours, peer):
        peer.send(*(peer.data(b"line %03d\n" % number) for number in range(300)))
        assert ours.read_line() == b"line 000"
        assert [ours.read_line(timeout=0) for _ in range(299)] == [b"line %03d" % n for n in range(1, 300)]


# The middle ones come to just what is taken from the kernel at once.
@pytest.mark.parametrize(("size", "count"), [(9, 300), (1002, 4), (2026, 2), (2026, 6), (2027, 50)])
def test_records_that_were_taken_from_the_kernel_count_as_buffered(size: int, count: int) -> None:
    # A program that asks the kernel for readiness, and not gnet, would wait for what is here already.
    with with_record_peer() as (ours, peer):
        peer.send(*(peer.data(bytes(size - 1) + b"\n") for _ in range(count)))
        for number in range(1, count + 1):
            assert ours.read_line(timeout=GUARD) == bytes(size - 1)
            here = ours.has_data_buffered() or is_readable(ours)
            assert here == (number < count), f"after line {number} of {count}"


def is_readable(ours: gnet.Socket) -> bool:
    """Whether the kernel has something for a socket."""
    return any(fcntl.ioctl(ours.fileno(), termios.FIONREAD, bytes(4)))


@every_version
def test_a_record_cut_at_any_byte_waits_for_its_rest_and_loses_nothing(version: str) -> None:
    with with_peer(version=version) as (ours, peer):
        first = peer.encrypt(b"message 00000")
        peer.socket.sendall(first)
        assert ours.recv(13) == b"message 00000"
        for at in range(1, len(first)):
            record = peer.encrypt(b"message %05d" % at)
            peer.socket.sendall(record[:at])
            with pytest.raises(gnet.TimeoutError):
                ours.recv(13, timeout=0)
            reading = gevent.spawn(ours.recv, 13)
            gevent.sleep(0)
            peer.socket.sendall(record[at:])
            assert reading.get() == b"message %05d" % at


SILENT_RECORDS: Final[dict[str, Callable[[RecordPeer], list[bytes]]]] = {
    "ticket": lambda peer: [peer.ticket()],
    "key update": lambda peer: [peer.key_update(request=False)],
    "key update, requested": lambda peer: [peer.key_update(request=True)],
    "empty": lambda peer: [peer.data(b"")],
    "several": lambda peer: [peer.ticket(), peer.key_update(request=True), peer.data(b""), peer.ticket()],
}


@pytest.mark.parametrize("kind", SILENT_RECORDS)
def test_a_record_without_data_neither_ends_a_read_nor_holds_it_up(kind: str) -> None:
    with with_record_peer(server=False) as (ours, peer):
        peer.send(*SILENT_RECORDS[kind](peer))
        with pytest.raises(gnet.TimeoutError):
            ours.recv_some(10, timeout=SOON)
        assert ours.try_read_line() == (gnet.ReadLineResult.NONE, b"")
        reading = gevent.spawn(ours.read_line)
        gevent.sleep(0)
        peer.send(*SILENT_RECORDS[kind](peer))
        peer.send(*SILENT_RECORDS[kind](peer), peer.data(b"a li"), *SILENT_RECORDS[kind](peer))
        peer.send(peer.data(b"ne\n"), *SILENT_RECORDS[kind](peer), peer.data(b"last"))
        assert reading.get() == b"a line"
        assert ours.recv(4) == b"last"


def test_an_error_behind_data_is_raised_without_waiting() -> None:
    with with_record_peer() as (ours, peer):
        good, bad = peer.data(b"good"), bytearray(peer.data(b"bad"))
        bad[-1] ^= 1
        reading = gevent.spawn(ours.recv_some, 100)
        gevent.sleep(0)
        peer.send(good, bytes(bad))
        assert reading.get() == b"good"
        with pytest.raises(gnet.SslError, match="bad record mac"):
            ours.recv_some(100, timeout=0)


def test_an_error_stays_whatever_is_called() -> None:
    with with_record_peer() as (ours, peer):
        peer.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        calls: list[Callable[[], object]] = [
            lambda: ours.recv(1),
            ours.read_line,
            lambda: next(ours.lines()),
            lambda: ours.recv_exactly(3),
            lambda: ours.send(b"x"),
            ours.do_handshake,
            lambda: ours.recv(1),
        ]
        for call in calls:
            with pytest.raises(gnet.SslError, match="bad record mac"):
                call()
        assert not ours.try_send(b"x")


def test_the_cause_of_an_error_is_another_error() -> None:
    with with_record_peer() as (ours, peer):
        peer.socket.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        seen: list[BaseException] = []
        error: BaseException | None = error_of(ours.recv, 1)
        while error is not None:
            assert not any(error is one for one in seen), f"{error!r} is its own cause"
            seen.append(error)
            error = error.__cause__


def test_unbuffered_reads_give_the_stream_or_say_that_they_can_not() -> None:
    with tls_listener() as listener:
        address = listener.get_local_addr()
        context = client_context()
        client, ours = at_once(
            lambda: shaken(listener.accept()),
            lambda: gnet.dial(*address, buffered=False, ssl_context=context, timeout=GUARD),
        )
        with client, ours:
            client.send(b"a line\nand more")
            line: object
            try:
                line = ours.read_line(timeout=GUARD)
            except gnet.SslError as error:
                line = str(error)
            assert line == b"a line" or "unbuffered" in str(line)


def shaken(accepted: gnet.Socket) -> gnet.Socket:
    accepted.do_handshake(timeout=GUARD)
    return accepted


# Two directions at once


def test_one_greenlet_reads_while_another_writes_and_the_peer_changes_keys() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):

        def send() -> None:
            for number, at in enumerate(range(0, len(MEGABYTE), 5000)):
                updates = [peer.key_update(request=number % 2 == 0)] if number % 3 == 0 else []
                peer.send(*updates, peer.data(MEGABYTE[at : at + 5000]))

        received = at_once(
            lambda: ours.recv_exactly(len(MEGABYTE)),
            lambda: ours.send(MEGABYTE),
            send,
            lambda: peer.receive_data(len(MEGABYTE)),
        )
        assert received == [MEGABYTE, None, None, MEGABYTE]
        assert peer.key_updates() > 0


def test_a_reader_goes_on_while_a_writer_waits_for_a_peer_that_answers_at_length() -> None:
    # Such a peer reads a request and writes a long answer, and reads nothing more until that is out.
    requests, factor = 32, 30
    with with_peer(buffers=16384) as (ours, peer):

        def answer() -> None:
            for _ in range(requests):
                peer.send(peer.recv_exactly(10_000) * factor)

        size = requests * 10_000 * factor
        _, _, received = at_once(answer, lambda: ours.send(bytes(requests * 10_000)), lambda: ours.recv(size))
        assert len(received) == size


def test_a_reader_is_told_when_a_writer_finds_the_connection_gone() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        writing = gevent.spawn(error_of, ours.send, MEGABYTE)
        with pytest.raises(gnet.TimeoutError):
            ours.recv(1, timeout=SOON)  # by then the writer has filled all buffers there are
        reading = gevent.spawn(error_of, ours.recv, 1)
        gevent.sleep(0)
        reset(peer.socket)
        assert isinstance(writing.get(timeout=GUARD / 1000), OSError)
        with gevent.Timeout(5, AssertionError("the reader still waits")):
            assert isinstance(reading.get(), gnet.SslError)


def test_messages_of_several_greenlets_come_whole_and_their_records_in_order() -> None:
    # A record out of order could not be opened.
    sizes = random.Random(4).choices([1, 30, 1000, 5000, 16_384, 16_385, 70_000], k=60)
    messages = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
    with with_record_peer(buffers=SMALL) as (ours, peer):

        def send(share: list[bytes]) -> None:
            for message in share:
                ours.send(message)

        def ask_for_keys() -> None:
            for _ in range(40):
                peer.send(peer.key_update(request=True), peer.data(b"x"))

        at_once(
            *(lambda share=messages[nth::6]: send(share) for nth in range(6)),
            ask_for_keys,
            lambda: ours.recv_exactly(40),
            lambda: peer.receive_data(sum(sizes)),
        )
        came = [bytes(group) for _, group in itertools.groupby(peer.received())]
        assert sorted(came) == messages
        assert peer.key_updates() > 0


def test_a_second_reader_is_told_so_and_close_wakes_the_first() -> None:
    with with_peer() as (ours, _):
        reading = gevent.spawn(error_of, ours.recv, 1)
        gevent.sleep(0)
        with pytest.raises(gnet.BusyError):
            ours.recv(1)
        ours.close()
        assert isinstance(reading.get(timeout=1), gnet.ClosedError)


# The handshake


@pytest.mark.parametrize("order", list(itertools.permutations(["read", "write", "handshake"])))
def test_whoever_comes_first_makes_the_handshake(order: tuple[str, ...]) -> None:
    with before_handshake() as (ours, peer):
        calls: dict[str, Callable[[], Any]] = {
            "read": ours.read_line,
            "write": lambda: ours.send(b"banner"),
            "handshake": ours.do_handshake,
        }
        greenlets = {name: gevent.spawn(calls[name]) for name in order}
        gevent.sleep(0)
        assert not ours.got_handshake()
        peer.handshake()
        assert peer.recv_exactly(6) == b"banner"
        peer.send(b"a line\n")
        gevent.joinall(greenlets.values(), timeout=GUARD / 1000, raise_error=True)
        assert greenlets["read"].get(block=False) == b"a line"
        assert ours.got_handshake()


@pytest.mark.parametrize("killed", ["reader", "writer"])
def test_a_killed_greenlet_leaves_the_handshake_to_the_other(killed: str) -> None:
    with before_handshake() as (ours, peer):
        greenlets = {"reader": gevent.spawn(ours.read_line), "writer": gevent.spawn(ours.send, b"banner")}
        gevent.sleep(0)
        greenlets.pop(killed).kill()
        peer.handshake()
        if killed == "writer":
            peer.send(b"a line\n")
            assert greenlets["reader"].get(timeout=GUARD / 1000) == b"a line"
        else:
            assert peer.recv_exactly(6) == b"banner"


def test_close_wakes_all_who_wait_in_the_handshake() -> None:
    with before_handshake() as (ours, _):
        calls: list[Callable[[], object]] = [ours.read_line, lambda: ours.send(b"x"), ours.do_handshake]
        greenlets = [gevent.spawn(error_of, call) for call in calls]
        gevent.sleep(0)
        ours.close()
        gevent.joinall(greenlets, timeout=1)
        assert [type(greenlet.value) for greenlet in greenlets] == [gnet.ClosedError] * 3


def test_a_handshake_that_timed_out_can_be_gone_on_with() -> None:
    with before_handshake() as (ours, peer):
        with pytest.raises(gnet.TimeoutError, match="handshake"):
            ours.do_handshake(timeout=SOON)
        with suppress(SSL.WantReadError):
            peer.connection.do_handshake()
        peer.flush()
        with pytest.raises(gnet.TimeoutError, match="handshake"):
            ours.do_handshake(timeout=SOON)
        at_once(ours.do_handshake, peer.handshake)
        ours.send(b"hello")
        assert peer.recv_exactly(5) == b"hello"


def test_data_that_came_with_the_handshake_is_found_by_the_reader_that_waits() -> None:
    # The writer takes it in, all of it, before the loop tells the reader that something is there.
    with before_handshake() as (ours, peer):
        reading = gevent.spawn(ours.recv_some, 100)
        last_flight = peer.handshake_but_for_last_flight()
        peer.socket.sendall(last_flight + peer.encrypt(b"hello"))
        ours.send(b"banner")
        with gevent.Timeout(5, AssertionError("the reader waits for what is here already")):
            assert reading.get() == b"hello"


def test_data_that_came_with_the_handshake_is_found_by_the_next_read() -> None:
    with before_handshake() as (ours, peer):
        with pytest.raises(gnet.TimeoutError):
            ours.recv_some(100, timeout=SOON)
        handshake = gevent.spawn(ours.do_handshake)
        last_flight = peer.handshake_but_for_last_flight()
        peer.socket.sendall(last_flight + peer.encrypt(b"hello"))
        handshake.get()
        with gevent.Timeout(5, AssertionError("the read waits for what is here already")):
            assert ours.recv_some(100) == b"hello"


def test_a_peer_that_is_refused_after_the_handshake_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some checks (pre-shared keys among them) can be made only when the handshake is complete.
    def refuse(_: Session) -> None:
        raise gnet.SslError("not who it should be")

    monkeypatch.setattr(Session, "handshake_done", refuse)
    with before_handshake() as (ours, peer):
        theirs = gevent.spawn(peer.handshake)
        with pytest.raises(gnet.SslError, match="not who it should be"):
            ours.do_handshake()
        theirs.get()
        peer.send(b"trust me\n")
        for call in (lambda: ours.send(b"secret"), ours.read_line, ours.do_handshake):
            with pytest.raises(gnet.SslError, match="not who it should be"):
                call()


def test_a_handshake_that_fails_at_its_deadline_names_the_peer_and_closes() -> None:
    # What came at the last moment is looked at, and here it is no TLS at all.
    with plain_listener() as listener:
        context = client_context()
        dialling = gevent.spawn(
            error_of, lambda: gnet.dial(*listener.getsockname(), timeout=LIMIT, ssl_context=context)
        )
        with listener.accept()[0] as other:
            other.settimeout(GUARD / 1000)
            assert other.recv(1 << 16)
            other.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            (deadline,) = armed_timers(LIMIT)
            gevent.get_hub().loop.run_callback(dialling.throw, deadline)
            error = dialling.get()
            assert HOST in str(error)
            other.settimeout(1)
            while other.recv(1 << 16):  # a timeout: it is still open
                pass


# Writing


def test_a_large_message_goes_in_full_records() -> None:
    with with_record_peer() as (ours, peer):
        _, received = at_once(lambda: ours.send(MEGABYTE), lambda: peer.receive_data(len(MEGABYTE)))
        assert received == MEGABYTE
        sizes = [len(content) for kind, content in peer.records if kind == APPLICATION_DATA]
        assert len(sizes) == math.ceil(len(MEGABYTE) / LARGEST_RECORD)


def test_coalesced_answers_go_in_full_records() -> None:
    answer = b"+" + bytes(97) + b"\r\n"
    with with_record_peer() as (ours, peer):
        ours.coalesce = True

        def serve() -> None:
            for _ in ours.lines():
                ours.send(answer)

        serving = gevent.spawn(serve)
        peer.send(*(peer.data(b"PING\r\n" * 2500) for _ in range(4)))
        total = 10_000 * len(answer)
        peer.receive_data(total)
        sizes = [len(content) for kind, content in peer.records if kind == APPLICATION_DATA]
        assert sum(sizes) == total
        # A visit to the loop, every few hundred lines, ends a batch, and with it a record.
        assert len(sizes) < 2 * total / LARGEST_RECORD
        serving.kill()


@every_version
def test_what_try_send_took_follows_by_itself(version: str) -> None:
    with with_peer(version=version, buffers=SMALL) as (ours, peer):
        taken = 0
        while taken < len(MEGABYTE) and ours.try_send(MEGABYTE[taken : taken + 10_000]):
            taken += 10_000
        assert 0 < taken < len(MEGABYTE), "the kernel took all of it"
        assert peer.recv_exactly(taken) == MEGABYTE[:taken]
        assert ours.try_send(b"more")
        assert peer.recv_exactly(4) == b"more"


def test_a_send_that_is_cut_breaks_the_write_side_and_the_peer_has_what_it_says() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        with pytest.raises(gnet.TimeoutError) as cut:
            ours.send(MEGABYTE, timeout=SOON)
        sent = cut.value.bytes_sent
        assert 0 < sent < len(MEGABYTE)
        with pytest.raises(gnet.BrokenSendError, match=str(sent)) as broken:
            ours.send(b"later")
        assert broken.value.bytes_sent == sent
        assert not ours.try_send(b"later")
        assert peer.receive_data(sent) == MEGABYTE[:sent]
        peer.send(peer.data(b"still here"))
        assert ours.recv(10) == b"still here"
        ours.close()
        with pytest.raises(ConnectionResetError):  # and no orderly end
            peer.receive()


def test_a_send_to_a_peer_that_is_gone_names_it_and_counts() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        writing = gevent.spawn(error_of, ours.send, MEGABYTE)
        with pytest.raises(gnet.TimeoutError):
            ours.recv(1, timeout=SOON)
        reset(peer.socket)
        error = writing.get(timeout=GUARD / 1000)
        assert isinstance(error, OSError)
        assert "send to 127.0.0.1" in str(error)
        assert 0 < getattr(error, "bytes_sent", 0) < len(MEGABYTE)
        with pytest.raises(gnet.BrokenSendError) as broken:
            ours.send(b"later")
        assert "None" not in str(broken.value)


@pytest.mark.parametrize("size", [50_000, 200_000])
def test_flush_waits_for_the_ciphertext(size: int) -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        assert ours.try_send(MEGABYTE[:size])
        with pytest.raises(gnet.TimeoutError):
            ours.flush(timeout=SOON)
        _, received = at_once(ours.flush, lambda: peer.receive_data(size))
        assert received == MEGABYTE[:size]


def test_the_end_of_the_stream_follows_what_is_still_to_be_sent() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        assert ours.try_send(MEGABYTE[:50_000])
        ours.timeout = SOON
        with suppress(gnet.TimeoutError):
            ours.shutdown(socket.SHUT_WR)
        ours.timeout = GUARD
        at_once(lambda: ours.shutdown(socket.SHUT_WR), lambda: peer.receive_until(lambda _: False))
        assert peer.received() == MEGABYTE[:50_000]
        assert peer.records[-1] == CLOSE_NOTIFY


# The end of the stream


def accept_and_read(listener: Any) -> bytes:
    """Serve one client with the stdlib's ssl: all that it sends up to its close_notify."""
    connection = listener.accept()[0]
    try:
        connection.do_handshake()
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        connection.close()


@pytest.fixture
def stdlib_listener() -> Iterator[Any]:
    with socket.socket() as plain:
        plain.bind((HOST, 0))
        plain.listen()
        with stdlib_context(server=True).wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        ) as listener:
            yield listener


def test_a_client_that_closes_without_ever_having_read_loses_nothing(stdlib_listener: Any) -> None:
    reading = gevent.spawn(accept_and_read, stdlib_listener)
    with gnet.dial(*stdlib_listener.getsockname(), ssl_context=client_context(), timeout=GUARD) as ours:
        ours.send(MEGABYTE, timeout=GUARD)
    assert reading.get(timeout=GUARD / 1000) == MEGABYTE


@pytest.mark.parametrize("timeout", [0, SOON])
def test_a_client_that_never_read_loses_nothing_to_a_server_that_is_late(timeout: int) -> None:
    # All of it is in the kernel's hands, and the tickets are here, when the time of close is over.
    with with_peer(server=False) as (ours, peer):
        ours.send(MEGABYTE)
        ours.close(timeout=timeout)
        assert peer.recv_all() == MEGABYTE


def test_a_client_that_has_read_does_not_wait_for_the_peers_end() -> None:
    with with_peer(server=False) as (ours, peer):
        peer.send(b"hello")
        assert ours.recv(5) == b"hello"
        ours.send(b"bye")
        start = time.monotonic()
        ours.close(timeout=GUARD)
        assert time.monotonic() - start < 5
        assert peer.recv_all() == b"bye"


@both_roles
def test_tls_1_3_half_closes(server: bool) -> None:
    with with_peer(server=server) as (ours, peer):
        ours.send(b"the question")
        ours.shutdown(socket.SHUT_WR)
        assert peer.recv_all() == b"the question"
        peer.send(b"the answer")
        assert ours.recv(10) == b"the answer"
        peer.close_notify()
        assert ours.recv(10) == b""
        with pytest.raises(BrokenPipeError):
            ours.send(b"more")


def test_after_a_half_close_key_updates_are_read_over() -> None:
    with with_record_peer() as (ours, peer):
        ours.shutdown(socket.SHUT_WR)
        peer.send(peer.data(b"a"), peer.key_update(request=True), peer.data(b"b"))
        assert ours.recv(2) == b"ab"
        peer.send(peer.close_notify())
        assert ours.recv(1) == b""
        peer.receive_until(lambda _: False)
        assert peer.records[-1] == CLOSE_NOTIFY


def test_tls_1_2_refuses_to_half_close_and_goes_on() -> None:
    with with_peer(version="TLSv1.2") as (ours, peer):
        with pytest.raises(gnet.SslError, match=r"TLS 1\.3"):
            ours.shutdown(socket.SHUT_WR)
        ours.send(b"still here")
        assert peer.recv_exactly(10) == b"still here"
        peer.send(b"so am I")
        assert ours.recv(7) == b"so am I"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_the_read_side_ends_behind_what_has_arrived(version: str) -> None:
    with with_peer(version=version) as (ours, peer):
        peer.send(b"in time")
        assert ours.recv(3) == b"in "
        ours.shutdown(socket.SHUT_RD)
        assert ours.recv(10) == b"time"
        assert ours.recv(10) == b""
        ours.send(b"still here")
        assert peer.recv_exactly(10) == b"still here"


def test_the_end_of_the_read_side_wakes_its_reader() -> None:
    with with_peer() as (ours, _):
        reading = gevent.spawn(list, ours.lines())
        gevent.sleep(0)
        ours.shutdown(socket.SHUT_RD)
        assert reading.get(timeout=GUARD / 1000) == []


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_both_directions_end_at_once(version: str) -> None:
    with with_peer(version=version) as (ours, peer):
        ours.send(b"bye")
        ours.shutdown(socket.SHUT_RDWR)
        assert peer.recv_all() == b"bye"
        assert ours.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            ours.send(b"more")


def test_there_is_nothing_to_shut_down_before_the_handshake() -> None:
    with before_handshake() as (ours, _), pytest.raises(gnet.SslError, match="handshake"):
        ours.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("shut_before", [False, True])
def test_close_sends_close_notify_once(shut_before: bool) -> None:
    with with_record_peer() as (ours, peer):
        ours.send(b"bye")
        if shut_before:
            ours.shutdown(socket.SHUT_WR)
        ours.close()
        ours.close()
        peer.receive_until(lambda _: False)
        assert peer.records[-2:] == [(APPLICATION_DATA, b"bye"), CLOSE_NOTIFY]
        assert peer.records.count(CLOSE_NOTIFY) == 1


def test_close_does_not_wait_for_a_peer_that_does_not_read() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        assert ours.try_send(MEGABYTE[:200_000])
        start = time.monotonic()
        ours.close(timeout=SOON)
        assert (time.monotonic() - start) * 1000 < LATE
        with pytest.raises(ConnectionResetError):
            peer.receive_until(lambda _: False)
        assert CLOSE_NOTIFY not in peer.records


def test_close_waits_for_a_peer_that_is_slow() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        assert ours.try_send(MEGABYTE[:200_000])
        at_once(lambda: ours.close(timeout=GUARD), lambda: peer.receive_until(lambda _: False))
        assert peer.received() == MEGABYTE[:200_000]
        assert peer.records[-1] == CLOSE_NOTIFY


def test_a_truncated_stream_is_an_end_where_the_context_allows_it() -> None:
    with with_record_peer(context=server_context(allow_truncated=True)) as (ours, peer):
        peer.send(peer.data(b"a line\nand a tail"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert ours.read_line() == b"a line"
        assert ours.recv(100) == b"and a tail"
        assert ours.recv(100) == b""
    with with_record_peer(context=server_context(allow_truncated=True)) as (ours, peer):
        reset(peer.socket)
        with pytest.raises(gnet.SslError):
            ours.recv(100)


def test_behind_an_end_that_the_context_allows_answers_can_be_sent() -> None:
    with with_record_peer(context=server_context(allow_truncated=True)) as (ours, peer):
        peer.send(peer.data(b"question"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert ours.recv(100) == b"question"
        ours.send(b"answer")
        ours.close()
        peer.receive_until(lambda _: False)
        assert peer.received() == b"answer"
        assert peer.records[-1] == CLOSE_NOTIFY


def test_asking_for_the_sockets_error_does_not_make_an_end_of_a_reset() -> None:
    with with_record_peer() as (ours, peer):
        ours.timeout = GUARD
        reset(peer.socket)
        with gevent.Timeout(GUARD / 1000):
            while not error_code(ours):
                gevent.sleep(0.001)
        with pytest.raises(gnet.SslError):
            ours.recv(10)


def error_code(ours: gnet.Socket) -> int:
    with suppress(OSError):  # there is none yet
        return ours.get_socket_error()
    return 0


# Becoming TLS


def test_bytes_that_came_in_clear_before_starttls_are_an_error() -> None:
    with wire() as (ours, other):
        other.sendall(b"STARTTLS\r\nQUIT\r\n")
        assert ours.read_line() == b"STARTTLS"
        with pytest.raises(gnet.SslError, match="in clear"):
            secure(ours, server=True)


def test_clear_bytes_in_the_kernel_are_no_part_of_the_handshake() -> None:
    with wire() as (ours, other):
        other.sendall(b"STARTTLS\r\n")
        assert ours.read_line() == b"STARTTLS"
        other.sendall(b"QUIT\r\n")
        with pytest.raises(gnet.SslError):
            secure(ours, server=True)
        with pytest.raises(gnet.SslError):
            ours.read_line()


def test_what_was_queued_before_starttls_goes_in_clear() -> None:
    context = server_context()
    with wire() as (ours, other):
        reading = gevent.spawn(other.recv, 100)
        ours.coalesce = True
        other.sendall(b"HELLO\r\nSTARTTLS\r\n")
        assert ours.read_line() == b"HELLO"
        ours.send(b"250 hello\r\n")  # waits, as the next line is here already
        assert ours.read_line() == b"STARTTLS"
        with pytest.raises(gnet.TimeoutError):  # the client says nothing
            context.wrap_connected_socket(ours, gnet.SslHandshakeType.AS_SERVER, timeout=SOON)
        with gevent.Timeout(1, AssertionError("what was sent in clear does not come")):
            assert reading.get() == b"250 hello\r\n"


def test_starttls_over_a_unix_socket() -> None:
    left, right = socket.socketpair()
    with gnet.Socket.adopt(left) as ours, Peer(right, openssl_context(server=False), server=False) as peer:
        ours.timeout = GUARD
        at_once(lambda: secure(ours, server=True), peer.handshake)
        ours.send(b"hello")
        assert peer.recv_exactly(5) == b"hello"


def test_a_wrapped_unix_socket_never_sends_in_clear(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        with gnet.new_socket(gnet.AF_UNIX, gnet.SOCK_STREAM, gnet.IPPROTO_IP) as ours:
            client_context().wrap_socket(ours)
            # It does not know whom to expect: a refusal is a good answer, a handshake would be another one.
            with suppress(OSError, ValueError):
                ours.connect_unix(path, timeout=SOON)
            with suppress(OSError, ValueError):
                ours.send(b"secret", timeout=SOON)
            assert b"secret" not in all_that_came(listener)


def all_that_came(listener: socket.socket) -> bytes:
    """Accept the connection that is waiting, if there is one, and give what is here of its data."""
    listener.setblocking(False)
    try:
        with listener.accept()[0] as other:
            other.setblocking(False)
            return bytes(other.recv(1 << 16))
    except BlockingIOError:
        return b""


def test_the_descriptor_of_a_tls_socket_is_not_given_away() -> None:
    with with_peer() as (ours, peer):
        with pytest.raises(ValueError, match="TLS"):
            ours.detach()
        ours.send(b"still here")
        assert peer.recv_exactly(10) == b"still here"


def dropped(listener: Any, other: socket.socket, *, sending: bool) -> None:
    """Make a gnet socket, and its handshake with `other`, and let go of it."""
    ours = gnet.Socket.adopt(listener.accept()[0])
    at_once(lambda: secure(ours, server=True), RecordPeer(other, server=False).handshake)
    while sending and ours.try_send(MEGABYTE):
        pass


@pytest.mark.parametrize("sending", [False, True], ids=["at rest", "with something to send"])
def test_a_tls_socket_that_is_dropped_unclosed_is_collected_with_a_warning(sending: bool) -> None:
    with (
        plain_listener() as listener,
        socket.create_connection(listener.getsockname()) as other,
    ):
        other.settimeout(GUARD / 1000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dropped(listener, other, sending=sending)
            gc.collect()
        assert any("unclosed" in str(warning.message) for warning in caught)
        with suppress(ConnectionResetError):
            while other.recv(1 << 16):
                pass
