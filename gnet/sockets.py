"""`Socket`: Nim's socket on gevent, from its making to its closing.

It is composed of a transport (`gnet.transports`), a reader and a writer (`gnet.reading`,
`gnet.writing`; `gnet.datagrams` for datagrams). The calls that move data are in `gnet.dataflow`, those
about options, addresses and errors in `gnet.handles`.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket as _stdlib_socket
import sys
import warnings
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, Self

import gevent

from gnet.addresses import describe_sock_addr, sock_addr_text
from gnet.checks import check_c_int, check_int
from gnet.dataflow import DataSocket, is_safe
from gnet.datagrams import DatagramReader, DatagramWriter
from gnet.deadlines import NO_DEADLINE, NO_LIMIT, Deadline, Timeout, to_milliseconds
from gnet.errors import BusyError, SslError, closed_error, raise_named
from gnet.names import check_host
from gnet.options import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOMAXCONN,
    Port,
    SocketFlag,
)
from gnet.reading import StreamReader, UnbufferedReader
from gnet.transports import PlainTransport
from gnet.turns import Turns
from gnet.writing import StreamWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gnet.tls.transport import TlsTransport, UnconnectedTls

__all__ = ["Socket", "new_socket"]

# sun_path holds 108 bytes; a path needs one of them for its NUL, an abstract name begins with it.
_LONGEST_PATH: Final = 107
_LONGEST_ABSTRACT: Final = 108

# Errors of accept(2) that belong to one connection that is gone, not to the listener (its man page).
_GONE_BEFORE_ACCEPT: Final = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EPROTO",
        "ENETDOWN",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
    )
    if hasattr(errno, name)
)

# Accepted sockets inherit TCP_NODELAY from their listener on Linux (and no other option is needed).
_INHERITS_NO_DELAY: Final = sys.platform == "linux"

# A Unix listener whose queue is full refuses a non-blocking connect with EAGAIN, and nothing tells
# when there is room: try again after this many seconds, doubling up to the second value.
_UNIX_RETRY_SECONDS: Final = (0.001, 0.05)

_SAFE: Final = SocketFlag.SAFE_DISCONN


class _SocketLike(Protocol):
    """What `Socket.adopt` needs of a stdlib or gevent socket."""

    @property
    def family(self) -> int: ...
    @property
    def type(self) -> int: ...
    @property
    def proto(self) -> int: ...

    def detach(self) -> int: ...
    def fileno(self) -> int: ...


class Socket(DataSocket):
    """A socket in blocking style whose waits let other greenlets run. Nim's Socket.

    Make one with `new_socket`, `dial`, `Socket.adopt` or another socket's `accept`. It belongs to
    the thread (the gevent hub) that made it. A context manager, which closes it; iterating over it
    is `lines()`. Dropped unclosed, it closes itself with a `ResourceWarning`.
    """

    __slots__ = ("__weakref__", "_accepts", "_buffered", "_connecting", "_turns")

    def __init__(self, raw: _socket.socket, *, buffered: bool = True, peer: object = None) -> None:
        """Take over a socket of the stdlib's C type; the functions named above are the usual ways.

        Args:
            buffered: read ahead (streams only).
            peer: the socket address it is connected to, if it is.
        """
        self._setup(PlainTransport(raw, peer), buffered)

    def _setup(self, transport: PlainTransport | TlsTransport, buffered: bool) -> None:
        self._turns: Turns | None = None  # of those that wait in accept
        kind = transport.socket.type
        self._connecting = False
        self._accepts = kind in (SOCK_STREAM, SOCK_SEQPACKET)
        self._buffered = buffered and kind == SOCK_STREAM
        if kind == SOCK_STREAM:
            writer = StreamWriter(transport)
            reader = (StreamReader if buffered else UnbufferedReader)(transport, writer)
            super().__init__(transport, reader, writer)
        else:
            assert isinstance(transport, PlainTransport)
            super().__init__(transport, DatagramReader(transport), DatagramWriter(transport))

    @classmethod
    def from_transport(
        cls, transport: PlainTransport | TlsTransport, *, buffered: bool = True, no_delay: bool = True
    ) -> Self:
        """Make a socket around a transport (`dial` and `accept` do)."""
        socket = cls.__new__(cls)
        if no_delay:
            _prepared(transport.socket)
        socket._setup(transport, buffered)
        return socket

    @classmethod
    def adopt(cls, sock: _SocketLike, buffered: bool = True) -> Self:
        """Take over a stdlib or gevent socket, which is left detached.

        Bytes that a file object made of it (`makefile`) had read ahead stay there.

        Raises:
            TypeError: no socket, or a TLS one, whose session can not be taken over.
            ValueError: a closed or detached socket.
        """
        if hasattr(type(sock), "do_handshake"):
            raise TypeError("Socket.adopt: a TLS socket can not be taken over; adopt it before its handshake")
        if not all(hasattr(type(sock), name) for name in ("accept", "detach", "sendto")):
            raise TypeError(f"Socket.adopt: expected a stdlib or gevent socket, got {type(sock).__name__}")
        try:
            open_ = sock.fileno() >= 0
            family, kind, protocol = sock.family, sock.type, sock.proto
        except OSError:  # a closed one of gevent's
            open_ = False
        if not open_:
            raise ValueError("Socket.adopt: the socket is closed or detached")
        raw = _socket.socket(family, kind, protocol, fileno=sock.detach())
        return cls(_prepared(raw), buffered=buffered, peer=_peer_of(raw))

    # ------------------------------------------------------------------ listening

    def bind_addr(self, port: int = 0, address: str = "") -> None:
        """Bind to an address of this machine.

        Args:
            port: 0: the system chooses one; see `get_local_addr`.
            address: an IP literal or a name, whose first address is taken; `""`: all of the
                socket's family (for AF_INET6 on Linux the IPv4 ones too).
        Raises:
            ValueError: a Unix socket; no such port. OSError: with the address in its message.
            ClosedError; TimeoutError: looking up a name took longer than the socket's `timeout`.

        Nim's bindAddr.
        """
        number = Port(port)
        raw = self._raw("bind_addr")
        if raw.family not in (AF_INET, AF_INET6):
            raise ValueError("bind_addr: needs an AF_INET or AF_INET6 socket; a Unix one has bind_unix")
        target: Any = ("0.0.0.0" if raw.family == AF_INET else "::", number)
        if address != "":
            with closing(Deadline(self._timeout)) as deadline:
                target = self._look_up(address, number, "bind_addr", deadline)[0]
        self._bind(target, "bind_addr")

    def bind_unix(self, path: str | bytes | os.PathLike[str]) -> None:
        """Bind a Unix socket to a path, which must not exist, or to an abstract name (`"\0name"`).

        `""` has the system choose an abstract name. Nothing is ever removed, here or in `close`.

        Raises:
            ValueError: not a Unix socket; too long; a NUL inside. OSError: with the path.

        Nim's bindUnix.
        """
        self._bind(self._unix_path(path, "bind_unix"), "bind_unix")

    def _bind(self, target: Any, operation: str) -> None:
        try:
            self._raw(operation).bind(target)
        except OSError as error:
            raise_named(error, f"{operation} to {describe_sock_addr(target)}")

    def listen(self, backlog: int = SOMAXCONN) -> None:
        """Have the kernel take connections, up to `backlog` of them before they are accepted.

        Raises:
            TypeError, ClosedError, OSError.

        Nim's listen. An unbound TCP socket gets a port from the system.
        """
        check_int(backlog, "listen: backlog")
        try:
            self._raw("listen").listen(max(0, min(backlog, 2**31 - 1)))
        except OSError as error:
            raise_named(error, "listen")

    def accept_addr(
        self, flags: SocketFlag = _SAFE, inheritable: bool = False, timeout: Timeout = None
    ) -> tuple[Socket, str]:
        """Wait for a connection. Several greenlets may; each gets one.

        Args:
            flags: with `SAFE_DISCONN`, connections that ended before they were accepted are passed
                over; without, they raise.
            inheritable: the descriptor outlives exec in child processes.
        Returns:
            A new socket, buffered as this one, with `coalesce` on; and its peer's address (the
            path, often `""`, on Unix sockets).
        Raises:
            TimeoutError: no connection is lost. ClosedError. OSError: EMFILE among others.

        Nim's acceptAddr, which gives "0.0.0.0" for IPv6 peers and has no timeout.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        safe = True if flags is _SAFE else is_safe(flags)
        transport = self._transport
        if not self._accepts:
            raise ValueError("accept: needs a stream socket; datagrams have recv_from")
        turns = self._turns
        if turns is None:
            turns = self._turns = Turns(transport, transport.wait_readable)

        def attempt() -> tuple[PlainTransport | TlsTransport, Any] | None:
            try:
                return transport.accept()
            except OSError as error:
                if safe and error.errno in _GONE_BEFORE_ACCEPT:
                    return None  # look again when the listener is readable, which it may be at once
                raise_named(error, f"accept on {self._own_name()}")

        deadline = NO_DEADLINE if limit == NO_LIMIT else Deadline(limit)
        try:
            accepted, peer = turns.take(attempt, deadline, "accept")
        finally:
            deadline.close()
        if inheritable:
            os.set_inheritable(accepted.socket.fileno(), True)
        client = Socket.from_transport(accepted, buffered=self._buffered, no_delay=not _INHERITS_NO_DELAY)
        client.coalesce = True
        return client, sock_addr_text(peer)

    def accept(self, flags: SocketFlag = _SAFE, inheritable: bool = False, timeout: Timeout = None) -> Socket:
        """`accept_addr` without the address. Nim's accept, which forgets `inheritable`."""
        return self.accept_addr(flags, inheritable, timeout)[0]

    def _own_name(self) -> str:
        try:
            return describe_sock_addr(self._transport.socket.getsockname())
        except OSError:
            return "a closed socket"

    # ------------------------------------------------------------------ connecting

    def connect(self, address: str, port: int = 0, timeout: Timeout = None) -> None:
        """Connect to a host: each of its addresses of this socket's family in turn.

        Args:
            address: an IP literal or a host name.
            timeout: for the look-up and all attempts; see `Socket.timeout`.
        Raises:
            ValueError: a Unix socket, no such port, no host name. socket.gaierror: an OSError.
            OSError: of the last address tried. ClosedError.
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
            address = check_host(address, "connect")
            self._transport.check_host(address)
            targets = self._look_up(address, number, "connect", deadline)
            for target in targets:
                code = self._connect_to(target, deadline, "connect")
                if not code:
                    self._use(self._transport.established(address))
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
            TimeoutError. ClosedError.

        Nim's connectUnix.
        """
        limit = self._timeout if timeout is None else to_milliseconds(timeout)
        target = self._unix_path(path, "connect_unix")
        if self._transport.is_tls:
            raise ValueError("connect_unix: a TLS client has no name to verify; use wrap_connected_socket")
        deadline = Deadline(limit)
        try:
            code = self._connect_to(target, deadline, "connect_unix")
        finally:
            deadline.close()
        if code:
            raise OSError(code, f"connect_unix to {describe_sock_addr(target)}: {os.strerror(code)}")

    def _connect_to(self, target: Any, deadline: Deadline, operation: str) -> int:
        """Connect to a socket address, waiting; give an errno number, or 0 if that is done."""
        transport = self._transport
        if self._connecting:
            raise BusyError(f"{operation}: another greenlet is already connecting this socket")
        self._connecting = True
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
        finally:
            self._connecting = False
        if not code:
            transport.peer = target
            transport.drained = False
            transport.failure = None
            self._reader.restart()
        return code

    def _unix_path(self, path: object, operation: str) -> bytes:
        """Check the path or abstract name of a Unix socket."""
        raw = self._raw(operation)
        if raw.family != AF_UNIX:
            raise ValueError(f"{operation}: needs an AF_UNIX socket")
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise TypeError(
                f"{operation}: expected a path as str, bytes or PathLike, got {type(path).__name__}"
            )
        name = os.fsencode(path)
        abstract = name.startswith(b"\0")
        limit = _LONGEST_ABSTRACT if abstract else _LONGEST_PATH
        if len(name) > limit:
            raise ValueError(f"{operation}: path of {len(name)} bytes (limit {limit}): {name[:40]!r}...")
        if not abstract and b"\0" in name:
            raise ValueError(f"{operation}: the path {name!r} has a NUL in it")
        return name

    # ------------------------------------------------------------------ TLS

    def become_tls(
        self, make: Callable[[PlainTransport], TlsTransport | UnconnectedTls], *, connected: bool
    ) -> None:
        """Have another transport made over this socket's, and use it (`SslContext` does).

        Raises:
            TypeError: it speaks TLS already. ValueError: a datagram socket; not connected, or
                connected, where it should be the other. SslError: bytes had arrived in clear.
        """
        raw = self._raw("wrap")
        transport = self._transport
        if not isinstance(transport, PlainTransport):
            raise TypeError("wrap: the socket speaks TLS already")
        if raw.type != SOCK_STREAM:
            raise ValueError("wrap: needs a stream socket")
        if connected and _peer_of(raw) is None:
            raise ValueError("wrap_connected_socket: the socket is not connected; use wrap_socket")
        if not connected and _peer_of(raw) is not None:
            raise ValueError("wrap_socket: the socket is connected; use wrap_connected_socket")
        if self._reader.has_data():
            raise SslError(
                f"wrap_connected_socket: bytes from {transport.describe()} had arrived in clear before the "
                "handshake; who sent them is not known (STARTTLS injection)",
                reason="data in clear",
            )
        if connected:
            self._writer.flush(self._timeout, "wrap_connected_socket")  # in clear, as it was sent
        self._use(make(transport))

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
        self._turns = None
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

    def __reduce__(self) -> NoReturn:
        # copy and pickle would make a second owner of the descriptor.
        raise TypeError(f"a {type(self).__name__} can not be copied or pickled")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        transport = getattr(self, "_transport", None)  # None: the constructor failed
        if transport is None or transport.closed:
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            transport.call_in_own_thread(partial(_close_dropped, transport, self._writer))


