"""CPU time per request of line servers, side by side: gnet, gevent, asyncio, redis-server and more.

    python loadtests/bench_servers.py            plain and TLS; ten minutes
    python loadtests/bench_servers.py --plain    only one half (or --tls)
    python loadtests/bench_servers.py --quick    rougher, some two minutes

Every server is its own process on one core and answers `+PONG` to each line; the client (`redis-benchmark
-t ping_inline` where it is installed, else loadtests/bench_client.py) has the other core. A round runs
every peer once, in an order that rotates; figures are medians over the rounds with the least and the most
in brackets, and each ratio is the median of the ratios to gevent's `makefile` in the same round. In the plain
half, opening and closing the connections is part of what is counted: the clock is read when the server has
come to rest. What is different over TLS is said in bench_tls.py.

Idle connections have sent one line and been answered. Their KiB are what the server's resident memory grew
by, in a process started for this alone; the kernel's socket buffers are not in it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import bench_measure as measure
import bench_tls
from bench_commands import PEER_COMMANDS, PLAIN_PEERS, TLS_PEERS
from bench_measure import PeerServer
from bench_scenarios import (
    REFERENCE,
    Results,
    Scenario,
    available,
    cpu_per_request,
    idle_kib,
    json_entries,
    run_rounds,
    table,
)

SCENARIOS = [
    Scenario("one", "µs per request, 50 connections, one in flight", "≤ ×0.55"),
    Scenario("pipelined", "µs per request, 50 connections, 32 in flight", "≤ ×0.08", pipeline=32, share=10.0),
    Scenario("thousand", "µs per request, 1,000 connections", "≤ ×0.65", connections=1000, share=4.0),
    Scenario("connect", "µs per connection, one request each", "≤ ×0.75", keep_alive=False, share=0.1),
    Scenario("idle", "KiB per idle connection", "≤ 9 KiB"),
]
SCENARIO_NAMES = list(dict.fromkeys([one.name for one in SCENARIOS] + bench_tls.SCENARIO_NAMES))
NAMES = bench_tls.NAMES | {REFERENCE: "gevent makefile", "floor": "bare epoll loop"}


def run_requests(scenarios: list[Scenario], peers: list[str], given: argparse.Namespace) -> Results:
    """All rounds of the plain scenarios that count CPU time, on servers that live through all of them."""
    results: Results = {}
    with ExitStack() as stack:
        servers = {peer: stack.enter_context(PeerServer(peer)) for peer in peers}
        for scenario in scenarios:
            requests = max(scenario.connections, int(given.requests * scenario.share))

            def sample(peer: str, row: Scenario = scenario, count: int = requests) -> float:
                return cpu_per_request(servers[peer], given.client, row, count)

            def warm_up(peer: str, row: Scenario = scenario, count: int = requests) -> float:
                return cpu_per_request(servers[peer], given.client, row, max(1, count // 10))

            results[scenario] = run_rounds(scenario, peers, given.rounds, sample, warm_up)
    return results


def run_idle(scenario: Scenario, peers: list[str], given: argparse.Namespace) -> Results:
    """The idle row, once for each number of connections asked for."""
    results: Results = {}
    for connections in given.idle:
        row = replace(scenario, title=f"{scenario.title}, of {connections:,}", connections=connections)
        rounds = min(given.rounds, 3)  # pages do not vary as microseconds do

        def sample(peer: str, count: int = connections) -> float:
            return idle_kib(peer, count)

        results[row] = run_rounds(row, peers, rounds, sample)
    return results


def run_plain(peers: list[str], wanted: set[str], given: argparse.Namespace) -> Results:
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    results = run_requests([one for one in scenarios if one.name != "idle"], peers, given)
    for scenario in scenarios:
        if scenario.name == "idle":
            results |= run_idle(scenario, peers, given)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--plain", action="store_true", help="only the plain half")
    half.add_argument("--tls", action="store_true", help="only the TLS half")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIO_NAMES, help="only these; default: all"
    )
    plain, tls = ", ".join(PLAIN_PEERS), ", ".join(TLS_PEERS)
    parser.add_argument(
        "--peer", action="append", choices=[*PEER_COMMANDS], help=f"default: {plain}; over TLS: {tls}"
    )
    parser.add_argument(
        "--rounds", type=int, help="rounds of each scenario; default 9, TLS 5; 3 with --quick"
    )
    parser.add_argument("--requests", type=int, help="in a plain round of `one`; all others in proportion")
    parser.add_argument(
        "--opening", action="store_true", help="over TLS: count what opening the connections costs"
    )
    parser.add_argument("--idle", type=int, nargs="+", metavar="N", help="idle connections")
    parser.add_argument(
        "--client", choices=["redis-benchmark", "python"], help="default: the first, if there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    given = parser.parse_args()
    given.tls_rounds = given.rounds or (3 if given.quick else 5)
    given.rounds = given.rounds or (3 if given.quick else 9)
    given.requests = given.requests or (4_000 if given.quick else 40_000)
    given.tls_idle = given.idle[0] if given.idle else 1000
    given.idle = given.idle or [2000]
    given.client = given.client or ("redis-benchmark" if shutil.which("redis-benchmark") else "python")
    if min(given.rounds, given.requests, *given.idle) < 1:
        parser.error("--rounds, --requests and --idle are at least 1")
    return given


def main() -> None:
    given = parse_arguments()
    measure.prepare()
    facts = measure.machine_facts()
    wanted = set(given.scenario or SCENARIO_NAMES)
    notes, texts, entries = [], [], []
    if given.client == "python" and not shutil.which("redis-benchmark"):
        notes.append("redis-benchmark is not installed: its place is taken by loadtests/bench_client.py")
    missing: list[str] = []
    ran = False
    if not given.tls:
        peers, left_out = available(given.peer or PLAIN_PEERS)
        missing += left_out
        ran |= bool(peers)
        notes.append(
            f"plain: client {given.client}, {given.rounds} rounds of {given.requests:,} requests (scaled)"
        )
        if peers:
            results = run_plain(peers, wanted, given)
            texts.append(table(results, peers, NAMES, "of the server process"))
            entries += json_entries(results, "plain")
            notes += [] if REFERENCE in peers else [f"no ratios: they are to {REFERENCE}, which did not run"]
    if not given.plain:
        with tempfile.TemporaryDirectory(prefix="gnet-bench-") as folder:
            asked = given.peer or TLS_PEERS
            half = bench_tls.TlsHalf(given, [peer for peer in asked if peer in TLS_PEERS], Path(folder))
            half.run(wanted)
        missing += [note for note in half.notes if note not in missing]
        ran |= bool(half.peers or half.contexts)
        opening = f"opening the connections is {'counted' if given.opening else 'taken out'}"
        notes.append(f"TLS 1.3, ECDSA P-256: client {given.client}, {given.tls_rounds} rounds; {opening}")
        texts += half.tables()
        entries += json_entries(half.results, "tls") + json_entries(half.contexts, "tls")
    notes = missing + notes
    if not ran:
        raise SystemExit("\n".join(notes))
    print(measure.facts_line(facts), *notes, sep="\n")
    print(
        "median of the rounds (least–most), ×: ratio to gevent makefile in the same round", *texts, sep="\n\n"
    )
    if given.json:
        measure.write_json(given.json, {"machine": facts, "notes": notes, "results": entries})


if __name__ == "__main__":
    main()
