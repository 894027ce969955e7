"""The criteria of the load tests, on figures that are written here: when each holds, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from loadtests.load.criteria import (
    AtLeast,
    FailuresAtMost,
    Measured,
    P99Below,
    P99Ratio,
    SameAsServer,
    SameCount,
    check_all,
)

pytestmark = pytest.mark.plain_only

PING = ("LINE", "ping")


def figures(*rows: tuple[str, str, int, float], failures: int = 0) -> dict[str, Any]:
    """Give what `--gnet-figures` writes, as far as criteria look at it: type, name, requests and p99."""
    return {
        "rows": [
            {"type": kind, "name": name, "requests": requests, "percentiles_ms": {"99": p99}}
            for kind, name, requests, p99 in rows
        ],
        "total": {"requests": sum(row[2] for row in rows)},
        "failures": [
            {"method": "LINE", "name": "ping", "error": "TimeoutError('late')", "occurrences": failures}
        ]
        * bool(failures),
    }


def test_one_failure_of_many_requests_is_one_too_many() -> None:
    assert FailuresAtMost().check(Measured(figures(("LINE", "ping", 1000, 1)))).holds
    result = FailuresAtMost().check(Measured(figures(("LINE", "ping", 1000, 1), failures=1)))
    assert not result.holds
    assert result.text == "1 of 1,000 requests failed: 1 × LINE ping: TimeoutError('late')"


def test_a_share_of_failures_may_be_allowed() -> None:
    criterion = FailuresAtMost(0.001)
    assert criterion.check(Measured(figures(("UDP", "echo", 1000, 1), failures=1))).holds
    assert not criterion.check(Measured(figures(("UDP", "echo", 1000, 1), failures=2))).holds


def test_too_few_requests_have_shown_nothing() -> None:
    assert AtLeast(10, PING).check(Measured(figures(("LINE", "ping", 10, 1)))).holds
    result = AtLeast(10, PING).check(Measured(figures(("LINE", "ping", 9, 1))))
    assert (result.holds, result.text) == (False, "9 requests of LINE ping (at least 10)")
    assert not AtLeast(10, PING).check(Measured(figures(("LINE", "other", 10, 1)))).holds


def test_counts_of_two_rows_are_compared_to_the_request() -> None:
    criterion = SameCount(("CONNECT", ""), PING)
    rows = [("CONNECT", "a:1", 2, 1.0), ("CONNECT", "b:1", 3, 1.0)]
    assert criterion.check(Measured(figures(*rows, ("LINE", "ping", 5, 1)))).holds
    result = criterion.check(Measured(figures(*rows, ("LINE", "ping", 4, 1))))
    assert (result.holds, result.text) == (False, "5 of CONNECT, but 4 of LINE ping")


def test_a_p99_has_a_limit_in_milliseconds() -> None:
    assert P99Below(100, PING).check(Measured(figures(("LINE", "ping", 5, 99.0)))).holds
    result = P99Below(100, PING).check(Measured(figures(("LINE", "ping", 5, 101.0))))
    assert (result.holds, result.text) == (False, "p99 of LINE ping is 101.00 ms (limit 100 ms)")
    assert not P99Below(100, PING).check(Measured(figures())).holds


@pytest.mark.parametrize(
    ("p99", "holds"),
    [(29.0, True), (31.0, False), (4.0, True)],
    ids=["within", "above", "too short to matter"],
)
def test_a_p99_is_compared_to_that_of_ping(p99: float, holds: bool) -> None:
    measured = Measured(figures(("RAW", "line", 5, p99)), figures(("LINE", "ping", 5, 10.0)))
    assert P99Ratio(3, ("RAW", "line")).check(measured).holds is holds


def test_what_is_too_short_to_matter_has_a_limit_too() -> None:
    baseline = figures(("LINE", "ping", 5, 0.5))
    result = P99Ratio(3, PING, ignore_ms=5).check(Measured(figures(("LINE", "ping", 5, 6.0)), baseline))
    assert not result.holds
    assert result.text == (
        "p99 of LINE ping is 6.00 ms, 12.0 × that of ping alone, 0.50 ms (limit 3 ×, or 5 ms)"
    )


def test_without_a_baseline_nothing_is_compared_and_that_is_said() -> None:
    result = P99Ratio(3, PING).check(Measured(figures(("LINE", "ping", 5, 6.0))))
    assert result.holds is None
    assert "without --baseline" in result.text


def test_a_baseline_without_ping_is_a_failure() -> None:
    result = P99Ratio(3, PING).check(Measured(figures(("LINE", "ping", 5, 6.0)), figures()))
    assert (result.holds, "no request of ping" in result.text) == (False, True)


def test_a_tolerance_multiplies_limits_of_times() -> None:
    measured = Measured(
        figures(("LINE", "ping", 5, 150.0)), figures(("LINE", "ping", 5, 30.0)), tolerance=2.0
    )
    assert P99Below(100, PING).check(measured).holds
    assert P99Ratio(3, PING).check(measured).holds


COUNTED = {("lines_in", ""): 12, ("accepted", ""): 3, ("handler_errors", ""): 0}
OURS = figures(("LINE", "ping", 10, 1), ("RAW", "line", 2, 1), ("CONNECT", "a:1", 3, 1))


def test_the_server_has_counted_the_same() -> None:
    result = SameAsServer().check(Measured(OURS, counted=COUNTED))
    assert (result.holds, result.text) == (True, "the server counted the same 12 lines and 3 connections")


@pytest.mark.parametrize(
    ("key", "number", "text"),
    [
        ("lines_in", 13, "the server counted 13 lines, not 12"),
        ("accepted", 2, "the server counted 2 connections, not 3"),
        ("handler_errors", 1, "the server counted 1 handler errors, not 0"),
    ],
)
def test_a_difference_to_the_servers_counters_is_a_failure(key: str, number: int, text: str) -> None:
    result = SameAsServer().check(Measured(OURS, counted={**COUNTED, (key, ""): number}))
    assert (result.holds, result.text) == (False, text)


def test_a_server_without_counters_is_not_compared() -> None:
    assert SameAsServer().check(Measured(OURS)).holds is None


def test_an_error_of_a_task_fails_whatever_else_holds() -> None:
    measured = Measured(figures(("LINE", "ping", 10, 1)), errors=["a task raised KeyError (1 ×)"])
    assert [result.holds for result in check_all([AtLeast(1, PING)], measured)] == [False, True]
