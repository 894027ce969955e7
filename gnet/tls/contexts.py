"""`new_context` and `SslContext`: what connections over TLS have in common.

Everything that can be wrong with files, names of ciphers and versions is an error here, and not at
the first client.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections import OrderedDict
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from OpenSSL import SSL

from gnet.addresses import is_ip_address
from gnet.checks import check_int
from gnet.deadlines import Timeout
from gnet.errors import InsecureWarning, SslError
from gnet.names import check_host
from gnet.options import SslCVerifyMode, SslHandshakeType, SslProtVersion
from gnet.tls import bindings, certificates
from gnet.tls.psk import PskExchange, PskFunctions, SslClientGetPskFunc, SslServerGetPskFunc
from gnet.tls.transport import TlsTransport, UnconnectedTls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from gnet.sockets import Socket
    from gnet.transports import PlainTransport

__all__ = ["CIPHERS_INTERMEDIATE", "Session", "SslContext", "get_ssl_context_extra_data_index", "new_context"]

CIPHERS_INTERMEDIATE: Final = (
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:"
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384"
)
"""Mozilla's intermediate list, as Nim has it."""

Version = Literal["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]

_VERSIONS: Final[dict[str, int]] = {
    "TLSv1": SSL.TLS1_VERSION,
    "TLSv1.1": SSL.TLS1_1_VERSION,
    "TLSv1.2": SSL.TLS1_2_VERSION,
    "TLSv1.3": SSL.TLS1_3_VERSION,
}

# pyOpenSSL has no call for the security level. 2: 112 bits, so no RSA below 2,048 and no SHA-1.
_SECURITY_LEVEL: Final = "@SECLEVEL=2"

_LONGEST_SESSION_ID_CONTEXT: Final = 32  # SSL_MAX_SID_CTX_LENGTH

_SUITES_FOR_PSK: Final = b"TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"

# Sessions a client context keeps, one for each name and port it talked to.
_MOST_SESSIONS: Final = 256

_extra_data_indexes = iter(range(1, 2**31))

_warned_insecure = False


class Session:
    """What a context knows and does about one connection; the transport tells it what happens."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_context",
        "_host",
        "_key",
        "_port",
        "allow_truncated",
        "chain",
        "is_client",
        "psk",
    )

    def __init__(
        self,
        context: SslContext,
        connection: SSL.Connection,
        is_client: bool,
        host: str,
        port: object,
        psk: PskExchange | None,
    ) -> None:
        self._context = context
        self._connection: SSL.Connection | None = connection
        self._key = (host, port)
        self.is_client = is_client
        self.allow_truncated = context.allow_truncated
        self.psk = psk
        self.chain: list[certificates.Certificate] = []
        """The peer's verified chain where a session was resumed, which knows none of its own."""

    @property
    def context(self) -> SslContext:
        """The context, as it was when the connection was made."""
        return self._context

    def handshake_done(self) -> None:
        """Check what only a complete handshake tells.

        Raises:
            SslError: the peer is not who it should be.
        """
        connection = self._connection
        assert connection is not None
        if self.psk is not None:
            self.psk.raise_if_failed()
            name = connection.get_cipher_name() or ""
            # The callback is asked before it is known whether the key is right: only these tell.
            is_13 = connection.get_protocol_version_name() == "TLSv1.3"
            self.psk.done(bindings.session_reused(connection) if is_13 else "PSK" in name)
        if not self.is_client:
            return
        context = self._context
        if bindings.session_reused(connection):
            self.chain = context.chain_of_session(self._key)
        if (
            context.client_get_psk_func is not None
            and not context.verifies
            and connection.get_peer_certificate() is not None
        ):
            # On 1.3 a server may answer with a certificate instead, which nobody has checked.
            raise SslError("TLS handshake: the server did not use the pre-shared key", reason="no psk")
        if context.verifies and not bindings.name_checks_work() and not (self.psk and self.psk.identity):
            _check_name_late(connection, self._key[0])
        if connection.get_protocol_version_name() != "TLSv1.3":
            self._keep_session()

    def handshake_failed(self) -> None:
        """Raise what a callback raised, if that is why."""
        if self.psk is not None:
            self.psk.raise_if_failed()

    def first_read(self) -> None:
        """Keep the session of a client: on TLS 1.3 its ticket comes with the first data."""
        if self.is_client:
            self._keep_session()

    def closing(self) -> None:
        """Keep the latest session of a client."""
        if self.is_client:
            self._keep_session()

    def closed(self) -> None:
        """Forget the connection."""
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        # A connection that is freed without a close_notify takes its session along.
        connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        if self.psk is not None:
            self._context.forget_psk(connection)

    def _keep_session(self) -> None:
        if self._connection is not None and self._key[0]:
            self._context.keep_session(self._key, self._connection)


class SslContext:
    """Certificates, trust and settings for connections over TLS; made by `new_context`.

    A context manager, which destroys it. After its first connection it is frozen: setters raise
    `ValueError`. Nim's SslContext.
    """

    def __init__(
        self,
        context: SSL.Context,
        verify_mode: SslCVerifyMode,
        *,
        require_client_cert: bool,
        ask_client_cert: bool,
        allow_truncated: bool,
        contexts_by_name: Mapping[str, SslContext],
        has_ciphersuites: bool,
    ) -> None:
        """For `new_context`."""
        self._context: SSL.Context | None = context
        self.verify_mode = verify_mode
        self.allow_truncated = allow_truncated
        self._require_client_cert = require_client_cert
        self._ask_client_cert = ask_client_cert
        self._contexts_by_name = {name.lower(): value for name, value in contexts_by_name.items()}
        self._has_ciphersuites = has_ciphersuites
        self._extra_data: dict[int, object] = {}
        self._session_id_context = os.urandom(16)
        self._psk = PskFunctions(context)
        # By name and port: the session, the chain that was verified for it, and when that ends.
        self._sessions: OrderedDict[
            tuple[str, object], tuple[SSL.Session, list[certificates.Certificate], float]
        ] = OrderedDict()
        self._frozen = False

    # ------------------------------------------------------------------ settings

    @property
    def context(self) -> SSL.Context:
        """The pyOpenSSL context.

        Raises:
            ValueError: it was destroyed.
        """
        if self._context is None:
            raise ValueError("SslContext: it was destroyed")
        return self._context

    @property
    def verifies(self) -> bool:
        """Whether a client of this context checks who the server is."""
        return self.verify_mode is not SslCVerifyMode.NONE

    @property
    def session_id_context(self) -> bytes:
        """What tells this server's sessions from those of others; at most 32 bytes.

        Sessions are resumed only where it is the same. Random unless set: set it, to the same on
        all of them, where several processes share their ticket keys. Nim's sessionIdContext=.
        """
        return self._session_id_context

    @session_id_context.setter
    def session_id_context(self, value: bytes | str) -> None:
        data = value.encode() if isinstance(value, str) else value
        if not isinstance(data, bytes):
            raise TypeError(f"session_id_context: expected bytes, got {type(value).__name__}")
        if len(data) > _LONGEST_SESSION_ID_CONTEXT:
            raise SslError(f"session_id_context: {len(data)} bytes (limit {_LONGEST_SESSION_ID_CONTEXT})")
        self._check_changeable("session_id_context")
        self._session_id_context = data

    @property
    def psk_identity_hint(self) -> str:
        """The hint that a PSK server gives on TLS 1.2 (1.3 has none); UTF-8, at most 256 bytes.

        Nim's pskIdentityHint=.
        """
        return self._psk.hint

    @psk_identity_hint.setter
    def psk_identity_hint(self, hint: str | bytes) -> None:
        self._check_changeable("psk_identity_hint")
        self._psk.set_hint(hint)

    @property
    def client_get_psk_func(self) -> SslClientGetPskFunc | None:
        """`(hint: str) -> (identity: str | bytes, key: bytes)` of a PSK client. Nim's clientGetPskFunc."""
        return self._psk.client

    @client_get_psk_func.setter
    def client_get_psk_func(self, function: SslClientGetPskFunc | None) -> None:
        context = self._check_changeable("client_get_psk_func")
        self._psk.set_client(function)
        self._prefer_sha256(context)

    @property
    def server_get_psk_func(self) -> SslServerGetPskFunc | None:
        """`(identity: str) -> key: bytes` of a PSK server; `b""`: unknown. Nim's serverGetPskFunc.

        A context with it issues no tickets: a resumed session would show no identity.
        """
        return self._psk.server

    @server_get_psk_func.setter
    def server_get_psk_func(self, function: SslServerGetPskFunc | None) -> None:
        context = self._check_changeable("server_get_psk_func")
        self._psk.set_server(function)
        if function is not None:
            context.set_options(SSL.OP_NO_TICKET)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
            self._prefer_sha256(context)

    def _prefer_sha256(self, context: SSL.Context) -> None:
        # A pre-shared key of TLS 1.3 goes with SHA-256 (RFC 8446, 4.2.11): with another suite OpenSSL
        # passes it over.
        if not self._has_ciphersuites:
            context.set_tls13_ciphersuites(_SUITES_FOR_PSK)

    def _check_changeable(self, name: str) -> SSL.Context:
        context = self.context
        if self._frozen:
            raise ValueError(f"{name}: a context can not be changed after its first connection")
        return context

    # ------------------------------------------------------------------ extra data

    def get_extra_data(self, index: int) -> object:
        """Give what `set_extra_data` stored.

        Raises:
            SslError: nothing is stored under this index. Nim's getExtraData.
        """
        try:
            return self._extra_data[check_int(index, "get_extra_data: index")]
        except KeyError:
            raise SslError(f"get_extra_data: no data with index {index}") from None

    def set_extra_data(self, index: int, data: object) -> None:
        """Store any object under an index (see `get_ssl_context_extra_data_index`). Nim's setExtraData."""
        self._extra_data[check_int(index, "set_extra_data: index")] = data

    # ------------------------------------------------------------------ wrapping

    def wrap_socket(self, socket: Socket) -> None:
        """Have a socket that is not connected yet speak TLS.

        What a listening one accepts are servers, whose handshake is made by their first use or
        `do_handshake`; `connect` makes a client, handshake included.

        Raises:
            TypeError, ValueError: no socket, one that is wrapped or connected already. Nim's wrapSocket.
        """
        self.context  # noqa: B018 - raises if it was destroyed
        _check_socket(socket)
        socket.become_tls(lambda plain: UnconnectedTls(plain, self), connected=False)

    def wrap_connected_socket(
        self,
        socket: Socket,
        handshake: SslHandshakeType,
        hostname: str = "",
        timeout: Timeout = None,
    ) -> None:
        """Speak TLS on a connected socket from now on (STARTTLS), handshake included.

        Args:
            handshake: as client or server.
            hostname: the name or IP address that the server's certificate must be for; a client
                that verifies must give it.
            timeout: for the handshake, milliseconds or `timedelta`; `None`: the socket's own.
        Raises:
            SslError: the handshake failed; or bytes had arrived in clear, which somebody else may
                have put there.
            ValueError: no `hostname` for a client that verifies. TimeoutError. Nim's wrapConnectedSocket.
        """
        if not isinstance(handshake, SslHandshakeType):
            raise TypeError(f"handshake: expected an SslHandshakeType, got {type(handshake).__name__}")
        _check_socket(socket)
        if handshake is SslHandshakeType.AS_CLIENT:
            hostname = self.check_client_host(hostname)
        socket.become_tls(lambda plain: self.wrap_transport(plain, handshake, hostname), connected=True)
        socket.do_handshake(timeout)

    def check_client_host(self, host: str) -> str:
        """Give the ASCII form of the name of a server; raise unless a client could connect to it.

        Raises:
            ValueError: this context verifies, and there is no name.
        """
        if not isinstance(host, str):
            raise TypeError(f"hostname: expected str, got {type(host).__name__}")
        if host:
            return check_host(host, "hostname")
        if self.verifies:
            raise ValueError(
                "hostname: a client that verifies must say whom it expects (SslCVerifyMode.PEER)"
            )
        return ""

    def wrap_transport(self, plain: PlainTransport, handshake: SslHandshakeType, host: str) -> TlsTransport:
        """Make the TLS transport of a connection."""
        context = self.context
        if not self._frozen:
            self._frozen = True
            self._prepare(context)
        connection = SSL.Connection(context, None)
        is_client = handshake is SslHandshakeType.AS_CLIENT
        port = plain.peer[1] if isinstance(plain.peer, tuple) else plain.peer
        psk = self._psk.exchange_for(connection)
        session = Session(self, connection, is_client, host, port, psk)
        if is_client:
            self._prepare_client(connection, host, port)
        else:
            connection.set_accept_state()
            flags = self.server_verify_flags()
            connection.set_verify(flags)
            if flags != SSL.VERIFY_NONE:  # a resumed session would not show who the client is
                connection.set_options(SSL.OP_NO_TICKET)
        return TlsTransport(plain, connection, session)

    def server_verify_flags(self) -> int:
        """Give what a server of this context asks of its clients."""
        if self.verify_mode is SslCVerifyMode.NONE or not (
            self._ask_client_cert or self._require_client_cert
        ):
            return int(SSL.VERIFY_NONE)
        flags = SSL.VERIFY_PEER
        if self._require_client_cert:
            flags |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        return int(flags)

    def _prepare(self, context: SSL.Context) -> None:
        """Do what must be done before the first connection, and can be only once."""
        # OpenSSL refuses a client's external PSK on 1.3 if the connection has a session id context.
        if self._psk.client is None:
            context.set_session_id(self._session_id_context)
        # OpenSSL looks up the session before it learns the name: a session of a name that asks for
        # nothing must not open one that demands a certificate (CVE-2025-23419 in nginx).
        every = (self, *self._contexts_by_name.values())
        if len(every) > 1 and any(each.server_verify_flags() != SSL.VERIFY_NONE for each in every):
            context.set_options(SSL.OP_NO_TICKET)
        if self._contexts_by_name:
            contexts = self._contexts_by_name

            def choose(connection: SSL.Connection) -> None:
                name = connection.get_servername()
                chosen = contexts.get(name.decode("ascii", "replace").lower()) if name else None
                if chosen is not None:
                    connection.set_context(chosen.context)
                    # set_context takes the certificate along, but not what is asked of clients.
                    connection.set_verify(chosen.server_verify_flags())

            context.set_tlsext_servername_callback(choose)

    def _prepare_client(self, connection: SSL.Connection, host: str, port: object) -> None:
        connection.set_connect_state()
        if self.verifies:
            self.check_client_host(host)
            connection.set_verify(SSL.VERIFY_PEER)
            if bindings.name_checks_work():
                if is_ip_address(host):
                    bindings.expect_ip(connection, ip_address(host).packed)
                else:
                    bindings.expect_host(connection, host)
        else:
            connection.set_verify(SSL.VERIFY_NONE)
            if self.client_get_psk_func is None:
                _warn_insecure()
        if host and not is_ip_address(host):
            connection.set_tlsext_host_name(host.removesuffix(".").encode("ascii"))
        session, _, end = self._sessions.get((host, port), (None, [], 0.0))
        if session is not None and time.time() < end:  # no session outlives the certificates it rests on
            connection.set_session(session)

    # ------------------------------------------------------------------ for connections

    def keep_session(self, key: tuple[str, object], connection: SSL.Connection) -> None:
        """Keep a client's session for the next connection to the same name and port."""
        if self._context is None or self._psk.client is not None:
            return  # a resumed session would not know the identity
        session = connection.get_session()
        if session is not None:
            if bindings.session_reused(connection):
                _, chain, end = self._sessions.get(key, (None, [], 0.0))
            else:
                chain, end = certificates.chain_and_end(connection)
                if not self.verifies:
                    end = float("inf")
            self._sessions[key] = (session, chain, end)
            self._sessions.move_to_end(key)
            if len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)

    def chain_of_session(self, key: tuple[str, object]) -> list[certificates.Certificate]:
        """Give the chain that was verified when the session was made."""
        return self._sessions[key][1] if key in self._sessions else []

    def forget_psk(self, connection: SSL.Connection) -> None:
        """Forget the PSK exchange of a connection that is closed."""
        self._psk.forget(connection)

    # ------------------------------------------------------------------ ending

    def destroy_context(self) -> None:
        """Let go of the context; connections made from it go on. Idempotent. Nim's destroyContext."""
        self._context = None
        self._psk.forget_context()
        self._extra_data.clear()
        self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy_context()

    def __repr__(self) -> str:
        state = "destroyed" if self._context is None else self.verify_mode.name
        return f"<gnet.SslContext {state}>"


