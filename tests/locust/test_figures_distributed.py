"""Figures of a master and its workers, as real processes: the server's own counters say what is true."""

from __future__ import annotations

import json
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import gevent
import pytest

import gnet
from tests.locust.locust_processes import (
    LOCUSTFILE,
    ending,
    finish,
    free_port,
    pong,
    run_distributed,
    start,
)

# Stopping takes longer than the half second in which Locust's master waits for the last reports.
SLOW_TO_STOP: Final = (
    LOCUSTFILE
    + """
    def on_stop(self):
        import gevent
        gevent.sleep(0.8)
"""
)


def row_of(figures: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [row for row in figures["rows"] if row["name"] == name]
    return row


def requests_in_locusts_table(output: str) -> int:
    """Give how many pings the table says that Locust prints at the end."""
    (*_, line) = re.findall(r"^LINE +ping +(\d+) +0\(0\.00%\)", output, re.MULTILINE)
    return int(line)


def test_master_and_workers_count_what_the_server_counts(tmp_path: Path) -> None:
    with gnet.Server(pong, "127.0.0.1") as server:
        status, output, workers = run_distributed(
            tmp_path,
            2,
            *("--host", f"tcp://127.0.0.1:{server.port}", "-u", 4, "-r", 4, "-t", "1s"),
            *("--stop-timeout", 10, "--gnet-figures", "figures.json", "--only-summary"),
            locustfile=SLOW_TO_STOP,
        )
        stats = server.stats()
    assert (status, [worker[0] for worker in workers]) == (0, [0, 0]), (output, workers)
    figures = json.loads((tmp_path / "figures.json").read_text())
    ping = row_of(figures, "ping")
    assert ping["requests"] == stats["lines_in"] == requests_in_locusts_table(output)
    assert ping["failures"] == 0
    assert sum(count for _, count in ping["times_ms"]) == ping["requests"]
    assert sum(row["requests"] for row in figures["rows"] if row["type"] == "CONNECT") == stats["accepted"]


def test_a_test_that_ends_while_users_are_spawned_loses_nothing(tmp_path: Path) -> None:
    with gnet.Server(pong, "127.0.0.1") as server:
        status, output, workers = run_distributed(
            tmp_path,
            1,
            *("--host", f"tcp://127.0.0.1:{server.port}", "-u", 400, "-r", 40, "-t", "2s"),
            *("--stop-timeout", 10, "--gnet-figures", "figures.json", "--only-summary"),
            locustfile=SLOW_TO_STOP.replace("0.8", "1.5"),  # more are to be spawned meanwhile
        )
        stats = server.stats()
    assert (status, workers[0][0]) == (0, 0), (output, workers)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert row_of(figures, "ping")["requests"] == stats["lines_in"], (output, workers)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_from_outside_loses_nothing(how: signal.Signals, tmp_path: Path) -> None:
    """For all processes: SIGTERM as from a service manager or at the end of a job in CI, SIGINT by Ctrl-C."""
    port = free_port()
    reached = gevent.event.Event()

    def answer(client: gnet.Socket, address: str) -> None:
        for count, _ in enumerate(client.lines()):
            client.send(b"PONG\r\n")
            if count >= 20:
                reached.set()

    with ExitStack() as stack, gnet.Server(answer, "127.0.0.1") as server:
        where = ("--host", f"tcp://127.0.0.1:{server.port}", "-u", 4, "-r", 4, "--stop-timeout", 10)
        there = ("--headless", "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port)
        more = ("--expect-workers", 2, "--gnet-figures", "figures.json", "--only-summary")
        master = stack.enter_context(ending(start(tmp_path, *there, *more, *where)))
        command = ("--worker", "--master-host", "127.0.0.1", "--master-port", port)
        workers = [stack.enter_context(ending(start(tmp_path, *command))) for _ in range(2)]
        readers = [gevent.spawn(finish, each) for each in (master, *workers)]
        was_reached = reached.wait(40)
        for process in (master, *workers):
            process.send_signal(how)
        gevent.joinall(readers, raise_error=True)
        assert was_reached, [reader.get() for reader in readers]
        stats = server.stats()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert row_of(figures, "ping")["requests"] == stats["lines_in"], [reader.get() for reader in readers]


def test_a_mistake_that_a_worker_finds_ends_the_test_on_the_master_with_status_1(tmp_path: Path) -> None:
    status, output, workers = run_distributed(
        tmp_path, 1, "--host", "http://127.0.0.1", "-u", 2, "-r", 2, "-t", "40s", "--only-summary"
    )
    assert (status, [worker[0] for worker in workers]) == (1, [1]), (output, workers)
    for said in (output, workers[0][1]):
        assert said.count("Pinger: host 'http://127.0.0.1': there is no http; expected tcp://HOST:PORT") == 1
        assert "Traceback" not in said
    assert "run-time limit" not in output
