"""Nanoseconds per line with the data at hand, by reader and by the line's length.

Each reader has a connection (TCP over loopback) whose other end this process holds too. Before every batch
that end is topped up, outside the timing, until 1 MiB is on its way (less where the kernel takes less), and
a batch is half of what is there: so a reader is never starved, waits for nobody, and no writer runs beside
it. What is counted is the CPU time of this thread, system calls included, and the loop around the call does
nothing. Every sample has a fresh connection, and one batch to warm up.

gnet takes the line's end off; `readline` leaves it on, and so does `recv_until`. `io.BufferedReader`, the
yardstick, reads the descriptor with nothing of gevent or of Python in between: it cannot wait for other
greenlets. Over TLS the yardstick is the `makefile` of gevent.ssl.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import gevent.socket

import gnet
from loadtests.micro import ends
from loadtests.micro.rows import Row

BENCH = "lines"
TLS_BENCH = "lines over TLS"
AT_HAND_BYTES = 1 << 20
LINES_EACH = 100_000
BYTES_EACH = 16 << 20  # of long lines there are fewer
PATIENCE_MS = 60_000  # of the reader that is given a timeout; there is always data before it

LINES: dict[str, bytes] = {
    "10 B": b"x" * 9 + b"\n",
    "80 B": b"x" * 79 + b"\n",
    "80 B, CRLF": b"x" * 78 + b"\r\n",
    "1,000 B": b"x" * 999 + b"\n",
    "64 KiB": b"x" * 65535 + b"\n",
}
TLS_LINES = {name: LINES[name] for name in ("80 B", "1,000 B")}

Drain = Callable[[int], None]
OpenReader = Callable[[Any], tuple[ends.Closable, Drain]]
"""Takes a connected end of gevent's, or one of gnet's; gives what to close and what reads so many lines."""


def _drain_calls(read_line: Callable[[], bytes]) -> Drain:
    def drain(count: int) -> None:
        for _ in range(count):
            read_line()

    return drain


def _drain_iterator(lines: Iterator[bytes]) -> Drain:
    def drain(count: int) -> None:
        for _line in islice(lines, count):
            pass

    return drain


def _open_lines(client: gnet.Socket) -> tuple[ends.Closable, Drain]:
    return client, _drain_iterator(client.lines())


def _open_read_line(client: gnet.Socket) -> tuple[ends.Closable, Drain]:
    return client, _drain_calls(client.read_line)


def _open_read_line_with_timeout(client: gnet.Socket) -> tuple[ends.Closable, Drain]:
    return client, _drain_calls(partial(client.read_line, timeout=PATIENCE_MS))


def _open_recv_until(client: gnet.Socket) -> tuple[ends.Closable, Drain]:
    return client, _drain_calls(partial(client.recv_until, b"\n"))


def _open_makefile(sock: gevent.socket.socket) -> tuple[ends.Closable, Drain]:
    file = sock.makefile("rb")
    return file, _drain_calls(file.readline)


def _open_buffered_reader(sock: gevent.socket.socket) -> tuple[ends.Closable, Drain]:
    file = io.BufferedReader(io.FileIO(sock.detach(), "rb"))
    return file, _drain_calls(file.readline)


GNET_READERS: dict[str, OpenReader] = {
    "gnet lines()": _open_lines,
    "gnet read_line()": _open_read_line,
    "gnet read_line(timeout=…)": _open_read_line_with_timeout,
    "gnet recv_until()": _open_recv_until,
}
GEVENT_READERS: dict[str, OpenReader] = {"gevent makefile": _open_makefile}
READERS = {**GNET_READERS, **GEVENT_READERS, "io.BufferedReader": _open_buffered_reader}
TLS_READERS = {
    **{name: GNET_READERS[name] for name in ("gnet lines()", "gnet read_line()")},
    "gevent.ssl makefile": _open_makefile,
}


class Feed:
    """The writing end of one connection: knows how many lines are on their way to the reader."""

    def __init__(self, sock: gevent.socket.socket, line: bytes) -> None:
        sock.setblocking(False)
        self.lines_at_hand = 0
        self._sock = sock
        self._line_size = len(line)
        self._blob = memoryview(line * max(1, 65536 // len(line)))
        self._position = 0  # in the blob: the kernel may take a part of a line
        self._part = 0  # bytes sent of a line that is not all sent

    def top_up(self) -> None:
        """Send until enough is on its way, or the kernel takes no more."""
        while self.lines_at_hand * self._line_size < AT_HAND_BYTES:
            try:
                sent = self._sock.send(self._blob[self._position :])
            except (BlockingIOError, gevent.ssl.SSLWantWriteError):
                return
            self._position = (self._position + sent) % len(self._blob)
            whole, self._part = divmod(self._part + sent, self._line_size)
            self.lines_at_hand += whole


def _connection() -> tuple[gevent.socket.socket, gevent.socket.socket]:
    """A reader's end and a writer's, with a large window."""
    with gevent.socket.socket() as listener:
        # Before the connection is made, so that its window is as large; the kernel may grant less.
        listener.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_RCVBUF, 2 * AT_HAND_BYTES)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        writer = gevent.socket.create_connection(listener.getsockname())
        reader, _address = listener.accept()
    return reader, writer


def nanoseconds_per_line(open_reader: OpenReader, is_gnet: bool, tls: bool, line: bytes, lines: int) -> float:
    """CPU time of one reader for one of at least `lines` lines."""
    reader: Any
    reader, writer = _connection()
    if tls:
        wrap = ends.gnet_beside_gevent if is_gnet else ends.gevent_tls
        reader, writer = wrap(reader, writer)
    elif is_gnet:
        reader = gnet.Socket.adopt(reader)
    feed = Feed(writer, line)
    opened, drain = open_reader(reader)
    spent = done = 0
    warm = False
    while done < lines:
        feed.top_up()
        batch = max(1, feed.lines_at_hand // 2)
        before = time.thread_time_ns()
        drain(batch)
        after = time.thread_time_ns()
        feed.lines_at_hand -= batch
        if warm:
            spent += after - before
            done += batch
        warm = True
    ends.close_all(writer, opened, reader)
    return spent / done


def rows(scale: float, tls: bool) -> list[Row]:
    """A row for every length.

    Args:
        scale: of the number of lines in each sample.
    """
    readers = TLS_READERS if tls else READERS
    return [
        Row(
            bench=TLS_BENCH if tls else BENCH,
            name=name,
            unit="ns per line",
            yardstick="gevent.ssl makefile" if tls else "io.BufferedReader",
            subjects={
                reader: partial(
                    nanoseconds_per_line,
                    open_reader,
                    reader.startswith("gnet"),
                    tls,
                    line,
                    max(8, int(min(LINES_EACH, BYTES_EACH // len(line)) * scale)),
                )
                for reader, open_reader in readers.items()
            },
            digits=0,
        )
        for name, line in (TLS_LINES if tls else LINES).items()
    ]
