"""What the tests of the server share: a server on loopback, raw clients, what it logged, handlers that wait.

The clients are sockets of gevent's, never of gnet's: they must be able to misbehave.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
from gevent import socket, subprocess
from gevent.event import Event

import gnet
from gnet.server import Server
from tests.conftest import PATCHED
from tests.faults.peers import GUARD, open_descriptors, receive_exactly, receives_nothing, reset, wait_until

__all__ = [
    "GUARD",
    "Gate",
    "Running",
    "answer_lines",
    "ask",
    "connect",
    "connect_unix",
    "ending",
    "flood",
    "logged",
    "many",
    "open_descriptors",
    "receive_all",
    "receive_exactly",
    "receives_nothing",
    "reset",
    "running_program",
    "serving",
    "silent_logs",
    "wait_until",
]

_LOGGER: Final = "gnet.server"


# Servers


@contextmanager
def serving(
    handler: Callable[[gnet.Socket, str], object], address: str = "127.0.0.1", **arguments: Any
) -> Iterator[Server]:
    """A started server on loopback, unless the arguments say where else. Closed at the end, at once."""
    where = () if {"unix_path", "listener"} & arguments.keys() else (address,)
    server = Server(handler, *where, **arguments)
    server.start()
    try:
        yield server
    finally:
        server.close()
        # What the handlers hold goes with their greenlets, which end in the next turns of the loop.
        wait_until(lambda: not server._admission.connections, "the server has no connection left")


def answer_lines(client: gnet.Socket, _address: str) -> None:
    """Answer each line with itself: a handler."""
    for line in client.lines():
        client.send(line + b"\n")


class Gate:
    """A handler that says hello with `+` and then waits until the gate is opened; then it says `-`."""

    def __init__(self) -> None:
        self.opened = Event()
        self.inside = 0
        self.most = 0
        self.addresses: list[str] = []

    def __call__(self, client: gnet.Socket, address: str) -> None:
        self.addresses.append(address)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            client.send(b"+")
            self.opened.wait()
            client.send(b"-")
        finally:
            self.inside -= 1


# Clients


def connect(server: Server | tuple[str, int], host: str = "127.0.0.1", source: str = "") -> socket.socket:
    """Connect a raw client to a server.

    Args:
        server: or an address to connect with.
        host: where on this machine, for a server on every address.
        source: the client's own address, for many clients: 127.0.0.2, 127.0.0.3 ...
    """
    address = server if isinstance(server, tuple) else (host, server.port)
    client = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        client.settimeout(GUARD / 1000)
        if source:
            client.bind((source, 0))
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def connect_unix(path: str | bytes, own: str | bytes = "") -> socket.socket:
    """Connect a raw client to a Unix path or an abstract name.

    Args:
        own: bind the client to this path first.
    """
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(GUARD / 1000)
        if own:
            client.bind(own)
        client.connect(path)
    except BaseException:
        client.close()
        raise
    return client


def ask(client: socket.socket, line: bytes = b"ping") -> bytes:
    """Send a line and give the answer's bytes, of the same length: for `answer_lines`."""
    client.sendall(line + b"\n")
    return receive_exactly(client, len(line) + 1)


def receive_all(client: socket.socket) -> bytes:
    """Receive up to the end of the stream; a reset is raised."""
    received = b""
    while part := client.recv(1 << 16):
        received += part
    return received


def ending(client: socket.socket) -> str:
    """Wait for the end of a connection: `"end"` or `"reset"`, or what came instead."""
    try:
        data = client.recv(1 << 16)
    except (ConnectionResetError, BrokenPipeError):
        return "reset"
    except TimeoutError:
        return "nothing"
    return "end" if not data else repr(data)


# What a server logs


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Logged:
    """What the server's logger was given."""

    def __init__(self, collector: _Collector) -> None:
        self._collector = collector

    def lines(self, level: int = logging.INFO) -> list[str]:
        """Give the lines of the messages of at least this level, as a log would have them."""
        texts = [each.getMessage() for each in self._collector.records if each.levelno >= level]
        return [line for text in texts for line in text.splitlines()]

    def text(self, level: int = logging.INFO) -> str:
        """Give the same as one text."""
        return "\n".join(self.lines(level))


@contextmanager
def logged(level: int = logging.INFO) -> Iterator[Logged]:
    """Collect what the server logs, and keep it off pytest's report."""
    logger = logging.getLogger(_LOGGER)
    collector = _Collector()
    before = logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield Logged(collector)
    finally:
        logger.removeHandler(collector)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextmanager
def silent_logs() -> Iterator[None]:
    """Run a block whose log lines are expected and of no interest."""
    with logged():
        yield


@contextmanager
def many(count: int, server: Server, **arguments: Any) -> Iterator[list[socket.socket]]:
    """Many clients of one server at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, **arguments)) for _ in range(count)]


def flood(client: socket.socket, data: bytes) -> None:
    """Send without an end and read what comes back; the body of a greenlet that is killed."""

    def read() -> None:
        with suppress(OSError):
            while client.recv(1 << 16):
                pass

    reader = gevent.spawn(read)
    try:
        with suppress(OSError):
            while True:
                client.sendall(data)
    finally:
        reader.kill()


# Servers in processes of their own


class Running:
    """A program of `tests.server.programs` that runs: what it wrote to stderr is here once it has ended."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.errors = ""
        self.pid: int = process.pid

    def say(self, line: str) -> str:
        """Send the program a line on its standard input; give the line it answers."""
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        return str(self._process.stdout.readline().decode().rstrip("\n"))


@contextmanager
def running_program(
    name: str, *arguments: object, before: list[str] | None = None
) -> Iterator[tuple[Running, int]]:
    """A function of `tests.server.programs` in a process of its own, patched if this one is.

    It says its port, answers the lines it is told, and ends with its standard input.
    """
    monkey = ["gevent.monkey", "--module"] if PATCHED else []
    command = [sys.executable, "-m", *monkey, "tests.server.programs", name, *map(str, arguments)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*(before or []), *command],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        running = Running(process)
        try:
            with gevent.Timeout(GUARD / 1000, AssertionError(f"{name} does not say its port")):
                first = process.stdout.readline()
            errors.seek(0)
            assert first.strip().isdigit(), f"{name}: {first!r}\n{errors.read().decode()}"
            yield running, int(first)
            process.stdin.close()
            code = process.wait(GUARD / 1000)
            errors.seek(0)
            running.errors = errors.read().decode()
            assert code == 0, f"{name} ended with {code}:\n{running.errors}"
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    stream.close()
