"""Every exception that gnet raises of its own, and the test for "the peer went away".

The three kinds to tell apart: *you* closed or misused the object (`ClosedError`, `BusyError`,
`ValueError`, `TypeError`), *the world* broke the connection (`OSError` as Python raises it,
`BrokenSendError`, `IncompleteReadError`, `LineTooLongError`), *time* is over (`TimeoutError`).

Every class can be built from its message alone, so that errors survive `pickle` and `copy`.
"""

from __future__ import annotations

import builtins
import errno
import os
import socket as _stdlib_socket
from typing import Final, NoReturn, TypeVar

from gnet.options import SocketFlag

__all__ = [
    "BrokenSendError",
    "BusyError",
    "ClosedError",
    "IncompleteReadError",
    "InsecureWarning",
    "LineTooLongError",
    "SslError",
    "TimeoutError",
    "is_disconnection_error",
]

# Nim's isDisconnectionError on POSIX: just these three. ECONNABORTED, ENOTCONN, ETIMEDOUT and
# ESHUTDOWN are not among them.
_E = TypeVar("_E", bound=BaseException)

_DISCONNECTION_ERRNOS: Final = frozenset({errno.EPIPE, errno.ENETRESET, errno.ECONNRESET})


class TimeoutError(builtins.TimeoutError):
    """The deadline of a gnet call (or of a `gnet.deadline` block) is over.

    The object stays usable: what arrived so far is kept for the next read. The kernel's ETIMEDOUT
    (a peer that vanished) is *not* this class but the builtin `TimeoutError`, and is final.

    Attributes:
        bytes_sent: how many bytes of the message that was being sent had gone to the kernel.
            If it is neither 0 nor all, the write side is broken (`BrokenSendError`).

    Nim's `net.TimeoutError` is no `OSError`; this one is, as the builtin's is.
    """

    def __init__(self, message: str = "", *, bytes_sent: int = 0) -> None:
        super().__init__(message)
        self.bytes_sent = bytes_sent


class ClosedError(OSError):
    """The socket was closed on this side: before the call, or by another greenlet during it.

    Tell it from `ConnectionResetError`, where the peer or the network ended the connection.
    """


class BusyError(RuntimeError):
    """Another greenlet is already reading this stream.

    Two readers would share its bytes in an order that nobody chose. Raised at once and without
    effect on either; the first reader goes on.
    """


class BrokenSendError(OSError):
    """A send was cut part-way: the peer has the start of a message and will not get its rest.

    Every later send raises this too; reading goes on. Reconnect.

    Attributes:
        bytes_sent: how many bytes of what was being sent had gone to the kernel when it was cut.
    """

    def __init__(self, message: str = "", *, bytes_sent: int = 0) -> None:
        super().__init__(message)
        self.bytes_sent = bytes_sent


class IncompleteReadError(OSError):
    """The stream ended before what was asked for was complete. Nothing was taken.

    Attributes:
        received: how many bytes are there; `recv` reads them.
        expected: how many were wanted, or `None` where that has no number (a line, a delimiter).
    """

    def __init__(self, message: str = "", *, received: int = 0, expected: int | None = None) -> None:
        super().__init__(message)
        self.received = received
        self.expected = expected


class LineTooLongError(OSError):
    """No line end (or delimiter) within the limit. The stream is out of step: later reads raise too.

    Attributes:
        limit: the limit in bytes.
    """

    def __init__(self, message: str = "", *, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit


class SslError(OSError):
    """TLS failed: the handshake, a certificate, a record, or the end of the stream (truncation).

    Attributes:
        reason: OpenSSL's short text, e.g. `certificate verify failed`, or `""`.
        library: the part of OpenSSL it is from, or `""`.
        verify_code: the number of the certificate problem (X509_V_ERR_…), 0 if that was not it.
        verify_message: its text, or `""`.

    Nim's SslError, which another error often masks.
    """

    def __init__(
        self,
        message: str = "",
        *,
        reason: str = "",
        library: str = "",
        verify_code: int = 0,
        verify_message: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.library = library
        self.verify_code = verify_code
        self.verify_message = verify_message


class InsecureWarning(UserWarning):
    """A TLS client handshake without any check of who the peer is (`SslCVerifyMode.NONE`)."""


def is_disconnection_error(flags: SocketFlag, error: int | OSError) -> bool:
    """Tell whether `error` only says that the peer is gone and `flags` ask to treat that as an end.

    Args:
        flags: a `SocketFlag`; only `SocketFlag.SAFE_DISCONN` matters here.
        error: an errno number, or an `OSError` whose `errno` is looked at.
    Returns:
        True if `flags` has `SAFE_DISCONN` and the error is EPIPE, ENETRESET or ECONNRESET.
    Raises:
        TypeError: `flags` is no `SocketFlag`, or `error` is neither an `int` nor an `OSError`.

    Nim's `isDisconnectionError`.
    """
    if not isinstance(flags, SocketFlag):
        raise TypeError(f"flags: expected a SocketFlag, got {type(flags).__name__}")
    if isinstance(error, OSError):
        number = error.errno
    elif isinstance(error, int):
        number = error
    else:
        raise TypeError(f"error: expected an errno number or an OSError, got {type(error).__name__}")
    return SocketFlag.SAFE_DISCONN in flags and number in _DISCONNECTION_ERRNOS


def closed_error(operation: str) -> ClosedError:
    """Give the error for an operation on a socket that this side has closed."""
    return ClosedError(f"{operation}: the socket is closed")


def raise_named(error: OSError, operation: str) -> NoReturn:
    """Raise an error whose message begins with the operation and the peer, caused by `error`.

    One of gnet's own, which has such a message already, is raised as it is.
    """
    named = named_error(error, operation)
    try:
        if named is error:
            raise error
        raise named from error
    finally:
        del error, named  # an exception that its own traceback's frames hold is not freed at once


def because(error: _E, cause: BaseException | None) -> _E:
    """Give `error`, caused by another one or by none: what `raise error from cause` says.

    For the modules that may be compiled: in those the compiler drops the `from`.
    """
    error.__cause__ = cause  # which also keeps the one that was being handled out of the traceback
    return error


def fresh_ssl_error(error: SslError, prefix: str = "") -> SslError:
    """Give a copy without traceback, to be kept: a traceback holds what raised, and so makes cycles."""
    fresh = SslError(
        f"{prefix}{error}",
        reason=error.reason,
        library=error.library,
        verify_code=error.verify_code,
        verify_message=error.verify_message,
    )
    fresh.__cause__ = error.__cause__
    return fresh


def named_error(error: OSError, operation: str) -> OSError:
    """Give an error like `error` whose message begins with the operation and the peer.

    A new one each time: an exception that is raised again and again drags its tracebacks along.

    Args:
        operation: what failed and with whom, e.g. `recv from 127.0.0.1:80`.
    """
    if isinstance(error, SslError):
        return fresh_ssl_error(error, f"{operation}: ")
    if error.errno is None:  # one of gnet's own, or somebody's plain OSError("text")
        return error
    if isinstance(error, _stdlib_socket.gaierror):
        return _stdlib_socket.gaierror(error.errno, f"{operation}: {error.strerror}")
    named = OSError(error.errno, f"{operation}: {error.strerror or os.strerror(error.errno)}")
    named.__cause__ = error.__cause__
    return named
