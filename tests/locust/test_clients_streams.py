"""StreamClient: answers and pushes that come when they come, told apart by a key."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Any

import gevent
import pytest
from locust.exception import StopTest

import gnet
from gnet.locust import StreamUser
from tests.locust.support import SOON, Peer, answering, new_user, serving, using, wait_until


class KeyedUser(StreamUser):
    """Messages are `KEY text`; `!` is a mistake."""

    abstract = True

    def message_key(self, message: bytes) -> Hashable | None:
        if message == b"!":
            raise ValueError("no key")
        return message.split()[0]


def echo(line: bytes) -> bytes:
    return line


def test_answers_find_their_requests_by_key_in_any_order() -> None:
    def handle(peer: Peer) -> None:
        lines = [peer.line() for _ in range(3)]
        for line in reversed(lines):
            peer.send(line)
        peer.wait_for_end()

    with serving(handle) as served, using(KeyedUser, served.host) as (client, seen):
        sent = [client.send(b"%d x" % number, b"%d" % number, name="ask") for number in range(3)]
        assert [pending.wait().data for pending in sent] == [b"0 x", b"1 x", b"2 x"]
        assert seen.rows() == [("STREAM", "ask", "ok")] * 3
        times = [pending.wait().response_time for pending in sent]
        assert min(times) > 0


def test_a_request_waits_for_its_answer_and_judges_it() -> None:
    with serving(answering(echo)) as served, using(KeyedUser, served.host) as (client, seen):
        assert client.request(b"1 a", b"1", expect=b"1 a", name="ask").ok
        assert not client.request(b"1 a", b"1", expect=b"2 a", name="ask").ok
        with client.request(b"1 a", b"1", name="ask", catch_response=True) as response:
            response.failure("no")
        assert [row[2] for row in seen.rows()] == ["ok", "WrongAnswerError", "CatchResponseError"]
        with pytest.raises(StopTest, match="expect: "):
            client.request(b"1", b"1", expect=7)


def test_the_same_key_twice_is_answered_in_order() -> None:
    with serving(answering(echo)) as served, using(KeyedUser, served.host) as (client, _seen):
        first, second = (client.send(b"k %d" % number, b"k") for number in range(2))
        assert (first.wait().data, second.wait().data) == (b"k 0", b"k 1")


def test_the_time_of_an_answer_is_its_own() -> None:
    with serving(answering(echo, 0.050)) as served, using(KeyedUser, served.host) as (client, _seen):
        for _ in range(20):
            milliseconds = client.request(b"1", b"1").response_time
            assert milliseconds >= 50
            if milliseconds <= 55:
                break
        else:
            pytest.fail(f"never within 55 ms; {milliseconds} at last")


def test_what_nobody_waits_for_is_a_push() -> None:
    pushes = []
    with (
        serving(answering(lambda line: b"news 1\r\n" + line)) as served,
        using(KeyedUser, served.host, on_push=lambda _user, message: pushes.append(message)) as (
            client,
            seen,
        ),
    ):
        assert client.request(b"1", b"1").ok
        assert pushes == [b"news 1"]
        assert seen.rows() == [("STREAM", "request", "ok")]


def test_a_push_can_be_expected_since_somebody_else_sent_what_it_is_for() -> None:
    peers: list[Peer] = []

    def relay(peer: Peer) -> None:
        peers.append(peer)
        while line := peer.line():
            for other in peers:
                other.send(line)

    with (
        serving(relay) as served,
        using(KeyedUser, served.host) as (alice, _),
        using(KeyedUser, served.host) as (bob, seen),
    ):
        alice.connect()
        bob.connect()
        wait_until(lambda: len(peers) == 2)
        started = time.perf_counter() - 1
        pending = bob.expect(b"m1", name="to bob", since=started)
        alice.send(b"m1 hello")
        assert pending.wait().data == b"m1 hello"
        assert pending.wait().response_time > 1000
        assert seen.rows() == [("STREAM", "to bob", "ok")]


def test_what_does_not_come_in_time_is_lost_and_the_connection_goes_on() -> None:
    gate = gevent.event.Event()

    def handle(peer: Peer) -> None:
        peer.line()
        second = peer.line()
        peer.send(second)
        gate.wait()
        peer.send(b"1 late\r\n")
        peer.send(peer.line())
        peer.wait_for_end()

    pushes: list[bytes] = []
    with (
        serving(handle) as served,
        using(
            KeyedUser, served.host, timeout=4 * SOON, on_push=lambda _user, message: pushes.append(message)
        ) as (client, seen),
    ):
        lost = client.send(b"1", b"1", name="one")
        kept = client.send(b"2", b"2", name="two")
        assert kept.wait().ok
        error = lost.wait().exception
        assert isinstance(error, gnet.TimeoutError)
        assert str(error) == f"STREAM: lost: nothing within {4 * SOON} ms"
        assert lost.wait().response_time >= 4 * SOON
        gate.set()
        assert client.request(b"3", b"3", name="three").ok
        assert pushes == [b"1 late"]
        assert sorted(seen.rows()) == [
            ("STREAM", "one", "TimeoutError"),
            ("STREAM", "three", "ok"),
            ("STREAM", "two", "ok"),
        ]


def test_losses_are_found_one_after_the_other() -> None:
    with (
        serving(lambda peer: peer.wait_for_end()) as served,
        using(KeyedUser, served.host, timeout=SOON) as (client, seen),
    ):
        for number in range(3):
            client.send(b"x", b"%d" % number)
            gevent.sleep(SOON / 5000)
        client.settle()
        assert len(seen.rows()) == 3
        assert all(event.milliseconds >= SOON for event in seen[1:])


def test_an_end_fails_all_that_was_to_come_and_the_next_request_connects_anew() -> None:
    def handle(peer: Peer) -> None:
        if peer.number:
            answering(echo)(peer)
        else:
            peer.line()
            peer.line()

    with serving(handle) as served, using(KeyedUser, served.host) as (client, seen):
        both = [client.send(b"1", b"1"), client.send(b"2", b"2")]
        assert all(isinstance(each.wait().exception, gnet.IncompleteReadError) for each in both)
        assert client.request(b"3", b"3").ok
        assert [row[2] for row in seen.rows()] == ["IncompleteReadError", "IncompleteReadError", "ok"]


def test_a_key_of_a_lost_request_is_free_for_the_next_one() -> None:
    def handle(peer: Peer) -> None:
        if peer.number:
            answering(echo)(peer)
        else:
            peer.line()

    with serving(handle) as served, using(KeyedUser, served.host) as (client, _seen):
        assert not client.request(b"k 1", b"k").ok
        assert client.request(b"k 2", b"k", expect=b"k 2").ok
        client.close()
        assert client.request(b"k 3", b"k", expect=b"k 3").ok


def test_an_end_while_nothing_is_to_come_is_a_failure_of_the_connection() -> None:
    with serving(lambda peer: peer.line()) as served, using(KeyedUser, served.host) as (client, seen):
        client.send(b"QUIT")
        wait_until(lambda: not client.connected)
        assert seen.rows() == [("STREAM", "connection", "IncompleteReadError")]


def test_closing_is_no_failure_and_lets_nobody_wait() -> None:
    with serving(lambda peer: peer.wait_for_end()) as served, using(KeyedUser, served.host) as (client, seen):
        pending = client.send(b"1", b"1")
        waiting = gevent.spawn(pending.wait)
        gevent.sleep(0)
        client.close()
        assert isinstance(waiting.get(timeout=5).exception, gnet.ClosedError)
        assert seen.rows() == []


def test_a_mistake_in_the_users_methods_is_an_error_of_the_user_and_reading_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving(answering(lambda line: b"!\r\n" + line)) as served:
        user, seen = new_user(KeyedUser, served.host)
        errors: list[Any] = []
        user.environment.events.user_error.add_listener(lambda exception, **_: errors.append(exception))
        try:
            assert user.client.request(b"1", b"1").ok
            assert [str(error) for error in errors] == ["no key"]
            assert "no key" in caplog.text
            assert seen.rows() == [("STREAM", "request", "ok")]
        finally:
            user.client.close()


def test_a_refused_connection_is_one_failure_and_no_request() -> None:
    with using(KeyedUser, "tcp://127.0.0.1:1") as (client, seen):
        assert client.send(b"1", b"1") is None
        assert [event.kind for event in seen] == ["CONNECT"]


def test_messages_may_be_frames() -> None:
    def handle(peer: Peer) -> None:
        while prefix := peer.exactly(2):
            peer.send(prefix + peer.exactly(int.from_bytes(prefix, "little")))

    with (
        serving(handle) as served,
        using(KeyedUser, served.host, framed=True, prefix_size=2, byte_order="little") as (client, _seen),
    ):
        assert client.request(b"k\n\n", b"k", expect=b"k\n\n").ok


@pytest.mark.parametrize(
    ("base", "attributes", "words"),
    [
        (StreamUser, {}, r"define message_key\(message\)"),
        (KeyedUser, {"connect": "per_request"}, "connects on_start or per_task"),
    ],
)
def test_a_stream_user_that_can_not_be_is_refused(base: Any, attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(StopTest, match=words):
        new_user(base, "tcp://127.0.0.1:1", **attributes)
