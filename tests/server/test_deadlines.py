"""The deadlines of a server's connections, each from outside: what is cut, when, how, and what is not."""

from __future__ import annotations

import inspect
import os
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import gnet
from gnet.server import Server
from tests.faults.peers import GUARD, busyness, receives_nothing, reset, wait_until
from tests.server.peers import answer_lines, ask, connect, logged, serving, silent_logs
from tests.server.talking import (
    MARGIN,
    PLAIN,
    SHORT,
    TLS,
    Calls,
    Kind,
    client_hello,
    compute,
    context,
    kinds,
    milliseconds_of,
    timeouts,
)

_LONG: Final = 60_000


def _reads(calls: Calls, *before: bytes) -> Any:
    """A handler that notes what its reads of lines give, up to the first that raises."""

    def handle(client: gnet.Socket, _address: str) -> None:
        while not isinstance(calls(client.read_line), OSError):
            if calls.results[-1] == b"":
                break

    return handle


def _poll(client: gnet.Socket, calls: Calls, until: str) -> None:
    """Read with timeouts of 20 ms until one of the server's ends it."""
    while type(found := calls(client.read_line, timeout=20)) is gnet.TimeoutError and until not in str(found):
        pass


def _error(found: Any) -> str:
    assert type(found) is gnet.TimeoutError, found
    return str(found)


# The values


@pytest.mark.parametrize(
    ("name", "milliseconds"),
    [
        ("handshake_timeout", 10_000),
        ("first_byte_timeout", 30_000),
        ("line_timeout", 60_000),
        ("idle_timeout", 300_000),
        ("write_timeout", 60_000),
        ("drain_timeout", 30_000),
    ],
)
def test_the_deadlines_are_on_unless_told_otherwise(name: str, milliseconds: int) -> None:
    assert inspect.signature(Server).parameters[name].default == milliseconds


def test_a_server_with_all_defaults_watches_by_them() -> None:
    server = Server(answer_lines)
    limits = {wait.value: seconds for wait, seconds in server._terms.watchdog._limits.items()}
    assert limits == {"first_byte": 30, "line": 60, "idle": 300, "write": 60}
    assert server._terms.handshake_timeout == 10_000
    assert server._drain_timeout == 30_000


