"""Answer `+PONG` to every line: a line server, in one process or in several, that also ends well.

    python examples/ping_server.py --port 7000 --workers 2
    python examples/ping_server.py --port 7443 --tls-cert chain.pem --tls-key key.pem

One greenlet for each client, in plain blocking style, and the same one whether it speaks TLS or not. All else
is the server's: limits on clients and on their silence, workers that are replaced on SIGHUP, and the end.
SIGTERM and Ctrl-C drain it: those who have connected are served, every client gets an answer to each line
that has arrived and then an end of stream, and the program ends with 0.
"""

from __future__ import annotations

import argparse
import sys

import gnet

ANSWER = b"+PONG\r\n"
DRAIN_TIMEOUT = 2_000  # milliseconds, for answers that their clients do not fetch


def answer(client: gnet.Socket, _address: str) -> None:
    for _line in client.lines():  # of at most 64 KiB
        client.send(ANSWER)  # while more lines wait, answers wait for each other and leave together


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument("--tls-cert", default="", metavar="FILE", help="speak TLS: certificate chain, PEM")
    parser.add_argument("--tls-key", default="", metavar="FILE", help="its key; default: in the same file")
    given = parser.parse_args()

    def say(where: str) -> None:
        host, _, port = where.rpartition(":")
        tls = "--tls --cacert CA_FILE " if context else ""
        print(f"listening on {where}")
        print(f"try: redis-benchmark {tls}-h {host.strip('[]')} -p {port} -t ping_inline", flush=True)

    try:
        context = None
        if given.tls_cert or given.tls_key:
            context = gnet.new_context(cert_file=given.tls_cert, key_file=given.tls_key)
        gnet.serve(
            answer,
            given.address,
            given.port,
            workers=given.workers,
            ssl_context=context,
            drain_timeout=DRAIN_TIMEOUT,
            on_ready=say,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"ping_server: {error}")


if __name__ == "__main__":
    main()
