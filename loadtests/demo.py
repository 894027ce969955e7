"""The main job on real input: some scenarios of loadtests/scenarios, plain and over TLS, then a summary.

    make demo
    .venv/bin/python -m loadtests.demo --seconds 20 --users 200

Starts gnet's server twice on loopback: plain, and over TLS with a certificate that is made for this run.
Drives them with Locust, headless: `ping`, `mixed` (lines of 10 bytes to 64 KiB, some of them in parts) and
`tls` (connections that last, and new ones with and without resumption; all verify the certificate). Then come
redis-benchmark, where that is installed, and SIGTERM.

Prints what happened and ends with 0 only if the criteria of all scenarios held and both servers drained: an
idle connection got its end of stream (over TLS with a close_notify) and the process ended with status 0.
Locust's reports, and a page that leads to them, are in reports/demo. No process outlives this one, however it
ends.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gnet.commands import OneLineParser
from loadtests.certificates import make_certificates
from loadtests.load.locusts import Outcome, Request, run
from loadtests.load.plans import PLANS
from loadtests.load.processes import ROOT, LoadError, run_program, start, status_text
from loadtests.load.summary import rows_of, summary_of, write_page
from loadtests.load.targets import Server, gnet_command

SCENARIOS = ("ping", "mixed", "tls")
PLAIN, TLS = "plain", "TLS"
# Of a server over TLS one process: two do not share the keys of their tickets, and each would resume only
# its own sessions.
WORKERS = {PLAIN: 2, TLS: 1}

BENCHMARK_SECONDS = 60
# What redis-benchmark sends for each second of a scenario: title, requests in flight, requests.
BENCHMARKS = {
    PLAIN: (("one in flight", 1, 10_000), ("32 in flight", 32, 80_000)),
    TLS: (("one in flight", 1, 5_000), ("32 in flight", 32, 40_000)),
}
PERCENTILES = (50, 95, 99)


def main() -> None:
    given = parse_arguments()
    run_program("demo", lambda: demonstrate(given))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = OneLineParser(prog="demo", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each scenario; default 3")
    parser.add_argument("--users", type=int, help="of Locust, in each scenario; default: the scenario's")
    parser.add_argument(
        *("--output", "-o"), type=Path, default=ROOT / "reports" / "demo", metavar="DIR", help="for reports"
    )
    parser.add_argument(
        "--server",
        type=shlex.split,
        metavar="COMMAND",
        help="another line server: prints `listening on HOST:PORT`, answers as "
        "loadtests/load/servers/lines.py says, drains on SIGTERM; and speaks TLS if `--tls-cert FILE "
        "--tls-key FILE` are added",
    )
    parser.add_argument(
        "--only", type=_scenarios, default=SCENARIOS, metavar="NAME,…", help=f"of {', '.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="X", help="multiply the limits of times"
    )
    given = parser.parse_args()
    if given.seconds < 1 or (given.users is not None and given.users < 1):
        parser.error("--seconds and --users are at least 1")
    if given.server is not None and not given.server:
        parser.error("--server is empty")
    return given


def _scenarios(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r} among {', '.join(SCENARIOS)}")
    return names


def demonstrate(given: argparse.Namespace) -> int:
    """Do it all; give the exit status."""
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"no folder for the reports: {error}") from error
    outcomes: list[Outcome] = []
    problems: list[str] = []
    with ExitStack() as stack:
        servers = start_servers(stack, given)
        for name, server in servers.items():
            print(f"demo: {server.command} listens on {server.site.host} ({name})", flush=True)
        baseline: Path | None = None
        for name in given.only:
            server = servers[_kind_of(name)]
            print(f"\ndemo: {name}, {given.seconds} s against {server.site.host}", flush=True)
            outcome = run_one(name, server, baseline, given)
            outcomes.append(outcome)
            problems += [f"{name}: {text}" for text in outcome.failures]
            if problems:
                break
            if name == "ping":
                baseline = outcome.folder / "figures.json"
        benchmarks = ["redis-benchmark: left out, after failures"]
        if not problems:
            benchmarks, problems = benchmark(servers, given)
        drains = []
        for name, server in servers.items():
            drained, of_drain = server.drain()
            problems += of_drain
            if drained:
                drains.append(f"The {name} server drained {drained}")
    page = given.output / "index.html"
    write_page(page, outcomes, "gnet")
    show(outcomes, [*benchmarks, "", *drains])
    report = page.resolve()
    print(f"Report: {report.relative_to(Path.cwd()) if report.is_relative_to(Path.cwd()) else report}")
    print(f"FAILED: {'; '.join(problems)}" if problems else "OK: nothing failed", flush=True)
    return 1 if problems else 0


def _kind_of(scenario: str) -> str:
    return TLS if PLANS[scenario].scheme == "tls" else PLAIN


def start_servers(stack: ExitStack, given: argparse.Namespace) -> dict[str, Server]:
    """Start the servers that the scenarios need."""
    servers = {}
    for kind in (PLAIN, TLS):
        if not any(_kind_of(name) == kind for name in given.only):
            continue
        files = None
        if kind == TLS:
            files = make_certificates(
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnet-demo-")))
            )
        command = given.server or gnet_command(WORKERS[kind])
        log = given.output / f"server-{kind.lower()}.log"
        servers[kind] = Server(stack, kind, command, log, tls=files)
    return servers


def run_one(name: str, server: Server, baseline: Path | None, given: argparse.Namespace) -> Outcome:
    """Have Locust run one scenario."""
    return run(
        Request(
            name,
            server.site,
            given.seconds,
            given.output / name,
            users=given.users,
            baseline=baseline if PLANS[name].compares else None,
            tolerance=given.tolerance,
        )
    )


# The summary


def show(outcomes: Sequence[Outcome], further: Sequence[str]) -> None:
    """Print what happened."""
    print("\nSummary\n=======")
    for outcome in outcomes:
        print(*rows_of(outcome, outcome.scenario), sep="\n")
        words = {True: "holds", False: "FAILED", None: "left out"}
        print(*(f"  {words[holds]}: {text}" for holds, text in outcome.results), "", sep="\n")
    print(*summary_of(outcomes), "", sep="\n")
    seconds = sum(outcome.cpu_seconds for outcome in outcomes)
    print(
        f"Times as Locust's users saw them, to three digits; Locust itself had {seconds:.1f} s of CPU time.\n"
    )
    print(*further, sep="\n")


# redis-benchmark


def benchmark(servers: dict[str, Server], given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Have redis-benchmark drive each server; give the lines to print, and what went wrong."""
    program = shutil.which("redis-benchmark")
    if program is None:
        return ["redis-benchmark is not installed (Debian package redis-tools): left out"], []
    print("\ndemo: redis-benchmark -t ping_inline ...", flush=True)
    # It may have been built without TLS. Its help tells, on one stream or the other and with any status.
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines, problems = ["redis-benchmark -t ping_inline, 50 connections:"], []
    for kind, server in servers.items():
        if server.tls is not None and "--tls" not in usage.stdout + usage.stderr:
            lines.append("  TLS    left out: this redis-benchmark was built without it")
            continue
        for title, pipeline, requests in BENCHMARKS[kind]:
            try:
                figures = run_redis_benchmark(server, pipeline, requests * given.seconds)
            except LoadError as error:
                problems.append(f"{kind}: {error}")
                figures = "failed"
            lines.append(f"  {kind:7}{title:14}{figures}")
    return lines, problems


