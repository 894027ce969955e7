"""gnet.proxy_protocol: headers as a whole, cut anywhere, with the client's bytes behind; and what is none.

Headers marked "haproxy" were taken from a wire behind HAProxy 2.6.12. Fault row C16 (split headers, wrong TLV
lengths) is here as far as it needs no socket.
"""

from __future__ import annotations

import copy
import ipaddress
import pickle
import socket
import struct
from typing import Any, Final

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gnet.proxy_protocol import (
    MAX_V1_SIZE,
    MAX_V2_LENGTH,
    MAX_V2_SIZE,
    ProxyHeader,
    ProxyHeaderError,
    parse_header,
)

pytestmark = pytest.mark.plain_only  # pure code: nothing that patching could change

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL: Final = 0x20
PROXY: Final = 0x21

IPV4_BLOCK: Final = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 56324, 443)
IPV4_ENDS: Final = (("192.0.2.1", 56324), ("198.51.100.2", 443))
CRC_TYPE: Final = 3
NOOP_TYPE: Final = 4
UNIQUE_ID_TYPE: Final = 5


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def tlv(kind: int, value: bytes, length: int | None = None) -> bytes:
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


def tcp4(extra: bytes = b"") -> bytes:
    return v2(PROXY, 0x11, IPV4_BLOCK + extra)


