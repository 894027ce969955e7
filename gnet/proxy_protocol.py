"""PROXY protocol headers, versions 1 and 2: the bytes that a balancer sends first, to the addresses in them.

HAProxy, nginx and most clouds' balancers put such a header in front of a connection, so that the server
behind them learns whose connection it is. The specification is HAProxy's proxy-protocol.txt, sections 2.1
(version 1, a line of text) and 2.2 (version 2, binary).

Pure: bytes in, and out comes a `ProxyHeader`, or None for "more bytes, please". Who may send a header, how
long to wait for it and what to do with the bytes behind it is the server's work. The parser is strict because
a header is believed; and the first byte that rules a header out raises, so that nobody waits for the rest of
one from a peer that speaks something else.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import Final, Literal, NamedTuple, NoReturn, TypeAlias

from gnet.addresses import SockAddr

__all__ = [
    "MAX_V1_SIZE",
    "MAX_V2_LENGTH",
    "MAX_V2_SIZE",
    "ProxyEndpoint",
    "ProxyFamily",
    "ProxyHeader",
    "ProxyHeaderError",
    "ProxyVersions",
    "parse_header",
]

MAX_V1_SIZE: Final = 107
"""The longest version 1 header in bytes, its CRLF included (section 2.1)."""

MAX_V2_LENGTH: Final = 4096
"""The largest length field of a version 2 header that is taken: the bytes behind the first 16.

The field can say 65,535. Addresses need at most 216, a balancer's TLVs some hundred; a certificate in a TLV
of its own has room.
"""

MAX_V2_SIZE: Final = 16 + MAX_V2_LENGTH
"""The longest version 2 header that is taken, in bytes."""

ProxyVersions: TypeAlias = Literal["v1", "v2", "any"]
"""Which versions of the header to take."""

ProxyFamily: TypeAlias = Literal["TCP4", "TCP6", "UDP4", "UDP6", "UNIX", "UNIX_DGRAM", "UNKNOWN"]
"""What kind of connection the header describes. The first two and the last are version 1's words."""

ProxyEndpoint: TypeAlias = SockAddr | str | bytes
"""An address as the socket module gives it: a tuple; a Unix socket's path, or its abstract name (bytes)."""


class ProxyHeader(NamedTuple):
    """What a PROXY header says.

    `source` and `destination` are None in a header that tells no addresses: the real ones of the connection
    hold then. IPv4 written as IPv6 (`::ffff:192.0.2.1`) is given as IPv4, in an IPv4 tuple.
    """

    version: Literal[1, 2]
    family: ProxyFamily
    """As the header has it: "TCP6" even if its addresses are IPv4 written as IPv6."""
    source: ProxyEndpoint | None
    """The client."""
    destination: ProxyEndpoint | None
    """What the client connected to."""
    length: int
    """Bytes of the header with all that belongs to it; the client's own bytes begin there."""
    is_local: bool = False
    """The balancer's own connection, a health check say (version 2, LOCAL)."""
    tlvs: tuple[tuple[int, bytes], ...] = ()
    """Type and value of version 2's extra fields (section 2.2, PP2_TYPE_...), in order, types may repeat.

    Values are not looked into, but for the checksum's."""


class ProxyHeaderError(ValueError):
    """The bytes are no PROXY header, and no more bytes could make them one: close the connection."""


def parse_header(data: bytes, versions: ProxyVersions) -> ProxyHeader | None:
    """Read the PROXY header that `data` begins with.

    Args:
        data: everything the peer has sent so far, from its first byte on. Bytes behind the header may follow;
            they are not looked at.
        versions: the versions to take; "any": the first byte tells which one it is.
    Returns:
        The header; or None if `data` is the beginning of one. That never happens once `MAX_V1_SIZE` bytes of
        version 1, or 16 bytes and as many as these announce (at most `MAX_V2_LENGTH`) of version 2 are there.
    Raises:
        ProxyHeaderError: this is no header, or not of these versions. It is raised with the first byte that
            rules a header out; what stands behind the first 16 bytes of version 2 is judged when all of it is
            there, as the specification demands. A checksum (PP2_TYPE_CRC32C) that is wrong counts too.
        ValueError: `versions` is none of the three words.

    In a LOCAL or UNSPEC header of version 2 everything behind the first 16 bytes is skipped unread.
    """
    first = _FIRST_BYTES.get(versions)
    if first is None:
        raise ValueError(f'versions: expected "v1", "v2" or "any", got {versions!r}')
    start = data[:1]
    if start not in first:
        _refuse(data, f"does not begin with {_BEGINNINGS[versions]}")
    if not start:
        return None
    return _parse_v1(data) if start == b"P" else _parse_v2(data)


