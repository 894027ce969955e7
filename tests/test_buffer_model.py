"""gnet.buffers against a model: any sequence of calls on a buffer, and the same on plain bytes.

The model is what the docstrings say, in the most obvious way and at any cost: all that was fed as one `bytes`
object, how much of it was taken, and a regular expression for each of the two kinds of lines.

Two drivers walk through it. Walks of plain `random` are quicker to find a difference; Hypothesis says a short
way to it. For a long hunt, set the number of walks (Hypothesis makes a tenth as many):
`GNET_TEST_WALKS=100000 python -m pytest tests/test_buffer_model.py`.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gnet.buffers import LimitReachedError, ReadBuffer, WriteQueue

_WALKS: Final = int(os.environ.get("GNET_TEST_WALKS", "2000"))

pytestmark = [
    pytest.mark.plain_only,  # pure code: nothing that patching could change
    # Hypothesis takes up to five minutes to make a failure short. A hunt takes what it takes.
    pytest.mark.timeout(0 if "GNET_TEST_WALKS" in os.environ else 400),
]

_T = TypeVar("_T")

# The model: the two kinds of lines

_NIM_LINE: Final = re.compile(rb"([^\r\n]*)(\r\n|\n|\r)")
_PY_LINE: Final = re.compile(rb"([^\n]*)\n")


def nim_lines(data: bytes, final: bool) -> Iterator[tuple[bytes, int]]:
    """Give each complete line of Nim's kind without its terminator, and its size with it."""
    for match in _NIM_LINE.finditer(data):
        if match[2] == b"\r" and match.end() == len(data) and not final:
            return  # its LF may still come
        yield match[1], len(match[0])


