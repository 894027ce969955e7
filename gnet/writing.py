"""The write side of a stream: whole messages, in order, or an error that says how much went.

Theory of operation. A `send` tries the kernel at once. What the kernel does not take keeps the
caller waiting, so memory stays bounded by what callers hold. Only two things are queued here: a
small message sent while pipelined input still waits to be read (*coalescing*: its answers leave
together, in one system call), and what is left of a `try_send`.

The queue goes out when the socket is about to wait for input, when it passes `_QUEUE_LIMIT`, at
`flush`, `shutdown` and `close`, and at the latest before the loop polls for I/O again. What the
kernel refuses then is sent from the loop as it drains, in the background.

    OPEN ──shutdown──▶ SHUT        our end of stream is out
      └──message cut──▶ BROKEN     the peer has the start of a message
    any ──close──▶ CLOSED
"""

from __future__ import annotations

import enum
import errno
from typing import TYPE_CHECKING, Final

import gevent

from gnet.buffers import WriteQueue
from gnet.deadlines import Deadline
from gnet.errors import BrokenSendError, TimeoutError, because, closed_error, named_error
from gnet.transports import get_ident
from gnet.turns import Turn
from gnet.watching import count_lines

if TYPE_CHECKING:
    from gnet.buffers import ReadBuffer
    from gnet.transports import Transport
    from gnet.watching import Watch

__all__ = ["StreamWriter", "as_bytes"]

# Queued bytes beyond which a send goes to the kernel, and waits for it. One sendmsg of this size
# fits the default send buffer of a loopback or LAN connection.
_QUEUE_LIMIT: Final = 64 * 1024

# Bytes handed to the kernel without a visit to the loop, so that a sender whose peer always reads
# does not keep other greenlets waiting: some 5 ms over loopback.
_FAIR_SHARE: Final = 4 * 1024 * 1024


class _State(enum.Enum):
    OPEN = enum.auto()
    SHUT = enum.auto()
    BROKEN = enum.auto()
    CLOSED = enum.auto()


# Looking a member up in its enum costs 40 ns, in each send.
_OPEN: Final = _State.OPEN

# What each event makes of each state.
_AFTER_SHUTDOWN: Final = {_State.OPEN: _State.SHUT}
_AFTER_CUT: Final = {_State.OPEN: _State.BROKEN}


def as_bytes(data: object, operation: str) -> bytes | memoryview:
    """Check what a send was given: `bytes` as they are, other buffers as a view of their bytes.

    Raises:
        TypeError: a `str`, or anything that is no bytes-like object.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        view = memoryview(data)
        if not view.contiguous:
            raise TypeError(f"{operation}: expected contiguous memory, got a strided memoryview")
        return view.cast("B")
    if isinstance(data, str):
        raise TypeError(f"{operation}: expected bytes, got str {data[:20]!r}; encode it, e.g. .encode()")
    raise TypeError(f"{operation}: expected bytes, bytearray or memoryview, got {type(data).__name__}")


class _RefusedError(Exception):
    """The transport raised: to be told from an `OSError` that somebody throws into a waiting greenlet."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


