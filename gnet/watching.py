"""What a server watches of a connection: what it waits for and since when, and how much went through.

A stream's reader and writer keep a `Watch` up to date if they have one (what a server accepted has; other
sockets do not). It only notes; who acts on it is `gnet.serving.watchdog`. So a deadline costs no timer for
each request, but a look at the clock for each wait.
"""

from __future__ import annotations

import enum
from time import monotonic
from typing import TYPE_CHECKING, Final

from gevent import getcurrent

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenlet import greenlet

__all__ = ["Wait", "Watch", "count_lines"]

# Reads whose answer is a message with an end: its start and its end belong together. Of other reads, each
# wait is one of its own.
_LINE_READS: Final = frozenset({"read_line", "read_lines", "lines", "recv_until"})


_LARGE: Final = 1024  # bytes from which a copy pays


def count_lines(data: bytes) -> int:
    """Count the line ends: what `bytes.count` gives, which looks at each byte by itself (42 µs for 64 KiB).

    Most messages have one, as their last byte, and bulk data few or none: `find` sees 32 bytes at a time. So
    does `replace`, which makes a copy and is faster all the same (12 µs with a line end in each 256 bytes).
    """
    first = data.find(b"\n")
    if first < 0:
        return 0
    size = len(data)
    if first + 1 == size:
        return 1
    return data.count(b"\n", first) if size < _LARGE else size - len(data.replace(b"\n", b""))


class Wait(enum.Enum):
    """What a connection waits for. The value is the name of its deadline and of its counter."""

    FIRST_BYTE = "first_byte"
    LINE = "line"
    IDLE = "idle"
    WRITE = "write"


_FIRST_BYTE: Final = Wait.FIRST_BYTE
_LINE: Final = Wait.LINE
_IDLE: Final = Wait.IDLE
_WRITE: Final = Wait.WRITE


class Watch:
    """The state of one connection, as its reader and its writer note it."""

    __slots__ = (
        "_left",
        "_outgoing",
        "_seen",
        "_waited",
        "between_messages",
        "bytes_in",
        "bytes_out",
        "in_line",
        "lines_in",
        "lines_out",
        "on_pause",
        "operation",
        "reads_since",
        "reads_waiter",
        "reads_what",
        "started",
        "writes_since",
        "writes_waiter",
    )

    def __init__(self, outgoing: Callable[[], int] | None = None) -> None:
        """Begin to watch.

        Args:
            outgoing: gives the bytes that the kernel has for the peer and has no acknowledgement of.
        """
        self._outgoing = outgoing
        self.started = monotonic()
        """When the connection got its handler."""
        self.bytes_in = self.bytes_out = self.lines_in = self.lines_out = 0
        self.reads_waiter: greenlet | None = None
        """Who waits for input."""
        self.reads_what = _FIRST_BYTE
        self.reads_since = self.started
        self._seen = -1  # bytes that had come when the last wait for input began
        self._waited = 0.0  # seconds of a wait that was interrupted and may go on
        self.in_line = False
        """A line has begun and has not ended, whether it is waited for or not."""
        self.operation = ""
        """The call that waits for input."""
        self.between_messages = True
        """Nothing of a next message was here when the last wait for input began."""
        self.writes_waiter: greenlet | None = None
        """Who waits for room."""
        self.writes_since = self.started
        self._left = 0  # bytes outgoing when that was looked at last
        self.on_pause: Callable[[], None] | None = None
        """Called before each wait for input between two messages, the first one's end being one.

        Set while a server drains.
        """

    def read_begins(self, operation: str, in_message: bool) -> None:
        """Note that a wait for input begins.

        Args:
            in_message: the start of what is read is here.
        """
        if not in_message and self._seen != (seen := self.bytes_in) and self.on_pause is None:
            # The usual case, a wait for the next message: once for each request.
            self._seen = seen
            self.operation = operation
            self.between_messages = True
            self.in_line = False
            self.reads_what = _IDLE if seen else _FIRST_BYTE
            self._waited = 0.0
            self.reads_since = monotonic()
            self.reads_waiter = getcurrent()
            return
        self.operation = operation
        self.between_messages = not in_message
        if in_message and operation in _LINE_READS:
            goes_on = self.in_line
            self.in_line = True
            self.reads_what = _LINE
        else:
            goes_on = self._seen == self.bytes_in and not self.in_line
            self.in_line = False
            self.reads_what = _IDLE if self.bytes_in else _FIRST_BYTE
        self._seen = self.bytes_in
        if not goes_on:
            self.reads_since = monotonic()
            self._waited = 0.0
        elif self._waited:  # what passed between the two was not waiting
            self.reads_since = monotonic() - self._waited
            self._waited = 0.0
        if self.on_pause is not None and not in_message and self.bytes_in:
            self.on_pause()
        self.reads_waiter = getcurrent()

    def read_interrupted(self) -> None:
        """Note that something else than input ended the wait."""
        self._waited = max(monotonic() - self.reads_since, 1e-9)

    def message_ended(self) -> None:
        """Note that a read has its answer: what is here now belongs to the next one."""
        if self.in_line:
            self.in_line = False
            self.reads_what = _IDLE
            self._seen = -1

    def write_begins(self) -> None:
        """Note that a wait for room begins."""
        self.writes_since = monotonic()
        if self._outgoing is not None:
            self._left = self._outgoing()
        self.writes_waiter = getcurrent()

    def end(self) -> None:
        """Let go of what it asked, so that no cycle keeps a connection that is gone for the collector."""
        self._outgoing = self.on_pause = None

    def writes_go_on(self) -> bool:
        """Whether the peer took something since the wait for room began, or since this was asked.

        The kernel calls a socket writable only when a third of its buffer is free, which a slow peer may
        need its time for.
        """
        if self._outgoing is None:
            return False
        left = self._outgoing()
        if left >= self._left:
            return False
        self._left = left
        self.writes_since = monotonic()
        return True