@pytest.mark.parametrize(
    "name", ["handshake_timeout", "first_byte_timeout", "line_timeout", "idle_timeout", "write_timeout"]
)
@pytest.mark.parametrize("value", [-2, float("nan"), "5", True], ids=repr)
def test_a_timeout_that_is_none_is_refused_before_anything_is_opened(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Server(answer_lines, **{name: value})


@pytest.mark.parametrize("name", ["first_byte_timeout", "line_timeout", "idle_timeout", "write_timeout"])
def test_a_timeout_of_zero_does_not_keep_the_loop_busy(name: str) -> None:
    with (
        suppress(ValueError),  # to refuse it is one way out
        serving(answer_lines, **{name: 0}) as server,
        connect(server) as client,
    ):
        with suppress(OSError):
            ask(client)
        gevent.sleep(0.05)
        assert busyness(0.3) < 200


def test_timeouts_may_be_given_as_timedelta() -> None:
    calls = Calls()
    with (
        serving(_reads(calls), first_byte_timeout=timedelta(milliseconds=SHORT)) as server,
        connect(server) as client,
    ):
        assert client.recv(1) == b""
    assert f"within {SHORT} ms" in _error(calls.only())


# First byte


@kinds
def test_a_client_that_sends_nothing_is_cut_after_the_first_byte_deadline(kind: Kind) -> None:
    calls = Calls()
    with (
        serving(_reads(calls), first_byte_timeout=SHORT, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        start = time.monotonic()
        assert "first_byte_timeout" in _error(calls.only())
        assert SHORT * 0.9 < (time.monotonic() - start) * 1000 < SHORT * MARGIN + 500
        with suppress(OSError, gnet.SslError, Exception):
            client.recv(1)
        assert timeouts(server) == {"first_byte": 1}


def test_the_error_names_the_call_the_peer_and_the_limit() -> None:
    calls = Calls()
    with serving(_reads(calls), first_byte_timeout=SHORT) as server, connect(server) as client:
        peer = client.getsockname()
        expected = f"read_line from {peer[0]}:{peer[1]}: nothing came within {SHORT} ms (first_byte_timeout)"
        assert _error(calls.only()) == expected


def test_a9_silent_clients_hold_a_pool_no_longer_than_the_first_byte_deadline() -> None:
    limit = 300
    with (
        serving(answer_lines, pool_size=5, first_byte_timeout=limit) as server,
        ExitStack() as stack,
        silent_logs(),
    ):
        for _ in range(5):
            stack.enter_context(connect(server))
        wait_until(lambda: len(server._admission.connections) == 5, "all five are in")
        with connect(server) as good:
            assert milliseconds_of(ask, good) < MARGIN * (limit + 100)


def test_a9_silent_clients_on_tls_hold_a_pool_no_longer_either() -> None:
    limit = 300
    with (
        serving(answer_lines, pool_size=5, first_byte_timeout=limit, **TLS.arguments) as server,
        ExitStack() as stack,
        silent_logs(),
    ):
        for _ in range(5):
            stack.enter_context(TLS.connect(server))
        wait_until(lambda: len(server._admission.connections) == 5, "all five are in")
        with TLS.connect(server) as good:
            good.send(b"ping\n")
            assert milliseconds_of(good.recv_exactly, 5) < MARGIN * (limit + 100)


def test_the_first_byte_deadline_begins_anew_with_no_shorter_timeout() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        _poll(client, calls, "first_byte")

    with serving(handle, first_byte_timeout=SHORT) as server, connect(server), silent_logs():
        wait_until(lambda: timeouts(server) == {"first_byte": 1}, "the deadline is over")


def test_a_client_that_is_served_is_not_cut_by_the_first_byte_deadline() -> None:
    with serving(answer_lines, first_byte_timeout=SHORT) as server, connect(server) as client:
        assert ask(client) == b"ping\n"
        gevent.sleep(2 * SHORT / 1000)
        assert ask(client) == b"ping\n"
        assert timeouts(server) == {}


# Line


@kinds
def test_a_byte_at_a_time_does_not_extend_the_line_deadline(kind: Kind) -> None:
    calls = Calls()
    with (
        serving(_reads(calls), line_timeout=2 * SHORT, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        client.send(b"a")
        start = time.monotonic()
        while not calls.results and time.monotonic() - start < GUARD / 1000:
            with suppress(OSError):
                client.send(b"a")
            gevent.sleep(0.02)
        assert "the line has no end" in _error(calls.only())
        assert SHORT < (calls.times[0] - start) * 1000 < 2 * SHORT * MARGIN
        assert timeouts(server) == {"line": 1}


@pytest.mark.parametrize("operation", ["read_line", "recv_until", "lines"])
def test_the_line_deadline_holds_for_all_reads_with_an_end(operation: str) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        reads = {
            "read_line": client.read_line,
            "recv_until": lambda: client.recv_until(b"\n"),
            "lines": lambda: next(client.lines()),
        }
        calls(reads[operation])

    with serving(handle, line_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"no end")
        assert f"{operation} from" in _error(calls.only())
        assert timeouts(server) == {"line": 1}


def test_a_handler_that_polls_does_not_extend_the_line_deadline() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        _poll(client, calls, "line_timeout")

    with serving(handle, line_timeout=SHORT) as server, connect(server) as client, silent_logs():
        start = time.monotonic()
        while not timeouts(server):
            assert (time.monotonic() - start) * 1000 < SHORT * MARGIN + 1000, "the line lives on"
            with suppress(OSError):
                client.sendall(b"x")
            gevent.sleep(0.03)
        assert timeouts(server) == {"line": 1}


def test_each_line_has_a_deadline_of_its_own() -> None:
    with serving(answer_lines, line_timeout=4 * SHORT) as server, connect(server) as client:
        for _ in range(8):  # each begins before the former is answered
            client.sendall(b"ong\np")
            gevent.sleep(SHORT / 1000)
        assert timeouts(server) == {}


def test_the_line_deadline_does_not_hold_between_lines() -> None:
    with serving(answer_lines, line_timeout=SHORT) as server, connect(server) as client:
        assert ask(client) == b"ping\n"
        gevent.sleep(2 * SHORT / 1000)
        assert ask(client) == b"ping\n"


# Idle


@kinds
def test_a_client_that_is_idle_between_lines_is_cut(kind: Kind) -> None:
    calls = Calls()
    with (
        serving(_reads(calls), idle_timeout=SHORT, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        client.send(b"one\n")
        found = calls.wait(2)
        assert found[0] == b"one"
        assert "idle_timeout" in _error(found[1])
        assert SHORT * 0.9 < (calls.times[1] - calls.times[0]) * 1000 < SHORT * MARGIN + 500
        assert timeouts(server) == {"idle": 1}


def test_a_handler_that_polls_does_not_extend_the_idle_deadline() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        _poll(client, calls, "idle_timeout")

    with serving(handle, idle_timeout=SHORT) as server, connect(server) as client, silent_logs():
        client.sendall(b"one\n")
        end = time.monotonic() + (SHORT * MARGIN + 1000) / 1000
        while not timeouts(server):
            assert time.monotonic() < end, "the silent client lives on"
            gevent.sleep(0.01)
        assert timeouts(server) == {"idle": 1}


def test_each_wait_of_a_read_without_an_end_has_the_whole_idle_time() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.recv_exactly, 8)

    with serving(handle, idle_timeout=4 * SHORT) as server, connect(server) as client:
        for _ in range(8):
            client.sendall(b"x")
            gevent.sleep(SHORT / 1000)
        assert calls.only() == b"x" * 8


# Write


@kinds
def test_a_peer_that_never_reads_is_cut_after_the_write_deadline(kind: Kind) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * 30_000_000)
        calls(client.send, b"more")

    with serving(handle, write_timeout=SHORT, **kind.arguments) as server, kind.connect(server):
        first, second = calls.wait(2)
        assert "the peer took nothing" in _error(first)
        assert "write_timeout" in _error(second)
        assert timeouts(server) == {"write": 1}
        wait_until(lambda: not server._admission.connections, "the connection is gone")


def test_the_write_deadline_says_how_much_went() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * 30_000_000)

    with serving(handle, write_timeout=SHORT) as server, connect(server) as client:
        error = calls.only()
        assert type(error) is gnet.TimeoutError
        received = 0
        with suppress(OSError):
            while part := client.recv(1 << 20):
                received += len(part)
        assert 0 < received <= error.bytes_sent < 30_000_000


@kinds
def test_a_slow_reader_that_makes_progress_is_not_cut(kind: Kind) -> None:
    size = 3_000_000
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * size)

    with (
        serving(handle, write_timeout=4 * SHORT, **kind.arguments) as server,
        kind.connect(server, receive_buffer=65536) as client,
    ):
        received = 0
        start = time.monotonic()
        while received < size:
            part = client.recv(1 << 16)
            assert part, f"the end after {received} bytes"
            received += len(part)
            if time.monotonic() - start < 8 * SHORT / 1000:
                gevent.sleep(SHORT / 1000)
        assert calls.only() is None
        assert timeouts(server) == {}


def test_the_write_deadline_leaves_reads_alone() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * 30_000_000)
        calls(client.read_line)

    with serving(handle, write_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"here\n")
        assert calls.wait(2)[1] == b"here"


# What an error means for what follows


def test_the_error_is_sticky() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line)
        for read in (client.read_line, client.lines().__next__, client.try_read_line):
            calls(read)
        calls(client.recv, 1)
        calls(client.recv_exactly, 1)

    with serving(handle, first_byte_timeout=SHORT) as server, connect(server) as client:
        for found in calls.wait(6):
            assert "first_byte_timeout" in _error(found)
        assert client.recv(1) == b""


def test_what_had_arrived_is_read_before_the_error() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line)
        calls(client.recv, 3)
        calls(client.recv_exactly, 3)
        calls(client.recv, 1)

    with serving(handle, line_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"no end")
        first, second, third, last = calls.wait(4)
        assert (second, third) == (b"no ", b"end")
        assert "line_timeout" in _error(first)
        assert "line_timeout" in _error(last)


