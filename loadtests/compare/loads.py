"""One sample: a load on one server, what it cost the server, and what the client saw.

What the opening of connections costs is no part of a request's cost. The own client opens them before the
clock is read. redis-benchmark cannot wait, so it runs twice, for a few requests and for so many more: their
difference is what those cost. That also takes out the 50 connections that it opens for nothing where each
request has a connection of its own.
"""

from __future__ import annotations

import csv
import json
import shutil
import socket
import subprocess
from dataclasses import dataclass

from loadtests.certificates import CertificateFiles
from loadtests.compare.scenarios import Kind, Scenario
from loadtests.measuring.client import BULK_QUESTION, PING, PONG, Tls, connect
from loadtests.measuring.peers import BULK, LINES
from loadtests.measuring.processes import CLIENT, PeerServer, start_client

SHORT_RUN = 100  # requests of the run that is taken out, for each one in flight on a connection
BLOCK_BYTES = 65536
BULK_KEY = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$65536\r\n" + b"x" * BLOCK_BYTES + b"\r\n"
# What redis-server sends for `GET k`: `$65536`, the block, an end.
REDIS_BLOCK_BYTES = len(b"$65536\r\n") + BLOCK_BYTES + len(b"\r\n")
WARM_UP_CONNECTIONS, WARM_UP_REQUESTS, ANSWER_SECONDS = 10, 20, 10.0
# Before idle connections are counted.
WARM_UP = Scenario("", "", "", Kind.PING, requests=20, connections=1, keep_alive=False)


@dataclass(frozen=True)
class Sample:
    """What one peer did in one round."""

    value: float  # microseconds of the server's CPU time per request, or KiB per connection
    per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


class LoadFailed(Exception):
    """A client ended with an error: there is no sample."""


def client_of(scenario: Scenario) -> str:
    """The client that drives a scenario."""
    has_benchmark = shutil.which("redis-benchmark") is not None
    return "redis-benchmark" if scenario.kind is Kind.PING and has_benchmark else "own client"


def server_options(scenario: Scenario) -> tuple[str, ...]:
    """The kind of server that a scenario needs."""
    return BULK if scenario.kind is Kind.BULK else LINES


