"""Timeouts as users give them, deadlines, and what time does to both (group G of the faults).

The rows G1 to G4 each have tests named after them. How deadlines nest (D15), and that nothing of them is
left over (D16), is in `tests/faults/test_concurrency.py`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import socket, subprocess
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

import gnet
from gnet.deadlines import NO_LIMIT, Deadline, to_milliseconds
from gnet.reading import StreamReader
from gnet.writing import StreamWriter
from tests.canceller import active_watchers, armed_timers, running_timeouts
from tests.conftest import PATCHED, require_program
from tests.faults.peers import GUARD, ScriptedTransport, connection, elapsed, receive_exactly

_ROOT: Final = Path(__file__).parents[1]

SOON: Final = 20
"""Milliseconds: a timeout that is meant to be over."""

LATE: Final = 5 * SOON + 400
"""Milliseconds within which a timeout of `SOON` must have come, on a busy machine too."""


def waiting(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> gevent.Greenlet:
    """Start a call in a greenlet and give it when it waits."""
    greenlet = gevent.spawn(call, *arguments, **keywords)
    gevent.sleep(0)
    assert not greenlet.ready(), f"it does not wait: {greenlet.value!r}, {greenlet.exception!r}"
    return greenlet


def hold_up_the_hub(milliseconds: float) -> None:
    """Compute, as a program does that does not think of others."""
    end = time.monotonic() + milliseconds / 1000
    while time.monotonic() < end:
        pass


# G3: timeouts as users give them


@pytest.mark.parametrize(
    ("timeout", "milliseconds"),
    [
        (None, NO_LIMIT),
        (-1, NO_LIMIT),
        (-1.0, NO_LIMIT),
        (0, 0),
        (0.0, 0),
        (-0.0, 0),
        (1, 1),
        (0.001, 0.001),
        (5e-324, 5e-324),
        (1500, 1500),
        (timedelta(0), 0),
        (timedelta(seconds=1.5), 1500),
        (timedelta(microseconds=1), 0.001),
        (timedelta(days=1), 86_400_000),
        # Longer than anybody waits: no limit, rather than an overflow somewhere below.
        (1e12, NO_LIMIT),
        (1e300, NO_LIMIT),
        (math.inf, NO_LIMIT),
        (10**400, NO_LIMIT),
        (timedelta.max, NO_LIMIT),
    ],
)
def test_g3_a_timeout_is_milliseconds_or_a_timedelta_or_no_limit(timeout: Any, milliseconds: float) -> None:
    assert to_milliseconds(timeout) == milliseconds


@pytest.mark.parametrize("timeout", [-2, -0.5, -1.0000001, -(10**400), -math.inf, math.nan, -math.nan])
def test_g3_what_is_no_length_of_time_is_a_value_error_that_says_so(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout: expected milliseconds from 0, or -1 for no limit, got"):
        to_milliseconds(timeout)


@pytest.mark.parametrize("timeout", [timedelta(milliseconds=-1), timedelta(microseconds=-1), timedelta.min])
def test_g3_a_negative_timedelta_is_a_mistake_and_no_sign_for_no_limit(timeout: timedelta) -> None:
    with pytest.raises(ValueError, match="timeout: expected a timedelta of at least 0, got"):
        to_milliseconds(timeout)


@pytest.mark.parametrize("timeout", [True, False, "100", b"100", 1j, [], object()])
def test_g3_what_is_no_number_is_a_type_error_that_names_its_type(timeout: object) -> None:
    with pytest.raises(TypeError, match=f"timeout: expected milliseconds .*, got {type(timeout).__name__}"):
        to_milliseconds(timeout)


@given(st.floats() | st.integers())
def test_g3_any_number_is_a_limit_or_none_or_refused(timeout: float) -> None:
    if timeout >= 0 or timeout == -1:
        milliseconds = to_milliseconds(timeout)
        assert milliseconds in (timeout, NO_LIMIT)
    else:
        with pytest.raises(ValueError, match="timeout"):
            to_milliseconds(timeout)


CALLS: Final[dict[str, Callable[[gnet.Socket, Any], Any]]] = {
    "recv": lambda ours, timeout: ours.recv(5, timeout),
    "recv_into": lambda ours, timeout: ours.recv_into(bytearray(5), timeout=timeout),
    "read_line": lambda ours, timeout: ours.read_line(timeout),
    "lines": lambda ours, timeout: next(ours.lines(timeout=timeout)),
    "recv_some": lambda ours, timeout: ours.recv_some(5, timeout),
    "recv_exactly": lambda ours, timeout: ours.recv_exactly(5, timeout),
    "recv_until": lambda ours, timeout: ours.recv_until(b"\n", timeout=timeout),
    "peek": lambda ours, timeout: ours.peek(5, timeout),
    "skip": lambda ours, timeout: ours.skip(5, timeout),
    "send": lambda ours, timeout: ours.send(b"data", timeout=timeout),
    "flush": lambda ours, timeout: ours.flush(timeout),
    "close": lambda ours, timeout: ours.close(timeout=timeout),
    "accept": lambda ours, timeout: ours.accept(timeout=timeout),
    "accept_addr": lambda ours, timeout: ours.accept_addr(timeout=timeout),
    "connect": lambda ours, timeout: ours.connect("127.0.0.1", 1, timeout),
    "the property": lambda ours, timeout: setattr(ours, "timeout", timeout),
    "deadline": lambda ours, timeout: gnet.deadline(timeout).__enter__(),
    "dial": lambda ours, timeout: gnet.dial("127.0.0.1", 1, timeout=timeout),
}
_READS: Final = [name for name in CALLS if name in ("lines", "read_line", "peek", "skip") or "recv" in name]


@pytest.mark.parametrize("name", CALLS)
def test_g3_every_call_refuses_what_is_no_timeout_before_it_does_anything(name: str) -> None:
    with connection() as (ours, peer):
        for timeout in (math.nan, -2, timedelta(seconds=-1)):
            with pytest.raises(ValueError, match="timeout"):
                CALLS[name](ours, timeout)
        for timeout in (True, "100"):
            with pytest.raises(TypeError, match="timeout"):
                CALLS[name](ours, timeout)
        peer.sendall(b"line\n")
        assert ours.read_line() == b"line"
        ours.send(b"not data")
        assert peer.recv(100) == b"not data"


@pytest.mark.parametrize("name", _READS)
def test_g3_a_timeout_of_0_takes_what_is_there_and_never_waits(name: str) -> None:
    with connection() as (ours, peer):
        with pytest.raises(gnet.TimeoutError), elapsed() as milliseconds:
            CALLS[name](ours, 0)
        assert milliseconds() < LATE
        peer.sendall(b"line\n")
        ours.peek(1)  # it has arrived
        assert CALLS[name](ours, 0) in (b"line\n", b"line", 5)


@pytest.mark.parametrize("timeout", [1e300, math.inf, timedelta.max, -1, None])
def test_g3_no_limit_and_a_limit_beyond_all_time_arm_no_timer(timeout: Any) -> None:
    with connection() as (ours, peer):
        ours.timeout = timeout
        before = len(running_timeouts())
        reader = waiting(ours.read_line, timeout)
        assert len(running_timeouts()) == before
        peer.sendall(b"line\n")
        assert reader.get(timeout=GUARD / 1000) == b"line"


def test_g3_none_means_the_timeout_of_the_socket() -> None:
    with connection() as (ours, _):
        ours.timeout = SOON
        for call in (ours.read_line, lambda: ours.recv(5), lambda: next(ours.lines()), lambda: ours.peek(5)):
            with pytest.raises(gnet.TimeoutError, match=f"within {SOON} ms"):
                call()
        ours.timeout = timedelta(seconds=1)
        assert ours.timeout == 1000
        ours.timeout = None
        assert ours.timeout == -1


# Deadline


def test_a_deadline_starts_its_timer_at_the_first_wait_only() -> None:
    deadline = Deadline(123_456)
    assert not armed_timers(123_456)
    deadline.arm()
    (timer,) = armed_timers(123_456)
    deadline.arm()
    assert armed_timers(123_456) == [timer], "it has started another one, or this one anew"
    assert deadline.owns(timer)
    deadline.close()
    assert not armed_timers(123_456)


def test_a_deadline_knows_its_own_end_from_that_of_another() -> None:
    mine, other = Deadline(SOON), Deadline(SOON)
    mine.arm()
    other.arm()
    with pytest.raises(gevent.Timeout) as first:
        Event().wait()
    assert mine.owns(first.value) != other.owns(first.value)
    assert not mine.owns(gevent.Timeout())
    mine.close()
    other.close()


def test_a_deadline_without_a_limit_has_no_timer() -> None:
    deadline = Deadline(NO_LIMIT)
    before = len(running_timeouts())
    deadline.arm()
    assert len(running_timeouts()) == before
    assert not deadline.owns(gevent.Timeout())
    deadline.close()


def test_the_error_of_a_deadline_says_what_was_not_done_in_how_long() -> None:
    error = Deadline(1500).error("recv from 127.0.0.1:80", bytes_sent=7)
    assert str(error) == "recv from 127.0.0.1:80: not done within 1500 ms"
    assert error.bytes_sent == 7
    assert isinstance(error, TimeoutError)


def test_a_wait_that_comes_after_a_long_computation_has_its_whole_time() -> None:
    # The loop's idea of "now" is from before it.
    with connection() as (ours, peer):
        reader = waiting(ours.read_line)
        peer.sendall(b"line\n")
        reader.get(timeout=GUARD / 1000)  # switched to from the loop
        hold_up_the_hub(3 * SOON)
        with elapsed() as milliseconds, pytest.raises(gnet.TimeoutError):
            ours.read_line(2 * SOON)
        assert milliseconds() >= 1.9 * SOON


def test_a_read_in_the_turn_of_its_data_has_its_whole_time_after_a_long_computation() -> None:
    took = []

    def read() -> None:
        ours.read_line()
        hold_up_the_hub(3 * SOON)  # the loop stands in the event that woke this one
        with elapsed() as milliseconds, suppress(gnet.TimeoutError):
            ours.read_line(2 * SOON)
        took.append(milliseconds())

    with connection() as (ours, peer):
        reader = waiting(read)
        peer.sendall(b"line\n")
        reader.get(timeout=GUARD / 1000)
        assert took[0] >= 1.9 * SOON


# deadline(): a block


def test_a_block_that_is_over_in_time_is_left_alone() -> None:
    with gnet.deadline(SOON):
        pass
    with gnet.deadline(GUARD):
        gevent.sleep(0)
    with gnet.deadline(-1), gnet.deadline(None):
        gevent.sleep(0)


def test_whatever_waits_in_a_block_is_ended_and_not_only_calls_of_gnet() -> None:
    left, right = socket.socketpair()
    with left, right:
        for wait in (Event().wait, lambda: gevent.sleep(GUARD), lambda: left.recv(1)):
            text = f"deadline block: not done within {SOON} ms"
            with pytest.raises(gnet.TimeoutError, match=text), gnet.deadline(SOON):
                wait()


def test_a_block_with_timeout_0_is_ended_by_its_first_wait() -> None:
    done = []
    with pytest.raises(gnet.TimeoutError), gnet.deadline(0):  # noqa: PT012
        done.append("computed")
        Event().wait()
        done.append("waited")
    assert done == ["computed"]


def test_a_block_that_computes_and_never_waits_is_not_cut() -> None:
    with gnet.deadline(SOON):
        hold_up_the_hub(3 * SOON)
    gevent.sleep(0)  # and nothing of it comes later
    assert not armed_timers(SOON)


def test_what_a_call_had_received_when_its_block_ended_stays_readable() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"half a ")
        with pytest.raises(gnet.TimeoutError), gnet.deadline(SOON):
            ours.read_line()
        peer.sendall(b"line\n")
        assert ours.read_line() == b"half a line"


def test_the_end_of_a_callers_own_timeout_passes_through_a_block() -> None:
    with gevent.Timeout(SOON / 1000) as mine:
        with pytest.raises(gevent.Timeout) as info, gnet.deadline(GUARD):
            Event().wait()
        assert info.value is mine


def test_an_error_in_a_block_passes_through_it_untouched() -> None:
    error = OSError(5, "mine")
    with pytest.raises(OSError, match="mine") as info, gnet.deadline(GUARD):
        raise error
    assert info.value is error
    assert error.__cause__ is None


def test_a_block_in_another_greenlet_is_none_of_this_ones_business() -> None:
    def other() -> None:
        with pytest.raises(gnet.TimeoutError), gnet.deadline(SOON):
            Event().wait()

    greenlet = gevent.spawn(other)
    with gnet.deadline(GUARD):
        greenlet.get()


# Deadlines and data


@pytest.mark.parametrize("name", _READS)
def test_every_read_ends_within_its_timeout(name: str) -> None:
    with connection() as (ours, _), elapsed() as milliseconds:
        with pytest.raises(gnet.TimeoutError, match=rf"from .*: not done within {SOON} ms") as info:
            CALLS[name](ours, SOON)
        assert SOON * 0.9 <= milliseconds() < LATE
        assert info.value.__cause__ is None


def test_a_timeout_is_for_the_whole_line_and_not_for_each_piece() -> None:
    with connection() as (ours, peer):
        dripping = gevent.spawn(lambda: [(peer.sendall(b"x"), gevent.sleep(0.01)) for _ in range(1000)])
        with elapsed() as milliseconds, pytest.raises(gnet.TimeoutError):
            ours.read_line(timeout=100)
        assert milliseconds() < 500
        dripping.kill()
        assert ours.has_data_buffered()


class _EndlessTransport(ScriptedTransport):
    """Always has all that is asked for, at some 250 MB/s."""

    def __init__(self) -> None:
        super().__init__()
        self._end = time.monotonic() + 5 * LATE / 1000

    def receive(self, size: int) -> bytes:
        assert time.monotonic() < self._end, "no end to it"
        hold_up_the_hub(1)
        return bytes(size)


ENDLESS: Final[dict[str, Callable[[StreamReader, float], Any]]] = {
    "recv": lambda reader, timeout: reader.recv(10**10, timeout, True),
    "recv_exactly": lambda reader, timeout: reader.recv_exactly(10**10, timeout),
    "recv_until": lambda reader, timeout: reader.recv_until(b"y", 10**10, timeout),
    "skip": lambda reader, timeout: reader.skip(10**10, timeout, True),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_read_lets_others_run_and_ends_in_time_although_data_never_stops(name: str) -> None:
    transport = _EndlessTransport()
    reader = StreamReader(transport, StreamWriter(transport))
    with elapsed() as milliseconds, pytest.raises(gnet.TimeoutError):
        ENDLESS[name](reader, SOON)
    assert "yield" in transport.log
    assert milliseconds() < 4 * LATE  # 64 more receives, of a millisecond each, are allowed


# G1: the wall clock jumps

_CLOCK_SHIM: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

/* Moves the wall clock, and no other, by the seconds that a file says. */
static long moved(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_MOVED_BY"), "r");
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += moved();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += moved();
    return result;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""

_CLOCK_JUMPS: Final = r"""
import os, sys, time
import gevent, gnet
from gevent import socket

