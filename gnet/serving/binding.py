"""Listening sockets as the kernel has them, opened without a hub: a supervisor has none."""

from __future__ import annotations

import _socket
import array
import errno
import os
import socket as _stdlib_socket
import stat
import struct
import sys
from contextlib import suppress
from typing import Any, Final

from gnet.addresses import describe_sock_addr
from gnet.checks import check_unix_path
from gnet.errors import raise_named
from gnet.names import check_host
from gnet.options import AF_INET, AF_INET6, AF_UNIX, IPPROTO_TCP, SOCK_STREAM, SOMAXCONN

__all__ = ["bind_tcp", "bind_unix", "file_identity", "remove_path", "serving_path", "stop_listening"]

# A path is nobody else's business, as a port on loopback is nobody's from outside.
_PRIVATE: Final = 0o600

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h

# A program for the kernel's packet filter (Documentation/networking/filter.rst), which sees the segment
# from its TCP header on: each instruction is code, jump if true, jump if false, operand.
_DROP_SYNS: Final = array.array(
    "B",
    b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # load the byte of the flags
            (0x54, 0, 0, 0x12),  # keep SYN and ACK
            (0x15, 0, 1, 0x02),  # is it SYN alone?
            (0x06, 0, 0, 0),  # then drop it
            (0x06, 0, 0, 0xFFFFFFFF),  # else keep all of it
        )
    ),
)


def bind_tcp(address: str, port: int, reuse_port: bool = False) -> _socket.socket:
    """Open a listening TCP socket.

    Args:
        address: an IP address or a name; `""`: every address, IPv4 and IPv6.
    Raises:
        OSError: with the address.
    """
    if address == "":
        # One socket for both, as nearly all systems have it; the other way for those without IPv6.
        try:
            return _bound(AF_INET6, ("::", port), reuse_port)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return _bound(AF_INET, ("0.0.0.0", port), reuse_port)
    host = check_host(address, "Server: address")
    try:
        infos = _socket.getaddrinfo(host, port, 0, SOCK_STREAM, IPPROTO_TCP)
    except OSError as error:
        raise_named(error, f"listen on {address!r}")
    family, _, _, _, sockaddr = infos[0]
    return _bound(family, sockaddr, reuse_port)


def _bound(family: int, sockaddr: Any, reuse_port: bool) -> _socket.socket:
    raw = _new_socket(family, describe_sock_addr(sockaddr))
    try:
        raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        if reuse_port:
            raw.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        if family == AF_INET6:
            raw.setsockopt(_stdlib_socket.IPPROTO_IPV6, _stdlib_socket.IPV6_V6ONLY, sockaddr[0] != "::")
        raw.setsockopt(_stdlib_socket.IPPROTO_TCP, _stdlib_socket.TCP_NODELAY, 1)  # accepted ones inherit it
        raw.bind(sockaddr)
        raw.listen(SOMAXCONN)
        return raw
    except OSError as error:
        raw.close()
        raise_named(error, f"listen on {describe_sock_addr(sockaddr)}")


def _new_socket(family: int, name: str) -> _socket.socket:
    try:
        return _socket.socket(family, SOCK_STREAM)
    except OSError as error:
        raise_named(error, f"listen on {name}")


def serving_path(path: object) -> str:
    """Check the path to serve on, and give it for `bind_unix`; nothing is opened.

    Raises:
        TypeError, ValueError: with the argument's name.
    """
    name = check_unix_path(path, "Server: unix_path")
    if not name:
        raise ValueError("Server: unix_path: the path is empty")
    return os.fsdecode(name)


def bind_unix(path: str) -> _socket.socket:
    """Open a listening Unix socket, for this user only.

    Args:
        path: as `serving_path` gives it.
    Raises:
        OSError: with the path.
    """
    raw = _new_socket(AF_UNIX, repr(path))
    try:
        if not path.startswith("\0"):
            _remove_stale(path)
        raw.bind(path)
        if not path.startswith("\0"):
            os.chmod(path, _PRIVATE)  # before listen: nobody has come in yet
        raw.listen(SOMAXCONN)
        return raw
    except OSError as error:
        raw.close()
        raise_named(error, f"listen on {path!r}")


def _remove_stale(path: str) -> None:
    """Remove a socket's path that nobody listens on any more; leave all else alone."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind says what is wrong
    except OSError:
        return
    probe = _socket.socket(AF_UNIX, SOCK_STREAM)
    try:
        probe.setblocking(False)
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            with suppress(OSError):
                os.unlink(path)
    finally:
        probe.close()


def file_identity(path: str) -> tuple[int, int] | None:
    """Give what tells a file from one that took its path later."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_path(path: str, identity: tuple[int, int] | None) -> None:
    """Remove a path that was bound, if it is still the same file."""
    if path and not path.startswith("\0") and identity is not None and file_identity(path) == identity:
        with suppress(OSError):
            os.unlink(path)


def stop_listening(descriptor: int) -> None:
    """Have the kernel begin no more connections; those that are queued, or on the way, can be accepted.

    By a filter on the socket that drops what would open a connection (a SYN): `listen(0)` lets one more
    into the queue, whose client would be reset. The client's kernel asks again a second later, and is
    refused then. Where there are no such filters, and for Unix sockets, it is `listen(0)`.
    """
    with suppress(OSError):
        raw = _socket.socket(fileno=descriptor)
        try:
            if not _drops_syns(raw):
                raw.listen(0)
        finally:
            raw.detach()


def _drops_syns(raw: _socket.socket) -> bool:
    """Have the kernel drop what would open a connection; False if it can not."""
    if raw.family not in (AF_INET, AF_INET6) or sys.platform != "linux":
        return False
    filter_ = struct.pack("HL", len(_DROP_SYNS) // 8, _DROP_SYNS.buffer_info()[0])
    try:
        raw.setsockopt(_socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
    except OSError:
        return False
    return True
