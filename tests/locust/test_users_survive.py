"""What does not end a user, and what ends a test again, after it was started anew."""

from __future__ import annotations

import errno
from typing import Any

import gevent
import pytest
from locust import TaskSet, constant, task

import gnet
from gnet.locust import LineUser
from gnet.locust import install as install_gnet
from gnet.locust.connections import Connector
from tests.locust.support import Peer, Tls, answering, new_tls, refused_port, serving, using, wait_until
from tests.locust.test_users_running import PONG, Idle, Pinger, running


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return new_tls(tmp_path_factory.mktemp("tls"))


def cut_short(user: Any) -> None:
    with gevent.Timeout(0.01):
        user.client.request(b"PING", name="ping")


class Nested(TaskSet):
    wait_time = constant(0.001)

    @task
    def cut_short(self) -> None:
        cut_short(self.user)


@pytest.mark.parametrize("asks", [cut_short, Nested])
def test_a_timeout_of_gevent_that_leaves_a_task_does_not_end_the_user(asks: Any) -> None:
    with (
        serving(lambda peer: peer.wait_for_end()) as served,
        running(Idle, served.host, tasks=[asks]) as run,
    ):
        run.wait_for(lambda: run.requests("TimeoutError") >= 3)
        assert run.runner.user_count == 1
        (error,) = run.runner.exceptions.values()
        assert "a task was cut short by its gevent.Timeout: 0.01 seconds" in error["msg"]


def test_a_login_that_fails_is_followed_by_a_pause() -> None:
    def log_in(user: Any) -> None:
        if user.client.read_line(name="greeting") != b"220 hello":
            user.client.close()

    def busy(peer: Peer) -> None:
        peer.send(b"421 too busy\r\n")
        peer.wait_for_end()

    with serving(busy) as served, using(LineUser, served.host, on_connect=log_in) as (client, _):
        connector: Connector = client._connector
        pauses = []
        for _ in range(3):
            assert not client.connect()
            pauses.append(connector._pause_seconds)
            connector._not_before = 0.0
        assert pauses == [0.1, 0.2, 0.4]


def test_a_second_test_with_the_same_mistake_ends_with_its_message_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong(user: Any) -> None:
        user.client.request(b"PING", expect="+PONG")

    with serving(PONG) as served, running(Idle, served.host, tasks=[wrong]) as run:
        run.wait_for(lambda: run.runner.state == "stopped")
        install_gnet(run.environment)  # as Locust's own command has it, before
        for _ in range(2):
            caplog.clear()
            run.runner.start(1, spawn_rate=1)
            run.wait_for(lambda: caplog.records and run.runner.state == "stopped")
            assert "expect: expected bytes, got str" in caplog.text
            assert run.environment.process_exit_code == 1


@pytest.mark.parametrize(
    ("code", "sources", "hint"),
    [
        (errno.EADDRNOTAVAIL, (), "no local port is left for this server: use source_addresses"),
        (errno.EADDRNOTAVAIL, ("127.0.0.1",), "is it an address of this machine"),
        (errno.EADDRINUSE, ("127.0.0.1",), "are there ports left of it"),
    ],
)
def test_a_lack_of_local_ports_is_said_with_what_helps(
    code: int, sources: tuple[str, ...], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dial(*_: Any, **__: Any) -> gnet.Socket:
        raise OSError(code, "dial 127.0.0.1:7000: what the system says")

    monkeypatch.setattr("gnet.locust.connections.dial", dial)
    with using(Pinger, "tcp://127.0.0.1:7000", source_addresses=sources) as (client, seen):
        client.connect()
        assert seen[0].exception.errno == code
        assert hint in str(seen[0].exception)


def test_another_error_of_connecting_has_no_hint() -> None:
    with using(Pinger, f"tcp://127.0.0.1:{refused_port()}") as (client, seen):
        client.connect()
        assert str(seen[0].exception).endswith("Connection refused")


def test_a_client_tells_where_it_connects_to() -> None:
    with using(LineUser, "tls://[::1]:7443") as (client, _):
        assert (client.target.scheme, client.target.address, client.target.port) == ("tls", "::1", 7443)


# Resumption


@pytest.mark.parametrize(
    ("resume", "rows"),
    [(True, ["", " resumed", " resumed"]), (False, ["", "", ""])],
)
def test_sessions_are_resumed_unless_that_is_switched_off(resume: bool, rows: list[str], tls: Tls) -> None:
    with (
        serving(answering(b"+PONG\r\n"), scheme="tls", context=tls.server) as served,
        using(LineUser, served.host, tls=tls.client, resume=resume, connect="per_request") as (client, seen),
    ):
        for _ in range(3):
            assert client.request(b"PING").ok
        name = f"127.0.0.1:{served.port}"
        assert [event.name.removeprefix(name) for event in seen if event.kind == "TLS"] == rows


def test_without_resumption_a_context_must_be_made_anew(tls: Tls) -> None:
    with (
        pytest.raises(Exception, match="resume: False needs a function in tls"),
        using(LineUser, "tls://127.0.0.1:7443", tls=tls.client(), resume=False),
    ):
        pass


def test_the_waiting_is_over_when_a_connection_was_good() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, _):
        client._connector.back_off()
        client._connector._not_before = 0.0
        assert client.connect()
        assert client._connector._pause_seconds == 0.0
        wait_until(lambda: len(served.peers) == 1)