def get_ssl_context_extra_data_index() -> int:
    """Give an index for `set_extra_data` that nobody else has. Nim's getSslContextExtraDataIndex."""
    return next(_extra_data_indexes)


def new_context(
    prot_version: SslProtVersion = SslProtVersion.SSLV23,
    verify_mode: SslCVerifyMode = SslCVerifyMode.PEER,
    cert_file: str | os.PathLike[str] = "",
    key_file: str | os.PathLike[str] = "",
    cipher_list: str = CIPHERS_INTERMEDIATE,
    ca_dir: str | os.PathLike[str] = "",
    ca_file: str | os.PathLike[str] = "",
    *,
    ciphersuites: str | None = None,
    alpn: Sequence[str | bytes] = (),
    min_version: Version | None = None,
    max_version: Version | None = None,
    password: bytes | Callable[[], bytes] | None = None,
    require_client_cert: bool = False,
    allow_truncated: bool = False,
    keylog_file: str | os.PathLike[str] | None = None,
    contexts_by_name: Mapping[str, SslContext] | None = None,
) -> SslContext:
    """Make a context for TLS clients, servers or both.

    Args:
        prot_version: `SSLV23`: all that is sound, TLS 1.2 and 1.3.
        verify_mode: `PEER`: clients check the server's certificate and name; servers ask for a
            client certificate if `ca_file` or `ca_dir` is given. `PEER_USE_ENV_VARS`: the same,
            with the CAs of SSL_CERT_FILE or SSL_CERT_DIR if set. `NONE`: no checks.
        cert_file, key_file: PEM; the certificate chain leaf first, and its key, which may be in
            the same file.
        cipher_list: TLS 1.2 suites, OpenSSL's syntax. ciphersuites: those of 1.3.
        ca_dir, ca_file: whom to trust, instead of the variables and of certifi's roots.
        alpn: application protocols, the preferred first.
        min_version, max_version: `"TLSv1.2"` (the default floor), `"TLSv1.3"`; below only if asked
            for here.
        password: of an encrypted key; nothing ever prompts for it.
        require_client_cert: a server refuses clients without a certificate.
        allow_truncated: a stream may end without close_notify.
        keylog_file: append the session secrets for Wireshark.
        contexts_by_name: for servers: what to use for a host name the client asks for (SNI).
    Raises:
        SslError: a file that is missing, unreadable, empty, garbled or encrypted, a key of another
            certificate, unknown ciphers, SSLv2 and SSLv3. TypeError, ValueError.

    Nim's newContext.
    """
    _check_version_names(prot_version, min_version, max_version)
    if not isinstance(verify_mode, SslCVerifyMode):
        raise TypeError(
            f"new_context: verify_mode: expected an SslCVerifyMode, got {type(verify_mode).__name__}"
        )
    if require_client_cert and verify_mode is SslCVerifyMode.NONE:
        raise ValueError("new_context: require_client_cert needs a verify_mode that verifies")
    if password is not None and not isinstance(password, bytes) and not callable(password):
        raise TypeError(f"new_context: password: expected bytes, got {type(password).__name__}")
    _check_contexts(contexts_by_name)
    if key_file and not cert_file:
        raise SslError(f"new_context: key_file {os.fspath(key_file)!r} without a cert_file")
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(_VERSIONS[min_version or "TLSv1.2"])
    if max_version is not None:
        context.set_max_proto_version(_VERSIONS[max_version])
    context.set_options(SSL.OP_NO_COMPRESSION | getattr(SSL, "OP_NO_RENEGOTIATION", 0x40000000))
    # Idle connections give their record buffers back: 32 KiB each, at no cost in CPU that was seen.
    context.set_mode(0x10)  # SSL_MODE_RELEASE_BUFFERS
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets need no cache; clients have ours
    _set_ciphers(context, cipher_list, ciphersuites)
    if cert_file:
        certificates.use_certificate(context, cert_file, key_file or cert_file, password)
    env = os.environ if verify_mode is SslCVerifyMode.PEER_USE_ENV_VARS else {}
    if verify_mode is not SslCVerifyMode.NONE:
        _load_trust(context, ca_file, ca_dir, env)
    _set_alpn(context, alpn)
    log_path = keylog_file if keylog_file is not None else env.get("SSLKEYLOGFILE")
    if log_path:
        _log_keys(context, log_path)
    return SslContext(
        context,
        verify_mode,
        require_client_cert=require_client_cert,
        ask_client_cert=bool(ca_file or ca_dir),
        allow_truncated=allow_truncated,
        contexts_by_name=contexts_by_name or {},
        has_ciphersuites=ciphersuites is not None,
    )


