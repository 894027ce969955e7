"""A server on TLS: peers that do not speak it, or not well, and what reaches them."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack, suppress
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from OpenSSL import SSL

import gnet
from gnet.server import Server
from tests.faults.peers import GUARD, receive_exactly, reset, wait_until
from tests.server.peers import answer_lines, ask, connect, connect_unix, ending, logged, serving, silent_logs
from tests.server.talking import (
    MARGIN,
    SHORT,
    TLS,
    Calls,
    Held,
    TlsClient,
    client_hello,
    context,
    stopping,
    timeouts,
)
from tests.tls_transport import keys
from tests.tls_transport.peers import Peer

_ALERT: Final = 21
_FATAL: Final = 2
_RECORD_OVERFLOW: Final = 22

_LONG: Final = 60_000

versions: Final = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


def _failures(server: Server) -> int:
    return sum(server._terms.statistics.handshake_failures.values())


def _alert(client: socket.socket) -> int:
    """Receive a fatal alert and then the end of the stream; give the alert's number."""
    record = receive_exactly(client, 7)
    kind, _, size, level, description = struct.unpack("!BHHBB", record)
    assert (kind, size, level) == (_ALERT, 2, _FATAL)
    assert client.recv(1) == b""
    return int(description)


# It works


@versions
def test_a_line_comes_back_over_tls(version: str) -> None:
    with serving(answer_lines, **TLS.arguments) as server, TlsClient(connect(server), version) as client:
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        assert server._terms.statistics.handshakes == 1


def test_a_context_itself_does_as_well_as_what_makes_one() -> None:
    with serving(answer_lines, ssl_context=context()) as server, TLS.connect(server) as client:
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"


def test_tls_works_over_a_unix_socket(tmp_path: Any) -> None:
    path = tmp_path / "socket"
    with (
        serving(answer_lines, unix_path=path, **TLS.arguments) as server,
        TlsClient(connect_unix(str(path))) as client,
    ):
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        assert server.port == 0


def test_the_handler_begins_when_the_handshake_is_made() -> None:
    calls = Calls()
    with serving(lambda *_: calls.note("began"), **TLS.arguments) as server, connect(server) as raw:
        raw.sendall(client_hello())
        assert raw.recv(1)
        assert calls.results == []
        assert [each.state for each in server._admission.connections.values()] == ["TLS handshake"]


def test_the_first_byte_deadline_begins_behind_the_handshake() -> None:
    calls = Calls()
    with (
        serving(
            lambda client, _: calls(client.read_line), first_byte_timeout=2 * SHORT, **TLS.arguments
        ) as server,
        connect(server) as raw,
    ):
        gevent.sleep(3 * SHORT / 1000)
        with TLS.make(raw) as client:
            client.send(b"in time\n")
            assert calls.only() == b"in time"
            assert timeouts(server) == {}


# C10 to C13

_HTTP: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl\r\n\r\n"
_GARBAGE: Final = {
    "HTTP": _HTTP,
    "binary": bytes(range(256)),
    "zeros": bytes(100),
    "a wrong version": b"\x16\x09\x09" + client_hello()[3:],
    "an SSLv2 hello": b"\x80\x2e\x01\x00\x02" + bytes(43),
    "application data": b"\x17\x03\x03\x00\x10" + bytes(16),
    "a record without a handshake": b"\x16\x03\x01\x00\x04\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", _GARBAGE.values(), ids=_GARBAGE)
def test_c11_garbage_is_counted_once_and_logged_in_a_short_line(data: bytes) -> None:
    calls = Calls()
    with logged() as log, serving(lambda *_: calls.note("served"), **TLS.arguments) as server:
        with connect(server) as client:
            client.sendall(data)
            received = b""
            with suppress(ConnectionResetError):
                while part := client.recv(1000):
                    received += part
            assert received[:1] in (b"", bytes([_ALERT]))
            wait_until(lambda: server._terms.statistics.closed == 1, "it is gone")
        assert _failures(server) == 1
        assert server._terms.statistics.handler_errors == server._terms.statistics.peer_errors == 0
        assert server._admission.starting == 0
        assert calls.results == []
    assert len(log.lines()) == 1
    assert len(log.text()) <= 120


