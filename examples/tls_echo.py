"""Echo over TLS: a server that makes itself a certificate, and a client that checks whom it talks to.

    python examples/tls_echo.py serve --port 7443
    python examples/tls_echo.py ask localhost:7443 hello --ca FILE      (the server says which file)

All of TLS is in a context: a listener that it wraps accepts TLS connections, and a client dials with it. What
is read and written, and how, is as without. Left out: limits on clients; a certificate that others trust.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import gevent
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gevent.pool import Group

import gnet
from gnet.tls.certificates import make_self_signed

TIMEOUT = 10_000  # milliseconds, for a handshake and for each wait
DRAIN_SECONDS = 0.5


def echo(client: gnet.Socket) -> None:
    with client, suppress(OSError):  # it broke off, or does not speak TLS: an SslError is an OSError
        client.do_handshake(TIMEOUT)
        while data := client.recv_some(65536, TIMEOUT):
            client.send(data, timeout=TIMEOUT)


def write_certificate(cert: Path, key: Path) -> None:
    certificate, secret = make_self_signed("localhost")
    cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def serve(address: str, port: int, cert: Path, key: Path) -> None:
    handlers = Group()
    with gnet.new_socket(gnet.AF_INET6 if ":" in address else gnet.AF_INET) as listener:
        listener.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
        listener.bind_addr(port, address)
        gnet.new_context(cert_file=cert, key_file=key).wrap_socket(listener)
        listener.listen()
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, listener.close)
        address, port = listener.get_local_addr()
        print(f"listening on {f'[{address}]' if ':' in address else address}:{port}")
        print(f"try: python examples/tls_echo.py ask localhost:{port} hello --ca {cert}", flush=True)
        with suppress(gnet.ClosedError):  # by the signal
            while True:
                handlers.spawn(echo, listener.accept())
    handlers.join(timeout=DRAIN_SECONDS)
    handlers.kill()  # each closes its connection on the way out, in order


def ask(host: str, port: int, question: bytes, ca: str) -> bytes:
    context = gnet.new_context(ca_file=ca)
    with gnet.dial(host, port, timeout=TIMEOUT, ssl_context=context) as socket:
        socket.send(question, timeout=TIMEOUT)
        return socket.recv_exactly(len(question), TIMEOUT)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="send back what comes")
    serving.add_argument("--port", type=int, default=0, help="default: one that is free")
    serving.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    serving.add_argument("--cert", type=Path, metavar="FILE", help="certificate chain; default: a new one")
    serving.add_argument("--key", type=Path, metavar="FILE", help="its key; default: in the same file")
    asking = commands.add_parser("ask", help="send a text and print what comes back")
    asking.add_argument("server", metavar="HOST:PORT")
    asking.add_argument("text")
    asking.add_argument("--ca", default="", metavar="FILE", help="trust this instead of certifi's CAs")
    given = parser.parse_args()
    try:
        if given.command == "ask":
            host, _, port = given.server.rpartition(":")
            print(ask(host.strip("[]"), int(port), given.text.encode(), given.ca).decode(errors="replace"))
            return
        with tempfile.TemporaryDirectory() as folder:
            cert, key = given.cert, given.key or given.cert
            if cert is None:
                cert, key = Path(folder, "localhost.pem"), Path(folder, "localhost.key")
                write_certificate(cert, key)
            serve(given.address, given.port, cert, key)
    except (OSError, ValueError) as error:
        sys.exit(f"tls_echo: {error}")


if __name__ == "__main__":
    main()
