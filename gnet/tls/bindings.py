"""The only place, with `gnet.tls.raw_calls`, that touches what pyOpenSSL does not make public.

Three things need it: checking names inside the handshake, pre-shared keys, and a hot path without
pyOpenSSL's checks and exceptions (SSL_read and SSL_write cost a third of `recv` and `send` there).
Each has its own check, made at first use against two connections in memory; `raw_calls_work`,
`name_checks_work` and `psk_works` tell the result. Where raw calls do not work, the public ones
take their place; where names can not be checked, a verify callback does it; where neither works,
TLS clients refuse to start.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any, Final

from OpenSSL import SSL

from gnet.errors import SslError
from gnet.tls.raw_calls import RawCalls
from gnet.tls.self_signed import make_self_signed

__all__ = [
    "RawCalls",
    "drain_errors",
    "expect_host",
    "expect_ip",
    "raw_calls_work",
    "set_psk_callbacks",
    "set_psk_identity_hint",
    "share_store",
    "verify_result",
]

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)

# X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT: RFC 6125 and 9525
# allow `*` as a whole label only, and the CN is no place for a host name.
_HOST_FLAGS: Final = 0x4 | 0x20

_LARGEST_RECORD: Final = 16384

_CLIENT_CALLBACK: Final = "unsigned int(SSL *, char *, char *, unsigned int, unsigned char *, unsigned int)"
_SERVER_CALLBACK: Final = "unsigned int(SSL *, char *, unsigned char *, unsigned int)"


def drain_errors() -> None:
    """Empty OpenSSL's error queue: it belongs to the thread, that is, to all greenlets."""
    if _lib is not None:
        _lib.ERR_clear_error()


def last_error() -> str:
    """Give the text of the newest entry of OpenSSL's error queue and empty it; `""` if there is none."""
    newest = 0
    while code := _lib.ERR_get_error() if hasattr(_lib, "ERR_get_error") else 0:
        newest = code
    text = _lib.ERR_reason_error_string(newest) if newest else _ffi.NULL
    return str(_ffi.string(text).decode("ascii", "replace")) if text != _ffi.NULL else ""


# ---------------------------------------------------------------------- names


def expect_host(connection: SSL.Connection, name: str) -> None:
    """Have the handshake check that the peer's certificate is for this host name.

    Raises:
        SslError: OpenSSL did not take the name. Never goes on without the check.
    """
    text = name.removesuffix(".").encode("ascii")
    # OpenSSL takes an empty name for "check nothing", and one that begins with a dot for "any below".
    if not text or text.startswith(b"."):
        raise SslError(f"TLS: {name!r} is no host name that a certificate could be for")
    parameters = _parameters(connection)
    _lib.X509_VERIFY_PARAM_set_hostflags(parameters, _HOST_FLAGS)
    if _lib.X509_VERIFY_PARAM_set1_host(parameters, text, len(text)) != 1:
        drain_errors()
        raise SslError(f"TLS: OpenSSL refuses the host name {name!r}")


def expect_ip(connection: SSL.Connection, packed: bytes) -> None:
    """Have the handshake check that the peer's certificate is for this IP address (4 or 16 bytes)."""
    if _lib.X509_VERIFY_PARAM_set1_ip(_parameters(connection), packed, len(packed)) != 1:
        drain_errors()
        raise SslError(f"TLS: OpenSSL refuses the IP address {packed.hex()}")


def verify_result(connection: SSL.Connection) -> tuple[int, str]:
    """Give the code and the text of the certificate check: (0, "ok") if it passed or was not made."""
    internals: Any = connection
    if not hasattr(_lib, "SSL_get_verify_result"):
        return 0, "ok"
    code = int(_lib.SSL_get_verify_result(internals._ssl))
    text = _ffi.string(_lib.X509_verify_cert_error_string(code)).decode("ascii", "replace")
    return code, text


def _parameters(connection: SSL.Connection) -> Any:
    internals: Any = connection
    return _lib.SSL_get0_param(internals._ssl)


# ---------------------------------------------------------------------- stores, sessions, PSK


def share_store(source: SSL.Context, target: SSL.Context) -> bool:
    """Let `target` trust what `source` does, in one store; False if that can not be done.

    Loading certifi's roots takes 15 ms and 640 KiB for each context; this, 0.1 ms and 14 KiB.
    """
    names = ("SSL_CTX_get_cert_store", "SSL_CTX_set_cert_store", "X509_STORE_up_ref")
    if not all(hasattr(_lib, name) for name in names):
        return False
    internals_source: Any = source
    internals_target: Any = target
    store = _lib.SSL_CTX_get_cert_store(internals_source._context)
    if store == _ffi.NULL or _lib.X509_STORE_up_ref(store) != 1:
        return False
    _lib.SSL_CTX_set_cert_store(internals_target._context, store)  # takes over the reference
    return True


