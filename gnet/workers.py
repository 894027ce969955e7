"""The supervisor of several worker processes that share listening sockets.

It has no hub and serves nobody: it starts workers, listens to what they say (`gnet.serving.channels`), and
replaces them. It works the same whether workers are programs of their own or forks.

Theory of operation. A worker is STARTING until it says that it accepts; READY; LEAVING once it was told to
end. There are to be so many that are not LEAVING. One that dies is started again, later and later if it dies
at once. A reload replaces the workers one after another: a new one is started, and only when it is ready an
old one is told to leave. The listening sockets are open all the time, so connections that no worker has
accepted yet are served by those that stay. A new worker that does not get ready ends the reload; the old ones
stay. A worker that somebody sends SIGTERM asks for the same: it is replaced and then leaves.

In the end the kernel is told to complete no more connections (`listen(0)`), and the workers accept all that
is queued before they drain. What systemd has opened is systemd's: its queue is for the next start.
"""

from __future__ import annotations

import enum
import logging
import os
import select
import signal
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from gevent.monkey import get_original

from gnet.serving.binding import stop_listening
from gnet.serving.channels import Channel, channel_pair
from gnet.serving.notify import notify_ready, notify_reloading, notify_stopping
from gnet.serving.statistics import counters_of, sum_stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from gnet.serving.channels import Message
    from gnet.serving.launching import Launch
    from gnet.serving.shared import SharedListeners
    from gnet.serving.signals import Signals
    from gnet.serving.statistics import Stats

__all__ = ["SUPERVISOR_SIGNALS", "Supervisor", "WorkerError"]

_log = logging.getLogger("gnet.workers")

SUPERVISOR_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGCHLD,
)
"""What a supervisor takes over."""

# Seconds. For a worker to get ready; beyond its drain, to end; when it is to end at once.
_START_SECONDS: Final = 60.0
_MARGIN_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0

# A worker that dies younger than this dies at once. The next try comes after a pause, then after one twice as
# long, and so on.
_YOUNG_SECONDS: Final = 1.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0

# For workers to tell what they have counted; of one that does not, the last answer counts.
_STATS_SECONDS: Final = 1.0

# In a patched process the modules' own ones wait in the hub, which must not exist here.
_poll: Final = get_original("select", "poll")
_waitpid: Final = get_original("os", "waitpid")

_NEVER: Final = float("inf")


class WorkerError(OSError):
    """A worker of a supervisor that has just been started does not get ready; the message says why."""

    def __init__(self, why: str, kind: str = "") -> None:
        """Make one.

        Args:
            kind: the name of the error's class in the worker; "" if it told none.
        """
        super().__init__(why)
        self.kind = kind


class _State(enum.Enum):
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"


