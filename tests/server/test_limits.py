"""What a server lets in: connections, the pool, addresses, handshakes; what those get who are too many."""

from __future__ import annotations

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
import trustme
from gevent import socket
from gevent.event import Event

import gnet
from gnet.server import Server
from gnet.serving.admission import address_key
from tests.loopback import needs_ipv6
from tests.server.peers import (
    GUARD,
    Gate,
    answer_lines,
    ask,
    connect,
    connect_unix,
    ending,
    logged,
    many,
    open_descriptors,
    receive_all,
    receive_exactly,
    receives_nothing,
    reset,
    serving,
    silent_logs,
    wait_until,
)

BUSY: Final = b"-ERR busy\r\n"


# The most connections


@contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """A soft limit of descriptors, put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_max_connections_is_four_fifths_of_the_descriptors() -> None:
    with descriptor_limit(1000):
        assert Server(answer_lines)._admission.limits.max_connections == 800


def test_max_connections_is_at_most_ten_thousand_by_itself() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 15_000:
        pytest.skip("the hard limit of descriptors is below 15,000")
    with descriptor_limit(15_000):
        assert Server(answer_lines)._admission.limits.max_connections == 10_000
        assert Server(answer_lines, max_connections=11_000)._admission.limits.max_connections == 11_000


def test_max_connections_beyond_the_descriptors_is_clamped_with_one_warning() -> None:
    with descriptor_limit(1000), logged() as log:
        server = Server(answer_lines, max_connections=5000)
        assert server._admission.limits.max_connections == 800
        (warning,) = log.lines(logging.WARNING)
        assert "5000" in warning
        assert "1000" in warning
        assert "800" in warning


def test_max_connections_within_the_descriptors_warns_of_nothing() -> None:
    with descriptor_limit(1000), logged() as log:
        assert Server(answer_lines, max_connections=800)._admission.limits.max_connections == 800
        assert not log.lines()


def test_max_connections_holds_and_the_next_one_gets_the_place_that_comes_free() -> None:
    gate = Gate()
    with serving(gate, max_connections=3) as server, many(5, server) as clients:
        for client in clients[:3]:
            assert client.recv(1) == b"+"
        assert receives_nothing(clients[3])
        assert len(server._admission.connections) == 3
        reset(clients[0])
        gate.opened.set()
        for client in clients[1:3]:
            assert receive_all(client) == b"-"
            client.close()  # frees the place
        for client in clients[3:]:
            assert receive_all(client) == b"+-"
        assert gate.most == 3
        assert server._terms.statistics.peak == 3


# B5: the pool


def test_b5_backlog_those_too_many_wait_in_the_kernel_and_are_all_served() -> None:
    gate = Gate()
    with serving(gate, pool_size=2) as server, many(10, server) as clients:
        assert clients[0].recv(1) == clients[1].recv(1) == b"+"
        assert receives_nothing(clients[9])
        assert server._terms.statistics.accepted == 2  # the others are the kernel's
        gate.opened.set()
        assert [receive_all(client) for client in clients] == [b"-", b"-"] + [b"+-"] * 8
        assert gate.most == 2
        assert not server._terms.statistics.rejected


def test_b5_backlog_the_order_is_that_in_which_they_came() -> None:
    gate = Event()
    order = []

    def handler(client: gnet.Socket, _address: str) -> None:
        gate.wait()
        order.append(client.read_line())

    with serving(handler, pool_size=1) as server, many(8, server) as clients:
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number)
        gate.set()
        for client in clients:
            assert receive_all(client) == b""
            client.close()
    assert order == [b"%d" % number for number in range(8)]


def test_b5_reset_those_too_many_are_reset_at_once() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow="reset") as server, connect(server) as first:
        assert first.recv(1) == b"+"
        for _ in range(3):
            with closing(connect(server)) as late:
                assert ending(late) == "reset"
        assert server._terms.statistics.rejected == {"busy": 3}
        gate.opened.set()
        assert receive_all(first) == b"-"


def test_b5_bytes_those_too_many_are_told_so_and_see_the_end() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow=BUSY) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        with closing(connect(server)) as late:
            assert receive_all(late) == BUSY
        assert server._terms.statistics.rejected == {"busy": 1}


@pytest.mark.parametrize("size", [10, 300_000], ids=["a line", "more than the buffers take at once"])
def test_b5_the_refusal_arrives_whole_although_the_client_has_sent_something(size: int) -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow=BUSY) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        with closing(connect(server)) as late:
            sending = gevent.spawn(late.sendall, b"x" * size)
            wait_until(lambda: server._terms.statistics.rejected["busy"] == 1, "the client was refused")
            sending.join()
            gevent.sleep(0.05)  # a reset that destroys the answer would be here by then
            assert receive_all(late) == BUSY


def test_b5_a_client_that_never_stops_sending_is_not_listened_to_for_ever() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow=BUSY) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        with closing(connect(server)) as late, pytest.raises((ConnectionResetError, BrokenPipeError)):
            late.sendall(b"x" * 100_000_000)


def test_b5_those_who_get_their_refusal_keep_no_place_and_end_within_the_linger() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow=BUSY) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        before = open_descriptors()
        with many(20, server) as clients:
            for client in clients:
                assert receive_all(client) == BUSY  # and none of them closes
            assert len(server._admission.connections) == 1
            wait_until(lambda: open_descriptors() <= before + 20, "the server's ends are closed")


def test_b5_a_thousand_refusals_at_once_hold_few_descriptors_and_log_one_line() -> None:
    gate = Gate()
    answers: Counter[str] = Counter()
    most = 0
    with logged() as log, serving(gate, pool_size=1, overflow=BUSY) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        before = open_descriptors()
        start = time.monotonic()
        for _ in range(20):
            with many_that_may_fail(50, server) as clients:
                gevent.sleep(0)
                most = max(most, open_descriptors() - len(clients))
                for client in clients:
                    answers[whole_or_reset(client)] += 1
        seconds = time.monotonic() - start
        assert answers[repr(BUSY)] >= 64
        assert answers.keys() <= {repr(BUSY), "reset"}
        assert most - before <= 64 + 5
        assert len(log.lines()) <= seconds + 1
        gate.opened.set()
        assert receive_all(first) == b"-"


@contextmanager
def many_that_may_fail(count: int, server: Server) -> Iterator[list[socket.socket]]:
    """Many clients, without those that were reset before their connect was over."""
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            with suppress(ConnectionResetError):
                clients.append(stack.enter_context(connect(server)))
        yield clients


def whole_or_reset(client: socket.socket) -> str:
    try:
        return repr(receive_all(client))
    except ConnectionResetError:
        return "reset"


def test_b5_a_long_refusal_is_whole_or_refused_at_once() -> None:
    text_is_taken = False
    text = b"busy " * 1_500_000  # more than the kernel takes of a new connection
    with suppress(ValueError):
        Server(answer_lines, overflow=text)
        text_is_taken = True
    if not text_is_taken:
        return
    gate = Gate()
    with silent_logs(), serving(gate, max_connections=1, overflow=text) as server, connect(server) as first:
        assert first.recv(1) == b"+"
        with closing(connect(server)) as late:
            assert len(receive_all(late)) == len(text)


def test_b5_reset_a_place_in_the_pool_is_free_once_the_handler_has_returned() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, pool_size=1, overflow="reset") as server, connect(server) as first:
        assert first.recv(1) == b"+"
        gate.opened.set()
        assert receive_all(first) == b"-"
        # `first` is not closed: the server lingers, and that costs no place of the pool.
        with closing(connect(server)) as second:
            assert receive_all(second) == b"+-"


def test_b5_a_released_client_frees_its_place_in_the_pool() -> None:
    kept: list[gnet.Socket] = []

    def handler(client: gnet.Socket, _address: str) -> None:
        client.release()  # type: ignore[attr-defined]
        kept.append(client)

    with silent_logs(), serving(handler, pool_size=1, overflow="reset") as server, ExitStack() as stack:
        for count in range(1, 6):
            client = stack.enter_context(connect(server))
            wait_until(lambda count=count: len(kept) == count, "the handler has released it")
            kept[-1].send(b"here\n")
            assert receive_exactly(client, 5) == b"here\n"
        for each in kept:
            each.close()


# Released clients


def releasing(kept: list[gnet.Socket]) -> Callable[[gnet.Socket, str], None]:
    def handler(client: gnet.Socket, _address: str) -> None:
        client.release()  # type: ignore[attr-defined]
        kept.append(client)
        client.send(b"+")

    return handler


def close_it(kept: list[gnet.Socket]) -> None:
    kept.pop().close()


def drop_it(kept: list[gnet.Socket]) -> None:
    with pytest.warns(ResourceWarning):
        kept.pop()


def detach_it(kept: list[gnet.Socket]) -> None:
    socket.socket(fileno=kept.pop().detach()).close()


@pytest.mark.parametrize("give_up", [close_it, drop_it, detach_it])
def test_released_clients_count_until_their_descriptor_is_given_up(
    give_up: Callable[[list[gnet.Socket]], None],
) -> None:
    kept: list[gnet.Socket] = []
    with (
        silent_logs(),
        serving(releasing(kept), max_connections=2, overflow="reset") as server,
        many(2, server) as clients,
    ):
        for client in clients:
            assert client.recv(1) == b"+"
        with closing(connect(server)) as late:
            assert ending(late) == "reset"
        give_up(kept)
        assert len(server._admission.connections) == 1
        with closing(connect(server)) as next_one:
            assert next_one.recv(1) == b"+"
        with closing(connect(server)) as late:
            assert ending(late) == "reset"
        for client_kept in kept:
            client_kept.close()
        assert server._terms.statistics.closed == server._terms.statistics.accepted


def test_a_client_closed_by_its_handler_is_counted_out_once() -> None:
    def handler(client: gnet.Socket, _address: str) -> None:
        client.close()
        client.close()

    with serving(handler, max_connections=1) as server:
        for _ in range(5):
            with closing(connect(server)) as client:
                assert receive_all(client) == b""
        wait_until(lambda: server._terms.statistics.closed == 5, "all are gone")
        assert not server._admission.connections
        assert server._admission.running == 0


def test_a_handler_that_releases_and_then_raises_has_released() -> None:
    kept = []

    def handler(client: gnet.Socket, _address: str) -> None:
        client.release()  # type: ignore[attr-defined]
        kept.append(client)
        raise ValueError("after the release")

    with logged() as log, serving(handler, pool_size=1) as server, connect(server) as client:
        wait_until(lambda: server._terms.statistics.handler_errors == 1, "the handler raised")
        kept[0].send(b"still here\n")
        assert receive_exactly(client, 11) == b"still here\n"
        assert "after the release" in log.text(logging.ERROR)
        kept.pop().close()
        assert receive_all(client) == b""
        assert server._admission.running == 0


# B13: one address


def test_b13_one_address_does_not_take_all_places() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, max_per_address=2) as server, ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.2"):
            assert stack.enter_context(connect(server, source=source)).recv(1) == b"+"
        for source in ("127.0.0.1", "127.0.0.2"):
            with closing(connect(server, source=source)) as late:
                assert ending(late) == "reset"
        assert server._terms.statistics.rejected == {"per address": 2}
        assert stack.enter_context(connect(server, source="127.0.0.3")).recv(1) == b"+"


def test_b13_it_is_off_unless_asked_for() -> None:
    with serving(Gate()) as server, many(50, server) as clients:
        assert all(client.recv(1) == b"+" for client in clients)


@pytest.mark.parametrize("overflow", ["backlog", "reset", BUSY])
def test_b13_those_too_many_get_the_overflow_bytes_or_a_reset(overflow: Any) -> None:
    with (
        silent_logs(),
        serving(Gate(), max_per_address=1, overflow=overflow) as server,
        connect(server) as first,
    ):
        assert first.recv(1) == b"+"
        with closing(connect(server)) as late:
            assert whole_or_reset(late) == (repr(BUSY) if overflow == BUSY else "reset")


def test_b13_a_place_of_an_address_is_free_once_its_connection_is_closed() -> None:
    with silent_logs(), serving(answer_lines, max_per_address=1) as server:
        for number in range(20):
            with closing(connect(server)) as client:
                assert ask(client) == b"ping\n"
            wait_until(lambda number=number: server._terms.statistics.closed > number, "it is gone")
        assert not server._admission.per_address, "an address that is gone is still counted"
        assert not server._terms.statistics.rejected


def test_b13_a_refused_one_takes_nothing_from_its_address() -> None:
    with silent_logs(), serving(answer_lines, max_per_address=2) as server:
        with many(2, server) as clients:
            assert all(ask(client) == b"ping\n" for client in clients)
            for _ in range(10):
                with closing(connect(server)) as late:
                    assert ending(late) == "reset"
        wait_until(lambda: not server._admission.connections, "both are gone")
        with many(2, server) as clients:
            assert all(ask(client) == b"ping\n" for client in clients)


def test_b13_who_is_refused_for_the_pool_takes_nothing_from_its_address() -> None:
    gate = Gate()
    arguments: dict[str, Any] = {"pool_size": 1, "max_per_address": 2, "overflow": "reset"}
    with silent_logs(), serving(gate, **arguments) as server, closing(connect(server)) as first:
        assert first.recv(1) == b"+"
        for _ in range(5):
            with closing(connect(server)) as late:
                assert ending(late) == "reset"
        assert server._terms.statistics.rejected == {"busy": 5}
        assert dict(server._admission.per_address) == {"127.0.0.1": 1}


@needs_ipv6
def test_b13_ipv4_clients_of_a_server_of_both_are_counted_and_shown_as_ipv4() -> None:
    gate = Gate()
    with silent_logs(), serving(gate, "", max_per_address=1) as server, ExitStack() as stack:
        assert stack.enter_context(connect(server, "127.0.0.1")).recv(1) == b"+"
        assert gate.addresses == ["127.0.0.1"]
        assert stack.enter_context(connect(server, "127.0.0.1", source="127.0.0.2")).recv(1) == b"+"
        assert stack.enter_context(connect(server, "::1")).recv(1) == b"+"
        assert gate.addresses == ["127.0.0.1", "127.0.0.2", "::1"]
        for host in ("127.0.0.1", "::1"):
            with closing(connect(server, host)) as late:
                assert ending(late) == "reset"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::1", "::2", True),
    ],
)
def test_b13_ipv6_counts_by_its_64_bits_and_mapped_ones_as_ipv4(one: str, other: str, same: bool) -> None:
    assert (address_key(one) == address_key(other)) is same


# Handshakes


def test_max_handshakes_bounds_who_is_not_ready_and_they_take_no_place_of_the_pool(
    certificates: tuple[gnet.SslContext, gnet.SslContext],
) -> None:
    context, _ = certificates
    gate = Gate()
    arguments: dict[str, Any] = {"ssl_context": context, "max_handshakes": 2, "overflow": "reset"}
    with silent_logs(), serving(gate, pool_size=1, **arguments) as server, many(2, server) as silent:
        wait_until(lambda: server._admission.starting == 2, "two handshakes wait")
        assert server._admission.running == 0
        with closing(connect(server)) as late:
            assert ending(late) == "reset"
        reset(silent[0])
        wait_until(lambda: server._admission.starting == 1, "a place is free")
        with closing(connect(server)) as next_one:
            assert receives_nothing(next_one)


def test_handshakes_that_wait_in_the_backlog_are_made_later(
    certificates: tuple[gnet.SslContext, gnet.SslContext],
) -> None:
    context, client_context = certificates
    arguments: dict[str, Any] = {"ssl_context": context, "max_handshakes": 1}
    with silent_logs(), serving(answer_lines, **arguments) as server, connect(server) as silent:
        wait_until(lambda: server._admission.starting == 1, "a handshake waits")
        late = gevent.spawn(ask_by_tls, server, client_context)
        gevent.sleep(0.05)
        assert not late.dead
        reset(silent)
        assert late.get(timeout=GUARD / 1000) == b"ping"


def test_as_many_as_the_pool_has_are_served_by_tls_and_the_others_wait_for_their_turn(
    certificates: tuple[gnet.SslContext, gnet.SslContext],
) -> None:
    context, client_context = certificates
    most = running = 0

    def handler(client: gnet.Socket, address: str) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        gevent.sleep(0.01)
        running -= 1
        answer_lines(client, address)

    with serving(handler, ssl_context=context, pool_size=2) as server:
        asking = [gevent.spawn(ask_by_tls, server, client_context) for _ in range(10)]
        assert [each.get(timeout=GUARD / 1000) for each in asking] == [b"ping"] * 10
        assert most == 2
        wait_until(lambda: not server._admission.connections, "all are gone")
        assert (server._admission.starting, server._admission.running) == (0, 0)


@pytest.fixture(scope="module")
def certificates() -> Iterator[tuple[gnet.SslContext, gnet.SslContext]]:
    """The contexts of a server on loopback and of a client that trusts it."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
    with (
        issued.private_key_and_cert_chain_pem.tempfile() as own,
        authority.cert_pem.tempfile() as trusted,
        gnet.new_context(verify_mode=gnet.SslCVerifyMode.NONE, cert_file=own, key_file=own) as server,
        gnet.new_context(ca_file=trusted) as client,
    ):
        yield server, client