moved_by = int(sys.argv[1])
ours, peer = socket.socketpair()
ours = gnet.Socket.adopt(ours)

def jump():
    before = time.time()
    with open(os.environ["CLOCK_MOVED_BY"], "w") as file:
        file.write(str(moved_by))
    assert abs(time.time() - before - moved_by) < 60, "the wall clock has not moved"

def block(milliseconds):
    with gnet.deadline(milliseconds):
        gevent.sleep(60)

for call in (ours.read_line, block):
    with open(os.environ["CLOCK_MOVED_BY"], "w") as file:
        file.write("0")
    gevent.spawn_later(0.1, jump)
    start = time.monotonic()
    try:
        call(300)
    except gnet.TimeoutError:
        print(round((time.monotonic() - start) * 1000))
"""


@pytest.fixture(scope="module")
def clock_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clock")
    source, shim = directory / "shim.c", directory / "shim.so"
    source.write_text(_CLOCK_SHIM)
    gcc = require_program("gcc")
    subprocess.run([gcc, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl"], check=True)
    return shim


@pytest.mark.parametrize("moved_by", [3600, -3600])
def test_g1_a_jump_of_the_wall_clock_moves_no_deadline(
    clock_shim: Path, tmp_path: Path, moved_by: int
) -> None:
    done = subprocess.run(
        [*_python(), _script(tmp_path, _CLOCK_JUMPS), str(moved_by)],
        cwd=_ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": str(clock_shim),
            "CLOCK_MOVED_BY": str(tmp_path / "moved"),
            "PYTHONPATH": str(_ROOT),
        },
        capture_output=True,
        timeout=GUARD / 1000,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    took = [int(line) for line in done.stdout.split()]
    assert len(took) == 2
    assert all(270 <= milliseconds < 1500 for milliseconds in took)


def _python() -> list[str]:
    """Give the start of a command line for a process of this one's kind."""
    return [sys.executable, "-m", "gevent.monkey"] if PATCHED else [sys.executable]


