"""The rounds: every peer once in each, in an order that rotates; and which peers can run at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TextIO

from loadtests.certificates import CertificateFiles
from loadtests.compare.loads import (
    LoadFailed,
    Sample,
    client_of,
    idle_sample,
    prepare,
    server_options,
    take_sample,
)
from loadtests.compare.scenarios import Kind, Scenario
from loadtests.measuring.peers import PeerUnavailable, peer_command
from loadtests.measuring.processes import PeerServer
from loadtests.measuring.tables import rotated, spread


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    share: float = 1.0  # of the requests of a full round
    idle: int = 5_000  # connections

    def requests(self, scenario: Scenario) -> int:
        return max(scenario.connections, round(scenario.requests * self.share))

    def rounds_of(self, scenario: Scenario) -> int:
        return min(self.rounds, scenario.most_rounds)

    def connections(self, scenario: Scenario) -> int:
        return self.idle if scenario.kind is Kind.IDLE else scenario.connections


@dataclass
class Measured:
    """The samples of one scenario, of each peer one a round."""

    transport: str
    scenario: Scenario
    client: str
    requests: int  # of each peer in a round; 0 where connections are idle
    connections: int
    samples: dict[str, list[Sample]]


@dataclass
class Progress:
    """Lines that say what was done and how long the rest may take."""

    total: int  # samples to take
    to: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def step(self, what: str) -> None:
        """One more sample was taken."""
        self.done += 1
        spent = time.monotonic() - self.started
        left = spent / self.done * (self.total - self.done)
        if self.to.isatty():
            text = f"\r\x1b[K{self._percent()} {_minutes(left)} to go: {what}"
            print(text, end="", file=self.to, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        start = "\r\x1b[K" if self.to.isatty() else ""
        spent = time.monotonic() - self.started
        print(f"{start}{self._percent()} {_minutes(spent)}: {text}", file=self.to, flush=True)

    def _percent(self) -> str:
        return f"{100 * self.done // max(1, self.total):3} %"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def runnable(peers: Sequence[str], tls: CertificateFiles | None) -> tuple[list[str], list[str]]:
    """Those that start and listen here, and a sentence on each that does not."""
    present, notes = [], []
    for peer in peers:
        try:
            with PeerServer(peer, tls):
                present.append(peer)
        except PeerUnavailable as error:
            notes.append(f"{peer} is left out{' over TLS' if tls else ''}: {error}")
    return present, notes


def measure(
    transport: str,
    scenarios: Sequence[Scenario],
    peers: Sequence[str],
    size: Size,
    tls: CertificateFiles | None,
    progress: Progress,
    notes: list[str],
) -> Iterator[Measured]:
    """Run the scenarios, one after the other, on peers that run here.

    Args:
        transport: "plain" or "tls".
        tls: the certificate, if it is the latter.
        notes: gets a sentence on each peer that fails in a scenario; it is no part of that one's samples.
    """
    for scenario in scenarios:
        with ExitStack() as stack:
            servers = {}
            able = []
            for peer in peers:
                try:
                    if scenario.kind is Kind.IDLE:  # they need a fresh server for each sample
                        peer_command(peer, tls)
                    else:
                        server = PeerServer(peer, tls, *server_options(scenario))
                        servers[peer] = stack.enter_context(server)
                        prepare(server, scenario, tls)
                    able.append(peer)
                except (PeerUnavailable, LoadFailed, OSError) as error:
                    notes.append(f"{peer} is left out of {transport} {scenario.name}: {error}")
            samples = _rounds(transport, scenario, able, servers, size, tls, progress, notes)
        for peer, taken in samples.items():
            values = [sample.value for sample in taken]
            figures = f"{spread(values, scenario.digits)} {scenario.unit}"
            progress.say(f"{transport} {scenario.name}, {peer}: {figures}")
        yield Measured(
            transport,
            scenario,
            client_of(scenario),
            0 if scenario.kind is Kind.IDLE else size.requests(scenario),
            size.connections(scenario),
            samples,
        )


def _rounds(
    transport: str,
    scenario: Scenario,
    peers: list[str],
    servers: dict[str, PeerServer],
    size: Size,
    tls: CertificateFiles | None,
    progress: Progress,
    notes: list[str],
) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {peer: [] for peer in peers}
    rounds, requests = size.rounds_of(scenario), size.requests(scenario)
    for turn in range(rounds):
        for peer in rotated(peers, turn):
            if peer not in samples:
                continue  # it failed in an earlier round
            try:
                if scenario.kind is Kind.IDLE:
                    sample = idle_sample(peer, size.idle, tls)
                else:
                    sample = take_sample(servers[peer], scenario, requests, tls)
            except (LoadFailed, PeerUnavailable) as error:
                del samples[peer]
                notes.append(f"{peer} is left out of {transport} {scenario.name}: {error}")
                continue
            samples[peer].append(sample)
            progress.step(f"{transport} {scenario.name}, round {turn + 1} of {rounds}, {peer}")
    return samples
