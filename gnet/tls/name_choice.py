"""The choice of a server's context by the name that the client asks for (SNI)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from OpenSSL import SSL

from gnet.errors import SslError, fresh_ssl_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gnet.tls.contexts import SslContext
    from gnet.tls.sessions import Session

__all__ = ["NameChoice"]


class NameChoice:
    """The contexts by name of one server context, and its connections that have yet to choose."""

    def __init__(self, contexts: Mapping[str, SslContext]) -> None:
        """Begin.

        Args:
            contexts: by names in ASCII and small letters.
        """
        self.contexts = contexts
        # By the id of their connection; the transport keeps them.
        self._sessions: WeakValueDictionary[int, Session] = WeakValueDictionary()

    def expect(self, connection: SSL.Connection, session: Session) -> None:
        """Note a new connection and who is to be told if the choice fails."""
        self._sessions[id(connection)] = session

    def choose(self, connection: SSL.Connection) -> None:
        """Switch a connection to the context for its name; without one it stays with its own.

        OpenSSL calls this. pyOpenSSL would only print an exception, so that none gets out.
        """
        try:
            name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
            chosen = self.contexts.get(name)
            if chosen is not None:
                _switch(connection, chosen, name)
        except BaseException as error:
            self._sessions[id(connection)].refuse(_refusal(error))
            connection.set_context(_context_that_refuses())


def _switch(connection: SSL.Connection, chosen: SslContext, name: str) -> None:
    if chosen.is_destroyed:
        text = f"TLS handshake: the context for the name {name!r} was destroyed"
        raise SslError(text, reason="destroyed context")
    connection.set_context(chosen.freeze())
    # set_context takes the certificate along, but not what is asked of clients.
    connection.set_verify(chosen.server_verify_flags())


def _refusal(error: BaseException) -> SslError:
    if isinstance(error, SslError):
        return fresh_ssl_error(error)
    cause = error.with_traceback(None)  # its frames hold the connection
    refusal = SslError(f"TLS handshake: the choice of a context by name raised {cause!r}", reason="callback")
    refusal.__cause__ = cause
    return refusal


@functools.cache
def _context_that_refuses() -> SSL.Context:
    """Give a context that fails every full handshake of a server, for the lack of a certificate.

    A handshake that goes on with a session or by a pre-shared key is failed by `Session.refuse`.
    """
    return SSL.Context(SSL.TLS_METHOD)
