"""gnet.reading on real connections: different reads on one stream, in any order, lose and repeat nothing."""

from __future__ import annotations

import random
import socket as stdlib_socket  # for its constants
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

import gnet
from gnet import ReadLineResult
from tests.faults.peers import connection
from tests.loopback import GUARD, SOON, buffering, send_in_pieces


def ended_early(call: Callable[[], Any]) -> int:
    """Make a call that is to end with an IncompleteReadError; give how many bytes it says are here."""
    with pytest.raises(gnet.IncompleteReadError) as caught:
        call()
    return caught.value.received


def next_nim_line(stream: bytes) -> tuple[bytes, bytes] | None:
    """Give the first line by Nim's rules and the rest of a whole stream; `None` if there is no line end."""
    for position, byte in enumerate(stream):
        if byte in b"\r\n":
            behind = position + 1 + (stream[position : position + 2] == b"\r\n")
            return stream[:position] or b"\r\n", stream[behind:]
    return None


def next_python_line(stream: bytes) -> tuple[bytes, bytes] | None:
    """The same for lines that end with LF or CRLF."""
    line, line_end, rest = stream.partition(b"\n")
    return (line.removesuffix(b"\r"), rest) if line_end else None


def read_somehow(socket: gnet.Socket, stream: bytes, dice: random.Random) -> bytes:
    """Make one read of a socket whose stream goes on with `stream`, check it, give what comes then."""
    match dice.randrange(9):
        case 0:
            size = dice.choice([1, 3, 50, 3000])
            data = socket.recv(size)
            assert stream.startswith(data)
            assert data or not stream
            return stream[len(data) :]
        case 1 | 2:
            found = next_nim_line(stream)
            assert socket.read_line() == (found[0] if found else b"")
            return found[1] if found else stream
        case 3:
            size = dice.choice([1, 4, 100])
            if len(stream) < size:
                assert ended_early(lambda: socket.recv_exactly(size)) == len(stream)
                return stream
            assert socket.recv_exactly(size) == stream[:size]
            return stream[size:]
        case 4:
            delimiter = dice.choice([b"\n", b"\r\n", b"b\r\n"])
            head, found_it, rest = stream.partition(delimiter)
            if not found_it:
                assert ended_early(lambda: socket.recv_until(delimiter)) == len(stream)
                return stream
            assert socket.recv_until(delimiter) == head + delimiter
            return rest
        case 5:
            data = socket.peek(dice.choice([1, 10, 5000]))
            assert stream.startswith(data)
            return stream
        case 6:
            bare_cr = dice.random() < 0.5
            found = next_nim_line(stream) if bare_cr else next_python_line(stream)
            if found is None:
                if stream:
                    assert ended_early(lambda: next(socket.lines(bare_cr=bare_cr))) == len(stream)
                else:
                    assert list(socket.lines(bare_cr=bare_cr)) == []
                return stream
            wanted = b"" if bare_cr and found[0] == b"\r\n" else found[0]
            assert next(socket.lines(bare_cr=bare_cr)) == wanted
            return found[1]
        case 7:
            result, shown = socket.try_read_line()
            found = next_nim_line(stream)
            if result is ReadLineResult.FULL_LINE:
                assert found is not None
                assert shown == found[0]
                return found[1]
            assert stream.startswith(shown)
            return stream
        case _:
            size = dice.choice([1, 10, 500])
            assert socket.skip(size) == min(size, len(stream))
            return stream[size:]


@buffering
@pytest.mark.parametrize("seed", range(25))
def test_reads_in_any_mix_deliver_the_stream_byte_for_byte(seed: int, buffered: bool) -> None:
    dice, sizes = random.Random(seed), random.Random(seed)
    alphabet = dice.choice([b"a\n\r", b"abcdefghij\n", b"ab" * 12 + b"\r\n", b"\r", b"ab\r"])
    stream = bytes(dice.choices(alphabet, k=dice.choice([5, 40, 300, 5000])))
    with connection(buffered=buffered) as (ours, peer):

        def pieces() -> Iterator[bytes]:
            start = 0
            while start < len(stream):
                end = start + sizes.choice([1, 2, 7, 100, 4000])
                yield stream[start:end]
                start = end

        def send() -> None:
            send_in_pieces(peer, pieces())
            peer.shutdown(stdlib_socket.SHUT_WR)

        sender = gevent.spawn(send)
        rest = stream
        for _ in range(300):
            rest = read_somehow(ours, rest, dice)
        assert ours.recv_exactly(len(rest)) == rest
        sender.get(timeout=GUARD / 1000)


def test_a_search_for_a_delimiter_that_fails_leaves_all_line_ends_to_others() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"one\ntwo\nth")
        for delimiter in (b"\r\n", b"nowhere"):
            with pytest.raises(gnet.TimeoutError):
                ours.recv_until(delimiter, timeout=SOON)
        assert ours.read_line() == b"one"
        with pytest.raises(gnet.TimeoutError):
            ours.recv_until(b"\r\n", timeout=SOON)
        peer.sendall(b"ree\n")
        assert [ours.read_line(), ours.read_line()] == [b"two", b"three"]
