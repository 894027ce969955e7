"""gnet.reading on real connections: what each read gives, keeps and leaves, buffered and unbuffered.

How bytes are cut into lines is `test_buffers.py`; different reads on one stream are `test_mixed_reads.py`,
interrupted ones `test_cancellation.py`; resets and other faults are `tests.faults`.
"""

from __future__ import annotations

import random
import socket as stdlib_socket  # for its constants
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
import pytest

import gnet
from gnet import ReadLineResult, SocketFlag
from gnet.reading import StreamReader
from gnet.writing import StreamWriter
from tests.faults.peers import ScriptedTransport, connection, elapsed, reset, wait_until
from tests.loopback import GUARD, LATE, SOON, buffering, send_in_pieces, view_of

PEEK = SocketFlag.PEEK

# What several calls give: lists of (call, result), the peer's bytes before and its end of stream behind.
Script = list[tuple[Callable[[gnet.Socket], Any], Any]]


def recv(size: int, **options: Any) -> Callable[[gnet.Socket], Any]:
    return lambda socket: socket.recv(size, **options)


def read_line(**options: Any) -> Callable[[gnet.Socket], Any]:
    return lambda socket: socket.read_line(**options)


def incomplete(call: Callable[[gnet.Socket], Any]) -> Callable[[gnet.Socket], Any]:
    """Make a call that is to end with an IncompleteReadError; give what is received and expected."""

    def check(socket: gnet.Socket) -> tuple[int, int | None]:
        with pytest.raises(
            gnet.IncompleteReadError, match=r"from 127\.0\.0\.1:\d+: the stream ended"
        ) as caught:
            call(socket)
        return caught.value.received, caught.value.expected

    return check


SCRIPTS: dict[str, tuple[bytes, Script]] = {
    "read_line ends a line at LF, CRLF and a lone CR": (
        b"lf\ncrlf\r\ncr\rlast\n",
        [(read_line(), line) for line in (b"lf", b"crlf", b"cr", b"last", b"", b"")],
    ),
    "read_line gives CRLF for a blank line and nothing at the end": (
        b"\n\r\n\r\r\n",
        [(read_line(), line) for line in (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"")],
    ),
    "read_line passes NULs and other bytes through": (
        b"\0\xff\xfe\x80\x0b\x0c\x1c\x85\n",
        [(read_line(), b"\0\xff\xfe\x80\x0b\x0c\x1c\x85")],
    ),
    "read_line ends a line at a CR at the end of the stream": (
        b"one\rtwo\r",
        [(read_line(), b"one"), (read_line(), b"two"), (read_line(), b"")],
    ),
    "read_line leaves an unfinished last line to recv": (
        b"one\ntail",
        [(read_line(), b"one"), (read_line(), b""), (read_line(), b""), (recv(4), b"tail"), (recv(4), b"")],
    ),
    "read_line gives a long line in parts of its limit": (
        b"123456789\n12345\nx\n",
        [
            *[(read_line(max_length=5), part) for part in (b"12345", b"6789", b"12345")],
            (read_line(max_length=0), b""),
            (read_line(max_length=1), b"x"),
        ],
    ),
    "recv_line is the same method": (b"one\n", [(lambda socket: socket.recv_line(), b"one")]),
    "recv_exactly takes what was asked for": (
        b"headerbody",
        [
            (lambda socket: socket.recv_exactly(6), b"header"),
            (lambda socket: socket.recv_exactly(0), b""),
            (lambda socket: socket.recv_exactly(4), b"body"),
        ],
    ),
    "recv_exactly takes nothing if the stream ends before": (
        b"short",
        [
            (incomplete(lambda socket: socket.recv_exactly(6)), (5, 6)),
            (lambda socket: socket.recv_exactly(5), b"short"),
            (incomplete(lambda socket: socket.recv_exactly(1)), (0, 1)),
        ],
    ),
    "recv_until takes the delimiter too": (
        b"GET / HTTP/1.1\r\n\r\nbody",
        [
            (lambda socket: socket.recv_until(b"\r\n\r\n"), b"GET / HTTP/1.1\r\n\r\n"),
            (incomplete(lambda socket: socket.recv_until(b"\r\n")), (4, None)),
            (lambda socket: socket.recv_until(b"y"), b"body"),
        ],
    ),
    "recv_until is content with just its limit": (
        b"1234;5678;",
        [(lambda socket: socket.recv_until(b";", max_length=5), part) for part in (b"1234;", b"5678;")],
    ),
    "recv_some gives at least a byte and b'' at the end": (
        b"a",
        [(lambda socket: socket.recv_some(100), b"a"), (lambda socket: socket.recv_some(100), b"")],
    ),
    "skip drops what was asked for, less at the end": (
        b"123456789",
        [
            (lambda socket: socket.skip(4), 4),
            (lambda socket: socket.skip(0), 0),
            (lambda socket: socket.recv_exactly(1), b"5"),
            (lambda socket: socket.skip(100), 4),
            (lambda socket: socket.skip(100), 0),
        ],
    ),
    "lines without terminators, a lone CR is data": (
        b"lf\ncrlf\r\n\r\na\rb\n\rc\r\r\n",
        [(list, [b"lf", b"crlf", b"", b"a\rb", b"\rc\r"])],
    ),
    "lines ending at a lone CR where that was asked for": (
        b"a\rb\n\r\r\nc\r",
        [(lambda socket: list(socket.lines(bare_cr=True)), [b"a", b"b", b"", b"", b"c"])],
    ),
    "lines of an empty stream": (b"", [(list, []), (read_line(), b""), (recv(1), b"")]),
    "lines ending in a line, whose bytes stay": (
        b"one\ntwo",
        [
            (lambda socket: next(socket.lines()), b"one"),
            (incomplete(lambda socket: next(socket.lines())), (3, None)),
            (recv(10), b"two"),
            (list, []),
        ],
    ),
    "nothing is asked for": (
        b"x",
        [(recv(0), b""), (lambda socket: socket.peek(0), b""), (lambda socket: socket.recv_exactly(1), b"x")],
    ),
}


