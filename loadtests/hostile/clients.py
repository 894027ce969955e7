"""What clients can do to a server that means them no harm: `gnet.Server` beside gevent's StreamServer.

    python -m loadtests.hostile.clients

Prints, for each of the two: how long a good client waits on a pool of five places that five silent clients
have taken; how many of 20 requests under way and 10 clients behind them a SIGTERM answers, plain and over
TLS; what is logged in four seconds without descriptors, and how long after some are free a client is
answered; and the bytes logged for each connection that is reset in the middle of a line. The server is a
process of its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from loadtests.certificates import CertificateFiles, make_certificates
from loadtests.measuring.peers import server_environment

FIRST_BYTE = 1000  # milliseconds
GIVE_UP = 5.0  # seconds, for a good client
DESCRIPTORS = 40
STORM_SECONDS = 4.0
HOSTILE = 300
HELD_SECONDS = 0.5  # how long a request is under way
LINGER_ZERO = struct.pack("ii", 1, 0)

# ---------------------------------------------------------------------- the servers


def take_all_descriptors() -> None:
    """Leave this process none, until SIGUSR2 frees three."""
    import gevent

    held = []
    with suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))

    def free_three() -> None:
        for _ in range(3):
            os.close(held.pop())

    gevent.signal_handler(signal.SIGUSR2, free_three)


def serve_gnet(given: argparse.Namespace) -> None:
    import gevent

    import gnet

    def answer(client: gnet.Socket, _address: str) -> None:
        for _line in client.lines():
            gevent.sleep(given.held)
            client.send(b"+PONG\r\n")

    def ready(where: str) -> None:
        print(where, flush=True)
        if given.hog:
            gevent.spawn(take_all_descriptors)

    context = gnet.new_context(verify_mode=gnet.SslCVerifyMode.NONE, cert_file=given.cert, key_file=given.key)
    gnet.serve(
        answer,
        "127.0.0.1",
        pool_size=given.pool,
        first_byte_timeout=FIRST_BYTE,
        ssl_context=context if given.tls else None,
        on_ready=ready,
    )


def serve_gevent(given: argparse.Namespace) -> None:
    import gevent
    from gevent.pool import Pool
    from gevent.server import StreamServer

    def answer(client: socket.socket, _address: object) -> None:
        with client.makefile("rb") as lines:
            for _line in lines:
                gevent.sleep(given.held)
                client.sendall(b"+PONG\r\n")

    tls = {"certfile": given.cert, "keyfile": given.key} if given.tls else {}
    server = StreamServer(("127.0.0.1", 0), answer, spawn=Pool(given.pool), **tls)
    server.stop_timeout = 10
    gevent.signal_handler(signal.SIGTERM, gevent.spawn, server.stop)
    server.start()
    print(f"127.0.0.1:{server.server_port}", flush=True)
    if given.hog:
        gevent.spawn(take_all_descriptors)
    server.serve_forever()


@contextmanager
def serving(
    peer: str, files: CertificateFiles, *options: str, descriptors: int = 0
) -> Iterator[tuple[int, subprocess.Popen[str], Path]]:
    """Run a server; give its port, its process and the file with what it logs."""
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w") as log:
        program = [
            sys.executable,
            "-m",
            "loadtests.hostile.clients",
            "--serve",
            peer,
            "--cert",
            str(files.cert),
            "--key",
            str(files.key),
        ]
        limit = (descriptors, descriptors)
        with subprocess.Popen(
            [*program, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=server_environment(),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit) if descriptors else None,
        ) as process:
            try:
                assert process.stdout is not None
                yield int(process.stdout.readline().rpartition(":")[2]), process, Path(folder, "log")
            finally:
                process.kill()


# ---------------------------------------------------------------------- the clients


def connect(port: int, context: ssl.SSLContext | None = None) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=GIVE_UP)
    return client if context is None else context.wrap_socket(client, server_hostname="localhost")


def ask(port: int, context: ssl.SSLContext | None = None) -> bool:
    """Whether a new client is answered before it gives up."""
    with suppress(OSError), connect(port, context) as client:
        client.sendall(b"PING\r\n")
        return client.recv(7) == b"+PONG\r\n"
    return False


def seconds_until_answered(port: int) -> float:
    start = time.monotonic()
    while time.monotonic() - start < GIVE_UP:
        if ask(port):
            return time.monotonic() - start
        time.sleep(0.005)
    return float("inf")


def silent_clients(peer: str, files: CertificateFiles) -> str:
    with serving(peer, files, "--pool", "5") as (port, _, _), ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(connect(port))
        took = seconds_until_answered(port)
    return f"{took * 1000:,.0f} ms" if took < GIVE_UP else f"not within {GIVE_UP:g} s"


def drained(peer: str, files: CertificateFiles, tls: bool) -> str:
    context = ssl.create_default_context(cafile=str(files.ca)) if tls else None
    options = ["--pool", "20", "--held", str(HELD_SECONDS), *(["--tls"] if tls else [])]
    answers: list[bool] = []

    def one_client(port: int) -> None:
        answers.append(ask(port, context))

    with serving(peer, files, *options) as (port, process, _):
        clients = [threading.Thread(target=one_client, args=[port]) for _ in range(30)]
        for client in clients:
            client.start()
        time.sleep(HELD_SECONDS / 2)  # all of them have connected
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
    return f"{sum(answers)} of 30"


def without_descriptors(peer: str, files: CertificateFiles) -> str:
    with serving(peer, files, "--hog", descriptors=DESCRIPTORS) as (port, process, log):
        end = time.monotonic() + STORM_SECONDS
        while time.monotonic() < end:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.02) as client:
                client.recv(1)
        lines = len(log.read_text().splitlines())
        process.send_signal(signal.SIGUSR2)
        took = seconds_until_answered(port)
    return f"{lines} lines, {took:.2f} s"


def log_bytes(peer: str, files: CertificateFiles) -> str:
    with serving(peer, files) as (port, _, log):
        for _ in range(HOSTILE):
            with connect(port) as client:
                client.sendall(b"half a line")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        ask(port)
        time.sleep(0.2)
        size = log.stat().st_size
    return f"{size / HOSTILE:,.1f} B"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", choices=["gnet", "gevent"], help=argparse.SUPPRESS)
    parser.add_argument("--cert", help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    parser.add_argument("--tls", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pool", type=int, default=1000, help=argparse.SUPPRESS)
    parser.add_argument("--hog", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--held", type=float, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        if given.serve == "gnet":
            import logging

            logging.basicConfig(level=logging.INFO)  # all that there is
        (serve_gnet if given.serve == "gnet" else serve_gevent)(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = make_certificates(Path(folder))
        rows = (
            (f"five silent clients on five places ({FIRST_BYTE} ms): answered after", silent_clients),
            ("SIGTERM, 20 under way and 10 behind: answered", partial(drained, tls=False)),
            ("the same over TLS", partial(drained, tls=True)),
            (f"no descriptors for {STORM_SECONDS:g} s: log, then answered after", without_descriptors),
            (f"log of each of {HOSTILE} clients reset in a line", log_bytes),
        )
        for title, measure in rows:
            print(
                f"{title:62} gnet {measure('gnet', files):>18}   gevent {measure('gevent', files):>18}",
                flush=True,
            )


if __name__ == "__main__":
    main()
