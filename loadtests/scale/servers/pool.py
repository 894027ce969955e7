"""The peer "gnet.Server" with room for many connections: `+PONG` to every line.

As the peer "gnet Server" of the other benchmarks, but for `--connections`: without it a server takes 10,000.
"""

from __future__ import annotations

import argparse

import gnet


def answer(client: gnet.Socket, _address: str) -> None:
    for _line in client.lines():
        client.send(b"+PONG\r\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, required=True)
    server = gnet.Server(answer, "127.0.0.1", max_connections=parser.parse_args().connections)
    with server:
        print(f"listening on 127.0.0.1:{server.port}", flush=True)
        server.serve_forever()
