"""Counts the lines of each connection, up to its end, and answers with their number.

What is measured is reading alone: nothing is done with a line but to count it, and there is one answer a
connection. `--reader` says what reads. Connections come one at a time.
"""

from __future__ import annotations

import argparse
import asyncio

import gevent.socket

import gnet

# Bytes of a line for asyncio and gnet's `lines()`, which both take 64 KiB unless told otherwise. What
# `read_line()` takes by itself, 1,000,000 bytes and the line's end, is enough for what is sent.
LIMIT = 4 << 20
READERS = ["gnet lines()", "gnet read_line()", "gevent makefile", "asyncio readline()"]


def count_lines(client: gnet.Socket) -> int:
    count = 0
    for _line in client.lines(max_length=LIMIT):
        count += 1
    return count


def count_read_line(client: gnet.Socket) -> int:
    count = 0
    while client.read_line():
        count += 1
    return count


def count_makefile(client: gevent.socket.socket) -> int:
    count = 0
    with client.makefile("rb") as lines:
        while lines.readline():
            count += 1
    return count


async def count_readline(reader: asyncio.StreamReader) -> int:
    count = 0
    while await reader.readline():
        count += 1
    return count


def serve_gnet(reader: str) -> None:
    count = count_lines if reader == "gnet lines()" else count_read_line
    server = gnet.new_socket()
    server.bind_addr(0, "127.0.0.1")
    server.listen()
    announce(server.get_local_addr()[1])
    while True:
        client, _address = server.accept_addr()
        with client:
            client.send(b"%d\n" % count(client))


def serve_gevent() -> None:
    server = gevent.socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    announce(server.getsockname()[1])
    while True:
        client, _address = server.accept()
        with client:
            client.sendall(b"%d\n" % count_makefile(client))


async def serve_asyncio() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d\n" % await count_readline(reader))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=LIMIT)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def announce(port: int) -> None:
    print(f"listening on 127.0.0.1:{port}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reader", choices=READERS, required=True)
    given = parser.parse_args()
    if given.reader.startswith("gnet"):
        serve_gnet(given.reader)
    elif given.reader.startswith("gevent"):
        serve_gevent()
    else:
        asyncio.run(serve_asyncio())


if __name__ == "__main__":
    main()
