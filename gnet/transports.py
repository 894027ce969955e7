"""Cooperative I/O on one descriptor: try to receive, try to send, wait, close.

A transport moves bytes and remembers the first fatal error; it does not buffer, split, retry or
know about deadlines. Waiting and trying are separate operations, so that the same few of them
serve reads, writes, accepts and connects, and so that a call which need not wait arms no timer.

`Transport` is what the reader and the writer of a stream need; `PlainTransport` is the one that
talks to the kernel directly. Anything else that offers these operations (TLS, a test double) can
stand in its place.
"""

from __future__ import annotations

import _socket
import errno
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import gevent
from gevent import getcurrent
from gevent.monkey import get_original

from gnet.addresses import describe_sock_addr
from gnet.compiling import mypyc_attr

if TYPE_CHECKING:
    from collections.abc import Callable

    from gevent.hub import Hub
    from greenlet import greenlet

    from gnet.deadlines import Deadline

__all__ = ["READ", "WRITE", "PlainTransport", "Readiness", "Transport", "get_ident", "yield_to_loop"]

READ: Final = 1  # the event masks of gevent's loop
WRITE: Final = 2

# The thread's identity; in a patched process the name of that module gives a greenlet's.
get_ident: Final[Callable[[], int]] = get_original("_thread", "get_ident")

# Without it, a send to a reset connection raises SIGPIPE where a program restored its default.
_NO_SIGNAL: Final = getattr(_socket, "MSG_NOSIGNAL", 0)
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)


