"""How many requests one worker process of Locust makes: gnet's `LineUser` beside a user by hand.

    python -m loadtests.locust_speed [--rounds 5] [--seconds 4] [--users 50] [--json FILE]

Both run in the same way: Locust's own runner in a process of its own on the last core, `+PONG` for every line
from a bare epoll loop on the first. The user by hand is what teams write today, done well: a
socket with TCP_NODELAY, `makefile("rb")`, one `sendall` for a pipeline, one `events.request.fire` for each
request. It has no timeout (what it waits for may never come); `makefile +timeout` has the socket's.

CPU is what the kernel ran the worker for, over the requests in its figures; it is steadier than requests per
second. `gnet +listener` has a listener of its own on Locust's event, so that each request is fired.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from loadtests.measuring.machine import facts_line, machine_facts
from loadtests.measuring.processes import PeerServer, prepare
from loadtests.measuring.tables import markdown_table, rotated, summarize, write_json

WORKER = ("-m", "loadtests.locust_speed_worker")
CLIENTS = ["makefile", "makefile +timeout", "gnet", "gnet +listener"]
SETTINGS = {"one in flight": 1, "pipeline of 32": 32}
WANTED = {"one in flight": 1.4, "pipeline of 32": 5.0}


def measure(client: str, depth: int, port: int, users: int, seconds: float) -> tuple[float, float]:
    """Run one worker; give requests a second and microseconds of its CPU for each."""
    command = [sys.executable, *WORKER, client, str(depth), str(port), str(users), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60 + 2 * seconds)
    result = json.loads(done.stdout.splitlines()[-1])
    if result["failures"]:
        raise SystemExit(
            f"{client}, {depth} at once: {result['failures']} requests failed: {result['errors']}"
        )
    return result["requests"] / result["seconds"], result["cpu_ns"] / result["requests"] / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each run")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    given = parser.parse_args()
    prepare()
    rates: dict[str, dict[str, list[float]]] = {name: {client: [] for client in CLIENTS} for name in SETTINGS}
    costs: dict[str, dict[str, list[float]]] = {name: {client: [] for client in CLIENTS} for name in SETTINGS}
    for turn in range(given.rounds):
        for name, depth in SETTINGS.items():
            for client in rotated(CLIENTS, turn):
                with PeerServer("floor") as server:
                    rate, cost = measure(client, depth, server.port, given.users, given.seconds)
                rates[name][client].append(rate)
                costs[name][client].append(cost)
                print(f"{name}, {client}: {rate:,.0f}/s, {cost:.2f} µs", file=sys.stderr, flush=True)
    facts = machine_facts()
    print(facts_line(facts) + "\n")
    everything: dict[str, object] = {"facts": facts}
    for name in SETTINGS:
        by_rate = summarize(rates[name], "makefile")
        by_cost = summarize(costs[name], "makefile")
        rows = [[client, by_rate[client].cell(0), by_cost[client].cell(2)] for client in CLIENTS]
        print(markdown_table([name, "requests/s", "µs of CPU each"], rows) + "\n")
        ratio = by_rate["gnet"].ratio or 0.0
        print(f"{name}: gnet makes × {ratio:.2f} of the requests (wanted: {WANTED[name]})\n")
        everything[name] = {
            client: {"requests_per_s": by_rate[client].as_json(), "cpu_us": by_cost[client].as_json()}
            for client in CLIENTS
        }
    if given.json is not None:
        write_json(given.json, everything)


if __name__ == "__main__":
    main()
