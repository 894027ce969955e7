"""loadtests.micro: its arithmetic, its tables, and that each benchmark runs, at a tiny size.

Nothing here looks at how fast anything is: that is what the program is for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from loadtests.micro import baseline, report
from loadtests.micro.rows import CannotRun, Measured, Row, measure_rows
from loadtests.micro.strace import parse_counts, per_request, traced

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.plain_only

KEPT = {"up": 1.0, "down": 1.0, "same": 1.0}

MACHINE = {
    **{"date": "then", "cpu": "c", "cores": "2", "kernel": "k", "python": "3", "calibration": "1 ns"},
    **{"OpenSSL of gnet": "3", "OpenSSL of ssl": "3"},
}

STRACE_TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 52.41    0.001234          12       100           sendto
 40.00    0.001000          10       101         1 recvfrom
  7.59    0.000200           4        50           epoll_wait
------ ----------- ----------- --------- --------- ------------------
100.00    0.002434           9       251         1 total
"""


def run(*arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", "loadtests.micro", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=55,
        env=environment,
        cwd=ROOT,
    )


# strace


def test_the_table_of_strace_is_read_with_and_without_errors_and_without_its_total() -> None:
    assert parse_counts(STRACE_TABLE) == {"sendto": 100, "recvfrom": 101, "epoll_wait": 50}


def test_a_process_that_made_no_call_has_no_counts() -> None:
    assert parse_counts("") == {}


def test_what_is_no_table_of_strace_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'strace: what\\?'"):
        parse_counts("% time\n------ ----\nstrace: what?\n")


def test_calls_per_request_are_what_more_requests_cost_the_most_frequent_first() -> None:
    fewer = Counter(accept4=50, recvfrom=150, sendto=100)
    more = Counter(accept4=50, recvfrom=250, sendto=200, epoll_wait=5)
    counts = per_request(fewer, more, 100)
    assert list(counts.items()) == [
        ("recvfrom", 1.0),
        ("sendto", 1.0),
        ("epoll_wait", 0.05),
        ("accept4", 0.0),
    ]


def test_a_process_is_traced_while_the_block_runs_and_not_after(needs_program: Callable[[str], str]) -> None:
    needs_program("strace")
    program = "import os, sys\nfor line in sys.stdin: [os.getppid() for _ in range(50)]; print(flush=True)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            process.stdout.readline()

        ask()
        with traced(process.pid) as counts:
            ask()
        ask()
        process.stdin.close()
    assert counts["getppid"] == 50


def test_a_process_that_is_not_there_cannot_be_traced(needs_program: Callable[[str], str]) -> None:
    needs_program("strace")
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with pytest.raises(CannotRun, match=r"^strace: .*No such process"), traced(gone.pid):
        pass


# The baseline


def test_a_ratio_has_moved_only_if_it_moved_the_same_way_in_every_pass() -> None:
    passes = [
        {"up": [1.3], "down": [0.7], "same": [1.5]},
        {"up": [1.2], "down": [0.8], "same": [0.5]},
    ]
    assert baseline.moved(KEPT, passes[:1]) == {"up", "down", "same"}
    assert baseline.moved(KEPT, passes) == {"up", "down"}


def test_a_ratio_that_was_not_measured_again_has_not_moved() -> None:
    assert baseline.moved(KEPT, [{"up": [1.3], "down": [1.3]}, {"up": [1.3]}]) == {"up"}


def test_the_median_of_a_pass_counts_and_not_one_round() -> None:
    assert baseline.moved(KEPT, [{"up": [9.0, 1.0, 1.0]}]) == set()


@pytest.mark.parametrize(
    ("before", "now", "way"), [(1, 1.1, 0), (1, 0.9, 0), (1, 1.11, 1), (1, 0.89, -1), (0, 0, 0), (0, 1, 1)]
)
def test_ten_percent_are_tolerated_and_more_is_not(before: float, now: float, way: int) -> None:
    assert baseline.direction(before, now) == way


def test_changes_are_sorted_by_what_grew_most_with_the_rounds_of_all_passes() -> None:
    passes = [{"up": [1.0, 2.0], "down": [0.5], "new": [7.0]}, {"up": [3.0]}]
    up, down = baseline.changes(KEPT, passes)
    assert (up.key, up.now, up.least, up.most, up.percent) == ("up", 2.0, 1.0, 3.0, "+100%")
    assert (down.key, down.now, down.percent) == ("down", 0.5, "-50%")


