"""One service twice, on gevent's StreamServer and on gnet: what changes when a program moves over.

    python examples/legacy_gevent_app.py gevent --port 7000        or gnet; then: nc 127.0.0.1 7000

Each line is a name, and the answer greets it and says how often it was here. The service itself knows
nothing of sockets and is the same. Comments with one number are about one thing, here and there.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer

import gnet

MOST_CLIENTS = 1000
LONGEST_NAME = 1000  # bytes
DRAIN_SECONDS = 2.0


class Greeter:
    def __init__(self) -> None:
        self.visits: Counter[bytes] = Counter()

    def greet(self, name: bytes) -> bytes:
        self.visits[name] += 1
        return b"hello %b, visit %d\r\n" % (name, self.visits[name])


class GeventApp:
    def __init__(self, greeter: Greeter, address: str, port: int) -> None:
        self.greeter = greeter
        # [1] Beyond the pool, accepting stops. A client that never says a word keeps its place for ever.
        self.server = StreamServer((address, port), self.serve, spawn=Pool(MOST_CLIENTS))
        self.server.stop_timeout = DRAIN_SECONDS  # else 1 s

    def serve(self, client: gevent.socket.socket, _address: tuple[str, int]) -> None:
        # [2] The server does not close the socket for us, and a file is one more thing to close.
        with client, client.makefile("rb") as lines:
            # [3] A client that breaks off is an exception, and so a traceback on standard error.
            # [4] `for line in lines` would take a line of any length into memory; a longer one is cut in two.
            while line := lines.readline(LONGEST_NAME):
                # [5] Each answer is a system call, and a packet, of its own.
                client.sendall(self.greeter.greet(line.rstrip(b"\r\n")))

    def stop(self) -> None:
        # [6] Handlers that wait for a next line are not told. All have so many seconds; then they are killed.
        self.server.stop()


class GnetApp:
    def __init__(self, greeter: Greeter, address: str, port: int) -> None:
        self.greeter = greeter
        # [1] Beyond the limit, accepting stops. Who is silent for 30 s at first or 5 minutes later on is cut.
        self.server = gnet.Server(
            self.serve, address, port, max_connections=MOST_CLIENTS, drain_timeout=DRAIN_SECONDS * 1000
        )

    def serve(self, client: gnet.Socket, _address: str) -> None:
        # [2] The connection ends with the handler, after the last byte has gone.
        # [3] A client that breaks off ends its handler, too, and is counted in `server.stats()`.
        # [4] A longer line is an error that ends the connection.
        for line in client.lines(LONGEST_NAME):
            # [5] While more lines wait, their answers leave together.
            client.send(self.greeter.greet(line))

    def stop(self) -> None:
        # [6] Who waits for a next line reads the end of the stream now; the others have so many seconds.
        self.server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("gevent", "gnet"))
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()
    app: GeventApp | GnetApp
    try:
        app = (GeventApp if given.kind == "gevent" else GnetApp)(Greeter(), given.address, given.port)
        app.server.start()
    except (OSError, ValueError) as error:
        sys.exit(f"legacy_gevent_app: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, app.stop)
    host, port = given.address, app.server.server_port if isinstance(app, GeventApp) else app.server.port
    print(f"listening on {f'[{host}]' if ':' in host else host}:{port}")
    print(f"try: nc {host} {port}", flush=True)
    app.server.serve_forever()


if __name__ == "__main__":
    main()
