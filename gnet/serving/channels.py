"""A line between a supervisor and one of its workers: small JSON messages over a socket pair.

    worker → supervisor    {"is": "ready"}             it accepts connections
                           {"is": "failed", …}         it can not: "why", and the "kind" of the error
                           {"is": "left"}              it was told to leave, and accepts no more
                           {"is": "asked to stop"}     somebody sent it SIGTERM; see `gnet.workers`
                           {"is": "stats", "stats": …} an answer, or what it had counted when it ended
                           {"is": "total?"}            what have all workers counted together?
    supervisor → worker    {"is": "drain"}             serve what is queued, then end
                           {"is": "leave"}             what is queued is for others; end
                           {"is": "close"}             end now
                           {"is": "show"}              print the table of connections
                           {"is": "stats?"}            what have you counted?
                           {"is": "total", "stats": …} an answer

When one end is gone, the other one reads the end of the stream.
"""

from __future__ import annotations

import _socket
import json
from typing import Any, Final

__all__ = ["Channel", "Message", "channel_pair"]

Message = dict[str, Any]

_READ_AT_ONCE: Final = 65536


class Channel:
    """One end of the line. Nothing here waits."""

    def __init__(self, raw: _socket.socket) -> None:
        """Take over a stream socket."""
        raw.setblocking(False)
        self._raw = raw
        self._rest = b""
        self.ended = False
        """Whether the other end is gone."""

    def fileno(self) -> int:
        """The descriptor; readable when a message has come."""
        return self._raw.fileno()

    def send(self, what: str, **fields: object) -> None:
        """Send a message; nothing happens if the other end is gone.

        Messages are few and small, so the kernel has room for them. A peer that does not read so many of
        them is as good as gone.
        """
        try:
            self._raw.sendall(json.dumps({"is": what, **fields}).encode() + b"\n")
        except OSError:
            self.ended = True

    def take(self) -> list[Message]:
        """Give the messages that have come."""
        if self.ended:
            return []
        try:
            while True:
                data = self._raw.recv(_READ_AT_ONCE)
                if not data:
                    self.ended = True
                    break
                self._rest += data
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._raw.close()


def channel_pair() -> tuple[Channel, _socket.socket]:
    """Make a line: the supervisor's end, and the socket for the worker's."""
    ours, theirs = _socket.socketpair()
    return Channel(ours), theirs
