"""Allocations per request in a server's hot path, and what an idle connection holds. Counted, not timed.

Per request: how often the thread of the server asks Python's allocators for memory and for how many bytes,
once the connection is warm, with one request in flight and with 32. The client runs in a thread of its own,
which is not counted. An idle connection has sent one line, has its answer and waits: what it holds are
objects that the garbage collector knows, blocks of Python's allocators, and their bytes by tracemalloc.
"""

from __future__ import annotations

import gc
import socket
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial

import gevent
import gevent.socket
from gevent.hub import get_hub

from loadtests.micro.allocator import Allocations, counted
from loadtests.micro.rows import Row
from loadtests.micro.serving import GEVENT, PING, PONG, SERVERS, answering

BENCH = "allocations"
REQUESTS = 2_000
IDLE_CONNECTIONS = 100
PIPELINE = 32
PATIENCE_SECONDS = 30


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _ask(sock: socket.socket, requests: int, in_flight: int) -> None:
    """Send so many lines at once and read their answers, again and again; runs in another thread."""
    for _ in range(requests // in_flight):
        sock.sendall(PING * in_flight)
        left = len(PONG) * in_flight
        while left:
            data = sock.recv(left)
            if not data:
                raise ConnectionError("the server ended the connection")
            left -= len(data)


def per_request(server: str, requests: int, in_flight: int) -> Allocations:
    """What the server's thread asks for while it answers, for all of the requests together."""
    pool = get_hub().threadpool
    with answering(server) as port, pool.apply(_connect, (port,)) as sock:
        pool.apply(_ask, (sock, 10 * in_flight, in_flight))
        with counted() as found:
            pool.apply(_ask, (sock, requests, in_flight))
    return found


def calls_per_request(server: str, requests: int, in_flight: int) -> float:
    return per_request(server, requests, in_flight).calls / requests


def bytes_per_request(server: str, requests: int, in_flight: int) -> float:
    return per_request(server, requests, in_flight).size / requests


def gc_objects() -> int:
    """Objects that the garbage collector knows."""
    return len(gc.get_objects())


def traced_bytes() -> int:
    return tracemalloc.get_traced_memory()[0]


def held_per_connection(server: str, connections: int, count: Callable[[], int]) -> float:
    """How much a count grows by each connection that has its answer and waits."""

    def hear(clients: list[socket.socket]) -> None:
        for client in clients:
            gevent.socket.wait_read(client.fileno())
            assert client.recv(len(PONG)) == PONG

    def connect(number: int) -> list[socket.socket]:
        # The server does not run before this greenlet waits: what is counted first has clients only.
        clients = [_connect(port) for _ in range(number)]
        for client in clients:
            client.sendall(PING)
        return clients

    if count is traced_bytes:
        tracemalloc.start()
    try:
        with answering(server) as port:
            gevent.sleep(0)
            kept = connect(4)  # to warm up
            hear(kept)
            clients = connect(connections)
            gc.collect()
            before = count()
            hear(clients)
            gc.collect()
            grown = count() - before
            for client in kept + clients:
                client.close()
            gevent.sleep(0.01)  # the handlers see their ends
    finally:
        tracemalloc.stop()
    return grown / connections


def rows(scale: float, tls: bool) -> list[Row]:
    """A row for each count.

    Args:
        scale: of the number of requests and connections in each sample.
    """
    if tls:
        return []
    requests = max(PIPELINE, int(REQUESTS * scale) // PIPELINE * PIPELINE)
    connections = max(4, int(IDLE_CONNECTIONS * scale))
    kinds: list[tuple[str, str, Callable[..., float], tuple[object, ...]]] = [
        (f"{unit}, {in_flight} in flight", f"{unit} per request", count, (requests, in_flight))
        for in_flight in (1, PIPELINE)
        for unit, count in (("allocations", calls_per_request), ("bytes", bytes_per_request))
    ]
    kinds += [
        (f"{unit} of an idle connection", unit, held_per_connection, (connections, count))
        for unit, count in (
            ("gc objects", gc_objects),
            ("blocks", sys.getallocatedblocks),
            ("bytes", traced_bytes),
        )
    ]
    return [
        Row(
            bench=BENCH,
            name=name,
            unit=unit,
            yardstick=GEVENT,
            subjects={server: partial(count, server, *arguments) for server in SERVERS},
            digits=1,
            is_counted=True,
        )
        for name, unit, count, arguments in kinds
    ]