def test_each_kind_of_build_has_its_baseline_and_keys_that_were_not_measured_stay(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline.store(file, "pure Python", {"cpu": "old"}, {"a": {"ratio": 1.0}, "b": {"ratio": 2.0}})
    baseline.store(file, "compiled", {"cpu": "old"}, {"a": {"ratio": 0.5}})
    baseline.store(file, "pure Python", {"cpu": "new"}, {"a": {"ratio": 3.0}})
    assert baseline.load(file, "pure Python") == baseline.Kept({"cpu": "new"}, {"a": 3.0, "b": 2.0})
    assert baseline.load(file, "compiled").ratios == {"a": 0.5}


def test_a_baseline_of_other_versions_is_told_from_one_of_another_day() -> None:
    kept = {"date": "then", "calibration": "25 ns", "python": "3.11", "cpu": "c"}
    assert baseline.differences(kept, {**kept, "date": "now", "calibration": "26 ns"}) == []
    assert baseline.differences(kept, {**kept, "python": "3.12", "gevent": "26"}) == ["gevent", "python"]


# Rows and tables


def row(name: str, *, is_counted: bool = False, **figures: list[float]) -> Row:
    """A row whose subjects give these figures, one a round."""
    subjects = {subject: iter(values).__next__ for subject, values in figures.items()}
    return Row("bench", name, "µs", "yardstick", subjects, is_counted=is_counted)


def test_the_first_round_of_what_is_timed_is_forgotten() -> None:
    measured, _missing = measure_rows([row("timed", gnet=[99, 1, 2], yardstick=[99, 2, 2])], 2)
    assert measured[0].samples == {"gnet": [1, 2], "yardstick": [2, 2]}
    assert measured[0].own_ratios() == {"bench: timed: gnet": [0.5, 1.0]}


def test_what_is_counted_is_counted_once() -> None:
    measured, _missing = measure_rows([row("counted", is_counted=True, gnet=[3], yardstick=[2])], 5)
    assert measured[0].samples == {"gnet": [3], "yardstick": [2]}


def test_a_row_that_cannot_run_is_named_with_its_reason_and_the_others_run() -> None:
    def fail() -> float:
        raise CannotRun("no such program here")

    broken = Row("bench", "broken", "µs", "yardstick", {"gnet": fail})
    measured, missing = measure_rows([broken, row("sound", gnet=[1, 1], yardstick=[1, 1])], 1)
    assert [each.row.name for each in measured] == ["sound"]
    assert missing == {"bench: broken": "no such program here"}
    assert "Not run: bench: broken: no such program here." in report.tables(measured, missing)


def test_rows_with_the_same_subjects_are_lines_of_one_table() -> None:
    rows = [Measured(row(name, gnet=[], yardstick=[]), {"gnet": [1], "yardstick": [2]}) for name in "ab"]
    header, _rule, *lines = report.tables(rows, {}).splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["bench, µs", "gnet", "yardstick"]
    assert [line.split()[1] for line in lines] == ["a", "b"]
    assert "1.00 (1.00–1.00) ×0.50" in lines[0]


def test_rows_with_different_subjects_have_a_line_for_each_subject() -> None:
    rows = [
        Measured(row("a", gnet=[], yardstick=[]), {"gnet": [1], "yardstick": [2]}),
        Measured(row("b", other=[], yardstick=[]), {"other": [1], "yardstick": [2]}),
    ]
    _header, _rule, *lines = report.tables(rows, {}).splitlines()
    assert [tuple(line.replace("|", "").split()[:2]) for line in lines] == [
        *[("a", "gnet"), ("a", "yardstick")],
        *[("b", "other"), ("b", "yardstick")],
    ]


# The program


def test_every_benchmark_in_one_process_runs_and_gives_its_ratios(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    needs_program("gcc")
    file, kept = tmp_path / "result.json", tmp_path / "baseline.json"
    done = run(
        *("lines", "calls", "allocations", "--rounds", 1, "--scale", 0.001),
        *("--json", file, "--write-baseline", "--baseline", kept),
    )
    assert done.returncode == 0, done.stderr
    assert "gnet: pure Python, from " in done.stdout or "gnet: compiled, from " in done.stdout
    results = json.loads(file.read_text())["results"]
    benches = {each["bench"] for each in results}
    assert benches == {
        *("lines", "send", "wait", "accept", "allocations"),
        *("lines over TLS", "send over TLS", "wait over TLS", "handshake"),
    }
    assert all(sample >= 0 for each in results for sample in each["samples"])
    (written,) = json.loads(kept.read_text()).values()
    assert set(written["ratios"]) == {
        f"{each['bench']}: {each['row']}: {each['subject']}"
        for each in results
        if each["subject"].startswith("gnet")
    }


def test_a_check_lists_what_moved_and_is_no_failure(tmp_path: Path) -> None:
    kept = tmp_path / "baseline.json"
    entries = {
        f"lines over TLS: 80 B: gnet {reader}": {"ratio": 0.001} for reader in ("lines()", "read_line()")
    }
    for kind in ("pure Python", "compiled"):
        baseline.store(kept, kind, MACHINE, entries)
    done = run("lines", "--tls", "--check", "--rounds", 1, "--scale", 0.001, "--baseline", kept)
    assert done.returncode == 0, done.stderr
    assert "lines over TLS: 80 B: gnet read_line()" in done.stdout
    assert "2 of 2 ratios moved by more than 10%." in done.stdout
    assert "Not in the baseline: lines over TLS: 1,000 B: gnet lines()" in done.stdout


def test_a_check_without_strace_says_so_and_fails(tmp_path: Path) -> None:
    kept = tmp_path / "baseline.json"
    for kind in ("pure Python", "compiled"):
        baseline.store(kept, kind, MACHINE, {})
    done = run("syscalls", "--plain", "--check", "--baseline", kept, path=str(tmp_path))
    assert done.returncode == 1
    assert "system calls cannot be counted without strace" in done.stdout


def test_a_check_without_a_baseline_says_how_to_write_one(tmp_path: Path) -> None:
    done = run("--check", "--baseline", tmp_path / "none.json")
    assert done.returncode == 1
    assert "none.json has no baseline" in done.stderr
    assert "--write-baseline first" in done.stderr
