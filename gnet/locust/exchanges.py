"""`Client`: a request is sent, its answer read and judged, and the time between recorded.

Theory of operation. `Client.exchange` is the one way to make a request. Its time begins just before the send
and ends when the answer was read; making the message, judging the answer and telling Locust are outside. No
method here raises what the network or the server does: a failure is an event, and is in the response, so that
the task goes on.

What may leave the answers out of step with the requests (a timeout, an end, more than was asked for, a kill)
drops the connection. The next request makes a new one. So does one that finds that something has come since
the last answer: it would be taken for its own.
"""

from __future__ import annotations

from fcntl import ioctl
from termios import FIONREAD
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import gevent

from gnet.deadlines import NO_LIMIT, to_milliseconds
from gnet.errors import BusyError, TimeoutError
from gnet.locust.answers import UnexpectedDataError, limited, shown_bytes
from gnet.locust.connected import ConnectedClient
from gnet.locust.framing import raise_end
from gnet.locust.misuse import refuse
from gnet.locust.responses import CONTROL_FLOW, Response, ResponseContextManager
from gnet.locust.timeouts import ExpiredError, RequestTimeout
from gnet.writing import as_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from locust.env import Environment

    from gnet.deadlines import Timeout
    from gnet.locust.answers import Expect
    from gnet.locust.connections import Terms
    from gnet.locust.events import Recorder
    from gnet.locust.users import ConnectedUser
    from gnet.sockets import Socket

__all__ = ["Client", "read_what_is_here", "to_seconds"]

# What FIONREAD (tty_ioctl(4)) gives for a socket on which nothing has come: 0, as an int of the system's.
_NOTHING: Final = bytes(4)

# A request that follows its predecessor sooner does not look whether something has come meanwhile, which is
# 1 µs of work: users that ask without a pause would pay for it, and see next to nothing.
_GAP_SECONDS: Final = 0.01
_LONG_AGO: Final = float("-inf")


