"""tests/both_modes.py and tests/sharing.py: each file is run once in each kind, no test is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 50.0  # seconds for what takes about one

pytestmark = pytest.mark.plain_only

# What the files below are made of. `meet` makes sure that two files are run by two processes.
HELPERS = """
import os, time
from pathlib import Path

def kind():
    return "patched" if os.environ["GNET_TEST_PATCHED"] else "plain"

def note(name):
    Path(f"{name}-{kind()}").touch(exist_ok=False)

def meet(name, other):
    note(name)
    end = time.monotonic() + 30
    while not Path(f"{other}-{kind()}").exists():
        assert time.monotonic() < end, f"{other} is not run"
        time.sleep(0.01)
"""

TWO_FILES = {
    "test_first.py": """
from helpers import *
def test_meets_the_second(): meet("first", "second")
def test_fails_in_the_first(): assert not Path("broken").exists()
""",
    "test_second.py": """
import pytest
from helpers import *
def test_meets_the_first(): meet("second", "first")
def test_fails_in_the_second(): assert not Path("broken").exists()
def test_fails_when_patched(): assert kind() == "plain" or not Path("broken").exists()
def test_is_skipped(): pytest.skip("not here")
""",
}

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(files, *arguments)` runs both_modes on test files in `tmp_path`."""
    with ExitStack() as stack:

        def start(files: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
            for name, text in {"pytest.ini": "[pytest]\n", "helpers.py": HELPERS, **files}.items():
                (tmp_path / name).write_text(text)
            environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
            environment.pop("PYTEST_ADDOPTS", None)
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.both_modes", *arguments],
                cwd=tmp_path,
                env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def wait_for(*paths: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"there is no {paths}"
        time.sleep(0.01)


def test_each_file_is_run_once_in_each_kind_of_process_and_the_last_line_counts_all(start: Start) -> None:
    process = start(TWO_FILES)  # `note` fails where a file is run a second time
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    *_, patched, plain = output.splitlines()
    assert re.fullmatch(r"patched: 5 passed, 1 skipped in [0-9.]+s", patched)
    assert re.fullmatch(r"====== 5 passed, 1 skipped in [0-9.]+s ======", plain)


def test_failures_of_all_processes_stand_at_the_end_and_can_be_run_alone(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "broken").touch()
    process = start(TWO_FILES)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert set(re.findall(r"^FAILED (\(.*)$", output, re.M)) == {
        "(patched) test_first.py::test_fails_in_the_first",
        "(patched) test_second.py::test_fails_in_the_second",
        "(patched) test_second.py::test_fails_when_patched",
        "(plain) test_first.py::test_fails_in_the_first",
        "(plain) test_second.py::test_fails_in_the_second",
    }
    assert "====== 2 failed, 3 passed, 1 skipped in " in output.splitlines()[-1]
    (tmp_path / "broken").unlink()
    process = start(TWO_FILES, "--last-failed")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    *_, patched, plain = output.splitlines()
    assert "patched: 3 passed" in patched
    assert "====== 2 passed" in plain


def test_what_a_process_that_died_has_claimed_is_missed_and_the_rest_is_run(start: Start) -> None:
    dies = """
from helpers import *
def test_dies():
    meet("dies", "lives")
    os._exit(0)
"""
    files = {
        "test_dies.py": dies,
        "test_lives.py": "from helpers import *\ndef test_lives(): meet('lives', 'dies')\n",
        "test_more.py": "def test_more(): pass\n",
    }
    process = start(files)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "LOST (plain) 3 tests collected, 2 run" in output
    assert "LOST (patched) 3 tests collected, 2 run" in output
    assert "====== 2 passed in " in output.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_and_their_fixtures(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    text = """
import pytest
from helpers import *
@pytest.fixture
def held():
    yield
    note("gone")
def test_waits(held):
    note("waits")
    time.sleep(60)
"""
    process = start({"test_waits.py": text})
    wait_for(tmp_path / "waits-plain", tmp_path / "waits-patched")
    process.send_signal(number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, None)
    assert (tmp_path / "gone-plain").exists()
    assert (tmp_path / "gone-patched").exists()
