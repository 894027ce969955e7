"""Samples to figures: medians with their spread, ratios round by round, Markdown tables, JSON files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Summary:
    """One cell of a table: the samples of one peer in one scenario, one a round."""

    samples: list[float]
    ratios: list[float]  # to the reference peer, round by round; empty where there is none

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    def cell(self, digits: int) -> str:
        text = spread(self.samples, digits)
        return text if self.ratio is None else f"{text} ×{self.ratio:.2f}"

    def as_json(self) -> dict[str, object]:
        return {"median": self.median, "samples": self.samples, "ratio": self.ratio, "ratios": self.ratios}


def spread(samples: Sequence[float], digits: int) -> str:
    """The median with the least and the most in brackets."""
    low, high = min(samples), max(samples)
    return f"{statistics.median(samples):,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def summarize(samples: Mapping[str, list[float]], reference: str) -> dict[str, Summary]:
    """Each peer's samples (the same rounds in the same order) with its ratios to the reference peer's."""
    base = samples.get(reference, [])
    return {
        peer: Summary(values, [value / one for value, one in zip(values, base, strict=False)])
        for peer, values in samples.items()
        if values
    }


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The same names, another one first each turn: whatever drifts, drifts for all of them."""
    shift = turn % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a README, its columns aligned for reading in a terminal too."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def write_json(path: Path, everything: Mapping[str, object]) -> None:
    path.write_text(json.dumps(everything, indent=1) + "\n")
