"""gnet.names: what is a host name, and which addresses it has.

Look-ups that hang or fail are `tests.faults.test_connecting`.
"""

from __future__ import annotations

import socket as stdlib_socket  # for its constants
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gnet
from gnet.addresses import is_ip_address
from gnet.deadlines import Deadline
from gnet.names import _HostsFile, check_host, resolve  # the hosts file has no other door
from tests.loopback import GUARD, needs_ipv6

TCP = (gnet.SOCK_STREAM, gnet.IPPROTO_TCP)

# What is a name

GOOD_NAMES = {
    "localhost": "localhost",
    "example.com": "example.com",
    "example.com.": "example.com.",
    "Example.COM": "Example.COM",
    "_srv._tcp.example.com": "_srv._tcp.example.com",
    "127.0.0.1": "127.0.0.1",
    "::1": "::1",
    "2001:DB8::1": "2001:DB8::1",
    "fe80::1%lo": "fe80::1%lo",
    "bücher.example": "xn--bcher-kva.example",
    "0xcafe.example": "0xcafe.example",
    "a" * 63 + ".example": "a" * 63 + ".example",
    "a." * 126 + "a.": "a." * 126 + "a.",  # 253 characters and the dot of the root
    ".".join(["a" * 63] * 3 + ["b" * 61]): ".".join(["a" * 63] * 3 + ["b" * 61]),
}


@pytest.mark.parametrize(("given_name", "name"), GOOD_NAMES.items(), ids=lambda name: name[:20])
def test_a_host_name_is_given_in_ascii(given_name: str, name: str) -> None:
    assert check_host(given_name, "test") == name


BAD_NAMES: dict[str, tuple[Any, type[Exception], str]] = {
    "bytes": (b"localhost", TypeError, "expected a host name as str, got bytes"),
    "None": (None, TypeError, "got NoneType"),
    "a number": (2130706433, TypeError, "got int"),
    "empty": ("", ValueError, "the host name is empty"),
    "a NUL": ("localhost\0", ValueError, r"'localhost\\x00' has a control character or space"),
    "a NUL in an address": ("127.0.0.1\0", ValueError, "control character"),
    "a space": ("local host", ValueError, "control character or space"),
    "a line end": ("localhost\n", ValueError, "control character or space"),
    "a dot and no more": (".", ValueError, "each part must have 1 to 63"),
    "two dots": ("example..com", ValueError, "each part must have 1 to 63"),
    "a label of 64": ("a" * 64 + ".example", ValueError, "each part must have 1 to 63"),
    "254 characters": ("a." * 126 + "ab", ValueError, "host name of 254 characters"),
    "300 characters": ("a." * 146 + "example", ValueError, "host name of 299 characters"),
    "no international name": ("a\u200eb", ValueError, "is no host name"),
    "an international label too long": ("ü" * 80 + ".example", ValueError, "is no host name"),
    "brackets": ("[::1]", ValueError, "is no IPv6 address"),
    "a port": ("localhost:80", ValueError, "is no IPv6 address"),
    "a scope of a global address": ("2001:db8::1%lo", ValueError, "scope id, but is not a link-local"),
    # What the C library would take for 127.0.0.1 or another address.
    "a star": ("*", ValueError, "."),
    "parts left out": ("127.1", ValueError, "'127.1' is no IP address"),
    "one number": ("2130706433", ValueError, "is no IP address"),
    "a hex number": ("0x7f000001", ValueError, "is no IP address"),
    "hex parts": ("0x7f.0.0.0x1", ValueError, "is no IP address"),
    "octal parts": ("0177.0.0.01", ValueError, "is no IP address"),
    "leading zeros": ("127.0.0.001", ValueError, "is no IP address"),
    "a number too high": ("127.0.0.256", ValueError, "is no IP address"),
    "too many parts": ("1.2.3.4.5", ValueError, "is no IP address"),
    "a dot behind": ("127.1.", ValueError, "is no IP address"),
}


@pytest.mark.parametrize(("name", "kind", "message"), BAD_NAMES.values(), ids=BAD_NAMES)
def test_what_is_no_host_name_is_refused(name: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"test: .*{message}" if kind is ValueError else message) as caught:
        check_host(name, "test")
    assert len(str(caught.value)) < 300


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=40) | st.from_regex(r"[0-9a-fx.:%]{1,20}"))
def test_no_text_that_passes_leads_the_c_library_to_an_address_that_it_is_not(text: str) -> None:
    try:
        name = check_host(text, "test")
    except ValueError:
        return
    try:
        numeric = stdlib_socket.AI_NUMERICHOST
        found = gevent.socket.getaddrinfo(name, 80, 0, gnet.SOCK_STREAM, gnet.IPPROTO_TCP, numeric)
    except gevent.socket.gaierror:
        assert not is_ip_address(name)  # it is no address to the C library either
    else:
        assert is_ip_address(name.partition("%")[0]), f"{text!r} would lead to {found[0][4]}"


