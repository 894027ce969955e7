"""The benchmarks' own client, a process apart from the server it drives.

It speaks what `redis-benchmark -t ping_inline` speaks, with the same meaning of the options (`-c`, `-P`,
`-n`, `-k`): each connection sends P lines at once and the next P when all P answers are there. Two more
commands open connections that stay idle (`idle`) and one that floods (`flood`); both go on until their
standard input ends. `bulk` asks a server that runs with `--bulk` for blocks of 64 KiB and reads them.
Standard library only, so that it costs no server anything and needs nothing installed.

With `--tls-ca` all of them speak TLS 1.3 and verify the server. `ping --resume` makes one connection more,
the first, and has all others resume its session; each ends with a close_notify, and it is an error if a
handshake was not new or resumed as asked.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import socket
import ssl
import sys
import time
from contextlib import suppress

PING = b"PING\r\n"
PONG = b"+PONG\r\n"
PATIENCE_SECONDS = 60.0  # a server that is silent for so long is broken
BLOCK_BYTES = 65536  # of `--bulk`


class Tls:
    """How connections are made where they are TLS."""

    def __init__(self, ca: str) -> None:
        self.context = ssl.create_default_context(cafile=ca)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.session: ssl.SSLSession | None = None

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        wrapped = self.context.wrap_socket(sock, server_hostname="127.0.0.1", session=self.session)
        if wrapped.session_reused != (self.session is not None):
            raise SystemExit(f"bench_client: session reused: {wrapped.session_reused}, which was not asked")
        return wrapped


class Slot:
    """One of the connections: what it waits for, and how much of that has come."""

    def __init__(self, port: int, tls: Tls | None) -> None:
        self.sock = connect(port, tls)
        self.expected = b""
        self.received = 0

    def ask(self, lines: int) -> None:
        self.expected = PONG * lines
        self.received = 0
        self.sock.sendall(PING * lines)

    def take(self) -> bool:
        """Read what has come; True when every answer asked for is here."""
        data = self.sock.recv(65536)  # TLS: more than a record can hold, so none of it is left inside
        end = self.received + len(data)
        if not data or self.expected[self.received : end] != data:
            raise SystemExit(f"bench_client: expected {len(self.expected)} bytes of +PONG, got {data[:60]!r}")
        self.received = end
        return end == len(self.expected)

    def close(self) -> None:
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0)  # say goodbye, but do not wait for the answer
            with suppress(ssl.SSLWantReadError, OSError):
                self.sock.unwrap()
        self.sock.close()


def connect(port: int, tls: Tls | None = None) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap(sock) if tls else sock


def keep_session(port: int, tls: Tls) -> None:
    """Make a connection whose session those to come resume; its ticket comes with the first answer."""
    slot = Slot(port, tls)
    slot.ask(1)
    while not slot.take():
        pass
    assert isinstance(slot.sock, ssl.SSLSocket)
    session = slot.sock.session
    slot.close()
    tls.session = session


def ping(
    port: int, connections: int, pipeline: int, requests: int, keep_alive: bool, tls: Tls | None
) -> None:
    """Send `requests` lines over `connections` connections, `pipeline` in flight on each."""
    left = requests
    slots: dict[int, Slot] = {}
    poll = select.epoll()

    def start() -> None:
        slot = Slot(port, tls)
        slots[slot.sock.fileno()] = slot
        poll.register(slot.sock, select.EPOLLIN)
        ask(slot)

    def ask(slot: Slot) -> None:
        nonlocal left
        lines = min(pipeline, left)
        left -= lines
        slot.ask(lines)

    for _ in range(connections):
        if left:
            start()
    while slots:
        ready = poll.poll(PATIENCE_SECONDS)
        if not ready:
            raise SystemExit(f"bench_client: no answer for {PATIENCE_SECONDS:.0f} s, {left} requests to go")
        for descriptor, _events in ready:
            slot = slots[descriptor]
            if not slot.take():
                continue
            if left and keep_alive:
                ask(slot)
                continue
            del slots[descriptor]
            slot.close()  # which also takes it out of the epoll set
            if left:
                start()


def idle(port: int, connections: int, tls: Tls | None) -> None:
    """Open connections, have one line answered on each, say so, and keep them until standard input ends."""
    slots = []
    for _ in range(connections):
        slot = Slot(port, tls)
        slot.ask(1)
        while not slot.take():
            pass
        slots.append(slot)
    print(f"idle {connections}", flush=True)
    sys.stdin.read()


def bulk(port: int, blocks: int, tls: Tls | None) -> None:
    """Ask for blocks, read them, print the seconds from the question to the last byte."""
    sock = connect(port, tls)
    room = bytearray(1 << 20)
    missing = blocks * BLOCK_BYTES
    start = time.monotonic()
    sock.sendall(b"%d\n" % blocks)
    while missing > 0:
        count = sock.recv_into(room)
        if not count:
            raise SystemExit(f"bench_client: the stream ended {missing} bytes too early")
        missing -= count
    print(f"{time.monotonic() - start:.6f}", flush=True)


def flood(port: int, line_bytes: int, tls: Tls | None) -> None:
    """Send lines of `line_bytes` (end included) as fast as the server takes them, discarding the answers."""
    os.nice(10)  # the probe that shares this core must get it when it wakes
    line = b"x" * (line_bytes - 1) + b"\n"
    blob = line * (65536 // line_bytes)
    unsent = memoryview(blob)
    if tls is not None:
        raise SystemExit("bench_client: flood does not speak TLS")
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
    parser.add_argument("command", choices=["ping", "idle", "bulk", "flood"])
    parser.add_argument("-p", "--port", type=int, required=True)
    parser.add_argument("-c", "--connections", type=int, default=50)
    parser.add_argument("-P", "--pipeline", type=int, default=1)
    parser.add_argument("-n", "--requests", type=int, default=100_000)
    parser.add_argument("-k", "--keep-alive", type=int, choices=[0, 1], default=1)
    parser.add_argument("--line-bytes", type=int, default=80)
    parser.add_argument("--blocks", type=int, default=256, help="of 64 KiB, for bulk")
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
    if given.command == "ping":
        ping(given.port, given.connections, given.pipeline, given.requests, bool(given.keep_alive), tls)
    elif given.command == "idle":
        idle(given.port, given.connections, tls)
    elif given.command == "bulk":
        bulk(given.port, given.blocks, tls)
    else:
        flood(given.port, given.line_bytes, tls)


if __name__ == "__main__":
    main()
