"""Nanoseconds per line with the data at hand: gnet's `read_line` and `lines()`, gevent's `makefile`, `io`.

    python loadtests/bench_lines.py

Each reader has a TCP connection over loopback whose other end this process holds too. Before every batch
that end is topped up, outside the timing, until 1 MiB is on its way (less where the kernel takes less), and
a batch is half of what is there: so a reader is never starved, waits for nobody, and no writer runs beside
it. What is counted is the CPU time of this thread, system calls included, and the loop around the call does
nothing. A round runs every reader once, in an order that rotates, on a fresh connection after one batch to
warm up; figures are medians over the rounds with the least and the most in brackets, ratios those to
gevent's `makefile` in the same round.

gnet takes the line's end off; `readline` leaves it on. `io.BufferedReader` reads the descriptor with
nothing of gevent or of Python in between: it cannot wait for other greenlets and is there as the floor.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import bench_measure as measure
import gevent.socket

import gnet

REFERENCE = "gevent makefile"  # its readline()
AT_HAND_BYTES = 1 << 20
ENDINGS = {"lf": b"\n", "crlf": b"\r\n"}
AIMS = {(80, "gnet lines()"): 1.2, (80, "gnet read_line()"): 2.0}


class Closable(Protocol):
    def close(self) -> None: ...


Drain = Callable[[int], None]
Opened = tuple[Closable, Drain]


def drain_calls(read_line: Callable[[], bytes]) -> Drain:
    def drain(count: int) -> None:
        for _ in range(count):
            read_line()

    return drain


def drain_iterator(lines: Iterator[bytes]) -> Drain:
    def drain(count: int) -> None:
        for _line in islice(lines, count):
            pass

    return drain


def open_makefile(sock: gevent.socket.socket) -> Opened:
    file = sock.makefile("rb")
    return file, drain_calls(file.readline)


def open_makefile_iterated(sock: gevent.socket.socket) -> Opened:
    file = sock.makefile("rb")
    return file, drain_iterator(file)


def open_lines(sock: gevent.socket.socket) -> Opened:
    client = gnet.Socket.adopt(sock)
    return client, drain_iterator(client.lines())


def open_read_line(sock: gevent.socket.socket) -> Opened:
    client = gnet.Socket.adopt(sock)
    return client, drain_calls(client.read_line)


def open_buffered_reader(sock: gevent.socket.socket) -> Opened:
    file = io.BufferedReader(io.FileIO(sock.detach(), "rb"))
    return file, drain_calls(file.readline)


# Each takes a connected gevent socket and gives what to close at the end and what reads so many lines.
READERS: dict[str, Callable[[gevent.socket.socket], Opened]] = {
    REFERENCE: open_makefile,
    "gnet lines()": open_lines,
    "gnet read_line()": open_read_line,
    "makefile, for loop": open_makefile_iterated,
    "io.BufferedReader": open_buffered_reader,
}


class Feed:
    """The writing end of one connection: knows how many lines are on their way to the reader."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.lines_at_hand = 0
        self._blob = memoryview(line * max(1, 65536 // len(line)))
        self._position = 0  # in the blob: the kernel may take a part of a line
        self._part = 0  # bytes sent of a line that is not all sent
        with gevent.socket.socket() as listener:
            # Before the connection is made, so that its window is as large; the kernel may grant less.
            listener.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_RCVBUF, 2 * AT_HAND_BYTES)
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            self.sock = gevent.socket.create_connection(listener.getsockname())
            self.reader, _address = listener.accept()
        self.sock.setblocking(False)

    def top_up(self) -> None:
        while self.lines_at_hand * len(self.line) < AT_HAND_BYTES:
            try:
                sent = self.sock.send(self._blob[self._position :])
            except BlockingIOError:
                return
            self._position = (self._position + sent) % len(self._blob)
            whole, self._part = divmod(self._part + sent, len(self.line))
            self.lines_at_hand += whole


def nanoseconds_per_line(reader: str, line: bytes, lines: int) -> float:
    """CPU time of one reader for one of at least `lines` lines."""
    feed = Feed(line)
    opened, drain = READERS[reader](feed.reader)
    with feed.sock, feed.reader, closing(opened):
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
    return spent / done


def run(given: argparse.Namespace) -> dict[tuple[int, str], dict[str, measure.Summary]]:
    samples: dict[tuple[int, str], dict[str, list[float]]] = {
        (size, ending): {reader: [] for reader in READERS} for size in given.size for ending in given.ending
    }
    for turn in range(given.rounds):
        for (size, ending), by_reader in samples.items():
            line = b"x" * (size - len(ENDINGS[ending])) + ENDINGS[ending]
            for reader in measure.rotated(list(READERS), turn):
                by_reader[reader].append(nanoseconds_per_line(reader, line, given.lines))
    return {row: measure.summarize(by_reader, REFERENCE) for row, by_reader in samples.items()}


def table(results: dict[tuple[int, str], dict[str, measure.Summary]]) -> str:
    rows = []
    for (size, ending), cells in results.items():
        aims = [f"{reader} ≤ ×{aim}" for (at, reader), aim in AIMS.items() if at == size]
        texts = [cells[reader].cell(0) for reader in READERS]
        rows.append([f"{size:,} bytes, {ending.upper()}", *texts, ", ".join(aims)])
    return measure.markdown_table(["ns per line, data at hand", *READERS, "aim"], rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--lines", type=int, default=100_000, help="lines for each reader in a round")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[10, 80, 1000], help="bytes of a line with its end"
    )
    parser.add_argument("--ending", nargs="+", choices=list(ENDINGS), default=list(ENDINGS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    given = parser.parse_args()
    if min(given.rounds, given.lines) < 1 or min(given.size) < 2:
        parser.error("--rounds and --lines are at least 1, --size at least 2")
    return given


def main() -> None:
    given = parse_arguments()
    measure.prepare()
    facts = measure.machine_facts()
    results = run(given)
    print(measure.facts_line(facts))
    print(f"CPU time of the reading thread; median of {given.rounds} rounds (least–most),", end=" ")
    print(f"×: ratio to {REFERENCE} in the same round\n")
    print(table(results))
    if given.json:
        entries: list[dict[str, Any]] = [
            {"bytes": size, "ending": ending, "reader": reader, **cell.as_json()}
            for (size, ending), cells in results.items()
            for reader, cell in cells.items()
        ]
        measure.write_json(given.json, {"machine": facts, "results": entries})


if __name__ == "__main__":
    main()