@kinds
def test_a_handler_can_say_why_it_cuts(kind: Kind) -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        try:
            client.read_line()
        except gnet.TimeoutError:
            client.send(b"too slow\n")

    with (
        serving(handle, first_byte_timeout=SHORT, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        assert client.recv_exactly(9) == b"too slow\n"


def test_the_connection_is_closed_at_once_when_the_handler_returns() -> None:
    # Without the linger: a client that sends on would get 500 ms more otherwise.
    def handle(client: gnet.Socket, _address: str) -> None:
        with suppress(gnet.TimeoutError):
            client.read_line()

    with serving(handle, line_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"no end")
        wait_until(lambda: bool(timeouts(server)), "the deadline is over")
        start = time.monotonic()
        wait_until(lambda: not server._admission.connections, "the connection is gone")
        assert time.monotonic() - start < 0.25


def test_a_deadline_that_is_over_logs_one_short_line_at_most() -> None:
    with (
        logged() as log,
        serving(answer_lines, first_byte_timeout=SHORT) as server,
        connect(server) as client,
    ):
        with suppress(OSError):
            assert client.recv(1) == b""
        wait_until(lambda: not server._admission.connections, "the connection is gone")
        assert len(log.lines()) <= 1
        assert len(log.text()) <= 120
        assert server._terms.statistics.peer_errors == 1
        assert server._terms.statistics.handler_errors == 0


# An explicit timeout


def test_an_explicit_timeout_shortens_a_deadline_and_leaves_the_connection_usable() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line, timeout=20)
        calls(client.read_line)

    with serving(handle, first_byte_timeout=_LONG) as server, connect(server) as client:
        assert "20 ms" in _error(calls.only())
        client.sendall(b"late\n")
        assert calls.wait(2)[1] == b"late"
        assert timeouts(server) == {}


@pytest.mark.parametrize("timeout", [_LONG, -1], ids=["longer", "none"])
def test_an_explicit_timeout_does_not_extend_a_deadline(timeout: int) -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line, timeout=timeout)

    with serving(handle, first_byte_timeout=SHORT) as server, connect(server):
        assert "first_byte_timeout" in _error(calls.only())


