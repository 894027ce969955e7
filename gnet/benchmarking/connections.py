"""One connection of a benchmark: sends lines, takes the time of each answer, says what went wrong.

Theory of operation. Nothing here is a greenlet: the loop calls `_on_readable`, which receives, counts line
ends, records, and sends what is next. Against redis-server this takes some 6 µs of a core for each request,
system calls included; a greenlet that sends and calls `read_line` takes several times that. Bytes move
through the transport's `receive` and `send`, and through the kernel's own calls where there is no TLS.

`BatchConnection` is the closed loop: it sends a batch, and the next one when all its answers are here.
`PacedConnection` sends when it is told to; each of its requests has a moment at which it should have begun.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Final

import gevent

from gnet.benchmarking.answers import Answers, shown_line
from gnet.benchmarking.failures import kind_of
from gnet.errors import named_error
from gnet.transports import READ

if TYPE_CHECKING:
    from collections.abc import Callable

    from gnet.benchmarking.load import ClosedLoad, Load, OpenLoad
    from gnet.benchmarking.opening import Opened

__all__ = ["BatchConnection", "Connection", "PacedConnection"]

# Bytes received at once. TLS: more than a record holds.
_CHUNK: Final = 65536


class Connection(ABC):
    """What both kinds have in common: bytes in, bytes out, and how it ends."""

    __slots__ = (
        "_answers", "_is_tls", "_load", "_receive", "_send", "_socket", "_transport", "_unsent", "_watcher",
        "answered_at", "closed",
    )  # fmt: skip

    def __init__(self, load: Load, opened: Opened) -> None:
        """Begin to listen to what the server sends."""
        self._load = load
        self._socket = opened.socket
        transport = self._transport = opened.transport
        self._is_tls = transport.is_tls
        self._receive: Callable[[int], bytes | None] = (
            transport.receive if transport.is_tls else transport.socket.recv
        )
        self._send: Callable[[bytes], int] = transport.send if transport.is_tls else transport.socket.send
        expect = load.plan.expect
        self._answers = None if expect is None else Answers(expect)
        self._unsent = b""  # of what is to be sent, while the kernel takes no more
        self.answered_at = 0  # when an answer was last read; 0: none was
        self.closed = False
        self._watcher: Any = gevent.get_hub().loop.io(transport.socket.fileno(), READ)
        self._watcher.start(self._on_readable)

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many answers are to come."""

    @property
    @abstractmethod
    def waits_since(self) -> int:
        """When the oldest request that waits was sent, in nanoseconds; only while any waits."""

    @abstractmethod
    def _answered(self, lines: int, wrong: tuple[int, ...], now: int) -> None:
        """Note that the next answers, at most as many as are to come, were read now."""

    def close(self, timeout: float = 0) -> None:
        """Close it; the load is not told. Idempotent.

        Args:
            timeout: milliseconds for the goodbye of TLS.
        """
        if not self.closed:
            self.closed = True
            self._watcher.stop()
            self._watcher.close()
            self._socket.close(timeout=timeout)

    def fail(self, kind: str, message: str) -> None:
        """Give it up; whatever waits for an answer has failed in this way."""
        waiting = self.waiting
        self.close()
        self._load.lost(self, kind, message, waiting)

    # ------------------------------------------------------------------ receiving

    def _on_readable(self) -> None:
        try:
            data = self._receive(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail_with(error, "receive from")
            return
        self._arrived(data)
        if self._is_tls:
            # What the engine holds makes no descriptor readable.
            while data and not self.closed and not self._transport.drained:
                try:
                    data = self._receive(_CHUNK)
                except OSError as error:
                    self._fail_with(error, "receive from")
                    return
                self._arrived(data)

    def _arrived(self, data: bytes | None) -> None:
        now = monotonic_ns()
        if not data:
            if data is not None:
                self._ended()
            return
        wrong: tuple[int, ...] = ()
        answers = self._answers
        if answers is None:
            lines = data.count(b"\n")
        else:
            try:
                lines, wrong = answers.feed(data)
            except OSError as error:
                self._fail_with(error, "receive from")
                return
        if lines > self.waiting or (not lines and not self.waiting):
            self._surplus(data, lines, wrong, now)
        elif lines:
            self._answered(lines, wrong, now)

    def _surplus(self, data: bytes, lines: int, wrong: tuple[int, ...], now: int) -> None:
        """End a connection that is out of step: which answer is whose is not known from here on."""
        waiting = self.waiting
        message = f"{self._peer}: {lines} lines came for {waiting} asked for: {shown_line(data)}"
        self._load.failures.note("unasked answer", message)
        self.close()  # first, so that nothing more is sent
        if waiting:
            self._answered(waiting, tuple(number for number in wrong if number < waiting), now)
        self._load.lost(self, "unasked answer", message, 0)

    def _note_wrong(self, count: int) -> None:
        assert self._answers is not None
        self._load.failed += count
        line = shown_line(self._answers.first_wrong or b"")
        self._load.failures.note(
            "wrong answer", f"{self._peer}: expected {self._load.plan.expect!r}, got {line}", count
        )

    def _ended(self) -> None:
        waiting = self.waiting
        self.fail("closed", f"{self._peer}: the server ended the connection with {waiting} answers to come")

    def _fail_with(self, error: OSError, operation: str) -> None:
        self.fail(kind_of(error), str(named_error(error, f"{operation} {self._peer}").strerror or error))

    @property
    def _peer(self) -> str:
        return self._transport.describe()

    # ------------------------------------------------------------------ sending

    def _write(self, data: bytes) -> None:
        """Send now, or as soon as the kernel takes it."""
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._transport.call_when_writable(self._on_writable)

    def _on_writable(self) -> None:
        if self.closed:
            return
        data, self._unsent = self._unsent, b""
        self._transport.call_when_writable(None)
        if data:
            self._write(data)

    def _send_failed(self, error: OSError) -> None:
        # Later: who sends goes through its connections, and must not find them changed.
        self._load.later(lambda: None if self.closed else self._fail_with(error, "send to"))


class BatchConnection(Connection):
    """The closed loop: a batch of lines, and the next one when each of them has its answer."""

    __slots__ = ("_batch", "_left", "_sent_at", "_size")

    _load: ClosedLoad

    def __init__(self, load: ClosedLoad, opened: Opened) -> None:
        self._size = load.plan.pipeline
        self._batch = load.request * self._size
        self._left = 0
        self._sent_at = 0
        super().__init__(load, opened)

    @property
    def waiting(self) -> int:
        return self._left

    @property
    def waits_since(self) -> int:
        return self._sent_at

    def ask(self) -> None:
        """Send the next batch, if there is more to do."""
        load = self._load
        size = self._size
        count = size if load.budget >= size else load.budget
        if not count:
            self._left = 0
            load.rests()
            return
        load.budget -= count
        load.asked += count
        self._left = count
        data = self._batch if count == size else load.request * count
        self._sent_at = monotonic_ns()
        self._write(data)

    def _answered(self, lines: int, wrong: tuple[int, ...], now: int) -> None:
        self._left -= lines
        self.answered_at = now
        if wrong:
            self._note_wrong(len(wrong))
            lines -= len(wrong)
        if lines:
            self._load.latencies.record((now - self._sent_at + 500) // 1000, lines)
        if not self._left and not self.closed:
            self.ask()


class PacedConnection(Connection):
    """The open loop: each request with the moment at which it should have begun, and when it did."""

    __slots__ = ("_pending",)

    _load: OpenLoad

    def __init__(self, load: OpenLoad, opened: Opened) -> None:
        self._pending: deque[tuple[int, int]] = deque()
        super().__init__(load, opened)

    @property
    def waiting(self) -> int:
        return len(self._pending)

    @property
    def waits_since(self) -> int:
        return self._pending[0][1]

    @property
    def room(self) -> int:
        """How many requests more it may have on the way."""
        return self._load.plan.pipeline - len(self._pending)

    def ask(self, moments: list[int]) -> None:
        """Send a request for each of these moments, in nanoseconds, which are over."""
        now = monotonic_ns()
        self._pending.extend((moment, now) for moment in moments)
        self._load.asked += len(moments)
        self._write(self._load.request * len(moments))

    def _answered(self, lines: int, wrong: tuple[int, ...], now: int) -> None:
        had_room = self.room > 0
        self.answered_at = now
        for number in range(lines):
            moment, _sent_at = self._pending.popleft()
            if number not in wrong:
                self._load.latencies.record((now - moment + 500) // 1000)
        if wrong:
            self._note_wrong(len(wrong))
        self._load.has_room(self, had_room)
