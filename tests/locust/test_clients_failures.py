"""What servers and networks do to a client: each failure is one event, and the next request goes on."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, ssl

import gnet
from gnet.locust import LineUser, SocketUser
from gnet.locust.connections import Connector
from tests.faults.peers import black_hole
from tests.locust.support import (
    GUARD_SECONDS,
    SOON,
    Peer,
    Tls,
    answering,
    new_tls,
    new_user,
    refused_port,
    serving,
    using,
    wait_until,
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return new_tls(tmp_path_factory.mktemp("tls"))


def second_time_well(first: Any) -> Any:
    """Give a handler that does something with the first connection and answers on the others."""

    def handle(peer: Peer) -> None:
        if peer.number == 0:
            first(peer)
        else:
            answering(b"+PONG\r\n")(peer)

    return handle


# Times


def test_an_answer_after_50_ms_is_shown_as_50_to_55_ms() -> None:
    with serving(answering(b"+PONG\r\n", 0.050)) as served, using(LineUser, served.host) as (client, seen):
        # A busy machine may be late, but not always, and never early.
        for _ in range(20):
            client.request(b"PING", expect=b"+PONG")
            assert seen[-1].milliseconds >= 50
            if seen[-1].milliseconds <= 55:
                break
        else:
            pytest.fail(f"never within 55 ms: {[event.milliseconds for event in seen]}")


def test_neither_a_slow_listener_nor_a_slow_check_is_in_the_time() -> None:
    def slow(answer: bytes) -> bool:
        time.sleep(0.1)
        return True

    with serving(answering(b"+PONG\r\n")) as served:
        user, seen = new_user(LineUser, served.host)
        user.environment.events.request.add_listener(lambda **_: time.sleep(0.1))
        for _ in range(3):
            user.client.request(b"PING", expect=slow)
        user.client.close()
        assert min(event.milliseconds for event in seen if event.kind == "LINE") < 100


def test_what_did_not_wait_has_a_time_below_a_millisecond_with_decimals() -> None:
    with serving(answering(b"+PONG\r\n")) as served, using(LineUser, served.host) as (client, seen):
        for _ in range(50):
            client.request(b"PING")
        assert any(0 < event.milliseconds != round(event.milliseconds) for event in seen[1:])


# Answers in pieces, late, missing


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_answer_may_be_split_anywhere(cut: int) -> None:
    answer = b"+PONG x\r\n"

    def handle(peer: Peer) -> None:
        while peer.line():
            peer.send(answer[:cut])
            gevent.sleep(0.002)
            peer.send(answer[cut:])

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        for _ in range(3):
            assert client.request(b"PING", expect=b"+PONG x").ok
        assert seen.kinds() == ["CONNECT", "LINE", "LINE", "LINE"]


def test_no_answer_in_time_is_a_failure_and_the_next_request_has_a_new_connection() -> None:
    def late(peer: Peer) -> None:
        peer.line()
        gevent.sleep(3 * SOON / 1000)
        peer.send(b"late\r\n")
        peer.wait_for_end()

    with serving(second_time_well(late)) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING", timeout=SOON)
        assert isinstance(response.exception, gnet.TimeoutError)
        assert str(response.exception) == f"LINE: no answer within {SOON} ms"
        assert response.response_time >= SOON
        assert response.data == b""
        assert client.request(b"PING", expect=b"+PONG").ok
        assert seen.rows() == [("LINE", "PING", "TimeoutError"), ("LINE", "PING", "ok")]
        assert len(served.peers) == 2


def test_the_timeout_is_that_of_the_user_unless_the_request_has_one() -> None:
    with (
        serving(lambda peer: peer.wait_for_end()) as served,
        using(LineUser, served.host, timeout=SOON) as (client, _seen),
    ):
        assert f"{SOON} ms" in str(client.request(b"PING").exception)
        assert f"{2 * SOON} ms" in str(client.request(b"PING", timeout=2 * SOON).exception)
        assert f"{SOON} ms" in str(client.pipeline([b"PING", b"PING"]).exceptions[1])


def test_a_connection_can_be_kept_after_a_timeout() -> None:
    gate = gevent.event.Event()

    def late(peer: Peer) -> None:
        peer.line()
        gate.wait()
        peer.send(b"late\r\n")
        peer.wait_for_end()

    with (
        serving(late) as served,
        using(LineUser, served.host, timeout=SOON, drop_after_timeout=False) as (client, _seen),
    ):
        assert not client.request(b"PING").ok
        assert client.connected
        gate.set()
        assert client.read_line(timeout=-1) == b"late"


def test_an_answer_that_is_here_wins_over_a_timeout_that_is_over() -> None:
    answered = gevent.event.Event()

    def handle(peer: Peer) -> None:
        peer.line()
        peer.send(b"+PONG\r\n")
        answered.set()
        peer.wait_for_end()

    def hold_up() -> None:
        answered.wait()
        end = time.monotonic() + 3 * SOON / 1000
        while time.monotonic() < end:  # the process is late: timer and answer are due together
            pass

    with serving(handle) as served, using(LineUser, served.host, timeout=SOON) as (client, _seen):
        client.connect()
        holding = gevent.spawn(hold_up)
        assert client.request(b"PING").data == b"+PONG"
        holding.join()


def test_many_requests_in_time_never_end_by_an_old_timeout() -> None:
    with (
        serving(answering(b"+PONG\r\n", 0.010)) as served,
        using(LineUser, served.host, timeout=400) as (client, seen),
    ):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            client.request(b"PING", expect=b"+PONG")
        late = [event for event in seen if event.exception and event.milliseconds < 400]
        assert late == []
        assert sum(event.exception is None for event in seen) > 5


def test_a_send_that_nobody_reads_times_out() -> None:
    with (
        serving(lambda _peer: gevent.sleep(GUARD_SECONDS)) as served,
        using(SocketUser, served.host, timeout=SOON) as (client, seen),
    ):
        response = client.request(bytes(50_000_000), size=1)
        assert isinstance(response.exception, gnet.TimeoutError)
        assert not client.connected
        assert seen.rows() == [("RAW", "request", "TimeoutError")]


# Ends


def test_an_early_end_is_a_failure_that_says_how_far_it_came() -> None:
    def half(peer: Peer) -> None:
        peer.line()
        peer.send(b"+PO")

    def none(peer: Peer) -> None:
        peer.line()

    for handler, words in (
        (half, "the server closed the connection in a line, after 3 bytes of it"),
        (none, "the server closed the connection instead of answering"),
    ):
        with serving(second_time_well(handler)) as served, using(LineUser, served.host) as (client, seen):
            assert str(client.request(b"PING").exception) == words
            assert client.request(b"PING", expect=b"+PONG").ok
            assert seen.rows() == [("LINE", "PING", "IncompleteReadError"), ("LINE", "PING", "ok")]


def test_a_reset_is_a_failure() -> None:
    def reset(peer: Peer) -> None:
        peer.line()
        peer.reset()

    with serving(second_time_well(reset)) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING")
        assert isinstance(response.exception, ConnectionResetError)
        assert "127.0.0.1" in str(response.exception)
        assert client.request(b"PING", expect=b"+PONG").ok
        assert seen.rows() == [("LINE", "PING", "ConnectionResetError"), ("LINE", "PING", "ok")]


def test_a_connection_that_ended_between_two_requests_fails_the_next_one_only() -> None:
    def once(peer: Peer) -> None:
        answering(b"+PONG\r\n")(peer) if peer.number else peer.send(peer.line())

    with serving(once) as served, using(LineUser, served.host) as (client, seen):
        assert client.request(b"PING").ok
        wait_until(lambda: served.peers[0].connection.fileno() < 0)
        outcomes = [client.request(b"PING").ok for _ in range(3)]
        assert outcomes == [False, True, True]
        assert [kind for kind in seen.kinds() if kind == "CONNECT"] == ["CONNECT"] * 2


def test_a_line_over_the_limit_is_a_failure() -> None:
    with (
        serving(answering(101 * b"x" + b"\n")) as served,
        using(LineUser, served.host, max_length=100) as (client, _seen),
    ):
        response = client.request(b"PING")
        assert isinstance(response.exception, gnet.LineTooLongError)
        assert "(limit 100)" in str(response.exception)
        assert not client.connected


def test_a_line_at_the_limit_is_none() -> None:
    with (
        serving(answering(100 * b"x" + b"\n")) as served,
        using(LineUser, served.host, max_length=100) as (client, _seen),
    ):
        assert client.request(b"PING", expect=100 * b"x").ok
        assert client.pipeline([b"1", b"2"], expect=100 * b"x").ok


def test_the_default_limit_is_that_of_read_line_but_one() -> None:
    sizes = iter([999_999, 1_000_000])
    with (
        serving(answering(lambda _line: next(sizes) * b"x" + b"\n")) as served,
        using(LineUser, served.host) as (client, _seen),
    ):
        assert len(client.request(b"PING").data) == 999_999
        assert isinstance(client.request(b"PING").exception, gnet.LineTooLongError)


# Cut short by the task, or by Locust


def test_a_timeout_of_the_task_passes_through_and_is_a_failure_of_the_request() -> None:
    with (
        serving(second_time_well(lambda peer: peer.wait_for_end())) as served,
        using(LineUser, served.host) as (client, seen),
    ):
        client.connect()
        limit = gevent.Timeout(SOON / 1000)
        with pytest.raises(gevent.Timeout) as expired, limit:
            client.request(b"PING")
        assert expired.value is limit
        assert seen.rows() == [("LINE", "PING", "TimeoutError")]
        assert not client.connected
        assert client.request(b"PING", expect=b"+PONG").ok


def test_a_timeout_of_the_task_fails_the_rest_of_a_pipeline() -> None:
    def one_of_two(peer: Peer) -> None:
        peer.line()
        peer.send(b"1\r\n")
        peer.wait_for_end()

    with serving(one_of_two) as served, using(LineUser, served.host) as (client, seen):
        client.connect()
        with pytest.raises(gevent.Timeout), gevent.Timeout(SOON / 1000):
            client.pipeline([b"1", b"2", b"3"], name="x")
        assert [row[2] for row in seen.rows()] == ["ok", "TimeoutError", "TimeoutError"]


def test_a_kill_passes_through_and_is_no_failure() -> None:
    with (
        serving(second_time_well(lambda peer: peer.wait_for_end())) as served,
        using(LineUser, served.host) as (client, seen),
    ):
        client.connect()
        asking = gevent.spawn(client.request, b"PING")
        wait_until(lambda: client._timer.due)
        asking.kill()
        assert isinstance(asking.value, gevent.GreenletExit)
        assert seen.rows() == []
        assert client.request(b"PING", expect=b"+PONG").ok  # not over the connection that owes an answer


def test_two_greenlets_do_not_ask_at_once() -> None:
    with serving(lambda peer: peer.wait_for_end()) as served, using(LineUser, served.host) as (client, _seen):
        client.connect()
        asking = gevent.spawn(client.request, b"PING")
        wait_until(lambda: client._timer.due)
        with pytest.raises(gnet.BusyError, match="another greenlet waits"):
            client.request(b"PING")
        asking.kill()


# Connecting


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which take no time."""
    asked: list[float] = []
    monkeypatch.setattr("gnet.locust.connections.pause", lambda _user, seconds: asked.append(seconds))
    return asked