def _check_contexts(contexts: Any) -> None:
    if contexts is None:
        return
    if not hasattr(contexts, "items"):
        raise TypeError(f"new_context: contexts_by_name: expected a mapping, got {type(contexts).__name__}")
    for name, value in contexts.items():
        if not isinstance(name, str) or not isinstance(value, SslContext):
            got = f"{name!r}: {type(value).__name__}"
            raise TypeError(f"new_context: contexts_by_name: expected names and SslContexts, got {got}")


def _check_version_names(prot_version: object, min_version: Any, max_version: Any) -> None:
    if not isinstance(prot_version, SslProtVersion):
        raise TypeError(
            f"new_context: prot_version: expected an SslProtVersion, got {type(prot_version).__name__}"
        )
    for name, version in (("min_version", min_version), ("max_version", max_version)):
        if version is not None and version not in _VERSIONS:
            raise ValueError(f"new_context: {name}: expected one of {', '.join(_VERSIONS)}, got {version!r}")
    if max_version is not None and _VERSIONS[max_version] < _VERSIONS[min_version or "TLSv1.2"]:
        floor = min_version or "TLSv1.2"
        raise ValueError(f"new_context: max_version {max_version} is below min_version {floor}")
    if prot_version in (SslProtVersion.SSLV2, SslProtVersion.SSLV3):
        raise SslError(f"new_context: {prot_version.name} is broken and not supported; use SSLV23")
    if prot_version is SslProtVersion.TLSV1 and min_version is None:
        raise SslError("new_context: TLSV1 is below the floor, TLS 1.2; use SSLV23, or give min_version")


