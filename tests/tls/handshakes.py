"""Handshakes over loopback between two gnet sockets, with what came of them at either end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import subprocess

import gnet
from gnet import SslCVerifyMode, SslHandshakeType
from gnet.tls.bindings import session_reused
from tests.loopback import GUARD, listening
from tests.tls.authorities import Issued, authority, top

AS_CLIENT: Final = SslHandshakeType.AS_CLIENT
AS_SERVER: Final = SslHandshakeType.AS_SERVER

versions: Final = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


def client_context(directory: Path, **arguments: Any) -> gnet.SslContext:
    """Make a context for clients that trust the tests' root; all else as given."""
    return gnet.new_context(**top().write_ca(directory) | arguments)


def server_context(directory: Path, leaf: Issued | None = None, **arguments: Any) -> gnet.SslContext:
    """Make a context for servers with a certificate: for localhost and its addresses unless one is given."""
    shown = leaf if leaf is not None else authority().issue("localhost", "127.0.0.1", "::1")
    return gnet.new_context(**{"verify_mode": SslCVerifyMode.NONE} | shown.write(directory) | arguments)


@dataclass
class Handshake:
    """Both ends of a connection after a try to make it TLS."""

    client: gnet.Socket
    server: gnet.Socket
    client_error: Exception | None = None
    server_error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether both ends have completed it."""
        return self.client_error is None and self.server_error is None

    @property
    def version(self) -> str:
        """The version of TLS agreed on."""
        return self.client.ssl_handle.get_protocol_version_name()

    @property
    def resumed(self) -> bool:
        """Whether it made an earlier session go on."""
        return session_reused(self.client.ssl_handle)

    def exchange(self) -> None:
        """Send a line each way, and see that it arrives; the client on TLS 1.3 has its ticket then."""
        errors = [error for error in (self.client_error, self.server_error) if error is not None]
        if errors:
            raise ExceptionGroup("the handshake failed", errors)
        self.client.send(b"from the client\n")
        assert self.server.read_line(GUARD) == b"from the client"
        self.server.send(b"from the server\n")
        assert self.client.read_line(GUARD) == b"from the server"


def outcome(call: Callable[[], object]) -> Exception | None:
    """Call something; give what it raised."""
    try:
        call()
    except Exception as error:
        return error
    return None


def run_program(text: str, *arguments: object, **variables: str) -> dict[str, Any]:
    """Run a Python program with this gnet in a process of its own; give what it prints, as JSON.

    Args:
        variables: to add to the environment.
    """
    paths = [str(Path(gnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables
    command = [sys.executable, "-c", text, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=GUARD / 1000, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def handshake(
    client: gnet.SslContext,
    server: gnet.SslContext,
    hostname: str = "localhost",
    *,
    at: gnet.Socket | None = None,
    hang_up: bool = True,
) -> Iterator[Handshake]:
    """Try a handshake between a client and a server, both of gnet. It may fail, at either end or both.

    Args:
        hostname: whom the client expects.
        at: a listening plain socket to connect to, instead of a new one.
        hang_up: close an end that failed, as programs do.
    """
    with ExitStack() as stack:
        listener = at if at is not None else stack.enter_context(listening())
        client_socket = stack.enter_context(gnet.dial(*listener.get_local_addr(), timeout=GUARD))
        server_socket = stack.enter_context(listener.accept(timeout=GUARD))
        tried = Handshake(client_socket, server_socket)

        def serve() -> None:
            tried.server_error = outcome(
                lambda: server.wrap_connected_socket(server_socket, AS_SERVER, "", GUARD)
            )
            if tried.server_error is not None and hang_up:
                server_socket.close()

        serving = gevent.spawn(serve)
        tried.client_error = outcome(
            lambda: client.wrap_connected_socket(client_socket, AS_CLIENT, hostname, GUARD)
        )
        if tried.client_error is not None and hang_up:
            client_socket.close()
        serving.get(timeout=GUARD / 1000)
        yield tried