def _script(directory: Path, text: str) -> str:
    path = directory / "program.py"
    path.write_text(text)
    return str(path)


# G2: the process stands still

_STOPPED: Final = r"""
import sys, time
import gevent, gnet
from gevent import socket

port = int(sys.argv[1])
with_data, without = (gnet.dial("127.0.0.1", port) for _ in range(2))
results = []
later = []

def read(name, ours):
    try:
        results.append((name, ours.read_line(timeout=500)))
    except gnet.TimeoutError:
        results.append((name, "timeout"))
    # Nothing of a timeout that is over may come again.
    try:
        ours.read_line(timeout=1000)
    except gnet.TimeoutError:
        later.append(name)

readers = [gevent.spawn(read, "data", with_data), gevent.spawn(read, "nothing", without)]
gevent.sleep(0)
print("waiting", flush=True)
gevent.joinall(readers, raise_error=True)
print(results, sorted(later))
"""


def test_g2_after_a_standstill_data_comes_first_and_each_timeout_once(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        command = [*_python(), _script(tmp_path, _STOPPED), str(server.getsockname()[1])]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        with ExitStack() as stack:
            child = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, env=environment))
            stack.callback(child.kill)
            peers = [stack.enter_context(server.accept()[0]) for _ in range(2)]
            assert child.stdout.readline() == b"waiting\n"
            child.send_signal(signal.SIGSTOP)
            peers[0].sendall(b"line\n")
            gevent.sleep(2)  # that is what this is about: no one can be told when the other one stands still
            child.send_signal(signal.SIGCONT)
            assert child.stdout.read().decode().strip() == (
                "[('data', b'line'), ('nothing', 'timeout')] ['data', 'nothing']"
            )


