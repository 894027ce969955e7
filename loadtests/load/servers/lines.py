"""What the servers answer to a line, so that a client can tell whether they read it whole. Pure.

`PING` gets `+PONG`, as from redis-server; any other line its length and its CRC-32. A line that was cut
elsewhere, lost a byte or swallowed its neighbour has another answer.
"""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["LIMIT", "PING", "PONG", "answer_to"]

LIMIT: Final = 65536
"""Bytes that a line may have, without its end. To a longer one there is no answer, but the end."""

PING: Final = b"PING"
PONG: Final = b"+PONG"


def answer_to(line: bytes) -> bytes:
    """Give the answer to a line; both are without their ends."""
    if line == PING:
        return PONG
    return b"%d %08x" % (len(line), zlib.crc32(line))
