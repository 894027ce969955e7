"""The read side of a stream: every way to read, on one buffer, with one way to wait.

Each reader first asks the buffer. Only when that has no answer does it come to `_wait_for`, the
one place that waits: it receives and asks again, until there is an answer, the stream ends or the
deadline does. What was received is in the buffer by then, so whatever interrupts the wait (a
timeout, a kill, an error), the next read finds it.

What a reader makes of the end of the stream (nothing, the rest, an error) is its own last lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import gevent

from gnet.buffers import LimitReachedError, ReadBuffer
from gnet.deadlines import NO_DEADLINE, NO_LIMIT, Deadline
from gnet.errors import (
    BusyError,
    IncompleteReadError,
    LineTooLongError,
    because,
    closed_error,
    is_disconnection_error,
    named_error,
)
from gnet.options import BUFFER_SIZE, MAX_LINE_LENGTH, ReadLineResult, SocketFlag
from gnet.transports import get_ident
from gnet.watching import count_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gnet.transports import Transport
    from gnet.watching import Watch
    from gnet.writing import StreamWriter

__all__ = ["StreamReader", "UnbufferedReader"]

# What one recv(2) may ask for at most. Larger reads gain nothing over loopback, and beyond 128 KiB the C
# library asks the kernel for the memory of each and gives it back: 12 µs for a line of 10 KB in place of 5.
_LARGEST_READ: Final = 16 * BUFFER_SIZE

# Lines (or takes) handed out between two visits to the loop while data is always at hand. A visit
# costs 1 to 2 µs, so 512 of them make it 3 ns a line; and a handler that needs 10 µs a line keeps
# the others waiting for 5 ms.
_FAIR_SHARE: Final = 512


_T = TypeVar("_T")


class StreamReader:
    """Reads of a buffered stream. Timeouts are in milliseconds and checked; -1: no limit."""

    __slots__ = (
        "_buffer",
        "_ends_here",
        "_queue",
        "_read_size",
        "_reading",
        "_refused",
        "_thread_id",
        "_transport",
        "_writer",
        "ready",
        "watch",
    )

    # Receives made after the deadline, or with timeout 0, to find what is in the kernel already: 16 MB.
    _last_receives: ClassVar[int] = 256

    def __init__(self, transport: Transport, writer: StreamWriter) -> None:
        """Read from `transport`; have `writer` flush what it queued before each wait."""
        self._transport = transport
        self._writer = writer
        self._queue = writer.queue
        self._buffer = writer.input = ReadBuffer()
        self._read_size = BUFFER_SIZE
        self._thread_id: int = get_ident()
        self._reading = False  # a greenlet is inside a call that waits
        self._refused: OSError | None = None  # why no further read gets anything new
        self._ends_here = False  # behind what has arrived
        self.watch: Watch | None = None
        """What is to know when this waits, if anything is."""
        self.ready = self._buffer.nim_ready
        """Lines for `read_line`, the next one last: see `ReadBuffer`. Empty while a read waits."""

    # ------------------------------------------------------------------ Nim's reads

    def recv(self, size: int, timeout: float, safe: bool) -> bytes:
        """Receive `size` bytes, or what there is up to the end of the stream."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal("recv")
        buffer = self._buffer
        data = buffer.take_exactly(size) if buffer.work < _FAIR_SHARE else None
        if data is None:
            data = self._wait_for("recv", buffer.take_exactly, (size,), timeout, size)
            if data is None:
                data = buffer.take(size)
                if not data:
                    self._raise_failure("recv", safe)
        return data

    def read_line(self, timeout: float, safe: bool, max_length: int, operation: str = "read_line") -> bytes:
        """Read a line by Nim's rules; `b""` at the end of the stream."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal(operation)
        buffer = self._buffer
        line = buffer.take_line(max_length) if buffer.work < _FAIR_SHARE else None
        if line is None:
            line = self._wait_for(operation, buffer.take_line, (max_length,), timeout)
            if line is None:
                self._raise_failure(operation, safe)
                return b""
        return line

    def read_lines(self, most: int, timeout: float, safe: bool, max_length: int) -> list[bytes]:
        """Read a line by Nim's rules and up to `most` - 1 that have come with it; `[]` at the end."""
        line = self.read_line(timeout, safe, max_length, "read_lines")
        if not line:
            return []
        lines = [line]
        ready = self.ready
        take = self._buffer.take_line
        while len(lines) < most:
            if ready and max_length == MAX_LINE_LENGTH:
                # Split ahead, the next one last. None is over that limit.
                part = ready[len(lines) - most :]
                del ready[len(lines) - most :]
                part.reverse()
                lines += part if all(part) else [one or b"\r\n" for one in part]
                continue
            more = take(max_length)
            if more is None:
                break
            lines.append(more)
        return lines

    def skip(self, size: int, timeout: float, safe: bool) -> int:
        """Drop `size` bytes, or what there is up to the end of the stream; give their number."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal("skip")
        skipped = 0

        def drop() -> int | None:
            nonlocal skipped
            skipped += self._buffer.discard(size - skipped)
            return skipped if skipped == size else None

        done = drop() if self._buffer.work < _FAIR_SHARE else None
        if done is None and self._wait_for("skip", drop, (), timeout) is None and not skipped:
            self._raise_failure("skip", safe)
        return skipped

    # ------------------------------------------------------------------ the other reads

    def recv_some(self, max_size: int, timeout: float, safe: bool, operation: str = "recv_some") -> bytes:
        """Receive what is there, at least one byte; `b""` at the end of the stream."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal(operation)
        buffer = self._buffer
        data = self._some(max_size) if buffer.work < _FAIR_SHARE else None
        if data is None:
            data = self._wait_for(operation, self._some, (max_size,), timeout, max_size)
            if data is None:
                self._raise_failure(operation, safe)
                return b""
        return data

    def recv_exactly(self, size: int, timeout: float) -> bytes:
        """Receive `size` bytes; if the stream ends before, take nothing and raise."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal("recv_exactly")
        buffer = self._buffer
        data = buffer.take_exactly(size) if buffer.work < _FAIR_SHARE else None
        if data is None:
            data = self._wait_for("recv_exactly", buffer.take_exactly, (size,), timeout, size)
            if data is None:
                self._raise_failure("recv_exactly", safe=False)
                raise IncompleteReadError(
                    f"recv_exactly from {self._peer()}: the stream ended after {len(buffer)} bytes of {size}",
                    received=len(buffer),
                    expected=size,
                )
        return data

    def recv_until(self, delimiter: bytes, max_length: int, timeout: float) -> bytes:
        """Receive up to and including `delimiter`, at most `max_length` bytes."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal("recv_until")
        buffer = self._buffer
        try:
            data = buffer.take_until(delimiter, max_length) if buffer.work < _FAIR_SHARE else None
            if data is None:
                data = self._wait_for("recv_until", buffer.take_until, (delimiter, max_length), timeout)
        except LimitReachedError as limit:
            raise because(self._too_long("recv_until", repr(delimiter), limit), None)
        if data is None:
            self._raise_failure("recv_until", safe=False)
            raise IncompleteReadError(
                f"recv_until from {self._peer()}: the stream ended after {len(buffer)} bytes "
                f"without {delimiter!r}",
                received=len(buffer),
            )
        return data

    def lines(self, max_length: int, timeout: float, bare_cr: bool) -> Iterator[bytes]:
        """Yield each line without its terminator, up to the end of the stream."""
        buffer = self._buffer
        while True:
            if self._reading or get_ident() != self._thread_id:
                raise self._refusal("lines")
            try:
                ready = buffer.ready_lines(max_length, bare_cr) if buffer.work < _FAIR_SHARE else None
                if ready is None:
                    ready = self._wait_for("lines", buffer.ready_lines, (max_length, bare_cr), timeout)
            except LimitReachedError as limit:
                raise because(self._too_long("lines", "line end", limit), None)
            if ready is None:
                self._raise_failure("lines", safe=False)
                if buffer.has_data():
                    raise IncompleteReadError(
                        f"lines from {self._peer()}: the stream ended in a line, after {len(buffer)} "
                        f"bytes of it",
                        received=len(buffer),
                    )
                return
            # The list is the buffer's: another read between two lines empties it and takes over.
            while ready:
                yield ready.pop()

    def peek(self, size: int, timeout: float, safe: bool, operation: str = "peek") -> bytes:
        """Give up to `size` bytes, at least one, and take nothing; `b""` at the end of the stream."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal(operation)
        buffer = self._buffer
        if len(buffer) < size:
            self._check_usable(operation)
            if not buffer.eof:
                self._receive(size)
            if not buffer.has_data():
                self._wait_for(operation, self._anything, (), timeout, size)
        data = buffer.peek(size)
        if not data:
            self._raise_failure(operation, safe)
        return data

    def try_read_line(self, max_length: int) -> tuple[ReadLineResult, bytes]:
        """Read a line if one is complete, without waiting; else show what is there."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal("try_read_line")
        buffer = self._buffer
        line = buffer.take_line(max_length)
        if line is None:
            self._check_usable("try_read_line")
            line = self._take_now(buffer.take_line, (max_length,), 0)
        if line is not None:
            if self.watch is not None:
                self.watch.message_ended()
            return ReadLineResult.FULL_LINE, line
        if buffer.eof:
            self._raise_failure("try_read_line", safe=True)
            return ReadLineResult.DISCONNECTED, buffer.peek(max_length)
        if buffer.has_data():
            return ReadLineResult.PARTIAL_LINE, buffer.peek(max_length)
        return ReadLineResult.NONE, b""

    # ------------------------------------------------------------------ state

    def has_data(self) -> bool:
        """Whether bytes are here that a read would get without the kernel."""
        return self._buffer.has_data()

    @property
    def is_at_end(self) -> bool:
        """Whether the peer's end of the stream (or what broke it) has come, and no byte is left before it."""
        return self._buffer.eof and not self._ends_here and not self._buffer.has_data()

    def end_here(self) -> None:
        """Let the stream end, for those who read it, behind what has arrived."""
        self._ends_here = True

    @property
    def is_refused(self) -> bool:
        """Whether reads get nothing any more, for another reason than the end of the stream."""
        return self._refused is not None

    @property
    def is_busy(self) -> bool:
        """Whether a greenlet waits in a read."""
        return self._reading

    def use(self, transport: Transport) -> None:
        """Read from another transport from now on."""
        self._transport = transport

    def refuse(self, error: OSError) -> None:
        """Have reads raise `error`, once what has arrived is read."""
        self._refused = error

    def restart(self) -> None:
        """Begin a new stream: the socket was just connected, and an earlier read met no connection."""
        self._buffer.eof = False

    def close(self) -> None:
        """Drop what is here; the transport wakes who waits."""
        self._buffer.clear()

    # ------------------------------------------------------------------ waiting

    def _wait_for(
        self,
        operation: str,
        take: Callable[..., _T | None],
        arguments: tuple[Any, ...],
        timeout: float,
        size: int = 0,
    ) -> _T | None:
        """Receive until `take(*arguments)` has an answer; `None` if the stream ends without one.

        Args:
            size: how many bytes the answer has at most, if that is known; else 0.
        Raises:
            TimeoutError: the deadline is over, and what is in the kernel makes no answer either:
                data that is there wins, also when the whole process was late.
        """
        transport = self._transport
        if transport.closed or self._refused is not None:
            self._check_usable(operation)
        buffer = self._buffer
        watch = self.watch
        if timeout == 0:
            answer = take(*arguments)
            if answer is None:
                answer = self._take_now(take, arguments, size)
            if answer is None and not buffer.eof:
                raise Deadline(timeout).error(self._from_peer(operation))
            if watch is not None and watch.in_line:
                watch.message_ended()
            return answer
        deadline = NO_DEADLINE if timeout == NO_LIMIT else Deadline(timeout)
        self._reading = True
        try:
            if buffer.work >= _FAIR_SHARE:
                len(buffer)  # back to bytes: no line may be popped past this call
                self._visit_loop(deadline, operation)
                answer = take(*arguments)
                if answer is not None:
                    if watch is not None and watch.in_line:
                        watch.message_ended()
                    return answer
            while not buffer.eof:
                if transport.drained:
                    self._wait(deadline, operation)
                elif buffer.work >= _FAIR_SHARE:
                    self._visit_loop(deadline, operation)
                received, answer = self._receive_and_take(take, arguments, size)
                while not received:
                    self._wait(deadline, operation)
                    received, answer = self._receive_and_take(take, arguments, size)
                if answer is not None:
                    if watch is not None and watch.in_line:
                        watch.message_ended()
                    return answer
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            answer = self._take_now(take, arguments, size)
            if answer is not None or buffer.eof:
                if watch is not None and watch.in_line:
                    watch.message_ended()
                return answer
            raise because(deadline.error(self._from_peer(operation)), None)
        finally:
            self._reading = False
            deadline.close()
        return None

    def _wait(self, deadline: Deadline, operation: str) -> None:
        """Wait until the transport is readable; let what is queued for the peer go out first."""
        if self._queue.size:
            self._writer.flush_before_wait()
        if deadline is not NO_DEADLINE:
            deadline.arm()
        transport = self._transport
        watch = self.watch
        if watch is None:
            transport.wait_readable()
        else:
            watch.read_begins(operation, self._buffer.has_data())
            try:
                if not self._ends_here:
                    transport.wait_readable()
            except BaseException:
                watch.read_interrupted()
                raise
            finally:
                watch.reads_waiter = None
        if transport.closed or self._refused is not None:
            self._check_usable(operation)
        self._buffer.work = 0

    def _visit_loop(self, deadline: Deadline, operation: str) -> None:
        """Let others run: there is always more data for this one."""
        deadline.arm()
        self._transport.yield_to_loop()
        self._check_usable(operation)
        self._buffer.work = 0

    def _take_now(self, take: Callable[..., _T | None], arguments: tuple[Any, ...], size: int) -> _T | None:
        """Receive what is in the kernel, without waiting, until `take` has an answer."""
        for _ in range(self._last_receives):
            if self._transport.closed or self._buffer.eof:
                break
            received, answer = self._receive_and_take(take, arguments, size)
            if answer is not None:
                return answer
            if not received:
                break
        return None

    def _receive_and_take(
        self, take: Callable[..., _T | None], arguments: tuple[Any, ...], size: int
    ) -> tuple[bool, _T | None]:
        """Receive once without waiting; tell whether anything was there, and give `take`'s answer."""
        if not self._receive(size):
            return False, None
        return True, take(*arguments)

    def _receive(self, size: int) -> bool:
        """Receive once into the buffer; False if nothing is there. An error ends the stream."""
        read_size = self._read_size
        try:
            data = self._transport.receive(read_size)
        except OSError:  # the transport keeps it, `_raise_failure` raises it once all is read
            self._buffer.feed_eof()
            return True
        if data is None:
            if not self._ends_here:
                return False
            self._buffer.feed_eof()
            return True
        received = len(data)
        if not received:
            self._ends_here = False
            self._buffer.feed_eof()
            return True
        self._buffer.feed(data)
        self._buffer.work += received >> 9
        watch = self.watch
        if watch is not None:
            watch.bytes_in += received
            watch.lines_in += count_lines(data)
        if received == read_size:
            if read_size < _LARGEST_READ:
                self._read_size = 2 * read_size
        elif received <= read_size // 2 and read_size > BUFFER_SIZE:
            self._read_size = read_size // 2
        return True

    # ------------------------------------------------------------------ inside

    def _some(self, max_size: int) -> bytes | None:
        return self._buffer.take(max_size) if self._buffer.has_data() else None

    def _anything(self) -> bool | None:
        return True if self._buffer.has_data() else None

    def _check_usable(self, operation: str) -> None:
        if self._transport.closed:
            raise closed_error(self._from_peer(operation))
        if self._refused is not None:
            raise type(self._refused)(f"{self._from_peer(operation)}: {self._refused}")

    def _raise_failure(self, operation: str, safe: bool) -> None:
        """Raise what ended the stream; do nothing if it just ended (or was reset, and `safe`)."""
        failure = self._transport.failure
        if failure is None or (safe and is_disconnection_error(SocketFlag.SAFE_DISCONN, failure)):
            return
        raise because(named_error(failure, self._from_peer(operation)), failure)

    def _too_long(self, operation: str, what: str, limit: LimitReachedError) -> LineTooLongError:
        """Give up the stream: what follows would be taken for the start of a message."""
        message = f"{self._from_peer(operation)}: no {what} in {limit.seen} bytes (limit {limit.limit})"
        self._refused = LineTooLongError(f"the stream is out of step since {message}", limit=limit.limit)
        self._buffer.clear()
        return LineTooLongError(message, limit=limit.limit)

    def _refusal(self, operation: str) -> RuntimeError:
        """Give the error for a caller that may not read: one too many, or in another thread."""
        self._transport.check_thread()
        return BusyError(f"{self._from_peer(operation)}: another greenlet is already reading this stream")

    def _from_peer(self, operation: str) -> str:
        return f"{operation} from {self._peer()}"

    def _peer(self) -> str:
        return self._transport.describe()


