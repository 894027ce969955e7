"""One TLS connection as a pure machine: bytes in, bytes out. No sockets, no waiting.

An engine is fed ciphertext and gives plaintext; it is given plaintext and gives ciphertext to send.
`PublicEngine` does so with pyOpenSSL's own methods; `FastEngine` with the calls below them. They
behave alike, which the tests of one run on the other.

The first error is the one that tells what happened; OpenSSL's answer to any call after it is empty.
So an engine keeps it and raises it again.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from OpenSSL import SSL

from gnet.errors import SslError, because, fresh_ssl_error
from gnet.tls import bindings
from gnet.tls.failures import ssl_error_from

__all__ = ["FastEngine", "PublicEngine", "new_engine"]

_LARGEST_RECORD: Final = 16384


class _State(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    FAILED = enum.auto()


class PublicEngine:
    """A TLS connection on pyOpenSSL's public calls."""

    __slots__ = ("_failure", "_no_more", "_sent_close", "_state", "connection", "has_failed", "is_open")

    def __init__(self, connection: SSL.Connection) -> None:
        """Take over a connection with memory BIOs, in connect or accept state."""
        self.connection = connection
        self.is_open = False
        """The handshake is complete, and nothing has failed since."""
        self.has_failed = False
        """All calls raise what it failed with."""
        self._state = _State.HANDSHAKE
        self._failure: SslError | None = None
        self._sent_close = False
        self._no_more = False  # the end of the ciphertext was fed

    # ------------------------------------------------------------------ the life of a connection

    def handshake(self) -> bool:
        """Go on with the handshake; True if it is complete, False if it needs more input.

        Raises:
            SslError: it failed. What `take` gives then is the alert for the peer.
        """
        if self._state is _State.OPEN:
            return True
        if self._failure is not None:
            raise self._again()
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        except Exception as error:
            raise because(self._fail(error, "handshake"), error)
        self._enter(_State.OPEN)
        return True

    def shutdown(self) -> None:
        """Put close_notify into the output, once, if the connection is in a state for it."""
        if self._sent_close or self._state is not _State.OPEN:
            return
        self._sent_close = True
        try:
            self.connection.shutdown()
        except SSL.Error:
            bindings.drain_errors()

    # ------------------------------------------------------------------ plaintext

    def read(self, size: int) -> bytes | None:
        """Decrypt up to `size` bytes; `b""` after the peer's close_notify; `None`: needs more input.

        Raises:
            SslError: a bad record, or the ciphertext ended without a close_notify.
        """
        if self._failure is not None:
            raise self._again()
        try:
            return self.connection.recv(min(size, _LARGEST_RECORD))
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""
        except Exception as error:
            raise because(self._fail(error, "read"), error)

    def write(self, data: bytes | memoryview) -> int:
        """Encrypt the start of `data` into one record; give how many bytes; 0: needs input first."""
        if self._failure is not None:
            raise self._again()
        try:
            return self.connection.send(data[:_LARGEST_RECORD])
        except SSL.WantReadError:
            return 0
        except Exception as error:
            raise because(self._fail(error, "write"), error)

    # ------------------------------------------------------------------ ciphertext

    def feed(self, ciphertext: bytes) -> None:
        """Add ciphertext that arrived."""
        view = memoryview(ciphertext)
        while len(view):
            fed = self.connection.bio_write(bytes(view))
            view = view[fed:]

    def feed_eof(self) -> None:
        """Note that no more ciphertext will come."""
        self._no_more = True
        self.connection.bio_shutdown()

    def take(self) -> bytes:
        """Take the ciphertext that is to be sent, `b""` if there is none."""
        parts = []
        while True:
            try:
                parts.append(self.connection.bio_read(65536))
            except SSL.WantReadError:
                return b"".join(parts)

    def renew(self) -> None:
        """Give back memory after a burst, if both directions are at rest."""

    def give_up(self, error: SslError) -> None:
        """Fail for a reason that OpenSSL does not know."""
        self._enter(_State.FAILED)
        self._failure = fresh_ssl_error(error)

    # ------------------------------------------------------------------ inside

    def _enter(self, state: _State) -> None:
        self._state = state
        self.is_open = state is _State.OPEN  # an attribute: each read and each write asks
        self.has_failed = state is _State.FAILED

    def _fail(self, error: Exception, operation: str) -> SslError:
        self._enter(_State.FAILED)
        failure = ssl_error_from(error, operation, self.connection)
        if failure is not error:
            failure.__cause__ = error.with_traceback(None)  # kept: no frames, which hold this engine
        bindings.drain_errors()
        self._failure = fresh_ssl_error(failure)
        return failure

    def _again(self) -> SslError:
        assert self._failure is not None
        return fresh_ssl_error(self._failure)


class FastEngine(PublicEngine):
    """The same on the calls below pyOpenSSL."""

    __slots__ = ("_calls",)

    def __init__(self, connection: SSL.Connection) -> None:
        super().__init__(connection)
        self._calls: Any = bindings.RawCalls(connection)  # Any: tests put a double in its place

    def read(self, size: int) -> bytes | None:
        if self._failure is not None:
            raise self._again()
        data: bytes | int | None = self._calls.read(size)
        if type(data) is int:
            error = self._error_of(data)
            data = self._calls.read(size)
            if type(data) is int:
                raise because(self._fail(error, "read"), error)
        return data  # type: ignore[return-value]  # no int is left

    def write(self, data: bytes | memoryview) -> int:
        if self._failure is not None:
            raise self._again()
        count: int | None = self._calls.write(
            data if len(data) <= _LARGEST_RECORD else memoryview(data)[:_LARGEST_RECORD]
        )
        if count is not None and count <= 0:
            error = self._error_of(count)
            count = self._calls.write(data[:_LARGEST_RECORD])
            if count is not None and count <= 0:
                raise because(self._fail(error, "write"), error)
        return count or 0

    def feed(self, ciphertext: bytes) -> None:
        self._calls.feed(ciphertext)

    def take(self) -> bytes:
        ciphertext: bytes = self._calls.take()
        return ciphertext

    def renew(self) -> None:
        if not self._no_more:  # a new BIO would not know it
            self._calls.renew_bios()

    def _error_of(self, result: int) -> Exception:
        """Give what a failed call left behind, and empty OpenSSL's error queue.

        The queue is the thread's: what another connection left there can be taken for this one's
        failure. So the call is made once more, and a connection that is well answers then.
        """
        try:
            self._calls.raise_error(result)
        except Exception as error:
            return error.with_traceback(None)
        finally:
            bindings.drain_errors()
        return SSL.Error([])


def new_engine(connection: SSL.Connection) -> PublicEngine:
    """Give the fastest engine that works with this pyOpenSSL."""
    return FastEngine(connection) if bindings.raw_calls_work() else PublicEngine(connection)
