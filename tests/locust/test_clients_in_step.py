"""Each answer belongs to its request: late, partial, surplus and stray ones are never taken for another's."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from locust.exception import LocustError, StopUser

import gnet
from gnet.locust import FramedUser, LineUser, SocketUser, StreamUser
from tests.locust.support import Peer, answering, serving, using, wait_until

BEHIND = 0.03
"""Seconds after which a request looks whether something has come since the last answer."""

PONG = answering(b"+PONG\r\n")


def two_lines(socket: gnet.Socket) -> bytes:
    return socket.read_line() + b" " + socket.read_line()


# After a timeout


def test_the_content_of_a_frame_that_stalls_is_not_taken_for_a_frame() -> None:
    def stalls(peer: Peer) -> None:
        peer.exactly(5)
        peer.send((1000).to_bytes(4, "big") + bytes(500))  # of which four are the length of an empty frame
        peer.wait_for_end()

    with serving(stalls) as served, using(FramedUser, served.host, timeout=50) as (client, seen):
        response = client.request(b"x")
        assert seen.rows() == [("FRAME", "request", "TimeoutError")]
        assert response.data == b""


def test_a_frame_that_was_cut_short_goes_on_if_the_connection_is_kept() -> None:
    def late(peer: Peer) -> None:
        peer.exactly(5)
        peer.send((4).to_bytes(4, "big"))
        peer.exactly(5)
        peer.send(b"late")
        peer.wait_for_end()

    keeping = {"timeout": 50, "drop_after_timeout": False}
    with serving(late) as served, using(FramedUser, served.host, **keeping) as (client, _):
        assert not client.request(b"x").ok
        assert client.request(b"y", timeout=5000).data == b"late"


def test_a_reader_of_ones_own_is_not_called_again_after_a_timeout() -> None:
    calls = []

    def read(socket: gnet.Socket) -> bytes:
        calls.append(socket)
        return two_lines(socket)

    def half(peer: Peer) -> None:
        peer.line()
        peer.send(b"250-one\r\n")
        peer.wait_for_end()

    with serving(half) as served, using(LineUser, served.host, timeout=50) as (client, seen):
        client.request(b"EHLO", read=read)
        assert seen.rows() == [("LINE", "EHLO", "TimeoutError")]
        assert len(calls) == 1


# Strays


def test_a_second_answer_that_comes_late_is_a_failure_and_not_the_next_answer() -> None:
    sent = gevent.event.Event()

    def twice(peer: Peer) -> None:
        while line := peer.line():
            peer.send(line)
            if peer.number == 0:
                gevent.sleep(0.005)
                peer.send(b"again\r\n")
                sent.set()

    with serving(twice) as served, using(LineUser, served.host) as (client, seen):
        assert client.request(b"one").data == b"one"
        sent.wait()
        gevent.sleep(BEHIND)
        assert client.request(b"two").data == b"two"
        assert client.pipeline([b"three", b"four"]).data == [b"three", b"four"]
        failed = [event for event in seen if event.exception]
        assert [event.name for event in failed] == ["two"]
        assert "no request waited for b'again\\r\\n'" in str(failed[0].exception)
        assert len(served.peers) == 2


def test_a_pipeline_finds_a_stray_too() -> None:
    def greets(peer: Peer) -> None:
        if peer.number == 0:
            peer.send(b"220 hello\r\n")
        PONG(peer)

    with serving(greets) as served, using(LineUser, served.host) as (client, seen):
        client.connect()
        gevent.sleep(BEHIND)
        assert client.pipeline([b"PING"] * 2, expect=b"+PONG", name="ping").ok
        assert seen.rows() == [("LINE", "ping", outcome) for outcome in ("UnexpectedDataError", "ok", "ok")]


def test_what_is_left_of_a_greeting_is_not_the_first_answer() -> None:
    def greets(peer: Peer) -> None:
        peer.send(b"220-hello\r\n220 there\r\n" if peer.number == 0 else b"220 hello\r\n")
        PONG(peer)

    def read_greeting(user: Any) -> None:
        user.client.read_line()

    with (
        serving(greets) as served,
        using(LineUser, served.host, on_connect=read_greeting) as (client, seen),
    ):
        client.connect()
        assert client.request(b"PING", name="ping").data == b"+PONG"
        assert seen.rows() == [("LINE", "ping", "UnexpectedDataError"), ("LINE", "ping", "ok")]


# Pipelines


def test_answers_before_one_that_is_too_long_count() -> None:
    def long(peer: Peer) -> None:
        for _ in range(4):
            peer.line()
        peer.send(b"a\r\n\r\n" + b"x" * 60 + b"\r\nd\r\n")
        peer.wait_for_end()

    with serving(long) as served, using(LineUser, served.host, max_length=50) as (client, seen):
        result = client.pipeline([b"1", b"2", b"3", b"4"], name="p")
        assert result.data == [b"a", b""]
        assert [row[2] for row in seen.rows()] == ["ok", "ok", "LineTooLongError", "LineTooLongError"]


def test_answers_before_a_user_is_stopped_count() -> None:
    def half(peer: Peer) -> None:
        for _ in range(4):
            peer.line()
        peer.send(b"a\r\nb\r\n")
        peer.wait_for_end()

    with serving(half) as served, using(LineUser, served.host) as (client, seen):
        user = gevent.spawn(client.pipeline, [b"1", b"2", b"3", b"4"], name="p")
        wait_until(lambda: served.peers)
        gevent.sleep(0.02)
        user.kill()
        assert len(seen.rows()) <= 2  # none, if this machine was too slow
        assert {row[2] for row in seen.rows()} <= {"ok"}
        assert not client.connected


def test_a_pipeline_can_have_answers_of_more_than_a_line() -> None:
    def bulk(line: bytes) -> bytes:
        return b"$5\r\n" + line.strip().ljust(5) + b"\r\n"

    with serving(answering(bulk)) as served, using(LineUser, served.host) as (client, seen):
        result = client.pipeline([b"a", b"b"], read=two_lines, expect=[b"$5 a    ", b"$5 x    "], name="get")
        assert result.data == [b"$5 a    ", b"$5 b    "]
        assert [row[2] for row in seen.rows()] == ["ok", "WrongAnswerError"]


@pytest.mark.parametrize("how", [{"size": 7}, {"until": b"\r\n"}, {"read": lambda s: s.recv_exactly(7)}])
def test_raw_bytes_can_be_pipelined(how: dict[str, Any]) -> None:
    with serving(PONG) as served, using(SocketUser, served.host) as (client, seen):
        result = client.pipeline([b"PING\r\n"] * 3, **how, expect=b"+PONG\r\n", name="ping")
        assert result.ok
        assert seen.rows() == [("RAW", "ping", "ok")] * 3


# Whose request ends otherwise


def test_a_request_whose_user_ends_in_expect_has_been_answered() -> None:
    def stop(answer: bytes) -> bool:
        raise StopUser

    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with pytest.raises(StopUser):
            client.request(b"PING", expect=stop)
        with pytest.raises(StopUser):
            client.pipeline([b"PING"] * 2, expect=stop)
        assert seen.rows() == [("LINE", "PING", "ok")] * 3


def test_a_block_that_a_timeout_of_the_task_ends_is_a_failure() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with (
            gevent.Timeout(0.01, False),
            client.request(b"PING", name="ping", catch_response=True),
        ):
            gevent.sleep(10)
        assert seen.rows() == [("LINE", "ping", "TimeoutError")]


def test_a_stream_request_that_a_timeout_of_the_task_ends_still_has_its_outcome() -> None:
    keys = {"message_key": lambda self, message: message}
    with (
        serving(lambda peer: peer.wait_for_end()) as served,
        using(StreamUser, served.host, timeout=50, **keys) as (client, seen),
    ):
        with gevent.Timeout(0.01, False), client.request(b"x", b"x", catch_response=True):
            pass
        wait_until(seen.rows)
        assert seen.rows() == [("STREAM", "request", "TimeoutError")]


def test_a_with_block_without_catch_response_is_told_what_it_lacks() -> None:
    with (
        serving(PONG) as served,
        using(LineUser, served.host) as (client, _),
        pytest.raises(LocustError, match="pass catch_response=True"),
        client.request(b"PING"),
    ):
        pass


# Texts


def test_a_server_that_never_says_the_same_makes_a_bounded_number_of_texts() -> None:
    numbers = iter(range(1000))
    with (
        serving(answering(lambda _: b"-ERR request %d\r\n" % next(numbers))) as served,
        using(LineUser, served.host) as (client, seen),
    ):
        for _ in range(300):
            client.request(b"PING", expect=b"+PONG")
        texts = [str(event.exception) for event in seen if event.exception]
        assert len(texts) == 300
        assert len(set(texts)) == 101
        assert texts[-1] == "not the answer that was expected (100 others are shown in full)"
