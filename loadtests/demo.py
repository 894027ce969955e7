"""The main job on real input: ten seconds of Locust against the ping server, plain and TLS, then a summary.

    make demo
    .venv/bin/python -m loadtests.demo --seconds 60 --users 200

Starts `python -m gnet serve examples/ping_server.py:answer --workers 2` twice on loopback: plain, and over
TLS with a certificate that is made for this run. Drives both at once with loadtests/locustfile.py (headless
Locust, whose progress is shown as it comes), so that the figures of plain and TLS are of the same seconds on
the same machine: half of the users talk plainly, the other half over TLS and to nobody whose certificate is
not right. Then come redis-benchmark, where that is installed, and SIGTERM.

Prints what happened and ends with 0 only if both servers had requests, none of them failed and both drained:
an idle connection got its end of stream (over TLS with a close_notify) and the process ended with status 0.
No process outlives this one, however it ends.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib.util
import json
import re
import resource
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from loadtests.certificates import CertificateFiles, make_certificates
from loadtests.histogram import Histogram

ROOT = Path(__file__).resolve().parent.parent
LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
PLAIN, TLS = "plain", "TLS"  # as in the locustfile
HANDLER = f"{ROOT / 'examples' / 'ping_server.py'}:answer"
SERVER = [sys.executable, "-m", "gnet", "serve", HANDLER, "--workers", "2", "--port", "0"]

START_SECONDS = 15  # until the server says that it listens
DRAIN_SECONDS = 5  # from SIGTERM to the server's end
STOP_SECONDS = 10  # for users to end what they are at: more than the 5 s of the locustfile's timeouts
SPARE_SECONDS = 30  # for Locust to start and to write its report
BENCHMARK_SECONDS = 60
# What redis-benchmark sends for each second of Locust's: title, requests in flight, requests.
BENCHMARKS = {
    PLAIN: (("one in flight", 1, 4_000), ("32 in flight", 32, 40_000)),
    TLS: (("one in flight", 1, 2_000), ("32 in flight", 32, 20_000)),
}
PERCENTILES = (50, 95, 99)

_PR_SET_PDEATHSIG = 1  # Linux: prctl(2)
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here and not in a forked child


class DemoError(Exception):
    """Why there is nothing to show, in one line."""


# Processes


def start(stack: ExitStack, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Start a process that ends at the latest when `stack` does.

    It gets a process group of its own: Ctrl-C then reaches this program alone, which ends the others.
    """
    process: subprocess.Popen[str] = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        process_group=0,
        preexec_fn=_end_with_parent,
        **options,
    )
    stack.callback(end, process)
    return process