def _close_dropped(transport: PlainTransport, writer: StreamWriter | DatagramWriter) -> None:
    """Close what was dropped unclosed, without waiting."""
    transport.stop()
    transport.close(reset=not writer.close(0))


def new_socket(
    domain: int = AF_INET,
    sock_type: int = SOCK_STREAM,
    protocol: int = IPPROTO_TCP,
    buffered: bool = True,
    inheritable: bool = False,
    *,
    fd: int | None = None,
) -> Socket:
    """Make a socket, or one around a descriptor.

    Args:
        domain, sock_type, protocol: enums or the system's numbers. As in Nim the protocol does not
            follow the type: UDP needs IPPROTO_UDP, a Unix socket IPPROTO_IP (0).
        buffered: read ahead. An unbuffered stream takes no byte from the kernel that no read asked
            for. Datagram sockets are never buffered.
        inheritable: the descriptor outlives exec in child processes.
        fd: an open descriptor to take over instead of making one; the rest describes it.
    Raises:
        TypeError, ValueError: no such number. OSError: EPROTONOSUPPORT for a combination that is
        none; EMFILE.

    Nim's newSocket (three forms).
    """
    numbers = (domain, sock_type, protocol)
    for name, value in zip(("domain", "sock_type", "protocol"), numbers, strict=True):
        check_int(value, f"new_socket: {name}")
        if not 0 <= value < 2**31:
            raise ValueError(f"new_socket: {name}: expected 0 to {2**31 - 1}, got {value}")
    if fd is not None and check_c_int(fd, "new_socket: fd") < 0:
        raise ValueError(f"new_socket: fd: expected at least 0, got {fd}")
    try:
        raw = _socket.socket(*numbers, fileno=fd)
    except OSError as error:
        hint = ""
        if error.errno == errno.EPROTONOSUPPORT:
            hint = " (UDP needs protocol IPPROTO_UDP, a Unix socket IPPROTO_IP)"
        what = (
            f"new_socket({domain!r}, {sock_type!r}, {protocol!r})" if fd is None else f"new_socket(fd={fd})"
        )
        raise_named(error, what + hint)
    if inheritable:
        os.set_inheritable(raw.fileno(), True)
    return Socket(_prepared(raw), buffered=buffered, peer=_peer_of(raw) if fd is not None else None)


def _prepared(raw: _socket.socket) -> _socket.socket:
    """Switch off Nagle's algorithm: it delays small answers, and gnet sends whole ones."""
    if raw.type == SOCK_STREAM and raw.family in (AF_INET, AF_INET6):
        with suppress(OSError):  # SCTP and others that are no TCP, or a connection that is gone already
            raw.setsockopt(_stdlib_socket.IPPROTO_TCP, _stdlib_socket.TCP_NODELAY, 1)
    return raw


def _peer_of(raw: _socket.socket) -> object:
    try:
        return raw.getpeername()
    except OSError:
        return None
