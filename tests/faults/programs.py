"""Programs that tests of faults run in processes of their own: `python -m tests.faults.programs NAME [ARGUMENT ...]`.

A program prints what it found out as JSON; what that should be is the test's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent import socket, subprocess

import gnet

_LIMIT: Final = 15_000  # milliseconds; nothing here waits this long unless it hangs


def outcome(call: Callable[..., object], *arguments: object, **keywords: object) -> dict[str, Any]:
    """Call something; tell what came of it and after how many milliseconds."""
    start = time.monotonic()
    try:
        found: dict[str, Any] = {"type": None, "value": repr(call(*arguments, **keywords))}
    except BaseException as error:
        found = {
            "type": f"{type(error).__module__}.{type(error).__name__}",
            "errno": getattr(error, "errno", None),
            "text": str(error),
            "bytes_sent": getattr(error, "bytes_sent", None),
        }
    found["ms"] = (time.monotonic() - start) * 1000
    return found


# A5, A6: a network that stops to carry anything


def connected() -> tuple[gnet.Socket, socket.socket]:
    """Give a gnet socket, and the gevent socket at its other end."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        ours = gnet.dial(*server.getsockname())
        return ours, server.accept()[0]


class ImpossibleError(Exception):
    """What the test needs is not to be had on this machine."""


def cut(tc: str) -> None:
    """Have the loopback interface of this (private) network lose all that is sent."""
    # Run by hand, without `ip netns exec`, this would cut the machine off from itself.
    if os.readlink("/proc/self/ns/net") == os.readlink(f"/proc/{os.getppid()}/ns/net"):
        raise RuntimeError("this is the network of the process that started us, and not one of our own")
    command = [tc, "qdisc", "add", "dev", "lo", "root", "blackhole"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise ImpossibleError(f"{' '.join(command)}: {done.stderr.decode().strip()}")


def vanish_while_reading(tc: str) -> dict[str, Any]:
    ours, peer = connected()
    peer.sendall(b"part")
    ours.peek(1, _LIMIT)
    ours.set_keepalive(1000, 1000, 1)
    cut(tc)
    return {
        "deadline": outcome(ours.read_line, 200),
        "keepalive": outcome(ours.read_line, _LIMIT, gnet.SocketFlag(0)),
        "rest": ours.recv(100).decode(),
        "again": outcome(ours.recv, 100, _LIMIT),
    }


def vanish_while_sending(tc: str) -> dict[str, Any]:
    ours, _peer = connected()
    ours.set_user_timeout(500)
    cut(tc)
    return {
        "send": outcome(ours.send, bytes(64 << 20), timeout=_LIMIT),
        "again": outcome(ours.send, b"more", timeout=_LIMIT),
        "read": outcome(ours.recv, 100, _LIMIT),
    }


def vanish_after_sending(tc: str) -> dict[str, Any]:
    ours, _peer = connected()
    ours.set_user_timeout(500)
    cut(tc)
    ours.send(b"question\n", timeout=_LIMIT)
    return {"read": outcome(ours.read_line, _LIMIT)}


# A12: signals


def transfer(size: str = "3000000") -> dict[str, Any]:
    """Make connections, then send data to a server that sends it back; tell what arrived."""
    with gnet.new_socket() as server:
        server.bind_addr(address="127.0.0.1")
        server.listen()

        def answer() -> int:
            for _ in range(100):
                with server.accept(timeout=_LIMIT) as client:
                    client.send(b"welcome\n", timeout=_LIMIT)
            with server.accept(timeout=_LIMIT) as client:
                while data := client.recv_some(1 << 20, _LIMIT):
                    client.send(data, timeout=_LIMIT)
            return 100

        answering = gevent.spawn(answer)
        welcomed = 0
        for _ in range(100):
            with gnet.dial(*server.get_local_addr(), timeout=_LIMIT) as client:
                welcomed += client.read_line(_LIMIT) == b"welcome"
        data = os.urandom(int(size))
        with gnet.dial(*server.get_local_addr(), timeout=_LIMIT) as client:
            sending = gevent.spawn(client.send, data, timeout=_LIMIT)
            received = client.recv(len(data), _LIMIT)
            sending.get()
        answering.get()
    digests = [hashlib.sha256(each).hexdigest() for each in (data, received)]
    return {"connections": welcomed, "sent": digests[0], "received": digests[1]}


def interrupted() -> dict[str, Any]:
    """The same, and then waiting for nothing, with a signal every millisecond."""
    signals = 0

    def count(_number: int, _frame: object) -> None:
        nonlocal signals
        signals += 1

    signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    found = transfer("64000000")
    ours, _peer = connected()
    found["idle"] = outcome(ours.read_line, 300)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found | {"signals": signals}


if __name__ == "__main__":
    try:
        answer = globals()[sys.argv[1]](*sys.argv[2:])
    except ImpossibleError as reason:
        answer = {"impossible": str(reason)}
    print(json.dumps(answer), flush=True)
    # Not sys.exit: look-ups that nobody answers sit in threads.
    os._exit(0)
