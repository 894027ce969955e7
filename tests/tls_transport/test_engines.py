"""The engines: TLS without sockets. What one does, the other one does; both keep what they were given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

import gnet
from gnet.tls import bindings
from gnet.tls.engines import FastEngine, PublicEngine, new_engine
from gnet.tls.failures import TRUNCATED
from tests.tls_transport.keys import openssl_context
from tests.tls_transport.peers import ALERT, LARGEST_RECORD, split_records

Kind = type[PublicEngine]

every_engine = pytest.mark.parametrize("kind", [PublicEngine, FastEngine])
every_version = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])

HEADER: Final = 5  # bytes of a record's header


class Ends(NamedTuple):
    """The two ends of a connection in memory."""

    client: PublicEngine
    server: PublicEngine


@functools.cache
def context(*, server: bool, version: str) -> SSL.Context:
    made = openssl_context(server=server, version=version)
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return made


def beginning(kind: Kind, version: str = "TLSv1.3") -> Ends:
    """Two ends before their handshake."""
    client = SSL.Connection(context(server=False, version=version), None)
    client.set_connect_state()
    server = SSL.Connection(context(server=True, version=version), None)
    server.set_accept_state()
    return Ends(kind(client), kind(server))


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def shake_hands(ends: Ends, cut: Callable[[bytes], list[bytes]] = whole) -> Ends:
    """Make the handshake, each flight cut into pieces; what comes behind it is left unread."""
    for _ in range(4):
        for source, target in (ends, ends[::-1]):
            source.handshake()
            for piece in cut(source.take()):
                target.feed(piece)
                target.handshake()
    assert ends.client.is_open
    assert ends.server.is_open
    return ends


def connected(kind: Kind, version: str = "TLSv1.3") -> Ends:
    """Two ends after their handshake, the session tickets read."""
    ends = shake_hands(beginning(kind, version))
    assert ends.client.read(1) is None
    return ends


def write_all(engine: PublicEngine, data: bytes) -> bytes:
    """Encrypt all of `data`; give its ciphertext."""
    view = memoryview(data)
    while view:
        view = view[engine.write(view) :]
    return engine.take()


def read_all(engine: PublicEngine, size: int = LARGEST_RECORD) -> bytes:
    """Decrypt all that is here."""
    parts = []
    while part := engine.read(size):
        assert len(part) <= size
        parts.append(part)
    return b"".join(parts)


def ssl_error_of(call: Callable[..., object], *arguments: Any) -> gnet.SslError:
    with pytest.raises(gnet.SslError) as raised:
        call(*arguments)
    return raised.value


def is_alert(ciphertext: bytes) -> bool:
    """Whether this is one alert in clear, as before TLS 1.3 and in a handshake that fails early."""
    return ciphertext[:1] == bytes([ALERT]) and len(split_records(ciphertext)[0]) == 1


# The handshake


@every_version
@every_engine
def test_a_handshake_says_that_it_needs_input_until_it_is_complete(kind: Kind, version: str) -> None:
    ends = beginning(kind, version)
    assert ends.client.handshake() is False
    assert ends.client.handshake() is False
    assert ends.server.handshake() is False
    assert not ends.client.is_open
    shake_hands(ends)
    assert ends.client.handshake() is True
    assert ends.server.handshake() is True


@every_version
@every_engine
def test_a_handshake_may_come_byte_by_byte(kind: Kind, version: str) -> None:
    ends = shake_hands(beginning(kind, version), byte_by_byte)
    ends.server.feed(write_all(ends.client, b"hello"))
    assert ends.server.read(10) == b"hello"


@every_engine
def test_data_behind_the_last_flight_is_read_after_the_handshake(kind: Kind) -> None:
    ends = beginning(kind)
    ends.client.handshake()
    ends.server.feed(ends.client.take())
    ends.server.handshake()
    ends.client.feed(ends.server.take())
    assert ends.client.handshake()
    ends.server.feed(ends.client.take() + write_all(ends.client, b"at once"))
    assert ends.server.handshake()
    assert ends.server.read(10) == b"at once"


@every_engine
@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, b"\x16\x03\x01\xff\xff" + bytes(50)],
    ids=["http", "zeros", "ones", "65535"],
)
def test_garbage_in_place_of_a_handshake_fails_and_stays_failed(kind: Kind, garbage: bytes) -> None:
    server = beginning(kind).server
    server.feed(garbage)
    first = ssl_error_of(server.handshake)
    assert first.reason
    assert server.take() == b"" or not server.is_open  # some get an alert, some are no TLS at all
    for call in (server.handshake, lambda: server.read(1), lambda: server.write(b"x")):
        again = ssl_error_of(call)
        assert (str(again), again.reason) == (str(first), first.reason)


@every_engine
def test_a_failed_handshake_leaves_the_alert_for_the_peer(kind: Kind) -> None:
    ends = Ends(beginning(kind, "TLSv1.2").client, beginning(kind, "TLSv1.3").server)
    ends.client.handshake()
    ends.server.feed(ends.client.take())
    ssl_error_of(ends.server.handshake)
    alert = ends.server.take()
    assert is_alert(alert)
    ends.client.feed(alert)
    assert "protocol version" in ssl_error_of(ends.client.handshake).reason


@every_engine
def test_a_stream_that_ends_in_the_handshake_is_an_error(kind: Kind) -> None:
    ends = beginning(kind)
    ends.client.handshake()
    ends.server.feed(ends.client.take()[:50])
    assert ends.server.handshake() is False
    ends.server.feed_eof()
    assert ssl_error_of(ends.server.handshake).reason == TRUNCATED


# Data


@every_version
@every_engine
@pytest.mark.parametrize("size", [1, 5, LARGEST_RECORD, LARGEST_RECORD + 1, 100_000])
def test_data_of_any_size_goes_both_ways(kind: Kind, version: str, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    ends = connected(kind, version)
    for source, target in (ends, ends[::-1]):
        target.feed(write_all(source, data))
        assert read_all(target) == data
        assert target.read(1) is None


@every_engine
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_a_write_makes_one_record_of_what_fits_into_one(kind: Kind, form: Callable[[bytes], Any]) -> None:
    ends = connected(kind)
    data = bytes(range(250)) * 100
    # The writer above hands down bytes and views of bytes.
    given = memoryview(form(data)) if form is bytearray else form(data)
    assert ends.client.write(given) == LARGEST_RECORD
    (record,) = split_records(ends.client.take())[0]
    ends.server.feed(record)
    assert ends.server.read(LARGEST_RECORD) == data[:LARGEST_RECORD]


@every_version
@every_engine
def test_a_record_cut_at_any_byte_is_read_when_it_is_complete(kind: Kind, version: str) -> None:
    ends = connected(kind, version)
    size = len(write_and_deliver(ends, b"the first one"))
    for at in range(1, size):
        record = write_all(ends.client, b"message %05d" % at)
        ends.server.feed(record[:at])
        assert ends.server.read(100) is None, f"cut at {at}"
        ends.server.feed(record[at:])
        assert ends.server.read(100) == b"message %05d" % at


def write_and_deliver(ends: Ends, data: bytes) -> bytes:
    record = write_all(ends.client, data)
    ends.server.feed(record)
    assert read_all(ends.server) == data
    return record


@every_engine
def test_data_in_several_records_is_read_as_one_stream(kind: Kind) -> None:
    ends = connected(kind)
    pieces = [b"one", b"two and ", b"x" * 20_000, b"", b"end"]
    ends.server.feed(b"".join(write_all(ends.client, piece) for piece in pieces))
    assert read_all(ends.server) == b"".join(pieces)


@every_engine
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_small_read_leaves_the_rest_of_the_record(kind: Kind, size: int) -> None:
    ends = connected(kind)
    data = bytes(index % 251 for index in range(3000))
    ends.server.feed(write_all(ends.client, data))
    assert read_all(ends.server, size) == data


@every_version
@every_engine
def test_reading_with_nothing_there_says_so_as_often_as_one_asks(kind: Kind, version: str) -> None:
    ends = connected(kind, version)
    assert [ends.server.read(10) for _ in range(3)] == [None] * 3
    assert ends.server.take() == b""
    ends.server.feed(write_all(ends.client, b"here"))
    assert ends.server.read(10) == b"here"


# The end


@every_version
@every_engine
def test_close_notify_is_an_end_after_the_data_and_remains_one(kind: Kind, version: str) -> None:
    ends = connected(kind, version)
    ends.server.feed(write_all(ends.client, b"last words"))
    ends.client.shutdown()
    ends.server.feed(ends.client.take())
    assert ends.server.read(100) == b"last words"
    assert [ends.server.read(100) for _ in range(3)] == [b""] * 3
    ends.server.feed_eof()
    assert ends.server.read(100) == b""


@every_engine
def test_close_notify_is_written_once(kind: Kind) -> None:
    ends = connected(kind)
    ends.client.shutdown()
    assert len(split_records(ends.client.take())[0]) == 1
    ends.client.shutdown()
    assert ends.client.take() == b""


@every_engine
def test_no_close_notify_before_the_handshake_or_after_a_failure(kind: Kind) -> None:
    ends = beginning(kind)
    ends.client.shutdown()
    assert ends.client.take() == b""
    ends = connected(kind)
    ends.server.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    ssl_error_of(ends.server.read, 10)
    assert len(split_records(ends.server.take())[0]) == 1  # the alert
    ends.server.shutdown()
    assert ends.server.take() == b""


@every_engine
def test_tls_1_3_reads_on_after_its_own_close_notify(kind: Kind) -> None:
    ends = connected(kind)
    ends.client.shutdown()
    ends.client.feed(write_all(ends.server, b"the answer"))
    assert ends.client.read(100) == b"the answer"


@every_version
@every_engine
def test_an_end_without_close_notify_is_an_error_after_the_data_at_every_byte(
    kind: Kind, version: str
) -> None:
    record = write_all(connected(kind, version).client, b"the second")
    for at in range(len(record) + 1):
        ends = connected(kind, version)
        ends.server.feed(write_all(ends.client, b"the first") + write_all(ends.client, b"the second")[:at])
        ends.server.feed_eof()
        expected = b"the first" + (b"the second" if at == len(record) else b"")
        received = b"".join(ends.server.read(100) or b"?" for _ in range(len(expected) // 9))
        assert received == expected, f"cut at {at}"
        assert ssl_error_of(ends.server.read, 100).reason == TRUNCATED


# Errors


@every_version
@every_engine
@pytest.mark.parametrize("broken_at", [0, HEADER, -1], ids=["type", "body", "tag"])
def test_a_bad_record_fails_for_good_after_the_data_before_it(
    kind: Kind, version: str, broken_at: int
) -> None:
    ends = connected(kind, version)
    good = write_all(ends.client, b"good")
    bad = bytearray(write_all(ends.client, b"bad"))
    bad[broken_at] ^= 0x40
    ends.server.feed(good + bytes(bad) + write_all(ends.client, b"later"))
    assert ends.server.read(100) == b"good"
    first = ssl_error_of(ends.server.read, 100)
    assert first.reason
    assert first.reason != TRUNCATED
    for call in (ends.server.handshake, lambda: ends.server.read(1), lambda: ends.server.write(b"x")):
        assert str(ssl_error_of(call)) == str(first)
    assert not ends.server.is_open


@every_engine
def test_the_peer_learns_of_a_bad_record_by_an_alert(kind: Kind) -> None:
    ends = connected(kind)
    bad = bytearray(write_all(ends.client, b"bad"))
    bad[-1] ^= 1
    ends.server.feed(bytes(bad))
    ssl_error_of(ends.server.read, 100)
    ends.client.feed(ends.server.take())
    assert "bad record mac" in ssl_error_of(ends.client.read, 100).reason


@every_engine
def test_an_error_that_is_raised_again_does_not_grow(kind: Kind) -> None:
    # One and the same object would drag the frames of every call along that ever raised it.
    server = beginning(kind).server
    server.feed(bytes(100))

    def length_of_traceback() -> int:
        traceback, length = ssl_error_of(server.handshake).__traceback__, 0
        while traceback is not None:
            traceback, length = traceback.tb_next, length + 1
        return length

    lengths = [length_of_traceback() for _ in range(20)]
    assert lengths[-1] <= lengths[1]


# OpenSSL's queue of errors, which all connections of a thread share


def poison() -> None:
    """Leave another connection's error in the queue, as code outside gnet may."""
    failing = beginning(PublicEngine).server.connection
    failing.bio_write(b"\x16\x03\x01\xff\xff" + bytes(50))
    raw = bindings.RawCalls(failing)
    assert isinstance(raw.read(10), int)  # it failed, and nobody asks why
    assert bindings.last_error()


