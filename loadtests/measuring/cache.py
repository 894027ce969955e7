"""Where programs that the benchmarks compile are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Give `$XDG_CACHE_HOME/gnet-loadtests`, else `~/.cache/gnet-loadtests`; it is there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnet-loadtests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
