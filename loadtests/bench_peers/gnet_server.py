"""The peers "gnet" (`read_line`) and "gnet lines" (`--lines`): `+PONG` to every line, a bare accept loop."""

from __future__ import annotations

import sys

import gevent

import gnet


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


def main() -> None:
    serve = serve_lines if "--lines" in sys.argv[1:] else serve_read_line
    server = gnet.new_socket()
    server.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
    server.bind_addr(0, "127.0.0.1")
    server.listen(1024)
    print(f"listening on 127.0.0.1:{server.get_local_addr()[1]}", flush=True)
    while True:
        client, _address = server.accept_addr()
        gevent.spawn(serve, client)


if __name__ == "__main__":
    main()
