"""CPU time per line and MB per second, for lines of 10 bytes to 1 MB.

One connection sends lines as fast as they are taken, then ends; the server counts them and says how many
there were: what is measured is reading, without an answer to each.
"""

from __future__ import annotations

from loadtests.measuring.processes import NANOSECONDS, PeerServer
from loadtests.measuring.tables import rotated
from loadtests.scale.cells import Cells
from loadtests.scale.crowd import Crowd
from loadtests.scale.progress import progress

SIZES = [10, 100, 1_000, 10_000, 100_000, 1_000_000]  # bytes, the line's end included
NAMES = {10: "10 B", 100: "100 B", 1_000: "1 KB", 10_000: "10 KB", 100_000: "100 KB", 1_000_000: "1 MB"}

NOTE = (
    "The server counts lines and answers once, at the end. CPU µs of the server process per line, and MB per "
    "second by the clock, client included: medians; spreads are in scale.json. The limits of `lines()` "
    "and of asyncio are raised to 4 MiB."
)


def lines_of(size: int, most_bytes: int, most_lines: int) -> int:
    """How many lines of a size a sample has: up to so many bytes and so many lines, but a few at least."""
    return max(16, min(most_bytes // size, most_lines))


def measure(
    cells: Cells, readers: dict[str, str], sizes: list[int], rounds: int, most_bytes: int, most_lines: int
) -> None:
    """Every reader once a round, with every size."""
    for turn in range(rounds):
        for title in rotated(list(readers), turn):
            with PeerServer(readers[title]) as server, Crowd(server.port, 1) as crowd:
                for size in sizes:
                    count = lines_of(size, most_bytes, most_lines)
                    crowd.lines(max(1, count // 20), size)  # warm up
                    before = server.cpu_ns()
                    seconds = crowd.lines(count, size)
                    used = server.cpu_ns() - before
                    cells.add(
                        title,
                        size,
                        cpu_us=used / count / 1000,
                        mb_per_second=count * size / seconds / 1e6,
                        mb_per_cpu_second=count * size / used * NANOSECONDS / 1e6,
                    )
            row = ", ".join(f"{size:,} B: {cells.samples(title, size, 'cpu_us')[-1]:.2f}" for size in sizes)
            progress(f"lines, round {turn + 1} of {rounds}, {title}, µs: {row}")


def rows(cells: Cells) -> list[list[str]]:
    """The table, with its header."""
    table = [["CPU µs per line; MB/s", *(NAMES.get(size, f"{size:,} B") for size in cells.sizes)]]
    for title in cells.series:
        row = [title]
        for size in cells.sizes:
            cost = cells.median(title, size, "cpu_us")
            rate = cells.median(title, size, "mb_per_second")
            row.append(f"{cost:,.{decimals(cost)}f}; {rate:,.0f}")
        table.append(row)
    return table


def decimals(value: float) -> int:
    """So many that three digits are seen."""
    return 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
