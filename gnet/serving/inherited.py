"""Listening sockets that systemd, or what speaks its protocol, has opened: `sd_listen_fds(3)`."""

from __future__ import annotations

import _socket
import os
from typing import Final

__all__ = ["inherited_listeners"]

_FIRST: Final = 3  # behind the standard streams; SD_LISTEN_FDS_START

_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_listeners() -> list[int]:
    """Take the listening sockets that this process was given: their descriptors; none if there are none.

    The variables are removed, so that a second call, and programs started later, find nothing.

    Raises:
        ValueError: something that was given is no listening stream socket.
    """
    given = [os.environ.pop(name, "") for name in _VARIABLES]
    count, process = given[:2]
    if not count or process != str(os.getpid()):  # meant for a process that started this one
        return []
    if not count.isdigit():
        raise ValueError(f"LISTEN_FDS: expected a number, got {count!r}")
    found = list(range(_FIRST, _FIRST + int(count)))
    for descriptor in found:
        _check(descriptor)
        os.set_inheritable(descriptor, False)
    return found


def _check(descriptor: int) -> None:
    try:
        raw = _socket.socket(fileno=descriptor)
    except OSError as error:
        raise ValueError(f"LISTEN_FDS: descriptor {descriptor} is no socket: {error.strerror}") from error
    try:
        if raw.type != _socket.SOCK_STREAM or not raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            raise ValueError(f"LISTEN_FDS: descriptor {descriptor} is no listening stream socket")
    finally:
        raw.detach()
