"""Replays 203 single facts recorded from Nim 1.6.10: here making sockets, options, errors, and the account.

`test_nim_facts_connections.py` has those about connections and datagrams, `test_nim_facts_tls.py` those about
TLS. The last section here says where each of the others is tested, or why it is not, and that none is left
out.
"""

from __future__ import annotations

import errno
import fcntl
import re
import socket as stdlib_socket  # for its constants
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import gnet
import tests.test_nim_facts_connections
import tests.test_nim_facts_tls  # noqa: F401 - their tests take facts, too
from gnet import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_IP,
    IPPROTO_TCP,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOBool,
    SocketFlag,
)
from tests.nim_facts import (
    CLOSED_IS_SAID,
    FACTS,
    LOOPBACK,
    NAMES_KEEP_NUMBERS,
    Outcome,
    connected,
    descriptor_flags,
    differences,
    differs,
    listener,
    name_error,
    needs_ipv6,
    no_names,
    open_descriptors,
    port_of,
    said,
    same,
    taken,
    tcp,
    udp,
    unix,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="numbers and rules of Linux were recorded")


# Making sockets


@same("newSocket(): cloexec, domain")
def test_a_new_socket_is_closed_on_exec(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: descriptor_flags(socket)) == nim == {"r": fcntl.FD_CLOEXEC}


@same("newSocket(inheritable=true): FD flags")
def test_an_inheritable_socket_is_not(nim: Outcome) -> None:
    with tcp(inheritable=True) as socket:
        assert said(lambda: descriptor_flags(socket)) == nim


@same("newSocket(AF_UNIX) default protocol")
def test_a_unix_socket_does_not_take_tcp_for_its_protocol(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(AF_UNIX)) == nim


@same("newSocket(AF_UNIX, STREAM, IPPROTO_IP)")
def test_a_unix_socket_has_protocol_0(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(AF_UNIX, SOCK_STREAM, IPPROTO_IP).close()) == nim


@differs("newSocket(cint AF_UNIX, STREAM, 0)", "plain numbers do what the enums do; Nim has no enum for 0")
def test_a_unix_socket_can_be_made_of_plain_numbers(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(1, 1, 0).close()) == {"r": "ok"} != nim


@differs("newSocket(cint AF_UNIX, STREAM, 0) leaks fd?", "no call that fails leaves a descriptor open")
def test_a_socket_that_cannot_be_made_leaves_no_descriptor(nim: Outcome) -> None:
    before = open_descriptors()
    for numbers in ((AF_UNIX, SOCK_STREAM, IPPROTO_TCP), (AF_INET, SOCK_DGRAM, IPPROTO_TCP), (1, 1, -1)):
        with suppress(OSError, ValueError):
            gnet.new_socket(*numbers)
    assert {"r": open_descriptors() - before} == {"r": 0} != nim


@needs_ipv6
@differs(
    'newSocket(cint AF_INET6=10, STREAM, TCP).bindAddr(0, "")', "the number is the system's, as the enum"
)
def test_an_ipv6_socket_made_of_plain_numbers_can_be_bound_to_every_address(nim: Outcome) -> None:
    with tcp(10, sock_type=1, protocol=6) as socket:
        assert said(lambda: socket.bind_addr(0, "")) == {"r": "ok"} != nim


@needs_ipv6
@differs("newSocket(cint AF_INET6=10, STREAM, TCP).getLocalAddr", "the number is the system's, as the enum")
def test_an_ipv6_socket_made_of_plain_numbers_knows_its_address(nim: Outcome) -> None:
    with tcp(10, sock_type=1, protocol=6) as socket:
        assert said(socket.get_local_addr) == {"r": ("::", 0)} != nim


@same("newSocket(cint 23,...)")
def test_a_domain_that_the_kernel_does_not_have_is_its_error(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(23, 1, 6)) == nim


@same("newSocket(DGRAM, TCP)")
def test_a_type_and_a_protocol_that_do_not_fit_are_the_kernels_error(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP)) == nim


