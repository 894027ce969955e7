"""A section of a Markdown document that a program writes: what is between two markers, and nothing else."""

from __future__ import annotations

from pathlib import Path


def with_section(document: str, name: str, heading: str, text: str) -> str:
    """Put `text` between the markers of section `name`; without them, append it under `heading`.

    Raises:
        ValueError: there is one marker and not the other, or they are in the wrong order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n\n{text.strip()}\n\n{end}"
    if begin not in document and end not in document:
        before = document.rstrip() + "\n\n" if document.strip() else ""
        return f"{before}{heading}\n\n{section}\n"
    head, found_begin, rest = document.partition(begin)
    _old, found_end, tail = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"section {name!r}: expected {begin} and then {end}, each once")
    return f"{head}{section}{tail}"


def write_section(path: Path, name: str, heading: str, text: str) -> None:
    """Write a section of a document, which is made if there is none."""
    document = path.read_text() if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_section(document, name, heading, text))