class Client(ConnectedClient):
    """A client that waits for the answer to each request; see the module."""

    def __init__(
        self, terms: Terms, recorder: Recorder, environment: Environment, user: ConnectedUser | None = None
    ) -> None:
        """Make a client that is not connected yet; users do."""
        super().__init__(terms, recorder, environment, user)
        self._timer = RequestTimeout()
        self._seconds = to_seconds(terms.timeout)
        self._per_request = terms.policy == "per_request"
        self._fd = -1  # of the connection
        self._read_at = _LONG_AGO  # when the last answer was read, or the connection made

    def close(self) -> None:
        """Close the connection. The next request makes a new one."""
        self._timer.close()
        super().close()

    # ------------------------------------------------------------------ without a request

    def send(self, data: bytes, *, name: str = "send", timeout: Timeout = None) -> bool:
        """Send without waiting for an answer. Nothing is recorded unless it fails.

        Args:
            data: as it goes out; a `LineClient` adds the line end, a `FramedClient` the length.
            name: the row of a failure.
        Returns:
            Whether it was sent.
        """
        data = self._encoded(data)

        def send(socket: Socket) -> bytes:
            socket.send(data)
            return b""

        return self._aside(send, name, timeout, can_repeat=False).exception is None

    def read_line(self, *, name: str = "read_line", timeout: Timeout = None) -> bytes:
        """Read a line that no request waits for, such as a greeting. Nothing is recorded unless it fails.

        Returns:
            The line, `b"\\r\\n"` if it is blank, `b""` if none came: as `Socket.read_line`.
        """

        def read(socket: Socket) -> bytes:
            line = socket.read_line()
            if not line:
                raise_end(socket, "a line")
            return line

        return self._aside(read, name, timeout).data

    def recv(self, size: int, *, name: str = "recv", timeout: Timeout = None) -> bytes:
        """Receive `size` bytes. Nothing is recorded unless it fails.

        Returns:
            The bytes; `b""` if they did not come.
        """
        return self._aside(_reader_of(size), name, timeout).data

    def _aside(
        self, do: Callable[[Socket], bytes], name: str, timeout: Timeout, can_repeat: bool = True
    ) -> Response:
        """Do what is no request."""
        return self.exchange(None, do, name, timeout=timeout, is_request=False, can_repeat=can_repeat)

    # ------------------------------------------------------------------ requests

    def exchange(
        self,
        data: bytes | None,
        read: Callable[[Socket], bytes],
        name: str,
        expect: Expect = None,
        catch_response: bool = False,
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
        is_request: bool = True,
        can_repeat: bool = False,
    ) -> Response:
        """Send `data`, read the answer, judge it and record all that as one request.

        Args:
            data: as it goes out; `None`: nothing does.
            read: reads the answer from the socket; the time that counts ends when it returns.
            expect: what the answer is to be: see `LineClient.request`, as for the others.
            is_request: if not, only a failure is recorded, and what comes behind the answer may be there.
            can_repeat: whether `read`, when it was cut short, can be called again, and gives the whole answer
                then: after a timeout this shows whether the answer has come and just was not looked at yet.
        """
        if expect is not None and type(expect) is not bytes:
            self._check_expect(expect)
        socket = self._socket
        sent = perf_counter()
        if socket is None or sent - self._read_at > _GAP_SECONDS:
            ready = self._ready_socket(name, data is not None)
            if isinstance(ready, Exception):
                return self._unsent(ready, name, catch_response)
            socket = ready
            sent = perf_counter()
        timer = self._timer
        if timer.due:
            raise self._busy(name)
        seconds = self._seconds if timeout is None else to_seconds(to_milliseconds(timeout))
        started = sent
        user = self._user
        if user is not None and user.intended_start is not None and is_request:
            started = self._intended(started)
        timer.begin(sent, seconds)
        try:
            if data is not None:
                socket.send(data)
            answer = read(socket)
            self._read_at = now = perf_counter()
            milliseconds = (now - started) * 1000
            timer.due = 0.0
        except BaseException as error:
            milliseconds = (perf_counter() - started) * 1000
            timer.due = 0.0
            here = read_what_is_here(socket, read) if can_repeat and isinstance(error, ExpiredError) else None
            if here is None:
                failure = self._failure(error, socket, seconds)
                if failure is None:
                    raise
                failed = Response(name, b"", milliseconds, failure)
                if isinstance(error, gevent.Timeout):
                    self._record(failed, context)
                    raise
                return self._done(failed, catch_response, context)
            answer = here
            milliseconds = (perf_counter() - started) * 1000
        response = Response(name, answer, milliseconds, None)
        if not is_request:
            if socket.has_data_buffered():
                self._read_at = _LONG_AGO
            return response
        if answer != expect and expect is not None:
            try:
                response.exception = self._judge(expect, answer)
            except BaseException:  # the user ends, or its task: the server has answered all the same
                self._done(response, False, context)
                raise
        if socket.has_data_buffered():
            surplus = self._too_much(socket)
            response.exception = response.exception or surplus
        return self._done(response, catch_response, context)

    def _ready_socket(self, name: str, is_asking: bool = True) -> Socket | Exception:
        """Give the connection for a request, or why there is none.

        Args:
            is_asking: something is to be sent: what is here already is no answer to it.
        """
        socket = self._socket
        if socket is None:
            return self._open()
        if not is_asking:
            return socket
        try:
            has_more = socket.has_data_buffered() or ioctl(self._fd, FIONREAD, _NOTHING) != _NOTHING
        except OSError:  # somebody has closed it, which the request will tell
            return socket
        if has_more:
            if self._timer.due:
                raise self._busy(name)  # it is the answer to another's request
            if self._terms.drop_after_timeout and self._took_stray(socket, name):
                return self._open()
        return socket

    def _took_stray(self, socket: Socket, name: str) -> bool:
        """Drop a connection on which something came that no request had asked for, and record that."""
        try:
            stray = socket.peek(1000, timeout=0)
        except OSError:  # TLS has read what is no data; or the connection is broken: the request will tell
            return False
        if not stray:
            return False  # the end: the same
        self._record_stray(stray, name)
        self._drop(socket)
        return True

    def _record_stray(self, stray: bytes, name: str) -> None:
        text = f"no request waited for {shown_bytes(stray)}"
        error = UnexpectedDataError(limited(text, "no request waited for what came"))
        self._record(Response(name, stray, 0.0, error), None)

    def _connected(self, socket: Socket) -> None:
        self._fd = socket.fileno()
        self._read_at = perf_counter()

    def _busy(self, name: str) -> BusyError:
        return BusyError(f"{name}: another greenlet waits for an answer to this client's request")

    def _done(self, response: Response, catch_response: bool, context: Mapping[str, Any] | None) -> Response:
        """Record a request, or leave that to a `with` block."""
        if self._per_request:
            self.close()
        if catch_response:
            return ResponseContextManager(response, self._recorder, self.kind, context)
        self._record(response, context)
        return response

    def _failure(self, error: BaseException, socket: Socket, seconds: float) -> Exception | None:
        """Drop the connection; give what a request failed with: `None` if `error` is no failure of it.

        A `gevent.Timeout` is somebody else's: the request has failed, and who called this raises it again.
        """
        if isinstance(error, ExpiredError):
            if self._terms.drop_after_timeout:
                self._drop(socket)
            return TimeoutError(f"{self.kind}: no answer within {seconds * 1000:g} ms")
        self._drop(socket)
        if isinstance(error, gevent.Timeout):
            return TimeoutError(f"{self.kind}: cut short by a gevent.Timeout of the task")
        if isinstance(error, CONTROL_FLOW) or not isinstance(error, Exception):
            return None
        return error.with_traceback(None)  # whose frames would hold the connection

    def _too_much(self, socket: Socket) -> Exception:
        """Drop the connection, on which more has come than was asked for; give the error."""
        rest = socket.peek(1000, timeout=0)
        self._drop(socket)
        text = f"more than one answer: {shown_bytes(rest)} came behind it"
        return UnexpectedDataError(limited(text, "more than one answer"))

    def _encoded(self, message: bytes) -> bytes:
        """Give a message as it goes out."""
        try:
            as_bytes(message, "request")
        except TypeError as error:
            refuse(self._environment, self._user, str(error))
        return message


def to_seconds(milliseconds: float) -> float:
    """Give a timeout in seconds; no limit as infinity."""
    return float("inf") if milliseconds == NO_LIMIT else milliseconds / 1000


def _reader_of(size: int) -> Callable[[Socket], bytes]:
    return lambda socket: socket.recv_exactly(size)


def read_what_is_here(socket: Socket, read: Callable[[Socket], bytes]) -> bytes | None:
    """Read the answer if it is here: it came in time, and this process was late to look."""
    socket.timeout = 0
    try:
        return read(socket)
    except Exception:
        return None
    finally:
        socket.timeout = NO_LIMIT
