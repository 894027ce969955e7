"""The load of `python -m gnet bench`: what it counts and times of servers that lie, stall, hang up."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import gevent
import pytest

import gnet
from gnet.benchmarking.load import Load, OpenLoad, new_load
from gnet.benchmarking.plan import Plan, Target
from tests.line_server import LineServer
from tests.loopback import needs_ipv6
from tests.nc_processes import PATIENCE, port_of, raw_listener
from tests.tls.authorities import authority, top
from tests.tls.handshakes import server_context


def run(where: str, **plan: Any) -> Load:
    """Run a load to its end, in this process."""
    if "requests" in plan:
        plan["seconds"] = None
    load = new_load(Plan(Target.parse(where), **plan))
    with gevent.Timeout(PATIENCE, AssertionError("the load does not end")):
        load.connect()
        load.run(lambda: None)
    assert load.asked == load.latencies.count + load.failed + load.on_their_way
    return load


def milliseconds(load: Load, percent: float) -> float:
    return load.latencies.percentile(percent) / 1000


# ---------------------------------------------------------------------- counts


@pytest.mark.parametrize("expect", [None, b"+PONG"])
@pytest.mark.parametrize(
    ("connections", "pipeline", "requests"), [(1, 1, 1), (7, 5, 3001), (20, 1, 999), (3, 50, 151)]
)
def test_its_counts_are_those_of_the_server(
    connections: int, pipeline: int, requests: int, expect: bytes | None
) -> None:
    server = LineServer()
    with server.serving() as where:
        load = run(where, connections=connections, pipeline=pipeline, requests=requests, expect=expect)
    assert load.asked == load.latencies.count == server.lines == requests
    assert server.connections == load.connect_times.count == connections
    assert load.failures.counts == {}


def test_what_was_sent_when_time_is_over_is_waited_for() -> None:
    server = LineServer()
    with server.serving() as where:
        load = run(where, connections=4, pipeline=3, seconds=0.2)
    assert load.asked == load.latencies.count == server.lines > 0
    assert load.elapsed >= 0.2e9


def test_latencies_that_were_taken_out_on_the_way_still_count() -> None:
    taken = []
    with LineServer().serving() as where:
        load = new_load(Plan(Target.parse(where), connections=2, seconds=0.2, report_every=0.02))
        load.connect()
        load.run(lambda: taken.append(load.take_latencies()))
    assert len(taken) >= 2
    assert sum(each.count for each in taken) + load.latencies.count == load.asked
    assert load.on_their_way == 0


def test_an_answer_that_comes_in_pieces_is_one() -> None:
    def talk(client: gnet.Socket) -> None:
        for _line in client.lines():
            for piece in (b"+PO", b"NG", b"\r", b"\n"):
                client.send(piece)
                gevent.sleep(0.002)

    with gnet.Server(lambda client, _: talk(client), address="127.0.0.1") as server:
        server.start()
        load = run(f"127.0.0.1:{server.port}", connections=2, requests=6, expect=b"+PONG")
    assert (load.latencies.count, load.failures.counts) == (6, {})
    assert load.latencies.least >= 6000


@pytest.mark.parametrize("tls", [False, True])
def test_more_than_the_kernel_takes_is_sent_bit_by_bit(tls: bool, tmp_path: Path) -> None:
    sizes = set()

    def answer(_number: int, line: bytes) -> bytes:
        sizes.add(len(line))
        return b"ok\n"

    context = server_context(tmp_path) if tls else None
    ca_file = str(top().write_ca(tmp_path)["ca_file"])
    with LineServer(answer).serving(ssl_context=context) as where:
        load = run(
            where, connections=1, pipeline=100, requests=100, line=b"x" * 100_000, tls=tls, ca_file=ca_file
        )
    assert (load.latencies.count, sizes) == (100, {100_000})


# ---------------------------------------------------------------------- times


def test_a_server_that_answers_after_50_ms_shows_50_ms() -> None:
    def answer(_number: int, _line: bytes) -> bytes:
        gevent.sleep(0.05)
        return b"ok\n"

    with LineServer(answer).serving() as where:
        load = run(where, connections=4, requests=12)
    assert 50 <= load.latencies.least / 1000 <= milliseconds(load, 50) < 75


def test_each_line_of_a_pipeline_has_a_time_of_its_own() -> None:
    def answer(number: int, _line: bytes) -> bytes:
        if number % 4 == 0:
            gevent.sleep(0.2)
        return b"ok\n"

    with LineServer(answer).serving() as where:
        load = run(where, connections=1, pipeline=4, requests=8)
    assert milliseconds(load, 75) < 150
    assert milliseconds(load, 76) >= 200


def test_a_handshake_is_timed_apart_from_the_connection(tmp_path: Path) -> None:
    ca_file = str(top().write_ca(tmp_path)["ca_file"])
    with LineServer().serving(ssl_context=server_context(tmp_path)) as where:
        load = run(where, connections=3, requests=3, tls=True, ca_file=ca_file)
    assert load.connect_times.count == load.tls_times.count == 3
    assert load.tls_times.least > 0
    assert load.resumed == 0


# ---------------------------------------------------------------------- at a rate


def test_a_rate_is_kept() -> None:
    server = LineServer()
    began = time.monotonic()
    with server.serving() as where:
        load = run(where, connections=20, requests=100, rate=500.0)
    assert load.latencies.count == server.lines == 100
    assert time.monotonic() - began >= 0.197


@pytest.mark.parametrize("rate", [100.0, None])
def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one(rate: float | None) -> None:
    def answer(number: int, _line: bytes) -> bytes:
        gevent.sleep(0.6 if number == 20 else 0.001)
        return b"ok\n"

    with LineServer(answer).serving() as where:
        load = run(where, connections=1, requests=100, rate=rate)
    assert load.latencies.most >= 600_000
    # Of the 100 requests some 60 were due while the server stood still.
    assert milliseconds(load, 80) > 200 if rate else milliseconds(load, 80) < 200


def test_requests_that_were_due_and_never_sent_are_told() -> None:
    def answer(_number: int, _line: bytes) -> bytes:
        gevent.sleep(0.1)
        return b"ok\n"

    server = LineServer(answer)
    with server.serving() as where:
        load = run(where, connections=1, seconds=0.3, rate=100.0)
    assert isinstance(load, OpenLoad)
    assert load.unsent > 0
    assert server.lines + load.unsent == 30


def test_a_connection_at_a_rate_has_no_more_in_flight_than_asked_for() -> None:
    with raw_listener() as listener:
        where = f"127.0.0.1:{port_of(listener)}"
        running = gevent.spawn(run, where, connections=1, pipeline=3, requests=10, rate=1000.0)
        with closing(listener.accept()[0]) as peer:
            received = b""
            while received.count(b"\n") < 3:
                received += peer.recv(1000)
            peer.settimeout(0.05)
            with pytest.raises(TimeoutError):
                peer.recv(1000)
            peer.settimeout(PATIENCE)
            answered = 0
            while answered < 10:
                peer.sendall(b"ok\n" * (received.count(b"\n") - answered))
                answered = received.count(b"\n")
                received += peer.recv(1000) if answered < 10 else b""
            assert running.get(timeout=PATIENCE).latencies.count == 10


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("rate", [2000.0, None])
def test_wrong_answers_are_errors(rate: float | None) -> None:
    with LineServer(lambda number, _line: b"no\r\n" if number % 4 == 0 else b"yes\r\n").serving() as where:
        load = run(where, connections=3, pipeline=2, requests=400, expect=b"yes", rate=rate)
    assert (load.asked, load.latencies.count) == (400, 300)
    assert load.failures.counts == {"wrong answer": 100}
    assert "expected b'yes', got b'no'" in load.failures.messages["wrong answer"]


@pytest.mark.parametrize("rate", [1000.0, None])
def test_connections_that_the_server_ends_are_errors_and_made_anew(rate: float | None) -> None:
    server = LineServer(lambda number, _line: None if number % 10 == 0 else b"ok\n")
    with server.serving() as where:
        load = run(where, connections=2, requests=100, rate=rate)
    assert load.asked == server.lines == 100
    assert (load.latencies.count, load.failed) == (90, 10)
    assert set(load.failures.counts) <= {"closed", "reset"}
    assert load.reconnects >= 8


def test_a_server_that_sends_more_than_was_asked_for_is_out_of_step() -> None:
    with LineServer(lambda _number, _line: b"one\ntwo\n").serving() as where:
        load = run(where, connections=1, requests=4)
    assert load.failures.counts["unasked answer"] >= 1
    assert "lines came for" in load.failures.messages["unasked answer"]
    assert "two" in load.failures.messages["unasked answer"]


@pytest.mark.parametrize("rate", [1000.0, None])
def test_a_silent_server_is_all_timeouts(rate: float | None) -> None:
    with raw_listener() as listener:
        load = run(
            f"127.0.0.1:{port_of(listener)}", connections=2, pipeline=2, requests=6, timeout=30, rate=rate
        )
    assert (load.latencies.count, load.failures.counts) == (0, {"timeout": 6})
    assert "no answer within 30 ms" in load.failures.messages["timeout"]


def test_a_server_that_goes_away_for_good_is_given_up() -> None:
    with raw_listener() as listener:
        where = f"127.0.0.1:{port_of(listener)}"
        running = gevent.spawn(run, where, connections=1, requests=100, timeout=300)
        with closing(listener.accept()[0]) as peer:
            peer.recv(100)
            listener.close()
            peer.sendall(b"ok\n")
            peer.recv(100)
        load = running.get(timeout=PATIENCE)
    assert load.latencies.count == 1
    assert {"refused", "given up"} <= set(load.failures.counts)


def test_a_server_that_is_not_there_is_an_error_with_its_name() -> None:
    with raw_listener() as listener:
        port = port_of(listener)
    with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}"):
        run(f"127.0.0.1:{port}", rate=10.0)


# ---------------------------------------------------------------------- where to


def test_it_speaks_to_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with LineServer().serving(unix_path=path):
        assert run(f"unix:{path}", connections=2, requests=20).latencies.count == 20


@needs_ipv6
def test_it_speaks_ipv6() -> None:
    with LineServer().serving(address="::1") as where:
        assert run(where, connections=2, requests=20).latencies.count == 20


def test_a_name_is_looked_up_once_and_that_is_no_time_of_a_connection() -> None:
    with LineServer().serving() as where:
        load = run(where.replace("127.0.0.1", "localhost"), connections=3, requests=20)
    assert load.latencies.count == 20
    assert load.connect_times.count == 2


def test_a_certificate_can_be_for_another_name(tmp_path: Path) -> None:
    context = server_context(tmp_path, authority().issue("app.example"))
    ca_file = str(top().write_ca(tmp_path)["ca_file"])
    path = str(tmp_path / "socket")
    with LineServer().serving(ssl_context=context, unix_path=path):
        load = run(
            f"unix:{path}", connections=2, requests=10, tls=True, ca_file=ca_file, servername="app.example"
        )
    assert load.latencies.count == 10
