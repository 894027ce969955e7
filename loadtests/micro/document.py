"""The section of docs/benchmarks.md: what each benchmark is, its command, how to read a check, the figures.

What a benchmark is stands in the docstrings of its modules and is taken from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from loadtests.measuring.documents import write_section
from loadtests.measuring.machine import facts_line
from loadtests.measuring.peers import ROOT
from loadtests.micro import baseline, builds

DOCUMENT = ROOT / "docs" / "benchmarks.md"
SECTION, HEADING = "micro", "## Micro-benchmarks"

OPENING = """\
What one line, one call, one request costs gnet, and beside it a yardstick that is no code of gnet's. All of
them: `python -m loadtests.micro`, from the project's root, about two minutes; only what is plain or TLS:
`--plain`, `--tls`. This section is written by `python -m loadtests.micro --docs`."""

READING = """\
### `make bench-check`

`make bench-check` (`python -m loadtests.micro --check`) measures all of them again and lists the ratios that
moved by more than 10 % from those in `loadtests/micro/baseline.json`, the worst first. A ratio is gnet's
figure divided by its yardstick's in the same round: `+25%` says that gnet costs a quarter more than it did
when the baseline was written, `-25%` a quarter less. It is a report and no test: what it lists is to be
explained, or repaired, or written into the baseline (`python -m loadtests.micro --write-baseline`) with the
commit that is its reason. Its exit status is 1 only where a benchmark could not run. `--all` lists what did
not move, too; with names (`--check lines`) only those benchmarks run.

"""


def write(facts: Mapping[str, str], tables: str, modules: Mapping[str, Sequence[ModuleType]]) -> Path:
    """Write the section.

    Args:
        tables: the figures of this run.
        modules: of each benchmark, by the name it has on the command line.
    """
    parts = [OPENING]
    for name, of_bench in modules.items():
        parts.append(f"### `python -m loadtests.micro {name}`")
        parts += [(module.__doc__ or "").strip() for module in of_bench]
    parts.append(READING + _without_first_paragraph(baseline.__doc__ or ""))
    parts.append(
        f"### Figures\n\n{facts_line(dict(facts))}; {facts['calibration']}; gnet: {builds.build_kind()}."
    )
    parts.append(
        "Medians, with the least and the most in brackets; × is the ratio to the yardstick, which has ×1.00."
    )
    parts.append(tables)
    write_section(DOCUMENT, SECTION, HEADING, "\n\n".join(parts))
    return DOCUMENT


def _without_first_paragraph(text: str) -> str:
    return text.partition("\n\n")[2].strip()