def test_an_explicit_timeout_does_not_extend_the_write_deadline() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * 30_000_000, timeout=_LONG)

    with serving(handle, write_timeout=SHORT) as server, connect(server):
        assert "write_timeout" in _error(calls.only())


# What is never cut


def test_no_deadline_at_all_with_minus_one() -> None:
    calls = Calls()
    with (
        serving(
            _reads(calls), first_byte_timeout=-1, line_timeout=-1, idle_timeout=-1, write_timeout=-1
        ) as server,
        connect(server) as client,
    ):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        gevent.sleep(2 * SHORT / 1000)
        client.sendall(b"here\n")
        assert calls.only() == b"here"


def test_one_deadline_without_limit_leaves_the_others_on() -> None:
    calls = Calls()
    with (
        serving(_reads(calls), first_byte_timeout=-1, idle_timeout=SHORT) as server,
        connect(server) as client,
    ):
        gevent.sleep(2 * SHORT / 1000)
        client.sendall(b"one\n")
        assert "idle_timeout" in _error(calls.wait(2)[1])


@pytest.mark.parametrize("waste", [compute, lambda ms: gevent.sleep(ms / 1000)], ids=["computes", "sleeps"])
def test_a_handler_that_computes_or_sleeps_is_not_cut(waste: Any) -> None:
    short = {f"{name}_timeout": SHORT for name in ("first_byte", "line", "idle", "write")}

    def handle(client: gnet.Socket, _address: str) -> None:
        for line in client.lines():
            waste(3 * SHORT)
            client.send(line + b"\n")

    with serving(handle, **short) as server, connect(server) as client:
        for _ in range(2):
            assert ask(client) == b"ping\n"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert timeouts(server) == {}