def _end_with_parent() -> None:
    """In the child: be killed when this program is (which then can end nobody in order)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end(process: subprocess.Popen[str]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:  # also when a second Ctrl-C comes meanwhile
        process.kill()
        process.wait()


def status_text(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"


class Server:
    """A server under test, which has said where it listens."""

    def __init__(
        self, stack: ExitStack, command: Sequence[str], log: Path, tls: CertificateFiles | None = None
    ) -> None:
        """Start it, its standard output going to `log`, and wait until that names an address.

        Args:
            tls: speak TLS, with this certificate.
        """
        self.kind = PLAIN if tls is None else TLS
        self.tls = tls
        if tls is not None:
            command = [*command, "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
        self.command = shlex.join(command)
        # A file: nobody has to go on reading from it, as from a pipe, lest the server stop at a full one.
        with log.open("w") as output:
            try:
                self.process = start(stack, command, stdout=output)
            except OSError as error:
                raise DemoError(f"the {self.kind} server can not be started: {error}") from error
        give_up = time.monotonic() + START_SECONDS
        while not (found := re.search(r"^listening on (\S+):(\d+)\n", log.read_text(errors="replace"), re.M)):
            if (status := self.process.poll()) is not None:
                raise DemoError(f"the {self.kind} server ended with {status_text(status)} before it listened")
            if time.monotonic() > give_up:
                raise DemoError(
                    f"the {self.kind} server did not say within {START_SECONDS} s that it listens"
                )
            time.sleep(0.01)
        self.address = f"{'' if tls is None else 'tls://'}{found[1]}:{found[2]}"
        self.host, self.port = found[1].strip("[]"), int(found[2])

    def drain(self) -> tuple[str, list[str]]:
        """Have the server end in order; give how that went, and what was wrong with it."""
        name = f"the {self.kind} server"
        if (status := self.process.poll()) is not None:
            return "", [f"{name} ended by itself, with {status_text(status)}"]
        problems = []
        with ExitStack() as stack:
            try:
                idle = stack.enter_context(self.connect())
                idle.sendall(b"PING\r\n")
                with idle.makefile("rb") as answers:
                    if not answers.readline():
                        return "", [f"a last connection to {name} ended without an answer"]
            except OSError as error:
                return "", [f"a last connection to {name} failed: {error}"]
            started = time.monotonic()
            self.process.terminate()
            try:
                status = self.process.wait(DRAIN_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                return "", [f"{name} did not end within {DRAIN_SECONDS} s of SIGTERM"]
            milliseconds = 1000 * (time.monotonic() - started)
            try:
                if idle.recv(100):
                    problems.append(f"{name} sent more than it was asked for")
            except OSError as error:
                problems.append(f"an idle connection to {name} did not end in order: {error}")
        if status:
            problems.append(f"{name} ended with {status_text(status)} after SIGTERM")
        return f"in {milliseconds:.0f} ms after SIGTERM, {status_text(status)}", problems

    def connect(self) -> socket.socket:
        """Connect by Python's own means, which verify the certificate too and need a close_notify."""
        connection = socket.create_connection((self.host, self.port), DRAIN_SECONDS)
        if self.tls is None:
            return connection
        with ExitStack() as stack:
            stack.callback(connection.close)
            context = ssl.create_default_context(cafile=str(self.tls.ca))
            wrapped = context.wrap_socket(connection, server_hostname=self.host, suppress_ragged_eofs=False)
            stack.pop_all()
        return wrapped


# Locust


@dataclass
class Load:
    """What Locust's users met."""

    seconds: float
    times: dict[tuple[str, str], Histogram]  # nanoseconds of the requests that went well, by kind and name
    failures: list[tuple[str, str, str, int]]  # kind, name, exception, how many
    line_bytes: Histogram
    cpu_seconds: float

    def failed(self, kind: str | None = None) -> int:
        return sum(count for key, _name, _text, count in self.failures if kind in (None, key))

    def requests(self, kind: str | None = None) -> int:
        well = sum(times.count for (key, _name), times in self.times.items() if kind in (None, key))
        return well + self.failed(kind)


