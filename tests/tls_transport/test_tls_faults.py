"""What must not hurt TLS: rows B7, C10–C14, D6, D7, D13, E1, E10–E18, E21, E22, E25 of the catalogue."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import itertools
import json
import os
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from gevent import socket, ssl, subprocess
from gevent.monkey import get_original
from OpenSSL import SSL

import gnet
from gnet.tls.failures import TRUNCATED
from tests.conftest import PATCHED
from tests.loopback import LATE, SOON
from tests.tls_transport.keys import (
    HOST,
    client_context,
    keys,
    openssl_context,
    server_context,
    stdlib_context,
)
from tests.tls_transport.peers import (
    ALERT,
    CLOSE_NOTIFY,
    GUARD,
    HANDSHAKE,
    Peer,
    RecordPeer,
    at_once,
    before_handshake,
    error_of,
    plain_listener,
    reset,
    secure,
    split_records,
    tls_listener,
    wire,
    with_peer,
    with_record_peer,
)

_ROOT: Final = Path(__file__).parents[2]

MEGABYTE: Final = bytes(itertools.islice(itertools.cycle(range(251)), 1_000_000))
SMALL: Final = 4096

# Alerts (RFC 8446, B.2).
UNEXPECTED_MESSAGE: Final = 10
RECORD_OVERFLOW: Final = 22
HANDSHAKE_FAILURE: Final = 40
PROTOCOL_VERSION: Final = 70
INAPPROPRIATE_FALLBACK: Final = 86
NO_RENEGOTIATION: Final = 100


# A server as one writes it


@dataclass
class Service:
    """A TLS line server that echoes."""

    address: tuple[str, int]
    failures: list[OSError] = field(default_factory=list)
    """How connections ended that did not end well."""

    def check(self) -> None:
        """Be a good client."""
        with gnet.dial(*self.address, ssl_context=client_context(), timeout=GUARD) as client:
            client.send(b"hello\n", timeout=GUARD)
            assert client.read_line(timeout=GUARD) == b"hello"

    def wait_for_failures(self, count: int) -> None:
        """Wait until so many connections ended badly."""
        with gevent.Timeout(GUARD / 1000, AssertionError(f"{self.failures} of {count} failures")):
            while len(self.failures) < count:
                gevent.sleep(0.002)


@contextmanager
def serving(context: gnet.SslContext | None = None, handshake_timeout: float = GUARD) -> Iterator[Service]:
    with tls_listener(context) as listener:
        listener.timeout = -1
        service = Service(listener.get_local_addr())

        def serve(client: gnet.Socket) -> None:
            try:
                with client:
                    client.do_handshake(timeout=handshake_timeout)
                    for line in client.lines(timeout=GUARD):
                        client.send(line + b"\n")
            except OSError as error:
                service.failures.append(error)

        def accept() -> None:
            while True:
                handlers.append(gevent.spawn(serve, listener.accept()))

        handlers: list[Any] = []
        accepting = gevent.spawn(accept)
        try:
            yield service
            assert not accepting.dead, "the accept loop has died"
        finally:
            gevent.killall([accepting, *handlers])


@contextmanager
def raw_client(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(service.address) as client:
        client.settimeout(GUARD / 1000)
        yield client


def all_from(client: socket.socket) -> bytes:
    """Receive up to the end of the stream, or a reset."""
    received = b""
    with suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            received += part
    return received


def alert_in(ciphertext: bytes) -> int | None:
    """Give the number of the alert in clear that these records end with, if they do."""
    records, _ = split_records(ciphertext)
    return records[-1][6] if records and records[-1][0] == ALERT and len(records[-1]) == 7 else None


# B7: many idle connections


@contextmanager
def program(name: str, *arguments: object) -> Iterator[Any]:
    """A program of `tests.tls_transport.programs`; gives what reads its next line, and the process."""
    pair = keys().server
    command = [sys.executable, *(["-m", "gevent.monkey", "--module"] if PATCHED else ["-m"])]
    command += ["tests.tls_transport.programs", name, pair.cert_file, pair.key_file, *map(str, arguments)]
    path = os.pathsep.join([str(Path(gnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        yield lambda: json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_b7_an_idle_connection_that_sent_a_line_takes_little_memory() -> None:
    count = 300
    context = openssl_context(server=False)
    with program("serve_idle", count) as next_line, ExitStack() as stack:
        address = (HOST, next_line()["port"])

        def connect() -> None:
            peer = stack.enter_context(Peer(socket.create_connection(address), context, server=False))
            peer.handshake()
            peer.send(b"a line\n")
            assert peer.recv_exactly(7) == b"a line\n"

        for _ in range(20):
            connect()
        assert next_line()["ready"]
        for _ in range(count):
            connect()
        # 42 is the aim for many thousands; the first few hundred pay for the heap's growth in steps.
        assert next_line()["kib"] / count < 60


def test_b7_a_burst_leaves_no_memory_behind() -> None:
    count, size = 150, 100_000
    context = openssl_context(server=False)
    with program("burst", count, size) as next_line, ExitStack() as stack:
        address = (HOST, next_line()["port"])
        peers = []
        for _ in range(count):
            peer = stack.enter_context(Peer(socket.create_connection(address), context, server=False))
            peer.handshake()
            peer.send(b"a line\n")
            assert peer.recv_exactly(7) == b"a line\n"
            peers.append(peer)
        for peer in peers:
            assert next_line()["go"]
            peer.send(bytes(size))
            assert len(peer.recv_exactly(size)) == size
            peer.send(b"a line\n")
        # Each would keep more than 200 KiB in its memory BIOs.
        assert next_line()["kib"] / count < 30


# C10, C11, C12: something else than TLS


GARBAGE: Final = {
    "c10-http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "c10-long-http": b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000),
    "c11-zeros": bytes(200),
    "c11-text": b"hello, who is there?\r\n",
    "c11-random": hashlib.shake_128(b"c11").digest(5000),
    "c12-65535": b"\x16\x03\x01\xff\xff" + bytes(70_000),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_c10_c11_c12_garbage_is_an_ssl_error_of_that_connection_only(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving() as service:
        with raw_client(service) as client:
            with suppress(ConnectionResetError, BrokenPipeError):
                client.sendall(GARBAGE[name])
            received = all_from(client)
        service.wait_for_failures(1)
        (failure,) = service.failures
        assert isinstance(failure, gnet.SslError)
        assert failure.reason
        assert HOST in str(failure)
        assert received == b"" or alert_in(received) is not None
        service.check()
    assert capfd.readouterr() == ("", "")


def test_c12_a_record_of_65535_bytes_is_answered_with_record_overflow() -> None:
    with serving() as service, raw_client(service) as client:
        client.sendall(b"\x16\x03\x01\xff\xff" + bytes(70_000))
        assert alert_in(all_from(client)) == RECORD_OVERFLOW


def test_c12_so_is_one_in_the_middle_of_the_stream() -> None:
    with with_record_peer() as (ours, peer):
        peer.send(peer.data(b"good"), b"\x17\x03\x03\xff\xff" + bytes(100))
        assert ours.recv(4) == b"good"
        with pytest.raises(gnet.SslError), gevent.Timeout(5, AssertionError("it is here already")):
            ours.recv(1)
        peer.receive_until(lambda records: bool(records) and records[-1][0] == ALERT)
        assert peer.records[-1] == (ALERT, bytes([2, RECORD_OVERFLOW]))


# C13: connect and close at once


@pytest.mark.parametrize("end", ["close", "reset"])
def test_c13_clients_that_connect_and_leave_are_passed_over(
    end: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving() as service:
        for _ in range(20):
            with raw_client(service) as client:
                if end == "reset":
                    reset(client)
        service.wait_for_failures(20)
        assert {type(failure) for failure in service.failures} == {gnet.SslError}
        service.check()
    assert capfd.readouterr() == ("", "")


# C14: the other way round


def test_c14_a_tls_client_on_a_plain_port_is_told_and_does_not_hang() -> None:
    with plain_listener() as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"-ERR unknown command\r\n")
                connection.recv(1 << 16)

        serving_plainly = gevent.spawn(serve)
        with pytest.raises(gnet.SslError, match="does not speak TLS"):
            gnet.dial(*listener.getsockname(), ssl_context=client_context(), timeout=GUARD)
        serving_plainly.get()


def test_c14_a_plain_server_reads_a_client_hello_as_binary_and_ends_in_time() -> None:
    with wire() as (ours, other):
        peer = Peer(other, openssl_context(server=False), server=False)
        with suppress(SSL.WantReadError):
            peer.connection.do_handshake()
        hello = peer.take()
        other.sendall(hello)
        with pytest.raises(gnet.TimeoutError):
            ours.recv_until(b"\r\n\r\n", timeout=SOON)
        assert ours.recv(len(hello)) == hello


# D6, D7, D13: timeouts, and both directions at once


def test_d6_a_server_handshake_that_times_out_gives_its_descriptor_back() -> None:
    with serving(handshake_timeout=SOON) as service, raw_client(service) as silent:
        service.wait_for_failures(1)
        assert isinstance(service.failures[0], gnet.TimeoutError)
        assert all_from(silent) == b""  # it was closed
        service.check()


def test_d6_a_client_handshake_that_times_out_names_its_phase() -> None:
    with plain_listener() as listener:  # which nobody accepts from
        address = listener.getsockname()
        start = time.monotonic()
        with pytest.raises(gnet.TimeoutError, match="handshake"):
            gnet.dial(*address, ssl_context=client_context(), timeout=SOON)
        assert (time.monotonic() - start) * 1000 < LATE
        with listener.accept()[0] as other:
            other.settimeout(GUARD / 1000)
            assert all_from(other)[:1] == b"\x16"  # the end follows


def test_d7_after_a_send_that_timed_out_the_next_one_says_so() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        with pytest.raises(gnet.TimeoutError) as cut:
            ours.send(MEGABYTE, timeout=SOON)
        for _ in range(2):
            with pytest.raises(gnet.BrokenSendError) as broken:
                ours.send(b"another message")
            assert broken.value.bytes_sent == cut.value.bytes_sent
        assert peer.receive_data(cut.value.bytes_sent) == MEGABYTE[: cut.value.bytes_sent]


def test_d13_reader_and_writer_share_a_connection() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):

        def send() -> None:
            for at in range(0, len(MEGABYTE), 10_000):
                peer.send(peer.data(MEGABYTE[at : at + 10_000]))

        _, received, _, sent = at_once(
            lambda: ours.send(MEGABYTE),
            lambda: ours.recv(len(MEGABYTE)),
            send,
            lambda: peer.receive_data(len(MEGABYTE)),
        )
        assert received == MEGABYTE
        assert sent == MEGABYTE


# E1: truncation


@pytest.mark.parametrize("read", ["recv", "read_line", "lines", "recv_exactly", "recv_until"])
def test_e1_a_stream_without_close_notify_is_an_error_after_its_data(read: str) -> None:
    with with_record_peer() as (ours, peer):
        peer.send(peer.data(b"a line\nand a tail"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert ours.read_line() == b"a line"
        if read == "recv":
            assert ours.recv(100) == b"and a tail"
        calls: dict[str, Callable[[], object]] = {
            "recv": lambda: ours.recv(1),
            "read_line": ours.read_line,
            "lines": lambda: next(ours.lines()),
            "recv_exactly": lambda: ours.recv_exactly(100),
            "recv_until": lambda: ours.recv_until(b"\0"),
        }
        for _ in range(2):
            with pytest.raises(gnet.SslError) as truncated:
                calls[read]()
            assert truncated.value.reason == TRUNCATED
        if read != "recv":
            assert ours.recv(10) == b"and a tail"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_e1_a_stream_cut_at_any_byte_gives_its_whole_records_and_the_error(end: str) -> None:
    pieces = [b"first line\n", b"second line\n"]
    sealed = [len(piece) + 22 for piece in pieces]
    whole = sum(sealed) + 24  # with close_notify
    for at in range(whole + 1):
        with with_record_peer(server=False) as (ours, peer):
            wire_bytes = b"".join([*map(peer.data, pieces), peer.close_notify()])
            assert len(wire_bytes) == whole
            peer.socket.sendall(wire_bytes[:at])
            complete = [
                piece for piece, size in zip(pieces, itertools.accumulate(sealed), strict=True) if at >= size
            ]
            received = ours.recv(len(b"".join(complete)))
            assert received == b"".join(complete), f"cut at {at}"
            if end == "reset":
                reset(peer.socket)
            else:
                peer.socket.shutdown(socket.SHUT_WR)
            if at == whole:
                assert ours.recv(1) == b""
            else:
                with pytest.raises(gnet.SslError):
                    ours.recv(1)


# E10: downgrades


def forward(source: socket.socket, target: socket.socket, change: Callable[[bytes], bytes] = bytes) -> None:
    """Forward what comes, the first piece of it changed."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(change(data))
            change = bytes
        target.shutdown(socket.SHUT_WR)