def unix_block(source: bytes, destination: bytes) -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def crc32c(data: bytes) -> int:
    """Bit by bit, as the definition says."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def with_checksum(header: bytes) -> bytes:
    """Fill in the checksum of a header whose checksum field is the last and zero."""
    return header[:-4] + struct.pack("!I", crc32c(header))


# What is a header


def header(
    version: int, family: str, ends: tuple[Any, Any], local: bool = False, tlvs: Any = ()
) -> tuple[Any, ...]:
    """The expected answer, but for the length, which the test knows."""
    return (version, family, *ends, local, tlvs)


NOBODY: Final = (None, None)
LOOPBACK6: Final = bytes(15) + b"\1"
LONGEST6: Final = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

# (wire, answer)
HEADERS: Final = {
    "v1 of the specification": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        header(1, "TCP4", (("192.168.0.1", 56324), ("192.168.0.11", 443))),
    ),
    "v1 shortest": (
        b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
        header(1, "TCP4", (("0.0.0.0", 0), ("0.0.0.0", 0))),
    ),
    "v1 longest": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        header(1, "TCP4", (("255.255.255.255", 65535),) * 2),
    ),
    "v1 haproxy": (
        b"PROXY TCP4 127.0.0.1 127.0.0.1 39150 41633\r\n",
        header(1, "TCP4", (("127.0.0.1", 39150), ("127.0.0.1", 41633))),
    ),
    "v1 haproxy, IPv6": (
        b"PROXY TCP6 ::1 ::1 57698 60473\r\n",
        header(1, "TCP6", (("::1", 57698, 0, 0), ("::1", 60473, 0, 0))),
    ),
    "v1 haproxy, IPv4 client of an IPv6 socket": (
        b"PROXY TCP6 ::ffff:127.0.0.1 ::ffff:127.0.0.1 39340 50207\r\n",
        header(1, "TCP6", (("127.0.0.1", 39340), ("127.0.0.1", 50207))),
    ),
    "v1 haproxy, Unix client": (b"PROXY UNKNOWN\r\n", header(1, "UNKNOWN", NOBODY)),
    "v1 IPv6 longest": (
        f"PROXY TCP6 {LONGEST6} {LONGEST6} 65535 65535\r\n".encode(),
        header(1, "TCP6", ((LONGEST6, 65535, 0, 0),) * 2),
    ),
    "v1 IPv6 shortest": (
        b"PROXY TCP6 :: :: 0 0\r\n",
        header(1, "TCP6", (("::", 0, 0, 0),) * 2),
    ),
    "v1 IPv6 upper case and not shortened": (
        b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:00AB 2001:DB8::1 1 2\r\n",
        header(1, "TCP6", (("2001:db8::ab", 1, 0, 0), ("2001:db8::1", 2, 0, 0))),
    ),
    "v1 mapped IPv4 in hex digits": (
        b"PROXY TCP6 ::ffff:c000:201 2001:db8::1 1 2\r\n",
        header(1, "TCP6", (("192.0.2.1", 1), ("2001:db8::1", 2, 0, 0))),
    ),
    "v1 unknown, worst case": (
        f"PROXY UNKNOWN {LONGEST6} {LONGEST6} 65535 65535\r\n".encode(),
        header(1, "UNKNOWN", NOBODY),
    ),
    "v1 unknown, no addresses at all": (b"PROXY UNKNOWN any\0thing  \xff\r\n", header(1, "UNKNOWN", NOBODY)),
    "v2 TCP over IPv4": (tcp4(), header(2, "TCP4", IPV4_ENDS)),
    "v2 UDP over IPv4": (v2(PROXY, 0x12, IPV4_BLOCK), header(2, "UDP4", IPV4_ENDS)),
    "v2 haproxy": (
        bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c 7f000001 7f000001 abf0 8697"),
        header(2, "TCP4", (("127.0.0.1", 0xABF0), ("127.0.0.1", 0x8697))),
    ),
    "v2 haproxy, IPv6": (
        v2(PROXY, 0x21, LOOPBACK6 + LOOPBACK6 + bytes.fromhex("ab26 c8cd")),
        header(2, "TCP6", (("::1", 0xAB26, 0, 0), ("::1", 0xC8CD, 0, 0))),
    ),
    "v2 haproxy, IPv4 client of an IPv6 socket": (
        v2(PROXY, 0x21, bytes.fromhex("00000000000000000000ffff7f000001" * 2 + "c74e e639")),
        header(2, "TCP6", (("127.0.0.1", 0xC74E), ("127.0.0.1", 0xE639))),
    ),
    "v2 UDP over IPv6": (
        v2(PROXY, 0x22, LOOPBACK6 + LOOPBACK6 + bytes(4)),
        header(2, "UDP6", (("::1", 0, 0, 0), ("::1", 0, 0, 0))),
    ),
    "v2 haproxy, checksum": (
        bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 0013 7f000001 7f000001 e8cc b101 030004 95052cd7"),
        header(
            2,
            "TCP4",
            (("127.0.0.1", 0xE8CC), ("127.0.0.1", 0xB101)),
            tlvs=((CRC_TYPE, bytes.fromhex("95052cd7")),),
        ),
    ),
    "v2 haproxy, checksum and unique id": (
        bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 002c 7f000001 7f000001 8856 8741 030004 7a59c059")
        + b"\x05\x00\x167F000001:8856_6B079213",
        header(
            2,
            "TCP4",
            (("127.0.0.1", 0x8856), ("127.0.0.1", 0x8741)),
            tlvs=((CRC_TYPE, bytes.fromhex("7a59c059")), (UNIQUE_ID_TYPE, b"7F000001:8856_6B079213")),
        ),
    ),
    "v2 haproxy, health check": (
        bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0007 030004 a9b87e8f"),
        header(2, "UNKNOWN", NOBODY, local=True),
    ),
    "v2 local, the rest ignored": (
        v2(LOCAL, 0xFF, b"not a TLV"),
        header(2, "UNKNOWN", NOBODY, local=True),
    ),
    "v2 local, addresses ignored": (
        v2(LOCAL, 0x11, IPV4_BLOCK),
        header(2, "UNKNOWN", NOBODY, local=True),
    ),
    "v2 unspecified": (v2(PROXY, 0x00, b""), header(2, "UNKNOWN", NOBODY)),
    "v2 unspecified, the rest ignored": (v2(PROXY, 0x00, b"??"), header(2, "UNKNOWN", NOBODY)),
    "v2 Unix": (
        v2(PROXY, 0x31, unix_block(b"/run/client.sock", b"/run/server.sock")),
        header(2, "UNIX", ("/run/client.sock", "/run/server.sock")),
    ),
    "v2 Unix, a path as long as the field and one without a name": (
        v2(PROXY, 0x31, unix_block(b"/" + b"p" * 107, b"")),
        header(2, "UNIX", ("/" + "p" * 107, "")),
    ),
    "v2 Unix, abstract name": (
        v2(PROXY, 0x32, unix_block(b"\0name", b"/path\0rubbish behind it")),
        header(2, "UNIX_DGRAM", (b"\0name", "/path")),
    ),
    "v2 Unix with TLV": (
        v2(PROXY, 0x31, unix_block(b"/a", b"/b") + tlv(NOOP_TYPE, b"")),
        header(2, "UNIX", ("/a", "/b"), tlvs=((NOOP_TYPE, b""),)),
    ),
    "v2 TLVs in order, with one type twice": (
        tcp4(tlv(2, b"example.com") + tlv(0xE0, b"x") + tlv(0xE0, b"") + tlv(1, b"h2")),
        header(2, "TCP4", IPV4_ENDS, tlvs=((2, b"example.com"), (0xE0, b"x"), (0xE0, b""), (1, b"h2"))),
    ),
    "v2 of the largest size": (
        tcp4(tlv(NOOP_TYPE, bytes(MAX_V2_LENGTH - 15))),
        header(2, "TCP4", IPV4_ENDS, tlvs=((NOOP_TYPE, bytes(MAX_V2_LENGTH - 15)),)),
    ),
    "v2 longest unique id": (
        tcp4(tlv(UNIQUE_ID_TYPE, bytes(128))),
        header(2, "TCP4", IPV4_ENDS, tlvs=((UNIQUE_ID_TYPE, bytes(128)),)),
    ),
}

headers = pytest.mark.parametrize(("wire", "answer"), HEADERS.values(), ids=HEADERS.keys())


def own_version(wire: bytes) -> Any:
    return "v1" if wire.startswith(b"P") else "v2"


def without_length(parsed: ProxyHeader) -> tuple[Any, ...]:
    version, family, source, destination, _, is_local, tlvs = parsed
    return (version, family, source, destination, is_local, tlvs)


@headers
def test_a_header_is_read(wire: bytes, answer: tuple[Any, ...]) -> None:
    parsed = parse_header(wire, own_version(wire))
    assert parsed is not None
    assert without_length(parsed) == answer
    assert parsed.length == len(wire)


@headers
def test_any_takes_both_versions(wire: bytes, answer: tuple[Any, ...]) -> None:
    assert parse_header(wire, "any") == parse_header(wire, own_version(wire))


@headers
def test_c16_every_beginning_of_a_header_asks_for_more(wire: bytes, answer: tuple[Any, ...]) -> None:
    for size in range(len(wire)):
        assert parse_header(wire[:size], own_version(wire)) is None, wire[:size]


@headers
@pytest.mark.parametrize("behind", [b"\r\n", b"\n", b" ", b"PING\r\n", b"\0", b"\x16\x03\x01", bytes(70_000)])
def test_bytes_behind_a_header_are_left_alone(wire: bytes, answer: tuple[Any, ...], behind: bytes) -> None:
    assert parse_header(wire + behind, own_version(wire)) == parse_header(wire, own_version(wire))


@headers
def test_only_one_header_is_read(wire: bytes, answer: tuple[Any, ...]) -> None:
    assert parse_header(wire + wire, "any") == parse_header(wire, "any")


def test_an_endpoint_is_what_the_socket_module_takes() -> None:
    parsed = parse_header(b"PROXY TCP6 ::1 ::1 1 2\r\n", "v1")
    assert parsed is not None
    assert isinstance(parsed.source, tuple)
    assert socket.getnameinfo(parsed.source, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == ("::1", "1")


# What is none

TCP4: Final = b"PROXY TCP4 192.0.2.1 198.51.100.2 "
TCP6: Final = b"PROXY TCP6 "

# (what can be a beginning, the byte that rules it out with what follows, part of the message)
NOT_V1: Final = {
    "HTTP": (b"", b"GET / HTTP/1.1\r\n", "does not begin with 'PROXY '"),
    "TLS": (b"", b"\x16\x03\x01\x02\x00\x01", "does not begin with"),
    "HTTP that begins alike": (b"P", b"OST / HTTP/1.1\r\n", "does not begin with"),
    "an empty line before it": (b"", b"\r\nPROXY UNKNOWN\r\n", "does not begin with"),
    "a space before it": (b"", b" PROXY UNKNOWN\r\n", "does not begin with"),
    "lower case": (b"", b"proxy UNKNOWN\r\n", "does not begin with"),
    "no space": (b"PROXY", b"\tUNKNOWN\r\n", "does not begin with"),
    "nothing else": (b"PROXY", b"\r\n", "protocol b''"),
    "a second space": (b"PROXY ", b" TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "protocol b''"),
    "no such protocol": (b"PROXY U", b"DP4 1.2.3.4 1.2.3.4 1 2\r\n", "is not TCP4, TCP6 or UNKNOWN"),
    "protocol of a later version": (
        b"PROXY TCP",
        b"8 1.2.3.4 1.2.3.4 1 2\r\n",
        "is not TCP4, TCP6 or UNKNOWN",
    ),
    "protocol in lower case": (b"PROXY ", b"tcp4 1.2.3.4 1.2.3.4 1 2\r\n", "is not TCP4"),
    "protocol too short": (b"PROXY TCP", b" 1.2.3.4 1.2.3.4 1 2\r\n", "protocol b'TCP'"),
    "protocol too long": (b"PROXY TCP4", b"4 1.2.3.4 1.2.3.4 1 2\r\n", "protocol b'TCP44'"),
    "UNKNOWN too long": (b"PROXY UNKNOWN", b"S\r\n", "protocol b'UNKNOWNS'"),
    "no addresses": (b"PROXY TCP4", b"\r\n", "2 words"),
    "no destination": (b"PROXY TCP4 192.0.2.1", b"\r\n", "3 words"),
    "no destination port": (TCP4 + b"1", b"\r\n", "5 words"),
    "one word too many": (TCP4 + b"1 2", b" 3\r\n", "words"),
    "a space at the end": (TCP4 + b"1 2", b" \r\n", "words"),
    "two spaces between addresses": (
        b"PROXY TCP4 192.0.2.1 ",
        b" 1.2.3.4 1 2\r\n",
        "destination address b''",
    ),
    "tab between addresses": (b"PROXY TCP4 192.0.2.1", b"\t1.2.3.4 1 2\r\n", "source address"),
    "octet too large": (b"PROXY TCP4 192.0.25", b"6.1 1.2.3.4 1 2\r\n", "is no IPv4 address"),
    "octet with leading zero": (b"PROXY TCP4 192.0", b"1.2.1 1.2.3.4 1 2\r\n", "is no IPv4 address"),
    "octet missing": (
        b"PROXY TCP4 192.0.2",
        b" 1.2.3.4 1 2\r\n",
        "source address b'192.0.2' is no IPv4 address",
    ),
    "octet empty": (b"PROXY TCP4 192.", b".2.1 1.2.3.4 1 2\r\n", "is no IPv4 address"),
    "octet of another script": (b"PROXY TCP4 ", "٣.0.0.1 1.2.3.4 1 2\r\n".encode(), "is no IPv4 address"),
    "a fifth octet": (b"PROXY TCP4 192.0.2.1", b".1 1.2.3.4 1 2\r\n", "is no IPv4 address"),
    "a name": (b"PROXY TCP4 ", b"localhost 1.2.3.4 1 2\r\n", "is no IPv4 address"),
    "IPv6 in TCP4": (b"PROXY TCP4 ", b"::1 ::1 1 2\r\n", "is no IPv4 address"),
    "IPv6 destination in TCP4": (b"PROXY TCP4 192.0.2.1 2", b"fff::1 1 2\r\n", "destination address"),
    "IPv4 in TCP6": (TCP6 + b"192", b".0.2.1 192.0.2.1 1 2\r\n", "is no IPv6 address"),
    "group of five digits": (TCP6 + b"2001", b"0::1 ::1 1 2\r\n", "is no IPv6 address"),
    "group of five digits, of zeros": (TCP6 + b"::0000", b"1 ::1 1 2\r\n", "is no IPv6 address"),
    "group that is no hex": (TCP6 + b"2001:db8::", b"g ::1 1 2\r\n", "is no IPv6 address"),
    "two double colons": (TCP6 + b"1::2:", b":3 ::1 1 2\r\n", "is no IPv6 address"),
    "three colons": (TCP6 + b"1::", b":2 ::1 1 2\r\n", "is no IPv6 address"),
    "a colon at the beginning": (TCP6 + b":", b"1:2:3:4:5:6:7:8 ::1 1 2\r\n", "is no IPv6 address"),
    "a colon at the end": (TCP6 + b"1:2:3:4:5:6:7:", b" ::1 1 2\r\n", "is no IPv6 address"),
    "a ninth group": (TCP6 + b"1:2:3:4:5:6:7:8", b":9 ::1 1 2\r\n", "is no IPv6 address"),
    "an eighth group beside a double colon": (
        TCP6 + b"1::2:3:4:5:6:7",
        b":8 ::1 1 2\r\n",
        "is no IPv6 address",
    ),
    "seven groups": (TCP6 + b"1:2:3:4:5:6:7", b" ::1 1 2\r\n", "is no IPv6 address"),
    "a scope": (TCP6 + b"fe80::1", b"%eth0 ::1 1 2\r\n", "is no IPv6 address"),
    "brackets": (TCP6, b"[::1] [::1] 1 2\r\n", "is no IPv6 address"),
    "a prefix": (TCP6 + b"2001:db8::", b"/32 ::1 1 2\r\n", "is no IPv6 address"),
    "dotted tail too large": (TCP6 + b"::ffff:1.25", b"6.0.1 ::1 1 2\r\n", "is no IPv6 address"),
    "NUL in an address": (TCP6 + b"::1", b"\0 ::1 1 2\r\n", "is no IPv6 address"),
    "port too large": (
        TCP4 + b"6553",
        b"6 2\r\n",
        "source port b'65536' is no decimal number from 0 to 65535",
    ),
    "port of six digits": (TCP4 + b"1 12345", b"6\r\n", "destination port"),
    "port with leading zero": (TCP4 + b"0", b"80 2\r\n", "without leading zeros"),
    "port with sign": (TCP4, b"+80 2\r\n", "source port"),
    "port below zero": (TCP4, b"-1 2\r\n", "source port"),
    "port with underscore": (TCP4 + b"1", b"_0 2\r\n", "source port"),
    "port in hex": (TCP4 + b"0", b"x50 2\r\n", "source port"),
    "port empty": (TCP4, b" 2\r\n", "source port b''"),
    "destination port empty": (TCP4 + b"1 ", b"\r\n", "destination port b''"),
    "LF alone": (TCP4 + b"1 2", b"\n", "destination port"),
    "CR and something else": (TCP4 + b"1 2\r", b"X\n", "destination port"),
    "two CR": (TCP4 + b"1 2\r", b"\r\n", "destination port"),
    "CR in UNKNOWN": (b"PROXY UNKNOWN a\r", b"b\r\n", "a CR or LF"),
    "CR behind UNKNOWN": (b"PROXY UNKNOWN\r", b"b\r\n", "protocol"),
    "LF in UNKNOWN": (b"PROXY UNKNOWN a", b"\nb\r\n", "a CR or LF"),
    "LF behind UNKNOWN": (b"PROXY UNKNOWN", b"\n\r\n", "protocol"),
    "UNKNOWN without end": (b"PROXY UNKNOWN ".ljust(105, b"x"), b"xx\r\n", "no CRLF within 107 bytes"),
    "UNKNOWN one byte too long": (b"PROXY UNKNOWN ".ljust(105, b"x"), b"x\r\n", "no CRLF within 107 bytes"),
    "IPv6 of 40 characters": (
        TCP6 + b"0000:0000:0000:0000:0000:ffff:255.2",  # could be ...255.2.0.0, of 39
        b"5.0.1 ::1 1 2\r\n",
        "is no IPv6 address",
    ),
}

START: Final = SIGNATURE + b"\x21\x11"
NOT_V2: Final = {
    "HTTP": (b"", b"GET / HTTP/1.1\r\n", "does not begin with the signature"),
    "version 1": (b"", b"PROXY UNKNOWN\r\n", "does not begin with the signature"),
    "an empty line": (b"\r\n", b"GET / HTTP/1.1\r\n", "does not begin with the signature"),
    "a signature that ends otherwise": (
        SIGNATURE[:11],
        b"\r\x21\x11\0\x0c",
        "does not begin with the signature",
    ),
    "version 1 in binary": (SIGNATURE, b"\x11\x11\0\x0c" + IPV4_BLOCK, "version and command 0x11"),
    "version 3": (SIGNATURE, b"\x31\x11\0\x0c" + IPV4_BLOCK, "version and command 0x31"),
    "no such command": (SIGNATURE, b"\x22\x11\0\x0c" + IPV4_BLOCK, "version and command 0x22"),
    "no such family": (SIGNATURE + b"\x21", b"\x41\0\x0c" + IPV4_BLOCK, "family and protocol 0x41"),
    "no such transport": (SIGNATURE + b"\x21", b"\x13\0\x0c" + IPV4_BLOCK, "family and protocol 0x13"),
    "IPv4 over nothing": (SIGNATURE + b"\x21", b"\x10\0\x0c" + IPV4_BLOCK, "family and protocol 0x10"),
    "TCP over nothing": (SIGNATURE + b"\x21", b"\x01\0\0", "family and protocol 0x01"),
    "too short for IPv4": (
        START + b"\0",
        b"\x0b" + IPV4_BLOCK,
        "11 bytes for the addresses of TCP4, which take 12",
    ),
    "too short for IPv6": (
        SIGNATURE + b"\x21\x21\0",
        b"\x23" + bytes(36),
        "35 bytes for the addresses of TCP6",
    ),
    "too short for Unix": (
        SIGNATURE + b"\x21\x31\0",
        b"\xd7" + bytes(216),
        "215 bytes for the addresses of UNIX",
    ),
    "nothing for IPv4": (START + b"\0", b"\0" + IPV4_BLOCK, "0 bytes for the addresses of TCP4"),
    "one byte for a TLV": (
        START + b"\0",
        b"\x0d" + IPV4_BLOCK + b"\4",
        "1 bytes behind the addresses of TCP4",
    ),
    "two bytes for a TLV": (START + b"\0", b"\x0e" + IPV4_BLOCK + b"\4\0", "too few for a TLV"),
    "length above the limit": (
        START + b"\x10",
        b"\x01",
        "4097 bytes or more behind the first 16 (limit 4096)",
    ),
    "length far above the limit": (
        START,
        b"\xff\xff",
        "bytes or more behind the first 16 (limit 4096)",
    ),
    "length of a LOCAL above the limit": (SIGNATURE + b"\x20\0", b"\x11\0", "4352 bytes or more"),
    "length of UNSPEC above the limit": (SIGNATURE + b"\x21\0", b"\xff\0", "65280 bytes or more"),
}

refused_v1 = pytest.mark.parametrize(("beginning", "rest", "message"), NOT_V1.values(), ids=NOT_V1.keys())
refused_v2 = pytest.mark.parametrize(("beginning", "rest", "message"), NOT_V2.values(), ids=NOT_V2.keys())


@refused_v1
def test_what_is_no_v1_header_is_refused(beginning: bytes, rest: bytes, message: str) -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(beginning + rest, "v1")
    assert message in str(caught.value)


@refused_v1
def test_v1_is_refused_at_the_first_byte_that_is_wrong(beginning: bytes, rest: bytes, message: str) -> None:
    check_refused_at(beginning, rest, "v1")


@refused_v2
def test_what_is_no_v2_header_is_refused(beginning: bytes, rest: bytes, message: str) -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(beginning + rest, "v2")
    assert message in str(caught.value)


@refused_v2
def test_v2_is_refused_at_the_first_byte_that_is_wrong(beginning: bytes, rest: bytes, message: str) -> None:
    check_refused_at(beginning, rest, "v2")


def check_refused_at(beginning: bytes, rest: bytes, versions: Any) -> None:
    for size in range(len(beginning) + 1):
        assert parse_header(beginning[:size], versions) is None, beginning[:size]
    for size in range(1, len(rest) + 1):
        with pytest.raises(ProxyHeaderError):
            parse_header(beginning + rest[:size], versions)


# (what stands behind the addresses, part of the message)
WRONG_TLVS: Final = {
    "longer than the header": (tlv(NOOP_TYPE, b"abc", 4), "TLV 0x04 of 4 bytes at offset 31, but 3 are left"),
    "much longer": (tlv(NOOP_TYPE, b"", 65535), "TLV 0x04 of 65535 bytes at offset 31, but 0 are left"),
    "second one longer": (tlv(1, b"h2") + tlv(2, b"a", 2), "TLV 0x02 of 2 bytes"),
    "shorter, so that a byte is left": (
        tlv(NOOP_TYPE, b"abc", 2),
        "1 bytes left at offset 33: too few for a TLV",
    ),
    "two bytes left": (tlv(NOOP_TYPE, b"") + b"\4\0", "2 bytes left at offset 31"),
    "checksum of three bytes": (tlv(CRC_TYPE, b"abc"), "a checksum of 3 bytes"),
    "empty checksum": (tlv(CRC_TYPE, b""), "a checksum of 0 bytes"),
    "two checksums": (tlv(CRC_TYPE, bytes(4)) * 2, "a checksum of 4 bytes at offset 38: expected one"),
    "wrong checksum": (tlv(CRC_TYPE, bytes(4)), "checksum 0x00000000 instead of 0x"),
    "unique id too long": (tlv(UNIQUE_ID_TYPE, bytes(129)), "a unique id of 129 bytes (limit 128)"),
}


@pytest.mark.parametrize(("extra", "message"), WRONG_TLVS.values(), ids=WRONG_TLVS.keys())
@pytest.mark.parametrize("behind", [b"", b"PING\r\n" * 20_000])
def test_c16_wrong_tlvs_are_refused_when_the_header_is_there(
    extra: bytes, message: str, behind: bytes
) -> None:
    wire = tcp4(extra)
    for size in range(len(wire)):
        assert parse_header(wire[:size], "v2") is None
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(wire + behind, "v2")
    assert message in str(caught.value)


def test_a_changed_byte_anywhere_makes_the_checksum_wrong() -> None:
    wire = with_checksum(tcp4(tlv(2, b"example.com") + tlv(CRC_TYPE, bytes(4))))
    assert parse_header(wire, "v2") is not None
    start_of_addresses = 16
    type_of_checksum = len(wire) - 7  # with another one it is no checksum, and nothing else knows
    for at in (*range(start_of_addresses, type_of_checksum), *range(type_of_checksum + 1, len(wire))):
        broken = bytearray(wire)
        broken[at] ^= 1
        with pytest.raises(ProxyHeaderError):
            parse_header(bytes(broken), "v2")


@pytest.mark.parametrize(("versions", "wire"), [("v1", tcp4()), ("v2", b"PROXY UNKNOWN\r\n")])
def test_the_other_version_is_refused_at_its_first_byte(versions: Any, wire: bytes) -> None:
    with pytest.raises(ProxyHeaderError, match="does not begin with"):
        parse_header(wire[:1], versions)


@pytest.mark.parametrize("versions", ["v3", "", "V1", None, 1])
def test_unknown_versions_are_the_callers_mistake(versions: Any) -> None:
    with pytest.raises(ValueError, match='"v1", "v2" or "any"') as caught:
        parse_header(b"", versions)
    assert not isinstance(caught.value, ProxyHeaderError)


# Errors


def test_an_error_shows_the_bytes_escaped_and_cut_short() -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(b"\x1b[31m\n" + b"\xff" * 100_000, "any")
    assert "b'\\x1b[31m\\n\\xff" in str(caught.value)
    assert "(100006 bytes)" in str(caught.value)
    assert len(str(caught.value)) < 450


def test_a_long_word_is_cut_short_in_an_error() -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(b"PROXY TCP4 " + b"\xff" * 100_000, "any")
    assert len(str(caught.value)) < 750


def test_an_error_survives_pickle_and_copy() -> None:
    with pytest.raises(ProxyHeaderError) as caught:
        parse_header(b"GET", "any")
    for other in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert type(other) is ProxyHeaderError
        assert str(other) == str(caught.value)


# Properties

ports = st.integers(0, 65535)


@st.composite
def v6_texts(draw: st.DrawFn) -> str:
    """An IPv6 address in one of the spellings that senders may use."""
    address = draw(
        st.ip_addresses(v=6)
        | st.integers(0, 2**32 - 1).map(lambda n: ipaddress.IPv6Address(0xFFFF << 32 | n))
    )
    number = int(address)
    spellings = [str(address), address.exploded, address.exploded.upper()]
    spellings.append(socket.inet_ntop(socket.AF_INET6, address.packed))
    spellings.append(":".join(f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16)))
    return draw(st.sampled_from(spellings))


@st.composite
def v1_lines(draw: st.DrawFn) -> bytes:
    protocol = draw(st.sampled_from(["TCP4", "TCP6", "UNKNOWN"]))
    if protocol == "UNKNOWN":
        rest = draw(
            st.just("") | st.text(st.characters(codec="ascii", exclude_characters="\r\n"), max_size=91)
        )
        return f"PROXY UNKNOWN{' ' + rest if rest else ''}\r\n".encode()
    addresses = st.ip_addresses(v=4).map(str) if protocol == "TCP4" else v6_texts()
    ends = (draw(addresses), draw(addresses), draw(ports), draw(ports))
    return "PROXY {} {} {} {} {}\r\n".format(protocol, *ends).encode()


def shown(text: str, port: int) -> tuple[Any, ...]:
    """The socket address that stands for an address of a header."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return socket.inet_ntop(socket.AF_INET6, address.packed), port, 0, 0
        address = address.ipv4_mapped
    return str(address), port


