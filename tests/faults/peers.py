"""What the tests of faults share: connections with a scripted end, transports that follow a script,
programs in processes and network namespaces of their own.

The other end of a connection is a socket of gevent's, never of gnet's: it must be able to misbehave, and to
work in a patched process as well as in a plain one.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import greenlet
import pytest
from gevent import socket, subprocess

import gnet
from tests.conftest import PATCHED, require_program

# Nothing in these tests takes this long unless it hangs; in milliseconds.
GUARD: Final = 15_000

_ROOT: Final = Path(__file__).parents[2]
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
_namespaces: Final = itertools.count(1)


# Connections


@contextmanager
def listener(host: str = "127.0.0.1", backlog: int = 5, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A listening gevent socket on a port of the system's choice."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as server:
        server.settimeout(GUARD / 1000)
        if receive_buffer:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        server.bind((host, 0))
        server.listen(backlog)
        yield server


@contextmanager
def connection(
    *, accepted: bool = False, buffered: bool = True, receive_buffer: int = 0
) -> Iterator[tuple[gnet.Socket, socket.socket]]:
    """A gnet socket and the gevent socket that it is connected with.

    Args:
        accepted: the gnet socket is the accepted one, and not the dialled one.
        receive_buffer: the other end's SO_RCVBUF.
    """
    with ExitStack() as stack:
        if accepted:
            server = stack.enter_context(gnet.new_socket())
            server.bind_addr(address="127.0.0.1")
            server.listen()
            peer = stack.enter_context(socket.socket())
            peer.settimeout(GUARD / 1000)
            if receive_buffer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            peer.connect(server.get_local_addr())
            ours = stack.enter_context(server.accept(timeout=GUARD))
        else:
            waiting = stack.enter_context(listener(receive_buffer=receive_buffer))
            ours = stack.enter_context(gnet.dial(*waiting.getsockname(), buffered=buffered, timeout=GUARD))
            peer = stack.enter_context(waiting.accept()[0])
            peer.settimeout(GUARD / 1000)
        ours.timeout = GUARD
        yield ours, peer


def reset(peer: socket.socket) -> None:
    """Close a socket so that the other end sees a reset (and first, what was sent before)."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    peer.close()