# G4: the hub is late, and what the call waits for is in the kernel


@contextmanager
def listening() -> Iterator[gnet.Socket]:
    with gnet.new_socket() as server:
        server.bind_addr(address="127.0.0.1")
        server.listen()
        yield server


READS_OF_A_MEGABYTE: Final[dict[str, Callable[[gnet.Socket], Any]]] = {
    "recv_exactly": lambda ours: ours.recv_exactly(1_000_000, SOON),
    "recv_until": lambda ours: ours.recv_until(b"\n", 1_000_000, SOON),
    "read_line": lambda ours: ours.read_line(SOON) + b"\n",
    "lines": lambda ours: next(ours.lines(1_000_000, SOON)) + b"\n",
    "skip": lambda ours: b"x" * (ours.skip(1_000_000, SOON) - 1) + b"\n",
}


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("name", READS_OF_A_MEGABYTE)
def test_g4_a_megabyte_that_is_in_the_kernel_wins_over_the_timeout(name: str, buffered: bool) -> None:
    data = b"x" * 999_999 + b"\n"
    with connection(buffered=buffered) as (ours, peer):
        reader = waiting(READS_OF_A_MEGABYTE[name], ours)
        peer.setblocking(False)
        assert peer.send(data) == len(data), "the kernel does not take this much at once"
        hold_up_the_hub(3 * SOON)
        assert reader.get(timeout=GUARD / 1000) == data


