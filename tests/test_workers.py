"""Several worker processes on shared listening sockets: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.subprocess
import pytest

from gnet.serving.channels import Channel, channel_pair
from tests.serving_programs import (
    PATIENCE,
    ROOT,
    Gate,
    Notifications,
    Program,
    Served,
    children,
    gate,
    gnet_serve,
    notifications,
    read_to_end,
    serve_command,
    serve_program,
)
from tests.test_signals import EXPECTED, Certificate, certificate_of, drain_with_in_flight_and_queued
from tests.tls.handshakes import client_context

pytestmark = pytest.mark.plain_only  # the servers are processes of their own, which patch themselves

GO_TO_THE_GATE = (
    "import os, socket\nwith socket.create_connection(('127.0.0.1', int(os.environ['GATE_PORT']))) as gate:\n"
    "    gate.recv(1)"
)

# Two workers with a place each: two clients at once are in two processes.
ONE_EACH = ("--workers", 2, "--pool-size", 1)


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notifications]:
    with notifications(tmp_path) as made:
        yield made


@pytest.fixture
def waiting() -> Iterator[Gate]:
    with gate() as made:
        yield made


class App:
    """A file with a handler, which can be changed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.py"
        self.handler = f"{self.file}:answer"
        self.write("one")

    def write(self, answer: str, first: str = "") -> None:
        """Have the handler give an answer; `first`: what is done when it is loaded."""
        text = f"{first}\ndef answer(client, address):\n    client.send({answer.encode()!r})\n"
        self.file.with_suffix(".new").write_text(text)
        os.replace(self.file.with_suffix(".new"), self.file)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


