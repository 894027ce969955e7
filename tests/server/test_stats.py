"""What a server counts and shows: `stats`, the sum of several, `connections`, and the table of a signal."""

from __future__ import annotations

import inspect
import io
import re
import ssl as stdlib_ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import ssl
from gevent.event import Event

import gnet
from gnet.serving.inspection import write_connections
from gnet.serving.statistics import COUNTERS, GAUGES, LABELS, Statistics, counters_of, sum_stats
from tests.server.peers import (
    Gate,
    answer_lines,
    ask,
    connect,
    connect_unix,
    ending,
    logged,
    receive_exactly,
    reset,
    serving,
    silent_logs,
    wait_until,
)
from tests.tls.authorities import root

on_linux: Final = pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")


def wait_for_stats(server: gnet.Server, what: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until the stats are so, and give them."""
    wait_until(lambda: is_so(server.stats()), what)
    return server.stats()


# ---------------------------------------------------------------------- the keys


def test_the_keys_are_the_documented_ones_whatever_the_state() -> None:
    keys = [*COUNTERS, *GAUGES]
    server = gnet.Server(answer_lines, "127.0.0.1")
    assert list(server.stats()) == keys
    with server, connect(server) as client:
        ask(client)
        assert list(server.stats()) == keys
    assert list(server.stats()) == keys


def test_the_docstring_names_each_key() -> None:
    text = inspect.getdoc(gnet.Server.stats) or ""
    named = re.sub(r"\(.*?\)", "", text, flags=re.DOTALL)
    named = named[named.index("Only growing:") :].replace("Of now:", ",").replace(" and", ",")
    words = re.findall(r"[a-z_]+(?=[,.\s]|$)", named.removeprefix("Only growing:"))
    assert words == [*COUNTERS, *GAUGES]


def test_a_dict_stands_exactly_where_there_is_a_label() -> None:
    stats = gnet.Server(answer_lines).stats()
    assert {key for key, value in stats.items() if isinstance(value, dict)} == set(LABELS)


def test_the_dicts_are_the_callers_own() -> None:
    server = gnet.Server(answer_lines)
    stats: dict[str, Any] = server.stats()
    stats["timeouts"]["line"] = 99
    stats["rejected"]["busy"] = 99
    assert server.stats()["timeouts"] != stats["timeouts"]
    assert server.stats()["rejected"] == {}


# ---------------------------------------------------------------------- traffic


def test_bytes_and_lines_count_while_the_connection_lives_and_after() -> None:
    with serving(answer_lines) as server:
        with connect(server) as client:
            for _ in range(3):
                ask(client, b"ping")
            living = server.stats()
        gone = wait_for_stats(server, "the connection is gone", lambda stats: not stats["active"])
    for stats in living, gone:
        counts = [stats[key] for key in ("bytes_in", "bytes_out", "lines_in", "lines_out")]
        assert counts == [15, 15, 3, 3]
    assert (living["accepted"], living["active"], living["peak"]) == (1, 1, 1)
    assert (gone["accepted"], gone["active"], gone["peak"]) == (1, 0, 1)


def test_the_peak_stays_when_the_connections_go() -> None:
    with serving(answer_lines) as server:
        with connect(server) as first, connect(server) as second:
            ask(first), ask(second)
        wait_for_stats(server, "both are gone", lambda stats: not stats["active"])
        with connect(server) as third:
            ask(third)
        stats = wait_for_stats(server, "nobody is left", lambda stats: not stats["active"])
    assert (stats["accepted"], stats["peak"]) == (3, 2)


def test_handlers_own_errors_and_peers_errors_are_told_apart() -> None:
    def handler(client: gnet.Socket, _address: str) -> None:
        if client.recv_exactly(4) == b"ill\n":
            raise AssertionError("not reached")
        raise ValueError("of the handler's own")

    with silent_logs(), serving(handler) as server:
        with connect(server) as client:
            client.sendall(b"well")
            ending(client)
        wait_for_stats(server, "the handler's error is counted", lambda stats: stats["handler_errors"] == 1)
        with connect(server) as client:
            client.sendall(b"no")
            reset(client)
        stats = wait_for_stats(server, "the peer's is counted", lambda stats: stats["peer_errors"] == 1)
    assert stats["handler_errors"] == 1


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("first_byte", b""), ("line", b"half"), ("idle", b"whole\n")],
    ids=lambda each: str(each),
)
def test_timeouts_count_by_kind(kind: str, sent: bytes) -> None:
    limit: dict[str, Any] = {f"{kind}_timeout": 50}
    with silent_logs(), serving(answer_lines, **limit) as server, connect(server) as client:
        client.sendall(sent)
        stats = wait_for_stats(server, f"{kind} is over", lambda stats: any(stats["timeouts"].values()))
    expected = dict.fromkeys(("first_byte", "line", "idle", "write", "handshake", "proxy"), 0)
    assert stats["timeouts"] == expected | {kind: 1}


def test_a_late_proxy_header_counts_as_a_timeout() -> None:
    arguments: dict[str, Any] = {"proxy_protocol": "any", "proxy_trusted": ["127.0.0.0/8"]}
    arguments["handshake_timeout"] = 50
    with silent_logs(), serving(answer_lines, **arguments) as server, connect(server) as client:
        client.sendall(b"PROXY TC")
        stats = wait_for_stats(server, "the header is late", lambda stats: stats["proxy_failures"] == 1)
    assert stats["timeouts"]["proxy"] == 1


def test_a_wrong_proxy_header_is_a_failure_and_no_timeout() -> None:
    arguments: dict[str, Any] = {"proxy_protocol": "any", "proxy_trusted": ["127.0.0.0/8"]}
    with silent_logs(), serving(answer_lines, **arguments) as server, connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stats = wait_for_stats(server, "the header is wrong", lambda stats: stats["proxy_failures"] == 1)
    assert not any(stats["timeouts"].values())


# ---------------------------------------------------------------------- limits


def test_refused_connections_count_by_reason() -> None:
    gate = Gate()
    limit: dict[str, Any] = {"max_connections": 1, "overflow": b"-ERR busy\r\n"}
    with silent_logs(), serving(gate, **limit) as server, connect(server) as inside:
        assert receive_exactly(inside, 1) == b"+"
        with connect(server) as refused:
            assert receive_exactly(refused, 11) == b"-ERR busy\r\n"
        stats = server.stats()
        gate.opened.set()
    assert stats["rejected"] == {"busy": 1}
    assert (stats["accepted"], stats["active"]) == (2, 1)


def test_the_use_of_the_pool_is_shown() -> None:
    gate = Gate()
    # Behind PROXY headers, as connections wait for a place there that are accepted already.
    proxied: dict[str, Any] = {"proxy_protocol": "v1", "proxy_trusted": ["127.0.0.1"], "pool_size": 2}
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 2000\r\n"
    with serving(gate, **proxied) as server, connect(server) as one, connect(server) as two:
        for client in one, two:
            client.sendall(header)
            assert receive_exactly(client, 1) == b"+"
        with connect(server) as three, connect(server):
            three.sendall(header)
            stats = wait_for_stats(server, "the third waits", lambda stats: stats["waiting_for_slot"] == 1)
            stats = wait_for_stats(server, "the fourth is in", lambda stats: stats["active"] == 4)
            gate.opened.set()
    assert (stats["pool_size"], stats["pool_used"], stats["starting"]) == (2, 2, 2)


@on_linux
def test_the_accept_queue_is_shown() -> None:
    gate = Gate()
    with serving(gate, pool_size=1) as server, connect(server) as inside:
        assert receive_exactly(inside, 1) == b"+"
        with connect(server), connect(server), connect(server):
            stats: dict[str, Any] = server.stats()
            gate.opened.set()
            wait_for_stats(server, "the queue is empty", lambda stats: stats["accept_queue"] == 0)
    assert stats["accept_queue"] == 3
    assert stats["accept_queue_limit"] >= 3
    assert server.stats()["accept_queue"] is None


def test_of_a_unix_socket_the_accept_queue_is_not_known(tmp_path: Path) -> None:
    with serving(answer_lines, unix_path=tmp_path / "s") as server:
        stats = server.stats()
    assert stats["accept_queue"] is None
    assert stats["accept_queue_limit"] is None


def test_a_drain_is_shown_and_what_it_cut_is_counted() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, drain_timeout=50) as server, connect(server) as client:
        assert receive_exactly(client, 1) == b"+"
        assert server.stats()["draining"] == 0
        stopping = gevent.spawn(server.stop)
        wait_for_stats(server, "the server drains", lambda stats: stats["draining"] == 1)
        stopping.join()
    assert server.stats()["drain_resets"] == 1


def test_reasons_that_peers_choose_are_bounded() -> None:
    statistics = Statistics()
    for number in range(1000):
        statistics.handshake_failures[f"reason {number}"] += 1
        statistics.handshake_failures["timeout"] += 1
    kept = statistics.handshake_failures
    assert len(kept) == 33
    assert kept.total() == 2000
    assert kept["timeout"] == 1000
    assert kept["other"] == 1000 - 31


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A server's certificate and its key, as arguments of `gnet.new_context`."""
    return root().issue("127.0.0.1").write(tmp_path_factory.mktemp("tls"))


def test_handshakes_and_their_failures_count(certificate: dict[str, Any]) -> None:
    trusting = ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = stdlib_ssl.CERT_NONE
    arguments: dict[str, Any] = {
        "ssl_context": lambda: gnet.new_context(**certificate, verify_mode=gnet.SslCVerifyMode.NONE),
        "handshake_timeout": 400,
    }
    with silent_logs(), serving(answer_lines, **arguments) as server:
        with trusting.wrap_socket(connect(server)) as client:
            assert ask(client) == b"ping\n"
            (info,) = server.connections()
        with connect(server) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            wait_for_stats(server, "no TLS", lambda stats: len(stats["handshake_failures"]) == 1)
        with connect(server):
            stats = wait_for_stats(server, "late", lambda stats: "timeout" in stats["handshake_failures"])
    assert info.tls == "TLSv1.3"
    assert stats["handshakes"] == 1
    assert stats["handshake_failures"].pop("timeout") == 1
    assert list(stats["handshake_failures"].values()) == [1]
    assert stats["timeouts"]["handshake"] == 1
    assert stats["bytes_in"] == len(b"ping\n")


# ---------------------------------------------------------------------- several workers


def made(**values: Any) -> dict[str, Any]:
    """Stats of a fresh server, but for these."""
    return gnet.Server(answer_lines).stats() | values


def test_workers_add_up() -> None:
    one = made(accepted=3, active=1, timeouts={"line": 1, "idle": 2}, rejected={"busy": 1}, draining=1)
    two = made(accepted=4, active=2, timeouts={"idle": 5}, rejected={"per address": 1})
    total = sum_stats([one, two])
    assert list(total) == list(one)
    assert (total["accepted"], total["active"], total["draining"]) == (7, 3, 1)
    assert total["timeouts"] == {"line": 1, "idle": 7}
    assert total["rejected"] == {"busy": 1, "per address": 1}
    assert one["timeouts"] == {"line": 1, "idle": 2}


def test_the_accept_queue_that_workers_share_counts_once() -> None:
    workers = [made(accept_queue=5, accept_queue_limit=128), made(accept_queue=6, accept_queue_limit=128)]
    total = sum_stats([*workers, made(accept_queue=None, accept_queue_limit=None)])
    assert (total["accept_queue"], total["accept_queue_limit"]) == (6, 128)
    nobody_knows = sum_stats([made(accept_queue=None), made(accept_queue=None)])
    assert nobody_knows["accept_queue"] is None


def test_of_a_worker_that_is_gone_the_counters_stay() -> None:
    gone = counters_of(made(accepted=3, active=2, timeouts={"line": 1}))
    assert "active" not in gone
    total = sum_stats([made(accepted=1, active=1), gone])
    assert (total["accepted"], total["active"]) == (4, 1)
    assert sum_stats([]) == {}


def test_a_key_that_only_one_version_has_is_kept() -> None:
    assert sum_stats([{"accepted": 1}, {"accepted": 2, "new": 3, "by": {"a": 1}}]) == {
        "accepted": 3,
        "new": 3,
        "by": {"a": 1},
    }


def test_reasons_stay_bounded_in_a_sum() -> None:
    workers = [{"rejected": {f"{worker} {number}": 1 for number in range(30)}} for worker in range(3)]
    total: dict[str, Any] = sum_stats(workers)
    assert len(total["rejected"]) == 33
    assert sum(total["rejected"].values()) == 90


# ---------------------------------------------------------------------- connections


def test_a_connection_is_described() -> None:
    with serving(answer_lines) as server, connect(server) as client:
        ask(client)
        client.sendall(b"half")
        wait_until(lambda: server.connections()[0].bytes_in == 9, "the half line is here")
        (info,) = server.connections()
        host, port = client.getsockname()
    assert (info.id, info.peer, info.state, info.waits_for) == (1, f"{host}:{port}", "handler", "line")
    assert (info.bytes_in, info.bytes_out, info.lines_in, info.lines_out) == (9, 5, 1, 1)
    assert 0 <= info.age_seconds < 60
    assert info.tls == ""
    source, first = inspect.getsourcelines(answer_lines)
    line = first + next(n for n, text in enumerate(source) if "client.lines()" in text)
    assert info.line == f"{inspect.getsourcefile(answer_lines)}:{line} answer_lines"


def test_the_line_is_the_innermost_of_the_handlers_own_code() -> None:
    release = Event()

    def helper() -> None:
        release.wait()

    def handler(_client: gnet.Socket, _address: str) -> None:
        helper()

    with serving(handler) as server, connect(server):
        wait_until(lambda: any(each.line for each in server.connections()), "the handler waits")
        (info,) = server.connections()
        release.set()
    assert info.line.endswith(".<locals>.helper")
    assert info.waits_for == ""


def test_a_handler_can_ask_and_sees_itself() -> None:
    def handler(client: gnet.Socket, _address: str) -> None:
        (info,) = server.connections()
        client.send(info.line.encode() + b"\n")

    with serving(handler) as server, connect(server) as client, client.makefile("rb") as file:
        assert file.readline().endswith(b".<locals>.handler\n")


def test_connections_come_oldest_first_and_up_to_a_limit() -> None:
    with serving(answer_lines) as server, connect(server) as one, connect(server) as two:
        ask(one), ask(two)
        assert [each.id for each in server.connections()] == [1, 2]
        assert [each.id for each in server.connections(1)] == [1]


def test_a_released_connection_is_shown_without_a_line() -> None:
    kept = []

    def handler(client: gnet.Socket, _address: str) -> None:
        client.release()  # type: ignore[attr-defined]
        kept.append(client)

    with serving(handler) as server, connect(server):
        wait_until(lambda: [each.state for each in server.connections()] == ["released"], "it is released")
        assert server.connections()[0].line == ""
        kept.pop().close()


# ---------------------------------------------------------------------- the table


def table(server: gnet.Server, **arguments: Any) -> list[str]:
    file = io.StringIO()
    write_connections(server, file, **arguments)
    return file.getvalue().splitlines()


def test_the_table_has_a_row_for_each_connection() -> None:
    with serving(answer_lines) as server, connect(server) as client:
        ask(client)
        first, headings, row = table(server)
        host, port = client.getsockname()
    assert f"127.0.0.1:{server.port}" in first
    assert headings.split()[:2] == ["id", "peer"]
    assert row.split()[:2] == ["1", f"{host}:{port}"]
    assert row.endswith(" answer_lines")
    assert " idle " in row


def test_the_table_of_nobody_is_its_headings() -> None:
    with serving(answer_lines) as server:
        assert len(table(server)) == 2


def test_the_table_is_bounded() -> None:
    with serving(answer_lines) as server, connect(server) as one, connect(server) as two:
        ask(one), ask(two)
        lines = table(server, limit=1)
    assert len(lines) == 4
    assert lines[-1] == "and 1 more"


def test_what_a_peer_chose_is_escaped(tmp_path: Path) -> None:
    own = bytes(tmp_path) + b"/\x1b[31m\n\xff"
    path = tmp_path / "s"
    with serving(answer_lines, unix_path=path) as server, connect_unix(str(path), own) as client:
        ask(client)
        lines = table(server)
    assert len(lines) == 3
    assert lines[2].isprintable()
    assert "\\x1b[31m" in lines[2]


class _Full(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError("No space left on device")


def test_a_file_that_takes_nothing_is_no_error() -> None:
    closed = io.StringIO()
    closed.close()
    with logged() as log, serving(answer_lines) as server:
        write_connections(server, _Full())
        write_connections(server, closed)
    assert not log.lines()
