"""How a server stops in one process: what it still answers, whom it waits for, whom it cuts, and when."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack, suppress
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import gnet
from gnet.server import Server
from tests.faults.peers import GUARD, wait_until
from tests.server.peers import answer_lines, ask, connect, connect_unix, ending, logged, serving, silent_logs
from tests.server.talking import (
    MARGIN,
    PLAIN,
    SHORT,
    TLS,
    Calls,
    Held,
    Kind,
    client_hello,
    kinds,
    milliseconds_of,
    stopping,
)

_LONG = 10_000


def _stopped(server: Server, milliseconds: float, *arguments: Any) -> None:
    """Stop a server; fail if that takes longer than it may."""
    took = milliseconds_of(server.stop, *arguments)
    assert took < milliseconds, f"it took {took:.0f} ms"


# F1 to F3: whatever has begun is answered


@kinds
def test_f3_twenty_in_flight_and_ten_in_the_accept_queue_are_all_answered(kind: Kind) -> None:
    held = Held()
    with serving(held, pool_size=20, max_handshakes=20, drain_timeout=_LONG, **kind.arguments) as server:
        with ExitStack() as stack:
            flying = [stack.enter_context(kind.connect(server)) for _ in range(20)]
            for client in flying:
                client.send(b"flying\n")
            held.wait_for(20)
            raw = [stack.enter_context(connect(server)) for _ in range(10)]  # in the queue
            # On TLS their handshakes are made while the server drains.
            makers = [gevent.spawn(kind.make, client) for client in raw]
            if not kind.is_tls:
                for client in raw:
                    client.sendall(b"queued\n")
            stop = stopping(server)
            gevent.sleep(0.05)
            held.go.set()
            queued = [maker.get(timeout=GUARD / 1000) for maker in makers]
            if kind.is_tls:
                for client in queued:
                    client.send(b"queued\n")
            answers = [client.recv_all() for client in flying]
            assert answers == [b"answer to flying\n"] * 20
            answers = [client.recv_all() for client in queued]
            assert answers == [b"answer to queued\n"] * 10
            stop.get(timeout=GUARD / 1000)
        assert server._terms.statistics.drain_resets == 0


@kinds
def test_f2_stop_with_the_defaults_waits_for_handlers(kind: Kind) -> None:
    held = Held()
    with serving(held, **kind.arguments) as server, kind.connect(server) as client:
        client.send(b"one\n")
        held.wait_for(1)
        stop = stopping(server)
        gevent.sleep(SHORT / 1000)
        assert not stop.ready()
        held.go.set()
        assert client.recv_all() == b"answer to one\n"
        stop.get(timeout=GUARD / 1000)


def test_stop_with_nobody_connected_returns_at_once() -> None:
    with serving(answer_lines) as server:
        _stopped(server, 200 * MARGIN)
        assert server.draining
        assert "stopped" in repr(server)


def test_nobody_can_connect_any_more_after_a_stop() -> None:
    with serving(answer_lines) as server:
        port = server.port
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            connect(("127.0.0.1", port))


def test_idle_ones_do_not_keep_those_in_the_accept_queue_waiting() -> None:
    with serving(answer_lines, pool_size=2, drain_timeout=_LONG) as server, ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(2)]
        for client in idle:
            ask(client)
        queued = stack.enter_context(connect(server))
        queued.sendall(b"queued\n")
        gevent.sleep(0.02)
        start = time.monotonic()
        stop = stopping(server)
        assert [ending(client) for client in idle] == ["end", "end"]
        assert queued.recv(100) == b"queued\n"
        stop.get(timeout=GUARD / 1000)
        assert (time.monotonic() - start) * 1000 < _LONG / 4


# Idle connections


@kinds
def test_an_idle_connection_gets_its_end_of_stream_at_once(kind: Kind) -> None:
    with (
        serving(answer_lines, drain_timeout=_LONG, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        start = time.monotonic()
        stop = stopping(server)
        assert client.recv_all() == b""
        assert (time.monotonic() - start) * 1000 < 100 * MARGIN
        stop.get(timeout=GUARD / 1000)
        assert server._terms.statistics.drain_resets == 0
        assert server._terms.statistics.peer_errors == 0


@kinds
def test_a_handler_of_an_idle_connection_can_say_goodbye(kind: Kind) -> None:
    ends = []

    def handle(client: gnet.Socket, address: str) -> None:
        answer_lines(client, address)
        ends.append(server.draining)
        client.send(b"goodbye\n")

    with serving(handle, drain_timeout=_LONG, **kind.arguments) as server, kind.connect(server) as client:
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        stop = stopping(server)
        assert client.recv_all() == b"goodbye\n"
        stop.get(timeout=GUARD / 1000)
    assert ends == [True]


@kinds
def test_c17_a_goodbye_survives_a_request_that_comes_too_late(kind: Kind) -> None:
    size = 400_000
    at_end, go = Event(), Event()

    def handle(client: gnet.Socket, address: str) -> None:
        answer_lines(client, address)
        at_end.set()
        go.wait()
        client.send(b"x" * size)

    with (
        serving(handle, drain_timeout=_LONG, **kind.arguments) as server,
        kind.connect(server, receive_buffer=4096) as client,
    ):
        client.send(b"ping\n")
        assert client.recv_exactly(5) == b"ping\n"
        stop = stopping(server)
        at_end.wait()
        client.send(b"one more\n")
        go.set()
        assert len(client.recv_all()) == size
        stop.get(timeout=GUARD / 1000)


def test_an_idle_connection_on_a_unix_socket_ends_at_once(tmp_path: Any) -> None:
    path = tmp_path / "socket"
    with (
        serving(answer_lines, unix_path=path, drain_timeout=_LONG) as server,
        connect_unix(str(path)) as client,
    ):
        assert ask(client) == b"ping\n"
        stop = stopping(server)
        assert client.recv(1) == b""
        stop.get(timeout=GUARD / 1000)
        assert not path.exists()


def test_a_connection_that_has_sent_nothing_yet_ends_soon() -> None:
    with serving(answer_lines, drain_timeout=_LONG) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        _stopped(server, _LONG / 3)


def test_a_connection_that_has_sent_nothing_yet_may_still_send_its_first_line() -> None:
    with serving(answer_lines, drain_timeout=_LONG) as server, connect(server) as client:
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        stop = stopping(server)
        gevent.sleep(0.02)
        assert ask(client) == b"ping\n"
        assert client.recv(1) == b""
        stop.get(timeout=GUARD / 1000)


def test_one_from_the_accept_queue_has_time_for_its_first_line() -> None:
    held = Held()
    with serving(held, pool_size=1, drain_timeout=_LONG) as server, connect(server) as first:
        first.sendall(b"one\n")
        held.wait_for(1)
        with connect(server) as second:  # in the queue, and has sent nothing yet
            stop = stopping(server)
            held.go.set()
            assert first.recv(100) == b"answer to one\n"
            first.close()
            wait_until(
                lambda: any(each.state == "handler" for each in server._admission.connections.values()),
                "the second one is served",
            )
            second.sendall(b"two\n")
            assert second.recv(100) == b"answer to two\n"
            stop.get(timeout=GUARD / 1000)


# In the middle of something


@kinds
def test_a_line_that_has_begun_may_end(kind: Kind) -> None:
    with (
        serving(answer_lines, drain_timeout=_LONG, **kind.arguments) as server,
        kind.connect(server) as client,
    ):
        client.send(b"first\nbeg")
        assert client.recv_exactly(6) == b"first\n"
        wait_until(
            lambda: any(
                each.watch and each.watch.reads_waiter for each in server._admission.connections.values()
            ),
            "the handler waits",
        )
        stop = stopping(server)
        gevent.sleep(SHORT / 1000)
        client.send(b"un\n")
        assert client.recv_exactly(6) == b"begun\n"
        assert client.recv_all() == b""
        stop.get(timeout=GUARD / 1000)


@kinds
def test_a_request_that_sits_in_the_kernel_is_answered(kind: Kind) -> None:
    go = Event()
    inside = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        for line in client.lines():
            inside.set()
            go.wait()
            client.send(line + b"\n")

    with serving(handle, drain_timeout=_LONG, **kind.arguments) as server, kind.connect(server) as client:
        client.send(b"first\n")
        inside.wait()
        client.send(b"second\nthird\n")  # nobody has read it when the drain begins
        stop = stopping(server)
        go.set()
        assert client.recv_all() == b"first\nsecond\nthird\n"
        stop.get(timeout=GUARD / 1000)


def test_a_request_that_arrives_in_the_moment_of_the_drain_is_answered() -> None:
    # The handler waits between two lines; the line is in the kernel, and no turn of the loop has come since.
    with serving(answer_lines, drain_timeout=_LONG) as server, connect(server) as client:
        assert ask(client) == b"ping\n"
        client.sendall(b"last\n")
        stop = gevent.spawn(server.stop)
        received = b""
        with suppress(ConnectionResetError):
            while part := client.recv(100):
                received += part
        assert received == b"last\n"
        stop.get(timeout=GUARD / 1000)


@kinds
def test_a_handler_that_is_sending_goes_on(kind: Kind) -> None:
    size = 5_000_000

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        client.send(b"x" * size)

    with (
        serving(handle, drain_timeout=_LONG, **kind.arguments) as server,
        kind.connect(server, receive_buffer=65536) as client,
    ):
        client.send(b"go\n")
        assert client.recv(1) == b"x"
        stop = stopping(server)
        assert len(client.recv_all()) == size - 1
        stop.get(timeout=GUARD / 1000)


def test_a_handler_sees_that_the_server_drains() -> None:
    seen = []

    def handle(client: gnet.Socket, _address: str) -> None:
        seen.append(server.draining)
        client.send(b"+")
        while not server.draining:
            gevent.sleep(0.01)
        client.send(b"bye")

    with serving(handle) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        stop = stopping(server)
        assert client.recv(10) == b"bye"
        stop.get(timeout=GUARD / 1000)
    assert seen == [False]


# The end of the drain's time


@kinds
def test_what_is_not_finished_when_the_time_is_over_is_reset(kind: Kind) -> None:
    ended = []

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"half an ans")
        try:
            gevent.sleep(60)
        finally:
            ended.append(True)

    with logged() as log, serving(handle, **kind.arguments) as server, kind.connect(server) as client:
        assert client.recv_exactly(11) == b"half an ans"
        took = milliseconds_of(server.stop, SHORT)
        assert SHORT * 0.9 < took < SHORT * MARGIN + 500
        with pytest.raises(ConnectionResetError):
            client.recv_all()
        assert ended == [True]
        assert server._terms.statistics.drain_resets == 1
        assert server._terms.statistics.peer_errors == server._terms.statistics.handler_errors == 0
        assert not server._admission.connections
    assert "Traceback" not in log.text()


def test_the_servers_own_drain_timeout_holds_unless_another_is_given() -> None:
    with serving(lambda *_: gevent.sleep(60), drain_timeout=SHORT) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        took = milliseconds_of(server.stop)
        assert SHORT * 0.9 < took < SHORT * MARGIN + 500


def test_stop_with_no_time_at_all_resets_at_once() -> None:
    with serving(lambda *_: gevent.sleep(60)) as server, connect(server) as client:
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        _stopped(server, 200 * MARGIN, 0)
        assert ending(client) == "reset"


def test_a_handler_that_does_not_die_of_the_reset_does_not_keep_stop_from_returning() -> None:
    go = Event()

    def handle(*_: Any) -> None:
        while not go.is_set():
            with suppress(gevent.GreenletExit):
                go.wait()

    with silent_logs(), serving(handle) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        _stopped(server, 5000, SHORT)
        go.set()


def test_a_waiting_client_that_reads_is_told_by_a_reset() -> None:
    with (
        serving(lambda client, _: client.read_line(), first_byte_timeout=-1) as server,
        connect(server) as client,
    ):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        client.sendall(b"no end")
        gevent.sleep(0.02)
        server.stop(SHORT)
        assert ending(client) == "reset"


def test_a_stalled_handshake_does_not_outlive_the_drain() -> None:
    with serving(answer_lines, drain_timeout=2 * SHORT, **TLS.arguments) as server, connect(server) as client:
        client.sendall(client_hello()[:50])
        wait_until(lambda: server._admission.starting == 1, "it is in")
        _stopped(server, 2 * SHORT * MARGIN + 500)
        assert not server._admission.connections


def test_the_time_of_the_drain_holds_for_those_who_wait_in_the_accept_queue_too() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        gevent.sleep(60)

    with serving(handle, pool_size=1) as server, connect(server) as first, connect(server) as second:
        assert first.recv(1) == b"+"
        took = milliseconds_of(server.stop, 2 * SHORT)
        assert took < 2 * SHORT * MARGIN + 1500
        assert ending(first) == "reset"
        assert ending(second) == "reset"


# release()


def test_a_drain_does_not_wait_for_a_released_connection() -> None:
    kept: list[gnet.Socket] = []

    def handle(client: gnet.Socket, _address: str) -> None:
        kept.append(client)
        client.release()
        client.send(b"+")

    with serving(handle, drain_timeout=_LONG) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        _stopped(server, _LONG / 4)
        kept[0].send(b"alive")
        assert client.recv(5) == b"alive"
        kept[0].close()
        assert client.recv(1) == b""
        assert not server._admission.connections


def test_deadlines_of_released_connections_hold_on_after_the_stop() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.release()
        gevent.spawn(lambda: (calls(client.read_line), client.close()))

    with serving(handle, first_byte_timeout=2 * SHORT) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        server.stop()
        end = time.monotonic() + 2 * SHORT * MARGIN / 1000
        while not calls.results:
            assert time.monotonic() < end, "it waits on"
            gevent.sleep(0.01)
        assert type(calls.only()) is gnet.TimeoutError


def test_a_drain_ends_when_the_last_connection_is_released() -> None:
    kept: list[gnet.Socket] = []
    go = Event()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        go.wait()
        kept.append(client)
        client.release()

    with serving(handle, drain_timeout=_LONG) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        stop = stopping(server)
        start = time.monotonic()
        go.set()
        stop.get(timeout=GUARD / 1000)
        assert (time.monotonic() - start) * 1000 < _LONG / 4
        kept[0].close()


# F11: stop and close in all places


def test_f11_stop_inside_a_handler_does_not_wait_for_it() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        client.read_line()
        calls(server.stop)
        client.send(b"stopped\n")

    with serving(handle) as server, connect(server) as client:
        client.sendall(b"stop\n")
        assert client.recv(100) == b"stopped\n"
        assert client.recv(1) == b""
        assert calls.results == [None]
        server.stop()
        assert "stopped" in repr(server)


def test_f11_stop_twice_inside_a_handler_and_once_outside() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        server.stop()
        server.stop(_LONG)
        client.send(b"+")

    with serving(handle) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        _stopped(server, _LONG / 4)
        server.stop()


def test_f11_two_stops_at_once_both_wait_for_the_end() -> None:
    held = Held()
    with serving(held) as server, connect(server) as client:
        client.sendall(b"one\n")
        held.wait_for(1)
        first, second = stopping(server), stopping(server)
        gevent.sleep(0.02)
        assert not first.ready()
        assert not second.ready()
        held.go.set()
        gevent.joinall([first, second], timeout=GUARD / 1000, raise_error=True)
        assert first.ready()
        assert second.ready()
        assert client.recv(100) == b"answer to one\n"


def test_f11_a_second_stop_with_less_time_shortens_the_drain() -> None:
    with serving(lambda *_: gevent.sleep(60)) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        first = stopping(server, -1)
        _stopped(server, SHORT * MARGIN + 500, SHORT)
        first.get(timeout=GUARD / 1000)


def test_f11_a_second_stop_with_more_time_does_not_lengthen_the_drain() -> None:
    with serving(lambda *_: gevent.sleep(60)) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        first = stopping(server, SHORT)
        _stopped(server, SHORT * MARGIN + 500, _LONG)
        first.get(timeout=GUARD / 1000)


def test_f11_stop_before_start_ends_the_server() -> None:
    server = Server(answer_lines, "127.0.0.1")
    server.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        server.start()
    server.serve_forever()  # returns


def test_f11_start_after_stop_is_refused() -> None:
    with serving(answer_lines) as server:
        server.stop()
        with pytest.raises(RuntimeError, match="stopped"):
            server.start()


def test_f11_start_twice_is_one_start() -> None:
    with serving(answer_lines) as server:
        port = server.port
        server.start()
        assert server.port == port
        with connect(server) as client:
            assert ask(client) == b"ping\n"


def test_f11_start_while_it_drains_is_refused() -> None:
    held = Held()
    with serving(held) as server, connect(server) as client:
        client.sendall(b"one\n")
        held.wait_for(1)
        stop = stopping(server)
        with pytest.raises(RuntimeError):
            server.start()
        held.go.set()
        stop.get(timeout=GUARD / 1000)


def test_f11_serve_forever_returns_when_a_handler_stops_the_server() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        server.stop()

    server = Server(handle, "127.0.0.1")
    server.start()
    forever = gevent.spawn(server.serve_forever)
    with connect(server) as client:
        assert client.recv(1) == b"+"
        assert client.recv(1) == b""
        forever.get(timeout=GUARD / 1000)


def test_f11_serve_forever_waits_for_the_drain() -> None:
    held = Held()
    server = Server(held, "127.0.0.1")
    server.start()
    forever = gevent.spawn(server.serve_forever)
    with connect(server) as client:
        client.sendall(b"one\n")
        held.wait_for(1)
        stop = stopping(server)
        gevent.sleep(0.02)
        assert not forever.ready()
        held.go.set()
        assert client.recv(100) == b"answer to one\n"
        forever.get(timeout=GUARD / 1000)
        stop.get(timeout=GUARD / 1000)


def test_f11_stop_from_a_greenlet_of_a_handler_waits() -> None:
    calls = Calls()

    def handle(client: gnet.Socket, _address: str) -> None:
        gevent.spawn(calls, server.stop)
        client.send(b"+")

    with serving(handle) as server, connect(server) as client:
        assert client.recv(1) == b"+"
        assert calls.only() is None
        assert "stopped" in repr(server)


@kinds
def test_f11_close_while_handlers_run_resets_and_ends_them(kind: Kind) -> None:
    ended = []

    def handle(client: gnet.Socket, _address: str) -> None:
        client.send(b"+")
        try:
            gevent.sleep(60)
        finally:
            ended.append(True)

    with logged() as log, serving(handle, **kind.arguments) as server, kind.connect(server) as client:
        assert client.recv_exactly(1) == b"+"
        assert milliseconds_of(server.close) < 100 * MARGIN
        with pytest.raises(ConnectionResetError):
            client.recv_all()
        wait_until(lambda: ended == [True], "the handler has ended")
        server.close()
        server.stop()
    assert "Traceback" not in log.text()


def test_f11_close_inside_a_handler_closes_all_others() -> None:
    def handle(client: gnet.Socket, _address: str) -> None:
        if client.read_line() == b"close":
            server.close()
            client.send(b"closed\n")

    with silent_logs(), serving(handle) as server, connect(server) as first, connect(server) as other:
        wait_until(lambda: len(server._admission.connections) == 2, "both are in")
        first.sendall(b"close\n")
        assert first.recv(100) == b"closed\n"
        assert ending(other) == "reset"
        assert "stopped" in repr(server)


def test_f11_close_while_it_drains_ends_the_drain() -> None:
    with silent_logs(), serving(lambda *_: gevent.sleep(60)) as server, connect(server) as client:
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        stop = stopping(server, _LONG)
        server.close()
        stop.get(timeout=GUARD / 1000)
        assert ending(client) == "reset"


def test_f11_close_before_start_ends_the_server() -> None:
    server = Server(answer_lines, "127.0.0.1")
    server.close()
    with pytest.raises(RuntimeError):
        server.start()


# As a context manager


def test_a_block_drains_at_its_end() -> None:
    held = Held()
    with ExitStack() as stack:
        server = Server(held, "127.0.0.1")
        with server:
            client = stack.enter_context(connect(server))
            client.sendall(b"one\n")
            held.wait_for(1)
            gevent.spawn_later(0.02, held.go.set)
        assert client.recv(100) == b"answer to one\n"
        assert "stopped" in repr(server)


def test_a_block_that_raises_closes_at_once() -> None:
    with silent_logs(), ExitStack() as stack:
        server = Server(lambda *_: gevent.sleep(60), "127.0.0.1")
        start = time.monotonic()
        with suppress(ZeroDivisionError), server:
            client = stack.enter_context(connect(server))
            wait_until(lambda: len(server._admission.connections) == 1, "it is in")
            raise ZeroDivisionError
        assert time.monotonic() - start < 5
        assert "stopped" in repr(server)
        assert ending(client) == "reset"
        wait_until(lambda: not server._admission.connections, "nobody is left")


# What is left


def test_a_stopped_server_leaves_no_greenlet_and_no_timer_at_work() -> None:
    with serving(answer_lines) as server, connect(server) as client:
        ask(client)
        server.stop()
        assert not server._acceptor.greenlets
        assert server._terms.watchdog._timer is None
        assert server._acceptor.spare is None
        assert server._admission.starting == server._admission.running == 0


def test_a_stop_with_less_time_leaves_no_timer_behind() -> None:
    with serving(answer_lines) as server, connect(server):
        wait_until(lambda: len(server._admission.connections) == 1, "it is in")
        first = stopping(server, -1)
        second = stopping(server, 60_000)
        gevent.joinall([first, second], timeout=GUARD / 1000, raise_error=True)
        gc.collect()
        mine = [
            each
            for each in gc.get_objects()
            if isinstance(each, gevent.Greenlet) and not each.dead and repr(server) in repr(each)
        ]
        assert mine == []


def test_a_listener_given_to_a_server_that_never_started_is_still_its_owners() -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        server = Server(answer_lines, listener=own)
        server.stop()
        with connect(own.getsockname()):
            own.settimeout(GUARD / 1000)
            own.accept()[0].close()


def test_drains_of_plain_and_tls_do_not_differ_for_a_client_that_half_closed() -> None:
    for kind in (PLAIN, TLS):
        held = Held()
        with serving(held, **kind.arguments) as server, kind.connect(server) as client:
            client.send(b"one\n")
            client.end()
            held.wait_for(1)
            stop = stopping(server)
            held.go.set()
            assert client.recv_all() == b"answer to one\n"
            stop.get(timeout=GUARD / 1000)


def test_a_second_stop_with_less_time_resets_those_in_the_accept_queue_too() -> None:
    served = []

    def handle(client: gnet.Socket, _address: str) -> None:
        served.append(client.read_line())
        gevent.sleep(60)

    with serving(handle, pool_size=1) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(4)]
        for client in clients:
            client.sendall(b"a line\n")
        wait_until(lambda: served == [b"a line"], "the first one is served")
        first = stopping(server, _LONG)
        gevent.sleep(0)
        server.stop(SHORT)
        first.get(timeout=GUARD / 1000)
        assert len(served) == 1
        assert [ending(client) for client in clients] == ["reset"] * 4