@given(v1_lines(), st.binary(max_size=50))
def test_v1_gives_back_what_was_written(line: bytes, behind: bytes) -> None:
    parsed = parse_header(line + behind, "any")
    assert parsed is not None
    assert parsed.length == len(line)
    words = line.decode()[:-2].split(" ")
    assert parsed.family == words[1]
    if parsed.family == "UNKNOWN":
        assert parsed.source is parsed.destination is None
    else:
        assert parsed.source == shown(words[2], int(words[4]))
        assert parsed.destination == shown(words[3], int(words[5]))


tlv_lists = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != CRC_TYPE), st.binary(max_size=128)), max_size=8
)


@given(st.sampled_from([0x11, 0x12, 0x21, 0x22]), st.data(), tlv_lists, st.booleans(), st.binary(max_size=50))
def test_v2_gives_back_what_was_written(
    family: int, data: st.DataObject, tlvs: list[tuple[int, bytes]], checked: bool, behind: bytes
) -> None:
    addresses = st.ip_addresses(v=4 if family < 0x20 else 6)
    source, destination = data.draw(addresses), data.draw(addresses)
    source_port, destination_port = data.draw(ports), data.draw(ports)
    body = source.packed + destination.packed + struct.pack("!HH", source_port, destination_port)
    body += b"".join(tlv(kind, value) for kind, value in tlvs)
    wire = v2(PROXY, family, body)
    if checked:
        wire = with_checksum(v2(PROXY, family, body + tlv(CRC_TYPE, bytes(4))))
        tlvs = [*tlvs, (CRC_TYPE, wire[-4:])]
    parsed = parse_header(wire + behind, "any")
    assert parsed is not None
    assert parsed.source == shown(str(source), source_port)
    assert parsed.destination == shown(str(destination), destination_port)
    assert parsed.tlvs == tuple(tlvs)
    assert parsed.length == len(wire)


