"""A tab in Locust's web UI, `gnet server`: the counters of the server under test, as of a second ago.

`--gnet-metrics HOST:PORT` says where the server has its metrics (gnet.locust.server_counters). The tab is
made as Locust's documentation has it: more tabs and tables in the arguments of its page, their rows in the
answer that the page asks for every two seconds while a test runs. The figures of gnet.locust.figures can be
downloaded there too.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from flask import Blueprint, Response, request

from gnet.locust import figures
from gnet.locust.arrival import Arrivals
from gnet.locust.server_counters import ServerCounters, metrics_url

if TYPE_CHECKING:
    from locust.env import Environment

__all__ = ["add_arguments", "install"]

_KEY: Final = "gnet-server"
_COLUMNS: Final = {"name": "Counter", "value": "Now", "per_second": "per second", "meaning": "What it counts"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--gnet-metrics`."""
    options: dict[str, Any] = {"include_in_web_ui": False, "env_var": "LOCUST_GNET_METRICS"}  # Locust's own
    parser.add_argument(
        "--gnet-metrics",
        type=_url,
        metavar="URL",
        help="Show the counters of the gnet server in the web UI: the HOST:PORT of its --metrics-port.",
        **options,
    )


def _url(text: str) -> str:
    try:
        return metrics_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def install(environment: Environment) -> None:
    """Add the tab (with `--gnet-metrics`) and the downloads to an environment's web UI, if it has one."""
    web_ui: Any = environment.web_ui
    if web_ui is None:
        return
    pages = Blueprint("gnet", __name__, url_prefix=_base_path(environment))

    @pages.route("/gnet/figures.json")
    @web_ui.auth_required_if_enabled  # type: ignore[untyped-decorator]  # of Any, as all of web_ui
    def figures_json() -> Response:
        text = json.dumps(figures.collect(environment))
        headers = {"Content-Disposition": "attachment;filename=figures.json"}
        return Response(text, mimetype="application/json", headers=headers)

    web_ui.app.register_blueprint(pages)
    arguments = web_ui.template_args
    arguments.setdefault("extended_csv_files", []).append(
        {"href": "./gnet/figures.json", "title": "Download figures with three digits (gnet, JSON)"}
    )
    url = getattr(environment.parsed_options, "gnet_metrics", None)
    if not url:
        return
    counters = ServerCounters(url)
    counters.start()
    hooks: Any = environment.events
    hooks.quitting.add_listener(lambda **_: counters.stop())
    arguments.setdefault("extended_tabs", []).append({"title": "gnet server", "key": _KEY})
    arguments.setdefault("extended_tables", []).append(
        {"key": _KEY, "structure": [{"key": key, "title": title} for key, title in _COLUMNS.items()]}
    )

    def add_rows(response: Response) -> Response:
        if request.endpoint == "locust.request_stats" and response.status_code == 200:
            data = response.get_json()
            # Locust keeps the answer for two seconds and sends it again, with what is added here.
            others = [table for table in data.get("extended_stats", []) if table["key"] != _KEY]
            rows = [*_arrival_rows(environment), *counters.rows()]
            data["extended_stats"] = [*others, {"key": _KEY, "data": rows}]
            response.set_data(json.dumps(data))
        return response

    web_ui.app.after_request(add_rows)


def _base_path(environment: Environment) -> str | None:
    return getattr(environment.parsed_options, "web_base_path", None) or None


def _arrival_rows(environment: Environment) -> list[dict[str, Any]]:
    """Give rows about the schedule of an open loop, if there is one."""
    summary = Arrivals.of(environment).summary()
    if summary is None:
        return []
    titles = {
        "started": ("Arrivals: started", "Tasks that started, open loop."),
        "late": (
            "Arrivals: late",
            "Started more than 2 ms after they were due: no idle user, or no CPU.",
        ),
        "most_late_ms": ("Arrivals: most late (ms)", "The most that one of them was late."),
        "backlog": ("Arrivals: backlog", "Tasks that are due and wait for an idle user."),
    }
    return [
        {"name": name, "value": round(summary[key], 3), "per_second": "", "meaning": text}
        for key, (name, text) in titles.items()
    ]
