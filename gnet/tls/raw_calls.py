"""The hot path of TLS: OpenSSL's calls below pyOpenSSL, on one connection with memory BIOs.

Whether they do what is said here is tried before they are used, by `gnet.tls.bindings.raw_calls_work`.
"""

from __future__ import annotations

from typing import Any, Final

from gevent.monkey import get_original
from OpenSSL import SSL

__all__ = ["RawCalls"]

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)

_WANT_READ: Final = 2
_WANT_WRITE: Final = 3
_ZERO_RETURN: Final = 6

_LARGEST_RECORD: Final = 16384
# Four full records and their overhead: what one send of the transport makes goes out in one piece.
_SCRATCH_SIZE: Final = 4 * (_LARGEST_RECORD + 256)

# cffi releases the GIL in each call: a scratch buffer may belong to one thread only.
_per_thread: Any = get_original("_thread", "_local")()


def _scratch() -> tuple[Any, Any]:
    """Give the scratch buffer of this thread, and what gives its bytes: a slice of that is a copy."""
    scratch: tuple[Any, Any] | None = getattr(_per_thread, "scratch", None)
    if scratch is None:
        buffer = _ffi.new("char[]", _SCRATCH_SIZE)
        scratch = _per_thread.scratch = (buffer, _ffi.buffer(buffer))
    return scratch


class RawCalls:
    """OpenSSL's calls on one connection with memory BIOs."""

    __slots__ = ("_buffer", "_connection", "_content", "_from_ssl", "_into_ssl", "_ssl")

    def __init__(self, connection: SSL.Connection) -> None:
        """Take over a connection, which is used by this thread only from now on."""
        internals: Any = connection
        self._buffer, self._content = _scratch()
        self._connection = connection
        self._ssl = internals._ssl
        self._into_ssl = internals._into_ssl
        self._from_ssl = internals._from_ssl

    def read(self, size: int) -> bytes | int | None:
        """SSL_read: the bytes of at most one record; `b""` after close_notify; `None`: feed more.

        An `int` is a failure: what to give to `raise_error`.
        """
        buffer = self._buffer
        count = _lib.SSL_read(self._ssl, buffer, size if size < _LARGEST_RECORD else _LARGEST_RECORD)
        if count > 0:
            return self._content[:count]  # type: ignore[no-any-return]  # a copy, as bytes
        code = _lib.SSL_get_error(self._ssl, count)
        if code == _WANT_READ:
            return None
        return b"" if code == _ZERO_RETURN else int(count)

    def write(self, data: Any) -> int | None:
        """SSL_write: how many bytes went into a record; `None`: feed more; not above 0: a failure."""
        size = len(data)
        count = _lib.SSL_write(self._ssl, data if type(data) is bytes else _ffi.from_buffer(data), size)
        if count <= 0 and _lib.SSL_get_error(self._ssl, count) == _WANT_READ:
            return None
        return int(count)

    def feed(self, data: bytes) -> None:
        """BIO_write: give OpenSSL ciphertext."""
        if _lib.BIO_write(self._into_ssl, data, len(data)) != len(data):
            raise MemoryError("BIO_write")

    def take(self) -> bytes:
        """BIO_read: take ciphertext that is to be sent; `b""` if there is none."""
        return self._drain(self._from_ssl)

    def _drain(self, bio: Any) -> bytes:
        buffer = self._buffer
        count = _lib.BIO_read(bio, buffer, _SCRATCH_SIZE)
        if count <= 0:
            return b""
        data: bytes = self._content[:count]
        while count == _SCRATCH_SIZE:
            count = _lib.BIO_read(bio, buffer, _SCRATCH_SIZE)
            if count > 0:
                data += self._content[:count]
        return data

    def raise_error(self, result: int) -> None:
        """Have pyOpenSSL raise what a failed call left behind, a callback's exception included."""
        internals: Any = self._connection
        internals._raise_ssl_error(self._ssl, result)

    def renew_bios(self) -> None:
        """Replace the memory BIOs, which never shrink; what they hold goes over."""
        incoming = self._drain(self._into_ssl)
        outgoing = self._drain(self._from_ssl)
        fresh_in = _lib.BIO_new(_lib.BIO_s_mem())
        fresh_out = _lib.BIO_new(_lib.BIO_s_mem())
        if _ffi.NULL in (fresh_in, fresh_out):
            raise MemoryError("BIO_new")
        _lib.SSL_set_bio(self._ssl, fresh_in, fresh_out)  # frees the old ones
        internals: Any = self._connection
        internals._into_ssl = self._into_ssl = fresh_in
        internals._from_ssl = self._from_ssl = fresh_out
        for bio, data in ((fresh_in, incoming), (fresh_out, outgoing)):
            if data and _lib.BIO_write(bio, data, len(data)) != len(data):
                raise MemoryError("BIO_write")
