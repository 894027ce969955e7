"""The sockets that a server listens on: checked, opened or taken over, and given up again."""

from __future__ import annotations

import _socket
import os
import socket as _stdlib_socket
from contextlib import suppress
from typing import Any

from gnet.addresses import describe_sock_addr, sock_addr_text
from gnet.deadlines import NO_DEADLINE
from gnet.names import check_host, resolve
from gnet.options import AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, IPPROTO_TCP, SOCK_STREAM, SOMAXCONN
from gnet.serving.binding import (
    bind_tcp,
    bind_unix,
    file_identity,
    remove_path,
    serving_path,
    stop_listening,
)
from gnet.transports import PlainTransport

__all__ = ["Listener", "check_place", "open_listeners"]


class Listener:
    """One listening socket of a server."""

    def __init__(self, raw: _socket.socket, *, path: str = "", shared: bool = False) -> None:
        """Take over a socket that listens, or is bound.

        Args:
            path: remove it when this is closed, if it is still the one that was bound.
            shared: other processes accept from it too.
        """
        if not raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            raw.listen(SOMAXCONN)
        if raw.family in (AF_INET, AF_INET6):
            raw.setsockopt(_stdlib_socket.IPPROTO_TCP, _stdlib_socket.TCP_NODELAY, 1)  # for accepted ones
        self.transport = PlainTransport(raw)
        self._shared = shared
        self._path = path
        self._identity = file_identity(path) if path else None
        sockaddr: Any = raw.getsockname()
        self.name = describe_sock_addr(sockaddr)
        self.address = sock_addr_text(sockaddr)
        self.port: int = sockaddr[1] if isinstance(sockaddr, tuple) else 0

    def stop_taking(self) -> None:
        """Have the kernel take no more connections; what it has taken can be accepted."""
        if not self._shared:
            stop_listening(self.transport.socket.fileno())

    def close(self) -> None:
        """Give it up. Idempotent."""
        if not self.transport.closed:
            self.transport.close()
            remove_path(self._path, self._identity)


def check_place(address: object, port: object, unix_path: object, listener: Any) -> bool:
    """Raise unless a server could listen there: nothing is opened.

    Returns:
        Whether it is a place on this machine only, that of Unix sockets.
    Raises:
        TypeError, ValueError: with the argument's name.
    """
    if (unix_path is not None) + (listener is not None) + bool(address or port) > 1:
        raise ValueError("Server: give one of address and port, unix_path, listener")
    if not isinstance(address, str):
        raise TypeError(f"Server: address: expected str, got {type(address).__name__}")
    if address:
        check_host(address, "Server: address")
    if unix_path is not None:
        serving_path(unix_path)
    if listener is not None:
        many = listener if isinstance(listener, (list, tuple)) else [listener]
        if not many:
            raise ValueError("Server: listener: expected a listening socket at least, got none")
        return all([_family_of(each) == AF_UNIX for each in many])  # noqa: C419 - each is checked
    return unix_path is not None


def _family_of(listener: Any) -> int:
    """Give the family of a socket; raise unless it can listen."""
    if isinstance(listener, int) and not isinstance(listener, bool):
        if listener < 0:
            raise ValueError(f"Server: listener: expected a descriptor, got {listener}")
        probe = _socket.socket(fileno=os.dup(listener))
    elif all(hasattr(type(listener), name) for name in ("detach", "fileno")):
        if listener.fileno() < 0:
            raise ValueError("Server: listener: the socket is closed")
        if getattr(listener, "is_ssl", bool)():
            raise ValueError("Server: listener: the socket speaks TLS; give a plain one and ssl_context")
        probe = _socket.socket(fileno=os.dup(listener.fileno()))
    else:
        raise TypeError(f"Server: listener: expected a socket, got {type(listener).__name__}")
    try:
        if probe.type != SOCK_STREAM:
            raise ValueError("Server: listener: needs a stream socket")
        with suppress(OSError):
            peer = describe_sock_addr(probe.getpeername())
            raise ValueError(f"Server: listener: the socket is connected with {peer}")
        return probe.family
    finally:
        probe.close()


def open_listeners(
    address: str, port: int, unix_path: str | bytes | os.PathLike[str] | None, listener: Any, reuse_port: bool
) -> list[Listener]:
    """Open what a server listens on, or take it over.

    Raises:
        OSError: with the address or the path.
    """
    if listener is not None:
        many = listener if isinstance(listener, (list, tuple)) else [listener]
        return [_take_over(each) for each in many]
    if unix_path is not None:
        path = serving_path(unix_path)
        return [Listener(bind_unix(path), path="" if path.startswith("\0") else path)]
    if address:
        host = check_host(address, "Server: address")  # a name may take its time: not in the kernel's calls
        address = resolve(host, port, AF_UNSPEC, SOCK_STREAM, IPPROTO_TCP, NO_DEADLINE)[0][3][0]
    return [Listener(bind_tcp(address, port, reuse_port))]


def _take_over(listener: Any) -> Listener:
    if isinstance(listener, int):
        return Listener(_socket.socket(fileno=listener), shared=True)
    return Listener(_socket.socket(fileno=listener.detach()))
