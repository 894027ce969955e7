"""What a search for faults in the TLS half found, each with the shortest way there."""

from __future__ import annotations

import base64
import errno
import os
import re
import socket as stdlib_socket
import time
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gevent import ssl

import gnet
from gnet import SslCVerifyMode, SslHandshakeType
from gnet.tls.certificates import make_self_signed
from tests.loopback import in_another_thread
from tests.tls.handshakes import run_program
from tests.tls_transport.keys import HOST, keys, server_context
from tests.tls_transport.peers import (
    GUARD,
    RecordPeer,
    at_once,
    error_of,
    reset,
    secure,
    tls_listener,
    wire,
    with_peer,
    with_record_peer,
)

SMALL = 16384
"""SO_RCVBUF and SO_SNDBUF of connections on which writes get stuck soon."""


# Reading


@pytest.mark.parametrize("look", ["peek", "read_line", "recv_until"])
def test_a_look_ahead_of_an_unbuffered_socket_leaves_the_rest_to_the_next_read(look: str) -> None:
    with wire() as (plain, other), gnet.new_socket(buffered=False, fd=os.dup(plain.fileno())) as ours:
        peer = RecordPeer(other, server=True)
        at_once(lambda: secure(ours, server=False), peer.handshake)
        peer.send(peer.data(b"one\ntwo\n"))
        reads = {
            "peek": lambda: ours.peek(100),
            "read_line": lambda: ours.read_line(),
            "recv_until": lambda: ours.recv_until(b"\n"),
        }
        reads[look]()
        # Without a timeout: with one, what is here would be found when it is over.
        reading = gevent.spawn(ours.recv_some, 3)
        try:
            assert reading.get(timeout=GUARD / 1000) == (b"one" if look == "peek" else b"two")
        finally:
            reading.kill()


def test_an_answer_with_close_notify_is_whole_though_a_send_met_the_end_first() -> None:
    with with_record_peer(server=False) as (ours, peer):
        peer.send(peer.data(b"an answer"), peer.close_notify())
        peer.socket.close()

        def send_on() -> None:
            while True:
                ours.send(b"more")
                gevent.sleep(0.001)

        assert isinstance(error_of(send_on), OSError)
        assert ours.recv(9) == b"an answer"
        assert ours.recv(1) == b""


def test_a_program_that_only_polls_answers_key_updates() -> None:
    with with_record_peer(server=False) as (ours, peer):
        answering = gevent.spawn(peer.receive_until, lambda _: peer.key_updates() > 0)
        for _ in range(100):
            peer.send(peer.key_update(request=True))
            assert ours.try_read_line() == (gnet.ReadLineResult.NONE, b"")
            gevent.sleep(0)
        answering.get(timeout=GUARD / 1000)


def test_buffered_data_is_not_looked_for_in_another_thread() -> None:
    with with_peer(server=False) as (ours, _):
        assert isinstance(in_another_thread(ours.has_data_buffered), RuntimeError)


def test_without_verification_no_error_blames_the_certificate() -> None:
    with wire() as (ours, other):
        peer = RecordPeer(other, server=True)
        context = gnet.new_context(verify_mode=SslCVerifyMode.NONE)
        context.client_get_psk_func = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gnet.tls.contexts.warn_insecure", lambda: None)
            at_once(lambda: secure(ours, server=False, context=context), peer.handshake)
        other.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        error = error_of(ours.recv, 1)
        assert isinstance(error, gnet.SslError)
        assert (error.verify_code, error.verify_message) == (0, "")


# Writing and closing


@pytest.mark.parametrize("call", ["send", "flush"])
def test_ciphertext_that_went_down_with_the_connection_is_not_called_sent(call: str) -> None:
    with with_record_peer(server=False, buffers=SMALL) as (ours, peer):
        message = bytes(1000)
        while not ours._transport.unsent:  # what try_send took waits for the kernel
            assert ours.try_send(message)
        reading = gevent.spawn(error_of, ours.recv, 1)  # it may meet the reset first
        calls = {"send": lambda: ours.send(message), "flush": lambda: ours.flush()}
        sending = gevent.spawn(error_of, calls[call])
        gevent.sleep(0.01)
        reset(peer.socket)
        assert isinstance(sending.get(timeout=GUARD / 1000), OSError)
        reading.get(timeout=GUARD / 1000)


def test_close_without_time_ends_in_order_if_the_kernel_takes_all() -> None:
    with with_record_peer(server=True, buffers=SMALL) as (ours, peer):
        while not ours._transport.unsent:
            assert ours.try_send(bytes(1000))
        raw = stdlib_socket.socket(fileno=os.dup(peer.socket.fileno()))
        with raw:
            raw.setblocking(False)
            give_up = time.monotonic() + 0.5
            while time.monotonic() < give_up:  # read all, and do not let the loop send the rest before close
                try:
                    raw.recv(1 << 16)
                except BlockingIOError:
                    continue
            assert ours._transport.unsent
            ours.close(timeout=0)
            end = None
            give_up = time.monotonic() + GUARD / 1000
            while end is None and time.monotonic() < give_up:
                try:
                    end = None if raw.recv(1 << 16) else "end of stream"
                except BlockingIOError:
                    continue
                except OSError as error:
                    end = errno.errorcode[error.errno or 0]
        assert end == "end of stream"


