"""The peer "gevent": `+PONG` to every line, on gevent's StreamServer and `makefile`.

Over TLS (gevent.ssl) with `--tls-cert` and `--tls-key`. With `--bulk` the answer to a line `N` is N sends
of 64 KiB.
"""

from __future__ import annotations

import argparse
import ssl
from typing import Any

import gevent.socket
import gevent.ssl
from gevent.server import StreamServer

BLOCK = bytes(range(256)) * 256


def serve(client: gevent.socket.socket, _address: Any) -> None:
    # As asyncio and gnet do by themselves. Without it the second answer waits for the client's delayed ACK:
    # two requests in flight get 45 answers a second, with it 40,000 (redis-benchmark -c 1 -P 2).
    client.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    try:
        with client.makefile("rb") as lines:
            while lines.readline():
                client.sendall(b"+PONG\r\n")
    except OSError:
        pass  # the client went away


def serve_bulk(client: gevent.socket.socket, _address: Any) -> None:
    try:
        with client.makefile("rb") as lines:
            for line in lines:
                for _ in range(int(line)):
                    client.sendall(BLOCK)
    except OSError:
        pass  # the client went away


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bulk", action="store_true")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    given = parser.parse_args()
    handler = serve_bulk if given.bulk else serve
    if given.tls_cert:
        context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls_cert, given.tls_key)
        server = StreamServer(("127.0.0.1", 0), handler, backlog=1024, ssl_context=context)
    else:
        server = StreamServer(("127.0.0.1", 0), handler, backlog=1024)
    server.start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