@buffering
@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize(("wire", "script"), SCRIPTS.values(), ids=SCRIPTS)
def test_reads_do_not_depend_on_how_the_bytes_arrive(
    wire: bytes, script: Script, piece: int, buffered: bool
) -> None:
    with connection(buffered=buffered) as (ours, peer):

        def send() -> None:
            send_in_pieces(peer, [wire[start : start + piece] for start in range(0, len(wire), piece)])
            peer.shutdown(stdlib_socket.SHUT_WR)

        sender = gevent.spawn(send)
        assert [call(ours) for call, _ in script] == [result for _, result in script]
        sender.get(timeout=GUARD / 1000)


# recv


def test_a_buffered_recv_gives_all_that_was_asked_for_and_less_only_at_the_end() -> None:
    with connection() as (ours, peer):
        sender = gevent.spawn(send_in_pieces, peer, [b"1234"] * 3)
        assert ours.recv(10) == b"1234123412"
        sender.get()
        peer.close()
        assert [ours.recv(10), ours.recv(10)] == [b"34", b""]


def test_an_unbuffered_recv_gives_what_one_read_gives() -> None:
    # Recorded from Nim 1.6.10.
    with connection(buffered=False) as (ours, peer):
        peer.sendall(b"1234")
        assert ours.recv(10) == b"1234"
        peer.sendall(b"56789")
        assert [ours.recv(2), ours.recv(10, timeout=GUARD)] == [b"56", b"789"]


@buffering
def test_a_recv_of_much_more_than_the_kernel_holds_gives_it_all(buffered: bool) -> None:
    data = random.Random(1).randbytes(5_000_000)
    with connection(buffered=buffered) as (ours, peer):
        sender = gevent.spawn(peer.sendall, data)
        received = ours.recv(len(data)) if buffered else ours.recv_exactly(len(data))
        sender.get(timeout=GUARD / 1000)
        assert received == data


@buffering
def test_without_safe_disconn_a_reset_is_an_error_and_with_it_an_end(buffered: bool) -> None:
    for flags, ends in ((SocketFlag.SAFE_DISCONN, True), (SocketFlag(0), False)):
        with connection(buffered=buffered) as (ours, peer):
            peer.sendall(b"data")
            reset(peer)
            assert ours.recv(4, flags=flags) == b"data"
            for _ in range(2):
                if ends:
                    assert ours.recv(4, flags=flags) == b""
                else:
                    with pytest.raises(
                        ConnectionResetError, match=r"recv from 127\.0\.0\.1:\d+: Connection reset"
                    ):
                        ours.recv(4, flags=flags)


# recv_into


@buffering
def test_receiving_into_a_buffer_fills_it_or_as_much_as_was_asked_for(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"0123456789")
        with view_of(ours) as view:
            wait_until(lambda: len(view.recv(100, stdlib_socket.MSG_PEEK)) == 10, "all is here")
        array = bytearray(b"....")
        assert (ours.recv_into(array), array) == (4, b"0123")
        assert (ours.recv_into(array, 2), array) == (2, b"4523")
        assert (ours.recv_into(memoryview(array)[1:3]), array) == (2, b"4673")
        assert (ours.recv_into(array, flags=PEEK), array) == (2, b"8973")
        peer.close()
        assert (ours.recv_into(bytearray(2)), ours.recv_into(array), ours.recv_into(bytearray())) == (2, 0, 0)
        assert array == b"8973"


