"""gnet.addresses: parsing, families, socket addresses, the primary address.

`test_nim_addresses.py` replays Nim's answers to 3,330 strings; here are the rest of the module and
the single facts that were recorded from Nim 1.6.10.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import subprocess
import sys
import warnings
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Any

import gevent.socket
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnet.addresses import (
    IpAddress,
    from_sock_addr,
    get_primary_ip_addr,
    ip_family,
    ipv4_any,
    ipv4_broadcast,
    ipv4_loopback,
    ipv6_any,
    ipv6_loopback,
    is_ip_address,
    parse_ip_address,
    to_sock_addr,
)
from gnet.options import IpAddressFamily

MAPPED = IPv6Address("::ffff:1.2.3.4")
SCOPED = IPv6Address("fe80::1%eth0")
PORTS = st.integers(0, 65535)


def host_has_ipv6() -> bool:
    with gevent.socket.socket(gevent.socket.AF_INET6, gevent.socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not host_has_ipv6(), reason="this machine has no ::1")


# Parsing


@given(st.ip_addresses())
def test_the_text_of_any_address_parses_back_to_it(address: IpAddress) -> None:
    assert parse_ip_address(str(address)) == address
    assert parse_ip_address(address.exploded) == address
    assert parse_ip_address(str(address).upper()) == address


@given(st.text(alphabet="0123456789abcdefF.:%/ -x", max_size=50) | st.text(max_size=50))
def test_any_text_is_either_an_address_of_the_stdlib_or_a_value_error(text: str) -> None:
    try:
        expected: IpAddress | None = None if "%" in text else ip_address(text)
    except ValueError:
        expected = None
    assert is_ip_address(text) == (expected is not None)
    if expected is None:
        with pytest.raises(ValueError, match="IP address"):
            parse_ip_address(text)
    else:
        assert parse_ip_address(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be empty"),
        ("localhost", "Expected 4 octets"),
        ("127.1", "Expected 4 octets"),
        ("010.0.0.1", "Leading zeros are not permitted in '010'"),
        ("1.2.3.256", "256"),
        (" 1.2.3.4", "' 1'"),
        ("1.2.3.4\n", r"'4\n'"),
        ("1.2.3.4/24", "Unexpected '/'"),
        ("[::1]", "Only hex digits permitted in '['"),
        ("00001::1", "At most 4 characters permitted in '00001'"),
        ("1::2::3", "At most one '::' permitted"),
        ("fe80::1%eth0", "a scope id is not part of it"),
        ("1.2.3.4%eth0", "a scope id is not part of it"),
    ],
)
def test_a_refusal_says_what_was_given_what_is_wrong_and_what_is_expected(text: str, reason: str) -> None:
    assert is_ip_address(text) is False
    with pytest.raises(ValueError, match=f"^IP address {re.escape(repr(text))}: ") as caught:
        parse_ip_address(text)
    message = str(caught.value)
    assert message.count(repr(text)) == 1
    assert reason in message
    assert message.endswith("expected IPv4 text such as 192.0.2.1 or IPv6 text such as 2001:db8::1")


@pytest.mark.parametrize("text", ["1" * 100_000, ":" * 100_000, "0" * 100_000 + "::1", "\x00" * 100_000])
def test_the_message_about_a_huge_text_is_short(text: str) -> None:
    with pytest.raises(ValueError, match=rf"\({len(text)} characters\)") as caught:
        parse_ip_address(text)
    assert len(str(caught.value)) < 600
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "the traceback would show the stdlib's long message"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"1.2.3.4", "bytes"), (16909060, "int"), (IPv4Address("1.2.3.4"), "IPv4Address"), (None, "NoneType")],
)
def test_only_a_str_is_parsed(value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=f"IP address: expected a str, got {kind}$"):
        parse_ip_address(value)
    with pytest.raises(TypeError, match=f"IP address: expected a str, got {kind}$"):
        is_ip_address(value)


# Values and families


def test_the_constants_are_those_of_nim() -> None:
    # Recorded from Nim 1.6.10.
    constants: list[IpAddress] = [ipv4_any(), ipv4_loopback(), ipv4_broadcast(), ipv6_any(), ipv6_loopback()]
    assert [str(address) for address in constants] == ["0.0.0.0", "127.0.0.1", "255.255.255.255", "::", "::1"]
    assert [ip_family(address).name for address in constants] == ["IPV4", "IPV4", "IPV4", "IPV6", "IPV6"]


def test_an_ipv4_address_written_as_ipv6_stays_ipv6_and_differs_from_the_ipv4_one() -> None:
    # Recorded from Nim 1.6.10.
    assert parse_ip_address("::ffff:1.2.3.4") == parse_ip_address("::FFFF:102:304") == MAPPED
    assert parse_ip_address("::ffff:1.2.3.4") != parse_ip_address("1.2.3.4")
    assert ip_family(MAPPED) is IpAddressFamily.IPV6
    assert ip_family(parse_ip_address("1.2.3.4")) is IpAddressFamily.IPV4


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1.2.3.4", "str"),
        (16909060, "int"),
        (None, "NoneType"),
        (ip_interface("1.2.3.4/24"), "IPv4Interface"),
        (ip_interface("fd00::1/64"), "IPv6Interface"),
        (ip_network("fd00::/64"), "IPv6Network"),
    ],
)
def test_what_is_no_address_is_a_type_error_wherever_an_address_is_expected(value: Any, kind: str) -> None:
    expected = f"expected an IPv4Address or IPv6Address, got {kind}$"
    with pytest.raises(TypeError, match=expected):
        ip_family(value)
    with pytest.raises(TypeError, match=expected):
        to_sock_addr(value, 80)
    with pytest.raises(TypeError, match=expected):
        get_primary_ip_addr(value)


# Socket addresses


@given(st.ip_addresses(), PORTS)
def test_a_socket_address_leads_back_to_address_and_port(address: IpAddress, port: int) -> None:
    sockaddr = to_sock_addr(address, port)
    assert len(sockaddr) == (2 if ip_family(address) is IpAddressFamily.IPV4 else 4)
    assert from_sock_addr(sockaddr) == (address, port)


def test_socket_addresses_have_the_form_that_the_socket_module_uses() -> None:
    # Addresses and port recorded from Nim 1.6.10, which has 4660 as 0x1234 in network order.
    assert to_sock_addr(IPv4Address("1.2.3.4"), 4660) == ("1.2.3.4", 4660)
    assert to_sock_addr(IPv6Address("2001:db8::5"), 4660) == ("2001:db8::5", 4660, 0, 0)
    assert from_sock_addr(("2001:db8::5", 4660, 0, 0)) == (IPv6Address("2001:db8::5"), 4660)


@pytest.mark.parametrize(
    "loopback", [ipv4_loopback(), pytest.param(ipv6_loopback(), marks=needs_ipv6)], ids=str
)
def test_a_real_socket_takes_and_gives_these_tuples(loopback: IpAddress) -> None:
    family = gevent.socket.AF_INET if loopback.version == 4 else gevent.socket.AF_INET6
    with gevent.socket.socket(family, gevent.socket.SOCK_DGRAM) as sock:
        sock.bind(to_sock_addr(loopback, 0))
        address, port = from_sock_addr(sock.getsockname())
        assert address == loopback
        assert port == sock.getsockname()[1] > 0


@pytest.mark.parametrize(
    "sockaddr", [("fe80::1%eth0", 80, 7, 3), ("fe80::1", 80, 0, 3), ("fe80::1%", 80, 0, 0)], ids=str
)
def test_flow_info_and_scope_id_are_dropped(sockaddr: tuple[str, int, int, int]) -> None:
    assert from_sock_addr(sockaddr) == (IPv6Address("fe80::1"), 80)


@pytest.mark.parametrize(
    "sockaddr",
    [
        "/run/redis.sock",  # what an AF_UNIX socket gives
        b"\x00abstract",
        "",
        None,
        ["1.2.3.4", 80],
        (),
        ("1.2.3.4",),
        ("1.2.3.4", 80, 0),
        ("1.2.3.4", 80, 0, 0),
        ("::1", 80),
        ("::1", 80, 0),
        ("::1", 80, 0, 0, 0),
        ("::1", 80, "0", 0),
        ("1.2.3.4%eth0", 80),
        ("localhost", 80),
        (b"1.2.3.4", 80),
        (4711, 0),  # what an AF_NETLINK socket gives
        ("eth0", 2048, 0, 1, b"\x02\xfc\x00\x00\x00\x01"),  # what an AF_PACKET socket gives
    ],
    ids=repr,
)
def test_any_other_socket_address_is_neither_ipv4_nor_ipv6(sockaddr: Any) -> None:
    # Recorded from Nim 1.6.10 for a wrong length and a wrong family: "Neither IPv4 nor IPv6".
    with pytest.raises(ValueError, match=r"neither IPv4, \(text, port\), nor IPv6, ") as caught:
        from_sock_addr(sockaddr)
    assert repr(sockaddr) in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536, 2**64])
def test_a_port_out_of_range_is_a_value_error(port: int) -> None:
    for call in (
        lambda: to_sock_addr(ipv4_loopback(), port),
        lambda: to_sock_addr(ipv6_loopback(), port),
        lambda: from_sock_addr(("1.2.3.4", port)),
        lambda: from_sock_addr(("::1", port, 0, 0)),
    ):
        with pytest.raises(ValueError, match=f"port: expected 0 to 65535, got {port}"):
            call()


@pytest.mark.parametrize("port", ["80", 80.0, None, True])
def test_a_port_that_is_no_int_is_a_type_error(port: Any) -> None:
    with pytest.raises(TypeError, match=f"port: .*got {type(port).__name__}"):
        to_sock_addr(ipv4_loopback(), port)
    with pytest.raises(TypeError, match=f"port: .*got {type(port).__name__}"):
        from_sock_addr(("1.2.3.4", port))


def test_an_address_with_a_scope_id_is_not_sent_elsewhere_by_dropping_it() -> None:
    with pytest.raises(ValueError, match="'fe80::1%eth0': expected an address without a scope id"):
        to_sock_addr(SCOPED, 80)
    with pytest.raises(ValueError, match="'fe80::1%eth0': expected an address without a scope id"):
        get_primary_ip_addr(SCOPED)


# The primary address


@pytest.mark.parametrize("dest", [ipv4_loopback(), pytest.param(ipv6_loopback(), marks=needs_ipv6)], ids=str)
def test_the_primary_address_towards_loopback_is_loopback(dest: IpAddress) -> None:
    # Recorded from Nim 1.6.10.
    assert get_primary_ip_addr(dest) == dest


def test_the_primary_address_is_one_that_this_machine_can_bind_to() -> None:
    try:
        address = get_primary_ip_addr()
    except OSError as error:
        pytest.skip(f"no route to the outside: {error}")
    with gevent.socket.socket(gevent.socket.AF_INET, gevent.socket.SOCK_DGRAM) as sock:
        sock.bind(to_sock_addr(address, 0))


def test_a_destination_that_the_kernel_refuses_is_an_os_error_that_names_call_and_destination() -> None:
    # Recorded from Nim 1.6.10: EACCES, "Permission denied".
    with pytest.raises(PermissionError) as caught:
        get_primary_ip_addr(ipv4_broadcast())
    assert caught.value.errno == errno.EACCES
    assert caught.value.strerror == "get_primary_ip_addr for 255.255.255.255: Permission denied"
    assert isinstance(caught.value.__cause__, PermissionError)


@pytest.mark.plain_only
def test_too_many_open_files_is_an_os_error_that_names_call_and_destination() -> None:
    program = (
        "import os, resource; from gnet.addresses import get_primary_ip_addr\n"
        "top = os.dup(0)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1, top + 1))\n"
        "try: get_primary_ip_addr()\n"
        "except OSError as error: print(error)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert (
        output.strip()
        == f"[Errno {errno.EMFILE}] get_primary_ip_addr for 8.8.8.8: {os.strerror(errno.EMFILE)}"
    )


@pytest.mark.parametrize("dest", [ipv4_loopback(), ipv4_broadcast()], ids=["success", "failure"])
def test_the_socket_is_closed_and_not_left_to_the_garbage_collector(dest: IpAddress) -> None:
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        with contextlib.suppress(PermissionError):
            get_primary_ip_addr(dest)
    assert [str(warning.message) for warning in seen] == []
