"""LineClient: requests, what is right about an answer, `with` blocks, pipelines."""

from __future__ import annotations

import re
from typing import Any

import gevent
import pytest
from locust.exception import CatchResponseError, LocustError, ResponseError, StopTest, StopUser

import gnet
from gnet.locust import LineUser, UnexpectedDataError, WrongAnswerError
from tests.locust.support import Peer, answering, serving, using

PONG = answering(b"+PONG\r\n")


def echo(line: bytes) -> bytes:
    return line


def test_a_request_adds_the_line_end_and_gives_the_answer_without_its_own() -> None:
    got = []

    def handle(peer: Peer) -> None:
        got.append(peer.line())
        peer.send(b"+PONG\r\n")
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING", expect=b"+PONG", name="ping")
        assert (response.data, response.exception, response.ok) == (b"+PONG", None, True)
        assert got == [b"PING\r\n"]
        assert [(event.kind, event.name, event.size) for event in seen] == [
            ("CONNECT", served.host.removeprefix("tcp://"), 0),
            ("LINE", "ping", 5),
        ]
        assert seen[1].milliseconds == response.response_time


def test_the_line_end_that_is_sent_can_be_another_one() -> None:
    with (
        serving(answering(lambda line: repr(line).encode() + b"\n")) as served,
        using(LineUser, served.host, line_end=b"\n") as (client, _seen),
    ):
        assert client.request(b"PING").data == b"b'PING\\n'"


@pytest.mark.parametrize(
    ("answer", "data"),
    [(b"\r\n", b""), (b"\n", b""), (b"x\n", b"x"), (b"ab\r\n", b"ab"), (1000 * b"x" + b"\n", 1000 * b"x")],
)
def test_an_answer_may_be_short_or_blank(answer: bytes, data: bytes) -> None:
    with serving(answering(answer)) as served, using(LineUser, served.host) as (client, seen):
        assert client.request(b"x", expect=data).ok
        assert client.request(b"x").data == data
        assert {event.exception for event in seen} == {None}


def test_without_a_name_the_row_is_the_first_word() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        client.request(b"SET key value")
        client.request(b"\xff\xfe")
        client.request(b"")
        assert [event.name for event in seen[1:]] == ["SET", "\\xff\\xfe", "blank"]


@pytest.mark.parametrize(
    "right", [b"+PONG", re.compile(rb"\+P\w+"), lambda answer: answer.startswith(b"+")], ids=repr
)
def test_an_answer_is_right_by_bytes_a_pattern_or_a_callable(right: Any) -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        assert client.request(b"PING", expect=right).ok
        assert client.pipeline([b"PING", b"PING"], expect=right).ok
        assert seen.rows() == [("LINE", "PING", "ok")] * 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"+PONG\r\n", r"expected b'\+PONG\\r\\n', got b'\+PONG'"),
        (re.compile(rb"\+P"), r"expected a match of b'\\\\\+P', got b'\+PONG'"),
        (lambda _answer: False, r"<lambda> does not accept b'\+PONG'"),
    ],
    ids=["bytes", "pattern", "callable"],
)
def test_another_answer_is_a_failure_and_the_connection_goes_on(wrong: Any, words: str) -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING", expect=wrong)
        assert isinstance(response.exception, WrongAnswerError)
        assert re.fullmatch(words, str(response.exception))
        assert response.data == b"+PONG"
        assert client.request(b"PING", expect=b"+PONG").ok
        assert seen.kinds() == ["CONNECT", "LINE", "LINE"]


def test_the_message_of_a_wrong_answer_is_escaped_and_bounded() -> None:
    with (
        serving(answering(b"\x1b[2J" + 5000 * b"x" + b"\n")) as served,
        using(LineUser, served.host) as (client, _seen),
    ):
        message = str(client.request(b"PING", expect=b"+PONG").exception)
        assert message.isprintable()
        assert len(message) < 120
        assert "(5004 bytes)" in message


def test_what_a_callable_raises_is_the_failure() -> None:
    def strict(answer: bytes) -> None:
        raise AssertionError("not this one")

    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING", expect=strict)
        assert isinstance(response.exception, AssertionError)
        assert seen.rows() == [("LINE", "PING", "AssertionError")]


@pytest.mark.parametrize("wrong", ["+PONG", 5, re.compile("x")], ids=repr)
def test_an_expectation_of_a_wrong_type_ends_the_test_with_a_message(wrong: Any) -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with pytest.raises(StopTest, match="expect: "):
            client.request(b"PING", expect=wrong)
        with pytest.raises(StopTest, match="expect: "):
            client.pipeline([b"PING"], expect=wrong)
        assert seen.rows() == []


@pytest.mark.parametrize("message", ["PING", 5, None], ids=repr)
def test_a_message_that_is_no_bytes_ends_the_test_with_a_message(message: Any) -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, _seen):
        with pytest.raises(StopTest, match="expected bytes, got"):
            client.request(message)
        with pytest.raises(StopTest, match="expected bytes, got"):
            client.pipeline([b"PING", message])


