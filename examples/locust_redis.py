"""Load on Redis: commands one at a time and in pipelines, and each answer read as what it is (RESP).

    locust -f examples/locust_redis.py --headless -u 20 -r 20 -t 10 --host tcp://127.0.0.1:6379

The answer to PING or SET is a line; that to GET is a line with a number and then so many bytes, which may
have line ends in them. `read_reply` reads either, and the time counts until all of it was read. Each user has
a key of its own, which expires a minute after the test. TLS is `--host tls://...`. Left out: nested answers,
passwords.
"""

from __future__ import annotations

import random

from locust import between, task

import gnet
from gnet.locust import LineUser

PIPELINE = 32
LARGEST = 1000  # bytes of a value
LIFETIME = b"60"  # seconds


def encode(*words: bytes) -> bytes:
    """Give a command as an array of strings, without the last line end: a `LineUser` adds that."""
    parts = [b"*%d" % len(words)]
    for word in words:
        parts += [b"$%d" % len(word), word]
    return b"\r\n".join(parts)


def read_reply(socket: gnet.Socket) -> bytes:
    """Read one answer: of a string its content, of all else its line (`+OK`, `:5`, `$-1`, `-ERR ...`)."""
    line = socket.recv_until(b"\r\n")[:-2]
    if line.startswith(b"$") and line != b"$-1":
        return socket.recv_exactly(int(line[1:]) + 2)[:-2]
    return line


def any_value() -> bytes:
    return random.randbytes(random.randint(1, LARGEST))  # line ends among them


class RedisUser(LineUser):
    host = "tcp://127.0.0.1:6379"
    wait_time = between(0.001, 0.01)
    timeout = 2000  # milliseconds, for each answer

    def on_start(self) -> None:
        self.key = b"gnet:" + random.randbytes(8).hex().encode()  # also among the users of other workers
        super().on_start()

    @task(4)
    def write_and_read(self) -> None:
        value = any_value()
        self.command(b"SET", self.key, value, b"EX", LIFETIME, expect=b"+OK")
        self.command(b"GET", self.key, expect=value)

    @task(2)
    def ping(self) -> None:
        self.command(b"PING", expect=b"+PONG")

    @task(1)
    def pipeline(self) -> None:
        commands, answers = [], []
        for value in (any_value() for _ in range(PIPELINE // 2)):
            commands += [encode(b"SET", self.key, value, b"EX", LIFETIME), encode(b"GET", self.key)]
            answers += [b"+OK", value]
        self.client.pipeline(commands, read=read_reply, expect=answers, name="pipeline")

    def command(self, *words: bytes, expect: bytes) -> None:
        """Send a command and judge its answer: an error of Redis is a wrong one, and among the failures."""
        self.client.request(encode(*words), read=read_reply, expect=expect, name=words[0].decode())
