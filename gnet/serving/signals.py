"""Signals as something to wait for: a descriptor that is readable when one has come.

The same for a supervisor that has no hub and for a server that runs in one. Python writes each signal's
number into a socket pair (`signal.set_wakeup_fd`), so none is late, whatever the process waits in, and one
that comes before anybody waits counts too.
"""

from __future__ import annotations

import _socket
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from gevent.monkey import get_original

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType, TracebackType

__all__ = ["Signals"]

# In a patched process the module's own one makes a hub when it is asked for SIGCHLD.
_set_handler: Final = get_original("signal", "signal")


class Signals:
    """Takes over signals while it is entered; in the main thread only."""

    def __init__(self, *numbers: signal.Signals) -> None:
        """Name the signals; `__enter__` takes them over."""
        self._numbers = numbers
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup_before = -1
        self._reader, self._writer = _pair()

    def __enter__(self) -> Self:
        try:
            self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            self.also(self._numbers)
        except BaseException:
            self.restore()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()

    def also(self, numbers: Iterable[signal.Signals]) -> None:
        """Take over more of them."""
        for number in numbers:
            if number not in self._before:
                self._before[number] = _set_handler(number, _noted)

    def restore(self) -> None:
        """Put back what handled them before. Idempotent."""
        for number, before in self._before.items():
            if before is not None:  # None: it was not set by Python, which can not put it back
                _set_handler(number, before)
        if self._reader.fileno() >= 0:
            with suppress(ValueError, OSError):  # what was there before may be closed by now
                signal.set_wakeup_fd(self._wakeup_before)
        self._before.clear()
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """The descriptor that is readable when a signal has come."""
        return self._reader.fileno()

    def take(self) -> list[signal.Signals]:
        """Give the signals that came since the last call, in their order; never waits."""
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return []
        # Others may have handlers for signals of their own, which are written here too.
        return [signal.Signals(number) for number in numbers if number in self._before]


def _noted(number: int, frame: FrameType | None) -> None:
    """Handle a signal: its number is in the socket pair already."""


def _pair() -> tuple[_socket.socket, _socket.socket]:
    first, second = _socket.socketpair()
    first.setblocking(False)
    second.setblocking(False)
    return first, second
