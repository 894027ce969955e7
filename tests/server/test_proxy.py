"""The PROXY protocol in front of a server: whom it trusts, headers in pieces, wrong ones, none, limits."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack, suppress
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import gnet
from gnet.proxy_protocol import MAX_V2_LENGTH
from gnet.server import Server
from tests.faults.peers import GUARD, receives_nothing, reset, wait_until
from tests.server.peers import (
    answer_lines,
    connect,
    connect_unix,
    ending,
    logged,
    receive_all,
    serving,
    silent_logs,
)
from tests.server.talking import MARGIN, SHORT, TLS, Calls, compute, stopping, timeouts

_LOOPBACK: Final = ("127.0.0.0/8",)
_LONG: Final = 60_000

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"


def _v1(source: str = "192.0.2.1", port: int = 4711) -> bytes:
    family = "TCP6" if ":" in source else "TCP4"
    destination = "2001:db8::2" if ":" in source else "192.0.2.2"
    return f"PROXY {family} {source} {destination} {port} 443\r\n".encode()


def _v2(source: str = "192.0.2.1", port: int = 4711, tlvs: bytes = b"", command: int = 0x21) -> bytes:
    body = socket.inet_aton(source) + socket.inet_aton("192.0.2.2") + struct.pack("!HH", port, 443) + tlvs
    return _SIGNATURE + bytes([command, 0x11]) + struct.pack("!H", len(body)) + body


_HEADERS: Final = {"v1": _v1(), "v2": _v2(), "v2 with TLVs": _v2(tlvs=b"\x04\x00\x05hello")}

headers: Final = pytest.mark.parametrize("header", _HEADERS.values(), ids=_HEADERS)


def _proxied(handler: Any, version: str = "any", **arguments: Any) -> Any:
    """A server that expects PROXY headers from loopback."""
    return serving(handler, proxy_protocol=version, proxy_trusted=_LOOPBACK, **arguments)


def _tell_address(client: gnet.Socket, address: str) -> None:
    """A handler that answers each line with it and the client's address."""
    for line in client.lines():
        client.send(line + b" of " + address.encode() + b"\n")


# The address


@headers
def test_a_handler_gets_the_address_that_the_proxy_gave(header: bytes) -> None:
    with _proxied(_tell_address) as server, connect(server) as client:
        client.sendall(header + b"hello\n")
        assert client.recv(100) == b"hello of 192.0.2.1\n"


def test_a_handler_gets_an_ipv6_address_too() -> None:
    with _proxied(_tell_address) as server, connect(server) as client:
        client.sendall(_v1("2001:db8::1") + b"hello\n")
        assert client.recv(100) == b"hello of 2001:db8::1\n"


def test_an_ipv4_mapped_address_is_shown_as_ipv4() -> None:
    with _proxied(_tell_address) as server, connect(server) as client:
        client.sendall(_v1("::ffff:192.0.2.9") + b"hello\n")
        assert client.recv(100) == b"hello of 192.0.2.9\n"


@pytest.mark.parametrize(
    "header",
    [b"PROXY UNKNOWN\r\n", _v2(command=0x20), _SIGNATURE + b"\x20\0\0\0"],
    ids=["UNKNOWN", "LOCAL", "bare"],
)
def test_without_an_address_in_the_header_the_handler_gets_the_proxys(header: bytes) -> None:
    with _proxied(_tell_address) as server, connect(server, source="127.0.0.8") as client:
        client.sendall(header + b"hello\n")
        assert client.recv(100) == b"hello of 127.0.0.8\n"


def test_errors_name_the_proxied_client() -> None:
    calls = Calls()
    with (
        _proxied(lambda client, _: calls(client.read_line, timeout=20)) as server,
        connect(server) as client,
    ):
        client.sendall(_v1())
        assert "192.0.2.1:4711" in str(calls.only())


