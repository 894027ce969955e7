"""Servers as processes of their own, for the tests of signals, workers and the command line.

Nothing here sleeps: what a server does is seen from what it prints, from its notifications (as systemd gets
them), and from its gate, where the handler `gated` waits to be let through.
"""

from __future__ import annotations

import os
import re
import signal
import socket as stdlib_socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.event
import gevent.queue
import gevent.socket
import gevent.subprocess as subprocess

import gnet

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAMS: Final = ROOT / "tests" / "programs"
HANDLERS: Final = "tests/programs/handlers.py"
PATIENCE: Final = 45.0  # seconds for what takes a fraction of one


def children(pid: int) -> list[int]:
    """Give the processes that a process has started."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # it is gone
        return []


class Program:
    """A server process. Its standard error is collected; leaving the block kills it."""

    def __init__(
        self,
        command: Sequence[object],
        *,
        env: dict[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        )
        self.errors: list[str] = []
        self._new_error = gevent.event.Event()
        self._reading = gevent.spawn(self._read_errors)

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors.append(line)
            self._new_error.set()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        workers = children(self.pid)
        self.process.kill()
        for each in workers:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait()
        self._reading.join(PATIENCE)  # when the last of its workers is gone, too
        self.process.stdout.close()
        self.process.stderr.close()

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def read_line(self) -> str:
        """Give its next line of output."""
        with gevent.Timeout(PATIENCE, AssertionError(f"no line; errors: {self.errors}")):
            return str(self.process.stdout.readline())

    def wait_for_error(self, part: str) -> str:
        """Wait until a line of standard error has `part` in it, and give the line."""
        with gevent.Timeout(PATIENCE, AssertionError(f"not said: {part!r}; but: {self.errors}")):
            while True:
                for line in self.errors:
                    if part in line:
                        return line
                self._new_error.clear()
                self._new_error.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; give its exit status."""
        with gevent.Timeout(PATIENCE, AssertionError(f"does not end; errors: {self.errors}")):
            status = int(self.process.wait())
            self._reading.join()
        return status

    def end(self) -> None:
        """Have it drain; it must end with 0 and without a word of complaint."""
        self.send(signal.SIGTERM)
        assert (self.wait(), self.errors) == (0, [])


class Served(Program):
    """A server that has said where it listens."""

    def __init__(self, command: Sequence[object], **how: Any) -> None:
        super().__init__(command, **how)
        try:
            first = self.read_line()
            found = re.fullmatch(r"listening on (\[?[\w.:]+\]?):(\d+)\n", first)
            assert found, (first, self.process.poll(), self.errors)
            self.host, self.port = found[1].strip("[]"), int(found[2])
        except BaseException:
            self.__exit__()
            raise

    def connect(self) -> gevent.socket.socket:
        return gevent.socket.create_connection((self.host, self.port), timeout=PATIENCE)

    def ask(self, line: bytes = b"hello\n") -> bytes:
        """Send a line on a connection of its own; give all that comes back."""
        with self.connect() as client:
            client.sendall(line)
            return read_to_end(client)

    def worker(self) -> int:
        """Give the process id of a worker, where `who` is the handler."""
        return int(self.ask().split()[0])


def gnet_serve(handler: str, *options: object, warnings: str = "error", **how: Any) -> Served:
    """Start `python -m gnet serve`, with warnings as errors."""
    return Served(serve_command(handler, *options, warnings=warnings), **how)


def serve_command(handler: str, *options: object, warnings: str = "error") -> list[object]:
    where = handler if ":" in handler else f"{HANDLERS}:{handler}"
    return [sys.executable, "-W", warnings, "-m", "gnet", "serve", where, *options]


def serve_program(handler: str, arguments: str = "{}", *options: str, **how: Any) -> Served:
    """Start a program that calls `serve`; see `tests/programs/serving.py`."""
    return Served(
        [sys.executable, "-W", "error", PROGRAMS / "serving.py", handler, arguments, *options], **how
    )


def read_to_end(client: Any) -> bytes:
    data = b""
    while more := client.recv(65536):
        data += more
    return data


class Gate:
    """Where handlers wait until they are let through: `gated` of `tests/programs/handlers.py`."""

    def __init__(self) -> None:
        self._listener = gevent.socket.socket()  # gevent's create_server gives one that blocks the hub
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(256)
        self.waiting: list[Any] = []
        self.env = {"GATE_PORT": str(self._listener.getsockname()[1])}
        self._opener: Any = None

    def wait_for(self, count: int) -> None:
        """Wait until so many handlers stand at the gate."""
        with gevent.Timeout(PATIENCE, AssertionError("the handlers do not come")):
            while len(self.waiting) < count:
                self.waiting.append(self._listener.accept()[0])

    def open(self) -> None:
        """Let through all who wait, and who will come."""
        for each in self.waiting:
            each.close()
        self.waiting.clear()
        self._opener = gevent.spawn(self._stay_open)

    def _stay_open(self) -> None:
        while True:
            self._listener.accept()[0].close()

    def close(self) -> None:
        if self._opener is not None:
            self._opener.kill()
        for each in self.waiting:
            each.close()
        self._listener.close()


@contextmanager
def gate() -> Iterator[Gate]:
    made = Gate()
    try:
        yield made
    finally:
        made.close()


class Notifications:
    """What a service manager is told: a real NOTIFY_SOCKET."""

    def __init__(self, folder: Path) -> None:
        path = folder / "notify"
        self._socket = gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(PATIENCE)
        self.env = {"NOTIFY_SOCKET": str(path)}

    def next(self) -> str:
        """Wait for the next message."""
        return str(self._socket.recv(4096).decode())

    def wait_for(self, what: str) -> list[str]:
        """Wait for a message that begins so; give those before it."""
        before = []
        while not (message := self.next()).startswith(what):
            before.append(message)
        return before

    def wait_for_reload(self) -> None:
        """Wait until a reload has begun and ended."""
        self.wait_for("RELOADING=1")
        self.wait_for("READY=1")

    def close(self) -> None:
        self._socket.close()


@contextmanager
def notifications(folder: Path) -> Iterator[Notifications]:
    made = Notifications(folder)
    try:
        yield made
    finally:
        made.close()


def ask_over_tls(port: int, context: gnet.SslContext, line: bytes = b"hello\n") -> bytes:
    """Send a line over TLS; give all that comes back."""
    with gnet.dial("localhost", port, ssl_context=context, timeout=PATIENCE * 1000) as client:
        client.timeout = PATIENCE * 1000
        client.send(line)
        data = b""
        while more := client.recv_some(65536):
            data += more
        return data
