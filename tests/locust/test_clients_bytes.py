"""SocketClient (raw bytes), FramedClient (a length before each message) and DatagramClient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket
from locust.exception import StopTest

import gnet
from gnet.locust import DatagramUser, FramedUser, SocketUser, UnexpectedDataError
from tests.locust.support import SOON, Handler, Peer, refused_port, serving, using

# Raw bytes


def replying(size: int, answer: bytes) -> Handler:
    """Give a handler that answers each message of a size."""

    def handle(peer: Peer) -> None:
        while peer.exactly(size):
            peer.send(answer)

    return handle


def test_raw_bytes_go_out_as_they_are_and_the_answer_has_a_size() -> None:
    with serving(replying(3, b"\x00\x01\x02")) as served, using(SocketUser, served.host) as (client, seen):
        assert client.request(b"\r\n\x00", size=3, expect=b"\x00\x01\x02", name="probe").ok
        assert [(event.kind, event.name, event.size) for event in seen[1:]] == [("RAW", "probe", 3)]


def test_the_answer_may_end_with_a_delimiter_or_be_what_comes() -> None:
    with serving(replying(1, b"a;")) as served, using(SocketUser, served.host) as (client, _seen):
        assert client.request(b"x", until=b";").data == b"a;"
        assert client.request(b"x").data == b"a;"
        assert client.request(b"x", read=lambda sock: sock.recv_exactly(2)).data == b"a;"


def test_bytes_behind_the_answer_are_a_failure() -> None:
    with serving(replying(1, b"a;b")) as served, using(SocketUser, served.host) as (client, _seen):
        assert isinstance(client.request(b"x", until=b";").exception, UnexpectedDataError)
        assert not client.connected


@pytest.mark.parametrize("arguments", [{"size": 9}, {"until": b";"}, {}], ids=["size", "until", "some"])
def test_an_early_end_is_a_failure_of_a_raw_request(arguments: dict[str, Any]) -> None:
    answer = b"abc" if arguments else b""

    def handle(peer: Peer) -> None:
        peer.exactly(1)
        peer.send(answer)

    with serving(handle) as served, using(SocketUser, served.host) as (client, seen):
        assert isinstance(client.request(b"x", **arguments).exception, gnet.IncompleteReadError)
        assert seen.rows() == [("RAW", "request", "IncompleteReadError")]


def test_raw_data_may_be_any_bytes_but_no_text() -> None:
    with serving(replying(3, b"x")) as served, using(SocketUser, served.host) as (client, _seen):
        assert client.request(bytearray(b"abc"), size=1).ok
        with pytest.raises(StopTest, match="expected bytes, got str 'abc'; encode it"):
            client.request("abc", size=1)
        with pytest.raises(StopTest, match="expected bytes"):
            client.send("abc")


# Frames


def framed(size: int, order: Any, answer: Callable[[bytes], bytes]) -> Handler:
    """Give a handler that answers frames."""

    def handle(peer: Peer) -> None:
        while prefix := peer.exactly(size):
            content = answer(peer.exactly(int.from_bytes(prefix, order)))
            peer.send(len(content).to_bytes(size, order) + content)

    return handle


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("order", ["big", "little"])
def test_a_frame_has_its_length_before_it(size: int, order: str) -> None:
    with (
        serving(framed(size, order, lambda content: content[::-1])) as served,
        using(FramedUser, served.host, prefix_size=size, byte_order=order) as (client, seen),
    ):
        assert client.request(b"abc", expect=b"cba", name="turn").ok
        assert client.request(b"", expect=b"", name="turn").ok
        assert seen.rows() == [("FRAME", "turn", "ok")] * 2
        assert client.pipeline([b"ab", b"", b"cd"], name="turn").data == [b"ba", b"", b"dc"]


def test_a_frame_may_be_split_anywhere() -> None:
    def handle(peer: Peer) -> None:
        while peer.exactly(5):
            for byte in b"\x00\x00\x00\x03abc":
                peer.send(bytes([byte]))
                gevent.sleep(0.001)

    with serving(handle) as served, using(FramedUser, served.host) as (client, _seen):
        assert client.request(b"x", expect=b"abc").ok
        assert client.request(b"x", expect=b"abc").ok


def test_frames_have_a_limit_either_way() -> None:
    with (
        serving(framed(4, "big", lambda content: 2 * content)) as served,
        using(FramedUser, served.host, max_length=10) as (client, _seen),
    ):
        assert client.request(5 * b"x").ok
        response = client.request(6 * b"x")
        assert isinstance(response.exception, gnet.LineTooLongError)
        assert "a frame of 12 bytes (limit 10)" in str(response.exception)
        assert not client.connected
        with pytest.raises(StopTest, match=r"a frame of 11 bytes \(limit 10\)"):
            client.request(11 * b"x")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"\x00\x00\x00\x09abc", "in a frame, after 3 bytes"),
        (b"\x00\x00", "in a frame, after 2 bytes"),
        (b"", "instead of answering"),
    ],
)
def test_an_early_end_is_a_failure_of_a_frame(sent: bytes, words: str) -> None:
    def handle(peer: Peer) -> None:
        peer.exactly(5)
        peer.send(sent)

    with serving(handle) as served, using(FramedUser, served.host) as (client, seen):
        assert words in str(client.request(b"x").exception)
        assert seen.rows() == [("FRAME", "request", "IncompleteReadError")]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"prefix_size": 0}, "prefix_size: expected 1 to 8 bytes, got 0"),
        ({"prefix_size": 9}, "prefix_size: expected 1 to 8 bytes, got 9"),
        ({"byte_order": "middle"}, "byte_order: expected 'big' or 'little', got 'middle'"),
        ({"max_length": 0}, "max_length: expected at least 1, got 0"),
        ({"max_length": "x"}, "max_length: expected an int, got str"),
    ],
)
def test_a_framing_that_is_none_is_refused(attributes: dict[str, Any], words: str) -> None:
    with (
        pytest.raises(StopTest, match=f"^Someone: {words}"),
        using(FramedUser, "tcp://127.0.0.1:1", **attributes),
    ):
        pass


# Datagrams


@contextmanager
def answering_datagrams(answer: Callable[[bytes], list[bytes]]) -> Iterator[tuple[str, list[Any]]]:
    """A UDP server: its host, and where datagrams came from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        sources = []

        def serve() -> None:
            while True:
                data, source = server.recvfrom(65535)
                sources.append(source)
                for each in answer(data):
                    server.sendto(each, source)

        greenlet = gevent.spawn(serve)
        try:
            yield f"udp://127.0.0.1:{server.getsockname()[1]}", sources
        finally:
            greenlet.kill()


