"""A plugin for pytest: several processes share the test files, and each file is run by one of them.

    python -m pytest -p tests.sharing --share=DIRECTORY

Each process collects all tests and then claims one file after the other, as it gets to it, by a file of its
own in the directory. So nobody has to know beforehand how long a file takes, and what a process that died
had not got to is still run. At its end a process leaves there what became of its tests.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Generator
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

import pytest

_LAST_FAILED: Final = "cache/lastfailed"  # where pytest keeps what --lf runs

_run = pytest.StashKey[set[str]]()


class Report(NamedTuple):
    """What became of the tests in one process."""

    collected: int
    run: int
    counts: dict[str, int]
    """The numbers of pytest's last line, by its words: `passed`, `skipped` …"""
    failed: list[str]


def reports(directory: Path) -> list[Report]:
    """Give what the processes that shared files through a directory have left there."""
    return [Report(**json.loads(path.read_text())) for path in directory.glob("*.report")]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gnet")
    group.addoption(
        "--share", type=Path, required=True, help="run the files that nobody claimed there before"
    )
    group.addoption("--backwards", action="store_true", help="begin with the last file")


def _is_ours(directory: Path, path: Path) -> bool:
    """Claim a file; give whether nobody had."""
    try:
        (directory / f"{str(path).replace('/', '%')}.claim").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    config = session.config
    errors = session.testsfailed and not config.option.continue_on_collection_errors
    if errors or config.option.collectonly:
        return None  # pytest's own loop has the message, or nothing to do
    run = config.stash[_run] = set()
    files: dict[Path, list[pytest.Item]] = {}
    for item in session.items:
        files.setdefault(item.path, []).append(item)
    for path in reversed(files) if config.option.backwards else files:
        if not _is_ours(config.option.share, path):
            continue
        # After the last test of a file comes none: what fixtures hold for longer is given back there too.
        for item, following in zip_longest(files[path], files[path][1:]):
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            run.add(item.nodeid)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    config = session.config
    run = config.stash.get(_run, set())
    with open(config.option.share / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = config.cache.get(_LAST_FAILED, {})
        yield
        # pytest has written what this process knows; of the tests that others ran, they know better.
        after = config.cache.get(_LAST_FAILED, {})
        last_failed = [test for test in before if test not in run] + [test for test in after if test in run]
        config.cache.set(_LAST_FAILED, dict.fromkeys(last_failed, True))
    if config.option.collectonly:
        return
    stats = config.pluginmanager.getplugin("terminalreporter").stats
    counts = {word: len(reports) for word, reports in stats.items() if word}
    failed = [report.nodeid for word in ("failed", "error") for report in stats.get(word, [])]
    report = Report(len(session.items), len(run), counts, failed)
    (config.option.share / f"{os.getpid()}.report").write_text(json.dumps(report._asdict()))
