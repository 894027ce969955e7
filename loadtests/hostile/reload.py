"""What rolling reloads lose: `python -m gnet serve --workers` beside gevent with SO_REUSEPORT (fault row F4).

    python -m loadtests.hostile.reload [--requests 20000]

More clients than places ask again and again, each time on a new connection, so that some always wait in the
accept queue; the column "queue" is its shortest and its median length during the reloads, as seen every few
milliseconds. While that goes on, both workers are replaced, three times: gnet's by SIGHUP to the supervisor;
gevent's by a new process on the same port, which is ready before the old one gets SIGTERM and calls
`StreamServer.stop(timeout=10)`. A request is lost when its connection is refused or reset, or ends without
the answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket as stdlib_socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.pool
import gevent.server
import gevent.socket

import gnet

HERE = Path(__file__).resolve()
WORKERS, PLACES, CLIENTS, RELOADS = 2, 4, 128, 3
REQUEST, ANSWER = b"PING\r\n", b"+PONG\r\n"
HANDLER_SECONDS = 0.01
LATER = ["nice", "-n", "10"]  # servers, which take turns with the clients: these are to keep the queue full
GUARD = 60.0  # seconds for a request or a reload, which take a fraction of one


def answer(client: gnet.Socket, _address: str) -> None:
    """Gnet's handler: answer one line after a while."""
    client.read_line()
    gevent.sleep(HANDLER_SECONDS)
    client.send(ANSWER)


def gevent_worker(port: int) -> None:
    """Serve as one of the peer's workers: gevent's StreamServer, and stop as its manual has it."""

    def handle(client: Any, _address: object) -> None:
        with client, client.makefile("rb") as file:
            file.readline()
            gevent.sleep(HANDLER_SECONDS)
            client.sendall(ANSWER)

    listener = gevent.socket.socket()
    listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEADDR, 1)
    listener.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    server = gevent.server.StreamServer(listener, handle, spawn=gevent.pool.Pool(PLACES))
    stopped = gevent.event.Event()

    def stop() -> None:
        server.stop(timeout=10)
        stopped.set()

    gevent.signal_handler(signal.SIGTERM, gevent.spawn, stop)
    server.start()
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    stopped.wait()


@contextmanager
def gnet_server() -> Iterator[tuple[int, Callable[[], None]]]:
    """Run gnet's server; give its port and what reloads it."""
    with tempfile.TemporaryDirectory() as folder, gevent.socket.socket(stdlib_socket.AF_UNIX, 2) as manager:
        manager.bind(f"{folder}/notify")
        manager.settimeout(GUARD)
        command = ["-m", "gnet", "serve", f"{HERE}:answer", "--workers", WORKERS, "--pool-size", PLACES]
        process = subprocess.Popen(
            [*LATER, sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"},
        )
        assert process.stdout is not None

        def reload() -> None:
            process.send_signal(signal.SIGHUP)
            for wanted in (b"RELOADING=1", b"READY=1"):
                while not manager.recv(4096).startswith(wanted):
                    pass

        try:
            port = int(process.stdout.readline().rpartition(b":")[2])
            assert manager.recv(4096) == b"READY=1"
            yield port, reload
        finally:
            process.terminate()
            status = process.wait()
            process.stdout.close()
        if status:
            raise SystemExit(f"gnet serve ended with {status}")


@contextmanager
def gevent_servers() -> Iterator[tuple[int, Callable[[], None]]]:
    """Run the peer's workers; give their port and what replaces them one after another."""
    workers: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> int:
        command = [*LATER, sys.executable, str(HERE), "--gevent-worker", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        workers.append(process)
        assert process.stdout is not None
        # Not in the hub: the clients go on while this one waits.
        line: bytes = gevent.get_hub().threadpool.apply(process.stdout.readline)
        return int(line.rpartition(b":")[2])

    def reload() -> None:
        for old in workers[-WORKERS:]:
            start(port)
            old.terminate()

    try:
        port = start(0)
        for _ in range(WORKERS - 1):
            start(port)
        yield port, reload
    finally:
        for process in workers:
            process.terminate()
        for process in workers:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def ask(port: int) -> bool:
    """Whether a request on a connection of its own is answered."""
    try:
        # gevent's own connect asks a thread for the address, even for an IP: the queue would run empty.
        with gnet.dial("127.0.0.1", port, timeout=1000 * GUARD) as client:
            client.timeout = 1000 * GUARD
            client.send(REQUEST)
            data = b""
            while more := client.recv_some(64):
                data += more
            return data == ANSWER
    except (OSError, gnet.TimeoutError):
        return False


def accept_queue(port: int) -> int:
    """Connections that wait to be accepted: rx_queue of listening sockets in /proc/net/tcp."""
    total = 0
    with open("/proc/net/tcp") as table:
        for line in table:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                total += int(fields[4].rpartition(":")[2], 16)
    return total


def measure(name: str, server: Any, requests: int) -> None:
    """Put a server under load, reload it, and print a row."""
    answered = lost = reloads = 0
    is_reloading = False
    lengths: list[int] = []
    started = time.monotonic()
    with server as (port, reload):

        def ask_again_and_again() -> None:
            nonlocal answered, lost
            while answered + lost < requests or reloads < RELOADS:
                if ask(port):
                    answered += 1
                else:
                    lost += 1

        def watch_the_queue() -> None:
            while True:
                gevent.sleep(0.005)
                if is_reloading:
                    lengths.append(accept_queue(port))

        load = [gevent.spawn(ask_again_and_again) for _ in range(CLIENTS)]
        watcher = gevent.spawn(watch_the_queue)
        for number in range(RELOADS):
            while answered + lost < requests * (number + 1) / (RELOADS + 1):
                gevent.sleep(0.01)
            is_reloading = True
            reload()
            is_reloading = False
            reloads += 1
        gevent.joinall(load, raise_error=True)
        watcher.kill()
    seconds = time.monotonic() - started
    queue = f"{min(lengths)} / {statistics.median(lengths):g}"
    print(
        f"{name:<24} {answered + lost:>9,} {lost:>6,} {reloads:>8} {queue:>10} {seconds:>6.1f} s", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000, metavar="N")
    parser.add_argument("--peer", choices=("gnet", "gevent"), help="only this one")
    parser.add_argument("--gevent-worker", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.gevent_worker is not None:
        gevent_worker(given.gevent_worker)
        return
    if sys.platform != "linux":
        raise SystemExit("the length of the accept queue is read from /proc: this needs Linux")
    print(f"{WORKERS} workers of {PLACES} places, {CLIENTS} clients, a handler takes {HANDLER_SECONDS:g} s")
    print(f"{'':<24} {'requests':>9} {'lost':>6} {'reloads':>8} {'queue':>10} {'time':>8}")
    if given.peer != "gevent":
        measure("gnet serve", gnet_server(), given.requests)
    if given.peer != "gnet":
        measure("gevent, SO_REUSEPORT", gevent_servers(), given.requests)


if __name__ == "__main__":
    main()