def test_a_refused_connection_is_one_failure_for_each_attempt(pauses: list[float]) -> None:
    port = refused_port()
    with using(LineUser, f"tcp://127.0.0.1:{port}") as (client, seen):
        for _ in range(3):
            response = client.request(b"PING", expect=b"+PONG")
            assert isinstance(response.exception, ConnectionRefusedError)
            assert (response.data, response.response_time) == (b"", 0.0)
        assert seen.rows() == [("CONNECT", f"127.0.0.1:{port}", "ConnectionRefusedError")] * 3


def test_the_pause_after_a_refused_connection_doubles_up_to_five_seconds(pauses: list[float]) -> None:
    with using(LineUser, f"tcp://127.0.0.1:{refused_port()}") as (client, _seen):
        for _ in range(9):
            client.connect()
        wanted = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
        assert [round(pause + 0.04, 1) for pause in pauses] == wanted


def test_a_server_that_comes_later_is_found_and_the_pause_is_short_again(pauses: list[float]) -> None:
    port = refused_port()
    with using(LineUser, f"tcp://127.0.0.1:{port}") as (client, _seen):
        for _ in range(4):
            assert not client.request(b"PING").ok
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            assert client.connect()
        client.close()
        assert not client.connect()
        assert not client.connect()
        assert pauses[-1] <= 0.1