@differs("newSocket(osInvalidSocket)", "a mistake of the caller is a ValueError, where Nim asserts")
def test_descriptor_minus_1_is_refused(nim: Outcome) -> None:
    assert said(lambda: gnet.new_socket(fd=-1)) == {"exc": "ValueError"} != nim


# Options


@same("get/set ReuseAddr")
def test_an_option_is_off_until_set_and_can_be_set_and_cleared(nim: Outcome) -> None:
    with tcp() as socket:
        states = [socket.get_sock_opt(SOBool.REUSE_ADDR)]
        for value in (True, False):
            socket.set_sock_opt(SOBool.REUSE_ADDR, value)
            states.append(socket.get_sock_opt(SOBool.REUSE_ADDR))
    assert {"r": states} == nim


@differs("setSockOpt(OptNoDelay) default level sets SO_DEBUG", "the level follows from the option")
def test_no_delay_without_a_level_is_no_delay(nim: Outcome) -> None:
    with tcp() as socket:
        socket.set_sock_opt(SOBool.NO_DELAY, False)
        socket.set_sock_opt(SOBool.NO_DELAY, True)
        states = [socket.get_sock_opt(option) for option in (SOBool.DEBUG, SOBool.NO_DELAY)]
    assert {"r": states} == {"r": [False, True]} != nim


@differs("setSockOpt(OptNoDelay, level=TCP)", "TCP sockets are made with TCP_NODELAY on")
def test_no_delay_is_on_from_the_start_and_may_be_set_with_its_level(nim: Outcome) -> None:
    with tcp() as socket:
        states = [socket.get_sock_opt(SOBool.NO_DELAY, level=IPPROTO_TCP)]
        socket.set_sock_opt(SOBool.NO_DELAY, True, level=IPPROTO_TCP)
        states.append(socket.get_sock_opt(SOBool.NO_DELAY, level=IPPROTO_TCP))
    assert {"r": states} == {"r": [True, True]} != nim


@same("setSockOpt(OptAcceptConn)")
def test_an_option_that_cannot_be_set_is_the_kernels_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.set_sock_opt(SOBool.ACCEPT_CONN, True)) == nim


@same("getSockOpt(OptAcceptConn)")
def test_an_option_tells_whether_a_socket_listens(nim: Outcome) -> None:
    with tcp() as socket:
        before = socket.get_sock_opt(SOBool.ACCEPT_CONN)
        socket.listen()
        assert {"r": [before, socket.get_sock_opt(SOBool.ACCEPT_CONN)]} == nim


@differs("getSockOpt on closed", CLOSED_IS_SAID)
def test_an_option_of_a_closed_socket_is_a_closed_error(nim: Outcome) -> None:
    with tcp() as socket:
        socket.close()
        assert said(lambda: socket.get_sock_opt(SOBool.REUSE_ADDR)) == {"exc": "AssertionDefect"} != nim


# Binding and listening


@same("bindAddr() v4")
def test_binding_to_nothing_gives_all_ipv4_addresses_and_a_port(nim: Outcome) -> None:
    with tcp() as socket:
        socket.bind_addr()
        address, port = socket.get_local_addr()
    assert {"r": [address, port > 0]} == nim


@needs_ipv6
@same("bindAddr() v6")
def test_binding_to_nothing_gives_all_ipv6_addresses_and_a_port(nim: Outcome) -> None:
    with tcp(AF_INET6) as socket:
        socket.bind_addr()
        address, port = socket.get_local_addr()
    assert {"r": [address, port > 0]} == nim


@same("bindAddr UNIX no address")
def test_a_unix_socket_has_no_such_address(nim: Outcome) -> None:
    with unix() as socket:
        assert said(socket.bind_addr) == nim


@same("bindAddr in use")
def test_an_address_in_use_is_the_kernels_error(nim: Outcome) -> None:
    with listener() as server, tcp() as socket:
        assert said(lambda: socket.bind_addr(port_of(server))) == nim


@differs("bindAddr bad address", NAMES_KEEP_NUMBERS)
def test_binding_to_a_name_that_does_not_exist_is_a_name_error(nim: Outcome) -> None:
    with no_names(), tcp() as socket:
        assert (
            said(lambda: socket.bind_addr(0, "no.such.host")) == name_error(stdlib_socket.EAI_NONAME) != nim
        )