class StreamWriter:
    """Writes of a stream. Timeouts are in milliseconds and checked; -1: no limit."""

    __slots__ = (
        "_cut_after",
        "_flush_scheduled",
        "_in_background",
        "_is_inside",
        "_refused",
        "_since_visit",
        "_state",
        "_thread_id",
        "_transport",
        "_turn",
        "coalesce",
        "input",
        "queue",
        "watch",
    )

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._thread_id = get_ident()
        self.input: ReadBuffer | None = None
        """What has arrived and was not read: while there is some, answers may wait for each other."""
        self.queue = WriteQueue()
        """Bytes that a send took and the kernel has not; for others to look at."""
        self._state = _OPEN
        self._cut_after = 0  # in BROKEN: how many bytes of the message went
        self._refused: OSError | None = None  # in BROKEN: why, if no message was cut
        self._flush_scheduled = False
        self._in_background = False  # the loop sends the queue as the kernel drains
        self._is_inside = False  # a part of a message is out, and the rest is going to be sent
        self._since_visit = 0  # bytes sent since the loop was visited
        # Who holds it sends; others queue up in order, so that messages never interleave.
        self._turn: Turn | None = None
        self.watch: Watch | None = None
        """What is to know when this waits, if anything is."""
        self.coalesce = False
        """Queue small messages while input waits to be read."""

    # ------------------------------------------------------------------ sending

    def send_message(self, data: bytes | memoryview, timeout: float) -> None:
        """Send all of `data`, from the thread that may, in whatever way is best now; as `send`."""
        if get_ident() != self._thread_id:
            self._transport.check_thread()
        source = self.input
        if source is None or not (source.py_ready or source.has_data()):
            self.send(data, timeout, False)
        elif 0 < (size := len(data)) <= self.queue.room and (
            type(data) is bytes and self._transport.failure is None
        ):
            # The hot path: one more answer of a batch.
            queue = self.queue
            queue.pieces.append(data)
            queue.size += size
            queue.room -= size
        else:
            self.send(data, timeout, self.coalesce)

    def end_batch(self) -> None:
        """Look at everything anew with the next message."""
        self.queue.room = 0

    def send(self, data: bytes | memoryview, timeout: float, input_waits: bool) -> None:
        """Send all of `data`, or queue it if `input_waits` and this writer coalesces.

        Raises:
            TimeoutError: with `bytes_sent`; unless that is 0, the write side is broken from now on.
            BrokenSendError: an earlier message was cut, or what was queued was not sent.
            OSError: from the kernel.
        """
        if self._state is not _OPEN:
            raise self._state_error("send")
        queue = self.queue
        transport = self._transport
        size = len(data)
        if input_waits and self.coalesce and queue.size + size <= _QUEUE_LIMIT:
            if transport.failure is not None:
                raise because(self._send_error(transport.failure, "send", 0, size), transport.failure)
            queue.append(bytes(data))
            if not self._flush_scheduled:
                self._flush_scheduled = True
                transport.run_in_loop(self._flush_in_loop)
            queue.room = _QUEUE_LIMIT - queue.size  # the next ones need none of this
            return
        if self._turn is not None and self._turn.held:
            self._send_waiting(data, 0, timeout)
        elif queue.size:
            if self.coalesce and queue.size + size <= _QUEUE_LIMIT:  # the last answer of a batch
                queue.append(bytes(data))
                self._try_flush()
                if transport.failure is not None:
                    raise self._state_error("send")
            else:
                self._send_waiting(data, 0, timeout)
        elif self._since_visit > _FAIR_SHARE:
            self._since_visit = 0
            transport.yield_to_loop()
            self.send(data, timeout, False)  # anything may have happened meanwhile
        else:
            try:
                sent = transport.send(data)
            except OSError as error:
                raise because(self._send_error(error, "send", 0, size), error)
            self._since_visit += sent
            watch = self.watch
            if watch is not None:
                if sent == size and type(data) is bytes:
                    watch.bytes_out += size
                    watch.lines_out += count_lines(data)
                else:
                    self._note_sent(data, sent)
            if sent < size or transport.unsent:
                self._send_waiting(data, sent, timeout)

    def try_send(self, data: bytes | memoryview, input_waits: bool) -> bool:
        """Send or queue all of `data` without waiting; False if nothing of it was taken."""
        if self._state is _State.CLOSED:
            raise self._state_error("try_send")
        transport = self._transport
        if self._state is not _OPEN or transport.failure is not None:
            return False
        if self._turn is not None and self._turn.held:
            return False
        queue = self.queue
        if input_waits and self.coalesce and queue.size + len(data) <= _QUEUE_LIMIT:
            self.send(data, 0, input_waits)
            return True
        if queue.size and not self._try_flush():
            return False
        try:
            sent = transport.send(data)
        except OSError:
            return False  # kept by the transport; the next send or read raises it
        if not sent and len(data):
            return False
        if self.watch is not None:
            self._note_sent(data, sent)
        if sent < len(data):
            queue.append(bytes(data[sent:]))
            self._flush_in_background()
        return True

    # ------------------------------------------------------------------ flushing

    def flush(self, timeout: float, operation: str = "flush") -> None:
        """Wait until the kernel has all that was queued."""
        if self._state is not _OPEN:
            if self._state is _State.SHUT:
                return
            raise self._state_error(operation)
        if self.queue.size or self._transport.unsent or (self._turn is not None and self._turn.held):
            self._send_waiting(b"", 0, timeout, operation)

    def flush_before_wait(self) -> None:
        """Send what the kernel takes of the queue now, and the rest in the background. Never raises."""
        if self.queue.size and not (self._turn is not None and self._turn.held):
            self._try_flush()

    @property
    def is_refused(self) -> bool:
        """Whether nothing more can be sent, as a message was cut or had no time."""
        return self._state is _State.BROKEN

    def refuse(self, error: OSError) -> None:
        """Have sends raise `error` from now on; the peer will see that not all was sent."""
        self._refused = error
        self.queue.room = 0
        self._state = _AFTER_CUT.get(self._state, self._state)

    def shut(self) -> None:
        """Note that the end of stream is out: sends raise from now on."""
        self.queue.room = 0
        self._state = _AFTER_SHUTDOWN.get(self._state, self._state)

    @property
    def unsent(self) -> int:
        """Bytes that a send took and the kernel has not."""
        return self.queue.size + self._transport.unsent

    def use(self, transport: Transport) -> None:
        """Write to another transport from now on."""
        self.queue.room = 0
        self._transport = transport

    def close(self, timeout: float) -> bool:
        """Refuse further sends and give the kernel what is queued, waiting up to `timeout`.

        The transport has been stopped before, so whoever was sending is on the way out.

        Returns:
            Whether the peer gets all that was sent: if not, it must not see an orderly end.
        """
        if self._state is _State.CLOSED:
            return True
        whole = self._state is not _State.BROKEN and not self._is_inside
        self._state = _State.CLOSED
        self._in_background = False
        queue = self.queue
        queue.room = 0
        transport = self._transport
        deadline = Deadline(timeout)
        try:
            while whole and (queue.size or transport.unsent):
                try:
                    data = queue.joined()
                    sent = transport.send(data)
                except OSError:
                    return False  # the connection is gone, and who could have read the rest with it
                queue.discard(sent)
                if self.watch is not None:
                    self._note_sent(data, sent)
                if not sent and (queue.size or transport.unsent):
                    if timeout == 0 or transport.in_hub():
                        return False
                    deadline.arm()
                    transport.wait_writable()
            if whole:
                transport.finish(deadline)
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            return False
        finally:
            deadline.close()
            queue.clear()
        return whole

    # ------------------------------------------------------------------ inside

    def _send_waiting(
        self, data: bytes | memoryview, sent: int, timeout: float, operation: str = "send"
    ) -> None:
        """Send the queue and then the rest of `data`, of which `sent` bytes are out, waiting as needed."""
        transport = self._transport
        if self._turn is None:
            self._turn = Turn()
        turn = self._turn
        deadline = Deadline(timeout)
        mine = False
        try:
            # If a part is out, nobody else holds the turn, and this takes it without waiting.
            if turn.held:
                deadline.arm()
            turn.acquire()
            mine = True
            self._check_open(operation)
            self._end_background()
            self._send_queue(deadline, operation)
            total = len(data)
            rest = memoryview(data)[sent:]
            while sent < total:
                self._is_inside = sent > 0
                count = self._wait_and_send(rest, deadline, operation)
                sent += count
                rest = rest[count:]
            while transport.unsent:
                self._wait(deadline, operation)
                self._give(b"")
        except BaseException as error:
            expired = isinstance(error, gevent.Timeout) and deadline.owns(error)
            if expired and mine and not transport.closed:
                sent += self._last_try(memoryview(data)[sent:])
                if sent == len(data) and not self.queue.size and not transport.unsent:
                    return
            if 0 < sent < len(data):
                self._cut(sent)
            peer = f"{operation} to {transport.describe()}"
            if expired:
                detail = f"{peer} ({sent} of {len(data)} bytes sent)" if len(data) else peer
                raise because(deadline.error(detail, bytes_sent=sent), None)
            if isinstance(error, TimeoutError) and self._refused is not None:  # a server's deadline
                self._cut_after = sent
                detail = f"{error} ({sent} of {len(data)} bytes sent)"
                raise because(TimeoutError(detail, bytes_sent=sent), None)
            if isinstance(error, _RefusedError):
                raise because(self._send_error(error.cause, operation, sent, len(data)), error.cause)
            raise
        finally:
            deadline.close()
            if mine:
                self._is_inside = False
                turn.release()
                if self.queue.size:
                    self._flush_in_background()

    def _send_queue(self, deadline: Deadline, operation: str) -> None:
        queue = self.queue
        try:
            while queue.size:
                queue.discard(self._wait_and_send(queue.joined(), deadline, operation))
        except _RefusedError:
            self._cut_queue()
            raise

    def _wait_and_send(self, data: bytes | memoryview, deadline: Deadline, operation: str) -> int:
        """Send the start of `data`, at least a byte."""
        transport = self._transport
        if self._since_visit > _FAIR_SHARE:
            self._since_visit = 0
            transport.yield_to_loop()
            self._check_open(operation)
        while not (count := self._give(data)):
            self._wait(deadline, operation)
        self._since_visit += count
        if self.watch is not None:
            self._note_sent(data, count)
        return count

    def _note_sent(self, data: bytes | memoryview, count: int) -> None:
        watch = self.watch
        assert watch is not None
        watch.bytes_out += count
        if type(data) is not bytes or count < len(data):
            data = bytes(data[:count])
        watch.lines_out += count_lines(data)

    def _give(self, data: bytes | memoryview) -> int:
        """Give the transport the start of `data`; its errors come as `_RefusedError`."""
        try:
            return self._transport.send(data)
        except OSError as error:
            raise because(_RefusedError(error), None)

    def _wait(self, deadline: Deadline, operation: str) -> None:
        deadline.arm()
        watch = self.watch
        if watch is None:
            self._transport.wait_writable()
        else:
            watch.write_begins()
            try:
                self._transport.wait_writable()
            finally:
                watch.writes_waiter = None
        self._since_visit = 0
        self._check_open(operation)

    def _last_try(self, rest: memoryview) -> int:
        """After the deadline: send what the kernel takes now. Room that is there wins over time."""
        try:
            if self.queue.size:
                self.queue.discard(self._transport.send(self.queue.joined()))
            return self._transport.send(rest) if len(rest) and not self.queue.size else 0
        except OSError:
            return 0  # kept by the transport; the next call raises it

    def _try_flush(self) -> bool:
        """Send what the kernel takes of the queue; have the rest sent in the background."""
        queue = self.queue
        try:
            data = queue.joined()
            sent = self._transport.send(data)
            queue.discard(sent)
            self._since_visit += sent
            if self.watch is not None:
                self._note_sent(data, sent)
        except OSError:
            self._cut_queue()
        if queue.size:
            self._flush_in_background()
        return not queue.size

    def _flush_in_loop(self) -> None:
        # A callback of the loop: errors are kept, not raised.
        self._flush_scheduled = False
        self.queue.room = 0
        if self._state is not _State.CLOSED:
            self.flush_before_wait()

    def _flush_in_background(self) -> None:
        if not self._in_background and not self._transport.closed and self._transport.failure is None:
            self._in_background = True
            self._transport.call_when_writable(self._send_in_background)

    def _send_in_background(self) -> None:
        if self._turn is None or not self._turn.held:
            self._in_background = False
            self._try_flush()
        if not self._in_background:
            self._transport.call_when_writable(None)

    def _end_background(self) -> None:
        if self._in_background:
            self._in_background = False
            self._transport.call_when_writable(None)

    def _cut_queue(self) -> None:
        """What was queued can not be sent: the transport keeps the error, the next call raises."""
        self._cut(self.queue.went)

    def _cut(self, sent: int) -> None:
        """A message, or the queue, was cut after `sent` bytes: nothing may follow it."""
        self._state = _AFTER_CUT.get(self._state, self._state)
        self._cut_after = sent
        self.queue.clear()
        self._end_background()

    def _check_open(self, operation: str) -> None:
        """Raise if the stream was closed, broken or shut while this call waited."""
        if self._transport.closed:
            raise closed_error(operation)
        if self._state is not _OPEN:
            raise self._state_error(operation)

    def _state_error(self, operation: str) -> OSError:
        peer = f"{operation} to {self._transport.describe()}"
        if self._state is _State.BROKEN and self._refused is not None:
            refused = type(self._refused)(f"{peer}: {self._refused}")
            if isinstance(refused, TimeoutError):
                refused.bytes_sent = self._cut_after
            return refused
        if self._state is _State.BROKEN:
            failure = self._transport.failure
            reason = f" ({failure.strerror or failure})" if failure is not None else ""
            error = BrokenSendError(
                f"{peer}: an earlier send was cut after {self._cut_after} bytes{reason}",
                bytes_sent=self._cut_after,
            )
            error.__cause__ = failure
            return error
        if self._state is _State.SHUT:
            return BrokenPipeError(errno.EPIPE, f"{peer}: the write side is shut down")
        return closed_error(operation)

    def _send_error(self, error: OSError, operation: str, sent: int, size: int) -> OSError:
        """Give the user's error for one from the kernel, with the count as `bytes_sent`."""
        peer = self._transport.describe()
        count = f" ({sent} of {size} bytes sent)" if size else ""
        named = named_error(error, f"{operation} to {peer}{count}")
        named.bytes_sent = sent  # type: ignore[attr-defined]  # an extra; the class is the stdlib's
        return named