def receive_exactly(peer: socket.socket, size: int) -> bytes:
    """Receive `size` bytes; fewer only at the end of the stream."""
    parts = []
    while size and (part := peer.recv(min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receives_nothing(peer: socket.socket) -> bool:
    """Whether neither data nor an end of stream is there, nor comes within a moment."""
    peer.settimeout(0.05)
    try:
        return not isinstance(peer.recv(1), bytes)
    except TimeoutError:
        return True
    finally:
        peer.settimeout(GUARD / 1000)


@contextmanager
def black_hole(host: str = "127.0.0.1") -> Iterator[tuple[Any, ...]]:
    """The socket address of a listener whose queue is full, so that a further connect just hangs."""
    with listener(host, backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket(server.family, socket.SOCK_STREAM))
            filler.setblocking(False)
            filler.connect_ex(address)
        state = filler.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        assert state == 2, f"the queue is not full: the last connect is in state {state}, not SYN_SENT"
        yield address


@contextmanager
def closed_port(host: str = "127.0.0.1") -> Iterator[tuple[Any, ...]]:
    """The socket address of a TCP port that is taken, so that nobody listens there meanwhile."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind((host, 0))
        yield taken.getsockname()


# Looking on


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that has no event; fail if it takes longer than anything here does."""
    end = time.monotonic() + GUARD / 1000
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        gevent.sleep(0.002)


@contextmanager
def counted_turns() -> Iterator[Callable[[], int]]:
    """Give a function that tells how often the loop has turned since the block began."""
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    watcher = gevent.get_hub().loop.prepare(ref=False)
    watcher.start(count)
    try:
        yield lambda: turns
    finally:
        watcher.stop()
        watcher.close()


def busyness(seconds: float) -> int:
    """How often the loop turns and greenlets switch in this time: a handful, unless something spins.

    A descriptor that is always ready makes the loop turn; who tries again and again makes greenlets switch.
    """
    switches = 0

    def count(_event: str, _greenlets: object) -> None:
        nonlocal switches
        switches += 1

    with counted_turns() as turns:
        before = greenlet.settrace(count)
        try:
            gevent.sleep(seconds)
        finally:
            greenlet.settrace(before)
        return turns() + switches


@contextmanager
def elapsed() -> Iterator[Callable[[], float]]:
    """Give a function that tells how long the block took (or has taken so far), in milliseconds."""
    start = time.monotonic()
    end: float | None = None
    yield lambda: ((time.monotonic() if end is None else end) - start) * 1000
    end = time.monotonic()


# A transport by script


class ScriptedTransport:
    """A transport without a kernel: what it gives and takes is in a script, what it was asked in a log.

    Waiting is over at once, whether the next call gives something or not: each wake-up may be spurious.
    """

    def __init__(self, gives: Iterable[bytes | None] = (), takes: Iterable[int] = ()) -> None:
        """Follow a script.

        Args:
            gives: what arrives, piece by piece; `None` is nothing, after the last comes the end of stream.
            takes: how many bytes each `send` takes; after the last, all.
        """
        self._gives = iter(gives)
        self._piece = b""
        self._given = 0  # of the piece
        self._takes = iter(takes)
        self.drained = False
        self.failure: OSError | None = None
        self.closed = False
        self.unsent = 0
        self.sent = bytearray()
        self.log: list[str] = []

    def receive(self, size: int) -> bytes | None:
        data = self._here(size)
        if data is not None:
            self._given += len(data)
        self.drained = data is None or len(data) < size
        return data

    def peek(self, size: int) -> bytes | None:
        return self._here(size)

    def _here(self, size: int) -> bytes | None:
        if self._given == len(self._piece):
            piece = next(self._gives, b"")
            if piece is None:
                self.log.append("nothing")
                return None
            self._piece, self._given = piece, 0
        self.log.append("received")
        return self._piece[self._given : self._given + size]

    def send(self, data: bytes | memoryview) -> int:
        count = min(next(self._takes, len(data)), len(data))
        self.log.append("sent" if count else "full")
        self.sent += data[:count]
        return count

    def wait_readable(self) -> None:
        self.log.append("wait_readable")
        gevent.sleep(0)

    def wait_writable(self) -> None:
        self.log.append("wait_writable")
        gevent.sleep(0)

    def yield_to_loop(self) -> None:
        self.log.append("yield")
        gevent.sleep(0)

    def call_when_writable(self, callback: Callable[[], None] | None) -> None:
        raise NotImplementedError("no test needs it")

    def run_in_loop(self, callback: Callable[[], None]) -> None:
        gevent.get_hub().loop.run_callback(callback)

    def in_hub(self) -> bool:
        return gevent.getcurrent() is gevent.get_hub()

    def describe(self) -> str:
        return "a script"


# Programs in processes of their own


def program(name: str, *arguments: object, patched: bool = PATCHED) -> list[str]:
    """Give the command line of a function of `tests.faults.programs`, in the kind of process of this one."""
    monkey = ["gevent.monkey", "--module"] if patched else []
    return [sys.executable, "-m", *monkey, "tests.faults.programs", name, *map(str, arguments)]


def run(command: list[str]) -> dict[str, Any]:
    """Run a program to its end and give what it found out; fail if it failed, skip if it could not try."""
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, timeout=3 * GUARD / 1000, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr.decode()}"
    found: dict[str, Any] = json.loads(done.stdout)
    if "impossible" in found:
        pytest.skip(found["impossible"])
    return found


@contextmanager
def running(command: list[str]) -> Iterator[Any]:
    """A program that runs until its standard input ends. Gives the process."""
    process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield process
        process.stdin.close()
        assert process.wait(GUARD / 1000) == 0
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                stream.close()


@contextmanager
def network_namespace(*setup: str, files: dict[str, str] | None = None) -> Iterator[list[str]]:
    """A network of its own with nothing but a loopback interface, where programs can do harm.

    Args:
        setup: arguments of `ip`, e.g. `route add unreachable 192.0.2.0/24`, to set it up with.
        files: contents by name, to stand in place of those in /etc.
    Gives:
        What to put before a command so that it runs there.
    """
    ip = require_program("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    name = f"gnet-test-{os.getpid()}-{next(_namespaces)}"
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace to be had here: {made.stderr.decode().strip()}")
    directory = Path("/etc/netns", name)
    try:
        for arguments in ("link set lo up", *setup):
            subprocess.run([ip, "-n", name, *arguments.split()], check=True)
        if files:
            directory.mkdir(parents=True)
            for file, text in files.items():
                (directory / file).write_text(text)
        yield [ip, "netns", "exec", name]
    finally:
        subprocess.run([ip, "netns", "delete", name], check=True)
        if files:
            for file in files:
                (directory / file).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else's are there as well
                directory.rmdir()
                directory.parent.rmdir()


def address_info(*sockaddrs: tuple[Any, ...]) -> list[tuple[int, int, int, Any]]:
    """Give socket addresses as a look-up of a TCP service gives them."""
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    return [
        (families[ipaddress.ip_address(address[0]).version], socket.SOCK_STREAM, socket.IPPROTO_TCP, address)
        for address in sockaddrs
    ]
