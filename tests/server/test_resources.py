"""A process that runs out of something: descriptors, memory, ports, a place for its log.

Each in a process of its own (`tests.server.programs`), since it is the whole process that has none.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import gevent
import pytest
from gevent import socket, subprocess

from tests.faults.peers import network_namespace
from tests.server.peers import (
    GUARD,
    Running,
    ask,
    connect,
    receive_all,
    running_program,
    wait_until,
)

ROOT: Final = Path(__file__).parents[2]
PORTS_PROGRAM: Final = [sys.executable, "-m", "tests.server.programs", "without_ports"]

LIMIT: Final = 64
"""Descriptors that the process may have."""


def line_of(client: socket.socket, line: bytes) -> str:
    """Send a line; give the line that is answered."""
    client.sendall(line + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        part = client.recv(4096)
        assert part, f"the end came after {answer!r}"
        answer += part
    return answer.decode().strip()


def fate(port: int, patience: float = GUARD / 1000) -> str:
    """What becomes of a new client: `"answer"`, `"reset"`, `"end"` or `"hang"`."""
    client = socket.socket()
    with closing(client):
        client.settimeout(patience)
        try:
            client.connect(("127.0.0.1", port))
            return "answer" if ask(client) == b"ping\n" else "end"
        except TimeoutError:
            return "hang"
        except (ConnectionResetError, BrokenPipeError):
            return "reset"


# B1: no descriptor for a client


@contextmanager
def exhausted(overflow: str = "backlog") -> Iterator[tuple[Running, int, socket.socket]]:
    """A server with one client, and no descriptor left for another."""
    with (
        running_program("without_descriptors", LIMIT, overflow) as (program, port),
        closing(connect(("127.0.0.1", port))) as client,
    ):
        assert ask(client) == b"ping\n"
        assert int(program.say("take")) > 10
        yield program, port, client


@pytest.mark.parametrize("overflow", ["backlog", "reset"])
def test_b1_without_descriptors_new_clients_are_reset_and_the_others_served(overflow: str) -> None:
    with exhausted(overflow) as (program, port, client):
        for _ in range(30):
            assert fate(port) == "reset"
            assert ask(client) == b"ping\n"
        assert int(program.say("rejected")) == 30
        program.say("give 1")
        assert fate(port) == "answer"


def test_b1_the_log_has_at_most_one_line_a_second_and_the_cpu_rests() -> None:
    start = time.monotonic()
    with exhausted() as (program, port, client), many_waiting(port, 60):
        before = cpu_seconds(program.pid)
        end = time.monotonic() + 2.2
        while time.monotonic() < end:
            fate(port)
            assert ask(client) == b"ping\n"
            gevent.sleep(0.02)
        assert cpu_seconds(program.pid) - before < 0.5 * 2.2
    lines = program.errors.splitlines()
    assert "Traceback" not in program.errors
    # Those that were reset are a kind of their own.
    assert 1 <= sum("accept" in line for line in lines) <= time.monotonic() - start + 1
    assert "Too many open files" in program.errors
    assert len(lines) <= 2 * (time.monotonic() - start + 1)


def test_b1_without_descriptors_and_with_nobody_connecting_the_cpu_rests() -> None:
    with exhausted() as (program, port, client):
        assert fate(port) == "reset"
        before, errors = cpu_seconds(program.pid), int(program.say("errors"))
        gevent.sleep(0.5)
        assert cpu_seconds(program.pid) - before < 0.1
        assert int(program.say("errors")) - errors <= 15
        assert ask(client) == b"ping\n"


def test_b1_a_server_without_descriptors_can_be_stopped() -> None:
    with exhausted() as (program, port, client):
        assert fate(port) == "reset"
        start = time.monotonic()
        assert program.say("stop") == "None"
        assert time.monotonic() - start < 5
        assert receive_all(client) == b""


@contextmanager
def many_waiting(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            clients.append(client)
        yield clients


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_b1_clients_that_wait_get_a_reset_and_do_not_hang() -> None:
    with exhausted() as (_program, port, client), many_waiting(port, 40) as clients:
        for waiting in clients:
            waiting.settimeout(GUARD / 1000)
            with suppress(ConnectionResetError):
                assert waiting.recv(1) == b"", "an answer without a descriptor"
        assert ask(client) == b"ping\n"


def test_b1_a_free_descriptor_is_used_within_100_ms() -> None:
    with exhausted() as (program, port, _client):
        assert fate(port) == "reset"
        for _ in range(5):
            program.say("give 1")
            start = time.monotonic()
            assert fate(port) == "answer"
            assert time.monotonic() - start < 0.1 * 5
            program.say("take")
            assert fate(port) == "reset"


def test_b1_the_spare_descriptor_lost_to_another_is_taken_back() -> None:
    with exhausted() as (program, port, client):
        # All of them are waiting while the handlers' own opening takes what is free.
        for _ in range(20):
            program.say("give 2")
            program.say("take")
            assert fate(port) == "reset"
        program.say("give 5")
        assert fate(port) == "answer"
        assert ask(client) == b"ping\n"


def test_b1_afterwards_no_descriptor_is_missing() -> None:
    with running_program("without_descriptors", LIMIT) as (program, port):
        before = program.say("descriptors")
        for _ in range(3):
            taken = program.say("take")
            for _ in range(10):
                assert fate(port) == "reset"
            program.say(f"give {taken}")
        assert fate(port) == "answer"
        wait_until(lambda: program.say("descriptors") == before, "all descriptors are back")


# B3, B4: no descriptor for something else


@pytest.mark.parametrize("what", ["dial", "look up", "certificate"])
def test_b3_b4_without_descriptors_the_handler_gets_a_clear_error_and_the_server_lives(what: str) -> None:
    with exhausted() as (program, port, client):
        answer = line_of(client, what.encode())
        # Trust that is read already needs no descriptor: then there is nothing to fail.
        if what != "certificate" or answer != what:
            assert "Too many open files" in answer or "Errno 24" in answer, answer
            assert what == "certificate" or "127.0.0.1" in answer or "localhost" in answer
        assert ask(client) == b"ping\n"
        program.say("give 10")
        assert line_of(client, what.encode()) == what
        assert fate(port) == "answer"


@pytest.mark.parametrize("kind", ["tcp", "any", "unix"])
@pytest.mark.parametrize("free", [0, 1])
def test_b4_start_without_descriptors_leaves_nothing_open_and_can_be_tried_again(
    free: int, kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with running_program("start_without_descriptors", free, kind, path) as (program, _port):
        message, left, again = program.say("").split("|")
        assert "Too many open files" in message
        assert {"tcp": "127.0.0.1", "any": "::", "unix": str(path)}[kind] in message
        assert int(left) == free
        assert again == "ping"
    assert not path.exists()


# B8: no memory


def test_b8_a_handler_without_memory_ends_alone() -> None:
    with (
        running_program("with_little_memory", 100_000_000) as (program, port),
        closing(connect(("127.0.0.1", port))) as other,
    ):
        assert ask(other) == b"ping\n"
        for number in range(1, 6):
            with closing(connect(("127.0.0.1", port))) as greedy:
                greedy.sendall(b"eat\n")
                assert receive_all(greedy) == b""
            assert ask(other) == b"ping\n"
            assert int(program.say("errors")) == number
        assert fate(port) == "answer"
    assert "MemoryError" in program.errors
    assert program.errors.count("Traceback") <= 5


# B9, B10: memory over time


def churn(port: int, count: int) -> None:
    for _ in range(count):
        with closing(connect(("127.0.0.1", port))) as client:
            assert ask(client) == b"ping\n"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_b9_connections_that_come_and_go_leave_no_memory_behind() -> None:
    with running_program("count_memory") as (program, port):
        churn(port, 3000)
        before = int(program.say("memory"))
        churn(port, 5000)
        grown = int(program.say("memory")) - before
        # A leaked connection costs some KiB; the row's drift (below 1 byte) needs a million of them.
        assert grown / 5000 < 40


def hold(program: Running, port: int, count: int) -> int:
    """Hold so many connections at once; give how many bytes the server had then."""
    with ExitStack() as stack:
        for _ in range(count):
            assert ask(stack.enter_context(closing(connect(("127.0.0.1", port))))) == b"ping\n"
        held = int(program.say("memory"))
    wait_until(lambda: int(program.say("descriptors")) < 50, "the server has closed its ends")
    return held


def test_b6_a_thousand_idle_connections_take_ten_kib_each() -> None:
    with running_program("count_memory") as (program, port):
        fate(port)
        before = int(program.say("memory"))
        assert (hold(program, port, 1000) - before) / 1000 <= 12 * 1024


def test_b10_what_idle_connections_took_is_used_again() -> None:
    with running_program("count_memory") as (program, port):
        hold(program, port, 1000)
        first = hold(program, port, 1000)
        second = hold(program, port, 1000)
        assert second - first < 1000 * 1024


# B11: no port left


def test_b11_without_a_free_port_the_handler_gets_a_clear_error_and_the_server_lives() -> None:
    with network_namespace() as inside:
        setting = "/proc/sys/net/ipv4/ip_local_port_range"
        narrow = subprocess.run(
            [*inside, "sh", "-c", f"echo '40000 40009' > {setting}"], capture_output=True, check=False
        )
        if narrow.returncode:
            pytest.skip(f"ip_local_port_range can not be set here: {narrow.stderr.decode().strip()}")
        done = subprocess.run(
            [*inside, *PORTS_PROGRAM], capture_output=True, check=False, timeout=GUARD / 1000, cwd=ROOT
        )
    assert done.returncode == 0, done.stderr.decode()
    error, served = done.stdout.decode().splitlines()
    assert "Cannot assign requested address" in error
    assert "127.0.0.1:" in error
    assert served == "b'ping'"


# B14: no place for the log


@pytest.mark.parametrize("where", ["full", "closed", "pipe", "raising"])
def test_b14_a_server_whose_log_can_not_be_written_lives(where: str) -> None:
    with (
        running_program("log_to", where) as (program, port),
        closing(connect(("127.0.0.1", port))) as other,
    ):
        assert ask(other) == b"ping\n"
        for number in range(1, 6):
            with closing(connect(("127.0.0.1", port))) as client:
                client.sendall(b"fail\n")
                assert receive_all(client) == b""
            assert int(program.say("errors")) == number
            assert ask(other) == b"ping\n"
        wait_until(lambda: program.say("connections") == "1", "there is a place again")
        with closing(connect(("127.0.0.1", port))) as second:
            assert ask(second) == b"ping\n"
            assert fate(port) == "reset"  # and the refusal is logged
        wait_until(lambda: fate(port) == "answer", "there is a place again")
