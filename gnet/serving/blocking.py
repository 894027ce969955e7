"""Tell when one greenlet keeps the hub, and with it all others, from running; and where its code is.

Theory of operation. A thread of the system looks what runs in the hub's thread. If look after look finds the
same greenlet, and the loop has not begun a new round since, that greenlet has blocked the hub since the first
of these looks. A hub that waits in the kernel, or that is busy with many greenlets, is not blocked by one.

A C function that keeps the GIL (a regular expression that never ends) keeps this thread from looking, too.
Then it looks late, just after that function, while its caller is still at work. The processor time that the
process used meanwhile counts as blocked, if the loop's last round is as long ago; a process that used none
was stopped.

gevent has such a thread (`gevent.config.monitor_thread`), but that one finds out who runs by a trace
function for each switch of greenlets: 160 ns a switch, 6 to 10 % of the processor time of a line and its
answer over loopback (gevent 26.9, both ends in one process; with looks from outside about 1 %, and 0.3 % of a
processor when idle). It also starts to watch the process's memory, which warns if psutil is missing.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import gevent
from gevent import monkey

if TYPE_CHECKING:
    from types import FrameType, TracebackType

__all__ = ["HubWatch"]

_log = logging.getLogger("gnet.server")

# Seconds. A block that lasts `_LIMIT` is told, if the looks find it out: one of 160 ms always is.
_LIMIT: Final = 0.1
_LOOK: Final = 0.05
_PAUSE: Final = 1.0  # between two reports

# Of the stack, the innermost frames: the outer ones are how the server calls a handler.
_FRAMES: Final = 12

# What a patched process has under these names waits in the hub.
_start_thread: Final = monkey.get_original("_thread", "start_new_thread")
_new_lock: Final = monkey.get_original("_thread", "allocate_lock")
_thread_id: Final = monkey.get_original("_thread", "get_ident")

_GEVENT: Final = os.path.dirname(gevent.__file__) + os.sep


class HubWatch:
    """Watches the hub of the thread that makes it, from `start` to `stop`; also a context manager.

    Each time that a greenlet blocks it for more than 100 ms, one warning goes to the logger `gnet.server`,
    with the stack, while it blocks; at most one a second.
    """

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._thread = _thread_id()
        self._beat: _Beat | None = None
        self._rounds_at_start = 0
        self._stopping: Any = None  # held until the thread is to end
        self._ended: Any = None  # held until it has

    def start(self) -> None:
        """Begin to watch. Idempotent."""
        if self._stopping is not None:
            return
        loop = self._hub.loop
        if loop.iteration < 0:  # libuv does not count its rounds
            self._beat = _Beat(loop)
        self._rounds_at_start = self._rounds()
        self._stopping, self._ended = _new_lock(), _new_lock()
        self._stopping.acquire()
        self._ended.acquire()
        _start_thread(self._look_until_stopped, (self._stopping, self._ended))

    def stop(self) -> None:
        """End the watch and its thread. Idempotent."""
        if self._stopping is None:
            return
        if self._beat is not None:
            self._beat.close()
            self._beat = None
        self._stopping.release()
        self._stopping = None
        # At once, unless it is writing a report: the logging may need this thread, so do not wait for long.
        self._ended.acquire(timeout=_LIMIT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def has_begun(self) -> bool:
        """Whether the loop runs: what happens before that is the start of a program, and blocks nobody."""
        return self._rounds() != self._rounds_at_start

    def _rounds(self) -> int:
        beat = self._beat
        rounds: int = self._hub.loop.iteration if beat is None else beat.count
        return rounds

    # ------------------------------------------------------------------ in the thread

    def _look_until_stopped(self, stopping: Any, ended: Any) -> None:
        try:
            with suppress(Exception):  # the loop is closed, or an interpreter that ends took a module away
                self._look(stopping)
        finally:
            ended.release()

    def _look(self, stopping: Any) -> None:
        loop = self._hub.loop
        seen: tuple[int, int] | None = None  # the round and the greenlet of the looks so far
        told: tuple[int, int] | None = None
        blocked = 0.0
        looked, used = time.monotonic(), time.process_time()
        told_at = looked - _PAUSE
        while not stopping.acquire(timeout=_LOOK):
            now, used_now = time.monotonic(), time.process_time()
            # A late look: only the processor time, as the rest is not the greenlet's doing.
            passed = min(now - looked, max(_LOOK, used_now - used))
            looked, used = now, used_now
            frame = self._running()
            if frame is None or not self.has_begun:
                seen = None
                continue
            current = (self._rounds(), id(_outermost(frame)))
            if current == seen:
                blocked += passed
            else:
                seen = current
                blocked = min(passed - _LOOK, time.time() - loop.now())  # what this look came too late
            if blocked >= _LIMIT and current != told and now - told_at >= _PAUSE:
                told, told_at = current, now
                _report(frame)
            del frame  # it keeps the locals of a handler alive

    def _running(self) -> FrameType | None:
        """Give the innermost frame of what runs in the hub's thread; `None` if the hub waits there."""
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return None
        code = frame.f_code
        if code.co_filename.startswith(_GEVENT) and code.co_name == "run":
            return None  # Hub.run, or the run of a loop that is not compiled
        return frame


class _Beat:
    """Counts for a loop that does not count its rounds."""

    def __init__(self, loop: Any) -> None:
        self.count = 0
        # Not counted as work of the loop: the watch keeps no program alive.
        self._timer = loop.timer(_LOOK / 2, _LOOK / 2, ref=False)
        self._timer.start(self._count)

    def _count(self) -> None:
        self.count += 1

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()


def _outermost(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _report(frame: FrameType) -> None:
    code = frame.f_code
    where = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
    stack = "".join(traceback.format_stack(frame, _FRAMES)).rstrip()
    with suppress(Exception):  # a handler of the logging that fails must not end the watch
        _log.warning(
            "the hub is blocked for more than %.0f ms: nobody else is served. By %s\n%s",
            _LIMIT * 1000,
            where,
            stack,
        )
