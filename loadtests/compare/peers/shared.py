"""What the servers in Python have in common: their answers, their options, and a hand-written line buffer."""

from __future__ import annotations

import argparse
import ssl

ANSWER = b"+PONG\r\n"
BLOCK = bytes(range(256)) * 256  # with --bulk the answer to a line
LONGEST_LINE = 1 << 20


class LineBuffer:
    """Cuts chunks into lines: what users write who want no `readline` (gevent-recv, protocols, trio)."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their ends. Raises ValueError: a line is too long."""
        lines = data.split(b"\n")
        if self._rest:
            lines[0] = self._rest + lines[0]
        self._rest = lines.pop()
        if len(self._rest) > LONGEST_LINE:
            raise ValueError(f"no line end in {len(self._rest)} bytes (limit {LONGEST_LINE})")
        return lines


def options(*further: str) -> argparse.Namespace:
    """Read the command line: --bulk, --tls-cert FILE, --tls-key FILE, and these flags."""
    parser = argparse.ArgumentParser()
    for flag in ("--bulk", *further):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    given = parser.parse_args()
    given.answer = BLOCK if given.bulk else ANSWER
    return given


def server_context(given: argparse.Namespace) -> ssl.SSLContext | None:
    """The stdlib's context of a TLS server; None: plain."""
    if not given.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(given.tls_cert, given.tls_key)
    return context


def announce(port: int) -> None:
    print(f"listening on 127.0.0.1:{port}", flush=True)