def ask_by_tls(server: Server, context: gnet.SslContext) -> bytes:
    """Make a TLS connection, ask, close."""
    with gnet.dial("127.0.0.1", server.port, ssl_context=context, timeout=GUARD) as client:
        client.send(b"ping\n")
        return client.read_line(timeout=GUARD)


# What may be said about it


@pytest.mark.parametrize("overflow", ["reset", BUSY], ids=["reset", "bytes"])
def test_a_peers_name_cannot_forge_a_log_line(overflow: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "server")
    with logged() as log, serving(Gate(), unix_path=path, max_connections=1, overflow=overflow) as server:
        with closing(connect_unix(path)) as first:
            assert first.recv(1) == b"+"
            with closing(connect_unix(path, f"{tmp_path}/x\n\x1b[31mERROR forged")):
                wait_until(lambda: server._terms.statistics.rejected["busy"] == 1, "the client was refused")
        (line,) = log.lines()
        assert "\x1b" not in line
        assert "busy" in line


def test_a_refusal_is_one_short_line_a_second_however_many_there_are() -> None:
    with logged() as log, serving(Gate(), max_connections=1, overflow="reset") as server:
        with closing(connect(server)) as first:
            assert first.recv(1) == b"+"
            start = time.monotonic()
            for number in range(300):
                reset(connect_or_reset(server))
                wait_until(
                    lambda number=number: server._terms.statistics.rejected["busy"] > number, "refused"
                )
            seconds = time.monotonic() - start
        lines = log.lines()
        assert 1 <= len(lines) <= seconds + 1
        assert all(len(line) <= 120 for line in lines)
        assert "127.0.0.1" in lines[0]


def connect_or_reset(server: Server) -> socket.socket:
    """Connect; no matter if the server's reset comes before that is over."""
    client = socket.socket()
    client.settimeout(GUARD / 1000)
    with suppress(ConnectionResetError):
        client.connect(("127.0.0.1", server.port))
    return client


# The life of a server


def test_no_handler_begins_after_close() -> None:
    ran: list[bool] = []
    server: Server

    def handler(client: gnet.Socket, _address: str) -> None:
        ran.append(server.draining)
        server.close()

    with silent_logs(), serving(handler) as server, ExitStack() as stack:
        for _ in range(3):  # all are accepted in one turn of the loop
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", server.port))
        wait_until(lambda: bool(ran), "the first handler ran")
        gevent.sleep(0.02)
        assert ran == [False]
