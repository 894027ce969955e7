"""From what OpenSSL and pyOpenSSL raise to one `SslError` that says what happened."""

from __future__ import annotations

import datetime
from typing import Final, NoReturn

from OpenSSL import SSL

from gnet.errors import SslError
from gnet.tls import bindings
from gnet.tls.certificates import validity

__all__ = ["TRUNCATED", "raise_ssl_error", "ssl_error_from"]

TRUNCATED: Final = "unexpected eof"
"""The `reason` of a stream that ended without close_notify."""

_NOT_YET_VALID: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED

# What the most frequent reasons mean, for those who do not know OpenSSL's words.
_HINTS: Final = {
    "wrong version number": "the peer does not speak TLS, or no version this side allows",
    "http request": "a plain HTTP request came to a TLS port",
    "packet length too long": "the peer does not speak TLS",
    "record layer failure": "the peer sent something that is no TLS record",
    "no shared cipher": "no cipher suite in common, or the server has no certificate for one",
    "unsupported protocol": "no TLS version in common",
    "tlsv1 alert unknown ca": "the peer does not trust this side's certificate",
    "tlsv13 alert certificate required": "the peer demands a client certificate",
}


def ssl_error_from(error: Exception, operation: str, connection: SSL.Connection) -> SslError:
    """Translate an exception of pyOpenSSL, or one that a callback raised.

    Args:
        operation: handshake, read, write.
    """
    if isinstance(error, SslError):
        return error
    if isinstance(error, SSL.SysCallError):
        return SslError(
            f"TLS {operation}: the connection ended without close_notify",
            reason=TRUNCATED,
            library="SSL routines",
        )
    if not isinstance(error, SSL.Error):
        return SslError(f"TLS {operation}: a callback raised {error!r}", reason="callback")
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    # What was wrong with a certificate may stand before the entry that says that one was refused.
    entries = [entry for entry in queue if entry[2] == "certificate verify failed"] or queue or [("", "", "")]
    library, _, reason = entries[0]
    verify_code, verify_message = bindings.verify_result(connection)
    if not verify_code or reason != "certificate verify failed":  # under NONE it is about nothing
        verify_code, verify_message = 0, ""
    text = reason or "the connection has failed"
    if verify_code and "certificate verify failed" in reason:
        text = f"{reason}: {verify_message} (code {verify_code}){_dates_of(connection, verify_code)}"
    elif reason in _HINTS:
        text = f"{reason} ({_HINTS[reason]})"
    return SslError(
        f"TLS {operation}: {text}",
        reason=reason,
        library=library,
        verify_code=verify_code,
        verify_message=verify_message,
    )


def _dates_of(connection: SSL.Connection, verify_code: int) -> str:
    """Say since when or until when the certificate that was refused for its dates is valid."""
    now = datetime.datetime.now(datetime.UTC)
    for certificate in connection.get_verified_chain() or []:
        start, end = validity(certificate)
        if verify_code == _EXPIRED and end is not None and end < now:
            return f", valid until {end:%Y-%m-%d %H:%M:%S} UTC"
        if verify_code == _NOT_YET_VALID and start is not None and start > now:
            return f", valid from {start:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def raise_ssl_error(message: str = "") -> NoReturn:
    """Raise an `SslError` with a message, or with the newest entry of OpenSSL's error queue.

    The queue is emptied: it is the thread's, so that what is left there could be taken for the fault
    of another greenlet's connection. Calls of gnet and of pyOpenSSL leave nothing in it; it is for
    those who call OpenSSL themselves.

    Raises:
        SslError: always. Nim's raiseSSLError, which leaves the queue as it is.
    """
    if message:
        raise SslError(message)
    reason = bindings.last_error()
    raise SslError(reason or "No error reported.", reason=reason)
