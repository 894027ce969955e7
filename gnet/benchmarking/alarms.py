"""A callback at a moment, to some 50 µs: the loop's own timers are late by up to a millisecond on Linux.

epoll waits for whole milliseconds, so libev rounds up. A timer of the kernel that is a descriptor
(timerfd_create(2)) has no such unit. Where there is none, the loop's timers have to do.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Alarm"]

# <time.h>, <sys/timerfd.h>
_CLOCK_MONOTONIC: Final = 1
_TFD_FLAGS: Final = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_TFD_TIMER_ABSTIME: Final = 1
_READ: Final = 1  # gevent's mask

# struct itimerspec: interval and value, each seconds and nanoseconds.
_Spec = ctypes.c_long * 4


class Alarm:
    """One moment at a time; at that moment `callback` is called, in the hub."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._fd = -1
        if self._libc is not None and ctypes.sizeof(ctypes.c_long) == 8:
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        loop = gevent.get_hub().loop
        self._watcher: Any
        if self._fd >= 0:
            self._watcher = loop.io(self._fd, _READ)
            self._watcher.start(self._on_expired)
        else:
            self._watcher = loop.timer(0)

    def set(self, moment: int) -> None:
        """Call at this moment, in nanoseconds of `time.monotonic_ns`; an earlier one is at once."""
        if self._fd < 0:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = gevent.get_hub().loop.timer(max(0.0, (moment - time.monotonic_ns()) / 1e9))
            # Counted from now: not from when the loop woke up last, or it would be early.
            self._watcher.start(self._on_timer, moment, update=True)
            return
        moment = max(moment, 1)  # 0 would switch it off
        value = _Spec(0, 0, moment // 1_000_000_000, moment % 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, value, None)

    def close(self) -> None:
        """Stop. Idempotent."""
        self._watcher.stop()
        self._watcher.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _on_timer(self, moment: int) -> None:
        if time.monotonic_ns() < moment:  # the loop's clock is not quite the same
            self.set(moment)
        else:
            self._callback()

    def _on_expired(self) -> None:
        with suppress(BlockingIOError):  # it was set again meanwhile
            os.read(self._fd, 8)
        self._callback()
