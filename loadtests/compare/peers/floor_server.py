"""The peer "floor": what the machine leaves to any Python server: a `recv` and a `send` a wake-up, no more.

It has no greenlets, keeps no half of a line, checks nothing and cannot wait for anything else: no program to
copy. No server in Python can cost much less than this, so no aim below it can be met on the machine at hand.
"""

from __future__ import annotations

import select
import socket


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    clients: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        for descriptor, _events in poll.poll():
            if descriptor == listener.fileno():
                client, _address = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
                continue
            try:
                data = clients[descriptor].recv(4000)
                clients[descriptor].send(b"+PONG\r\n" * data.count(b"\n"))
            except ConnectionError:
                data = b""
            if not data:
                clients.pop(descriptor).close()


if __name__ == "__main__":
    main()