def test_on_a_unix_socket_headers_need_no_list_of_networks(tmp_path: Any) -> None:
    path = tmp_path / "socket"
    with (
        serving(_tell_address, unix_path=path, proxy_protocol="any") as server,
        connect_unix(str(path)) as client,
    ):
        client.sendall(_v2() + b"hello\n")
        assert client.recv(100) == b"hello of 192.0.2.1\n"
        assert server._terms.statistics.proxy_failures == 0


# C15: trust


def _is_reset(server: Server, source: str, data: bytes = b"") -> bool:
    """Whether a client from an address of loopback is refused with a reset."""
    try:
        with connect(server, source=source) as client:
            client.sendall(data)
            return ending(client) == "reset"
    except (ConnectionResetError, BrokenPipeError):
        return True  # already in one of the other calls


def test_c15_a_header_of_an_untrusted_peer_is_refused() -> None:
    calls = Calls()
    trusted = ("10.0.0.0/8", "127.0.0.2/32")
    with (
        logged() as log,
        serving(lambda *_: calls.note("served"), proxy_protocol="any", proxy_trusted=trusted) as server,
    ):
        assert _is_reset(server, "127.0.0.3", _v1() + b"hello\n")
        with connect(server, source="127.0.0.2") as client:
            client.sendall(_v1())
            assert client.recv(1) == b""
        assert calls.results == ["served"]
        assert server._terms.statistics.rejected["untrusted proxy"] == 1
    assert len(log.lines()) <= 1
    assert len(log.text()) <= 120


def test_c15_an_untrusted_peer_is_refused_without_a_header_too() -> None:
    trusted = ("10.0.0.0/8",)
    with silent_logs(), serving(answer_lines, proxy_protocol="any", proxy_trusted=trusted) as server:
        assert _is_reset(server, "127.0.0.1")


def test_c15_a_header_that_nobody_asked_for_is_data() -> None:
    with serving(_tell_address) as server, connect(server) as client:
        client.sendall(_v1())
        assert client.recv(200) == _v1()[:-2] + b" of 127.0.0.1\n"


def test_c15_headers_without_a_list_of_whom_to_trust_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="proxy_trusted"):
        Server(answer_lines, proxy_protocol="v1")


@pytest.mark.parametrize(
    ("version", "header"), [("v1", _v2()), ("v2", _v1())], ids=["v2 where v1 is due", "v1 where v2 is due"]
)
def test_c15_only_the_version_asked_for_is_taken(version: str, header: bytes) -> None:
    with silent_logs(), _proxied(answer_lines, version) as server, connect(server) as client:
        client.sendall(header + b"hello\n")
        assert ending(client) in ("end", "reset")
        wait_until(lambda: server._terms.statistics.proxy_failures == 1, "it is counted")


@headers
def test_c15_a_second_header_is_data(header: bytes) -> None:
    received = []

    def handle(client: gnet.Socket, address: str) -> None:
        received.append((address, client.recv_exactly(len(header))))

    with _proxied(handle) as server, connect(server) as client:
        client.sendall(header + header)
        assert client.recv(1) == b""
    assert received == [("192.0.2.1", header)]


# C16: in pieces, wrong, missing


@headers
def test_c16_a_header_may_come_in_two_pieces_cut_anywhere(header: bytes) -> None:
    with _proxied(_tell_address) as server:
        for cut in range(1, len(header) + 3):
            with connect(server) as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                whole = header + b"hi\n"
                client.sendall(whole[:cut])
                gevent.sleep(0.001)
                client.sendall(whole[cut:])
                assert client.recv(100) == b"hi of 192.0.2.1\n", cut
        assert server._terms.statistics.proxy_failures == 0


@headers
def test_c16_a_header_may_come_a_byte_at_a_time(header: bytes) -> None:
    with _proxied(_tell_address) as server, connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header + b"hi\n":
            client.sendall(bytes([byte]))
            gevent.sleep(0.001)
        assert client.recv(100) == b"hi of 192.0.2.1\n"


