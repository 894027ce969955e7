"""Programs that tests of the TLS transport run in processes of their own, whose memory is only theirs.

`python -m tests.tls_transport.programs NAME ARGUMENT...`; each prints JSON lines.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

import gevent

import gnet

_LIMIT = 60_000  # milliseconds; nothing here waits this long unless it hangs


def resident_kib() -> int:
    """Give what of this process is in memory."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def tell(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def listen(cert_file: str, key_file: str) -> gnet.Socket:
    """Listen with TLS, and say where."""
    listener = gnet.new_socket()
    listener.bind_addr(address="127.0.0.1")
    listener.listen()
    gnet.new_context(cert_file=cert_file, key_file=key_file).wrap_socket(listener)
    tell(port=listener.get_local_addr()[1])
    return listener


def serve_idle(cert_file: str, key_file: str, count: str) -> None:
    """Answer one line of each of `count` clients, which are idle then; tell what all of it takes."""
    answered = 0

    def serve(client: gnet.Socket) -> None:
        nonlocal answered
        with client:
            for line in client.lines():
                client.send(line + b"\n")
                answered += 1

    def wait_for(total: int) -> None:
        while answered < total:
            gevent.sleep(0.01)

    with listen(cert_file, key_file) as listener:

        def accept() -> None:
            while True:
                gevent.spawn(serve, listener.accept())

        accepting = gevent.spawn(accept)
        wait_for(20)  # the first ones also load what all of them share
        gc.collect()
        before = resident_kib()
        tell(ready=True)
        wait_for(20 + int(count))
        gc.collect()
        tell(kib=resident_kib() - before)
        sys.stdin.read()
        accepting.kill()


def burst(cert_file: str, key_file: str, count: str, size: str) -> None:
    """Send `size` bytes to each of `count` clients and receive as much; tell what that leaves behind."""
    with listen(cert_file, key_file) as listener:
        clients = []
        while len(clients) < int(count):
            client = listener.accept(timeout=_LIMIT)
            client.do_handshake(timeout=_LIMIT)
            client.send(client.read_line(timeout=_LIMIT) + b"\n")
            clients.append(client)
        readers = [gevent.spawn(client.read_line) for client in clients]  # idle, as handlers are
        gevent.sleep(0.1)
        gc.collect()
        before = resident_kib()
        gevent.killall(readers)
        for client in clients:
            tell(go=True)
            client.recv(int(size), timeout=_LIMIT)
            client.send(bytes(int(size)), timeout=_LIMIT)
            client.read_line(timeout=_LIMIT)
            reader = gevent.spawn(client.read_line)
            gevent.sleep(0)
            reader.kill()
        gc.collect()
        tell(kib=resident_kib() - before)
        for client in clients:
            client.close(timeout=0)


if __name__ == "__main__":
    {"serve_idle": serve_idle, "burst": burst}[sys.argv[1]](*sys.argv[2:])
