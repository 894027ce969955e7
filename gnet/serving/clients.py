"""The socket that a handler gets: `gnet.Socket`, watched, which may outlive its handler."""

from __future__ import annotations

import fcntl
import select
import struct
import termios
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.monkey import get_original

from gnet.deadlines import NO_LIMIT, Deadline
from gnet.errors import ClosedError
from gnet.options import SocketFlag
from gnet.sockets import Socket
from gnet.watching import Wait, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from gnet.deadlines import Timeout
    from gnet.tls.transport import TlsTransport
    from gnet.transports import PlainTransport

__all__ = ["ClientSocket"]

# In a patched process the module's own is gevent's, which waits in the hub; this one asks the kernel.
_poll: Final = get_original("select", "poll")

_INT: Final = struct.Struct("i")

_SAFE: Final = SocketFlag.SAFE_DISCONN


class ClientSocket(Socket):
    """A connection that a `gnet.Server` accepted."""

    __slots__ = ("_handshake_timeout", "_on_closed", "_on_released", "released", "watch")

    _handshake_timeout: float
    _on_closed: Callable[[], None]
    _on_released: Callable[[], None]
    released: bool
    watch: Watch

    @classmethod
    def serve(
        cls,
        transport: PlainTransport | TlsTransport,
        watch: Watch,
        on_closed: Callable[[], None],
        on_released: Callable[[], None],
        coalesce: bool,
        handshake_timeout: float,
    ) -> ClientSocket:
        """Make one around the transport of a connection.

        Args:
            watch: where the connection notes what it waits for.
            on_closed: called when the descriptor is given up, by whomever.
            on_released: called by `release`.
            handshake_timeout: of a TLS handshake that the handler makes (STARTTLS), unless it says another.
        """
        client = cls.from_transport(transport, no_delay=False)
        client.watch = watch
        client.released = False
        client._handshake_timeout = handshake_timeout
        client._on_closed = on_closed
        client._on_released = on_released
        client._reader.watch = watch  # type: ignore[union-attr]  # a stream's
        client._writer.watch = watch  # type: ignore[union-attr]
        client.coalesce = coalesce
        return client

    def release(self) -> None:
        """Keep the connection when the handler returns: it goes on in other hands.

        Whoever has it then closes it (or drops it, which closes it with a `ResourceWarning`). It counts in
        `max_connections` until then, its deadlines hold on, and a drain does not wait for it.
        """
        self.released = True
        self._on_released()

    def finish_handshake(self, deadline: Deadline, operation: str, *, close: bool) -> None:
        """Make the handshake; without a limit of the caller's, within the server's."""
        if deadline.milliseconds != NO_LIMIT:
            super().finish_handshake(deadline, operation, close=close)
            return
        own = Deadline(self._handshake_timeout)
        try:
            super().finish_handshake(own, operation, close=close)
        finally:
            own.close()

    def get_peer_addr(self) -> tuple[str, int]:
        """Give the client's address and port, as the handler got it: behind a proxy, the PROXY header's.

        As `Socket.get_peer_addr`; but an IPv4 client of a socket for both families is shown as one.
        """
        peer = self._transport.peer
        if isinstance(peer, tuple) and not self.closed:
            return peer[0], peer[1]
        return super().get_peer_addr()

    # ------------------------------------------------------------------ for the server

    @property
    def peer_name(self) -> str:
        """The peer, for messages."""
        return self._transport.describe()

    def expire(self, what: Wait, error: OSError) -> None:
        """Have all calls of one direction raise `error` from now on."""
        side: Any = self._writer if what is Wait.WRITE else self._reader
        side.refuse(error)

    def outgoing(self) -> int:
        """Give how many bytes the kernel has that the peer has not acknowledged; 0 if it does not tell."""
        try:
            return _INT.unpack(fcntl.ioctl(self._transport.socket, termios.TIOCOUTQ, bytes(_INT.size)))[0]  # type: ignore[no-any-return]
        except OSError:
            return 0

    def has_input_or_room(self, what: Wait) -> bool:
        """Whether the kernel has what a wait is for."""
        event = select.POLLOUT if what is Wait.WRITE else select.POLLIN
        poll = _poll()
        poll.register(self._transport.socket, event)
        return bool(poll.poll(0))

    def parts(self) -> tuple[object, ...]:
        """What raises the errors of this socket's calls, beside itself."""
        return self._reader, self._writer

    def is_refused(self) -> bool:
        """Whether a deadline ended one direction, or the peer's stream is out of step."""
        return self._reader.is_refused or self._writer.is_refused  # type: ignore[union-attr]

    def send_rest(self) -> None:
        """Wait until the kernel has all that was sent, as `flush` without a limit."""
        self._writer.flush(NO_LIMIT)

    def is_at_end(self) -> bool:
        """Whether the end of the peer's stream was read."""
        return self._reader.is_at_end  # type: ignore[union-attr]

    def end_reads(self) -> None:
        """Have the handler read what has arrived, and then the end of the stream."""
        self._reader.end_here()  # type: ignore[union-attr]  # a stream's
        self._transport.plain.wake_reader()

    def turn_out_reader(self) -> bool:
        """Have whoever still reads get a `ClosedError`; True if nobody reads any more."""
        reader: Any = self._reader
        if reader.is_busy:
            reader.refuse(ClosedError("the handler has returned"))
            self._transport.plain.wake_reader()
            gevent.sleep(0)  # its turn comes in this round of the loop
        return not reader.is_busy

    def end_writes(self) -> None:
        """Send the end of the stream."""
        self._transport.end_writes()

    @property
    def plain(self) -> PlainTransport:
        """The transport that talks to the kernel."""
        return self._transport.plain

    def abort(self) -> None:
        """Close with a reset, whatever is under way."""
        transport = self._transport
        if not transport.closed:
            self._writer.refuse(ClosedError("the server ended the connection"))  # type: ignore[union-attr]
            self.close(timeout=0)
        transport.close(reset=True)
        self._gone()

    # ------------------------------------------------------------------ ending

    def close(self, flags: SocketFlag = _SAFE, timeout: Timeout = 1000) -> None:
        """Close the socket, as `Socket.close`."""
        try:
            super().close(flags, timeout)
        finally:
            self._gone()

    def detach(self) -> int:
        """Give up the descriptor, as `Socket.detach`."""
        descriptor = super().detach()
        self._gone()
        return descriptor

    def __del__(self) -> None:
        try:
            super().__del__()
        finally:
            if hasattr(self, "_on_closed"):
                self._gone()

    def _gone(self) -> None:
        if self._transport.closed:
            on_closed, self._on_closed = self._on_closed, _nothing
            on_closed()


def _nothing() -> None:
    """What is left to do when all is done."""
