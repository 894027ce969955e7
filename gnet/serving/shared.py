"""Listening sockets of a supervisor, which serves none of them itself."""

from __future__ import annotations

import _socket
import os
from typing import TYPE_CHECKING, Any, Self

from gnet.options import Port
from gnet.serving.binding import bind_tcp, bind_unix, file_identity, remove_path, serving_path

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["SharedListeners", "listening_name", "listening_names"]


class SharedListeners:
    """Sockets that are opened once and served by several processes; a context manager that closes them."""

    def __init__(
        self,
        address: str,
        port: int,
        *,
        unix_path: str | bytes | os.PathLike[str] | None = None,
        listener: Any = None,
        reuse_port: bool = False,
        owns_queue: bool = True,
    ) -> None:
        """Open them, or take them over.

        Args:
            address, port, unix_path, listener, reuse_port: as for `Server`.
            owns_queue: what is queued in the end is lost with this process: it opened the sockets.
        Raises:
            OSError: with the address or the path.
        """
        self.owns_queue = owns_queue
        self._path = ""
        if listener is not None:
            many = listener if isinstance(listener, (list, tuple)) else [listener]
            self._sockets = [_taken(each) for each in many]
        elif unix_path is not None:
            self._path = serving_path(unix_path)
            self._sockets = [bind_unix(self._path)]
        else:
            self._sockets = [bind_tcp(address, Port(port), reuse_port)]
        self._identity = file_identity(self._path) if self._path else None
        self.descriptors = [each.fileno() for each in self._sockets]
        self.names = [listening_name(each.getsockname()) for each in self._sockets]
        """As `127.0.0.1:1234`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close them, and remove the path of a Unix one. Idempotent."""
        for each in self._sockets:
            each.close()
        remove_path(self._path, self._identity)
        self._identity = None


def _taken(listener: Any) -> _socket.socket:
    return _socket.socket(fileno=listener if isinstance(listener, int) else listener.detach())


def listening_name(sockaddr: Any) -> str:
    """Give where a socket listens as the command line says it: `127.0.0.1:1`, `[::1]:1` or `unix:PATH`."""
    if isinstance(sockaddr, tuple):
        host, port = sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = os.fsdecode(sockaddr)
    return f"unix:@{path[1:]}" if path.startswith("\0") else f"unix:{path}"


def listening_names(descriptors: list[int]) -> list[str]:
    """Give where sockets listen that are in other hands."""
    names = []
    for descriptor in descriptors:
        raw = _socket.socket(fileno=descriptor)
        try:
            names.append(listening_name(raw.getsockname()))
        finally:
            raw.detach()
    return names
