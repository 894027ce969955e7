"""Each scenario of loadtests/scenarios for a few seconds, against gnet's server; all criteria must hold.

Response times are compared to those of `ping`, run before; with a tolerance, as the machines are busy.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loadtests.load.plans import PLANS, SCENARIOS
from tests.load_runs import finish_load, run_load, start_load

pytestmark = pytest.mark.plain_only

TOLERANCE = 10
# The others have as many as they say.
USERS = {"idle_crowd": 400}


@pytest.fixture(scope="module")
def ping(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    folder = tmp_path_factory.mktemp("ping")
    status, output = run_load("ping", "--seconds", 2, "--tolerance", TOLERANCE, "-o", folder)
    return status, output, folder


def figures_in(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return figures


def test_there_is_a_plan_for_each_locustfile() -> None:
    assert {file.stem for file in SCENARIOS.glob("*.py")} - {"__init__"} == PLANS.keys()


def test_ping_agrees_with_the_server_and_leaves_reports(ping: tuple[int, str, Path]) -> None:
    status, output, folder = ping
    assert status == 0, output
    assert re.search(r"^  holds: the server counted the same [\d,]+ lines and 50 connections$", output, re.M)
    assert output.endswith(f"Report: {folder / 'index.html'}\nOK: all criteria hold\n")
    page = (folder / "index.html").read_text()
    assert '<a href="ping/report.html">ping</a>' in page
    assert "requests failed" in page
    assert "ping" in (folder / "ping" / "report.html").read_text()
    assert (folder / "ping" / "locust_stats.csv").read_text().startswith("Type,Name,Request Count")
    assert figures_in(folder / "ping")["total"]["requests"] > 100


@pytest.mark.parametrize("scenario", [name for name in PLANS if name != "ping"])
def test_a_scenario_holds_against_gnet(scenario: str, ping: tuple[int, str, Path], tmp_path: Path) -> None:
    options = ["--seconds", 2, "--tolerance", TOLERANCE, "--baseline", ping[2] / "ping" / "figures.json"]
    if scenario in USERS:
        options += ["--users", USERS[scenario]]
    status, output = run_load(scenario, *options, "-o", tmp_path)
    assert status == 0, output
    assert output.endswith("OK: all criteria hold\n")
    assert "FAILED" not in output
    assert re.search(rf"^{scenario} .* passed$", output, re.M), output


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Runs of `ping` whose response times are of no interest: all at once."""
    options = ("--seconds", 2, "--tolerance", TOLERANCE)
    runs = {
        "two workers": start_load(
            "ping", "--workers", 2, *options, "-o", tmp_path_factory.mktemp("two workers")
        ),
        **{
            target: start_load(
                "ping", "--target", target, "--users", 5, *options, "-o", tmp_path_factory.mktemp(target)
            )
            for target in ("gevent", "asyncio")
        },
    }
    return {name: finish_load(process) for name, process in runs.items()}


def test_two_workers_agree_with_the_server_to_the_request(others: dict[str, tuple[int, str]]) -> None:
    status, output = others["two workers"]
    assert status == 0, output
    found = re.search(
        r"^  holds: the server counted the same ([\d,]+) lines and 50 connections$", output, re.M
    )
    assert found is not None, output
    assert int(found[1].replace(",", "")) > 100


@pytest.mark.parametrize("target", ["gevent", "asyncio"])
def test_another_server_can_be_the_target(target: str, others: dict[str, tuple[int, str]]) -> None:
    status, output = others[target]
    assert status == 0, output
    assert "left out: not compared to the server's counters" in output
