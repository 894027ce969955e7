"""Open loop in whole tests: against a server that stops again and again, and one rate for all processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.event import Event
from locust import constant, task
from locust.env import Environment

import gnet
from gnet.locust import LineUser, arrival_rate
from gnet.locust.hooks import install
from tests.locust.locust_processes import pong, run_distributed

PATIENCE: Final = 40.0

# A second of every ten, five times as fast.
EVERY: Final = 2.0
STOPPED: Final = 0.2


class StoppingServer:
    """Answers lines at once, but for a time in which it does nothing; and again."""

    def __init__(self, times: int) -> None:
        self._answers = Event()
        self._answers.set()
        self._times = times
        self.done = Event()

    def handle(self, client: gnet.Socket, address: str) -> None:
        for _ in client.lines():
            self._answers.wait()
            client.send(b"PONG\r\n")

    def run(self) -> None:
        for _ in range(self._times):
            gevent.sleep(EVERY - STOPPED)
            self._answers.clear()
            gevent.sleep(STOPPED)
            self._answers.set()
        gevent.sleep(STOPPED)
        self.done.set()


def user_class(port: int, wait: Any) -> type[LineUser]:
    class Pinger(LineUser):
        host = f"tcp://127.0.0.1:{port}"
        wait_time = wait

        @task
        def ping(self) -> None:
            self.client.request(b"PING", expect=b"PONG", name="ping")

    return Pinger


@contextmanager
def running(user: type[LineUser], users: int, **options: Any) -> Iterator[Environment]:
    """Run users in this process until the end of the block."""
    environment = Environment(user_classes=[user], stop_timeout=10)
    runner = environment.create_local_runner()
    install(environment)
    runner.start(users, spawn_rate=users)
    try:
        yield environment
    finally:
        runner.quit()


def test_a_server_that_stops_shows_in_an_open_loop_only() -> None:
    """Two users each, a hundred requests a second or more; a tenth of the time nobody is answered."""
    server = StoppingServer(times=2)
    with gnet.Server(server.handle, "127.0.0.1") as listening:
        port = listening.port
        with (
            running(user_class(port, constant(0.005)), 2) as closed,
            running(user_class(port, arrival_rate(50)), 2) as opened,
        ):
            stopping = gevent.spawn(server.run)
            assert server.done.wait(PATIENCE)
            stopping.join()
        of_closed, of_open = (each.stats.get("ping", "LINE") for each in (closed, opened))
        # Of the open loop's requests 10 in 100 were due while the server stood, evenly over that time.
        assert of_open.get_response_time_percentile(0.99) > 1000 * STOPPED / 2
        # The closed loop's users asked once each time, and of their 1,000 requests 4 were slow.
        assert of_closed.get_response_time_percentile(0.99) < 1000 * STOPPED / 2 < of_closed.max_response_time
        assert (of_closed.num_failures, of_open.num_failures) == (0, 0)


def test_a_rate_is_kept_by_workers_together(tmp_path: Path) -> None:
    with gnet.Server(pong, "127.0.0.1") as server:
        status, output, workers = run_distributed(
            tmp_path,
            2,
            *("--host", f"tcp://127.0.0.1:{server.port}", "-u", 3, "-r", 3, "-t", "3s", "--gnet-rate", 100),
            *("--stop-timeout", 10, "--gnet-figures", "figures.json", "--only-summary"),
        )
        stats = server.stats()
    assert status == 0, (output, workers)
    figures = json.loads((tmp_path / "figures.json").read_text())
    arrivals = figures["arrivals"]
    (ping,) = [row for row in figures["rows"] if row["name"] == "ping"]
    assert ping["requests"] == stats["lines_in"] == arrivals["started"]
    # At their own wait time, three users would make some 500 a second.
    seconds = figures["seconds"]
    assert 100 * (seconds - 1.5) <= arrivals["started"] + arrivals["backlog"] <= 100 * (seconds + 0.5)
