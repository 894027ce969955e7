"""What all clients have in common: one connection at a time, made when it is needed, and dropped in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, getcurrent

from gnet.errors import BusyError, ClosedError
from gnet.locust.answers import check_expect, judge
from gnet.locust.connections import Connector
from gnet.locust.misuse import refuse
from gnet.locust.responses import CONTROL_FLOW, Response, ResponseContextManager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from greenlet import greenlet
    from locust.env import Environment

    from gnet.locust.answers import Expect
    from gnet.locust.connections import Terms
    from gnet.locust.events import Recorder
    from gnet.locust.hosts import Target
    from gnet.locust.users import ConnectedUser
    from gnet.sockets import Socket

__all__ = ["ConnectedClient"]


class ConnectedClient:
    """A client of one user: its connection, and what it tells Locust."""

    kind = "RAW"
    """The type of the rows."""

    def __init__(
        self, terms: Terms, recorder: Recorder, environment: Environment, user: ConnectedUser | None = None
    ) -> None:
        """Make a client that is not connected yet; users do."""
        self._terms = terms
        self._recorder = recorder
        self._environment = environment
        self._user = user
        self._connector = Connector(terms, recorder, user)
        self._socket: Socket | None = None
        self._was_connected = False
        self._opener: greenlet | None = None  # who connects now, `on_connect` included
        self._on_connect: Callable[[], object] | None = user.on_connect if user is not None else None

    # ------------------------------------------------------------------ connections

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as the client has noticed."""
        return self._socket is not None

    @property
    def target(self) -> Target:
        """Where it connects to: `scheme`, `address` and `port` of the user's `host`."""
        return self._terms.target

    @property
    def socket(self) -> Socket | None:
        """The socket of the connection, for what the client does not offer."""
        return self._socket

    def connect(self) -> bool:
        """Connect if there is no connection, after the pause that follows a failure.

        Returns:
            Whether there is one now. If not, the failure is recorded.
        """
        return self._socket is not None or not isinstance(self._open(), Exception)

    def close(self) -> None:
        """Close the connection. The next request makes a new one."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close(timeout=0)

    def _open(self) -> Socket | Exception:
        """Give a new connection, or why there is none."""
        if self._opener is not None:
            if self._opener is getcurrent():
                return ClosedError("on_connect: the connection is gone")
            raise BusyError("another greenlet is connecting this client")
        if self._was_connected and not self._terms.reconnect:
            raise GreenletExit  # the user ends, with no more words
        self._opener = getcurrent()
        try:
            try:
                socket = self._socket = self._connector.connect()
            except OSError as error:
                self._was_connected = not self._terms.reconnect  # then: no further attempt
                return error.with_traceback(None)  # whose frames would hold what failed
            self._was_connected = self._terms.policy == "on_start"
            is_good = False
            try:
                self._connected(socket)
                if self._on_connect is not None:
                    self._on_connect()
                is_good = self._socket is socket
            finally:
                if is_good:
                    self._connector.succeeded()
                else:  # as with a connection that can not be made
                    self._connector.back_off()
        except OSError as error:  # of what `on_connect` did with the socket itself
            self.close()
            self._record(Response("on_connect", b"", 0.0, error.with_traceback(None)), None)
            return error
        except BaseException:
            self.close()
            raise
        finally:
            self._opener = None
        return socket if self._socket is socket else ClosedError("on_connect: the connection is gone")

    def _connected(self, socket: Socket) -> None:
        """Called with each new connection, before `on_connect`."""

    def _intended(self, now: float) -> float:
        """Give when a request was due: in an open loop the first of a task counts from then."""
        user = self._user
        if user is None or user.intended_start is None or self._opener is not None:
            return now
        intended, user.intended_start = user.intended_start, None
        return min(now, intended)

    def _drop(self, socket: Socket) -> None:
        """Give up a connection whose answers may be out of step."""
        if self._socket is socket:
            self._socket = None
        socket.close(timeout=0)

    def _record(self, response: Response, context: Mapping[str, Any] | None) -> None:
        self._recorder.record(
            self.kind,
            response.name,
            response.response_time,
            len(response.data),
            response.exception,
            response,
            context,
        )

    def _check_expect(self, expect: object) -> None:
        try:
            check_expect(expect)
        except TypeError as error:
            refuse(self._environment, self._user, str(error))

    def _judge(self, expect: Expect, answer: bytes) -> Exception | None:
        try:
            return judge(expect, answer)
        except CONTROL_FLOW:
            raise
        except Exception as error:  # of the user's callable: an assertion, often
            return error

    def _unsent(self, error: Exception, name: str, catch_response: bool) -> Response:
        """Give the response to a request for which there was no connection; the event is that one's."""
        response = Response(name, b"", 0.0, error)
        if catch_response:
            return ResponseContextManager(response, self._recorder, self.kind, None, is_sent=False)
        return response
