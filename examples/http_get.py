"""Fetch one page over HTTP/1.1 (RFC 9112): a head of lines and a body of counted bytes on one socket.

    python examples/http_get.py http://127.0.0.1:8000/

`lines()` reads the head, and `recv` goes on with the body just where the lines ended. The body goes to
standard output, the status to standard error; the program ends with 1 if it got no page (status not 2xx).
Left out: TLS, redirects, compression, several pages over one connection.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import gnet

TIMEOUT = 10_000  # milliseconds, for each wait
MOST_HEADERS = 100
PIECE = 65536  # bytes of the body held at a time


def read_head(lines: Iterator[bytes]) -> tuple[str, dict[str, str]]:
    """Give the status line without the version, and the headers by their names in lower case."""
    version, _, status = next(lines, b"").decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise ConnectionError(f"expected an HTTP/1.1 status line, got {version[:40]!r} {status[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        if not line:
            return status, headers
        if len(headers) == MOST_HEADERS:
            raise ConnectionError(f"more than {MOST_HEADERS} headers")
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    raise ConnectionError("the stream ended within the headers")


def read_counted(socket: gnet.Socket, size: int) -> Iterator[bytes]:
    while size:
        piece = socket.recv(min(size, PIECE))  # fewer only at the end of the stream; ValueError below 0
        yield piece
        size -= len(piece)
        if not piece:
            raise ConnectionError(f"the stream ended {size} bytes too early")


def read_body(socket: gnet.Socket, lines: Iterator[bytes], headers: dict[str, str]) -> Iterator[bytes]:
    if "transfer-encoding" in headers:  # chunked: we did not say that we take anything else
        for line in lines:
            size = int(line.partition(b";")[0], 16)
            if not size:
                return
            yield from read_counted(socket, size)
            if next(lines, None) != b"":
                raise ConnectionError("a chunk is longer than it says")
        raise ConnectionError("the stream ended between two chunks")
    elif "content-length" in headers:
        yield from read_counted(socket, int(headers["content-length"]))
    else:
        while piece := socket.recv_some(PIECE, flags=gnet.SocketFlag(0)):  # no flag: a reset is no end
            yield piece


def fetch(url: str, output: BinaryIO) -> str:
    """Write the body of a page to `output`; give its status, as `200 OK`."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"expected a URL like http://host/path, got {url!r}")
    target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", "%/?:@!$&'()*+,;=~")
    host = parts.netloc.rpartition("@")[2]
    with gnet.dial(parts.hostname, parts.port or 80, timeout=TIMEOUT) as socket:
        socket.timeout = TIMEOUT
        socket.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        lines = socket.lines()
        status, headers = read_head(lines)
        while status.startswith("1"):  # 103 Early Hints and the like: the answer proper is yet to come
            status, headers = read_head(lines)
        if status[:3] not in ("204", "304"):
            for piece in read_body(socket, lines, headers):
                output.write(piece)
    return status


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: http_get.py http://HOST[:PORT]/PATH")
    try:
        status = fetch(sys.argv[1], sys.stdout.buffer)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.exit(f"http_get: {error}")
    print(status, file=sys.stderr)
    sys.exit(0 if status.startswith("2") else 1)


if __name__ == "__main__":
    main()
