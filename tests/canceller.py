"""A step-wise canceller: interrupts an operation at its first switch to the hub, at its second, and so on.

It runs the operation again and again until it comes to its end uninterrupted. That covers every point at
which a call can be cut, without knowing the code of the call. A greenlet trace counts the switches; the
interruption comes before the loop looks at any event, so that it is the interruption and not the event that
ends the wait. The world around the operation takes one step each time the operation waits.

A switch at which a kind of interruption does not apply (gnet's own deadline, in a wait before it is armed)
is passed over.
"""

from __future__ import annotations

import builtins
import enum
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import gevent
import greenlet
from gevent.event import Event

import gnet

# The limit, in milliseconds, that an operation is to be given: long enough never to end by itself, and a
# number that no other timer has, so that the canceller finds the timer by it.
LIMIT: Final = 86_399_123

# Longer than any operation here takes; in seconds.
_GUARD_SECONDS: Final = 20

# An operation that is interrupted later than this waits for something that never comes.
_MOST_SWITCHES: Final = 200


class InterruptionError(Exception):
    """Somebody else's exception, thrown into a greenlet that waits in gnet."""


class Kind(enum.Enum):
    """What interrupts."""

    FOREIGN_TIMEOUT = "a gevent.Timeout of the caller's"
    KILL = "GreenletExit"
    THROW = "an exception that somebody throws"
    # `with gevent.Timeout(1, TimeoutError("too slow"))` throws just that: an OSError, and not the kernel's.
    FOREIGN_OS_ERROR = "a gevent.Timeout of the caller's that raises an OSError"
    OWN_TIMEOUT = "the operation's own deadline"


@dataclass
class Outcome:
    """How an operation ended."""

    value: Any = None
    error: BaseException | None = None
    thrown: BaseException | None = None
    """What interrupted it; `None`: nothing did."""

    @property
    def interrupted(self) -> bool:
        return self.thrown is not None


@dataclass
class Scene:
    """One run of an operation, in a world made for it."""

    operation: Callable[[], Any]
    """Is run in a greenlet of its own, with `LIMIT` as its timeout."""
    check: Callable[[Outcome], None]
    """Looks at what the run left behind. What was not interrupted has to have done what it should."""
    steps: Iterable[Callable[[], object]] = field(default_factory=list)
    """What the world does, one step each time that the operation waits."""


def interrupt_at_every_switch(make_scene: Callable[[], AbstractContextManager[Scene]], kind: Kind) -> int:
    """Interrupt an operation at each of its switches in turn; give the number of interruptions.

    After each run: the interruption came out as it went in, the scene's own check passes, and nothing is
    left: no descriptor, no timer and no watcher in the loop.
    """
    interruptions = 0
    # What was here before is not looked at again and again: that takes nine tenths of the time off this. It
    # stays frozen, as tests/conftest.py has frozen all tests: only all together could be unfrozen.
    gc.freeze()
    for nth in range(1, _MOST_SWITCHES):
        before = _what_is_open()
        with make_scene() as scene:
            run = _Run(scene, kind, nth)
            outcome = run.outcome
            assert not armed_timers(LIMIT), "the deadline of the operation is still running"
            _check_error(outcome, kind)
            scene.check(outcome)
            interruptions += outcome.interrupted
        del scene, outcome
        _check_nothing_left(before, f"after an interruption at switch {nth}")
        if run.switches < nth:
            return interruptions
    raise AssertionError("the operation never comes to its end")


def _check_error(outcome: Outcome, kind: Kind) -> None:
    error, thrown = outcome.error, outcome.thrown
    if thrown is None:
        return
    if kind is not Kind.OWN_TIMEOUT:
        assert error is thrown, f"{thrown!r} went in, and out came {error!r}"
        assert error.__cause__ is None, "the interruption has got a cause on its way"
    elif error is not None:
        # That the operation is done all the same is in order: what is there already wins over time.
        assert isinstance(error, gnet.TimeoutError)
        assert error.__cause__ is None


