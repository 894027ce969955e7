"""Certificates, keys and CA stores: from files into a pyOpenSSL context, with errors that name the file."""

from __future__ import annotations

import datetime
import functools
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from gnet.errors import SslError
from gnet.tls import bindings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Certificate",
    "get_peer_certificates",
    "load_certificate_chain",
    "load_private_key",
    "make_self_signed",
    "trust_certifi",
    "trust_directory",
    "trust_file",
]

Certificate = bytes
"""One certificate, DER. Nim's Certificate."""

_warned_files: set[str] = set()

_PEM_START: Final = b"-----BEGIN "


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


def load_private_key(path: str | os.PathLike[str], password: bytes | Callable[[], bytes] | None) -> Any:
    """Load a PEM key. Never prompts: an encrypted key without `password` is an error.

    Warns once for each file that others than its owner can read.

    Raises:
        SslError: unreadable, garbled, encrypted and no or a wrong password.
        TypeError: the password is no `bytes`.
    """
    shown = f"key_file {os.fspath(path)!r}"
    data = read_file(path, "key_file")
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077 and os.fspath(path) not in _warned_files:
        _warned_files.add(os.fspath(path))
        warnings.warn(f"new_context: {shown} can be read by others than its owner", UserWarning, stacklevel=4)
    encrypted = b"ENCRYPTED" in data
    secret = None
    if encrypted and password is not None:
        secret = password() if callable(password) else password
        if not isinstance(secret, bytes):
            raise TypeError(f"new_context: password: expected bytes, got {type(secret).__name__}")
    if encrypted and secret is None:
        raise SslError(f"new_context: {shown} is encrypted and no password was given")
    try:
        return serialization.load_pem_private_key(data, secret)
    except (ValueError, TypeError) as error:
        problem = "wrong password or garbled" if encrypted else "no usable private key in PEM"
        raise SslError(f"new_context: {shown}: {problem} ({_short(error)})") from error
    except Exception as error:  # UnsupportedAlgorithm
        raise SslError(f"new_context: {shown}: {_short(error)}") from error


def use_certificate(
    context: SSL.Context,
    cert_file: str | os.PathLike[str],
    key_file: str | os.PathLike[str],
    password: bytes | Callable[[], bytes] | None,
) -> None:
    """Give a context its own certificate chain and the key that belongs to it."""
    chain = load_certificate_chain(cert_file)
    key = load_private_key(key_file, password)
    if key.public_key() != chain[0].public_key():
        raise SslError(
            f"new_context: key_file {os.fspath(key_file)!r} is not the key of the first certificate in "
            f"cert_file {os.fspath(cert_file)!r}"
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
    chain = connection.get_verified_chain(as_cryptography=True)
    return [certificate.public_bytes(serialization.Encoding.DER) for certificate in chain or []]


def chain_and_end(connection: SSL.Connection) -> tuple[list[Certificate], float]:
    """Give the peer's verified chain and the time, in seconds since 1970, when the first of it ends.

    Of no chain the end is 0: what is not known to be verified is not to be relied on.
    """
    chain = connection.get_verified_chain(as_cryptography=True) or []
    ends = [certificate.not_valid_after_utc.timestamp() for certificate in chain]
    return get_peer_certificates(connection), min(ends, default=0.0)


def make_self_signed(name: str, days: int = 30) -> tuple[x509.Certificate, Any]:
    """Make a certificate for a host name (and for loopback addresses, if it is localhost), and its key.

    For tests on this machine; nobody else has a reason to trust it.
    """
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names += [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key
