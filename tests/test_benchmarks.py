"""What the benchmarks share (loadtests/measuring) and loadtests/hostile/flood.py, at tiny sizes.

The comparison with other servers is tested in test_compare.py. Nothing here looks at how fast anything is:
that is what the programs are for.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import gevent.subprocess
import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [
    pytest.mark.plain_only,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmarks read /proc"),
]

if sys.platform.startswith("linux"):
    from loadtests.certificates import make_certificates
    from loadtests.measuring import client, peers, processes, tables


def run_with_json(program: str, directory: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What the program printed, and what it wrote to its JSON file."""
    file = directory / "result.json"
    command = [sys.executable, "-m", f"loadtests.{program}", *map(str, arguments), "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def table_rows(text: str) -> list[list[str]]:
    """The cells of all Markdown tables in a text, without the lines below the headers."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not row[0].strip().startswith("---")]


def test_a_server_that_logs_more_than_a_pipe_holds_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As redis-server does for each handshake that fails: it stood still in the middle of a round."""
    program = "import os; print('listening on 127.0.0.1:1', flush=True); os.write(1, b'log\\n' * 100_000)"
    program += "; print('after', file=open('done', 'w'), flush=True); import time; time.sleep(60)"
    monkeypatch.setitem(peers.PEERS, "chatty", peers.Peer("chatty", (sys.executable, "-c", program)))
    with processes.PeerServer("chatty") as server:
        done = Path(f"/proc/{server.pid}/cwd/done")
        with gevent.Timeout(20):
            while not done.exists():
                gevent.sleep(0.01)


def test_the_client_demands_a_session_that_is_resumed(tmp_path: Path) -> None:
    """Against a server that issues no tickets every handshake is new, which is not what was asked for."""
    files = make_certificates(tmp_path)
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.num_tickets = 0
    for arguments, status in (((), 0), (("--resume",), 1)):
        process, _sent = ping(b"+PONG\r\n", "-n", 3, "-k", 0, "--tls-ca", files.ca, *arguments, tls=context)
        assert process.returncode == status, process.stderr
    assert b"session reused: False" in process.stderr or b"no session" in process.stderr


@pytest.mark.parametrize("peer", ["gnet", "gevent"])
def test_the_client_reads_all_the_blocks_it_asked_for(peer: str) -> None:
    with processes.PeerServer(peer, None, "--bulk") as server:
        command = [*processes.CLIENT, "bulk", "-p", str(server.port), "-n", "20", "-c", "3"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["requests"] == 20


def test_a_mixed_request_has_a_hundred_lines_of_the_promised_lengths_in_ten_segments() -> None:
    segments = client.mixed_request(random.Random(1))
    lines = b"".join(segments).split(b"\r\n")
    assert len(segments) == client.SEGMENTS
    assert lines.pop() == b""
    assert len(lines) == client.LINES_OF_REQUEST
    assert all(client.LEAST_LINE <= len(line) + 2 <= client.MOST_LINE for line in lines)
    assert any(not segment.endswith(b"\n") for segment in segments[:-1])


def test_the_flood_program_reports_waits_memory_and_one_byte_segments(tmp_path: Path) -> None:
    text, data = run_with_json(
        *("hostile.flood", tmp_path, "--seconds", 0.5, "--megabytes", 1, "--segments", 80),
        *("--peer", "gnet-read_line", "--peer", "gnet-lines", "--peer", "gevent"),
    )
    assert [row[0] for row in table_rows(text) if len(row) == 7][1:] == [
        *["gnet-read_line"] * 3,
        *["gnet-lines"] * 3,
        *["gevent"] * 3,
    ]
    quiet = [row for row in data["flood"] if row["flood"] == "none"]
    assert all(row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in quiet)
    assert all(row["flood_lines_per_second"] > 0 for row in data["flood"] if row["flood"] != "none")
    assert [row["peer"] for row in data["endless_line"]] == ["gnet-read_line", "gnet-lines", "gevent"]
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
        command = [*processes.CLIENT, "ping", "-p", listener.getsockname()[1], *arguments]
        # gevent's: this process is the server meanwhile.
        done = gevent.subprocess.run(
            [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=30
        )
        server.kill()
    return done, sent


def answer_whole_requests(listener: gevent.socket.socket, tls: gevent.ssl.SSLContext) -> None:
    """Answer nothing before all lines of a request of `mixed` are there."""

    def serve(sock: gevent.socket.socket) -> None:
        with tls.wrap_socket(sock, server_side=True) as peer, peer.makefile("rb") as lines:
            while request := list(islice(lines, client.LINES_OF_REQUEST)):
                peer.sendall(client.PONG * len(request))

    while True:
        gevent.spawn(serve, listener.accept()[0])


def test_a_session_ticket_in_the_middle_of_a_request_does_not_stop_the_client(tmp_path: Path) -> None:
    """The socket was readable with nothing to read, and the rest of the request was never sent."""
    files = make_certificates(tmp_path)
    context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = gevent.spawn(answer_whole_requests, listener, context)
        options = ["-p", listener.getsockname()[1], "-n", 20, "-c", 5, "--tls-ca", files.ca]
        # gevent's: this process is the server meanwhile.
        done = gevent.subprocess.run(
            [*processes.CLIENT, "mixed", *map(str, options)], stdout=subprocess.PIPE, timeout=30
        )
        server.kill()
    assert done.returncode == 0
    assert json.loads(done.stdout)["requests"] == 20


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


def test_ratios_are_taken_round_by_round() -> None:
    cells = tables.summarize({"slow": [10.0, 20.0, 50.0], "fast": [5.0, 30.0, 20.0]}, "slow")
    assert cells["fast"].ratios == [0.5, 1.5, 0.4]
    assert cells["fast"].ratio == 0.5  # the ratio of the medians would be 1
    assert cells["fast"].cell(1) == "20.0 (5.0–30.0) ×0.50"
    assert tables.summarize({"fast": [5.0]}, "slow")["fast"].cell(0) == "5 (5–5)"


def test_the_cpu_clock_counts_what_a_process_ran_and_not_what_it_slept() -> None:
    before = processes.cpu_ns_now(os.getpid())
    gevent.sleep(0.2)
    slept = processes.cpu_ns_now(os.getpid()) - before
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    ran = processes.cpu_ns_now(os.getpid()) - before - slept
    assert slept < 0.1 * processes.NANOSECONDS < ran


def test_a_peer_takes_each_place_in_the_order_as_often_as_any_other() -> None:
    orders = [tables.rotated(["a", "b", "c"], turn) for turn in range(3)]
    assert [sorted(column) for column in zip(*orders, strict=True)] == [["a", "b", "c"]] * 3
