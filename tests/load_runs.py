"""The load tests' runner as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 50.0  # seconds for what takes about five


def start_load(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m loadtests.load`; what it says, it says in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "loadtests.load", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def finish_load(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; give its exit status and what it said."""
    with process:
        try:
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, output


def run_load(*arguments: object, **environment: str) -> tuple[int, str]:
    """Run it to its end."""
    return finish_load(start_load(*arguments, **environment))
