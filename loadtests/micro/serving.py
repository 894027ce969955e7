"""Servers in this process: a bare accept loop of gnet's, `gnet.Server`, and gevent's StreamServer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.server
import gevent.socket

import gnet

PING, PONG = b"PING\r\n", b"+PONG\r\n"
BACKLOG = 1024

OnClient = Callable[[Any], object]


def answer_with_gnet(client: gnet.Socket) -> None:
    """Answer each line."""
    for _line in client.lines():
        client.send(PONG)


def answer_with_gevent(client: gevent.socket.socket) -> None:
    """Answer each line."""
    with client.makefile("rb") as lines:
        while lines.readline():
            client.sendall(PONG)


def hang_up(_client: object) -> None:
    """Have nothing to say: the server closes the connection."""


@contextmanager
def _bare_gnet(on_client: OnClient) -> Iterator[int]:
    def serve(client: gnet.Socket) -> None:
        with client:
            on_client(client)

    def accept(listener: gnet.Socket) -> None:
        while True:
            client, _address = listener.accept_addr()
            gevent.spawn(serve, client)

    with gnet.new_socket() as listener:
        listener.bind_addr(0, "127.0.0.1")
        listener.listen(BACKLOG)
        accepting = gevent.spawn(accept, listener)
        try:
            yield int(listener.get_local_addr()[1])
        finally:
            accepting.kill()


@contextmanager
def _gnet_server(on_client: OnClient) -> Iterator[int]:
    def serve(client: gnet.Socket, _address: str) -> None:
        on_client(client)

    server = gnet.Server(serve, "127.0.0.1")
    server.start()
    try:
        yield server.port
    finally:
        server.close()


@contextmanager
def _gevent_server(on_client: OnClient) -> Iterator[int]:
    def serve(client: gevent.socket.socket, _address: object) -> None:
        client.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)  # as gnet does by itself
        on_client(client)

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve, backlog=BACKLOG)
    server.start()
    try:
        port = server.server_port
        assert port is not None
        yield port
    finally:
        server.stop(timeout=0)


BARE, SERVER, GEVENT = "gnet, bare accept loop", "gnet.Server", "gevent StreamServer"
SERVERS = {BARE: _bare_gnet, SERVER: _gnet_server, GEVENT: _gevent_server}
"""Each takes what to do with a client, which it closes afterwards, and gives the port it listens on."""


def answering(server: str) -> Any:
    """Give a server that answers +PONG to every line, as a context manager."""
    return SERVERS[server](answer_with_gevent if server == GEVENT else answer_with_gnet)
