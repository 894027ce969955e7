"""The last report of each worker reaches the master before the master is done.

At the end of a headless run Locust's master tells its workers to quit and listens for half a second more. A
worker that takes longer to stop its users (a `--stop-timeout`, a busy machine) reports too late, and one that
is interrupted does not report at all: requests that the server has answered are missing in the figures. So
the master, before it stops, has its workers stop their users and report, and waits until all of them have.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.lock import Semaphore
from locust.runners import STATE_RUNNING, STATE_SPAWNING, STATE_STOPPING, MasterRunner, WorkerRunner

if TYPE_CHECKING:
    from locust.env import Environment

__all__ = ["install"]

_log = logging.getLogger(__name__)

_BEGIN: Final = "gnet_begin"  # to a worker: users are going to be spawned
_FINISH: Final = "gnet_finish"  # to a worker: stop the users and report
_FINISHED: Final = "gnet_finished"  # to the master, behind the report

_ACTIVE: Final = (STATE_SPAWNING, STATE_RUNNING)

# Seconds beyond `--stop-timeout` that the master waits. Stopping 10,000 users takes less than one.
_PATIENCE: Final = 10.0
_POLL: Final = 0.05  # seconds; a worker that is gone says nothing


def install(environment: Environment) -> None:
    """Do this for the test of an environment; nothing to do where there is only one process."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        _Master(environment, runner)
    elif isinstance(runner, WorkerRunner):
        _Worker(environment, runner)


class _Master:
    def __init__(self, environment: Environment, runner: MasterRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._missing: set[str] = set()
        runner.register_message(_FINISHED, self._note)
        hooks: Any = environment.events
        hooks.test_start.add_listener(lambda **_: runner.send_message(_BEGIN))
        hooks.test_stopping.add_listener(self._finish)

    def _note(self, msg: Any, **_: Any) -> None:
        self._missing.discard(msg.node_id)

    def _finish(self, **_: Any) -> None:
        """Wait until each worker has reported for the last time, or is gone, or time is up.

        The greenlet that reads what workers send waits in vain, if it is the one that stops the test (from a
        listener of worker_report): then the time ends it.
        """
        runner = self._runner
        # What the runner does next itself. In the state before, it would share the users of a worker that
        # quits (a signal came to all processes) among the others, and start them there.
        runner.update_state(STATE_STOPPING)
        users = {name: node.user_classes_count for name, node in runner.clients.items()}
        self._missing = {name for name, node in runner.clients.items() if node.state in _ACTIVE}
        for name in list(self._missing):
            runner.send_message(_FINISH, client_id=name)
        patience = self._environment.stop_timeout + _PATIENCE
        end = time.monotonic() + patience
        while self._missing and time.monotonic() < end:
            gevent.sleep(_POLL)
            self._missing.intersection_update(runner.clients.keys())
        if self._missing:
            _log.warning(
                "%d workers have not reported %.0f s after they were told to stop: "
                "the figures may lack their last requests",
                len(self._missing),
                patience,
            )
        # The report says how many users of each kind there were before they were stopped.
        for name, node in runner.clients.items():
            node.user_classes_count = users.get(name, {})


class _Worker:
    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        hooks: Any = environment.events
        self._events = hooks
        self._runner = runner
        self._stopping = Semaphore()  # a signal and the master's message may come together
        # In a greenlet: stopping may take long, and heartbeats are to be answered.
        runner.register_message(_FINISH, self._finish, concurrent=True)
        runner.register_message(_BEGIN, self._begin)
        # Fired in reverse: this comes before the runner's own listener, with which the master forgets us.
        hooks.quitting.add_listener(self._interrupt)

    def _begin(self, **_: Any) -> None:
        self._runner.last_received_spawn_timestamp = 0

    def _finish(self, **_: Any) -> None:
        self._report()
        self._runner.send_message(_FINISHED)

    def _interrupt(self, **_: Any) -> None:
        if self._runner.state in _ACTIVE or self._stopping.locked():
            self._report()

    def _report(self) -> None:
        # A master that has users to spawn yet goes on to tell us, and takes no notice of a test that ends:
        # users that were spawned now would be killed in the middle of a request, after the report.
        self._runner.last_received_spawn_timestamp = sys.maxsize
        with self._stopping:
            self._runner.stop()
            data: dict[str, Any] = {}
            self._events.report_to_master.fire(client_id=self._runner.client_id, data=data)
            self._runner.send_message("stats", data)
