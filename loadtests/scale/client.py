"""The client process of the scale benchmark: thousands of connections, one request in flight on each.

It obeys lines on its standard input and answers each with a line of JSON:

    open N               open connections until there are N; one line is answered on each
    run REQUESTS FLIGHT  send so many requests, FLIGHT of them at a time, over all connections in turn
    lines COUNT BYTES    send so many lines of BYTES (end included) over one connection more, to its end

At the end of its input it ends with a reset of every connection, so that no port stays in TIME_WAIT.

Standard library only and as little Python per request as can be: it must be faster than any server that it
measures, or that server would sleep between two requests and its figure would be of another thing.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import select
import socket
import struct
import sys
import time
from collections import deque

PING = b"PING\r\n"
PONG = b"+PONG\r\n"
PATIENCE_SECONDS = 60.0  # a server that is silent for so long is broken
LINGER_ZERO = struct.pack("ii", 1, 0)  # close() sends a reset
BLOB_BYTES = 1 << 18  # of lines, given to the kernel at a time
# From Linux's in.h: bind to an address and leave the port to connect(), so that ports are free per peer.
IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)

Answer = dict[str, float]


class Connections:
    """The connections of this process, all to one server and from one source address."""

    def __init__(self, port: int, source: str) -> None:
        self._port = port
        self._source = source
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(PATIENCE_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._source, 0))
        sock.connect(("127.0.0.1", self._port))
        return sock

    def open(self, count: int) -> Answer:
        """Open connections until there are `count`, one after the other, each with its first answer."""
        while len(self._sockets) < count:
            sock = self.connect()
            self._sockets[sock.fileno()] = sock
            sock.sendall(PING)
            check(sock.recv(64))
            sock.setblocking(False)
            self._poll.register(sock, select.EPOLLIN)
        return {"open": len(self._sockets)}

    def run(self, requests: int, in_flight: int) -> Answer:
        """Send requests, each on the connection that has rested longest; give what that took.

        Returns:
            `seconds` by the clock, `cpu_seconds` of this process, and on how many requests the connections
            that were used `least` and `most` had their answers.
        """
        descriptors = list(self._sockets)
        receive = {number: sock.recv for number, sock in self._sockets.items()}
        send = {number: sock.send for number, sock in self._sockets.items()}
        uses = dict.fromkeys(descriptors, 0)
        resting = deque(descriptors)
        poll = self._poll.poll
        unsent = requests
        missing = requests
        before, cpu_before = time.monotonic(), time.process_time()
        for _ in range(min(in_flight, requests, len(descriptors))):
            unsent -= 1
            send[resting.popleft()](PING)
        while missing:
            ready = poll(PATIENCE_SECONDS)
            if not ready:
                raise SystemExit(f"scale client: no answer for {PATIENCE_SECONDS:.0f} s, {missing} missing")
            for number, _events in ready:
                data = receive[number](64)
                if data != PONG:
                    check(data)
                uses[number] += 1
                resting.append(number)
                if unsent:
                    unsent -= 1
                    send[resting.popleft()](PING)
            missing -= len(ready)
        return {
            "requests": requests,
            "seconds": time.monotonic() - before,
            "cpu_seconds": time.process_time() - cpu_before,
            "least": min(uses.values()),
            "most": max(uses.values()),
        }

    def lines(self, count: int, line_bytes: int) -> Answer:
        """Send lines, end the stream, and have the server say how many it read; give the seconds."""
        line = b"x" * (line_bytes - 1) + b"\n"
        per_blob = max(1, BLOB_BYTES // line_bytes)
        blob = line * per_blob
        with self.connect() as sock:
            before = time.monotonic()
            for _ in range(count // per_blob):
                sock.sendall(blob)
            sock.sendall(line * (count % per_blob))
            sock.shutdown(socket.SHUT_WR)
            said = b""
            while data := sock.recv(64):
                said += data
            seconds = time.monotonic() - before
        if said != b"%d\n" % count:
            raise SystemExit(f"scale client: {count} lines were sent, the server says {said!r}")
        return {"lines": count, "seconds": seconds}


def check(answer: bytes) -> None:
    if answer != PONG:
        raise SystemExit(f"scale client: expected {PONG!r}, got {answer[:60]!r}")


def obey(connections: Connections, words: list[str]) -> Answer:
    numbers = [int(word) for word in words[1:]]
    if words[0] == "open":
        return connections.open(*numbers)
    if words[0] == "run":
        return connections.run(*numbers)
    if words[0] == "lines":
        return connections.lines(*numbers)
    raise SystemExit(f"scale client: no such command: {words[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--source", default="127.0.0.1", help="the loopback address to connect from")
    given = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # nothing here makes cycles, and looking for them among 10,000 sockets takes time
    connections = Connections(given.port, given.source)
    for command in sys.stdin:
        print(json.dumps(obey(connections, command.split())), flush=True)


if __name__ == "__main__":
    main()
