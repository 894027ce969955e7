"""`python -m loadtests.load`: what is asked wrongly, servers that are not there, and interruptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.load import plans
from loadtests.scale.descriptors import Granted, descriptors_for
from tests.load_runs import finish_load, run_load, start_load
from tests.test_demo import processes_of

pytestmark = pytest.mark.plain_only


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["pong"], "load: there is no scenario 'pong'; there are ping, pipelined, mixed, "),
        (
            ["ping", "--target", "nobody"],
            "load: --target: expected gnet, gevent, asyncio or HOST:PORT, got 'nobody'",
        ),
        (
            ["ping", "--target", "localhost:70000"],
            "load: --target: expected gnet, gevent, asyncio or HOST:PORT, got 'localhost:70000'",
        ),
        (["ping", "--workers", "-1"], "load: --workers: expected at least 0, got -1"),
        (
            ["ping", "--seconds", "0"],
            "load: argument --seconds: expected a whole number of at least 1, got '0'",
        ),
        (["tls", "--tls-ca", "/nowhere"], "load: there is no file /nowhere"),
        (["ping", "--speed", "9"], "load: unrecognized arguments: --speed 9"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(arguments: list[str], complaint: str) -> None:
    status, output = run_load(*arguments)
    assert status == 2
    assert output.startswith(complaint)
    assert output.count("\n") == 1


@pytest.mark.parametrize(
    ("limit", "users", "expected"), [(20_000, None, None), (1_024, None, 803), (1_024, 300, 300)]
)
def test_a_crowd_is_as_large_as_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, limit: int, users: int | None, expected: int | None
) -> None:
    monkeypatch.setattr(plans, "raise_limit", lambda count: Granted(descriptors_for(count), limit))
    fitting, missing = plans.users_that_fit(plans.PLANS["idle_crowd"], users)
    assert fitting == expected
    assert (f"{expected} users instead of 9,100" in missing) == (users is None and limit < 11_000)
    assert ("ulimit -Hn" in missing) == bool(missing)


def test_baseline_figures_that_are_none_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("{}")
    status, output = run_load(
        "slow_senders", "--target", "127.0.0.1:1", "--baseline", file, "-o", tmp_path / "reports"
    )
    assert status == 1
    assert output.splitlines()[-1].startswith("load: slow_senders: Locust ended with status 2: argument ")
    assert "has no figures" in output
    assert "Traceback" not in output


def test_a_server_that_is_not_there_fails_the_scenario(tmp_path: Path) -> None:
    options = ("--seconds", 1, "--users", 2, "-o", tmp_path)
    status, output = run_load("ping", "--target", "127.0.0.1:1", *options)
    assert status == 1, output
    assert "FAILED: ping: " in output
    assert "Connection refused" in output
    assert "Traceback" not in output


def test_an_interrupted_run_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start_load("ping", "--seconds", 60, "--users", 3, "--workers", 1, "-o", tmp_path)
    while not (line := process.stdout.readline()).startswith("  gnet: "):
        assert line
    assert len(processes_of(tmp_path)) >= 2  # itself and Locust's master
    process.terminate()
    status, output = finish_load(process)
    assert status == 143, output
    assert "Traceback" not in output
    assert processes_of(tmp_path) == []