def run_redis_benchmark(server: Server, pipeline: int, requests: int) -> str:
    """Have redis-benchmark send PING lines over 50 connections; give its figures. Raises LoadError."""
    command = [
        *("redis-benchmark", "-h", server.address, "-p", str(server.port), "-t", "ping_inline", "--csv"),
        *("-n", str(requests), "-P", str(pipeline)),
    ]
    if server.tls is not None:
        command += ["--tls", "--cacert", str(server.tls.ca)]
    with ExitStack() as stack:
        client = start(stack, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = client.communicate(timeout=BENCHMARK_SECONDS)
        except subprocess.TimeoutExpired:
            raise LoadError(f"redis-benchmark did not end within {BENCHMARK_SECONDS} s") from None
        if client.returncode:
            last = (errors.strip() or output.strip()).rpartition("\n")[2]
            raise LoadError(f"redis-benchmark ended with {status_text(client.returncode)}: {last}")
    rows = list(csv.reader(output.splitlines()))
    found = next((row for row in rows if row[:1] == ["PING_INLINE"]), None)
    if found is None or len(found) < 2:
        raise LoadError(f"redis-benchmark printed no figures: {output[:100]!r}")
    figures = dict(zip(rows[0], found, strict=False))
    text = f"{float(found[1]):12,.0f} requests/s"
    for percent in PERCENTILES:  # from Redis 6.2 on
        if (key := f"p{percent}_latency_ms") in figures:
            text += f"   p{percent} {float(figures[key]):.3f}"
    return text + (" ms" if len(found) > 2 else "")


if __name__ == "__main__":
    main()
