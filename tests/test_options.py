"""gnet.options: the numbers behind the names, and the check of ports."""

from __future__ import annotations

import enum
import socket as stdlib_socket  # for its constants; the sockets here are gevent's
import sys
from typing import Any

import gevent.socket
import pytest

import gnet.options
from gnet import options
from gnet.options import (
    BUFFER_SIZE,
    MAX_LINE_LENGTH,
    IpAddressFamily,
    Port,
    ReadLineResult,
    SOBool,
    SocketFlag,
    SslAcceptResult,
    SslCVerifyMode,
    SslHandshakeType,
    SslProtVersion,
)

linux_numbers = pytest.mark.skipif(sys.platform != "linux", reason="the numbers are Linux's")


def test_every_name_that_the_module_lists_is_there_once() -> None:
    assert len(gnet.options.__all__) == len(set(gnet.options.__all__))
    assert [name for name in gnet.options.__all__ if not hasattr(gnet.options, name)] == []


# Domains, types, protocols


@linux_numbers
def test_domains_types_and_protocols_have_the_numbers_recorded_from_nim() -> None:
    # Recorded from Nim 1.6.10: what toInt gives on Linux, in Nim's order.
    domains = [options.AF_UNSPEC, options.AF_UNIX, options.AF_INET, options.AF_INET6]
    assert [int(domain) for domain in domains] == [0, 1, 2, 10]
    kinds = [options.SOCK_STREAM, options.SOCK_DGRAM, options.SOCK_RAW, options.SOCK_SEQPACKET]
    assert [int(kind) for kind in kinds] == [1, 2, 3, 5]
    protocols = ["TCP", "UDP", "IP", "IPV6", "RAW", "ICMP", "ICMPV6"]
    assert [getattr(options, f"IPPROTO_{name}") for name in protocols] == [6, 17, 0, 41, 255, 1, 58]


def test_domains_and_types_are_the_enums_of_the_stdlib() -> None:
    assert options.AF_INET6 is stdlib_socket.AddressFamily.AF_INET6
    assert options.SOCK_DGRAM is stdlib_socket.SocketKind.SOCK_DGRAM
    assert options.SOMAXCONN == stdlib_socket.SOMAXCONN > 0


def test_buffer_size_and_line_limit_are_those_of_nim() -> None:
    # Recorded from Nim 1.6.10.
    assert (BUFFER_SIZE, MAX_LINE_LENGTH) == (4000, 1_000_000)


# Flags


def test_flags_become_the_bits_of_the_system() -> None:
    # Recorded from Nim 1.6.10: toOSFlags of {}, {Peek}, {SafeDisconn} is 0, 2, 0.
    flags = [SocketFlag(0), SocketFlag.PEEK, SocketFlag.SAFE_DISCONN]
    assert [flag.to_os_flags() for flag in flags] == [0, 2, 0]
    assert (SocketFlag.PEEK | SocketFlag.SAFE_DISCONN).to_os_flags() == stdlib_socket.MSG_PEEK
    assert type(SocketFlag.PEEK.to_os_flags()) is int


def test_flags_are_a_set_of_just_two() -> None:
    assert [flag.name for flag in SocketFlag] == ["PEEK", "SAFE_DISCONN"]
    assert not SocketFlag.PEEK & SocketFlag.SAFE_DISCONN
    assert not SocketFlag(0)
    with pytest.raises(ValueError, match="4"):
        SocketFlag(4)


def test_flags_and_options_are_no_plain_numbers_that_a_call_could_mix_up() -> None:
    for kind in (SocketFlag, SOBool, ReadLineResult, IpAddressFamily):
        assert issubclass(kind, enum.Enum)
        assert not issubclass(kind, int)


# Options of a socket

# Recorded from Nim 1.6.10: toCInt on Linux, in the order of Nim's SOBool.
SO_NUMBERS = {
    "ACCEPT_CONN": 30,
    "BROADCAST": 6,
    "DEBUG": 1,
    "DONT_ROUTE": 5,
    "KEEP_ALIVE": 9,
    "OOB_INLINE": 10,
    "REUSE_ADDR": 2,
    "REUSE_PORT": 15,
    "NO_DELAY": 1,
}


