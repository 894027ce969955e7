"""The parts of loadtests/scale that need no clock: samples, growth, limits, tables, sections, plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from loadtests.measuring.documents import with_section, write_section
from loadtests.scale import active, idle, lines, plots, workers
from loadtests.scale.__main__ import parse_arguments
from loadtests.scale.cells import Cells, relative_growth
from loadtests.scale.crowd import shares
from loadtests.scale.descriptors import Granted, descriptors_for, feasible
from loadtests.scale.report import TITLES, Report, markdown_text, terminal_text

pytestmark = pytest.mark.plain_only


def active_cells(gnet_at_top: float = 15.0, redis_at_top: float = 8.0) -> Cells:
    """Two rounds of two peers; at 100 connections 10 and 4 µs."""
    cells = Cells()
    for _ in range(2):
        for title, base, top in (("gnet.Server", 10.0, gnet_at_top), ("redis-server", 4.0, redis_at_top)):
            cells.add(title, 100, cpu_us=base, busy=0.5)
            cells.add(title, 10_000, cpu_us=top, busy=0.9)
    return cells


def report() -> Report:
    memory, reading, serving = Cells(), Cells(), Cells()
    memory.add("gnet.Server", 1000, kib=7.25)
    memory.add("gnet.Server", 15_000, kib=6.5)
    reading.add("gnet lines()", 10, cpu_us=0.1234, mb_per_second=80.0)
    reading.add("gnet lines()", 1_000_000, cpu_us=312.4, mb_per_second=1500.0)
    for size in (1, 2):
        serving.add("1 in flight", size, cpu_us=14.0 + size, per_second=50_000.0 * size)
    parts = {"cpu": active_cells(), "memory": memory, "lines": reading, "workers": serving}
    facts = {
        "date": "2026-01-02 03:04 UTC",
        "cpu": "A CPU",
        "cores": "2",
        "kernel": "Linux 6",
        "python": "3.11.7",
        "OpenSSL of gnet": "3",
        "OpenSSL of ssl": "3",
    }
    return Report(
        facts, "python -m loadtests.scale", "2 rounds", "descriptors: enough", 15.0, ["left out: go"], parts
    )


# Samples


def test_growth_is_compared_round_by_round() -> None:
    cells = Cells()
    for base, top in ((10.0, 20.0), (20.0, 60.0)):
        cells.add("ours", 100, cpu_us=base)
        cells.add("ours", 10_000, cpu_us=top)
    assert cells.ratios("ours", 10_000, 100, "cpu_us") == [2.0, 3.0]


def test_relative_growth_is_one_growth_over_the_other_of_the_same_round() -> None:
    relative = relative_growth(active_cells(), "gnet.Server", "redis-server", 10_000, 100, "cpu_us")
    assert relative == [0.75, 0.75]  # x 1.5 over x 2


def test_cells_survive_their_json() -> None:
    cells = active_cells()
    again = Cells.from_json(json.loads(json.dumps(cells.as_json())))
    assert again.as_json() == cells.as_json()
    assert again.median("redis-server", 100, "cpu_us") == 4.0


def test_sizes_come_in_order_and_series_as_they_were_measured() -> None:
    cells = Cells()
    for series, size in (("b", 1000), ("a", 10), ("b", 10)):
        cells.add(series, size, kib=1.0)
    assert cells.sizes == [10, 1000]
    assert cells.series == ["b", "a"]
    assert not cells.has("a", 1000)


# Connections and descriptors


@pytest.mark.parametrize(
    ("connections", "expected"), [(10, [10]), (5000, [5000]), (12_001, [5000, 5000, 2001])]
)
def test_each_client_process_has_no_more_than_its_share(connections: int, expected: list[int]) -> None:
    assert shares(connections, 5000) == expected


@pytest.mark.parametrize("connections", [1, 1000, 9999, 10_000, 15_000])
def test_the_descriptors_that_are_asked_for_are_enough(connections: int) -> None:
    needed = descriptors_for(connections)
    assert feasible([connections], Granted(needed, needed)) == [connections]


def test_a_limit_that_is_too_low_is_said_and_what_fits_is_measured() -> None:
    granted = Granted(descriptors_for(15_000), 4096)
    assert feasible([1000, 2500, 5000], granted) == [1000, 2500]
    assert "TOO LOW" in granted.describe()
    assert "3,260 connections" in granted.describe()


# Tables


def test_the_aim_is_met_when_gnet_grows_less_than_redis() -> None:
    assert "0.75 (0.75–0.75) × redis-server's" in active.verdict(active_cells())
    assert active.verdict(active_cells()).endswith(": met.")


def test_the_aim_is_missed_when_gnet_grows_more() -> None:
    assert active.verdict(active_cells(gnet_at_top=30.0)).endswith(": MISSED.")


def test_without_redis_there_is_no_verdict() -> None:
    cells = Cells()
    cells.add("gnet.Server", 100, cpu_us=10.0)
    assert "not measured" in active.verdict(cells)


def test_the_growth_stands_in_the_table_in_ratio_and_microseconds() -> None:
    header, ours, _redis = active.rows(active_cells())
    assert header[-3:] == ["growth", "more", "busy"]
    assert ours[-3:] == ["×1.50 (1.50–1.50)", "+5.0 µs", "90%"]


def test_without_the_sizes_of_the_aim_no_growth_is_shown() -> None:
    cells = Cells()
    cells.add("gnet.Server", 10, cpu_us=10.0)
    assert active.rows(cells)[0] == ["CPU µs per request", "10 connections"]


def test_the_table_of_memory_has_a_column_a_size() -> None:
    assert idle.rows(report().parts["memory"])[0] == ["KiB per idle connection", "1,000 idle", "15,000 idle"]


def test_the_table_of_lines_shows_three_digits_of_each_cost() -> None:
    assert lines.rows(report().parts["lines"])[1] == ["gnet lines()", "0.123; 80", "312; 1,500"]


def test_a_sample_of_lines_is_bounded_in_bytes_and_in_lines() -> None:
    assert lines.lines_of(10, 64_000_000, 500_000) == 500_000
    assert lines.lines_of(1_000_000, 64_000_000, 500_000) == 64
    assert lines.lines_of(1_000_000, 1_000_000, 500_000) == 16


def test_two_workers_are_compared_with_one() -> None:
    assert workers.rows(report().parts["workers"])[2][-1] == "×2.00 (2.00–2.00)"


def test_every_part_and_every_note_is_in_both_texts() -> None:
    for text in (terminal_text(report()), markdown_text(report(), "benchmarks")):
        assert all(title in text for title in TITLES.values())
        assert "eft out: go" in text
        assert "A CPU" in text


def test_the_document_names_the_plots_and_the_samples_where_they_are() -> None:
    text = markdown_text(report(), "benchmarks")
    assert "(benchmarks/scale.json)" in text
    assert all(f"(benchmarks/scale-{name}.png)" in text for name in TITLES)


def test_a_report_survives_its_json() -> None:
    again = Report.from_json(json.loads(json.dumps(report().as_json())))
    assert terminal_text(again) == terminal_text(report())


# The section of the document


def test_a_section_is_appended_to_a_document_that_has_none() -> None:
    assert with_section("# Title\n", "scale", "## Scale", "text") == (
        "# Title\n\n## Scale\n\n<!-- scale: begin -->\n\ntext\n\n<!-- scale: end -->\n"
    )


def test_only_what_is_between_the_markers_is_replaced() -> None:
    old = with_section("before\n", "scale", "## Scale", "old") + "\nafter\n"
    assert with_section(old, "scale", "## Scale", "new") == old.replace("old", "new")


@pytest.mark.parametrize(
    "document",
    ["<!-- scale: begin -->", "<!-- scale: end -->", "<!-- scale: end -->\n<!-- scale: begin -->"],
)
def test_a_document_with_broken_markers_is_left_alone(document: str, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(document)
    with pytest.raises(ValueError, match="expected <!-- scale: begin --> and then"):
        write_section(path, "scale", "## Scale", "new")
    assert path.read_text() == document


# The plots


@pytest.mark.leaks_fds(reason="matplotlib keeps the fonts open that it has drawn with")
def test_each_part_has_its_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = plots.draw(report().parts, tmp_path)
    assert [file.name for file in files] == [f"scale-{name}.png" for name in TITLES]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


@pytest.mark.leaks_fds(reason="matplotlib keeps the fonts open that it has drawn with")
def test_a_part_that_was_not_measured_has_no_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert [file.name for file in plots.draw({"cpu": active_cells()}, tmp_path)] == ["scale-cpu.png"]


# The command line


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ([], True),
        (["--quick"], False),
        (["--part", "cpu"], False),
        (["--peer", "gnet.Server"], False),
        (["--quick", "--write"], True),
        (["--no-write"], False),
    ],
)
def test_only_a_whole_run_is_written_into_the_documents_unasked(words: list[str], written: bool) -> None:
    assert bool(parse_arguments(words).write) is written


def test_a_peer_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--peer", "nginx"])
    assert "no such peer: nginx" in capsys.readouterr().err
