"""CPU time per request at 10 to 10,000 connections, all of them active: one request in flight on each.

A server waits for none of them: as soon as an answer is there, the next request goes out on the connection
that has rested longest. All of them are used, and evenly; that is checked. The client costs less than any
server, on a core of its own, so that the server is the one that is busy (`busy`).
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

from loadtests.measuring.processes import NANOSECONDS, PeerServer
from loadtests.measuring.tables import rotated, spread
from loadtests.scale.cells import Cells, relative_growth
from loadtests.scale.crowd import Crowd
from loadtests.scale.peers import GNET, REDIS_TITLE
from loadtests.scale.progress import progress

SIZES = [10, 100, 1_000, 10_000]
BASE, TOP = 100, 10_000  # growth is from one to the other
AIM = 1.2  # of redis-server's growth
PER_CLIENT = 10_000  # connections that one client process can have without being the slower side
WARM_UP = 2_000  # requests, at least

NOTE = (
    "CPU µs of the server process per request, median (least–most). All connections are active, one request "
    "in flight on each. `growth`: from {base:,} to {top:,} connections, in the same round; `more`: the same "
    "in µs; `busy`: the part of the time in which the server ran, at {top:,}."
)


def measure(cells: Cells, peers: dict[str, str], sizes: list[int], rounds: int, requests: int) -> None:
    """Every peer at every size once a round, in an order that rotates."""
    for turn in range(rounds):
        for size in sizes:
            for title in rotated(list(peers), turn):
                figures = sample(peers[title], size, requests)
                cells.add(title, size, **figures)
            row = ", ".join(f"{title} {cells.samples(title, size, 'cpu_us')[-1]:.1f}" for title in peers)
            progress(f"active, round {turn + 1} of {rounds}, {size:,} connections, µs: {row}")


def sample(peer: str, connections: int, requests: int, per_client: int = PER_CLIENT) -> dict[str, float]:
    """What a fresh server's requests cost."""
    with PeerServer(peer) as server, Crowd(server.port, per_client) as crowd:
        crowd.open(connections)
        crowd.run(max(WARM_UP, 2 * connections))
        before, system_before = server.cpu_ns(), system_seconds(server.pid)
        done = crowd.run(requests)
        used, system = server.cpu_ns() - before, system_seconds(server.pid) - system_before
    if done["least"] < 1:
        raise SystemExit(f"{peer}: a connection of {connections} was not used at all")
    count = done["requests"]
    return {
        "cpu_us": used / count / 1000,
        "system_us": system * 1e6 / count,
        "client_us": done["cpu_seconds"] * 1e6 / count,
        "busy": used / NANOSECONDS / done["seconds"],
    }


def system_seconds(pid: int) -> float:
    """Seconds that the kernel worked for a process; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[12]) / os.sysconf("SC_CLK_TCK")


def rows(cells: Cells) -> list[list[str]]:
    """The table, with its header."""
    sizes = cells.sizes
    grows = BASE in sizes and TOP in sizes
    header = ["CPU µs per request", *(f"{size:,} connections" for size in sizes)]
    header += ["growth", "more", "busy"] if grows else []
    table = [header]
    for title in cells.series:
        row = [title, *(spread(cells.samples(title, size, "cpu_us"), 1) for size in sizes)]
        if grows:
            more = cells.median(title, TOP, "cpu_us") - cells.median(title, BASE, "cpu_us")
            row += [f"×{spread(cells.ratios(title, TOP, BASE, 'cpu_us'), 2)}", f"{more:+.1f} µs"]
            row += [f"{cells.median(title, TOP, 'busy'):.0%}"]
        table.append(row)
    return table


def verdict(cells: Cells) -> str:
    """How gnet's growth stands to redis-server's."""
    if not all(cells.has(title, size) for title in (GNET, REDIS_TITLE) for size in (BASE, TOP)):
        return f"gnet's growth beside redis-server's: not measured (it needs both, at {BASE:,} and {TOP:,})."
    relative = relative_growth(cells, GNET, REDIS_TITLE, TOP, BASE, "cpu_us")
    said = spread(relative, 2)
    met = "met" if median(relative) <= AIM else "MISSED"
    return f"gnet.Server's growth is {said} × redis-server's in the same round; aim: at most {AIM}: {met}."