def test_a_client_that_read_close_notify_does_not_wait_for_more() -> None:
    with with_peer(server=False) as (ours, peer):
        ours.send(b"a question")
        assert peer.recv_exactly(10) == b"a question"
        peer.close_notify()
        assert ours.recv(1) == b""
        start = time.monotonic()
        ours.close(timeout=GUARD)
        assert time.monotonic() - start < GUARD / 2000


@pytest.mark.parametrize("goes_on", ["parent", "child"])
def test_after_a_fork_one_of_the_two_goes_on_with_the_connection(goes_on: str) -> None:
    program = """
import json, os, sys
import gevent, gevent.os, gnet
context = gnet.new_context(ca_file=sys.argv[2])
socket = gnet.dial("127.0.0.1", int(sys.argv[1]), ssl_context=context, timeout=10_000)
child = gevent.os.fork()
if (child == 0) == (sys.argv[3] == "child"):
    gevent.sleep(0.05)
    socket.send(b"hello\\n")
    socket.read_line(10_000)
else:
    gevent.sleep(0.05)
if child == 0:
    os._exit(0)
try:
    os.waitpid(child, 0)
except ChildProcessError:
    pass  # the loop was there first
print(json.dumps({}))
os._exit(0)
"""
    with tls_listener() as listener:
        port = listener.get_local_addr()[1]
        running = gevent.spawn(run_program, program, port, keys().ca_file, goes_on)
        with listener.accept(timeout=GUARD) as ours:
            assert ours.read_line(timeout=GUARD) == b"hello"
            ours.send(b"done\n")
            running.get(timeout=GUARD / 1000)


def test_a_client_that_is_open_at_the_interpreters_end_prints_nothing() -> None:
    program = """
import json, os, sys
os.dup2(1, 2)
import gnet
context = gnet.new_context(ca_file=sys.argv[2])
socket = gnet.dial("127.0.0.1", int(sys.argv[1]), ssl_context=context, timeout=10_000)
socket.send(b"hello\\n")
print(json.dumps({}))
"""
    with tls_listener() as listener:
        port = listener.get_local_addr()[1]
        running = gevent.spawn(run_program, program, port, keys().ca_file)
        with listener.accept(timeout=GUARD) as ours:
            assert ours.read_line(timeout=GUARD) == b"hello"
            ours.close()
            assert running.get(timeout=GUARD / 1000) == {}  # any other line is no JSON


# Certificates


@pytest.fixture
def unreadable(tmp_path: Path) -> tuple[str, str]:
    """A certificate that OpenSSL takes and `cryptography` does not, of X.509 version 5; and its key."""
    certificate, key = make_self_signed("localhost")
    der = certificate.public_bytes(Encoding.DER)
    der = re.sub(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", der, count=1)
    lines = base64.encodebytes(der).decode()
    cert_file, key_file = tmp_path / "unreadable.pem", tmp_path / "unreadable.key"
    cert_file.write_text(f"-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(cert_file), str(key_file)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_with_an_unreadable_certificate_is_an_ssl_error(
    unreadable: tuple[str, str], version: ssl.TLSVersion
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*unreadable)
    context.maximum_version = version
    with wire() as (ours, other):
        serving = gevent.spawn(error_of, lambda: context.wrap_socket(other, server_side=True))
        error = error_of(lambda: secure(ours, server=False))
        assert isinstance(error, gnet.SslError)
        assert error.verify_code == 18
        serving.get(timeout=GUARD / 1000)


def test_a_client_with_an_unreadable_certificate_is_an_ssl_error_of_its_handler(
    unreadable: tuple[str, str],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(keys().ca_file)
    context.load_cert_chain(*unreadable)
    demanding = server_context(
        verify_mode=SslCVerifyMode.PEER, ca_file=keys().ca_file, require_client_cert=True
    )
    with wire() as (ours, other):

        def ask() -> None:
            with context.wrap_socket(other, server_hostname=HOST) as secured:
                secured.recv(1)

        asking = gevent.spawn(error_of, ask)
        error = error_of(
            lambda: demanding.wrap_connected_socket(ours, SslHandshakeType.AS_SERVER, timeout=GUARD)
        )
        assert isinstance(error, gnet.SslError)
        assert error.verify_code == 18
        asking.get(timeout=GUARD / 1000)


# Pre-shared keys


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_an_empty_psk_identity_is_an_error_that_says_so(version: str) -> None:
    context = gnet.new_context(
        verify_mode=SslCVerifyMode.NONE, max_version=version, cipher_list="ECDHE-PSK-CHACHA20-POLY1305"
    )
    context.client_get_psk_func = lambda hint: ("", bytes(16))
    by_key = gnet.new_context(
        verify_mode=SslCVerifyMode.NONE, max_version=version, cipher_list="ECDHE-PSK-CHACHA20-POLY1305"
    )
    by_key.server_get_psk_func = lambda identity: bytes(16)
    with tls_listener(by_key) as listener:

        def ask() -> None:
            gnet.dial(*listener.get_local_addr(), ssl_context=context, timeout=GUARD).close()

        def serve() -> None:
            with listener.accept(timeout=GUARD) as accepted, suppress(OSError):
                accepted.do_handshake(GUARD)

        serving = gevent.spawn(serve)
        error = error_of(ask)
        serving.kill()
        assert "identity" in str(error)
