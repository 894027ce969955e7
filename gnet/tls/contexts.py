"""`new_context` and `SslContext`: what connections over TLS have in common.

Everything that can be wrong with files, names of ciphers and versions is an error here, and not at
the first client.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Self

from OpenSSL import SSL

from gnet.addresses import is_ip_address
from gnet.checks import check_int
from gnet.deadlines import Timeout
from gnet.errors import SslError
from gnet.names import check_host
from gnet.options import SslCVerifyMode, SslHandshakeType, SslProtVersion
from gnet.tls import certificates, host_checks, settings
from gnet.tls.cautions import warn_insecure
from gnet.tls.name_choice import NameChoice
from gnet.tls.psk import PskFunctions, SslClientGetPskFunc, SslServerGetPskFunc
from gnet.tls.sessions import ClientSession, Session, SessionCache
from gnet.tls.settings import CIPHERS_INTERMEDIATE, Version
from gnet.tls.transport import TlsTransport
from gnet.tls.unconnected import UnconnectedTls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from gnet.sockets import Socket
    from gnet.transports import PlainTransport

__all__ = ["CIPHERS_INTERMEDIATE", "Session", "SslContext", "get_ssl_context_extra_data_index", "new_context"]

_LONGEST_SESSION_ID_CONTEXT: Final = 32  # SSL_MAX_SID_CTX_LENGTH

_extra_data_indexes = iter(range(1, 2**31))


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
        arguments: dict[str, Any],
    ) -> None:
        """For `new_context`."""
        self._context: SSL.Context | None = context
        self.verify_mode = verify_mode
        self.allow_truncated = allow_truncated
        self._require_client_cert = require_client_cert
        self._ask_client_cert = ask_client_cert
        self._choice = NameChoice(contexts_by_name)
        self._has_ciphersuites = has_ciphersuites
        self._extra_data: dict[int, object] = {}
        self._session_id_context = os.urandom(16)
        self._arguments = arguments
        self._psk = PskFunctions(context)
        self._cache = SessionCache()
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
    def is_destroyed(self) -> bool:
        """Whether `destroy_context` was called."""
        return self._context is None

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
        if not self._has_ciphersuites:
            settings.prefer_sha256(context)

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
        _check_socket(socket, "wrap_socket")
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
            timeout: for what is still to be sent in clear and the handshake, milliseconds or
                `timedelta`; `None`: the socket's own.
        Raises:
            SslError: the handshake failed; or bytes had arrived in clear, which somebody else may
                have put there.
            ValueError: no `hostname` for a client that verifies. TimeoutError.
            BusyError: another greenlet is reading from it, connecting or wrapping it.

        Nim's wrapConnectedSocket.
        """
        if not isinstance(handshake, SslHandshakeType):
            raise TypeError(f"handshake: expected an SslHandshakeType, got {type(handshake).__name__}")
        _check_socket(socket, "wrap_connected_socket")
        if handshake is SslHandshakeType.AS_CLIENT:
            hostname = self.check_client_host(hostname)
        socket.become_tls(
            lambda plain: self.wrap_transport(plain, handshake, hostname), connected=True, timeout=timeout
        )

    def check_client_host(self, host: str) -> str:
        """Give the ASCII form of the name of a server; raise unless a client could connect to it.

        Raises:
            ValueError: this context verifies, and there is no name.
            SslError: it verifies, and names can not be checked with what is installed.
        """
        if not isinstance(host, str):
            raise TypeError(f"hostname: expected str, got {type(host).__name__}")
        if self.verifies:
            host_checks.check_possible()
        if host:
            return check_host(host, "hostname")
        if self.verifies:
            raise ValueError(
                "hostname: a client that verifies must say whom it expects (SslCVerifyMode.PEER)"
            )
        return ""

    def wrap_transport(self, plain: PlainTransport, handshake: SslHandshakeType, host: str) -> TlsTransport:
        """Make the TLS transport of a connection."""
        connection = SSL.Connection(self.freeze(), None)
        if handshake is SslHandshakeType.AS_CLIENT:
            port = plain.peer[1] if isinstance(plain.peer, tuple) else plain.peer
            return TlsTransport(plain, connection, self._client_session(connection, host, port))
        return TlsTransport(plain, connection, self._server_session(connection))

    def _client_session(self, connection: SSL.Connection, host: str, port: object) -> Session:
        connection.set_connect_state()
        check = None
        if self.verifies:
            self.check_client_host(host)
            check = host_checks.expect(connection, host)
        else:
            connection.set_verify(SSL.VERIFY_NONE)
            if self.client_get_psk_func is None:
                warn_insecure()
        if host and not is_ip_address(host):
            connection.set_tlsext_host_name(host.removesuffix(".").encode("ascii"))
        return ClientSession(
            connection,
            allow_truncated=self.allow_truncated,
            psk=self._psk.exchange_for(connection, is_client=True),
            peer=(host, port),
            verifies=self.verifies,
            check=check,
            # A resumed session would not know the identity.
            cache=self._cache if self.client_get_psk_func is None else None,
        )

    def _server_session(self, connection: SSL.Connection) -> Session:
        connection.set_accept_state()
        flags = self.server_verify_flags()
        connection.set_verify(flags)
        if flags != SSL.VERIFY_NONE:  # a resumed session would not show who the client is
            connection.set_options(SSL.OP_NO_TICKET)
        session = Session(
            connection,
            allow_truncated=self.allow_truncated,
            psk=self._psk.exchange_for(connection, is_client=False),
        )
        if self._choice.contexts:
            self._choice.expect(connection, session)
        return session

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

    def freeze(self) -> SSL.Context:
        """Do what must be done before the first connection, and can be only once; give the context.

        Raises:
            ValueError: it was destroyed.
        """
        context = self.context
        if self._frozen:
            return context
        self._frozen = True
        # OpenSSL refuses a client's external PSK on 1.3 if the connection has a session id context.
        if self._psk.client is None:
            context.set_session_id(self._session_id_context)
        # OpenSSL looks up the session before it learns the name: a session of a name that asks for
        # nothing must not open one that demands a certificate (CVE-2025-23419 in nginx).
        every = (self, *self._choice.contexts.values())
        if len(every) > 1 and any(each.server_verify_flags() != SSL.VERIFY_NONE for each in every):
            context.set_options(SSL.OP_NO_TICKET)
        if self._choice.contexts:
            context.set_tlsext_servername_callback(self._choice.choose)
        return context

    def renewed(self) -> SslContext:
        """Make a context like this one from its files as they are now; this one stays as it is.

        For a server whose certificate was replaced; with the contexts by name.

        Raises:
            SslError: as `new_context`.
        """
        by_name = {name: context.renewed() for name, context in self._choice.contexts.items()}
        fresh = new_context(**self._arguments | {"contexts_by_name": by_name})
        fresh._session_id_context = self._session_id_context
        fresh._extra_data = dict(self._extra_data)
        if self._psk.hint:
            fresh.psk_identity_hint = self._psk.hint
        if self._psk.client is not None:
            fresh.client_get_psk_func = self._psk.client
        if self._psk.server is not None:
            fresh.server_get_psk_func = self._psk.server
        return fresh

    # ------------------------------------------------------------------ ending

    def destroy_context(self) -> None:
        """Let go of the context; connections made from it go on. Idempotent. Nim's destroyContext."""
        self._context = None
        self._psk.forget_context()
        self._extra_data.clear()
        self._cache.close()

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
        contexts_by_name: for servers: what to use for a host name the client asks for (SNI): its
            certificate, protocols and demands on clients. Whole names only.
    Raises:
        SslError: a file that is missing, unreadable, empty, garbled or encrypted, a key of another
            certificate, unknown ciphers, SSLv2 and SSLv3. TypeError. ValueError: impossible
            paths, names, versions.

    Nim's newContext.
    """
    arguments = dict(locals())
    settings.check_versions(prot_version, min_version, max_version)
    if not isinstance(verify_mode, SslCVerifyMode):
        raise TypeError(
            f"new_context: verify_mode: expected an SslCVerifyMode, got {type(verify_mode).__name__}"
        )
    if require_client_cert and verify_mode is SslCVerifyMode.NONE:
        raise ValueError("new_context: require_client_cert needs a verify_mode that verifies")
    if password is not None and not isinstance(password, bytes) and not callable(password):
        raise TypeError(f"new_context: password: expected bytes, got {type(password).__name__}")
    _check_paths(
        cert_file=cert_file, key_file=key_file, ca_dir=ca_dir, ca_file=ca_file, keylog_file=keylog_file
    )
    contexts = _checked_contexts(contexts_by_name)
    if key_file and not cert_file:
        raise SslError(f"new_context: key_file {os.fspath(key_file)!r} without a cert_file")
    context = SSL.Context(SSL.TLS_METHOD)
    settings.set_versions(context, min_version, max_version)
    context.set_options(SSL.OP_NO_COMPRESSION | getattr(SSL, "OP_NO_RENEGOTIATION", 0x40000000))
    # Idle connections give their record buffers back: 32 KiB each, at no cost in CPU that was seen.
    context.set_mode(0x10)  # SSL_MODE_RELEASE_BUFFERS
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # tickets need no cache; clients have ours
    settings.set_ciphers(context, cipher_list, ciphersuites)
    if cert_file:
        certificates.use_certificate(context, cert_file, key_file, password)
    env = os.environ if verify_mode is SslCVerifyMode.PEER_USE_ENV_VARS else {}
    if verify_mode is not SslCVerifyMode.NONE:
        certificates.load_trust(context, ca_file, ca_dir, env)
    settings.set_alpn(context, alpn)
    if keylog_file:
        settings.log_keys(context, keylog_file)
    elif keylog_file is None and env.get("SSLKEYLOGFILE"):
        settings.log_keys(context, env["SSLKEYLOGFILE"], "SSLKEYLOGFILE")
    return SslContext(
        context,
        verify_mode,
        require_client_cert=require_client_cert,
        ask_client_cert=bool(ca_file or ca_dir),
        allow_truncated=allow_truncated,
        contexts_by_name=contexts,
        has_ciphersuites=ciphersuites is not None,
        arguments=arguments,
    )


def _check_paths(**paths: Any) -> None:
    for name, path in paths.items():
        if path is None:
            continue
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(
                f"new_context: {name}: expected a path as str or PathLike of str, got {type(path).__name__}"
            )
        text = os.fspath(path)
        try:
            encoded = os.fsencode(text)
        except UnicodeError as error:
            raise ValueError(f"new_context: {name}: {text!r} is no path ({error})") from None
        if b"\0" in encoded:
            raise ValueError(f"new_context: {name}: {text!r} is no path: it has a NUL in it")


def _checked_contexts(contexts: Any) -> dict[str, SslContext]:
    """Give contexts by the names that clients may ask for: in ASCII, small letters, no dot at the end."""
    if contexts is None:
        return {}
    if not hasattr(contexts, "items"):
        raise TypeError(f"new_context: contexts_by_name: expected a mapping, got {type(contexts).__name__}")
    checked = {}
    for name, value in contexts.items():
        if not isinstance(name, str) or not isinstance(value, SslContext):
            got = f"{name!r}: {type(value).__name__}"
            raise TypeError(f"new_context: contexts_by_name: expected names and SslContexts, got {got}")
        host = check_host(name, "new_context: contexts_by_name")
        if is_ip_address(host):
            raise ValueError(
                f"new_context: contexts_by_name: nobody asks for an IP address by name: {name!r}"
            )
        if value.is_destroyed:
            raise ValueError(f"new_context: contexts_by_name: the context for {name!r} was destroyed")
        checked[host.removesuffix(".").lower()] = value
    return checked


def _check_socket(socket: object, operation: str) -> None:
    if not hasattr(socket, "become_tls"):
        raise TypeError(f"{operation}: expected a gnet.Socket, got {type(socket).__name__}")
