"""TLS to come: what stands in for the plain transport of a socket that listens, or is going to connect."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from gnet.options import SslHandshakeType

if TYPE_CHECKING:
    from gnet.tls.contexts import SslContext
    from gnet.tls.transport import TlsTransport
    from gnet.transports import PlainTransport

__all__ = ["UnconnectedTls"]


class UnconnectedTls:
    """TLS to come, on a socket that is not connected: it listens, or it is going to connect.

    Whatever it accepts, or becomes by connecting, speaks TLS; it has no stream of its own.
    """

    __slots__ = ("_context", "_plain")

    is_tls: Final = True
    unsent: Final = 0
    has_handshake: Final = False

    def __init__(self, plain: PlainTransport, context: SslContext) -> None:
        self._plain = plain
        self._context = context

    def accept(self) -> tuple[TlsTransport, Any] | None:
        """Accept one connection; its handshake is made by its first use."""
        accepted = self._plain.accept()
        if accepted is None:
            return None
        plain, peer = accepted
        try:
            return self._context.wrap_transport(plain, SslHandshakeType.AS_SERVER, ""), peer
        except BaseException:
            plain.close()
            raise

    def send(self, data: bytes | memoryview) -> int:
        """Not before it is connected: what is to be encrypted would go out in clear."""
        raise self._not_connected()

    def receive(self, size: int) -> bytes | None:
        """Not before it is connected."""
        raise self._not_connected()

    def peek(self, size: int) -> bytes | None:
        """Not before it is connected."""
        raise self._not_connected()

    def _not_connected(self) -> OSError:
        # The kernel may be further already: another greenlet is inside `connect`.
        self._plain.check_thread()
        error = OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        self._plain.fail(error)
        return error

    def established(self, host: str) -> TlsTransport:
        """Give the transport of the connection that `connect` made, as a client of `host`."""
        return self._context.wrap_transport(self._plain, SslHandshakeType.AS_CLIENT, host)

    def check_host(self, host: str) -> None:
        """Raise if a client could not verify a peer of this name."""
        self._context.check_client_host(host)

    def __getattr__(self, name: str) -> Any:
        # All else is as it is without TLS: bind, listen, connect, options, closing.
        return getattr(self._plain, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__slots__:
            object.__setattr__(self, name, value)
        else:
            setattr(self._plain, name, value)
