"""Host names to socket addresses, without blocking the hub or waiting behind other look-ups.

In order: an IP literal is its own answer; a name in the hosts file, and `localhost`, is answered
from there; everything else goes to the system's resolver in a thread pool of gnet's own, or to
the resolver that gevent was configured with (`GEVENT_RESOLVER`), if that is another one.

gevent's own pool has ten threads for everything, so ten look-ups of a dead name server hold up
even `localhost` for seconds. A look-up that is given up stays in its thread until the system's
resolver comes back; here that takes one of 64 threads.

What the C library would take for an address although it does not look like one (`127.1`,
`0x7f000001`, `2130706433`) is refused: a name must never lead to another host than it says.
"""

from __future__ import annotations

import _socket
import os
import socket as _stdlib_socket
import string
from typing import Any, Final

import gevent
from gevent.monkey import get_original
from gevent.resolver.thread import Resolver as _ThreadResolver
from gevent.threadpool import ThreadPool

from gnet.addresses import is_ip_address, parse_ip_address, to_sock_addr
from gnet.deadlines import Deadline
from gnet.options import AF_INET, AF_INET6, AF_UNSPEC

__all__ = ["AddressInfo", "check_host", "resolve"]

AddressInfo = tuple[int, int, int, Any]
"""Family, socket type, protocol, socket address."""

_POOL_SIZE: Final = 64
_HOSTS_FILE: Final = "/etc/hosts"
_LONGEST_NAME: Final = 253  # RFC 1035, as text
_LONGEST_LABEL: Final = 63
_LONGEST_TEXT: Final = 1000  # before it is put into ASCII, which takes quadratic time
_NAME_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "-_.")

# One pool for each hub, that is, for each thread; in a patched process the module's own name
# would give one for each greenlet.
_per_thread: Any = get_original("_thread", "_local")()


def check_host(host: object, operation: str) -> str:
    """Check a host name or IP literal and give its ASCII form. No look-up.

    Raises:
        TypeError: not a `str`.
        ValueError: empty, with a NUL or white space in it, too long, no valid international name,
            a number that is no IP address, or an IPv6 literal that is none.
    """
    if not isinstance(host, str):
        raise TypeError(f"{operation}: expected a host name as str, got {type(host).__name__}")
    shown = repr(host if len(host) <= 80 else host[:77] + "...")
    if not host:
        raise ValueError(f"{operation}: the host name is empty")
    if len(host) > _LONGEST_TEXT:
        raise ValueError(f"{operation}: host name of {len(host)} characters (limit {_LONGEST_NAME}): {shown}")
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError(f"{operation}: {shown} is no host name ({error})") from None
    if name is not host and (":" in name or is_ip_address(name)):
        raise ValueError(f"{operation}: {shown} only looks like the IP address {name}")
    if is_ip_address(name):
        return name
    if ":" in name:
        return _check_scoped(name, shown, operation)
    if any(character <= " " or character == "\x7f" for character in name):
        raise ValueError(f"{operation}: the host name {shown} has a control character or space in it")
    if not set(name) <= _NAME_CHARACTERS:
        raise ValueError(f"{operation}: {shown} is no host name (letters, digits, '-', '_' and '.')")
    labels = name.removesuffix(".").split(".")
    if len(name) > _LONGEST_NAME + name.endswith("."):
        raise ValueError(f"{operation}: host name of {len(name)} characters (limit {_LONGEST_NAME}): {shown}")
    if any(not 0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise ValueError(
            f"{operation}: {shown} is no host name: each part must have 1 to {_LONGEST_LABEL} characters"
        )
    # The C library reads these as addresses, in octal, in hex or with parts left out.
    last = labels[-1].lower()
    if last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:])):
        raise ValueError(f"{operation}: {shown} is no IP address (write all four numbers, in decimal)")
    return name