def is_v1_line(line: bytes) -> bool:
    """Section 2.1 once more, in other words."""
    if len(line) > MAX_V1_SIZE or not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\n" in line[:-1]:
        return False
    protocol, *fields = line[:-2].split(b" ")[1:] or [b""]
    if not line.startswith(b"PROXY ") or protocol == b"UNKNOWN":
        return line.startswith(b"PROXY UNKNOWN")
    if protocol not in (b"TCP4", b"TCP6") or len(fields) != 4:
        return False
    try:
        for text in (field.decode("ascii") for field in fields[:2]):
            if protocol == b"TCP4":
                ipaddress.IPv4Address(text)
            else:
                ipaddress.IPv6Address(text)
                if len(text) > 39 or "%" in text:
                    return False
        return all(str(int(port)).encode() == port and 0 <= int(port) <= 65535 for port in fields[2:])
    except ValueError:
        return False


# Their ends are what any beginning may be completed with.
COMPLETE_LINES: Final = (
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
    b"PROXY TCP6 :: :: 0 0\r\n",
    b"PROXY TCP6 ::0 ::0 0 0\r\n",
    b"PROXY TCP6 ::0.0.0.0 ::0.0.0.0 0 0\r\n",
    b"PROXY UNKNOWN\r\n",
)


def can_become_v1(beginning: bytes) -> bool:
    return any(is_v1_line(beginning + line[at:]) for line in COMPLETE_LINES for at in range(len(line)))