@headers
def test_c16_not_a_byte_behind_the_header_is_lost_or_taken_twice(header: bytes) -> None:
    data = bytes(range(256)) * 1000
    calls = Calls()
    with (
        _proxied(lambda client, _: calls(client.recv_exactly, len(data))) as server,
        connect(server) as client,
    ):
        client.sendall(header + data)
        assert calls.only() == data


def test_c16_a_large_header_is_read_whole() -> None:
    tlvs = b"\x04" + struct.pack("!H", MAX_V2_LENGTH - 12 - 3) + b"x" * (MAX_V2_LENGTH - 12 - 3)
    with _proxied(_tell_address) as server, connect(server) as client:
        header = _v2(tlvs=tlvs)
        client.sendall(header[:1000])
        gevent.sleep(0.005)
        client.sendall(header[1000:] + b"hi\n")
        assert client.recv(100) == b"hi of 192.0.2.1\n"


_WRONG: Final = {
    "nothing of the kind": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "v1 without an end": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2" + b" " * 200,
    "v1 with a wrong address": b"PROXY TCP4 192.0.2.999 192.0.2.2 1 2\r\n",
    "v1 with a wrong port": b"PROXY TCP4 192.0.2.1 192.0.2.2 99999 2\r\n",
    "v1 with a bare LF": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n",
    "v1 UNKNOWN too long": b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    "v2 of version 1": _SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
    "v2 with too little for its addresses": _SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    "v2 of the largest length": _SIGNATURE + b"\x21\x11\xff\xff" + bytes(65535),
    "v2 with a TLV beyond the end": _v2(tlvs=b"\x04\x00\xff123"),
    "v2 with half a TLV": _v2(tlvs=b"\x04\x00"),
    "v2 with a wrong checksum": _v2(tlvs=b"\x03\x00\x04\xde\xad\xbe\xef"),
    "the signature and then something else": _SIGNATURE[:-1] + b"X" + bytes(100),
}


@pytest.mark.parametrize("data", _WRONG.values(), ids=_WRONG)
def test_c16_a_wrong_header_closes_the_connection(data: bytes) -> None:
    calls = Calls()
    with logged() as log, _proxied(lambda *_: calls.note("served")) as server:
        with connect(server) as client:
            with suppress(OSError):
                client.sendall(data)
            start = time.monotonic()
            assert ending(client) in ("end", "reset")
            assert time.monotonic() - start < MARGIN * 0.2
        wait_until(lambda: server._terms.statistics.closed == 1, "it is gone")
        assert calls.results == []
        assert server._terms.statistics.proxy_failures == 1
        assert server._admission.starting == 0
    assert len(log.lines()) == 1
    assert len(log.text()) <= 120
    assert log.text().isprintable()


@headers
def test_c16_a_header_that_ends_with_the_stream_closes_the_connection(header: bytes) -> None:
    with silent_logs(), _proxied(answer_lines) as server:
        for count, size in enumerate((0, 1, 5, 13, len(header) - 1), 1):
            with connect(server) as client:
                client.sendall(header[:size])
                client.shutdown(socket.SHUT_WR)
                assert ending(client) in ("end", "reset")
            wait_until(lambda count=count: server._terms.statistics.closed == count, "it is gone")
        assert server._terms.statistics.proxy_failures == 5


@headers
def test_c16_a_reset_in_the_header_ends_the_connection_only(header: bytes) -> None:
    with logged() as log, _proxied(_tell_address) as server:
        with connect(server) as client:
            client.sendall(header[:9])
            wait_until(lambda: server._admission.starting == 1, "it is in")
            reset(client)
            wait_until(lambda: not server._admission.connections, "it is gone")
        with connect(server) as client:
            client.sendall(header + b"hi\n")
            assert client.recv(100) == b"hi of 192.0.2.1\n"
    assert len(log.lines()) <= 1


