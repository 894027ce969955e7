"""What a server's connections are doing: each in a few words, and all of them as a table."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gevent

from gnet.serving.logs import escaped

if TYPE_CHECKING:
    from types import FrameType
    from typing import TextIO

    from greenlet import greenlet

    from gnet.server import Server
    from gnet.serving.connections import Connection

__all__ = ["ConnectionInfo", "describe_connection", "write_connections"]

# Of a text that a peer may have chosen (a Unix path in a PROXY header), or that is just long.
_LONGEST: Final = 120

# Frames of these packages are how a handler waits, not where.
_HOW_NOT_WHERE: Final = tuple(
    os.path.dirname(path) + os.sep for path in (gevent.__file__, os.path.dirname(__file__))
)

_HEADINGS: Final = ("id", "peer", "age s", "state", "waits", "in", "out", "TLS", "handler at")
_NUMBERS: Final = frozenset({"id", "age s", "in", "out"})


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection of a server, as it was when `Server.connections` was called."""

    id: int
    """Its number: 1, 2, 3 ... in the order of acceptance."""
    peer: str
    """Where it comes from, as `192.0.2.1:50123`: what the PROXY header says, if there was one."""
    age_seconds: float
    """Since it was accepted."""
    state: str
    """How far it is: "accepted", "PROXY header", "TLS handshake", "waiting for a slot", "handler",
    "released" or "ending"."""
    waits_for: str
    """The deadline that runs: "first_byte", "line", "idle", "write", or "" if the handler does not wait."""
    bytes_in: int
    bytes_out: int
    lines_in: int
    lines_out: int
    tls: str
    """The version, as "TLSv1.3"; "" if it does not speak TLS or not yet."""
    line: str
    """Where the handler's code is, as `file:line function`; "" if no handler runs."""


def describe_connection(connection: Connection) -> ConnectionInfo:
    """Say what a connection is doing."""
    watch = connection.watch
    waits_for = ""
    if watch is not None:
        if watch.writes_waiter is not None:
            waits_for = "write"
        elif watch.reads_waiter is not None:
            waits_for = watch.reads_what.value
    return ConnectionInfo(
        id=connection.number,
        peer=connection.name,
        age_seconds=max(0.0, time.monotonic() - connection.accepted_at),
        state=connection.state,
        waits_for=waits_for,
        bytes_in=watch.bytes_in if watch is not None else 0,
        bytes_out=watch.bytes_out if watch is not None else 0,
        lines_in=watch.lines_in if watch is not None else 0,
        lines_out=watch.lines_out if watch is not None else 0,
        tls=_tls_version(connection),
        line=_line_of(connection.greenlet),
    )


def write_connections(server: Server, file: TextIO, limit: int = 1000) -> None:
    """Write a table of the connections, the oldest first. What goes wrong with the file is not raised.

    Args:
        server: whose connections.
        file: such as `sys.stderr`. It gets one text in one call; what it can not take is lost.
        limit: rows; of more connections, only their number is told.
    """
    shown = server.connections(limit)
    active = server.stats()["active"]
    assert isinstance(active, int)
    more = active - len(shown)
    rows = [_HEADINGS, *(_row(each) for each in shown)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [repr(server)]
    for row in rows:
        cells = (
            text.rjust(width) if heading in _NUMBERS else text.ljust(width)
            for heading, text, width in zip(_HEADINGS, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    if more > 0:
        lines.append(f"and {more:,} more")
    with suppress(OSError, ValueError):  # a full disk, or a closed stderr
        file.write("\n".join(lines) + "\n")
        file.flush()


def _row(info: ConnectionInfo) -> tuple[str, ...]:
    return (
        str(info.id),
        _cell(info.peer),
        f"{info.age_seconds:.1f}",
        info.state,
        info.waits_for,
        str(info.bytes_in),
        str(info.bytes_out),
        info.tls,
        _cell(info.line),
    )


def _cell(text: str) -> str:
    return escaped(text, _LONGEST, keep="")


def _tls_version(connection: Connection) -> str:
    transport: Any = connection.transport
    if transport is transport.plain or not transport.has_handshake:
        return ""
    version: str = transport.connection.get_protocol_version_name()
    return version


def _line_of(greenlet: greenlet | None) -> str:
    """Give the innermost line of a greenlet that is neither gevent's nor gnet's."""
    if greenlet is None:
        return ""
    frame: FrameType | None = sys._getframe() if greenlet is gevent.getcurrent() else greenlet.gr_frame
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_HOW_NOT_WHERE):
            return f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
        frame = frame.f_back
    return ""
