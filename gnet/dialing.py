"""`dial`: a host and a port to one connected socket, over whichever address answers first.

Happy Eyeballs (RFC 8305): the addresses of both families are tried in turns, each new attempt
250 ms after the one before or as soon as that one failed; the first to connect wins and the
others are closed. One greenlet does all of it, so there is no other one that a kill could leave
behind.
"""

from __future__ import annotations

import _socket
import errno
import os
import socket as _stdlib_socket
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event

from gnet.addresses import describe_sock_addr, is_ip_address
from gnet.checks import check_c_int
from gnet.deadlines import Deadline, Timeout, to_milliseconds
from gnet.errors import named_error, raise_named
from gnet.names import check_host, resolve
from gnet.options import (
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_STREAM,
    Port,
    SslHandshakeType,
)
from gnet.sockets import Socket
from gnet.tls.contexts import SslContext
from gnet.transports import PlainTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gnet.names import AddressInfo

__all__ = ["dial"]

# RFC 8305, section 8: the recommended Connection Attempt Delay.
_STAGGER_SECONDS: Final = 0.25

_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EALREADY})


def dial(
    address: str,
    port: int,
    protocol: int = IPPROTO_TCP,
    buffered: bool = True,
    timeout: Timeout = None,
    *,
    ssl_context: SslContext | None = None,
    source: tuple[str, int] | None = None,
) -> Socket:
    """Connect to a host: look it up, try its addresses, give a connected socket.

    Args:
        address: an IP literal or a host name.
        port: 0 to 65535.
        protocol: IPPROTO_TCP for a stream, IPPROTO_UDP for a connected datagram socket.
        buffered: read ahead (streams).
        timeout: milliseconds or `timedelta` for all of it; -1 or `None`: no limit.
        ssl_context: speak TLS; the peer's certificate must be for `address`.
        source: the address (an IP literal) and port to connect from; port 0: any. Only addresses
            of its family are tried.
    Raises:
        TypeError, ValueError: before anything is sent.
        socket.gaierror: no such host; an OSError.
        OSError: no address could be connected. The message names each with its reason, the class
            is that of the last; with several, the cause is an ExceptionGroup of them.
        SslError: TLS failed, or the peer is not who it should be.
        TimeoutError: names the phase.

    Whatever it raises, and whatever interrupts it, no descriptor is left. Nim's dial, which tries
    one address after the other without a limit.
    """
    limit = to_milliseconds(timeout)
    number = Port(port)
    if ssl_context is not None:
        if not isinstance(ssl_context, SslContext):
            raise TypeError(f"dial: ssl_context: expected an SslContext, got {type(ssl_context).__name__}")
        if protocol != IPPROTO_TCP:
            raise ValueError("dial: ssl_context needs protocol IPPROTO_TCP")
        ssl_context.check_client_host(address)
    if check_c_int(protocol, "dial: protocol") < 0:
        raise ValueError(f"dial: protocol: expected at least 0, got {protocol}")
    kind = _kind_of(protocol)
    host = check_host(address, "dial")
    where = f"dial {host}:{number}" if ":" not in host else f"dial [{host}]:{number}"
    bind_to, family = _check_source(source)
    deadline = Deadline(limit)
    attempts = _Attempts(where, bind_to)
    try:
        try:
            infos = _of_family(family, host, resolve(host, number, AF_UNSPEC, kind, protocol, deadline))
        except _stdlib_socket.gaierror as error:
            raise_named(error, where)
        winner = attempts.run(interleave(infos), deadline)
        if ssl_context is not None:
            return _over_tls(winner, ssl_context, host, buffered, deadline)
    except gevent.Timeout as expired:
        if not deadline.owns(expired):
            raise
        late = attempts.finished()  # what is connected already wins over time
        if late is None:
            raise deadline.error(f"{where} ({attempts.phase()})") from None
        if ssl_context is not None:  # connected, but there is no time for the handshake
            late.close()
            raise deadline.error(f"{where} (TLS handshake)") from None
        winner = late
    finally:
        deadline.close()
        attempts.close()
    return Socket.from_transport(winner, buffered=buffered)


def _over_tls(
    plain: PlainTransport, context: SslContext, host: str, buffered: bool, deadline: Deadline
) -> Socket:
    """Make the TLS socket of a connection, handshake included; on failure nothing is left."""
    try:
        tls = context.wrap_transport(plain, SslHandshakeType.AS_CLIENT, host)
    except BaseException:
        plain.close()
        raise
    socket = Socket.from_transport(tls, buffered=buffered)
    socket.finish_handshake(deadline, "dial", close=True)
    return socket


