"""What a service tells systemd: `sd_notify(3)`, without its library."""

from __future__ import annotations

import _socket
import os
import time
from contextlib import suppress
from typing import Final

__all__ = ["notify", "notify_ready", "notify_reloading", "notify_stopping"]

_VARIABLE: Final = "NOTIFY_SOCKET"


def notify(text: str) -> bool:
    """Send a message to the service manager, if one listens; errors are not the service's business.

    Args:
        text: lines such as `READY=1`.
    Returns:
        Whether it was sent.
    """
    path = os.environ.get(_VARIABLE, "")
    if not path.startswith(("/", "@")):
        return False
    with suppress(OSError):
        raw = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            raw.setblocking(False)  # a manager that does not read must not stop the service
            # "@" stands for the zero byte of an abstract name.
            raw.sendto(text.encode(), os.fsencode("\0" + path[1:] if path[0] == "@" else path))
            return True
        finally:
            raw.close()
    return False


def notify_ready() -> None:
    """Say that it serves now, or again after a reload."""
    notify("READY=1")


def notify_stopping() -> None:
    """Say that the drain has begun."""
    notify("STOPPING=1")


def notify_reloading() -> None:
    """Say that a reload has begun; `notify_ready` ends it."""
    # systemd compares the time with that of its own signal (Type=notify-reload).
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
