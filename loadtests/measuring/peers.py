"""How each peer's server is started, plain and over TLS, and the reason why one cannot run here.

The servers are in loadtests/compare/peers. Those in Go and Nim are compiled once and kept, by the hash of
their source and their compiler, in `$XDG_CACHE_HOME/gnet-loadtests`, else in `~/.cache/gnet-loadtests`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.certificates import CertificateFiles
from loadtests.measuring.cache import cache_folder
from loadtests.measuring.compiled import NotCompiledError, compiled_gnet

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "loadtests" / "compare" / "peers"
BUILD_SECONDS = 180
# Runs a module, like -m, with a folder before all others that packages come from.
RUN_WITH = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
# Kinds of servers: one short answer to a line, 64 KiB as the answer to a line.
LINES, BULK = (), ("--bulk",)


class PeerUnavailable(Exception):
    """This peer cannot run here: not installed, not compiled, or it ended before it listened."""


@dataclass(frozen=True)
class Peer:
    """A server that is measured: its name in tables and its command.

    `{port}` stands in the command where the server cannot choose a free one itself and say which. One that is
    compiled names its source instead.

    Attributes:
        is_gnet_compiled: gnet is the one with compiled modules, as a wheel has it.
    """

    title: str
    command: tuple[str, ...] = ()
    source: str = ""
    is_gnet_compiled: bool = False


def _module(name: str, *options: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"loadtests.compare.peers.{name}", *options)


PEERS: dict[str, Peer] = {
    "gnet": Peer("gnet.Server, lines()", _module("gnet_server", "--server"), is_gnet_compiled=True),
    "gnet-lines": Peer("gnet, bare loop, lines()", _module("gnet_server", "--lines"), is_gnet_compiled=True),
    "gnet-read_line": Peer("gnet, bare loop, read_line()", _module("gnet_server"), is_gnet_compiled=True),
    "gnet-pure": Peer("gnet.Server, lines(), pure Python", _module("gnet_server", "--server")),
    "gevent": Peer("gevent makefile", _module("gevent_server")),
    "gevent-recv": Peer("gevent recv, own buffer", _module("gevent_server", "--recv")),
    "asyncio": Peer("asyncio streams", _module("asyncio_server")),
    "asyncio-protocol": Peer("asyncio protocols", _module("asyncio_server", "--protocol")),
    "uvloop": Peer("uvloop streams", _module("asyncio_server", "--uvloop")),
    "uvloop-protocol": Peer("uvloop protocols", _module("asyncio_server", "--uvloop", "--protocol")),
    "trio": Peer("trio", _module("trio_server")),
    "go": Peer("Go bufio", source="go_server.go"),
    "nim": Peer("Nim asyncnet", source="nim_server.nim"),
    "redis": Peer("redis-server", ("redis-server",)),
    "floor": Peer("bare epoll loop", _module("floor_server")),
}
# Those that run only where they are named: what the machine leaves to any Python server is no peer.
OPTIONAL_PEERS = ("floor",)
# What cannot be asked of a peer, and why.
NO_TLS = {"floor": "has no TLS"}
NO_BULK = {"floor": "answers +PONG only"}

COMPILERS = {".go": "go", ".nim": "nim"}
_built: dict[str, Path | PeerUnavailable] = {}  # found out once a process

REDIS = (
    *("redis-server", "--bind", "127.0.0.1"),
    *("--save", "", "--tcp-backlog", "1024", "--maxclients", "20000"),
)


def peer_command(
    name: str, tls: CertificateFiles | None = None, options: tuple[str, ...] = LINES
) -> list[str]:
    """The command that starts a peer; raises PeerUnavailable.

    Args:
        tls: speak TLS with this certificate.
        options: for the servers in compare/peers.
    """
    peer = PEERS[name]
    for reasons, asked in ((NO_TLS, tls is not None), (NO_BULK, options == BULK)):
        if asked and name in reasons:
            raise PeerUnavailable(f"{name} {reasons[name]}")
    if name == "redis":
        _demand("redis-server")
        return [*REDIS, *_redis_ports(tls)]
    command = [str(_program(peer.source))] if peer.source else list(peer.command)
    if peer.is_gnet_compiled:
        try:
            command[1:2] = ["-c", RUN_WITH, str(compiled_gnet())]  # in place of -m
        except NotCompiledError as error:
            raise PeerUnavailable(f"{name}: {error}") from None
    _demand(command[0])
    certificate = ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key)] if tls else []
    return [*command, *options, *certificate]


def server_environment() -> dict[str, str]:
    """What the servers run in: this project before what PYTHONPATH says, for they start in another folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def _demand(program: str) -> None:
    if shutil.which(program) is None:
        raise PeerUnavailable(f"{program} is not installed")


def _redis_ports(tls: CertificateFiles | None) -> list[str]:
    if tls is None:
        return ["--port", "{port}"]
    files = ("--tls-cert-file", tls.cert, "--tls-key-file", tls.key, "--tls-ca-cert-file", tls.ca)
    return ["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no", *map(str, files)]


def _program(source: str) -> Path:
    """The compiled server, from the cache or compiled now, without a network."""
    if source not in _built:
        try:
            _built[source] = _compile(SOURCES / source)
        except PeerUnavailable as error:
            _built[source] = error
    found = _built[source]
    if isinstance(found, PeerUnavailable):
        raise found
    return found


def _compile(source: Path) -> Path:
    compiler = COMPILERS[source.suffix]
    _demand(compiler)
    version = subprocess.run(
        [compiler, "version" if compiler == "go" else "--version"], capture_output=True
    ).stdout
    key = hashlib.sha256(source.read_bytes() + version).hexdigest()[:16]
    cache = cache_folder()
    program = cache / f"{source.stem}-{key}"
    if program.exists():
        return program
    unfinished = cache / f"{program.name}.{os.getpid()}"
    if compiler == "go":
        command = ["go", "build", "-o", str(unfinished), str(source)]
    else:
        command = ["nim", "c", "-d:release", "-d:ssl", "--threads:off", "--hints:off", "--skipParentCfg"]
        command += [f"--nimcache:{unfinished}.c", f"-o:{unfinished}", str(source)]
    environment: Mapping[str, str] = {
        **os.environ,
        **{"GO111MODULE": "off", "GOPROXY": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"},
        "GOCACHE": f"{unfinished}.c",
    }
    print(f"compiling {source.name} into {cache} ...", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise PeerUnavailable(f"{compiler}: build took more than {BUILD_SECONDS} s") from None
    finally:
        shutil.rmtree(f"{unfinished}.c", ignore_errors=True)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise PeerUnavailable(f"{compiler}: build failed: {' '.join(words)}")
    unfinished.rename(program)
    return program
