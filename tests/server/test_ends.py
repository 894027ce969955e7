"""How connections end when the handler is done: flush, end of stream, linger; limits on input; release()."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

import gnet
from tests.faults.peers import reset, wait_until
from tests.server.peers import answer_lines, ask, connect, connect_unix, ending, logged, serving, silent_logs
from tests.server.talking import PLAIN, SHORT, TLS, Calls, Kind, compute, context, kinds, milliseconds_of

_LINGER = 500
_LINGER_BYTES = 1024 * 1024


def _gone(server: gnet.server.Server, count: int = 1) -> None:
    wait_until(lambda: server._terms.statistics.closed >= count, "the connection is gone")


# A4: half-close


@kinds
def test_a4_a_client_that_half_closes_after_its_request_gets_the_answer(kind: Kind) -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        lines = list(client.lines())
        client.send(b"%d lines\n" % len(lines))

    with serving(handle, **kind.arguments) as server, kind.connect(server) as client:
        client.send(b"one\ntwo\n")
        client.end()
        assert client.recv_all() == b"2 lines\n"


@kinds
def test_a4_a_large_answer_after_the_half_close_is_whole(kind: Kind) -> None:
    size = 3_000_000

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        assert client.read_line() == b""
        client.send(b"x" * size)

    with serving(handle, **kind.arguments) as server, kind.connect(server, receive_buffer=16384) as client:
        client.send(b"go\n")
        client.end()
        assert len(client.recv_all()) == size


def test_a4_a_half_closed_connection_ends_without_a_linger() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(client.recv(10))

    with serving(handle) as server, connect(server) as client:
        client.sendall(b"x")
        client.shutdown(1)
        assert client.recv(10) == b"x"
        assert milliseconds_of(_gone, server) < _LINGER / 2


# C17: the last answer survives unread input


@kinds
def test_c17_a_last_answer_survives_input_that_nobody_read(kind: Kind) -> None:
    size = 400_000

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"x" * size)

    with serving(handle, **kind.arguments) as server, kind.connect(server, receive_buffer=4096) as client:
        client.send(b"go\n" + b"unread" * 5000)
        assert len(client.recv_all()) == size


@kinds
def test_c17_a_last_answer_survives_input_that_comes_behind_it(kind: Kind) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"go away\n")
        calls.note("done")

    with serving(handle, **kind.arguments) as server, kind.connect(server) as client:
        client.send(b"hello\n")
        calls.only()
        for _ in range(5):
            client.send(b"more\n" * 100)
            gevent.sleep(0.01)
        assert client.recv_all() == b"go away\n"


def test_c17_an_answer_of_a_handler_that_raises_survives_too() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"x" * 400_000)
        raise ValueError("after the answer")

    with silent_logs(), serving(handle) as server, PLAIN.connect(server, receive_buffer=4096) as client:
        client.send(b"go\n" + b"unread" * 5000)
        assert len(client.recv_all()) == 400_000


def test_the_linger_ends_when_the_peer_ends() -> None:
    with serving(lambda client, _: client.send(b"bye")) as server, connect(server) as client:
        assert client.recv(3) == b"bye"
        assert client.recv(1) == b""
        client.close()
        assert milliseconds_of(_gone, server) < _LINGER / 2


def test_the_linger_takes_half_a_second_at_most() -> None:
    with serving(lambda client, _: client.send(b"bye")) as server, connect(server) as client:
        assert client.recv(3) == b"bye"
        with suppress(OSError):
            start = time.monotonic()
            while server._admission.connections:
                client.sendall(b"x")
                gevent.sleep(0.02)
                assert time.monotonic() - start < 5 * _LINGER / 1000
        assert time.monotonic() - start > 0.8 * _LINGER / 1000


def test_the_linger_takes_a_mebibyte_at_most() -> None:
    with serving(lambda client, _: None) as server, connect(server) as client:
        sent = 0
        with suppress(OSError):
            while sent < 50 * _LINGER_BYTES:
                sent += client.send(b"x" * 65536)
        assert sent < 50 * _LINGER_BYTES, "it is read and dropped without an end"
        _gone(server)


def test_the_place_of_the_pool_is_free_during_the_linger() -> None:
    with serving(lambda client, _: client.send(b"bye"), pool_size=1) as server, connect(server) as first:
        assert first.recv(3) == b"bye"  # and stays open
        with connect(server) as second:
            assert milliseconds_of(second.recv, 3) < _LINGER


def test_what_a_last_try_send_queued_is_flushed() -> None:
    size = 2_000_000

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        assert client.try_send(b"x" * size)

    with serving(handle) as server, PLAIN.connect(server, receive_buffer=16384) as client:
        client.send(b"go\n")
        assert len(client.recv_all()) == size


def test_coalesced_answers_of_pipelined_lines_are_all_sent() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        for _ in range(3):
            client.send(client.read_line() + b"\n")

    with serving(handle) as server, PLAIN.connect(server) as client:
        client.send(b"a\nb\nc\nd\ne\n")
        assert client.recv_all() == b"a\nb\nc\n"


def test_a_peer_that_is_gone_at_the_end_is_no_error() -> None:
    go = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        go.wait()

    with logged() as log, serving(handle) as server:
        with connect(server) as client:
            client.sendall(b"go\n")
            wait_until(lambda: len(server._admission.connections) == 1, "it is in")
            reset(client)
        go.set()
        _gone(server)
    assert not log.lines()


@kinds
def test_an_orderly_end_is_no_reset(kind: Kind) -> None:
    with serving(lambda client, _: client.send(b"bye"), **kind.arguments) as server:
        with kind.connect(server) as client:
            assert client.recv_all() == b"bye"
            if kind.is_tls:
                assert client.raw.recv(1) == b""
        _gone(server)
        assert not server._terms.statistics.peer_errors


def test_after_starttls_in_a_handler_the_end_is_tlss() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"go\n")
        context().wrap_connected_socket(client, gnet.SslHandshakeType.AS_SERVER)
        client.send(client.read_line() + b"\n")

    with serving(handle) as server, connect(server) as raw:
        raw.sendall(b"starttls\n")
        assert raw.recv(3) == b"go\n"
        with TLS.make(raw) as client:
            client.send(b"hello\n")
            assert client.recv_all() == b"hello\n"  # up to close_notify: SSL.Error without


def test_on_a_unix_socket_a_connection_ends_the_same_way(tmp_path: Any) -> None:
    path = tmp_path / "socket"

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(client.read_line() + b"\n")

    with serving(handle, unix_path=path) as server, connect_unix(str(path)) as client:
        client.sendall(b"ping\nunread\n")
        assert client.recv(100) == b"ping\n"
        assert client.recv(1) == b""
        client.close()
        _gone(server)


@kinds
def test_a_greenlet_that_still_reads_when_the_handler_returns_is_told_so(kind: Kind) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        gevent.spawn(calls, client.read_line)
        gevent.sleep(0.01)
        client.send(b"bye")

    with logged() as log, serving(handle, **kind.arguments) as server, kind.connect(server) as client:
        assert client.recv_all() == b"bye"
        assert type(calls.only()) is gnet.ClosedError
        client.raw.close()
        _gone(server)
    assert "Traceback" not in log.text()


@kinds
def test_c17_a_last_answer_survives_while_another_greenlet_reads(kind: Kind) -> None:
    size = 400_000

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        gevent.spawn(Calls(), client.recv_exactly, 10_000_000)
        client.send(b"x" * size)

    with (
        silent_logs(),
        serving(handle, **kind.arguments) as server,
        kind.connect(server, receive_buffer=4096) as client,
    ):
        client.send(b"go\n")
        assert client.recv_exactly(100) == b"x" * 100
        client.send(b"unread" * 5000)
        assert len(client.recv_all()) == size - 100


def test_a_slow_reader_of_the_last_bytes_is_not_cut_while_it_makes_progress() -> None:
    size = 6_000_000
    limit = 2 * SHORT

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        assert client.try_send(b"x" * size)

    with (
        serving(handle, write_timeout=limit) as server,
        PLAIN.connect(server, receive_buffer=65536) as client,
    ):
        client.send(b"go\n")
        received = 0
        start = time.monotonic()
        while part := client.recv(200_000):
            received += len(part)
            if time.monotonic() - start < 3 * limit / 1000:
                gevent.sleep(0.03)
        assert received == size


# C1: a line without an end


def _resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


@pytest.mark.parametrize("operation", ["lines", "recv_until"])
def test_c1_a_line_without_an_end_ends_at_the_limit_in_bounded_memory(operation: str) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        if operation == "lines":
            calls(lambda: list(client.lines()))
        else:
            calls(client.recv_until, b"\n")
        calls(client.read_line)

    with serving(handle) as server, connect(server) as client:
        before = _resident_kib()
        sent = 0
        with suppress(OSError):
            while sent < 64 * 1024 * 1024:
                sent += client.send(b"x" * 65536)
        first, second = calls.wait(2)
        assert type(first) is gnet.LineTooLongError
        assert type(second) is gnet.LineTooLongError
        assert first.limit in (65536, 1_000_000)
        assert sent < 32 * 1024 * 1024
        assert _resident_kib() - before < 16 * 1024
        _gone(server)


def test_c1_a_line_too_long_is_the_peers_fault_and_its_connection_ends_at_once() -> None:
    with logged() as log, serving(answer_lines) as server, connect(server) as client:
        with suppress(OSError):
            client.sendall(b"x" * 2_000_000)
        start = time.monotonic()
        _gone(server)
        assert time.monotonic() - start < _LINGER / 2 / 1000
        assert (server._terms.statistics.peer_errors, server._terms.statistics.handler_errors) == (1, 0)
    assert len(log.lines()) == 1
    assert len(log.text()) <= 120


def test_a_handler_can_tell_a_client_that_its_line_is_too_long() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        try:
            list(client.lines(max_length=1000))
        except gnet.LineTooLongError:
            client.send(b"too long\n")

    with serving(handle) as server, connect(server) as client:
        client.sendall(b"x" * 1500)
        assert client.recv(100) == b"too long\n"
        assert ending(client) in ("end", "reset")


# release()


def test_a_released_connection_lives_on_in_other_hands() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()

    with serving(handle) as server, connect(server) as client:
        wait_until(lambda: bool(kept), "it is handed on")
        client.sendall(b"ping\n")
        assert kept[0].read_line() == b"ping"
        kept[0].send(b"pong\n")
        assert client.recv(5) == b"pong\n"
        assert len(server._admission.connections) == 1
        kept[0].close()
        assert client.recv(1) == b""
        assert not server._admission.connections
        assert server._terms.statistics.closed == 1


def test_a_released_connection_counts_until_it_is_closed() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()
        client.send(b"+")

    with serving(handle, max_connections=1) as server, connect(server) as first, connect(server) as second:
        assert first.recv(1) == b"+"
        second.settimeout(0.1)
        with pytest.raises(TimeoutError):
            second.recv(1)
        second.settimeout(10)
        kept[0].close()
        assert second.recv(1) == b"+"
        kept[1].close()


def test_a_released_connection_takes_no_place_of_the_pool() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()
        client.send(b"+")

    with serving(handle, pool_size=1) as server, connect(server) as first, connect(server) as second:
        assert first.recv(1) == b"+"
        assert second.recv(1) == b"+"
        for client in kept:
            client.close()


def test_close_resets_a_released_connection_too() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()
        client.send(b"+")

    with serving(handle) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        server.close()
        assert ending(client) == "reset"
        assert kept[0].closed
        assert not server._admission.connections


def test_a_released_connection_that_is_dropped_unclosed_is_closed_with_a_warning() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.release()

    def drop() -> bool:
        gc.collect()
        return server._terms.statistics.closed == 1

    def drop_one() -> str:
        with connect(server) as client:
            wait_until(drop, "it is closed")
            return ending(client)

    with serving(handle) as server:
        with pytest.warns(ResourceWarning, match="unclosed"):
            assert drop_one() in ("end", "reset")
        assert not server._admission.connections


def test_a_handler_that_releases_and_raises_has_its_error_logged() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()
        raise ValueError("after release")

    with logged() as log, serving(handle) as server, connect(server) as client:
        wait_until(lambda: server._terms.statistics.handler_errors == 1, "it is counted")
        kept[0].send(b"alive")
        assert client.recv(5) == b"alive"
        kept[0].close()
    assert log.text().count("Traceback") == 1


def test_a_released_tls_connection_lives_on() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()

    with serving(handle, **TLS.arguments) as server, TLS.connect(server) as client:
        wait_until(lambda: bool(kept), "it is handed on")
        client.send(b"ping\n")
        assert kept[0].read_line() == b"ping"
        kept[0].send(b"pong\n")
        assert client.recv_exactly(5) == b"pong\n"
        kept[0].close()
        assert client.recv_all() == b""


# Counting


def test_bytes_and_lines_of_a_connection_are_counted_when_it_is_gone() -> None:
    with serving(answer_lines) as server:
        with connect(server) as client:
            for _ in range(3):
                ask(client)
        _gone(server)
        found = server._terms.statistics
        assert (found.bytes_in, found.bytes_out, found.lines_in, found.lines_out) == (15, 15, 3, 3)


def test_a_busy_hub_does_not_keep_a_last_answer_back() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(client.read_line() + b"\n")

    with serving(handle) as server, connect(server) as client:
        client.sendall(b"ping\n")
        compute(SHORT)
        assert client.recv(10) == b"ping\n"
        assert client.recv(1) == b""
