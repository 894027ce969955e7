"""The programs in examples/ as processes of their own, for the tests of them; warnings are errors there too.

Servers must say that they listen, end with 0 on SIGTERM and on Ctrl-C, and write nothing to standard error.
"""

from __future__ import annotations

import os
import signal
import socket as stdlib_socket
import sys
from pathlib import Path

import gevent.socket
import gevent.subprocess as subprocess

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PATIENCE = 30.0  # seconds for what takes a fraction of one


def start(name: str, *arguments: object, change: str = "") -> subprocess.Popen[str]:
    """Start a program; with `change`, code that changes something in it (as `program`) first."""
    code = [str(EXAMPLES / name)]
    if change:
        load = (
            f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import {name.removesuffix('.py')} as program"
        )
        code = ["-c", f"{load}; {change}; program.main()"]
    return subprocess.Popen(
        [sys.executable, "-W", "error", *code, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )


def run(name: str, *arguments: object) -> tuple[int, str, str]:
    """Run a program to its end; give its status and what it printed and complained."""
    process = start(name, *arguments)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, output, errors


class Server:
    """A server from examples/, which has said where it listens."""

    def __init__(self, name: str, *arguments: object, change: str = "") -> None:
        self.process = start(name, *arguments, change=change)
        first = self.process.stdout.readline()
        assert first.startswith("listening on "), first + self.process.stderr.read()
        self.host, _, port = first.removeprefix("listening on ").strip().rpartition(":")
        self.port = int(port)
        self.hint = self.process.stdout.readline()

    def connect(self, receive_buffer: int | None = None) -> gevent.socket.socket:
        client = gevent.socket.socket()
        if receive_buffer is not None:
            client.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_RCVBUF, receive_buffer)
        client.settimeout(PATIENCE)
        client.connect((self.host, self.port))
        return client

    def signal_and_wait(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have it end; it must do so with 0 and without a word of complaint."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=PATIENCE)
        assert (self.process.returncode, output, errors) == (0, "", "")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def is_one_line(errors: str, part: str) -> bool:
    return part in errors and errors.count("\n") == 1 and errors.endswith("\n")


def read_to_end(client: gevent.socket.socket) -> bytes:
    with client.makefile("rb") as file:
        return bytes(file.read())
