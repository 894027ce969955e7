"""`read_lines` and the reads beside it, against a model: positions in the bytes that the peer sent."""

from __future__ import annotations

import random
import socket as stdlib_socket
from contextlib import suppress

import gevent
import pytest

import gnet

NO_LINE_LIMIT = gnet.MAX_LINE_LENGTH


def stream(rng: random.Random) -> bytes:
    ends = rng.choice([[b"\n"], [b"\r\n"], [b"\r"], [b"\n", b"\r\n", b"\r", b"\r\r\n"]])
    out = bytearray()
    while len(out) < 6000:
        out += (b"%d-abcdefghij" % len(out) * 40)[: rng.choice([0, 1, 5, 80, 80, 400])] + rng.choice(ends)
    return bytes(out) + rng.choice([b"", b"unfinished"])


def next_line(data: bytes, at: int, limit: int) -> tuple[bytes | None, int]:
    """The line that begins at a position, by Nim's rules, and where the next one begins."""
    ends = [end for end in (data.find(b"\n", at), data.find(b"\r", at)) if end >= 0]
    end = min(ends, default=len(data))
    if end - at > limit:
        return data[at : at + limit], at + limit
    if not ends:
        return None, at
    return data[at:end] or b"\r\n", end + (2 if data[end : end + 2] == b"\r\n" else 1)


@pytest.mark.parametrize("seed", range(30))
def test_read_lines_gives_the_lines_in_order_however_the_stream_is_cut_and_reads_are_killed(
    seed: int,
) -> None:
    rng = random.Random(seed)
    data = stream(rng)
    ours, peer = stdlib_socket.socketpair()
    peer.setblocking(False)
    at = sent = 0
    with gnet.Socket.adopt(ours, buffered=seed % 5 > 0) as socket, peer:
        while sent < len(data) or next_line(data, at, NO_LINE_LIMIT)[0] is not None:
            sent += peer.send(data[sent : sent + rng.randint(1, 900)]) if sent < len(data) else 0
            if sent == len(data):
                with suppress(OSError):
                    peer.shutdown(stdlib_socket.SHUT_WR)
            limit = rng.choice([NO_LINE_LIMIT, NO_LINE_LIMIT, NO_LINE_LIMIT + 1, 3, 64])
            most = rng.choice([1, 2, 10, 512])
            given: list[list[bytes]] = []
            choice = rng.randrange(6)
            with suppress(gnet.TimeoutError):
                if choice < 3:
                    given.append(socket.read_lines(most, 0, max_length=limit))
                elif choice == 3:  # killed while it waits, or done before

                    def read(most: int = most, limit: int = limit) -> None:
                        given.append(socket.read_lines(most, max_length=limit))  # noqa: B023

                    reading = gevent.spawn(read)
                    gevent.sleep(0)
                    reading.kill()
                elif choice == 4:
                    taken = socket.recv_some(rng.choice([1, 7]), 0)
                    assert taken == data[at : at + len(taken)]
                    at += len(taken)
                else:
                    ahead = socket.peek(100, 0)
                    assert ahead == data[at : at + len(ahead)]
            for lines in given:
                assert len(lines) <= most
                for line in lines:
                    expected, at = next_line(data, at, limit)
                    assert line == expected
        assert socket.read_lines(timeout=0) == []
        assert socket.recv(len(data), 0) == data[at:]
