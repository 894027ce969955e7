"""The three digits that Locust counts with, and the figures made of what it counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import locust.stats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from locust.argument_parser import get_empty_argument_parser
from locust.env import Environment

from gnet.locust import figures, rounding
from gnet.locust.corrections import correct_report, stats_rows
from gnet.locust.hooks import add_arguments, install
from gnet.locust.rounding import to_three_digits


@pytest.fixture
def environment() -> Environment:
    """An environment in which a ping took 0.1234 ms, another 1.5 ms, and a third failed after 5 s."""
    environment = Environment()
    environment.create_local_runner()
    fire(environment, 0.1234)
    fire(environment, 1.5)
    fire(environment, 5000.4, OSError("late"))
    return environment


def fire(environment: Environment, milliseconds: float, exception: Exception | None = None) -> None:
    environment.events.request.fire(
        request_type="LINE",
        name="ping",
        response_time=milliseconds,
        response_length=4,
        exception=exception,
        context={},
    )


# The digits


@pytest.mark.parametrize(
    ("milliseconds", "rounded"),
    [
        (0.0, 0.0),
        (0.0004, 0.0),
        (0.0312, 0.031),
        (0.1234, 0.123),
        (0.9996, 1.0),
        (1.234, 1.23),
        (12.34, 12.3),
        (99.96, 100),
        (147.4, 147),
        (1474, 1470),
        (58_760, 58_800),
    ],
)
def test_times_have_three_digits(milliseconds: float, rounded: float) -> None:
    assert to_three_digits(milliseconds) == rounded


@given(st.floats(0, 1e7))
def test_no_time_is_half_a_percent_off_or_half_a_microsecond(milliseconds: float) -> None:
    assert abs(to_three_digits(milliseconds) - milliseconds) <= max(0.005 * milliseconds, 0.000_501)


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_rounding_keeps_the_order(one: float, other: float) -> None:
    least, most = sorted((one, other))
    assert to_three_digits(least) <= to_three_digits(most)


def test_locust_counts_with_these_digits(environment: Environment) -> None:
    assert dict(environment.stats.total.response_times) == {0.123: 1, 1.5: 1, 5000: 1}


def test_a_function_of_the_users_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(response_time: float) -> int:
        return 0

    monkeypatch.setattr(locust.stats, "bucket_response_time", own)
    rounding.install()
    assert locust.stats.bucket_response_time is own


# The figures


def test_figures_have_a_row_for_each_kind_of_request(environment: Environment) -> None:
    (row,) = figures.collect(environment)["rows"]
    assert (row["type"], row["name"], row["requests"], row["failures"]) == ("LINE", "ping", 3, 1)
    assert (row["min_ms"], row["max_ms"], row["bytes"]) == (0.1234, 5000.4, 12)
    assert row["times_ms"] == [(0.123, 1), (1.5, 1), (5000, 1)]
    assert row["percentiles_ms"]["50"] == 1.5


def test_figures_name_each_failure(environment: Environment) -> None:
    (failure,) = figures.collect(environment)["failures"]
    assert (failure["error"], failure["occurrences"]) == ("OSError('late')", 1)


def test_figures_without_a_request_are_figures_too() -> None:
    environment = Environment()
    environment.create_local_runner()
    data = figures.collect(environment)
    assert (data["rows"], data["total"]["requests"], data["arrivals"]) == ([], 0, None)
    assert list(figures.table(data))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.000"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_the_table_writes_three_digits(value: float, text: str) -> None:
    assert figures.milliseconds(value) == text


def test_a_long_name_does_not_shift_its_row(environment: Environment) -> None:
    environment.events.request.fire(
        request_type="LINE", name="x" * 100, response_time=1, response_length=4, exception=None, context={}
    )
    _, _, _, *lines = figures.table(figures.collect(environment))
    rows = [line for line in lines if "|" in line and not line.startswith("--")]
    assert len({line.rindex("|") for line in rows}) == 1


def test_a_file_named_csv_is_csv(environment: Environment, tmp_path: Path) -> None:
    figures.write(figures.collect(environment), tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        ping, total = csv.DictReader(file)
    assert (ping["name"], ping["p50_ms"], ping["min_ms"]) == ("ping", "1.5", "0.1234")
    assert total["name"] == "Aggregated"


# What Locust cuts


def test_rows_have_the_columns_of_locusts_file(environment: Environment) -> None:
    of_locust: list[list[Any]] = []

    class Rows:
        writerow = staticmethod(lambda columns: of_locust.append(list(columns)))

    locust.stats.StatsCSV(environment, locust.stats.PERCENTILES_TO_REPORT).requests_csv(Rows())
    ours = list(stats_rows(environment))
    assert ours[0] == of_locust[0]
    assert [row[:9] for row in ours[1:]] == [row[:9] for row in of_locust[1:]]
    assert [list(map(int, row[11:])) for row in ours[1:]] == [row[11:] for row in of_locust[1:]]


def test_a_report_of_another_form_stays_as_it_is(environment: Environment) -> None:
    for text in ("", "window.templateArgs = {]}", 'window.templateArgs = {"other": 1}'):
        assert correct_report(text, environment) == text


def test_nothing_in_a_report_ends_its_script(environment: Environment) -> None:
    data = {"requests_statistics": [], "host": "</script>"}
    text = correct_report(f"window.templateArgs = {json.dumps(data)}\n", environment)
    assert "</script>" not in text
    assert json.loads(text.partition(" = ")[2]) == data


# Options and hooks


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gnet-figures", "/proc/none/figures.json", "cannot write to '/proc/none/figures.json'"),
        ("--gnet-rate", "0", "expected tasks a second, above 0, got '0'"),
        ("--gnet-rate", "nan", "expected tasks a second, above 0, got 'nan'"),
        ("--gnet-metrics", "nowhere", "expected HOST:PORT or http://HOST:PORT/metrics, got 'nowhere'"),
    ],
)
def test_a_wrong_option_is_refused(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = get_empty_argument_parser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([option, value])
    assert message in capsys.readouterr().err


def test_hooks_are_installed_once(environment: Environment) -> None:
    install(environment)
    count = len(environment.events.quit._handlers)
    install(environment)
    assert len(environment.events.quit._handlers) == count > 0
    environment.runner.quit()
