"""`Socket`: Nim's socket on gevent, from its making to its closing.

It is composed of a transport (`gnet.transports`), a reader and a writer (`gnet.reading`,
`gnet.writing`; `gnet.datagrams` for datagrams). Connecting is in `gnet.connecting`, the calls that move
data are in `gnet.dataflow`, those about options, addresses and errors in `gnet.handles`.
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

from gnet.addresses import describe_sock_addr, sock_addr_text
from gnet.checks import check_c_int, check_int
from gnet.connecting import ConnectingSocket, peer_of
from gnet.dataflow import is_safe
from gnet.datagrams import DatagramReader, DatagramWriter
from gnet.deadlines import NO_DEADLINE, NO_LIMIT, Deadline, Timeout, to_milliseconds
from gnet.errors import SslError, raise_named
from gnet.options import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOMAXCONN,
    Port,
    SocketFlag,
    SslAcceptResult,
)
from gnet.reading import StreamReader, UnbufferedReader
from gnet.transports import PlainTransport
from gnet.turns import Turns
from gnet.writing import StreamWriter

if TYPE_CHECKING:
    from types import TracebackType

    from gnet.tls.transport import TlsTransport

__all__ = ["Socket", "new_socket"]

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

# Of those, how many one look passes over.
_MOST_GONE: Final = 16

# Accepted sockets inherit TCP_NODELAY from their listener on Linux (and no other option is needed).
_INHERITS_NO_DELAY: Final = sys.platform == "linux"

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


class Socket(ConnectingSocket):
    """A socket in blocking style whose waits let other greenlets run. Nim's Socket.

    Make one with `new_socket`, `dial`, `Socket.adopt` or another socket's `accept`. It belongs to
    the thread (the gevent hub) that made it. A context manager, which closes it; iterating over it
    is `lines()`. Dropped unclosed, it closes itself with a `ResourceWarning`.
    """

    __slots__ = ("__weakref__", "_accepts", "_buffered", "_turns")

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
        return cls(_prepared(raw), buffered=buffered, peer=peer_of(raw))

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
        self._check_accepts("accept")
        turns = self._turns
        if turns is None:
            turns = self._turns = Turns(transport, transport.wait_readable)

        deadline = NO_DEADLINE if limit == NO_LIMIT else Deadline(limit)
        try:
            accepted, peer = turns.take(partial(self._accept_now, safe, "accept"), deadline, "accept")
        finally:
            deadline.close()
        if inheritable:
            os.set_inheritable(accepted.socket.fileno(), True)
        return self._accepted(accepted), sock_addr_text(peer)

    def accept(self, flags: SocketFlag = _SAFE, inheritable: bool = False, timeout: Timeout = None) -> Socket:
        """`accept_addr` without the address. Nim's accept, which forgets `inheritable`."""
        return self.accept_addr(flags, inheritable, timeout)[0]

    def try_accept(self) -> tuple[SslAcceptResult, Socket | None]:
        """Accept a connection if one is here; never wait, also not for those that wait in `accept`.

        Returns:
            `NO_CLIENT` and `None`: nobody is here.
            `SUCCESS` and a socket as `accept` gives; on a TLS listener its handshake is complete,
                which takes a client that answers within this very call.
            `NO_HANDSHAKE` and a socket, on a TLS listener: the handshake was taken as far as it goes
                without waiting. Go on with `do_handshake`, or a read or a write. Where it has failed
                already, that call raises the `SslError`: this one does not, as the fault of one
                client must not end a loop that accepts others.
        Raises:
            ClosedError. OSError: EMFILE among others. ValueError: a datagram socket.

        For Nim's SslAcceptResult, whose one user there (acceptAddrSSL) is compiled out.
        """
        self._raw("try_accept")
        self._check_accepts("try_accept")
        answer = self._accept_now(True, "try_accept")
        if answer is None:
            return SslAcceptResult.NO_CLIENT, None
        transport = answer[0]
        client = self._accepted(transport)
        try:
            done = transport.handshake()
        except SslError:  # the transport keeps it for the next call
            done = False
        except BaseException:
            client.close(timeout=0)
            raise
        return SslAcceptResult.SUCCESS if done else SslAcceptResult.NO_HANDSHAKE, client

    def _check_accepts(self, operation: str) -> None:
        if not self._accepts:
            raise ValueError(f"{operation}: needs a stream socket; datagrams have recv_from")

    def _accept_now(self, safe: bool, operation: str) -> tuple[PlainTransport | TlsTransport, Any] | None:
        """Take a connection that is here: its transport and its peer's socket address."""
        for _ in range(_MOST_GONE):
            try:
                # Asked for here, as the listener may have become a TLS one during a wait.
                return self._transport.accept()
            except OSError as error:
                if not safe or error.errno not in _GONE_BEFORE_ACCEPT:
                    raise_named(error, f"{operation} on {self._own_name()}")
        return None  # look again when the listener is readable, which it may be at once

    def _accepted(self, transport: PlainTransport | TlsTransport) -> Socket:
        client = Socket.from_transport(transport, buffered=self._buffered, no_delay=not _INHERITS_NO_DELAY)
        client.coalesce = True
        return client

    def _own_name(self) -> str:
        try:
            return describe_sock_addr(self._transport.socket.getsockname())
        except OSError:
            return "a closed socket"

    # ------------------------------------------------------------------ as an object

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
    return Socket(_prepared(raw), buffered=buffered, peer=peer_of(raw) if fd is not None else None)


def _prepared(raw: _socket.socket) -> _socket.socket:
    """Switch off Nagle's algorithm: it delays small answers, and gnet sends whole ones."""
    if raw.type == SOCK_STREAM and raw.family in (AF_INET, AF_INET6):
        with suppress(OSError):  # SCTP and others that are no TCP, or a connection that is gone already
            raw.setsockopt(_stdlib_socket.IPPROTO_TCP, _stdlib_socket.TCP_NODELAY, 1)
    return raw
