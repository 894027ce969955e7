"""The peers "gnet" (`read_line`) and "gnet lines" (`--lines`): `+PONG` to every line, a bare accept loop.

"gnet Server" (`--server`) is the same handler in a `gnet.Server` with its limits and deadlines.

Over TLS with `--tls-cert` and `--tls-key`. With `--bulk` the answer to a line `N` is N sends of 64 KiB.
"""

from __future__ import annotations

import argparse

import gevent

import gnet

BLOCK = bytes(range(256)) * 256


def serve_read_line(client: gnet.Socket) -> None:
    try:
        with client:
            while client.read_line():
                client.send(b"+PONG\r\n")
    except OSError:
        pass  # the client went away


def serve_lines(client: gnet.Socket) -> None:
    try:
        with client:
            for _line in client.lines():
                client.send(b"+PONG\r\n")
    except OSError:
        pass  # the client went away, or its line has no end


def answer(client: gnet.Socket, _address: str) -> None:
    for _line in client.lines():
        client.send(b"+PONG\r\n")


def serve_bulk(client: gnet.Socket) -> None:
    try:
        with client:
            for line in client.lines():
                for _ in range(int(line)):
                    client.send(BLOCK)
    except OSError:
        pass  # the client went away


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--bulk", action="store_true")
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--tls-cert", default="")
    parser.add_argument("--tls-key", default="")
    given = parser.parse_args()
    serve = serve_bulk if given.bulk else serve_lines if given.lines else serve_read_line
    if given.server:
        with gnet.Server(answer, "127.0.0.1") as pool:
            print(f"listening on 127.0.0.1:{pool.port}", flush=True)
            pool.serve_forever()
    server = gnet.new_socket()
    server.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
    server.bind_addr(0, "127.0.0.1")
    server.listen(1024)
    if given.tls_cert:
        context = gnet.new_context(
            verify_mode=gnet.SslCVerifyMode.NONE, cert_file=given.tls_cert, key_file=given.tls_key
        )
        context.wrap_socket(server)
    print(f"listening on 127.0.0.1:{server.get_local_addr()[1]}", flush=True)
    while True:
        client, _address = server.accept_addr()
        gevent.spawn(serve, client)


if __name__ == "__main__":
    main()