def test_the_pause_really_waits() -> None:
    with using(LineUser, f"tcp://127.0.0.1:{refused_port()}") as (client, _seen):
        client.connect()
        started = time.monotonic()
        client.connect()
        assert time.monotonic() - started > 0.08


def test_a_with_block_without_a_connection_records_nothing_more(pauses: list[float]) -> None:
    with using(LineUser, f"tcp://127.0.0.1:{refused_port()}") as (client, seen):
        with client.request(b"PING", catch_response=True) as response:
            response.failure("nothing there")
        assert [event.kind for event in seen] == ["CONNECT"]
        assert not client.pipeline([b"PING"]).ok
        assert [event.kind for event in seen] == ["CONNECT"] * 2


def test_a_connection_that_hangs_times_out(pauses: list[float]) -> None:
    with (
        black_hole() as address,
        using(LineUser, f"tcp://127.0.0.1:{address[1]}", timeout=SOON) as (client, seen),
    ):
        assert isinstance(client.request(b"PING").exception, gnet.TimeoutError)
        assert seen.rows() == [("CONNECT", f"127.0.0.1:{address[1]}", "TimeoutError")]
        assert seen[0].milliseconds >= SOON


def test_a_name_that_is_not_found_is_a_failure(pauses: list[float]) -> None:
    with using(LineUser, "tcp://no-such-host.invalid:7000") as (client, seen):
        client.request(b"PING")
        assert [(event.kind, type(event.exception)) for event in seen] == [("CONNECT", socket.gaierror)]


