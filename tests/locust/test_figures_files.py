"""What is shown and written of answers that take less than a millisecond: Locust's files, gnet's."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import gnet
from tests.locust.locust_processes import pong, run

SHORT: Final = 1.0  # milliseconds; the median answer over loopback takes 0.1


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Gives a folder with all files of one short run, what it said, and what the server counted."""
    folder = tmp_path_factory.mktemp("run")
    with gnet.Server(pong, "127.0.0.1") as server:
        status, output = run(
            folder,
            *("--host", f"tcp://127.0.0.1:{server.port}", "-u", 2, "-t", "4s", "--stop-timeout", 5),
            *("--csv", "out/run", "--html", "out/report.html", "--gnet-figures", "out/figures.json"),
        )
        assert status == 0, output
        yield folder / "out", output, dict(server.stats())


def percentile_columns(row: dict[str, str]) -> list[float]:
    return [float(value) for name, value in row.items() if name.endswith("%")]


def test_the_csv_file_has_percentiles_below_a_millisecond(outcome: tuple[Path, str, Any]) -> None:
    with (outcome[0] / "run_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    median, *_ = percentile_columns(rows["ping"])
    assert 0 < median < SHORT
    assert float(rows["ping"]["Median Response Time"]) == median
    assert 0 < float(rows["ping"]["Min Response Time"]) < SHORT


def test_the_csv_file_has_the_last_requests_too(outcome: tuple[Path, str, dict[str, Any]]) -> None:
    with (outcome[0] / "run_stats.csv").open() as file:
        counts = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert counts["ping"] == outcome[2]["lines_in"]


def test_the_html_report_has_times_below_a_millisecond(outcome: tuple[Path, str, Any]) -> None:
    text = (outcome[0] / "report.html").read_text()
    found = re.search(r"window\.templateArgs = (\{.*\})$", text, re.MULTILINE)
    assert found is not None
    data = json.loads(found[1])
    (row,) = [each for each in data["requests_statistics"] if each["name"] == "ping"]
    assert 0 < row["min_response_time"] <= row["median_response_time"] < SHORT
    (times,) = [each for each in data["response_time_statistics"] if each["name"] == "ping"]
    assert 0 < times["0.5"] < SHORT


def test_the_json_file_agrees_with_the_server(outcome: tuple[Path, str, dict[str, Any]]) -> None:
    figures = json.loads((outcome[0] / "figures.json").read_text())
    rows = {row["name"]: row for row in figures["rows"]}
    assert rows["ping"]["requests"] == outcome[2]["lines_in"]
    assert rows["ping"]["failures"] == 0
    assert sum(count for _, count in rows["ping"]["times_ms"]) == rows["ping"]["requests"]
    assert 0 < rows["ping"]["min_ms"] <= rows["ping"]["percentiles_ms"]["50"] < SHORT


def test_the_table_has_times_below_a_millisecond(outcome: tuple[Path, str, Any]) -> None:
    (_, table) = outcome[1].split("Response times in milliseconds, three digits (gnet)")
    (line,) = [line for line in table.splitlines() if re.match(r"LINE +ping ", line)]
    least, median, *_ = [float(text) for text in line.partition("|")[2].split()]
    assert 0 < least <= median < SHORT


def test_the_progress_has_times_below_a_millisecond(outcome: tuple[Path, str, Any]) -> None:
    lines = re.findall(r"^gnet: \d+ s, 2 users, \d+ requests, 0 failed, .*", outcome[1], re.MULTILINE)
    assert lines, outcome[1]
    (median,) = re.findall(r"50% in ([\d.]+) ms", lines[-1])
    assert 0 < float(median) < SHORT


def test_a_wrong_option_is_one_clear_message(tmp_path: Path) -> None:
    status, output = run(tmp_path, "--gnet-rate", "many")
    assert status == 2
    assert "argument --gnet-rate: expected tasks a second, above 0, got 'many'" in output
    assert "Traceback" not in output