@contextmanager
def man_in_the_middle(address: Any, change: Callable[[bytes], bytes]) -> Iterator[Any]:
    """Gives an address; what connects there is forwarded, the client's first bytes changed."""
    with plain_listener() as listener, ExitStack() as stack:

        def serve() -> None:
            client = stack.enter_context(listener.accept()[0])
            server = stack.enter_context(socket.create_connection(address))
            at_once(lambda: forward(client, server, change), lambda: forward(server, client))

        serving_it = gevent.spawn(serve)
        yield listener.getsockname()
        serving_it.kill()


SUPPORTED_VERSIONS: Final = b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03"
"""The extension of a client that offers TLS 1.3 and 1.2."""


def test_e10_a_client_sees_that_somebody_took_its_offer_of_tls_1_3_away() -> None:
    # The server takes it for a client of TLS 1.2, and says so in its random number (RFC 8446, 4.1.3).
    def hide(hello: bytes) -> bytes:
        assert hello.count(SUPPORTED_VERSIONS) == 1
        return hello.replace(SUPPORTED_VERSIONS, b"\xfa\xfa" + SUPPORTED_VERSIONS[2:])

    with serving() as service, man_in_the_middle(service.address, hide) as address:
        with pytest.raises(gnet.SslError) as downgraded:
            gnet.dial(*address, ssl_context=client_context(), timeout=GUARD)
        assert downgraded.value.reason == "inappropriate fallback"
        service.wait_for_failures(1)


