"""A histogram as bars in a terminal: rows as wide as numbers that people like, each a step up."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gnet.histogram import Histogram

__all__ = ["draw", "shown_ms"]

# Where rows may begin within a power of ten; the finest that needs no more rows than fit is taken.
_SERIES: Final[tuple[tuple[float, ...], ...]] = (
    (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3.2, 3.6, 4, 4.5, 5, 5.6, 6.3, 7, 8, 9),
    (1, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1,),
)
_MOST_ROWS: Final = 20

_UNICODE: Final = " ▏▎▍▌▋▊▉█"  # eighths
_ASCII: Final = " .:#"  # thirds


def draw(histogram: Histogram, width: int = 80, *, ascii_only: bool = False) -> list[str]:
    """Draw values in microseconds, as milliseconds.

    Args:
        width: columns that a line may take, at least 50.
        ascii_only: bars of `#`, for terminals that can do no better.
    Returns:
        The lines: from, to, bar, share and number of each row; none of no values.
    """
    if not histogram.count:
        return []
    edges = _edges(histogram.least, histogram.most)
    counts = [0] * (len(edges) - 1)
    row = 0
    for value, times in histogram:
        while row + 1 < len(counts) and value >= edges[row + 1]:
            row += 1
        counts[row] += times
    names = [f"{shown_ms(low)} – {shown_ms(high)} ms" for low, high in pairwise(edges)]
    if ascii_only:
        names = [name.replace("–", "-") for name in names]
    numbers = [f"{times:,}" for times in counts]
    name_width, number_width = max(map(len, names)), max(map(len, numbers))
    most = max(counts)
    room = max(8, width - name_width - number_width - 12)  # 12: two spaces thrice, and "100.0%"
    return [
        f"{name:>{name_width}}  {_bar(times / most, room, ascii_only):<{room}}"
        f"  {100 * times / histogram.count:5.1f}%  {number:>{number_width}}"[:width].rstrip()
        for name, times, number in zip(names, counts, numbers, strict=True)
    ]


def shown_ms(microseconds: float) -> str:
    """Give microseconds as milliseconds, to the microsecond."""
    return f"{microseconds / 1000:.3f}"


def _edges(least: int, most: int) -> list[int]:
    """Give where the rows begin, and where the last one ends."""
    edges: list[int] = []
    for series in _SERIES:
        edges = _edges_of(series, least, most)
        if len(edges) <= _MOST_ROWS + 1:
            break
    return edges


def _edges_of(series: tuple[float, ...], least: int, most: int) -> list[int]:
    decade = 10 ** int(math.log10(max(least, 1)))
    found: set[int] = {0} if least < 1 else set()
    while decade <= max(most, 1) * 10:
        found.update(round(decade * step) for step in series)
        decade *= 10
    edges = sorted(found)
    first = max(index for index, edge in enumerate(edges) if edge <= least)
    last = next(index for index, edge in enumerate(edges) if edge > most)
    return edges[first : last + 1]


def _bar(share: float, room: int, ascii_only: bool) -> str:
    """Give a bar for this share of the longest; a row that is not empty shows at least a trace."""
    signs = _ASCII if ascii_only else _UNICODE
    parts = len(signs) - 1
    length = math.ceil(share * room * parts) if share * room * parts < 1 else round(share * room * parts)
    whole, rest = divmod(length, parts)
    return (signs[-1] * whole + (signs[rest] if rest else "")).rstrip()
