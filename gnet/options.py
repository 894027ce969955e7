"""The enums and constants of the API: options, flags, results, sizes, ports.

Values and names follow Nim's `net`; the numbers behind them are the system's.
"""

from __future__ import annotations

import enum
import socket as _stdlib_socket
from typing import Final

__all__ = [
    "AF_INET",
    "AF_INET6",
    "AF_UNIX",
    "AF_UNSPEC",
    "BUFFER_SIZE",
    "IPPROTO_ICMP",
    "IPPROTO_ICMPV6",
    "IPPROTO_IP",
    "IPPROTO_IPV6",
    "IPPROTO_RAW",
    "IPPROTO_TCP",
    "IPPROTO_UDP",
    "MAX_LINE_LENGTH",
    "SOCK_DGRAM",
    "SOCK_RAW",
    "SOCK_SEQPACKET",
    "SOCK_STREAM",
    "SOMAXCONN",
    "IpAddressFamily",
    "Port",
    "ReadLineResult",
    "SOBool",
    "SocketFlag",
    "SslAcceptResult",
    "SslCVerifyMode",
    "SslHandshakeType",
    "SslProtVersion",
]

# Nim's Domain, SockType and Protocol are the stdlib's enums (a protocol is a plain int there).
AF_UNSPEC: Final = _stdlib_socket.AF_UNSPEC
AF_UNIX: Final = _stdlib_socket.AF_UNIX
AF_INET: Final = _stdlib_socket.AF_INET
AF_INET6: Final = _stdlib_socket.AF_INET6
SOCK_STREAM: Final = _stdlib_socket.SOCK_STREAM
SOCK_DGRAM: Final = _stdlib_socket.SOCK_DGRAM
SOCK_RAW: Final = _stdlib_socket.SOCK_RAW
SOCK_SEQPACKET: Final = _stdlib_socket.SOCK_SEQPACKET
IPPROTO_TCP: Final = _stdlib_socket.IPPROTO_TCP
IPPROTO_UDP: Final = _stdlib_socket.IPPROTO_UDP
IPPROTO_IP: Final = _stdlib_socket.IPPROTO_IP
IPPROTO_IPV6: Final = _stdlib_socket.IPPROTO_IPV6
IPPROTO_RAW: Final = _stdlib_socket.IPPROTO_RAW
IPPROTO_ICMP: Final = _stdlib_socket.IPPROTO_ICMP
IPPROTO_ICMPV6: Final = _stdlib_socket.IPPROTO_ICMPV6
SOMAXCONN: Final = _stdlib_socket.SOMAXCONN

BUFFER_SIZE: Final = 4000
"""Bytes that the first read of a connection asks for (Nim's BufferSize); later reads adapt."""

MAX_LINE_LENGTH: Final = 1_000_000
"""Default limit of `read_line` in bytes (Nim's MaxLineLength)."""

_MAX_PORT: Final = 65535


class SocketFlag(enum.Flag):
    """How a call treats the socket. `SocketFlag(0)` is the empty set; Nim's SocketFlag.

    `PEEK`: look at the data and leave it there (`recv`, `recv_from`).
    `SAFE_DISCONN`: a connection that the peer reset reads as an end of stream.
    """

    PEEK = 1
    SAFE_DISCONN = 2

    def to_os_flags(self) -> int:
        """Give the flag bits for the system's recv: MSG_PEEK for `PEEK`, else 0. Nim's toOSFlags."""
        return int(_stdlib_socket.MSG_PEEK) if SocketFlag.PEEK in self else 0


class SOBool(enum.Enum):
    """Socket options that are on or off; Nim's SOBool.

    `socket_level` is the level that the option lives at: TCP's for `NO_DELAY`, SOL_SOCKET for the
    others, so that nobody has to know (at SOL_SOCKET the number of TCP_NODELAY is SO_DEBUG).
    """

    ACCEPT_CONN = "SO_ACCEPTCONN"
    BROADCAST = "SO_BROADCAST"
    DEBUG = "SO_DEBUG"
    DONT_ROUTE = "SO_DONTROUTE"
    KEEP_ALIVE = "SO_KEEPALIVE"
    OOB_INLINE = "SO_OOBINLINE"
    REUSE_ADDR = "SO_REUSEADDR"
    REUSE_PORT = "SO_REUSEPORT"
    NO_DELAY = "TCP_NODELAY"

    def to_cint(self) -> int:
        """Give the system's number of this option. Nim's toCInt."""
        return int(getattr(_stdlib_socket, self.value))

    @property
    def socket_level(self) -> int:
        """The level this option belongs to: IPPROTO_TCP or SOL_SOCKET."""
        tcp = self.value.startswith("TCP_")
        return int(_stdlib_socket.IPPROTO_TCP if tcp else _stdlib_socket.SOL_SOCKET)


class SslCVerifyMode(enum.Enum):
    """Whom TLS peers are trusted by; Nim's SslCVerifyMode. See `new_context`."""

    NONE = 0
    PEER = 1
    PEER_USE_ENV_VARS = 2


class SslProtVersion(enum.Enum):
    """Protocol versions by their old names; Nim's SslProtVersion. `SSLV23`: whatever is sound."""

    SSLV2 = 0
    SSLV3 = 1
    TLSV1 = 2
    SSLV23 = 3


class SslAcceptResult(enum.Enum):
    """What `Socket.try_accept` found; Nim's SslAcceptResult."""

    NO_CLIENT = 0
    NO_HANDSHAKE = 1
    SUCCESS = 2


class SslHandshakeType(enum.Enum):
    """The part that this side takes in a handshake; Nim's SslHandshakeType."""

    AS_CLIENT = 0
    AS_SERVER = 1


class ReadLineResult(enum.Enum):
    """What `Socket.try_read_line` found; Nim's ReadLineResult."""

    FULL_LINE = 0
    PARTIAL_LINE = 1
    DISCONNECTED = 2
    NONE = 3


class IpAddressFamily(enum.Enum):
    """The kind of an IP address, in Nim's order; see `ip_family`."""

    IPV6 = 0
    IPV4 = 1


def Port(number: int) -> int:  # noqa: N802 - Nim's type name; a function, for the reason below
    """Check that `number` is a port, 0 to 65535, and give it back as a plain `int`.

    The stdlib's `getaddrinfo` refuses subclasses of `int`, so a port has no type of its own.

    Raises:
        TypeError: not an `int`.
        ValueError: out of range.

    Nim's `Port`, whose conversion is a RangeDefect out of range.
    """
    if type(number) is not int:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"port: expected an int from 0 to {_MAX_PORT}, got {type(number).__name__}")
        number = int(number)
    if not 0 <= number <= _MAX_PORT:
        # Not the number itself where it is huge: Python refuses to print more than 4,300 digits.
        shown = str(number) if number.bit_length() <= 256 else f"a number of {number.bit_length()} bits"
        raise ValueError(f"port: expected 0 to {_MAX_PORT}, got {shown}")
    return number
