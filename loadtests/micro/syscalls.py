"""System calls per request of a server process, by strace: gnet's bare loop, `gnet.Server`, gevent.

The server runs on a core of its own, and the client of all benchmarks asks it. Each count is the difference
of a run and one with twice the requests: what connections cost that stay open is no part of it. A traced
server is many times slower, so with 50 connections nearly all of them are ready at each `epoll_wait`, as
under full load. The client that is alone waits a moment before each request, or there would be no wait to
be seen in a server that is never done in time.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from loadtests.certificates import CertificateFiles
from loadtests.measuring import client
from loadtests.measuring.processes import CLIENT, PeerServer
from loadtests.micro import ends
from loadtests.micro.rows import Row, Samples
from loadtests.micro.serving import BARE, GEVENT, SERVER
from loadtests.micro.strace import find_strace, per_request, traced

BENCH = "system calls"
TLS_BENCH = "system calls over TLS"
PEERS = {BARE: "gnet-lines", SERVER: "gnet", GEVENT: "gevent"}
WARM_UP_REQUESTS = 5
WORTH_NAMING = 0.005  # calls per request that a breakdown shows


@dataclass(frozen=True)
class Load:
    """What the client does."""

    connections: int
    in_flight: int
    requests: int
    keep_alive: bool = True
    pause_seconds: float = 0.0

    def command(self, port: int, requests: int, tls: CertificateFiles | None) -> list[str]:
        return [
            *CLIENT,
            *("ping", "-p", str(port), "-n", str(requests), "-c", str(self.connections)),
            *("-P", str(self.in_flight), "-k", str(int(self.keep_alive))),
            *(("--tls-ca", str(tls.ca)) if tls else ()),
        ]


LOADS: dict[str, Load] = {
    "1 connection, now and then": Load(1, 1, 200, pause_seconds=0.002),
    "50 connections, 1 in flight": Load(50, 1, 1_000),
    "50 connections, 32 in flight": Load(50, 32, 6_400),
    "a connection per request": Load(50, 1, 300, keep_alive=False),
}


def ask_slowly(port: int, requests: int, pause_seconds: float, tls: CertificateFiles | None) -> None:
    """Ask over one connection, with a pause before each request."""
    with client.connect(port, client.Tls(str(tls.ca)) if tls else None) as sock:
        for _ in range(requests):
            time.sleep(pause_seconds)
            sock.sendall(client.PING)
            if sock.recv(len(client.PONG), *(() if tls else (socket.MSG_WAITALL,))) != client.PONG:
                raise RuntimeError("the server's answer was not +PONG")


def count_calls(peer: str, load: Load, requests: int, tls: CertificateFiles | None) -> dict[str, float]:
    """Each system call's number per request; the most frequent one first.

    Raises:
        CannotRun: no strace here.
    """

    def run(number: int) -> None:
        if load.pause_seconds:
            ask_slowly(server.port, number, load.pause_seconds, tls)
            return
        done = subprocess.run(
            load.command(server.port, number, tls), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{peer}: the client failed: {done.stderr.strip()}")

    find_strace()  # before a server is started for nothing
    counts: list[Counter[str]] = []
    with PeerServer(peer, tls) as server:
        ask_slowly(server.port, WARM_UP_REQUESTS, 0, tls)  # what a first connection loads
        for number in (requests, 2 * requests):
            with traced(server.pid) as counted:
                run(number)
                server.cpu_ns()  # until it has seen its clients leave
            counts.append(counted)
    fewer, more = counts
    return per_request(fewer, more, requests)


@dataclass
class Breakdown:
    """The last counts of each server under one load, by the call."""

    counts: dict[str, dict[str, float]] = field(default_factory=dict)

    def sample(self, server: str, count: Callable[[], dict[str, float]]) -> float:
        self.counts[server] = count()
        return sum(self.counts[server].values())

    def text(self, _samples: Samples) -> str:
        lines = []
        for server, counts in self.counts.items():
            named = [f"{name} {each:.2f}" for name, each in counts.items() if each >= WORTH_NAMING]
            lines.append(f"{server}: {', '.join(named)}")
        return "; ".join(lines)


def rows(scale: float, tls: bool) -> list[Row]:
    """A row for each load.

    Args:
        scale: of the number of requests in each sample.
    """
    files = ends.certificates() if tls else None
    found = []
    for name, load in LOADS.items():
        breakdown = Breakdown()
        requests = max(load.connections * load.in_flight, int(load.requests * scale))
        subjects = {
            server: partial(breakdown.sample, server, partial(count_calls, peer, load, requests, files))
            for server, peer in PEERS.items()
            if not (tls and server == SERVER)  # its servers' TLS is one and the same
        }
        found.append(
            Row(
                bench=TLS_BENCH if tls else BENCH,
                name=name,
                unit="system calls per request",
                yardstick=GEVENT,
                subjects=subjects,
                is_counted=True,
                note=breakdown.text,
            )
        )
    return found
