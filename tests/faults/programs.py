"""Programs that tests of faults run in processes of their own.

`python -m tests.faults.programs NAME [ARGUMENT ...]` runs one. It prints what it found out as JSON; what
that should be is the test's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket as plain
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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


# A23: a server, and one that floods it

_LINES: Final = b"twenty bytes a line\n" * 50_000
_BULK: Final = bytes(1 << 20)


def serve(client: gnet.Socket, _address: str) -> None:
    """Do with a client what its first line asks for."""
    with suppress(OSError), client:  # one that floods may go away at any time
        kind = client.read_line()
        client.send(kind + b"\n")
        if kind == b"lines":
            for line in client:
                client.send(line + b"\n")
        elif kind == b"read_line":
            while line := client.read_line():
                client.send(line + b"\n")
        elif kind == b"recv_some":
            while data := client.recv_some(1 << 20):
                client.send(data)
        elif kind == b"recv":
            # Not much more: what one recv gives is copied in one go, at 64 MB for some 80 ms.
            while client.recv(1 << 23):
                pass
        elif kind == b"skip":
            client.skip(1 << 50)
        elif kind == b"source":
            while True:
                client.send(_BULK)


def echo_server() -> None:
    """Serve until the standard input ends. Prints its TCP port and its UDP port."""
    tcp = gnet.new_socket()
    tcp.bind_addr(address="127.0.0.1")
    tcp.listen()
    udp = gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP)
    udp.bind_addr(address="127.0.0.1")

    def accept_all() -> None:
        while True:
            gevent.spawn(serve, *tcp.accept_addr())

    def answer_all() -> None:
        while True:
            data, address, port = udp.recv_from(2000)
            udp.send_to(address, port, data)

    gevent.spawn(accept_all)
    gevent.spawn(answer_all)
    print(tcp.get_local_addr()[1], udp.get_local_addr()[1], flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.buffer.read)


def flood(kind: str, port: str, udp_port: str) -> dict[str, Any]:
    """Flood an echo server until the standard input ends. Prints when it has begun, and what it did.

    With threads that block: to be run in a plain process, or nothing would flow.
    """
    address = ("127.0.0.1", int(port))
    done = {"bytes": 0, "datagrams": 0, "connections": 0}
    begun = threading.Event()
    failures: list[str] = []

    def count(what: str, number: int) -> None:
        done[what] += number
        begun.set()

    def send_datagrams() -> None:
        with plain.socket(plain.AF_INET, plain.SOCK_DGRAM) as sock:
            while True:
                sock.sendto(b"flood", ("127.0.0.1", int(udp_port)))
                count("datagrams", 1)

    def make_connections() -> None:
        while True:
            with plain.create_connection(address) as sock:
                # Ends with a reset: thousands that end in order would use up the machine's ports.
                sock.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
            count("connections", 1)

    def send_stream() -> None:
        while True:
            count("bytes", sock.send(data))

    def receive_stream() -> None:
        while received := sock.recv(1 << 20):
            if kind == "source":
                count("bytes", len(received))
        raise EOFError("the server has ended the stream")

    def keep_flowing(flow: Callable[[], None]) -> None:
        try:
            flow()
        except Exception as error:
            failures.append(repr(error))

    if kind in ("datagrams", "connections"):
        flows = [send_datagrams if kind == "datagrams" else make_connections] * 2
    else:
        sock = plain.create_connection(address)
        sock.sendall(kind.encode() + b"\n")
        assert sock.recv(len(kind) + 1) == kind.encode() + b"\n"
        data = _BULK if kind in ("recv", "skip") else _LINES
        flows = [receive_stream] if kind == "source" else [receive_stream, send_stream]
    for flow in flows:
        threading.Thread(target=keep_flowing, args=[flow], daemon=True).start()
    begun.wait()
    print("flooding", flush=True)
    sys.stdin.buffer.read()
    return {**done, "failures": failures}


# A16, A18, A19: names and ways


def ways_to(host: str, ports: dict[bool, int], timeout: float = _LIMIT) -> dict[str, dict[str, Any]]:
    """Tell what comes of each call of gnet that takes a host.

    Args:
        ports: the ports of a server on the loopback interface, by whether that is an IPv6 one.
    """
    six = ":" in host
    family = gnet.AF_INET6 if six else gnet.AF_INET
    port = ports[six]
    with (
        gnet.new_socket(family) as connecting,
        gnet.new_socket(family) as binding,
        gnet.new_socket(family, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as sending,
    ):
        binding.timeout = sending.timeout = timeout
        calls = {
            "dial": gevent.spawn(outcome, lambda: gnet.dial(host, port, timeout=timeout).close()),
            "connect": gevent.spawn(outcome, connecting.connect, host, port, timeout),
            "bind_addr": gevent.spawn(outcome, binding.bind_addr, 0, host),
            "send_to": gevent.spawn(outcome, sending.send_to, host, port, b"x"),
        }
        return {name: call.get() for name, call in calls.items()}


def servers() -> dict[bool, int]:
    """Listen on both loopback addresses, at all ports of the program's life; give the ports."""
    ports = {}
    for six, host in ((False, "127.0.0.1"), (True, "::1")):
        server = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
        server.bind((host, 0))
        server.listen(100)
        _kept.append(server)
        ports[six] = server.getsockname()[1]
    return ports


