"""A Redis client: a protocol of lines and counted bytes (RESP) over `read_line` and `recv_exactly`.

    python examples/redis_client.py 127.0.0.1:6379 LRANGE mylist 0 -1

`Redis` is the part to take along; one object serves one greenlet. Left out: TLS, a pool, subscriptions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TypeAlias

import gnet

Word = bytes | str | int
Reply: TypeAlias = "bytes | int | list[Reply] | RedisError | None"


class RedisError(Exception):
    """The server's answer to one command is an error; the connection goes on."""


class Redis:
    def __init__(self, host: str, port: int, timeout: float = 5000) -> None:
        self.socket = gnet.dial(host, port, timeout=timeout)
        self.socket.timeout = timeout  # milliseconds, for each read and write

    def ping(self) -> Reply:
        return self.command("PING")

    def set(self, key: Word, value: Word) -> Reply:
        return self.command("SET", key, value)

    def get(self, key: Word) -> Reply:
        return self.command("GET", key)

    def incr(self, key: Word) -> Reply:
        return self.command("INCR", key)

    def lrange(self, key: Word, first: int, last: int) -> Reply:
        return self.command("LRANGE", key, first, last)

    def command(self, *words: Word) -> Reply:
        reply = self.pipeline([words])[0]
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """Send all commands at once; give their replies in order, errors among them as `RedisError`."""
        request = bytearray()
        for words in commands:
            encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
            request += b"*%d\r\n" % len(encoded)
            request += b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)
        try:
            self.socket.send(request)
            return [self._read_reply() for _ in commands]
        except BaseException:
            self.socket.close()  # a reply that is late must not be taken for the next one's
            raise

    def _read_reply(self) -> Reply:
        line = self.socket.read_line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self.socket.recv_exactly(int(rest) + 2)[:-2] if rest != b"-1" else None
        if kind == b"*":
            return [self._read_reply() for _ in range(int(rest))] if rest != b"-1" else None
        raise ConnectionError(f"expected a reply of Redis, got {line[:60]!r}")  # b"": it hung up


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit("usage: redis_client.py HOST:PORT COMMAND [ARGUMENT ...]")
    host, _, port = sys.argv[1].rpartition(":")
    try:
        redis = Redis(host.strip("[]"), int(port))
        with redis.socket:
            reply = redis.command(*sys.argv[2:])
    except (OSError, ValueError, RedisError) as error:
        sys.exit(f"redis_client: {error}")
    for item in reply if isinstance(reply, list) else [reply]:
        print(item.decode(errors="replace") if isinstance(item, bytes) else item)


if __name__ == "__main__":
    main()