@pytest.mark.parametrize(
    "start", [b"", b"PROXY TCP4 ", _SIGNATURE, _v2()[:20]], ids=["none", "v1", "v2", "length"]
)
def test_c16_a_header_that_does_not_come_has_a_deadline_of_its_own(start: bytes) -> None:
    limit = 2 * SHORT
    with (
        logged() as log,
        _proxied(answer_lines, handshake_timeout=limit, first_byte_timeout=_LONG) as server,
        connect(server) as client,
    ):
        client.sendall(start)
        began = time.monotonic()
        assert ending(client) in ("end", "reset")
        assert limit * 0.9 < (time.monotonic() - began) * 1000 < limit * MARGIN
        wait_until(lambda: not server._admission.connections, "it is gone")
        assert server._terms.statistics.proxy_failures == 1
        assert server._admission.starting == 0
        assert timeouts(server) == {}
    assert len(log.lines()) == 1
    assert len(log.text()) <= 120


def test_c16_a_header_a_byte_at_a_time_does_not_extend_its_deadline() -> None:
    def dribble() -> None:
        with suppress(OSError):
            for byte in _v1():
                client.sendall(bytes([byte]))
                gevent.sleep(0.05)

    with (
        silent_logs(),
        _proxied(answer_lines, handshake_timeout=2 * SHORT) as server,
        connect(server) as client,
    ):
        sender = gevent.spawn(dribble)
        start = time.monotonic()
        assert ending(client) in ("end", "reset")
        assert (time.monotonic() - start) * 1000 < 2 * SHORT * MARGIN
        sender.kill()


def test_c16_silent_peers_take_no_place_of_the_pool() -> None:
    with _proxied(_tell_address, pool_size=1, handshake_timeout=_LONG) as server, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(server))
        with connect(server) as client:
            client.sendall(_v1() + b"hi\n")
            assert client.recv(100) == b"hi of 192.0.2.1\n"


def test_c16_no_more_headers_at_once_than_handshakes_are_allowed() -> None:
    with _proxied(_tell_address, max_handshakes=2, handshake_timeout=_LONG) as server, ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(4)]
        wait_until(lambda: server._admission.starting == 2, "two are in")
        gevent.sleep(0.02)
        assert len(server._admission.connections) == 2
        for client in silent:
            reset(client)


def test_g4_a_header_in_the_kernel_wins_over_its_deadline() -> None:
    with _proxied(_tell_address, handshake_timeout=SHORT) as server, connect(server) as client:
        wait_until(lambda: server._admission.starting == 1, "it is in")
        client.sendall(_v1() + b"hi\n")
        compute(3 * SHORT)
        assert client.recv(100) == b"hi of 192.0.2.1\n"


# Before TLS


@headers
def test_c16_the_header_comes_before_tls(header: bytes) -> None:
    with _proxied(_tell_address, **TLS.arguments) as server, connect(server) as raw:
        raw.sendall(header)
        with TLS.make(raw) as client:
            client.send(b"hi\n")
            assert client.recv_exactly(16) == b"hi of 192.0.2.1\n"


def test_c16_the_client_hello_may_come_in_one_segment_with_the_header() -> None:
    class Joined:
        """A socket whose first send begins with a header."""

        def __init__(self, raw: socket.socket, header: bytes) -> None:
            self.raw, self.header = raw, header

        def sendall(self, data: bytes) -> None:
            self.raw.sendall(self.header + data)
            self.header = b""

        def __getattr__(self, name: str) -> Any:
            return getattr(self.raw, name)

    for header in _HEADERS.values():
        with (
            _proxied(_tell_address, **TLS.arguments) as server,
            connect(server) as raw,
            TLS.make(Joined(raw, header)) as client,  # type: ignore[arg-type]  # it offers the same
        ):
            client.send(b"hi\n")
            assert client.recv_exactly(16) == b"hi of 192.0.2.1\n"


def test_c16_header_and_handshake_have_one_deadline_together() -> None:
    limit = 3 * SHORT
    with (
        silent_logs(),
        _proxied(answer_lines, handshake_timeout=limit, **TLS.arguments) as server,
        connect(server) as client,
    ):
        start = time.monotonic()
        gevent.sleep(limit * 0.6 / 1000)
        client.sendall(_v1())
        assert ending(client) in ("end", "reset")
        assert limit * 0.9 < (time.monotonic() - start) * 1000 < limit * MARGIN
        assert server._terms.statistics.handshake_failures == {"timeout": 1}


