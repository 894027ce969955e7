"""Build the wheel and the source distribution in a copy of the project, and look into them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

__all__ = ["ROOT", "build", "clone", "compiled_modules", "run"]

ROOT: Final = Path(__file__).resolve().parent.parent

# What a working directory holds and a clone does not.
_NOT_IN_A_CLONE: Final = shutil.ignore_patterns(
    ".git",
    ".venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "build",
    "dist",
    "reports",
    "*.so",
)


def clone(folder: Path) -> Path:
    """Copy the project as a clone has it: a build writes into the tree, and takes up what is left there."""
    tree = folder / "gnet"
    shutil.copytree(ROOT, tree, ignore=_NOT_IN_A_CLONE)
    return tree


def run(*arguments: str, cwd: Path | None = None, status: int = 0, **environment: str) -> str:
    """Run this Python and give what it printed; where it ends otherwise, show all it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == status, f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def build(tree: Path, *options: str, status: int = 0, **environment: str) -> str:
    """Build into the tree's `dist`, without a network; give what the build printed.

    With neither --sdist nor --wheel the wheel is built from the sdist, so the sdist must be complete.
    """
    return run("-m", "build", "--no-isolation", *options, str(tree), status=status, **environment)


def compiled_modules() -> list[str]:
    """Give the names of the modules that a wheel has compiled."""
    names: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gnet"]["compiled"]
    return names