def held_client(server: Served) -> tuple[Any, int]:
    """Connect to a server of `held`; give the client and its worker."""
    client = server.connect()
    client.sendall(b"x\n")
    line = b""
    while not line.endswith(b"\r\n"):
        more = client.recv(100)
        assert more, line
        line += more
    return client, int(line)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Look at something of another process until it is so."""
    with gevent.Timeout(PATIENCE):
        while not condition():
            gevent.sleep(0.01)


# Starting and stopping


def test_workers_serve_side_by_side_and_none_of_them_is_the_supervisor(waiting: Gate) -> None:
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        (first, one), (second, two) = held_client(server), held_client(server)
        assert len({one, two, server.pid}) == 3
        waiting.open()
        assert read_to_end(first) == read_to_end(second) == b"done\r\n"
        first.close()
        second.close()
        server.end()


def test_f1_with_workers(waiting: Gate, notified: Notifications) -> None:
    # The last one of the options wins: two workers of ten places each.
    answers = drain_with_in_flight_and_queued(waiting, notified, "--workers", 2, "--pool-size", 10)
    assert answers == EXPECTED


def test_the_port_is_refused_once_a_drain_has_taken_what_was_queued(
    waiting: Gate, notified: Notifications
) -> None:
    env = {**waiting.env, **notified.env}
    with gnet_serve("held", "--workers", 2, env=env) as server:
        client, _ = held_client(server)
        server.send(signal.SIGTERM)
        notified.wait_for("STOPPING=1")

        def is_refused() -> bool:
            try:
                server.connect().close()
            except ConnectionError:
                return True
            return False

        wait_until(is_refused)
        waiting.open()
        assert read_to_end(client) == b"done\r\n"
        client.close()
        assert (server.wait(), server.errors) == (0, [])


def test_sigterm_to_all_processes_at_once_is_a_drain_too(waiting: Gate) -> None:
    # As systemd does it (KillMode=control-group).
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        clients = [held_client(server)[0] for _ in range(2)]
        queued = [server.connect() for _ in range(5)]
        for each in queued:
            each.sendall(b"x\n")
        for worker in children(server.pid):
            os.kill(worker, signal.SIGTERM)
        server.send(signal.SIGTERM)
        waiting.open()
        assert [read_to_end(each).splitlines()[-1] for each in clients + queued] == [b"done"] * 7
        for each in clients + queued:
            each.close()
        assert (server.wait(), server.errors) == (0, [])


def test_sigterm_while_the_first_workers_are_loaded_counts(app: App, waiting: Gate) -> None:
    app.write("one", first=GO_TO_THE_GATE)
    with Program(serve_command(app.handler, "--workers", 2), env=waiting.env) as server:
        waiting.wait_for(2)
        server.send(signal.SIGTERM)
        waiting.open()
        assert (server.wait(), server.errors) == (0, [])


def end_of(command: list[object]) -> tuple[int, str, str]:
    done = gevent.subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_first_worker_that_can_not_import_its_handler_makes_one_line_and_2(app: App, workers: int) -> None:
    app.write("one", first="import there_is_no_such_module")
    status, output, errors = end_of(serve_command(app.handler, "--workers", workers))
    assert (status, output) == (2, "")
    assert errors == (
        f"python -m gnet: {app.file} can not be loaded: ModuleNotFoundError: "
        f"No module named 'there_is_no_such_module' ({app.file}, line 1)\n"
    )


def test_a_first_worker_that_dies_makes_one_line_and_2(app: App) -> None:
    app.write("one", first="import os; os._exit(3)")
    assert end_of(serve_command(app.handler, "--workers", 3)) == (
        2,
        "",
        "python -m gnet: a worker ended with status 3 before it was ready\n",
    )


def test_a_worker_that_is_stuck_is_killed_in_the_end(notified: Notifications) -> None:
    with (
        gnet_serve("stuck", "--workers", 2, env=notified.env) as server,
        server.connect() as client,
    ):
        assert client.recv(100) == b"stuck\r\n"
        server.send(signal.SIGINT)
        notified.wait_for("STOPPING=1")
        server.send(signal.SIGINT)
        assert server.wait() == 0
        server.wait_for_error("does not end: killed")


def test_workers_drain_when_their_supervisor_is_killed(waiting: Gate) -> None:
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        client, worker = held_client(server)
        queued = [server.connect() for _ in range(3)]  # one of them has the second worker
        for each in queued:
            each.sendall(b"x\n")
        server.send(signal.SIGKILL)
        server.wait_for_error(f"worker {worker}: the supervisor is gone: draining")
        waiting.open()
        assert read_to_end(client) == b"done\r\n"
        assert [read_to_end(each).splitlines()[1] for each in queued] == [b"done"] * 3
        for each in (client, *queued):
            each.close()
        wait_until(lambda: not is_running(worker))
        with pytest.raises(ConnectionRefusedError):
            server.connect()


# Workers that die


def test_f5_a_killed_worker_is_replaced_and_only_its_own_connections_are_lost(waiting: Gate) -> None:
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        (lost, victim), (kept, other) = held_client(server), held_client(server)
        os.kill(victim, signal.SIGKILL)
        with suppress(ConnectionResetError):
            assert lost.recv(100) == b""
        server.wait_for_error(f"worker {victim} was killed by SIGKILL; another one is started")
        third, newcomer = held_client(server)  # the other one has no place free
        assert newcomer not in (victim, other)
        waiting.open()
        assert read_to_end(kept) == read_to_end(third) == b"done\r\n"
        for client in (lost, kept, third):
            client.close()
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_a_worker_that_dies_at_once_is_started_again_later_and_later(app: App) -> None:
    with gnet_serve(app.handler, "--workers", 2) as server:
        app.write("two", first="import os; os._exit(3)")
        os.kill(children(server.pid)[0], signal.SIGKILL)
        first = server.wait_for_error("ended with status 3 before it was ready; another one is started in")
        second = server.wait_for_error("is started in 0.4 s")
        assert first != second
        app.write("three")
        wait_until(lambda: server.ask() == b"three" or server.ask() == b"three")
        server.send(signal.SIGTERM)
        assert server.wait() == 0


# Reloading


def test_sighup_starts_workers_with_the_new_code(app: App, notified: Notifications) -> None:
    with gnet_serve(app.handler, "--workers", 2, env=notified.env) as server:
        assert server.ask() == b"one"
        app.write("two")
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert [server.ask() for _ in range(10)] == [b"two"] * 10
        server.end()


def test_f4_three_reloads_under_load_lose_nothing(notified: Notifications) -> None:
    clients, wanted = 64, 3_000
    answered, failed = 0, []
    reloads = gevent.event.Event()

    def ask_again_and_again(server: Served) -> None:
        nonlocal answered
        while not failed and (answered < wanted or not reloads.is_set()):
            try:
                assert server.ask(b"hello\n") == b"hello\r\n"
                answered += 1
            except (OSError, AssertionError) as error:
                failed.append(error)

    # 64 clients and eight places: there are always some in the queue.
    with gnet_serve("slow", "--workers", 2, "--pool-size", 4, env=notified.env) as server:
        load = [gevent.spawn(ask_again_and_again, server) for _ in range(clients)]
        for _ in range(3):
            server.send(signal.SIGHUP)
            notified.wait_for_reload()
        reloads.set()
        gevent.joinall(load, timeout=PATIENCE, raise_error=True)
        assert failed == []
        assert answered >= wanted
        server.end()


def test_an_old_worker_finishes_what_it_serves(waiting: Gate, notified: Notifications) -> None:
    with gnet_serve("held", "--workers", 2, env={**waiting.env, **notified.env}) as server:
        client, old = held_client(server)
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        other, new = held_client(server)
        assert new != old
        assert is_running(old)
        waiting.open()
        assert read_to_end(client) == read_to_end(other) == b"done\r\n"
        client.close()
        other.close()
        server.end()


@pytest.mark.parametrize("first", ["import there_is_no_such_module", "1 +", "import os; os._exit(3)"])
def test_a_new_worker_that_does_not_get_ready_leaves_the_old_ones_in_service(
    app: App, notified: Notifications, first: str
) -> None:
    with gnet_serve(app.handler, "--workers", 2, env=notified.env) as server:
        app.write("two", first=first)
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        server.wait_for_error("the old workers stay in service")
        assert [server.ask() for _ in range(10)] == [b"one"] * 10
        app.write("three")
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert [server.ask() for _ in range(10)] == [b"three"] * 10
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_a_broken_certificate_leaves_the_old_workers_in_service(
    tmp_path: Path, notified: Notifications
) -> None:
    certificate = Certificate(tmp_path)
    with (
        client_context(tmp_path) as context,
        gnet_serve("echo", *certificate.options, "--workers", 2, env=notified.env) as server,
    ):
        before = certificate_of(server, context)
        certificate.cert.write_text("no certificate\n")
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert str(certificate.cert) in server.wait_for_error("the old workers stay in service")
        assert certificate_of(server, context) == before
        fresh = certificate.replace()
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert certificate_of(server, context) == fresh.der


def test_sighups_during_a_reload_are_remembered_once(
    app: App, waiting: Gate, notified: Notifications
) -> None:
    with gnet_serve(app.handler, "--workers", 2, env={**waiting.env, **notified.env}) as server:
        assert notified.next() == "READY=1"
        app.write("two", first=GO_TO_THE_GATE)
        server.send(signal.SIGHUP)
        waiting.wait_for(1)  # the new worker is being loaded
        app.write("three", first=GO_TO_THE_GATE)
        for _ in range(3):
            server.send(signal.SIGHUP)
            server.send(signal.SIGUSR1)  # another number: the first one has been delivered by then
        waiting.open()
        for _ in range(2):
            assert notified.next().startswith("RELOADING=1")
            assert notified.next() == "READY=1"
        assert server.ask() == b"three"
        server.send(signal.SIGTERM)
        assert notified.next() == "STOPPING=1"
        assert server.wait() == 0


def test_a_worker_that_is_sent_sigterm_is_replaced_before_it_leaves(waiting: Gate) -> None:
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        (first, one), (second, two) = held_client(server), held_client(server)
        os.kill(one, signal.SIGTERM)
        third, new = held_client(server)
        assert new not in (one, two)
        waiting.open()
        assert [read_to_end(client) for client in (first, second, third)] == [b"done\r\n"] * 3
        for client in (first, second, third):
            client.close()
        wait_until(lambda: not is_running(one))
        server.end()


def test_sigusr1_has_every_worker_write_its_table(waiting: Gate) -> None:
    with gnet_serve("held", *ONE_EACH, env=waiting.env) as server:
        clients = [held_client(server)[0] for _ in range(2)]
        server.send(signal.SIGUSR1)
        for client in clients:
            server.wait_for_error(f"127.0.0.1:{client.getsockname()[1]}")
            client.close()


# Forks


@pytest.mark.parametrize("patched", [(), ("--patch",)], ids=["plain", "patched"])
def test_serve_forks_workers_reloads_them_and_drains(patched: tuple[str, ...], tmp_path: Path) -> None:
    with (
        notifications(tmp_path) as notified,
        serve_program("who", '{"workers": 2}', *patched, env=notified.env) as server,
    ):
        assert notified.next() == "READY=1"
        before = {server.worker() for _ in range(20)}
        assert server.pid not in before
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert not before & {server.worker() for _ in range(20)}
        server.send(signal.SIGTERM)
        assert server.read_line() == "handlers restored\n"
        assert (server.wait(), server.errors) == (0, [])


def test_forked_workers_read_the_certificates_of_a_context_again(
    tmp_path: Path, notified: Notifications
) -> None:
    certificate = Certificate(tmp_path)
    arguments = json.dumps({"workers": 2, "tls": [str(certificate.cert), str(certificate.key)]})
    with (
        client_context(tmp_path) as context,
        serve_program("who", arguments, env=notified.env) as server,
    ):
        notified.wait_for("READY=1")
        fresh = certificate.replace()
        assert certificate_of(server, context) != fresh.der
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert certificate_of(server, context) == fresh.der


def test_serve_says_why_a_worker_does_not_get_ready() -> None:
    with serve_program("who", '{"workers": 2, "max_connections": 0}') as server:
        assert server.wait() == 1
        assert "max_connections: expected at least 1, got 0" in server.errors[-1]


def test_f9_serve_does_not_fork_a_process_that_has_a_hub() -> None:
    with serve_program("who", '{"workers": 2}', "--hub") as server:
        assert server.wait() == 1
        assert server.errors[-1].startswith("RuntimeError: serve: several workers are forked before gevent")


@pytest.mark.parametrize("options", [(), ("--no-patch",)], ids=["patched", "plain"])
def test_f9_a_handler_that_forks_does_not_disturb_the_server(options: tuple[str, ...]) -> None:
    with gnet_serve("fork", *options) as server:
        waiting = [server.connect() for _ in range(5)]
        assert [server.ask() for _ in range(20)] == [b"7\r\n"] * 20
        for client in waiting:
            client.sendall(b"x\n")
            assert read_to_end(client) == b"7\r\n"
            client.close()
        server.end()


# The channel


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    ours, raw = channel_pair()
    theirs = Channel(raw)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_channel_carries_messages_both_ways(channels: tuple[Channel, Channel]) -> None:
    ours, theirs = channels
    theirs.send("ready")
    theirs.send("stats", stats={"accepted": 3})
    assert ours.take() == [{"is": "ready"}, {"is": "stats", "stats": {"accepted": 3}}]
    assert ours.take() == []
    ours.send("drain")
    assert theirs.take() == [{"is": "drain"}]


def test_a_channel_tells_that_the_other_end_is_gone_after_its_last_message(
    channels: tuple[Channel, Channel],
) -> None:
    ours, theirs = channels
    theirs.send("stats", stats={})
    theirs.close()
    assert ours.take() == [{"is": "stats", "stats": {}}]
    assert ours.ended
    ours.send("drain")
    assert ours.take() == []