@pytest.mark.parametrize("waste", [compute, lambda ms: gevent.sleep(ms / 1000)], ids=["computes", "sleeps"])
def test_time_that_a_handler_computes_or_sleeps_is_not_taken_from_its_next_wait(waste: Any) -> None:
    calls = Calls()
    limit = 2 * SHORT

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line)
        waste(2 * limit)
        calls.note("waits")
        calls(client.read_line)

    with serving(handle, idle_timeout=limit) as server, connect(server) as client:
        client.sendall(b"one\n")
        calls.wait(2)
        gevent.sleep(limit / 3 / 1000)
        client.sendall(b"two\n")
        assert calls.wait(3)[2] == b"two"


# G4: data wins


@kinds
def test_g4_data_in_the_kernel_wins_over_a_deadline_that_passed_while_the_hub_was_blocked(kind: Kind) -> None:
    calls = Calls()
    with (
        serving(_reads(calls), first_byte_timeout=SHORT, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        wait_until(
            lambda: any(each.state == "handler" for each in server._admission.connections.values()),
            "the handler waits",
        )
        client.send(b"in time\n")
        compute(3 * SHORT)  # nobody runs, the server neither
        assert calls.only() == b"in time"
        assert timeouts(server) == {}


def test_g4_room_in_the_kernel_wins_over_a_write_deadline() -> None:
    calls = Calls()
    size = 40_000_000  # more than the kernel takes at once

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.send, b"x" * size)

    with serving(handle, write_timeout=2 * SHORT) as server, connect(server) as client:
        wait_until(
            lambda: any(
                each.watch and each.watch.writes_waiter for each in server._admission.connections.values()
            ),
            "it waits",
        )
        raw = client.fileno()
        client.setblocking(False)
        received = 0
        for _ in range(20):  # takes what is there, and nobody else runs
            with suppress(BlockingIOError):
                received += len(os.read(raw, 1 << 20))
        compute(4 * SHORT)
        client.settimeout(GUARD / 1000)
        while received < size:
            part = client.recv(1 << 20)
            assert part
            received += len(part)
        assert calls.only() is None
        assert timeouts(server) == {}


def test_g4_data_that_makes_no_answer_does_not_win_for_ever() -> None:
    calls = Calls()
    with serving(_reads(calls), line_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"n")
        start = time.monotonic()
        while not calls.results:
            assert (time.monotonic() - start) * 1000 < SHORT * MARGIN + 1000
            client.sendall(b"o")
            compute(30)  # when the loop looks again, time is over and the byte is in the kernel
            gevent.sleep(0.001)
        assert "line_timeout" in _error(calls.only())


# The watchdog itself


def test_a_greenlet_that_dies_of_a_deadline_does_not_end_the_deadlines_of_others() -> None:
    calls = Calls()
    first = True

    def handle(client: gnet.Socket, _address: str) -> None:
        nonlocal first
        if first:
            first = False
            gevent.spawn_raw(client.read_line)  # whose error goes to the hub
            gevent.sleep(4 * SHORT / 1000)
        else:
            calls(client.read_line)

    hub = gevent.get_hub()
    hub.NOT_ERROR += (gnet.TimeoutError,)  # not to be printed
    try:
        with serving(handle, first_byte_timeout=SHORT) as server, connect(server), connect(server):
            assert "first_byte_timeout" in _error(calls.only())
    finally:
        del hub.NOT_ERROR


def test_a_deadline_thrown_into_one_handler_does_not_delay_the_others() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(client.read_line)
        gevent.sleep(_LONG / 1000)

    with serving(handle, first_byte_timeout=SHORT) as server, ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server))
        calls.wait(20)
        assert (calls.times[-1] - calls.times[0]) * 1000 < SHORT * MARGIN


def test_deadlines_are_met_to_the_millisecond_for_many_connections() -> None:
    calls = Calls()
    starts = []

    def handle(client: gnet.Socket, _address: str) -> None:
        start = time.monotonic()
        calls(client.read_line)
        starts.append(calls.times[-1] - start)

    with serving(handle, first_byte_timeout=2 * SHORT) as server, ExitStack() as stack, silent_logs():
        for _ in range(30):
            stack.enter_context(connect(server))
            gevent.sleep(0.005)
        wait_until(lambda: len(starts) == 30, "all are over")
    late = sorted(seconds * 1000 - 2 * SHORT for seconds in starts)
    assert late[0] > -5
    assert late[15] < 20 * MARGIN


