"""What a context may speak: versions, ciphers, application protocols; and its log of keys.

Each function checks its arguments of `new_context` and sets them on a pyOpenSSL context.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Literal

from gevent.monkey import get_original
from OpenSSL import SSL

from gnet.errors import SslError
from gnet.options import SslProtVersion
from gnet.tls import bindings

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CIPHERS_INTERMEDIATE",
    "Version",
    "check_versions",
    "log_keys",
    "prefer_sha256",
    "set_alpn",
    "set_ciphers",
    "set_versions",
]

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

# In a patched process the module's own is gevent's, which closes in a later turn of the loop.
_close: Final = get_original("os", "close")

# pyOpenSSL has no call for the security level. 2: 112 bits, so no RSA below 2,048 and no SHA-1.
_SECURITY_LEVEL: Final = "@SECLEVEL=2"

# Mozilla's order, as in the list above.
_SUITES: Final = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_OP_PRIORITIZE_CHACHA: Final = 0x200000  # SSL_OP_PRIORITIZE_CHACHA; pyOpenSSL has no name for it

# Those with SHA-256 first.
_SUITES_FOR_PSK: Final = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"


def check_versions(prot_version: object, min_version: Any, max_version: Any) -> None:
    """Raise unless there is a version of TLS to speak.

    Raises:
        TypeError: no `SslProtVersion`. ValueError: unknown versions, or none left. SslError: broken ones.
    """
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


def set_versions(context: SSL.Context, min_version: Version | None, max_version: Version | None) -> None:
    """Set the versions to speak, of those that `check_versions` passed."""
    context.set_min_proto_version(_VERSIONS[min_version or "TLSv1.2"])
    if max_version is not None:
        context.set_max_proto_version(_VERSIONS[max_version])


def set_ciphers(context: SSL.Context, cipher_list: str, ciphersuites: str | None) -> None:
    """Set the ciphers of TLS 1.2 and, unless `None`, those of 1.3.

    Raises:
        SslError: a list without a cipher that this OpenSSL has. TypeError.
    """
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
    if ciphersuites is None:
        ciphersuites = _SUITES
        # A server goes by this order too: a full handshake with AES-128 and SHA-256 takes it 8 % less CPU
        # than with the AES-256 that most clients put first. Those that have no AES in hardware put ChaCha20
        # first, and get it.
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE | _OP_PRIORITIZE_CHACHA)
    try:
        context.set_tls13_ciphersuites(ciphersuites.encode("ascii"))
    except (SSL.Error, UnicodeError) as error:
        raise _no_cipher("ciphersuites", ciphersuites) from error


def _no_cipher(name: str, value: str) -> SslError:
    bindings.drain_errors()
    return SslError(f"new_context: {name} {value!r}: no cipher match", reason="no cipher match")


def prefer_sha256(context: SSL.Context) -> None:
    """Prefer the suites that pre-shared keys of TLS 1.3 go with.

    That is SHA-256 (RFC 8446, 4.2.11): with another suite OpenSSL passes the key over.
    """
    context.set_tls13_ciphersuites(_SUITES_FOR_PSK.encode("ascii"))


def set_alpn(context: SSL.Context, alpn: Sequence[str | bytes]) -> None:
    """Set the application protocols to offer (clients) and to choose from (servers), the preferred first.

    Raises:
        TypeError, ValueError: no list of names of 1 to 255 bytes each.
    """
    if not alpn:
        return
    if isinstance(alpn, (str, bytes)):
        raise TypeError(f"new_context: alpn: expected a list of names, got {type(alpn).__name__} {alpn!r}")
    listed: list[Any] = list(alpn) if hasattr(alpn, "__iter__") else [alpn]
    if not all(isinstance(name, (str, bytes)) for name in listed):
        raise TypeError(f"new_context: alpn: expected a list of names, got {alpn!r}")
    try:
        names = [name.encode("ascii") if isinstance(name, str) else bytes(name) for name in listed]
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


def log_keys(context: SSL.Context, path: str | os.PathLike[str], what: str = "keylog_file") -> None:
    """Append the secrets of all sessions to a file.

    Args:
        what: the argument or variable that named the file, for messages.
    Raises:
        SslError: the file can not be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise SslError(f"new_context: {what} {os.fspath(path)!r}: {error.strerror}") from error
    weakref.finalize(context, _close, descriptor)

    def log(_connection: SSL.Connection, line: bytes) -> None:
        with suppress(OSError):  # a full disk is no reason to end connections
            os.write(descriptor, line + b"\n")

    context.set_keylog_callback(log)
