"""CPU time per request of line servers, side by side: gnet, gevent, asyncio streams, redis-server.

    python loadtests/bench_servers.py            several minutes
    python loadtests/bench_servers.py --quick    under a minute, rougher

Every server is its own process on one core and answers `+PONG` to each line; the client (`redis-benchmark
-t ping_inline` where it is installed, else loadtests/bench_client.py) has the other core. A round runs
every peer once, in an order that rotates; figures are medians over the rounds with the least and the most
in brackets, and each ratio is the median of the ratios to gevent's `makefile` in the same round. Opening
and closing the connections is part of what is counted: the clock is read when the server has come to rest.

Idle connections have sent one line and been answered. Their KiB are what the server's resident memory grew
by, in a process started for this alone; the kernel's socket buffers are not in it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import bench_measure as measure
from bench_measure import PEER_COMMANDS, PeerServer

REFERENCE = "gevent"
DEFAULT_PEERS = [peer for peer in PEER_COMMANDS if peer != "floor"]


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


SCENARIOS = [
    Scenario("one", "µs per request, 50 connections, one in flight", "≤ ×0.55"),
    Scenario("pipelined", "µs per request, 50 connections, 32 in flight", "≤ ×0.08", pipeline=32, share=10.0),
    Scenario("thousand", "µs per request, 1,000 connections", "≤ ×0.65", connections=1000, share=4.0),
    Scenario("connect", "µs per connection, one request each", "≤ ×0.75", keep_alive=False, share=0.1),
    Scenario("idle", "KiB per idle connection", "≤ 9 KiB"),
]
Results = dict[Scenario, dict[str, measure.Summary]]


def client_command(client: str, port: int, scenario: Scenario, requests: int) -> list[str]:
    command = ["redis-benchmark", "-t", "ping_inline", "-q"]
    if client == "python":
        command = [sys.executable, str(measure.CLIENT), "ping"]
    return [
        *command,
        *("-p", str(port), "-n", str(requests), "-k", str(int(scenario.keep_alive))),
        *("-c", str(scenario.connections), "-P", str(scenario.pipeline)),
    ]


def cpu_per_request(server: PeerServer, client: str, scenario: Scenario, requests: int) -> float:
    """Microseconds of the server's CPU time for one of `requests`."""
    before = server.cpu_ns()
    command = client_command(client, server.port, scenario, requests)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{server.peer}: {command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return (server.cpu_ns() - before) / requests / 1000


def idle_kib(peer: str, connections: int) -> float:
    """KiB of resident memory one idle connection costs a fresh server."""
    with PeerServer(peer) as server:
        # What a first connection loads is not counted; one after another, they leave little free memory.
        warm_up = Scenario("warm-up", "", "", connections=1, keep_alive=False)
        cpu_per_request(server, "python", warm_up, 20)
        before = server.memory_kib()
        with measure.start_client("idle", "--port", str(server.port), "-c", str(connections)) as client:
            try:
                assert client.stdout is not None
                if not client.stdout.readline().startswith("idle"):
                    raise SystemExit(f"{peer}: the client could not hold {connections} connections")
                server.cpu_ns()  # wait until it rests
                grown = server.memory_kib() - before
            finally:
                client.kill()
    return grown / connections


def available(peers: list[str]) -> tuple[list[str], list[str]]:
    """Those that run here, and a note on each that does not."""
    present, notes = [], []
    for peer in peers:
        try:
            with PeerServer(peer):
                present.append(peer)
        except measure.PeerUnavailable as error:
            notes.append(f"left out: {error}")
    return present, notes


def run_requests(scenarios: list[Scenario], peers: list[str], given: argparse.Namespace) -> Results:
    """All rounds of the scenarios that count CPU time, on servers that live through all of them."""
    samples: dict[Scenario, dict[str, list[float]]] = {one: {peer: [] for peer in peers} for one in scenarios}
    with ExitStack() as stack:
        servers = {peer: stack.enter_context(PeerServer(peer)) for peer in peers}
        for scenario in scenarios:
            requests = max(scenario.connections, int(given.requests * scenario.share))
            for turn in range(given.rounds):
                for peer in measure.rotated(peers, turn):
                    if turn == 0:  # warm-up, not counted
                        cpu_per_request(servers[peer], given.client, scenario, max(1, requests // 10))
                    cost = cpu_per_request(servers[peer], given.client, scenario, requests)
                    samples[scenario][peer].append(cost)
            progress(scenario, samples[scenario])
    return {one: measure.summarize(samples[one], REFERENCE) for one in scenarios}


def run_idle(scenario: Scenario, peers: list[str], given: argparse.Namespace) -> Results:
    """The idle row, once for each number of connections asked for."""
    results: Results = {}
    for connections in given.idle:
        row = replace(scenario, title=f"{scenario.title}, of {connections:,}", connections=connections)
        samples: dict[str, list[float]] = {peer: [] for peer in peers}
        for turn in range(min(given.rounds, 3)):  # pages do not vary as microseconds do
            for peer in measure.rotated(peers, turn):
                samples[peer].append(idle_kib(peer, connections))
        progress(row, samples)
        results[row] = measure.summarize(samples, REFERENCE)
    return results


def progress(scenario: Scenario, samples: dict[str, list[float]]) -> None:
    cells = (f"{peer} {cell.median:.2f}" for peer, cell in measure.summarize(samples, "").items())
    print(f"{scenario.title}: {', '.join(cells)}", file=sys.stderr, flush=True)


def table(results: Results, peers: list[str]) -> str:
    names = {
        **{REFERENCE: "gevent makefile", "asyncio": "asyncio streams", "redis": "redis-server"},
        **{"gnet": "gnet read_line()", "gnet lines": "gnet lines()", "floor": "bare epoll loop"},
    }
    header = ["of the server process", *(names.get(peer, peer) for peer in peers), "aim"]
    rows = [[row.title, *(cells[peer].cell(2) for peer in peers), row.aim] for row, cells in results.items()]
    return measure.markdown_table(header, rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=names, help="only these; default: all")
    parser.add_argument("--peer", action="append", choices=[*PEER_COMMANDS], help="default: all but floor")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario; default 9, 3 with --quick")
    parser.add_argument("--requests", type=int, help="in a round of `one`; other scenarios in proportion")
    parser.add_argument("--idle", type=int, nargs="+", default=[2000], metavar="N", help="idle connections")
    parser.add_argument(
        "--client", choices=["redis-benchmark", "python"], help="default: the first, if there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    given = parser.parse_args()
    given.rounds = given.rounds or (3 if given.quick else 9)
    given.requests = given.requests or (4_000 if given.quick else 40_000)
    given.client = given.client or ("redis-benchmark" if shutil.which("redis-benchmark") else "python")
    if min(given.rounds, given.requests, *given.idle) < 1:
        parser.error("--rounds, --requests and --idle are at least 1")
    return given


def main() -> None:
    given = parse_arguments()
    measure.prepare()
    facts = measure.machine_facts()
    peers, notes = available(given.peer or DEFAULT_PEERS)
    if given.client == "python" and not shutil.which("redis-benchmark"):
        notes.append("redis-benchmark is not installed: its place is taken by loadtests/bench_client.py")
    notes.append(f"client {given.client}, {given.rounds} rounds of {given.requests:,} requests (scaled)")
    if not peers:
        raise SystemExit("\n".join(notes))
    if REFERENCE not in peers:
        notes.append(f"no ratios: they are to {REFERENCE}, which did not run")
    wanted = [scenario for scenario in SCENARIOS if scenario.name in (given.scenario or [scenario.name])]
    results = run_requests([one for one in wanted if one.name != "idle"], peers, given)
    for scenario in wanted:
        if scenario.name == "idle":
            results |= run_idle(scenario, peers, given)
    print(measure.facts_line(facts), *notes, sep="\n")
    print("median of the rounds (least–most), ×: ratio to gevent makefile in the same round\n")
    print(table(results, peers))
    if given.json:
        entries = [
            {"scenario": asdict(scenario), "peer": peer, **cell.as_json()}
            for scenario, cells in results.items()
            for peer, cell in cells.items()
        ]
        measure.write_json(given.json, {"machine": facts, "notes": notes, "results": entries})


if __name__ == "__main__":
    main()
