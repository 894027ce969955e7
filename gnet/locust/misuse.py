"""A mistake in a locustfile ends the test: one message, exit status 1, no traceback.

It is found where users run. A worker tells its master, which says it too, and ends the test of all workers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NoReturn
from weakref import WeakSet

import gevent
from gevent import GreenletExit
from locust.exception import StopTest
from locust.runners import MasterRunner, WorkerRunner

from gnet.locust.connections import pause

if TYPE_CHECKING:
    from locust import User
    from locust.env import Environment

__all__ = ["install", "refuse"]

_LONG_SECONDS: Final = 60.0

_REFUSED: Final = "gnet_refused"  # to the master, with the message

_log = logging.getLogger(__name__)

_ending: Final[WeakSet[Any]] = WeakSet()  # those whose test is being ended


def install(environment: Environment) -> None:
    """Have a master end the test when a worker finds a mistake, and each test begin without one."""
    runner = environment.runner
    hooks: Any = environment.events

    def forget(**_: Any) -> None:
        if environment in _ending:  # another test, from the web UI
            _ending.discard(environment)
            environment.process_exit_code = None

    hooks.test_start.add_listener(forget)
    if isinstance(runner, MasterRunner):
        runner.register_message(_REFUSED, lambda msg, **_: _end(environment, msg.data["message"]))


def refuse(environment: Environment, user: User | None, message: str) -> NoReturn:
    """End the test because of a mistake that every user or task of its kind would make again.

    Args:
        user: whose task it is; `None`: the user can not even be made.
    Raises:
        GreenletExit: where a test runs: it is told to stop, and ends this greenlet.
        StopTest: where none does.
    """
    if environment.runner is None:
        raise StopTest(message)
    _end(environment, message)
    if user is not None:
        pause(user, _LONG_SECONDS)  # to be stopped in; Locust logs users that it finds ended as an error
    raise GreenletExit


def _end(environment: Environment, message: str) -> None:
    """End the test, for the first mistake that is found in it."""
    # Not by way of StopTest: out of a task it just ends the user; where users are made it stops the test,
    # but with a traceback of gevent's, and with exit status 0.
    if environment in _ending:
        return
    _ending.add(environment)
    environment.process_exit_code = 1
    _log.error("%s", message)
    runner: Any = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.send_message(_REFUSED, {"message": message})
    options = environment.parsed_options
    # A worker stays, as its master does.
    gevent.spawn(runner.quit if options is not None and options.headless else runner.stop)
