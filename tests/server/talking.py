"""What the tests of deadlines, handlers, ends and drains share: clients in clear and on TLS, and calls."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from OpenSSL import SSL

import gnet
from gnet.server import Server
from gnet.watching import Wait
from tests.faults.peers import GUARD, wait_until
from tests.server.peers import connect
from tests.tls_transport import keys
from tests.tls_transport.peers import Peer

SHORT: Final = 150
"""Milliseconds: a deadline that is meant to be over in a test."""

MARGIN: Final = 5
"""How many times as long things may take on a machine that is busy with other tests."""


@functools.cache
def context() -> gnet.SslContext:
    """The TLS context of servers; it asks for no client certificate."""
    return keys.server_context(verify_mode=gnet.SslCVerifyMode.NONE)


class Client:
    """A raw client in clear."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.raw.sendall(data)

    def recv(self, size: int) -> bytes:
        """Receive at least a byte; `b""` at an orderly end (on TLS: close_notify), else an error."""
        return self.raw.recv(size)

    def recv_exactly(self, size: int) -> bytes:
        """Receive `size` bytes, fewer at an orderly end."""
        received = b""
        while len(received) < size and (part := self.recv(min(1 << 16, size - len(received)))):
            received += part
        return received

    def recv_all(self) -> bytes:
        """Receive up to an orderly end."""
        return self.recv_exactly(1 << 40)

    def end(self) -> None:
        """End this side of the stream in an orderly way; the other one stays open."""
        self.raw.shutdown(socket.SHUT_WR)


class TlsClient(Client):
    """A raw client on TLS, by pyOpenSSL."""

    def __init__(self, raw: socket.socket, version: str = "TLSv1.3") -> None:
        super().__init__(raw)
        self.peer = Peer(raw, keys.openssl_context(server=False, version=version), server=False)
        try:
            self.peer.handshake()
        except BaseException:
            raw.close()
            raise

    def send(self, data: bytes) -> None:
        self.peer.send(data)

    def recv(self, size: int) -> bytes:
        return self.peer.recv(size)

    def end(self) -> None:
        self.peer.close_notify()
        super().end()


@dataclass(frozen=True)
class Kind:
    """What a connection speaks."""

    name: str
    make: Callable[[socket.socket], Client]
    is_tls: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """What the server needs for it."""
        return {"ssl_context": context} if self.is_tls else {}

    def connect(self, server: Server, receive_buffer: int = 0) -> Client:
        """Connect with a server."""
        if not receive_buffer:
            return self.make(connect(server))
        raw = socket.socket()
        raw.settimeout(GUARD / 1000)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)  # before: it bounds the window
        raw.connect(("127.0.0.1", server.port))
        return self.make(raw)


PLAIN: Final = Kind("plain", Client, False)
TLS: Final = Kind("TLS", TlsClient, True)

kinds: Final = pytest.mark.parametrize("kind", [PLAIN, TLS], ids=lambda kind: kind.name)


def client_hello() -> bytes:
    """Give the first bytes of a TLS client."""
    with socket.socket() as unused:
        peer = Peer(unused, keys.openssl_context(server=False), server=False)
        with pytest.raises(SSL.WantReadError):
            peer.connection.do_handshake()
        return peer.take()


class Calls:
    """What calls gave or raised, in order, and when; a handler notes them, the test waits for them."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.times: list[float] = []
        self.greenlets: list[Any] = []

    def __call__(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Make a call and note what came of it; give that."""
        try:
            result = call(*arguments, **keywords)
        except Exception as error:
            result = error.with_traceback(None)
        self.note(result)
        return result

    def note(self, result: Any) -> None:
        """Note something."""
        self.results.append(result)
        self.times.append(time.monotonic())

    def wait(self, count: int) -> list[Any]:
        """Wait until there are so many."""
        wait_until(lambda: len(self.results) >= count, f"{count} calls are done, not {self.results}")
        return self.results

    def only(self) -> Any:
        """Wait for the first one, and give it."""
        return self.wait(1)[0]


class Held:
    """A handler that answers each line, and waits in between until it is let go on."""

    def __init__(self) -> None:
        self.inside = 0
        self.go = Event()

    def __call__(self, client: gnet.Socket, _address: str) -> None:
        line = client.read_line()
        if not line:
            return
        self.inside += 1
        self.go.wait()
        client.send(b"answer to " + line + b"\n")

    def wait_for(self, count: int) -> None:
        """Wait until so many connections have sent their line."""
        wait_until(lambda: self.inside >= count, f"{count} handlers have their line, not {self.inside}")


def compute(milliseconds: float) -> None:
    """Keep the whole process busy, as a handler does that computes."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass


def stopping(server: Server, *arguments: Any) -> Any:
    """Have the server stopped by a greenlet, which is given; return when it drains."""
    greenlet = gevent.spawn(server.stop, *arguments)
    wait_until(lambda: server.draining, "the server drains")
    return greenlet


def timeouts(server: Server) -> dict[str, int]:
    """Give how many waits the server ended, by kind; without those that are 0."""
    counted = {wait.value: server._terms.statistics.timeouts[wait] for wait in Wait}
    return {kind: count for kind, count in counted.items() if count}


def milliseconds_of(call: Callable[..., Any], *arguments: Any) -> float:
    """Give how long a call took."""
    start = time.monotonic()
    call(*arguments)
    return (time.monotonic() - start) * 1000