@differs("bindAddr v6 address on v4 socket", NAMES_KEEP_NUMBERS)
def test_binding_an_ipv4_socket_to_an_ipv6_address_is_a_name_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.bind_addr(0, "::1")) == name_error(stdlib_socket.EAI_FAMILY) != nim


@needs_ipv6
@same("bindAddr v4 address on v6 socket")
def test_an_ipv6_socket_can_be_bound_to_an_ipv4_address(nim: Outcome) -> None:
    with tcp(AF_INET6) as socket:
        socket.bind_addr(0, LOOPBACK)
        assert {"r": socket.get_local_addr()[0]} == nim


@same("bindAddr not local")
def test_an_address_of_another_machine_is_the_kernels_error(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.bind_addr(0, "203.0.113.1")) == nim


@same("bindAddr twice")
def test_binding_twice_is_the_kernels_error(nim: Outcome) -> None:
    with tcp() as socket:
        socket.bind_addr()
        assert said(socket.bind_addr) == nim


@same("bindAddr UDP")
def test_a_datagram_socket_can_be_bound(nim: Outcome) -> None:
    with udp() as socket:
        assert {"r": socket.get_local_addr()[0]} == nim


@same("listen without bind")
def test_listening_without_an_address_gets_a_port(nim: Outcome) -> None:
    with tcp() as socket:
        socket.listen()
        assert {"r": port_of(socket) > 0} == nim


@same("listen UDP")
def test_a_datagram_socket_does_not_listen(nim: Outcome) -> None:
    with udp() as socket:
        assert said(socket.listen) == nim


