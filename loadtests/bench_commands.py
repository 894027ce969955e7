"""The programs that are compared: how each peer's server is started, plain and over TLS.

A peer that is not installed is left out, with the reason. uvloop needs no place in the virtual environment:

    pip install --target /tmp/uvloop uvloop && PYTHONPATH=/tmp/uvloop python loadtests/bench_servers.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from certificates import CertificateFiles

PEERS = Path(__file__).resolve().parent / "bench_peers"
GO_SOURCE = PEERS / "go_server.go"
BUILD_SECONDS = 120


class PeerUnavailable(Exception):
    """This peer cannot run here: not installed, or it ended before it listened."""


# `{port}` stands where the server cannot choose a free one itself and say which (redis-server).
PEER_COMMANDS: dict[str, list[str]] = {
    "gevent": [sys.executable, str(PEERS / "gevent_server.py")],
    "gnet": [sys.executable, str(PEERS / "gnet_server.py")],
    "gnet lines": [sys.executable, str(PEERS / "gnet_server.py"), "--lines"],
    "gnet Server": [sys.executable, str(PEERS / "gnet_server.py"), "--lines", "--server"],
    "floor": [sys.executable, str(PEERS / "floor_server.py")],
    "asyncio": [sys.executable, str(PEERS / "asyncio_server.py")],
    "uvloop": [sys.executable, str(PEERS / "asyncio_server.py"), "--uvloop"],
    "redis": [
        *("redis-server", "--bind", "127.0.0.1"),
        *("--save", "", "--tcp-backlog", "1024", "--maxclients", "10000"),
    ],
    "go": ["go"],
}
# Those that run unless others are named.
PLAIN_PEERS = ["gevent", "gnet", "gnet lines", "gnet Server", "asyncio", "redis"]
TLS_PEERS = ["gevent", "gnet", "gnet lines", "asyncio", "uvloop", "redis", "go"]

# Where the program of the Go peer is, or why there is none; found out once.
_go: tempfile.TemporaryDirectory[str] | str | None = None


def peer_command(peer: str, tls: CertificateFiles | None = None, options: tuple[str, ...] = ()) -> list[str]:
    """The command that starts a peer; raises PeerUnavailable.

    Args:
        tls: speak TLS with this certificate.
        options: for the servers in bench_peers.
    """
    command = PEER_COMMANDS[peer]
    if shutil.which(command[0]) is None:
        raise PeerUnavailable(f"{command[0]} is not installed")
    if peer == "redis":
        return [*command, *_redis_ports(tls)]
    if peer == "go":
        command = [_go_program()]
    certificate = ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key)] if tls else []
    return [*command, *options, *certificate]


def _redis_ports(tls: CertificateFiles | None) -> list[str]:
    if tls is None:
        return ["--port", "{port}"]
    return [
        *("--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"),
        *(
            "--tls-cert-file",
            str(tls.cert),
            "--tls-key-file",
            str(tls.key),
            "--tls-ca-cert-file",
            str(tls.ca),
        ),
    ]


def _go_program() -> str:
    """Build the Go server, without modules or network, into a directory that goes with this process."""
    global _go
    if _go is None:
        folder = tempfile.TemporaryDirectory(prefix="gnet-bench-go-")
        environment = {**os.environ, "GO111MODULE": "off", "GOPROXY": "off", "GOFLAGS": ""}
        environment |= {"GOCACHE": f"{folder.name}/cache", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        command = ["go", "build", "-o", f"{folder.name}/server", str(GO_SOURCE)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=BUILD_SECONDS
            )
            reason = done.stderr.strip().splitlines()[-1:] if done.returncode else None
        except subprocess.TimeoutExpired:
            reason = [f"no end after {BUILD_SECONDS} s"]
        if reason is None:
            _go = folder
        else:
            folder.cleanup()
            _go = f"go: build failed: {' '.join(reason)}"
    if isinstance(_go, str):
        raise PeerUnavailable(_go)
    return f"{_go.name}/server"