SIGNIFICANT: Final = b" \r\n\t\0.:0125679aFgPROXYTCUNKW46%-+_\xff"


@st.composite
def nearly_v1(draw: st.DrawFn) -> bytes:
    """A line with a byte changed, put in or left out; or two."""
    line = bytearray(draw(v1_lines()))
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(line) - 1))
        line[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b"", *(bytes([b]) for b in SIGNIFICANT)])
        )
        assume(line)
    return bytes(line)


def answer_to(data: bytes) -> bool | None:
    """True: a header; False: none; None: not all of it is there."""
    try:
        return None if parse_header(data, "v1") is None else True
    except ProxyHeaderError:
        return False


@given(nearly_v1())
@example(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n")
@example(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n")
@example(b"PROXY TCP6 0000:0000:0000:0000:0000:0000:0000:: ::1 1 2\r\n")
@example(b"PROXY TCP6 0000:0000:0000:0000:0000:0000:1.1.1.1 ::1 1 2\r\n")
@example(b"PROXY TCP6 0000:0000:0000:0000:0000:0000:255.255.2 ::1 1 2\r\n")
def test_more_is_asked_for_just_as_long_as_more_can_help(line: bytes) -> None:
    decided = next((size for size in range(len(line) + 1) if answer_to(line[:size]) is not None), None)
    if decided is None:
        assert can_become_v1(line)
    elif answer_to(line[:decided]):
        assert is_v1_line(line[:decided])
    else:
        assert can_become_v1(line[: decided - 1]), line[:decided]
        assert not can_become_v1(line[:decided]), line[:decided]
    # Once decided, always so, and the same when all of it arrives at once.
    if decided is not None:
        assert answer_to(line) is answer_to(line[:decided])


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda rest: SIGNATURE + rest))
def test_c16_any_bytes_give_a_header_or_its_error(data: bytes) -> None:
    try:
        parsed = parse_header(data, "any")
    except ProxyHeaderError:
        return
    assert parsed is None or 15 <= parsed.length <= len(data)