def test_a_closed_connection_is_watched_no_longer() -> None:
    with serving(answer_lines, first_byte_timeout=SHORT) as server, connect(server), silent_logs():
        wait_until(lambda: bool(timeouts(server)), "the deadline is over")
        wait_until(lambda: not server._admission.connections, "the connection is gone")
        wait_until(
            lambda: not server._terms.watchdog._regular and not server._terms.watchdog._early,
            "nothing is watched",
        )


def test_a_connection_that_is_busy_for_long_is_looked_at_no_more_often() -> None:
    short = {f"{name}_timeout": 50 for name in ("first_byte", "line", "idle", "write")}
    with serving(answer_lines, **short) as server, connect(server) as client:
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            for _ in range(50):
                assert ask(client) == b"ping\n"
            compute(8)  # so that the looks come late
        assert len(server._terms.watchdog._early) + len(server._terms.watchdog._regular) <= 2


def test_an_idle_server_does_not_keep_the_loop_from_ending() -> None:
    with serving(answer_lines) as server, connect(server) as client:
        assert ask(client) == b"ping\n"
        assert server._terms.watchdog._timer is not None
        assert not server._terms.watchdog._timer.ref


def test_requests_start_no_timers() -> None:
    with serving(answer_lines) as server, connect(server) as client:
        assert ask(client) == b"ping\n"
        timer = server._terms.watchdog._timer
        for _ in range(200):
            ask(client)
        assert server._terms.watchdog._timer is timer


# The handshake


def _dribble(client: Any, hello: bytes) -> None:
    with suppress(OSError):
        for at in range(len(hello)):
            client.sendall(hello[at : at + 1])
            gevent.sleep(0.03)


