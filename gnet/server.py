"""`Server`: accept connections and hand each to a handler, within limits, until it is told to drain.

The life of a server is one way, NEW → SERVING → DRAINING → STOPPED, and is here. Who is let in is in
`gnet.serving.admission`, the life of a connection in `gnet.serving.connections`, its deadlines in
`gnet.serving.watchdog`, the sockets that listen in `gnet.serving.listeners`.
"""

from __future__ import annotations

import enum
import os
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import gevent
from gevent.event import Event

from gnet.deadlines import Deadline, Timeout, to_milliseconds
from gnet.errors import raise_named
from gnet.options import Port
from gnet.serving.admission import Acceptor, Admission, Limits
from gnet.serving.arguments import (
    check_limit,
    check_milliseconds,
    check_overflow,
    check_positive,
    check_proxies,
    limit_of_connections,
)
from gnet.serving.connections import FIRST_BYTE_IN_DRAIN, Terms
from gnet.serving.inspection import ConnectionInfo, describe_connection
from gnet.serving.listeners import Listener, check_place, open_listeners
from gnet.serving.logs import PeerLog
from gnet.serving.statistics import Statistics, Stats
from gnet.serving.watchdog import Watchdog
from gnet.sockets import Socket
from gnet.tls.contexts import SslContext
from gnet.watching import Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from gnet.proxy_protocol import ProxyVersions

__all__ = ["Server"]

# In a drain: seconds for connections that the kernel is just opening, until the listener is closed.
_LAST_HANDSHAKES: Final = 0.02

# After a drain: seconds for handlers that were killed.
_KILL_SECONDS: Final = 1.0


