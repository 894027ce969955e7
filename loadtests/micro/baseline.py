"""The ratios that are kept, and which of today's have moved from them. Pure: no measuring, no printing.

A baseline is kept for each kind of build (pure Python, compiled), with the machine and the versions it comes
from. It holds ratios to yardsticks, as figures change with the machine; ratios do so much less.

What is reported has moved in every one of the passes, and the same way. After the first pass those rows are
measured again that have moved, and after the second those that have moved in both: what noise did in one pass
it rarely does three times, and a row that has not moved costs no further time. The ratio that is shown is the
median over the rounds of all passes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FILE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.10
PASSES = 3

Entries = Mapping[str, Mapping[str, object]]  # by the same key: its "ratio", and what else a reader may want
Ratios = Mapping[str, Sequence[float]]  # by the key of a row and subject, one a round


@dataclass(frozen=True)
class Kept:
    """The baseline of one kind of build."""

    machine: dict[str, str]
    ratios: dict[str, float]


@dataclass(frozen=True)
class Change:
    """A ratio then and now. Above 0: gnet costs more than it did, beside the yardstick."""

    key: str
    before: float
    now: float
    least: float
    most: float

    @property
    def share(self) -> float:
        return _change(self.before, self.now)

    @property
    def percent(self) -> str:
        return f"{self.share:+.0%}" if math.isfinite(self.share) else "new"


def _change(before: float, now: float) -> float:
    if before == 0:
        return 0.0 if now == 0 else math.inf
    return now / before - 1


def direction(before: float, now: float, tolerance: float = TOLERANCE) -> int:
    """Say how a ratio has moved: 1 up, -1 down, 0 not by more than is tolerated."""
    change = _change(before, now)
    if abs(change) <= tolerance + 1e-9:  # 1.1 / 1 - 1 is more than 0.1, by its last bit
        return 0
    return 1 if change > 0 else -1


def moved(kept: Mapping[str, float], passes: Sequence[Ratios]) -> set[str]:
    """The keys that have moved in each pass, and the same way; a key that a pass lacks has not."""
    found = set()
    for key in passes[0].keys() & kept.keys():
        ways = {direction(kept[key], statistics.median(each[key])) if key in each else 0 for each in passes}
        if ways in ({1}, {-1}):
            found.add(key)
    return found


def changes(kept: Mapping[str, float], passes: Sequence[Ratios]) -> list[Change]:
    """Every ratio that was measured and is kept, those that grew most first."""
    found = []
    for key in passes[0].keys() & kept.keys():
        ratios = [ratio for each in passes for ratio in each.get(key, ())]
        found.append(Change(key, kept[key], statistics.median(ratios), min(ratios), max(ratios)))
    return sorted(found, key=lambda change: (-change.share, change.key))


def differences(kept: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What the ratios of the baseline come from that is not what it is now: processor and versions."""
    varying = ("date", "calibration")
    return sorted(key for key in {*kept, *now} if key not in varying and kept.get(key) != now.get(key))


def load(path: Path, kind: str) -> Kept:
    """Read the baseline of a kind of build.

    Raises:
        FileNotFoundError, KeyError: there is none.
    """
    entry = json.loads(path.read_text())[kind]
    return Kept(entry["machine"], {key: each["ratio"] for key, each in entry["ratios"].items()})


def store(path: Path, kind: str, machine: Mapping[str, str], entries: Entries) -> None:
    """Write the baseline of a kind of build; those of other kinds, and keys not measured now, stay.

    Args:
        entries: those of today.
    """
    everything = json.loads(path.read_text()) if path.exists() else {}
    before = everything.get(kind, {"ratios": {}})["ratios"]
    everything[kind] = {"machine": dict(machine), "ratios": dict(sorted({**before, **entries}.items()))}
    path.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")
