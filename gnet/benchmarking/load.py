"""The load of one process: its connections, what is left to do, what came of it so far.

`connect` opens the connections, `run` has them work until all is done or `stop` was called. Two kinds:
`ClosedLoad`, in which each answer makes room for the next request, and `OpenLoad`, in which requests are due
at a rate and wait in line when the server falls behind: their latency is from when they were due. A closed
loop asks a server that stands still for nothing more, and so sees hardly anything of it (coordinated
omission).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event
from gevent.pool import Group, Pool

from gnet.benchmarking.alarms import Alarm
from gnet.benchmarking.connections import BatchConnection, Connection, PacedConnection
from gnet.benchmarking.failures import Failures, kind_of
from gnet.benchmarking.opening import Opener
from gnet.benchmarking.schedule import Schedule
from gnet.deadlines import NO_LIMIT
from gnet.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from gnet.benchmarking.plan import Plan

__all__ = ["ClosedLoad", "Load", "OpenLoad", "new_load"]

# Connections are made one after the other, so that the time of each is its own, and not that of a queue of
# handshakes, each of which takes a millisecond of this core and more of the server's. But after this many
# seconds, so many are made at once: thousands, or a server far away, must not take minutes.
_SINGLY_SECONDS: Final = 1.0
_OPENING: Final = 16

# Milliseconds after which a connection is tried again that could not be made, or that brought nothing;
# doubled up to the second.
_BACK_OFF: Final = (100, 2000)

# A run of so many requests ends when so many tries to connect have failed one after the other and this many
# milliseconds are over (or the timeout, if there is one).
_GIVE_UP_TRIES: Final = 3
_GIVE_UP_MS: Final = 10_000

# Milliseconds for answers that are on their way when the run ends, where requests have no timeout.
_LAST_ANSWERS_MS: Final = 10_000

_UNLIMITED: Final = 1 << 62


class Load(ABC):
    """What both kinds have in common: opening, failing, opening again, the end."""

    def __init__(self, plan: Plan) -> None:
        """Prepare; see `Opener` for what that raises."""
        self.plan = plan
        self.request = plan.line + b"\r\n"
        self.budget = 0
        """Requests that may still be begun; 0 before and after the run."""
        self.asked = 0
        self.failed = 0
        """Requests that were begun and got no answer, or a wrong one."""
        self.latencies = Histogram()
        self.connect_times = Histogram()
        self.tls_times = Histogram()
        """All in microseconds; those that have the right answer, and connections that were made."""
        self.failures = Failures()
        self.resumed = 0
        self.reconnects = 0
        self.began = 0
        """When the run began, in nanoseconds of `time.monotonic_ns`; 0: not yet."""
        self.stopped = 0
        """When it was said that nothing more is to be begun."""
        self._answered_at = 0  # when an answer last came on a connection that was lost
        self._answered_before = 0  # answers whose latencies were taken out
        self._opener = Opener(plan)
        self._connections: set[Any] = set()
        self._reopening = Group()
        self._last_success = 0  # when a connection was last there
        self._refusals = 0  # tries to connect that failed since one was made
        self._done = Event()

    # ------------------------------------------------------------------ what differs

    @abstractmethod
    def _new_connection(self) -> Connection:
        """Open a connection."""

    @abstractmethod
    def _start(self) -> None:
        """Have requests begun."""

    @abstractmethod
    def _take_in(self, connection: Any) -> None:
        """Have a connection that came in the middle take part."""

    # ------------------------------------------------------------------ the run

    def connect(self) -> None:
        """Open all connections: the first one alone, as it shows what is wrong with the server.

        Raises:
            OSError: the first one failed. Others that fail are counted, and tried again in the run.
        """
        try:
            self._connections.add(self._new_connection())
        except BaseException:
            self.close()
            raise
        began = time.monotonic()
        pool = Pool(_OPENING)
        for _ in range(self.plan.connections - 1):
            pool.spawn(self._open_at_first)
            if time.monotonic() - began < _SINGLY_SECONDS:
                pool.join()
        pool.join()

    def run(self, report: Callable[[], None]) -> None:
        """Have all requests made, call `report` at intervals, and wait for the answers."""
        gevent.get_hub().loop.update_now()  # or timers would count from when the loop last woke
        self.began = self._last_success = time.monotonic_ns()
        self.budget = _UNLIMITED if self.plan.requests is None else self.plan.requests
        helpers: list[Any] = [gevent.spawn(self._look_for_timeouts), gevent.spawn(self._report, report)]
        if self.plan.seconds is not None:
            patience = _LAST_ANSWERS_MS if self.plan.timeout == NO_LIMIT else None
            helpers.append(gevent.spawn_later(self.plan.seconds, self.stop, patience))
        for _ in range(self.plan.connections - len(self._connections)):
            self._open_again(_BACK_OFF[0])
        self._start()
        self._check_done()
        self._done.wait()
        last = max((each.answered_at for each in self._connections), default=0)
        self._answered_at = max(self._answered_at, last)
        self.stopped = self.stopped or self._answered_at or time.monotonic_ns()
        gevent.killall(helpers)
        self.close()

    def close(self) -> None:
        """Close all connections, and make no new ones. Idempotent; `run` does it in the end."""
        self._reopening.kill()
        for connection in list(self._connections):
            connection.close(timeout=100)

    def stop(self, patience: float | None = None) -> None:
        """Begin nothing more; what is on its way is waited for.

        Args:
            patience: for so many milliseconds; `None`: until it is here, or has its timeout.
        """
        self.stopped = self.stopped or time.monotonic_ns()
        self.budget = 0
        self._check_done()
        if patience is not None:
            gevent.spawn_later(patience / 1000, self._done.set)

    @property
    def elapsed(self) -> int:
        """How long requests were begun or answered, in nanoseconds; known when `run` is over."""
        return max(self.stopped, self._answered_at) - self.began

    @property
    def on_their_way(self) -> int:
        """Requests that were begun, and neither answered nor failed."""
        return self.asked - self._answered_before - self.latencies.count - self.failed

    def take_latencies(self) -> Histogram:
        """Give those since the last time."""
        taken, self.latencies = self.latencies, Histogram()
        self._answered_before += taken.count
        return taken

    def later(self, callback: Callable[[], object]) -> None:
        """Call from the loop, soon."""
        gevent.get_hub().loop.run_callback(callback)

    # ------------------------------------------------------------------ told by connections

    def lost(self, connection: Connection, kind: str, message: str, waiting: int) -> None:
        """Note that a connection has ended, with so many requests unanswered."""
        self._connections.discard(connection)
        if waiting:
            self.failed += waiting
            self.failures.note(kind, message, waiting)
        self._answered_at = max(self._answered_at, connection.answered_at)
        if self.began:  # else `run` opens what is missing
            if self.budget:
                self.reconnects += 1
                self._open_again(0 if connection.answered_at else _BACK_OFF[0])
            self._check_done()

    def _check_done(self) -> None:
        """End the run if nothing is to be begun any more and nothing is on its way."""
        if not self.budget and not self.on_their_way:
            self._done.set()

    # ------------------------------------------------------------------ opening

    def _opened(self) -> Any:
        opened = self._opener.open()
        self._refusals = 0
        self._last_success = time.monotonic_ns()
        if opened.connect_ns >= 0:
            self.connect_times.record((opened.connect_ns + 500) // 1000)
        if opened.tls_ns >= 0:
            self.tls_times.record((opened.tls_ns + 500) // 1000)
            self.resumed += opened.resumed
        return opened

    def _open_at_first(self) -> None:
        try:
            self._connections.add(self._new_connection())
        except OSError as error:
            self._note_refusal(error)

    def _open_again(self, pause: float) -> None:
        self._reopening.spawn(self._keep_opening, pause)

    def _keep_opening(self, pause: float) -> None:
        while True:
            if pause:
                gevent.sleep(pause / 1000)
            if not self.budget:
                return
            try:
                connection = self._new_connection()
            except OSError as error:
                self._note_refusal(error)
                pause = min(max(2 * pause, _BACK_OFF[0]), _BACK_OFF[1])
            else:
                self._connections.add(connection)
                self._take_in(connection)
                return

    def _note_refusal(self, error: OSError) -> None:
        self._refusals += 1
        self.failures.note(kind_of(error), str(getattr(error, "strerror", None) or error))

    # ------------------------------------------------------------------ beside the run

    def _look_for_timeouts(self) -> None:
        timeout = self.plan.timeout
        pause = 0.1 if timeout == NO_LIMIT else min(0.1, max(0.005, timeout / 10_000))
        give_up_after = (_GIVE_UP_MS if timeout == NO_LIMIT else timeout) * 1e6
        while True:
            gevent.sleep(pause)
            now = time.monotonic_ns()
            if timeout != NO_LIMIT:
                since = now - timeout * 1e6
                for connection in list(self._connections):
                    if not connection.closed and connection.waiting and connection.waits_since < since:
                        connection.fail("timeout", f"{self.plan.target}: no answer within {timeout:g} ms")
            if self._connections:
                self._last_success = now
            elif (
                self.plan.seconds is None
                and self._refusals >= _GIVE_UP_TRIES
                and now - self._last_success > give_up_after
            ):
                self.failures.note("given up", f"{self.plan.target}: no connection could be made any more")
                self.stop()

    def _report(self, report: Callable[[], None]) -> None:
        while True:
            gevent.sleep(self.plan.report_every)
            report()


class ClosedLoad(Load):
    """Each connection sends a batch, waits for its answers, and sends the next."""

    def _new_connection(self) -> BatchConnection:
        return BatchConnection(self, self._opened())

    def _start(self) -> None:
        for connection in list(self._connections):
            connection.ask()

    def _take_in(self, connection: BatchConnection) -> None:
        connection.ask()

    def rests(self) -> None:
        """Note that a connection has nothing more to do."""
        self._check_done()


class OpenLoad(Load):
    """Requests are due at a rate; whichever connection has room makes the next one."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        assert plan.rate is not None
        self._schedule = Schedule(plan.rate, plan.offset)
        self._free: deque[PacedConnection] = deque()
        self._begun = 0
        self._limit = _UNLIMITED  # requests that are ever due
        if plan.seconds is not None:
            self._limit = self._schedule.due_before(plan.seconds)
        if plan.requests is not None:
            self._limit = plan.requests
        self._alarm = Alarm(self._begin_due)
        self._alarm_for = -1  # the request that it is set for

    @property
    def unsent(self) -> int:
        """Requests that were due, and never begun: the server was too far behind."""
        return max(0, min(self._schedule.due(self.stopped - self.began), self._limit) - self._begun)

    def has_room(self, connection: PacedConnection, had_room: bool) -> None:
        """Note that a connection can take more again."""
        if not had_room and not connection.closed:
            self._free.append(connection)
        self._begin_due()
        self._check_done()

    def lost(self, connection: Connection, kind: str, message: str, waiting: int) -> None:
        if connection in self._free:
            self._free.remove(connection)  # type: ignore[arg-type]  # it is one of ours
        super().lost(connection, kind, message, waiting)

    def close(self) -> None:
        self._alarm.close()
        super().close()

    def stop(self, patience: float | None = None) -> None:
        if self.budget:
            self._begin_due()  # what was due before the end, and has room
        super().stop(patience)

    def _new_connection(self) -> PacedConnection:
        return PacedConnection(self, self._opened())

    def _start(self) -> None:
        self._free.extend(self._connections)
        self._begin_due()

    def _take_in(self, connection: PacedConnection) -> None:
        self._free.append(connection)
        self._begin_due()

    def _begin_due(self) -> None:
        """Begin what is due, as far as connections have room, and be called again when more is."""
        free = self._free
        due = min(self._schedule.due(time.monotonic_ns() - self.began), self._limit)
        while self.budget and self._begun < due and free:
            connection = free.popleft()
            count = min(connection.room, due - self._begun, self.budget)
            # A fair share each, where many are due at once.
            count = max(1, min(count, -(-(due - self._begun) // (len(free) + 1))))
            numbers = range(self._begun, self._begun + count)
            moments = [self.began + self._schedule.moment(number) for number in numbers]
            self._begun += count
            self.budget -= count
            connection.ask(moments)
            if connection.room:
                free.append(connection)
        if self.budget and due <= self._begun < self._limit and self._alarm_for != self._begun:
            self._alarm_for = self._begun
            self._alarm.set(self.began + self._schedule.moment(self._begun))


def new_load(plan: Plan) -> ClosedLoad | OpenLoad:
    """Make the load that a plan asks for."""
    return ClosedLoad(plan) if plan.rate is None else OpenLoad(plan)
