"""How a connection begins and ends: connecting, speaking TLS from then on, shutting down, closing.

`gnet.sockets` adds making and listening; `gnet.dial` makes and connects in one.
"""

from __future__ import annotations

import errno
import os
import socket as _stdlib_socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import gevent

from gnet.addresses import describe_sock_addr
from gnet.checks import check_unix_path
from gnet.dataflow import DataSocket, is_safe
from gnet.deadlines import NO_LIMIT, Deadline, Timeout, to_milliseconds
from gnet.errors import BusyError, SslError, closed_error, raise_named
from gnet.names import check_host
from gnet.options import AF_INET, AF_INET6, AF_UNIX, Port, SocketFlag
from gnet.reading import StreamReader
from gnet.transports import PlainTransport

if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator

    from gnet.datagrams import DatagramReader, DatagramWriter
    from gnet.tls.transport import TlsTransport
    from gnet.tls.unconnected import UnconnectedTls
    from gnet.writing import StreamWriter

__all__ = ["ConnectingSocket", "peer_of"]

# A Unix listener whose queue is full refuses a non-blocking connect with EAGAIN, and nothing tells
# when there is room: try again after this many seconds, doubling up to the second value.
_UNIX_RETRY_SECONDS: Final = (0.001, 0.05)

_SAFE: Final = SocketFlag.SAFE_DISCONN


