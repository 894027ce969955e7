"""`serve`: a server in the foreground of a process, which obeys signals; alone or as a worker of several."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import AsyncResult

from gnet.checks import check_int
from gnet.deadlines import to_milliseconds
from gnet.hubs import hub_exists
from gnet.server import Server
from gnet.serving.binding import stop_listening
from gnet.serving.blocking import HubWatch
from gnet.serving.inherited import inherited_listeners
from gnet.serving.inspection import write_connections
from gnet.serving.launching import WORKER_SIGNALS, fork_worker
from gnet.serving.listeners import check_place
from gnet.serving.notify import notify_ready, notify_reloading, notify_stopping
from gnet.serving.shared import SharedListeners, listening_name, listening_names
from gnet.serving.signals import Signals
from gnet.tls.contexts import SslContext
from gnet.workers import SUPERVISOR_SIGNALS, Supervisor, WorkerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gnet.serving.channels import Channel, Message
    from gnet.serving.statistics import Stats
    from gnet.sockets import Socket

__all__ = ["Service", "be_worker", "raise_descriptor_limit", "serve", "served_names"]

_log = logging.getLogger("gnet.server")

# Seconds that a supervisor may take to ask all workers for their stats; it gives up on one after one second.
_TOTAL_SECONDS: Final = 3.0

_READ: Final = 1  # an event of the loop's

# What `Server` raises for a wrong argument. A worker finds it out, as a supervisor has no hub to make one in.
_WRONG_ARGUMENTS: Final = {"TypeError": TypeError, "ValueError": ValueError}


def serve(
    handler: Callable[[Socket, str], object],
    address: str = "",
    port: int = 0,
    *,
    workers: int = 1,
    on_ready: Callable[[str], object] = lambda where: None,
    **server_arguments: Any,
) -> None:
    """Serve in the foreground until a signal says stop; return when that is done. In the main thread only.

    SIGTERM and SIGINT (Ctrl-C) drain: see `Server.stop`; a SIGINT during the drain ends it at once. SIGHUP
    reads the certificates again or, with several workers, replaces the workers one after another without
    losing a connection. SIGUSR1 writes the table of connections to standard error. The soft limit of
    descriptors is raised to the hard one. If systemd has opened sockets (LISTEN_FDS), they are served, and
    not `address`; it is told when the server is ready, reloads and stops (NOTIFY_SOCKET).

    Args:
        handler, address, port: as for `Server`.
        workers: processes that share the listening sockets, forked here and now. They share nothing else:
            `max_connections` and the other limits hold in each.
        on_ready: called with where it listens, as `127.0.0.1:7000`, when connections are accepted; with
            several workers in their parent, where it must not use gevent.
        server_arguments: the others of `Server`.
    Raises:
        OSError: with the address; or a worker did not get ready.
        RuntimeError: several workers, but a hub exists already (something has used gevent): a fork would
            take over its greenlets.
        TypeError, ValueError: as `Server`.
    """
    if check_int(workers, "serve: workers") < 1:
        raise ValueError(f"serve: workers: expected at least 1, got {workers}")
    if workers > 1 and hub_exists():
        raise RuntimeError(
            "serve: several workers are forked before gevent is used, but its hub exists already: "
            "something has slept, spawned or opened a socket"
        )
    numbers = SUPERVISOR_SIGNALS if workers > 1 else (*WORKER_SIGNALS, signal.SIGINT)
    with Signals(*numbers) as signals:
        raise_descriptor_limit()
        inherited = [] if server_arguments.get("listener") is not None else inherited_listeners()
        if workers > 1:
            _fork_workers(handler, address, port, workers, signals, inherited, on_ready, server_arguments)
            return
        if inherited:
            address, port = "", 0
            server_arguments.update(listener=inherited, unix_path=None)
        server = Server(handler, address, port, **server_arguments)
        unix_path = server_arguments.get("unix_path")
        Service(server, signals, owns_queue=not inherited).run(
            lambda: on_ready(", ".join(served_names(server, inherited, unix_path)))
        )


def served_names(
    server: Server, inherited: list[int], unix_path: str | bytes | os.PathLike[str] | None
) -> list[str]:
    """Give where a server listens that has started, as the command line says it."""
    if inherited:
        return listening_names(inherited)
    return [listening_name((server.address, server.port) if unix_path is None else os.fspath(unix_path))]


def _fork_workers(
    handler: Callable[[Socket, str], object],
    address: str,
    port: int,
    workers: int,
    signals: Signals,
    inherited: list[int],
    on_ready: Callable[[str], object],
    server_arguments: dict[str, Any],
) -> None:
    rest = dict(server_arguments)
    drain_timeout = to_milliseconds(rest.get("drain_timeout", 30_000))
    where = {name: rest.pop(name, None) for name in ("unix_path", "listener", "reuse_port")}
    if not inherited:
        check_place(address, port, where["unix_path"], where["listener"])
    context = rest.get("ssl_context")
    if isinstance(context, SslContext):
        rest["ssl_context"] = context.renewed  # so that a reload reads the files again
    with SharedListeners(
        address,
        port,
        unix_path=where["unix_path"],
        listener=inherited or where["listener"],
        reuse_port=bool(where["reuse_port"]),
        owns_queue=not inherited,
    ) as shared:

        def work(channel: Channel, signals: Signals) -> int:
            def make_server() -> Server:
                return Server(handler, listener=shared.descriptors, **rest)

            return be_worker(make_server, channel, signals, shared.descriptors)

        supervisor = Supervisor(
            fork_worker(work),
            workers,
            shared,
            signals,
            drain_timeout=drain_timeout,
            on_ready=lambda: on_ready(", ".join(shared.names)),
        )
        try:
            supervisor.run()
        except WorkerError as error:
            wrong = _WRONG_ARGUMENTS.get(error.kind)
            if wrong is None:
                raise
            raise wrong(str(error)) from None


def be_worker(
    make_server: Callable[[], Server],
    channel: Channel,
    signals: Signals,
    listeners: Sequence[int],
    metrics_listener: int | None = None,
) -> int:
    """Serve as one of several workers until the supervisor says stop; give the exit status.

    Args:
        make_server: makes the server of `listeners`. If it raises, the supervisor is told why.
        channel: to the supervisor.
        signals: entered, with `WORKER_SIGNALS`.
        listeners: the descriptors that all workers share.
        metrics_listener: where Prometheus asks, shared too.
    """
    try:
        raise_descriptor_limit()
        service = Service(
            make_server(), signals, channel=channel, shared=listeners, metrics_listener=metrics_listener
        )
        service.run()
    except (Exception, SystemExit) as error:
        text = (isinstance(error, OSError) and error.strerror) or str(error)
        is_plain = isinstance(error, (OSError, TypeError, ValueError))
        channel.send("failed", why=text if is_plain else repr(error), kind=type(error).__name__)
        return 2
    return 0


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # macOS refuses more than the kernel has, whatever the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Service:
    """A server that listens to signals, and to a supervisor if there is one."""

    def __init__(
        self,
        server: Server,
        signals: Signals,
        *,
        channel: Channel | None = None,
        shared: Sequence[int] = (),
        owns_queue: bool = True,
        metrics_listener: int | None = None,
    ) -> None:
        """Describe it; `run` does it.

        Args:
            server: not started yet.
            signals: entered.
            channel: to the supervisor whose worker this is.
            shared: in a worker: the descriptors of the listeners.
            owns_queue: the drain serves what is queued; False: that is for the next process.
            metrics_listener: the descriptor of a listening socket where Prometheus asks.
        """
        self._server = server
        self._signals = signals
        self._channel = channel
        self._shared = shared
        self._owns_queue = owns_queue
        self._metrics_listener = metrics_listener
        self._metrics: Server | None = None
        self._watchers: list[Any] = []  # of the signals and of the channel
        self._total: Any = None  # what metrics wait for

    def run(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve until it is told to stop, and drain.

        Args:
            on_ready: called when connections are accepted.
        Raises:
            OSError: it can not listen there.
        """
        loop: Any = gevent.get_hub().loop
        watchers = self._watchers = [loop.io(self._signals.fileno(), _READ)]
        if self._channel is not None:
            watchers.append(loop.io(self._channel.fileno(), _READ))
        try:
            with HubWatch():
                self._start_metrics()
                self._server.start()
                # From the next wait on, so that a signal which has come already drains what is queued.
                for watcher, callback in zip(watchers, (self._on_signals, self._on_messages), strict=False):
                    watcher.start(callback)
                on_ready()
                if self._channel is not None:
                    self._channel.send("ready")
                else:
                    notify_ready()
                self._server.serve_forever()
        finally:
            for watcher in watchers:
                watcher.stop()
                watcher.close()
            if self._metrics is not None:
                self._metrics.close()
        if self._channel is not None:
            self._channel.send("stats", stats=self._server.stats())

    def _start_metrics(self) -> None:
        if self._metrics_listener is None:
            return
        try:
            from gnet.serving.metrics import start_metrics_server
        except ImportError as error:  # its message says what to install
            raise ValueError(str(error)) from error
        self._metrics = start_metrics_server(self._collect, listener=[self._metrics_listener])

    # ------------------------------------------------------------------ signals

    def _on_signals(self) -> None:
        # In the hub, as all of these: nothing may wait.
        for number in self._signals.take():
            if number is signal.SIGUSR1:
                self._show_connections()
            elif self._channel is not None:
                if number is signal.SIGTERM:
                    self._channel.send("asked to stop")  # what is queued is the others': see gnet.workers
            elif number is signal.SIGHUP:
                gevent.spawn(self._reload_certificates)
            elif number is signal.SIGINT and self._server.draining:
                gevent.spawn(self._server.close)
            else:
                notify_stopping()
                self._stop(self._owns_queue)

    def _show_connections(self) -> None:
        if sys.stderr is None:  # it was closed when Python started
            return
        try:
            write_connections(self._server, sys.stderr)
        except Exception:  # out of here it would make this deaf to all signals that come later
            _log.exception("the table of connections could not be written")

    def _stop(self, accept_queued: bool) -> None:
        if self._metrics is not None:
            self._metrics.stop(accept_queued=False)
        self._server.stop(accept_queued=accept_queued)

    def _reload_certificates(self) -> None:
        if self._server.draining:
            return
        notify_reloading()
        try:
            self._server.reload_certificates()
            _log.info("the certificates were read again")
        except Exception as error:  # also what a callable of the user's raises
            _log.error("SIGHUP: %s; nothing is changed", error)
        if not self._server.draining:
            notify_ready()

    # ------------------------------------------------------------------ the supervisor

    def _on_messages(self) -> None:
        assert self._channel is not None
        for message in self._channel.take():
            self._on_message(message)
        if self._channel.ended:
            self._watchers[1].stop()  # which would see the end again and again
            # There is no supervisor any more, and so no reason to be a worker.
            _log.warning("worker %d: the supervisor is gone: draining", os.getpid())
            for descriptor in self._shared:
                stop_listening(descriptor)
            self._stop(True)

    def _on_message(self, message: Message) -> None:
        what = message["is"]
        if what == "drain":
            self._stop(True)
        elif what == "leave":
            self._stop(False)
            if self._channel is not None:
                self._channel.send("left")
        elif what == "close":
            gevent.spawn(self._server.close)
        elif what == "show":
            self._show_connections()
        elif what == "stats?":
            assert self._channel is not None
            self._channel.send("stats", stats=self._server.stats())
        elif what == "total" and self._total is not None:
            self._total.set(message["stats"])
            self._total = None

    def _collect(self) -> Stats:
        """Give the stats of all workers together."""
        if self._channel is None or self._channel.ended:
            return self._server.stats()
        if self._total is None:
            self._total = AsyncResult()
            self._channel.send("total?")
        total: Stats = self._total.get(timeout=_TOTAL_SECONDS)
        return total
