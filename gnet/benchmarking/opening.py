"""How a benchmark's connections are made, with what the connection and the TLS handshake took."""

from __future__ import annotations

import _socket
import time
from typing import TYPE_CHECKING, NamedTuple

from gnet.deadlines import NO_LIMIT
from gnet.dialing import dial
from gnet.errors import TimeoutError
from gnet.options import AF_UNIX, IPPROTO_IP, SOCK_STREAM, SslCVerifyMode, SslHandshakeType
from gnet.sockets import Socket, new_socket
from gnet.tls.bindings import session_reused
from gnet.tls.contexts import SslContext, new_context
from gnet.transports import PlainTransport

if TYPE_CHECKING:
    from gnet.benchmarking.plan import Plan
    from gnet.tls.transport import TlsTransport

__all__ = ["Opened", "Opener"]


class Opened(NamedTuple):
    """A connection that was just made; the socket is there to close it."""

    socket: Socket
    transport: PlainTransport | TlsTransport
    connect_ns: int
    """What connecting took, without the look-up of a name; -1: that was part of it."""
    tls_ns: int
    """What the handshake took; -1: none was made."""
    resumed: bool


class Opener:
    """Makes the connections of one load process."""

    def __init__(self, plan: Plan) -> None:
        """Prepare.

        Raises:
            SslError: the file of CAs can not be used.
        """
        self._target = plan.target
        self._timeout = plan.timeout
        self._name = plan.servername or plan.target.host
        self._context: SslContext | None = None
        if plan.tls:
            mode = SslCVerifyMode.PEER if plan.verify else SslCVerifyMode.NONE
            self._context = new_context(ca_file=plan.ca_file, verify_mode=mode)
        self._address = ""  # of the first connection: a name is looked up only once

    def open(self) -> Opened:
        """Connect, handshake included.

        Raises:
            OSError: with the server's name.
        """
        began = time.monotonic_ns()
        plain = self._connect()
        connected = time.monotonic_ns()
        address = plain.peer[0] if isinstance(plain.peer, tuple) else ""
        was_looked_up = bool(address) and not self._address and address != self._target.host
        self._address = self._address or address
        connect_ns = -1 if was_looked_up else connected - began
        if self._context is None:
            return Opened(Socket.from_transport(plain), plain, connect_ns, -1, False)
        left = self._timeout
        if left != NO_LIMIT:
            left = max(0.0, left - (connected - began) / 1e6)
        try:
            tls = self._context.wrap_transport(plain, SslHandshakeType.AS_CLIENT, self._name)
        except BaseException:
            plain.close()
            raise
        socket = Socket.from_transport(tls)
        shaking = time.monotonic_ns()
        try:
            socket.do_handshake(left)
        except TimeoutError:
            socket.close(timeout=0)
            raise TimeoutError(
                f"{self._target}: no TLS connection within {self._timeout:g} ms (TLS handshake)"
            ) from None
        except BaseException:
            socket.close(timeout=0)
            raise
        tls_ns = time.monotonic_ns() - shaking
        return Opened(socket, tls, connect_ns, tls_ns, session_reused(tls.connection))

    def _connect(self) -> PlainTransport:
        target = self._target
        if target.path:
            socket = new_socket(AF_UNIX, SOCK_STREAM, IPPROTO_IP)
            try:
                socket.connect_unix(target.path, timeout=self._timeout)
            except BaseException:
                socket.close(timeout=0)
                raise
        else:
            socket = dial(self._address or target.host, target.port, timeout=self._timeout)
        # The load moves bytes by the transport itself: a socket's reader and writer would cost it more than
        # all else. So the socket is given up, and another one made around a transport that is known here.
        raw = _socket.socket(fileno=socket.detach())
        return PlainTransport(raw, raw.getpeername())
