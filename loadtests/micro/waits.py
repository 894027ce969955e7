"""Microseconds of a wait: two greenlets send a line to and fro over a socket pair.

A figure is the CPU time of this thread for one turn: one send, one wait, one receive. The yardstick is
gevent's `sendall` and `recv`. The floor is what is left to any library on gevent: the two system calls, and
the hub's own wait on a watcher that was made before. What a timeout costs is the difference of two rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent.hub import get_hub

import gnet
from loadtests.measuring.tables import spread
from loadtests.micro import ends
from loadtests.micro.rows import Row, Samples

BENCH = "wait"
TLS_BENCH = "wait over TLS"
LINE = b"+PONG\r\n"
TURNS = 4_000
PATIENCE_MS = 60_000

End = tuple[Callable[[bytes], object], Callable[[], object]]
"""What sends a line, and what waits for one."""


def _gnet_read_line(client: gnet.Socket) -> End:
    return client.send, client.read_line


def _gnet_read_line_with_timeout(client: gnet.Socket) -> End:
    return client.send, partial(client.read_line, timeout=PATIENCE_MS)


def _gnet_lines(client: gnet.Socket) -> End:
    return client.send, client.lines().__next__


def _gevent_recv(sock: Any) -> End:
    return sock.sendall, partial(sock.recv, 4096)


def _gevent_recv_with_timeout(sock: Any) -> End:
    receive = sock.recv

    def read() -> None:
        with gevent.Timeout(PATIENCE_MS / 1000):
            receive(4096)

    return sock.sendall, read


def _bare_hub(sock: Any) -> End:
    raw, hub = sock._sock, get_hub()  # the socket of C's own, without gevent's calls around it
    wait = partial(hub.wait, hub.loop.io(sock.fileno(), 1))

    def read() -> None:
        wait()
        raw.recv(4096)

    return raw.send, read


GNET: dict[str, Callable[[Any], End]] = {
    "gnet read_line()": _gnet_read_line,
    "gnet lines()": _gnet_lines,
    "gnet read_line(timeout=…)": _gnet_read_line_with_timeout,
}
GEVENT: dict[str, Callable[[Any], End]] = {
    "gevent recv()": _gevent_recv,
    "gevent recv() in a Timeout": _gevent_recv_with_timeout,
}
FLOOR = {"floor: hub.wait()": _bare_hub}
# What is said below the table: how much more the first one costs than the second.
DIFFERENCES = {
    "a timeout armed by gnet": ("gnet read_line(timeout=…)", "gnet read_line()"),
    "a gevent.Timeout": ("gevent recv() in a Timeout", "gevent recv()"),
    "gnet read_line() over the floor": ("gnet read_line()", *FLOOR),
    "gevent recv() over the floor": ("gevent recv()", *FLOOR),
}


def microseconds_per_wait(open_end: Callable[[Any], End], is_gnet: bool, tls: bool, turns: int) -> float:
    """CPU time of one turn: to send, to wait and to receive."""
    pair: tuple[Any, Any] = (ends.gnet_pair if is_gnet else ends.gevent_pair)(tls)
    (send, read), (answer, hear) = (open_end(end) for end in pair)

    def echo(count: int) -> None:
        for _ in range(count):
            hear()
            answer(LINE)

    def ask(count: int) -> None:
        echoing = gevent.spawn(echo, count)
        gevent.sleep(0)  # it waits by now
        for _ in range(count):
            send(LINE)
            read()
        echoing.get()

    ask(max(2, turns // 10))  # to warm up
    before = time.thread_time_ns()
    ask(turns)
    after = time.thread_time_ns()
    ends.close_all(*pair)
    return (after - before) / (2 * turns) / 1000


def differences(samples: Samples) -> str:
    """The price of a timeout, and what is above the floor: µs, round by round."""
    texts = []
    for name, (more, less) in DIFFERENCES.items():
        if more in samples and less in samples:
            grown = [one - other for one, other in zip(samples[more], samples[less], strict=True)]
            texts.append(f"{name}: {spread(grown, 2)}")
    return "; ".join(texts)


def rows(scale: float, tls: bool) -> list[Row]:
    """One row.

    Args:
        scale: of the number of turns in each sample.
    """
    subjects = {**GNET, **GEVENT, **({} if tls else FLOOR)}
    return [
        Row(
            bench=TLS_BENCH if tls else BENCH,
            name="a line to and fro",
            unit="µs per wait",
            yardstick="gevent recv()",
            subjects={
                subject: partial(
                    microseconds_per_wait,
                    *(open_end, subject.startswith("gnet"), tls, max(2, int(TURNS * scale))),
                )
                for subject, open_end in subjects.items()
            },
            note=differences,
        )
    ]
