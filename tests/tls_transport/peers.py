"""The other ends of the connections under test: peers whose every byte the test decides on.

`Peer` is pyOpenSSL's Connection in memory over a gevent socket. `RecordPeer` makes its handshake that way, on
TLS 1.3, and then seals and opens the records itself: it can send what no library would (many key updates,
empty records, pieces of records) and sees each record that came, with its type and size.
"""

from __future__ import annotations

import socket as stdlib_socket  # for its constants
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, Self, TypeVar

import gevent
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from gevent import socket
from OpenSSL import SSL

import gnet
from tests.tls_transport.keys import HOST, client_context, openssl_context, server_context

_T = TypeVar("_T")

GUARD: Final = 15_000
"""Milliseconds: nothing in these tests takes this long unless it hangs."""

# Types of records and of handshake messages (RFC 8446, B.1 and B.3).
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23
NEW_SESSION_TICKET: Final = 4
KEY_UPDATE: Final = 24

CLOSE_NOTIFY: Final = (ALERT, b"\x01\x00")

LARGEST_RECORD: Final = 16384

_HEADER: Final = struct.Struct("!BHH")


def split_records(data: bytes) -> tuple[list[bytes], bytes]:
    """Split ciphertext into records; give them and what is left of one that is not complete."""
    records = []
    while len(data) >= _HEADER.size and len(data) >= (end := _HEADER.size + _HEADER.unpack_from(data)[2]):
        records.append(data[:end])
        data = data[end:]
    return records, data