@given(
    st.sampled_from([LOCAL, PROXY]),
    st.sampled_from([0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32]),
    st.integers(0, MAX_V2_LENGTH + 2),
    st.binary(max_size=600),
)
def test_c16_any_body_is_decided_when_it_is_there(
    command: int, family: int, length: int, body: bytes
) -> None:
    wire = v2(command, family, body.ljust(length, b"\0")[:length])
    try:
        parsed = parse_header(wire, "v2")
    except ProxyHeaderError:
        return
    assert parsed is not None
    assert parsed.length == len(wire) <= MAX_V2_SIZE


# Against another implementation


@pytest.fixture(scope="module")
def peer() -> Any:
    """The `proxy-protocol` package, which is laxer than gnet but must agree on what both take."""
    pytest.importorskip("proxyprotocol", reason="the package proxy-protocol (extra test) is not installed")
    pytest.importorskip("crc32c", reason="proxy-protocol was installed without its extra crc32c")
    import proxyprotocol.result
    import proxyprotocol.tlv
    import proxyprotocol.v1
    import proxyprotocol.v2

    return proxyprotocol


def same_endpoint(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, tuple):
        return bool(ours == shown(theirs[0], theirs[1]))
    return bool(ours == theirs)


def check_agreement(peer: Any, wire: bytes) -> None:
    """If `wire` is one header to gnet, the other package must read the same in it."""
    ours = parse_header(wire, "any")
    assert ours is not None
    assert ours.length == len(wire)
    theirs = (peer.v1.ProxyProtocolV1() if ours.version == 1 else peer.v2.ProxyProtocolV2()).unpack(wire)
    assert same_endpoint(ours.source, theirs.peername)
    assert same_endpoint(ours.destination, theirs.sockname)
    assert ours.is_local == peer.result.is_local(theirs)
    assert (ours.family == "UNKNOWN") == (peer.result.is_unknown(theirs) or peer.result.is_local(theirs))
    if ours.family != "UNKNOWN":
        assert dict(ours.tlvs) == dict(theirs.tlv)
        datagrams = ours.family in ("UDP4", "UDP6", "UNIX_DGRAM")
        assert (theirs.protocol == socket.SOCK_DGRAM) == datagrams


