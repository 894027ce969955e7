"""Resets, half-closes, garbage and silent clients, beside good ones: the good ones must not fail, nor wait.

What abusers meet is no failure of the server, so long as a client that has only closed its sending side (as
`nc -N` does) still gets its answer. Each deed has a row of type ABUSE, with the time it took.
"""

from __future__ import annotations

import os
import socket as stdlib
import struct
import time
from collections.abc import Callable

from locust import constant, task

import gnet
from gnet.locust import SocketUser
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio
from loadtests.load.servers.lines import PING, PONG
from loadtests.load.users import TIMEOUT, Pinger, Trusting
from loadtests.load.verdicts import declare

SILENCE = 1500  # milliseconds that a silent client stays, if the server lets it
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with RST
PINGS = 50 * (PING + b"\r\n")


class BesideAbusers(Pinger):
    pass


class Abuser(Trusting, SocketUser):
    fixed_count = 20
    connect = "per_task"
    wait_time = constant(0.02)

    def do(self, name: str, deed: Callable[[gnet.Socket], None]) -> None:
        """Connect, do it, and record that."""
        if not self.client.connect():
            return
        connection = self.client.socket
        assert connection is not None
        started = time.perf_counter()
        error: Exception | None = None
        try:
            deed(connection)
        except AssertionError as wrong:
            error = wrong
        except OSError:
            pass  # the server ended it, which is its right
        self.environment.events.request.fire(
            request_type="ABUSE",
            name=name,
            response_time=(time.perf_counter() - started) * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    @task(3)
    def reset_in_a_line(self) -> None:
        self.do("reset in a line", lambda client: self.reset(client, b"half a li"))

    @task(3)
    def reset_before_the_answers(self) -> None:
        self.do("reset before the answers", lambda client: self.reset(client, PINGS))

    @staticmethod
    def reset(client: gnet.Socket, data: bytes) -> None:
        client.send(data)
        client.set_sock_opt(stdlib.SO_LINGER, RESET, stdlib.SOL_SOCKET)
        client.close(timeout=0)

    @task(3)
    def half_close(self) -> None:
        self.do("half-close", self.close_one_half)

    @staticmethod
    def close_one_half(client: gnet.Socket) -> None:
        client.send(PING + b"\r\n")
        client.shutdown(stdlib.SHUT_WR)
        answer = client.read_line(timeout=TIMEOUT)
        assert answer == PONG, f"after a half-close: expected {PONG!r}, got {answer!r}"
        rest = client.recv(1, timeout=TIMEOUT)
        assert not rest, f"after a half-close: more than the answer, {rest!r}"

    @task(3)
    def garbage(self) -> None:
        self.do("garbage", self.send_garbage)

    @staticmethod
    def send_garbage(client: gnet.Socket) -> None:
        client.send(os.urandom(4096), timeout=TIMEOUT)
        client.recv_some(4096, timeout=20)

    @task(1)
    def silence(self) -> None:
        self.do("silence", self.say_nothing)

    @staticmethod
    def say_nothing(client: gnet.Socket) -> None:
        client.recv_some(1, timeout=SILENCE)


declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    AtLeast(5, ("ABUSE", "reset in a line")),
    AtLeast(5, ("ABUSE", "reset before the answers")),
    AtLeast(5, ("ABUSE", "half-close")),
    AtLeast(5, ("ABUSE", "garbage")),
    AtLeast(1, ("ABUSE", "silence")),
    P99Ratio(5, ("LINE", "ping")),
    users=70,
    main=("LINE", "ping"),
)
