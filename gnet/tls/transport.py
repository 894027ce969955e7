"""The TLS transport: an engine over a plain transport, with the same operations as that one.

Theory of operation. Nothing here waits but the two waits. `receive` and `send` push the engine as
far as it goes with what is at hand: they take the handshake a step further, pull ciphertext from
the kernel while the engine asks for it, and hand what the engine wrote to the one queue of
ciphertext, `_out`, which alone goes to the kernel. So records leave in the order in which OpenSSL
made them, whoever made it do so, and a call may be cut at any wait: what was encrypted is in the
queue and goes out with the next call, or in the background as the kernel drains.

Either direction may need the other: a send waits for input while the handshake lasts, a read waits
for room when more than `_OUT_LIMIT` ciphertext piles up (a peer that asks for key updates and never
reads the answers must not fill our memory).

Two greenlets may wait for input at once (a reader, and a writer in the handshake). One of them
waits on the descriptor; the others wait for it to have pulled.
"""

from __future__ import annotations

import _socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import gevent
from gevent.event import Event

from gnet.errors import SslError, because, fresh_ssl_error
from gnet.tls.engines import new_engine
from gnet.tls.failures import TRUNCATED
from gnet.tls.records import RecordBoundaries
from gnet.transports import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL

    from gnet.deadlines import Deadline
    from gnet.tls.sessions import Session
    from gnet.transports import PlainTransport

__all__ = ["TlsTransport"]

# Ciphertext that may wait for the kernel before sends, and then reads, have to wait as well.
_OUT_LIMIT: Final = 64 * 1024

# Ciphertext pulled at once: a record and a bit at first, more while reads come back full.
_SMALLEST_PULL: Final = 4096
_LARGEST_PULL: Final = 128 * 1024

# Pulls in one `receive` that may bring no data, but tickets and key updates.
_MOST_PULLS: Final = 4

# After so much ciphertext the memory BIOs have grown; an idle connection gives them back.
_RENEW_AFTER: Final = 32 * 1024

# Records that may wait for an answer of the engine's to be looked for (key updates ask for some).
_MOST_UNANSWERED: Final = 16

# What is decrypted at most without having been asked for: one record.
_LARGEST_AHEAD: Final = 16384

# What is read and dropped at most when a client that never read closes (its tickets, not data).
_LAST_READ: Final = 64 * 1024


