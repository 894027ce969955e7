"""Mends what Locust cuts to whole milliseconds in its CSV files, its HTML report and its web UI.

Locust 2.47 has exact times in its statistics once they are counted with three digits, but it cuts the
percentiles of CSV files to integers, and it rounds the least and the greatest time of a row in reports and in
the web UI. What can be reached by Locust's public parts is mended here:

- `--csv PREFIX`: `PREFIX_stats.csv` is written again at the end, with the same columns. (Locust itself writes
  it once a second and not at the end, so that it also lacks the last requests.)
- `--html FILE`, and the report of the web UI: the two columns of the table.
- the web UI: the same two columns, and the file behind "Download requests CSV".

What stays: the tables that Locust prints (whole milliseconds; gnet prints its own at the end), percentiles in
`PREFIX_stats_history.csv`, and all files while the test runs.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flask import request
from locust.runners import WorkerRunner
from locust.stats import PERCENTILES_TO_REPORT, get_readable_percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Response
    from locust.env import Environment
    from locust.stats import StatsEntry

__all__ = ["correct_report", "correct_rows", "install", "stats_rows"]

_log = logging.getLogger(__name__)

# As in Locust's file of that name.
_COLUMNS: Final = [
    "Type",
    "Name",
    "Request Count",
    "Failure Count",
    "Median Response Time",
    "Average Response Time",
    "Min Response Time",
    "Max Response Time",
    "Average Content Size",
    "Requests/s",
    "Failures/s",
]

# In a report, all data stand in one line of a script.
_DATA: Final = re.compile(r"(?<=window\.templateArgs = )\{.*\}$", re.MULTILINE)


def install(environment: Environment) -> None:
    """Mend what an environment's Locust writes and shows."""
    if isinstance(environment.runner, WorkerRunner):
        return

    def finish(**_: Any) -> None:
        options: Any = environment.parsed_options
        if getattr(options, "csv_prefix", None):
            _replace(Path(f"{options.csv_prefix}_stats.csv"), environment)
        if getattr(options, "html_file", None):
            report = Path(options.html_file)
            text = report.read_text(encoding="utf-8")
            report.write_text(correct_report(text, environment), encoding="utf-8")

    hooks: Any = environment.events
    hooks.quit.add_listener(finish)
    web_ui: Any = environment.web_ui
    if web_ui is not None:
        web_ui.app.after_request(lambda response: _correct_response(response, environment))
        # The public method that the web UI asks for this file, of the writer that it was given.
        web_ui.stats_csv_writer.requests_csv = lambda writer: writer.writerows(stats_rows(environment))


def _entries(environment: Environment) -> Iterator[StatsEntry]:
    stats = environment.stats
    for key in sorted(stats.entries):
        yield stats.entries[key]
    yield stats.total


def stats_rows(environment: Environment) -> Iterator[list[Any]]:
    """Give what `PREFIX_stats.csv` is to have: a head, a row for each kind of request, and all together."""
    yield [*_COLUMNS, *get_readable_percentiles(PERCENTILES_TO_REPORT)]
    for entry in _entries(environment):
        percentiles = [entry.get_response_time_percentile(part) for part in PERCENTILES_TO_REPORT]
        yield [
            entry.method,
            entry.name,
            entry.num_requests,
            entry.num_failures,
            entry.median_response_time,
            entry.avg_response_time,
            entry.min_response_time or 0,
            entry.max_response_time,
            entry.avg_content_length,
            entry.total_rps,
            entry.total_fail_per_sec,
            *(percentiles if entry.num_requests else ["N/A"] * len(percentiles)),
        ]


def _replace(file: Path, environment: Environment) -> None:
    """Put a new file in the place of Locust's, which Locust still has open and writes to once more."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    with new.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(stats_rows(environment))
    new.replace(file)


def correct_rows(rows: list[dict[str, Any]], environment: Environment) -> None:
    """Put exact times in place of the rounded ones, in rows as Locust gives them to its pages."""
    exact = {(entry.method, entry.name): entry for entry in _entries(environment)}
    for row in rows:
        entry = exact.get((row["method"], row["name"]))
        if entry is not None:
            row["min_response_time"] = round(entry.min_response_time or 0.0, 3)
            row["max_response_time"] = round(entry.max_response_time, 3)


def correct_report(text: str, environment: Environment) -> str:
    """Give the text of an HTML report with exact times; as it is, if it is not as Locust 2.47 writes it."""
    found = _DATA.search(text)
    try:
        if found is None:
            raise ValueError("no data")
        data = json.loads(found[0])
        correct_rows(data["requests_statistics"], environment)
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("the least and greatest times in the report stay rounded: %r", error)
        return text
    # As the filter `tojson` of Jinja does: nothing in the data may end the script.
    script = json.dumps(data)
    for sign in "<>&'":
        script = script.replace(sign, f"\\u{ord(sign):04x}")
    return text[: found.start()] + script + text[found.end() :]


def _correct_response(response: Response, environment: Environment) -> Response:
    if response.status_code != 200:
        return response
    if request.endpoint == "locust.request_stats":
        data = response.get_json()
        correct_rows(data["stats"], environment)
        response.set_data(json.dumps(data))
    elif request.endpoint == "locust.stats_report":
        response.set_data(correct_report(response.get_data(as_text=True), environment))
    return response
