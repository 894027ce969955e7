"""Counts what this thread asks Python's allocators for; needs a C compiler.

The interpreter itself counts only what is alive. A small library (allocator.c), compiled into a temporary
folder and loaded once, stands in front of its allocators while something is counted. What CPython takes from
its free lists (most tuples, lists, floats) reaches no allocator and is not counted.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loadtests.micro.rows import CannotRun

SOURCE = Path(__file__).with_suffix(".c")
COMPILERS = ("cc", "gcc", "clang")
BUILD_SECONDS = 60


@dataclass
class Allocations:
    """What was asked for."""

    calls: int = 0
    size: int = 0
    """In bytes."""


@cache
def _library() -> ctypes.PyDLL:
    """Compile and load it.

    Raises:
        CannotRun: no compiler, or it failed.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CannotRun("allocations cannot be counted without a C compiler (Debian package gcc)")
    with tempfile.TemporaryDirectory(prefix="gnet-micro-") as folder:
        target = Path(folder) / "allocator.so"
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", str(target), str(SOURCE)],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        if done.returncode:
            raise CannotRun(f"{compiler} could not compile {SOURCE.name}: {done.stderr.strip()[-200:]}")
        library = ctypes.PyDLL(str(target))  # keeps the GIL; loaded, it needs no file
    library.counted_calls.restype = library.counted_bytes.restype = ctypes.c_ulonglong
    return library


@contextmanager
def counted() -> Iterator[Allocations]:
    """Count while the block runs, in this thread only.

    Raises:
        CannotRun: there is no way to.
    """
    library = _library()
    found = Allocations()
    library.install()
    library.start()
    try:
        yield found
    finally:
        library.stop()
        library.uninstall()
        found.calls, found.size = library.counted_calls(), library.counted_bytes()
