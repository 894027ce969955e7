"""Pre-shared keys: the user's callbacks, what each connection did with them, and their failures."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gnet.errors import SslError
from gnet.tls import bindings

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["PskExchange", "PskFunctions", "SslClientGetPskFunc", "SslServerGetPskFunc"]

SslClientGetPskFunc = Callable[[str], tuple[str | bytes, bytes]]
"""A client's: the server's hint (`""` if there is none) to identity and key. Nim's SslClientGetPskFunc."""

SslServerGetPskFunc = Callable[[str], bytes]
"""A server's: the client's identity to the key, `b""` if it is unknown. Nim's SslServerGetPskFunc."""

_LONGEST_HINT: Final = 256  # PSK_MAX_IDENTITY_LEN
_LONGEST_IDENTITY: Final = 255
_LONGEST_KEY: Final = 512  # PSK_MAX_PSK_LEN


class PskExchange:
    """What one connection did with the callbacks."""

    __slots__ = ("__weakref__", "_functions", "failure", "identity", "offered")

    def __init__(self, functions: PskFunctions) -> None:
        self._functions = functions  # what OpenSSL points to must live as long as the connection
        self.offered = ""
        self.identity = ""
        """The identity agreed on; `""` if no pre-shared key was used."""
        self.failure: BaseException | None = None

    def done(self, used: bool) -> None:
        """Note whether the handshake used the key that was offered."""
        if used:
            self.identity = self.offered

    def raise_if_failed(self) -> None:
        """Raise what a callback raised."""
        if self.failure is not None:
            raise SslError(
                f"TLS handshake: the PSK callback raised {self.failure!r}", reason="callback"
            ) from (self.failure)


class PskFunctions:
    """The callbacks of a context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context: SSL.Context | None = context
        # By the number that the callbacks know a connection by; each is kept by its connection's session.
        self._exchanges: weakref.WeakValueDictionary[int, PskExchange] = weakref.WeakValueDictionary()
        self._callbacks: object = None
        self.client: SslClientGetPskFunc | None = None
        self.server: SslServerGetPskFunc | None = None
        self.hint = ""

    def set_hint(self, hint: str | bytes) -> None:
        """Set the hint of a server."""
        if not isinstance(hint, (str, bytes)):
            raise TypeError(f"psk_identity_hint: expected str, got {type(hint).__name__}")
        data = hint.encode() if isinstance(hint, str) else hint
        if len(data) > _LONGEST_HINT or b"\0" in data:
            raise SslError(f"psk_identity_hint: {len(data)} bytes (limit {_LONGEST_HINT}, no NUL)")
        assert self._context is not None
        bindings.set_psk_identity_hint(self._context, data)
        self.hint = data.decode("utf-8", "replace")

    def set_client(self, function: SslClientGetPskFunc | None) -> None:
        """Set or remove the client's callback."""
        _check_callable(function, "client_get_psk_func")
        self.client = function
        self._install()

    def set_server(self, function: SslServerGetPskFunc | None) -> None:
        """Set or remove the server's callback."""
        _check_callable(function, "server_get_psk_func")
        self.server = function
        self._install()

    def forget_context(self) -> None:
        """Let go of the context, which connections that live keep for themselves."""
        self._context = None

    def exchange_for(self, connection: SSL.Connection, is_client: bool) -> PskExchange | None:
        """Give the record of a new connection, if there is a callback for its role."""
        if (self.client if is_client else self.server) is None:
            return None
        exchange = self._exchanges[bindings.connection_key(connection)] = PskExchange(self)
        return exchange

    def _install(self) -> None:
        assert self._context is not None
        self._callbacks = bindings.set_psk_callbacks(
            self._context,
            self._client_key if self.client is not None else None,
            self._server_key if self.server is not None else None,
        )

    # The two that OpenSSL calls: an exception that leaves them would only be printed.

    def _client_key(self, key: int, hint: bytes) -> tuple[bytes, bytes]:
        exchange = self._exchanges.get(key)
        if exchange is None or self.client is None:
            return b"", b""
        try:
            identity, psk = self.client(hint.decode("utf-8", "replace"))
            data = identity.encode() if isinstance(identity, str) else identity
            _check_sizes(data, psk, is_client=True)
            exchange.offered = data.decode("utf-8", "replace")
            return data, psk
        except BaseException as error:
            exchange.failure = error
            return b"", b""

    def _server_key(self, key: int, identity: bytes) -> bytes:
        exchange = self._exchanges.get(key)
        if exchange is None or self.server is None:
            return b""
        try:
            name = identity.decode("utf-8")
        except UnicodeDecodeError:
            return b""
        try:
            psk = self.server(name)
            _check_sizes(b"", psk, is_client=False)
            exchange.offered = name
            return psk
        except BaseException as error:
            exchange.failure = error
            return b""


def _check_callable(function: object, name: str) -> None:
    if function is not None and not callable(function):
        raise TypeError(f"{name}: expected a callable or None, got {type(function).__name__}")


def _check_sizes(identity: object, psk: object, *, is_client: bool) -> None:
    if not isinstance(identity, bytes) or not isinstance(psk, bytes):
        raise TypeError("the PSK callback must give the identity as str or bytes and the key as bytes")
    if is_client and not identity:
        raise ValueError("PSK identity is empty: OpenSSL takes that for no key")
    if len(identity) > _LONGEST_IDENTITY or b"\0" in identity:
        raise ValueError(f"PSK identity of {len(identity)} bytes (limit {_LONGEST_IDENTITY}, no NUL)")
    if len(psk) > _LONGEST_KEY:
        raise ValueError(f"PSK of {len(psk)} bytes (limit {_LONGEST_KEY})")
