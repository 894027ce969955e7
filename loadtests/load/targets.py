"""The server that a scenario runs against: one that is started for it, or one that is there already."""

from __future__ import annotations

import re
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from gnet.benchmarking.plan import Target
from loadtests.certificates import CertificateFiles
from loadtests.load.processes import DRAIN_SECONDS, ROOT, LoadError, start, status_text
from loadtests.measuring.peers import server_environment

__all__ = ["KINDS", "Server", "Site", "gnet_command", "server_command", "site_of"]

START_SECONDS = 15  # until a server says that it listens

# What can be started; another target is HOST:PORT.
KINDS = ("gnet", "gevent", "asyncio")

_SERVERS = "loadtests.load.servers"
_HANDLER = f"{ROOT / 'loadtests' / 'load' / 'servers' / 'gnet_lines.py'}:answer"
_UDP_ECHO = str(ROOT / "examples" / "udp_echo.py")


class Site:
    """Where a server listens, as Locust's users are told."""

    def __init__(self, scheme: str, address: str, metrics: str = "", ca: Path | None = None) -> None:
        """Describe it.

        Args:
            scheme: tcp, tls or udp.
            address: HOST:PORT.
            metrics: the URL of its counters; empty: it shows none.
            ca: whom to trust; certifi's authorities unless given.
        """
        self.host = f"{scheme}://{address}"
        self.metrics = metrics
        self.ca = ca


def site_of(text: str, scheme: str, ca: Path | None) -> Site:
    """Give the site of a server that is there already.

    Raises:
        LoadError: `text` is no HOST:PORT.
    """
    try:
        target = Target.parse(text)
    except ValueError:
        target = None
    if target is None or target.path:
        raise LoadError(f"--target: expected {', '.join(KINDS)} or HOST:PORT, got {text!r}")
    return Site(scheme, str(target), ca=ca)


def gnet_command(workers: int = 1) -> list[str]:
    """Give the command of gnet's own server, with metrics."""
    command = [sys.executable, "-m", "gnet", "serve", _HANDLER, "--port", "0", "--metrics-port", "0"]
    return [*command, "--workers", str(workers)]


def server_command(kind: str, is_udp: bool, workers: int, further: Sequence[str] = ()) -> list[str]:
    """Give the command that starts a server of a kind.

    Args:
        workers: processes of gnet's server.
        further: options of gnet's server.
    """
    if kind == "gnet":
        if is_udp:
            return [sys.executable, _UDP_ECHO, "serve"]
        return [*gnet_command(workers), *further]
    return [sys.executable, "-m", f"{_SERVERS}.{kind}_server", *(["--udp"] if is_udp else [])]


class Server:
    """A server under test, which has said where it listens."""

    def __init__(
        self,
        stack: ExitStack,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        scheme: str = "tcp",
        tls: CertificateFiles | None = None,
    ) -> None:
        """Start it, its standard output going to `log`, and wait until that names an address.

        Args:
            name: for messages: `plain` is "the plain server".
            tls: speak TLS, with this certificate.
        Raises:
            LoadError: it did not start.
        """
        self.name = f"the {name} server"
        self.tls = tls
        if tls is not None:
            scheme = "tls"
            command = [*command, "--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
        self.command = shlex.join(command)
        # A file: nobody has to go on reading from it, as from a pipe, lest the server stop at a full one.
        with log.open("w") as output:
            try:
                self.process = start(
                    stack, command, stdout=output, stderr=subprocess.STDOUT, env=server_environment()
                )
            except OSError as error:
                raise LoadError(f"{self.name} can not be started: {error}") from error
        address = self._wait_for(r"^listening on (\S+:\d+)\n", log)
        has_metrics = "--metrics-port" in command
        metrics = self._wait_for(r"^metrics on (\S+)\n", log) if has_metrics else ""
        host, _, port = address.rpartition(":")
        self.address, self.port = host.strip("[]"), int(port)
        self.site = Site(scheme, address, metrics, tls.ca if tls is not None else None)

    def _wait_for(self, pattern: str, log: Path) -> str:
        give_up = time.monotonic() + START_SECONDS
        while not (found := re.search(pattern, text := log.read_text(errors="replace"), re.MULTILINE)):
            if (status := self.process.poll()) is not None:
                last = text.strip().rpartition("\n")[2]
                raise LoadError(
                    f"{self.name} ended with {status_text(status)} before it listened"
                    + (f": {last}" if last else "")
                )
            if time.monotonic() > give_up:
                raise LoadError(f"{self.name} did not say within {START_SECONDS} s that it listens")
            time.sleep(0.01)
        return found[1]

    def drain(self) -> tuple[str, list[str]]:
        """Have the server end in order; give how that went, and what was wrong with it."""
        name = self.name
        if (status := self.process.poll()) is not None:
            return "", [f"{name} ended by itself, with {status_text(status)}"]
        problems = []
        with ExitStack() as stack:
            try:
                idle = stack.enter_context(self._connect())
                idle.sendall(b"PING\r\n")
                with idle.makefile("rb") as answers:
                    if not answers.readline():
                        return "", [f"a last connection to {name} ended without an answer"]
            except OSError as error:
                return "", [f"a last connection to {name} failed: {error}"]
            milliseconds, status = self._terminate()
            if status is None:
                return "", [f"{name} did not end within {DRAIN_SECONDS} s of SIGTERM"]
            try:
                if idle.recv(100):
                    problems.append(f"{name} sent more than it was asked for")
            except OSError as error:
                problems.append(f"an idle connection to {name} did not end in order: {error}")
        if status:
            problems.append(f"{name} ended with {status_text(status)} after SIGTERM")
        return f"in {milliseconds:.0f} ms after SIGTERM, {status_text(status)}", problems

    def _terminate(self) -> tuple[float, int | None]:
        """Give the milliseconds from SIGTERM to the end, and the status; `None` if it had to be killed."""
        started = time.monotonic()
        self.process.terminate()
        try:
            status = self.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return 0.0, None
        return 1000 * (time.monotonic() - started), status

    def _connect(self) -> socket.socket:
        """Connect by Python's own means, which verify the certificate too and need a close_notify."""
        connection = socket.create_connection((self.address, self.port), DRAIN_SECONDS)
        if self.tls is None:
            return connection
        with ExitStack() as stack:
            stack.callback(connection.close)
            context = ssl.create_default_context(cafile=str(self.tls.ca))
            wrapped = context.wrap_socket(
                connection, server_hostname=self.address, suppress_ragged_eofs=False
            )
            stack.pop_all()
        return wrapped
