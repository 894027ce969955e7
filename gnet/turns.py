"""Several greenlets on one socket, each waiting for one whole thing: a connection, a datagram, room."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

import gevent
from gevent.event import Event

from gnet.errors import because, closed_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from gnet.deadlines import Deadline
    from gnet.transports import Transport

__all__ = ["Turn", "Turns"]

# Things given in a row without a visit to the loop. A visit costs 1 to 2 µs, an accept 10 and more.
_FAIR_SHARE: Final = 64

_T = TypeVar("_T")


class Turn:
    """A lock that is handed over in the order in which greenlets asked for it.

    gevent's semaphore is not: who releases it and asks again at once has it before those that wait.
    """

    __slots__ = ("_waiting", "held")

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self.held = False
        """Somebody has it, or waits for it."""

    def acquire(self) -> None:
        """Take it, waiting until it is handed over."""
        if not self.held:
            self.held = True
            return
        mine = Event()
        self._waiting.append(mine)
        try:
            mine.wait()
        except BaseException:
            if mine.is_set():  # it was handed over, to be given up at once
                self.release()
            else:
                self._waiting.remove(mine)
            raise

    def release(self) -> None:
        """Hand it over to who has waited longest."""
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self.held = False


class Turns:
    """Gives each of several waiting greenlets one whole thing, in the order they came."""

    __slots__ = ("_since_visit", "_transport", "_turn", "_wait")

    def __init__(self, transport: Transport, wait: Callable[[], None]) -> None:
        """Take turns at `wait`, which is the transport's wait for one direction."""
        self._transport = transport
        self._wait = wait
        self._turn: Turn | None = None  # made by the first wait
        self._since_visit = 0  # things given without a wait

    def take(self, attempt: Callable[[], _T | None], deadline: Deadline, operation: str) -> _T:
        """Call `attempt`, waiting before each further call, until it gives something.

        Nothing is lost whatever interrupts this: `attempt` takes a thing and this returns it
        without a switch in between.

        Args:
            attempt: never waits; gives `None` if nothing is there.
            deadline: stays the caller's, to close. Of 0 ms: one attempt.
            operation: what to call it in errors, e.g. `accept on 127.0.0.1:80`.
        Raises:
            TimeoutError, ClosedError, RuntimeError (another thread); what `attempt` raises.
        """
        transport = self._transport
        transport.check_thread()
        if transport.closed:
            raise closed_error(operation)
        if self._since_visit >= _FAIR_SHARE:  # there is always one more: let others run
            self._since_visit = 0
            transport.yield_to_loop()
            if transport.closed:
                raise closed_error(operation)
        turn = self._turn
        if turn is None or not turn.held:  # else somebody was here before
            answer = attempt()
            if answer is not None:
                self._since_visit += 1
                return answer
        if deadline.milliseconds == 0:
            raise deadline.error(operation)
        if turn is None:
            turn = self._turn = Turn()
        try:
            deadline.arm()
            turn.acquire()
            try:
                return self._wait_for(attempt, operation)
            finally:
                turn.release()
        except gevent.Timeout as expired:
            if not deadline.owns(expired):
                raise
            # What is there already wins over time.
            answer = None if self._transport.closed else attempt()
            if answer is not None:
                return answer
            raise because(deadline.error(operation), None)

    def _wait_for(self, attempt: Callable[[], _T | None], operation: str) -> _T:
        transport = self._transport
        while True:
            if transport.closed:
                raise closed_error(operation)
            self._wait()
            self._since_visit = 0
            if transport.closed:
                raise closed_error(operation)
            answer = attempt()
            if answer is not None:
                return answer
