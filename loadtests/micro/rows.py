"""A row of a micro-benchmark: the same small job by gnet and by a yardstick, in rounds that interleave."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.measuring.tables import Summary, rotated, summarize

Samples = dict[str, list[float]]  # of each subject, one a round

# What is counted and not timed comes out the same every time, or nearly so: more rounds would tell nothing.
MOST_ROUNDS_IF_COUNTED = 1


class CannotRun(Exception):
    """This benchmark needs something that is not here; the message says what."""


@dataclass(frozen=True, eq=False)
class Row:
    """One job, and who does it. Every subject gives one figure each time it is called."""

    bench: str
    name: str
    unit: str
    yardstick: str
    """The subject that the others are divided by, round by round: no code of gnet's."""
    subjects: Mapping[str, Callable[[], float]]
    digits: int = 2
    is_counted: bool = False
    note: Callable[[Samples], str] | None = None
    """What there is to say below the table."""

    @property
    def title(self) -> str:
        return f"{self.bench}: {self.name}"

    def key(self, subject: str) -> str:
        """What a figure is called in the baseline."""
        return f"{self.title}: {subject}"

    def own(self) -> list[str]:
        """The subjects that are gnet's: those whose ratios are kept and compared."""
        return [subject for subject in self.subjects if is_own(subject)]


def is_own(subject: str) -> bool:
    return subject.startswith("gnet")


@dataclass(frozen=True)
class Measured:
    """A row and its samples so far."""

    row: Row
    samples: Samples = field(default_factory=dict)

    def summaries(self) -> dict[str, Summary]:
        return summarize(self.samples, self.row.yardstick)

    def add_round(self, turn: int) -> None:
        """Take one sample of every subject, another one first each turn."""
        for subject in rotated(list(self.row.subjects), turn):
            gc.collect()  # what the one before left is not for this one to pay
            self.samples.setdefault(subject, []).append(self.row.subjects[subject]())

    def own_ratios(self) -> dict[str, list[float]]:
        """Of each subject of gnet's, by its key, the ratios to the yardstick, one a round."""
        cells = self.summaries()
        return {self.row.key(subject): cells[subject].ratios for subject in self.row.own()}


def measure_rows(rows: Sequence[Row], rounds: int) -> tuple[list[Measured], dict[str, str]]:
    """Measure every subject of every row once in each round: what drifts, drifts for all of them.

    What is timed has a round more, the first, which is forgotten: a young process is slower.

    Returns:
        What was measured; and of each row that cannot run here, by its name, the reason.
    """
    measured = {row: Measured(row) for row in rows}
    missing: dict[str, str] = {}
    for turn in range(-1, rounds):
        for row, each in list(measured.items()):
            if row.is_counted and not 0 <= turn < MOST_ROUNDS_IF_COUNTED:
                continue
            try:
                each.add_round(turn)
            except CannotRun as error:
                missing[row.title] = str(error)
                del measured[row]
                continue
            if turn < 0:
                each.samples.clear()
    return list(measured.values()), missing


def by_bench(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    """The rows of each benchmark, in their order."""
    found: dict[str, list[Measured]] = {}
    for each in measured:
        found.setdefault(each.row.bench, []).append(each)
    return found
