"""The deadlines of a server's connections, on one timer for all of them.

Theory of operation. A connection's reader and writer note in its `Watch` since when they wait. Nothing
else is done for a request. The watchdog looks at each connection once in every `_period`, the shortest of
the limits: a wait that begins after a look can not be over before the next one. If a look finds a wait that
will be over before the next one, it looks again right then. So a deadline is met to the millisecond, and
its cost is a look every 30 s.

Connections that are due in one period from now stand in a dict, which keeps the order in which they were put
there: that is the order in which they are due. The few that are due earlier stand in a heap instead.

When a deadline is over, whoever waits gets a `gnet.TimeoutError`, and so does every later call. But what
is in the kernel wins over time: then the wait goes on for `_GRACE` seconds, once.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import gevent

from gnet.errors import TimeoutError
from gnet.watching import Wait, Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenlet import greenlet

    from gnet.serving.clients import ClientSocket
    from gnet.serving.connections import Connection

__all__ = ["Watchdog"]

# Given to a greenlet whose deadline is over and for whom there is input: to take it.
_GRACE: Final = 0.02

_WHAT: Final = {
    Wait.FIRST_BYTE: "nothing came",
    Wait.LINE: "the line has no end",
    Wait.IDLE: "nothing came",
    Wait.WRITE: "the peer took nothing",
}

_NEVER: Final = float("inf")

_Over: TypeAlias = "tuple[Watch, Wait, greenlet, TimeoutError]"


class Watchdog:
    """Ends the waits of connections when their time is over."""

    def __init__(self, limits: Mapping[Wait, float], expired: dict[Wait, int]) -> None:
        """Make one; it does nothing before the first connection.

        Args:
            limits: seconds for each kind of wait; infinite: none.
            expired: counts what was ended, by kind.
        """
        self._limits = limits
        self._expired = expired
        self._period = min(limits.values())
        self._regular: dict[Connection, float] = {}
        self._early: list[tuple[float, int, Connection]] = []
        self._order = itertools.count()  # heapq compares it where two are due at once
        self._late: dict[Connection, tuple[Wait, float]] = {}  # who has its grace, for which wait
        self._timer: Any = None
        self._timer_due = _NEVER
        self._hub: Any = gevent.get_hub()
        self._loop: Any = self._hub.loop

    def add(self, connection: Connection, watch: Watch) -> None:
        """Watch a connection."""
        if self._period == _NEVER:
            return
        due = watch.started + self._period
        self._regular[connection] = due
        if due < self._timer_due:
            self._set_timer(due)

    def remove(self, connection: Connection) -> None:
        """Watch it no longer."""
        self._regular.pop(connection, None)
        if self._late:
            self._late.pop(connection, None)

    def close(self) -> None:
        """Watch nothing any more."""
        self._regular.clear()
        self._early.clear()
        self._late.clear()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    # ------------------------------------------------------------------ inside

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
        self._timer_due = due
        # Not counted as work of the loop: an idle server keeps no program alive by this.
        self._timer = self._loop.timer(max(0.0, due - monotonic()), ref=False)
        self._timer.start(self._look, update=True)

    def _look(self) -> None:
        # In the hub: nothing here may wait or raise.
        self._timer_due = _NEVER
        now = monotonic()
        due = []
        early = self._early
        while early and early[0][0] <= now:
            due.append(heapq.heappop(early)[2])
        for connection, when in self._regular.items():
            if when > now:
                break
            due.append(connection)
        over: list[_Over] = []
        for connection in due:
            client = connection.get_client()
            if client is None or client.closed:
                self.remove(connection)
            else:
                self._look_at(connection, client, now, over)
        next_due = early[0][0] if early else _NEVER
        for when in self._regular.values():
            next_due = min(next_due, when)
            break
        if next_due < _NEVER and next_due < self._timer_due:
            self._set_timer(next_due)
        # Last, as anything may happen in there.
        for watch, what, waiter, error in over:
            if waiter is not (watch.writes_waiter if what is Wait.WRITE else watch.reads_waiter):
                continue  # no more, by what the one before it did
            try:
                # As gevent.Timeout does it: whoever waits is where it can be interrupted.
                waiter.throw(error)
            except BaseException:  # it ended with that, and the hub was its parent
                self._hub.handle_error(waiter, *sys.exc_info())

    def _look_at(self, connection: Connection, client: ClientSocket, now: float, ended: list[_Over]) -> None:
        watch = client.watch
        over = _NEVER
        if watch.reads_waiter is not None:
            over = self._look_at_wait(connection, client, watch.reads_what, watch.reads_since, now, ended)
        if watch.writes_waiter is not None:
            over_writing = self._look_at_wait(connection, client, Wait.WRITE, watch.writes_since, now, ended)
            over = min(over, over_writing)
        # In one of the two: whoever stood in both would be looked at twice.
        self._regular.pop(connection, None)
        if over < now + self._period:
            heapq.heappush(self._early, (over, next(self._order), connection))
        else:
            self._regular[connection] = now + self._period

    def _look_at_wait(
        self,
        connection: Connection,
        client: ClientSocket,
        what: Wait,
        since: float,
        now: float,
        ended: list[_Over],
    ) -> float:
        """Have a wait ended if its time is over; give the moment of the next look at it."""
        over = since + self._limits[what]
        if over > now:
            return over
        if self._late.get(connection) != (what, since) and client.has_input_or_room(what):
            self._late[connection] = (what, since)
            return now + _GRACE
        self._late.pop(connection, None)
        if what is Wait.WRITE and client.watch.writes_go_on():
            return now + self._limits[what]
        self._expired[what] += 1
        limit = self._limits[what] * 1000
        watch: Watch = client.watch
        operation = watch.operation if what is not Wait.WRITE else "send"
        waiter = watch.writes_waiter if what is Wait.WRITE else watch.reads_waiter
        reason = f"{_WHAT[what]} within {limit:g} ms ({what.value}_timeout)"
        client.expire(what, TimeoutError(reason))
        if waiter is not None:
            way = "to" if what is Wait.WRITE else "from"
            error = TimeoutError(f"{operation} {way} {client.peer_name}: {reason}")
            ended.append((watch, what, waiter, error))
        return _NEVER
