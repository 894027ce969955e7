"""Throughput and CPU time per request with one worker process and with two.

Client and workers share the machine: on two cores, with a client that takes one of them, a second worker
cannot double the rate. The CPU time of a request says whether it would where there are more.
"""

from __future__ import annotations

import os
import shutil

from loadtests.hostile import workers as serving
from loadtests.measuring.processes import CORES
from loadtests.measuring.tables import spread
from loadtests.scale.cells import Cells
from loadtests.scale.progress import progress

SIZES = [1, 2]  # workers
IN_FLIGHT = {1: "1 in flight", 32: "32 in flight"}  # on each of 50 connections
MORE_IN_FLIGHT = 10  # times as many requests where 32 are in flight: they take a tenth of the time

NOTE = (
    "`python -m gnet serve` under redis-benchmark, 50 connections, {cores} cores for workers and client "
    "together: median (least–most)."
)


def missing() -> str:
    """Why this cannot be measured here, if it can not."""
    return "" if shutil.which("redis-benchmark") else "workers: redis-benchmark is not installed"


def measure(cells: Cells, sizes: list[int], rounds: int, requests: int) -> None:
    """Each number of workers once a round."""
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(CORES))  # workers and client are to have all of them
    try:
        for turn in range(rounds):
            for in_flight, title in IN_FLIGHT.items():
                for size in sizes:
                    count = requests * (MORE_IN_FLIGHT if in_flight > 1 else 1)
                    cpu, rate = serving.measure(size, in_flight, count)
                    cells.add(title, size, cpu_us=cpu, per_second=rate)
                row = ", ".join(f"{size}: {cells.samples(title, size, 'cpu_us')[-1]:.2f}" for size in sizes)
                progress(f"workers, round {turn + 1} of {rounds}, {title}, µs: {row}")
    finally:
        os.sched_setaffinity(0, pinned)


def rows(cells: Cells) -> list[list[str]]:
    """The table, with its header."""
    base = cells.sizes[0]
    table = [["load", "workers", "CPU µs per request", "requests/s", f"of the rate with {base}"]]
    for title in cells.series:
        for size in cells.sizes:
            ratio = spread(cells.ratios(title, size, base, "per_second"), 2)
            table.append(
                [
                    f"{title} on each of 50 connections",
                    str(size),
                    spread(cells.samples(title, size, "cpu_us"), 2),
                    spread(cells.samples(title, size, "per_second"), 0),
                    f"×{ratio}",
                ]
            )
    return table
