"""`make demo`'s program, loadtests/demo.py: what it prints, what it leaves behind, and when it fails."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADTESTS = ROOT / "loadtests"
PATIENCE = 50.0  # seconds for what takes about five

pytestmark = pytest.mark.plain_only

# Servers that do not do what the demo asks of them: the ping server with one thing changed.
WRONG_SERVER = """
import sys
sys.path.insert(0, {examples!r})
import ping_server
{change}
"""


@pytest.fixture
def wrong_server(tmp_path: Path) -> Callable[[str], str]:
    """`wrong_server(code)` gives the command of a ping server that is changed and run by `code`."""

    def write(change: str) -> str:
        program = tmp_path / "wrong_server.py"
        program.write_text(WRONG_SERVER.format(examples=str(ROOT / "examples"), change=change))
        return f"{sys.executable} {program}"

    return write


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo with its files in `tmp_path`, which the command lines of all its processes name."""
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            # Copied, so that the server's command line has the folder's name in it too.
            server = Path(shutil.copy(ROOT / "examples" / "ping_server.py", tmp_path))
            if "--server" not in arguments:
                arguments = ("--server", f"{sys.executable} {server}", *arguments)
            process = subprocess.Popen(
                [sys.executable, str(LOADTESTS / "demo.py"), "--output", str(tmp_path / "out"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            stack.callback(process.stderr.close)
            stack.callback(process.stdout.close)
            return process

        yield start


def processes_of(tmp_path: Path) -> list[int]:
    """The processes whose command lines name the folder of this test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if str(tmp_path) in command:
            found.append(int(file.parent.name))
    return found


def total_of(kind: str, output: str) -> tuple[int, float, float, float]:
    """Give the last row of a server's table, as long as no request failed: requests, p50, p95 and p99."""
    _, found, table = output.partition(f"\n{kind:14}    requests ")
    assert found, output
    cells = table.partition("\ntotal ")[2].partition("\n")[0].split()
    assert (len(cells), cells[1]) == (7, "0"), output
    assert all(re.fullmatch(r"\d+\.\d{3}", cell) for cell in cells[3:])
    return int(cells[0].replace(",", "")), float(cells[3]), float(cells[4]), float(cells[5])


def test_the_demo_drives_both_servers_and_says_how_that_went(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_demo("--seconds", "2", "--users", "10")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert output.endswith("OK: nothing failed\n")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["failures"] == []
    assert figures["line_bytes"]["least"] == 10
    for kind in ("plain", "TLS"):
        requests, *percentiles = total_of(kind, output)
        assert requests > 100
        assert 0 < percentiles[0] <= percentiles[1] <= percentiles[2]
        counts = {name: times["count"] for key, name, times in figures["times_ns"] if key == kind}
        assert counts.keys() == {"connect", "line", "line in parts"}
        assert sum(counts.values()) == requests
        assert counts["connect"] == 5
        assert 0.1 < counts["line in parts"] / counts["line"] < 0.5  # 0.25 on the average
        assert re.search(rf"^The {kind} server drained in \d+ ms after SIGTERM, status 0$", output, re.M)
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in output
    report = (tmp_path / "out" / "report.html").read_text()
    assert [text for text in ("line in parts", '"plain"', '"TLS"') if text not in report] == []
    assert "Aggregated" in output + errors  # Locust's own progress
    key = re.search(r"--tls-key (\S+)", output)
    assert key is not None
    assert not Path(key[1]).parent.exists()
    assert processes_of(tmp_path) == []


def test_the_demo_shows_redis_benchmark_where_it_is_installed(
    start_demo: Callable[..., subprocess.Popen[str]], needs_program: Callable[[str], str]
) -> None:
    needs_program("redis-benchmark")
    process = start_demo("--seconds", "1", "--users", "5")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    for title in ("plain +one", "plain +32", "TLS +one", "TLS +32"):
        row = rf"^  {title} in flight +[\d,]+ requests/s   p50 \d+\.\d+   p95 .* ms$"
        assert re.search(row, output, re.M), output


def test_the_demo_leaves_tls_out_where_redis_benchmark_has_none(
    start_demo: Callable[..., subprocess.Popen[str]], needs_program: Callable[[str], str], tmp_path: Path
) -> None:
    program = needs_program("redis-benchmark")
    without = tmp_path / "redis-benchmark"
    without.write_text(f'#!/bin/sh\n[ "$1" = --help ] && echo usage && exit 1\nexec {program} "$@"\n')
    without.chmod(0o700)
    process = start_demo("--seconds", "1", "--users", "5", PATH=f"{tmp_path}:/usr/bin:/bin")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert re.search(r"^  plain +one in flight +[\d,]+ requests/s", output, re.M), output
    assert "  TLS    left out: this redis-benchmark was built without it\n" in output


def test_the_demo_without_tls_drives_one_server(start_demo: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_demo("--no-tls", "--seconds", "1", "--users", "1", PATH="/nowhere")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert total_of("plain", output)[0] > 0
    assert "TLS" not in output


def test_the_demo_needs_a_user_for_each_server(start_demo: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_demo("--users", "1")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (2, "")
    assert "--users 2: plain and TLS" in errors


def test_the_demo_says_that_redis_benchmark_is_missing(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_demo("--seconds", "1", "--users", "5", PATH=str(tmp_path))
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert "redis-benchmark is not installed (Debian package redis-tools)" in output


FAULTS = {
    "wrong answer": (
        "ping_server.ANSWER = b'+PUNG\\r\\n'; ping_server.main()",
        "WrongAnswerError: expected b'+PONG', got b'+PUNG'",
    ),
    "two answers": (
        "ping_server.ANSWER *= 2; ping_server.main()",
        "WrongAnswerError: more than one answer",
    ),
    "no answer": (
        "ping_server.answer = lambda client, address: client.close(); ping_server.main()",
        "EOFError: the server closed the connection instead of answering",
    ),
    "no drain": (
        "ping_server.main(); sys.exit(3)",
        "FAILED: the plain server ended with status 3 after SIGTERM; the TLS server ended with status 3 ",
    ),
    "reset at the end": (
        "import gevent, gnet\n"
        "gnet.Server.stop = lambda server, **_: gevent.spawn(server.close)\n"
        "ping_server.main()",
        "FAILED: an idle connection to the plain server did not end in order: ",
    ),
    "does not end": (
        "import gnet; gnet.Server.stop = lambda server, **_: None; ping_server.main()",
        "FAILED: the plain server did not end within 5 s of SIGTERM",
    ),
    "TLS is not spoken": (
        "sys.argv[1:] = []; ping_server.main()",
        "× TLS connect: SslError: dial to 127.0.0.1:",
    ),
    "the certificate is of nobody that is trusted": (
        """
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gnet.tls.certificates import make_self_signed
if "--tls-cert" in sys.argv:
    certificate, key = make_self_signed("localhost")
    with open(sys.argv[sys.argv.index("--tls-cert") + 1], "wb") as file:
        file.write(certificate.public_bytes(Encoding.PEM))
    with open(sys.argv[sys.argv.index("--tls-key") + 1], "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
ping_server.main()
""",
        "certificate verify failed: self-signed certificate (code 18)",
    ),
    "no close_notify at the end": (
        "import gnet, os; gnet.Server.stop = lambda server, **_: os._exit(0)\nping_server.main()",
        "FAILED: an idle connection to the TLS server did not end in order: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_demo_fails_when_the_server_is_at_fault(
    start_demo: Callable[..., subprocess.Popen[str]],
    wrong_server: Callable[[str], str],
    tmp_path: Path,
    fault: str,
) -> None:
    change, complaint = FAULTS[fault]
    arguments = ["--server", wrong_server(change), "--seconds", "1", "--users", "3"]
    if "the plain server" in complaint and "the TLS server" not in complaint:
        arguments.append("--no-tls")  # with the same fault, and the same limits to wait for
    process = start_demo(*arguments, PATH="/nowhere")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, output + errors
    assert complaint in output
    assert "\nFAILED: " in output
    assert processes_of(tmp_path) == []


UNUSABLE = {
    "ends at once": (
        "-c 'import sys; sys.exit(7)'",
        "demo: the plain server ended with status 7 before it listened",
    ),
    "is killed": (
        "-c 'import os; os.kill(os.getpid(), 9)'",
        "demo: the plain server ended with signal SIGKILL before",
    ),
    "knows no TLS": (
        '-c \'import sys; len(sys.argv) > 1 and sys.exit(2)\nprint("listening on 127.0.0.1:1", flush=True)\n'
        "import time; time.sleep(30)'",
        "demo: the TLS server ended with status 2 before it listened",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_server_that_does_not_start_is_one_line(
    start_demo: Callable[..., subprocess.Popen[str]], case: str
) -> None:
    arguments, complaint = UNUSABLE[case]
    process = start_demo("--server", f"{sys.executable} {arguments}")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(complaint)
    assert errors.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(start_demo: Callable[..., subprocess.Popen[str]]) -> None:
    process = start_demo("--server", "/nowhere/server")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("demo: the plain server can not be started: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_demo_leaves_no_process_behind(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process = start_demo("--seconds", "60", "--users", "3")
    while "Ramping" not in (line := process.stderr.readline()):
        assert line, process.stdout.read()
    running = processes_of(tmp_path)
    assert len(running) == 4  # the demo, two servers, Locust
    assert len({os.getpgid(pid) for pid in running}) == 4  # a terminal's Ctrl-C reaches the demo alone
    process.send_signal(number)
    # The pipes end when the last process that holds them does.
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert ("Got SIGTERM signal" in errors) == (number != signal.SIGKILL)  # Locust was ended in order
    assert processes_of(tmp_path) == []


# The figures


@pytest.fixture
def histogram_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(LOADTESTS))
    return importlib.import_module("histogram").Histogram


def test_percentiles_are_those_of_the_values_to_a_tenth_of_a_percent(histogram_class: Any) -> None:
    rng = random.Random(7)
    values = [int(rng.lognormvariate(12, 3)) for _ in range(20_000)]
    histogram = histogram_class()
    for value in values:
        histogram.record(value)
    values.sort()
    for percent in (0.01, 1, 50, 90, 95, 99, 99.9, 100):
        exact = values[max(0, -int(-len(values) * percent // 100) - 1)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.001)
    assert histogram.mean == pytest.approx(statistics.fmean(values))
    assert (histogram.count, histogram.least, histogram.most) == (20_000, values[0], values[-1])


def test_a_histogram_does_not_grow_with_the_number_of_values(histogram_class: Any) -> None:
    histogram = histogram_class()
    for value in range(2**20, 2**21, 10):
        histogram.record(value)
    assert histogram.count > 100_000
    assert len(histogram.as_json()["buckets"]) == 1024


def test_histograms_are_merged_and_survive_json(histogram_class: Any) -> None:
    first, second, both = histogram_class(), histogram_class(), histogram_class()
    for value in range(1, 100_000, 7):
        (first if value % 2 else second).record(value)
        both.record(value)
    merged = histogram_class.merged([first, histogram_class(), second])
    copied = histogram_class.from_json(json.loads(json.dumps(merged.as_json())))
    assert copied.as_json() == both.as_json()
    assert histogram_class().percentile(50) == 0
    with pytest.raises(ValueError, match="at least 0"):
        first.record(-1)