@same("listen backlog 0 / -1")
def test_a_backlog_of_0_or_less_is_taken(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(lambda: socket.listen(0)) == said(lambda: socket.listen(-1)) == nim


# Addresses


@same("getPeerAddr unconnected")
def test_an_unconnected_socket_has_no_peer(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.get_peer_addr) == nim


@same("getLocalAddr unbound")
def test_an_unbound_socket_has_the_address_0(nim: Outcome) -> None:
    with tcp() as socket:
        assert {"r": socket.get_local_addr()[0]} == nim


@differs("getLocalAddr UNIX", "Unix sockets have addresses, too")
def test_an_unbound_unix_socket_has_an_empty_path(nim: Outcome) -> None:
    with unix() as socket:
        assert said(socket.get_local_addr) == {"r": ("", 0)} != nim


# Errors and the rest

SOCKET_ERROR = re.compile(r"socketError err=(\S+) lastError=(\S+) async=(\S+) safe=(\S+)")


@same(*(fact for fact in FACTS if SOCKET_ERROR.fullmatch(fact)))
def test_socket_error_raises_what_nims_does(nim: Outcome, request: pytest.FixtureRequest) -> None:
    matched = SOCKET_ERROR.search(request.node.name)
    assert matched is not None
    err, last_error, async_, safe = matched.groups()
    number = 0 if last_error == "0" else getattr(errno, last_error)
    flags = SocketFlag.SAFE_DISCONN if safe.startswith("true") else SocketFlag(0)
    with tcp() as socket:
        assert said(lambda: socket.socket_error(int(err), async_ == "true", number, flags)) == nim


@same("socketError default, errno=0")
def test_socket_error_without_an_error_is_one_without_a_number(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.socket_error) == nim


def fail_elsewhere() -> None:
    """Leave an errno behind in this thread."""
    with tcp() as other, pytest.raises(OSError, match="accept"):
        other.accept()


@differs(
    "socketError default, errno=104", "an error is that of its socket; Nim takes the thread's last errno"
)
def test_socket_error_does_not_raise_the_error_of_another_socket(nim: Outcome) -> None:
    with tcp() as socket:
        fail_elsewhere()
        assert said(socket.socket_error) == {"exc": "OSError", "errno": 0} != nim


@differs("getSocketError errno=5", "an error is that of its socket; Nim takes the thread's last errno")
def test_get_socket_error_does_not_give_the_error_of_another_socket(nim: Outcome) -> None:
    with tcp() as socket:
        fail_elsewhere()
        assert said(socket.get_socket_error) == {"exc": "OSError", "errno": 0} != nim


@same("close twice")
def test_closing_twice_is_harmless(nim: Outcome) -> None:
    with tcp() as socket:
        socket.close()
        socket.close()
        assert said(socket.get_fd) == nim


@same("isSsl")
def test_a_plain_socket_is_no_ssl_socket(nim: Outcome) -> None:
    with tcp() as socket:
        assert said(socket.is_ssl) == nim


@same("&=")
def test_the_operator_for_appending_sends(nim: Outcome) -> None:
    with listener() as server, connected(server) as client, server.accept() as accepted:
        stream = client
        stream &= b"amp"
        assert stream is client
        assert {"r": accepted.recv(3).decode()} == nim


# The others

# Fact to the test that has it, elsewhere.
ELSEWHERE = {
    "Domain toInt": "test_options.py::test_domains_types_and_protocols_have_the_numbers_recorded_from_nim",
    "SockType ords": "test_options.py::test_domains_types_and_protocols_have_the_numbers_recorded_from_nim",
    "Protocol toInt": "test_options.py::test_domains_types_and_protocols_have_the_numbers_recorded_from_nim",
    "SOBool toCInt": "test_options.py::test_options_have_the_numbers_recorded_from_nim",
    "SOBool ords": "test_options.py::test_options_stand_in_the_order_of_nim",
    "ReadLineResult": "test_options.py::test_results_and_families_have_the_order_of_nim",
    "IpAddressFamily": "test_options.py::test_results_and_families_have_the_order_of_nim",
    "SocketFlag": "test_options.py::test_flags_are_a_set_of_just_two",
    "toOSFlags": "test_options.py::test_flags_become_the_bits_of_the_system",
    "BufferSize/MaxLineLength": "test_options.py::test_buffer_size_and_line_limit_are_those_of_nim",
    "Port": "test_options.py::test_a_port_is_a_plain_int_so_that_getaddrinfo_takes_it",
    "isDisconnectionError errnos": "test_errors.py::test_the_three_errnos_have_the_numbers_recorded_from_nim",
    "constants": "test_addresses.py::test_the_constants_are_those_of_nim",
    "==": "test_addresses.py::test_an_ipv4_address_written_as_ipv6_stays_ipv6_and_differs_from_the_ipv4_one",
    "toSockAddr/fromSockAddr": "test_addresses.py::"
    "test_socket_addresses_have_the_form_that_the_socket_module_uses",
    "fromSockAddr wrong length": "test_addresses.py::test_any_other_socket_address_is_neither_ipv4_nor_ipv6",
    "fromSockAddr wrong family": "test_addresses.py::test_any_other_socket_address_is_neither_ipv4_nor_ipv6",
    "getPrimaryIPAddr(127.0.0.1)": "test_addresses.py::test_the_primary_address_towards_loopback_is_loopback",
    "getPrimaryIPAddr(::1)": "test_addresses.py::test_the_primary_address_towards_loopback_is_loopback",
    "getPrimaryIPAddr(255.255.255.255)": "test_addresses.py::"
    "test_a_destination_that_the_kernel_refuses_is_an_os_error_that_names_call_and_destination",
}

# Fact to the reason why there is nothing to test.
DOES_NOT_APPLY = {
    "Domain ords": "domains are the stdlib's enum, whose values are the system's: see Domain toInt",
    "Protocol ords": "protocols are the stdlib's numbers, which are the system's: see Protocol toInt",
    "default IpAddress": "addresses are the stdlib's, which have no default",
}


def test_every_fact_is_accounted_for_once() -> None:
    assert len(FACTS) == 203
    places = [*taken, *ELSEWHERE, *DOES_NOT_APPLY]
    assert sorted(places) == sorted(FACTS)


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_the_tests_elsewhere_are_there(place: str) -> None:
    file, name = place.split("::")
    assert re.search(rf"^def {name}\(", (Path(__file__).parent / file).read_text("utf-8"), re.MULTILINE)


def test_each_difference_has_a_reason() -> None:
    assert set(differences) <= set(taken)
    assert all(reason.strip() for reason in differences.values())