def test_a_recv_into_that_ends_too_soon_leaves_the_buffer_alone_and_the_bytes_to_the_next() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"part")
        array = bytearray(8)
        with pytest.raises(gnet.TimeoutError):
            ours.recv_into(array, timeout=SOON)
        assert array == bytes(8)
        peer.sendall(b"rest")
        assert (ours.recv_into(array), array) == (8, b"partrest")


# peek


@buffering
def test_a_look_gives_what_is_here_and_takes_nothing(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        waiting = gevent.spawn(ours.peek, 100)
        gevent.idle()
        peer.sendall(b"line\nmore")
        assert waiting.get(timeout=GUARD / 1000) == b"line\nmore"
        assert [
            ours.peek(2),
            ours.recv(3, flags=PEEK),
            ours.recv(3, GUARD, PEEK | SocketFlag.SAFE_DISCONN),
        ] == [
            b"li",
            b"lin",
            b"lin",
        ]
        assert [ours.read_line(), ours.peek(9), ours.recv_exactly(4)] == [b"line", b"more", b"more"]
        peer.close()
        assert [ours.peek(1), ours.recv(1, flags=PEEK)] == [b"", b""]


def test_a_look_sees_bytes_that_came_since_the_last_one() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"a")
        assert ours.peek(10) == b"a"
        peer.sendall(b"b")
        wait_until(lambda: ours.peek(10) == b"ab", "the second byte is here")


# What unbuffered sockets leave in the kernel


UNBUFFERED_READS: dict[str, tuple[Callable[[gnet.Socket], Any], bytes]] = {
    "lines": (lambda socket: next(socket.lines()), b"rest\r\n"),
    "lines at a lone CR": (lambda socket: next(socket.lines(bare_cr=True)), b"rest\r\n"),
    "peek": (lambda socket: socket.peek(3), b"line\r\nrest\r\n"),
    "read_line": (lambda socket: socket.read_line(), b"rest\r\n"),
    "read_line with a limit": (lambda socket: socket.read_line(max_length=2), b"ne\r\nrest\r\n"),
    "recv": (lambda socket: socket.recv(3), b"e\r\nrest\r\n"),
    "recv peeking": (lambda socket: socket.recv(3, flags=PEEK), b"line\r\nrest\r\n"),
    "recv_exactly": (lambda socket: socket.recv_exactly(3), b"e\r\nrest\r\n"),
    "recv_some": (lambda socket: socket.recv_some(3), b"e\r\nrest\r\n"),
    "recv_until": (lambda socket: socket.recv_until(b"\r\nr"), b"est\r\n"),
    "skip": (lambda socket: socket.skip(5), b"\nrest\r\n"),
    "try_read_line": (lambda socket: socket.try_read_line(), b"rest\r\n"),
}


@pytest.mark.parametrize(("read", "left"), UNBUFFERED_READS.values(), ids=UNBUFFERED_READS)
def test_an_unbuffered_socket_takes_no_byte_that_was_not_asked_for(
    read: Callable[[gnet.Socket], Any], left: bytes
) -> None:
    with connection(buffered=False) as (ours, peer):
        peer.sendall(b"line\r\nrest\r\n")
        with view_of(ours) as view:
            wait_until(lambda: len(view.recv(100, stdlib_socket.MSG_PEEK)) == 12, "all is here")
            read(ours)
            assert ours.has_data_buffered() is False
            assert view.recv(100) == left


def test_a_buffered_socket_reads_ahead_and_says_so() -> None:
    with connection() as (ours, peer):
        assert ours.has_data_buffered() is False
        peer.sendall(b"one\ntwo\n")
        assert (ours.read_line(), ours.has_data_buffered()) == (b"one", True)
        assert (ours.read_line(), ours.has_data_buffered()) == (b"two", False)


# read_line and the CR that may be half of a line end


@buffering
def test_a_line_that_ends_in_cr_is_not_lost_while_its_end_is_unclear(buffered: bool) -> None:
    # Nim loses the line here, and an LF that comes later gives a spurious blank one.
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"one\r")
        for timeout in (0, SOON):
            with pytest.raises(gnet.TimeoutError):
                ours.read_line(timeout)
        peer.sendall(b"\ntwo\r")
        assert ours.read_line() == b"one"
        peer.sendall(b"three\n")
        assert [ours.read_line(), ours.read_line()] == [b"two", b"three"]


