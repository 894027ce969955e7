"""TLS in front of a plain server: bytes pass both ways, each way at its own pace and to its own end.

    python examples/line_proxy.py --to 127.0.0.1:7000 --tls-cert chain.pem --tls-key key.pem --port 7443

Each connection has two greenlets, one for each direction. `send` waits for a side that does not read, and
meanwhile nothing more is read from the other: a slow one costs 64 KiB and what the kernel holds. The end of
one direction is passed on as that (`shutdown`), and the other goes on: a client that has asked its last
question still gets the answers. Left out: telling the server who the client is (the PROXY protocol).
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from contextlib import suppress

import gevent

import gnet

DIAL_TIMEOUT = 5_000  # milliseconds
DRAIN_TIMEOUT = 2_000
PIECE = 65536  # bytes in memory for each direction of a connection


def pump(source: gnet.Socket, target: gnet.Socket) -> None:
    """Pass on what comes, up to the end of the stream and with it."""
    try:
        # A reset is no end: with the default flags it would pass for one.
        while data := source.recv_some(PIECE, flags=gnet.SocketFlag(0)):
            target.send(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one side broke off, and with it both directions
        for end in (source, target):
            if not end.closed:
                cut(end)


def cut(end: gnet.Socket) -> None:
    """Close it now; over TLS so that the client does not take a part of an answer for the whole."""
    if end.is_ssl():
        with suppress(OSError), socket.fromfd(end.fileno(), socket.AF_INET, socket.SOCK_STREAM) as raw:
            raw.shutdown(socket.SHUT_RDWR)  # below TLS: now `close` can not say that this is the end
    end.close(timeout=0)


class Proxy:
    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def serve(self, client: gnet.Socket, address: str) -> None:
        try:
            server = gnet.dial(self.host, self.port, timeout=DIAL_TIMEOUT)
        except OSError as error:
            print(f"line_proxy: {address}: {error}", file=sys.stderr)
            return
        with server:
            answers = gevent.spawn(pump, server, client)
            pump(client, server)
            answers.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the plain server")
    parser.add_argument("--tls-cert", required=True, metavar="FILE", help="certificate chain, PEM")
    parser.add_argument("--tls-key", metavar="FILE", help="its key; default: in the same file")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    cert, key = given.tls_cert, given.tls_key or given.tls_cert
    try:
        server = gnet.Server(
            Proxy(host.strip("[]"), gnet.Port(int(port))).serve,
            given.address,
            given.port,
            ssl_context=gnet.new_context(cert_file=cert, key_file=key),
            drain_timeout=DRAIN_TIMEOUT,
        )
        server.start()
    except (OSError, ValueError) as error:
        sys.exit(f"line_proxy: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop)
    host = server.address
    where = f"{f'[{host}]' if ':' in host else host}:{server.port}"
    print(f"listening on {where}")
    print(f"try: openssl s_client -quiet -CAfile CA_FILE -connect {where}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
