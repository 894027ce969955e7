"""A client whose answers come when they come: a reader in the background matches them to requests by a key.

Theory of operation. `send` notes a `Pending` under its key; the reader takes each message that comes, asks
the user for its key and settles the oldest one that waits for it. What nobody waits for is a push. One that
is not settled within the timeout is lost, and a failure. A connection that ends or breaks fails all that
wait. Each of them is one request in the figures, whether somebody waits for it in `request` or not.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import getcurrent
from gevent.event import Event

from gnet.deadlines import NO_LIMIT
from gnet.errors import ClosedError, TimeoutError
from gnet.locust.connected import ConnectedClient
from gnet.locust.misuse import refuse
from gnet.locust.responses import Response, ResponseContextManager

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from locust.env import Environment

    from gnet.locust.answers import Expect
    from gnet.locust.connections import Terms
    from gnet.locust.events import Recorder
    from gnet.locust.framing import Framing
    from gnet.locust.users import ConnectedUser
    from gnet.sockets import Socket

__all__ = ["Pending", "StreamClient"]

_log: Final = logging.getLogger(__name__)


class Pending:
    """A message that is to come."""

    __slots__ = (
        "_context",
        "_deferred",
        "_due",
        "_expect",
        "_settled",
        "_started",
        "key",
        "name",
        "response",
    )

    def __init__(
        self,
        key: Hashable,
        name: str,
        started: float,
        due: float,
        expect: Expect,
        context: Mapping[str, Any] | None,
        deferred: bool,
    ) -> None:
        """For `StreamClient`."""
        self.key = key
        self.name = name
        """The row that it counts in."""
        self.response: Response | None = None
        """What came of it, when that is known."""
        self._started = started
        self._due = due
        self._expect = expect
        self._context = context
        self._deferred = deferred  # somebody else records it
        self._settled: Event | None = None  # made by the first who waits

    def wait(self) -> Response:
        """Wait until it came, is lost or has failed: not longer than its timeout."""
        if self.response is None:
            if self._settled is None:
                self._settled = Event()
            self._settled.wait()
        assert self.response is not None
        return self.response


class StreamClient(ConnectedClient):
    """A client of requests and pushes with keys; see the module."""

    kind = "STREAM"

    def __init__(
        self,
        terms: Terms,
        recorder: Recorder,
        environment: Environment,
        user: ConnectedUser | None = None,
        *,
        framing: Framing,
        key_of: Callable[[bytes], Hashable | None],
        on_push: Callable[[bytes], object],
    ) -> None:
        """Make a client that is not connected yet; users do."""
        super().__init__(terms, recorder, environment, user)
        self._framing = framing
        self._key_of = key_of
        self._on_push = on_push
        self._reader: gevent.Greenlet[..., None] | None = None
        self._pending: dict[Hashable, deque[Pending]] = {}  # by key, the oldest first
        self._order: deque[Pending] = deque()  # those and ones that are settled, by when they are due
        self._timer: Any = None  # runs while anything is in `_order`

    # ------------------------------------------------------------------ what users call

    def request(
        self,
        message: bytes,
        key: Hashable,
        *,
        expect: Expect = None,
        name: str = "request",
        catch_response: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send a message and wait for the one with a key. Arguments: see `send` and `LineClient.request`."""
        pending = self._send(message, key, name, expect, context, deferred=catch_response)
        if isinstance(pending, Exception):
            return self._unsent(pending, name, catch_response)
        try:
            response = pending.wait()
        except BaseException:  # somebody's timeout: there will be no `with` block that records it
            pending._deferred = False
            if pending.response is not None:
                self._record(pending.response, context)
            raise
        if catch_response:
            return ResponseContextManager(response, self._recorder, self.kind, context)
        return response

    def send(
        self,
        message: bytes,
        key: Hashable | None = None,
        *,
        expect: Expect = None,
        name: str = "request",
        context: Mapping[str, Any] | None = None,
    ) -> Pending | None:
        """Send a message, and go on.

        Args:
            message: without its line end or length, which is added.
            key: of the message that is to come for it; `None`: none is, and nothing is recorded.
            expect: what that message is to be; see `LineClient.request`.
            name: the row.
        Returns:
            What is to come; `None` if nothing is, or there is no connection.
        """
        if key is None:
            self._send_only(message, name)
            return None
        pending = self._send(message, key, name, expect, context, deferred=False)
        return None if isinstance(pending, Exception) else pending

    def expect(
        self,
        key: Hashable,
        *,
        expect: Expect = None,
        name: str = "push",
        since: float | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Pending:
        """Note that a message with a key is to come, for which this client sends nothing.

        Args:
            since: when its time begins, by `time.perf_counter`: when another client sends what it is
                for; now unless given.
        """
        return self._note(key, name, perf_counter() if since is None else since, expect, context, False)

    def settle(self) -> None:
        """Wait until all that is to come has come, or is lost."""
        for pending in list(self._order):
            pending.wait()

    def close(self) -> None:
        """Close the connection. What was still to come is forgotten: neither an answer nor lost."""
        reader, self._reader = self._reader, None
        super().close()
        if reader is not None and reader is not getcurrent():
            reader.kill(block=False)
        forgotten = [pending for pending in self._order if pending.response is None]
        self._order.clear()
        self._pending.clear()
        self._stop_timer()
        for pending in forgotten:
            pending._deferred = True
            self._settle(pending, b"", perf_counter(), ClosedError("the client was closed"))

    # ------------------------------------------------------------------ sending

    def _send(
        self,
        message: bytes,
        key: Hashable,
        name: str,
        expect: Expect,
        context: Mapping[str, Any] | None,
        deferred: bool,
    ) -> Pending | Exception:
        """Send a message to which an answer is to come."""
        if expect is not None and type(expect) is not bytes:
            self._check_expect(expect)
        data = self._encoded(message)
        socket = self._socket or self._open()
        if isinstance(socket, Exception):
            return socket
        pending = self._note(key, name, self._intended(perf_counter()), expect, context, deferred)
        try:
            socket.send(data, timeout=self._terms.timeout)
        except OSError as error:
            self._lost(socket, error)
        except BaseException:
            self._forget(pending)
            self._lost(socket, ClosedError("a send was cut short"))
            raise
        return pending

    def _send_only(self, message: bytes, name: str) -> None:
        data = self._encoded(message)
        socket = self._socket or self._open()
        if isinstance(socket, Exception):
            return
        started = perf_counter()
        try:
            socket.send(data, timeout=self._terms.timeout)
        except OSError as error:
            milliseconds = (perf_counter() - started) * 1000
            self._record(Response(name, b"", milliseconds, error.with_traceback(None)), None)
            self._lost(socket, error)
        except BaseException:
            self._lost(socket, ClosedError("a send was cut short"))
            raise

    def _encoded(self, message: bytes) -> bytes:
        try:
            return self._framing.encode(message)
        except (TypeError, ValueError) as error:
            refuse(self._environment, self._user, str(error))

    # ------------------------------------------------------------------ what is to come

    def _note(
        self,
        key: Hashable,
        name: str,
        started: float,
        expect: Expect,
        context: Mapping[str, Any] | None,
        deferred: bool,
    ) -> Pending:
        timeout = self._terms.timeout
        now = perf_counter()
        due = float("inf") if timeout == NO_LIMIT else now + timeout / 1000
        pending = Pending(key, name, started, due, expect, context, deferred)
        self._pending.setdefault(key, deque()).append(pending)
        self._order.append(pending)
        if self._timer is None and timeout != NO_LIMIT:
            self._start_timer(due - now)
        return pending

    def _settle(self, pending: Pending, data: bytes, now: float, error: Exception | None) -> None:
        """Note what came of a message that was to come."""
        if error is None:
            error = self._judge(pending._expect, data)
        pending.response = Response(pending.name, data, (now - pending._started) * 1000, error)
        if not pending._deferred:
            self._record(pending.response, pending._context)
        if pending._settled is not None:
            pending._settled.set()

    def _forget(self, pending: Pending) -> None:
        """Wait for it no longer under its key."""
        waiting = self._pending.get(pending.key)
        if waiting is not None and pending in waiting:
            waiting.remove(pending)
            if not waiting:
                del self._pending[pending.key]

    def _start_timer(self, seconds: float) -> None:
        self._timer = gevent.get_hub().loop.timer(max(0.0, seconds), ref=False)
        # In a greenlet of its own: listeners of Locust's event may wait.
        self._timer.start(gevent.spawn, self._look_for_losses, update=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _look_for_losses(self) -> None:
        self._stop_timer()
        now = perf_counter()
        order = self._order
        while order and (order[0].response is not None or order[0]._due <= now):
            pending = order.popleft()
            if pending.response is None:
                self._forget(pending)
                limit = self._terms.timeout
                self._settle(
                    pending, b"", now, TimeoutError(f"{self.kind}: lost: nothing within {limit:g} ms")
                )
        if order and self._timer is None:
            self._start_timer(order[0]._due - perf_counter())

    # ------------------------------------------------------------------ the reader

    def _connected(self, socket: Socket) -> None:
        self._reader = gevent.spawn(self._read, socket)

    def _read(self, socket: Socket) -> None:
        """Read messages until the connection ends."""
        read = self._framing.read
        while True:
            try:
                message = read(socket)
            except OSError as error:
                self._lost(socket, error)
                return
            now = perf_counter()
            try:
                self._arrived(message, now)
            except Exception as error:  # a mistake in the user's methods: as Locust has it in a task
                _log.error("%s\n%s", error, traceback.format_exc())
                hooks: Any = self._environment.events
                hooks.user_error.fire(user_instance=self._user, exception=error, tb=error.__traceback__)

    def _arrived(self, message: bytes, now: float) -> None:
        key = self._key_of(message)
        waiting = self._pending.get(key)
        if waiting is None:
            self._on_push(message)
            return
        pending = waiting.popleft()
        if not waiting:
            del self._pending[key]
        self._settle(pending, message, now, None)
        order = self._order
        while order and order[0].response is not None:
            order.popleft()

    def _lost(self, socket: Socket, error: OSError) -> None:
        """Fail all that is to come over a connection that is gone."""
        if self._socket is not socket:
            return  # it was closed here, or this was noted already
        now = perf_counter()
        reader, self._reader = self._reader, None
        self._drop(socket)
        if reader is not None and reader is not getcurrent():
            reader.kill(block=False)
        error.with_traceback(None)  # whose frames would hold what failed
        waiting = [pending for pending in self._order if pending.response is None]
        self._order.clear()
        self._pending.clear()
        self._stop_timer()
        for pending in waiting:
            self._settle(pending, b"", now, error)
        if not waiting:  # else a push that is missed would not show
            self._record(Response("connection", b"", 0.0, error), None)
