"""What is shown of the scenarios that ran: tables of text, and a page that leads to Locust's reports."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtests.load.locusts import Outcome

__all__ = ["rows_of", "summary_of", "write_page"]

_PERCENTILES = ("50", "95", "99")
_HEADS = ["requests", "failed", "per s", *(f"p{percent} ms" for percent in _PERCENTILES), "max ms"]

_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>gnet: load tests</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; max-width: 70em }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2em .8em; border-bottom: 1px solid #ccc; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
.failed {{ color: #b00020; font-weight: bold }}
</style>
<h1>Load tests against {target}</h1>
<table>
<tr><th>scenario</th>{heads}<th>× ping</th><th>verdict</th></tr>
{rows}
</table>
{details}
"""


def rows_of(outcome: Outcome, title: str) -> Iterator[str]:
    """Give the lines of a table of one scenario: a row for each kind of request, and all of them."""
    rows = [*outcome.figures["rows"], outcome.figures["total"]]
    names = [" ".join(filter(None, (row["type"], row["name"]))) for row in rows[:-1]] + ["total"]
    width = max(len(title), *map(len, names)) + 1
    yield f"{title:{width}}" + "".join(f"{head:>11}" for head in _HEADS)
    for name, row in zip(names, rows, strict=True):
        yield f"{name:{width}}" + "".join(f"{cell:>11}" for cell in _cells(row))


def summary_of(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Give the lines of a table with a line for each scenario: its main row, and whether it passed."""
    yield f"{'scenario':14}" + "".join(f"{head:>11}" for head in [*_HEADS, "× ping"]) + "  verdict"
    for outcome in outcomes:
        cells = [*_cells(outcome.main), _ratio(outcome)]
        verdict = "FAILED" if outcome.failures else "passed"
        yield f"{outcome.scenario:14}" + "".join(f"{cell:>11}" for cell in cells) + f"  {verdict}"


def write_page(file: Path, outcomes: Sequence[Outcome], target: str) -> None:
    """Write the same as HTML, with the criteria and links to Locust's reports."""
    rows, details = [], []
    for outcome in outcomes:
        report = (outcome.folder / "report.html").resolve().relative_to(file.parent.resolve())
        cells = "".join(f"<td>{cell}</td>" for cell in [*_cells(outcome.main), _ratio(outcome)])
        verdict = '<td class="failed">FAILED</td>' if outcome.failures else "<td>passed</td>"
        name = html.escape(outcome.scenario)
        rows.append(f'<tr><td><a href="{html.escape(str(report))}">{name}</a></td>{cells}{verdict}</tr>')
        items = "".join(
            f"<li{' class=failed' if holds is False else ''}>{html.escape(text)}</li>"
            for holds, text in [*outcome.results, *((False, text) for text in outcome.problems)]
        )
        details.append(f"<h2>{name}</h2>\n<ul>{items}</ul>")
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    page = _PAGE.format(
        target=html.escape(target), heads=heads, rows="\n".join(rows), details="\n".join(details)
    )
    file.write_text(page, encoding="utf-8")


def _cells(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["0", "0", *["–"] * (len(_HEADS) - 2)]
    times = [*(row["percentiles_ms"][percent] for percent in _PERCENTILES), row["max_ms"]]
    return [
        f"{row['requests']:,}",
        f"{row['failures']:,}",
        f"{row['requests_per_s']:,.0f}",
        *(f"{time:.3f}" for time in times),
    ]


def _ratio(outcome: Outcome) -> str:
    """Give how many times ping's p99 that of the scenario is."""
    if outcome.main is None or not outcome.baseline_p99_ms:
        return "–"
    return f"{outcome.main['percentiles_ms']['99'] / outcome.baseline_p99_ms:.2f}"
