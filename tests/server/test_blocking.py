"""Who blocks the hub is told, with its line; who does not is left alone."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import gevent
import pytest
from gevent import monkey, subprocess

import gnet
from gnet.serving.blocking import HubWatch
from tests.server.peers import Logged, connect, logged, receive_exactly, serving

# The one that a C library would use: in a patched process, time.sleep lets others run.
blocking_sleep: Final = monkey.get_original("time", "sleep")

# Seconds: well over the 100 ms that are told.
_LONG: Final = 0.6


@pytest.fixture
def log() -> Iterator[Logged]:
    with logged() as found:
        yield found


def reports(log: Logged) -> list[str]:
    return [line for line in log.lines() if line.startswith("the hub is blocked for")]


def let_the_loop_run(watch: HubWatch) -> None:
    """Wait until the watch has seen the loop run: what blocks before that is the start of a program."""
    gevent.sleep(0.01)
    assert watch.has_begun


def sleeping_handler(client: gnet.Socket, _address: str) -> None:
    client.read_line()
    blocking_sleep(_LONG)
    client.send(b"done\n")


def test_d19_a_handler_that_blocks_the_hub_is_named_with_its_line(log: Logged) -> None:
    source, first = inspect.getsourcelines(sleeping_handler)
    line = first + next(n for n, text in enumerate(source) if "blocking_sleep(" in text)
    with serving(sleeping_handler) as server, HubWatch() as watch, connect(server) as client:
        let_the_loop_run(watch)
        client.sendall(b"go\n")
        assert receive_exactly(client, 5) == b"done\n"
    (report,) = reports(log)
    assert f"{__file__}:{line} sleeping_handler" in report
    assert "blocking_sleep(_LONG)" in log.text()


def test_d19_it_is_told_while_the_block_lasts(log: Logged) -> None:
    with HubWatch() as watch:
        let_the_loop_run(watch)
        end = time.monotonic() + 10
        while not reports(log) and time.monotonic() < end:
            blocking_sleep(0.01)  # this greenlet never lets the hub run
        assert reports(log)


def test_computing_blocks_as_sleeping_does(log: Logged) -> None:
    with HubWatch() as watch:
        let_the_loop_run(watch)
        end = time.monotonic() + 10
        while not reports(log) and time.monotonic() < end:
            pass
        assert len(reports(log)) == 1
        assert "in test_computing_blocks_as_sleeping_does" in log.text()


def test_a_c_function_that_keeps_the_gil_is_told_when_it_ends(log: Logged) -> None:
    def search(length: int) -> float:
        start = time.process_time()
        re.match(r"(a+)+$", "a" * length + "b")  # takes twice as long for each a
        return time.process_time() - start

    length = 18
    while search(length) < _LONG:  # and not half of it: a neighbour may have had a part in that
        length += 1
    with HubWatch() as watch:
        let_the_loop_run(watch)
        search(length + 1)
        let_the_loop_run(watch)
    (report,) = reports(log)
    assert " match" in report
    assert "in search" in log.text()


def test_a_hub_that_waits_is_not_blocked(log: Logged) -> None:
    with HubWatch() as watch:
        let_the_loop_run(watch)
        gevent.sleep(_LONG)
    assert not reports(log)


def test_many_short_turns_are_no_block() -> None:
    def turns() -> None:
        for _ in range(20):  # 180 ms of three: as one block that would be told
            blocking_sleep(0.003)
            gevent.sleep(0)

    def told() -> list[str]:
        with logged() as log, HubWatch() as watch:
            let_the_loop_run(watch)
            gevent.joinall([gevent.spawn(turns) for _ in range(3)])
        return reports(log)

    # Where other programs take all processors a turn can be long, too, but not each time.
    assert any(told() == [] for _ in range(10))


def test_one_block_is_one_report_however_long_it_is(log: Logged) -> None:
    with HubWatch() as watch:
        let_the_loop_run(watch)
        blocking_sleep(2.3)
        let_the_loop_run(watch)
    assert len(reports(log)) == 1


def test_many_blocks_are_at_most_one_report_a_second(log: Logged) -> None:
    with HubWatch() as watch:
        let_the_loop_run(watch)
        start = time.monotonic()
        for _ in range(8):
            blocking_sleep(0.25)
            let_the_loop_run(watch)
        seconds = time.monotonic() - start
    assert 1 <= len(reports(log)) <= 1 + int(seconds)


def test_what_comes_before_the_loop_runs_is_no_block(log: Logged) -> None:
    watch = HubWatch()
    watch.start()
    blocking_sleep(_LONG)  # as an import, before serve_forever
    watch.stop()
    assert not reports(log)


def test_after_stop_nothing_is_told_and_the_thread_is_gone(log: Logged) -> None:
    threads = len(sys._current_frames())
    watch = HubWatch()
    watch.start()
    watch.start()  # does nothing more
    let_the_loop_run(watch)
    assert len(sys._current_frames()) == threads + 1
    watch.stop()
    watch.stop()
    end = time.monotonic() + 10
    while len(sys._current_frames()) > threads and time.monotonic() < end:
        gevent.sleep(0.01)
    assert len(sys._current_frames()) == threads
    blocking_sleep(_LONG)
    assert not reports(log)


def test_it_can_be_started_again(log: Logged) -> None:
    watch = HubWatch()
    for _ in range(2):
        watch.start()
        watch.stop()
    with watch:
        let_the_loop_run(watch)
        blocking_sleep(_LONG)
        let_the_loop_run(watch)
    assert len(reports(log)) == 1


def test_a_logging_handler_that_fails_does_not_end_the_watch(
    log: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    with HubWatch() as watch:
        let_the_loop_run(watch)
        with monkeypatch.context() as broken:
            broken.setattr(logging.getLogger("gnet.server"), "warning", fail)
            blocking_sleep(_LONG)
            let_the_loop_run(watch)
        gevent.sleep(1)  # the pause between two reports
        blocking_sleep(_LONG)
        let_the_loop_run(watch)
    assert len(reports(log)) == 1


_PROGRAM: Final = """
import logging, sys, time
{patch}
import gevent, gnet
from gevent import monkey
from gnet.serving.blocking import HubWatch
logging.basicConfig(format="%(levelname)s %(message)s")
with HubWatch():
    gevent.sleep(0.1)
    monkey.get_original("time", "sleep")(0.6)
print("end", flush=True)
"""


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
@pytest.mark.parametrize("loop", ["libev-cext", "libuv"])
def test_a_program_ends_with_its_watch_and_prints_one_report(patch: str, loop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(patch=patch)],
        env={"GEVENT_LOOP": loop, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    if loop == "libuv" and "ImportError" in done.stderr:
        pytest.skip("gevent was built without libuv")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert done.stderr.count("WARNING the hub is blocked") == 1
    assert done.stderr.count("WARNING") == 1


def test_neither_import_nor_server_starts_a_thread() -> None:
    threads = threading.active_count(), len(sys._current_frames())
    with serving(sleeping_handler):
        assert (threading.active_count(), len(sys._current_frames())) == threads
