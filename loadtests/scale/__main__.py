"""How the cost of a server grows, for gnet and its peers: tables, plots, docs/benchmarks.md.

    python -m loadtests.scale [--quick] [--part cpu memory lines workers]

Four parts: CPU per request at 10 to 10,000 active connections; memory per connection at 1,000 to 15,000 idle
ones; lines of 10 B to 1 MB; one worker and two. Peers that are not installed are left out, with a note. The
plots and every sample go to docs/benchmarks/, the tables to standard output and into docs/benchmarks.md. It
takes about 12 minutes, with --quick about 2, and then docs/ stays as it is unless --write asks for it.

The limit of descriptors is raised as far as the system lets it: 15,000 connections need 18,771 a process.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from loadtests.measuring import machine, processes, tables
from loadtests.measuring.documents import write_section
from loadtests.scale import active, idle, lines, peers, plots, workers
from loadtests.scale.cells import Cells
from loadtests.scale.descriptors import Granted, feasible, raise_limit
from loadtests.scale.progress import progress
from loadtests.scale.report import TITLES, Report, markdown_text, terminal_text

DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(frozen=True)
class Effort:
    """How much is measured. Rounds of each part; requests, bytes and lines of one sample."""

    rounds: int
    idle_rounds: int
    redis_rest_seconds: float
    """Before its memory is looked at: `idle.REST_SECONDS`, or less where there is no time for that."""
    requests: int
    line_bytes: int
    line_count: int
    worker_requests: int

    def describe(self) -> str:
        """In words, for the document."""
        return f"{self.rounds} rounds, {self.idle_rounds} of idle ones, {self.requests:,} requests a sample"


FULL = Effort(5, 2, idle.REST_SECONDS, 60_000, 64_000_000, 500_000, 60_000)
QUICK = Effort(2, 1, 0.0, 10_000, 16_000_000, 100_000, 15_000)
TINY = Effort(1, 1, 0.0, 100, 100_000, 1_000, 100)  # for the tests: whether it runs, not how fast


def measure(
    given: argparse.Namespace, effort: Effort, granted: Granted, parts: dict[str, Cells], notes: list[str]
) -> None:
    """Fill `parts` in; what could not be measured is said in `notes`."""

    def present(titles: dict[str, str]) -> dict[str, str]:
        chosen = {title: name for title, name in titles.items() if not given.peer or title in given.peer}
        found, missing = peers.available(chosen)
        notes.extend(note for note in missing if note not in notes)
        return found

    for part in given.part:
        progress(f"{TITLES[part]} ...")
        cells = Cells()
        if part == "cpu":
            sizes = feasible(given.active, granted)
            active.measure(cells, present(peers.ACTIVE_PEERS), sizes, effort.rounds, effort.requests)
        elif part == "memory":
            sizes = feasible(given.idle, granted)
            idle.measure(
                cells, present(peers.IDLE_PEERS), sizes, effort.idle_rounds, effort.redis_rest_seconds
            )
        elif part == "lines":
            readers = present(peers.LINE_READERS)
            most = effort.line_bytes, effort.line_count
            lines.measure(cells, readers, given.line, effort.rounds, *most)
        elif workers.missing():
            notes.append(workers.missing())
        else:
            workers.measure(cells, workers.SIZES, effort.rounds, effort.worker_requests)
        if cells.series:
            parts[part] = cells


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_const", const=QUICK, dest="effort", help="about 2 minutes")
    effort.add_argument("--tiny", action="store_const", const=TINY, dest="effort", help="for the tests")
    parser.add_argument("--part", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--peer", nargs="+", default=[], help="only those, as the tables name them")
    parser.add_argument("--active", nargs="+", type=int, default=active.SIZES, metavar="CONNECTIONS")
    parser.add_argument("--idle", nargs="+", type=int, default=idle.SIZES, metavar="CONNECTIONS")
    parser.add_argument("--line", nargs="+", type=int, default=lines.SIZES, metavar="BYTES")
    parser.add_argument("--rounds", type=int, help="in each part")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where benchmarks.md is or will be")
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write into --docs; by default only what is whole: all parts, all peers, not --quick",
    )
    parser.add_argument(
        "--redraw", type=Path, metavar="JSON", help="measure nothing: tables and plots of an earlier run"
    )
    given = parser.parse_args(words)
    given.effort = given.effort or FULL
    if given.rounds is not None:
        if given.rounds < 1:
            parser.error("--rounds is at least 1")
        given.effort = Effort(**{**asdict(given.effort), "rounds": given.rounds, "idle_rounds": given.rounds})
    if min(given.active + given.idle) < 1 or min(given.line) < 2:
        parser.error("--active and --idle are at least 1, --line at least 2")
    known = {*peers.ACTIVE_PEERS, *peers.LINE_READERS}
    if unknown := set(given.peer) - known:
        parser.error(
            f"--peer: no such peer: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    if given.write is None:
        whole = given.part == list(TITLES) and not given.peer and given.effort is not QUICK
        given.write = bool(given.redraw) or (whole and given.effort is not TINY)
    return given


def run(given: argparse.Namespace) -> Report:
    processes.prepare()
    peers.register()
    granted = raise_limit(max(given.active + given.idle))
    progress(granted.describe())
    facts = machine.machine_facts()
    command = " ".join(["python -m loadtests.scale", *sys.argv[1:]])
    report = Report(
        facts, command, given.effort.describe(), granted.describe(), given.effort.redis_rest_seconds
    )
    measure(given, given.effort, granted, report.parts, report.notes)
    return report


def write(report: Report, docs: Path) -> None:
    """Plots, samples, and the section of benchmarks.md."""
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_json(folder / "scale.json", report.as_json())
    if reason := plots.missing():
        progress(reason)
    else:
        for file in plots.draw(report.parts, folder):
            progress(f"wrote {file}")
    write_section(docs / "benchmarks.md", "scale", "## Scale", markdown_text(report, folder.name))
    progress(f"wrote {folder / 'scale.json'} and the section Scale of {docs / 'benchmarks.md'}")


def main() -> None:
    given = parse_arguments()
    report = Report.from_json(json.loads(given.redraw.read_text())) if given.redraw else run(given)
    print(terminal_text(report))
    if given.write:
        write(report, given.docs)


if __name__ == "__main__":
    main()