def test_c10_plain_http_sees_an_orderly_end() -> None:
    # OpenSSL knows HTTP when it sees it, and has no alert for it.
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, connect(server) as client:
        client.sendall(_HTTP + b"x" * 1000)
        assert client.recv(100) == b""
        assert _failures(server) == 1


def test_c17_the_alert_survives_input_that_nobody_read() -> None:
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, connect(server) as client:
        client.sendall(b"\x16\x03\x01\xff\xff" + b"x" * 300_000)
        gevent.sleep(0.05)
        client.sendall(b"and more")
        assert _alert(client) == _RECORD_OVERFLOW


def test_c12_a_record_that_is_too_large_is_told_so_by_an_alert() -> None:
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, connect(server) as client:
        client.sendall(b"\x16\x03\x01\xff\xff" + bytes(70_000))
        assert _alert(client) == _RECORD_OVERFLOW
        assert _failures(server) == 1


@pytest.mark.parametrize(
    "sent", [b"", client_hello()[:40], client_hello()], ids=["nothing", "half", "a hello"]
)
@pytest.mark.parametrize("end", ["end", "reset"])
def test_c13_a_client_that_goes_early_is_counted_once(sent: bytes, end: str) -> None:
    with logged() as log, serving(answer_lines, **TLS.arguments) as server:
        with connect(server) as client:
            client.sendall(sent)
            if sent == client_hello():
                client.recv(1)
            if end == "reset":
                reset(client)
        wait_until(lambda: server._terms.statistics.closed == 1, "it is gone")
        assert _failures(server) == 1
        assert server._terms.statistics.handler_errors == server._terms.statistics.peer_errors == 0
    assert len(log.lines()) <= 1
    assert len(log.text()) <= 120


def test_c13_many_early_ends_make_few_lines_in_the_log() -> None:
    count = 100
    with logged() as log, serving(answer_lines, **TLS.arguments) as server:
        for number in range(1, count + 1):
            with connect(server) as client:
                client.sendall(_HTTP if number % 2 else b"")
            wait_until(lambda number=number: server._terms.statistics.closed == number, "it is gone")
        assert _failures(server) == count
    assert len(log.lines()) <= 30
    assert len(log.text()) <= 120 * count


def test_c13_the_reasons_that_are_counted_do_not_grow_with_the_clients() -> None:
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server:
        for number in range(1, 41):
            with connect(server) as client, suppress(OSError):
                client.sendall(bytes([number * 5]) * 20 + b"%d" % number)
                ending(client)
            wait_until(lambda number=number: server._terms.statistics.closed == number, "it is gone")
        assert len(server._terms.statistics.handshake_failures) < 10


def test_e13_an_alert_reaches_a_client_that_has_no_version_in_common() -> None:
    old = SSL.Context(SSL.TLS_METHOD)
    old.set_max_proto_version(SSL.TLS1_1_VERSION)
    old.set_cipher_list(b"ALL:@SECLEVEL=0")
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, connect(server) as raw:
        with pytest.raises(SSL.Error) as caught:
            Peer(raw, old, server=False).handshake()
        assert "alert" in str(caught.value) or "no protocols" in str(caught.value)


def test_an_error_on_one_connection_leaves_the_others_alone() -> None:
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, TLS.connect(server) as good:
        for data in _GARBAGE.values():
            with connect(server) as bad:
                bad.sendall(data)
                with suppress(OSError):
                    while bad.recv(1000):
                        pass
            good.send(b"ping\n")
            assert good.recv_exactly(5) == b"ping\n"