class Peer:
    """One end of TLS over a connected gevent socket, in memory, by pyOpenSSL. A context manager."""

    def __init__(self, sock: socket.socket, context: SSL.Context, *, server: bool) -> None:
        self.socket = sock
        self.connection = SSL.Connection(context, None)
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
            self.connection.set_tlsext_host_name(b"localhost")
        self._server = server
        self.unread = b""  # ciphertext that came and was not fed yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def take(self) -> bytes:
        """Take the ciphertext that is to be sent, without sending it."""
        parts = []
        while True:
            try:
                parts.append(self.connection.bio_read(1 << 16))
            except SSL.WantReadError:
                return b"".join(parts)

    def flush(self) -> None:
        """Send the ciphertext that is to be sent."""
        if data := self.take():
            self.socket.sendall(data)

    def handshake(self) -> None:
        """Make the handshake. Nothing that comes behind it is fed to the connection."""
        self.socket.sendall(self.handshake_but_for_last_flight())

    def handshake_but_for_last_flight(self) -> bytes:
        """Make the handshake and give what is still to be sent for it."""
        while True:
            try:
                self.connection.do_handshake()
            except SSL.WantReadError:
                self.flush()
                self._feed_record()
            except Exception:
                self.flush_quietly()  # the alert
                raise
            else:
                return self.take()

    def _feed_record(self) -> None:
        # One by one: what follows the handshake is for somebody else.
        while not (records := split_records(self.unread)[0]):
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError("the peer ended the stream in the handshake")
            self.unread += data
        self.connection.bio_write(records[0])
        self.unread = self.unread[len(records[0]) :]

    def encrypt(self, data: bytes) -> bytes:
        """Give the ciphertext of `data` (and of whatever else is to be sent)."""
        view = memoryview(data)
        while view:
            view = view[self.connection.send(view[:LARGEST_RECORD]) :]
        return self.take()

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        self.socket.sendall(self.encrypt(data))

    def recv(self, size: int) -> bytes:
        """Receive at least a byte, `b""` after close_notify; SSL.Error where there is none."""
        while True:
            try:
                return self.connection.recv(size)
            except SSL.ZeroReturnError:
                return b""
            except SSL.WantReadError:
                data, self.unread = self.unread or self.socket.recv(1 << 16), b""
                if data:
                    self.connection.bio_write(data)
                else:
                    self.connection.bio_shutdown()
            finally:
                self.flush_quietly()

    def flush_quietly(self) -> None:
        """Send what is to be sent, if the other end still takes it."""
        with suppress(OSError):
            self.flush()

    def recv_exactly(self, size: int) -> bytes:
        """Receive `size` bytes, fewer at the end of the stream."""
        parts = []
        while size and (part := self.recv(min(size, LARGEST_RECORD))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def recv_all(self) -> bytes:
        """Receive up to close_notify."""
        return self.recv_exactly(1 << 40)

    def close_notify(self) -> None:
        """End the stream as TLS does it; the descriptor stays open."""
        self.connection.shutdown()
        self.flush()


class Direction:
    """The traffic keys of one direction (RFC 8446, 5.2 and 7.3), for the cipher suites with AES-GCM."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        # TLS_AES_128_GCM_SHA256, or TLS_AES_256_GCM_SHA384.
        self._cipher = AESGCM(_expand(secret, b"key", 16 if len(secret) == 32 else 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")
        self.sequence = 0

    def update(self) -> None:
        """Go on to the next keys, after a KeyUpdate."""
        self._use(_expand(self._secret, b"traffic upd", len(self._secret)))

    def _nonce(self) -> bytes:
        nonce = self._iv ^ self.sequence
        self.sequence += 1
        return nonce.to_bytes(12, "big")

    def seal(self, kind: int, content: bytes) -> bytes:
        """Make a record."""
        header = _HEADER.pack(APPLICATION_DATA, 0x0303, len(content) + 17)
        return header + self._cipher.encrypt(self._nonce(), content + bytes([kind]), header)

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Open a record; give its inner type and content. Raises InvalidTag if it is out of its turn."""
        header, body = record[: _HEADER.size], record[_HEADER.size :]
        content = self._cipher.decrypt(self._nonce(), body, header).rstrip(b"\0")
        return content[-1], content[:-1]


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    label = b"tls13 " + label
    info = struct.pack("!HB", size, len(label)) + label + b"\0"
    return HKDFExpand(hashes.SHA256() if len(secret) == 32 else hashes.SHA384(), size, info).derive(secret)


class RecordPeer:
    """One end of TLS 1.3 that makes and reads its records by hand, once the handshake is made."""

    def __init__(self, sock: socket.socket, *, server: bool) -> None:
        context = openssl_context(server=server)
        self._secrets: dict[str, bytes] = {}
        context.set_keylog_callback(self._note_secret)
        self._peer = Peer(sock, context, server=server)
        self._server = server
        self.socket = sock
        self.records: list[tuple[int, bytes]] = []
        """All records that came since the handshake."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _note_secret(self, _: SSL.Connection, line: bytes) -> None:
        label, _random, secret = line.split()
        self._secrets[label.decode()] = bytes.fromhex(secret.decode())

    def handshake(self) -> None:
        """Make the handshake; from here on the keys are in this object's hands."""
        last_flight = self._peer.handshake_but_for_last_flight()
        ours, theirs = ("SERVER", "CLIENT") if self._server else ("CLIENT", "SERVER")
        self._out = Direction(self._secrets[f"{ours}_TRAFFIC_SECRET_0"])
        self._in = Direction(self._secrets[f"{theirs}_TRAFFIC_SECRET_0"])
        if self._server:  # its session tickets are records already
            self._out.sequence = len(split_records(last_flight)[0])
        self.socket.sendall(last_flight)
        self._unread = self._peer.unread

    # What to send

    def data(self, content: bytes) -> bytes:
        """Give a record of application data (which may be empty)."""
        return self._out.seal(APPLICATION_DATA, content)

    def close_notify(self) -> bytes:
        """Give the record that ends the stream."""
        return self._out.seal(*CLOSE_NOTIFY)

    def alert(self, number: int) -> bytes:
        """Give the record of a fatal alert."""
        return self._out.seal(ALERT, bytes([2, number]))

    def key_update(self, *, request: bool) -> bytes:
        """Give a record that changes our keys, and asks the other end to do so if `request`."""
        record = self._out.seal(HANDSHAKE, bytes([KEY_UPDATE, 0, 0, 1, request]))
        self._out.update()
        return record

    def ticket(self, size: int = 200) -> bytes:
        """Give a record with a session ticket (RFC 8446, 4.6.1); only servers may send it."""
        nonce = struct.pack("!Q", self._out.sequence)
        body = struct.pack("!IIB", 7200, 12345, len(nonce)) + nonce
        body += struct.pack("!H", size) + bytes(size) + struct.pack("!H", 0)
        message = bytes([NEW_SESSION_TICKET]) + len(body).to_bytes(3, "big") + body
        return self._out.seal(HANDSHAKE, message)

    def send(self, *records: bytes) -> None:
        """Send records, in one system call."""
        self.socket.sendall(b"".join(records))

    # What comes

    def receive(self) -> list[tuple[int, bytes]]:
        """Receive what comes next: type and content of each record; `[]` at the end of the stream."""
        while True:
            records, self._unread = split_records(self._unread)
            if records:
                opened = [self._opened(record) for record in records]
                self.records += opened
                return opened
            data = self.socket.recv(1 << 18)
            if not data:
                return []
            self._unread += data

    def _opened(self, record: bytes) -> tuple[int, bytes]:
        kind, content = self._in.open(record)
        if kind == HANDSHAKE and content[0] == KEY_UPDATE:
            self._in.update()
        return kind, content

    def receive_until(self, condition: Callable[[list[tuple[int, bytes]]], bool]) -> None:
        """Receive until `condition` holds of all the records so far, or the stream ends."""
        while not condition(self.records) and self.receive():
            pass

    def receive_data(self, size: int) -> bytes:
        """Receive until there are `size` bytes of application data in all; give them."""
        self.receive_until(lambda _: len(self.received()) >= size)
        return self.received()

    def received(self) -> bytes:
        """The application data of all records so far."""
        return b"".join(content for kind, content in self.records if kind == APPLICATION_DATA)

    def key_updates(self) -> int:
        """How many key updates came."""
        return sum(kind == HANDSHAKE and content[0] == KEY_UPDATE for kind, content in self.records)


# Connections


@contextmanager
def plain_listener(buffers: int = 0) -> Iterator[socket.socket]:
    """A gevent socket that listens; `buffers` as in `wire`."""
    with socket.socket() as listener:
        listener.settimeout(GUARD / 1000)
        _set_buffers(listener, buffers)
        listener.bind((HOST, 0))
        listener.listen()
        yield listener


def _set_buffers(sock: socket.socket, size: int) -> None:
    if size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@contextmanager
def wire(*, buffers: int = 0) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A TCP connection over loopback: our end is gnet's, in clear, the other a gevent socket's.

    Args:
        buffers: SO_RCVBUF and SO_SNDBUF of both ends; 0: as large as the kernel makes them.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(plain_listener(buffers))
        raw = socket.socket()
        _set_buffers(raw, buffers)
        raw.connect(listener.getsockname())
        ours = stack.enter_context(gnet.Socket.adopt(raw))
        ours.timeout = GUARD
        other = stack.enter_context(listener.accept()[0])
        other.settimeout(GUARD / 1000)
        other.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        yield ours, other


def secure(ours: gnet.Socket, *, server: bool, context: gnet.SslContext | None = None) -> None:
    """Make gnet's end of a handshake."""
    if server:
        context = context or server_context()
        context.wrap_connected_socket(ours, gnet.SslHandshakeType.AS_SERVER)
    else:
        context = context or client_context()
        context.wrap_connected_socket(ours, gnet.SslHandshakeType.AS_CLIENT, HOST)


def at_once(*calls: Callable[[], _T]) -> list[_T]:
    """Make calls in greenlets of their own; give their results, raise what one of them raised."""
    greenlets = [gevent.spawn(call) for call in calls]
    try:
        gevent.joinall(greenlets, timeout=GUARD / 1000, raise_error=True)
        return [greenlet.get(block=False) for greenlet in greenlets]
    finally:
        gevent.killall(greenlets)


@contextmanager
def with_peer(
    *,
    server: bool = True,
    version: str = "TLSv1.3",
    context: gnet.SslContext | None = None,
    buffers: int = 0,
) -> Iterator[tuple[gnet.Socket, Peer]]:
    """A gnet socket and a `Peer`, the handshake made.

    Args:
        server: gnet's end is the server.
        buffers: as in `wire`.
    """
    with wire(buffers=buffers) as (ours, other):
        peer = Peer(other, openssl_context(server=not server, version=version), server=not server)
        at_once(lambda: secure(ours, server=server, context=context), peer.handshake)
        yield ours, peer


@contextmanager
def with_record_peer(
    *, server: bool = True, context: gnet.SslContext | None = None, buffers: int = 0
) -> Iterator[tuple[gnet.Socket, RecordPeer]]:
    """A gnet socket and a `RecordPeer`, the handshake made.

    Args:
        server: gnet's end is the server.
        buffers: as in `wire`.
    """
    with wire(buffers=buffers) as (ours, other):
        peer = RecordPeer(other, server=not server)
        at_once(lambda: secure(ours, server=server, context=context), peer.handshake)
        yield ours, peer


@contextmanager
def tls_listener(context: gnet.SslContext | None = None) -> Iterator[gnet.Socket]:
    """A gnet socket that listens; what it accepts speaks TLS."""
    with gnet.new_socket() as listener:
        listener.bind_addr(address=HOST)
        listener.listen()
        (context or server_context()).wrap_socket(listener)
        listener.timeout = GUARD
        yield listener


@contextmanager
def before_handshake(context: gnet.SslContext | None = None) -> Iterator[tuple[gnet.Socket, Peer]]:
    """A gnet socket that was accepted, and the client it has not made its handshake with yet."""
    with tls_listener(context) as listener, socket.socket() as other:
        other.settimeout(GUARD / 1000)
        other.connect(listener.get_local_addr())
        other.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        with listener.accept() as ours:
            ours.timeout = GUARD
            yield ours, Peer(other, openssl_context(server=False), server=False)


def reset(peer: socket.socket) -> None:
    """Close a socket so that the other end sees a reset (and first, what was sent before)."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def error_of(call: Callable[..., object], *arguments: Any) -> BaseException:
    """Make a call that is to raise, and give what it raised."""
    try:
        result = call(*arguments)
    except Exception as error:
        return error
    raise AssertionError(f"no error, but {result!r}")
