"""Two connected ends in this process, plain or TLS, for what a call on one of them costs."""

from __future__ import annotations

import os
import ssl
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import gevent
import gevent.socket
import gevent.ssl

import gnet
from loadtests.certificates import CertificateFiles, make_certificates

FLIGHT_BYTES = 65536  # more than any flight of a handshake

# Room for what nobody looks at.
_dropped = bytearray(1 << 20)


class Closable(Protocol):
    def close(self) -> None: ...


@cache
def _certificates() -> tuple[tempfile.TemporaryDirectory[str], CertificateFiles]:
    folder = tempfile.TemporaryDirectory(prefix="gnet-micro-")  # goes with the process
    return folder, make_certificates(Path(folder.name))


def certificates() -> CertificateFiles:
    """An authority and a certificate of this run's own."""
    return _certificates()[1]


@cache
def gnet_server_context() -> gnet.SslContext:
    files = certificates()
    return gnet.new_context(
        verify_mode=gnet.SslCVerifyMode.NONE, cert_file=str(files.cert), key_file=str(files.key)
    )


@cache
def gnet_client_context() -> gnet.SslContext:
    return gnet.new_context(ca_file=str(certificates().ca))


@cache
def gevent_server_context() -> gevent.ssl.SSLContext:
    files = certificates()
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    return context


@cache
def gevent_client_context() -> gevent.ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates().ca)
    return context


def plain_pair() -> tuple[gevent.socket.socket, gevent.socket.socket]:
    """A socket pair: the least work for the kernel, so that what the library does weighs most."""
    return gevent.socket.socketpair()


def gnet_pair(tls: bool) -> tuple[gnet.Socket, gnet.Socket]:
    """A server's end and a client's."""
    server, client = (gnet.Socket.adopt(end) for end in plain_pair())
    if tls:
        wrapping = gevent.spawn(
            gnet_client_context().wrap_connected_socket,
            client,
            gnet.SslHandshakeType.AS_CLIENT,
            "localhost",
        )
        gnet_server_context().wrap_connected_socket(server, gnet.SslHandshakeType.AS_SERVER)
        wrapping.get()
    return server, client


def gevent_pair(tls: bool) -> tuple[gevent.socket.socket, gevent.socket.socket]:
    """A server's end and a client's."""
    server, client = plain_pair()
    return gevent_tls(server, client) if tls else (server, client)


def gevent_tls(
    server: gevent.socket.socket, client: gevent.socket.socket
) -> tuple[gevent.ssl.SSLSocket, gevent.ssl.SSLSocket]:
    """Make the handshake between two connected ends."""
    wrapping = gevent.spawn(gevent_client_context().wrap_socket, client, server_hostname="localhost")
    served = gevent_server_context().wrap_socket(server, server_side=True)
    return served, wrapping.get()


def gnet_beside_gevent(
    server: gevent.socket.socket, client: gevent.socket.socket
) -> tuple[gnet.Socket, gevent.ssl.SSLSocket]:
    """Make the handshake of gnet's server end with a client of gevent's."""
    wrapping = gevent.spawn(gevent_client_context().wrap_socket, client, server_hostname="localhost")
    served = gnet.Socket.adopt(server)
    gnet_server_context().wrap_connected_socket(served, gnet.SslHandshakeType.AS_SERVER)
    return served, wrapping.get()


def drop_input(descriptor: int) -> None:
    """Read and forget what the kernel has for a descriptor, in clear or not."""
    with suppress(BlockingIOError):
        while os.readv(descriptor, [_dropped]):
            pass


def close_all(*ends: Any) -> None:
    """Close without a goodbye that nobody would read."""
    for end in ends:
        if isinstance(end, gnet.Socket):
            end.close(timeout=0)
        else:
            end.close()


class StepwiseClient:
    """A TLS client that makes its handshake one flight at a time, and waits for nothing in between."""

    def __init__(self, sock: gevent.socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = gevent_client_context().wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost"
        )

    def step(self) -> None:
        """Read the flight that is there, if one is, and send what answers it."""
        with suppress(BlockingIOError):
            self._incoming.write(self._sock.recv(FLIGHT_BYTES))
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._sock.sendall(self._outgoing.read())
