"""Fetch one page over HTTP/1.1 (RFC 9112): a head of lines and a body of counted bytes on one socket.

    python examples/http_get.py http://127.0.0.1:8000/

`lines()` reads the head, and `recv` goes on with the body just where the lines ended. The body goes to
standard output, the status to standard error; the program ends with 1 if it got no page (status not 2xx).
Left out: TLS, redirects, compression, several pages over one connection.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import gnet

TIMEOUT = 10_000  # milliseconds, for each wait
MOST_HEADERS = 100
PIECE = 65536  # bytes of the body held at a time


class HttpError(Exception):
    """What came is not HTTP/1.1, or not all of it came."""


def read_head(lines: Iterator[bytes]) -> tuple[str, dict[str, str]]:
    """Give the status line without the version, and the headers by their names in lower case."""
    version, _, status = next(lines, b"").decode("latin-1").partition(" ")
    if not re.fullmatch(r"HTTP/1\.\d", version) or not re.match(r"[1-5]\d\d\b", status):
        raise HttpError(f"expected an HTTP/1.1 status line, got {version[:40]!r} {status[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        if not line:
            return status, headers
        if len(headers) == MOST_HEADERS:
            raise HttpError(f"more than {MOST_HEADERS} headers")
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    raise HttpError("the stream ended within the headers")


def read_counted(socket: gnet.Socket, size: int) -> Iterator[bytes]:
    while size:
        piece = socket.recv(min(size, PIECE))  # fewer bytes only at the end of the stream
        yield piece
        size -= len(piece)
        if not piece:
            raise HttpError(f"the stream ended {size} bytes too early")


def read_body(socket: gnet.Socket, lines: Iterator[bytes], headers: dict[str, str]) -> Iterator[bytes]:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None and coding.lower() != "chunked":
        raise HttpError(f"transfer-encoding {coding[:40]!r} is not supported")
    if coding is None and length is None:
        while piece := socket.recv_some(PIECE, flags=gnet.SocketFlag(0)):  # to its end; a reset is none
            yield piece
    elif coding is None and length is not None:
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise HttpError(f"content-length is no number: {length[:40]!r}")
        yield from read_counted(socket, int(length))
    else:
        for line in lines:
            if not (size := re.match(rb"[0-9A-Fa-f]{1,15}\b", line)):
                raise HttpError(f"expected the size of a chunk, got {line[:40]!r}")
            if not int(size[0], 16):
                return  # trailers may follow
            yield from read_counted(socket, int(size[0], 16))
            if next(lines, None) != b"":
                raise HttpError("a chunk is longer than it says")
        raise HttpError("the stream ended between two chunks")


def get(url: str) -> tuple[str, Iterator[bytes]]:
    """Ask for a page; give its status (as `200 OK`) and its body, piece by piece."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"expected a URL like http://host/path, got {url!r}")
    target = quote(parts._replace(scheme="", netloc="", path=parts.path or "/", fragment="").geturl(), "%/?:@!$&'()*+,;=~")
    socket = gnet.dial(parts.hostname, parts.port or 80, timeout=TIMEOUT)
    socket.timeout = TIMEOUT


def main() -> None: ...


if __name__ == "__main__":
    main()