class _Worker:
    """A process and what the supervisor knows of it."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self.state = _State.STARTING
        self.started_at = time.monotonic()
        self.kill_at = self.started_at + _START_SECONDS
        self.why = ""  # it could not get ready
        self.kind = ""  # of the error that this was
        self.has_left = False  # it accepts no more
        self.stats: Stats = {}
        self.is_asked = False  # for its stats, without an answer yet

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.started_at


class Supervisor:
    """Keeps a number of workers running until it is told to stop."""

    def __init__(
        self,
        launch: Launch,
        count: int,
        shared: SharedListeners,
        signals: Signals,
        *,
        drain_timeout: float = 30_000,
        on_ready: Callable[[], object] = lambda: None,
    ) -> None:
        """Describe it; `run` starts the workers.

        Args:
            launch: starts a worker process.
            count: workers.
            shared: what the workers serve; closed when they drain.
            signals: entered, with `SUPERVISOR_SIGNALS`.
            drain_timeout: of the workers, in milliseconds; -1: no limit.
            on_ready: called once, when all workers accept connections.
        """
        self._launch = launch
        self._count = count
        self._shared = shared
        self._signals = signals
        self._patience = drain_timeout / 1000 + _MARGIN_SECONDS if drain_timeout >= 0 else _NEVER
        self._on_ready = on_ready
        self._workers: list[_Worker] = []
        self._is_ready = False
        self._is_stopping = False
        self._failure: WorkerError | None = None  # of the first workers
        self._pause = 0.0
        self._restarts: list[float] = []  # the moments at which to start a worker for one that died
        # A reload: who is to be replaced; who is now, and by whom.
        self._reloading = False
        self._reload_again = False
        self._to_replace: deque[_Worker] = deque()
        self._old: _Worker | None = None
        self._new: _Worker | None = None
        # Stats: who wants the sum, and until when answers are waited for.
        self._askers: list[_Worker] = []
        self._stats_by = _NEVER
        self._retired: Stats = {}  # the counters of workers that are gone

    def run(self) -> None:
        """Start the workers; return when they were told to stop and all are gone.

        Raises:
            WorkerError: one of the first workers did not get ready.
            OSError: the system lets this process start no other.
        """
        try:
            for _ in range(self._count):
                self._start()
            while self._workers or not self._is_stopping:
                self._wait()
                for number in self._signals.take():
                    self._on_signal(number)
                for worker in list(self._workers):
                    self._hear(worker)
                self._reap()
                self._look_at_the_clock()
        finally:
            for worker in self._workers:  # only after a mistake of ours
                _kill(worker)
                _waitpid(worker.pid, 0)
                worker.channel.close()
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------ the loop

    def _wait(self) -> None:
        moments = [self._stats_by, *self._restarts, *(worker.kill_at for worker in self._workers)]
        seconds = min(moments, default=_NEVER) - time.monotonic()
        poll = _poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        for worker in self._workers:
            if not worker.channel.ended:
                poll.register(worker.channel.fileno(), select.POLLIN)
        # Rounded up: no turns of the loop for a moment that has not come yet.
        poll.poll(None if seconds == _NEVER else max(0, int(seconds * 1000) + 1))

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.kill_at <= now:
                worker.kill_at = _NEVER
                how = "does not end"
                if worker.state is _State.STARTING:
                    how = worker.why = worker.why or f"was not ready within {_START_SECONDS:g} s"
                _log.warning("worker %d %s: killed", worker.pid, how)
                _kill(worker)
        due = [moment for moment in self._restarts if moment <= now]
        self._restarts = [moment for moment in self._restarts if moment > now]
        for _ in due:
            try:
                self._start()
            except OSError as error:
                self._start_later(f"a worker could not be started: {error.strerror}", True)
        if self._stats_by <= now:
            self._answer()

    def _on_signal(self, number: signal.Signals) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            if number is signal.SIGINT and self._is_stopping:
                self._close()
            else:
                self._stop()
        elif number is signal.SIGHUP:
            self._reload()
        elif number is signal.SIGUSR1:
            for worker in self._workers:
                worker.channel.send("show")

    def _hear(self, worker: _Worker) -> None:
        for message in worker.channel.take():
            self._on_message(worker, message)
        if worker.channel.ended:  # it is about to end; or else nothing can be told to it any more
            worker.kill_at = min(worker.kill_at, time.monotonic() + _MARGIN_SECONDS)

    def _on_message(self, worker: _Worker, message: Message) -> None:
        what = message["is"]
        if what == "ready":
            self._on_worker_ready(worker)
        elif what == "failed":
            worker.why, worker.kind = str(message["why"]), str(message.get("kind", ""))
        elif what == "left":
            worker.has_left = True
            self._end_reload()
        elif what == "asked to stop":
            if worker.state is _State.READY and not self._is_stopping:
                self._to_replace.append(worker)
                self._go_on_replacing()
        elif what == "stats":
            worker.stats = message["stats"]
            worker.is_asked = False
            self._answer_if_all_did()
        elif what == "total?":
            self._askers.append(worker)
            self._ask()

    # ------------------------------------------------------------------ workers that come and go

    def _start(self) -> _Worker:
        ours, theirs = channel_pair()
        try:
            worker = _Worker(self._launch(theirs, self._close_own), ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._workers.append(worker)
        return worker

    def _close_own(self) -> None:
        """In a fork: close what only the supervisor may have, or else nobody sees when it is gone."""
        self._signals.restore()
        for worker in self._workers:
            worker.channel.close()

    def _on_worker_ready(self, worker: _Worker) -> None:
        if worker.state is not _State.STARTING:
            return
        worker.state = _State.READY
        worker.kill_at = _NEVER
        if worker is self._new:
            old, self._old, self._new = self._old, None, None
            if old is not None:
                self._dismiss(old, "leave")
            self._go_on_replacing()
        if not self._is_ready and all(each.state is _State.READY for each in self._workers):
            self._is_ready = True
            self._on_ready()
            notify_ready()
            if self._reload_again:
                self._reload_again = False
                self._reload()

    def _dismiss(self, worker: _Worker, how: str, patience: float | None = None) -> None:
        """Tell a worker to end."""
        worker.channel.send(how)
        worker.state = _State.LEAVING
        worker.kill_at = time.monotonic() + (self._patience if patience is None else patience)

    def _reap(self) -> None:
        for worker in list(self._workers):
            try:
                pid, status = _waitpid(worker.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                pid, status = worker.pid, 0
            if pid:
                self._hear(worker)
                self._workers.remove(worker)
                worker.channel.close()
                self._on_end(worker, status)

    def _on_end(self, worker: _Worker, status: int) -> None:
        self._retired = sum_stats([self._retired, counters_of(worker.stats)])
        with suppress(ValueError):
            self._askers.remove(worker)
        self._answer_if_all_did()
        how = f": {worker.why}" if worker.why else f" {_how_it_ended(status)}"
        if worker.state is _State.STARTING and not worker.why:
            how += " before it was ready"
        if worker.state is _State.LEAVING or self._is_stopping:
            if status and self._failure is None:
                _log.warning("worker %d, which was to end%s%s", worker.pid, "" if worker.why else ",", how)
        elif not self._is_ready:
            self._fail(WorkerError(worker.why or f"a worker{how}", worker.kind))
        elif worker is self._new:
            self._give_up_reload(f"worker {worker.pid}{how}")
        elif worker is self._old:  # the new one takes its place already
            self._old = None
            _log.warning("worker %d%s", worker.pid, how)
        else:
            is_young = worker.age_seconds < _YOUNG_SECONDS or worker.state is _State.STARTING
            self._start_later(f"worker {worker.pid}{how}", is_young)
        self._end_reload()

    def _fail(self, why: WorkerError) -> None:
        """End before the beginning: one of the first workers can not get ready."""
        self._failure = why
        self._is_stopping = True
        for worker in self._workers:
            if worker.state is _State.STARTING:
                _kill(worker)  # it has not accepted anything
            else:
                self._dismiss(worker, "close", _CLOSE_SECONDS)

    def _start_later(self, why: str, is_young: bool) -> None:
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE) if is_young else 0.0
        when = f"in {self._pause:g} s" if self._pause else "now"
        _log.warning("%s; another one is started %s", why, when)
        self._restarts.append(time.monotonic() + self._pause)

    # ------------------------------------------------------------------ reloading

    def _reload(self) -> None:
        if self._is_stopping:
            return
        if self._reloading or not self._is_ready:
            self._reload_again = True  # once, however many signals come
            return
        self._reloading = True
        self._pause = 0.0
        notify_reloading()
        self._to_replace.extend(worker for worker in self._workers if worker.state is not _State.LEAVING)
        self._go_on_replacing()

    def _go_on_replacing(self) -> None:
        if self._new is not None or self._is_stopping:
            return
        while self._to_replace:
            old = self._to_replace.popleft()
            if old in self._workers and old.state is not _State.LEAVING:
                self._old = old
                try:
                    self._new = self._start()
                except OSError as error:
                    self._give_up_reload(f"a worker could not be started: {error.strerror}")
                return
        self._end_reload()

    def _give_up_reload(self, why: str) -> None:
        _log.error("reload: %s; the old workers stay in service", why)
        if self._old is None:
            self._start_later("the worker that it was to replace is gone", True)
        self._old = self._new = None
        self._to_replace.clear()
        self._end_reload()

    def _end_reload(self) -> None:
        """End the reload, if nobody who is to be replaced can still accept a connection."""
        if not self._reloading or self._is_stopping or self._new is not None or self._to_replace:
            return
        if any(worker.state is _State.LEAVING and not worker.has_left for worker in self._workers):
            return
        self._reloading = False
        notify_ready()
        if self._reload_again:
            self._reload_again = False
            self._reload()

    # ------------------------------------------------------------------ stopping

    def _stop(self) -> None:
        """Have all workers drain."""
        if self._is_stopping:
            return
        self._is_stopping = True
        notify_stopping()
        self._restarts.clear()
        self._to_replace.clear()
        self._old = self._new = None
        owns_queue = self._shared.owns_queue
        if owns_queue:
            for listener in self._shared.descriptors:
                stop_listening(listener)
        for worker in self._workers:
            if worker.state is not _State.LEAVING:
                self._dismiss(worker, "drain" if owns_queue else "leave")
        # Who comes when the workers have taken all that is queued, and closed theirs, is refused.
        self._shared.close()

    def _close(self) -> None:
        """Have all workers end at once."""
        for worker in self._workers:
            self._dismiss(worker, "close", _CLOSE_SECONDS)

    # ------------------------------------------------------------------ what the workers have counted

    def _ask(self) -> None:
        if self._stats_by < _NEVER:
            return  # this round's answer is for all who ask
        self._stats_by = time.monotonic() + _STATS_SECONDS
        for worker in self._workers:
            if worker.state is not _State.STARTING and not worker.is_asked:
                worker.is_asked = True
                worker.channel.send("stats?")

    def _answer_if_all_did(self) -> None:
        if self._askers and not any(each.is_asked for each in self._workers):
            self._answer()

    def _answer(self) -> None:
        self._stats_by = _NEVER
        total = sum_stats([self._retired, *(worker.stats for worker in self._workers)])
        askers, self._askers = self._askers, []
        for worker in askers:
            worker.channel.send("total", stats=total)


def _kill(worker: _Worker) -> None:
    with suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
