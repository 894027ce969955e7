"""`python -m gnet bench HOST:PORT`: how many lines a server answers, and how fast."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from typing import Final

from gnet.benchmarking.conducting import LoadError, conduct
from gnet.benchmarking.plan import Plan, Target, line_option
from gnet.benchmarking.progress import ProgressLine
from gnet.commands import milliseconds
from gnet.commands.terminal import complain, fill_standard_streams
from gnet.tls.contexts import new_context

__all__ = ["add_parser", "run"]

_DESCRIPTION: Final = """\
Send lines to a server for a while, and show how many it answered and how long each answer took. An answer is
one line.

  python -m gnet bench localhost:7000                    50 connections, each waits for its answer
  python -m gnet bench localhost:7000 -P 32              32 lines at once on each
  python -m gnet bench localhost:7000 --rate 5000        5,000 lines each second, however the server does
  python -m gnet bench [::1]:7443 --tls --ca ca.pem      TLS; the certificate must verify
  python -m gnet bench localhost:6379 --expect +PONG     redis-server; any other answer is an error
"""

_EPILOG: Final = """\
The time of an answer is from just before its line is sent (with --rate: from when it was due) until it is
read. Ctrl-C ends it early, with its summary.

Exit status: 0; 1 if there was no connection, or not one right answer, or nowhere to write the figures;
2 if the options are wrong; 130 after Ctrl-C.
"""

_SECONDS: Final = 10.0

# What a line of a histogram needs, and what its bars are still easy to read in.
_NARROWEST: Final = 60
_WIDEST: Final = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m gnet`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how many lines a server answers, and how fast",
        usage="python -m gnet bench HOST:PORT [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("server", metavar="HOST:PORT", help="or [IPV6]:PORT, or unix:PATH")
    parser.add_argument("-c", type=_count, default=50, metavar="N", dest="connections", help="default: 50")
    parser.add_argument(
        "-P", type=_count, default=1, metavar="N", dest="pipeline", help="lines in flight on each; default: 1"
    )
    parser.add_argument("-d", type=_positive, metavar="SECONDS", dest="seconds", help="default: 10")
    parser.add_argument("-n", type=_count, metavar="N", dest="requests", help="so many lines; not with -d")
    parser.add_argument("--rate", type=_positive, metavar="N", help="begin N lines each second, in all")
    parser.add_argument("--line", default="PING", metavar="TEXT", help="without its end; default: PING")
    parser.add_argument("--expect", metavar="TEXT", help="the right answer; default: any line")
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=10_000,
        metavar="MS",
        help="for each answer, and to connect; default: 10000",
    )
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="share the load; default: 1")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, and no histogram")
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls", action="store_true", help="speak TLS; the certificate must be for HOST")
    tls.add_argument("--ca", metavar="FILE", help="trust these CAs, not certifi's")
    tls.add_argument("--servername", metavar="NAME", help="ask for and verify this name instead of HOST")
    tls.add_argument("--no-verify", action="store_true", help="accept any certificate")


def run(given: argparse.Namespace) -> int:
    """Measure and print; give the exit status.

    Raises:
        ValueError, OSError: what is given can not be used. What the network does is a line and status 1.
    """
    _prepare_streams()
    progress = ProgressLine(sys.stderr)
    plan = _plan(given, progress.interval)
    try:
        outcome = conduct(plan.shares(given.processes), progress.show, on_start=progress.start)
    except LoadError as error:
        complain(error)
        return 1
    finally:
        progress.end()
    if given.json:
        text = json.dumps(outcome.as_json(plan, given.processes))
    else:
        width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))
        text = outcome.as_text(plan, given.processes, width, ascii_only=not _can_draw())
    if not _printed(text):
        return 1
    if outcome.interrupted:
        return 130
    return 0 if outcome.answered else 1


def _plan(given: argparse.Namespace, report_every: float) -> Plan:
    target = Target.parse(given.server)
    if given.requests is not None and given.seconds is not None:
        raise ValueError("-n and -d exclude each other")
    for option, number in (("-c", given.connections), ("-n", given.requests)):
        if number is not None and number < given.processes:
            raise ValueError(f"{option} {number} is less than one for each of --processes {given.processes}")
    if not given.tls:
        for option in ("ca", "servername", "no_verify"):
            if getattr(given, option):
                raise ValueError(f"--{option.replace('_', '-')} needs --tls")
    elif given.ca and given.no_verify:
        raise ValueError("--ca and --no-verify exclude each other")
    elif target.path and not given.servername and not given.no_verify:
        raise ValueError("--tls needs --servername on a Unix socket: the name that the certificate is for")
    elif given.ca:
        new_context(ca_file=given.ca)  # raises, for a file that can not be used, before anything has begun
    return Plan(
        target,
        connections=given.connections,
        pipeline=given.pipeline,
        seconds=None if given.requests is not None else given.seconds or _SECONDS,
        requests=given.requests,
        rate=given.rate,
        line=line_option(given.line, "--line"),
        expect=None if given.expect is None else line_option(given.expect, "--expect"),
        timeout=given.timeout,
        tls=given.tls,
        ca_file=given.ca or "",
        servername=given.servername or "",
        verify=not given.no_verify,
        report_every=report_every,
    )


def _prepare_streams() -> None:
    """Have standard streams, even where they were closed: Python has none then."""
    fill_standard_streams()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until the end


def _printed(text: str) -> bool:
    """Print; say what is wrong if that fails, unless it is that nobody reads it any more."""
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(error)
        # Python flushes once more at the end, and what it then says is of no use.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _can_draw() -> bool:
    """Whether standard output can have bars of Unicode's block elements."""
    try:
        "▏█–×".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _timeout(text: str) -> float:
    timeout = milliseconds(text)
    if not timeout:
        raise argparse.ArgumentTypeError("expected milliseconds above 0, or -1 for no limit, got 0")
    return timeout


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 10**15:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return number


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 1e9:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number
