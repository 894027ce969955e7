"""Ties gnet's part of a load test to Locust's events: figures, open loop, the tab of the web UI.

Importing this module is enough for Locust's own command. A program that makes an `Environment` with events of
its own calls `install` with it, once it has its runner and its web UI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import gevent
from locust import events

from gnet.locust import (
    corrections,
    figures,
    final_reports,
    interrupts,
    misuse,
    pacing,
    progress,
    rounding,
    webui,
)
from gnet.locust.answers import forget_texts
from gnet.locust.arrival import Arrivals

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from locust.env import Environment

__all__ = ["add_arguments", "install"]

_installed: Final[WeakSet[Any]] = WeakSet()


def add_arguments(parser: ArgumentParser, **_: Any) -> None:
    """Add gnet's options to Locust's command line."""
    # Not in a group of its own: only Locust's parser itself knows what keeps an option out of the web UI.
    figures.add_arguments(parser)
    pacing.add_arguments(parser)
    webui.add_arguments(parser)


def install(environment: Environment, **_: Any) -> None:
    """Have gnet take part in the tests of an environment; again does nothing."""
    if environment in _installed:
        return
    _installed.add(environment)
    hooks: Any = environment.events
    hooks.test_start.add_listener(lambda **_: forget_texts())
    misuse.install(environment)
    # In this order where it matters: what stops comes before the wait for the workers' last reports, and the
    # table stands before what corrects Locust's files.
    Arrivals.of(environment).install(environment)
    pacing.install(environment)
    final_reports.install(environment)
    progress.install(environment)
    figures.install(environment)
    corrections.install(environment)
    webui.install(environment)


def _start(environment: Environment, **_: Any) -> None:
    """Take part in the test that Locust's own command runs."""
    # Imports have taken a second for which the loop's clock stood still: `-t` would be shorter by that.
    gevent.get_hub().loop.update_now()
    interrupts.install()
    install(environment)


rounding.install()
_hooks: Any = events
_hooks.init_command_line_parser.add_listener(add_arguments)
_hooks.init.add_listener(_start)
