"""What a server logs of its peers: few lines, and short ones, as peers decide what happens and how often."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from gnet.checks import printable

__all__ = ["PeerLog", "escaped"]

_log = logging.getLogger("gnet.server")


class PeerLog:
    """Logs one short line, at most one a second of each kind."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Log a line, unless there was one of its kind just now."""
        now = time.monotonic()
        if now - self._last.get(kind, -1.0) >= 1.0:
            self._last[kind] = now
            with suppress(Exception):  # a full disk or a closed stderr must not end the server
                _log.log(level, "%s", escaped(text, 110, keep=""))


def escaped(text: str, limit: int = 20_000, keep: str = "\n") -> str:
    """Make a text from who knows where fit for a log: no control characters but `keep`, not too long."""
    shown = printable(text[:limit], keep)
    return shown if len(text) <= limit else shown + "..."