@pytest.mark.parametrize("how", ["no byte", "half a ClientHello", "a byte now and then"])
def test_e12_a_handshake_that_stalls_is_cut_by_its_deadline(how: str) -> None:
    limit = 2 * SHORT
    with serving(answer_lines, handshake_timeout=limit, **TLS.arguments) as server, logged() as log:
        with connect(server) as client:
            start = time.monotonic()
            hello = client_hello()
            if how == "half a ClientHello":
                client.sendall(hello[: len(hello) // 2])
            elif how == "a byte now and then":
                gevent.spawn(_dribble, client, hello)
            with suppress(ConnectionResetError):
                assert client.recv(100) == b""
            assert limit * 0.9 < (time.monotonic() - start) * 1000 < limit * MARGIN
            wait_until(lambda: not server._admission.connections, "its place is free")
        assert dict(server._terms.statistics.handshake_failures) == {"timeout": 1}
        assert server._admission.starting == 0
        assert len(log.lines()) <= 1
        assert len(log.text()) <= 120


def test_e12_a_client_that_goes_silent_in_the_middle_of_the_handshake_is_cut() -> None:
    with serving(answer_lines, handshake_timeout=2 * SHORT, **TLS.arguments) as server, silent_logs():
        with connect(server) as client:
            client.sendall(client_hello())
            assert len(client.recv(1 << 16)) > 100  # its flight; ours does not follow
            wait_until(lambda: not server._admission.connections, "its place is free")
        assert dict(server._terms.statistics.handshake_failures) == {"timeout": 1}


def test_e12_stalled_handshakes_take_no_place_of_the_pool() -> None:
    with (
        serving(answer_lines, pool_size=1, handshake_timeout=_LONG, **TLS.arguments) as server,
        ExitStack() as stack,
    ):
        for _ in range(10):
            stack.enter_context(connect(server))
        with TLS.connect(server) as good:
            good.send(b"ping\n")
            assert good.recv_exactly(5) == b"ping\n"


def test_d6_a_timeout_in_the_handshake_frees_its_place() -> None:
    with (
        serving(answer_lines, max_handshakes=1, handshake_timeout=SHORT, **TLS.arguments) as server,
        silent_logs(),
        connect(server),
    ):
        wait_until(lambda: server._admission.starting == 1, "the silent one has the only place")
        with TLS.connect(server) as good:
            good.send(b"ping\n")
            assert good.recv_exactly(5) == b"ping\n"
            assert server._admission.starting == 0


def test_d6_no_more_handshakes_at_once_than_allowed() -> None:
    with (
        serving(answer_lines, max_handshakes=2, handshake_timeout=_LONG, **TLS.arguments) as server,
        ExitStack() as stack,
    ):
        silent = [stack.enter_context(connect(server)) for _ in range(5)]
        wait_until(lambda: server._admission.starting == 2, "two are in")
        gevent.sleep(0.05)
        assert server._admission.starting == 2
        assert len(server._admission.connections) == 2
        for client in silent:
            reset(client)


def test_handshakes_without_a_limit_wait_as_long_as_it_takes() -> None:
    with serving(answer_lines, handshake_timeout=-1, **TLS.arguments) as server, connect(server) as client:
        assert receives_nothing(client)
        with TLS.make(client) as good:
            good.send(b"ping\n")
            assert good.recv_exactly(5) == b"ping\n"


def test_g4_a_hello_in_the_kernel_wins_over_a_handshake_deadline_while_the_hub_was_blocked() -> None:
    with serving(answer_lines, handshake_timeout=SHORT, **TLS.arguments) as server, connect(server) as client:
        wait_until(lambda: server._admission.starting == 1, "it is in")
        client.sendall(b"HELP me please\r\n")  # what is wrong with it can be told at once
        compute(3 * SHORT)
        with silent_logs():
            wait_until(lambda: bool(server._terms.statistics.handshake_failures), "it was judged")
        assert "timeout" not in server._terms.statistics.handshake_failures


# STARTTLS in a handler


def _starttls(client: gnet.Socket) -> None:
    client.read_line()
    client.send(b"go\n")
    context().wrap_connected_socket(client, gnet.SslHandshakeType.AS_SERVER)


def test_a_starttls_handshake_of_a_handler_has_a_deadline() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        calls(_starttls, client)

    with serving(handle, handshake_timeout=SHORT, idle_timeout=SHORT) as server, connect(server) as client:
        client.sendall(b"starttls\n")
        assert client.recv(3) == b"go\n"
        end = time.monotonic() + (MARGIN * SHORT + 1000) / 1000
        while not calls.results:
            assert time.monotonic() < end, "it waits on"
            gevent.sleep(0.01)
        _error(calls.only())


def test_deadlines_hold_on_after_starttls() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        _starttls(client)
        calls(client.read_line)

    with serving(handle, idle_timeout=2 * SHORT) as server, connect(server) as client:
        client.sendall(b"starttls\n")
        assert client.recv(3) == b"go\n"
        with TLS.make(client):
            assert "idle_timeout" in _error(calls.only())


# release()


def test_deadlines_hold_on_for_a_released_connection() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.release()
        calls.greenlets.append(gevent.spawn(lambda: (calls(client.read_line), client.close())))

    with serving(handle, first_byte_timeout=SHORT) as server, connect(server) as client:
        assert "first_byte_timeout" in _error(calls.only())
        assert client.recv(1) == b""
        gevent.joinall(calls.greenlets)
        assert not server._admission.connections


def test_two_greenlets_of_one_connection_have_deadlines_each() -> None:
    reads, writes = Calls(), Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        reader = gevent.spawn(reads, client.read_line)
        writes(client.send, b"x" * 30_000_000)
        reader.join()

    with serving(handle, first_byte_timeout=SHORT, write_timeout=2 * SHORT) as server, connect(server):
        assert "first_byte_timeout" in _error(reads.only())
        assert "write_timeout" in _error(writes.only())
        assert timeouts(server) == {"first_byte": 1, "write": 1}


def test_a_gevent_timeout_of_the_handlers_own_is_its_own() -> None:
    calls = Calls()
    done = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        with gevent.Timeout(0.02, False):
            client.read_line()
        calls(client.read_line)
        done.set()

    with serving(handle, **PLAIN.arguments) as server, connect(server) as client:
        gevent.sleep(0.06)
        client.sendall(b"late\n")
        assert calls.only() == b"late"
        assert timeouts(server) == {}
