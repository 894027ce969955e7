"""Chat: each line to all others, and a client that does not read is dropped instead of stalling them.

    python examples/chat_server.py --port 7010        then, several times: nc 127.0.0.1 7010

Every client has two greenlets: one reads its lines, one sends it what is in its queue. To say something is to
put it into the queues of the others, which never waits. Left out: names, limits on clients and descriptors.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import socket
import sys
from contextlib import suppress

import gevent
from gevent.pool import Group
from gevent.queue import Queue

import gnet

QUEUE_LIMIT = 100  # lines a client may be behind, beyond what the kernel holds, before it is dropped
LINE_LIMIT = 1000  # bytes
SEND_TIMEOUT = 30_000  # milliseconds without room for one line, after which a client is dropped too
DRAIN_SECONDS = 2.0


class Room:
    def __init__(self) -> None:
        self.queues: dict[gnet.Socket, Queue[bytes]] = {}  # of those who are here
        self.numbers = itertools.count(1)

    def serve(self, client: gnet.Socket) -> None:
        """Talk to one client until it leaves or is dropped."""
        name = b"guest %d" % next(self.numbers)
        queue = self.queues[client] = Queue()
        writer = gevent.spawn(self.write, client, queue)
        with client:
            self.say(b"* " + name + b" is here", client)
            with suppress(OSError):  # it broke off, was dropped, or its line was too long
                client.set_keepalive(60_000, 10_000, 3)  # to notice one that vanished without a word
                for line in client.lines(LINE_LIMIT):
                    self.say(name + b": " + line, client)
            self.say(b"* " + name + b" has left", client)
            queue.put(b"")  # no more to come
            writer.join()
        del self.queues[client]

    def say(self, line: bytes, speaker: gnet.Socket) -> None:
        for client, queue in self.queues.items():
            if queue.qsize() >= QUEUE_LIMIT:
                client.close(timeout=0)  # both its greenlets get a ClosedError
            elif client is not speaker:
                queue.put(line + b"\r\n")

    def write(self, client: gnet.Socket, queue: Queue[bytes]) -> None:
        with suppress(OSError):
            while line := queue.get():
                client.send(line, timeout=SEND_TIMEOUT)
        client.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()
    with gnet.new_socket(gnet.AF_INET6 if ":" in given.address else gnet.AF_INET) as listener:
        try:
            listener.set_sock_opt(gnet.SOBool.REUSE_ADDR, True)
            listener.bind_addr(given.port, given.address)
            listener.listen()
        except (OSError, ValueError) as error:
            sys.exit(f"chat_server: {error}")
        for number in (signal.SIGTERM, signal.SIGINT):
            gevent.signal_handler(number, listener.close)
        address, port = listener.get_local_addr()
        print(f"listening on {f'[{address}]' if ':' in address else address}:{port}")
        print(f"try, several times: nc {address} {port}", flush=True)
        room = Room()
        handlers = Group()
        with suppress(gnet.ClosedError):  # by the signal
            while True:
                handlers.spawn(room.serve, listener.accept())
    for client in list(room.queues):
        with suppress(OSError):
            client.shutdown(socket.SHUT_RD)  # nothing more is heard, but what was said is still sent
    handlers.join(timeout=DRAIN_SECONDS)
    for client in list(room.queues):
        client.close(timeout=0)
    handlers.join()


if __name__ == "__main__":
    main()
