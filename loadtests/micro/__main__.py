"""Micro-benchmarks of gnet beside yardsticks that are not gnet's.

    python -m loadtests.micro lines                # one of them: lines, calls, allocations, syscalls
    python -m loadtests.micro --tls                # all of them, over TLS
    python -m loadtests.micro --check              # which ratios moved from the baseline
    python -m loadtests.micro --write-baseline     # the ratios of today are those to come back to

Figures are CPU time of the thread (system calls and allocations are counted), medians over rounds in which
gnet and its yardstick take turns, with the least and the most in brackets; × is the ratio to the yardstick in
the same round. `--check` is a report and no test: whatever moved, its status is 0; it is 1 where a benchmark
could not run.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from loadtests.measuring.machine import facts_line
from loadtests.measuring.processes import prepare
from loadtests.measuring.tables import write_json
from loadtests.micro import (
    accepts,
    allocations,
    baseline,
    builds,
    document,
    heap,
    lines,
    report,
    sends,
    syscalls,
    waits,
)
from loadtests.micro.rows import Measured, Row, measure_rows

BENCHES: dict[str, tuple[ModuleType, ...]] = {
    "lines": (lines,),
    "calls": (sends, waits, accepts),
    "allocations": (allocations,),
    "syscalls": (syscalls,),
}
ROUNDS = 11
ROUNDS_OF_A_PASS = 5  # --check has up to three passes


def rows_of(given: argparse.Namespace) -> list[Row]:
    """What was asked for."""
    names = list(BENCHES) if "all" in given.bench else given.bench
    halves = [tls for tls in (False, True) if given.half in (None, tls)]
    modules = [module for name in names for module in BENCHES[name]]
    return [row for tls in halves for module in modules for row in module.rows(given.scale, tls)]


def print_header(facts: dict[str, str]) -> None:
    print(facts_line(facts) + f"; {facts['calibration']}")
    print(f"gnet: {builds.build_kind()}, from {builds.build_place()}", flush=True)


def print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(rows: Sequence[Row], rounds: int) -> tuple[list[Measured], dict[str, str]]:
    print_progress(f"measuring {len(rows)} rows, {rounds} rounds ...")
    return measure_rows(rows, rounds)


def ratios_of(measured: Sequence[Measured]) -> dict[str, list[float]]:
    return {key: ratios for each in measured for key, ratios in each.own_ratios().items()}


def show(given: argparse.Namespace, facts: dict[str, str]) -> int:
    """Print the figures; write what is to be written."""
    measured, missing = measure(rows_of(given), given.rounds or ROUNDS)
    tables = report.tables(measured, missing)
    print("\n" + tables)
    if given.docs:
        print(f"\nwritten to {document.write(facts, tables, BENCHES)}")
    if given.json:
        write_json(given.json, {"machine": facts, "build": builds.build_kind(), "results": entries(measured)})
    if given.write_baseline:
        if missing:
            print_progress("no baseline written: a benchmark could not run")
            return 1
        baseline.store(given.baseline, builds.build_kind(), facts, baseline_entries(measured))
        print(f"\nbaseline of {builds.build_kind()} written to {given.baseline}")
    return 0


def entries(measured: Sequence[Measured]) -> list[dict[str, object]]:
    """Every sample, for --json."""
    return [
        {
            "bench": each.row.bench,
            "row": each.row.name,
            "subject": subject,
            "unit": each.row.unit,
            "yardstick": each.row.yardstick,
            **cell.as_json(),
        }
        for each in measured
        for subject, cell in each.summaries().items()
    ]


def baseline_entries(measured: Sequence[Measured]) -> dict[str, Mapping[str, object]]:
    """Of each subject of gnet's: its ratio, and the figures it comes from."""
    found: dict[str, Mapping[str, object]] = {}
    for each in measured:
        cells = each.summaries()
        for subject in each.row.own():
            cell = cells[subject]
            found[each.row.key(subject)] = {
                "ratio": round(cell.ratio or 0.0, 4),
                "least": round(min(cell.ratios), 4),
                "most": round(max(cell.ratios), 4),
                "figure": round(cell.median, 3),
                "unit": each.row.unit,
                "yardstick": each.row.yardstick,
            }
    return found


def check(given: argparse.Namespace, facts: dict[str, str]) -> int:
    """Measure, again what moved, and print what moved every time."""
    kind = builds.build_kind()
    try:
        kept = baseline.load(given.baseline, kind)
    except (FileNotFoundError, KeyError):
        print_progress(f"{given.baseline} has no baseline of a build that is {kind}: --write-baseline first")
        return 1
    print(f"baseline: {facts_line(kept.machine)}; {kept.machine['calibration']}", flush=True)
    other = baseline.differences(kept.machine, facts)
    if other:
        print(f"Not the same as now: {', '.join(other)}. A ratio may have moved for that reason.")
    rounds = given.rounds or ROUNDS_OF_A_PASS
    rows = rows_of(given)
    passes = []
    missing: dict[str, str] = {}
    for _ in range(baseline.PASSES):
        measured, missing_now = measure(rows, rounds)
        missing |= missing_now
        passes.append(ratios_of(measured))
        suspects = baseline.moved(kept.ratios, passes)
        rows = [row for row in rows if any(row.key(subject) in suspects for subject in row.own())]
        if not rows:
            break
    compared = baseline.changes(kept.ratios, passes)
    moved = [change for change in compared if change.key in suspects]
    listed = compared if given.all else moved
    if listed:
        print("\n" + report.moved_table(listed))
    print("\n" + report.verdict(len(moved), len(compared), baseline.TOLERANCE))
    unknown = sorted(passes[0].keys() - kept.ratios.keys())
    if unknown:
        print(f"Not in the baseline: {', '.join(unknown)}.")
    for title, reason in missing.items():
        print(f"Not run: {title}: {reason}.")
    return 1 if missing else 0


def parse_arguments() -> argparse.Namespace:
    description, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m loadtests.micro", description=description)
    parser.add_argument("bench", nargs="*", default="all", help=f"of {', '.join(BENCHES)}; all unless given")
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--plain", dest="half", action="store_const", const=False, help="not over TLS")
    half.add_argument("--tls", dest="half", action="store_const", const=True, help="over TLS only")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}; {ROUNDS_OF_A_PASS} in each pass of --check")
    parser.add_argument("--scale", type=float, default=1.0, help="of the work in each sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--baseline", type=Path, metavar="FILE", default=baseline.DEFAULT_FILE)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare with the baseline")
    mode.add_argument("--write-baseline", action="store_true", help="keep the ratios of this run")
    parser.add_argument("--docs", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--all", action="store_true", help="--check: list also what did not move")
    given = parser.parse_args()
    given.bench = [given.bench] if isinstance(given.bench, str) else given.bench
    if given.docs and (given.check or given.bench != ["all"] or given.half is not None):
        parser.error("--docs is for a run of all of them, and not for --check")
    unknown = set(given.bench) - {*BENCHES, "all"}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if given.scale <= 0 or (given.rounds is not None and given.rounds < 1):
        parser.error("--scale is above 0, --rounds at least 1")
    return given


def main() -> int:
    given = parse_arguments()
    prepare()
    heap.keep_freed_memory()
    facts = builds.facts_of_this_run()
    print_header(facts)
    gc.freeze()  # the collections between the samples need not look at all modules each time
    return check(given, facts) if given.check else show(given, facts)


if __name__ == "__main__":
    sys.exit(main())