# Which addresses it has

LITERALS: dict[str, tuple[str, int, list[Any]]] = {
    "IPv4": ("127.0.0.1", gnet.AF_INET, [(gnet.AF_INET, *TCP, ("127.0.0.1", 80))]),
    "IPv6": ("::1", gnet.AF_INET6, [(gnet.AF_INET6, *TCP, ("::1", 80, 0, 0))]),
    "IPv4 of any": ("127.0.0.1", gnet.AF_UNSPEC, [(gnet.AF_INET, *TCP, ("127.0.0.1", 80))]),
    "IPv6 of any": ("::1", gnet.AF_UNSPEC, [(gnet.AF_INET6, *TCP, ("::1", 80, 0, 0))]),
    "IPv4 for IPv6": ("127.0.0.1", gnet.AF_INET6, [(gnet.AF_INET6, *TCP, ("::ffff:127.0.0.1", 80, 0, 0))]),
    "not in the shortest form": (
        "2001:DB8:0:0::1",
        gnet.AF_INET6,
        [(gnet.AF_INET6, *TCP, ("2001:db8::1", 80, 0, 0))],
    ),
}


@pytest.mark.parametrize(("host", "family", "infos"), LITERALS.values(), ids=LITERALS)
def test_a_literal_is_its_own_address(host: str, family: int, infos: list[Any]) -> None:
    assert resolve(host, 80, family, *TCP, Deadline(GUARD)) == infos


def test_a_literal_of_the_other_family_has_no_address() -> None:
    with pytest.raises(gevent.socket.gaierror, match=r"'::1' has no address of family AF_INET") as caught:
        resolve("::1", 80, gnet.AF_INET, *TCP, Deadline(GUARD))
    assert caught.value.errno == stdlib_socket.EAI_FAMILY


@needs_ipv6
def test_a_scope_id_becomes_the_number_of_the_interface() -> None:
    number = gevent.socket.if_nametoindex("lo")
    infos = resolve("fe80::1%lo", 80, gnet.AF_UNSPEC, *TCP, Deadline(GUARD))
    assert [(info[0], info[3]) for info in infos] == [(gnet.AF_INET6, ("fe80::1", 80, 0, number))]
    with pytest.raises(gevent.socket.gaierror, match="looking up 'fe80::1%nosuch'"):
        resolve(check_host("fe80::1%nosuch", "test"), 80, gnet.AF_UNSPEC, *TCP, Deadline(GUARD))
    for no_address in ("127.0.0.1%lo", "%lo"):
        with pytest.raises(ValueError, match=f"'{no_address}' is no host name"):
            check_host(no_address, "test")


@pytest.mark.parametrize("name", ["some.localhost", "SOME.LOCALHOST", "some.localhost.", "a.b.localhost"])
def test_names_below_localhost_are_this_machine(name: str) -> None:
    # RFC 6761, section 6.3.
    infos = resolve(name, 80, gnet.AF_UNSPEC, *TCP, Deadline(GUARD))
    assert [info[3][0] for info in infos] == ["::1", "127.0.0.1"]


def test_a_name_of_the_hosts_file_has_the_addresses_that_stand_there(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(
        "# a comment\n"
        "192.0.2.1 Alpha alpha.example # another\n"
        "\n"
        "192.0.2.2\tbeta alpha\n"
        "2001:db8::1 alpha\n"
        "not-an-address gamma\n"
        "192.0.2.3\n"
        "127.1 delta\n"
    )
    hosts = _HostsFile(str(path))
    assert hosts.addresses("alpha") == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert hosts.addresses("alpha.example") == ["192.0.2.1"]
    assert hosts.addresses("beta") == ["192.0.2.2"]
    assert [hosts.addresses(name) for name in ("gamma", "delta", "alph", "comment")] == [[], [], [], []]
    assert hosts.addresses("localhost") == ["::1", "127.0.0.1"]


def test_a_hosts_file_that_changes_or_vanishes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = _HostsFile(str(path))
    assert hosts.addresses("alpha") == []
    path.write_text("192.0.2.1 alpha\n127.0.0.5 localhost\n")
    assert (hosts.addresses("alpha"), hosts.addresses("localhost")) == (["192.0.2.1"], ["127.0.0.5"])
    path.write_text("192.0.2.22 alpha\n")
    assert (hosts.addresses("alpha"), hosts.addresses("localhost")) == (["192.0.2.22"], ["::1", "127.0.0.1"])
    path.unlink()
    assert hosts.addresses("alpha") == []
