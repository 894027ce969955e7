"""IP addresses, the tuples that sockets take, and the address this machine shows to others.

An address is the stdlib's `ipaddress.IPv4Address` or `IPv6Address`: immutable, hashable, ordered
within its family, with `str()` for its text. This module adds what Nim's `net` has and the stdlib
has not: strict parsing with one call for both families, the way to and from socket addresses, and
`get_primary_ip_addr`. It never looks up a name (that is dialing's work) and knows nothing of Unix
paths; nothing in it waits.
"""

from __future__ import annotations

import _socket
import os
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final, TypeAlias

from gnet.options import AF_INET, AF_INET6, SOCK_DGRAM, IpAddressFamily, Port

__all__ = [
    "IpAddress",
    "from_sock_addr",
    "get_primary_ip_addr",
    "ip_family",
    "ipv4_any",
    "ipv4_broadcast",
    "ipv4_loopback",
    "ipv6_any",
    "ipv6_loopback",
    "is_ip_address",
    "parse_ip_address",
    "to_sock_addr",
]

IpAddress: TypeAlias = IPv4Address | IPv6Address
"""An IP address. Nim's IpAddress; `::ffff:1.2.3.4` is IPv6 and not equal to `1.2.3.4`, as there."""

# What the socket module takes and gives: (text, port), and for IPv6 flow info and scope id as well.
SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

_IPV4_ANY: Final = IPv4Address("0.0.0.0")
_IPV4_LOOPBACK: Final = IPv4Address("127.0.0.1")
_IPV4_BROADCAST: Final = IPv4Address("255.255.255.255")
_IPV6_ANY: Final = IPv6Address("::")
_IPV6_LOOPBACK: Final = IPv6Address("::1")

# Nim's default: a public address that is routed wherever the default route leads.
_PUBLIC_DEST: Final = IPv4Address("8.8.8.8")
_PRIMARY_PORT: Final = 80  # any port but 0 will do: nothing is sent

# The longest address text has 45 characters, its socket address some 20 more: those show whole.
_MAX_QUOTED: Final = 80
_EXPECTED: Final = "expected IPv4 text such as 192.0.2.1 or IPv6 text such as 2001:db8::1"


def parse_ip_address(text: str) -> IpAddress:
    """Make an address of its text, IPv6 if there is a colon in it, else IPv4.

    Strict, as the stdlib is: four decimal numbers without leading zeros (`010` is 8 to some
    programs and 10 to others), IPv6 groups of at most four hex digits, one `::` at most, a dotted
    tail if two groups fit there. No scope id, port, brackets, prefix length or white space.

    Raises:
        TypeError: not a `str`.
        ValueError: not the text of an address. Nothing is looked up.

    Nim's `parseIpAddress`, which lets IPv6 groups have any number of leading zeros and, before
    1.6, IPv4 numbers too.
    """
    if not isinstance(text, str):
        raise TypeError(f"IP address: expected a str, got {type(text).__name__}")
    if "%" in text:  # IPv6Address would take it
        raise ValueError(f"IP address {_quote(text)}: a scope id is not part of it; {_EXPECTED}")
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError as error:
        # The stdlib ends most messages with the whole text, however long: not twice, and not in the
        # traceback either (hence "from None").
        reason = _cut(str(error).removesuffix(f" in {text!r}"))
        raise ValueError(f"IP address {_quote(text)}: {reason}; {_EXPECTED}") from None


def is_ip_address(text: str) -> bool:
    """Tell whether `text` is an IP address that `parse_ip_address` takes.

    Raises:
        TypeError: not a `str`.

    Nim's `isIpAddress`.
    """
    try:
        parse_ip_address(text)
    except ValueError:
        return False
    return True


def ip_family(address: IpAddress) -> IpAddressFamily:
    """Give the family of an address. IPv4 written as IPv6 (`::ffff:1.2.3.4`) is IPv6.

    Raises:
        TypeError: not an `IPv4Address` or `IPv6Address`.

    Nim's field `IpAddress.family`.
    """
    _check_address("address", address)
    return IpAddressFamily.IPV4 if isinstance(address, IPv4Address) else IpAddressFamily.IPV6


def to_sock_addr(address: IpAddress, port: int) -> SockAddr:
    """Give the tuple that the socket module takes for this address and port.

    Args:
        address: an address without a scope id.
        port: 0 to 65535.
    Returns:
        `(text, port)` for IPv4, `(text, port, 0, 0)` (no flow info, no scope id) for IPv6.
    Raises:
        TypeError: `address` is no address (a `str`: use `parse_ip_address`), `port` no `int`.
        ValueError: `port` is out of range, or `address` has a scope id, which Nim's have not.

    Nim's `toSockAddr`.
    """
    _check_address("address", address)
    port = Port(port)
    if isinstance(address, IPv4Address):
        return str(address), port
    if address.scope_id is not None:
        raise ValueError(f"address {_quote(str(address))}: expected an address without a scope id")
    return str(address), port, 0, 0


