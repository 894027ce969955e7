"""A scenario's criteria in Locust: looked at when its test ends, by the process that has all the figures.

A scenario calls `declare`. Headless, Locust then ends with 1 if a criterion did not hold, and with 0 if all
did; what is wrong is said in a line each. In the web UI the lines come when the test is stopped.
"""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING, WorkerRunner

from gnet.locust import figures
from gnet.locust.server_counters import ServerCounters
from loadtests.load.criteria import Criterion, Measured, Result, Row, check_all, find_row

__all__ = ["declare"]

_STOP_SECONDS = 10  # for users to end what they are at: more than the 5 s of their timeouts

_log = logging.getLogger("loadtests")
_console = logging.getLogger("locust.stats_logger")  # as Locust's tables: without time and level


def declare(*criteria: Criterion, users: int, main: Row, spawn_rate: float | None = None) -> None:
    """Say what a scenario is, once in its locustfile.

    Args:
        criteria: what its figures are to fulfil.
        users: how many there are, unless `-u` says so.
        main: the row that stands for it in a summary.
        spawn_rate: users a second, unless `-r` says so; else all at once.
    """
    scenario = _Scenario(criteria, main)
    hooks: Any = events

    def add_arguments(parser: ArgumentParser, **_: Any) -> None:
        parser.set_defaults(
            num_users=users, spawn_rate=float(spawn_rate or users), stop_timeout=str(_STOP_SECONDS)
        )

    hooks.init_command_line_parser.add_listener(add_arguments)
    hooks.test_start.add_listener(scenario.begin)
    hooks.test_stop.add_listener(scenario.show_in_web_ui)
    hooks.quitting.add_listener(scenario.end)


def _add_arguments(parser: ArgumentParser, **_: Any) -> None:
    """Add the options that all scenarios have: plain texts, for a master sends them to its workers."""
    options: dict[str, Any] = {"include_in_web_ui": False}  # Locust's own
    parser.add_argument(
        "--baseline", type=_figures_file, metavar="FILE", help="compare with these figures of ping", **options
    )
    parser.add_argument("--verdict", metavar="FILE", help="write the verdict there", **options)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="X",
        help="multiply the limits of times: above 1 on a busy machine",
        **options,
    )


def _figures_file(name: str) -> str:
    """Check that there are figures, before a test of an hour has run for nothing."""
    try:
        find_row(_figures_in(name), ("LINE", "ping"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArgumentTypeError(
            f"{name!r} has no figures (of --gnet-figures): {type(error).__name__}: {error}"
        ) from error
    return name


def _figures_in(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return data


@dataclass
class _Scenario:
    criteria: Sequence[Criterion]
    main: Row
    counters: ServerCounters | None = None
    before: dict[tuple[str, str], int] | None = None

    def begin(self, environment: Environment, **_: Any) -> None:
        """Note what the server has counted before."""
        url = getattr(environment.parsed_options, "gnet_metrics", None)
        if url and not isinstance(environment.runner, WorkerRunner):
            self.counters = ServerCounters(url)
            self.before = self._ask()

    def end(self, environment: Environment, **_: Any) -> None:
        """Judge the test, and have that be the exit status."""
        runner = environment.runner
        if runner is None or isinstance(runner, WorkerRunner):
            return
        if runner.state in (STATE_SPAWNING, STATE_RUNNING):
            runner.stop()  # a signal came: the figures are complete only afterwards
        results = self.judge(environment)
        holds = all(result.holds is not False for result in results)
        if not environment.process_exit_code:  # else there is a mistake that was told
            environment.process_exit_code = 0 if holds else 1
        if environment.web_ui is None:
            self._show(results)
        options: Any = environment.parsed_options
        if options.verdict is not None:
            data = {
                "holds": holds and environment.process_exit_code == 0,
                "results": [[result.holds, result.text] for result in results],
                "main": self.main,
            }
            Path(options.verdict).write_text(json.dumps(data) + "\n", encoding="utf-8")

    def show_in_web_ui(self, environment: Environment, **_: Any) -> None:
        """Say how the test went that was just stopped; there may be another."""
        if environment.web_ui is not None:
            self._show(self.judge(environment))

    def judge(self, environment: Environment) -> list[Result]:
        """Look at the criteria."""
        options: Any = environment.parsed_options
        runner: Any = environment.runner
        errors = [f"a task raised {each['msg']} ({each['count']} ×)" for each in runner.exceptions.values()]
        counted = None
        if self.counters is not None:
            before, after = self.before, self._ask()
            if before is None or after is None:
                errors.append(f"the server's counters at {self.counters.url}: {self.counters.problem}")
            else:
                counted = {key: number - before.get(key, 0) for key, number in after.items()}
        measured = Measured(
            figures.collect(environment),
            _figures_in(options.baseline) if options.baseline is not None else None,
            counted,
            errors,
            options.tolerance,
        )
        return check_all(self.criteria, measured)

    def _ask(self) -> dict[tuple[str, str], int] | None:
        assert self.counters is not None
        self.counters.ask()
        if self.counters.problem is not None:
            return None
        return {(each.key, each.label): each.value for each in self.counters.counters}

    def _show(self, results: Sequence[Result]) -> None:
        words = {True: "holds", False: "FAILED", None: "left out"}
        for result in results:
            _console.info(f"{words[result.holds]}: {result.text}")
        _console.info("")


_hooks: Any = events
_hooks.init_command_line_parser.add_listener(_add_arguments)
