"""Servers for the load tests that do one thing wrong: `python -m tests.broken_server FAULT [CERT KEY]`."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Callable

import gevent

import gnet
from gnet.serving.metrics import start_metrics_server
from loadtests.load.servers.lines import answer_to

Handler = Callable[[gnet.Socket, str], None]


def wrong_answer(client: gnet.Socket, _address: str) -> None:
    for number, line in enumerate(client.lines()):
        client.send((answer_to(line) if number % 100 else b"+PUNG") + b"\r\n")


def reset(client: gnet.Socket, _address: str) -> None:
    for _line in itertools.islice(client.lines(), 10):
        client.send(b"+PONG\r\n")
    raise RuntimeError("a handler that fails: the server resets its client")


def slow(client: gnet.Socket, _address: str) -> None:
    for line in client.lines():
        gevent.sleep(0.5)
        client.send(answer_to(line) + b"\r\n")


def blocking(client: gnet.Socket, _address: str) -> None:
    """A slow sender's line holds up everybody."""
    for line in client.lines():
        if line != b"PING":
            time.sleep(0.02)
        client.send(answer_to(line) + b"\r\n")


def good(client: gnet.Socket, _address: str) -> None:
    for line in client.lines():
        client.send(answer_to(line) + b"\r\n")


def no_limit(client: gnet.Socket, _address: str) -> None:
    for line in client.lines(10_000_000):
        client.send(answer_to(line) + b"\r\n")


def serve_lines(handler: Handler) -> None:
    with gnet.Server(handler, "127.0.0.1") as server:
        print(f"listening on 127.0.0.1:{server.port}", flush=True)
        gevent.get_hub().join()


def serve_with_wrong_counters() -> None:
    idle = gnet.Server(good, "127.0.0.1")  # which counts nothing, and whose numbers are shown
    metrics = start_metrics_server(idle.stats)
    print(f"metrics on http://127.0.0.1:{metrics.port}/metrics")
    serve_lines(good)


def lose_datagrams() -> None:
    with gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as socket:
        socket.bind_addr(0, "127.0.0.1")
        print(f"listening on 127.0.0.1:{socket.get_local_addr()[1]}", flush=True)
        for number in itertools.count():
            data, address, port = socket.recv_from(65535)
            if number % 20:
                socket.send_to(address, port, data)


async def serve_without_tickets(cert: str, key: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(answer_to(line.rstrip(b"\r\n")) + b"\r\n")
        except OSError:
            pass  # the client went away
        finally:
            writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    context.num_tickets = 0
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    async with server:
        await server.serve_forever()


HANDLERS = {
    "wrong answer": wrong_answer,
    "reset": reset,
    "slow": slow,
    "blocking": blocking,
    "no limit": no_limit,
}


def main() -> None:
    fault = sys.argv[1]
    if fault in HANDLERS:
        serve_lines(HANDLERS[fault])
    elif fault == "wrong counters":
        serve_with_wrong_counters()
    elif fault == "lost datagrams":
        lose_datagrams()
    elif fault == "no tickets":
        asyncio.run(serve_without_tickets(*sys.argv[2:4]))
    else:
        sys.exit(f"there is no fault {fault!r}")


if __name__ == "__main__":
    main()
