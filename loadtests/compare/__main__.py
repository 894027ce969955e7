"""gnet and its peers side by side: server CPU time per request, requests per second, latency, memory.

    python -m loadtests.compare                  plain and TLS; about 25 minutes
    python -m loadtests.compare --plain          one half (or --tls)
    python -m loadtests.compare --quick          rougher, about three minutes

Prints tables in Markdown; progress goes to standard error. A run of everything also writes them into
docs/benchmarks.md (between two markers: the rest stays), every sample into docs/benchmarks/compare.json and a
plot into docs/benchmarks/compare.png. A run of a part, or --quick, does so only with --docs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from loadtests.certificates import CertificateFiles, make_certificates
from loadtests.compare import plot, report
from loadtests.compare.rounds import Measured, Progress, Size, measure, runnable
from loadtests.compare.scenarios import SCENARIOS, scenarios_of
from loadtests.measuring import machine, processes, tables
from loadtests.measuring.documents import write_section
from loadtests.measuring.peers import OPTIONAL_PEERS, PEERS, ROOT

DEFAULT_PEERS = [peer for peer in PEERS if peer not in OPTIONAL_PEERS]
DOCUMENT = ROOT / "docs" / "benchmarks.md"
LINKS = """
![CPU time per request of each peer, scenario by scenario](benchmarks/compare.png)

Every sample: [compare.json](benchmarks/compare.json)."""
FULL, QUICK = Size(rounds=5), Size(rounds=1, share=0.15, idle=500)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--plain", action="store_true", help="only the plain half")
    half.add_argument("--tls", action="store_true", help="only the TLS half")
    names = [one.name for one in SCENARIOS]
    parser.add_argument("--scenario", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument(
        *("--peer", "--peers"),
        nargs="+",
        choices=[*PEERS],
        metavar="NAME",
        help=f"of {', '.join(PEERS)}; default: all but {', '.join(OPTIONAL_PEERS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, requests and idle connections")
    parser.add_argument(
        "--rounds", type=int, help=f"of each scenario; default {FULL.rounds}, {QUICK.rounds} with --quick"
    )
    parser.add_argument(
        "--share", type=float, help=f"of the requests of a full round; {QUICK.share} with --quick"
    )
    parser.add_argument(
        "--idle", type=int, help=f"idle connections; default {FULL.idle:,}, {QUICK.idle:,} with --quick"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the plot there (PNG)")
    docs = parser.add_mutually_exclusive_group()
    docs.add_argument("--docs", action="store_true", help="write docs/ whatever is run")
    docs.add_argument("--no-docs", action="store_true", help="leave docs/ alone")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    given.size = Size(
        size.rounds if given.rounds is None else given.rounds,
        size.share if given.share is None else given.share,
        size.idle if given.idle is None else given.idle,
    )
    if given.size.rounds < 1 or given.size.share <= 0 or given.size.idle < 1:
        parser.error("--rounds and --idle are at least 1, --share is above 0")
    if given.idle is not None and given.idle > 10_000:
        parser.error("--idle is at most 10,000: what gnet.Server takes by default")
    is_part = any((given.plain, given.tls, given.scenario, given.peer, given.quick))
    given.docs = given.docs or not (is_part or given.no_docs)
    if is_part and not given.docs and not given.no_docs:
        print("docs/ is left alone: this is not a run of everything (--docs writes it)", file=sys.stderr)
    return given


def run(given: argparse.Namespace) -> tuple[list[Measured], list[str]]:
    """All samples, and sentences on what is not there."""
    results: list[Measured] = []
    notes: list[str] = []
    transports = ["plain"] * (not given.tls) + ["tls"] * (not given.plain)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gnet-compare-"))
        files = make_certificates(Path(folder))
        certificates: dict[str, CertificateFiles | None] = {"plain": None, "tls": files}
        plans = {}
        total = 0
        for transport in transports:
            peers, missing = runnable(given.peer or DEFAULT_PEERS, certificates[transport])
            notes += missing
            wanted = [
                one for one in scenarios_of(transport) if not given.scenario or one.name in given.scenario
            ]
            plans[transport] = (wanted, peers)
            total += sum(given.size.rounds_of(one) for one in wanted) * len(peers)
        progress = Progress(total)
        for note in notes:
            progress.say(note)
        try:
            for transport, (wanted, peers) in plans.items():
                tls = certificates[transport]
                for measured in measure(transport, wanted, peers, given.size, tls, progress, notes):
                    results.append(measured)
        except KeyboardInterrupt:
            given.docs = False
            notes.append("interrupted: the scenarios that come later are missing, and docs/ is left alone")
    return results, notes


def main() -> None:
    given = parse_arguments()
    processes.prepare()
    results, notes = run(given)
    if not any(one.samples for one in results):
        raise SystemExit("\n".join([*notes, "nothing was measured"]))
    facts = machine.machine_facts()
    text = report.report(results, machine.facts_line(facts), notes)
    print(text, end="")
    size = given.size
    everything = report.as_json(
        results, facts, notes, {"rounds": size.rounds, "share": size.share, "idle": size.idle}
    )
    if given.json:
        tables.write_json(given.json, everything)
    pictures = [given.plot] if given.plot else []
    if given.docs:
        folder = DOCUMENT.with_suffix("")
        folder.mkdir(exist_ok=True)
        tables.write_json(folder / "compare.json", everything)
        pictures.append(folder / "compare.png")
        write_section(DOCUMENT, "compare", "## gnet and its peers", text + LINKS)
    try:
        for file in pictures:
            plot.draw(results, file, machine.facts_line(facts))
    except plot.NoPlot as error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
