"""What runs in a process of its own, for tests that take something away from all of it: descriptors, memory,
standard error. Run by `tests.server.peers.running_program`.
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.fileobject import FileObjectThread
from gevent.monkey import get_original

import gnet
from gnet.server import Server


def answer_lines(client: gnet.Socket, _address: str) -> None:
    """Answer each line with itself."""
    for line in client.lines():
        client.send(line + b"\n")


def _until_told(server: Server, **commands: Any) -> None:
    """Say the port, obey the lines of standard input until it ends, close the server."""
    print(server.port, flush=True)
    for line in FileObjectThread(sys.stdin.buffer, "rb", close=False):
        name, *arguments = line.decode().split()
        print(commands[name](*arguments), flush=True)
    server.close()


def serve_lines() -> None:
    """Answer lines; log to stderr."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    server = Server(answer_lines, "127.0.0.1")
    server.start()
    _until_told(server)


class Hog:
    """Takes all descriptors that the process may have, and gives some back."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def take(self) -> int:
        with suppress(OSError):
            while True:
                self.held.append(os.open(os.devnull, os.O_RDONLY))
        return len(self.held)

    def give(self, count: str = "1") -> int:
        for _ in range(int(count)):
            get_original("os", "close")(self.held.pop())
        return len(self.held)


def without_descriptors(limit: str, overflow: str = "backlog") -> None:
    """Answer lines; have the descriptors run out when told so. What lines ask for is done by the handler."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hog = Hog()

    def handler(client: gnet.Socket, address: str) -> None:
        for line in client.lines():
            answer: object = line.decode()
            try:
                if line == b"dial":
                    gnet.dial("127.0.0.1", server.port, timeout=5000).close()
                elif line == b"look up":
                    gnet.dial("localhost", server.port, timeout=5000).close()
                elif line == b"certificate":
                    gnet.new_context()
            except Exception as error:
                answer = f"{type(error).__name__}: {error}".replace("\n", " ")
            client.send(f"{answer}\n".encode())

    server = Server(handler, "127.0.0.1", overflow=overflow)  # type: ignore[arg-type]
    server.start()
    _until_told(
        server,
        take=hog.take,
        give=hog.give,
        rejected=lambda: server._terms.statistics.rejected["descriptors"],
        errors=lambda: server._terms.statistics.accept_errors,
        descriptors=lambda: len(os.listdir("/proc/self/fd")),
        stop=lambda: server.stop(timeout=30_000),
    )


def start_without_descriptors(free: str, kind: str, path: str = "") -> None:
    """Start a server with few descriptors left; tell what came of it, and what is left open."""
    gevent.get_hub().threadpool.apply(lambda: None)  # what gevent opens once
    where: dict[str, Any] = {
        "tcp": {"address": "127.0.0.1"},
        "any": {"address": ""},
        "unix": {"unix_path": path},
    }[kind]
    server = Server(answer_lines, **where)
    limit = 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    hog = Hog()
    hog.take()
    hog.give(free)
    try:
        server.start()
        message = "started"
    except OSError as error:
        message = str(error)
    left = 0
    with suppress(OSError):
        while True:
            hog.held.append(os.open(os.devnull, os.O_RDONLY))
            left += 1
    hog.give("10")
    again = ""
    if message != "started":
        try:
            server.start()
            with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as client:
                client.settimeout(2)
                client.connect(path if kind == "unix" else ("127.0.0.1", server.port))
                client.sendall(b"ping\n")
                again = client.recv(100).decode().strip()
        except OSError as error:
            again = f"{type(error).__name__}: {error}"
    server.close()
    print(0, flush=True)
    sys.stdin.buffer.readline()
    print(f"{message}|{left}|{again}", flush=True)


def without_ports() -> None:
    """Dial until no port is left; say the error, and whether the server still answers."""
    server = Server(answer_lines, "127.0.0.1", 9)
    server.start()
    clients = []
    try:
        while len(clients) < 1000:
            clients.append(gnet.dial("127.0.0.1", server.port, timeout=5000))
    except OSError as error:
        print(error)
    clients[0].send(b"ping\n")
    print(clients[0].read_line(timeout=5000))
    for client in clients:
        client.close()
    server.close()


def with_little_memory(extra: str) -> None:
    """Answer lines; a line `eat` has its handler take more memory than the process may have."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)

    def handler(client: gnet.Socket, address: str) -> None:
        for line in client.lines():
            if line == b"eat":
                eaten = []
                while True:
                    eaten.append(bytearray(1 << 20))
            client.send(line + b"\n")

    server = Server(handler, "127.0.0.1")
    server.start()
    limit = _pages(0) + int(extra)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _until_told(server, errors=lambda: server._terms.statistics.handler_errors)


def log_to(where: str) -> None:
    """Answer lines; a line `fail` has its handler raise. The log can not be written."""

    def handler(client: gnet.Socket, address: str) -> None:
        for line in client.lines():
            if line == b"fail":
                raise ValueError("as told")
            client.send(line + b"\n")

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if where == "full":
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 2)
        os.close(full)
    elif where == "closed":
        sys.stderr.close()
    elif where == "pipe":
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(writing)
        os.close(reading)
    elif where == "raising":

        class Raising(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise OSError("no space left")

        logging.getLogger().handlers[:] = [Raising()]
    server = Server(handler, "127.0.0.1", max_connections=2, overflow="reset")
    server.start()
    _until_told(
        server,
        errors=lambda: server._terms.statistics.handler_errors,
        connections=lambda: len(server._admission.connections),
    )


def count_memory() -> None:
    """Answer lines; tell what the process's memory is, in bytes."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    server = Server(answer_lines, "127.0.0.1")
    server.start()
    _until_told(server, memory=_memory, descriptors=lambda: len(os.listdir("/proc/self/fd")))


def _memory() -> int:
    gc.collect()
    return _pages(1)


def _pages(field: int) -> int:
    """Give a number of /proc/self/statm, in bytes: 0 is the address space, 1 what is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * resource.getpagesize()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
