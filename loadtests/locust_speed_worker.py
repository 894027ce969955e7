"""One run of `locust_speed.py`: users of one kind in one process, and the figures of it as a line of JSON.

python -m loadtests.locust_speed_worker CLIENT REQUESTS_AT_ONCE PORT USERS SECONDS
"""

from __future__ import annotations

from locust import User, constant, task  # isort: skip  # first: it patches the process
import json
import resource
import socket
import sys
import time
from typing import Any

import gevent
from locust.env import Environment

RAMP_SECONDS = 1.0
NAME = "ping"


class MakefileUser(User):
    """By hand, as well as it goes without gnet."""

    abstract = True
    wait_time = constant(0)
    depth = 1
    port = 0
    timeout: float | None = None

    def on_start(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        self.socket.settimeout(self.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.message = b"PING\r\n" * self.depth
        self.fire: Any = self.environment.events.request.fire

    def on_stop(self) -> None:
        self.file.close()
        self.socket.close()

    @task
    def ping(self) -> None:
        started = time.perf_counter()
        self.socket.sendall(self.message)
        for _ in range(self.depth):
            answer = self.file.readline()
            milliseconds = (time.perf_counter() - started) * 1000
            error = None if answer == b"+PONG\r\n" else ValueError(f"wrong answer: {answer[:60]!r}")
            self.fire(
                request_type="LINE",
                name=NAME,
                response_time=milliseconds,
                response_length=len(answer),
                exception=error,
                context={},
            )


def gnet_user() -> type[User]:
    """Give the user of gnet. Not for the others to import: it has Locust round times in its own way."""
    from gnet.locust import LineUser

    class GnetUser(LineUser):
        abstract = True
        wait_time = constant(0)
        depth = 1

        @task
        def ping(self) -> None:
            if self.depth == 1:
                self.client.request(b"PING", expect=b"+PONG", name=NAME)
            else:
                self.client.pipeline([b"PING"] * self.depth, expect=b"+PONG", name=NAME)

    return GnetUser


def main() -> None:
    client, depth, port, users, seconds = sys.argv[1:]
    base: Any = gnet_user() if client.startswith("gnet") else MakefileUser
    attributes = {
        "depth": int(depth),
        "port": int(port),
        "host": f"tcp://127.0.0.1:{port}",
        "abstract": False,
    }
    if client == "makefile +timeout":
        attributes["timeout"] = 5.0
    user_class = type("Pinger", (base,), attributes)
    environment = Environment(user_classes=[user_class])
    runner = environment.create_local_runner()
    if client == "gnet +listener":
        hooks: Any = environment.events
        hooks.request.add_listener(lambda **_: None)
    runner.start(int(users), spawn_rate=10 * int(users))
    gevent.sleep(RAMP_SECONDS)
    environment.stats.reset_all()
    started, cpu = time.perf_counter(), cpu_ns()
    gevent.sleep(float(seconds))
    total = environment.stats.get(NAME, "LINE")
    result = {
        "requests": total.num_requests,
        "failures": environment.stats.total.num_failures + len(runner.exceptions),
        "errors": [error.error for error in environment.stats.errors.values()][:3],
        "seconds": time.perf_counter() - started,
        "cpu_ns": cpu_ns() - cpu,
    }
    runner.quit()
    print(json.dumps(result), flush=True)


def cpu_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return round((used.ru_utime + used.ru_stime) * 1e9)


if __name__ == "__main__":
    main()
