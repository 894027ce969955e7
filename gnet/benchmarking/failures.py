"""What went wrong in a benchmark, counted by kind, with the first message of each."""

from __future__ import annotations

import builtins
import errno
import socket as _stdlib_socket
from typing import Final

from gnet.errors import LineTooLongError, SslError, TimeoutError

__all__ = ["Failures", "kind_of"]

_KINDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (SslError, "TLS"),
    (LineTooLongError, "line too long"),
    (TimeoutError, "connect timeout"),
    (_stdlib_socket.gaierror, "name look-up"),
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (builtins.TimeoutError, "connection lost"),
)


def kind_of(error: OSError) -> str:
    """Name the kind of an error in a word or two."""
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return name
    if error.errno is None:
        return type(error).__name__
    return errno.errorcode.get(error.errno, f"error {error.errno}")


class Failures:
    """How many there were of each kind, and the first message of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.messages: dict[str, str] = {}

    def note(self, kind: str, message: str, times: int = 1) -> None:
        """Count one, or several at once."""
        self.counts[kind] = self.counts.get(kind, 0) + times
        self.messages.setdefault(kind, message)

    def add(self, counts: dict[str, int], messages: dict[str, str]) -> None:
        """Add what another one has counted."""
        for kind, times in counts.items():
            self.note(kind, messages.get(kind, ""), times)

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())
