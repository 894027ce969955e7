"""Datagrams: a server that sends each one back, and a client that asks again when one is lost.

    python examples/udp_echo.py serve --port 7007
    python examples/udp_echo.py ask 127.0.0.1:7007 hello

One datagram is one `recv_from` and one `send_to`; there are no connections, so one greenlet serves everybody.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress

import gevent

import gnet

LARGEST = 65535  # bytes of a datagram
PATIENCE = 1000  # milliseconds until a datagram counts as lost
ATTEMPTS = 3


def serve(address: str, port: int) -> None:
    family = gnet.AF_INET6 if ":" in address else gnet.AF_INET
    with gnet.new_socket(family, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as socket:
        socket.bind_addr(port, address)
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, socket.close)
        address, port = socket.get_local_addr()
        where = f"{f'[{address}]' if ':' in address else address}:{port}"
        print(f"listening on {where}")
        print(f"try: python examples/udp_echo.py ask {where} hello", flush=True)
        with suppress(gnet.ClosedError):  # by the signal
            while True:
                data, sender, sender_port = socket.recv_from(LARGEST)
                try:
                    socket.send_to(sender, sender_port, data)
                except gnet.ClosedError:
                    raise
                except OSError as error:  # no way back to this one
                    print(f"udp_echo: {error}", file=sys.stderr)


def ask(host: str, port: int, question: bytes) -> bytes:
    """Send a datagram and wait for the answer; after `ATTEMPTS` raise `gnet.TimeoutError`."""
    with gnet.dial(host, port, gnet.IPPROTO_UDP) as socket:  # it hears that one peer only
        attempts = 0
        while True:
            attempts += 1
            socket.send(question)
            try:
                return socket.recv(LARGEST, timeout=PATIENCE)
            except gnet.TimeoutError:
                if attempts == ATTEMPTS:
                    raise


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="send datagrams back")
    serving.add_argument("--port", type=int, default=0, help="default: one that is free")
    serving.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    asking = commands.add_parser("ask", help="send one datagram and print the answer")
    asking.add_argument("server", metavar="HOST:PORT")
    asking.add_argument("text")
    given = parser.parse_args()
    try:
        if given.command == "serve":
            serve(given.address, given.port)
        else:
            host, _, port = given.server.rpartition(":")
            print(ask(host.strip("[]"), int(port), given.text.encode()).decode(errors="replace"))
    except (OSError, ValueError) as error:
        sys.exit(f"udp_echo: {error}")


if __name__ == "__main__":
    main()
