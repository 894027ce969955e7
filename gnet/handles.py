"""The part of a socket that is not about data: its descriptor, options, addresses and errors."""

from __future__ import annotations

import _socket
import errno as _errno
import os
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING, Any, Final, overload

from gnet.addresses import describe_sock_addr, sock_addr_text
from gnet.checks import check_c_int
from gnet.deadlines import Timeout, to_milliseconds
from gnet.errors import SslError, closed_error, is_disconnection_error, raise_named
from gnet.options import AF_INET, AF_INET6, SOCK_STREAM, SOBool, SocketFlag
from gnet.tls.certificates import get_peer_certificates
from gnet.tls.transport import TlsTransport

if TYPE_CHECKING:
    from OpenSSL import SSL

    from gnet.tls.certificates import Certificate
    from gnet.transports import PlainTransport

__all__ = ["SocketHandle"]

# What Linux takes: MAX_TCP_KEEPIDLE (and -INTVL), MAX_TCP_KEEPCNT.
_LONGEST_KEEPALIVE: Final = 32767
_MOST_PROBES: Final = 127

_NO_FLAGS: Final = SocketFlag(0)
_RETRY: Final = frozenset({_errno.EAGAIN, _errno.EWOULDBLOCK})


class SocketHandle:
    """A descriptor with its options and addresses. `gnet.Socket` adds reading, writing and the rest."""

    __slots__ = ("_timeout", "_transport")

    def __init__(self, transport: PlainTransport | TlsTransport) -> None:
        self._transport: PlainTransport | TlsTransport = transport
        self._timeout: float = -1

    # ------------------------------------------------------------------ identity

    @property
    def timeout(self) -> float:
        """The default timeout of this socket's calls, in milliseconds; -1 (until set): no limit.

        May be set to milliseconds, a `timedelta`, -1 or `None` (no limit). Nim has none (Nim#6792).
        """
        return self._timeout

    @timeout.setter
    def timeout(self, value: Timeout) -> None:
        self._timeout = to_milliseconds(value)

    @property
    def closed(self) -> bool:
        """Whether this socket was closed (or detached) on this side."""
        return self._transport.closed

    def fileno(self) -> int:
        """Give the descriptor, -1 once closed."""
        return -1 if self._transport.closed else self._transport.socket.fileno()

    def get_fd(self) -> int:
        """Give the descriptor, -1 once closed. Nim's getFd."""
        return self.fileno()

    def is_ssl(self) -> bool:
        """Whether this is a TLS socket. Nim's isSsl."""
        return self._transport.is_tls

    def __repr__(self) -> str:
        transport = self._transport
        if transport.closed:
            return f"<gnet.{type(self).__name__} closed>"
        raw = transport.socket
        where = ""
        with suppress(OSError):
            where = f" local={describe_sock_addr(raw.getsockname())}"
        if transport.peer is not None:
            where += f" peer={transport.describe()}"
        return f"<gnet.{type(self).__name__} fd={raw.fileno()}{where}>"

    # ------------------------------------------------------------------ addresses

    def get_local_addr(self) -> tuple[str, int]:
        """Give this end's address and port; for a Unix socket its path (`""` if unbound) and 0.

        An abstract Unix name begins with a NUL; an IPv6 scope id is dropped.

        Raises:
            ClosedError; OSError.

        Nim's getLocalAddr, which refuses Unix sockets.
        """
        return self._name_of(self._raw("get_local_addr").getsockname, "get_local_addr")

    def get_peer_addr(self) -> tuple[str, int]:
        """Give the peer's address and port; for a Unix socket its path (`""` if unbound) and 0.

        Raises:
            ClosedError; OSError: ENOTCONN if there is no peer (any more).

        Nim's getPeerAddr, which refuses Unix sockets.
        """
        return self._name_of(self._raw("get_peer_addr").getpeername, "get_peer_addr")

    def _name_of(self, ask: Any, operation: str) -> tuple[str, int]:
        try:
            sockaddr = ask()
        except OSError as error:
            raise_named(error, f"{operation} of {self._transport.describe()}")
        port = sockaddr[1] if isinstance(sockaddr, tuple) else 0
        return sock_addr_text(sockaddr), port

    # ------------------------------------------------------------------ options

    @overload
    def get_sock_opt(self, opt: SOBool, level: int | None = None) -> bool: ...
    @overload
    def get_sock_opt(self, opt: int, level: int | None = None) -> int: ...
    def get_sock_opt(self, opt: SOBool | int, level: int | None = None) -> bool | int:
        """Read an option.

        Args:
            opt: a `SOBool`, or the number of any other option.
            level: follows a `SOBool` and need not be given; required with a number.
        Returns:
            A `bool` for a `SOBool`, an `int` for a number.
        Raises:
            ValueError: a level that is not the option's own, or none for a number.
            TypeError, ClosedError, OSError.

        Nim's getSockOpt, where NO_DELAY without its level reads SO_DEBUG.
        """
        number, own_level = _option(opt, level, "get_sock_opt")
        try:
            value = self._raw("get_sock_opt").getsockopt(own_level, number)
        except OSError as error:
            raise_named(error, f"get_sock_opt {opt}")
        return bool(value) if isinstance(opt, SOBool) else value

    def set_sock_opt(self, opt: SOBool | int, value: bool | int | bytes, level: int | None = None) -> None:
        """Set an option.

        Args:
            opt: a `SOBool`, or the number of any other option.
            value: on or off for a `SOBool`; an `int` or `bytes` (a packed structure) for a number.
            level: follows a `SOBool` and need not be given; required with a number.
        Raises:
            ValueError: a level that is not the option's own, or none for a number.
            TypeError, ClosedError, OSError.

        Nim's setSockOpt, where NO_DELAY without its level sets SO_DEBUG.
        """
        number, own_level = _option(opt, level, "set_sock_opt")
        if isinstance(opt, SOBool):
            if not isinstance(value, int):
                raise TypeError(f"set_sock_opt {opt}: expected a bool, got {type(value).__name__}")
            value = int(bool(value))
        elif isinstance(value, int):
            check_c_int(int(value), f"set_sock_opt {opt}: value")
        elif not isinstance(value, bytes):
            raise TypeError(f"set_sock_opt {opt}: expected int or bytes, got {type(value).__name__}")
        try:
            self._raw("set_sock_opt").setsockopt(own_level, number, value)
        except OSError as error:
            raise_named(error, f"set_sock_opt {opt} to {value!r}")

    def set_keepalive(self, idle: Timeout, interval: Timeout, count: int) -> None:
        """Have the kernel probe a silent peer, and fail the connection (ETIMEDOUT) if it is gone.

        Args:
            idle: silence before the first probe, milliseconds or `timedelta`; at least 1 ms. The
                kernel counts seconds: rounded up.
            interval: time between probes, likewise.
            count: unanswered probes that make the peer gone, at least 1.
        Raises:
            ValueError, TypeError, ClosedError; OSError on a socket that is not TCP.
        """
        seconds = []
        for name, value in (("idle", idle), ("interval", interval)):
            milliseconds = to_milliseconds(value)
            if milliseconds <= 0:
                raise ValueError(f"set_keepalive: {name}: expected more than 0 ms, got {value!r}")
            seconds.append(ceil(milliseconds / 1000))
            if seconds[-1] > _LONGEST_KEEPALIVE:
                raise ValueError(
                    f"set_keepalive: {name}: expected at most {_LONGEST_KEEPALIVE} s, got {value!r}"
                )
        if not 1 <= check_c_int(count, "set_keepalive: count") <= _MOST_PROBES:
            raise ValueError(f"set_keepalive: count: expected 1 to {_MOST_PROBES}, got {count}")
        raw = self._raw("set_keepalive")
        idle_option = getattr(_socket, "TCP_KEEPIDLE", getattr(_socket, "TCP_KEEPALIVE", 0))  # macOS
        try:
            raw.setsockopt(_socket.IPPROTO_TCP, idle_option, seconds[0])
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL, seconds[1])
            raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT, count)
            raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
        except OSError as error:
            raise_named(error, "set_keepalive")

    def set_user_timeout(self, timeout: Timeout) -> None:
        """Fail the connection (ETIMEDOUT) if sent data is not acknowledged for this long.

        Args:
            timeout: milliseconds or `timedelta`; 0: the system's default (some 15 minutes).
        Raises:
            ValueError, TypeError, ClosedError; OSError on a socket that is not TCP, or a system
            without TCP_USER_TIMEOUT (RFC 5482).
        """
        milliseconds = to_milliseconds(timeout)
        if not 0 <= milliseconds < 2**31:
            raise ValueError(f"set_user_timeout: expected 0 to {2**31 - 1} ms, got {timeout!r}")
        option = getattr(_socket, "TCP_USER_TIMEOUT", None)
        if option is None:
            raise OSError(_errno.ENOPROTOOPT, "set_user_timeout: not on this system")
        try:
            self._raw("set_user_timeout").setsockopt(_socket.IPPROTO_TCP, option, ceil(milliseconds))
        except OSError as error:
            raise_named(error, "set_user_timeout")

    # ------------------------------------------------------------------ TLS

    def got_handshake(self) -> bool:
        """Whether the TLS handshake is complete.

        Raises:
            SslError: not a TLS socket. Nim's gotHandshake, which is true before it, too.
        """
        return self._tls("got_handshake").has_handshake

    @property
    def ssl_handle(self) -> SSL.Connection:
        """The pyOpenSSL connection (with memory BIOs: its own reads and writes reach no peer).

        Raises:
            SslError: not a TLS socket, or not connected yet. Nim's sslHandle.
        """
        return self._connection("ssl_handle")

    @property
    def alpn_protocol(self) -> str | None:
        """The application protocol agreed on, `None` if there is none (yet).

        Raises:
            SslError: not a TLS socket.
        """
        name = self._connection("alpn_protocol").get_alpn_proto_negotiated()
        return name.decode("ascii", "backslashreplace") if name else None

    def get_peer_certificates(self) -> list[Certificate]:
        """Give the peer's verified chain, leaf first, the trust anchor included, as DER.

        Returns:
            `[]` before the handshake, without a peer's certificate and where nothing was verified.
        Raises:
            SslError: not a TLS socket. Nim's getPeerCertificates.
        """
        connection = self._connection("get_peer_certificates")
        return get_peer_certificates(connection) or self._tls("get_peer_certificates").session.chain

    def get_psk_identity(self) -> str:
        """Give the identity of the pre-shared key in use, `""` if there is none.

        Raises:
            SslError: not a TLS socket. Nim's getPskIdentity.
        """
        self._connection("get_psk_identity")
        psk = self._tls("get_psk_identity").session.psk
        return psk.identity if psk is not None else ""

    def _tls(self, what: str) -> TlsTransport:
        """Give the TLS transport, if there is one."""
        transport: Any = self._transport
        if not transport.is_tls:
            raise SslError(f"{what}: not an SSL socket")
        return transport  # type: ignore[no-any-return]  # a plain one was refused

    def _connection(self, what: str) -> SSL.Connection:
        transport = self._tls(what)
        if not isinstance(transport, TlsTransport):
            raise SslError(f"{what}: the TLS socket is not connected yet")
        return transport.connection

    # ------------------------------------------------------------------ errors

    def get_socket_error(self) -> int:
        """Give the errno of what went wrong on this socket: SO_ERROR, or else the first fatal error.

        SO_ERROR is cleared by reading it, so a stream keeps it: later reads raise it after the data.

        Raises:
            OSError: with errno 0, if nothing went wrong (as in Nim).
            ClosedError.

        Nim's getSocketError, which gives whatever errno the thread last saw.
        """
        raw = self._raw("get_socket_error")
        code = raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code and raw.type == SOCK_STREAM:  # on a datagram socket the next call is a new start
            self._transport.fail(OSError(code, os.strerror(code)))
        failure = self._transport.failure
        if not code and failure is not None and failure.errno:
            code = failure.errno
        if not code:
            raise OSError(0, f"get_socket_error of {self._transport.describe()}: no error is known")
        return code

    def socket_error(
        self,
        err: int = -1,
        async_: bool = False,
        last_error: int = -1,
        flags: SocketFlag = _NO_FLAGS,
    ) -> None:
        """Raise the error of a call that returned `err`, unless it is one to overlook.

        Args:
            err: what the call returned; only -1 is a failure.
            async_: overlook EAGAIN and EWOULDBLOCK.
            last_error: the errno; -1: ask `get_socket_error`.
            flags: with `SocketFlag.SAFE_DISCONN`, overlook disconnections.
        Raises:
            OSError: the error.

        Nim's socketError.
        """
        if err != -1:
            return
        code = self.get_socket_error() if last_error == -1 else last_error
        if is_disconnection_error(flags, code) or (async_ and code in _RETRY):
            return
        text = os.strerror(code) if code else "unknown error"
        raise OSError(code, f"socket {self._transport.describe()}: {text}")

    # ------------------------------------------------------------------ inside

    def _raw(self, operation: str) -> _socket.socket:
        """Give the system's socket, if this one is open."""
        transport = self._transport
        transport.check_thread()
        if transport.closed:
            raise closed_error(operation)
        return transport.socket

    def _is_tcp(self) -> bool:
        raw = self._transport.socket
        return raw.family in (AF_INET, AF_INET6) and raw.type == SOCK_STREAM


def _option(opt: SOBool | int, level: int | None, operation: str) -> tuple[int, int]:
    """Give the number and the level of an option."""
    if isinstance(opt, SOBool):
        if level is not None and level != opt.socket_level:
            raise ValueError(f"{operation}: {opt} lives at level {opt.socket_level}, got level {level!r}")
        return opt.to_cint(), opt.socket_level
    check_c_int(opt, f"{operation}: opt (a SOBool or a number)")
    if level is None:
        raise ValueError(f"{operation}: an option given by number ({opt}) needs its level")
    return opt, check_c_int(level, f"{operation}: level")
