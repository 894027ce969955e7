"""Run the tests in patched processes and in plain ones at the same time: most of them wait most of the time.

    python -m tests.both_modes [arguments of pytest]

Two processes of each kind share the test files (`tests/sharing.py`). One sees the first patched one at work;
what the others had to say comes when all have ended, the processes with failures last. At the very end stand
all failures, and a last line like pytest's for the plain processes, which run the whole of the tests. Ends
with 1 if a process failed or a test is missing.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.sharing import Report, reports

PROCESSES: Final = {"patched": 2, "plain": 3}
"""How many processes share the files. Two of a kind wait for different things; with more of them, those tests
that measure time would wait for a processor."""

# pytest's status: of the patched processes, where the arguments ask for tests of plain ones only
_NO_TESTS: Final = 5
_PATIENCE_SECONDS: Final = 10.0  # for the fixtures of a test that is interrupted

# The words of pytest's last line, in its order.
_OUTCOMES: Final = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error")


class Part(NamedTuple):
    """One of the processes, and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def failed(self) -> bool:
        return self.process.returncode not in (0, _NO_TESTS)


def start(kind: str, number: int, folder: Path, arguments: list[str]) -> Part:
    command = [sys.executable, "-m", "pytest", "-p", "tests.sharing", f"--share={folder / kind}"]
    # Percentages would be of all tests, of which a process runs only some.
    command += ["-o", f"cache_dir=.pytest_cache/{kind}", "-o", "console_output_style=count"]
    if number > 1:
        command.append("--no-header")
    if sys.stdout.isatty():
        command.append("--color=yes")  # which it would see for itself, but for the log
    if kind == "plain":
        command.append("--backwards")  # so that the same heavy tests do not run in both kinds at once
    environment = os.environ | {"GNET_TEST_PATCHED": "1" if kind == "patched" else ""}
    log = folder / f"{kind}-{number}.log"
    with open(log, "wb") as output:
        # In a session of its own, so that Ctrl-C reaches it once, by `stop`.
        process = subprocess.Popen(
            command + arguments, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    return Part(f"{kind} process {number}", process, log)


def follow(part: Part) -> None:
    """Copy what a process has written to its log, and what it goes on to write, until it ends."""
    print(f"\n{part.name}:", flush=True)
    with open(part.log, "rb") as log:
        while True:
            ended = part.process.poll() is not None
            text = log.read()
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
            if ended and not text:
                return
            time.sleep(0.2)


def stop(parts: list[Part]) -> None:
    """End what still runs; the fixtures of the tests get time to do their part."""
    running = [part.process for part in parts if part.process.poll() is None]
    end = time.monotonic() + _PATIENCE_SECONDS
    try:
        for process in running:
            process.send_signal(signal.SIGINT)
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
    finally:
        for process in running:
            process.kill()
            process.wait()


def last_line(those: list[Report], seconds: float) -> str:
    """Say what became of the tests of one kind of process, as pytest does."""
    counts: Counter[str] = Counter()
    for report in those:
        counts.update(report.counts)
    # Every process collects, and leaves out, the same tests.
    counts["deselected"] = max((report.counts.get("deselected", 0) for report in those), default=0)
    said = {"error": "errors"} if counts["error"] > 1 else {}
    outcomes = ", ".join(f"{counts[word]} {said.get(word, word)}" for word in _OUTCOMES if counts[word])
    return f"{outcomes or 'no tests ran'} in {seconds:.2f}s"


def complaints(kind: str, those: list[Report]) -> Iterator[str]:
    """Name the tests that failed; say if there are some that no process has run."""
    for test in dict.fromkeys(itertools.chain.from_iterable(report.failed for report in those)):
        yield f"FAILED ({kind}) {test}"
    run = sum(report.run for report in those)
    collected = max((report.collected for report in those), default=0)
    # Only the failed ones are to run: who starts late may see none, as an earlier process has had them pass.
    if run != collected and not {"--lf", "--last-failed"} & set(sys.argv):
        yield f"LOST ({kind}) {collected} tests collected, {run} run"


def run_all(folder: Path, arguments: list[str]) -> list[Part]:
    """Run the tests and show what the processes say, those with failures last."""
    parts: list[Part] = []
    try:
        for kind, processes in PROCESSES.items():
            (folder / kind).mkdir()
            parts += [start(kind, number, folder, arguments) for number in range(1, processes + 1)]
        follow(parts[0])
        for part in parts:
            part.process.wait()
    finally:
        stop(parts)
        for part in sorted(parts[1:], key=lambda part: part.failed):
            follow(part)
    return parts


def main() -> int:
    # So that `finally` runs: the processes would go on alone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gnet-tests-") as name:
        folder = Path(name)
        parts = run_all(folder, sys.argv[1:])
        found = {kind: reports(folder / kind) for kind in PROCESSES}
    said = [complaint for kind, those in found.items() for complaint in complaints(kind, those)]
    said += [f"{part.name} ended with {part.process.returncode}: see above" for part in parts if part.failed]
    seconds = time.monotonic() - began
    print("", *said, f"patched: {last_line(found['patched'], seconds)}", sep="\n")
    print(f"====== {last_line(found['plain'], seconds)} ======", flush=True)
    if said:
        return 1
    return _NO_TESTS if all(part.process.returncode == _NO_TESTS for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