class TlsTransport:
    """TLS on a connected plain transport. The handshake is made by the first use."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_arrived",
        "_boundaries",
        "_callback",
        "_end_is_fine",
        "_ended_well",
        "_ends",
        "_engine",
        "_exhausted",
        "_has_read",
        "_has_sent",
        "_lost",
        "_needs_input",
        "_one_record",
        "_out",
        "_plain",
        "_pull_size",
        "_pulled",
        "_pulling",
        "_reads_ended",
        "_room",
        "_session",
        "_thread_id",
        "_unanswered",
        "closed",
        "drained",
        "failure",
    )

    is_tls: Final = True

    def __init__(self, plain: PlainTransport, connection: SSL.Connection, session: Session) -> None:
        """Speak TLS over `plain`.

        Args:
            connection: with memory BIOs, in connect or accept state.
            session: what the context wants to know and do about this connection.
        """
        self._plain = plain
        self._engine = new_engine(connection)
        self._session = session
        self._thread_id: int = get_ident()
        self._out = b""  # ciphertext that the kernel has not taken yet
        self._answered = 0  # bytes of it that reading made: answers to key updates
        self._unanswered = 0  # times that the engine may have written something since `_emit` looked
        self._lost: SslError | None = None  # some of `_out` was, with the connection
        self._ended_well = False  # close_notify has come
        self._exhausted = False  # the engine was asked, and has had nothing since
        self._ends = False  # the end of the stream follows when it is out
        self._end_is_fine = session.allow_truncated  # ... of the peer's, without close_notify
        self._reads_ended = False  # and it is here
        self._ahead = b""  # decrypted by a look ahead
        self._callback: Callable[[], None] | None = None
        self._pulling = False  # a greenlet waits on the descriptor for input
        self._arrived: Event | None = None  # for the other ones: it has pulled
        self._room: Event | None = None  # for readers: `_out` is below its limit again
        self._pull_size = _SMALLEST_PULL
        self._pulled = 0  # bytes since the BIOs were new
        self._boundaries = RecordBoundaries()
        self._one_record = False  # the last pull brought one whole record, and the engine had none
        self._needs_input = not session.is_client  # the next step of the handshake
        self._has_read = self._has_sent = False  # application data
        self.drained = False
        self.failure: OSError | None = None
        self.closed = False

    # ------------------------------------------------------------------ moving bytes

    def receive(self, size: int) -> bytes | None:
        """Receive up to `size` bytes; `b""` after close_notify, `None` if nothing is there now.

        Raises:
            SslError: the handshake failed, a bad record, a reset, or an end without close_notify.
        """
        if get_ident() != self._thread_id:
            self._plain.check_thread()
        if self._ahead:
            data: bytes | None = self._ahead[:size]
            self._ahead = self._ahead[size:]
            self.drained = self._exhausted and not self._ahead
            if not self._has_read:
                self._note_first_read()
            return data
        engine = self._engine
        try:
            if not engine.is_open and not self._advance():
                self.drained = True
                return None
            data = None if self._exhausted and self.failure is None else engine.read(size)
            pulls = 0
            while data is None:
                if pulls == _MOST_PULLS:
                    self._emit_quietly()
                    return None  # records without data, one after the other: let others run
                if not self._pull():
                    if self._reads_ended:
                        return b""
                    self._emit_quietly()
                    self.drained = self._exhausted = True
                    return None
                pulls += 1
                data = engine.read(size)
                if data is None:  # a record's start, or many that bring nothing: little at a time
                    self._pull_size = _SMALLEST_PULL
            if data and self._plain.drained:
                if self._one_record and pulls == 1 and len(data) < size:
                    self.drained = self._exhausted = True  # that was all of it
                else:
                    data = self._read_on(data, size)
                if self._unanswered > _MOST_UNANSWERED:  # who only polls never waits
                    self._emit_quietly()
            else:
                self.drained = self._exhausted = False
                if data == b"":
                    self._end_well()
                self._emit_quietly()  # there is more to come, so who reads may not wait for a long time
            if data and not self._has_read:
                self._note_first_read()
        except OSError as error:
            self._unanswered += 1  # the alert
            self._emit_quietly()
            self._raise(error)
        return data

    def _note_first_read(self) -> None:
        self._has_read = True
        self._session.first_read()

    def peek(self, size: int) -> bytes | None:
        """As `receive`, but the next `receive` gives the same bytes: they are kept here, decrypted."""
        if not self._ahead:
            data = self.receive(size)
            if not data:
                return data
            self._ahead = data
            self.drained = False  # it is here, though the engine has no more
        return self._ahead[:size]

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt the start of `data` and send what the kernel takes; give how many bytes are taken.

        They may wait in `_out` (`unsent`) and go out in the background.

        Raises:
            SslError: the handshake failed. OSError: the connection is gone.
        """
        if get_ident() != self._thread_id:
            self._plain.check_thread()
        engine = self._engine
        try:
            if self._lost is not None:
                raise fresh_ssl_error(self.failure if isinstance(self.failure, SslError) else self._lost)
            if not engine.is_open and not self._advance():
                return 0
            if self._out and not self._emit() and len(self._out) >= _OUT_LIMIT:
                return 0
            size = len(data)
            taken = 0
            made = len(self._out)
            while taken < size and made < _OUT_LIMIT:
                count = engine.write(data if not taken else memoryview(data)[taken:])
                if not count:
                    break
                taken += count
                made += count
            self._has_sent = True
            self._emit()
        except OSError as error:
            alert = None if isinstance(error, SslError) else self._last_words()
            if alert is None:
                self._failed(error)
                raise
            self._raise(alert)
        return taken

    def _last_words(self) -> SslError | None:
        """After the kernel refused to send: give the alert that the peer sent before it went, if it did.

        Data that came before the alert is for the next `receive`; it stands in the way of looking further.
        """
        try:
            for _ in range(_MOST_PULLS):
                if self._ahead:
                    break
                data = self._engine.read(_LARGEST_AHEAD)
                if data:
                    self._ahead = data
                    self.drained = self._exhausted = False
                elif data == b"" or not self._pull():
                    break
        except SslError as alert:
            return None if alert.reason == TRUNCATED else alert
        except OSError:
            pass  # a reset, which is no news
        return None

    def _read_on(self, data: bytes, size: int) -> bytes:
        """Add what the engine still has to `data`, to learn whether the next receive must wait."""
        parts = [data]
        missing = size - len(data)
        more: bytes | None = None
        while missing > 0:
            try:
                more = self._engine.read(missing)
            except SslError:
                more = b""  # the engine keeps it for the next call; what came before it comes first
            if not more:
                break
            parts.append(more)
            missing -= len(more)
        self.drained = self._exhausted = missing > 0 and more is None
        return data if len(parts) == 1 else b"".join(parts)

    # ------------------------------------------------------------------ the handshake

    def handshake(self) -> bool:
        """Take the handshake as far as it goes now; True if it is complete.

        Raises:
            SslError: it failed; the alert that says why is on its way to the peer.
        """
        if get_ident() != self._thread_id:
            self._plain.check_thread()
        if self.failure is not None:
            assert isinstance(self.failure, SslError)
            raise fresh_ssl_error(self.failure)
        try:
            return self._engine.is_open or self._advance()
        except OSError as error:
            self._raise(error)

    def _advance(self) -> bool:
        engine = self._engine
        try:
            try:
                while True:
                    if self._needs_input and not engine.has_failed and not self._pull():
                        return False
                    self._unanswered += 1
                    if engine.handshake():
                        break
                    self._needs_input = True
                    self._emit()
            except SslError:
                self._session.handshake_failed()
                raise
            self._session.handshake_done()
            self.drained = self._exhausted = False  # data may have come behind the last flight
        except SslError as error:
            engine.give_up(error)  # what OpenSSL says of it is not always the reason
            raise
        finally:
            # The last flight, or the alert. At once: the peer waits for it, whatever this program does next.
            self._emit_quietly()
        return True

    # ------------------------------------------------------------------ ciphertext

    def _pull(self) -> bool:
        """Feed the engine from the kernel; False if nothing is there, or the answers pile up."""
        plain = self._plain
        if self._answered >= _OUT_LIMIT:
            return False
        size = self._pull_size
        ciphertext = plain.receive(size)
        if ciphertext is None:
            return False
        if not ciphertext:
            if self._end_is_fine and self._engine.is_open:
                self._reads_ended = True  # OpenSSL, if it knew, would refuse to write as well
                return False
            self._engine.feed_eof()
            return True
        count = len(ciphertext)
        self._pulled += count
        self._unanswered += 1
        self._engine.feed(ciphertext)
        self._one_record = self._boundaries.feed(ciphertext)
        self.drained = self._exhausted = False
        if self._pulling:  # by somebody else than the one who waits for it
            self._plain.wake_reader()
        if count == size:
            self._pull_size = min(2 * size, _LARGEST_PULL)
        elif size > _SMALLEST_PULL and count <= size // 2:
            self._pull_size = size // 2
        return True

    def _emit(self) -> bool:
        """Hand the kernel what is to be sent; True if it took all. The rest follows by itself."""
        self._unanswered = 0
        made = self._engine.take()
        if made:
            self._pulled += len(made)
        out = self._out + made if self._out else made
        if not out:
            return True
        try:
            sent = self._plain.send(out)
        except OSError as error:
            self._lost = _broken(error)  # what was taken from those that sent it: their next call tells
            self._out = b""
            self._make_room()
            raise
        if sent < len(out):
            self._out = out[sent:]
            self._plain.call_when_writable(self._on_writable)
            return False
        self._out = b""
        if self._answered:
            self._make_room()
        if self._ends:
            self._ends = False
            self._plain.shutdown(_socket.SHUT_WR)
        return True

    def _emit_quietly(self) -> None:
        """`_emit` what reading made, behind something that matters more than an error of sending."""
        if not self._unanswered and not self._out:
            return
        before = len(self._out)
        try:
            if not self._emit():
                self._answered += max(0, len(self._out) - before)
        except OSError as error:
            self._failed(error)

    def _make_room(self) -> None:
        """Let readers go on: what answered their records is out, or never will be."""
        self._answered = 0
        if self._room is not None:
            self._room.set()

    def _on_writable(self) -> None:
        # In the hub: errors are kept, not raised.
        if self._out:
            self._emit_quietly()
        if not self._out:
            self._plain.call_when_writable(self._callback)
            if self._callback is not None:
                self._callback()

    # ------------------------------------------------------------------ waiting

    def wait_readable(self) -> None:
        """Wait until `receive` is worth a try, or this transport was closed."""
        if self._unanswered:
            self._emit_quietly()
        if self._pulled >= _RENEW_AFTER and not self._out:
            self._pulled = 0  # what may be a long wait: give back what a burst took
            self._engine.renew()
        if self._answered >= _OUT_LIMIT:
            self._room = self._room or Event()
            self._room.clear()
            self._room.wait()
        else:
            self._wait_for_input()

    def wait_writable(self) -> None:
        """Wait until `send` is worth a try, or this transport was closed."""
        if self._engine.is_open or len(self._out) >= _OUT_LIMIT:
            self._plain.wait_writable()
        else:
            self._wait_for_input()

    def _wait_for_input(self) -> None:
        if self._pulling:
            arrived = self._arrived = self._arrived or Event()
            arrived.wait()
            return
        self._pulling = True
        try:
            self._plain.wait_readable()
        finally:
            self._pulling = False
            if self._arrived is not None:
                self._arrived.set()
                self._arrived = None

    def call_when_writable(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called in the hub while `send` is worth a try; `None`: no longer."""
        self._callback = callback
        if callback is not None or not self._out:
            self._plain.call_when_writable(self._on_writable if callback is not None else None)

    def run_in_loop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in the hub, before the loop polls for I/O again."""
        self._plain.run_in_loop(callback)

    def yield_to_loop(self) -> None:
        """Let the loop serve others once."""
        self._plain.yield_to_loop()

    # ------------------------------------------------------------------ state

    @property
    def connection(self) -> SSL.Connection:
        """The pyOpenSSL connection."""
        return self._engine.connection

    @property
    def session(self) -> Session:
        """What the context knows about this connection."""
        return self._session

    @property
    def socket(self) -> _socket.socket:
        """The system's socket."""
        return self._plain.socket

    @property
    def peer(self) -> object:
        """The peer's socket address."""
        return self._plain.peer

    @peer.setter
    def peer(self, sockaddr: object) -> None:
        self._plain.peer = sockaddr

    @property
    def unsent(self) -> int:
        """Bytes of ciphertext that the kernel has not taken yet; not 0 if some were lost."""
        return len(self._out) or (self._lost is not None)

    @property
    def pending(self) -> int:
        """Bytes that have come and are not received, of one record at least if there are more."""
        if get_ident() != self._thread_id:
            self._plain.check_thread()
        if not self._ahead and self._engine.is_open:
            # Whole records may lie with the engine where neither the kernel nor OpenSSL count them.
            with suppress(SslError):  # the engine keeps it for the next `receive`
                self._ahead = self._engine.read(_LARGEST_AHEAD) or b""
                if self._ahead:
                    self.drained = self._exhausted = False
        return len(self._ahead)

    @property
    def has_handshake(self) -> bool:
        """Whether the handshake is complete."""
        return self._engine.is_open

    def fail(self, error: OSError) -> None:
        """Note a fatal error; only the first one counts."""
        self._failed(error)

    def describe(self) -> str:
        """Give the peer's name for messages."""
        return self._plain.describe()

    def check_thread(self) -> None:
        """Raise unless the caller runs in the thread whose hub this transport belongs to."""
        self._plain.check_thread()

    def in_own_thread(self) -> bool:
        """Whether the caller runs in the thread whose hub this transport belongs to."""
        return self._plain.in_own_thread()

    def in_hub(self) -> bool:
        """Whether the caller is the hub itself, which can not wait."""
        return self._plain.in_hub()

    def _failed(self, error: OSError) -> OSError:
        """Keep a fatal error; on TLS a reset is no end of stream, but an attack cannot be ruled out."""
        if not isinstance(error, SslError):
            error = _broken(error)
        known = self.failure
        if self._ended_well and error.reason == TRUNCATED:
            return error  # the stream had its end before that
        if known is None:
            self.failure = fresh_ssl_error(error)
            self._plain.wake_reader()
        elif isinstance(known, SslError) and known.reason == TRUNCATED != error.reason:
            self.failure = fresh_ssl_error(error)  # the alert that says why the connection broke
        return error

    def _end_well(self) -> None:
        """Note a close_notify: if a send met the broken connection before, reading has no error of it."""
        self._ended_well = self._has_read = True
        if isinstance(self.failure, SslError) and self.failure.reason == TRUNCATED:
            self.failure = None

    def _raise(self, error: OSError) -> NoReturn:
        """Keep a fatal error and raise it."""
        failure = self._failed(error)
        try:
            if failure is error:
                raise error
            raise because(failure, error)
        finally:
            del error, failure

    # ------------------------------------------------------------------ ending

    def accept(self) -> Any:
        """A connection does not accept."""
        return self._plain.accept()

    def connect(self, sockaddr: Any) -> int:
        """A connection is connected: what the kernel says to another try."""
        return self._plain.connect(sockaddr)

    def established(self, host: str) -> TlsTransport:
        """It is this one already."""
        return self

    def check_host(self, host: str) -> None:
        """The peer was chosen long ago."""

    def shutdown(self, how: int) -> None:
        """End one direction or both: the write side with close_notify.

        After SHUT_RD what has arrived can be read; then comes the end, with or without close_notify.

        Raises:
            SslError: SHUT_WR below TLS 1.3, where close_notify ends both directions; no handshake yet.
        """
        if not self._engine.is_open:
            raise SslError("the handshake is not complete")
        if how == _socket.SHUT_WR and self.connection.get_protocol_version_name() != "TLSv1.3":
            raise SslError("below TLS 1.3 a close_notify ends both directions; use SHUT_RDWR or close")
        if how != _socket.SHUT_WR:
            self._end_is_fine = True
            self._plain.shutdown(_socket.SHUT_RD)
        if how != _socket.SHUT_RD:
            self._engine.shutdown()
            self._ends = True  # the end of the stream follows what is still to be sent
            self._emit()

    @property
    def plain(self) -> PlainTransport:
        """The transport that talks to the kernel."""
        return self._plain

    def end_writes(self) -> None:
        """Send close_notify and the end of the stream, whatever the protocol makes of the other side."""
        self._engine.shutdown()
        self._ends = True
        self._emit()

    def stop(self) -> None:
        """Refuse further calls and wake who waits, but keep the descriptor for a last flush."""
        self.closed = True
        self._plain.stop()
        for event in (self._arrived, self._room):
            if event is not None:
                event.set()

    def finish(self, deadline: Deadline) -> None:
        """Say goodbye: close_notify, which is not waited for.

        But a client that sent and never read waits for the peer's end: the session tickets that it
        has not read would make the kernel answer with a reset, and the peer lose what was sent.
        """
        if self.failure is None and self._engine.is_open:
            self._session.closing()
            self._engine.shutdown()
            self._unanswered += 1
            self._emit_quietly()
            while self._out and not self.in_hub():  # emptied if the connection fails
                deadline.arm()
                self._plain.wait_writable()
                self._emit_quietly()
            if self._has_sent and not self._has_read and self._session.is_client and not self.in_hub():
                self._read_to_end(deadline)
        else:
            self._emit_quietly()

    def _read_to_end(self, deadline: Deadline) -> None:
        plain = self._plain
        dropped = 0
        with suppress(OSError):
            plain.socket.shutdown(_socket.SHUT_WR)
        try:
            while dropped < _LAST_READ:
                try:
                    ciphertext = plain.receive(_SMALLEST_PULL)
                except OSError:
                    return  # the peer went first: there is nobody left to lose anything
                if ciphertext is None:
                    deadline.arm()
                    plain.wait_readable()
                elif ciphertext:
                    dropped += len(ciphertext)
                else:
                    return
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise  # else: the kernel has it all, and goes on with it

    def close(self, *, reset: bool = False) -> None:
        """Close the descriptor; wake who waits. Idempotent."""
        self.closed = True
        self._session.closed()
        self._plain.close(reset=reset)
        for event in (self._arrived, self._room):
            if event is not None:
                event.set()

    def call_in_own_thread(self, callback: Callable[[], None]) -> None:
        """Call `callback` now, or from the loop if the caller runs in another thread."""
        self._plain.call_in_own_thread(callback)

    def detach(self) -> int:
        """Not on TLS: the descriptor alone would be a stream of ciphertext."""
        raise ValueError("detach: the descriptor of a TLS socket is of no use without its session")


def _broken(error: OSError) -> SslError:
    """On TLS a reset is no end of the stream: an attack cannot be ruled out."""
    return SslError(f"TLS: the connection broke: {error.strerror}", reason=TRUNCATED)
