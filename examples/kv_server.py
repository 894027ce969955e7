"""A store that redis-cli and redis-benchmark can use: lines and counted bytes, pipelined, within limits.

    python examples/kv_server.py --port 6380         then: redis-cli -p 6380 set greeting hello

`lines()` and `recv_exactly` read from one stream in turn. While more commands wait, answers wait for each
other and leave together. All clients share one dict, without a lock: nobody waits while he changes it.
Left out: all else of Redis, several processes, and files: what is stored is gone with the process.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator

import gevent

import gnet

LONGEST_LINE = 16 * 1024  # bytes, of a command that is no array
MOST_ARGUMENTS = 1024  # of one command
LARGEST_COMMAND = 4 * 1024 * 1024  # bytes, its arguments together
DRAIN_TIMEOUT = 2_000  # milliseconds
LARGEST_STORE = 256 * 1024 * 1024  # bytes, keys and values together


class ProtocolError(Exception):
    """What came is no command, and nobody knows where the next one begins."""


def read_number(line: bytes, kind: bytes, most: int) -> int:
    if line[:1] != kind or not line[1:].isdigit() or len(line) > 10 or int(line[1:]) > most:
        raise ProtocolError(f"expected {kind.decode()} and a number up to {most}, got {line[:20]!r}")
    return int(line[1:])


def read_commands(client: gnet.Socket) -> Iterator[list[bytes]]:
    lines = client.lines(LONGEST_LINE)
    for line in lines:
        if not line.startswith(b"*"):  # typed by hand, as with nc: words on one line
            yield line.split()
            continue
        arguments, room = [], LARGEST_COMMAND
        for _ in range(read_number(line, b"*", MOST_ARGUMENTS)):
            size = read_number(next(lines, b""), b"$", room)
            room -= size
            argument = client.recv_exactly(size + 2)
            if not argument.endswith(b"\r\n"):
                raise ProtocolError(f"expected a line end behind an argument of {size} bytes")
            arguments.append(argument[:-2])
        yield arguments


def bulk(data: bytes | None) -> bytes:
    return b"$-1\r\n" if data is None else b"$%d\r\n%b\r\n" % (len(data), data)


class Store:
    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.size = 0

    def serve(self, client: gnet.Socket, _address: str) -> None:
        try:
            for command in read_commands(client):
                if command:
                    client.send(self.answer(command))
        except ProtocolError as error:
            client.send(f"-ERR Protocol error: {error}\r\n".encode())

    def answer(self, command: list[bytes]) -> bytes:
        match [command[0].upper(), *command[1:]]:
            case [b"GET", key]:
                return bulk(self.values.get(key))
            case [b"SET", key, value]:
                old = self.values.get(key)
                more = len(value) - len(old) if old is not None else len(key) + len(value)
                if self.size + more > LARGEST_STORE:
                    return b"-OOM the store is full\r\n"
                self.values[key] = value
                self.size += more
                return b"+OK\r\n"
            case [b"DEL", _, *_]:
                gone = [(key, self.values.pop(key)) for key in command[1:] if key in self.values]
                self.size -= sum(len(key) + len(value) for key, value in gone)
                return b":%d\r\n" % len(gone)
            case [b"PING", *texts] if len(texts) < 2:
                return bulk(texts[0]) if texts else b"+PONG\r\n"
            case [b"COMMAND", *_]:  # redis-cli asks, for its help
                return b"*0\r\n"
            case [b"CONFIG", _, name]:  # redis-benchmark asks, for its report
                return b"*2\r\n" + bulk(name) + bulk(b"")
            case [b"GET" | b"SET" | b"DEL" | b"PING" | b"CONFIG" as name, *_]:
                return f"-ERR wrong number of arguments for '{name.decode()}'\r\n".encode()
        return f"-ERR unknown command {command[0][:40]!r}\r\n".encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--address", default="127.0.0.1", help="an IP address of this machine")
    given = parser.parse_args()
    try:
        server = gnet.Server(Store().serve, given.address, given.port, drain_timeout=DRAIN_TIMEOUT)
        server.start()
    except (OSError, ValueError) as error:
        sys.exit(f"kv_server: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, server.stop)
    host = server.address
    print(f"listening on {f'[{host}]' if ':' in host else host}:{server.port}")
    print(f"try: redis-cli -h {host} -p {server.port} set greeting hello", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
