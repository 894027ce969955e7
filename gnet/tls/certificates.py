"""Certificates, keys and CA stores: from files into a pyOpenSSL context, with errors that name the file."""

from __future__ import annotations

import datetime
import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto

from gnet.errors import SslError
from gnet.tls import bindings
from gnet.tls.cautions import warn_of_readable_key
from gnet.tls.self_signed import make_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Certificate",
    "chain_and_end",
    "get_peer_certificates",
    "load_certificate_chain",
    "load_private_key",
    "load_trust",
    "make_self_signed",
    "trust_certifi",
    "trust_directory",
    "trust_file",
    "use_certificate",
]

Certificate = bytes
"""One certificate, DER. Nim's Certificate."""

_PEM_START: Final = b"-----BEGIN "
_PRIVATE_KEY: Final = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")


def read_file(path: str | os.PathLike[str], what: str) -> bytes:
    """Read a file; an error says what it was for."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SslError(f"new_context: {what} {os.fspath(path)!r}: {error.strerror}") from error


def load_certificate_chain(path: str | os.PathLike[str]) -> list[x509.Certificate]:
    """Load a PEM chain, leaf first.

    Raises:
        SslError: unreadable, or no certificate in it.
    """
    return _parse_certificates(read_file(path, "cert_file"), f"cert_file {os.fspath(path)!r}")


def load_private_key(
    path: str | os.PathLike[str],
    password: bytes | Callable[[], bytes] | None,
    what: str = "key_file",
) -> Any:
    """Load a PEM key. Never prompts: an encrypted key without `password` is an error.

    Warns once for each file that others than its owner can read.

    Args:
        what: the argument that named the file, for messages.
    Raises:
        SslError: unreadable, no key in it, garbled, encrypted and no or a wrong password.
        TypeError: the password is no `bytes`.
    """
    shown = f"{what} {os.fspath(path)!r}"
    data = read_file(path, what)
    if not _PRIVATE_KEY.search(data):
        advice = "" if what == "key_file" else "; give it, or the file that has it as key_file"
        raise SslError(f"new_context: {shown} has no private key in PEM in it{advice}")
    encrypted = b"ENCRYPTED" in data
    secret = None
    if encrypted and password is not None:
        secret = password() if callable(password) else password
        if not isinstance(secret, bytes):
            raise TypeError(f"new_context: password: expected bytes, got {type(secret).__name__}")
    if encrypted and secret is None:
        raise SslError(f"new_context: {shown} is encrypted and no password was given")
    try:
        key = serialization.load_pem_private_key(data, secret)
    except (ValueError, TypeError) as error:
        problem = "wrong password or garbled" if encrypted else "no usable private key in PEM"
        raise SslError(f"new_context: {shown}: {problem} ({_short(error)})") from error
    except Exception as error:  # UnsupportedAlgorithm
        raise SslError(f"new_context: {shown}: {_short(error)}") from error
    warn_of_readable_key(path, what)
    return key


def use_certificate(
    context: SSL.Context,
    cert_file: str | os.PathLike[str],
    key_file: str | os.PathLike[str],
    password: bytes | Callable[[], bytes] | None,
) -> None:
    """Give a context its own certificate chain and the key that belongs to it.

    Args:
        key_file: `""`: the key is in `cert_file` too.
    """
    chain = load_certificate_chain(cert_file)
    what = "key_file" if key_file else "cert_file"
    key = load_private_key(key_file or cert_file, password, what)
    if key.public_key() != chain[0].public_key():
        raise SslError(
            f"new_context: {what} {os.fspath(key_file or cert_file)!r} is not the key of the first "
            f"certificate in cert_file {os.fspath(cert_file)!r}"
        )
    try:
        context.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        bindings.drain_errors()
        queue = error.args[0] if error.args else None
        reason = queue[0][2] if isinstance(queue, list) and queue else str(error)
        raise SslError(f"new_context: cert_file {os.fspath(cert_file)!r}: {reason}", reason=reason) from error


# ---------------------------------------------------------------------- trust


def load_trust(
    context: SSL.Context,
    ca_file: str | os.PathLike[str],
    ca_dir: str | os.PathLike[str],
    env: Mapping[str, str],
) -> None:
    """Trust what the arguments say; without any, what the variables say, and without these, certifi."""
    if ca_file or ca_dir:
        if ca_file:
            trust_file(context, ca_file)
        if ca_dir:
            trust_directory(context, ca_dir)
    elif env.get("SSL_CERT_FILE"):
        trust_file(context, env["SSL_CERT_FILE"], "SSL_CERT_FILE")
    elif env.get("SSL_CERT_DIR"):
        trust_directory(context, env["SSL_CERT_DIR"], "SSL_CERT_DIR")
    else:
        trust_certifi(context)


def trust_file(context: SSL.Context, path: str | os.PathLike[str], what: str = "ca_file") -> None:
    """Trust the certificates of a PEM file, of which there must be one at least."""
    shown = f"{what} {os.fspath(path)!r}"
    if not _has_certificate(read_file(path, what)):
        raise SslError(f"new_context: {shown} has no certificate in PEM in it")
    _load(context, path, shown)


def trust_directory(context: SSL.Context, path: str | os.PathLike[str], what: str = "ca_dir") -> None:
    """Trust the certificates of all PEM files in a directory, with or without hashed names."""
    shown = f"{what} {os.fspath(path)!r}"
    found = False
    try:
        files = sorted({entry.resolve() for entry in Path(path).iterdir() if entry.is_file()})
        for file in files:
            if _has_certificate(file.read_bytes()):
                _load(context, file, f"{shown}: {file.name}")
                found = True
    except OSError as error:
        if isinstance(error, SslError):
            raise
        raise SslError(f"new_context: {shown}: {error.strerror}") from error
    if not found:
        raise SslError(f"new_context: {shown} has no CA certificate in it")


def trust_certifi(context: SSL.Context) -> None:
    """Trust Mozilla's roots, in one store that all contexts share which add nothing to it."""
    if not bindings.share_store(_certifi_context(), context):
        trust_file(context, certifi.where(), "certifi's file")


