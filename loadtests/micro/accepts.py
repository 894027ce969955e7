"""Microseconds to accept a connection, spawn its greenlet and close it; and those of a TLS handshake.

Server and clients are in one thread, so that its CPU time can be taken piece by piece: the clients connect
and end their side outside the timing, and the server then finds them in its backlog, one alone or 32 of them.
The handler returns at once. What is counted ends when the last client has seen the server's end of stream.

Of a handshake (TLS 1.3, a new session) the server's two steps are counted, and not the client's, which are
taken by the standard library outside the timing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial

import gevent
import gevent.socket

import gnet
from loadtests.micro import ends
from loadtests.micro.rows import Row
from loadtests.micro.serving import GEVENT, SERVERS, hang_up

BENCH = "accept"
TLS_BENCH = "handshake"
QUEUED = (1, 32)
CONNECTIONS = 320
HANDSHAKES = 40


def _until_ended(clients: list[socket.socket]) -> None:
    """Run the loop until the server has ended every connection."""
    for client in reversed(clients):  # when the last one has its end, the others have theirs
        try:
            client.recv(1)
        except BlockingIOError:
            gevent.socket.wait_read(client.fileno())


def microseconds_per_connection(server: str, connections: int, queued: int) -> float:
    """CPU time of the server for one connection."""
    spent = done = 0
    with SERVERS[server](hang_up) as port:
        gevent.sleep(0)  # it waits for clients by now
        while done < connections + queued:
            clients = []
            for _ in range(queued):
                client = socket.create_connection(("127.0.0.1", port))
                client.shutdown(socket.SHUT_WR)
                client.setblocking(False)
                clients.append(client)
            before = time.thread_time_ns()
            _until_ended(clients)
            after = time.thread_time_ns()
            if done:  # the first batch warms up
                spent += after - before
            done += queued
            for client in clients:
                client.close()
            gevent.sleep(0)
    return spent / (done - queued) / 1000


def _gnet_handshake(end: gevent.socket.socket) -> ends.Closable:
    served = gnet.Socket.adopt(end)
    ends.gnet_server_context().wrap_connected_socket(served, gnet.SslHandshakeType.AS_SERVER)
    return served


def _gevent_handshake(end: gevent.socket.socket) -> ends.Closable:
    return ends.gevent_server_context().wrap_socket(end, server_side=True)


def microseconds_per_handshake(
    handshake: Callable[[gevent.socket.socket], ends.Closable], handshakes: int
) -> float:
    """CPU time of the server's side of one handshake."""
    spent = 0
    for turn in range(handshakes + 1):
        end, client = ends.plain_pair()
        asking = ends.StepwiseClient(client)
        asking.step()  # its hello is out
        before = time.thread_time_ns()
        serving = gevent.spawn(handshake, end)
        gevent.socket.wait_read(client.fileno())
        between = time.thread_time_ns()
        asking.step()  # verifies the server and sends its own last flight
        again = time.thread_time_ns()
        served = serving.get()
        after = time.thread_time_ns()
        if turn:  # the first one warms up
            spent += between - before + after - again
        ends.close_all(served, client)
    return spent / handshakes / 1000


def rows(scale: float, tls: bool) -> list[Row]:
    """A row for each number of clients that wait; over TLS, one for the handshake.

    Args:
        scale: of the number of connections in each sample.
    """
    if tls:
        kinds = {"gnet handshake": _gnet_handshake, "gevent.ssl handshake": _gevent_handshake}
        return [
            Row(
                bench=TLS_BENCH,
                name="the server's side",
                unit="µs per handshake",
                yardstick="gevent.ssl handshake",
                subjects={
                    name: partial(microseconds_per_handshake, handshake, max(1, int(HANDSHAKES * scale)))
                    for name, handshake in kinds.items()
                },
                digits=0,
            )
        ]
    return [
        Row(
            bench=BENCH,
            name="one at a time" if queued == 1 else f"{queued} queued",
            unit="µs per accept and close",
            yardstick=GEVENT,
            subjects={
                server: partial(microseconds_per_connection, server, max(1, int(CONNECTIONS * scale)), queued)
                for server in SERVERS
            },
            digits=1,
        )
        for queued in QUEUED
    ]