class _Run:
    """Runs a scene's operation, counts its switches to the hub and interrupts at the n-th one."""

    def __init__(self, scene: Scene, kind: Kind, nth: int) -> None:
        self.switches = 0
        self.outcome = Outcome()
        self._over = False
        self._kind = kind
        self._nth = nth
        self._hub = gevent.get_hub()
        self._waits = Event()
        self._operation = scene.operation
        self._greenlet = gevent.Greenlet(self._run)
        traced = greenlet.settrace(self._trace)
        try:
            self._greenlet.start()
            with gevent.Timeout(_GUARD_SECONDS, AssertionError("stuck: nothing more happens")):
                self._take_steps(iter(scene.steps))
                self._greenlet.join()
        finally:
            greenlet.settrace(traced)
            self._greenlet.kill()

    def _run(self) -> None:
        try:
            self.outcome.value = self._operation()
        except BaseException as error:
            self.outcome.error = error
        finally:
            self._over = True
            self._waits.set()

    def _take_steps(self, steps: Iterator[Callable[[], object]]) -> None:
        while True:
            self._waits.wait()
            self._waits.clear()
            if self.outcome.interrupted or self._over:
                return
            step = next(steps, None)
            if step is None:
                return
            step()

    def _trace(self, event: str, switch: tuple[Any, Any]) -> None:
        origin, target = switch
        if origin is not self._greenlet or target is not self._hub or self._over:
            return
        self.switches += 1
        if self.switches == self._nth:
            self._interrupt()
        self._hub.loop.run_callback(self._waits.set)

    def _interrupt(self) -> None:
        thrown: BaseException
        if self._kind is Kind.OWN_TIMEOUT:
            timers = armed_timers(LIMIT)
            if not timers:
                return
            (thrown,) = timers
        else:
            thrown = {
                Kind.FOREIGN_TIMEOUT: gevent.Timeout,
                Kind.KILL: gevent.GreenletExit,
                Kind.THROW: InterruptionError,
                Kind.FOREIGN_OS_ERROR: lambda: builtins.TimeoutError("too slow for the caller"),
            }[self._kind]()
        self.outcome.thrown = thrown
        # As a timer or `kill` does it, in the next callbacks of the loop.
        self._hub.loop.run_callback(self._greenlet.throw, thrown)


# What may be left behind


def armed_timers(milliseconds: float) -> list[gevent.Timeout]:
    """Give the timeouts of this length that are running."""
    return [timeout for timeout in running_timeouts() if timeout.seconds == milliseconds / 1000]


def running_timeouts() -> list[gevent.Timeout]:
    """Give every `gevent.Timeout` that is running in this process."""
    # Not isinstance(found, ...), which asks objects for their class: some answer with a warning.
    return [found for found in gc.get_objects() if issubclass(type(found), gevent.Timeout) and found.pending]


def active_watchers() -> list[str]:
    """Describe every watcher in the loop that waits for a descriptor or for time to pass."""
    loop = gevent.get_hub().loop
    with _unstarted(loop.timer(1)) as timer, _unstarted(loop.io(0, 1)) as watcher:
        kinds = (type(timer), type(watcher))
    return sorted(repr(found) for found in gc.get_objects() if type(found) in kinds and found.active)


@contextmanager
def _unstarted(watcher: Any) -> Iterator[Any]:
    try:
        yield watcher
    finally:
        watcher.close()


def _what_is_open() -> tuple[int, int, list[str]]:
    return len(os.listdir("/proc/self/fd")), gevent.get_hub().loop.activecnt, active_watchers()


def _check_nothing_left(before: tuple[int, int, list[str]], when: str) -> None:
    # What was closed or given up comes to its end in the next turns of the loop.
    for _ in range(50):
        after = _what_is_open()
        if after[0] <= before[0] and after[1] <= before[1] and len(after[2]) <= len(before[2]):
            return
        gevent.sleep(0.002)
        gc.collect()
    assert after[0] <= before[0], f"{when}: {after[0] - before[0]} descriptors are left open"
    assert len(after[2]) <= len(before[2]), f"{when}: watchers left in the loop: {after[2]}"
    assert after[1] <= before[1], f"{when}: {after[1] - before[1]} watchers keep the loop alive"
