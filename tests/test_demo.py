"""`make demo`'s program, loadtests/demo.py: what it prints, what it leaves behind, and when it fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 50.0  # seconds for what takes about five

pytestmark = pytest.mark.plain_only

# Servers that do not do what the demo asks of them: the ping server with one thing changed.
WRONG_SERVER = """
import sys
sys.path.insert(0, {examples!r})
import ping_server
{change}
"""


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start the demo with its files in `folder`, which the command lines of all its processes name."""
    # Copied, so that the server's command line has the folder's name in it too.
    file = shutil.copy(ROOT / "loadtests" / "load" / "servers" / "gnet_lines.py", folder)
    if "--server" not in arguments:
        server = f"{sys.executable} -m gnet serve {file}:answer --metrics-port 0"
        arguments = ("--server", server, *arguments)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "loadtests.demo", "--output", str(folder / "out")),
            *("--tolerance", "10", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stderr.close()


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo with its files in `tmp_path`."""
    with ExitStack() as stack:

        def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            process = launch(tmp_path, *arguments, **environment)
            stack.callback(end, process)
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


def test_the_demo_runs_scenarios_on_both_servers_and_says_how_that_went(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_demo("--seconds", "2")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert output.endswith("OK: nothing failed\n")
    for scenario in ("ping", "mixed", "tls"):
        assert re.search(rf"^{scenario} .* passed$", output, re.M), output
        figures = json.loads((tmp_path / "out" / scenario / "figures.json").read_text())
        assert figures["failures"] == []
        assert figures["total"]["requests"] > 100
        assert f'href="{scenario}/report.html"' in (tmp_path / "out" / "index.html").read_text()
        assert scenario in (tmp_path / "out" / scenario / "report.html").read_text()
    assert "RAW line in parts " in output
    assert "TLS resumed " in output
    assert "  holds: the server counted the same " in output
    for kind in ("plain", "TLS"):
        assert re.search(rf"^The {kind} server drained in \d+ ms after SIGTERM, status 0$", output, re.M)
    assert f"Report: {tmp_path / 'out' / 'index.html'}\n" in output
    if shutil.which("redis-benchmark"):  # without it: see below
        for title in ("plain +one", "plain +32", "TLS +one", "TLS +32"):
            row = rf"^  {title} in flight +[\d,]+ requests/s   p50 \d+\.\d+   p95 .* ms$"
            assert re.search(row, output, re.M), output
    key = re.search(r"--tls-key (\S+)", output)
    assert key is not None
    assert not Path(key[1]).parent.exists()
    assert processes_of(tmp_path) == []


def test_the_demo_leaves_tls_out_where_redis_benchmark_has_none(
    start_demo: Callable[..., subprocess.Popen[str]], needs_program: Callable[[str], str], tmp_path: Path
) -> None:
    program = needs_program("redis-benchmark")
    without = tmp_path / "redis-benchmark"
    without.write_text(f'#!/bin/sh\n[ "$1" = --help ] && echo usage && exit 1\nexec {program} "$@"\n')
    without.chmod(0o700)
    process = start_demo("--seconds", "2", "--only", "tls", PATH=f"{tmp_path}:/usr/bin:/bin")
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert "  TLS    left out: this redis-benchmark was built without it\n" in output


def test_the_demo_says_that_redis_benchmark_is_missing(
    start_demo: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_demo("--seconds", "2", "--only", "ping", PATH=str(tmp_path))
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert "redis-benchmark is not installed (Debian package redis-tools)" in output
    assert "TLS" not in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "pong"], "demo: argument --only: there is no 'pong' among ping, mixed, tls"),
        (["--users", "0"], "demo: --seconds and --users are at least 1"),
        (["--server", ""], "demo: --server is empty"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(
    start_demo: Callable[..., subprocess.Popen[str]], arguments: list[str], complaint: str
) -> None:
    process = start_demo(*arguments)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (2, "")
    assert errors.startswith(complaint)
    assert errors.count("\n") == 1


FAULTS = {
    "wrong answer": (
        "ping_server.ANSWER = b'+PUNG\\r\\n'; ping_server.main()",
        "expected b'+PONG', got b'+PUNG'",
    ),
    "two answers": (
        "ping_server.ANSWER *= 2; ping_server.main()",
        "more than one answer",
    ),
    "no answer": (
        "ping_server.answer = lambda client, address: client.close(); ping_server.main()",
        "× LINE ping: ",
    ),
    "no drain": (
        "ping_server.main(); sys.exit(3)",
        "the plain server ended with status 3 after SIGTERM",
    ),
    "reset at the end": (
        "import gevent, gnet\n"
        "gnet.Server.stop = lambda server, **_: gevent.spawn(server.close)\n"
        "ping_server.main()",
        "an idle connection to the plain server did not end in order: ",
    ),
    "does not end": (
        "import gnet; gnet.Server.stop = lambda server, **_: None; ping_server.main()",
        "the plain server did not end within 5 s of SIGTERM",
    ),
    "TLS is not spoken": (
        "sys.argv[1:] = []; ping_server.main()",
        "SslError(",
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
        "an idle connection to the TLS server did not end in order: ",
    ),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, list[int]]]:
    """Demos with servers at fault, all at once: status, output, errors, and the processes that are left."""
    with ExitStack() as stack:
        started = {}
        for number, (fault, (change, complaint)) in enumerate(FAULTS.items()):
            folder = tmp_path_factory.mktemp(f"fault{number}-")
            program = folder / "wrong_server.py"
            program.write_text(WRONG_SERVER.format(examples=str(ROOT / "examples"), change=change))
            only = "tls" if "TLS" in fault + complaint or "certificate" in fault else "ping"
            arguments = ("--server", f"{sys.executable} {program}", "--seconds", "2", "--only", only)
            started[fault] = folder, launch(folder, *arguments, PATH="/nowhere")
            stack.callback(end, started[fault][1])
        found = {}
        for fault, (folder, process) in started.items():
            output, errors = process.communicate(timeout=PATIENCE)
            found[fault] = process.returncode, output, errors, processes_of(folder)
        return found


@pytest.mark.parametrize("fault", FAULTS)
def test_the_demo_fails_when_the_server_is_at_fault(
    fault: str, faulty: dict[str, tuple[int, str, str, list[int]]]
) -> None:
    status, output, errors, left = faulty[fault]
    assert status == 1, output + errors
    assert FAULTS[fault][1] in output
    assert "\nFAILED: " in output
    assert left == []


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
    process = start_demo("--seconds", "60", "--users", "3", "--only", "ping,tls")
    while not (line := process.stdout.readline()).startswith("  gnet: "):
        assert line, process.stderr.read()
    running = processes_of(tmp_path)
    assert len(running) == 4  # the demo, two servers, Locust
    assert len({os.getpgid(pid) for pid in running}) == 4  # a terminal's Ctrl-C reaches the demo alone
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    log = (tmp_path / "out" / "ping" / "locust.log").read_text()
    assert ("Got SIGTERM signal" in log) == (number != signal.SIGKILL)  # Locust was ended in order
    give_up = time.monotonic() + PATIENCE
    while processes_of(tmp_path) and time.monotonic() < give_up:
        time.sleep(0.01)  # the kernel ends those of a killed demo, in its own time
    assert processes_of(tmp_path) == []