def interleave(infos: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Order addresses so that the families alternate, the first one's first (RFC 8305, section 4)."""
    by_family: dict[int, list[AddressInfo]] = {}
    for info in infos:
        of_family = by_family.setdefault(info[0], [])
        if info not in of_family:
            of_family.append(info)
    return [info for turn in zip_longest(*by_family.values()) for info in turn if info is not None]


# Linux: choose the port when it connects, by all four parts of the connection. Not in the socket module.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


class _Attempts:
    """The connection attempts of one `dial`: those under way, and how the others failed."""

    def __init__(self, where: str, bind_to: tuple[Any, ...] | None) -> None:
        self._where = where
        self._bind_to = bind_to
        self._running: list[tuple[PlainTransport, Any]] = []
        self._errors: list[OSError] = []
        self._something = Event()  # one of them may have come to an end

    def run(self, infos: list[AddressInfo], deadline: Deadline) -> PlainTransport:
        """Give the transport of the first attempt to connect; it is not one of these any more."""
        waiting = infos[::-1]
        while True:
            failed = len(self._errors)
            if waiting:
                self._start(waiting.pop())
            winner = self.finished()
            if winner is not None:
                return winner
            if not self._running and not waiting:
                raise self._error()
            if len(self._errors) > failed and waiting:
                continue  # that was no use: the next one, at once
            deadline.arm()
            self._wait(failed, bool(waiting))
            winner = self.finished()
            if winner is not None:
                return winner

    def finished(self) -> PlainTransport | None:
        """Give and hand over the first attempt that is connected; drop those that failed."""
        for attempt in self._running[:]:
            transport, sockaddr = attempt
            code = transport.connect(sockaddr)
            if code in _PENDING:
                continue
            self._running.remove(attempt)
            transport.call_when_writable(None)
            if not code:
                transport.peer = sockaddr
                return transport
            transport.close()
            self._note(sockaddr, OSError(code, os.strerror(code)))
        return None

    def phase(self) -> str:
        """Say what is under way, for an error."""
        if not self._running and not self._errors:
            return "looking up the name"
        waited_for = ", ".join(describe_sock_addr(sockaddr) for _, sockaddr in self._running)
        failed = "".join(f"; {error}" for error in self._errors)
        return f"connecting to {waited_for}{failed}"

    def close(self) -> None:
        """Close all that are still under way."""
        for transport, _ in self._running:
            transport.close()
        self._running.clear()

    def _start(self, info: AddressInfo) -> None:
        family, kind, protocol, sockaddr = info
        try:
            raw = _socket.socket(family, kind, protocol)
        except OSError as error:  # EMFILE, or a family that this system has not
            self._note(sockaddr, error)
            return
        transport = PlainTransport(raw)
        try:
            if self._bind_to is not None:
                self._bind(raw, self._bind_to)
            code = transport.connect(sockaddr)
        except OSError as error:
            transport.close()
            self._note(sockaddr, error)
            return
        if code and code not in _PENDING:
            transport.close()
            self._note(sockaddr, OSError(code, os.strerror(code)))
            return
        self._running.append((transport, sockaddr))
        if code:
            transport.call_when_writable(self._something.set)

    def _bind(self, raw: _socket.socket, source: tuple[Any, ...]) -> None:
        if not source[1]:
            # Else the kernel takes a port now, for all destinations, and none that rests from an earlier one.
            with suppress(OSError):  # not Linux, or too old: it works as ever
                raw.setsockopt(_socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            raw.bind(source)
        except OSError as error:
            raise_named(error, f"from {describe_sock_addr(source)}")

    def _wait(self, failed: int, more: bool) -> None:
        """Wait until an attempt may have come to an end, or it is time for the next one."""
        self._something.wait(_STAGGER_SECONDS if more else None)
        self._something.clear()

    def _note(self, sockaddr: Any, error: OSError) -> None:
        self._errors.append(named_error(error, describe_sock_addr(sockaddr)))

    def _error(self) -> OSError:
        """Give one error for all attempts."""
        last = self._errors[-1]
        if len(self._errors) == 1:
            reason = last.strerror or ""
            address = self._where.removeprefix("dial ")
            return OSError(last.errno, f"{self._where}: {reason.removeprefix(f'{address}: ')}")
        reasons = "; ".join(error.strerror or "" for error in self._errors)
        error = OSError(last.errno, f"{self._where}: all {len(self._errors)} attempts failed: {reasons}")
        error.__cause__ = ExceptionGroup("connection attempts", self._errors)
        return error


def _of_family(family: int, host: str, infos: list[AddressInfo]) -> list[AddressInfo]:
    """Leave those that can be reached from a source of a family."""
    found = [info for info in infos if family in (AF_UNSPEC, info[0])]
    if not found:
        name = _stdlib_socket.AddressFamily(family).name
        raise _stdlib_socket.gaierror(
            _stdlib_socket.EAI_FAMILY, f"{host!r} has no address of the source's family, {name}"
        )
    return found


def _kind_of(protocol: int) -> int:
    if protocol == IPPROTO_TCP:
        return SOCK_STREAM
    return SOCK_DGRAM if protocol == IPPROTO_UDP else SOCK_RAW


def _check_source(source: object) -> tuple[tuple[Any, ...] | None, int]:
    """Check `dial`'s source; give the socket address to bind to and the family that it allows."""
    if source is None:
        return None, AF_UNSPEC
    if not isinstance(source, tuple) or len(source) != 2:
        raise TypeError(f"dial: source: expected (address, port), got {source!r}")
    host = check_host(source[0], "dial: source")
    if not is_ip_address(host.partition("%")[0]):
        raise ValueError(f"dial: source: expected an IP literal, got {host!r}")
    infos = _socket.getaddrinfo(host, Port(source[1]), 0, SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    family, _, _, _, sockaddr = infos[0]
    return (sockaddr[:2] if family != AF_INET6 else sockaddr), family
