"""What a second worker brings: CPU time per request and requests a second, with one worker and with two.

    python -m loadtests.hostile.workers [--requests N] [--rounds N]

`python -m gnet serve` under redis-benchmark, 50 connections, rounds interleaved, medians. redis-benchmark
takes a processor of its own, so on two of them a second worker cannot double the rate; the CPU time of a
request says whether it would where there are more.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.measuring.processes import cpu_ns_now

HANDLER = f"{Path(__file__).resolve().parents[2] / 'examples' / 'ping_server.py'}:answer"
WORKERS = (1, 2)
IN_FLIGHT = (1, 32)


@contextmanager
def serving(workers: int) -> Iterator[tuple[int, list[int]]]:
    """Run a server; give its port and the processes that do the work."""
    command = [sys.executable, "-m", "gnet", "serve", HANDLER, "--workers", str(workers), "--no-patch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(b":")[2])
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield port, [process.pid, *map(int, children)]
        finally:
            process.terminate()


def measure(workers: int, in_flight: int, requests: int) -> tuple[float, float]:
    """Give the microseconds of CPU time per request, and the requests a second."""
    with serving(workers) as (port, processes):
        before = sum(map(cpu_ns_now, processes))
        command = ["redis-benchmark", "-t", "ping_inline", "-q", "-p", str(port), "-c", "50"]
        command += ["-n", str(requests), "-P", str(in_flight)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used = sum(map(cpu_ns_now, processes)) - before
    rates = re.findall(r"PING_INLINE: ([\d.]+) requests per second", done.stdout)
    return used / requests / 1000, float(rates[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="of a round with one in flight")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for in_flight in IN_FLIGHT:
        requests = given.requests * (10 if in_flight > 1 else 1)
        rounds = [[measure(workers, in_flight, requests) for workers in WORKERS] for _ in range(given.rounds)]
        for at, workers in enumerate(WORKERS):
            cpu = statistics.median(each[at][0] for each in rounds)
            rate = statistics.median(each[at][1] for each in rounds)
            ratio = statistics.median(each[at][1] / each[0][1] for each in rounds)
            print(
                f"{in_flight:2} in flight, {workers} worker(s): {cpu:6.2f} µs of CPU per request, "
                f"{rate:9,.0f} requests/s, ×{ratio:.2f}"
            )


if __name__ == "__main__":
    main()
