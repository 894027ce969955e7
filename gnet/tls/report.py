"""What a TLS server shows: version, cipher, chain, whether it verifies. Behind `python -m gnet tls-info`."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from OpenSSL import crypto

from gnet.deadlines import Timeout, deadline, to_milliseconds
from gnet.dialing import dial
from gnet.errors import InsecureWarning, SslError, TimeoutError
from gnet.options import SslCVerifyMode, SslHandshakeType
from gnet.tls import bindings
from gnet.tls.certificates import validity
from gnet.tls.contexts import SslContext, new_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gnet.sockets import Socket

__all__ = ["CertificateReport", "TlsReport", "inspect_server"]

# How long a server may take to send its session tickets, which come with or after its first data.
_TICKET_WAIT_MS = 300


@dataclass
class CertificateReport:
    """One certificate of a chain."""

    subject: str
    issuer: str
    names: list[str]
    not_before: str
    not_after: str
    key: str
    signature: str


@dataclass
class TlsReport:
    """What a handshake with a server showed."""

    host: str
    port: int
    servername: str
    version: str = ""
    cipher: str = ""
    alpn: str | None = None
    resumption: bool = False
    verified: bool = False
    problem: str = ""  # why it does not verify, and OpenSSL's number for that (X509_V_ERR_…)
    verify_code: int = 0
    refusal: str = ""  # what a server said that ended the connection after the handshake
    chain: list[CertificateReport] = field(default_factory=list)


def inspect_server(
    host: str,
    port: int,
    *,
    servername: str = "",
    ca_file: str = "",
    alpn: Sequence[str] = (),
    timeout: Timeout = 10_000,
) -> TlsReport:
    """Make TLS connections to a server and report what it shows; nothing is sent but handshakes.

    Args:
        servername: the name to ask for and to verify, instead of `host`.
        ca_file: whom to trust, instead of certifi's roots.
        timeout: for each connection, milliseconds or `timedelta`.
    Raises:
        OSError: no connection, or the server does not speak TLS. TimeoutError: names the server.
    """
    name = servername or host
    report = TlsReport(host, port, name)
    limit = to_milliseconds(timeout)
    context = new_context(ca_file=ca_file, alpn=alpn)
    try:
        with _connect(context, host, port, name, limit) as socket:
            report.verified = True
            _describe(socket, report)
            report.refusal = _await_tickets(socket)
        with suppress(OSError), _connect(context, host, port, name, limit) as again:
            report.resumption = bindings.session_reused(again.ssl_handle)
    except SslError as error:
        if not error.verify_code:
            raise
        report.problem = error.verify_message
        report.verify_code = error.verify_code
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureWarning)
            unverified = new_context(verify_mode=SslCVerifyMode.NONE, alpn=alpn)
            with _connect(unverified, host, port, name, limit) as socket:
                _describe(socket, report)
    return report


def _connect(context: SslContext, host: str, port: int, name: str, limit: float) -> Socket:
    try:
        with deadline(limit):
            socket = dial(host, port)
            try:
                context.wrap_connected_socket(socket, SslHandshakeType.AS_CLIENT, name)
            except BaseException:
                socket.close()
                raise
    except TimeoutError:
        raise TimeoutError(f"{host}:{port}: no TLS connection within {limit:g} ms") from None
    return socket


def _await_tickets(socket: Socket) -> str:
    """Have the session tickets read; give the reason of a server that does not want to go on.

    On TLS 1.3 it says only now that it demands a client certificate.
    """
    try:
        socket.peek(1, timeout=_TICKET_WAIT_MS)
    except TimeoutError:
        pass
    except SslError as error:
        return error.reason or str(error)
    return ""


def _describe(socket: Socket, report: TlsReport) -> None:
    connection = socket.ssl_handle
    report.version = connection.get_protocol_version_name()
    report.cipher = connection.get_cipher_name() or ""
    report.alpn = socket.alpn_protocol
    chain = connection.get_peer_cert_chain() or []
    report.chain = [_describe_any(certificate) for certificate in chain]


def _describe_any(certificate: crypto.X509) -> CertificateReport:
    try:
        return _describe_certificate(certificate.to_cryptography())
    except Exception as error:  # OpenSSL takes certificates that `cryptography` refuses to read
        start, end = validity(certificate)
        return CertificateReport(
            subject=_shown_name(certificate.get_subject()),
            issuer=_shown_name(certificate.get_issuer()),
            names=[],
            not_before=start.isoformat(timespec="seconds") if start is not None else "unreadable",
            not_after=end.isoformat(timespec="seconds") if end is not None else "unreadable",
            key=f"unreadable certificate: {error}",
            signature="unknown",
        )


def _shown_name(name: crypto.X509Name) -> str:
    parts = (f"{key.decode()}={value.decode('utf-8', 'replace')}" for key, value in name.get_components())
    return ",".join(parts)


def _describe_certificate(certificate: x509.Certificate) -> CertificateReport:
    names: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(name.value) for name in extension]
    except (x509.ExtensionNotFound, ValueError):
        pass
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    return CertificateReport(
        subject=certificate.subject.rfc4514_string(),
        issuer=certificate.issuer.rfc4514_string(),
        names=names,
        not_before=certificate.not_valid_before_utc.isoformat(timespec="seconds"),
        not_after=certificate.not_valid_after_utc.isoformat(timespec="seconds"),
        key=_describe_key(certificate),
        signature=algorithm.name if algorithm is not None else certificate.signature_algorithm_oid._name,
    )


def _describe_key(certificate: x509.Certificate) -> str:
    try:
        key: object = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):  # explicit curves among others
        return "unknown"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448"
    if isinstance(key, dsa.DSAPublicKey):
        return f"DSA {key.key_size}"
    return type(key).__name__
