"""The benchmark programs in loadtests/: each one runs, at tiny sizes, and prints its table and its JSON.

Nothing here looks at how fast anything is: that is what the programs are for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import gevent.subprocess
import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADTESTS = ROOT / "loadtests"

pytestmark = [
    pytest.mark.plain_only,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmarks read /proc"),
]


def run(program: str, *arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LOADTESTS / program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(command, capture_output=True, text=True, timeout=55, env=environment)


def run_with_json(program: str, directory: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What the program printed, and what it wrote to its JSON file."""
    file = directory / "result.json"
    done = run(program, *arguments, "--json", file)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def table_rows(text: str) -> list[list[str]]:
    """The cells of all Markdown tables in a text, without the lines below the headers."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not row[0].strip().startswith("---")]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(LOADTESTS))
    import bench_measure

    return bench_measure


def test_the_servers_are_compared_in_every_scenario_with_the_bench_s_own_client(tmp_path: Path) -> None:
    peers = [word for peer in ("gnet", "gevent", "asyncio", "floor") for word in ("--peer", peer)]
    sizes = ["--rounds", 2, "--requests", 100, "--idle", 10, 20]
    text, data = run_with_json("bench_servers.py", tmp_path, "--plain", "--client", "python", *sizes, *peers)
    header, *rows = table_rows(text)
    assert header[1:] == ["gnet read_line()", "gevent makefile", "asyncio streams", "bare epoll loop", "aim"]
    assert [row[-1] for row in rows] == ["≤ ×0.55", "≤ ×0.08", "≤ ×0.65", "≤ ×0.75", "≤ 9 KiB", "≤ 9 KiB"]
    assert all("×" in cell for row in rows for cell in row[1:-1])
    results = data["results"]
    assert len(results) == 6 * 4
    assert all(len(entry["samples"]) == 2 for entry in results)
    assert all(
        sample > 0 for entry in results if entry["scenario"]["name"] != "idle" for sample in entry["samples"]
    )
    assert {entry["ratio"] for entry in results if entry["peer"] == "gevent"} == {1.0}


def test_redis_benchmark_drives_the_servers_where_it_is_installed(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    needs_program("redis-benchmark")
    needs_program("redis-server")
    text, data = run_with_json(
        *("bench_servers.py", tmp_path, "--plain", "--rounds", 1, "--requests", 200),
        *("--peer", "redis", "--peer", "gnet", "--scenario", "one", "--scenario", "connect"),
    )
    assert "client redis-benchmark" in text
    assert "no ratios" in text  # the reference was not asked for
    found = {(entry["scenario"]["name"], entry["peer"]) for entry in data["results"]}
    assert found == {("one", "redis"), ("one", "gnet"), ("connect", "redis"), ("connect", "gnet")}


def test_a_peer_and_a_client_that_are_not_installed_are_named(tmp_path: Path) -> None:
    peers = ["--peer", "redis", "--peer", "go", "--peer", "asyncio"]
    arguments = ["--rounds", 1, "--requests", 60, "--scenario", "one", *peers]
    done = run("bench_servers.py", *arguments, path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("left out: redis-server is not installed") == 1  # not once for each half
    assert done.stdout.count("left out: go is not installed") == 1
    assert "redis-benchmark is not installed" in done.stdout
    headers = [row for row in table_rows(done.stdout) if row[-1] == "aim"]
    assert headers == [
        ["of the server process", "asyncio streams", "aim"],
        ["over TLS, of the server process", "asyncio streams", "aim"],
    ]


def test_a_server_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('no uvloop here')")  # found before a real one
    program = "import sys; sys.path.insert(0, sys.argv[1]); from bench_measure import PeerServer as server\n"
    program += "server('uvloop')"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-c", program, str(LOADTESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, env=environment)
    assert "PeerUnavailable: uvloop: server ended before it listened, status 1" in done.stderr
    assert done.stderr.endswith("ImportError: no uvloop here\n")


def run_tls_half(
    directory: Path, *scenarios: str
) -> tuple[list[list[str]], dict[tuple[str, str], list[float]]]:
    """The table's rows, and the samples of each scenario and peer."""
    peers = [word for peer in ("gnet", "gnet lines", "gevent") for word in ("--peer", peer)]
    sizes = ["--quick", "--rounds", 1, "--requests", 400, "--idle", 10]
    names = [word for name in scenarios for word in ("--scenario", name)]
    text, data = run_with_json(
        *("bench_servers.py", directory, "--tls", "--client", "python", *sizes, *peers, *names)
    )
    assert {entry["transport"] for entry in data["results"]} == {"tls"}
    return table_rows(text), {
        (entry["scenario"]["name"], entry["peer"]): entry["samples"] for entry in data["results"]
    }


TLS_HEADER = [
    *("over TLS, of the server process", "gnet read_line()", "gnet lines()", "gevent.ssl makefile", "aim")
]