def session_reused(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed a session."""
    internals: Any = connection
    return bool(_lib.SSL_session_reused(internals._ssl)) if hasattr(_lib, "SSL_session_reused") else False


def connection_key(connection: SSL.Connection) -> int:
    """Give the number under which a PSK callback knows this connection."""
    internals: Any = connection
    return int(_ffi.cast("uintptr_t", internals._ssl))


def set_psk_identity_hint(context: SSL.Context, hint: bytes) -> None:
    """Set the hint that a TLS 1.2 server sends (OpenSSL: at most 256 bytes)."""
    _require_psk()
    internals: Any = context
    if _lib.SSL_CTX_use_psk_identity_hint(internals._context, hint) != 1:
        drain_errors()
        raise SslError(f"psk_identity_hint: OpenSSL refuses a hint of {len(hint)} bytes (limit 256)")


def set_psk_callbacks(context: SSL.Context, client: Any, server: Any) -> Any:
    """Set the PSK callbacks of a context; give what must live as long as it does.

    Args:
        client: `(key, hint: bytes) -> (identity: bytes, psk: bytes)`, or `None` for none.
        server: `(key, identity: bytes) -> psk: bytes`, or `None`. Both must not raise; an empty
            key is a refusal. `key` is what `connection_key` gives.
    """
    _require_psk()
    internals: Any = context
    client_callback: Any = _ffi.NULL
    server_callback: Any = _ffi.NULL
    if client is not None:

        @_ffi.callback(_CLIENT_CALLBACK)  # type: ignore[untyped-decorator]  # cffi has no types
        def client_callback(
            ssl: Any, hint: Any, identity_out: Any, room: int, psk_out: Any, psk_room: int
        ) -> int:
            text = _ffi.string(hint) if hint != _ffi.NULL else b""
            identity, psk = client(int(_ffi.cast("uintptr_t", ssl)), text)
            if not psk or len(psk) > psk_room or len(identity) >= room:
                return 0
            _ffi.memmove(identity_out, identity + b"\0", len(identity) + 1)
            _ffi.memmove(psk_out, psk, len(psk))
            return len(psk)

    if server is not None:

        @_ffi.callback(_SERVER_CALLBACK)  # type: ignore[untyped-decorator]  # cffi has no types
        def server_callback(ssl: Any, identity: Any, psk_out: Any, psk_room: int) -> int:
            psk = server(int(_ffi.cast("uintptr_t", ssl)), _ffi.string(identity))
            if not psk or len(psk) > psk_room:
                return 0
            _ffi.memmove(psk_out, psk, len(psk))
            return len(psk)

    _lib.SSL_CTX_set_psk_client_callback(internals._context, client_callback)
    _lib.SSL_CTX_set_psk_server_callback(internals._context, server_callback)
    return client_callback, server_callback


def _require_psk() -> None:
    names = ("client_callback", "server_callback")
    if not all(hasattr(_lib, f"SSL_CTX_set_psk_{name}") for name in names):
        raise SslError("PSK: this pyOpenSSL does not give access to it")


# ---------------------------------------------------------------------- self-checks


@functools.cache
def raw_calls_work() -> bool:
    """Whether `RawCalls` does what it says, tried on a TLS connection in memory."""
    try:
        client, server = _handshaken_pair(b"raw.test", RawCalls)
        calls = RawCalls(client), RawCalls(server)
        message = b"gnet" * 5000  # more than a record
        sent = 0
        for _ in range(4):
            sent += calls[0].write(message[sent : sent + _LARGEST_RECORD]) or 0
        calls[1].feed(calls[0].take())
        received = b""
        while isinstance(part := calls[1].read(65536), bytes):
            received += part
        return received == message and part is None
    except Exception:  # whatever is missing or different: the public calls do as well
        drain_errors()
        return False


@functools.cache
def name_checks_work() -> bool:
    """Whether `expect_host` and `expect_ip` make a handshake with another name fail."""
    try:
        _handshaken_pair(b"right.test", RawCalls, expect="right.test")
    except Exception:
        drain_errors()
        return False
    try:
        _handshaken_pair(b"wrong.test", RawCalls, expect="right.test")
    except SSL.Error:
        drain_errors()
        return True
    return False


def _handshaken_pair(name: bytes, calls: Any, expect: str = "") -> tuple[SSL.Connection, SSL.Connection]:
    """Connect a client and a server in memory; the server's certificate is made for `name`."""
    certificate, key = make_self_signed(name.decode())
    server_context = SSL.Context(SSL.TLS_METHOD)
    server_context.use_certificate(certificate)
    server_context.use_privatekey(key)
    client_context = SSL.Context(SSL.TLS_METHOD)
    store = client_context.get_cert_store()
    if store is None:
        raise SslError("TLS: no certificate store")
    from OpenSSL.crypto import X509

    store.add_cert(X509.from_cryptography(certificate))
    client_context.set_verify(SSL.VERIFY_PEER if expect else SSL.VERIFY_NONE)
    server = SSL.Connection(server_context, None)
    server.set_accept_state()
    client = SSL.Connection(client_context, None)
    client.set_connect_state()
    if expect:
        expect_host(client, expect)
    for source, target in ((client, server), (server, client)) * 3:
        with suppress(SSL.WantReadError):
            source.do_handshake()
        with suppress(SSL.WantReadError):
            target.bio_write(source.bio_read(65536))
    client.do_handshake()
    return client, server
