"""What the plain and the TLS half of bench_servers.py share: a row of the table, its load, its rounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import bench_measure as measure
from bench_commands import PeerUnavailable
from bench_measure import PeerServer
from certificates import CertificateFiles

REFERENCE = "gevent"
Samples = dict[str, list[float]]  # of each peer, one a round


@dataclass(frozen=True)
class Scenario:
    """One row of the table. `share` scales --requests, so that rounds take about as long as each other."""

    name: str
    title: str
    aim: str  # for gnet; as a ratio to the reference, or in the row's unit
    connections: int = 50
    pipeline: int = 1
    keep_alive: bool = True
    share: float = 1.0
    digits: int = 2


Results = dict[Scenario, Samples]


def client_command(
    client: str, port: int, scenario: Scenario, requests: int, tls: CertificateFiles | None
) -> list[str]:
    if client == "python":
        command = [sys.executable, str(measure.CLIENT), "ping", *(("--tls-ca", str(tls.ca)) if tls else ())]
    else:
        command = ["redis-benchmark", "-t", "ping_inline", "-q"]
        command += ["--tls", "--cacert", str(tls.ca)] if tls else []
    return [
        *command,
        *("-p", str(port), "-n", str(requests), "-k", str(int(scenario.keep_alive))),
        *("-c", str(scenario.connections), "-P", str(scenario.pipeline)),
    ]


def cpu_ns_of(server: PeerServer, command: list[str]) -> tuple[int, str]:
    """Nanoseconds of the server's CPU time while a client runs, and what that printed."""
    before = server.cpu_ns()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{server.peer}: {command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return server.cpu_ns() - before, done.stdout


def cpu_per_request(
    server: PeerServer, client: str, scenario: Scenario, requests: int, tls: CertificateFiles | None = None
) -> float:
    """Microseconds of the server's CPU time for one of `requests`."""
    used, _ = cpu_ns_of(server, client_command(client, server.port, scenario, requests, tls))
    return used / requests / 1000


def idle_kib(peer: str, connections: int, tls: CertificateFiles | None = None) -> float:
    """KiB of resident memory one idle connection costs a fresh server."""
    with PeerServer(peer, tls) as server:
        # What a first connection loads is not counted; one after another, they leave little free memory.
        warm_up = Scenario("warm-up", "", "", connections=1, keep_alive=False)
        cpu_per_request(server, "python", warm_up, 20, tls)
        before = server.memory_kib()
        command = ["idle", "--port", str(server.port), "-c", str(connections)]
        command += ["--tls-ca", str(tls.ca)] if tls else []
        with measure.start_client(*command) as client:
            try:
                assert client.stdout is not None
                if not client.stdout.readline().startswith("idle"):
                    raise SystemExit(f"{peer}: the client could not hold {connections} connections")
                server.cpu_ns()  # wait until it rests
                grown = server.memory_kib() - before
            finally:
                client.kill()
    return grown / connections


def available(peers: list[str], tls: CertificateFiles | None = None) -> tuple[list[str], list[str]]:
    """Those that run here, and a note on each that does not."""
    present, notes = [], []
    for peer in peers:
        try:
            with PeerServer(peer, tls):
                present.append(peer)
        except PeerUnavailable as error:
            notes.append(f"left out: {error}")
    return present, notes


def run_rounds(
    scenario: Scenario,
    peers: list[str],
    rounds: int,
    sample: Callable[[str], float],
    warm_up: Callable[[str], object] = lambda _peer: None,
) -> Samples:
    """Each peer once in every round, in an order that rotates; the warm-up is not counted."""
    samples: Samples = {peer: [] for peer in peers}
    for turn in range(rounds):
        for peer in measure.rotated(peers, turn):
            if turn == 0:
                warm_up(peer)
            samples[peer].append(sample(peer))
    progress(scenario, samples)
    return samples


def progress(scenario: Scenario, samples: Samples) -> None:
    cells = (f"{peer} {cell.median:.2f}" for peer, cell in measure.summarize(samples, "").items())
    print(f"{scenario.title}: {', '.join(cells)}", file=sys.stderr, flush=True)


def table(results: Results, peers: list[str], names: dict[str, str], corner: str) -> str:
    """The figures, and their ratios to the reference peer's."""
    header = [corner, *(names.get(peer, peer) for peer in peers), "aim"]
    rows = []
    for row, samples in results.items():
        cells = measure.summarize(samples, REFERENCE)
        texts = [cells[peer].cell(row.digits) if peer in cells else "" for peer in peers]
        rows.append([row.title, *texts, row.aim])
    return measure.markdown_table(header, rows)


def json_entries(results: Results, transport: str) -> list[dict[str, object]]:
    """Every sample, for --json."""
    return [
        {"transport": transport, "scenario": asdict(scenario), "peer": peer, **cell.as_json()}
        for scenario, samples in results.items()
        for peer, cell in measure.summarize(samples, REFERENCE).items()
    ]
