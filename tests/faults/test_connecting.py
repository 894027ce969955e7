"""What can go wrong between a name and a connection: rows A14–A19 of the fault catalogue."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import gnet
from tests.faults.peers import (
    GUARD,
    address_info,
    black_hole,
    closed_port,
    elapsed,
    listener,
    network_namespace,
    open_descriptors,
    program,
    run,
    wait_until,
)

# Happy Eyeballs starts the next attempt after this many milliseconds (RFC 8305, section 8).
STAGGER: Final = 250


def connect(host: str, port: int, timeout: float = GUARD) -> gnet.Socket:
    """`dial` by hand: one family, one address after the other."""
    ours = gnet.new_socket(gnet.AF_INET6 if ":" in host else gnet.AF_INET)
    try:
        ours.connect(host, port, timeout)
    except BaseException:
        ours.close()
        raise
    return ours


def dial(host: str, port: int, timeout: float = GUARD) -> gnet.Socket:
    return gnet.dial(host, port, timeout=timeout)


either_way = pytest.mark.parametrize("call", [connect, dial])


# A14: refused


@either_way
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a14_a_refused_connection_is_told_at_once_with_its_address(
    call: Callable[..., gnet.Socket], host: str
) -> None:
    with closed_port(host) as (_, port, *_rest):
        before = open_descriptors()
        shown = re.escape(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        with (
            elapsed() as ms,
            pytest.raises(ConnectionRefusedError, match=f"{call.__name__}.* {shown}") as error,
        ):
            call(host, port)
        assert error.value.errno == errno.ECONNREFUSED
        assert ms() < 10 * 5
        assert open_descriptors() == before


def test_a14_a_socket_that_was_refused_may_try_again() -> None:
    with closed_port() as refused, listener() as server, gnet.new_socket() as ours:
        with pytest.raises(ConnectionRefusedError):
            ours.connect(*refused)
        ours.connect(*server.getsockname())
        with server.accept()[0] as peer:
            ours.send(b"hello")
            assert peer.recv(9) == b"hello"


# A15: no answer


def test_a15_a_connect_without_an_answer_ends_in_time_and_closes_the_socket() -> None:
    with black_hole() as (host, port), gnet.new_socket() as ours:
        before = open_descriptors()
        with elapsed() as ms, pytest.raises(gnet.TimeoutError, match=f"connect to {host}:{port}.* 100 ms"):
            ours.connect(host, port, 100)
        assert 100 <= ms() < 500
        assert ours.closed
        assert ours.fileno() == -1
        assert open_descriptors() == before - 1
        with pytest.raises(gnet.ClosedError):
            ours.connect(host, port)


def test_a15_a_dial_without_an_answer_ends_in_time_and_names_what_it_waited_for() -> None:
    with black_hole() as (host, port):
        before = open_descriptors()
        with (
            elapsed() as ms,
            pytest.raises(gnet.TimeoutError, match=rf"dial {host}:{port} \(connecting to {host}"),
        ):
            gnet.dial(host, port, timeout=100)
        assert 100 <= ms() < 500
        assert open_descriptors() == before


@pytest.mark.parametrize("reason", [gevent.GreenletExit(), gevent.Timeout()], ids=["kill", "foreign timeout"])
def test_a15_a_connect_that_is_ended_from_outside_closes_the_socket(reason: BaseException) -> None:
    with black_hole() as address, gnet.new_socket() as ours:
        before = open_descriptors()
        connecting = gevent.spawn(ours.connect, *address)
        gevent.sleep(0)
        connecting.kill(reason)
        assert reason in (connecting.value, connecting.exception)
        assert ours.closed
        assert open_descriptors() == before - 1


@either_way
def test_a15_fifty_that_are_cut_leave_no_descriptor(call: Callable[..., gnet.Socket]) -> None:
    with black_hole() as address:
        before = open_descriptors()
        for number in range(50):
            if number % 2:
                with pytest.raises(gnet.TimeoutError):
                    call(*address, timeout=1)
            else:
                connecting = gevent.spawn(call, *address)
                gevent.sleep(0)
                connecting.kill()
        assert open_descriptors() == before


# A16: no way there


def test_a16_networks_and_hosts_without_a_way_are_told_at_once() -> None:
    routes = ("route add unreachable 192.0.2.0/24", "route add prohibit 198.51.100.0/24")
    expected = {
        "192.0.2.1": (errno.EHOSTUNREACH, "OSError"),
        "198.51.100.1": (errno.EACCES, "PermissionError"),
        "203.0.113.1": (errno.ENETUNREACH, "OSError"),  # there is no route at all
        "2001:db8::1": (errno.ENETUNREACH, "OSError"),
    }
    with network_namespace(*routes) as inside:
        found = run([*inside, *program("connect_to", *expected)])
    for host, (code, name) in expected.items():
        for way in ("connect", "dial", "send_to"):
            told = found[host][way]
            assert (told["type"], told["errno"]) == (f"builtins.{name}", code), (host, way, told)
            assert way in told["text"]
            assert host in told["text"]
            assert told["ms"] < 50 * 5
    assert found["descriptors left"] == 0


# A17: several addresses


@contextmanager
def known_as(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...]) -> Iterator[str]:
    """A name whose look-up gives these socket addresses."""
    with monkeypatch.context() as patch:
        patch.setattr("gnet.dialing.resolve", lambda *_: address_info(*addresses))
        yield "several.test"


@pytest.mark.parametrize(
    ("dead", "alive"),
    [("127.0.0.2", "127.0.0.1"), ("::1", "127.0.0.1"), ("127.0.0.1", "::1")],
)
def test_a17_a_dead_first_address_costs_one_stagger_and_no_descriptor(
    dead: str, alive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole(dead) as first, listener(alive) as server:
        second = server.getsockname()
        with known_as(monkeypatch, first, second) as name:
            before = open_descriptors()
            with elapsed() as ms, gnet.dial(name, 1, timeout=GUARD) as ours:
                assert STAGGER <= ms() < 300 * 5
                assert open_descriptors() == before + 1
                assert ours.get_peer_addr() == second[:2]
                with server.accept()[0] as peer:
                    ours.send(b"hello")
                    assert peer.recv(9) == b"hello"


def test_a17_addresses_that_refuse_do_not_wait_for_the_stagger(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        refused = [stack.enter_context(closed_port(f"127.0.0.{n}")) for n in range(2, 12)]
        server = stack.enter_context(listener())
        name = stack.enter_context(known_as(monkeypatch, *refused, server.getsockname()))
        with elapsed() as ms:
            stack.enter_context(gnet.dial(name, 1, timeout=GUARD))
        assert ms() < STAGGER


def test_a17_a_refusal_while_another_attempt_hangs_starts_the_next_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with black_hole("127.0.0.2") as hanging, closed_port("127.0.0.3") as refused, listener() as server:
        with known_as(monkeypatch, hanging, refused, server.getsockname()) as name, elapsed() as ms:
            gnet.dial(name, 1, timeout=GUARD).close()
        assert STAGGER <= ms() < 2 * STAGGER


def test_a17_the_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two dead ones of one family come first: the other family's is tried second, not third.
    with black_hole("::1") as first, black_hole("::1") as second, listener() as server:
        with known_as(monkeypatch, first, second, server.getsockname()) as name, elapsed() as ms:
            gnet.dial(name, 1, timeout=GUARD).close()
        assert STAGGER <= ms() < 2 * STAGGER


def test_a17_an_attempt_goes_on_while_later_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener("127.0.0.2", backlog=0) as slow, black_hole("127.0.0.3") as dead, ExitStack() as stack:
        fillers = [stack.enter_context(socket.socket()) for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(slow.getsockname())
        name = stack.enter_context(known_as(monkeypatch, slow.getsockname(), dead))
        before = open_descriptors()
        dialling = gevent.spawn(gnet.dial, name, 1, timeout=GUARD)
        wait_until(lambda: open_descriptors() == before + 2, "the second attempt is under way")
        # Now there is room for the first one: the kernel asks again a second after it began.
        slow.accept()[0].close()
        for filler in fillers:
            filler.close()
        with dialling.get() as ours:
            assert ours.get_peer_addr() == slow.getsockname()


def test_a17_when_all_fail_every_failure_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_port("127.0.0.2") as first, closed_port("::1") as second:
        unroutable = ("255.255.255.255", 9)
        with known_as(monkeypatch, first, second, unroutable) as name:
            before = open_descriptors()
            with pytest.raises(OSError, match=rf"dial {name}:1: all 3 attempts failed") as error:
                gnet.dial(name, 1, timeout=GUARD)
            assert open_descriptors() == before
    for shown in (
        f"127.0.0.2:{first[1]}: Connection refused",
        f"[::1]:{second[1]}: Conn",
        "255.255.255.255:9: ",
    ):
        assert shown in str(error.value)
    assert isinstance(error.value.__cause__, ExceptionGroup)
    assert {each.errno for each in error.value.__cause__.exceptions} == {
        errno.ECONNREFUSED,
        error.value.errno,
    }
    assert len(error.value.__cause__.exceptions) == 3


def test_a17_an_end_in_time_tells_which_hung_and_which_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        closed_port("127.0.0.2") as refused,
        black_hole("127.0.0.3") as hanging,
        known_as(monkeypatch, refused, hanging) as name,
        pytest.raises(gnet.TimeoutError) as error,
    ):
        gnet.dial(name, 1, timeout=100)
    assert f"connecting to 127.0.0.3:{hanging[1]}" in str(error.value)
    assert f"127.0.0.2:{refused[1]}: Connection refused" in str(error.value)


def ended_by_kill(dialling: gevent.Greenlet) -> None:
    dialling.kill()
    assert isinstance(dialling.value, gevent.GreenletExit)


def ended_by_foreign_timeout(dialling: gevent.Greenlet) -> None:
    dialling.kill(gevent.Timeout())
    assert isinstance(dialling.exception, gevent.Timeout)


@pytest.mark.parametrize("end", [ended_by_kill, ended_by_foreign_timeout])
@pytest.mark.parametrize("attempts", [0, 1, 2, 3], ids="in the look-up,first attempt,second,third".split(","))
def test_a17_a_dial_that_is_ended_in_any_phase_leaves_no_descriptor(
    attempts: int, end: Callable[[gevent.Greenlet], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole("127.0.0.2") as one, black_hole("::1") as two, black_hole("127.0.0.3") as three:
        looking_up = Event()

        def resolve(*_: object) -> list[Any]:
            looking_up.set()
            if not attempts:
                Event().wait()
            return address_info(one, two, three)

        monkeypatch.setattr("gnet.dialing.resolve", resolve)
        before = open_descriptors()
        dialling = gevent.spawn(gnet.dial, "several.test", 1)
        assert looking_up.wait(GUARD / 1000)
        wait_until(lambda: open_descriptors() == before + attempts, f"{attempts} attempts are under way")
        end(dialling)
        assert open_descriptors() == before


# A18, A19: names

RESOLV_CONF: Final = "nameserver 127.0.0.1\noptions timeout:{timeout} attempts:1\n"
NSSWITCH_CONF: Final = "hosts: files dns\n"
HOSTS: Final = "127.0.0.1 localhost\n127.0.0.1 in-hosts-file.test\n"


def look_ups(name: str, *arguments: object, timeout: int = 30) -> dict[str, Any]:
    """What a program found out that runs beside a name server of ours, in a network of its own."""
    files = {
        "resolv.conf": RESOLV_CONF.format(timeout=timeout),
        "nsswitch.conf": NSSWITCH_CONF,
        "hosts": HOSTS,
    }
    with network_namespace(files=files) as inside:
        return run([*inside, *program(name, *arguments)])


def test_a18_a_name_that_is_not_found_is_a_gaierror_with_the_name() -> None:
    found = look_ups("look_up_in_vain", timeout=1)
    expected = {
        "missing.test": socket.EAI_NONAME,
        "broken.test": socket.EAI_AGAIN,  # the server says that it failed
        "garbage.test": socket.EAI_AGAIN,  # what comes is no answer, so that there is none
    }
    for name, code in expected.items():
        for way in ("dial", "connect", "bind_addr", "send_to"):
            told = found[name][way]
            assert (told["type"], told["errno"]) == ("socket.gaierror", code), (name, way, told)
            assert name in told["text"]
            assert way in told["text"]
    assert found["descriptors left"] == 0


@pytest.mark.parametrize("stuck", [10, 70])
def test_a19_stuck_look_ups_hold_up_nobody(stuck: int) -> None:
    found = look_ups("look_up_beside", stuck)
    # More than 64 of them have all threads stuck; what needs no thread still goes through.
    ways = ["localhost", "in-hosts-file.test", "127.0.0.1", "::1"] + ["found.test"] * (stuck < 64)
    for host in ways:
        for way in ("dial", "connect", "bind_addr", "send_to"):
            told = found[host][way]
            assert told["type"] is None, (host, way, told)
            assert told["ms"] < 50 * 5, (host, way, told)
    for way in ("dial", "connect", "bind_addr", "send_to"):
        told = found["stuck-too.test"][way]
        assert told["type"] == "gnet.errors.TimeoutError", (way, told)
        assert "stuck-too.test" in told["text"]
        assert "looking up the name" in told["text"]
        assert 200 <= told["ms"] < 200 * 5
    assert found["stuck"] == min(stuck, 64)
    assert found["still stuck"] == stuck


def test_a19_look_ups_that_were_given_up_hold_up_nobody_either() -> None:
    found = look_ups("look_up_after_giving_up", 10)
    assert found["given up"] == 10
    for way in ("dial", "connect", "bind_addr", "send_to"):
        assert found["found.test"][way]["type"] is None
        assert found["found.test"][way]["ms"] < 50 * 5
