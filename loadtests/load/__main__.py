"""Run a scenario of loadtests/scenarios, or all, against a server, and say whether its criteria held.

    make load SCENARIO=ping                       gnet's server, 10 seconds
    make load SCENARIO=all
    make load SCENARIO=mixed WORKERS=2            Locust's own master and two workers
    make load SCENARIO=churn TARGET=gevent        another server, to compare: gevent, asyncio or HOST:PORT
    make load SCENARIO=ping ARGS='--seconds 60 --users 200 --tls'

Starts the server, runs `ping` for what the scenario is compared to, then the scenario, with Locust headless.
Writes Locust's HTML report and CSV files, gnet's figures and a page that leads to them into reports/. Ends
with 0 if all criteria held and the server drained in order, with 1 if not, with 2 if it was asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from gnet.commands import OneLineParser
from loadtests.certificates import CertificateFiles, make_certificates
from loadtests.load.locusts import Outcome, Request, run
from loadtests.load.plans import PLANS, SECONDS, Plan, users_that_fit
from loadtests.load.processes import ROOT, LoadError, run_program
from loadtests.load.summary import rows_of, summary_of, write_page
from loadtests.load.targets import KINDS, Server, Site, server_command, site_of

BASELINE_SECONDS = 5


def main() -> None:
    given = parse_arguments()
    run_program("load", lambda: run_all(given))


def parse_arguments() -> argparse.Namespace:
    """Read the command line; what is wrong with it is one line and status 2."""
    parser = OneLineParser(
        prog="load",
        usage="python -m loadtests.load SCENARIO [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("scenario", metavar="SCENARIO", help=f"{', '.join(PLANS)}; or all")
    parser.add_argument("--target", default="gnet", help=f"{', '.join(KINDS)} or HOST:PORT; default: gnet")
    parser.add_argument("--tls", action="store_true", help="run a scenario of TCP over TLS")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="whom to trust at HOST:PORT")
    parser.add_argument(
        "--metrics", default="", metavar="URL", help="the counters of the server at HOST:PORT"
    )
    parser.add_argument("--seconds", type=_positive, default=SECONDS, help=f"of load; default: {SECONDS}")
    parser.add_argument("--users", type=_positive, metavar="N", help="default: the scenario's")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="Locust's; default: one process")
    parser.add_argument(
        "--server-workers", type=_positive, default=1, metavar="N", help="processes of gnet's server"
    )
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="figures of ping to compare with")
    parser.add_argument(
        "--baseline-seconds",
        type=_positive,
        default=BASELINE_SECONDS,
        help=f"of ping, before the scenario; default: {BASELINE_SECONDS}",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="X",
        help="multiply the limits of times: above 1 on a machine that has other things to do",
    )
    parser.add_argument(
        *("--output", "-o"), type=Path, default=ROOT / "reports", metavar="DIR", help="default: reports/"
    )
    given = parser.parse_args()
    if given.scenario not in (*PLANS, "all"):
        parser.error(f"there is no scenario {given.scenario!r}; there are {', '.join(PLANS)}, and all")
    if given.workers < 0:
        parser.error(f"--workers: expected at least 0, got {given.workers}")
    if given.target not in KINDS:
        try:
            site_of(given.target, "tcp", None)
        except LoadError as error:
            parser.error(str(error))
    for file in (given.baseline, given.tls_ca):
        if file is not None and not file.is_file():
            parser.error(f"there is no file {file}")
    if importlib.util.find_spec("locust") is None:
        parser.error(f"Locust is not installed for {sys.executable}: run `make load`, which does that")
    return given


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return number


def run_all(given: argparse.Namespace) -> int:
    """Run what was asked for; give the exit status."""
    names = list(PLANS) if given.scenario == "all" else [given.scenario]
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadError(f"no folder for the reports: {error}") from error
    outcomes: list[Outcome] = []
    for name in names:
        try:
            outcome = run_scenario(name, given)
        except LoadError as error:
            if given.scenario != "all":
                raise
            print(f"FAILED: {name}: {error}", flush=True)
            outcome = Outcome(name, given.output / name, [(False, str(error))], {}, None, None, 0.0)
        outcomes.append(outcome)
    page = given.output / "index.html"
    write_page(page, outcomes, given.target)
    print()
    if len(outcomes) == 1:
        print(*rows_of(outcomes[0], names[0]), "", sep="\n")
    print(*summary_of(outcomes), "", sep="\n")
    print(f"Report: {page}")
    failed = [f"{each.scenario}: {text}" for each in outcomes for text in each.failures]
    for text in failed:
        print(f"FAILED: {text}")
    if not failed:
        print("OK: all criteria hold")
    sys.stdout.flush()
    return 1 if failed else 0


def run_scenario(name: str, given: argparse.Namespace) -> Outcome:
    """Run one scenario, against a server of its own if it is to be started."""
    plan = PLANS[name]
    folder: Path = given.output / name
    folder.mkdir(parents=True, exist_ok=True)
    users, missing = users_that_fit(plan, given.users)
    if missing:
        print(f"{name}: {missing}", flush=True)
    with ExitStack() as stack:
        server = start_server(stack, name, plan, given) if given.target in KINDS else None
        site = server.site if server is not None else _site(plan, given)
        problems: list[str] = []
        baseline: Path | None = given.baseline
        if plan.compares and baseline is None:
            print(f"{name}: ping for {given.baseline_seconds} s, to compare with", flush=True)
            before = run(
                Request("ping", site, given.baseline_seconds, folder / "baseline", tolerance=given.tolerance)
            )
            baseline = before.folder / "figures.json"
            problems = [f"ping before it: {text}" for text in before.failures]
        extra = _extra_seconds(plan, users)
        print(f"{name}: {given.seconds + extra} s against {site.host} ({given.target})", flush=True)
        outcome = run(
            Request(
                name,
                site,
                given.seconds,
                folder,
                users,
                given.workers,
                baseline if plan.compares else None,
                given.tolerance,
                extra,
            )
        )
        outcome.problems += problems
        if server is not None:
            outcome.problems += end_server(server, plan)
    for holds, text in outcome.results:
        print(f"  {'holds' if holds else 'left out' if holds is None else 'FAILED'}: {text}")
    return outcome


def start_server(stack: ExitStack, name: str, plan: Plan, given: argparse.Namespace) -> Server:
    """Start the server of a scenario, which ends with `stack`."""
    scheme = _scheme(plan, given)
    files: CertificateFiles | None = None
    if scheme == "tls":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnet-load-")))
        files = make_certificates(folder)
    command = server_command(given.target, scheme == "udp", given.server_workers, plan.server_options)
    return Server(stack, given.target, command, given.output / name / "server.log", scheme=scheme, tls=files)


def end_server(server: Server, plan: Plan) -> list[str]:
    """End the server and give what was wrong with that; of others than gnet's nothing is asked."""
    if not server.site.metrics:
        status = server.process.poll()
        return [] if status is None else [f"{server.name} ended by itself"]
    return server.drain()[1]


def _site(plan: Plan, given: argparse.Namespace) -> Site:
    site = site_of(given.target, _scheme(plan, given), given.tls_ca)
    site.metrics = given.metrics
    return site


def _scheme(plan: Plan, given: argparse.Namespace) -> str:
    return "tls" if given.tls and plan.scheme == "tcp" else plan.scheme


def _extra_seconds(plan: Plan, users: int | None) -> int:
    """Give how much longer a crowd takes to be there; a smaller one in proportion."""
    if not plan.crowd or users is None:
        return plan.crowd_seconds
    return -(-plan.crowd_seconds * users // plan.crowd)


if __name__ == "__main__":
    main()