_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIRST_BYTES: Final = {"v1": (b"P", b""), "v2": (b"\r", b""), "any": (b"P", b"\r", b"")}
_BEGINNINGS: Final = {
    "v1": "'PROXY ' (version 1)",
    "v2": "the signature of version 2",
    "any": "'PROXY ' (version 1) or the signature of version 2",
}

# Version 1

_PROXY_WORD: Final = b"PROXY"
_V1_PROTOCOLS: Final = (b"TCP4", b"TCP6", b"UNKNOWN")
_V1_WORDS: Final = 6  # PROXY, protocol, two addresses, two ports

_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_is_ipv4: Final = re.compile(rb"(?:%b\.){3}%b" % (_OCTET, _OCTET)).fullmatch
_begins_ipv4: Final = re.compile(rb"(?:%b\.){0,3}(?:%b)?" % (_OCTET, _OCTET)).fullmatch
_is_ipv6_text: Final = re.compile(rb"[0-9A-Fa-f:.]{2,39}").fullmatch  # some inet_pton take a scope id as well
_is_number: Final = re.compile(rb"0|[1-9][0-9]{0,4}").fullmatch

# What begins an IPv6 address becomes a whole one with one of these: nothing is missing; a group; the second
# colon of "::"; "::"; the rest of a dotted tail, behind a number or a dot. They are the shortest that will
# do, so that the limit of 39 characters holds for beginnings as well.
_IPV6_ENDS: Final = (b"", b"0", b":", b"::", b".0", b".0.0", b".0.0.0", b"0.0", b"0.0.0")

_MAPPED: Final = bytes(10) + b"\xff\xff"  # IPv4 written as IPv6, ::ffff:0:0/96


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1_SIZE)
    if end >= 0:
        return _parse_v1_line(data, end)
    if data.endswith(b"\r") and len(data) < MAX_V1_SIZE:  # only the LF is missing
        _parse_v1_line(data, len(data) - 1)
    else:
        _check_v1_beginning(data)
    return None


def _parse_v1_line(data: bytes, end: int) -> ProxyHeader:
    """Read a line of `end` bytes, its CRLF not counted."""
    words = data[:end].split(b" ")
    if words[0] != _PROXY_WORD:
        _refuse(data, f"does not begin with {_BEGINNINGS['v1']}")
    protocol = words[1] if len(words) > 1 else b""
    if protocol == b"UNKNOWN":
        _check_ignored(data, end)
        return ProxyHeader(1, "UNKNOWN", None, None, end + 2)
    if protocol not in _V1_PROTOCOLS:
        _refuse_protocol(data, protocol)
    _check_fields(data, words)  # first, so that the error names the word that an extra space made wrong
    if len(words) != _V1_WORDS:
        _refuse(data, f"{len(words)} words with one space between them, expected {_V1_WORDS}")
    _, _, source, destination, source_port, destination_port = words
    if protocol == b"TCP4":
        source_end: SockAddr = source.decode(), int(source_port)
        destination_end: SockAddr = destination.decode(), int(destination_port)
        return ProxyHeader(1, "TCP4", source_end, destination_end, end + 2)
    source_end = _ipv6_endpoint(inet_pton(AF_INET6, source.decode()), int(source_port))
    destination_end = _ipv6_endpoint(inet_pton(AF_INET6, destination.decode()), int(destination_port))
    return ProxyHeader(1, "TCP6", source_end, destination_end, end + 2)


def _check_v1_beginning(data: bytes) -> None:
    """Refuse bytes without an end of line that no further ones could make a header."""
    *words, last = data[:MAX_V1_SIZE].split(b" ")  # `last` may not be all there
    if not words:
        if not _PROXY_WORD.startswith(last):
            _refuse(data, f"does not begin with {_BEGINNINGS['v1']}")
    elif words[0] != _PROXY_WORD:
        _refuse(data, f"does not begin with {_BEGINNINGS['v1']}")
    elif len(words) == 1:
        if not any(protocol.startswith(last) for protocol in _V1_PROTOCOLS):
            _refuse_protocol(data, last)
    elif words[1] == b"UNKNOWN":
        if len(data) > MAX_V1_SIZE - 2:
            _refuse(data, f"no CRLF within {MAX_V1_SIZE} bytes")
        _check_ignored(data, len(data))
    elif words[1] not in _V1_PROTOCOLS:
        _refuse_protocol(data, words[1])
    else:
        _check_fields(data, words)
        if len(words) >= _V1_WORDS:
            _refuse(data, f"more than {_V1_WORDS} words")
        field = _V1_FIELDS[words[1]][len(words) - 2]
        if not field.begins(last):
            _refuse_field(data, field, last)


