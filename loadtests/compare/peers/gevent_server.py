"""The peers "gevent" (`makefile`) and "gevent-recv" (`recv` and a buffer of its own), on StreamServer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent.socket
import gevent.ssl
from gevent.server import StreamServer

from loadtests.compare.peers.shared import LineBuffer, announce, options

Handler = Callable[[gevent.socket.socket, Any], None]


def send_at_once(client: gevent.socket.socket) -> None:
    # As asyncio and gnet do by themselves. Without it the second answer waits for the client's delayed ACK:
    # two requests in flight get 45 answers a second, with it 40,000 (redis-benchmark -c 1 -P 2).
    client.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)


def with_makefile(answer: bytes) -> Handler:
    def serve(client: gevent.socket.socket, _address: Any) -> None:
        send_at_once(client)
        try:
            with client.makefile("rb") as lines:
                for _line in lines:
                    client.sendall(answer)
        except OSError:
            pass  # the client went away

    return serve


def with_recv(answer: bytes) -> Handler:
    """The answers to all lines of a chunk are joined, which a `makefile` does not tell how to do."""

    def serve(client: gevent.socket.socket, _address: Any) -> None:
        send_at_once(client)
        buffer = LineBuffer()
        try:
            while data := client.recv(65536):
                if lines := buffer.feed(data):
                    client.sendall(b"".join([answer for _line in lines]))
        except (OSError, ValueError):
            pass  # the client went away, or its line has no end

    return serve


def main() -> None:
    given = options("--recv")
    handler = (with_recv if given.recv else with_makefile)(given.answer)
    context = None
    if given.tls_cert:
        context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls_cert, given.tls_key)
    arguments: dict[str, Any] = {"ssl_context": context} if context else {}
    server = StreamServer(("127.0.0.1", 0), handler, backlog=1024, **arguments)
    server.start()
    assert server.server_port is not None
    announce(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