def test_a_datagram_is_answered_by_one() -> None:
    with (
        answering_datagrams(lambda data: [data.upper()]) as (host, _),
        using(DatagramUser, host) as (client, seen),
    ):
        assert client.request(b"ping", expect=b"PING", name="ping").ok
        assert client.request(b"").data == b""
        assert [(event.kind, event.name, event.size) for event in seen] == [
            ("UDP", "ping", 4),
            ("UDP", "request", 0),
        ]


def test_a_datagram_without_an_answer_is_lost_and_the_next_one_has_a_socket_of_its_own() -> None:
    answers = iter([[], [b"late"], [b"second"]])
    with (
        answering_datagrams(lambda _data: next(answers)) as (host, sources),
        using(DatagramUser, host, timeout=SOON) as (client, seen),
    ):
        assert isinstance(client.request(b"1").exception, gnet.TimeoutError)
        assert client.request(b"2", expect=b"late").ok
        assert seen.rows() == [("UDP", "request", "TimeoutError"), ("UDP", "request", "ok")]
        assert len(set(sources)) == 2


def test_a_second_answer_is_a_failure_and_not_taken_for_that_of_the_next_request() -> None:
    answers = iter([[b"1", b"1"], [b"2"]])
    with (
        answering_datagrams(lambda _data: next(answers)) as (host, _),
        using(DatagramUser, host) as (client, seen),
    ):
        assert client.request(b"1", expect=b"1").ok
        client.socket.peek(1)  # it is here
        assert client.request(b"2", expect=b"2").ok
        assert [row[2] for row in seen.rows()] == ["ok", "UnexpectedDataError", "ok"]


def test_a_port_where_nobody_listens_is_a_failure() -> None:
    with using(DatagramUser, f"udp://127.0.0.1:{refused_port()}") as (client, seen):
        assert isinstance(client.request(b"x").exception, ConnectionRefusedError)
        assert seen.rows() == [("UDP", "request", "ConnectionRefusedError")]


def test_datagrams_are_sent_and_received_without_being_requests() -> None:
    with (
        answering_datagrams(lambda data: [data, data]) as (host, _),
        using(DatagramUser, host) as (client, seen),
    ):
        assert client.send(b"x")
        assert client.recv() == b"x"
        assert client.recv(1) == b"x"
        assert seen == []
        assert client.recv(timeout=1) == b""
        assert seen.rows() == [("UDP", "recv", "TimeoutError")]
        with pytest.raises(TypeError, match="no lines"):
            client.read_line()