def _check_fields(data: bytes, words: list[bytes]) -> None:
    """Refuse wrong addresses and ports among the words that are there."""
    for field, word in zip(_V1_FIELDS[words[1]], words[2:], strict=False):
        if not field.is_whole(word):
            _refuse_field(data, field, word)


def _check_ignored(data: bytes, end: int) -> None:
    # Anything may follow "UNKNOWN" up to the CRLF. But to a program that ends lines at a lone CR or LF the
    # header would be shorter than it is here, and the rest of the line the client's own bytes.
    line = data[:end]
    if b"\r" in line or b"\n" in line:
        _refuse(data, "a CR or LF that is not the CRLF at the end")


def _is_port(word: bytes) -> bool:
    return _is_number(word) is not None and int(word) <= 65535


def _begins_port(word: bytes) -> bool:
    return not word or _is_port(word)  # cut anywhere, a number without leading zeros is one again


def _is_ipv6(word: bytes) -> bool:
    # Section 2.1 wants groups of hex digits. A dotted tail is taken as well: that is how HAProxy and nginx
    # write the address of an IPv4 client of an IPv6 socket, in the way of inet_ntop.
    if not _is_ipv6_text(word):
        return False
    try:
        inet_pton(AF_INET6, word.decode())
    except OSError:
        return False
    return True


def _begins_ipv6(word: bytes) -> bool:
    return any(_is_ipv6(word + end) for end in _IPV6_ENDS)


def _ipv6_endpoint(packed: bytes, port: int) -> SockAddr:
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[12:]), port
    return inet_ntop(AF_INET6, packed), port, 0, 0  # the text that getpeername would give


class _Field(NamedTuple):
    name: str
    kind: str
    is_whole: Callable[[bytes], object]
    begins: Callable[[bytes], object]


_PORT: Final = ("decimal number from 0 to 65535 without leading zeros", _is_port, _begins_port)
_IPV4: Final = ("IPv4 address", _is_ipv4, _begins_ipv4)
_IPV6: Final = ("IPv6 address", _is_ipv6, _begins_ipv6)
_V1_FIELDS: Final = {
    protocol: (
        _Field("source address", *address),
        _Field("destination address", *address),
        _Field("source port", *_PORT),
        _Field("destination port", *_PORT),
    )
    for protocol, address in ((b"TCP4", _IPV4), (b"TCP6", _IPV6))
}

# Version 2

_FIXED_SIZE: Final = 16  # signature, version and command, family and protocol, length
_LOCAL: Final = 0x20
_PROXY: Final = 0x21

_INET: Final = Struct("!4s4sHH")
_INET6: Final = Struct("!16s16sHH")
_UNIX: Final = Struct("!108s108s")
_TLV: Final = Struct("!BH")

# By the 14th byte: family, and how many bytes its addresses take. Half-specified ones (TCP over nothing) may
# be refused, and are: where their TLVs would begin is not defined, and no balancer sends them.
_FAMILIES: Final[dict[int, tuple[ProxyFamily, int]]] = {
    0x00: ("UNKNOWN", 0),
    0x11: ("TCP4", _INET.size),
    0x12: ("UDP4", _INET.size),
    0x21: ("TCP6", _INET6.size),
    0x22: ("UDP6", _INET6.size),
    0x31: ("UNIX", _UNIX.size),
    0x32: ("UNIX_DGRAM", _UNIX.size),
}

_CRC32C: Final = 0x03
_UNIQUE_ID: Final = 0x05
_MAX_UNIQUE_ID: Final = 128


def _parse_v2(data: bytes) -> ProxyHeader | None:
    fixed = _parse_fixed(data)
    if fixed is None:
        return None
    family, address_size, end = fixed
    if len(data) < end:
        return None
    if family == "UNKNOWN":
        return ProxyHeader(2, family, None, None, end, data[12] == _LOCAL)
    if address_size == _INET.size:
        source, destination, source_port, destination_port = _INET.unpack_from(data, _FIXED_SIZE)
        source = inet_ntop(AF_INET, source), source_port
        destination = inet_ntop(AF_INET, destination), destination_port
    elif address_size == _INET6.size:
        source, destination, source_port, destination_port = _INET6.unpack_from(data, _FIXED_SIZE)
        source = _ipv6_endpoint(source, source_port)
        destination = _ipv6_endpoint(destination, destination_port)
    else:
        source, destination = map(_unix_endpoint, _UNIX.unpack_from(data, _FIXED_SIZE))
    tlvs = _parse_tlvs(data, _FIXED_SIZE + address_size, end)
    return ProxyHeader(2, family, source, destination, end, False, tlvs)