def run_locust(servers: Sequence[Server], given: argparse.Namespace) -> Load:
    """Have Locust drive the servers, each by a share of the users. Raises DemoError if that did not work."""
    report, figures = report_file(given), given.output / "figures.json"
    for file in (report, figures):
        file.unlink(missing_ok=True)  # those of an earlier run must not be taken for this one's
    command = [
        *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless"),
        *("--host", ",".join(server.address for server in servers)),
        *("--users", str(given.users), "--spawn-rate", str(min(given.users, 100))),
        *("--run-time", f"{given.seconds}s", "--stop-timeout", str(STOP_SECONDS)),
        *("--exit-code-on-error", "0", "--html", str(report), "--figures", str(figures)),
    ]
    for server in servers:
        if server.tls is not None:
            command += ["--tls-ca", str(server.tls.ca)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with ExitStack() as stack:
        locust = start(stack, command)
        try:
            status = locust.wait(given.seconds + STOP_SECONDS + SPARE_SECONDS)
        except subprocess.TimeoutExpired:
            raise DemoError("Locust did not end when its time was over") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        raise DemoError(f"Locust ended with {status_text(status)}")
    for file in (report, figures):
        if not file.is_file():
            raise DemoError(f"Locust did not write {file}")
    data = json.loads(figures.read_text(encoding="utf-8"))
    return Load(
        seconds=data["seconds"],
        times={(kind, name): Histogram.from_json(times) for kind, name, times in data["times_ns"]},
        failures=[(kind, name, text, count) for kind, name, text, count in data["failures"]],
        line_bytes=Histogram.from_json(data["line_bytes"]),
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def report_file(given: argparse.Namespace) -> Path:
    return Path(given.output) / "report.html"


# redis-benchmark


def benchmark(servers: Sequence[Server], given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Have redis-benchmark drive each server; give the lines to print, and what went wrong."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return ["redis-benchmark is not installed (Debian package redis-tools): left out"], []
    print("\ndemo: redis-benchmark -t ping_inline ...", flush=True)
    # It may have been built without TLS. Its help tells, on one stream or the other and with any status.
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines, problems = ["redis-benchmark -t ping_inline, 50 connections:"], []
    for server in servers:
        if server.tls is not None and "--tls" not in usage.stdout + usage.stderr:
            lines.append("  TLS    left out: this redis-benchmark was built without it")
            continue
        for title, pipeline, requests in BENCHMARKS[server.kind]:
            try:
                figures = run_redis_benchmark(server, pipeline, requests * given.seconds)
            except DemoError as error:
                problems.append(f"{server.kind}: {error}")
                figures = "failed"
            lines.append(f"  {server.kind:7}{title:14}{figures}")
    return lines, problems


def run_redis_benchmark(server: Server, pipeline: int, requests: int) -> str:
    """Have redis-benchmark send PING lines over 50 connections; give its figures. Raises DemoError."""
    command = [
        *("redis-benchmark", "-h", server.host, "-p", str(server.port), "-t", "ping_inline", "--csv"),
        *("-n", str(requests), "-P", str(pipeline)),
    ]
    if server.tls is not None:
        command += ["--tls", "--cacert", str(server.tls.ca)]
    with ExitStack() as stack:
        client = start(stack, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = client.communicate(timeout=BENCHMARK_SECONDS)
        except subprocess.TimeoutExpired:
            raise DemoError(f"redis-benchmark did not end within {BENCHMARK_SECONDS} s") from None
        if client.returncode:
            last = (errors.strip() or output.strip()).rpartition("\n")[2]
            raise DemoError(f"redis-benchmark ended with {status_text(client.returncode)}: {last}")
    rows = list(csv.reader(output.splitlines()))
    found = next((row for row in rows if row[:1] == ["PING_INLINE"]), None)
    if found is None or len(found) < 2:
        raise DemoError(f"redis-benchmark printed no figures: {output[:100]!r}")
    figures = dict(zip(rows[0], found, strict=False))
    text = f"{float(found[1]):12,.0f} requests/s"
    for percent in PERCENTILES:  # from Redis 6.2 on
        if (key := f"p{percent}_latency_ms") in figures:
            text += f"   p{percent} {float(figures[key]):.3f}"
    return text + (" ms" if len(found) > 2 else "")


# The summary


def table(load: Load, kind: str) -> list[str]:
    """Give the lines of the table of one server: a row for each sort of request, and all of them together."""
    failed: dict[str, int] = {}
    for key, name, _text, count in load.failures:
        if key == kind:
            failed[name] = failed.get(name, 0) + count
    times_of = {name: times for (key, name), times in load.times.items() if key == kind}
    rows = [
        (name, times_of.get(name, Histogram()), failed.get(name, 0)) for name in sorted({*times_of, *failed})
    ]
    rows.append(("total", Histogram.merged(times_of.values()), load.failed(kind)))
    columns = ["requests", "failures", "requests/s", *(f"p{percent} ms" for percent in PERCENTILES), "max ms"]
    lines = [f"{kind:14}" + "".join(f"{column:>12}" for column in columns)]
    for name, times, failures in rows:
        requests = times.count + failures
        cells = [f"{requests:,}", f"{failures:,}", f"{requests / load.seconds:,.1f}"]
        if times.count:
            cells += [f"{times.percentile(percent) / 1e6:.3f}" for percent in PERCENTILES]
            cells.append(f"{times.most / 1e6:.3f}")
        lines.append(f"{name:14}" + "".join(f"{cell:>12}" for cell in cells))
    return lines


def describe(load: Load, servers: Sequence[Server], given: argparse.Namespace) -> list[str]:
    sizes = load.line_bytes
    tables = [line for server in servers for line in (*table(load, server.kind), "")]
    lines = [
        f"{given.users} users for {load.seconds:.1f} s; {sizes.count:,} lines of {sizes.least:,} to "
        f"{sizes.most:,} bytes, median {sizes.percentile(50):,.0f}, mean {sizes.mean:,.0f}",
        "",
        *tables,
        "Times: of requests that went well, to 0.1 % (Locust's own are rounded), as its users saw them;",
        f"Locust itself had {load.cpu_seconds:.1f} s of CPU time, its start included.",
    ]
    if load.failures:
        lines += ["", "Failures:"]
        lines += [f"{count:8,} × {kind} {name}: {text}" for kind, name, text, count in load.failures[:10]]
        if len(load.failures) > 10:
            lines.append(f"         and {len(load.failures) - 10} kinds more")
    return lines


def run(given: argparse.Namespace) -> int:
    """Do it all; give the exit status."""
    for module in ("gnet", "locust"):
        if importlib.util.find_spec(module) is None:
            raise DemoError(
                f"{module} is not installed for {sys.executable}: run `make demo`, which does that"
            )
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"no folder for the report: {error}") from error
    problems: list[str] = []
    with ExitStack() as stack:
        servers = [Server(stack, given.server, given.output / "server.log")]
        if not given.no_tls:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnet-demo-")))
            files = make_certificates(folder)
            servers.append(Server(stack, given.server, given.output / "server-tls.log", files))
        for server in servers:
            print(f"demo: {server.command} listens on {server.address}", flush=True)
        load = run_locust(servers, given)
        for server in servers:
            if not load.requests(server.kind):
                problems.append(f"there was no {server.kind} request")
        if load.failed():
            problems.append(f"{load.failed():,} of {load.requests():,} requests failed")
        benchmarks = ["redis-benchmark: left out, after failures"]
        if not problems:
            benchmarks, problems = benchmark(servers, given)
        drains = []
        for server in servers:
            drained, drain_problems = server.drain()
            problems += drain_problems
            if drained:
                drains.append(f"The {server.kind} server drained {drained}")
    print("\nSummary\n=======")
    print(*describe(load, servers, given), "", *benchmarks, "", *drains, sep="\n")
    report = report_file(given).resolve()
    print(f"Report: {report.relative_to(Path.cwd()) if report.is_relative_to(Path.cwd()) else report}")
    print(f"FAILED: {'; '.join(problems)}" if problems else "OK: nothing failed", flush=True)
    return 1 if problems else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="of load; default 10")
    parser.add_argument(
        "--users", type=int, default=50, help="of Locust, each with one connection; default 50"
    )
    parser.add_argument(
        *("--output", "-o"), type=Path, default=ROOT / "build" / "demo", metavar="DIR", help="for the report"
    )
    parser.add_argument(
        "--server",
        type=shlex.split,
        default=SERVER,
        metavar="COMMAND",
        help="another line server: prints `listening on HOST:PORT`, answers +PONG, drains on SIGTERM; and "
        "speaks TLS if `--tls-cert FILE --tls-key FILE` are added",
    )
    parser.add_argument("--no-tls", action="store_true", help="leave the TLS half out")
    given = parser.parse_args()
    if given.seconds < 1 or given.users < (1 if given.no_tls else 2):
        parser.error("--seconds is at least 1, and --users 2: plain and TLS (1 with --no-tls)")
    if not given.server:
        parser.error("--server is empty")
    return given


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)  # so that processes are ended on the way out


def main() -> None:
    given = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    try:
        sys.exit(run(given))
    except DemoError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
