"""Locust as processes of its own, headless or with its web UI."""

from __future__ import annotations

import os
import socket as stdlib_socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import gevent
from gevent import subprocess

import gnet

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PATIENCE: Final = 50.0  # seconds for what takes about five

LOCUSTFILE: Final = """
from locust import constant, task
from gnet.locust import LineUser

class Pinger(LineUser):
    wait_time = constant(0.005)

    @task
    def ping(self):
        self.client.request(b"PING", expect=b"PONG", name="ping")
"""


def pong(client: gnet.Socket, address: str) -> None:
    """Answer each line of a client of a test's server."""
    for _ in client.lines():
        client.send(b"PONG\r\n")


def free_port() -> int:
    """Give a port for a program that cannot choose one itself and say which."""
    with stdlib_socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, *arguments: object, locustfile: str = LOCUSTFILE) -> subprocess.Popen[str]:
    """Start Locust with a locustfile, in a folder; what it says, it says in one stream."""
    file = folder / "locustfile.py"
    file.write_text(locustfile)
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(file), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process; give its exit status and what it said."""
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def run(folder: Path, *arguments: object, locustfile: str = LOCUSTFILE) -> tuple[int, str]:
    """Run Locust to its end, without a web UI."""
    with ending(start(folder, "--headless", *arguments, locustfile=locustfile)) as process:
        return finish(process)


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill a process, should it still be there at the end of the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def run_distributed(
    folder: Path, workers: int, *arguments: object, locustfile: str = LOCUSTFILE
) -> tuple[int, str, list[tuple[int, str]]]:
    """Run a master and its workers to their end; give status and output of the master and of each worker."""
    port = free_port()
    with ExitStack() as stack:
        command: Sequence[object] = ["--headless", "--master", "--master-bind-host", "127.0.0.1"]
        command = [*command, "--master-bind-port", port, "--expect-workers", workers, *arguments]
        master = stack.enter_context(ending(start(folder, *command, locustfile=locustfile)))
        command = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
        others = [
            stack.enter_context(ending(start(folder, *command, locustfile=locustfile)))
            for _ in range(workers)
        ]
        readers = [gevent.spawn(finish, each) for each in [master, *others]]
        gevent.joinall(readers, raise_error=True)
        (status, output), *of_workers = [reader.get() for reader in readers]
        return status, output, of_workers
