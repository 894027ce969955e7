"""What is known and done about one TLS connection beside moving its bytes, and the sessions of clients.

The transport tells a `Session` what happens; it keeps what its peer proved, and says no where only a
complete handshake shows that something is wrong. A `SessionCache` keeps the sessions that a client
can go on with at the next connection to the same name and port.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from OpenSSL import SSL

from gnet.errors import SslError, fresh_ssl_error
from gnet.tls import bindings, certificates

if TYPE_CHECKING:
    from gnet.tls.host_checks import HostCheck
    from gnet.tls.psk import PskExchange

__all__ = ["ClientSession", "Session", "SessionCache"]

# Sessions a client context keeps, one for each name and port it talked to.
_MOST_SESSIONS: Final = 256

_Peer = tuple[str, object]
"""The name and the port of a server."""


class _Kept(NamedTuple):
    """A session, the chain that was verified for it, and when that ends (seconds since 1970)."""

    session: SSL.Session
    chain: list[certificates.Certificate]
    end: float


class SessionCache:
    """The latest session of each server that a client context talked to."""

    def __init__(self) -> None:
        self._kept: OrderedDict[_Peer, _Kept] = OrderedDict()
        self._is_open = True

    def offer(self, peer: _Peer, connection: SSL.Connection) -> _Kept | None:
        """Have a new connection go on with a session, if there is one; give it."""
        kept = self._kept.get(peer)
        if kept is None or time.time() >= kept.end:  # none outlives the certificates that it rests on
            return None
        connection.set_session(kept.session)
        return kept

    def keep(self, peer: _Peer, kept: _Kept) -> None:
        """Keep a session for the next connection to the same server."""
        if self._is_open:
            self._kept[peer] = kept
            self._kept.move_to_end(peer)
            if len(self._kept) > _MOST_SESSIONS:
                self._kept.popitem(last=False)

    def close(self) -> None:
        """Forget all sessions, and keep none any more."""
        self._is_open = False
        self._kept.clear()


class Session:
    """What is known and done about one connection. This one is a server's."""

    __slots__ = ("__weakref__", "_connection", "_context", "_refusal", "allow_truncated", "chain", "psk")

    is_client: ClassVar[bool] = False

    def __init__(self, connection: SSL.Connection, *, allow_truncated: bool, psk: PskExchange | None) -> None:
        """Begin, before the handshake.

        Args:
            allow_truncated: the peer may end the stream without close_notify.
            psk: the record of the pre-shared key, where there are callbacks for one.
        """
        self._connection: SSL.Connection | None = connection
        # A server's context can be another one later, by name, and OpenSSL may yet call back into this one.
        self._context = connection.get_context()
        self._refusal: SslError | None = None
        self.allow_truncated = allow_truncated
        self.psk = psk
        self.chain: list[certificates.Certificate] = []
        """The peer's verified chain where a session was resumed, which knows none of its own."""

    def refuse(self, refusal: SslError) -> None:
        """Have the handshake fail with this error, whatever comes of it; for callbacks of OpenSSL."""
        self._refusal = refusal

    def handshake_done(self) -> None:
        """Check what only a complete handshake tells.

        Raises:
            SslError: the peer is not who it should be, or a callback failed.
        """
        connection = self._connection
        assert connection is not None
        self._raise_refusal()
        if self.psk is not None:
            name = connection.get_cipher_name() or ""
            # The callback is asked before it is known whether the key is right: only these tell.
            is_13 = connection.get_protocol_version_name() == "TLSv1.3"
            self.psk.done(bindings.session_reused(connection) if is_13 else "PSK" in name)
        self._check_peer(connection)

    def handshake_failed(self) -> None:
        """Raise what one of our callbacks found or raised, if that is why."""
        self._raise_refusal()

    def first_read(self) -> None:
        """Note that the first data came."""

    def closing(self) -> None:
        """Note that the connection is about to end in good order."""

    def closed(self) -> None:
        """Forget the connection."""
        connection = self._connection
        if connection is not None:
            self._connection = None
            # A connection that is freed without a close_notify takes its session along.
            connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise fresh_ssl_error(self._refusal)
        if self.psk is not None:
            self.psk.raise_if_failed()

    def _check_peer(self, connection: SSL.Connection) -> None:
        """Check who the peer is. What a server asks of clients, OpenSSL checks."""


class ClientSession(Session):
    """What is known and done about a client's connection."""

    __slots__ = ("_cache", "_check", "_offered", "_peer", "_proof", "_verifies")

    is_client = True

    def __init__(
        self,
        connection: SSL.Connection,
        *,
        allow_truncated: bool,
        psk: PskExchange | None,
        peer: _Peer,
        verifies: bool,
        check: HostCheck | None,
        cache: SessionCache | None,
    ) -> None:
        """Begin, before the handshake; takes an earlier session from the cache.

        Args:
            peer: the name and the port of the server.
            verifies: the server's certificate is verified.
            check: the check of its name, where OpenSSL does not make it.
            cache: `None`: no sessions.
        """
        super().__init__(connection, allow_truncated=allow_truncated, psk=psk)
        self._peer = peer
        self._verifies = verifies
        self._check = check
        self._cache = cache if peer[0] else None
        self._offered = self._cache.offer(peer, connection) if self._cache is not None else None
        self._proof: tuple[list[certificates.Certificate], float] | None = None

    def first_read(self) -> None:
        # On TLS 1.3 the session's ticket comes with the first data, or after it.
        self._keep_session()

    def closing(self) -> None:
        if not sys.is_finalizing():  # else nobody will ask for it, and modules it takes are gone
            self._keep_session()

    def _raise_refusal(self) -> None:
        super()._raise_refusal()
        if self._check is not None:
            self._check.raise_if_refused()

    def _check_peer(self, connection: SSL.Connection) -> None:
        by_key = self.psk is not None and bool(self.psk.identity)
        resumed = bindings.session_reused(connection)
        if self._offered is not None and resumed:
            self._proof = self._offered.chain, self._offered.end
            self.chain = self._offered.chain
        elif self._check is not None and not by_key:
            self._check.raise_unless_passed()
        if self.psk is not None and not self._verifies and connection.get_peer_certificate() is not None:
            # On 1.3 a server may answer with a certificate instead, which nobody has checked.
            raise SslError("TLS handshake: the server did not use the pre-shared key", reason="no psk")
        if connection.get_protocol_version_name() != "TLSv1.3":
            self._keep_session()

    def _keep_session(self) -> None:
        connection = self._connection
        if connection is None or self._cache is None:
            return
        session = connection.get_session()
        if session is None:
            return
        if self._proof is None:
            verified = self._verifies
            self._proof = certificates.chain_and_end(connection) if verified else ([], float("inf"))
        self._cache.keep(self._peer, _Kept(session, *self._proof))
