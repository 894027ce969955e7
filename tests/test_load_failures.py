"""The criteria can fail: scenarios against servers that do one thing wrong end with 1 and say why."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from loadtests.certificates import make_certificates
from tests.load_runs import ROOT, finish_load, start_load

pytestmark = pytest.mark.plain_only


@dataclass(frozen=True)
class Case:
    scenario: str
    reasons: tuple[str, ...]  # patterns of whole lines behind `FAILED: SCENARIO: `
    options: tuple[object, ...] = ()


FAULTS = {
    "wrong answer": Case(
        "ping",
        (r"\d+ of [\d,]+ requests failed: \d+ × LINE ping: WrongAnswerError\(.*expected b'\+PONG', .*",),
    ),
    "reset": Case("ping", (r"[\d,]+ of [\d,]+ requests failed: .*LINE ping: .*",)),
    "slow": Case(
        "ping",
        (
            r"\d+ requests of LINE ping \(at least 100\)",
            r"p99 of LINE ping is \d+\.\d\d ms \(limit 100 ms\)",
        ),
        ("--users", 5),
    ),
    "blocking": Case(
        "slow_senders",
        (r"p99 of LINE ping is \d+\.\d\d ms, .* × that of ping alone, .* \(limit 3 ×, or 10 ms\)",),
    ),
    "wrong counters": Case(
        "ping", (r"the server counted 0 lines, not [\d,]+; 0 connections, not 5",), ("--users", 5)
    ),
    "no limit": Case(
        "long_lines", (r".* RAW over the limit: .*a line over the limit was answered: b'(65537|262144) .*",)
    ),
    "lost datagrams": Case("udp", (r"\d+ of [\d,]+ requests failed \(allowed: 0\.100%\): .* UDP echo: .*",)),
    "no tickets": Case(
        "tls",
        (
            r".* × TLS full handshake: NotResumedError\(.*",
            r"0 requests of TLS resumed \(at least 10\)",
        ),
    ),
}


def start_server(stack: ExitStack, *arguments: str) -> tuple[str, str]:
    """Start a broken server; give its address, and the URL of its counters if it shows any."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tests.broken_server", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    )
    stack.callback(process.kill)
    metrics = ""
    for line in process.stdout:
        if found := re.match(r"metrics on (\S+)", line):
            metrics = found[1]
        if found := re.match(r"listening on (\S+)", line):
            return found[1], metrics
    pytest.fail(f"the broken server {arguments} did not start")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """All of them at once: none has to be fast."""
    folder = tmp_path_factory.mktemp("failures")
    # Of a machine where ping takes no time: limits of ratios are then those that no ratio is looked at below.
    baseline = folder / "baseline.json"
    row = {"type": "LINE", "name": "ping", "requests": 1, "percentiles_ms": {"99": 0.1}}
    baseline.write_text(json.dumps({"rows": [row]}))
    certificates = make_certificates(folder)
    with ExitStack() as stack:
        started = {}
        for fault, case in FAULTS.items():
            files = [str(certificates.cert), str(certificates.key)] if case.scenario == "tls" else []
            address, metrics = start_server(stack, fault, *files)
            options: list[object] = ["--target", address, "--baseline", baseline, "--seconds", 2]
            if files:
                options += ["--tls-ca", certificates.ca]
            if metrics:
                options += ["--metrics", metrics]
            output = folder / fault.replace(" ", "_")
            started[fault] = start_load(case.scenario, *options, *case.options, "-o", output)
        return {fault: finish_load(process) for fault, process in started.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_server_fails_a_scenario_with_the_reason(
    fault: str, runs: dict[str, tuple[int, str]]
) -> None:
    status, output = runs[fault]
    case = FAULTS[fault]
    assert status == 1, output
    assert "Traceback" not in output
    for reason in case.reasons:
        assert re.search(rf"^FAILED: {case.scenario}: {reason}$", output, re.M), output
    assert "OK: " not in output
