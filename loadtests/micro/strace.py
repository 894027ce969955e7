"""strace on a server that runs: how many system calls it makes meanwhile."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.micro.rows import CannotRun

PATIENCE_SECONDS = 20


def parse_counts(text: str) -> Counter[str]:
    """Give the calls by name of a table that `strace -c` printed.

    Raises:
        ValueError: a line that is none of such a table.
    """
    counts: Counter[str] = Counter()
    ruled_lines = 0  # one below the header, one above the total; what stands between them is the table
    for line in text.splitlines():
        if line.startswith("------"):
            ruled_lines += 1
        elif ruled_lines == 1:
            fields = line.split()
            # % time, seconds, usecs/call, calls, errors (if there were any), syscall
            if len(fields) not in (5, 6) or not fields[3].isdigit():
                raise ValueError(f"strace -c: expected a row of its table, got {line!r}")
            counts[fields[-1]] += int(fields[3])
    return counts


def per_request(fewer: Counter[str], more: Counter[str], requests: int) -> dict[str, float]:
    """What `requests` requests more cost, of each call for one of them, the most frequent first.

    What both runs had (connections opened and closed, the moment strace came) is no part of it.
    """
    names = fewer.keys() | more.keys()
    grown = {name: (more[name] - fewer[name]) / requests for name in names}
    return dict(sorted(grown.items(), key=lambda item: (-item[1], item[0])))


def find_strace() -> str:
    """Give the path of the program.

    Raises:
        CannotRun: it is not installed.
    """
    program = shutil.which("strace")
    if program is None:
        raise CannotRun("system calls cannot be counted without strace (Debian package strace)")
    return program


@contextmanager
def traced(pid: int) -> Iterator[Counter[str]]:
    """Count the calls of a process and its threads while the block runs; the counts are there after it.

    Raises:
        CannotRun: strace is not installed, or may not trace.
    """
    program = find_strace()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="gnet-micro-") as folder:
        table = Path(folder) / "table"
        command = [program, "-c", "-f", "-o", str(table), "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                first = process.stderr.readline()  # once it is there, or cannot be
                if "attached" not in first:
                    raise CannotRun(f"strace: {first.strip() or 'ended without a word'}")
                yield counts
            finally:
                process.send_signal(signal.SIGINT)  # it lets go of the process and writes its table
                process.wait(PATIENCE_SECONDS)
        counts.update(parse_counts(table.read_text()))