def test_c16_a_client_hello_without_a_header_is_refused() -> None:
    with silent_logs(), _proxied(answer_lines, **TLS.arguments) as server, connect(server) as client:
        with pytest.raises((EOFError, OSError)):
            TLS.make(client)
        wait_until(lambda: server._terms.statistics.proxy_failures == 1, "it is counted")


# Limits


def test_limits_per_address_count_the_proxied_address() -> None:
    held = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        held.wait()

    with silent_logs(), _proxied(handle, max_per_address=1) as server, ExitStack() as stack:
        for number in (1, 2, 3):  # all of one proxy
            client = stack.enter_context(connect(server))
            client.sendall(_v1(f"192.0.2.{number}"))
            assert client.recv(1) == b"+"
        again = stack.enter_context(connect(server))
        again.sendall(_v1("192.0.2.2"))
        assert ending(again) == "reset"
        assert server._terms.statistics.rejected["per address"] == 1
        held.set()


def test_a_proxied_address_is_counted_out_when_its_connection_ends() -> None:
    with _proxied(_tell_address, max_per_address=1) as server:
        for number in range(1, 4):
            with connect(server) as client:
                client.sendall(_v1() + b"hi\n")
                assert client.recv(100) == b"hi of 192.0.2.1\n"
            wait_until(lambda number=number: server._terms.statistics.closed == number, "it is gone")
        assert not server._admission.per_address


def test_overflow_bytes_reach_a_client_over_the_limit_of_its_proxied_address() -> None:
    held = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        held.wait()

    with (
        silent_logs(),
        _proxied(handle, max_per_address=1, overflow=b"-ERR busy\r\n") as server,
        connect(server) as first,
        connect(server) as second,
    ):
        first.sendall(_v1())
        assert first.recv(1) == b"+"
        second.sendall(_v1())
        assert receive_all(second) == b"-ERR busy\r\n"
        held.set()


def test_many_connections_of_the_proxys_own_are_not_limited_by_its_address() -> None:
    with _proxied(_tell_address, max_per_address=1) as server, ExitStack() as stack:
        for _ in range(4):  # health checks
            client = stack.enter_context(connect(server))
            client.sendall(_v2(command=0x20) + b"hi\n")
            assert client.recv(100) == b"hi of 127.0.0.1\n"


# Drains


def test_a_drain_waits_for_a_header_that_comes() -> None:
    with _proxied(_tell_address) as server, connect(server) as client:
        client.sendall(_v1()[:10])
        wait_until(lambda: server._admission.starting == 1, "it is in")
        stop = stopping(server)
        client.sendall(_v1()[10:] + b"hi\n")
        assert client.recv(100) == b"hi of 192.0.2.1\n"
        stop.get(timeout=GUARD / 1000)


def test_a_drain_does_not_wait_long_for_a_header_that_does_not_come() -> None:
    with (
        silent_logs(),
        _proxied(_tell_address, handshake_timeout=_LONG) as server,
        connect(server) as client,
    ):
        wait_until(lambda: server._admission.starting == 1, "it is in")
        start = time.monotonic()
        stop = stopping(server)
        assert ending(client) in ("end", "reset")
        stop.get(timeout=GUARD / 1000)
        assert time.monotonic() - start < 0.5 * MARGIN + 1


def test_the_header_is_not_waited_for_where_none_is_expected() -> None:
    with serving(lambda client, _: client.send(b"first")) as server, connect(server) as client:
        assert client.recv(5) == b"first"


def test_a_server_that_speaks_first_waits_for_the_header() -> None:
    with _proxied(lambda client, address: client.send(address.encode())) as server, connect(server) as client:
        assert receives_nothing(client)
        client.sendall(_v2())
        assert client.recv(100) == b"192.0.2.1"