def test_options_stand_in_the_order_of_nim() -> None:
    assert [option.name for option in SOBool] == list(SO_NUMBERS)
    assert len(SOBool.__members__) == 9, "an alias: two options are one"


@linux_numbers
def test_options_have_the_numbers_recorded_from_nim() -> None:
    assert {option.name: option.to_cint() for option in SOBool} == SO_NUMBERS


def test_no_delay_lives_at_the_level_of_tcp_and_the_others_at_that_of_sockets() -> None:
    levels = {option: option.socket_level for option in SOBool}
    assert levels.pop(SOBool.NO_DELAY) == stdlib_socket.IPPROTO_TCP
    assert set(levels.values()) == {stdlib_socket.SOL_SOCKET}


@pytest.mark.parametrize(
    "option", [option for option in SOBool if option.name not in ("ACCEPT_CONN", "DEBUG")]
)
def test_a_real_socket_takes_the_option_and_changes_no_other(option: SOBool) -> None:
    # DEBUG needs a privilege, ACCEPT_CONN is set by listen alone.
    with gevent.socket.socket() as sock:
        before = {other: sock.getsockopt(other.socket_level, other.to_cint()) for other in SOBool}
        sock.setsockopt(option.socket_level, option.to_cint(), 1)
        after = {other: sock.getsockopt(other.socket_level, other.to_cint()) for other in SOBool}
    assert before[option] == 0
    assert after.pop(option) != 0
    assert after == {other: value for other, value in before.items() if other is not option}


def test_accept_conn_is_on_for_a_listening_socket() -> None:
    # Recorded from Nim 1.6.10: [false, true].
    with gevent.socket.socket() as sock:
        level, number = SOBool.ACCEPT_CONN.socket_level, SOBool.ACCEPT_CONN.to_cint()
        assert sock.getsockopt(level, number) == 0
        sock.listen()
        assert sock.getsockopt(level, number) == 1


# Results and families


def test_results_and_families_have_the_order_of_nim() -> None:
    # Recorded from Nim 1.6.10: ReadFullLine, ReadPartialLine, ReadDisconnected, ReadNone; IPv6 0, IPv4 1.
    assert {result.name: result.value for result in ReadLineResult} == {
        "FULL_LINE": 0,
        "PARTIAL_LINE": 1,
        "DISCONNECTED": 2,
        "NONE": 3,
    }
    assert {family.name: family.value for family in IpAddressFamily} == {"IPV6": 0, "IPV4": 1}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SslCVerifyMode, "NONE PEER PEER_USE_ENV_VARS"),
        (SslProtVersion, "SSLV2 SSLV3 TLSV1 SSLV23"),
        (SslAcceptResult, "NO_CLIENT NO_HANDSHAKE SUCCESS"),
        (SslHandshakeType, "AS_CLIENT AS_SERVER"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_enums_of_tls_have_the_order_of_nim(kind: Any, names: str) -> None:
    assert {member.name: member.value for member in kind} == {
        name: number for number, name in enumerate(names.split())
    }


# Ports


class Service(enum.IntEnum):
    HTTP = 80


@pytest.mark.parametrize("number", [0, 1, 80, 65535])
def test_a_port_in_range_is_given_back(number: int) -> None:
    assert Port(number) == number


def test_a_port_is_a_plain_int_so_that_getaddrinfo_takes_it() -> None:
    # "80" is what Nim 1.6.10 shows for Port(80).
    port = Port(Service.HTTP)
    assert type(port) is int
    assert str(port) == "80"
    assert stdlib_socket.getaddrinfo("127.0.0.1", port, flags=stdlib_socket.AI_NUMERICHOST)[0][4] == (
        "127.0.0.1",
        80,
    )


@pytest.mark.parametrize("number", [-1, 65536, -(2**63), 2**64])
def test_a_port_out_of_range_is_a_value_error_that_says_the_range_and_the_number(number: int) -> None:
    with pytest.raises(ValueError, match=f"port: expected 0 to 65535, got {number}$"):
        Port(number)


@pytest.mark.parametrize("value", ["80", b"80", 80.0, None, True, False], ids=repr)
def test_a_port_that_is_no_int_is_a_type_error_that_says_what_it_is(value: Any) -> None:
    with pytest.raises(
        TypeError, match=f"port: expected an int from 0 to 65535, got {type(value).__name__}$"
    ):
        Port(value)
