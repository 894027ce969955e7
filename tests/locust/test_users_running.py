"""Users in a real runner: when they connect, what they survive, how they stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket
from locust import TaskSet, constant, tag, task
from locust.env import Environment
from locust.event import Events
from locust.exception import StopTest

import gnet
from gnet.locust import (
    ConnectedUser,
    DatagramUser,
    FramedUser,
    LineUser,
    SocketUser,
    StreamUser,
)
from tests.locust.support import (
    GUARD_SECONDS,
    Peer,
    Seen,
    answering,
    new_user,
    refused_port,
    serving,
    wait_until,
)

PONG = answering(b"+PONG\r\n")


class Idle(LineUser):
    abstract = True
    wait_time = constant(0.001)


class Pinger(Idle):
    abstract = True

    @task
    def ping(self) -> None:
        self.client.request(b"PING", expect=b"+PONG", name="ping")


class Run:
    """Users of one class in a local runner."""

    def __init__(self, environment: Environment, runner: Any, seen: Seen) -> None:
        self.environment = environment
        self.runner = runner
        self.seen = seen

    def wait_for(self, condition: Callable[[], object]) -> None:
        wait_until(condition)

    def requests(self, outcome: str = "ok") -> int:
        return sum(row[2] == outcome for row in self.seen.rows())


@contextmanager
def running(
    base: type[Any], host: str, users: int = 1, stop_timeout: float = 0, **attributes: Any
) -> Iterator[Run]:
    user_class = type("Someone", (base,), {"abstract": False, "host": host} | attributes)
    environment = Environment(user_classes=[user_class], events=Events(), stop_timeout=stop_timeout)
    seen = Seen()
    hooks: Any = environment.events
    hooks.request.add_listener(seen.listen)
    runner = environment.create_local_runner()
    try:
        runner.start(users, spawn_rate=users)
        yield Run(environment, runner, seen)
    finally:
        runner.quit()


# When they connect


def test_a_user_connects_on_start_and_keeps_the_connection() -> None:
    with serving(PONG) as served, running(Pinger, served.host, users=3) as run:
        run.wait_for(lambda: run.requests() > 20)
        assert len(served.peers) == 3
        assert run.seen.kinds().count("CONNECT") == 3


def test_a_user_that_does_nothing_is_connected_all_the_same() -> None:
    idle = {"tasks": [lambda _user: gevent.sleep(GUARD_SECONDS)]}
    with serving(PONG) as served, running(LineUser, served.host, users=3, **idle):
        wait_until(lambda: len(served.peers) == 3)


def test_an_on_start_of_ones_own_may_ask_at_once() -> None:
    answers = []

    def on_start(user: Any) -> None:
        answers.append(user.client.request(b"HELLO", expect=b"+PONG").ok)

    with serving(PONG) as served, running(Pinger, served.host, on_start=on_start) as run:
        run.wait_for(lambda: run.requests() > 3)
        assert answers == [True]
        assert len(served.peers) == 1


def test_per_task_makes_a_connection_for_each_task() -> None:
    ended = []

    def twice(user: Any) -> None:
        for _ in range(2):
            user.client.request(b"PING", expect=b"+PONG", name="ping")
        ended.append(len(served.peers))

    with (
        serving(PONG) as served,
        running(Idle, served.host, connect="per_task", tasks=[twice]) as run,
    ):
        run.wait_for(lambda: len(ended) >= 4)
        assert ended[:4] == [1, 2, 3, 4]
        kinds = run.seen.kinds()
        assert kinds[:6] == ["CONNECT", "LINE", "LINE"] * 2


def test_per_task_takes_a_nested_task_set_for_one_task() -> None:
    class Inner(TaskSet):
        @task
        def some(self) -> None:
            for _ in range(2):
                self.client.request(b"PING", expect=b"+PONG")
            self.interrupt()

    with (
        serving(PONG) as served,
        running(Idle, served.host, connect="per_task", tasks=[Inner]) as run,
    ):
        run.wait_for(lambda: run.requests() >= 4)
        assert run.seen.kinds()[:6] == ["CONNECT", "LINE", "LINE"] * 2


def test_per_task_closes_the_connection_of_a_task_that_fails() -> None:
    def failing(user: Any) -> None:
        user.client.request(b"PING", expect=b"+PONG")
        raise ValueError("mine")

    with (
        serving(PONG) as served,
        running(Idle, served.host, connect="per_task", tasks=[failing]) as run,
    ):
        run.wait_for(lambda: run.requests() >= 3)
        assert run.seen.kinds()[:4] == ["CONNECT", "LINE"] * 2


def test_per_task_keeps_to_the_tags() -> None:
    class Tagged(Pinger):
        abstract = True

        @tag("other")
        @task
        def other(self) -> None:
            self.client.request(b"OTHER")

    user_class: Any = type("Someone", (Tagged,), {"abstract": False, "host": "tcp://127.0.0.1:1"})
    user_class.connect = "per_task"
    environment = Environment(user_classes=[user_class], events=Events(), tags=["other"])
    environment.assign_equal_weights()
    environment.create_local_runner().quit()
    environment._filter_tasks_by_tags()
    assert [each.__name__ for each in user_class(environment).tasks] == ["other"]


def test_per_request_makes_a_connection_for_each_request() -> None:
    with (
        serving(PONG) as served,
        running(Pinger, served.host, connect="per_request") as run,
    ):
        run.wait_for(lambda: run.requests() >= 5)
        assert run.seen.kinds()[:6] == ["CONNECT", "LINE"] * 3
        assert {event.exception for event in run.seen} == {None}


def test_a_stream_user_per_task_waits_for_what_is_to_come() -> None:
    class Keyed(StreamUser):
        abstract = True
        wait_time = constant(0.001)
        connect = "per_task"

        def message_key(self, message: bytes) -> bytes:
            return message

        @task
        def send_two(self) -> None:
            for key in (b"a", b"b"):
                self.client.send(key, key, name="send")

    with serving(answering(lambda line: line, 0.01)) as served, running(Keyed, served.host) as run:
        run.wait_for(lambda: run.requests() >= 4)
        assert run.seen.kinds()[:6] == ["CONNECT", "STREAM", "STREAM"] * 2


def test_each_connection_is_made_known_to_the_user() -> None:
    def greet(peer: Peer) -> None:
        peer.send(b"220 hello\r\n")
        if peer.number == 0:
            peer.send(peer.line())  # one answer, then the end
        else:
            PONG(peer)

    greetings = []

    def on_connect(user: Any) -> None:
        greetings.append(user.client.read_line())

    with serving(greet) as served, running(Pinger, served.host, on_connect=on_connect) as run:
        run.wait_for(lambda: run.requests() >= 3)
        assert greetings == [b"220 hello", b"220 hello"]


def test_a_connection_that_fails_in_on_connect_is_no_endless_loop() -> None:
    def on_connect(user: Any) -> None:
        user.client.request(b"LOGIN", name="login")
        user.client.request(b"MORE", name="more")  # not over a connection of its own

    with serving(lambda peer: peer.line()) as served:
        user, seen = new_user(LineUser, served.host, on_connect=on_connect)
        assert not user.client.request(b"PING").ok
        assert seen.rows() == [("LINE", "login", "IncompleteReadError")]
        assert len(served.peers) == 1


def test_source_addresses_are_taken_in_turn() -> None:
    with (
        serving(PONG) as served,
        running(
            Pinger, served.host, users=4, source_addresses=["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        ) as run,
    ):
        run.wait_for(lambda: len(served.addresses) == 4)
        run.wait_for(lambda: run.requests() > 4)
        assert served.addresses == ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]


# What they survive


def test_a_user_survives_whatever_the_server_does() -> None:
    def moody(peer: Peer) -> None:
        peer.line()
        match peer.number % 5:
            case 0:
                peer.reset()
            case 1:
                peer.send(b"half")
            case 2:
                peer.send(b"+WRONG\r\n")
            case 3:
                peer.send(b"+PONG\r\n+PONG\r\n")
            case 4:
                peer.wait_for_end()

    with (
        serving(moody) as served,
        running(Pinger, served.host, timeout=100) as run,
    ):
        run.wait_for(lambda: len(served.peers) >= 11)
        outcomes = {row[2] for row in run.seen.rows()}
        assert outcomes >= {
            "ConnectionResetError",
            "IncompleteReadError",
            "WrongAnswerError",
            "UnexpectedDataError",
            "TimeoutError",
        }
        assert run.runner.exceptions == {}
        assert run.runner.user_count == 1


def test_users_of_a_server_that_is_not_there_go_on_quietly(caplog: pytest.LogCaptureFixture) -> None:
    port = refused_port()
    with running(Pinger, f"tcp://127.0.0.1:{port}", users=2) as run:
        run.wait_for(lambda: run.requests("ConnectionRefusedError") >= 4)
        assert run.runner.user_count == 2
        assert run.runner.exceptions == {}
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            run.wait_for(lambda: run.seen.kinds().count("CONNECT") > run.requests("ConnectionRefusedError"))
    assert "Traceback" not in caplog.text
    assert "refused" not in caplog.text


def test_without_reconnect_a_user_ends_with_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    def once(peer: Peer) -> None:
        peer.send(peer.line())

    with (
        serving(once) as served,
        running(Pinger, served.host, users=2, reconnect=False) as run,
    ):
        run.wait_for(lambda: len(served.peers) == 2 and run.runner.user_count == 0)
        gevent.sleep(0.02)
        assert len(served.peers) == 2
        assert run.runner.exceptions == {}
    with running(Pinger, f"tcp://127.0.0.1:{refused_port()}", reconnect=False) as run:
        run.wait_for(lambda: run.requests("ConnectionRefusedError") and run.runner.user_count == 0)
        assert run.requests("ConnectionRefusedError") == 1
    assert "Traceback" not in caplog.text


def test_a_mistake_in_a_task_ends_the_test_with_one_message(caplog: pytest.LogCaptureFixture) -> None:
    def wrong(user: Any) -> None:
        user.client.request(b"PING", expect="+PONG")

    with serving(PONG) as served, running(Idle, served.host, users=3, tasks=[wrong]) as run:
        run.wait_for(lambda: run.runner.state == "stopped")
        assert run.environment.process_exit_code == 1
    messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert messages == ["expect: expected bytes, got str '+PONG'; encode it, e.g. .encode()"]
    assert "Traceback" not in caplog.text


# How they stop


def test_stopping_closes_the_connections() -> None:
    ended = []

    def handle(peer: Peer) -> None:
        try:
            PONG(peer)
        finally:
            ended.append(peer.number)

    with serving(handle) as served:
        with running(Pinger, served.host, users=3) as run:
            run.wait_for(lambda: run.requests() > 3)
        wait_until(lambda: sorted(ended) == [0, 1, 2])


def test_on_stop_may_still_ask() -> None:
    got = []

    def handle(peer: Peer) -> None:
        while line := peer.line():
            got.append(line)
            peer.send(b"+PONG\r\n")

    with serving(handle) as served:
        with running(
            Pinger, served.host, on_stop=lambda user: user.client.request(b"QUIT", expect=b"+PONG")
        ) as run:
            run.wait_for(lambda: run.requests() > 1)
        wait_until(lambda: got[-1] == b"QUIT\r\n")


def test_a_user_that_ends_in_whatever_way_leaves_no_connection() -> None:
    ended = []

    def handle(peer: Peer) -> None:
        try:
            PONG(peer)
        finally:
            ended.append(peer.number)

    class Odd(BaseException):
        """Which Locust does not catch."""

    def end(user: Any) -> None:
        user.client.request(b"PING")
        raise Odd

    with serving(handle) as served, running(Idle, served.host, tasks=[end]) as run:
        run.wait_for(lambda: ended == [0])


@pytest.mark.parametrize("stop_timeout", [0, 60])
def test_stopping_does_not_wait_for_a_pause_between_attempts(stop_timeout: float) -> None:
    with running(Pinger, f"tcp://127.0.0.1:{refused_port()}", stop_timeout=stop_timeout) as run:
        run.wait_for(lambda: run.requests("ConnectionRefusedError") >= 5)
        gevent.sleep(0.05)  # into the next pause, which takes 1.6 s
        started = time.monotonic()
        run.runner.stop()
        assert time.monotonic() - started < 1
        assert run.runner.user_count == 0


# What is said in a class


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"host": None}, "no host"),
        ({"host": "http://127.0.0.1:80"}, "there is no http"),
        ({"host": "tcp://127.0.0.1"}, "no port"),
        ({"connect": "always"}, "connect: expected one of on_start, per_task, per_request, got 'always'"),
        ({"timeout": -5}, "timeout: expected milliseconds"),
        ({"timeout": "5"}, "timeout: expected milliseconds"),
        ({"source_addresses": "127.0.0.1"}, "expected a list of addresses"),
        ({"source_addresses": ["localhost"]}, "expected IP addresses, got 'localhost'"),
        ({"host": "unix:/x", "source_addresses": ["127.0.0.1"]}, "a Unix socket has no address"),
        ({"host": "tls://127.0.0.1:1", "tls": lambda: None}, "gives an SslContext, got NoneType"),
        ({"host": "tls://127.0.0.1:1", "tls": lambda: gnet.new_context(ca_file="/nowhere")}, "/nowhere"),
        ({"line_end": "\n"}, "line_end: expected bytes, got str"),
        ({"max_length": 0}, "max_length: expected at least 1, got 0"),
    ],
)
def test_a_class_that_is_wrong_ends_the_test_with_a_message(attributes: dict[str, Any], words: str) -> None:
    host = attributes.pop("host", "tcp://127.0.0.1:1")
    with pytest.raises(StopTest, match=words) as refused:
        new_user(LineUser, host, **attributes)
    assert str(refused.value).startswith("Someone: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("base", [ConnectedUser, LineUser, SocketUser, FramedUser, DatagramUser, StreamUser])
def test_the_users_are_for_subclasses(base: type[ConnectedUser]) -> None:
    assert base.abstract


def test_a_datagram_user_speaks_udp_only() -> None:
    with pytest.raises(StopTest, match="does not speak tcp; expected udp://HOST:PORT"):
        new_user(DatagramUser, "tcp://127.0.0.1:1")
    assert new_user(DatagramUser, "127.0.0.1:1")[0].client.kind == "UDP"


# Open loop


def test_the_first_request_of_a_task_counts_from_when_it_was_due() -> None:
    def on_connect(user: Any) -> None:
        user.client.request(b"LOGIN", name="login")

    with serving(PONG) as served:
        user, seen = new_user(LineUser, served.host, on_connect=on_connect)
        user.intended_start = time.perf_counter() - 1
        user.client.request(b"PING", name="first")
        user.client.request(b"PING", name="second")
        user.intended_start = time.perf_counter() - 1
        user.client.pipeline([b"1", b"2"], name="many")
        user.intended_start = time.perf_counter() + 1000  # still to come: it counts from the send
        user.client.request(b"PING", name="early")
        user.client.close()
        late = [event.name for event in seen if event.milliseconds >= 1000]
        assert late == ["first", "many", "many"]
        assert all(event.milliseconds > 0 for event in seen)


def test_the_timeout_counts_from_the_send_all_the_same() -> None:
    with serving(PONG) as served:
        user, seen = new_user(LineUser, served.host, timeout=5000)
        user.intended_start = time.perf_counter() - 10
        assert user.client.request(b"PING", expect=b"+PONG").ok
        user.client.close()
        assert seen[-1].milliseconds >= 10_000
