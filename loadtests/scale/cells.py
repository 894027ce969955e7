"""What a part of the benchmark measured: samples by series (a peer), by size, by figure; one a round."""

from __future__ import annotations

import statistics
from typing import Any

Json = list[dict[str, Any]]


class Cells:
    """Samples of named figures for each series at each size, in the order in which they came."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, int], dict[str, list[float]]] = {}

    def add(self, series: str, size: int, **figures: float) -> None:
        """Note what one round gave."""
        into = self._samples.setdefault((series, size), {})
        for name, value in figures.items():
            into.setdefault(name, []).append(value)

    @property
    def series(self) -> list[str]:
        """The names of all series, as they came."""
        return list(dict.fromkeys(series for series, _size in self._samples))

    @property
    def sizes(self) -> list[int]:
        """All sizes, the smallest first."""
        return sorted({size for _series, size in self._samples})

    def has(self, series: str, size: int) -> bool:
        """Whether there is anything of a series at a size."""
        return (series, size) in self._samples

    def samples(self, series: str, size: int, figure: str) -> list[float]:
        """All samples of one figure, in the order of the rounds; KeyError if there are none."""
        return self._samples[series, size][figure]

    def median(self, series: str, size: int, figure: str) -> float:
        """Their median."""
        return statistics.median(self.samples(series, size, figure))

    def ratios(self, series: str, size: int, base: int, figure: str) -> list[float]:
        """Round by round, the figure at `size` as a multiple of that at `base`: how it grew."""
        pairs = zip(
            self.samples(series, size, figure), self.samples(series, base, figure), strict=False
        )  # the last round may be half done
        return [large / small for large, small in pairs]

    def as_json(self) -> Json:
        """All of it, for a file."""
        return [
            {"series": series, "size": size, **figures} for (series, size), figures in self._samples.items()
        ]

    @classmethod
    def from_json(cls, rows: Json) -> Cells:
        """What `as_json` gave, again."""
        cells = cls()
        for row in rows:
            figures = {name: list(value) for name, value in row.items() if name not in ("series", "size")}
            cells._samples[row["series"], row["size"]] = figures
        return cells


def relative_growth(cells: Cells, ours: str, theirs: str, size: int, base: int, figure: str) -> list[float]:
    """Round by round, the growth of one series as a multiple of another's growth in the same round."""
    pairs = zip(
        cells.ratios(ours, size, base, figure), cells.ratios(theirs, size, base, figure), strict=False
    )
    return [own / other for own, other in pairs]
