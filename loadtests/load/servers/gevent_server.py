"""The same server on gevent alone: `StreamServer` and `makefile`, and `DatagramServer` with `--udp`."""

from __future__ import annotations

from typing import Any

import gevent.socket
import gevent.ssl
from gevent.server import DatagramServer, StreamServer

from loadtests.compare.peers.gevent_server import send_at_once
from loadtests.compare.peers.shared import announce, options
from loadtests.load.servers.lines import LIMIT, answer_to


def serve(client: gevent.socket.socket, _address: Any) -> None:
    send_at_once(client)
    try:
        with client.makefile("rb") as stream:
            while (line := stream.readline(LIMIT + 2)).endswith(b"\n"):
                client.sendall(answer_to(line.removesuffix(b"\n").removesuffix(b"\r")) + b"\r\n")
    except OSError:
        pass  # the client went away


class Echo(DatagramServer):
    def handle(self, data: bytes, address: Any) -> None:  # type: ignore[override]  # as documented
        self.socket.sendto(data, address)


def main() -> None:
    given = options("--udp")
    arguments: dict[str, Any] = {}
    if given.tls_cert:
        context = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.tls_cert, given.tls_key)
        arguments["ssl_context"] = context
    where = ("127.0.0.1", 0)
    server: Any = Echo(where) if given.udp else StreamServer(where, serve, backlog=1024, **arguments)
    server.start()
    announce(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    main()