def test_g4_a_line_that_is_in_the_kernel_wins_over_the_timeout() -> None:
    with connection() as (ours, peer):
        reader = waiting(ours.read_line, SOON)
        peer.sendall(b"line\n")
        hold_up_the_hub(3 * SOON)
        assert reader.get(timeout=GUARD / 1000) == b"line"


def test_g4_an_end_of_stream_that_is_in_the_kernel_wins_over_the_timeout() -> None:
    with connection() as (ours, peer):
        reader = waiting(ours.read_line, SOON)
        peer.close()
        hold_up_the_hub(3 * SOON)
        assert reader.get(timeout=GUARD / 1000) == b""


@pytest.mark.parametrize("count", [1, 3])
def test_g4_connections_that_are_in_the_kernel_win_over_the_timeouts(count: int) -> None:
    with listening() as server, ExitStack() as stack:
        accepting = [waiting(server.accept, timeout=SOON) for _ in range(count)]
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.get_local_addr())
        hold_up_the_hub(3 * SOON)
        for greenlet in accepting:
            greenlet.get(timeout=GUARD / 1000).close()


@pytest.mark.parametrize("count", [1, 3])
def test_g4_datagrams_that_are_in_the_kernel_win_over_the_timeouts(count: int) -> None:
    with gnet.new_socket(gnet.AF_INET, gnet.SOCK_DGRAM, gnet.IPPROTO_UDP) as ours:
        ours.bind_addr(address="127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            receiving = [waiting(ours.recv_from, 100, timeout=SOON) for _ in range(count)]
            for _ in range(count):
                peer.sendto(b"datagram", ours.get_local_addr())
            hold_up_the_hub(3 * SOON)
            for greenlet in receiving:
                assert greenlet.get(timeout=GUARD / 1000)[0] == b"datagram"


def test_g4_a_connection_that_stands_wins_over_the_timeout() -> None:
    with socket.socket() as server, gnet.new_socket() as ours:
        server.bind(("127.0.0.1", 0))
        server.listen()
        connecting = waiting(ours.connect, *server.getsockname(), timeout=SOON)
        hold_up_the_hub(3 * SOON)
        connecting.get(timeout=GUARD / 1000)
        server.accept()[0].close()
        assert ours.read_line(GUARD) == b""


def receive_all_that_is_there(peer: socket.socket) -> int:
    """Receive without a turn of the loop, so that the sender can not go on meanwhile."""
    received = 0
    peer.setblocking(False)
    with suppress(BlockingIOError):
        while part := peer.recv(1 << 20):
            received += len(part)
    peer.settimeout(GUARD / 1000)
    return received


WRITES: Final[dict[str, Callable[[gnet.Socket, bytes], None]]] = {
    "send": lambda ours, data: ours.send(data, timeout=SOON),
    "flush": lambda ours, data: ours.flush(SOON) if ours.try_send(data) else None,
    "close": lambda ours, data: ours.close(timeout=SOON) if ours.try_send(data) else None,
}


@pytest.mark.parametrize("name", WRITES)
def test_g4_room_that_is_in_the_kernel_wins_over_the_timeout(name: str) -> None:
    left, peer = socket.socketpair()
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000)
    size = 150_000  # more than the kernel takes at once, but not more than that twice
    with gnet.Socket.adopt(left) as ours, peer:
        sender = waiting(WRITES[name], ours, b"x" * size)
        received = receive_all_that_is_there(peer)
        assert 0 < received < size
        hold_up_the_hub(3 * SOON)
        sender.get(timeout=GUARD / 1000)
        assert received + len(receive_exactly(peer, size - received)) == size


def test_g4_a_datagram_that_has_room_wins_over_the_timeout() -> None:
    left, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with gnet.Socket.adopt(left) as ours, peer:
        while ours.try_send(b"filling"):
            pass
        sender = waiting(ours.send, b"datagram", timeout=SOON)
        receive_all_that_is_there(peer)
        hold_up_the_hub(3 * SOON)
        sender.get(timeout=GUARD / 1000)
        assert peer.recv(100) == b"datagram"


# What deadlines cost


def test_calls_that_need_not_wait_touch_no_timer() -> None:
    with connection() as (ours, peer):
        peer.sendall(b"line\n" * 100)
        ours.peek(500)
        watchers = active_watchers()
        for _ in range(100):
            assert ours.read_line(timeout=4321) == b"line"
        ours.send(b"data", timeout=4321)
        ours.flush(4321)
        assert not armed_timers(4321)
        assert active_watchers() == watchers
