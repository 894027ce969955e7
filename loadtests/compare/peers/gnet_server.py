"""The peers "gnet" (`--server`: `gnet.Server` as it is by default), "gnet-lines" and "gnet-read_line".

The last two have a bare accept loop, without limits and deadlines: what the server adds can be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent

import gnet
from loadtests.compare.peers.shared import announce, options


def handler_of(answer: bytes) -> Callable[[gnet.Socket, str], None]:
    def serve(client: gnet.Socket, _address: str) -> None:
        for _line in client.lines():
            client.send(answer)

    return serve


def loop_with_lines(answer: bytes) -> Callable[[gnet.Socket], None]:
    def serve(client: gnet.Socket) -> None:
        try:
            with client:
                for _line in client.lines():
                    client.send(answer)
        except OSError:
            pass  # the client went away, or its line has no end

    return serve


def loop_with_read_line(answer: bytes) -> Callable[[gnet.Socket], None]:
    def serve(client: gnet.Socket) -> None:
        try:
            with client:
                while client.read_line():
                    client.send(answer)
        except OSError:
            pass  # the client went away

    return serve


def main() -> None:
    given = options("--server", "--lines")
    context = None
    if given.tls_cert:
        context = gnet.new_context(
            verify_mode=gnet.SslCVerifyMode.NONE, cert_file=given.tls_cert, key_file=given.tls_key
        )
    if given.server:
        with gnet.Server(handler_of(given.answer), "127.0.0.1", ssl_context=context) as pool:
            announce(pool.port)
            pool.serve_forever()
    serve = loop_with_lines(given.answer) if given.lines else loop_with_read_line(given.answer)
    server = gnet.new_socket()
    server.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
    server.bind_addr(0, "127.0.0.1")
    server.listen(1024)
    if context is not None:
        context.wrap_socket(server)
    announce(server.get_local_addr()[1])
    while True:
        client, _address = server.accept_addr()
        gevent.spawn(serve, client)


if __name__ == "__main__":
    main()
