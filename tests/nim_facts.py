"""The 203 single facts in `data/nim_misc.jsonl` that were recorded from Nim 1.6.10, and what replaying needs.

A test takes a fact by a decorator and is handed, as `nim`, what Nim gave: `{"r": result}`, or
`{"exc": name, "errno": n}` with the name that `said` gives to gnet's errors. `@same` says that gnet
is to give just that; `@differs` that it is not, and why. What the facts have taken so far stands in
`taken`, so that a test can tell which are left over.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket as stdlib_socket  # for its constants
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import gevent
import gevent.socket
import pytest

import gnet
from gnet import AF_INET, AF_INET6, AF_UNIX, IPPROTO_IP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM, Socket

Outcome = dict[str, Any]
"""What a call gave, in Nim's words."""

LOOPBACK: Final = "127.0.0.1"
DISCARD: Final = 9
"""A port that nobody listens on; sending to it is harmless."""

# Reasons that several facts share.
NAMES_KEEP_NUMBERS: Final = "a failed look-up is a gaierror with its EAI number; Nim loses the number"
CLOSED_IS_SAID: Final = "a closed socket is ClosedError in every call, before the kernel is asked"

_CORPUS: Final = Path(__file__).parent / "data" / "nim_misc.jsonl"
_Test = TypeVar("_Test", bound=Callable[..., None])


def _load() -> dict[str, Outcome]:
    facts: dict[str, Outcome] = {}
    for line in _CORPUS.read_text("ascii").splitlines():
        row = json.loads(line)
        name = row["fact"]
        assert name not in facts, f"two facts of one name: {name}"
        # Not the times of one run, nor the texts: gnet's say more.
        facts[name] = {key: row[key] for key in ("r", "exc", "errno") if key in row}
    return facts


FACTS: Final = _load()

taken: dict[str, str] = {}
"""Fact to the name of the test that takes it."""

differences: dict[str, str] = {}
"""Fact to the reason why gnet differs."""


def same(*facts: str) -> Callable[[_Test], _Test]:
    """Run the test for each of the facts; gnet gives what Nim gave."""

    def decorate(test: _Test) -> _Test:
        for fact in facts:
            assert fact not in taken, f"{fact!r} is taken twice"
            taken[fact] = test.__name__
        decorated: _Test = pytest.mark.parametrize("nim", [FACTS[fact] for fact in facts], ids=facts)(test)
        return decorated

    return decorate


def differs(fact: str, reason: str) -> Callable[[_Test], _Test]:
    """Run the test for a fact; gnet gives something else, for this reason."""
    differences[fact] = reason
    return same(fact)


def said(call: Callable[[], Any]) -> Outcome:
    """Make a call and put what it gives in Nim's words; `None` is Nim's "ok"."""
    try:
        result = call()
    except gnet.TimeoutError:
        return {"exc": "TimeoutError"}
    except gnet.ClosedError:
        return {"exc": "AssertionDefect"}  # Nim's assert that the socket is not closed
    except ValueError:
        return {"exc": "ValueError"}
    except gnet.SslError:
        return {"exc": "SslError"}
    except OSError as error:
        return {"exc": "OSError", "errno": error.errno}
    return {"r": "ok" if result is None else result}


# Sockets for the tests


@contextmanager
def tcp(domain: int = AF_INET, **options: Any) -> Iterator[Socket]:
    with gnet.new_socket(domain, **options) as socket:
        yield socket


@contextmanager
def udp(address: str = LOOPBACK) -> Iterator[Socket]:
    """A bound datagram socket."""
    domain = AF_INET6 if ":" in address else AF_INET
    with gnet.new_socket(domain, SOCK_DGRAM, IPPROTO_UDP) as socket:
        socket.bind_addr(0, address)
        yield socket


@contextmanager
def listener(address: str = LOOPBACK, **options: Any) -> Iterator[Socket]:
    with tcp(AF_INET6 if ":" in address else AF_INET, **options) as socket:
        socket.bind_addr(0, address)
        socket.listen()
        yield socket


@contextmanager
def unix(path: str | None = None) -> Iterator[Socket]:
    """A Unix stream socket, bound to a path if one is given."""
    with gnet.new_socket(AF_UNIX, SOCK_STREAM, IPPROTO_IP) as socket:
        if path is not None:
            socket.bind_unix(path)
        yield socket


@contextmanager
def connected(server: Socket, address: str = LOOPBACK, domain: int | None = None) -> Iterator[Socket]:
    """A socket connected to `server`, which need not accept for that."""
    with tcp(domain if domain is not None else AF_INET6 if ":" in address else AF_INET) as socket:
        socket.connect(address, port_of(server))
        yield socket


def port_of(socket: Socket) -> int:
    return socket.get_local_addr()[1]


def descriptor_flags(socket: Socket) -> int:
    return fcntl.fcntl(socket.fileno(), fcntl.F_GETFD)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def name_error(number: int) -> Outcome:
    """What a failed look-up is in gnet: an OSError, too, but with the resolver's own number."""
    return {"exc": "OSError", "errno": number}


class _NoSuchName:
    """A resolver, as gevent may be configured with one, that knows no name."""

    def getaddrinfo(self, *arguments: Any) -> list[Any]:
        raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "Name or service not known")


@contextmanager
def no_names() -> Iterator[None]:
    """Look-ups fail at once, whatever name server this machine has."""
    hub: Any = gevent.get_hub()
    before = hub.resolver
    hub.resolver = _NoSuchName()
    try:
        yield
    finally:
        hub.resolver = before


def _host_has_ipv6() -> bool:
    with gevent.socket.socket(gevent.socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not _host_has_ipv6(), reason="this machine has no ::1")