class Transport(Protocol):
    """What a stream's reader and writer ask of a transport. No call but the waits ever waits."""

    drained: bool
    """The last `receive` took all there was: wait before the next one."""
    failure: OSError | None
    """The first fatal error that any operation met."""
    closed: bool

    @property
    def unsent(self) -> int:
        """Bytes that `send` took and the kernel has not: they follow by themselves."""
        ...

    def receive(self, size: int) -> bytes | None:
        """Receive up to `size` bytes; `b""` at the end of the stream, `None` if nothing is there."""
        ...

    def peek(self, size: int) -> bytes | None:
        """As `receive`, but leave the bytes where they are."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Send the start of `data`; give how many bytes are taken, 0 if none can be now."""
        ...

    def wait_readable(self) -> None:
        """Wait until `receive` is worth a try, or the transport was closed."""
        ...

    def yield_to_loop(self) -> None:
        """Let the loop serve others once."""
        ...

    def wait_writable(self) -> None:
        """Wait until `send` is worth a try, or the transport was closed."""
        ...

    def call_when_writable(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called, in the hub, each time `send` is worth a try; `None`: no longer."""
        ...

    def run_in_loop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in the hub, before the loop polls for I/O again."""
        ...

    def check_thread(self) -> None:
        """Raise unless the caller runs in the thread whose hub this transport belongs to."""
        ...

    def in_hub(self) -> bool:
        """Whether the caller is the hub itself, which can not wait."""
        ...

    def finish(self, deadline: Deadline) -> None:
        """Say goodbye before closing, waiting up to `deadline`."""
        ...

    def describe(self) -> str:
        """Give the peer's name for messages, e.g. `127.0.0.1:80`."""
        ...


def yield_to_loop(hub: Hub) -> None:
    """Let the loop poll for I/O once and serve what is ready, then go on.

    A timer of length zero, and not `gevent.sleep(0)`: that only runs other callbacks, and several
    greenlets that sleep so keep the loop from polling for up to 5 ms at a time.
    """
    timer = hub.loop.timer(0)
    try:
        timer.start(getcurrent().switch)
        hub.switch()
    finally:
        timer.stop()
        timer.close()


class Readiness:
    """One greenlet's wait for one direction of one descriptor.

    The watcher stays started between two waits (stopping and starting it again costs the kernel's
    epoll two calls per request) and is stopped by the first event that finds nobody waiting. It
    counts as work of the loop only while somebody waits, so an idle connection does not keep
    `gevent.wait()` from ending.

    Nothing here refers to the socket, so one that is dropped unclosed is still collected.
    """

    __slots__ = ("_callback", "_greenlet", "_hub", "_started", "_switch", "_watcher")

    def __init__(self, hub: Hub, fd: int, events: int) -> None:
        self._hub = hub
        self._switch = hub.switch
        self._watcher: Any = hub.loop.io(fd, events, ref=False)
        self._started = False
        self._greenlet: greenlet | None = None
        self._callback: Callable[[], None] | None = None

    def wait(self) -> None:
        """Wait for the event, or for `close`. May also return early: try again, then wait again."""
        watcher = self._watcher
        if watcher is None:
            return
        if self._greenlet is not None:
            raise RuntimeError("two greenlets wait for one direction of one descriptor")
        self._greenlet = getcurrent()
        if not self._started:
            watcher.start(self._on_event)
            self._started = True
        watcher.ref = True
        try:
            self._switch()
        finally:
            self._greenlet = None
            if self._watcher is not None:
                watcher.ref = self._callback is not None

    def call(self, callback: Callable[[], None] | None) -> None:
        """Call `callback` at each event for which no greenlet waits; `None` ends that."""
        watcher = self._watcher
        if watcher is None:
            return
        self._callback = callback
        if callback is not None and not self._started:
            watcher.start(self._on_event)
            self._started = True
        watcher.ref = callback is not None or self._greenlet is not None

    def wake(self) -> None:
        """Have who waits look again."""
        if self._greenlet is not None:
            self._hub.loop.run_callback(self._wake, self._greenlet)

    def close(self) -> None:
        """Stop for good; wake who waits. To be called in the same step that gives up the descriptor."""
        watcher = self._watcher
        if watcher is None:
            return
        self._watcher = None
        self._callback = None
        watcher.stop()
        watcher.close()
        if self._greenlet is not None:
            self._hub.loop.run_callback(self._wake, self._greenlet)

    def _on_event(self) -> None:
        waiting = self._greenlet
        if waiting is not None:
            waiting.switch()
        elif self._callback is not None:
            self._callback()
        elif self._watcher is not None:
            self._watcher.stop()
            self._started = False

    def _wake(self, waiting: greenlet) -> None:
        # Something else (a timeout, a kill) may have ended the wait since this was scheduled.
        if self._greenlet is waiting:
            waiting.switch()


@mypyc_attr(allow_interpreted_subclasses=True)
class PlainTransport:
    """The transport without TLS: the kernel's socket, non-blocking, waited for with gevent.

    The socket is the C type of the stdlib: the same in a patched process and a plain one.
    """

    is_tls: Final = False
    has_handshake: Final = False
    unsent: Final = 0
    pending: Final = 0

    __slots__ = (
        "_connecting",
        "_hub",
        "_readable",
        "_released",
        "_thread_id",
        "_writable",
        "closed",
        "drained",
        "failure",
        "peer",
        "socket",
    )

    def __init__(self, socket: _socket.socket, peer: object = None) -> None:
        """Take over `socket`, which is made non-blocking.

        Args:
            peer: the peer's socket address, if it has one yet.
        """
        self.socket = socket
        self.peer = peer
        self.drained = False
        self.failure: OSError | None = None
        self.closed = False
        self._connecting = False  # a connect is under way
        self._released = False  # the descriptor is no longer ours
        self._hub: Hub = gevent.get_hub()
        self._thread_id: int = get_ident()
        # Both are made by the first wait: many sockets never wait for one of the two.
        self._readable: Readiness | None = None
        self._writable: Readiness | None = None
        socket.setblocking(False)

    # ------------------------------------------------------------------ moving bytes

    def receive(self, size: int) -> bytes | None:
        """Receive up to `size` bytes; `b""` at the end of the stream, `None` if nothing is there.

        Raises:
            OSError: as the kernel has it; the first one is kept in `failure`.
        """
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            self.drained = True
            return None
        except OSError as error:
            self.fail(error)
            raise
        self.drained = len(data) < size
        return data

    def peek(self, size: int) -> bytes | None:
        """As `receive`, but leave the bytes in the kernel."""
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        try:
            return self.socket.recv(size, _socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError as error:
            self.fail(error)
            raise

    def send(self, data: bytes | memoryview) -> int:
        """Send the start of `data`; give how many bytes the kernel took, 0 if none can go now.

        Raises:
            OSError: as the kernel has it; the first one is kept in `failure`.
        """
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        try:
            return self.socket.send(data, _NO_SIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.fail(error)
            raise

    # ------------------------------------------------------------------ waiting

    def wait_readable(self) -> None:
        """Wait until the descriptor is readable or this transport was closed."""
        readiness = self._readable
        if readiness is None:
            if self._released:
                return
            readiness = self._readable = Readiness(self._hub, self.socket.fileno(), READ)
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        readiness.wait()

    def wait_writable(self) -> None:
        """Wait until the descriptor is writable or this transport was closed."""
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        readiness = self._write_readiness()
        if readiness is not None:
            readiness.wait()

    def wake_reader(self) -> None:
        """Have who waits for input look again: it came in some other way than from the kernel."""
        if self._readable is not None:
            self._readable.wake()

    def call_when_writable(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called in the hub while the descriptor is writable; `None`: no longer."""
        if callback is None and self._writable is None:
            return
        readiness = self._write_readiness()
        if readiness is not None:
            readiness.call(callback)

    def run_in_loop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in the hub, before the loop polls for I/O again."""
        self._hub.loop.run_callback(callback)

    def yield_to_loop(self) -> None:
        """Let the loop serve others once."""
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        yield_to_loop(self._hub)

    # ------------------------------------------------------------------ connections

    def accept(self) -> tuple[PlainTransport, Any] | None:
        """Accept one connection: its transport and the peer's socket address; `None` if there is none."""
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        socket = self.socket
        try:
            # The C type has no public accept; the stdlib's and gevent's classes use this one too.
            fd, peer = socket._accept()  # type: ignore[attr-defined]  # not in the stubs
        except BlockingIOError:
            return None
        raw = _socket.socket(socket.family, socket.type, socket.proto, fileno=fd)
        return PlainTransport(raw, peer), peer

    def established(self, host: str) -> PlainTransport:
        """Give the transport of a connection that was just made: this one."""
        return self

    def check_host(self, host: str) -> None:
        """Without TLS nobody is verified."""

    def handshake(self) -> bool:
        """Without TLS there is none to make: True."""
        return True

    def shutdown(self, how: int) -> None:
        """End one direction or both."""
        self.socket.shutdown(how)

    @property
    def plain(self) -> PlainTransport:
        """The transport that talks to the kernel: this one."""
        return self

    def end_writes(self) -> None:
        """End the write side, whatever the protocol makes of the other one."""
        self.shutdown(_socket.SHUT_WR)

    def finish(self, deadline: Deadline) -> None:
        """Say goodbye before closing: nothing to say without TLS."""

    def connect(self, sockaddr: Any) -> int:
        """Begin or continue to connect; give 0 if that is done, or else an errno number.

        EINPROGRESS and EALREADY: wait until the descriptor is writable, then call this again.
        """
        if get_ident() != self._thread_id:
            raise self._wrong_thread()
        code = self.socket.connect_ex(sockaddr)
        if code in (errno.EINPROGRESS, errno.EALREADY):
            self._connecting = True
        elif self._connecting:
            self._connecting = False
            if code == errno.EISCONN:  # the attempt that was under way
                return 0
        return code

    # ------------------------------------------------------------------ state

    def fail(self, error: OSError) -> None:
        """Note a fatal error; only the first one counts."""
        if self.failure is None:
            # A copy: the traceback of the one that was raised holds this transport.
            self.failure = OSError(error.errno, error.strerror)

    def describe(self) -> str:
        """Give the peer's name for messages."""
        return describe_sock_addr(self.peer) if self.peer is not None else "an unconnected socket"

    def check_thread(self) -> None:
        """Raise unless the caller runs in the thread whose hub this transport belongs to."""
        if get_ident() != self._thread_id:
            raise self._wrong_thread()

    def in_own_thread(self) -> bool:
        """Whether the caller runs in the thread whose hub this transport belongs to."""
        return bool(get_ident() == self._thread_id)

    def in_hub(self) -> bool:
        """Whether the caller is the hub itself, which can not wait."""
        try:
            return getcurrent() is self._hub
        except RuntimeError:  # at the interpreter's end there are no greenlets any more
            return True

    # ------------------------------------------------------------------ giving up the descriptor

    def stop(self) -> None:
        """Refuse further calls and wake who waits, but keep the descriptor for a last flush."""
        self.closed = True
        for readiness in (self._readable, self._writable):
            if readiness is not None:
                readiness.close()
        self._readable = self._writable = None

    def close(self, *, reset: bool = False) -> None:
        """Close the descriptor; wake who waits. Idempotent.

        Args:
            reset: have the peer see a reset instead of an end of stream, and drop what the kernel
                has not sent yet.
        """
        if self._released:
            return
        # In one step with giving up the descriptor: its number may be somebody else's right after.
        self.stop()
        self._released = True
        if reset:
            with suppress(OSError):  # it is gone already: closing is all that is left to do
                self.socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _LINGER_ZERO)
        try:  # noqa: SIM105 - suppress() takes a quarter of a microsecond
            self.socket.close()
        except OSError:
            pass  # it reports data that is lost either way; the descriptor is free

    def call_in_own_thread(self, callback: Callable[[], None]) -> None:
        """Call `callback` now, or from the loop if the caller runs in another thread.

        For the garbage collector, which runs in whatever thread it happens to be.
        """
        if self.in_own_thread():
            callback()
        else:
            self._hub.loop.run_callback_threadsafe(callback)

    def detach(self) -> int:
        """Give up the descriptor without closing it; wake who waits. It is blocking again."""
        self.stop()
        self._released = True
        self.socket.setblocking(True)
        return self.socket.detach()

    def _write_readiness(self) -> Readiness | None:
        if self._writable is None and not self._released:
            self._writable = Readiness(self._hub, self.socket.fileno(), WRITE)
        return self._writable

    def _wrong_thread(self) -> RuntimeError:
        return RuntimeError(
            f"the socket connected with {self.describe()} belongs to the hub of another thread "
            f"({self._thread_id}); this is thread {get_ident()}"
        )
