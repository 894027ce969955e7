"""What a load test measured, in milliseconds with three digits: a table, and files for programs.

Locust's own table shows whole milliseconds. The one here comes after it when the test ends, and
`--gnet-figures FILE` writes the same as JSON, or as CSV when the file is named so. All figures are Locust's:
those of all processes, as gnet.locust.rounding has them counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from locust.runners import MasterRunner, WorkerRunner

from gnet.locust.arrival import Arrivals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from locust.env import Environment
    from locust.stats import StatsEntry

__all__ = ["PERCENTILES", "add_arguments", "collect", "install", "milliseconds", "table", "write"]

PERCENTILES: Final = (50, 66, 75, 80, 90, 95, 98, 99, 99.9, 99.99)
_IN_TABLE: Final = (50, 90, 99, 99.9)
_NAME_WIDTH: Final = 40

# Where Locust's tables go: to the terminal without time and level, or to the file of --logfile.
_console = logging.getLogger("locust.stats_logger")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--gnet-figures`."""
    options: dict[str, Any] = {"include_in_web_ui": False, "env_var": "LOCUST_GNET_FIGURES"}  # Locust's own
    parser.add_argument(
        "--gnet-figures",
        type=_writable_file,
        metavar="FILE",
        help="Write the figures of all processes there when the test has ended, times in milliseconds with "
        "three digits: as CSV if the name ends so, else as JSON.",
        **options,
    )


def _writable_file(name: str) -> str:
    """Check that a file can be written, before a test of an hour has run for nothing."""
    try:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with open(name, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {name!r}: {error.strerror}") from error
    return name


def install(environment: Environment) -> None:
    """Have the figures of an environment's test shown and written when Locust ends."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master has its figures

    def finish(**_: Any) -> None:
        figures = collect(environment)
        if environment.stats.total.num_requests:
            for line in table(figures):
                _console.info(line)
            _console.info("")
        file = getattr(environment.parsed_options, "gnet_figures", None)
        if file:
            write(figures, Path(file))

    # The last event of all: on a master, the last reports of its workers are in.
    hooks: Any = environment.events
    hooks.quit.add_listener(finish)


def collect(environment: Environment) -> dict[str, Any]:
    """Give everything that a test measured so far, as plain values.

    Times are milliseconds. `times_ms` of a row has each rounded time and how often it came, so that the
    figures of several runs can be added up; failed requests are among them, with the time until they failed.
    """
    stats = environment.stats
    errors: Iterable[Any] = stats.errors.values()
    runner = environment.runner
    last = stats.last_request_timestamp or stats.start_time
    return {
        "started": stats.start_time,
        "seconds": last - stats.start_time,
        "workers": runner.worker_count if isinstance(runner, MasterRunner) else 0,
        "rows": [_row(stats.entries[key]) for key in sorted(stats.entries)],
        "total": _row(stats.total),
        "failures": [error.to_dict() for error in errors],
        "arrivals": Arrivals.of(environment).summary(),
    }


def _row(entry: StatsEntry) -> dict[str, Any]:
    return {
        "type": entry.method,
        "name": entry.name,
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "requests_per_s": entry.total_rps,
        "failures_per_s": entry.total_fail_per_sec,
        "bytes": entry.total_content_length,
        "min_ms": entry.min_response_time or 0.0,
        "mean_ms": entry.avg_response_time,
        "max_ms": entry.max_response_time,
        "percentiles_ms": {f"{p:g}": entry.get_response_time_percentile(p / 100) for p in PERCENTILES},
        "times_ms": sorted(entry.response_times.items()),
    }


def milliseconds(value: float) -> str:
    """Write a time with at least three digits and at least whole milliseconds: 0.123, 12.3, 1234."""
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def table(figures: dict[str, Any]) -> Iterator[str]:
    """Give the lines of a table of figures as `collect` gives them."""
    heads = ["min", *(f"{p:g}%" for p in _IN_TABLE), "max", "mean"]
    rows = [*figures["rows"], figures["total"]]
    width = min(_NAME_WIDTH, max(len(row["name"]) for row in rows))
    yield f"Response times in milliseconds, three digits (gnet), {figures['seconds']:.1f} s"
    yield f"{'Type':8} {'Name':{width}} {'# reqs':>9} {'# fails':>8} |" + "".join(f"{h:>8}" for h in heads)
    rule = f"{'-' * 8}|{'-' * width}|{'-' * 9}|{'-' * 8}-|{'-' * 8 * len(heads)}"
    yield rule
    for row in rows:
        if row is rows[-1]:
            yield rule
        times = [
            row["min_ms"],
            *(row["percentiles_ms"][f"{p:g}"] for p in _IN_TABLE),
            row["max_ms"],
            row["mean_ms"],
        ]
        yield (
            f"{row['type'] or '':8} {row['name']:{width}.{width}} {row['requests']:9} {row['failures']:8} |"
            + "".join(f"{milliseconds(time):>8}" for time in times)
        )
    arrivals = figures["arrivals"]
    if arrivals is not None:
        yield (
            f"Arrivals: {arrivals['started']} started, {arrivals['late']} of them late "
            f"(at most {milliseconds(arrivals['most_late_ms'])} ms), {arrivals['backlog']} were due "
            "when the test ended and had not started; response times count from when they were due"
        )


def write(figures: dict[str, Any], file: Path) -> None:
    """Write figures as `collect` gives them: as CSV to a file `*.csv`, as JSON to any other."""
    if file.suffix.lower() != ".csv":
        file.write_text(json.dumps(figures) + "\n", encoding="utf-8")
        return
    names = [name for name in figures["total"] if name not in ("percentiles_ms", "times_ms")]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*names, *(f"p{p:g}_ms" for p in PERCENTILES)])
        for row in [*figures["rows"], figures["total"]]:
            writer.writerow([*(row[name] for name in names), *row["percentiles_ms"].values()])