def test_a_server_that_logs_more_than_a_pipe_holds_goes_on(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-server does for each handshake that fails: it stood still in the middle of a round."""
    import bench_commands

    program = "import os; print('listening on 127.0.0.1:1', flush=True); os.write(1, b'log\\n' * 100_000)"
    program += "; print('after', file=open('done', 'w'), flush=True); import time; time.sleep(60)"
    monkeypatch.setitem(bench_commands.PEER_COMMANDS, "chatty", [sys.executable, "-c", program])
    with measure.PeerServer("chatty") as server:
        done = Path(f"/proc/{server.pid}/cwd/done")
        with gevent.Timeout(20):
            while not done.exists():
                gevent.sleep(0.01)


def test_requests_and_handshakes_over_tls_are_compared_with_the_bench_s_own_client(tmp_path: Path) -> None:
    names = ("one", "pipelined", "connect", "new", "resumed")
    rows, samples = run_tls_half(tmp_path, *names)
    assert rows[0] == TLS_HEADER
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("µs per request, 50 connections, one in flight", "≤ ×0.55, < uvloop"),
        ("µs per request, 50 connections, 32 in flight", "≤ redis"),
        ("µs per connection, one request each", "≤ ×1.00"),
        ("handshakes per CPU second, new", "more is better"),
        ("handshakes per CPU second, resumed", "more is better"),
    ]
    assert all("×" in cell for row in rows[1:] for cell in row[1:-1])
    assert set(samples) == {(name, peer) for name in names for peer in ("gnet", "gnet lines", "gevent")}
    assert all(samples[name, peer][0] > 0 for name in ("new", "resumed") for peer in ("gnet", "gevent"))


def test_memory_bulk_sending_and_contexts_over_tls_are_compared(tmp_path: Path) -> None:
    rows, samples = run_tls_half(tmp_path, "idle", "bulk", "context")
    assert rows[0] == TLS_HEADER
    assert [(row[0], row[-1]) for row in rows[1:4]] == [
        ("KiB per idle connection, of 10", "≤ 42 KiB"),
        ("µs per MiB, in 64 KiB sends", "≤ ×0.80"),
        ("MB/s by the clock, in 64 KiB sends", "more is better"),
    ]
    assert all("×" in cell for cell in rows[1][1:-1])
    assert all("×" in row[1] and not row[2] and "×" in row[3] for row in rows[2:4])  # not twice gnet
    assert rows[4] == [
        *("a context with certifi's roots", "new_context()", "ssl.create_default_context(certifi)", "aim")
    ]
    assert [(row[0], row[-1]) for row in rows[5:]] == [
        ("ms, the first", ""),
        ("ms, second and later", "≤ 1 ms"),
        ("KiB, second and later", "≤ 50 KiB"),
    ]
    assert len(samples) == 3 + 2 * 2 + 3 * 2
    assert all(samples["bulk-rate", peer][0] > 0 for peer in ("gnet", "gevent"))


@pytest.mark.parametrize("peer", ["redis", "go"])
def test_redis_benchmark_drives_servers_over_tls_where_it_is_installed(
    peer: str, tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    for program in ("redis-benchmark", "redis-server" if peer == "redis" else "go"):
        needs_program(program)
    names = ("one", "pipelined", "connect", "new", "resumed", "idle")
    text, data = run_with_json(
        *("bench_servers.py", tmp_path, "--tls", "--rounds", 1, "--requests", 100, "--idle", 5),
        *("--peer", peer, *(word for name in names for word in ("--scenario", name))),
    )
    assert "redis-benchmark" in text
    assert {(entry["scenario"]["name"], entry["peer"]) for entry in data["results"]} == {
        (name, peer) for name in names
    }
    ratios = [row for row in table_rows(text) if row[0] == "ratios to redis-server's TLS port"]
    assert len(ratios) == (peer == "redis")


def test_the_client_demands_a_session_that_is_resumed(measure: Any, tmp_path: Path) -> None:
    """Against a server that issues no tickets every handshake is new, which is not what was asked for."""
    from certificates import make_certificates

    files = make_certificates(tmp_path)
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.num_tickets = 0
    for arguments, status in (((), 0), (("--resume",), 1)):
        process, _sent = ping(b"+PONG\r\n", "-n", 3, "-k", 0, "--tls-ca", files.ca, *arguments, tls=context)
        assert process.returncode == status, process.stderr
    assert b"session reused: False" in process.stderr or b"no session" in process.stderr


def test_the_client_reads_all_the_blocks_it_asked_for(measure: Any) -> None:
    for peer in ("gnet", "gevent"):
        with measure.PeerServer(peer, None, "--bulk") as server:
            command = [sys.executable, str(measure.CLIENT), "bulk", "-p", str(server.port), "--blocks", "20"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) > 0


def test_every_way_of_reading_lines_is_timed_for_every_size(tmp_path: Path) -> None:
    text, data = run_with_json("bench_lines.py", tmp_path, "--rounds", 2, "--lines", 300)
    header, *rows = table_rows(text)
    readers = {"gevent makefile", "gnet lines()", "gnet read_line()", "io.BufferedReader"}
    assert readers <= set(header)
    assert [row[0] for row in rows] == [
        *("10 bytes, LF", "10 bytes, CRLF", "80 bytes, LF", "80 bytes, CRLF"),
        *("1,000 bytes, LF", "1,000 bytes, CRLF"),
    ]
    assert all(sample > 0 for entry in data["results"] for sample in entry["samples"])


def test_the_flood_program_reports_waits_memory_and_one_byte_segments(tmp_path: Path) -> None:
    text, data = run_with_json(
        *("bench_flood.py", tmp_path, "--seconds", 0.5, "--megabytes", 1, "--segments", 80),
        *("--peer", "gnet", "--peer", "gnet lines", "--peer", "gevent"),
    )
    assert [row[0] for row in table_rows(text) if len(row) == 7][1:] == [
        *["gnet"] * 3,
        *["gnet lines"] * 3,
        *["gevent"] * 3,
    ]
    quiet = [row for row in data["flood"] if row["flood"] == "none"]
    assert all(row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in quiet)
    assert all(row["flood_lines_per_second"] > 0 for row in data["flood"] if row["flood"] != "none")
    assert [row["peer"] for row in data["endless_line"]] == ["gnet", "gnet lines", "gevent"]
    assert [row["bytes"] for row in data["one_byte_segments"]] == [20, 40, 80, 20, 40, 80]


def answer_all(
    listener: gevent.socket.socket, answer: bytes, accepted: list[int], tls: gevent.ssl.SSLContext | None
) -> None:
    """Answer each line of each connection, and note how many lines each sent."""

    def serve(client: gevent.socket.socket) -> None:
        number = len(accepted)
        accepted.append(0)
        if tls is not None:
            client = tls.wrap_socket(client, server_side=True)
        with client, client.makefile("rb") as lines:
            for line in lines:
                assert line == b"PING\r\n"
                accepted[number] += 1
                client.sendall(answer)

    while True:
        gevent.spawn(serve, listener.accept()[0])


def ping(
    answer: bytes, *arguments: object, tls: gevent.ssl.SSLContext | None = None
) -> tuple[subprocess.CompletedProcess[bytes], list[int]]:
    """Run the client against such a server; also the lines it sent on each connection."""
    sent: list[int] = []
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = gevent.spawn(answer_all, listener, answer, sent, tls)
        command = [LOADTESTS / "bench_client.py", "ping", "-p", listener.getsockname()[1], *arguments]
        # gevent's: this process is the server meanwhile.
        done = gevent.subprocess.run(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30
        )
        server.kill()
    return done, sent


@pytest.mark.parametrize(
    ("keep_alive", "pipeline", "connections"),
    [(1, 1, 3), (1, 8, 3), (0, 1, 20)],
    ids=["one in flight", "eight in flight", "one connection each"],
)
def test_the_client_sends_as_many_lines_as_it_was_asked_for(
    keep_alive: int, pipeline: int, connections: int
) -> None:
    process, sent = ping(b"+PONG\r\n", "-c", 3, "-n", 20, "-k", keep_alive, "-P", pipeline)
    assert process.returncode == 0, process.stderr
    assert (len(sent), sum(sent)) == (connections, 20)


def test_the_client_fails_when_an_answer_is_not_the_right_one() -> None:
    process, _sent = ping(b"-PONG\r\n", "-n", 5)
    assert process.returncode == 1
    assert b"-PONG" in process.stderr


def test_ratios_are_taken_round_by_round(measure: Any) -> None:
    cells = measure.summarize({"slow": [10.0, 20.0, 50.0], "fast": [5.0, 30.0, 20.0]}, "slow")
    assert cells["fast"].ratios == [0.5, 1.5, 0.4]
    assert cells["fast"].ratio == 0.5  # the ratio of the medians would be 1
    assert cells["fast"].cell(1) == "20.0 (5.0–30.0) ×0.50"
    assert measure.summarize({"fast": [5.0]}, "slow")["fast"].cell(0) == "5 (5–5)"


def test_the_cpu_clock_counts_what_a_process_ran_and_not_what_it_slept(measure: Any) -> None:
    before = measure.cpu_ns_now(os.getpid())
    gevent.sleep(0.2)
    slept = measure.cpu_ns_now(os.getpid()) - before
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    ran = measure.cpu_ns_now(os.getpid()) - before - slept
    assert slept < 0.1 * measure.NANOSECONDS < ran


def test_a_peer_takes_each_place_in_the_order_as_often_as_any_other(measure: Any) -> None:
    orders = [measure.rotated(["a", "b", "c"], turn) for turn in range(3)]
    assert [sorted(column) for column in zip(*orders, strict=True)] == [["a", "b", "c"]] * 3
