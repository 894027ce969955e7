"""The two sides of a datagram socket: one call, one datagram; nothing is buffered.

The classes offer what the reader and the writer of a stream offer, as far as it makes sense for
datagrams; the rest says that it needs a stream.
"""

from __future__ import annotations

import _socket
import errno
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gnet.addresses import describe_sock_addr
from gnet.deadlines import Deadline
from gnet.errors import closed_error, raise_named
from gnet.options import SocketFlag
from gnet.turns import Turns

if TYPE_CHECKING:
    from gnet.transports import PlainTransport, Transport

__all__ = ["DatagramReader", "DatagramWriter"]

# More than any datagram has (UDP: 65,535 bytes; Unix: the send buffer, 208 KiB by default).
_LARGEST_DATAGRAM: Final = 1024 * 1024


class DatagramReader:
    """Receives datagrams. Several greenlets may; each gets whole ones, in turn."""

    __slots__ = ("_transport", "_turns", "ready")

    def __init__(self, transport: PlainTransport) -> None:
        self._transport = transport
        self.ready: list[bytes] = []  # of lines: none, ever
        self._turns = Turns(transport, transport.wait_readable)

    def recv_from(
        self, length: int, os_flags: int, timeout: float, truncate: bool, operation: str = "recv_from"
    ) -> tuple[bytes, Any]:
        """Receive one datagram and the socket address of its sender.

        Raises:
            OSError: EMSGSIZE if the datagram is longer than `length` and `truncate` is off. It is
                gone then: staying, it would meet every later call.
        """
        size = min(length, _LARGEST_DATAGRAM)

        def attempt() -> tuple[bytes, int, Any] | None:
            try:
                data, _, received_flags, sender = self._transport.socket.recvmsg(size, 0, os_flags)
            except BlockingIOError:
                return None
            except OSError as error:
                raise_named(error, where)
            return data, received_flags, sender

        where = f"{operation} on {self._transport.describe()}"
        with closing(Deadline(timeout)) as deadline:
            data, received_flags, sender = self._turns.take(attempt, deadline, where)
        if received_flags & _socket.MSG_TRUNC and not truncate:
            raise OSError(
                errno.EMSGSIZE,
                f"{operation} from {describe_sock_addr(sender)}: the datagram is longer than {length} bytes",
            )
        return data, sender

    def recv(self, size: int, timeout: float, safe: bool) -> bytes:
        """Receive one datagram of at most `size` bytes."""
        return self.recv_from(size, 0, timeout, False, "recv")[0]

    def recv_some(self, max_size: int, timeout: float, safe: bool, operation: str = "recv_some") -> bytes:
        """Receive one datagram of at most `max_size` bytes."""
        return self.recv_from(max_size, 0, timeout, False, operation)[0]

    def peek(self, size: int, timeout: float, safe: bool, operation: str = "peek") -> bytes:
        """Give the start of the next datagram and leave it there."""
        return self.recv_from(size, SocketFlag.PEEK.to_os_flags(), timeout, True, operation)[0]

    def has_data(self) -> bool:
        """False: datagrams are not buffered."""
        return False

    def use(self, transport: Transport) -> None:
        """Datagram sockets keep the transport they have."""

    def restart(self) -> None:
        """There is no stream to begin."""

    def close(self) -> None:
        """Nothing to drop; the transport wakes who waits."""

    def _needs_a_stream(self, *_: object, **__: object) -> NoReturn:
        raise ValueError("this call needs a stream socket; datagrams have recv, recv_from and peek")

    read_line = read_lines = skip = recv_exactly = recv_until = lines = try_read_line = _needs_a_stream


class DatagramWriter:
    """Sends datagrams, each whole or not at all."""

    __slots__ = ("_transport", "_turns", "coalesce")

    unsent: Final = 0

    def __init__(self, transport: PlainTransport) -> None:
        self._transport = transport
        self._turns = Turns(transport, transport.wait_writable)
        self.coalesce = False

    def send_message(self, data: bytes | memoryview, timeout: float) -> None:
        """Send one datagram to the connected peer, from the thread that may."""
        self._transport.check_thread()
        self.send(data, timeout, False)

    def end_batch(self) -> None:
        """Each datagram goes by itself."""

    def send(self, data: bytes | memoryview, timeout: float, input_waits: bool) -> None:
        """Send one datagram to the connected peer."""
        with closing(Deadline(timeout)) as deadline:
            self.send_to(data, None, 0, deadline, f"send to {self._transport.describe()}")

    def send_to(
        self, data: bytes | memoryview, sockaddr: Any, os_flags: int, deadline: Deadline, operation: str
    ) -> int:
        """Send one datagram to a socket address (`None`: the connected peer); give its size."""

        def attempt() -> int | None:
            raw = self._transport.socket
            try:
                return raw.send(data, os_flags) if sockaddr is None else raw.sendto(data, os_flags, sockaddr)
            except BlockingIOError:
                return None
            except OSError as error:
                raise_named(error, operation)

        return self._turns.take(attempt, deadline, operation)

    def try_send(self, data: bytes | memoryview, input_waits: bool) -> bool:
        """Send one datagram if the kernel takes it now."""
        self._transport.check_thread()
        if self._transport.closed:
            raise closed_error("try_send")
        try:
            self._transport.socket.send(data)
        except OSError:  # a full buffer among them
            return False
        return True

    def flush(self, timeout: float, operation: str = "flush") -> None:
        """Nothing is queued."""
        self._transport.check_thread()
        if self._transport.closed:
            raise closed_error(operation)

    def use(self, transport: Transport) -> None:
        """Datagram sockets keep the transport they have."""

    def shut(self) -> None:
        """Nothing to note: the kernel refuses what comes after a shutdown."""

    def close(self, timeout: float) -> bool:
        """Nothing is queued: all that was sent is with the kernel."""
        return True