@pytest.mark.parametrize(
    "name", [name for name in HEADERS if "abstract" not in name and "the rest ignored" not in name]
)
def test_the_headers_mean_the_same_to_proxy_protocol(peer: Any, name: str) -> None:
    check_agreement(peer, HEADERS[name][0])


@given(line=v1_lines())
def test_v1_lines_mean_the_same_to_proxy_protocol(peer: Any, line: bytes) -> None:
    check_agreement(peer, line)


@given(line=nearly_v1())
def test_what_gnet_takes_proxy_protocol_takes(peer: Any, line: bytes) -> None:
    assume(answer_to(line) and parse_header(line, "v1").length == len(line))
    check_agreement(peer, line)


@given(
    family=st.sampled_from([4, 6]),
    data=st.data(),
    protocol=st.sampled_from([socket.SOCK_STREAM, socket.SOCK_DGRAM]),
    tlvs=st.dictionaries(
        st.sampled_from([1, 2, NOOP_TYPE, UNIQUE_ID_TYPE, 0x20, 0x30, 0xEA]), st.binary(max_size=128)
    ),
)
def test_v2_headers_of_proxy_protocol_are_read(
    peer: Any, family: Any, data: st.DataObject, protocol: Any, tlvs: dict[int, bytes]
) -> None:
    addresses = st.ip_addresses(v=family)
    kind = peer.result.ProxyResultIPv4 if family == 4 else peer.result.ProxyResultIPv6
    ends = [(data.draw(addresses), data.draw(ports)) for _ in range(2)]
    result = kind(*ends, protocol=protocol, tlv=peer.tlv.ProxyProtocolTLV(init=tlvs))
    wire = peer.v2.ProxyProtocolV2().pack(result)
    parsed = parse_header(wire, "v2")
    assert parsed is not None
    assert CRC_TYPE in dict(parsed.tlvs)  # the package adds a checksum, with another implementation of CRC32C
    check_agreement(peer, wire)


@given(family=st.sampled_from([4, 6]), data=st.data())
def test_v1_headers_of_proxy_protocol_are_read(peer: Any, family: Any, data: st.DataObject) -> None:
    addresses = st.ip_addresses(v=family)
    kind = peer.result.ProxyResultIPv4 if family == 4 else peer.result.ProxyResultIPv6
    ends = [(data.draw(addresses), data.draw(ports)) for _ in range(2)]
    check_agreement(peer, peer.v1.ProxyProtocolV1().pack(kind(*ends)))
