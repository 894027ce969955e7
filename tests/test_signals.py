"""What signals do to a server that runs in the foreground: real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket as stdlib_socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

import gnet
from gnet.serving.foreground import serve
from gnet.serving.inherited import inherited_listeners
from gnet.serving.notify import notify, notify_reloading
from gnet.serving.signals import Signals
from tests.loopback import in_another_thread
from tests.serving_programs import (
    PATIENCE,
    Gate,
    Notifications,
    Program,
    Served,
    ask_over_tls,
    gate,
    gnet_serve,
    notifications,
    read_to_end,
    serve_command,
    serve_program,
)
from tests.tls.authorities import Issued, authority
from tests.tls.handshakes import client_context

pytestmark = pytest.mark.plain_only  # the servers are processes of their own, which patch themselves

IN_FLIGHT, QUEUED = 20, 10


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notifications]:
    with notifications(tmp_path) as made:
        yield made


@pytest.fixture
def waiting() -> Iterator[Gate]:
    with gate() as made:
        yield made


def drain_with_in_flight_and_queued(waiting: Gate, notified: Notifications, *options: object) -> list[bytes]:
    """Have a pool of 20 full and 10 connections queued, drain, and give all answers."""
    env = {**waiting.env, **notified.env}
    with gnet_serve("gated", "--pool-size", IN_FLIGHT, *options, env=env) as server:
        clients = []
        for number in range(IN_FLIGHT + QUEUED):
            client = server.connect()
            client.sendall(b"%d\n" % number)
            clients.append(client)
            if number == IN_FLIGHT - 1:
                waiting.wait_for(IN_FLIGHT)
        server.send(signal.SIGTERM)
        notified.wait_for("STOPPING=1")
        waiting.open()
        answers = [read_to_end(client) for client in clients]
        for client in clients:
            client.close()
        assert (server.wait(), server.errors) == (0, [])
    return answers


EXPECTED = [b"done %d\r\n" % number for number in range(IN_FLIGHT + QUEUED)]


def test_f1_sigterm_answers_who_is_served_and_who_is_queued(waiting: Gate, notified: Notifications) -> None:
    assert drain_with_in_flight_and_queued(waiting, notified) == EXPECTED


def test_f1_over_tls(waiting: Gate, notified: Notifications, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    env = {**waiting.env, **notified.env}
    with (
        client_context(tmp_path) as context,
        gnet_serve("gated", *certificate.options, "--pool-size", IN_FLIGHT, env=env) as server,
    ):
        clients = [
            gevent.spawn(ask_over_tls, server.port, context, b"%d\n" % number)
            for number in range(IN_FLIGHT + QUEUED)
        ]
        waiting.wait_for(IN_FLIGHT)
        # The other ten have no place: they are in the accept queue, in their handshake or wait for one.
        server.send(signal.SIGTERM)
        notified.wait_for("STOPPING=1")
        waiting.open()
        gevent.joinall(clients, raise_error=True)
        assert sorted(client.value for client in clients) == sorted(EXPECTED)
        assert (server.wait(), server.errors) == (0, [])


def test_f2_the_default_drain_waits_for_handlers(waiting: Gate, notified: Notifications) -> None:
    with gnet_serve("gated", env={**waiting.env, **notified.env}) as server:
        clients = [server.connect() for _ in range(30)]
        for client in clients:
            client.sendall(b"x\n")
        waiting.wait_for(30)
        server.send(signal.SIGTERM)
        notified.wait_for("STOPPING=1")
        waiting.open()
        assert [read_to_end(client) for client in clients] == [b"done x\r\n"] * 30
        for client in clients:
            client.close()
        assert (server.wait(), server.errors) == (0, [])


def test_f3_a_drain_with_a_limit_of_ten_seconds_answers_all(waiting: Gate, notified: Notifications) -> None:
    assert drain_with_in_flight_and_queued(waiting, notified, "--drain-timeout", 10_000) == EXPECTED


def test_what_is_not_finished_within_the_drain_timeout_is_reset_and_the_status_is_0(waiting: Gate) -> None:
    with gnet_serve("gated", "--drain-timeout", 50, env=waiting.env) as server, server.connect() as client:
        client.sendall(b"x\n")
        waiting.wait_for(1)
        server.send(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert (server.wait(), server.errors) == (0, [])


def test_ctrl_c_drains(waiting: Gate, notified: Notifications) -> None:
    env = {**waiting.env, **notified.env}
    with gnet_serve("gated", env=env) as server, server.connect() as client:
        client.sendall(b"x\n")
        waiting.wait_for(1)
        server.send(signal.SIGINT)
        notified.wait_for("STOPPING=1")
        waiting.open()
        assert read_to_end(client) == b"done x\r\n"
        assert (server.wait(), server.errors) == (0, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_ctrl_c_ends_at_once(waiting: Gate, notified: Notifications, workers: int) -> None:
    env = {**waiting.env, **notified.env}
    with gnet_serve("gated", "--workers", workers, env=env) as server, server.connect() as client:
        client.sendall(b"x\n")
        waiting.wait_for(1)
        server.send(signal.SIGINT)
        notified.wait_for("STOPPING=1")
        server.send(signal.SIGINT)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        assert (server.wait(), server.errors) == (0, [])


def test_a_signal_that_comes_while_the_handler_is_loaded_counts(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nhandler = print\n")
    with gnet_serve(f"{app}:handler") as server:
        assert (server.wait(), server.errors) == (0, [])


def test_ctrl_c_ends_a_handler_that_is_slow_to_load(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n")
    process = gevent.subprocess.run(serve_command(f"{app}:handler"), cwd=tmp_path.parent, timeout=PATIENCE)
    assert process.returncode == 130


def test_ctrl_c_while_the_handler_waits_in_its_import_prints_nothing(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)\n")
    with Program(serve_command(f"{app}:handler")) as program:
        assert program.read_line() == "loading\n"
        program.send(signal.SIGINT)
        assert (program.wait(), program.errors) == (130, [])


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"pool_size": "five"}, "TypeError: Server: pool_size: expected an int, got str\n"),
        ({"pool_size": 0}, "ValueError: Server: pool_size: expected at least 1, got 0\n"),
        ({"no_such": 1}, "TypeError: Server.__init__() got an unexpected keyword argument 'no_such'\n"),
    ],
    ids=["type", "value", "name"],
)
def test_a_wrong_argument_is_the_same_error_with_and_without_workers(
    wrong: dict[str, object], expected: str, workers: int
) -> None:
    with serve_program("who", json.dumps({"workers": workers, **wrong})) as server:
        assert server.wait() == 1
        assert server.errors[-1] == expected


def without_standard_error(*command: object) -> list[object]:
    return ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_without_standard_error_obeys_signals(workers: int, notified: Notifications) -> None:
    command = without_standard_error(*serve_command("who", "--workers", workers))
    with Served(command, env=notified.env) as server:
        assert notified.next() == "READY=1"
        server.send(signal.SIGUSR1)
        assert server.ask()
        server.send(signal.SIGTERM)
        assert server.wait() == 0


def test_a_closed_standard_error_becomes_no_socket(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        "import os\ndef handler(client, address):\n    client.send(os.readlink('/proc/self/fd/2').encode())\n"
    )
    with Served(without_standard_error(*serve_command(f"{app}:handler"))) as server:
        assert server.ask() == b"/dev/null"


def test_serve_puts_the_signal_handlers_back() -> None:
    with serve_program("who") as server:
        assert server.worker() == server.pid
        server.send(signal.SIGTERM)
        assert server.read_line() == "handlers restored\n"
        assert (server.wait(), server.errors) == (0, [])


def test_serve_outside_the_main_thread_says_so() -> None:
    error = in_another_thread(lambda: serve(print))
    assert isinstance(error, ValueError)
    assert "main thread" in str(error)


def test_the_soft_limit_of_descriptors_is_raised_first() -> None:
    command = ["sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh", *serve_command("kind", "--no-patch")]
    with Served(command) as server:
        assert int(server.ask().split()[1]) > 256
        server.end()


def test_sigusr1_writes_the_table_of_connections(waiting: Gate) -> None:
    with gnet_serve("gated", env=waiting.env) as server, server.connect() as client:
        client.sendall(b"x\n")
        waiting.wait_for(1)
        server.send(signal.SIGUSR1)
        assert "handlers.py" in server.wait_for_error(f"127.0.0.1:{client.getsockname()[1]}")


# Certificates


class Certificate:
    """Certificate files of a server, which can be replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "new").mkdir()
        self.cert, self.key = folder / "server.pem", folder / "server.key"
        self.options = ("--tls-cert", self.cert, "--tls-key", self.key)
        self.replace()

    def replace(self) -> Issued:
        issued = authority().issue("localhost", "127.0.0.1")
        files = issued.write(self._folder / "new")
        os.replace(files["cert_file"], self.cert)
        os.replace(files["key_file"], self.key)
        return issued


