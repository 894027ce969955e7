"""Importing Locust patches the process, so these tests run in the patched one; in the plain one those that
start a process of their own do.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import gevent
import pytest

from tests.conftest import PATCHED

# Modules that import no Locust themselves.
_PLAIN: Final = {"test_users_programs.py"}


@pytest.fixture(autouse=True)
def _new_texts() -> None:
    """Let each test have failures with texts of its own, however many there were before."""
    if PATCHED:
        from gnet.locust.answers import forget_texts

        forget_texts()


def _alive() -> list[gevent.Greenlet]:
    return [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and not one.dead]


@pytest.fixture(autouse=True)
def _no_greenlets_left() -> Iterator[None]:
    """End what Locust leaves running: its statistics go on in the loop that other tests look into."""
    if not PATCHED:
        yield
        return
    before = {id(one) for one in _alive()}
    yield
    gevent.killall([one for one in _alive() if id(one) not in before], timeout=5)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if PATCHED or module_path.name in _PLAIN:
        return None
    skipped: pytest.Module = _OnlyPatched.from_parent(parent, path=module_path)
    return skipped


class _OnlyPatched(pytest.Module):
    """A module that is not even imported."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip(
            "importing Locust patches the process: GNET_TEST_PATCHED=1 runs these", allow_module_level=True
        )
