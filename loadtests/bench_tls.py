"""The TLS half of bench_servers.py: ECDSA P-256, TLS 1.3, a certificate made for this run.

What is counted is the CPU time of the server process, as in the plain half, with one difference: 50
handshakes cost as much as thousands of requests, so opening the connections is taken out of the requests'
rows (--opening leaves it in, as the plain half does). A round is two runs, a short one and one with so many
requests more; their difference is what those requests cost. So is the row with a connection for each request:
redis-benchmark opens up to 50 connections more than it was asked for, in both runs alike, and closes them
without a close_notify.

Handshakes are made one after the other by loadtests/bench_client.py (new ones, or all of one session): each
sends one line, reads the answer and says goodbye, which is part of the count. Suites and groups are what the
two ends agree on by themselves: AES-256-GCM and X25519, with Go AES-128-GCM.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_measure as measure
from bench_measure import PeerServer
from bench_scenarios import (
    Results,
    Samples,
    Scenario,
    available,
    client_command,
    cpu_ns_of,
    idle_kib,
    progress,
    run_rounds,
    table,
)
from certificates import make_certificates

SECOND_REFERENCE = "redis"
BULK_PEERS = ("gevent", "gnet")
CONTEXTS = Path(__file__).resolve().parent / "bench_contexts.py"
CONTEXT_KINDS = {"gnet": ("new_context()", 200), "ssl": ("ssl.create_default_context(certifi)", 40)}
SHORT_RUN = 100  # requests of the run that is taken out, for each one in flight on a connection

REQUESTS = [
    Scenario("one", "µs per request, 50 connections, one in flight", "≤ ×0.55, < uvloop", share=0.5),
    Scenario("pipelined", "µs per request, 50 connections, 32 in flight", "≤ redis", pipeline=32, share=5.0),
    Scenario("connect", "µs per connection, one request each", "≤ ×1.00", keep_alive=False, share=0.015),
]
HANDSHAKES = [
    Scenario("new", "handshakes per CPU second, new", "more is better", connections=1, digits=0, share=0.01),
    Scenario(
        "resumed", "handshakes per CPU second, resumed", "more is better", connections=1, digits=0, share=0.01
    ),
]
IDLE = Scenario("idle", "KiB per idle connection", "≤ 42 KiB", digits=1)
BULK = Scenario("bulk", "µs per MiB, in 64 KiB sends", "≤ ×0.80", connections=1, digits=0, share=0.05)
BULK_RATE = Scenario("bulk-rate", "MB/s by the clock, in 64 KiB sends", "more is better", digits=0)
CONTEXT = [
    Scenario("first ms", "ms, the first", ""),
    Scenario("later ms", "ms, second and later", "≤ 1 ms"),
    Scenario("later KiB", "KiB, second and later", "≤ 50 KiB", digits=1),
]
SCENARIO_NAMES = [one.name for one in (*REQUESTS, *HANDSHAKES, IDLE, BULK)] + ["context"]

NAMES = {
    **{"gevent": "gevent.ssl makefile", "gnet": "gnet read_line()", "gnet lines": "gnet lines()"},
    **{"asyncio": "asyncio streams", "uvloop": "uvloop streams", "redis": "redis-server", "go": "Go bufio"},
}


class TlsHalf:
    """The rounds over TLS, and the tables of what they gave."""

    def __init__(self, given: argparse.Namespace, peers: list[str], folder: Path) -> None:
        """Make the certificate and see which of the peers run here.

        Args:
            given: the arguments of bench_servers.py.
            folder: for the certificate.
        """
        self._given = given
        self._files = make_certificates(folder)
        self.peers, self.notes = available(peers, self._files)
        self.results: Results = {}
        self.contexts: Results = {}

    def run(self, wanted: set[str]) -> None:
        """Run the scenarios of these names."""
        given = self._given
        if self.peers:
            self._run_servers([one for one in (*REQUESTS, *HANDSHAKES) if one.name in wanted])
            if IDLE.name in wanted:
                row = replace(IDLE, title=f"{IDLE.title}, of {given.tls_idle:,}", connections=given.tls_idle)
                rounds = 1 if given.quick else min(given.tls_rounds, 2)  # pages hardly vary
                self.results[row] = run_rounds(
                    row, self.peers, rounds, lambda peer: idle_kib(peer, given.tls_idle, self._files)
                )
            if BULK.name in wanted:
                self._run_bulk([peer for peer in BULK_PEERS if peer in self.peers])
        if "context" in wanted:
            self._run_contexts()

    def _run_servers(self, scenarios: list[Scenario]) -> None:
        rounds = self._given.tls_rounds
        with ExitStack() as stack:
            servers = {peer: stack.enter_context(PeerServer(peer, self._files)) for peer in self.peers}
            for scenario in scenarios:
                count = max(scenario.connections, int(self._given.requests * scenario.share))
                measured = self._handshakes if scenario in HANDSHAKES else self._request

                def sample(
                    peer: str, count: int = count, scenario: Scenario = scenario, measured: Any = measured
                ) -> float:
                    return float(measured(servers[peer], scenario, count))

                def warm_up(peer: str, count: int = count, scenario: Scenario = scenario) -> None:
                    self._spend(servers[peer], scenario, count // 10 + 1)

                self.results[scenario] = run_rounds(scenario, self.peers, rounds, sample, warm_up)

    def _spend(self, server: PeerServer, scenario: Scenario, requests: int) -> int:
        command = client_command(self._given.client, server.port, scenario, requests, self._files)
        return cpu_ns_of(server, command)[0]

    def _request(self, server: PeerServer, scenario: Scenario, requests: int) -> float:
        """Microseconds for one of `requests`, without what opening the connections costs (see --opening)."""
        if self._given.opening:
            return self._spend(server, scenario, requests) / requests / 1000
        short = min(SHORT_RUN, requests) * scenario.pipeline
        start = self._spend(server, scenario, short)
        return (self._spend(server, scenario, short + requests) - start) / requests / 1000

    def _handshakes(self, server: PeerServer, scenario: Scenario, count: int) -> float:
        """Handshakes in a second of CPU time."""
        one_each = replace(scenario, keep_alive=False)
        command = client_command("python", server.port, one_each, count, self._files)
        used, _ = cpu_ns_of(server, command + ["--resume"] * (scenario.name == "resumed"))
        return count * measure.NANOSECONDS / used

    def _run_bulk(self, peers: list[str]) -> None:
        given = self._given
        blocks = max(16, int(given.requests * BULK.share))
        rates: Samples = {peer: [] for peer in peers}
        with ExitStack() as stack:
            servers = {peer: stack.enter_context(PeerServer(peer, self._files, "--bulk")) for peer in peers}

            def send(peer: str, count: int = blocks) -> tuple[float, float]:
                server = servers[peer]
                command = [sys.executable, str(measure.CLIENT), "bulk", "-p", str(server.port)]
                command += ["--blocks", str(count), "--tls-ca", str(self._files.ca)]
                used, seconds = cpu_ns_of(server, command)
                return used, float(seconds)

            def sample(peer: str) -> float:
                # The handshake is no part of it.
                start, _ = send(peer, 1)
                used, seconds = send(peer, blocks + 1)
                rates[peer].append((blocks + 1) * 65536 / 1e6 / seconds)
                return (used - start) / 1000 / (blocks / 16)

            self.results[BULK] = run_rounds(BULK, peers, given.tls_rounds, sample, send)
        progress(BULK_RATE, rates)
        self.results[BULK_RATE] = rates

    def _run_contexts(self) -> None:
        self.contexts = {row: {kind: [] for kind in CONTEXT_KINDS} for row in CONTEXT}
        rounds = min(self._given.tls_rounds, 3)
        for turn in range(rounds):
            for kind in measure.rotated(list(CONTEXT_KINDS), turn):
                count = 5 if self._given.quick else CONTEXT_KINDS[kind][1]
                command = [sys.executable, str(CONTEXTS), kind, "--count", str(count)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{CONTEXTS.name} failed: {done.stderr.strip()}")
                figures = json.loads(done.stdout)
                for row in CONTEXT:
                    self.contexts[row][kind].append(figures[row.name])
        for row in CONTEXT:
            progress(row, self.contexts[row])

    def tables(self) -> list[str]:
        """Markdown: the figures, their ratios to redis-server's, and the contexts."""
        texts = []
        if self.results:
            texts.append(table(self.results, self.peers, NAMES, "over TLS, of the server process"))
        if SECOND_REFERENCE in self.peers and self.results:
            texts.append(self._second_ratios())
        if self.contexts:
            kinds = {kind: name for kind, (name, _) in CONTEXT_KINDS.items()}
            texts.append(table(self.contexts, list(kinds), kinds, "a context with certifi's roots"))
        return texts

    def _second_ratios(self) -> str:
        rows = []
        for row, samples in self.results.items():
            if SECOND_REFERENCE in samples:
                cells = measure.summarize(samples, SECOND_REFERENCE)
                rows.append([row.title, *(f"×{cells[peer].ratio or 0:.2f}" for peer in self.peers)])
        names = (NAMES.get(peer, peer) for peer in self.peers)
        return measure.markdown_table(["ratios to redis-server's TLS port", *names], rows)
