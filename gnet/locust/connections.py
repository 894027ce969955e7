"""A user's connections: made when they are needed, each step an event of its own.

`CONNECT` is the time of the look-up of the name and the TCP connection, `TLS` that of the handshake; one that
resumed a session has a row of its own. An attempt that fails is one failure, and the next one waits: 0.1 s,
and twice as long after each further one, up to 5 s; so does one after an `on_connect` that failed. UDP has no
connection: only a failure to get a socket is an event there.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

import gevent
from gevent import GreenletExit, getcurrent
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from gnet.dialing import dial
from gnet.options import (
    AF_UNIX,
    IPPROTO_IP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_STREAM,
    SslHandshakeType,
)
from gnet.sockets import Socket, new_socket
from gnet.tls.bindings import session_reused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from locust import User

    from gnet.locust.events import Recorder
    from gnet.locust.hosts import Target
    from gnet.tls.contexts import SslContext

__all__ = ["ConnectPolicy", "Connector", "Terms", "pause"]

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0

ConnectPolicy = Literal["on_start", "per_task", "per_request"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user says about its connections, checked."""

    target: Target
    timeout: float
    """Milliseconds, for connecting and for each request; -1: no limit."""
    policy: ConnectPolicy = "on_start"
    reconnect: bool = True
    drop_after_timeout: bool = True
    ssl_context_of: Callable[[], SslContext] | None = None
    """Gives the context for a connection; `None`: there is no TLS."""
    sources: Iterator[str] | None = None
    """Addresses to connect from, in turn; shared by the users of a class."""


class Connector:
    """Makes the connections of one user."""

    def __init__(self, terms: Terms, recorder: Recorder, user: User | None = None) -> None:
        self._terms = terms
        self._recorder = recorder
        self._user = user
        self._pause_seconds = 0.0
        self._not_before = 0.0  # by perf_counter: the next attempt waits until then

    def connect(self) -> Socket:
        """Connect, and make the TLS handshake.

        Raises:
            OSError: it failed, and that is recorded.
        """
        wait = self._not_before - perf_counter()
        if wait > 0:
            pause(self._user, wait)
        context_of = self._terms.ssl_context_of
        context = context_of() if context_of is not None else None  # first: it may take a while
        socket = self._connect()
        if context is not None:
            self._over_tls(socket, context)
        socket.timeout = -1  # the client has a timer of its own
        return socket

    def succeeded(self) -> None:
        """Note that a connection was good: the next one need not wait."""
        self._pause_seconds = 0.0

    def back_off(self) -> None:
        """Have the next attempt wait."""
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS) or _FIRST_PAUSE_SECONDS
        self._not_before = perf_counter() + self._pause_seconds

    def _connect(self) -> Socket:
        terms = self._terms
        target = terms.target
        started = perf_counter()
        try:
            if target.scheme == "unix":
                socket = new_socket(AF_UNIX, SOCK_STREAM, IPPROTO_IP)
                try:
                    socket.connect_unix(target.address, terms.timeout)
                except BaseException:
                    socket.close(timeout=0)
                    raise
            else:
                socket = dial(
                    target.address,
                    target.port,
                    IPPROTO_UDP if target.scheme == "udp" else IPPROTO_TCP,
                    timeout=terms.timeout,
                    source=(next(terms.sources), 0) if terms.sources is not None else None,
                )
        except OSError as error:
            failure = _with_hint(error, has_sources=terms.sources is not None)
            self._failed("CONNECT", started, failure)
            raise failure from error.__cause__
        except gevent.Timeout as error:  # somebody else's, and cuts this short
            self._failed("CONNECT", started, error)
            raise
        if target.scheme != "udp":
            self._recorder.record("CONNECT", target.name, (perf_counter() - started) * 1000, 0)
        return socket

    def _over_tls(self, socket: Socket, context: SslContext) -> None:
        terms = self._terms
        started = perf_counter()
        try:
            context.wrap_connected_socket(
                socket, SslHandshakeType.AS_CLIENT, terms.target.address, timeout=terms.timeout
            )
        except (OSError, gevent.Timeout) as error:
            socket.close(timeout=0)
            self._failed("TLS", started, error)
            raise
        except BaseException:
            socket.close(timeout=0)
            raise
        milliseconds = (perf_counter() - started) * 1000
        # The one costs a multiple of the other, on both sides.
        row = f"{terms.target.name} resumed" if session_reused(socket.ssl_handle) else terms.target.name
        self._recorder.record("TLS", row, milliseconds, 0)

    def _failed(self, kind: str, started: float, error: BaseException) -> None:
        milliseconds = (perf_counter() - started) * 1000
        self.back_off()
        self._recorder.record(kind, self._terms.target.name, milliseconds, 0, error)


def _with_hint(error: OSError, *, has_sources: bool) -> OSError:
    """Give an error of connecting with what can be done about it, where the system's words say nothing."""
    if error.errno not in (errno.EADDRNOTAVAIL, errno.EADDRINUSE):
        return error
    if has_sources:
        hint = "is it an address of this machine, and are there ports left of it?"
    else:
        hint = "no local port is left for this server: use source_addresses, or make fewer connections anew"
    return OSError(error.errno, f"{error.strerror} ({hint})")


def pause(user: User | None, seconds: float) -> None:
    """Sleep in a task, and end at once when the user is stopped.

    Locust lets a task that runs go on to its end (`--stop-timeout`), but a user that waits between two tasks
    is stopped at once. This wait is of that kind.
    """
    if user is None or getcurrent() is not user.greenlet:
        gevent.sleep(seconds)
        return
    if user._state == LOCUST_STATE_STOPPING:
        raise GreenletExit
    before = user._state
    user._state = LOCUST_STATE_WAITING
    try:
        gevent.sleep(seconds)
    finally:
        if user._state == LOCUST_STATE_WAITING:
            user._state = before or LOCUST_STATE_RUNNING
