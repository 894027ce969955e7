"""`python -m gnet nc` as a process, and the peers that it talks to."""

from __future__ import annotations

import hashlib
import os
import signal
import socket as stdlib_socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import gevent.socket
import gevent.subprocess as subprocess

import gnet

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 45.0  # seconds for what takes a fraction of one
LARGE: Final = 20 * 1024 * 1024

# Far more than the kernel holds for a connection and a pipe, and far less than what is there to be passed on.
HELD: Final = 64 * 1024 * 1024

Talk = Callable[[gnet.Socket], object]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "gnet", "nc", *map(str, arguments)]


def start(*arguments: object, **how: Any) -> subprocess.Popen:
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | how
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command(*arguments), cwd=ROOT, env=environment, **streams)


def nc(*arguments: object, data: bytes = b"", **how: Any) -> tuple[int, bytes, str]:
    """Run it with this input to its end; give its status, its output and its complaints."""
    if "stdin" in how:
        data = None  # type: ignore[assignment]
    with running(*arguments, **how) as process:
        output, errors = process.communicate(data, timeout=PATIENCE)
        return process.returncode, output or b"", (errors or b"").decode()


@contextmanager
def running(*arguments: object, **how: Any) -> Iterator[subprocess.Popen]:
    process = start(*arguments, **how)
    try:
        with gevent.Timeout(PATIENCE, AssertionError("nc does not end")):
            yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def rest_of(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for the end; give the status and the complaints."""
    status = process.wait(timeout=PATIENCE)
    return status, process.stderr.read().decode()


@contextmanager
def serving(talk: Talk, *where: str, context: gnet.SslContext | None = None) -> Iterator[int]:
    """A gnet server that does `talk(client)`; gives its port."""
    how: dict[str, Any] = {"unix_path": where[0]} if where else {"address": "127.0.0.1"}
    with gnet.Server(lambda client, _: talk(client), ssl_context=context, **how) as server:
        server.start()
        yield server.port


@contextmanager
def raw_listener(host: str = "127.0.0.1") -> Iterator[Any]:
    family = stdlib_socket.AF_INET6 if ":" in host else stdlib_socket.AF_INET
    with closing(gevent.socket.socket(family)) as listener:
        listener.bind((host, 0))
        listener.listen()
        listener.settimeout(PATIENCE)
        yield listener


def port_of(listener: Any) -> int:
    return int(listener.getsockname()[1])


@contextmanager
def connected(
    *options: object, host: str = "127.0.0.1", **how: Any
) -> Iterator[tuple[subprocess.Popen, Any]]:
    """The process, and the raw socket of the peer that it has connected to."""
    with (
        raw_listener(host) as listener,
        running(host, port_of(listener), *options, **how) as process,
        closing(listener.accept()[0]) as peer,
    ):
        peer.settimeout(PATIENCE)
        yield process, peer


def chunks(client: gnet.Socket) -> Iterator[bytes]:
    while data := client.recv_some(65536):
        yield data


def echo(client: gnet.Socket) -> None:
    for data in chunks(client):
        client.send(data)


def count(client: gnet.Socket) -> None:
    """Answer when the input has ended, and not before."""
    data = b"".join(chunks(client))
    client.send(b"%d %s\n" % (len(data), hashlib.sha256(data).hexdigest().encode()))


def counted(data: bytes) -> bytes:
    return b"%d %s\n" % (len(data), hashlib.sha256(data).hexdigest().encode())


def is_one_line(errors: str, *parts: str) -> bool:
    return errors.startswith("python -m gnet") and errors.count("\n") == 1 and all(p in errors for p in parts)


def large_file(folder: Path) -> tuple[Path, bytes]:
    """A file with all kinds of bytes."""
    data = os.urandom(1024 * 1024) * (LARGE // (1024 * 1024)) + b"the end"
    path = folder / "large"
    path.write_bytes(data)
    return path, data


def interrupt(process: subprocess.Popen) -> None:
    """Press Ctrl-C; it must end with 130, and say nothing."""
    process.send_signal(signal.SIGINT)
    assert rest_of(process) == (130, "")
