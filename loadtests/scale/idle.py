"""Memory of a server per idle connection, from 1,000 to 15,000 of them.

Each has sent one line and had its answer; then it is silent. What is counted is the resident memory of the
server process: what the kernel has for a socket is not in it.
"""

from __future__ import annotations

import time

from loadtests.measuring.processes import PeerServer
from loadtests.measuring.tables import rotated, spread
from loadtests.scale.cells import Cells
from loadtests.scale.crowd import Crowd
from loadtests.scale.peers import REDIS_TITLE
from loadtests.scale.progress import progress

SIZES = [1_000, 2_500, 5_000, 10_000, 15_000]
PER_CLIENT = 5_000
REST_SECONDS = 15.0  # that redis-server gets: after 4 s 9 KiB, after 8 s 6, from 14 s on 1.9
WARM_UP = 20  # connections that come and go first: what the first ones load is not counted

NOTE = (
    "KiB of resident memory of the server process for each idle connection, median (least–most). Each has "
    "had one line answered and is silent. redis-server gives its buffers back within some 15 s: it "
    "had {rest:g} s for that. What the kernel has for a socket is not in it."
)


def measure(
    cells: Cells, peers: dict[str, str], sizes: list[int], rounds: int, redis_rest_seconds: float
) -> None:
    """Fill one server of each peer up, step by step, once a round."""
    for turn in range(rounds):
        for title in rotated(list(peers), turn):
            rest = redis_rest_seconds if title == REDIS_TITLE else 0.0
            fill(cells, title, peers[title], sizes, rest)
            row = ", ".join(f"{size:,}: {cells.samples(title, size, 'kib')[-1]:.1f}" for size in sizes)
            progress(f"idle, round {turn + 1} of {rounds}, {title}, KiB each: {row}")


def fill(cells: Cells, title: str, peer: str, sizes: list[int], rest_seconds: float) -> None:
    """Open connections to a fresh server up to each size, and see what it has grown by."""
    with PeerServer(peer) as server:
        with Crowd(server.port, PER_CLIENT) as first:
            first.open(WARM_UP)
        server.cpu_ns()  # wait until it rests
        before = server.memory_kib()
        with Crowd(server.port, PER_CLIENT) as crowd:
            for size in sorted(sizes):
                crowd.open(size)
                time.sleep(rest_seconds)
                server.cpu_ns()  # all others have come to rest with that
                cells.add(title, size, kib=(server.memory_kib() - before) / size)


def rows(cells: Cells) -> list[list[str]]:
    """The table, with its header."""
    table = [["KiB per idle connection", *(f"{size:,} idle" for size in cells.sizes)]]
    for title in cells.series:
        table.append([title, *(spread(cells.samples(title, size, "kib"), 1) for size in cells.sizes)])
    return table
