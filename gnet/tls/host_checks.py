"""Whether the peer's certificate is for the host that a client expects, checked inside the handshake.

OpenSSL does it where the binding can tell it the name. Where not, a verify callback asks
service-identity about the leaf. Where neither can be done, a client that verifies does not start.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from OpenSSL import SSL

from gnet.addresses import is_ip_address
from gnet.errors import SslError
from gnet.tls import bindings

if TYPE_CHECKING:
    from OpenSSL.crypto import X509

__all__ = ["HostCheck", "check_possible", "expect"]


def check_possible() -> None:
    """Raise unless names can be checked.

    Raises:
        SslError: neither by OpenSSL nor by service-identity.
    """
    if bindings.name_checks_work():
        return
    try:
        import service_identity.cryptography  # noqa: F401 - whether it is there
    except ImportError as error:
        raise SslError(
            "TLS: a client can not verify here: this pyOpenSSL gives no access to OpenSSL's check of names, "
            f"and service-identity can not be imported ({error})"
        ) from error


def expect(connection: SSL.Connection, host: str) -> HostCheck | None:
    """Have the handshake of a client fail unless the server's certificate is for `host`.

    Args:
        host: a name in ASCII, or an IP address.
    Returns:
        The check, which its user must ask in the end; `None` where OpenSSL makes it.
    Raises:
        SslError: OpenSSL refuses the name, or names can not be checked.
    """
    check_possible()
    if not bindings.name_checks_work():
        check = HostCheck(host)
        # A callback of the connection, whose exceptions pyOpenSSL would drop: this one lets none out.
        connection.set_verify(SSL.VERIFY_PEER, check.verify)
        return check
    connection.set_verify(SSL.VERIFY_PEER)
    if is_ip_address(host):
        bindings.expect_ip(connection, ip_address(host).packed)
    else:
        bindings.expect_host(connection, host)
    return None


class HostCheck:
    """The check of one connection's peer by service-identity."""

    __slots__ = ("_host", "_made", "_problem")

    def __init__(self, host: str) -> None:
        self._host = host
        self._made = False
        self._problem: BaseException | None = None

    def verify(self, _connection: SSL.Connection, certificate: X509, _code: int, depth: int, ok: int) -> bool:
        """Judge one certificate, as OpenSSL's verify callback; the leaf, at depth 0, is its last."""
        if not ok or depth:
            return bool(ok)
        try:
            _check_leaf(certificate, self._host)
        except BaseException as error:  # what leaves a callback is printed, or lost
            self._problem = error.with_traceback(None)
            return False
        self._made = True
        return True

    def raise_if_refused(self) -> None:
        """Raise what this check found.

        Raises:
            SslError: the certificate is for another host, with OpenSSL's code and text for that.
        """
        problem = self._problem
        if problem is None:
            return
        from service_identity import CertificateError, VerificationError

        if not isinstance(problem, (CertificateError, VerificationError)):
            text = f"TLS handshake: the check of the name raised {problem!r}"
            raise SslError(text, reason="callback") from problem
        code, words = (64, "IP address mismatch") if is_ip_address(self._host) else (62, "hostname mismatch")
        raise SslError(
            f"TLS handshake: certificate verify failed: {words} (code {code})",
            reason="certificate verify failed",
            library="SSL routines",
            verify_code=code,
            verify_message=words,
        ) from problem

    def raise_unless_passed(self) -> None:
        """Raise if the certificate was refused, and also if none was ever looked at."""
        self.raise_if_refused()
        if not self._made:
            raise SslError("TLS handshake: the name of the server was not checked", reason="no name check")


def _check_leaf(certificate: X509, host: str) -> None:
    from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

    check = verify_certificate_ip_address if is_ip_address(host) else verify_certificate_hostname
    # service-identity does not know that a dot behind a name says that it is complete.
    check(certificate.to_cryptography(), host.removesuffix("."))
