"""The calls of a socket that move data: their checks and their documentation.

The methods here check what they were given and hand it on: reads to `gnet.reading`, writes to
`gnet.writing`, or both to `gnet.datagrams`. `gnet.connecting` adds connecting and closing, `gnet.sockets`
making.

Timeouts are milliseconds or a `timedelta`, everywhere: -1 is no limit, `None` (the default) the
socket's own `timeout`, 0 what is here now. One bounds the whole call. When it is over, the call
raises `gnet.TimeoutError`, and what has arrived is there for the next read.
"""

from __future__ import annotations

import socket as _stdlib_socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, Self

import gevent

from gnet.addresses import IpAddress, describe_sock_addr, ip_family, sock_addr_text, to_sock_addr
from gnet.checks import check_c_int, check_size
from gnet.datagrams import DatagramReader, DatagramWriter
from gnet.deadlines import Deadline, Timeout, to_milliseconds
from gnet.errors import ClosedError, TimeoutError, closed_error, raise_named
from gnet.handles import SocketHandle
from gnet.names import check_host, resolve
from gnet.options import (
    AF_INET,
    AF_INET6,
    MAX_LINE_LENGTH,
    IpAddressFamily,
    Port,
    ReadLineResult,
    SocketFlag,
)
from gnet.transports import get_ident
from gnet.writing import StreamWriter, as_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gnet.reading import StreamReader
    from gnet.tls.transport import TlsTransport
    from gnet.transports import PlainTransport

__all__ = ["DataSocket", "is_safe"]

_LONGEST_LINE: Final = 65536  # the default limit of lines(): what protocols allow, and no attacker fills

_MOST_LINES: Final = 512  # the default of read_lines(): what is split ahead at once

_LARGEST_SIZE: Final = sys.maxsize

_SAFE: Final = SocketFlag.SAFE_DISCONN


