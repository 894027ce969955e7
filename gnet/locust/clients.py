"""The clients of raw bytes and of datagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gnet.locust.exchanges import Client
from gnet.locust.framing import raise_end
from gnet.locust.misuse import refuse
from gnet.locust.pipelines import PipelineClient, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gnet.deadlines import Timeout
    from gnet.locust.answers import Expect
    from gnet.locust.responses import PipelineResponse, Response
    from gnet.sockets import Socket

__all__ = ["DatagramClient", "SocketClient"]

_LARGEST_DATAGRAM: Final = 65535


class SocketClient(PipelineClient):
    """Raw bytes: the request says where its answer ends."""

    def request(
        self,
        data: bytes,
        *,
        size: int | None = None,
        until: bytes | None = None,
        read: Callable[[Socket], bytes] | None = None,
        expect: Expect = None,
        name: str = "request",
        catch_response: bool = False,
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send bytes and read the answer.

        Args:
            size: the answer has so many bytes.
            until: it ends with this (and includes it).
            read: it is what this gives for the `gnet.Socket`. Without one of the three: whatever comes first.
            expect, name, catch_response, timeout, context: as in `LineClient.request`.
        """
        return self.exchange(
            self._encoded(data),
            _reader(size, until) if read is None else read,
            name,
            expect,
            catch_response,
            timeout,
            context,
            can_repeat=read is None,
        )

    def pipeline(
        self,
        messages: Sequence[bytes],
        *,
        size: int | None = None,
        until: bytes | None = None,
        read: Callable[[Socket], bytes] | None = None,
        expect: Expect | Sequence[Expect] = None,
        name: str = "request",
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
    ) -> PipelineResponse:
        """Send messages at once and read as many answers, each by `size`, `until` or `read`.

        Args:
            expect, name, timeout, context: as in `LineClient.pipeline`.
        """
        if size is None and until is None and read is None:
            refuse(
                self._environment,
                self._user,
                "pipeline: say where an answer ends: pass size, until or read",
            )
        again = _reader(size, until) if read is None else None
        return self._pipeline(
            messages,
            b"".join(map(self._encoded, messages)),
            one_by_one(again or read or _read_some),
            again,
            expect,
            name,
            timeout,
            context,
        )


class DatagramClient(Client):
    """Datagrams over UDP: each is one request. One without an answer in time is lost, and a failure."""

    kind = "UDP"

    def request(
        self,
        data: bytes,
        *,
        expect: Expect = None,
        name: str = "request",
        catch_response: bool = False,
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send a datagram and receive the one that answers it.

        After a loss the next request has a socket of its own, so that an answer that is late is not
        taken for its. One that comes when no request waits is a failure. Other arguments as in
        `LineClient.request`.
        """
        if self._socket is not None:
            self._take_strays(self._socket, name)
        return self.exchange(
            self._encoded(data),
            _read_datagram,
            name,
            expect,
            catch_response,
            timeout,
            context,
            can_repeat=True,
        )

    def _take_strays(self, socket: Socket, name: str) -> None:
        """Record datagrams that came since the last answer: they are not the next one's."""
        while True:
            try:
                stray = socket.recv(_LARGEST_DATAGRAM, timeout=0)
            except OSError:
                return
            self._record_stray(stray, name)

    def recv(self, size: int = _LARGEST_DATAGRAM, *, name: str = "recv", timeout: Timeout = None) -> bytes:
        """Receive one datagram of at most `size` bytes. Nothing is recorded unless none comes."""

        def read(socket: Socket) -> bytes:
            return socket.recv(size)

        return self._aside(read, name, timeout).data

    def read_line(self, *, name: str = "read_line", timeout: Timeout = None) -> bytes:
        """Datagrams have no lines.

        Raises:
            TypeError: always.
        """
        raise TypeError("read_line: datagrams have no lines; use recv")


def _read_some(socket: Socket) -> bytes:
    data = socket.recv_some(65536)
    if not data:
        raise_end(socket, "an answer")
    return data


def _reader(size: int | None, until: bytes | None) -> Callable[[Socket], bytes]:
    """Give what reads an answer of `size` bytes, or one that ends with `until`, or whatever comes first."""
    if size is not None:
        return lambda socket: socket.recv_exactly(size)
    if until is not None:
        return lambda socket: socket.recv_until(until)
    return _read_some


def _read_datagram(socket: Socket) -> bytes:
    return socket.recv(_LARGEST_DATAGRAM)
