"""What a scenario demands of its own figures: each criterion looks at them and says in one line how it is.

The figures are those that `--gnet-figures` writes. A criterion that compares looks at the figures of a run of
`ping` from the same minutes on the same machine: times alone say more about a machine than about a server.
Pure; nothing here imports Locust.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = [
    "AtLeast",
    "Criterion",
    "FailuresAtMost",
    "Measured",
    "P99Below",
    "P99Ratio",
    "Result",
    "SameAsServer",
    "SameCount",
    "check_all",
    "find_row",
]

Row = tuple[str, str]
"""A row of the figures: its type and its name; without a name, all of the type."""

# Characters of the texts of failures in a message.
_SHOWN = 160


@dataclass(frozen=True)
class Measured:
    """What there is to look at when a test has ended."""

    figures: dict[str, Any]
    baseline: dict[str, Any] | None = None
    """The figures of `ping`."""
    counted: dict[tuple[str, str], int] | None = None
    """What the server's own counters have gained, by key and label."""
    errors: Sequence[str] = field(default_factory=list)
    """What tasks raised, and whatever else must not happen."""
    tolerance: float = 1.0
    """Limits of times are multiplied by this: above 1 on a machine that has other things to do."""


@dataclass(frozen=True)
class Result:
    """Whether a criterion held (`None`: that could not be checked), and the figures that say so."""

    holds: bool | None
    text: str


class Criterion(Protocol):
    """One demand."""

    def check(self, measured: Measured) -> Result:
        """Look at the figures."""
        ...


def check_all(criteria: Sequence[Criterion], measured: Measured) -> list[Result]:
    """Give the result of each criterion, and one for each error that no scenario allows."""
    return [
        *(Result(False, text) for text in measured.errors),
        *(criterion.check(measured) for criterion in criteria),
    ]


@dataclass(frozen=True)
class FailuresAtMost:
    """Of all requests no more than this share failed; unless given, none."""

    share: float = 0.0

    def check(self, measured: Measured) -> Result:
        failures = sorted(measured.figures["failures"], key=lambda each: -each["occurrences"])
        requests = measured.figures["total"]["requests"]
        failed = sum(each["occurrences"] for each in failures)
        allowed = "" if not self.share else f" (allowed: {self.share:.3%})"
        text = f"{failed:,} of {requests:,} requests failed{allowed}"
        if failures:
            most = failures[0]
            text += f": {most['occurrences']:,} × {most['method']} {most['name']}: {most['error'][:_SHOWN]}"
        return Result(failed <= self.share * requests, text)


@dataclass(frozen=True)
class AtLeast:
    """There were so many requests of a row: a test that asked for nothing has shown nothing."""

    count: int
    row: Row

    def check(self, measured: Measured) -> Result:
        count = _requests(measured.figures, self.row)
        return Result(
            count >= self.count, f"{count:,} requests of {_name(self.row)} (at least {self.count:,})"
        )


@dataclass(frozen=True)
class SameCount:
    """Two rows have the same number of requests."""

    first: Row
    second: Row

    def check(self, measured: Measured) -> Result:
        counts = [_requests(measured.figures, row) for row in (self.first, self.second)]
        relation = "as many as" if counts[0] == counts[1] else "but"
        text = f"{counts[0]:,} of {_name(self.first)}, {relation} {counts[1]:,} of {_name(self.second)}"
        return Result(counts[0] == counts[1], text)


@dataclass(frozen=True)
class P99Below:
    """99 of 100 requests of a row took less than this: far more than a server on the same machine needs."""

    milliseconds: float
    row: Row

    def check(self, measured: Measured) -> Result:
        row = find_row(measured.figures, self.row)
        if row is None:
            return Result(False, f"no request of {_name(self.row)}")
        limit = self.milliseconds * measured.tolerance
        p99 = row["percentiles_ms"]["99"]
        return Result(p99 < limit, f"p99 of {_name(self.row)} is {p99:.2f} ms (limit {limit:g} ms)")


@dataclass(frozen=True)
class P99Ratio:
    """99 of 100 requests of a row took no longer than so many times what `ping` took."""

    ratio: float
    row: Row
    ignore_ms: float = 10.0
    """A p99 below this is good enough whatever the baseline. Where Locust, the server and whatever else runs
    share two cores, it is the scheduler's: some of its time slices, of 3 ms each."""

    def check(self, measured: Measured) -> Result:
        name = _name(self.row)
        row = find_row(measured.figures, self.row)
        if row is None:
            return Result(False, f"no request of {name}")
        p99 = row["percentiles_ms"]["99"]
        if measured.baseline is None:
            return Result(None, f"p99 of {name} is {p99:.2f} ms: compared to nothing, without --baseline")
        ping = find_row(measured.baseline, ("LINE", "ping"))
        if ping is None:
            return Result(False, f"p99 of {name}: the baseline has no request of ping")
        before = ping["percentiles_ms"]["99"]
        ratio, ignore = self.ratio * measured.tolerance, self.ignore_ms * measured.tolerance
        return Result(
            p99 <= max(ratio * before, ignore),
            f"p99 of {name} is {p99:.2f} ms, {p99 / before if before else 0:.1f} × that of ping alone, "
            f"{before:.2f} ms (limit {ratio:g} ×, or {ignore:g} ms)",
        )


@dataclass(frozen=True)
class SameAsServer:
    """The server counted the same lines and connections as Locust, to the request, and no faulty handler."""

    def check(self, measured: Measured) -> Result:
        counted = measured.counted
        if counted is None:
            return Result(None, "not compared to the server's counters, without --gnet-metrics")
        ours = {
            "lines": (
                sum(_requests(measured.figures, (kind, "")) for kind in ("LINE", "RAW")),
                counted[("lines_in", "")],
            ),
            "connections": (_requests(measured.figures, ("CONNECT", "")), counted[("accepted", "")]),
            "handler errors": (0, counted[("handler_errors", "")]),
        }
        wrong = [f"{theirs:,} {what}, not {own:,}" for what, (own, theirs) in ours.items() if own != theirs]
        if wrong:
            return Result(False, f"the server counted {'; '.join(wrong)}")
        lines, connections = ours["lines"][0], ours["connections"][0]
        return Result(True, f"the server counted the same {lines:,} lines and {connections:,} connections")


def find_row(figures: dict[str, Any], row: Row) -> dict[str, Any] | None:
    """Give a row that had requests; `None`: there is none."""
    return next((each for each in _rows(figures, row) if each["requests"]), None)


def _requests(figures: dict[str, Any], row: Row) -> int:
    return sum(each["requests"] for each in _rows(figures, row))


def _rows(figures: dict[str, Any], row: Row) -> Iterator[dict[str, Any]]:
    kind, name = row
    return (each for each in figures["rows"] if each["type"] == kind and name in ("", each["name"]))


def _name(row: Row) -> str:
    return " ".join(filter(None, row))