def _set_ciphers(context: SSL.Context, cipher_list: str, ciphersuites: str | None) -> None:
    for name, value in (("cipher_list", cipher_list), ("ciphersuites", ciphersuites)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"new_context: {name}: expected str, got {type(value).__name__}")
    level = "" if "@SECLEVEL" in cipher_list else ":" + _SECURITY_LEVEL
    try:
        context.set_cipher_list((cipher_list + level).encode("ascii"))
    except (SSL.Error, UnicodeError) as error:
        raise _no_cipher("cipher_list", cipher_list) from error
    if ciphersuites == "":
        raise _no_cipher("ciphersuites", ciphersuites)
    if ciphersuites is not None:
        try:
            context.set_tls13_ciphersuites(ciphersuites.encode("ascii"))
        except (SSL.Error, UnicodeError) as error:
            raise _no_cipher("ciphersuites", ciphersuites) from error


def _no_cipher(name: str, value: str) -> SslError:
    bindings.drain_errors()
    return SslError(f"new_context: {name} {value!r}: no cipher match", reason="no cipher match")


def _load_trust(
    context: SSL.Context,
    ca_file: str | os.PathLike[str],
    ca_dir: str | os.PathLike[str],
    env: Mapping[str, str],
) -> None:
    if ca_file or ca_dir:
        if ca_file:
            certificates.trust_file(context, ca_file)
        if ca_dir:
            certificates.trust_directory(context, ca_dir)
    elif env.get("SSL_CERT_FILE"):
        certificates.trust_file(context, env["SSL_CERT_FILE"], "SSL_CERT_FILE")
    elif env.get("SSL_CERT_DIR"):
        certificates.trust_directory(context, env["SSL_CERT_DIR"], "SSL_CERT_DIR")
    else:
        certificates.trust_certifi(context)


