"""Where the records of TLS end (RFC 8446, section 5.1): pure, and only their headers are looked at.

A record begins with five bytes, the last two of which are the length of the rest. Who keeps count of
that knows, without asking OpenSSL, whether anything of a record is still to come.
"""

from __future__ import annotations

__all__ = ["RecordBoundaries"]

_HEADER = 5


class RecordBoundaries:
    """Follows one direction of a connection, from its first byte on."""

    __slots__ = ("_head", "_missing")

    def __init__(self) -> None:
        self._missing = 0  # bytes of the body of a record that has begun
        self._head = b""  # the start of a header that is not complete

    def feed(self, ciphertext: bytes) -> bool:
        """Go on by these bytes (at least one); True if they are just one record, and a whole one."""
        size = len(ciphertext)
        if (
            not self._missing
            and not self._head
            and size > _HEADER
            and ciphertext[3] << 8 | ciphertext[4] == size - _HEADER
        ):
            return True
        at = self._missing
        if self._head:  # then nothing of a body is missing
            ciphertext = self._head + ciphertext
            size = len(ciphertext)
        while at + _HEADER <= size:
            at += _HEADER + (ciphertext[at + 3] << 8 | ciphertext[at + 4])
        self._missing = max(0, at - size)
        self._head = ciphertext[at:] if at < size else b""
        return False