def from_sock_addr(sockaddr: object) -> tuple[IpAddress, int]:
    """Give address and port of a tuple that the socket module gave for an IPv4 or IPv6 socket.

    Args:
        sockaddr: two items, `(text, port)`, for IPv4; four, `(text, port, flow info, scope id)`,
            for IPv6. Flow info and scope id are dropped, and so is the scope in `fe80::1%eth0`.
    Raises:
        ValueError: anything else: another family's address (a Unix path, say), a name instead of
            an address, a port out of range.
        TypeError: the port is no `int`.

    Nim's `fromSockAddr`, with its "Neither IPv4 nor IPv6".
    """
    if not isinstance(sockaddr, tuple) or len(sockaddr) not in (2, 4) or not isinstance(sockaddr[0], str):
        raise _neither(sockaddr)
    text, port, *rest = sockaddr
    if len(rest) == 2:
        text = text.partition("%")[0]
        if not all(isinstance(number, int) for number in rest):
            raise _neither(sockaddr)
    try:
        address = parse_ip_address(text)
    except ValueError as error:
        raise _neither(sockaddr) from error
    if isinstance(address, IPv6Address) != (len(rest) == 2):
        raise _neither(sockaddr)
    return address, Port(port)


def ipv4_any() -> IPv4Address:
    """Give `0.0.0.0`, every IPv4 interface. Nim's `IPv4_any`."""
    return _IPV4_ANY


def ipv4_loopback() -> IPv4Address:
    """Give `127.0.0.1`. Nim's `IPv4_loopback`."""
    return _IPV4_LOOPBACK


def ipv4_broadcast() -> IPv4Address:
    """Give `255.255.255.255`, every host on the local network. Nim's `IPv4_broadcast`."""
    return _IPV4_BROADCAST


def ipv6_any() -> IPv6Address:
    """Give `::`, every IPv6 interface. Nim's `IPv6_any`."""
    return _IPV6_ANY


def ipv6_loopback() -> IPv6Address:
    """Give `::1`. Nim's `IPv6_loopback`."""
    return _IPV6_LOOPBACK


def get_primary_ip_addr(dest: IpAddress = _PUBLIC_DEST) -> IpAddress:
    """Give the local address that packets to `dest` would leave from.

    The kernel's routing table answers; nothing is sent and nothing waits. An address behind NAT
    is the private one.

    Raises:
        TypeError: `dest` is no address (a `str`: use `parse_ip_address`).
        ValueError: `dest` has a scope id.
        OSError: there is no route, or the kernel refuses such a destination (broadcast).

    Nim's `getPrimaryIPAddr`.
    """
    target = to_sock_addr(dest, _PRIMARY_PORT)
    try:
        # The C type is the same in patched and in plain processes. Connecting a datagram socket to
        # a literal address only asks the routing table, so it does not hold up the hub.
        sock = _socket.socket(AF_INET if isinstance(dest, IPv4Address) else AF_INET6, SOCK_DGRAM)
        try:
            sock.connect(target)
            local = sock.getsockname()
        finally:
            sock.close()
    except OSError as error:
        # Of the same class as the error it stands for: OSError chooses that by the number.
        raise OSError(error.errno, f"get_primary_ip_addr for {dest}: {error.strerror}") from error
    return from_sock_addr(local)[0]


def _check_address(name: str, value: object) -> None:
    # An interface (1.2.3.4/24) is an address by inheritance, but its text is not an address.
    if not isinstance(value, IPv4Address | IPv6Address) or isinstance(value, IPv4Interface | IPv6Interface):
        raise TypeError(f"{name}: expected an IPv4Address or IPv6Address, got {type(value).__name__}")


def _neither(sockaddr: object) -> ValueError:
    return ValueError(
        "socket address: neither IPv4, (text, port), nor IPv6, (text, port, flow info, scope id):"
        f" got {_cut(repr(sockaddr))}"
    )


def _quote(text: str) -> str:
    """Show text that may come from a peer: escaped, and cut before it is."""
    return repr(text) if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]!r}... ({len(text)} characters)"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."


def describe_sock_addr(sockaddr: object) -> str:
    """Give a socket address for messages: `192.0.2.1:80`, `[::1]:80`, `unix:/path`, `unix:@name`.

    Args:
        sockaddr: what the socket module gives; an empty or unknown one is an unnamed peer.
    """
    if isinstance(sockaddr, tuple) and len(sockaddr) >= 2:
        host, port = sockaddr[0], sockaddr[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = sock_addr_text(sockaddr)
    return "unix:" + text.replace("\0", "@", 1) if text else "an unnamed peer"


def sock_addr_text(sockaddr: object) -> str:
    """Give the host of a socket address, or the path of a Unix one (`""` if it has none).

    The scope id is dropped, as Nim drops it; an abstract Unix name begins with a NUL.
    """
    if isinstance(sockaddr, tuple) and sockaddr:
        return str(sockaddr[0]).partition("%")[0]
    if isinstance(sockaddr, bytes):
        return os.fsdecode(sockaddr)
    return sockaddr if isinstance(sockaddr, str) else ""
