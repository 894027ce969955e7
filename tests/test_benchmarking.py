"""The parts of `python -m gnet bench` that need no server: plans, answers, drawing, progress, alarms."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

import gnet
from gnet.benchmarking import alarms
from gnet.benchmarking.alarms import Alarm
from gnet.benchmarking.answers import Answers
from gnet.benchmarking.drawing import draw
from gnet.benchmarking.failures import Failures, kind_of
from gnet.benchmarking.outcome import Outcome
from gnet.benchmarking.plan import Plan, Target, line_option
from gnet.benchmarking.progress import ProgressLine
from gnet.benchmarking.schedule import Schedule
from gnet.histogram import Histogram

# The server


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("localhost:7000", Target("localhost", 7000)),
        ("192.0.2.1:1", Target("192.0.2.1", 1)),
        ("[::1]:65535", Target("::1", 65535)),
        ("unix:/run/app.sock", Target("", 0, "/run/app.sock")),
        ("unix:a:b", Target("", 0, "a:b")),
    ],
)
def test_a_server_is_read_and_shown_as_it_was_given(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "HOST:PORT"),
        ("localhost", "HOST:PORT"),
        (":7000", "HOST:PORT"),
        ("[]:7000", "HOST:PORT"),
        ("[::1]", "HOST:PORT"),
        ("::1:7000", "brackets"),
        ("localhost:", "port from 1 to 65535"),
        ("localhost:0", "port from 1 to 65535"),
        ("localhost:65536", "port from 1 to 65535"),
        ("localhost:http", "port from 1 to 65535"),
        ("localhost:²", "port from 1 to 65535"),
        ("unix:", "no path"),
        (f"unix:/{'x' * 200}", "path of 201 bytes"),
        ("local host:7000", "space"),
    ],
)
def test_what_is_no_server_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Target.parse(text)


def test_a_line_with_a_line_end_in_it_is_refused() -> None:
    with pytest.raises(ValueError, match="--line: expected one line"):
        line_option("PING\nPING", "--line")


# The plan

PLANS = st.builds(
    Plan,
    target=st.just(Target("localhost", 7000)),
    connections=st.integers(5, 1000),
    requests=st.none() | st.integers(5, 10**6),
    rate=st.none() | st.floats(0.1, 1e6),
    line=st.binary(),
    expect=st.none() | st.binary(),
)


@given(PLANS)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert "\n" not in plan.as_json()
    assert Plan.from_json(plan.as_json()) == plan


@given(PLANS, st.integers(1, 5))
def test_the_shares_of_a_plan_are_the_whole_and_nearly_alike(plan: Plan, processes: int) -> None:
    shares = plan.shares(processes)
    assert sum(share.connections for share in shares) == plan.connections
    assert max(share.connections for share in shares) - min(share.connections for share in shares) <= 1
    if plan.requests is not None:
        assert sum(share.requests or 0 for share in shares) == plan.requests
    if plan.rate is not None:
        assert sum(share.rate or 0 for share in shares) == pytest.approx(plan.rate)


# When requests are due

rates = st.floats(0.01, 1e6)
offsets = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 0.9])


@given(rates, offsets, st.integers(0, 10**6))
def test_a_request_is_due_from_its_moment_on_and_not_before(rate: float, offset: float, number: int) -> None:
    schedule = Schedule(rate, offset)
    moment = schedule.moment(number)
    assert schedule.due(moment) > number
    if rate <= 1e5:
        assert schedule.due(moment - 500) <= number


@given(st.integers(1, 5000), st.integers(1, 20), st.integers(1, 7))
def test_processes_together_have_what_is_due_in_all(rate: int, seconds: int, processes: int) -> None:
    schedules = [Schedule(rate / processes, number / processes) for number in range(processes)]
    assert sum(schedule.due_before(seconds) for schedule in schedules) == rate * seconds


# Answers


@given(
    st.lists(st.sampled_from([b"+PONG", b"-ERR", b"", b"+PONG "]), max_size=20),
    st.sampled_from([b"\n", b"\r\n"]),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_answers_do_not_depend_on_how_they_are_cut(lines: list[bytes], end: bytes, cuts: list[int]) -> None:
    wire = b"".join(line + end for line in lines)
    answers = Answers(b"+PONG")
    seen: list[bool] = []
    position = turn = 0
    while position < len(wire):
        size = cuts[turn % len(cuts)]
        count, wrong = answers.feed(wire[position : position + size])
        seen += [number not in wrong for number in range(count)]
        position, turn = position + size, turn + 1
    assert seen == [line == b"+PONG" for line in lines]


def test_the_first_wrong_answer_is_kept() -> None:
    answers = Answers(b"yes")
    assert answers.feed(b"yes\r\nno\r\nnever\n") == (3, (1, 2))
    assert answers.first_wrong == b"no"


def test_an_answer_without_an_end_is_given_up() -> None:
    answers = Answers(b"yes")
    assert answers.feed(b"x" * 1_000_000) == (0, ())
    with pytest.raises(gnet.LineTooLongError, match=r"1000001 bytes \(limit 1000000\)"):
        answers.feed(b"x")


# Failures


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), "refused"),
        (ConnectionResetError(104, "reset"), "reset"),
        (BrokenPipeError(32, "pipe"), "reset"),
        (gnet.SslError("certificate"), "TLS"),
        (gnet.TimeoutError("late"), "connect timeout"),
        (TimeoutError(110, "timed out"), "connection lost"),
        (OSError(24, "too many"), "EMFILE"),
    ],
)
def test_errors_have_kinds(error: OSError, kind: str) -> None:
    assert kind_of(error) == kind


def test_failures_are_added_up_and_the_first_message_stays() -> None:
    failures = Failures()
    failures.note("timeout", "first", 2)
    failures.add({"timeout": 3, "reset": 1}, {"timeout": "second", "reset": "third"})
    assert failures.counts == {"timeout": 5, "reset": 1}
    assert failures.messages == {"timeout": "first", "reset": "third"}
    assert failures.total == 6


# Drawing

values = st.lists(
    st.tuples(st.integers(0, 10**7) | st.integers(0, 300), st.integers(1, 10**6)), min_size=1, max_size=50
)


def histogram_of(pairs: list[tuple[int, int]]) -> Histogram:
    histogram = Histogram()
    for value, times in pairs:
        histogram.record(value, times)
    return histogram


@given(values, st.integers(60, 120), st.booleans())
def test_a_drawing_fits_and_counts_every_value(
    pairs: list[tuple[int, int]], width: int, ascii_only: bool
) -> None:
    histogram = histogram_of(pairs)
    lines = draw(histogram, width, ascii_only=ascii_only)
    assert max(map(len, lines)) <= width
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == histogram.count
    assert all(line.isascii() for line in lines) or not ascii_only


@given(values)
def test_rows_follow_each_other_from_the_least_to_the_most(pairs: list[tuple[int, int]]) -> None:
    histogram = histogram_of(pairs)
    rows = [line.split() for line in draw(histogram, 100)]
    assert all(row[1] == "–" for row in rows)
    assert [row[0] for row in rows[1:]] == [row[2] for row in rows[:-1]]
    assert float(rows[0][0]) * 1000 <= histogram.least < float(rows[0][2]) * 1000
    assert float(rows[-1][0]) * 1000 <= histogram.most < float(rows[-1][2]) * 1000


def test_bars_are_as_long_as_their_shares_of_the_longest() -> None:
    lines = draw(histogram_of([(110, 1000), (160, 500), (250, 1)]), 80)
    assert [line.count("█") for line in lines if "█" in line] == [bars := lines[0].count("█"), bars // 2]
    assert any("▏" in line and line.split()[-1] == "1" for line in lines)  # a trace of what is hardly there


def test_bars_can_be_plain_ascii() -> None:
    lines = draw(histogram_of([(110, 1000), (250, 1)]), 80, ascii_only=True)
    assert "###" in lines[0]
    assert lines[0].startswith("0.110 - 0.120 ms")


def test_no_values_are_no_drawing() -> None:
    assert draw(Histogram()) == []


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress_on(stream: io.StringIO) -> str:
    line = ProgressLine(stream)
    line.start()
    latest = Outcome()
    latest.latencies.record(1234, 10)
    total = Outcome()
    total.new_failures = 7
    line.show(latest, total)
    line.show(latest, total)
    line.end()
    return stream.getvalue()


def test_progress_on_a_terminal_is_one_line_that_changes_and_goes() -> None:
    text = progress_on(Terminal())
    assert "\n" not in text
    assert text.count("p50 1.234  p99 1.234  max 1.234 ms  errors 7") == 2
    assert text.endswith("\r\x1b[K")


def test_progress_elsewhere_is_plain_lines() -> None:
    text = progress_on(io.StringIO())
    assert text.count("\n") == 2
    assert "\r" not in text
    assert "\x1b" not in text


# Alarms


@pytest.fixture(params=["timerfd", "loop"])
def has_timerfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "loop":
        monkeypatch.setattr(alarms, "sys", SimpleNamespace(platform="another"))
    return bool(request.param == "timerfd")


def test_an_alarm_comes_when_it_is_due_and_not_before(has_timerfd: bool) -> None:
    rang = Event()
    alarm = Alarm(rang.set)
    try:
        for _ in range(3):
            moment = time.monotonic_ns() + 3_000_000
            alarm.set(moment)
            assert rang.wait(10)
            assert time.monotonic_ns() >= moment
            rang.clear()
    finally:
        alarm.close()


def test_an_alarm_does_not_come_early_when_the_loops_clock_is_late(has_timerfd: bool) -> None:
    rang = Event()
    alarm = Alarm(rang.set)
    try:
        busy_until = time.monotonic_ns() + 20_000_000
        while time.monotonic_ns() < busy_until:
            pass
        moment = time.monotonic_ns() + 5_000_000
        alarm.set(moment)
        assert rang.wait(10)
        assert time.monotonic_ns() >= moment
    finally:
        alarm.close()


def test_an_alarm_that_is_set_again_comes_at_the_last_moment_only(has_timerfd: bool) -> None:
    times = []
    alarm = Alarm(lambda: times.append(time.monotonic_ns()))
    try:
        alarm.set(time.monotonic_ns() + 10_000_000_000)
        moment = time.monotonic_ns() + 5_000_000
        alarm.set(moment)
        with gevent.Timeout(10):
            while not times:
                gevent.sleep(0.001)
        assert times[0] >= moment
        assert len(times) == 1
    finally:
        alarm.close()


def test_an_alarm_for_a_moment_that_is_over_comes_at_once(has_timerfd: bool) -> None:
    rang = Event()
    alarm = Alarm(rang.set)
    try:
        alarm.set(0)
        assert rang.wait(10)
    finally:
        alarm.close()
