"""Users and clients against a server that follows a script, with the events that they fire.

The server is one of gevent's sockets, never of gnet's: it must be able to misbehave.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
import trustme
from gevent import socket, ssl
from locust.env import Environment
from locust.event import Events

import gnet
from gnet.locust import ConnectedUser

GUARD_SECONDS: Final = 15.0
"""Nothing in these tests takes this long unless it hangs."""

SOON: Final = 50
"""Milliseconds: the timeout of a request whose answer never comes."""

Handler = Callable[["Peer"], object]


class Peer:
    """The server's end of a connection."""

    def __init__(self, connection: Any, number: int) -> None:
        self.connection = connection
        self.number = number
        """How many connections came before this one."""
        self._buffer = b""

    def line(self) -> bytes:
        """Receive a line, its end included; `b""` at the end."""
        while b"\n" not in self._buffer:
            part = self.connection.recv(65536)
            if not part:
                return b""
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line + b"\n"

    def exactly(self, size: int) -> bytes:
        """Receive `size` bytes, fewer at the end."""
        while len(self._buffer) < size and (part := self.connection.recv(65536)):
            self._buffer += part
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def reset(self) -> None:
        """Have the client see a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def wait_for_end(self) -> None:
        """Wait until the client has gone."""
        while self.connection.recv(65536):
            pass


@dataclass
class Served:
    """A server and what came to it."""

    port: int
    host: str
    """For a user."""
    peers: list[Peer] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    """Where the connections came from."""
    lines: list[bytes] = field(default_factory=list)
    """What `answer` got."""


@contextmanager
def serving(
    handler: Handler,
    *,
    scheme: str = "tcp",
    context: ssl.SSLContext | None = None,
    address: str = "127.0.0.1",
) -> Iterator[Served]:
    """A server that runs `handler` for each connection, and closes the connection when it returns."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        served = Served(port, f"{scheme}://127.0.0.1:{port}")
        running: list[gevent.Greenlet[..., None]] = []

        def serve(connection: Any, number: int) -> None:
            with connection:
                try:
                    if context is not None:
                        connection = context.wrap_socket(
                            connection, server_side=True, do_handshake_on_connect=False
                        )
                    with connection:
                        if context is not None:
                            connection.do_handshake()
                        peer = Peer(connection, number)
                        served.peers.append(peer)
                        handler(peer)
                except OSError:
                    pass  # the client went, or refused the certificate

        def accept() -> None:
            while True:
                connection, source = listener.accept()
                served.addresses.append(source[0])
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                running.append(gevent.spawn(serve, connection, len(running)))

        acceptor = gevent.spawn(accept)
        try:
            yield served
        finally:
            acceptor.kill()
            gevent.killall(running)


def answering(answer: bytes | Callable[[bytes], bytes], delay: float = 0) -> Handler:
    """Give a handler that answers each line.

    Args:
        answer: with its line end; or what gives it for a line.
        delay: seconds from the line until the answer, exactly.
    """

    def handle(peer: Peer) -> None:
        while line := peer.line():
            due = time.perf_counter() + delay
            while (left := due - time.perf_counter()) > 0:
                gevent.sleep(left if delay else 0)
            peer.send(answer if isinstance(answer, bytes) else answer(line))

    return handle


@dataclass
class Event:
    kind: str
    name: str
    milliseconds: float
    size: int
    exception: Any
    more: dict[str, Any]


class Seen(list[Event]):
    """The events that were fired."""

    def listen(
        self,
        request_type: str,
        name: str,
        response_time: float,
        response_length: int,
        exception: object,
        **more: Any,
    ) -> None:
        self.append(Event(request_type, name, response_time, response_length, exception, more))

    def rows(self) -> list[tuple[str, str, str]]:
        """Give type, name and outcome of each, without those of connecting that went well."""
        return [
            (event.kind, event.name, type(event.exception).__name__ if event.exception else "ok")
            for event in self
            if event.exception or event.kind not in ("CONNECT", "TLS")
        ]

    def kinds(self) -> list[str]:
        return [event.kind for event in self]


def new_user(base: type[Any], host: str | None, **attributes: Any) -> tuple[Any, Seen]:
    """Make a user that no runner runs, and the list of its events."""
    environment = Environment(events=Events())
    seen = Seen()
    hooks: Any = environment.events
    hooks.request.add_listener(seen.listen)
    user_class = type("Someone", (base,), {"abstract": False, "host": host, "tasks": []} | attributes)
    return user_class(environment), seen


@contextmanager
def using(base: type[ConnectedUser], host: str, **attributes: Any) -> Iterator[tuple[Any, Seen]]:
    """A user's client and the list of its events; closed at the end."""
    user, seen = new_user(base, host, **attributes)
    try:
        yield user.client, seen
    finally:
        user.client.close()


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that is to happen in another greenlet or in the kernel."""
    with gevent.Timeout(GUARD_SECONDS):
        while not condition():
            gevent.sleep(0.001)


@dataclass
class Tls:
    """An authority and a certificate for localhost and 127.0.0.1."""

    ca_file: str
    server: ssl.SSLContext

    def client(self) -> gnet.SslContext:
        """Give what a user's `tls` is to give."""
        return gnet.new_context(ca_file=self.ca_file)


def new_tls(directory: Path) -> Tls:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    return Tls(str(ca_file), server)


def refused_port() -> int:
    """Give a port of loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