class ConnectingSocket(DataSocket):
    """A socket that connects, moves data and closes; `gnet.Socket` adds making and listening."""

    __slots__ = ("_connecting",)

    def __init__(
        self,
        transport: PlainTransport | TlsTransport,
        reader: StreamReader | DatagramReader,
        writer: StreamWriter | DatagramWriter,
    ) -> None:
        super().__init__(transport, reader, writer)
        self._connecting = False  # a greenlet is inside a connect

    # ------------------------------------------------------------------ connecting

    def connect(self, address: str, port: int = 0, timeout: Timeout = None) -> None:
        """Connect to a host: each of its addresses of this socket's family in turn.

        Args:
            address: an IP literal or a host name.
            timeout: for the look-up and all attempts; see `Socket.timeout`.
        Raises:
            ValueError: a Unix socket, no such port, no host name. socket.gaierror: an OSError.
            OSError: of the last address tried. ClosedError. BusyError: another greenlet connects it.
            TimeoutError: names the phase. If that was connecting, and whenever connecting is
                interrupted, the socket is closed: the kernel would go on with the attempt.

        Nim's connect, whose timeout does not cover the look-up, and which tries one address.
        `gnet.dial` tries both families at once.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        number = Port(port)
        raw = self._raw("connect")
        if raw.family not in (AF_INET, AF_INET6):
            raise ValueError("connect: needs an AF_INET or AF_INET6 socket; a Unix one has connect_unix")
        deadline = Deadline(limit)
        try:
            with self._being_connected("connect"):
                address = check_host(address, "connect")
                self._transport.check_host(address)
                targets = self._look_up(address, number, "connect", deadline)
                for target in targets:
                    code = self._connect_to(target, deadline, "connect")
                    if not code:
                        self._start_established(address)
                        self.finish_handshake(deadline, "connect", close=True)
                        return
        finally:
            deadline.close()
        raise OSError(code, f"connect to {describe_sock_addr(target)}: {os.strerror(code)}")

    def connect_unix(self, path: str | bytes | os.PathLike[str], timeout: Timeout = None) -> None:
        """Connect a Unix socket to a path, or to an abstract name (`"\0name"`).

        Waits while the listener's queue is full.

        Raises:
            ValueError: not a Unix socket; too long; a NUL inside. OSError: with the path.
            TimeoutError. ClosedError. BusyError.

        Nim's connectUnix.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        target = self._unix_path(path, "connect_unix")
        if self._transport.is_tls:
            raise ValueError("connect_unix: a TLS client has no name to verify; use wrap_connected_socket")
        deadline = Deadline(limit)
        try:
            with self._being_connected("connect_unix"):
                code = self._connect_to(target, deadline, "connect_unix")
        finally:
            deadline.close()
        if code:
            raise OSError(code, f"connect_unix to {describe_sock_addr(target)}: {os.strerror(code)}")

    @contextmanager
    def _being_connected(self, operation: str) -> Iterator[None]:
        if self._connecting:
            raise BusyError(f"{operation}: another greenlet is already connecting this socket")
        self._connecting = True
        try:
            yield
        finally:
            self._connecting = False

    def _connect_to(self, target: Any, deadline: Deadline, operation: str) -> int:
        """Connect to a socket address, waiting; give an errno number, or 0 if that is done."""
        transport = self._transport
        pause, longest_pause = _UNIX_RETRY_SECONDS
        connecting = f"{operation} to {describe_sock_addr(target)}"
        try:
            while True:
                if transport.closed:
                    raise closed_error(operation)
                try:
                    code = transport.connect(target)
                except OSError as error:  # what Python refuses outright, such as an address that is none
                    raise_named(error, connecting)
                if code in (errno.EINPROGRESS, errno.EALREADY):
                    deadline.arm()
                    transport.wait_writable()
                elif code == errno.EAGAIN:
                    deadline.arm()
                    gevent.sleep(pause)
                    pause = min(2 * pause, longest_pause)
                else:
                    break
        except gevent.Timeout as expired:
            mine = deadline.owns(expired)
            if mine and not transport.closed and not transport.connect(target):
                code = 0  # it was connected by then
            else:
                self.close(timeout=0)
                if not mine:
                    raise
                raise deadline.error(f"{connecting} (the socket is closed now)") from None
        except BaseException:
            self.close(timeout=0)
            raise
        if not code:
            transport.peer = target
            transport.drained = False
            transport.failure = None
            self._reader.restart()
        return code

    def _start_established(self, host: str) -> None:
        """Use the transport of the connection that was just made, as a client of `host`."""
        try:
            self._use(self._transport.established(host))
        except BaseException:  # connected, but in clear: what is sent here must not go out
            self.close(timeout=0)
            raise

    def _unix_path(self, path: object, operation: str) -> bytes:
        """Check the path or abstract name of a Unix socket."""
        raw = self._raw(operation)
        if raw.family != AF_UNIX:
            raise ValueError(f"{operation}: needs an AF_UNIX socket")
        return check_unix_path(path, operation)

    # ------------------------------------------------------------------ TLS

    def become_tls(
        self,
        make: Callable[[PlainTransport], TlsTransport | UnconnectedTls],
        *,
        connected: bool,
        timeout: Timeout = None,
    ) -> None:
        """Have another transport made over this socket's, and use it (`SslContext` does).

        A connected socket first sends, in clear, what was queued, and makes its handshake at once.
        What a listening one accepts from now on speaks TLS, also for greenlets that wait already.

        Args:
            timeout: of a connected socket, for all of it; see `Socket.timeout`.
        Raises:
            TypeError: it speaks TLS already. ValueError: a datagram socket; not connected, or
                connected, where it should be the other.
            BusyError: another greenlet reads from it, or connects it.
            SslError: bytes had arrived in clear; or the handshake failed.
            TimeoutError: before the handshake: it is in clear as it was; in it: `do_handshake` goes on.
        """
        operation = "wrap_connected_socket" if connected else "wrap_socket"
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        plain = self._check_may_wrap(operation, connected)
        if not connected:
            self._use(make(plain))
            return
        deadline = Deadline(limit)
        try:
            self._flush_in_clear(deadline, operation)
            self._check_may_wrap(operation, connected)  # again: anything may have happened meanwhile
            self._use(make(plain))
            self.finish_handshake(deadline, operation, close=False)
        finally:
            deadline.close()

    def _check_may_wrap(self, operation: str, connected: bool) -> PlainTransport:
        """Give the transport in clear, if TLS may begin on it now."""
        raw = self._raw(operation)
        transport = self._transport
        if not isinstance(transport, PlainTransport):
            raise TypeError(f"{operation}: the socket speaks TLS already")
        reader = self._reader
        if not isinstance(reader, StreamReader):
            raise ValueError(f"{operation}: needs a stream socket")
        if self._connecting:
            raise BusyError(f"{operation}: another greenlet is connecting this socket")
        if connected and peer_of(raw) is None:
            raise ValueError("wrap_connected_socket: the socket is not connected; use wrap_socket")
        if not connected and peer_of(raw) is not None:
            raise ValueError("wrap_socket: the socket is connected; use wrap_connected_socket")
        if reader.is_busy:
            raise BusyError(
                f"{operation}: another greenlet is reading from {transport.describe()}; it would take "
                "bytes of the handshake for data"
            )
        if reader.has_data():
            raise SslError(
                f"{operation}: bytes from {transport.describe()} had arrived in clear before the "
                "handshake; who sent them is not known (STARTTLS injection)",
                reason="data in clear",
            )
        return transport

    def _flush_in_clear(self, deadline: Deadline, operation: str) -> None:
        """Send what was queued before TLS begins."""
        deadline.arm()
        try:
            self._writer.flush(NO_LIMIT, operation)
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            detail = f"{operation} to {self._transport.describe()} (sending what was queued in clear)"
            raise deadline.error(detail) from None

    def do_handshake(self, timeout: Timeout = None) -> None:
        """Make the TLS handshake now, and not with the first read or write. Idempotent.

        Raises:
            SslError: it failed; or this is no TLS socket. TimeoutError: it can be gone on with.
            ClosedError.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        self._raw("do_handshake")
        self._connection("do_handshake")
        deadline = Deadline(limit)
        try:
            self.finish_handshake(deadline, "do_handshake", close=False)
        finally:
            deadline.close()

    def finish_handshake(self, deadline: Deadline, operation: str, *, close: bool) -> None:
        """Make the handshake, if the transport has one (`connect` and `dial` do).

        Args:
            close: give up the socket if this is cut short or fails.
        """
        transport = self._transport
        where = f"{operation} to {transport.describe()}"
        try:
            while not transport.handshake():
                deadline.arm()
                transport.wait_readable()
                if transport.closed:
                    raise closed_error(operation)
        except gevent.Timeout as expired:
            mine = deadline.owns(expired)
            try:
                if mine and not transport.closed and transport.handshake():
                    return  # what it needed was there by then
            except SslError as error:
                if close:
                    self.close(timeout=0)
                raise_named(error, where)
            if close:
                self.close(timeout=0)
            if not mine:
                raise
            raise deadline.error(f"{where} (TLS handshake)") from None
        except SslError as error:
            if close:
                self.close(timeout=0)
            raise_named(error, where)
        except BaseException:
            if close:
                self.close(timeout=0)
            raise

    def _use(self, transport: PlainTransport | TlsTransport | UnconnectedTls) -> None:
        """Use another transport from now on."""
        if transport is self._transport:
            return
        self._transport = transport  # type: ignore[assignment]  # it offers the same
        self._reader.use(transport)
        self._writer.use(transport)

    # ------------------------------------------------------------------ ending

    def shutdown(self, how: int) -> None:
        """Send what is queued, then end one direction or both.

        Args:
            how: `socket.SHUT_WR` (the peer reads an end of stream), `SHUT_RD` or `SHUT_RDWR`.
        Raises:
            ValueError: none of these. TimeoutError: the queue did not go within `timeout`.
            ClosedError; OSError: ENOTCONN if there is no connection (any more).
        """
        ways = (_stdlib_socket.SHUT_RD, _stdlib_socket.SHUT_WR, _stdlib_socket.SHUT_RDWR)
        if how not in ways:
            raise ValueError(f"shutdown: expected SHUT_RD, SHUT_WR or SHUT_RDWR, got {how!r}")
        self._raw("shutdown")
        if how != _stdlib_socket.SHUT_RD:
            self._writer.flush(self._timeout, "shutdown")
        try:
            self._transport.shutdown(how)
        except OSError as error:
            raise_named(error, f"shutdown of {self._transport.describe()}")
        if how != _stdlib_socket.SHUT_RD:
            self._writer.shut()

    def close(self, flags: SocketFlag = _SAFE, timeout: Timeout = 1000) -> None:
        """Close the socket. Idempotent.

        Greenlets that wait in it get `ClosedError` at once. Bytes that `send` took and the kernel
        has not are waited for; if that takes too long, or a message was cut, the peer sees a reset
        instead of an orderly end (on TCP; Unix sockets know none).

        Args:
            flags: as in Nim; a plain socket closes without errors in any case.
            timeout: for those bytes; see `Socket.timeout`, but 1,000 ms unless given.

        Nim's close.
        """
        limit = to_milliseconds(timeout)
        if flags is not _SAFE:
            is_safe(flags)
        transport = self._transport
        if transport.closed:
            return
        transport.check_thread()
        transport.stop()
        self._reader.close()
        whole = False
        try:
            whole = self._writer.close(limit)
        finally:
            transport.close(reset=not whole)

    def detach(self) -> int:
        """Give up the descriptor, blocking again, and give its number; the socket is done.

        Raises:
            ValueError: bytes are buffered in either direction; read or `flush` them first.
            ClosedError.
        """
        self._raw("detach")
        if self._reader.has_data() or self._writer.unsent:
            raise ValueError("detach: bytes are buffered; read or flush them first")
        descriptor = self._transport.detach()
        self._reader.close()
        self._writer.close(0)
        return descriptor


def peer_of(raw: _socket.socket) -> object:
    """Give the socket address that a socket is connected to, `None` if it is not."""
    try:
        return raw.getpeername()
    except OSError:
        return None