class _State(enum.Enum):
    NEW = "new"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class Server:
    """Serves connections, each with a greenlet of its own that runs `handler(client, address)`."""

    def __init__(
        self,
        handler: Callable[[Socket, str], object],
        address: str = "",
        port: int = 0,
        *,
        unix_path: str | os.PathLike[str] | None = None,
        listener: Any = None,
        ssl_context: SslContext | Callable[[], SslContext] | None = None,
        pool_size: int | None = None,
        max_connections: int | None = None,
        max_per_address: int | None = None,
        max_handshakes: int = 256,
        overflow: Literal["backlog", "reset"] | bytes = "backlog",
        handshake_timeout: Timeout = 10_000,
        first_byte_timeout: Timeout = 30_000,
        line_timeout: Timeout = 60_000,
        idle_timeout: Timeout = 300_000,
        write_timeout: Timeout = 60_000,
        drain_timeout: Timeout = 30_000,
        proxy_protocol: ProxyVersions | None = None,
        proxy_trusted: Iterable[str] = (),
        reuse_port: bool = False,
        coalesce: bool = True,
    ) -> None:
        """Describe a server; `start` or `serve_forever` open it.

        Args:
            handler: called with a `Socket` and the client's address, in a greenlet of its own. When it
                returns, what it sent is flushed and the connection ends.
            address: an IP address or a name; `""`: every address of this machine, IPv4 and IPv6.
            port: 0: one that is free; see `Server.port`.
            unix_path: listen there instead.
            listener: a listening socket (of gnet, gevent or the stdlib) to take over instead.
            ssl_context: speak TLS; or a callable that makes one, which `reload_certificates` calls again.
            pool_size: handlers that run at once; `None`: `max_connections`.
            max_connections: `None`: 80 % of the descriptors that the process may have, at most 10,000.
            max_per_address: connections from one IPv4 address or IPv6 /64; `None`: no such limit.
            max_handshakes: TLS handshakes and PROXY headers at once; they take no place of the pool.
            overflow: over the limits: `"backlog"`: clients wait in the kernel's queue; `"reset"`; or bytes
                to send before the end, such as `b"-ERR busy\\r\\n"` (on a TLS port: a reset).
            handshake_timeout: for the PROXY header and the TLS handshake.
            first_byte_timeout: until the client has sent something.
            line_timeout: from a line's first byte to its end.
            idle_timeout: between lines, and of each wait of other reads.
            write_timeout: without progress.
            drain_timeout: for the handlers, once the server is to stop.
            proxy_protocol: expect a PROXY header of this version.
            proxy_trusted: networks that may send one, such as `"10.0.0.0/8"`; others are refused.
            reuse_port: SO_REUSEPORT.
            coalesce: see `Socket.coalesce`.

        All timeouts are milliseconds or `timedelta`; -1: no limit. They hold while the handler waits in a
        read or a write of its client; then that call raises `gnet.TimeoutError`, and so does each after it.

        Raises:
            TypeError, ValueError: before anything is opened.
        """
        if not callable(handler):
            raise TypeError(f"Server: handler: expected a callable, got {type(handler).__name__}")
        self._where = (address, Port(port), unix_path, listener)
        is_local = check_place(address, port, unix_path, listener)
        context, self._make_context = _context_and_its_maker(ssl_context)
        most = limit_of_connections(max_connections)
        limits = Limits(
            max_connections=most,
            pool_size=most if pool_size is None else check_positive(pool_size, "pool_size"),
            max_per_address=(
                None if max_per_address is None else check_positive(max_per_address, "max_per_address")
            ),
            max_handshakes=check_positive(max_handshakes, "max_handshakes"),
            overflow=check_overflow(overflow),
            proxy_trusted=check_proxies(proxy_protocol, proxy_trusted, is_local),
        )
        self._drain_timeout = check_milliseconds(drain_timeout, "drain_timeout")
        waits = {
            Wait.FIRST_BYTE: check_limit(first_byte_timeout, "first_byte_timeout"),
            Wait.LINE: check_limit(line_timeout, "line_timeout"),
            Wait.IDLE: check_limit(idle_timeout, "idle_timeout"),
            Wait.WRITE: check_limit(write_timeout, "write_timeout"),
        }
        seconds = {what: ms / 1000 if ms >= 0 else float("inf") for what, ms in waits.items()}
        self._reuse_port = reuse_port

        statistics = Statistics()
        self._terms = Terms(
            handler=handler,
            ssl_context=context,
            handshake_timeout=check_limit(handshake_timeout, "handshake_timeout"),
            proxy_protocol=proxy_protocol,
            coalesce=coalesce,
            statistics=statistics,
            watchdog=Watchdog(seconds, statistics.timeouts),
            log_peer=PeerLog(),
        )
        self._admission = Admission(self._terms, limits)
        self._acceptor = Acceptor(self._admission)
        self._state = _State.NEW
        self._listeners: list[Listener] = []
        self._stopped = Event()
        self._drainer: gevent.Greenlet[..., None] | None = None

    # ------------------------------------------------------------------ what users see

    @property
    def address(self) -> str:
        """The address it listens on; the path of a Unix one."""
        return self._listeners[0].address if self._listeners else str(self._where[2] or self._where[0])

    @property
    def port(self) -> int:
        """The port it listens on, once started; 0 for a Unix one."""
        return self._listeners[0].port if self._listeners else self._where[1]

    @property
    def draining(self) -> bool:
        """Whether it was told to stop: time to say goodbye."""
        return self._admission.draining

    def stats(self) -> Stats:
        """Give the counters and the state of now, as a dict of the caller's own.

        The keys stay the same; `gnet.serving.statistics` says what each means.
        Only growing: accepted, rejected (by reason), handshakes, handshake_failures (by reason),
        proxy_failures, timeouts (by kind), handler_errors, peer_errors, bytes_in, bytes_out, lines_in,
        lines_out, accept_errors, aborted, drain_resets.
        Of now: active, peak, pool_size, pool_used, waiting_for_slot, starting, accept_queue and
        accept_queue_limit (`None` where the system does not tell), draining (0 or 1).
        """
        admission = self._admission
        return self._terms.statistics.snapshot(
            [connection.watch for connection in admission.connections.values()],
            self._listeners,
            active=len(admission.connections),
            pool_size=admission.limits.pool_size,
            pool_used=admission.running,
            waiting_for_slot=len(admission.slot_queue),
            starting=admission.starting,
            draining=self.draining,
        )

    def connections(self, limit: int | None = None) -> list[ConnectionInfo]:
        """Say what each connection is doing, the oldest first.

        Args:
            limit: at most so many. Each costs some 7 µs, in which nobody else runs.
        """
        return [describe_connection(each) for each in islice(self._admission.connections.values(), limit)]

    def __repr__(self) -> str:
        where = ", ".join(listener.name for listener in self._listeners) or "no listener"
        return f"<gnet.Server {self._state.value} on {where}, {len(self._admission.connections)} connections>"

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Open the listeners and accept from now on, in greenlets of its own. Idempotent while it serves.

        Raises:
            OSError: with the address. RuntimeError: it was stopped; a server is not started twice.
        """
        if self._state is _State.SERVING:
            return
        if self._state is not _State.NEW:
            raise RuntimeError("Server: it was stopped; make another one")
        address, port, unix_path, listener = self._where
        self._listeners = open_listeners(address, port, unix_path, listener, self._reuse_port)
        try:
            self._acceptor.start(self._listeners)
        except OSError as error:
            name = self._listeners[0].name
            self._close_listeners()
            self._listeners = []
            raise_named(OSError(error.errno, error.strerror), f"listen on {name}")
        self._state = _State.SERVING

    def serve_forever(self) -> None:
        """Start, if that is not done, and return when it has been stopped and drained.

        Raises:
            KeyboardInterrupt: Ctrl-C, in the main thread; the server is closed then.
        """
        if self._state is _State.STOPPED:
            return
        try:
            if self._state is _State.NEW:
                self.start()
            self._stopped.wait()
        except BaseException:
            self.close()
            raise

    def stop(self, timeout: Timeout = None, *, accept_queued: bool = True) -> None:
        """Drain and stop: accept no more, let handlers finish, and wait for that.

        From inside a handler it does not wait. Idempotent; a shorter timeout than before shortens the drain.

        Args:
            timeout: milliseconds or `timedelta`; `None`: the server's `drain_timeout`. What is not
                finished then is reset.
            accept_queued: serve the connections that wait in the kernel's queue, too; `False`: leave
                them to the other processes that have the listening socket.
        """
        limit = self._drain_timeout if timeout is None else to_milliseconds(timeout)
        if self._state is _State.NEW:
            self._finish()
        if self._state is _State.STOPPED:
            return
        if self._drainer is None:
            self._state = _State.DRAINING
            self._admission.draining = True
            if not accept_queued:
                self._close_listeners()
            self._drainer = gevent.spawn(self._drain, limit)
        elif timeout is not None and limit >= 0:
            self._admission.later(limit / 1000, self._cut_short)
        current = gevent.getcurrent()
        if current is gevent.get_hub() or any(
            each.greenlet is current for each in self._admission.connections.values()
        ):
            return
        self._stopped.wait()

    def close(self) -> None:
        """Stop at once: close the listeners and reset the connections. Idempotent."""
        if self._state is _State.STOPPED:
            return
        self._state = _State.DRAINING
        self._admission.draining = True
        self._close_listeners()
        current = gevent.getcurrent()
        for connection in list(self._admission.connections.values()):
            if connection.greenlet is not current:
                connection.reset()
        self._finish()

    def _finish(self) -> None:
        self._state = _State.STOPPED
        self._close_listeners()
        self._admission.close()
        self._acceptor.close()
        self._stopped.set()

    def _close_listeners(self) -> None:
        self._acceptor.stop()
        for listener in self._listeners:
            listener.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.stop()
        else:
            self.close()

    # ------------------------------------------------------------------ draining

    def _drain(self, limit: float) -> None:
        deadline = Deadline(limit)
        try:
            deadline.arm()
            # First those that are served: who is queued may wait for their places.
            for connection in list(self._admission.connections.values()):
                connection.drain()
            self._admission.later(FIRST_BYTE_IN_DRAIN, self._end_silent)
            if self._acceptor.greenlets:
                for listener in self._listeners:
                    listener.stop_taking()
                gevent.sleep(_LAST_HANDSHAKES)
                self._acceptor.finish(self._listeners)
                self._close_listeners()  # who comes now is refused, and does not wait for nothing
            self._admission.wait_for_none()
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
        finally:
            deadline.close()
        self._close_listeners()
        self._reset_all()
        gevent.with_timeout(_KILL_SECONDS, self._admission.wait_for_none, timeout_value=None)
        self._finish()

    def _end_silent(self) -> None:
        for connection in list(self._admission.connections.values()):
            connection.end_silent()

    def _cut_short(self) -> None:
        self._close_listeners()
        self._reset_all()

    def _reset_all(self) -> None:
        for connection in list(self._admission.connections.values()):
            if not connection.is_released:
                self._terms.statistics.drain_resets += 1
                connection.reset()

    # ------------------------------------------------------------------ certificates

    def reload_certificates(self) -> None:
        """Read the files of the context again; connections that live keep the old one.

        Raises:
            SslError: a file can not be used: the old context stays in service.
            ValueError: the server does not speak TLS.
        """
        make = self._make_context
        if make is None:
            raise ValueError("reload_certificates: this server does not speak TLS")
        fresh = _made_context(make)
        self._terms.ssl_context = fresh
        if isinstance(getattr(make, "__self__", None), SslContext):
            self._make_context = fresh.renewed  # and not that of the one before it


def _made_context(make: Callable[[], SslContext]) -> SslContext:
    context = make()
    if not isinstance(context, SslContext):
        raise TypeError(f"Server: ssl_context: the callable gave {type(context).__name__}, no SslContext")
    return context


def _context_and_its_maker(given: Any) -> tuple[SslContext | None, Callable[[], SslContext] | None]:
    """Give the context that an argument means, and what makes another one for a reload."""
    if given is None:
        return None, None
    if isinstance(given, SslContext):
        return given, given.renewed
    if callable(given):
        return _made_context(given), given
    raise TypeError(f"Server: ssl_context: expected an SslContext, got {type(given).__name__}")