def test_the_place_of_a_failed_handshake_is_free_again() -> None:
    with silent_logs(), serving(answer_lines, max_handshakes=1, **TLS.arguments) as server:
        for _ in range(3):
            with connect(server) as bad:
                bad.sendall(_HTTP)
                with suppress(OSError):
                    while bad.recv(1000):
                        pass
        with TLS.connect(server) as good:
            good.send(b"ping\n")
            assert good.recv_exactly(5) == b"ping\n"


# In the handler


def test_a_cut_without_close_notify_is_the_peers_fault() -> None:
    with logged() as log, serving(answer_lines, **TLS.arguments) as server:
        with TLS.connect(server) as client:
            client.send(b"ping\n")
            assert client.recv_exactly(5) == b"ping\n"
        wait_until(lambda: server._terms.statistics.closed == 1, "it is gone")
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (1, 0)
    assert "Traceback" not in log.text()
    assert len(log.text()) <= 120


def test_a_bad_record_is_the_peers_fault() -> None:
    with logged() as log, serving(answer_lines, **TLS.arguments) as server, TLS.connect(server) as client:
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        client.raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(SSL.Error):
            client.recv_all()
        wait_until(lambda: server._terms.statistics.closed == 1, "it is gone")
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (1, 0)
    assert "Traceback" not in log.text()
    assert len(log.text()) <= 120


@versions
def test_an_end_of_the_handler_is_a_close_notify_and_an_end_of_stream(version: str) -> None:
    with (
        serving(lambda client, _: client.send(b"bye"), **TLS.arguments) as server,
        TlsClient(connect(server), version) as client,
    ):
        assert client.recv_all() == b"bye"
        assert client.raw.recv(1) == b""


@versions
def test_a_drain_ends_idle_connections_in_an_orderly_way(version: str) -> None:
    with serving(answer_lines, **TLS.arguments) as server, TlsClient(connect(server), version) as client:
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        stop = stopping(server)
        assert client.recv_all() == b""
        stop.get(timeout=GUARD / 1000)
        assert server._terms.statistics.peer_errors == 0


def test_a_handshake_that_is_under_way_in_a_drain_goes_on_and_is_served() -> None:
    with serving(answer_lines, **TLS.arguments) as server, connect(server) as raw:
        wait_until(lambda: server._admission.starting == 1, "it is in")
        stop = stopping(server)
        with TLS.make(raw) as client:
            client.send(b"ping\n")
            assert client.recv_exactly(5) == b"ping\n"
            assert client.recv_all() == b""
        stop.get(timeout=GUARD / 1000)


def test_a_drain_does_not_wait_long_for_a_hello_that_does_not_come() -> None:
    with silent_logs(), serving(answer_lines, **TLS.arguments) as server, connect(server) as client:
        wait_until(lambda: server._admission.starting == 1, "it is in")
        start = time.monotonic()
        stop = stopping(server)
        assert ending(client) in ("end", "reset")
        stop.get(timeout=GUARD / 1000)
        assert time.monotonic() - start < 0.5 * MARGIN + 1


def test_a_made_handshake_waits_for_a_place_of_the_pool_in_turn() -> None:
    held = Held()
    with serving(held, pool_size=1, **TLS.arguments) as server, ExitStack() as stack:
        clients = [stack.enter_context(TLS.connect(server)) for _ in range(3)]
        for client in clients:
            client.send(b"one\n")
        held.wait_for(1)
        gevent.sleep(0.02)
        assert held.inside == 1
        held.go.set()
        assert [client.recv_all() for client in clients] == [b"answer to one\n"] * 3


def test_a_client_that_goes_while_it_waits_for_a_place_frees_it() -> None:
    held = Held()
    with silent_logs(), serving(held, pool_size=1, **TLS.arguments) as server, TLS.connect(server) as first:
        first.send(b"one\n")
        held.wait_for(1)
        with TLS.connect(server):
            wait_until(lambda: len(server._admission.slot_queue) == 1, "it waits")
        held.go.set()
        assert first.recv_all() == b"answer to one\n"
        with TLS.connect(server) as third:
            third.send(b"two\n")
            assert third.recv_all() == b"answer to two\n"
        wait_until(lambda: server._admission.running == 0, "all places are free")


