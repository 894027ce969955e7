"""Send every byte back as it comes (RFC 862): reading what is there, without waiting for lines.

    python examples/echo_server.py --port 7007

`recv_some` gives whatever has arrived and waits only if that is nothing; `send` waits for a client that does
not read, so a fast sender can not fill the memory. Left out: limits on clients and on their silence, and what
to do when descriptors run out (ping_server.py does that).
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from contextlib import suppress

import gevent
from gevent.pool import Group

import gnet

DRAIN_SECONDS = 2.0  # for clients that do not read what they sent


def echo(client: gnet.Socket, clients: set[gnet.Socket]) -> None:
    with client, suppress(OSError):  # the client broke off
        while data := client.recv_some(65536):
            client.send(data)
    clients.discard(client)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()
    with gnet.new_socket(gnet.AF_INET6 if ":" in given.address else gnet.AF_INET) as listener:
        try:
            listener.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
            listener.bind_addr(given.port, given.address)
            listener.listen()
        except (OSError, ValueError) as error:
            sys.exit(f"echo_server: {error}")
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, listener.close)
        address, port = listener.get_local_addr()
        print(f"listening on {f'[{address}]' if ':' in address else address}:{port}")
        print(f"try: nc {address} {port}", flush=True)

        clients: set[gnet.Socket] = set()
        handlers = Group()
        with suppress(gnet.ClosedError):  # by the signal
            while True:
                client = listener.accept()
                clients.add(client)
                handlers.spawn(echo, client, clients)

    for client in list(clients):
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)  # what has arrived is still sent back
    handlers.join(timeout=DRAIN_SECONDS)
    for client in list(clients):
        client.close(timeout=0)
    handlers.join()


if __name__ == "__main__":
    main()
