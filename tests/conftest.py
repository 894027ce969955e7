"""What every test runs under: the kind of process, no descriptor left open, programs that must be there.

The core is tested in two kinds of process. The plain one is how a program runs that only imports gnet. The
patched one is how Locust and most gevent programs run: `gevent.monkey.patch_all()` came before everything
else. `GNET_TEST_PATCHED=1` asks for the second one. pytest has imported `threading` and much else by the time
it reads this file, so that patching here would come too late to be what programs do; instead the process
replaces itself by one in which gevent patches first and then runs pytest.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final

import gevent
import pytest
from gevent import monkey
from hypothesis import settings

PATCHED: Final = os.environ.get("GNET_TEST_PATCHED") == "1"
"""Whether this process is to be the patched one."""

_PROGRAMS_REQUIRED: Final = os.environ.get("GNET_TEST_REQUIRE_PROGRAMS") == "1"

# Set on the way into the patched process, so that a failed attempt ends and does not start over.
_REPLACED: Final = "_GNET_TEST_REPLACED"

# Where the programs that tests may ask for come from; `.ci/run` installs these packages.
DEBIAN_PACKAGES: Final = {
    "chromium": "chromium",
    "curl": "curl",
    "gcc": "build-essential",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nginx": "nginx",
    "openssl": "openssl",
    "redis-benchmark": "redis-tools",
    "redis-cli": "redis-tools",
    "redis-server": "redis-server",
    "ss": "iproute2",
    "strace": "strace",
    "tc": "iproute2",
}

# Closing may take a few turns of the loop (and a collection); after this long a descriptor counts as leaked.
_CLOSE_SECONDS: Final = 2.0

_failed = pytest.StashKey[bool]()

# The machines are shared and noisy: hypothesis's own limits on time would fail tests at random.
settings.register_profile("gnet", deadline=None)
settings.load_profile("gnet")


# The kind of process


def pytest_configure(config: pytest.Config) -> None:
    replaced = os.environ.pop(_REPLACED, None) is not None
    if not PATCHED or monkey.is_module_patched("socket"):
        return
    if replaced:
        raise pytest.UsageError("GNET_TEST_PATCHED=1, but nothing is patched in the process started for that")
    # pytest holds the standard streams by now; the process to come needs the real ones.
    config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ[_REPLACED] = "1"
    os.chdir(config.invocation_params.dir)
    arguments = [str(argument) for argument in config.invocation_params.args]
    os.execv(sys.executable, [sys.executable, "-m", "gevent.monkey", "--module", "pytest", *arguments])


def pytest_report_header() -> list[str]:
    programs = "must be there" if _PROGRAMS_REQUIRED else "tests without them are skipped"
    kind = "PATCHED" if PATCHED else "plain"
    return [f"gnet: {kind} process, gevent {gevent.__version__}; programs: {programs}"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not PATCHED:
        return
    plain_only = [item for item in items if item.get_closest_marker("plain_only")]
    if plain_only:
        config.hook.pytest_deselected(items=plain_only)
        items[:] = [item for item in items if not item.get_closest_marker("plain_only")]


def pytest_collection_finish() -> None:
    # Some tests let the collector look for garbage again and again. Thousands of tests that wait for their
    # turn are none, and take 100 ms of each look.
    gc.collect()
    gc.freeze()


def _check_kind_of_process() -> None:
    patched = monkey.is_module_patched("socket")
    if patched != PATCHED:
        asked, found = ("patched", "plain") if PATCHED else ("plain", "patched")
        pytest.fail(f"a {asked} process was asked for, this one is {found} (`import locust` patches)", False)


@pytest.fixture(scope="session", autouse=True)
def _kind_of_process() -> None:
    _check_kind_of_process()
    # What gevent opens once and keeps (the loop's epoll and eventfd, a thread of the pool) is no leak of
    # the first test that happens to need it.
    gevent.get_hub().threadpool.apply(time.monotonic)


# After each test


def _open_descriptors() -> dict[int, str]:
    """Give the process's descriptors and what they stand for, as `socket:[12345]`."""
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {}
    for name in os.listdir(directory):
        try:
            found[int(name)] = os.readlink(f"{directory}/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        except OSError:
            found[int(name)] = "?"  # macOS has no links there
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture(autouse=True)
def _leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a file descriptor open or has patched the process."""
    marker = request.node.get_closest_marker("leaks_fds")
    if marker is not None and not marker.kwargs.get("reason"):
        pytest.fail("the marker leaks_fds needs a reason", False)
    before = _open_descriptors()
    yield
    _check_kind_of_process()
    # The traceback of a failed test keeps its sockets alive: one report is enough.
    if marker is not None or request.node.stash.get(_failed, False):
        return
    after = _open_descriptors()
    end = time.monotonic() + _CLOSE_SECONDS
    while len(after) > len(before) and time.monotonic() < end:
        gc.collect()
        gevent.sleep(0.01)
        after = _open_descriptors()
    if len(after) > len(before):
        left = sorted(f"{fd} {what}" for fd, what in after.items() if before.get(fd) != what)
        pytest.fail(f"{len(after) - len(before)} file descriptors left open, among: {', '.join(left)}", False)


# Programs


def require_program(name: str) -> str:
    """Give the path of a program; where it is missing, skip the test.

    With `GNET_TEST_REQUIRE_PROGRAMS=1` (CI) the test fails instead: a skip that nobody reads is no test.
    """
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is not None:
        return path
    message = f"{name} is not installed (Debian package {DEBIAN_PACKAGES.get(name, name)})"
    if _PROGRAMS_REQUIRED:
        pytest.fail(message, False)
    pytest.skip(message)


@pytest.fixture
def needs_program() -> Callable[[str], str]:
    """`needs_program("redis-server")` gives its path or skips the test: `require_program` as a fixture."""
    return require_program