_kept: Final[list[socket.socket]] = []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def connect_to(*hosts: str) -> dict[str, Any]:
    """Try to get to hosts."""
    ports = servers()
    ways_to("127.0.0.1", ports)  # whatever is opened once and stays
    before = descriptors()
    found: dict[str, Any] = {host: ways_to(host, ports) for host in hosts}
    return found | {"descriptors left": descriptors() - before}


class NameServer:
    """The name server of this (private) network, at 127.0.0.1:53. The name asked for says what comes."""

    def __init__(self) -> None:
        self.silenced: set[str] = set()
        """The names that were asked for and got no answer."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        gevent.spawn(self._serve)

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(2000)
            name, after = [], 12
            while length := query[after]:
                name.append(query[after + 1 : after + 1 + length].decode())
                after += length + 1
            answer = self._answer(name[0], query[:2], query[12 : after + 5])
            if answer is None:
                self.silenced.add(".".join(name))
            else:
                self._socket.sendto(answer, client)

    def _answer(self, label: str, number: bytes, question: bytes) -> bytes | None:
        def header(code: int, answers: int) -> bytes:  # RFC 1035, section 4.1.1
            return number + bytes([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]) + question

        if label == "found":
            if question[-4:] != b"\0\1\0\1":  # it has an IPv4 address and no other record
                return header(0, 0)
            return header(0, 1) + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([127, 0, 0, 1])
        if label == "missing":
            return header(3, 0)
        if label == "broken":
            return header(2, 0)
        return os.urandom(40) if label == "garbage" else None


def look_up_in_vain() -> dict[str, Any]:
    NameServer()
    ports = servers()
    ways_to("found.test", ports)
    before = descriptors()
    found: dict[str, Any] = {
        name: ways_to(name, ports) for name in ("missing.test", "broken.test", "garbage.test")
    }
    return found | {"descriptors left": descriptors() - before}


def look_up_beside(count: str) -> dict[str, Any]:
    """Look up names while look-ups are stuck."""
    name_server = NameServer()
    ports = servers()
    stuck = [gevent.spawn(gnet.dial, f"stuck-{number}.test", 1) for number in range(int(count))]
    # There are no more than 64 threads for them.
    until(lambda: len(name_server.silenced) == min(len(stuck), 64))
    found: dict[str, Any] = {"stuck": len(name_server.silenced)}
    for host in ("localhost", "in-hosts-file.test", "127.0.0.1", "::1"):
        found[host] = ways_to(host, ports)
    if len(stuck) < 64:
        found["found.test"] = ways_to("found.test", ports)
    found["stuck-too.test"] = ways_to("stuck-too.test", ports, 200)
    return found | {"still stuck": sum(not each.dead for each in stuck)}


def look_up_after_giving_up(count: str) -> dict[str, Any]:
    """Look up a name after look-ups were given up, which leaves their threads stuck."""
    name_server = NameServer()
    ports = servers()
    hosts = [f"stuck-{number}.test" for number in range(int(count))]
    given_up = [gevent.spawn(outcome, gnet.dial, host, 1, timeout=500) for host in hosts]
    until(lambda: len(name_server.silenced) == len(hosts))
    ended = [each.get()["type"] for each in given_up]
    return {
        "given up": ended.count("gnet.errors.TimeoutError"),
        "found.test": ways_to("found.test", ports),
    }


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(_LIMIT / 1000):
        while not condition():
            gevent.sleep(0.005)


if __name__ == "__main__":
    try:
        answer = globals()[sys.argv[1]](*sys.argv[2:])
    except ImpossibleError as reason:
        answer = {"impossible": str(reason)}
    if answer is not None:
        print(json.dumps(answer), flush=True)
    # Not sys.exit: look-ups that nobody answers sit in threads.
    os._exit(0)