# lines


@pytest.mark.parametrize("bare_cr", [False, True])
@buffering
def test_a_line_over_the_limit_ends_the_loop_and_the_stream(bare_cr: bool, buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        peer.sendall(b"12345\r\n123456\n12\n")
        lines = ours.lines(max_length=5, bare_cr=bare_cr)
        assert next(lines) == b"12345"
        with pytest.raises(
            gnet.LineTooLongError, match=r"lines from 127\.0\.0\.1:\d+: no line end"
        ) as caught:
            next(lines)
        assert caught.value.limit == 5
        assert list(lines) == []
        for read in (ours.read_line, lambda: ours.recv(1), lambda: ours.peek(1), ours.try_read_line):
            with pytest.raises(gnet.LineTooLongError, match="out of step"):
                read()


def test_a_loop_over_lines_has_a_limit_of_64_kib_unless_told_otherwise() -> None:
    with connection() as (ours, peer):
        sender = gevent.spawn(peer.sendall, b"a" * 65536 + b"\n" + b"b" * 65537 + b"\n")
        lines = iter(ours)
        assert next(lines) == b"a" * 65536
        with pytest.raises(gnet.LineTooLongError, match="limit 65536"):
            next(lines)
        sender.get(timeout=GUARD / 1000)


def test_a_delimiter_that_does_not_come_within_the_limit_ends_the_stream() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"12345;")
        with pytest.raises(gnet.LineTooLongError, match=r"recv_until from 127.*no b';'.*limit 5") as caught:
            ours.recv_until(b";", max_length=5)
        assert caught.value.limit == 5
        with pytest.raises(gnet.LineTooLongError, match="out of step"):
            ours.recv(1)


def test_other_reads_between_two_lines_take_over_where_the_loop_is() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"".join(b"%d\r\n" % number for number in range(8)) + b"16\rend")
        peer.close()
        lines = ours.lines()
        assert [next(lines), next(lines)] == [b"0", b"1"]
        assert (ours.recv(2), ours.read_line(), ours.read_line()) == (b"2\r", b"\r\n", b"3")
        assert next(lines) == b"4"
        assert (ours.peek(3), ours.try_read_line()) == (b"5\r\n", (ReadLineResult.FULL_LINE, b"5"))
        assert (next(lines), ours.skip(1), next(lines)) == (b"6", 1, b"")
        assert (ours.read_line(), ours.recv_until(b"d")) == (b"16", b"end")
        assert list(lines) == []


def test_the_timeout_of_a_loop_over_lines_is_for_each_line() -> None:
    with connection() as (ours, peer):
        stop = gevent.event.Event()

        def send() -> None:
            for _ in range(6):
                peer.sendall(b"line\n")
                gevent.sleep(0.05)
            stop.wait()

        sender = gevent.spawn(send)
        lines = ours.lines(timeout=250)
        assert [next(lines) for _ in range(6)] == [b"line"] * 6
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match=r"lines from 127.*within 250 ms"):
            next(lines)
        assert 200 <= taken() < 5 * 250
        stop.set()
        sender.get(timeout=GUARD / 1000)
        peer.sendall(b"late\n")
        assert next(ours.lines()) == b"late"


# try_read_line


@buffering
def test_trying_for_a_line_never_waits_and_never_takes_a_part(buffered: bool) -> None:
    with connection(buffered=buffered) as (ours, peer):
        assert ours.try_read_line() == (ReadLineResult.NONE, b"")
        peer.sendall(b"par")
        partial = (ReadLineResult.PARTIAL_LINE, b"par")
        wait_until(lambda: ours.try_read_line() == partial, "the part is here")
        assert ours.try_read_line() == partial
        peer.sendall(b"tial\n\nx")
        peer.close()
        wait_until(lambda: ours.try_read_line() == (ReadLineResult.FULL_LINE, b"partial"), "the line is here")
        assert ours.try_read_line() == (ReadLineResult.FULL_LINE, b"\r\n")
        wait_until(lambda: ours.try_read_line()[0] is ReadLineResult.DISCONNECTED, "the end is here")
        assert ours.try_read_line() == (ReadLineResult.DISCONNECTED, b"x")
        assert (ours.recv(1), ours.try_read_line()) == (b"x", (ReadLineResult.DISCONNECTED, b""))