def py_lines(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Give each complete line that LF or CRLF ends without its terminator, and its size with it."""
    for match in _PY_LINE.finditer(data):
        yield match[1].removesuffix(b"\r"), len(match[0])


def surely_in_line(data: bytes) -> int:
    """How many bytes of an incomplete line are no part of its terminator, whatever comes."""
    return len(data) - data.endswith(b"\r")


def fewest_missing(data: bytes, delimiter: bytes) -> int:
    """How many bytes must come at least until `delimiter`, which is not in `data`, is complete."""
    return min(len(delimiter) - n for n in range(len(delimiter)) if data.endswith(delimiter[:n]))


def answer_or_limit(call: Callable[..., _T], *arguments: Any) -> _T | LimitReachedError:
    try:
        return call(*arguments)
    except LimitReachedError as limit:
        return limit


# What is drawn

_DELIMITERS: Final = [b"\r\n", b"\n", b"\r", b"|", b"\n\r", b"aa", b"\r\n\r", b"ab|"]
_PIECES: Final = [b"\r", b"\n", b"\r\n", b"\r\r\n", b"\n\r", b"a", b"ab", b"|", b"\0"]
_UNITS: Final = [
    b"a",
    b"\n",
    b"\r",
    b"\r\n",
    b"\r\r\n",
    b"\n\r",
    b"a\r",
    b"ab\n",
    b"ab\r\n",
    b"a\rb\n",
    b"x" * 79 + b"\n",
    b"x" * 109 + b"\r\n" + b"y" * 110 + b"\n",
    b"x" * 200 + b"\r\n",
    b"x" * 200 + b"\r" + b"y" * 200 + b"\r\n",
    b"x" * 5000 + b"\r\n",
]
# On both sides of what the buffer joins (4,096) and of what it splits ahead (2,048 to 32,768).
_SIZES: Final = [256, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 32766, 32767, 32768, 32769, 40_000]

# Arrivals before the stream may end or be dropped; else most walks would be short.
_EARLIEST_END: Final = 4

mixed_ends = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=14).map(b"".join)
long_runs = st.builds(
    lambda unit, size: (unit * (size // len(unit) + 1))[:size],
    st.sampled_from(_UNITS),
    st.sampled_from(_SIZES) | st.integers(1, 20_000),
)
delimiters = st.sampled_from(_DELIMITERS)
small_sizes = st.integers(0, 9)
sizes = small_sizes | small_sizes | st.sampled_from(_SIZES)
limits = st.sampled_from([1_000_000, 65536, 80]) | st.integers(0, 9) | st.sampled_from(_SIZES)


class ReadBufferMachine(RuleBasedStateMachine):
    """Every call of `ReadBuffer`, each answer compared with that of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = ReadBuffer()
        self.arrivals = 0
        self.fed = b""
        self.position = 0  # of `fed`: what was taken
        self.eof = False
        self.held: list[bytes] = []  # the list that ready_lines() gave last
        self.held_bare_cr = False
        self.handed_out = 0  # lines and takes
        self.nim_ready = self.buffer.nim_ready

    def rest(self) -> bytes:
        return self.fed[self.position :]

    def lines(self, bare_cr: bool) -> Iterator[tuple[bytes, int]]:
        return nim_lines(self.rest(), self.eof) if bare_cr else py_lines(self.rest())

    def expect(self, answer: object, size: int) -> None:
        """Compare with the next `size` bytes, and take them in the model, too."""
        assert type(answer) is bytes
        assert answer == self.fed[self.position : self.position + size]
        self.position += len(answer)
        self.handed_out += 1

    # What arrives

    # Three rules, so that there is mostly something to take.

    @precondition(lambda self: not self.eof)
    @rule(data=mixed_ends)
    def feed(self, data: bytes) -> None:
        self.buffer.feed(data)
        self.fed += data
        self.arrivals += 1

    @precondition(lambda self: not self.eof)
    @rule(data=mixed_ends)
    def feed_byte_by_byte(self, data: bytes) -> None:
        for byte in data:
            self.feed(bytes([byte]))

    @precondition(lambda self: not self.eof)
    @rule(start=mixed_ends, run=long_runs, end=mixed_ends)
    def feed_a_long_run(self, start: bytes, run: bytes, end: bytes) -> None:
        self.feed(start + run + end)

    @precondition(lambda self: not self.eof and self.arrivals >= _EARLIEST_END)
    @rule()
    def feed_eof(self) -> None:
        self.buffer.feed_eof()
        self.eof = True

    @precondition(lambda self: self.arrivals >= _EARLIEST_END)
    @rule()
    def clear(self) -> None:
        self.buffer.clear()
        self.position = len(self.fed)
        assert self.held == []

    # Looking

    @rule()
    def length(self) -> None:
        assert len(self.buffer) == len(self.rest())

    @rule(size=sizes)
    def peek(self, size: int) -> None:
        shown = self.buffer.peek(size)
        assert type(shown) is bytes
        assert shown == self.rest()[:size]

    # Bytes

    @rule(size=sizes)
    def take(self, size: int) -> None:
        self.expect(self.buffer.take(size), size)

    @rule(size=sizes)
    def take_exactly(self, size: int) -> None:
        answer = self.buffer.take_exactly(size)
        if len(self.rest()) < size:
            assert answer is None
        else:
            self.expect(answer, size)

    @rule(size=sizes)
    def take_into(self, size: int) -> None:
        target = bytearray(b"?" * size)
        count = self.buffer.take_into(memoryview(target))
        assert count == min(size, len(self.rest()))
        assert target[count:] == b"?" * (size - count)
        self.expect(bytes(target[:count]), size)

    @rule(size=sizes)
    def discard(self, size: int) -> None:
        count = self.buffer.discard(size)
        assert count == min(size, len(self.rest()))
        self.position += count

    @rule(delimiter=delimiters, limit=limits)
    def take_until(self, delimiter: bytes, limit: int) -> None:
        data = self.rest()
        end = data.find(delimiter) + len(delimiter) if delimiter in data else None
        answer = answer_or_limit(self.buffer.take_until, delimiter, limit)
        if isinstance(answer, LimitReachedError):
            earliest_end = end or len(data) + fewest_missing(data, delimiter)
            assert earliest_end > limit
            assert (answer.seen, answer.limit) == (end or len(data), limit)
        elif end is None:
            assert answer is None
            assert len(data) < limit, "a message that long can only get too long"
        else:
            assert end <= limit
            self.expect(answer, end)

    # Lines

    def expect_line(self, line: bytes | None, limit: int, final: bool) -> None:
        data = self.rest()
        content, size = next(nim_lines(data, final), (None, 0))
        if limit == 0:
            assert line == b""
        elif content is not None and len(content) <= limit:
            assert type(line) is bytes
            assert line == (content or b"\r\n")
            self.position += size
            self.handed_out += 1
        elif content is not None or surely_in_line(data) > limit:
            self.expect(line, limit)
        else:
            assert line is None

    @rule(limit=limits)
    def take_line(self, limit: int) -> None:
        self.expect_line(self.buffer.take_line(limit), limit, self.eof)

    @rule(count=st.integers(2, 9), limit=limits)
    def take_lines_in_a_row(self, count: int, limit: int) -> None:
        for _ in range(count):
            self.take_line(limit)

    @rule(limit=limits)
    def take_ready_line(self, limit: int) -> None:
        line = self.buffer.take_ready_line(limit)
        if line is not None:
            self.expect_line(line, limit, self.eof)

    @precondition(lambda self: self.buffer.nim_ready)
    @rule(count=st.integers(1, 9))
    def pop_nim_ready_lines(self, count: int) -> None:
        for _ in range(min(count, len(self.buffer.nim_ready))):
            line = self.buffer.nim_ready.pop() or b"\r\n"
            self.expect_line(line, len(line), self.eof)

    @rule(limit=limits)
    def take_last_line(self, limit: int) -> None:
        self.expect_line(self.buffer.take_last_line(limit), limit, True)

    @rule(limit=limits, bare_cr=st.booleans(), count=st.integers(0, 5) | st.just(100_000))
    def ready_lines(self, limit: int, bare_cr: bool, count: int) -> None:
        first, _ = next(self.lines(bare_cr), (None, 0))
        seen = surely_in_line(self.rest()) if first is None else len(first)
        answer = answer_or_limit(self.buffer.ready_lines, limit, bare_cr)
        if seen > limit:
            assert isinstance(answer, LimitReachedError)
            assert answer.limit == limit < answer.seen
        elif first is None:
            assert answer is None
        else:
            assert answer
            assert not isinstance(answer, LimitReachedError)
            assert max(map(len, answer)) <= limit
            self.held, self.held_bare_cr = answer, bare_cr
            self.pop_held_lines(count)

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 5))
    def pop_held_lines(self, count: int) -> None:
        expected = self.lines(self.held_bare_cr)
        popped = 0
        while self.held and count:
            content, size = next(expected)
            line = self.held.pop()
            assert type(line) is bytes
            assert line == content
            popped += size
            self.handed_out += 1
            count -= 1
        self.position += popped

    # What always holds

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self) -> None:
        assert self.buffer.has_data() == bool(self.rest())
        assert self.buffer.eof == self.eof
        # A copy, as to ask the buffer itself would bring it back into its simplest state.
        assert copy.deepcopy(self.buffer).take(len(self.fed) + 1) == self.rest()

    @invariant()
    def work_counts_every_line_and_take(self) -> None:
        assert self.buffer.work >= self.handed_out

    @invariant()
    def a_list_of_ready_lines_holds_the_next_lines_or_nothing(self) -> None:
        expected = self.lines(self.held_bare_cr)
        for line in reversed(self.held):
            assert line == next(expected)[0]

    @invariant()
    def lines_split_ahead_are_the_next_lines_in_always_the_same_list(self) -> None:
        assert self.buffer.nim_ready is self.nim_ready
        expected = self.lines(bare_cr=True)
        for line in reversed(self.nim_ready):
            assert line == next(expected)[0]


