"""The benchmarks' own client, a process apart from the server it drives.

`ping` speaks what `redis-benchmark -t ping_inline` speaks, with the same meaning of the options (`-c`, `-P`,
`-n`, `-k`): each connection sends P lines at once and the next P when all P answers are there. `bulk` asks
for one large answer after the other on each connection. `mixed` sends requests of 100 lines of 10 B to 4 KiB
(as many short as long ones: the logarithm of the length is even), cut anywhere into ten segments, each with a
`send` of its own and those of the other connections in between; each line has an answer. These three print
seconds and percentiles of the latencies as JSON. With `--wait` they first open their connections and print
`ready`, and go on with a line on standard input; the connections stay open until that ends.

Two more commands open connections that stay idle (`idle`) and one that floods (`flood`); both go on until
their standard input ends. Standard library only, so that it costs no server anything and needs nothing
installed.

With `--tls-ca` all of them but `flood` speak TLS 1.3 and verify the server. `ping --resume` makes one
connection more, the first, and has all others resume its session; each ends with a close_notify, and it is an
error if a handshake was not new or resumed as asked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

PING = b"PING\r\n"
PONG = b"+PONG\r\n"
PATIENCE_SECONDS = 60.0  # a server that is silent for so long is broken

# A request of `mixed`. redis-server takes its lines as commands, so that it can be asked too.
LINES_OF_REQUEST, SEGMENTS = 100, 10
LINE_START, LINE_END = b"SET k ", b"\r\n"
LEAST_LINE, MOST_LINE = 10, 4096  # with the end
TEMPLATES = 64  # different requests, the same in each run
BULK_QUESTION = b"GET k\r\n"

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Request = Sequence[bytes]  # its segments
NextRequest = Callable[[], tuple[Request, int] | None]  # the next one and the number of its answers


class Tls:
    """How connections are made where they are TLS."""

    def __init__(self, ca: str) -> None:
        self.context = ssl.create_default_context(cafile=ca)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.session: ssl.SSLSession | None = None

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        wrapped = self.context.wrap_socket(sock, server_hostname="127.0.0.1", session=self.session)
        if wrapped.session_reused != (self.session is not None):
            raise SystemExit(f"client: session reused: {wrapped.session_reused}, which was not asked")
        return wrapped


class Expected:
    """What answers are compared with. A long one is only measured and not compared."""

    def __init__(self, each: bytes | int) -> None:
        self.each = each

    def size(self, answers: int) -> int:
        return answers * (self.each if isinstance(self.each, int) else len(self.each))

    def allows(self, data: bytes, position: int) -> bool:
        """Whether an answer to any number of lines may go on with these bytes from that position."""
        if isinstance(self.each, int):
            return True
        start = position % len(self.each)
        whole = self.each * ((start + len(data)) // len(self.each) + 1)
        return data == whole[start : start + len(data)]


class Slot:
    """One of the connections: what it still sends, what it waits for, and how much of that has come."""

    def __init__(self, port: int, tls: Tls | None, expected: Expected) -> None:
        self.sock = connect(port, tls)
        self.sock.setblocking(False)  # a TLS socket can be readable and have nothing to give
        self.unsent: Request = ()
        self.asked_at = 0
        self._expected = expected
        self._wanted = 0
        self._received = 0

    def ask(self, request: Request, answers: int) -> None:
        """Send the first segment; `unsent` are the others."""
        self._wanted = self._expected.size(answers)
        self._received = 0
        self.unsent = request
        self.asked_at = time.perf_counter_ns()
        self.send_segment()

    def send_segment(self) -> None:
        left = memoryview(self.unsent[0])
        while left:
            try:
                left = left[self.sock.send(left) :]
            except WOULD_BLOCK:
                self._wait(select.POLLOUT)  # the server reads it by and by
        self.unsent = self.unsent[1:]

    def take(self) -> bool:
        """Read what has come; True when every answer asked for is here."""
        try:
            data = self.sock.recv(262144)
            while isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
                data += self.sock.recv(262144)  # what epoll does not know of
        except WOULD_BLOCK:
            return False  # a session ticket, or a part of a record
        end = self._received + len(data)
        if not data or end > self._wanted or not self._expected.allows(data, self._received):
            raise SystemExit(
                f"client: {self._received} of {self._wanted} bytes were there; then came {data[:60]!r}"
            )
        self._received = end
        return end == self._wanted

    def take_all(self) -> None:
        while not self.take():
            self._wait(select.POLLIN)

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.sock, events)
        if not poll.poll(1000 * PATIENCE_SECONDS):
            raise SystemExit(f"client: the server was silent for {PATIENCE_SECONDS:.0f} s")

    def close(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            with suppress(ssl.SSLWantReadError, OSError):
                self.sock.unwrap()  # say goodbye, but do not wait for the answer
        self.sock.close()


def connect(port: int, tls: Tls | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap(sock) if tls else sock


def keep_session(port: int, tls: Tls) -> None:
    """Make a connection whose session those to come resume; its ticket comes with the first answer."""
    slot = Slot(port, tls, Expected(PONG))
    slot.ask([PING], 1)
    slot.take_all()
    assert isinstance(slot.sock, ssl.SSLSocket)
    session = slot.sock.session
    slot.close()
    tls.session = session


class Load:
    """So many requests over so many connections, and how long each took."""

    def __init__(self, open_slot: Callable[[], Slot], next_request: NextRequest):
        """Prepare a load.

        Args:
            open_slot: makes a connection.
            next_request: gives the segments of the next request and the number of its answers; None: no more.
        """
        self._open_slot = open_slot
        self._next_request = next_request
        self._latencies: list[int] = []
        self._sending: deque[Slot] = deque()  # these have segments left

    def run(self, connections: int, keep_alive: bool, before: Callable[[], None]) -> dict[str, float]:
        """Go through the requests; gives the seconds and percentiles.

        Args:
            keep_alive: False: a connection for each request, its opening being part of the latency.
            before: called when all connections are open.
        """
        slots = {slot.sock.fileno(): slot for slot in (self._open_slot() for _ in range(connections))}
        poll = select.epoll()
        before()
        started = time.perf_counter()
        for descriptor, slot in list(slots.items()):
            if self._ask(slot):
                poll.register(descriptor, select.EPOLLIN)
            else:
                del slots[descriptor]
                slot.close()
        idle = []  # stay open to the end, so that closing is no part of what is measured
        while slots:
            for _ in range(len(self._sending)):  # a segment of each
                slot = self._sending.popleft()
                slot.send_segment()
                if slot.unsent:
                    self._sending.append(slot)
            ready = poll.poll(0 if self._sending else PATIENCE_SECONDS)
            if not ready and not self._sending:
                raise SystemExit(f"client: no answer for {PATIENCE_SECONDS:.0f} s")
            for descriptor, _events in ready:
                slot = slots[descriptor]
                if not slot.take():
                    continue
                self._latencies.append(time.perf_counter_ns() - slot.asked_at)
                if keep_alive and self._ask(slot):
                    continue
                del slots[descriptor]
                if keep_alive:
                    poll.unregister(descriptor)
                    idle.append(slot)
                    continue
                slot.close()  # which also takes it out of the epoll set
                request = self._next_request()
                if request is not None:
                    since = time.perf_counter_ns()
                    slot = self._open_slot()
                    slots[slot.sock.fileno()] = slot
                    poll.register(slot.sock, select.EPOLLIN)
                    slot.ask(*request)
                    slot.asked_at = since
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "requests": len(self._latencies), **self._percentiles()}

    def _ask(self, slot: Slot) -> bool:
        request = self._next_request()
        if request is None:
            return False
        slot.ask(*request)
        if slot.unsent:
            self._sending.append(slot)
        return True

    def _percentiles(self) -> dict[str, float]:
        ordered = sorted(self._latencies)
        return {
            f"p{share}_ms": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] / 1e6
            for share in (50, 99)
        }


def pings(requests: int, pipeline: int) -> NextRequest:
    """Requests for `Load`: so many lines in all, `pipeline` of them at once."""
    left = requests

    def give() -> tuple[Request, int] | None:
        nonlocal left
        lines = min(pipeline, left)
        left -= lines
        return ([PING * lines], lines) if lines else None

    return give


def repeated(requests: int, templates: Sequence[Request], answers: int) -> NextRequest:
    """Requests for `Load`: so many, one template after the other."""
    number = 0

    def give() -> tuple[Request, int] | None:
        nonlocal number
        if number == requests:
            return None
        number += 1
        return templates[number % len(templates)], answers

    return give


def mixed_request(dice: random.Random) -> Request:
    """One request of lines of mixed length, in segments that are cut anywhere."""
    lines = []
    for _ in range(LINES_OF_REQUEST):
        length = round(LEAST_LINE * (MOST_LINE / LEAST_LINE) ** dice.random())
        lines.append(LINE_START.ljust(length - len(LINE_END), b"x") + LINE_END)
    whole = b"".join(lines)
    cuts = [0, *sorted(dice.sample(range(1, len(whole)), SEGMENTS - 1)), len(whole)]
    return [whole[start:end] for start, end in itertools.pairwise(cuts)]


def run_load(given: argparse.Namespace, tls: Tls | None) -> None:
    """Run ping, bulk or mixed and print what came out."""
    answer = given.answer.encode() + b"\r\n"
    if given.command == "ping":
        expected, requests = Expected(answer), pings(given.requests, given.pipeline)
    elif given.command == "bulk":
        expected = Expected(given.answer_bytes)
        requests = repeated(given.requests, [[BULK_QUESTION]], 1)
    else:
        dice = random.Random(1)
        expected = Expected(answer)
        templates = [mixed_request(dice) for _ in range(TEMPLATES)]
        requests = repeated(given.requests, templates, LINES_OF_REQUEST)

    def ready() -> None:
        if given.wait:
            print("ready", flush=True)
            sys.stdin.readline()

    load = Load(lambda: Slot(given.port, tls, expected), requests)
    needed = min(given.connections, -(-given.requests // given.pipeline))
    print(json.dumps(load.run(needed, bool(given.keep_alive), ready)), flush=True)
    if given.wait:
        sys.stdin.read()


def idle(port: int, connections: int, tls: Tls | None) -> None:
    """Open connections, have one line answered on each, say so, and keep them until standard input ends."""
    slots = []
    for _ in range(connections):
        slot = Slot(port, tls, Expected(PONG))
        slot.ask([PING], 1)
        slot.take_all()
        slots.append(slot)
    print(f"idle {connections}", flush=True)
    sys.stdin.read()


def flood(port: int, line_bytes: int) -> None:
    """Send lines of `line_bytes` (end included) as fast as the server takes them, discarding the answers."""
    os.nice(10)  # the probe that shares this core must get it when it wakes
    line = b"x" * (line_bytes - 1) + b"\n"
    blob = line * (65536 // line_bytes)
    unsent = memoryview(blob)
    sock = connect(port, None)
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    poll.register(sys.stdin, select.POLLIN)
    discard = bytearray(1 << 20)
    answer_bytes = 0
    print("flooding", flush=True)
    while True:
        for descriptor, events in poll.poll(1000 * PATIENCE_SECONDS):
            if descriptor == sys.stdin.fileno():
                print(f"answered {answer_bytes // len(PONG)}", flush=True)
                return
            if events & select.POLLIN:
                answer_bytes += sock.recv_into(discard)
            if events & select.POLLOUT:
                unsent = unsent[sock.send(unsent) :] or memoryview(blob)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=["ping", "bulk", "mixed", "idle", "flood"])
    parser.add_argument("-p", "--port", type=int, required=True)
    parser.add_argument("-c", "--connections", type=int, default=50)
    parser.add_argument("-P", "--pipeline", type=int, default=1)
    parser.add_argument("-n", "--requests", type=int, default=100_000)
    parser.add_argument("-k", "--keep-alive", type=int, choices=[0, 1], default=1)
    parser.add_argument("--answer", default="+PONG", help="to each line, for ping and mixed")
    parser.add_argument("--answer-bytes", type=int, default=65536, help="of an answer, for bulk")
    parser.add_argument("--line-bytes", type=int, default=80, help="for flood")
    parser.add_argument("--wait", action="store_true", help="open connections, say so, wait for a line")
    parser.add_argument("--tls-ca", metavar="FILE", help="speak TLS with a server of this authority")
    parser.add_argument("--resume", action="store_true", help="ping: resume a first connection's session")
    given = parser.parse_args()
    tls = Tls(given.tls_ca) if given.tls_ca else None
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.resume:
        if tls is None:
            parser.error("--resume needs --tls-ca")
        keep_session(given.port, tls)
    if given.command == "idle":
        idle(given.port, given.connections, tls)
    elif given.command == "flood":
        if tls is not None:
            parser.error("flood does not speak TLS")
        flood(given.port, given.line_bytes)
    else:
        run_load(given, tls)


if __name__ == "__main__":
    main()