def test_trying_for_a_line_gives_a_long_one_in_parts() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"12345\n")
        ours.peek(6)
        lines = [ours.try_read_line(max_length=3) for _ in range(2)]
        assert lines == [(ReadLineResult.FULL_LINE, b"123"), (ReadLineResult.FULL_LINE, b"45")]


# read_lines


BATCH = b"one\r\n\ntwo\n" + b"three\rfour\r\n" * 300 + b"x" * 3000 + b"\n\n"


@buffering
@pytest.mark.parametrize("most", [1, 2, 7, 512, 10_000])
def test_lines_in_batches_are_those_that_come_one_by_one(buffered: bool, most: int) -> None:
    with connection(buffered=buffered) as (ours, peer), connection(buffered=buffered) as (other, second):
        for end in (peer, second):
            end.sendall(BATCH + b"rest")
            end.close()
        one_by_one = list(iter(other.read_line, b""))
        batches = list(iter(lambda: ours.read_lines(most), []))
        assert [line for batch in batches for line in batch] == one_by_one
        assert max(map(len, batches)) <= most
        assert ours.recv(10) == b"rest"


def test_a_batch_waits_for_its_first_line_only_and_leaves_the_start_of_the_next() -> None:
    with connection() as (ours, peer):
        waiting = gevent.spawn(ours.read_lines)
        gevent.sleep(0)
        peer.sendall(b"one\ntwo\npar")
        assert waiting.get(timeout=GUARD / 1000) == [b"one", b"two"]
        with pytest.raises(gnet.TimeoutError):
            ours.read_lines(timeout=SOON)
        peer.sendall(b"tial\n")
        assert ours.read_lines(timeout=GUARD) == [b"partial"]


def test_lines_in_batches_come_in_parts_of_the_limit() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"12345\n1\n")
        ours.peek(8)
        assert ours.read_lines(max_length=3) == [b"123", b"45", b"1"]


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_batch_has_one_line_at_least(wrong: int) -> None:
    with connection() as (ours, _peer):
        with pytest.raises(ValueError, match="read_lines: most"):
            ours.read_lines(wrong)
        with pytest.raises(ValueError, match="read_lines: max_length"):
            ours.read_lines(max_length=wrong)


# Time


READS: dict[str, Callable[[gnet.Socket, Any], Any]] = {
    "lines": lambda socket, timeout: next(socket.lines(timeout=timeout)),
    "peek": lambda socket, timeout: socket.peek(1, timeout),
    "read_line": lambda socket, timeout: socket.read_line(timeout),
    "read_lines": lambda socket, timeout: socket.read_lines(timeout=timeout),
    "recv": lambda socket, timeout: socket.recv(1, timeout),
    "recv_exactly": lambda socket, timeout: socket.recv_exactly(1, timeout),
    "recv_some": lambda socket, timeout: socket.recv_some(1, timeout),
    "recv_until": lambda socket, timeout: socket.recv_until(b"\n", timeout=timeout),
    "skip": lambda socket, timeout: socket.skip(1, timeout),
}


@buffering
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_timeout_of_zero_gives_what_the_kernel_has_and_does_not_wait(
    read: Callable[[gnet.Socket, Any], Any], buffered: bool
) -> None:
    # Nim's 0 never looks into the kernel.
    with connection(buffered=buffered) as (ours, peer), view_of(ours) as view:
        with elapsed() as taken, pytest.raises(gnet.TimeoutError, match="not done within 0 ms"):
            read(ours, 0)
        assert taken() < LATE
        peer.sendall(b"\n")
        view.recv(1, stdlib_socket.MSG_PEEK)
        assert read(ours, 0) is not None


@pytest.mark.parametrize("name", READS)
def test_a_second_reader_is_refused_and_the_first_one_gets_the_data(name: str) -> None:
    with connection() as (ours, peer):
        first = gevent.spawn(ours.recv, 4)
        gevent.idle()
        peer.sendall(b"12")
        for second in (READS[name], lambda socket, _: socket.try_read_line()):
            with pytest.raises(gnet.BusyError, match=r"from 127\.0\.0\.1:\d+: another greenlet is already"):
                second(ours, GUARD)
        peer.sendall(b"34\n")
        assert first.get(timeout=GUARD / 1000) == b"1234"
        assert READS[name](ours, GUARD) is not None


def test_without_waiting_a_read_gets_megabytes_that_are_in_the_kernel() -> None:
    size = 8_324_000  # more than the largest buffer that a stock Linux allows
    transport = ScriptedTransport(gives=[bytes(size)])
    reader = StreamReader(transport, StreamWriter(transport))
    assert len(reader.recv(size, 0, True)) == size