class DataSocket(SocketHandle):
    """A descriptor that data goes through; `gnet.Socket` adds its life."""

    __slots__ = ("_reader", "_ready", "_thread_id", "_writer")

    def __init__(
        self,
        transport: PlainTransport | TlsTransport,
        reader: StreamReader | DatagramReader,
        writer: StreamWriter | DatagramWriter,
    ) -> None:
        super().__init__(transport)
        self._reader = reader
        self._ready = reader.ready
        self._writer = writer
        self._thread_id = get_ident()

    # ------------------------------------------------------------------ receiving

    def recv(self, size: int, timeout: Timeout = None, flags: SocketFlag = _SAFE) -> bytes:
        """Receive `size` bytes; fewer only at the end of the stream, `b""` when nothing is left.

        An unbuffered stream gives what one read gives, a datagram socket one datagram.

        Args:
            size: bytes wanted, at least 0.
            timeout: for the whole call; see the module.
            flags: `PEEK`: as `peek`. Without `SAFE_DISCONN` a reset is an error, not an end.
        Raises:
            TimeoutError: what arrived so far is kept for the next read.
            BusyError: another greenlet is reading. ClosedError. OSError: after all that arrived.

        Nim's recv, which loses what it had on a timeout and returns -1 on a reset.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if type(size) is not int or not 0 < size <= _LARGEST_SIZE:
            size = check_size(size, "recv: size")
            if not size:
                self._raw("recv")
                return b""
        if flags is _SAFE:
            return self._reader.recv(size, limit, True)
        safe = is_safe(flags)
        if SocketFlag.PEEK in flags:
            return self._reader.peek(size, limit, safe, "recv")
        return self._reader.recv(size, limit, safe)

    def recv_into(
        self,
        buffer: bytearray | memoryview,
        size: int = 0,
        timeout: Timeout = None,
        flags: SocketFlag = _SAFE,
    ) -> int:
        """Receive into a writable buffer; give the number of bytes, otherwise as `recv`.

        Args:
            size: bytes wanted, at most the buffer's; 0: as many as it has.
        Raises:
            TypeError: not a writable buffer. ValueError: `size` is larger. Else as `recv`.

        Nim's recv with a pointer.
        """
        try:
            view = memoryview(buffer).cast("B")
        except TypeError:
            raise TypeError(f"recv_into: expected a writable buffer, got {type(buffer).__name__}") from None
        if view.readonly:
            raise TypeError(f"recv_into: the buffer ({type(buffer).__name__}) is read-only")
        size = check_size(size, "recv_into: size")
        if size > len(view):
            raise ValueError(f"recv_into: {size} bytes wanted into a buffer of {len(view)}")
        data = self.recv(size or len(view), timeout, flags)
        view[: len(data)] = data
        return len(data)

    def read_line(
        self, timeout: Timeout = None, flags: SocketFlag = _SAFE, max_length: int = MAX_LINE_LENGTH
    ) -> bytes:
        """Read a line without its terminator: LF, CRLF or a lone CR.

        Returns:
            The line; `b"\\r\\n"` for a blank one; `b""` at the end of the stream, where a last line
            without a terminator stays readable with `recv`.
        Args:
            timeout: for the whole line; see the module.
            flags: without `SAFE_DISCONN` a reset is an error, not an end.
            max_length: a longer line comes in parts of this size, without a mark; 0 gives `b""`.
        Raises:
            TimeoutError: what arrived of the line is kept. ValueError: a negative `max_length`.
            BusyError: another greenlet is reading. ClosedError. OSError: after all that arrived.

        Nim's readLine, which gives one byte more than its limit and drops an unfinished last line.
        """
        # The hot path: lines were split ahead, none of them longer than the default limit. Handed
        # down three calls, as the others are, this would take twice the time.
        ready = self._ready
        if max_length is MAX_LINE_LENGTH:
            if ready and flags is _SAFE and get_ident() == self._thread_id:
                if timeout is not None:
                    to_milliseconds(timeout)  # a mistake is one, whether there is a need to wait or not
                return ready.pop() or b"\r\n"
        else:
            max_length = check_size(max_length, "read_line: max_length")
            if not max_length:
                self._raw("read_line")
        return self._reader.read_line(
            self._timeout if timeout is None else to_milliseconds(timeout),
            True if flags is _SAFE else is_safe(flags),
            max_length,
        )

    recv_line = read_line

    def read_lines(
        self,
        most: int = _MOST_LINES,
        timeout: Timeout = None,
        flags: SocketFlag = _SAFE,
        max_length: int = MAX_LINE_LENGTH,
    ) -> list[bytes]:
        """Read a line as `read_line` does, and with it those that have come behind it.

        Waits for the first line only. For who answers, or counts, a whole batch at once.

        Returns:
            One line at least, without terminators, as `read_line` gives each of them; `[]` at the end of
            the stream.
        Args:
            most: lines to give, at least 1.
            timeout: for the first line; see the module.
        Raises:
            As `read_line`. ValueError: `most` below 1.
        """
        if not check_size(most, "read_lines: most"):
            raise ValueError("read_lines: most: expected at least 1, got 0")
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if max_length is not MAX_LINE_LENGTH and not check_size(max_length, "read_lines: max_length"):
            raise ValueError("read_lines: max_length: expected at least 1, got 0")
        return self._reader.read_lines(most, limit, is_safe(flags), max_length)

    def lines(
        self, max_length: int = _LONGEST_LINE, timeout: Timeout = None, bare_cr: bool = False
    ) -> Iterator[bytes]:
        """Iterate over the lines, without their terminators (LF or CRLF), to the end of the stream.

        Other reads may be mixed in between two lines.

        Args:
            max_length: bytes a line may have.
            timeout: for each line; see the module. After a `TimeoutError` start a new iteration.
            bare_cr: a lone CR ends a line too, as in `read_line`.
        Raises:
            LineTooLongError: and later reads raise it too: the stream is out of step.
            IncompleteReadError: the stream ended in a line, whose bytes `recv` still reads.
            TimeoutError, BusyError, ClosedError; OSError: a reset among them, after the data.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        return self._reader.lines(check_size(max_length, "lines: max_length"), limit, bool(bare_cr))

    def __iter__(self) -> Iterator[bytes]:
        return self.lines()

    def recv_some(self, max_size: int, timeout: Timeout = None, flags: SocketFlag = _SAFE) -> bytes:
        """Receive what is there: at least one byte, at most `max_size`; `b""` at the end of the stream.

        Raises:
            ValueError: `max_size` below 1. Else as `recv`.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if not check_size(max_size, "recv_some: max_size"):
            raise ValueError("recv_some: max_size: expected at least 1, got 0")
        return self._reader.recv_some(max_size, limit, is_safe(flags))

    def recv_exactly(self, size: int, timeout: Timeout = None) -> bytes:
        """Receive exactly `size` bytes; what comes after them stays for the next read.

        Raises:
            IncompleteReadError: the stream ended first; nothing was taken, `recv` reads the rest.
            TimeoutError: what arrived so far is kept. BusyError, ClosedError, OSError.

        As asyncio's readexactly; Nim's recv gives less instead.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if not check_size(size, "recv_exactly: size"):
            self._raw("recv_exactly")
            return b""
        return self._reader.recv_exactly(size, limit)

    def recv_until(self, delimiter: bytes, max_length: int = _LONGEST_LINE, timeout: Timeout = None) -> bytes:
        """Receive up to a delimiter and including it.

        Args:
            max_length: bytes the result may have, the delimiter included.
        Raises:
            LineTooLongError: and later reads raise it too. IncompleteReadError: the stream ended
            first; nothing was taken. TimeoutError, BusyError, ClosedError, OSError.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if not isinstance(delimiter, bytes):
            raise TypeError(f"recv_until: delimiter: expected bytes, got {type(delimiter).__name__}")
        if not delimiter:
            raise ValueError("recv_until: the delimiter is empty")
        check_size(max_length, "recv_until: max_length")
        self._raw("recv_until")
        if max_length < len(delimiter):
            raise ValueError(f"recv_until: max_length: {max_length} is less than the delimiter {delimiter!r}")
        return self._reader.recv_until(delimiter, max_length, limit)

    def peek(self, size: int, timeout: Timeout = None, flags: SocketFlag = _SAFE) -> bytes:
        """Look at up to `size` bytes and leave them: waits for one at least; `b""` at the end.

        Raises:
            As `recv`.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if not check_size(size, "peek: size"):
            self._raw("peek")
            return b""
        return self._reader.peek(size, limit, is_safe(flags))

    def try_read_line(self, max_length: int = MAX_LINE_LENGTH) -> tuple[ReadLineResult, bytes]:
        """Read a line if a whole one is here (as `read_line`); never wait.

        Returns:
            `FULL_LINE` and the line; `PARTIAL_LINE` and what is here of it, which is not taken;
            `DISCONNECTED` and what the stream ended with, not taken either; `NONE` and `b""`.
        Raises:
            BusyError, ClosedError; OSError other than a reset.
        """
        check_size(max_length, "try_read_line: max_length")
        self._raw("try_read_line")
        return self._reader.try_read_line(max_length)

    def skip(self, size: int, timeout: Timeout = None, flags: SocketFlag = _SAFE) -> int:
        """Read and drop `size` bytes, fewer only at the end of the stream; give their number.

        Raises:
            TimeoutError: what was dropped so far is gone, as was asked. Else as `recv`.

        Nim's skip, which spins at the end of the stream.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        if not check_size(size, "skip: size"):
            self._raw("skip")
            return 0
        return self._reader.skip(size, limit, is_safe(flags))

    def has_data_buffered(self) -> bool:
        """Whether a read would find bytes without asking the kernel. Nim's hasDataBuffered."""
        return self._reader.has_data() or self._transport.pending > 0

    def recv_from(
        self,
        length: int,
        flags: SocketFlag | int = 0,
        timeout: Timeout = None,
        *,
        truncate: bool = False,
    ) -> tuple[bytes, str, int]:
        """Receive one datagram.

        Args:
            length: bytes a datagram may have.
            flags: `SocketFlag.PEEK`, or the system's flag bits.
            truncate: give the start of a longer datagram instead of raising.
        Returns:
            The data, the sender's address and its port; the path (`""` if unbound) and 0 on Unix
            sockets. An IPv4 sender on an IPv6 socket is shown as IPv4.
        Raises:
            OSError: EMSGSIZE for a datagram longer than `length` (it is gone).
            TimeoutError: no datagram is lost. ValueError: a stream socket. ClosedError.

        Nim's recvFrom, which cuts silently and has no timeout.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        reader = self._reader
        if not isinstance(reader, DatagramReader):
            raise ValueError("recv_from: needs a datagram socket; a stream has recv")
        if isinstance(flags, SocketFlag):
            os_flags = flags.to_os_flags()
        else:
            os_flags = check_c_int(flags, "recv_from: flags")
        data, sender = reader.recv_from(check_size(length, "recv_from: length"), os_flags, limit, truncate)
        text = sock_addr_text(sender)
        return data, text.removeprefix("::ffff:") if "." in text else text, _port_of(sender)

    # ------------------------------------------------------------------ sending

    def send(
        self, data: bytes | bytearray | memoryview, flags: SocketFlag = _SAFE, timeout: Timeout = None
    ) -> None:
        """Send all of `data`.

        With `coalesce` on, and while input that has arrived waits to be read, a small message is
        queued: it leaves with the others in one system call before the socket waits.

        Args:
            data: is not kept after the call.
            flags: as in Nim, a send to a peer that is gone raises with and without `SAFE_DISCONN`.
        Raises:
            TimeoutError: with `bytes_sent`. If that is neither 0 nor all, or the call was killed
                half-way, the write side is broken: the peer has the start of a message.
            BrokenSendError: after that. ClosedError. OSError, with `bytes_sent`.

        Nim's send, which takes a partial write for an error, or repeats it from the start.
        """
        if flags is not _SAFE:
            is_safe(flags)
        self._writer.send_message(
            data if type(data) is bytes else as_bytes(data, "send"),
            self._timeout if timeout is None else to_milliseconds(timeout),
        )

    def __iand__(self, data: bytes | bytearray | memoryview) -> Self:
        """`socket &= data` sends `data`, as in Nim."""
        self.send(data)
        return self

    def try_send(self, data: bytes | bytearray | memoryview) -> bool:
        """Send without waiting: True if all of `data` is sent or queued, False if nothing of it is.

        Errors are kept for the next send or read.

        Raises:
            ClosedError; TypeError.

        Nim's trySend, which may also have sent a part.
        """
        self._transport.check_thread()
        return self._writer.try_send(as_bytes(data, "try_send"), self._reader.has_data())

    def send_to(
        self,
        address: str | IpAddress,
        port: int,
        data: bytes | bytearray | memoryview,
        af: int | None = None,
        flags: int = 0,
    ) -> int:
        """Send one datagram to an address; give its size.

        Args:
            address: a host name or IP literal, whose addresses are tried in turn, or an IP address.
            af: the address family to look up; the socket's own unless given.
            flags: the system's flag bits.
        Raises:
            ValueError: a stream socket. TimeoutError: within the socket's `timeout`. ClosedError.
            OSError: of the last address tried; EMSGSIZE beyond 65,507 bytes on UDP.

        Nim's sendTo.
        """
        writer = self._writer
        if not isinstance(writer, DatagramWriter):
            raise ValueError("send_to: needs a datagram socket; a stream has send")
        content = as_bytes(data, "send_to")
        os_flags = check_c_int(flags, "send_to: flags")
        number = Port(port)
        raw = self._raw("send_to")
        with closing(Deadline(self._timeout)) as deadline:
            if isinstance(address, str):
                targets = self._look_up(address, number, "send_to", deadline, af)
            else:
                targets = [_target_for(address, number, raw.family)]
            for target in targets:
                try:
                    where = f"send_to {describe_sock_addr(target)}"
                    return writer.send_to(content, target, os_flags, deadline, where)
                except OSError as error:
                    if target is targets[-1] or isinstance(error, (ClosedError, TimeoutError)):
                        raise
        raise AssertionError("resolve gave no address")

    def _look_up(
        self, address: object, port: int, operation: str, deadline: Deadline, family: int | None = None
    ) -> list[Any]:
        """Give the socket addresses of a host for this socket, one at least.

        Args:
            family: the socket's own unless given.
        """
        host = check_host(address, operation)
        where = f"{operation} {host}:{port}" if ":" not in host else f"{operation} [{host}]:{port}"
        raw = self._transport.socket
        own = raw.family
        if family is not None and check_c_int(family, f"{operation}: af") != own:
            raise ValueError(
                f"{where}: af: expected the socket's own, {_family_name(own)}, got {_family_name(family)}"
            )
        try:
            infos = resolve(host, port, own, raw.type, raw.proto, deadline)
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            raise deadline.error(f"{where} (looking up the name)") from None
        except OSError as error:
            raise_named(error, where)
        if self._transport.closed:
            raise closed_error(operation)
        return [info[3] for info in infos]

    def flush(self, timeout: Timeout = None) -> None:
        """Wait until the kernel has all that was sent.

        Raises:
            TimeoutError: the rest stays queued and goes out when the peer reads.
            BrokenSendError: it can not be sent. ClosedError. OSError.
        """
        self._transport.check_thread()
        self._writer.flush(self._timeout if timeout is None else to_milliseconds(timeout))

    @property
    def coalesce(self) -> bool:
        """Whether small messages wait for each other while input waits to be read; see `send`.

        On for accepted sockets, off for others.
        """
        return self._writer.coalesce

    @coalesce.setter
    def coalesce(self, value: bool) -> None:
        self._writer.coalesce = bool(value) and not isinstance(self._writer, DatagramWriter)
        self._writer.end_batch()


def is_safe(flags: object) -> bool:
    """Check a call's flags; whether a reset is to read as an end of stream."""
    if not isinstance(flags, SocketFlag):
        raise TypeError(f"flags: expected a SocketFlag, got {type(flags).__name__}")
    return SocketFlag.SAFE_DISCONN in flags


def _target_for(address: IpAddress, port: int, family: int) -> Any:
    """Give the socket address of an IP address, for a socket of a family."""
    own = AF_INET if ip_family(address) is IpAddressFamily.IPV4 else AF_INET6
    if own == family:
        return to_sock_addr(address, port)
    if family == AF_INET6:
        return (f"::ffff:{address}", port, 0, 0)
    raise ValueError(f"send_to: {address} is no address of the socket's family, {_family_name(family)}")


def _family_name(family: Any) -> str:
    try:
        return _stdlib_socket.AddressFamily(family).name
    except ValueError:
        return repr(family)


def _port_of(sockaddr: Any) -> int:
    return int(sockaddr[1]) if isinstance(sockaddr, tuple) else 0
