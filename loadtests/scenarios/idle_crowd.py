"""9,000 connections that are idle, and 100 that ask: the idle ones must cost them nothing, and must stay.

Each of the crowd asks once when it has connected and once before it goes: by then it has been served, and
none was lost. The active ones begin when the crowd is there. `-u` takes another number, the active ones
included; where the limit of descriptors is lower, that many connect, and a line says what is missing.
"""

from __future__ import annotations

import logging
import resource
from typing import Any

import gevent
from locust import between, events, task
from locust.env import Environment

from gnet.locust import LineUser
from gnet.locust.connections import pause
from loadtests.load.criteria import AtLeast, FailuresAtMost, P99Ratio, SameAsServer, SameCount
from loadtests.load.servers.lines import PING, PONG
from loadtests.load.users import Trusting
from loadtests.load.verdicts import declare

ACTIVE = 100
CROWD = 9000
SPARE_DESCRIPTORS = 200  # of Locust, beside its users' connections
LONG_SECONDS = 3600.0
LAST_ANSWERS_SECONDS = 0.2

_log = logging.getLogger("loadtests")


class Crowd:
    """How far the crowd of this process is."""

    def __init__(self) -> None:
        self.started = self.arrived = 0
        self.is_refused = False
        self.is_spawned = False
        self.is_there = False
        self.is_leaving = False

    def enter(self) -> bool:
        """Note an idle user who begins; give whether there is a descriptor for its connection."""
        limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = limit - SPARE_DESCRIPTORS - ACTIVE
        if self.started >= room:
            if not self.is_refused:
                self.is_refused = True
                _log.warning(
                    "idle_crowd: this process may have %d descriptors (hard limit %d): only %d users of the "
                    "crowd connect. Raise it: ulimit -Hn %d as root (a container: --ulimit nofile=…)",
                    limit,
                    hard,
                    room,
                    CROWD + ACTIVE + SPARE_DESCRIPTORS,
                )
            return False
        self.started += 1
        return True

    def settle(self) -> None:
        """Note an idle user who has connected (or failed to)."""
        self.arrived += 1
        self._look()

    def spawned(self, **_: Any) -> None:
        self.is_spawned = True
        self._look()

    def leave(self, **_: Any) -> None:
        """Let the active ones have their last answers before Locust is busy with stopping thousands."""
        self.is_leaving = True
        gevent.sleep(LAST_ANSWERS_SECONDS)

    def clear(self, **_: Any) -> None:
        self.__init__()  # type: ignore[misc]  # a test that starts anew in the web UI

    def _look(self) -> None:
        if self.is_spawned and self.arrived >= self.started:
            self.is_there = True


crowd = Crowd()


class Idle(Trusting, LineUser):
    reconnect = False
    wait_time = between(LONG_SECONDS, LONG_SECONDS)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.is_in = False

    def on_start(self) -> None:
        self.is_in = crowd.enter()
        if self.is_in:
            try:
                self.client.request(PING, expect=PONG, name="idle: at first")
            finally:
                crowd.settle()

    @task
    def say_nothing(self) -> None:
        pass

    def on_stop(self) -> None:
        if self.is_in:
            self.client.request(PING, expect=PONG, name="idle: at the end")


class Active(Trusting, LineUser):
    fixed_count = ACTIVE
    wait_time = between(0.01, 0.03)  # together as many requests as those of `ping`

    def on_start(self) -> None:
        super().on_start()
        while not crowd.is_there:
            pause(self, 0.05)  # in which it can be stopped

    @task
    def ping(self) -> None:
        if crowd.is_leaving:
            pause(self, LONG_SECONDS)
        self.client.request(PING, expect=PONG, name="ping")


hooks: Any = events
hooks.test_start.add_listener(crowd.clear)
hooks.test_stopping.add_listener(crowd.leave)
hooks.spawning_complete.add_listener(crowd.spawned)

declare(
    FailuresAtMost(),
    AtLeast(100, ("LINE", "ping")),
    AtLeast(1, ("LINE", "idle: at first")),
    SameCount(("LINE", "idle: at first"), ("LINE", "idle: at the end")),
    P99Ratio(3, ("LINE", "ping")),
    SameAsServer(),
    users=CROWD + ACTIVE,
    spawn_rate=1500,
    main=("LINE", "ping"),
)