def _parse_fixed(data: bytes) -> tuple[ProxyFamily, int, int] | None:
    """Read family, size of its addresses and end of the header; judge each byte as soon as it is there."""
    size = len(data)
    if not data.startswith(_SIGNATURE[:size]):
        _refuse(data, f"does not begin with {_BEGINNINGS['v2']}")
    if size <= 12:
        return None
    command = data[12]
    if command != _PROXY and command != _LOCAL:
        expected = f"expected {_LOCAL:#04x} (LOCAL) or {_PROXY:#04x} (PROXY)"
        _refuse(data, f"version and command {command:#04x}, {expected}")
    if size <= 13:
        return None
    # LOCAL comes with a family too, "which is ignored".
    known = _FAMILIES.get(data[13] if command == _PROXY else 0)
    if known is None:
        _refuse(data, f"family and protocol {data[13]:#04x} are not defined")
    if size <= 14:
        return None
    family, address_size = known
    length = data[14] << 8 | (data[15] if size > 15 else 0)  # from the high byte alone: the least it can be
    if length > MAX_V2_LENGTH:
        _refuse(data, f"{length} bytes or more behind the first {_FIXED_SIZE} (limit {MAX_V2_LENGTH})")
    if size <= 15:
        return None
    if length < address_size:
        _refuse(data, f"{length} bytes for the addresses of {family}, which take {address_size}")
    if 0 < length - address_size < _TLV.size and family != "UNKNOWN":
        rest = length - address_size
        _refuse(
            data, f"{rest} bytes behind the addresses of {family}: too few for a TLV, {_TLV.size} or more"
        )
    return family, address_size, _FIXED_SIZE + length


def _unix_endpoint(field: bytes) -> str | bytes:
    """Give a Unix address as the socket module does: str, but bytes for Linux's abstract names."""
    if field[0] == 0:
        # An abstract name may end with NULs, but the field cannot tell them from its padding.
        return field.rstrip(b"\0") or ""
    return os.fsdecode(field.partition(b"\0")[0])


def _parse_tlvs(data: bytes, start: int, end: int) -> tuple[tuple[int, bytes], ...]:
    """Read the extra fields between `start` and `end`, and check the checksum if there is one."""
    tlvs: list[tuple[int, bytes]] = []
    checksum_at: int | None = None
    while start < end:
        if end - start < _TLV.size:
            _refuse(data, f"{end - start} bytes left at offset {start}: too few for a TLV")
        kind, size = _TLV.unpack_from(data, start)
        start += _TLV.size
        if size > end - start:
            _refuse(data, f"TLV {kind:#04x} of {size} bytes at offset {start}, but {end - start} are left")
        if kind == _CRC32C:
            if size != 4 or checksum_at is not None:
                _refuse(data, f"a checksum of {size} bytes at offset {start}: expected one, of 4 bytes")
            checksum_at = start
        elif kind == _UNIQUE_ID and size > _MAX_UNIQUE_ID:
            _refuse(data, f"a unique id of {size} bytes (limit {_MAX_UNIQUE_ID})")
        tlvs.append((kind, data[start : start + size]))
        start += size
    if checksum_at is not None:
        sent = int.from_bytes(data[checksum_at : checksum_at + 4], "big")
        right = _crc32c(data[:checksum_at] + bytes(4) + data[checksum_at + 4 : end])
        if sent != right:
            _refuse(data, f"checksum {sent:#010x} instead of {right:#010x}")
    return tuple(tlvs)


def _crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 4960, Appendix B), bit-reflected; `zlib.crc32` has another polynomial."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.cache
def _crc32c_table() -> list[int]:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


# Errors

# Room for any line of version 1 with IPv4, and for version 2 up to the ports of IPv6.
_MAX_SHOWN: Final = 64


def _refuse(data: bytes, what: str) -> NoReturn:
    raise ProxyHeaderError(f"PROXY header: {what}; got {_show(data)}")


def _refuse_protocol(data: bytes, word: bytes) -> NoReturn:
    _refuse(data, f"protocol {_show(word)} is not TCP4, TCP6 or UNKNOWN")


def _refuse_field(data: bytes, field: _Field, word: bytes) -> NoReturn:
    _refuse(data, f"{field.name} {_show(word)} is no {field.kind}")


def _show(data: bytes) -> str:
    return repr(data) if len(data) <= _MAX_SHOWN else f"{data[:_MAX_SHOWN]!r}... ({len(data)} bytes)"