def test_a_read_buffer_answers_like_plain_bytes_and_a_position() -> None:
    run_state_machine_as_test(
        ReadBufferMachine,
        settings=settings(
            max_examples=max(200, _WALKS // 10),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# Random walks

_STEPS: Final = 60


def random_run(random: Random) -> bytes:
    unit = random.choice(_UNITS)
    size = random.choice([*_SIZES, random.randint(1, 20_000)])
    return (unit * (size // len(unit) + 1))[:size]


def walk(seed: int) -> None:
    """Make some random calls, of kinds that are mostly few and differ from walk to walk."""
    random = Random(seed)
    machine = ReadBufferMachine()
    largest = random.choice([3, 9, 9, 300])
    far = random.choice([0, 0, 0.1, 0.4])

    def mixed() -> bytes:
        return b"".join(random.choices(_PIECES, k=random.randint(1, 14)))

    def size() -> int:
        return random.choice(_SIZES) if random.random() < far else random.randint(0, largest)

    def limit() -> int:
        return random.choice([1_000_000, 1_000_000, 65536, 80, size()])

    calls: list[tuple[float, Callable[[], None]]] = [
        (2, lambda: machine.feed(mixed())),
        (1, lambda: machine.feed_byte_by_byte(mixed())),
        (far, lambda: machine.feed_a_long_run(mixed(), random_run(random), mixed())),
        (0.05, machine.feed_eof),
        (0.1, machine.clear),
        (1, machine.length),
        (1, lambda: machine.peek(size())),
        (1, lambda: machine.take(size())),
        (1, lambda: machine.take_exactly(size())),
        (1, lambda: machine.take_into(size())),
        (1, lambda: machine.discard(size())),
        (1, lambda: machine.take_until(random.choice(_DELIMITERS), limit())),
        (2, lambda: machine.take_line(limit())),
        (2, lambda: machine.take_lines_in_a_row(random.randint(2, 9), limit())),
        (1, lambda: machine.take_ready_line(limit())),
        (1, lambda: machine.take_last_line(limit())),
        (1, lambda: machine.pop_nim_ready_lines(random.randint(1, 9))),
        (2, lambda: machine.ready_lines(limit(), random.random() < 0.5, random.choice([0, 1, 2, 100_000]))),
        (1, lambda: machine.pop_held_lines(random.randint(1, 5))),
    ]
    weights = [weight * random.choice([0, 1, 1, 3]) for weight, _ in calls]
    weights[0] += 1  # something must come
    for _, call in random.choices(calls, weights, k=_STEPS):
        if not machine.eof or call not in (calls[0][1], calls[1][1], calls[2][1]):
            call()
        machine.nothing_is_lost_and_nothing_comes_twice()
        machine.work_counts_every_line_and_take()
        machine.a_list_of_ready_lines_holds_the_next_lines_or_nothing()
        machine.lines_split_ahead_are_the_next_lines_in_always_the_same_list()


def test_random_walks_find_no_difference_from_plain_bytes_and_a_position() -> None:
    for seed in range(_WALKS):
        try:
            walk(seed)
        except AssertionError as error:
            raise AssertionError(f"walk({seed}): {error}") from error


class WriteQueueMachine(RuleBasedStateMachine):
    """Every call of `WriteQueue`, each answer compared with plain bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = WriteQueue()
        self.waiting = b""
        self.went = 0  # since the queue was last empty

    @rule(data=st.binary(max_size=20))
    def append(self, data: bytes) -> None:
        self.queue.append(data)
        if not self.waiting:
            self.went = 0
        self.waiting += data

    @rule()
    def joined(self) -> None:
        joined = self.queue.joined()
        assert isinstance(joined, bytes | memoryview)
        assert joined == self.waiting

    @rule(share=st.floats(0, 1), meanwhile=st.binary(max_size=5))
    def send_some(self, share: float, meanwhile: bytes) -> None:
        """Send as a socket does: `joined`, a system call while others may append, `discard`."""
        joined = self.queue.joined()
        assert joined == self.waiting
        sent = round(len(joined) * share)
        self.append(meanwhile)
        self.queue.discard(sent)
        self.waiting = self.waiting[sent:]
        self.went += sent

    @rule()
    def clear(self) -> None:
        self.queue.clear()
        self.waiting = b""

    @invariant()
    def the_size_is_that_of_what_waits(self) -> None:
        assert self.queue.size == len(self.waiting)
        assert not self.waiting or self.queue.went == self.went
        assert b"".join(self.queue.pieces) == self.waiting


def test_a_write_queue_answers_like_plain_bytes() -> None:
    run_state_machine_as_test(
        WriteQueueMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