class UnbufferedReader(StreamReader):
    """Reads of an unbuffered stream: what no read asked for stays in the kernel.

    Reads of a known size receive no more than that. The others look ahead in the kernel and then
    receive just the bytes up to the end of their answer. Only the start of an answer that is not
    complete yet is kept here, so that an interrupted read loses nothing.
    """

    __slots__ = ()

    _last_receives: ClassVar[int] = 512  # of 4,000 bytes, which take 1 ms to look at

    def recv(self, size: int, timeout: float, safe: bool) -> bytes:
        """Receive what one read gives, at most `size` bytes."""
        return self.recv_some(size, timeout, safe, "recv")

    def peek(self, size: int, timeout: float, safe: bool, operation: str = "peek") -> bytes:
        """Give up to `size` bytes, at least one, and take nothing, from the kernel neither."""
        if self._reading or get_ident() != self._thread_id:
            raise self._refusal(operation)
        here = self._buffer.peek(size)  # the start of an answer that was interrupted
        missing = size - len(here)
        if not missing:
            return here
        if here:
            return here + (self._look(missing) or b"")
        ahead = self._wait_for(operation, self._look, (missing,), timeout, -missing)
        if ahead is None:
            self._raise_failure(operation, safe)
            return b""
        return ahead

    def _look(self, size: int) -> bytes | None:
        """Look at what the kernel has; `None` if that is nothing, or the end of the stream."""
        try:
            ahead = None if self._buffer.eof else self._transport.peek(min(size, _LARGEST_READ))
        except OSError:
            ahead = b""
        if ahead == b"":
            self._buffer.feed_eof()
        return ahead or None

    def _receive(self, size: int) -> bool:
        self._read_size = min(max(size - len(self._buffer), 1), _LARGEST_READ)
        return super()._receive(size)

    def _receive_and_take(
        self, take: Callable[..., _T | None], arguments: tuple[Any, ...], size: int
    ) -> tuple[bool, _T | None]:
        # A negative size only looks, at that many bytes.
        if size > 0:
            return super()._receive_and_take(take, arguments, size)
        ahead = self._look(-size or BUFFER_SIZE)
        if ahead is None:
            return self._buffer.eof, take(*arguments) if self._buffer.eof and not size else None
        if size:
            return True, cast("_T", ahead)
        self._buffer.work += len(ahead) >> 3  # looking at a byte takes some 300 ns
        # A byte at a time, as Nim does, though not with a system call for each.
        for count in range(1, len(ahead) + 1):
            self._buffer.feed(ahead[count - 1 : count])
            answer = take(*arguments)
            if answer is not None:
                if isinstance(answer, list):  # lines split ahead: the list is the buffer's
                    kept = answer[:]
                    answer.clear()
                    answer = kept  # type: ignore[assignment]  # a list, as it was
                # What the answer left is the byte behind a CR, which is not taken from the kernel.
                unread = len(self._buffer.take(len(self._buffer)))
                if count > unread:
                    self._transport.receive(count - unread)
                return True, answer
        self._transport.receive(len(ahead))
        return True, None