def test_an_answer_of_several_lines_is_read_by_a_callable() -> None:
    def read_bulk(socket: gnet.Socket) -> bytes:
        size = int(socket.read_line()[1:])
        data = socket.recv_exactly(size)
        socket.recv_exactly(2)
        return data

    with (
        serving(answering(b"$6\r\nab\r\ncd\r\n")) as served,
        using(LineUser, served.host) as (client, seen),
    ):
        assert client.request(b"GET key", read=read_bulk, expect=b"ab\r\ncd").ok
        assert client.request(b"GET key", read=read_bulk, expect=b"ab\r\ncd").ok
        assert seen.rows() == [("LINE", "GET", "ok")] * 2


def test_a_callable_that_reads_may_fail() -> None:
    def read(socket: gnet.Socket) -> bytes:
        socket.read_line()
        raise ValueError("no number")

    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        assert isinstance(client.request(b"PING", read=read).exception, ValueError)
        assert not client.connected  # who knows what it left behind
        assert seen.rows() == [("LINE", "PING", "ValueError")]


def test_more_than_one_answer_is_a_failure_and_drops_the_connection() -> None:
    with serving(answering(b"+PONG\r\n+PONG\r\n")) as served, using(LineUser, served.host) as (client, seen):
        response = client.request(b"PING", expect=b"+PONG")
        assert isinstance(response.exception, UnexpectedDataError)
        assert "b'+PONG\\r\\n' came behind it" in str(response.exception)
        assert not client.connected
        client.request(b"PING")
        assert seen.kinds() == ["CONNECT", "LINE", "CONNECT", "LINE"]


def test_the_context_of_user_and_request_is_in_the_event() -> None:
    with (
        serving(PONG) as served,
        using(LineUser, served.host, context=lambda _user: {"who": "me", "what": 0}) as (client, seen),
    ):
        client.request(b"PING", context={"what": 1})
        event = seen[-1]
        assert event.more["context"] == {"who": "me", "what": 1}
        assert event.more["response"].data == b"+PONG"
        assert event.more["start_time"] > 1e9


# With blocks


def test_a_block_records_the_request_when_it_ends() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with client.request(b"PING", catch_response=True) as response:
            assert response.data == b"+PONG"
            assert seen.rows() == []
        assert seen.rows() == [("LINE", "PING", "ok")]


def test_a_block_has_the_last_word() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with client.request(b"PING", catch_response=True) as response:
            response.failure("too short")
        with client.request(b"PING", expect=b"other", catch_response=True) as response:
            response.success()
        error = ValueError("no")
        with client.request(b"PING", catch_response=True) as response:
            response.failure(error)
        first, second, third = seen[1:]
        assert isinstance(first.exception, CatchResponseError)
        assert first.exception.args == ("too short",)
        assert second.exception is None
        assert third.exception is error


def test_a_failure_of_the_request_stays_one_unless_the_block_says_otherwise() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with client.request(b"PING", expect=b"other", catch_response=True) as response:
            assert not response.ok
        assert seen.rows() == [("LINE", "PING", "WrongAnswerError")]


def test_what_a_block_raises_is_the_failure_and_goes_on() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, seen):
        with pytest.raises(KeyError), client.request(b"PING", catch_response=True):
            raise KeyError("mine")
        with client.request(b"PING", catch_response=True):
            raise ResponseError("as in Locust, this goes no further")
        with pytest.raises(StopUser), client.request(b"PING", catch_response=True):
            raise StopUser
        assert [row[2] for row in seen.rows()] == ["KeyError", "ResponseError", "ok"]


def test_the_outcome_can_only_be_changed_in_a_block() -> None:
    with serving(PONG) as served, using(LineUser, served.host) as (client, _seen):
        response = client.request(b"PING")
        with pytest.raises(LocustError, match="catch_response=True"):
            response.failure("no")
        unentered = client.request(b"PING", catch_response=True)
        with pytest.raises(LocustError, match="within the block"):
            unentered.success()


# Pipelines


def test_a_pipeline_is_one_send_and_as_many_requests() -> None:
    got = []

    def handle(peer: Peer) -> None:
        got.append(peer.connection.recv(65536))
        peer.send(b"1\r\n\r\n3\r\n")
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        result = client.pipeline([b"a", b"b", b"c"], expect=[b"1", b"", re.compile(rb"\d")], name="abc")
        assert got == [b"a\r\nb\r\nc\r\n"]
        assert result.data == [b"1", b"", b"3"]
        assert result.ok
        assert seen.rows() == [("LINE", "abc", "ok")] * 3
        assert sum(event.size for event in seen) == 2