def _set_alpn(context: SSL.Context, alpn: Sequence[str | bytes]) -> None:
    if not alpn:
        return
    if isinstance(alpn, (str, bytes)):
        raise TypeError(f"new_context: alpn: expected a list of names, got {type(alpn).__name__} {alpn!r}")
    if not hasattr(alpn, "__iter__") or not all(isinstance(name, (str, bytes)) for name in alpn):
        raise TypeError(f"new_context: alpn: expected a list of names, got {alpn!r}")
    try:
        names = [name.encode("ascii") if isinstance(name, str) else name for name in alpn]
    except UnicodeEncodeError as error:
        raise ValueError(f"new_context: alpn: {error.object!r} is not ASCII") from None
    if sum(len(name) + 1 for name in names) > 65535:
        raise ValueError("new_context: alpn: more than 65,535 bytes of names")
    for name in names:
        if not 0 < len(name) < 256:
            raise ValueError(f"new_context: alpn: {name!r}: expected 1 to 255 bytes")

    def select(_connection: SSL.Connection, offered: list[bytes]) -> Any:
        # Without one in common the handshake goes on without, as in the stdlib's ssl.
        return next((name for name in names if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)

    context.set_alpn_protos(names)
    context.set_alpn_select_callback(select)


def _log_keys(context: SSL.Context, path: str | os.PathLike[str]) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise SslError(f"new_context: keylog_file {os.fspath(path)!r}: {error.strerror}") from error
    weakref.finalize(context, os.close, descriptor)

    def log(_connection: SSL.Connection, line: bytes) -> None:
        os.write(descriptor, line + b"\n")

    context.set_keylog_callback(log)


def _check_socket(socket: object) -> None:
    if not hasattr(socket, "become_tls"):
        raise TypeError(f"wrap: expected a gnet.Socket, got {type(socket).__name__}")


def _check_name_late(connection: SSL.Connection, host: str) -> None:
    """Check the name after the handshake, where the binding to do it within is missing."""
    try:
        from service_identity import CertificateError, VerificationError
        from service_identity.pyopenssl import verify_hostname, verify_ip_address
    except ImportError as error:
        raise SslError("TLS: names can not be checked here") from error

    try:
        (verify_ip_address if is_ip_address(host) else verify_hostname)(connection, host.removesuffix("."))
    except (VerificationError, CertificateError) as error:
        raise SslError(
            f"TLS handshake: certificate verify failed: hostname mismatch ({host})",
            reason="certificate verify failed",
            verify_code=62,
            verify_message="hostname mismatch",
        ) from error


def _stack_level_of_the_program() -> int:
    """Give the `stacklevel`, for who calls this, that points out of gnet."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gnet."):
        frame = frame.f_back
        level += 1
    return level


def _warn_insecure() -> None:
    global _warned_insecure
    if not _warned_insecure:
        _warned_insecure = True
        warnings.warn(
            "a TLS client that does not verify its peer (SslCVerifyMode.NONE): anybody can be the server",
            InsecureWarning,
            stacklevel=_stack_level_of_the_program(),
        )
