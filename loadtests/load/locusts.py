"""Locust, headless: one process, or a master and its workers. What it says goes to a file; some is shown."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.load.plans import locustfile_of
from loadtests.load.processes import LoadError, start, status_text
from loadtests.load.targets import Site
from loadtests.measuring.peers import server_environment

__all__ = ["Outcome", "Request", "run"]

_SPARE_SECONDS = 45  # for Locust to start, to stop its users and to write its report

# Of what Locust says, what is shown: gnet's lines on the progress, and what goes wrong.
_SHOWN = re.compile(r"gnet: |\[\S+ \S+\] \S+/(ERROR|CRITICAL)/|\S+: error: ")


@dataclass(frozen=True)
class Request:
    """What Locust is to do."""

    scenario: str
    site: Site
    seconds: int
    folder: Path
    users: int | None = None
    workers: int = 0
    baseline: Path | None = None
    tolerance: float = 1.0
    extra_seconds: int = 0
    is_shown: bool = True


@dataclass
class Outcome:
    """How a scenario went."""

    scenario: str
    folder: Path
    results: list[tuple[bool | None, str]]
    figures: dict[str, Any]
    main: dict[str, Any] | None
    """The row that stands for the scenario."""
    baseline_p99_ms: float | None
    cpu_seconds: float
    problems: list[str] = field(default_factory=list)
    """What was wrong besides the criteria."""

    @property
    def failures(self) -> list[str]:
        """What did not hold, each in one line."""
        return [text for holds, text in self.results if holds is False] + self.problems


def run(request: Request) -> Outcome:
    """Have Locust run a scenario.

    Raises:
        LoadError: there are no figures.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    figures, verdict = request.folder / "figures.json", request.folder / "verdict.json"
    report = request.folder / "report.html"
    for file in (figures, verdict, report):
        file.unlink(missing_ok=True)  # those of an earlier run must not be taken for this one's
    # Before Locust has loaded the options of a locustfile, an abbreviation or a wrong one is its own matter.
    common = [sys.executable, "-m", "locust", "-f", locustfile_of(request.scenario)]
    if request.site.ca is not None:
        common += ["--tls-ca", str(request.site.ca)]
    command = [
        *(*common, "--headless", "--host", request.site.host),
        *("--run-time", f"{request.seconds + request.extra_seconds}s", "--tolerance", f"{request.tolerance}"),
        *("--html", str(report), "--csv", str(request.folder / "locust")),
        *("--gnet-figures", str(figures), "--verdict", str(verdict)),
    ]
    if request.users is not None:
        command += ["--users", str(request.users)]
        if not request.extra_seconds:  # not of a crowd, which comes bit by bit
            command += ["--spawn-rate", str(request.users)]
    if request.site.metrics:
        command += ["--gnet-metrics", request.site.metrics]
    if request.baseline is not None:
        command += ["--baseline", str(request.baseline)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    limit = request.seconds + request.extra_seconds + _SPARE_SECONDS
    with ExitStack() as stack:
        log = stack.enter_context((request.folder / "locust.log").open("w", encoding="utf-8"))
        locusts = []
        if request.workers:
            port = str(_free_port())
            master = ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
            command += [*master, "--expect-workers", str(request.workers), "--expect-workers-max-wait", "20"]
            worker = [*common, "--worker", "--master-host", "127.0.0.1", "--master-port", port]
            locusts = [_Locust(stack, worker, log, is_shown=False) for _ in range(request.workers)]
        locusts.insert(0, _Locust(stack, command, log, request.is_shown))
        statuses = _wait(locusts, limit)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = locusts[0].last_words
    name = request.scenario
    for file in (verdict, figures, report):
        if not file.is_file() or not file.stat().st_size:
            last = f": {words[-1]}" if words else f" (see {request.folder / 'locust.log'})"
            raise LoadError(f"{name}: Locust ended with {status_text(statuses[0])}{last}")
    data = json.loads(verdict.read_text(encoding="utf-8"))
    measured = json.loads(figures.read_text(encoding="utf-8"))
    outcome = Outcome(
        scenario=name,
        folder=request.folder,
        results=[(holds, text) for holds, text in data["results"]],
        figures=measured,
        main=_row(measured, *data["main"]),
        baseline_p99_ms=_p99_of_ping(request.baseline),
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
    for number, status in enumerate(statuses):
        if status and not outcome.failures:
            who = f"worker {number} of Locust" if number else "Locust"
            outcome.problems.append(f"{who} ended with {status_text(status)}{''.join(words[-1:])}")
    return outcome


class _Locust:
    """A process of Locust's, and the thread that reads what it says."""

    def __init__(self, stack: ExitStack, command: Sequence[str], log: Any, is_shown: bool) -> None:
        self._log = log
        self._is_shown = is_shown
        self.last_words: list[str] = []
        """What it said about mistakes."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        stack.callback(self._stop_reading)  # before `start`: called after the process has ended
        self.process = start(
            stack, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=server_environment()
        )
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._log.write(line)
            self._log.flush()
            if found := _SHOWN.match(line):
                if found[0] != "gnet: ":
                    self.last_words.append(line.rpartition(found[0])[2].strip())
                if self._is_shown:
                    print(f"  {line.rstrip()}", flush=True)

    def _stop_reading(self) -> None:
        if self._reader.ident is not None:
            self._reader.join()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def wait(self, until: float) -> int:
        status = self.process.wait(max(0.1, until - time.monotonic()))
        self._reader.join()
        return status


def _wait(locusts: Sequence[_Locust], seconds: float) -> list[int]:
    until = time.monotonic() + seconds
    try:
        return [locust.wait(until) for locust in locusts]
    except subprocess.TimeoutExpired:
        raise LoadError(f"Locust did not end within {seconds} s, when its time was over") from None


def _free_port() -> int:
    """Give a port for Locust's master, which cannot choose one itself and say which."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _row(figures: dict[str, Any], kind: str, name: str) -> dict[str, Any] | None:
    return next((row for row in figures["rows"] if (row["type"], row["name"]) == (kind, name)), None)


def _p99_of_ping(baseline: Path | None) -> float | None:
    if baseline is None:
        return None
    row = _row(json.loads(baseline.read_text(encoding="utf-8")), "LINE", "ping")
    return row["percentiles_ms"]["99"] if row is not None else None