def parse_redis_benchmark(text: str) -> Sample:
    """What `redis-benchmark --csv` printed: requests per second and latencies; the value is 0.

    Versions before 6.2 print no latencies. Raises LoadFailed: there is no such line.
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.reader(lines))
    try:
        if rows[0][0] == "test":
            figures = dict(zip(rows[0], rows[1], strict=True))
            latencies = float(figures["p50_latency_ms"]), float(figures["p99_latency_ms"])
            return Sample(0.0, float(figures["rps"]), *latencies)
        return Sample(0.0, float(rows[0][1]))
    except (IndexError, KeyError, ValueError) as error:
        raise LoadFailed(f"redis-benchmark printed {text.strip()[-200:]!r}") from error


def prepare(server: PeerServer, scenario: Scenario, tls: CertificateFiles | None) -> None:
    """Warm a server up and see that it answers as the scenario wants it; raises LoadFailed.

    redis-server is given its block here.
    """
    question, size = PING, len(PONG)
    if scenario.kind is Kind.BULK:
        question, size = BULK_QUESTION, _block_bytes(server)
    context = Tls(str(tls.ca)) if tls else None
    for _ in range(WARM_UP_CONNECTIONS):
        with connect(server.port, context) as sock:
            sock.settimeout(ANSWER_SECONDS)
            try:
                if server.peer == "redis" and scenario.kind is Kind.BULK:
                    sock.sendall(BULK_KEY)
                    sock.recv(100)
                for _ in range(WARM_UP_REQUESTS):
                    sock.sendall(question)
                    _receive(sock, size)
            except OSError as error:
                raise LoadFailed(f"{server.peer}: {error}") from error


def _receive(sock: socket.socket, size: int) -> None:
    missing = size
    while missing:
        count = len(sock.recv(missing))
        if not count:
            raise ConnectionError(f"the stream ended {missing} of {size} bytes before the end of an answer")
        missing -= count


def _block_bytes(server: PeerServer) -> int:
    return REDIS_BLOCK_BYTES if server.peer == "redis" else BLOCK_BYTES


def take_sample(
    server: PeerServer, scenario: Scenario, requests: int, tls: CertificateFiles | None = None
) -> Sample:
    """Run a load of so many requests; raises LoadFailed. Not for `Kind.IDLE`, see `idle_sample`."""
    if client_of(scenario) == "redis-benchmark":
        short = max(min(SHORT_RUN, requests) * scenario.pipeline, scenario.connections)
        opening, _ = _redis_benchmark(server, scenario, short, tls)
        used, seen = _redis_benchmark(server, scenario, short + requests, tls)
        return Sample((used - opening) / requests / 1000, seen.per_second, seen.p50_ms, seen.p99_ms)
    return _own_client(server, scenario, requests, tls)


def _redis_benchmark(
    server: PeerServer, scenario: Scenario, requests: int, tls: CertificateFiles | None
) -> tuple[int, Sample]:
    """Nanoseconds that the server ran, and what the client saw."""
    command = ["redis-benchmark", "-t", "ping_inline", "--csv", "-p", str(server.port)]
    command += ["-n", str(requests), "-k", str(int(scenario.keep_alive))]
    command += ["-c", str(scenario.connections), "-P", str(scenario.pipeline)]
    command += ["--tls", "--cacert", str(tls.ca)] if tls else []
    before = server.cpu_ns()
    done = subprocess.run(command, capture_output=True, text=True)
    used = server.cpu_ns() - before
    if done.returncode:
        raise LoadFailed(f"{server.peer}: redis-benchmark: {(done.stderr or done.stdout).strip()[-200:]}")
    return used, parse_redis_benchmark(done.stdout)


def _own_client(
    server: PeerServer, scenario: Scenario, requests: int, tls: CertificateFiles | None
) -> Sample:
    command = {Kind.BULK: "bulk", Kind.MIXED: "mixed"}.get(scenario.kind, "ping")
    options = ["-p", str(server.port), "-n", str(requests), "-k", str(int(scenario.keep_alive))]
    options += ["-c", str(scenario.connections), "-P", str(scenario.pipeline)]
    options += ["--answer-bytes", str(_block_bytes(server))]
    options += ["--tls-ca", str(tls.ca)] if tls else []
    options += ["--resume"] * (scenario.kind is Kind.RESUMED)
    if server.peer == "redis" and scenario.kind is Kind.MIXED:
        options += ["--answer", "+OK"]
    # Where each request has a connection, those are what is measured.
    options += ["--wait"] * scenario.keep_alive
    before = server.cpu_ns()
    with start_client(command, *options) as client:
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            if scenario.keep_alive:
                client.stdout.readline()  # "ready"
                before = server.cpu_ns()
                client.stdin.write("go\n")
                client.stdin.flush()
            result = client.stdout.readline()
            used = server.cpu_ns() - before
        except BrokenPipeError:
            result, used = "", 0
        finally:
            if client.stdin is not None:
                client.stdin.close()
    if not result or client.returncode:
        raise LoadFailed(f"{server.peer}: {CLIENT[-1]} {command} ended with status {client.returncode}")
    seen = json.loads(result)
    rate = seen["requests"] / seen["seconds"]
    return Sample(used / requests / 1000, rate, seen["p50_ms"], seen["p99_ms"])


def idle_sample(peer: str, connections: int, tls: CertificateFiles | None = None) -> Sample:
    """KiB of resident memory one idle connection costs a fresh server; raises LoadFailed, PeerUnavailable."""
    with PeerServer(peer, tls) as server:
        # What a first connection loads is not counted; one after another, they leave little free memory.
        _own_client(server, WARM_UP, WARM_UP.requests, tls)
        before = server.memory_kib()
        options = ["-p", str(server.port), "-c", str(connections)]
        options += ["--tls-ca", str(tls.ca)] if tls else []
        with start_client("idle", *options) as client:
            try:
                assert client.stdout is not None
                if not client.stdout.readline().startswith("idle"):
                    raise LoadFailed(f"{peer}: the client could not hold {connections} connections")
                server.cpu_ns()  # wait until it rests
                grown = server.memory_kib() - before
            finally:
                client.kill()
    return Sample(grown / connections)