@functools.cache
def _certifi_context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    trust_file(context, certifi.where(), "certifi's file")
    return context


def _load(context: SSL.Context, path: str | os.PathLike[str], shown: str) -> None:
    # OpenSSL reads the file, and not `cryptography`, which warns of roots that are older than it.
    try:
        context.load_verify_locations(os.fspath(path))
    except SSL.Error as error:
        bindings.drain_errors()
        queue = error.args[0] if error.args else None
        reason = queue[0][2] if isinstance(queue, list) and queue else "not usable"
        raise SslError(f"new_context: {shown}: {reason}", reason=reason) from error


def _has_certificate(data: bytes) -> bool:
    return _PEM_START + b"CERTIFICATE" in data or _PEM_START + b"TRUSTED CERTIFICATE" in data


def _parse_certificates(data: bytes, shown: str) -> list[x509.Certificate]:
    if not _has_certificate(data):
        raise SslError(f"new_context: {shown} has no certificate in PEM in it")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise SslError(f"new_context: {shown}: {_short(error)}") from error


def _short(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


# ---------------------------------------------------------------------- the peer's, and our own


def get_peer_certificates(connection: SSL.Connection) -> list[Certificate]:
    """Give the peer's verified chain, leaf first, the trust anchor included, as DER.

    Args:
        connection: a pyOpenSSL one; for a `Socket` there is its method.
    Returns:
        `[]` before the handshake, without a peer's certificate and where nothing was verified.

    Nim's getPeerCertificates.
    """
    if connection.get_verify_mode() == SSL.VERIFY_NONE or bindings.verify_result(connection)[0] != 0:
        return []
    chain = connection.get_verified_chain() or []
    return [crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate) for certificate in chain]


def chain_and_end(connection: SSL.Connection) -> tuple[list[Certificate], float]:
    """Give the peer's verified chain and the time, in seconds since 1970, when the first of it ends.

    Of no chain the end is 0: what is not known to be verified is not to be relied on.
    """
    ends = []
    for certificate in connection.get_verified_chain() or []:
        _, end = validity(certificate)
        ends.append(end.timestamp() if end is not None else 0.0)
    return get_peer_certificates(connection), min(ends, default=0.0)


def validity(
    certificate: crypto.X509,
) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """Give since when and until when a certificate is valid; `None`: there is no making sense of it.

    By way of pyOpenSSL: OpenSSL takes certificates that `cryptography` refuses to read.
    """
    return _time(certificate.get_notBefore()), _time(certificate.get_notAfter())


def _time(text: bytes | None) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.strptime((text or b"").decode("ascii"), "%Y%m%d%H%M%SZ")
    except ValueError:
        return None
    return moment.replace(tzinfo=datetime.UTC)