def resolve(
    host: str,
    port: int,
    family: int,
    sock_type: int,
    protocol: int,
    deadline: Deadline,
) -> list[AddressInfo]:
    """Give the socket addresses of a host, at least one, in the order they should be tried.

    Args:
        host: what `check_host` gave.
        family: AF_INET, AF_INET6 (IPv4 addresses become `::ffff:…`, as in Nim) or AF_UNSPEC.
        deadline: armed if the look-up has to wait. Its end is left to the caller to translate.
    Raises:
        socket.gaierror: no such name, no address of this family, or the name server failed.
    """
    is_literal = is_ip_address(host)
    known = [host] if is_literal else _hosts_file.addresses(host.lower().removesuffix("."))
    if known:
        found: list[AddressInfo] = []
        for text in known:
            address = parse_ip_address(text)
            own_family = AF_INET if address.version == 4 else AF_INET6
            if family == AF_INET6 and own_family == AF_INET:
                found.append((AF_INET6, sock_type, protocol, (f"::ffff:{address}", port, 0, 0)))
            elif family in (own_family, AF_UNSPEC):
                found.append((own_family, sock_type, protocol, to_sock_addr(address, port)))
        if found:
            return found
    if is_literal:
        raise _stdlib_socket.gaierror(
            _stdlib_socket.EAI_FAMILY,
            f"{host!r} has no address of family {_stdlib_socket.AddressFamily(family).name}",
        )
    flags = _socket.AI_V4MAPPED if family == AF_INET6 else 0
    try:
        if "%" in host:  # a literal with a scope id: the C library knows the interface's number
            numeric = flags | _socket.AI_NUMERICHOST
            answers = list(_socket.getaddrinfo(host, port, family, sock_type, protocol, numeric))
        else:
            deadline.arm()
            answers = _getaddrinfo(host, port, family, sock_type, protocol, flags)
    except _stdlib_socket.gaierror as error:
        raise _stdlib_socket.gaierror(error.errno, f"looking up {host!r}: {error.strerror}") from error
    return [(int(af), int(kind), proto, sockaddr) for af, kind, proto, _, sockaddr in answers]


def _check_scoped(name: str, shown: str, operation: str) -> str:
    """Check an IPv6 literal with a scope id, which only a link-local address may have."""
    address, percent, scope = name.partition("%")
    if percent and scope and scope.isprintable() and is_ip_address(address):
        if parse_ip_address(address).is_link_local:
            return name
        raise ValueError(f"{operation}: {shown} has a scope id, but is not a link-local address")
    raise ValueError(f"{operation}: {shown} is no IPv6 address")


def _getaddrinfo(*arguments: Any) -> list[Any]:
    hub = gevent.get_hub()
    # Reading it also tells the hub that look-up errors in a thread are nothing to print.
    resolver: Any = hub.resolver
    if not isinstance(resolver, _ThreadResolver):
        return list(resolver.getaddrinfo(*arguments))
    pool = getattr(_per_thread, "pool", None)
    if pool is None or pool.hub is not hub:
        pool = _per_thread.pool = ThreadPool(_POOL_SIZE, hub=hub)
    return list(pool.apply(_socket.getaddrinfo, arguments))


class _HostsFile:
    """The names of the hosts file, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._names: dict[str, list[str]] = {}

    def addresses(self, name: str) -> list[str]:
        """Give the addresses of a lower-case name, IPv6 before IPv4; `[]` if it is not there."""
        try:
            status = os.stat(self._path)
            version = (status.st_mtime_ns, status.st_size)
            if version != self._version:
                self._names = self._read()
                self._version = version
        except OSError:
            self._names = {}
        found = self._names.get(name)
        if found is None and (name == "localhost" or name.endswith(".localhost")):
            found = ["::1", "127.0.0.1"]  # RFC 6761, section 6.3
        return found or []

    def _read(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        with open(self._path, encoding="utf-8", errors="replace") as file:
            for line in file:
                address, *aliases = line.partition("#")[0].split() or [""]
                if is_ip_address(address):
                    for alias in aliases:
                        names.setdefault(alias.lower(), []).append(address)
        for found in names.values():
            found.sort(key=lambda text: ":" not in text)
        return names


_hosts_file: Final = _HostsFile(_HOSTS_FILE)