def certificate_of(server: Served, context: gnet.SslContext) -> bytes:
    with gnet.dial("localhost", server.port, ssl_context=context, timeout=PATIENCE * 1000) as client:
        return bytes(client.get_peer_certificates()[0])


def test_sighup_reads_the_certificates_again_and_connections_go_on(
    tmp_path: Path, notified: Notifications
) -> None:
    certificate = Certificate(tmp_path)
    with (
        client_context(tmp_path) as context,
        gnet_serve("echo", *certificate.options, env=notified.env) as server,
        gnet.dial("localhost", server.port, ssl_context=context, timeout=PATIENCE * 1000) as old,
    ):
        fresh = certificate.replace()
        assert certificate_of(server, context) != fresh.der
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert certificate_of(server, context) == fresh.der
        old.send(b"still here\n")
        assert old.read_line() == b"still here"
        old.close()
        server.end()


def test_sighup_with_a_broken_file_keeps_the_old_certificate_and_says_so(
    tmp_path: Path, notified: Notifications
) -> None:
    certificate = Certificate(tmp_path)
    with (
        client_context(tmp_path) as context,
        gnet_serve("echo", *certificate.options, env=notified.env) as server,
    ):
        before = certificate_of(server, context)
        certificate.cert.write_text("no certificate\n")
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert str(certificate.cert) in server.wait_for_error("SIGHUP")
        assert certificate_of(server, context) == before