def test_each_request_of_a_pipeline_has_its_own_time() -> None:
    gates = [gevent.event.Event() for _ in range(3)]

    def handle(peer: Peer) -> None:
        for gate in gates:
            peer.line()
            gate.wait()
            peer.send(b"x\r\n")
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        for number, gate in enumerate(gates):
            gevent.spawn_later(0.03 * number, gate.set)
        client.pipeline([b"x", b"x", b"x"], name="x")
        first, second, third = [event.milliseconds for event in seen if event.kind == "LINE"]
        assert second - first > 10
        assert third - second > 10


def test_wrong_answers_in_a_pipeline_are_failures_of_their_own() -> None:
    with serving(answering(echo)) as served, using(LineUser, served.host) as (client, seen):
        result = client.pipeline([b"a", b"b", b"a"], expect=b"a", name="x")
        assert list(result.exceptions) == [1]
        assert [row[2] for row in seen.rows()] == ["ok", "WrongAnswerError", "ok"]
        assert client.connected


def test_a_pipeline_without_a_name_has_rows_by_first_words() -> None:
    with serving(answering(echo)) as served, using(LineUser, served.host) as (client, seen):
        client.pipeline([b"GET a", b"SET a 1"])
        assert [event.name for event in seen[1:]] == ["GET", "SET"]


def test_requests_of_a_pipeline_that_get_no_answer_fail_each() -> None:
    def handle(peer: Peer) -> None:
        for _ in range(3):
            peer.line()
        peer.send(b"1\r\n")

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        result = client.pipeline([b"1", b"2", b"3"], expect=b"1", name="x")
        assert result.data == [b"1"]
        assert [row[2] for row in seen.rows()] == ["ok", "IncompleteReadError", "IncompleteReadError"]
        assert not client.connected


def test_an_answer_too_many_fails_the_last_request_of_a_pipeline() -> None:
    def handle(peer: Peer) -> None:
        for _ in range(2):
            peer.line()
        peer.send(b"x\r\nx\r\nx\r\n")
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        client.pipeline([b"1", b"2"], expect=b"x", name="x")
        assert [row[2] for row in seen.rows()] == ["ok", "UnexpectedDataError"]
        assert not client.connected


def test_a_long_pipeline_in_any_pieces_loses_nothing() -> None:
    count = 2000

    def handle(peer: Peer) -> None:
        answers = b"".join(b"%d\r\n" % number for number in range(count))
        for _ in range(count):
            peer.line()
        for start in range(0, len(answers), 1013):
            peer.send(answers[start : start + 1013])
            gevent.sleep(0)
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        result = client.pipeline([b"x"] * count, name="x")
        assert result.data == [b"%d" % number for number in range(count)]
        assert len(seen.rows()) == count
        times = [event.milliseconds for event in seen if event.kind == "LINE"]
        assert times == sorted(times)


def test_an_empty_pipeline_is_nothing() -> None:
    with using(LineUser, "tcp://127.0.0.1:1") as (client, seen):
        assert client.pipeline([]).ok
        assert seen == []


def test_expectations_of_a_pipeline_must_be_as_many() -> None:
    with (
        using(LineUser, "tcp://127.0.0.1:1") as (client, _seen),
        pytest.raises(StopTest, match="2 messages, but 1 in expect"),
    ):
        client.pipeline([b"a", b"b"], expect=[b"a"])


# Without a request


def test_lines_are_sent_and_read_without_being_requests() -> None:
    def handle(peer: Peer) -> None:
        peer.send(b"hello\r\n\r\n")
        assert peer.line() == b"QUIT\r\n"
        peer.send(b"abc")
        peer.wait_for_end()

    with serving(handle) as served, using(LineUser, served.host) as (client, seen):
        assert client.read_line() == b"hello"
        assert client.read_line() == b"\r\n"
        assert client.send(b"QUIT")
        assert client.recv(3) == b"abc"
        assert seen.rows() == []


def test_what_can_not_be_read_is_a_failure_and_gives_nothing() -> None:
    with serving(lambda peer: peer.line()) as served, using(LineUser, served.host) as (client, seen):
        client.send(b"x")
        assert client.read_line(name="greeting") == b""
        assert seen.rows() == [("LINE", "greeting", "IncompleteReadError")]
        assert client.read_line(timeout=1) == b""  # over a new connection
        assert seen.rows()[1:] == [("LINE", "read_line", "TimeoutError")]


def test_a_wrong_answer_with_more_behind_it_drops_the_connection_too() -> None:
    with serving(answering(b"-ERR\r\n+PONG\r\n")) as served, using(LineUser, served.host) as (client, seen):
        assert isinstance(client.request(b"PING", expect=b"+PONG").exception, WrongAnswerError)
        assert not client.connected
        client.pipeline([b"PING"], expect=b"+PONG", name="PING")
        assert not client.connected
        assert [row[2] for row in seen.rows()] == ["WrongAnswerError"] * 2