def test_e10_the_same_client_is_served_where_nobody_interferes() -> None:
    with (
        serving() as service,
        man_in_the_middle(service.address, bytes) as address,
        gnet.dial(*address, ssl_context=client_context(), timeout=GUARD) as client,
    ):
        assert client.ssl_handle.get_protocol_version_name() == "TLSv1.3"


def openssl(*arguments: str, needs_program: Callable[[str], str]) -> Any:
    return subprocess.Popen(
        [needs_program("openssl"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_e10_a_fallback_that_no_server_needs_is_refused(needs_program: Callable[[str], str]) -> None:
    with serving() as service:
        process = openssl(
            "s_client",
            "-connect",
            "{}:{}".format(*service.address),
            "-fallback_scsv",
            "-no_tls1_3",
            needs_program=needs_program,
        )
        output, _ = process.communicate(b"", timeout=GUARD / 1000)
        assert b"inappropriate fallback" in output
        service.wait_for_failures(1)
        assert isinstance(service.failures[0], gnet.SslError)
        assert service.failures[0].reason == "inappropriate fallback"


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_e10_a_server_below_tls_1_2_is_refused(version: str, needs_program: Callable[[str], str]) -> None:
    pair = keys().server
    process = openssl(
        "s_server",
        version,
        "-accept",
        f"{HOST}:0",
        "-cipher",
        "ALL:@SECLEVEL=0",
        "-cert",
        pair.cert_file,
        "-key",
        pair.key_file,
        needs_program=needs_program,
    )
    try:
        line = next(line for line in process.stdout if line.startswith(b"ACCEPT"))
        port = int(line.rsplit(b":", 1)[1])
        with pytest.raises(gnet.SslError) as refused:
            gnet.dial(HOST, port, ssl_context=client_context(), timeout=GUARD)
        assert "version" in refused.value.reason or "protocol" in refused.value.reason
    finally:
        process.kill()
        process.communicate()


# E11: renegotiation, which TLS 1.2 still has


class Tls12Client:
    """A client of TLS 1.2 that makes its records by hand, once the handshake is made (RFC 5288)."""

    def __init__(self, sock: socket.socket) -> None:
        context = openssl_context(server=False, version="TLSv1.2")
        context.set_cipher_list(b"ECDHE-ECDSA-AES128-GCM-SHA256")
        self._master = b""
        context.set_keylog_callback(self._note_secret)
        self._peer = Peer(sock, context, server=False)
        self.socket = sock
        self.hello = b""

    def _note_secret(self, _: SSL.Connection, line: bytes) -> None:
        self._master = bytes.fromhex(line.split()[2].decode())

    def handshake(self) -> None:
        connection = self._peer.connection
        with suppress(SSL.WantReadError):
            connection.do_handshake()
        flight = self._peer.take()
        self.hello = flight[5:]
        self.socket.sendall(flight)
        self._peer.handshake()
        seed = b"key expansion" + connection.server_random() + connection.client_random()
        keys_and_salts = _p_sha256(self._master, seed, 40)
        self._out, self._in = AESGCM(keys_and_salts[:16]), AESGCM(keys_and_salts[16:32])
        self._salt_out, self._salt_in = keys_and_salts[32:36], keys_and_salts[36:]
        self._sent = self._received = 1  # the messages Finished
        self._unread = self._peer.unread

    def seal(self, kind: int, content: bytes) -> bytes:
        number = struct.pack("!Q", self._sent)
        self._sent += 1
        header = struct.pack("!BHH", kind, 0x0303, len(content))
        sealed = self._out.encrypt(self._salt_out + number, content, number + header)
        return struct.pack("!BHH", kind, 0x0303, len(sealed) + 8) + number + sealed

    def receive(self) -> list[tuple[int, bytes]]:
        """Receive at least a record, `[]` at the end of the stream."""
        while not (records := split_records(self._unread)[0]):
            data = self.socket.recv(1 << 16)
            if not data:
                return []
            self._unread += data
        self._unread = split_records(self._unread)[1]
        return [(record[0], self._open(record)) for record in records]

    def _open(self, record: bytes) -> bytes:
        number = struct.pack("!Q", self._received)
        self._received += 1
        header = struct.pack("!BHH", record[0], 0x0303, len(record) - 5 - 8 - 16)
        return self._in.decrypt(self._salt_in + record[5:13], record[13:], number + header)


def _p_sha256(secret: bytes, seed: bytes, size: int) -> bytes:
    """P_SHA256 of RFC 5246, section 5."""
    block, output = seed, b""
    while len(output) < size:
        block = hmac.digest(secret, block, "sha256")
        output += hmac.digest(secret, block + seed, "sha256")
    return output[:size]


@contextmanager
def with_tls_1_2_client() -> Iterator[tuple[gnet.Socket, Tls12Client]]:
    with wire() as (ours, other):
        client = Tls12Client(other)
        at_once(lambda: secure(ours, server=True), client.handshake)
        yield ours, client


def test_e11_renegotiation_is_refused_and_never_made() -> None:
    with with_tls_1_2_client() as (ours, client):
        reading = gevent.spawn(ours.recv, 4)
        client.socket.sendall(client.seal(HANDSHAKE, client.hello))
        assert client.receive() == [(ALERT, bytes([1, NO_RENEGOTIATION]))]
        client.socket.sendall(client.seal(23, b"data"))
        assert reading.get() == b"data"
        assert ours.ssl_handle.total_renegotiations() == 0


def test_e11_a_flood_of_renegotiations_gets_no_handshake_and_stops_nobody() -> None:
    with serving() as service, with_tls_1_2_client() as (ours, client):
        reading = gevent.spawn(error_of, ours.recv, 4)
        flood = b"".join(client.seal(HANDSHAKE, client.hello) for _ in range(2000))

        def send() -> None:
            with suppress(OSError):
                client.socket.sendall(flood)

        sending = gevent.spawn(send)
        at_once(service.check, service.check)
        assert set(client.receive()) <= {(ALERT, bytes([1, NO_RENEGOTIATION]))}
        assert ours.ssl_handle.total_renegotiations() == 0
        gevent.killall([sending, reading])


def test_e11_the_refusal_after_a_burst_is_sent() -> None:
    # With the burst read, the connection gives back its memory; the refusal must not go with it.
    with with_tls_1_2_client() as (ours, client):
        client.socket.sendall(b"".join(client.seal(23, bytes(10_000)) for _ in range(5)))
        assert len(ours.recv(50_000)) == 50_000
        reading = gevent.spawn(ours.recv, 4)
        gevent.sleep(0)
        client.socket.sendall(client.seal(HANDSHAKE, client.hello))
        client.socket.settimeout(2)
        assert client.receive() == [(ALERT, bytes([1, NO_RENEGOTIATION]))]
        reading.kill()


# E12: a handshake that does not come to its end


def client_hello() -> bytes:
    connection = SSL.Connection(openssl_context(server=False), None)
    connection.set_connect_state()
    with suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(1 << 16)


def drip(client: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
            gevent.sleep(0.005)


STALLS: Final[dict[str, Callable[[socket.socket], object]]] = {
    "silence": lambda client: None,
    "one byte": lambda client: client.sendall(b"\x16"),
    "half a ClientHello": lambda client: client.sendall(client_hello()[:100]),
    "drip": lambda client: gevent.spawn(drip, client, client_hello()),
}


@pytest.mark.parametrize("kind", STALLS)
def test_e12_a_stalled_handshake_ends_at_its_deadline_and_holds_nobody_up(kind: str) -> None:
    stalled = 10
    with serving(handshake_timeout=5 * SOON) as service, ExitStack() as stack:
        for _ in range(stalled):
            STALLS[kind](stack.enter_context(raw_client(service)))
        service.check()
        assert not [failure for failure in service.failures if not isinstance(failure, gnet.TimeoutError)]
        start = time.monotonic()
        service.wait_for_failures(stalled)
        assert (time.monotonic() - start) * 1000 < 5 * LATE
        assert {type(failure) for failure in service.failures} == {gnet.TimeoutError}


def test_e12_a_handshake_in_single_bytes_is_made_if_there_is_time() -> None:
    with before_handshake() as (ours, peer):
        with suppress(SSL.WantReadError):
            peer.connection.do_handshake()
        hello = peer.take()

        def talk() -> None:
            for at in range(len(hello)):
                peer.socket.sendall(hello[at : at + 1])
                gevent.sleep(0)
            peer.handshake()

        at_once(ours.do_handshake, talk)
        assert ours.got_handshake()


# E13: the peer learns why


def test_e13_a_client_of_another_version_gets_the_alert() -> None:
    with serving(server_context(min_version="TLSv1.3")) as service, raw_client(service) as client:
        peer = Peer(client, openssl_context(server=False, version="TLSv1.2"), server=False)
        with pytest.raises(SSL.Error, match="alert protocol version"):
            peer.handshake()
        service.wait_for_failures(1)


def test_e13_a_client_without_a_common_cipher_gets_the_alert() -> None:
    context = openssl_context(server=False, version="TLSv1.2")
    context.set_cipher_list(b"ECDHE-ECDSA-AES256-GCM-SHA384")
    ours = server_context(cipher_list="ECDHE-ECDSA-AES128-GCM-SHA256")
    with serving(ours) as service, raw_client(service) as client:
        with pytest.raises(SSL.Error, match="alert handshake failure"):
            Peer(client, context, server=False).handshake()
        service.wait_for_failures(1)
        assert isinstance(service.failures[0], gnet.SslError)
        assert service.failures[0].reason == "no shared cipher"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_e13_a_server_that_is_not_trusted_gets_the_alert(version: str) -> None:
    context = openssl_context(server=True, version=version, pair=keys().stranger)
    with wire() as (ours, other):
        theirs = gevent.spawn(error_of, Peer(other, context, server=True).handshake)
        with pytest.raises(gnet.SslError, match="certificate verify failed"):
            secure(ours, server=False)
        ours.close()
        error = theirs.get(timeout=GUARD / 1000)
        assert isinstance(error, SSL.Error)
        assert "alert unknown ca" in str(error)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_e13_a_client_that_lacks_its_certificate_gets_the_alert(version: str) -> None:
    context = server_context(require_client_cert=True, ca_file=keys().ca_file)
    with serving(context) as service, raw_client(service) as client:
        peer = Peer(client, openssl_context(server=False, version=version), server=False)

        def come_as_far_as_possible() -> None:
            peer.handshake()
            peer.recv(1)  # TLS 1.3 tells it after the handshake, as far as the client is concerned

        with pytest.raises(SSL.Error, match=r"alert certificate required|alert handshake failure"):
            come_as_far_as_possible()
        service.wait_for_failures(1)


@contextmanager
def refused_client() -> Iterator[gnet.Socket]:
    """A TLS 1.3 client without the certificate it needs: to it, the handshake was a success."""
    server = openssl_context(server=True)
    server.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    with wire() as (ours, other):
        theirs = gevent.spawn(error_of, Peer(other, server, server=True).handshake)
        secure(ours, server=False)
        assert "did not return a certificate" in str(theirs.get(timeout=GUARD / 1000))
        other.close()
        yield ours


def send_until_refused(ours: gnet.Socket) -> BaseException:
    """Send, wait for the reset that the kernel has for it, and give the error of the next send."""
    with suppress(OSError):
        ours.send(b"a request\n")
    broken = get_original("select", "poll")()
    broken.register(ours, 0)  # what the kernel tells unasked: errors and the end of both directions
    assert broken.poll(GUARD)
    return error_of(ours.send, b"another\n")


def test_e13_a_send_that_meets_the_reset_first_says_why_it_came() -> None:
    with refused_client() as ours:
        for _ in range(2):
            assert "certificate required" in str(send_until_refused(ours))
        with pytest.raises(gnet.SslError, match="certificate required"):
            ours.read_line()


def test_e13_an_alert_behind_data_is_told_behind_the_data() -> None:
    with with_record_peer(server=False) as (ours, peer):
        peer.send(peer.data(b"a last line\nand a tail"), peer.alert(116))  # certificate_required
        reset(peer.socket)
        assert isinstance(send_until_refused(ours), OSError)
        assert ours.read_line() == b"a last line"
        assert ours.recv(10) == b"and a tail"
        with pytest.raises(gnet.SslError, match="certificate required"):
            ours.read_line()


# E14: a peer that sends much and says nothing


FLOODS: Final[dict[str, tuple[bool, int, Callable[[RecordPeer], bytes]]]] = {
    "key updates": (True, 100_000, lambda peer: peer.key_update(request=False)),
    "key updates, requested": (True, 60_000, lambda peer: peer.key_update(request=True)),
    "tickets": (False, 200_000, lambda peer: peer.ticket(20)),
}

_SEND_ALL: Final = (
    "import socket, sys\n"
    "connection = socket.socket(fileno=int(sys.argv[1]))\n"
    "connection.setblocking(True)\n"
    "try:\n"
    "    connection.sendall(sys.stdin.buffer.read())\n"
    "except OSError:\n"
    "    pass\n"
)


@contextmanager
def sent_by_another_process(sock: socket.socket, data: bytes) -> Iterator[None]:
    """Have `data` sent as fast as the kernel takes it, whatever this process does meanwhile."""
    descriptor = sock.fileno()
    process = subprocess.Popen(
        [sys.executable, "-c", _SEND_ALL, str(descriptor)], stdin=subprocess.PIPE, pass_fds=[descriptor]
    )
    try:
        process.stdin.write(data)
        process.stdin.close()
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def longest_pause() -> Iterator[Callable[[], float]]:
    """Give a function that tells how long, in milliseconds, another greenlet had to wait at most."""
    longest = 0.0

    def tick() -> None:
        nonlocal longest
        last = time.monotonic()
        while True:
            gevent.sleep(0.001)
            now = time.monotonic()
            longest, last = max(longest, now - last), now

    ticking = gevent.spawn(tick)
    gevent.sleep(0)
    yield lambda: longest * 1000
    ticking.kill()


@pytest.mark.parametrize("kind", FLOODS)
def test_e14_a_flood_of_records_without_data_keeps_nobody_waiting(kind: str) -> None:
    as_server, count, make = FLOODS[kind]
    with with_record_peer(server=as_server) as (ours, peer):
        flood = b"".join(make(peer) for _ in range(count)) + peer.data(b"end")
        reading = gevent.spawn(ours.recv, 3)
        with sent_by_another_process(peer.socket, flood), longest_pause() as pause:
            # It may be read to its end, or be too much; but others have their turn meanwhile.
            with suppress(gnet.SslError):
                assert reading.get(timeout=GUARD / 1000) == b"end"
            gevent.sleep(0.01)
        assert pause() < 5 * 50


def test_e14_a_flood_of_empty_records_is_refused() -> None:
    with with_record_peer() as (ours, peer):
        flood = b"".join(peer.data(b"") for _ in range(1000))
        with sent_by_another_process(peer.socket, flood), pytest.raises(gnet.SslError):
            ours.recv(1)


def test_e14_a_peer_that_asks_for_key_updates_and_never_reads_takes_no_memory() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        transport: Any = ours._transport
        while transport.unsent < 30_000:  # more than the kernel takes
            assert ours.try_send(bytes(1000))
        read = b""
        with suppress(gnet.TimeoutError):  # it may stop to read, and so to answer
            while len(read) < 5000:
                peer.send(peer.key_update(request=True), peer.data(b"x"))
                read += ours.recv(1, timeout=SOON)
        assert len(read) > 100
        assert transport.unsent < 2 * 65536
        # The peer has come to its senses: all goes on.
        reading = gevent.spawn(collect, peer)
        ours.send(b"end")
        peer.send(peer.data(b"end"))
        assert ours.recv(4)[-3:] == b"end"
        reading.kill()
        assert peer.received().endswith(b"end")


def test_e14_a_reader_that_such_a_peer_holds_up_is_told_when_it_is_gone() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        transport: Any = ours._transport
        while transport.unsent < 30_000:
            assert ours.try_send(bytes(1000))
        with suppress(gnet.TimeoutError):
            for _ in range(6000):
                peer.send(peer.key_update(request=True), peer.data(b"x"))
                ours.recv(1, timeout=SOON)
        reading = gevent.spawn(error_of, lambda: ours.recv_exactly(1 << 20))
        gevent.sleep(0)
        reset(peer.socket)
        with gevent.Timeout(5, AssertionError("the reader still waits")):
            assert isinstance(reading.get(), gnet.SslError)


def collect(peer: RecordPeer) -> None:
    while peer.receive():
        pass


# E15: a part of a record, and silence


@pytest.mark.parametrize("at", [1, 4, 5, 6, 20, 21], ids=lambda at: f"cut at {at}")
def test_e15_the_deadline_of_a_read_holds_in_the_middle_of_a_record(at: int) -> None:
    with with_record_peer() as (ours, peer):
        record = peer.data(b"the data")
        peer.send(record[:at])
        start = time.monotonic()
        with pytest.raises(gnet.TimeoutError):
            ours.recv(8, timeout=SOON)
        assert (time.monotonic() - start) * 1000 < LATE
        peer.send(record[at:])
        assert ours.recv(8) == b"the data"


# E16: data in OpenSSL, none in the kernel


def test_e16_a_read_does_not_wait_for_data_that_openssl_has() -> None:
    with with_record_peer() as (ours, peer):
        peer.send(peer.data(b"one\ntwo\n" + bytes(9000)))
        assert ours.read_line() == b"one"
        assert ours.read_line(timeout=0) == b"two"
        assert ours.recv(9000, timeout=0) == bytes(9000)


# E17: reads that need to write, writes that need to read


def test_e17_a_read_goes_on_while_the_answer_to_a_key_update_can_not_be_sent() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        taken = 0
        while taken < 60_000 and ours.try_send(MEGABYTE[taken : taken + 1000]):
            taken += 1000
        for number in range(50):
            peer.send(peer.key_update(request=True), peer.data(b"%03d" % number))
            assert ours.recv(3) == b"%03d" % number
        assert peer.receive_data(taken) == MEGABYTE[:taken]
        _, received = at_once(lambda: ours.send(b"end"), lambda: peer.receive_data(taken + 3))
        assert received[-3:] == b"end"
        assert peer.key_updates() >= 1


def test_e17_the_answers_to_key_updates_after_a_burst_are_sent() -> None:
    # With the burst read, the connection gives back its memory; the answers must not go with it.
    with with_record_peer() as (ours, peer):
        peer.send(*(peer.data(bytes(10_000)) for _ in range(5)))
        assert len(ours.recv(50_000)) == 50_000
        reading = gevent.spawn(ours.recv, 1)
        gevent.sleep(0)
        peer.send(*(peer.key_update(request=True) for _ in range(1000)))
        wait_until_taken_in(ours)
        peer.send(peer.data(b"x"))
        assert reading.get() == b"x"
        ours.send(b"pong")
        assert peer.receive_data(4) == b"pong"
        assert peer.key_updates() > 0


def test_e17_a_write_that_needs_the_handshake_waits_for_the_peer() -> None:
    with before_handshake() as (ours, peer):
        with pytest.raises(gnet.TimeoutError) as timeout:
            ours.send(b"hello", timeout=SOON)
        assert timeout.value.bytes_sent == 0
        _, _, received = at_once(peer.handshake, lambda: ours.send(b"hello"), lambda: None)
        assert received is None
        assert peer.recv_exactly(5) == b"hello"


def wait_until_taken_in(ours: gnet.Socket) -> None:
    """Wait until nothing is left in the kernel of what the peer sent."""
    with gevent.Timeout(GUARD / 1000):
        while any(fcntl.ioctl(ours.fileno(), termios.FIONREAD, bytes(4))):
            gevent.sleep(0.001)


# E18: the end


def test_e18_close_notify_is_sent_once_and_the_peers_is_not_waited_for() -> None:
    with with_record_peer() as (ours, peer):
        start = time.monotonic()
        ours.close(timeout=GUARD)
        assert (time.monotonic() - start) * 1000 < LATE
        peer.receive_until(lambda _: False)
        assert peer.records.count(CLOSE_NOTIFY) == 1


def test_e18_close_ends_in_time_with_a_peer_that_does_not_read() -> None:
    with with_record_peer(buffers=SMALL) as (ours, peer):
        assert ours.try_send(MEGABYTE)
        start = time.monotonic()
        ours.close()  # its own limit is 1 s
        assert time.monotonic() - start < 5
        with suppress(ConnectionResetError):
            peer.receive_until(lambda _: False)
        assert CLOSE_NOTIFY not in peer.records


# E21: names that no server has


def with_server_name(hello: bytes, name: bytes) -> bytes:
    """Put a name into the server_name extension of a ClientHello, whatever it is (RFC 6066, 3)."""
    old = struct.pack("!HHHBH", 0, 14, 12, 0, 9) + b"localhost"
    assert hello.count(old) == 1
    new = struct.pack("!HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    grown = len(new) - len(old)
    at = 5 + 4 + 2 + 32  # of the record, the message, the version, the random number
    at += 1 + hello[at]  # the session id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # the ciphers
    at += 1 + hello[at]  # compression
    changed = bytearray(hello)
    for position, size in ((3, 2), (6, 3), (at, 2)):
        length = int.from_bytes(hello[position : position + size], "big") + grown
        changed[position : position + size] = length.to_bytes(size, "big")
    return bytes(changed).replace(old, new)


@pytest.mark.parametrize(
    "name",
    [
        b"unknown.test",
        b"x" * 255,
        b"x" * 256,
        b"x" * 5000,
        b"local\0ost",
        b"",
        b"\xff\xfe",
        b"..",
        b"a" * 63 + b".b",
    ],
    ids=["unknown", "255", "256", "5000", "NUL", "empty", "no ASCII", "dots", "long label"],
)
def test_e21_a_server_name_of_any_kind_gets_the_default_or_an_alert(
    name: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    context = server_context(contexts_by_name={"other.test": server_context()})
    with serving(context) as service:
        with raw_client(service) as client:
            peer = Peer(client, openssl_context(server=False), server=False)
            with suppress(SSL.WantReadError):
                peer.connection.do_handshake()
            client.sendall(with_server_name(peer.take(), name))
            client.shutdown(socket.SHUT_WR)
            answer = all_from(client)
            # A ServerHello: the handshake goes on. (It can not end well: the client has said another name.)
            assert answer[:1] == b"\x16" or alert_in(answer) is not None
        service.wait_for_failures(1)
        assert isinstance(service.failures[0], gnet.SslError)
        service.check()
    assert capfd.readouterr() == ("", "")


# E22: no application protocol in common


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_e22_without_a_common_application_protocol_there_is_none(version: Any) -> None:
    server = server_context(alpn=["h2", "http/1.1"], max_version=version)
    with serving(server) as service:
        for offered, agreed in (["imap"], None), (["imap", "http/1.1"], "http/1.1"), ([], None):
            context = client_context(alpn=offered)
            with gnet.dial(*service.address, ssl_context=context, timeout=GUARD) as client:
                assert client.alpn_protocol == agreed
                client.send(b"hello\n")
                assert client.read_line(timeout=GUARD) == b"hello"


def test_e22_a_server_that_insists_on_a_common_one_is_an_error_with_its_reason() -> None:
    context = openssl_context(server=True)

    def refuse(_: SSL.Connection, offered: list[bytes]) -> bytes:
        raise ValueError(f"none of {offered}")

    context.set_alpn_select_callback(refuse)
    with wire() as (ours, other):
        theirs = gevent.spawn(error_of, Peer(other, context, server=True).handshake)
        with pytest.raises(gnet.SslError, match=r"alert no application protocol|alert handshake failure"):
            secure(ours, server=False, context=client_context(alpn=["imap"]))
        theirs.get()


# E25: two OpenSSLs in one process


def test_e25_the_stdlibs_openssl_and_pyopenssls_work_side_by_side() -> None:
    with serving() as service:
        with stdlib_context(server=False).wrap_socket(
            socket.create_connection(service.address), server_hostname="localhost"
        ) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
            client.unwrap().close()
        strict = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
        for _ in range(3):
            with socket.create_connection(service.address) as plain, pytest.raises(ssl.SSLError):
                strict.wrap_socket(plain, server_hostname="localhost")
            service.check()
        service.wait_for_failures(3)
        assert {failure.reason for failure in service.failures if isinstance(failure, gnet.SslError)} == {
            "tlsv1 alert unknown ca"
        }


def test_e25_a_certificate_of_one_library_serves_the_other() -> None:
    with with_peer(version="TLSv1.2") as (ours, peer):
        names = {ours.ssl_handle.get_cipher_name(), peer.connection.get_cipher_name()}
        assert len(names) == 1
