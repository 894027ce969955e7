"""Fetch one page over HTTPS, and say why where that can not be trusted.

    python examples/https_get.py https://localhost:8443/ --ca ca.pem

`dial(ssl_context=…)` gives a connection to who the URL names, or an error with the reason. It asks for
HTTP/1.0, whose pages end with the stream: TLS proves that such an end is the server's, and not somebody's who
cut the page short. The body goes to standard output, the status to standard error; the program ends with 1 if
it got no page (status not 2xx). Left out: redirects, compression, chunks (see http_get.py).
"""

from __future__ import annotations

import argparse
import sys
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import gnet

TIMEOUT = 10_000  # milliseconds, for each wait
MOST_HEADERS = 100
PIECE = 65536  # bytes of the body held at a time


def fetch(url: str, ca_file: str, output: BinaryIO) -> str:
    """Write the body of a page to `output`; give its status, as `200 OK`."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"expected a URL like https://host/path, got {url!r}")
    target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", "%/?:@!$&'()*+,;=~")
    host = parts.netloc.rpartition("@")[2]
    context = gnet.new_context(ca_file=ca_file, alpn=["http/1.1"])  # servers know 1.0 by no name of its own
    with gnet.dial(parts.hostname, parts.port or 443, timeout=TIMEOUT, ssl_context=context) as socket:
        socket.timeout = TIMEOUT
        socket.send(f"GET {target} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
        status, size = read_head(socket)
        while size != 0 and (piece := socket.recv_some(min(size or PIECE, PIECE))):
            output.write(piece)
            size = size and size - len(piece)
        if size:
            raise ConnectionError(f"the page ended {size} bytes too early")
    return status


def read_head(socket: gnet.Socket) -> tuple[str, int | None]:
    """Give the status, and how many bytes the body has: `None` if it goes on to the end of the stream."""
    lines = socket.lines()
    version, _, status = next(lines, b"").decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise ConnectionError(f"expected an HTTP/1 status line, got {version[:40]!r} {status[:40]!r}")
    size = None
    for number, line in enumerate(lines):
        if not line:
            return status, size
        if number == MOST_HEADERS:
            raise ConnectionError(f"more than {MOST_HEADERS} headers")
        name, _, value = line.decode("latin-1").lower().partition(":")
        if name == "transfer-encoding":
            raise ConnectionError(f"the server sends {value.strip()[:40]!r}, which HTTP/1.0 has not")
        if name == "content-length":
            size = int(value)
            if size < 0:
                raise ConnectionError(f"a body of {size} bytes")
    raise ConnectionError("the stream ended within the headers")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", metavar="https://HOST[:PORT]/PATH")
    parser.add_argument("--ca", default="", metavar="FILE", help="trust these CAs, not certifi's")
    given = parser.parse_args()
    try:
        status = fetch(given.url, given.ca, sys.stdout.buffer)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        sys.exit(f"https_get: {error}")
    print(status, file=sys.stderr)
    sys.exit(0 if status.startswith("2") else 1)


if __name__ == "__main__":
    main()
