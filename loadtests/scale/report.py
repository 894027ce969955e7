"""What the scale benchmark found, as text: tables for the terminal, the same for docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadtests.measuring.machine import facts_line
from loadtests.measuring.tables import markdown_table
from loadtests.scale import active, idle, lines, workers
from loadtests.scale.cells import Cells

# The parts in their order: what `--part` calls them, and files and JSON too.
TITLES = {
    "cpu": "CPU per request as connections grow",
    "memory": "Memory per idle connection",
    "lines": "Reading lines of 10 B to 1 MB",
    "workers": "One worker and two",
}


@dataclass
class Report:
    """All that was measured, and what a reader needs to judge it."""

    facts: dict[str, str]
    command: str
    settings: str
    descriptors: str
    redis_rest_seconds: float
    notes: list[str] = field(default_factory=list)
    parts: dict[str, Cells] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All of it, every sample."""
        return {
            "machine": self.facts,
            "command": self.command,
            "settings": self.settings,
            "descriptors": self.descriptors,
            "redis_rest_seconds": self.redis_rest_seconds,
            "notes": self.notes,
            "parts": {name: cells.as_json() for name, cells in self.parts.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """What `as_json` gave, again."""
        parts = {name: Cells.from_json(rows) for name, rows in data["parts"].items()}
        return cls(
            data["machine"],
            data["command"],
            data["settings"],
            data["descriptors"],
            data["redis_rest_seconds"],
            data["notes"],
            parts,
        )


def note_of(name: str, report: Report) -> str:
    """What the figures of a part mean."""
    if name == "cpu":
        return active.NOTE.format(base=active.BASE, top=active.TOP)
    if name == "memory":
        return idle.NOTE.format(rest=report.redis_rest_seconds)
    if name == "lines":
        return lines.NOTE
    return workers.NOTE.format(cores=report.facts.get("cores", "all"))


def rows_of(name: str, cells: Cells) -> list[list[str]]:
    """The table of a part, with its header."""
    rows = {"cpu": active.rows, "memory": idle.rows, "lines": lines.rows, "workers": workers.rows}
    return rows[name](cells)


def part_text(name: str, report: Report) -> str:
    """Note, table and verdict of one part."""
    header, *rows = rows_of(name, report.parts[name])
    text = f"{note_of(name, report)}\n\n{markdown_table(header, rows)}"
    if name == "cpu":
        text += f"\n\n{active.verdict(report.parts[name])}"
    return text


def terminal_text(report: Report) -> str:
    """All parts, for the terminal."""
    texts = [facts_line(report.facts), report.descriptors, *report.notes]
    texts += [f"{TITLES[name]}\n\n{part_text(name, report)}" for name in TITLES if name in report.parts]
    return "\n\n".join(texts)


def markdown_text(report: Report, folder: str) -> str:
    """All parts, for docs/benchmarks.md.

    Args:
        folder: of the plots and the JSON file, as seen from that document.
    """
    texts = [
        f"Measured with `{report.command}` ({report.settings}); every sample is in "
        f"[scale.json]({folder}/scale.json). {facts_line(report.facts)}. {_sentence(report.descriptors)}",
        *(_sentence(note) for note in report.notes),
    ]
    for name, title in TITLES.items():
        if name in report.parts:
            texts.append(f"### {title}\n\n{part_text(name, report)}\n\n![{title}]({folder}/scale-{name}.png)")
    return "\n\n".join(texts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."