def test_sighup_without_tls_is_harmless(notified: Notifications) -> None:
    with gnet_serve("who", env=notified.env) as server:
        server.send(signal.SIGHUP)
        notified.wait_for_reload()
        assert server.worker() == server.pid


# systemd


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_manager_is_told_of_ready_and_stopping(notified: Notifications, workers: int) -> None:
    with gnet_serve("echo", "--workers", workers, env=notified.env) as server:
        assert notified.next() == "READY=1"
        server.end()
        assert notified.next() == "STOPPING=1"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_manager_is_told_of_a_reload_and_when_it_began(
    notified: Notifications, workers: int
) -> None:
    with gnet_serve("echo", "--workers", workers, env=notified.env) as server:
        assert notified.next() == "READY=1"
        server.send(signal.SIGHUP)
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", notified.next())
        assert notified.next() == "READY=1"


def test_notify_knows_abstract_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with gevent.socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0gnet-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@gnet-test-{os.getpid()}")
        assert notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_notify_does_nothing_where_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify("READY=1")
    notify_reloading()


def activated(listener: Any, command: list[object], **how: Any) -> Served:
    """Start a program as systemd does: the socket is descriptor 3."""
    number = listener.fileno()
    script = f'exec 3<&{number} {number}<&-; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    return Served(["bash", "-c", script, "bash", *command], pass_fds=[number], **how)


@pytest.mark.parametrize("workers", [1, 2])
def test_sockets_of_systemd_are_served_and_stay_open_for_the_next_start(workers: int) -> None:
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:
        command = serve_command("echo", "--workers", workers)
        for _ in range(2):
            with activated(listener, command) as server:
                assert server.port == listener.getsockname()[1]
                with server.connect() as client:
                    client.sendall(b"hello\n")
                    assert client.recv(100) == b"hello\r\n"
                server.end()
            with server.connect():  # the queue is systemd's: not refused, though nobody serves it
                pass


def test_sockets_of_systemd_are_served_by_forked_workers_too() -> None:
    with gevent.socket.create_server(("127.0.0.1", 0)) as listener:
        code = (
            "import sys; from gnet.serving.foreground import serve; from tests.programs.handlers import who\n"
            "print('listening on 127.0.0.1:%s' % sys.argv[1], flush=True)\nserve(who, workers=2)"
        )
        command: list[object] = [sys.executable, "-W", "error", "-c", code, listener.getsockname()[1]]
        with activated(listener, command) as server:
            assert server.worker() != server.pid
            server.end()


def test_listen_fds_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_listeners() == []


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: gevent.socket.socket(), "no listening stream socket"),
        (lambda: gevent.socket.socket(type=stdlib_socket.SOCK_DGRAM), "no listening stream socket"),
        (lambda: Path(os.devnull).open(), "no socket"),  # noqa: SIM115  # the test enters it
    ],
    ids=["not listening", "datagrams", "a file"],
)
def test_listen_fds_that_are_no_listeners_are_refused(make: Any, complaint: str) -> None:
    with make() as wrong:
        number = wrong.fileno()
        script = f'exec 3<&{number} {number}<&-; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        command = [str(each) for each in serve_command("echo")]
        done = gevent.subprocess.run(
            ["bash", "-c", script, "bash", *command],
            pass_fds=[number],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=os.path.dirname(os.path.dirname(__file__)),
        )
        assert done.returncode == 2
        assert f"LISTEN_FDS: descriptor 3 is {complaint}" in done.stderr
        assert done.stderr.count("\n") == 1


# Signals


def test_signals_are_given_in_their_order_and_the_handlers_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR2)
    with Signals(signal.SIGUSR1, signal.SIGUSR2) as signals:
        assert signals.take() == []
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.take() == [signal.SIGUSR2, signal.SIGUSR1]
        assert signals.take() == []
    assert signal.getsignal(signal.SIGUSR2) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_signals_wake_who_waits_for_them() -> None:
    with Signals(signal.SIGUSR1) as signals:
        gevent.spawn_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        gevent.socket.wait_read(signals.fileno(), timeout=PATIENCE)
        assert signals.take() == [signal.SIGUSR1]
