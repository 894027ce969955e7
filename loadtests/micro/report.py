"""What was measured, as Markdown: the tables of each benchmark, and the table of ratios that moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtests.measuring.tables import markdown_table
from loadtests.micro.baseline import Change
from loadtests.micro.rows import Measured, by_bench


def tables(measured: Sequence[Measured], missing: Mapping[str, str]) -> str:
    """A table for each benchmark, its remarks, and what could not run."""
    parts = []
    for bench, rows in by_bench(measured).items():
        parts.append(_wide(bench, rows) if _have_the_same_subjects(rows) else _long(bench, rows))
        parts += [f"{each.row.name}: {each.row.note(each.samples)}." for each in rows if each.row.note]
    parts += [f"Not run: {title}: {reason}." for title, reason in missing.items()]
    return "\n\n".join(parts)


def _have_the_same_subjects(rows: Sequence[Measured]) -> bool:
    return len({(each.row.unit if len(rows) == 1 else "", *each.row.subjects) for each in rows}) == 1


def _wide(bench: str, rows: Sequence[Measured]) -> str:
    """One line for each row, a column for each subject."""
    units = {each.row.unit for each in rows}
    corner = f"{bench}, {units.pop()}" if len(units) == 1 else bench
    lines = []
    for each in rows:
        cells = each.summaries()
        lines.append([each.row.name, *(cells[name].cell(each.row.digits) for name in each.row.subjects)])
    return markdown_table([corner, *rows[0].row.subjects], lines)


def _long(bench: str, rows: Sequence[Measured]) -> str:
    """One line for each row and subject."""
    lines = []
    for each in rows:
        for subject, cell in each.summaries().items():
            lines.append([each.row.name, subject, each.row.unit, cell.cell(each.row.digits)])
    return markdown_table([bench, "", "unit", "median (least–most) ×ratio"], lines)


def moved_table(changes: Sequence[Change]) -> str:
    """What moved, the worst first."""
    lines = [
        [
            change.percent,
            f"×{change.before:.3f}",
            f"×{change.now:.3f} ({change.least:.3f}–{change.most:.3f})",
            change.key,
        ]
        for change in changes
    ]
    return markdown_table(["change", "baseline", "now", "ratio to the yardstick"], lines)


def verdict(moved: int, compared: int, tolerance: float) -> str:
    """The last line of a check."""
    number = "None" if moved == 0 else str(moved)
    return f"{number} of {compared} ratios moved by more than {tolerance:.0%}."