@every_version
@every_engine
def test_an_error_of_another_connection_does_not_hurt_a_healthy_one(kind: Kind, version: str) -> None:
    ends = beginning(kind, version)
    for _ in range(4):
        for source, target in (ends, ends[::-1]):
            poison()
            source.handshake()
            target.feed(source.take())
    poison()
    assert ends.client.read(10) is None
    poison()
    assert ends.client.write(b"question") == 8
    ends.server.feed(ends.client.take())
    poison()
    assert ends.server.read(100) == b"question"
    poison()
    assert ends.server.read(100) is None
    poison()
    ends.server.shutdown()
    ends.client.feed(ends.server.take())
    poison()
    assert ends.client.read(100) == b""
    bindings.drain_errors()


@every_engine
def test_an_error_of_another_connection_is_not_taken_for_ones_own(kind: Kind) -> None:
    ends = connected(kind)
    ends.server.feed_eof()
    poison()
    assert ssl_error_of(ends.server.read, 10).reason == TRUNCATED
    ends = connected(kind)
    ends.server.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    poison()
    assert "bad record mac" in ssl_error_of(ends.server.read, 10).reason


class MistakenOnce:
    """The calls of an engine, each of which fails once as if for what another connection left behind."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls
        self.mistakes = ["read", "write"]

    def __getattr__(self, name: str) -> Any:
        if name in self.mistakes:
            self.mistakes.remove(name)
            return lambda data: -1
        return getattr(self._calls, name)


def test_a_call_that_fails_for_what_another_connection_left_is_made_again() -> None:
    # As OpenSSL before 4.0 has it, whose SSL_get_error looks at the whole queue.
    ends = connected(FastEngine)
    client: Any = ends.client
    calls = client._calls = MistakenOnce(client._calls)
    assert ends.client.write(b"question") == 8
    assert ends.client.read(10) is None
    assert not calls.mistakes
    assert ends.client.is_open
    ends.server.feed(ends.client.take())
    assert ends.server.read(100) == b"question"


@every_engine
def test_a_failure_leaves_the_queue_empty(kind: Kind) -> None:
    server = beginning(kind).server
    server.feed(bytes(100))
    ssl_error_of(server.handshake)
    assert bindings.last_error() == ""
    ends = connected(kind)
    ends.server.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    ssl_error_of(ends.server.read, 10)
    assert bindings.last_error() == ""


# Giving back memory


@every_engine
def test_renewing_keeps_what_is_to_be_sent(kind: Kind) -> None:
    ends = connected(kind)
    ends.client.write(b"not sent yet")
    ends.client.renew()
    ends.server.feed(ends.client.take() + write_all(ends.client, b", and more"))
    assert read_all(ends.server) == b"not sent yet, and more"


@every_engine
def test_renewing_keeps_what_was_fed_and_not_read(kind: Kind) -> None:
    ends = connected(kind)
    ends.server.feed(write_all(ends.client, b"not read yet"))
    ends.server.renew()
    ends.server.feed(write_all(ends.client, b", and more"))
    assert read_all(ends.server) == b"not read yet, and more"


@every_version
@every_engine
def test_renewing_keeps_the_start_of_a_record_at_every_byte(kind: Kind, version: str) -> None:
    ends = connected(kind, version)
    size = len(write_and_deliver(ends, b"message %05d" % 0))
    for at in range(1, size):
        record = write_all(ends.client, b"message %05d" % at)
        ends.server.feed(record[:at])
        assert ends.server.read(100) is None
        ends.server.renew()
        ends.server.feed(record[at:])
        assert ends.server.read(100) == b"message %05d" % at, f"cut at {at}"


@every_engine
def test_renewing_keeps_the_rest_of_a_record_that_was_read_in_part(kind: Kind) -> None:
    ends = connected(kind)
    ends.server.feed(write_all(ends.client, b"first half, second half"))
    assert ends.server.read(11) == b"first half,"
    ends.server.renew()
    assert ends.server.read(100) == b" second half"


@every_version
@every_engine
def test_both_directions_work_on_after_many_renewals(kind: Kind, version: str) -> None:
    ends = connected(kind, version)
    for number in range(20):
        for source, target in (ends, ends[::-1]):
            data = b"%d" % number * 10_000
            target.feed(write_all(source, data))
            assert read_all(target) == data
            source.renew()
            target.renew()


# One as the other

_STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["write", "read", "deliver", "deliver part", "renew", "shutdown", "end", "garbage"]),
        st.booleans(),
        st.integers(1, 40_000),
    ),
    max_size=25,
)


def outcomes(kind: Kind, version: str, steps: Iterable[tuple[str, bool, int]]) -> list[object]:
    """Take steps on a connection; give what each of them came to."""
    ends = connected(kind, version)
    on_the_way = [b"", b""]  # to the client, to the server
    ended = set()
    found: list[object] = []
    for step, by_client, size in steps:
        engine = ends.client if by_client else ends.server
        on_the_way[by_client] += engine.take()
        try:
            if step == "write":
                found.append(engine.write(b"w" * size))
            elif step == "read":
                found.append(engine.read(size))
            elif step.startswith("deliver"):
                share = size if step == "deliver part" else 1 << 30
                engine.feed(on_the_way[not by_client][:share])
                on_the_way[not by_client] = on_the_way[not by_client][share:]
            elif step == "garbage":
                engine.feed(bytes(size % 100))
            elif step == "end":
                engine.feed_eof()
                ended.add(engine)
            elif step == "shutdown":
                engine.shutdown()
            elif engine not in ended:  # nobody waits, and renews, behind an end
                engine.renew()
        except gnet.SslError as error:
            found.append((error.reason, engine.is_open))
    for engine in ends:
        with suppress(gnet.SslError):
            found.append(read_all(engine))
    return found


@every_version
@settings(max_examples=60)
@given(steps=_STEPS)
def test_the_fast_engine_does_what_the_public_one_does(
    version: str, steps: list[tuple[str, bool, int]]
) -> None:
    assert outcomes(FastEngine, version, steps) == outcomes(PublicEngine, version, steps)


def test_the_fast_engine_is_taken_where_its_calls_work(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = beginning(PublicEngine).client.connection
    assert type(new_engine(connection)) is FastEngine
    monkeypatch.setattr(bindings, "raw_calls_work", lambda: False)
    assert type(new_engine(connection)) is PublicEngine


@pytest.mark.timeout(15)
@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("read", lambda self, size: None),
        ("write", lambda self, data: len(data) + 1),
        ("write", lambda self, data: None),
        ("feed", lambda self, data: None),
        ("take", lambda self: b""),
        ("read", lambda self, size: self.no_such_name),
    ],
)
def test_the_self_check_notices_calls_that_do_not_do_what_they_should(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(bindings.RawCalls, name, broken)
    assert bindings.raw_calls_work.__wrapped__() is False