def test_a_timeout_of_the_task_in_a_connect_passes_through(pauses: list[float]) -> None:
    with black_hole() as address, using(LineUser, f"tcp://127.0.0.1:{address[1]}") as (client, seen):
        with pytest.raises(gevent.Timeout), gevent.Timeout(SOON / 1000):
            client.request(b"PING")
        assert [event.kind for event in seen] == ["CONNECT"]


def test_a_mistake_in_connecting_is_not_taken_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: Connector) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Connector, "connect", broken)
    with using(LineUser, "tcp://127.0.0.1:1") as (client, seen):
        with pytest.raises(ZeroDivisionError):
            client.request(b"PING")
        assert seen == []


# TLS


def test_tls_has_a_row_of_its_own(tls: Tls) -> None:
    with (
        serving(answering(b"+PONG\r\n"), scheme="tls", context=tls.server) as served,
        using(LineUser, served.host, tls=tls.client) as (client, seen),
    ):
        assert client.request(b"PING", expect=b"+PONG").ok
        assert seen.kinds() == ["CONNECT", "TLS", "LINE"]
        assert [event.name for event in seen[:2]] == [f"127.0.0.1:{served.port}"] * 2
        assert seen[1].milliseconds > 0


def test_a_slow_handshake_is_in_the_row_of_tls_only(tls: Tls) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            gevent.sleep(0.1)
            with tls.server.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(secure.recv(100))
                secure.recv(1)

        server = gevent.spawn(serve)
        host = f"tls://localhost:{listener.getsockname()[1]}"
        with using(LineUser, host, tls=tls.client) as (client, seen):
            assert client.request(b"PING").ok
            connect, handshake, line = seen
            assert handshake.milliseconds >= 95
            assert connect.milliseconds < handshake.milliseconds
            assert line.milliseconds < handshake.milliseconds
        server.join()


def test_a_certificate_that_does_not_verify_is_a_failure_of_tls(tls: Tls, pauses: list[float]) -> None:
    with (
        serving(answering(b"+PONG\r\n"), scheme="tls", context=tls.server) as served,
        using(LineUser, served.host) as (client, seen),  # trusts certifi's
    ):
        response = client.request(b"PING")
        assert isinstance(response.exception, gnet.SslError)
        assert "certificate verify failed" in str(response.exception)
        assert [(event.kind, event.exception is None) for event in seen] == [
            ("CONNECT", True),
            ("TLS", False),
        ]
        assert client.request(b"PING").exception is not None
        assert pauses != []


def test_a_certificate_for_another_name_is_a_failure_of_tls(tls: Tls, pauses: list[float]) -> None:
    with (
        serving(answering(b""), scheme="tls", context=tls.server, address="127.0.0.2") as served,
        using(LineUser, f"tls://127.0.0.2:{served.port}", tls=tls.client) as (client, seen),
    ):
        response = client.request(b"PING")
        assert isinstance(response.exception, gnet.SslError)
        assert "127.0.0.2" in str(response.exception)
        assert seen.kinds() == ["CONNECT", "TLS"]


def test_a_truncated_tls_stream_is_a_failure(tls: Tls) -> None:
    def truncate(peer: Peer) -> None:
        peer.line()
        assert isinstance(peer.connection, ssl.SSLSocket)
        peer.send(b"+PO")
        peer.connection.shutdown(socket.SHUT_RDWR)  # of TCP: no close_notify

    with (
        serving(second_time_well(truncate), scheme="tls", context=tls.server) as served,
        using(LineUser, served.host, tls=tls.client) as (client, seen),
    ):
        response = client.request(b"PING")
        assert isinstance(response.exception, gnet.SslError)
        assert "without close_notify" in str(response.exception)
        assert client.request(b"PING", expect=b"+PONG").ok
        assert seen.rows() == [("LINE", "PING", "SslError"), ("LINE", "PING", "ok")]


def test_the_users_of_a_class_share_a_context(tls: Tls) -> None:
    made = []

    def factory() -> gnet.SslContext:
        made.append(tls.client())
        return made[0]

    with serving(answering(b"+PONG\r\n"), scheme="tls", context=tls.server) as served:
        for _ in range(2):
            with using(LineUser, served.host, tls=factory) as (client, _seen):
                assert client.request(b"PING").ok
    assert len(made) == 1


def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answering(b"+PONG\r\n")(Peer(connection, 0))

        server = gevent.spawn(serve)
        with using(LineUser, f"unix:{path}") as (client, seen):
            assert client.request(b"PING", expect=b"+PONG").ok
            assert [(event.kind, event.name) for event in seen] == [("CONNECT", str(path)), ("LINE", "PING")]
        server.join()
    with using(LineUser, f"unix:{path}") as (client, seen):
        response = client.request(b"PING")
        assert isinstance(response.exception, ConnectionRefusedError)
        assert re.search("connect_unix", str(response.exception))
