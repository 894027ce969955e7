"""loadtests/scale with real servers, at tiny sizes: whether it measures, not how fast anything is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmarks read /proc", allow_module_level=True)

from loadtests.scale.crowd import Crowd

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.plain_only


@pytest.fixture
def serving() -> Iterator[Callable[..., int]]:
    """`serving(module, *options)` starts one of the benchmark's servers and gives its port."""
    started = []

    def start(module: str, *options: str) -> int:
        command = [sys.executable, "-m", f"loadtests.scale.servers.{module}", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline().rpartition(":")[2])

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_every_connection_of_every_client_process_is_used(serving: Callable[..., int]) -> None:
    with Crowd(serving("pool", "--connections", "100"), per_process=7) as crowd:
        crowd.open(10)
        crowd.open(20)
        assert crowd.connections == 20
        done = crowd.run(50)
    assert done["requests"] == 60  # three on each
    assert done["least"] >= 1


@pytest.mark.parametrize(
    "reader", ["gnet lines()", "gnet read_line()", "gevent makefile", "asyncio readline()"]
)
def test_every_reader_counts_lines_of_any_length(serving: Callable[..., int], reader: str) -> None:
    with Crowd(serving("counting", "--reader", reader), per_process=1) as crowd:
        assert crowd.lines(1000, 10) > 0  # the client ends if the server counted otherwise
        assert crowd.lines(3, 1_000_000) > 0


def test_the_command_prints_its_table_and_writes_the_document(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.scale", "--tiny", "--write", "--docs", str(tmp_path)]
    command += ["--part", "cpu", "memory", "--peer", "gnet.Server", "--active", "3", "5", "--idle", "8"]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "| gnet.Server" in done.stdout
    assert "5 connections" in done.stdout
    assert (tmp_path / "benchmarks" / "scale.json").exists()
    assert "| gnet.Server" in (tmp_path / "benchmarks.md").read_text()