# Certificates


def test_live_connections_go_on_when_the_context_is_swapped() -> None:
    made = []

    def make() -> gnet.SslContext:
        made.append(keys.server_context(verify_mode=gnet.SslCVerifyMode.NONE))
        return made[-1]

    with serving(answer_lines, ssl_context=make) as server, TLS.connect(server) as before:
        server.reload_certificates()
        assert len(made) == 2
        assert server._terms.ssl_context is made[1]
        before.send(b"ping\n")
        assert before.recv_exactly(5) == b"ping\n"
        with TLS.connect(server) as after:
            after.send(b"ping\n")
            assert after.recv_exactly(5) == b"ping\n"


def test_a_reload_that_fails_keeps_the_old_context() -> None:
    answers: list[Any] = [keys.server_context(verify_mode=gnet.SslCVerifyMode.NONE)]

    def make() -> gnet.SslContext:
        if not answers:
            raise gnet.SslError("the file is broken")
        return answers.pop()

    with serving(answer_lines, ssl_context=make) as server:
        with pytest.raises(gnet.SslError, match="broken"):
            server.reload_certificates()
        with TLS.connect(server) as client:
            client.send(b"ping\n")
            assert client.recv_exactly(5) == b"ping\n"


def test_a_plain_server_has_no_certificates_to_reload() -> None:
    with serving(answer_lines) as server, pytest.raises(ValueError, match="TLS"):
        server.reload_certificates()


@pytest.mark.parametrize("wrong", ["context", 5, lambda: None], ids=["str", "int", "a callable of none"])
def test_what_is_no_context_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError):
        Server(answer_lines, ssl_context=wrong)


def test_a_client_certificate_is_demanded_if_the_context_does() -> None:
    demanding = keys.server_context(
        verify_mode=gnet.SslCVerifyMode.PEER, ca_file=keys.keys().ca_file, require_client_cert=True
    )
    with silent_logs(), serving(answer_lines, ssl_context=lambda: demanding) as server:
        # On TLS 1.3 it learns of it with its first read.
        with TLS.connect(server) as client, pytest.raises(SSL.Error, match="certificate required"):
            client.recv_exactly(5)
        wait_until(lambda: _failures(server) == 1, "it is counted")


# One plain connection on the plain port: C14


def test_c14_a_tls_client_on_a_plain_port_does_not_hang() -> None:
    with silent_logs(), serving(answer_lines, line_timeout=SHORT) as server, connect(server) as raw:
        with pytest.raises((SSL.Error, EOFError, OSError)):
            TlsClient(raw)
        with connect(server) as client:
            assert ask(client) == b"ping\n"


def test_many_handshakes_at_once_are_all_made() -> None:
    go = Event()

    def one() -> bytes:
        go.wait()
        with TLS.connect(server) as client:
            client.send(b"ping\n")
            return bytes(client.recv_exactly(5))

    with serving(answer_lines, max_handshakes=4, pool_size=3, **TLS.arguments) as server:
        clients = [gevent.spawn(one) for _ in range(24)]
        go.set()
        assert [each.get(timeout=GUARD / 1000) for each in clients] == [b"ping\n"] * 24
        assert server._terms.statistics.handshakes == 24
        assert server._terms.statistics.peak <= 3 + 4


def test_a_stalled_handshake_does_not_delay_another_one() -> None:
    with (
        serving(answer_lines, handshake_timeout=_LONG, **TLS.arguments) as server,
        connect(server) as stalled,
    ):
        stalled.sendall(client_hello()[:30])
        with TLS.connect(server) as client:
            client.send(b"ping\n")
            assert client.recv_exactly(5) == b"ping\n"
