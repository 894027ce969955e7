"""One line on standard error for each step, with the seconds since the start: the table comes at the end."""

from __future__ import annotations

import sys
import time

_started = time.monotonic()


def progress(text: str) -> None:
    print(f"{time.monotonic() - _started:5.0f} s  {text}", file=sys.stderr, flush=True)
