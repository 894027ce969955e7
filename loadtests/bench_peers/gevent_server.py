"""The peer "gevent": `+PONG` to every line, on gevent's StreamServer and `makefile`."""

from __future__ import annotations

from typing import Any

import gevent.socket
from gevent.server import StreamServer


def serve(client: gevent.socket.socket, _address: Any) -> None:
    # As asyncio and gnet do by themselves. Without it the second answer waits for the client's delayed ACK:
    # two requests in flight get 45 answers a second, with it 40,000 (redis-benchmark -c 1 -P 2).
    client.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    try:
        with client.makefile("rb") as lines:
            while lines.readline():
                client.sendall(b"+PONG\r\n")
    except ConnectionError:
        pass  # the client went away


def main() -> None:
    server = StreamServer(("127.0.0.1", 0), serve, backlog=1024)
    server.start()
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
