"""Answer `+PONG` to every line: a line server that also ends well.

    python examples/ping_server.py --port 7000
    python examples/ping_server.py --port 7443 --tls-cert chain.pem --tls-key key.pem

One greenlet for each client, in plain blocking style, and the same one whether it speaks TLS or not. SIGTERM
and Ctrl-C drain it: the port is closed, every client gets an answer to each line that has arrived and then an
end of stream, and the program ends with 0. Left out: limits on clients and on their silence; connections that
nobody has accepted yet are reset.
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

ANSWER = b"+PONG\r\n"
DRAIN_SECONDS = 0.8  # for answers that their clients do not fetch


def serve(client: gnet.Socket, clients: set[gnet.Socket]) -> None:
    """Talk to one client until it ends, or breaks off, or sends a line of more than 64 KiB."""
    with client, suppress(OSError):  # an SslError is one too
        for _line in client.lines():
            client.send(ANSWER)  # while more lines wait, answers wait for each other and leave together
    clients.discard(client)


def accept_until_closed(listener: gnet.Socket, clients: set[gnet.Socket], handlers: Group) -> None:
    while True:
        try:
            client = listener.accept()
        except gnet.ClosedError:
            return
        except OSError as error:  # out of descriptors: there will be some when clients leave
            print(f"ping_server: {error}", file=sys.stderr)
            gevent.sleep(0.1)
        else:
            clients.add(client)
            handlers.spawn(serve, client, clients)


def drain(clients: set[gnet.Socket], handlers: Group) -> None:
    for client in list(clients):
        try:
            client.shutdown(socket.SHUT_RD)  # its handler reads what has arrived, and then the end
        except OSError:  # it has gone in this very moment, or its TLS handshake is not complete
            client.close(timeout=0)
    handlers.join(timeout=DRAIN_SECONDS)
    for client in list(clients):
        client.close(timeout=0)  # a reset, if it was not told all
    handlers.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="speak TLS: certificate chain, PEM")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its key; default: in the same file")
    given = parser.parse_args()
    with gnet.new_socket(gnet.AF_INET6 if ":" in given.address else gnet.AF_INET) as listener:
        try:
            listener.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
            listener.bind_addr(given.port, given.address)
            if given.tls_cert or given.tls_key:
                gnet.new_context(cert_file=given.tls_cert, key_file=given.tls_key).wrap_socket(listener)
            listener.listen()
        except (OSError, ValueError) as error:
            sys.exit(f"ping_server: {error}")
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, listener.close)
        address, port = listener.get_local_addr()
        print(f"listening on {f'[{address}]' if ':' in address else address}:{port}")
        tls = "--tls --cacert CA_FILE " if listener.is_ssl() else ""
        print(f"try: redis-benchmark {tls}-h {address} -p {port} -t ping_inline", flush=True)
        clients: set[gnet.Socket] = set()
        handlers = Group()
        accept_until_closed(listener, clients, handlers)
    drain(clients, handlers)


if __name__ == "__main__":
    main()
