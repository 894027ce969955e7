"""Handlers for `python -m gnet serve tests/programs/handlers.py:NAME`."""

from __future__ import annotations

import os
import socket

import gevent.socket
from gevent.monkey import get_original

import gnet

RELEASE = 1  # a byte from the gate


def echo(client: gnet.Socket, address: str) -> None:
    """Give every line back."""
    for line in client.lines():
        client.send(line + b"\r\n")


def who(client: gnet.Socket, address: str) -> None:
    """Answer one line with the id of the process and where the client comes from."""
    client.read_line()
    client.send(f"{os.getpid()} {address}\r\n".encode())


def gated(client: gnet.Socket, address: str) -> None:
    """Read a line, go to the gate (a port of the test's), and answer once it has let this through."""
    line = client.read_line()
    with gevent.socket.create_connection(("127.0.0.1", int(os.environ["GATE_PORT"]))) as gate:
        gate.recv(RELEASE)
    client.send(b"done " + line + b"\r\n")


def kind(client: gnet.Socket, address: str) -> None:
    """Tell whether blocking calls cooperate here, and how many descriptors there may be."""
    import resource

    patched = socket.socket is gevent.socket.socket
    client.send(f"{patched} {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\r\n".encode())


def fork(client: gnet.Socket, address: str) -> None:
    """Fork a child that ends at once, and answer with its status."""
    client.read_line()
    # The system's own: gevent's waitpid misses the first child now and then (gevent 26.9 without gnet:
    # 9 of 240 processes hung, four at a time on two cores).
    fork, waitpid = get_original("os", "fork"), get_original("os", "waitpid")
    child = fork()
    if child == 0:
        os._exit(7)
    client.send(f"{os.waitstatus_to_exitcode(waitpid(child, 0)[1])}\r\n".encode())


class Namespace:
    """A handler may be an attribute of an attribute."""

    echo = staticmethod(echo)


NUMBER = 5


def held(client: gnet.Socket, address: str) -> None:
    """Tell the process, go to the gate, and say that it is done."""
    client.read_line()
    client.send(f"{os.getpid()}\r\n".encode())
    client.flush()
    with gevent.socket.create_connection(("127.0.0.1", int(os.environ["GATE_PORT"]))) as gate:
        gate.recv(RELEASE)
    client.send(b"done\r\n")


def slow(client: gnet.Socket, address: str) -> None:
    """Answer one line after a while, so that many clients wait."""
    line = client.read_line()
    gevent.sleep(0.01)
    client.send(line + b"\r\n")


def stuck(client: gnet.Socket, address: str) -> None:
    """Answer, and never let anything else run again."""
    client.send(b"stuck\r\n")
    client.flush()
    while True:
        pass
