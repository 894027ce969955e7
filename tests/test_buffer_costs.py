"""gnet.buffers: what it costs. Time in proportion to the bytes, work counted, memory let go of.

Where one segment holds all, the cost is counted and not measured: the segment is of a class that keeps
account of what is searched, copied and split. Fault rows C7 and C8 (many lines, many segments) compare the
processor time of a job with that of a quarter of it.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest

from gnet.buffers import LimitReachedError, ReadBuffer, WriteQueue
from gnet.compiling import is_compiled
from tests.test_buffers import (
    JOINED,
    LARGEST_BLOCK,
    NO_LIMIT,
    Lines,
    all_kinds,
    bare_cr_lines,
    filled,
    nim_kinds,
    py_lines,
    rest_of,
)

pytestmark = pytest.mark.plain_only  # pure code: nothing that patching could change

CHUNK: Final = 256 * 1024  # the largest single read of a connection
SEGMENT: Final = 64 * 1024  # where less will do

Ask = Callable[[ReadBuffer, int], "bytes | None"]

# One message by each way to take one; what ends it is LF, or ";" for the delimiter


def ask_line(buffer: ReadBuffer, limit: int) -> bytes | None:
    return buffer.take_line(limit)


def ask_python_line(buffer: ReadBuffer, limit: int, bare_cr: bool = False) -> bytes | None:
    ready = buffer.ready_lines(limit, bare_cr)
    return ready.pop() if ready else None


def ask_bare_cr_line(buffer: ReadBuffer, limit: int) -> bytes | None:
    return ask_python_line(buffer, limit, bare_cr=True)


def ask_until(buffer: ReadBuffer, limit: int) -> bytes | None:
    return buffer.take_until(b";", limit + 1)


def ask_exactly(buffer: ReadBuffer, limit: int) -> bytes | None:
    return buffer.take_exactly(limit + 1)


# C7 to C9: many lines, many segments


def cpu_seconds(run: Callable[[int], object], argument: int) -> float:
    """Give the CPU time of this process for `run(argument)`."""
    start = time.process_time()
    run(argument)
    return time.process_time() - start


def assert_linear(run: Callable[[int], object], count: int) -> None:
    """Four times as much must cost about four times as much; it would be sixteen if quadratic."""
    a_quarter = min(cpu_seconds(run, count // 4) for _ in range(2))
    # A second chance, as the machine may have been slow in just this moment.
    assert any(cpu_seconds(run, count) < 8 * a_quarter for _ in range(2))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@nim_kinds
def test_c7_a_million_blank_lines_cost_linear_time(end: bytes, lines: Lines) -> None:
    def read_blank_lines(count: int) -> None:
        found = Counter(lines(filled(end * count + b"x"), 65536))
        assert found == {b"": count}

    assert_linear(read_blank_lines, 1_000_000)


def test_c7_a_million_blank_lines_cost_linear_time_as_python_lines_in_segments() -> None:
    def read_blank_lines(count: int) -> None:
        buffer = ReadBuffer()
        found = 0
        for _ in range(count // 1000):
            buffer.feed(b"\r\n" * 1000)
            found += sum(1 for _ in py_lines(buffer, 65536))
        assert found == count

    assert_linear(read_blank_lines, 1_000_000)


@pytest.mark.parametrize("ask", [ask_line, ask_python_line, ask_bare_cr_line, ask_until, ask_exactly])
def test_c8_a_message_in_a_million_segments_of_one_byte_costs_linear_time(ask: Ask) -> None:
    end = b";" if ask is ask_until else b"\n"

    def read_one_message(count: int) -> None:
        buffer = ReadBuffer()
        for _ in range(count):
            buffer.feed(b"x")
            if ask(buffer, count) is not None:
                pytest.fail("an answer without an end")
        buffer.feed(end)
        message = ask(buffer, count)
        assert message is not None
        assert message.rstrip(end) == b"x" * count
        assert not buffer.has_data()

    assert_linear(read_one_message, 1_000_000)


@pytest.mark.parametrize(
    "ask", [ask_python_line, ask_until, lambda buffer, limit: buffer.take_until(b"\r\n", limit)]
)
def test_c8_segments_that_each_end_with_a_cr_cost_linear_time(ask: Ask) -> None:
    def read_one_message(count: int) -> None:
        buffer = ReadBuffer()
        for _ in range(count):
            buffer.feed(b"xyz\r")
            if ask(buffer, NO_LIMIT) is not None:
                pytest.fail("an answer without an end")
        buffer.feed(b"\n;")
        message = ask(buffer, NO_LIMIT)
        assert message is not None
        assert message.rstrip(b"\r\n;") == (b"xyz\r" * count)[:-1]

    assert_linear(read_one_message, 200_000)


@pytest.mark.parametrize(
    "take", [lambda buffer: buffer.take(2), lambda buffer: buffer.take_until(b";", 9)], ids=["take", "until"]
)
def test_small_takes_from_what_came_in_small_segments_cost_linear_time(
    take: Callable[[ReadBuffer], bytes],
) -> None:
    def read_many_messages(count: int) -> None:
        buffer = filled(b"a;" * JOINED)  # never all of it: what comes is put behind it
        for _ in range(count):
            buffer.feed(b"b;")
            buffer.feed(b"c;")
            take(buffer)
        while buffer.has_data():
            take(buffer)

    assert_linear(read_many_messages, 200_000)


@all_kinds
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_c9_a_hundred_thousand_lines_in_one_segment_come_in_order(end: bytes, lines: Lines) -> None:
    expected = [b"%d" % number for number in range(100_000)]
    buffer = filled(end.join(expected) + end)
    assert list(lines(buffer, 65536)) == expected
    assert not buffer.has_data()


# Hostile patterns in one segment


class Watched(bytes):
    """Bytes that keep account of what is done with them, and so does all that is cut out of them."""

    looked_at = 0  # bytes searched, split or copied, by all objects of this class
    pieces = 0  # objects made by splitting

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        at = super().find(sub, start, end)
        self._look((len(self) if end is None else min(end, len(self)) if at < 0 else at + 1) - start)
        return at

    def rfind(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        at = super().rfind(sub, start, end)
        self._look((len(self) if end is None else min(end, len(self))) - max(start, at))
        return at

    def count(self, *arguments: Any) -> int:
        self._look(len(self))
        return super().count(*arguments)

    def __contains__(self, item: Any) -> bool:
        self._look(len(self))
        return super().__contains__(item)

    def replace(self, *arguments: Any) -> Watched:
        self._look(len(self))
        return Watched(super().replace(*arguments))

    def split(self, *arguments: Any) -> list[bytes]:
        return self._split_into(super().split(*arguments))

    def splitlines(self, keepends: Any = False) -> list[bytes]:
        return self._split_into(super().splitlines(keepends))

    def __getitem__(self, key: Any) -> Any:
        cut = super().__getitem__(key)
        if isinstance(cut, int):
            return cut
        self._look(len(cut))
        return Watched(cut)

    def _look(self, count: int) -> None:
        Watched.looked_at += count

    def _split_into(self, made: list[bytes]) -> list[bytes]:
        self._look(len(self))
        Watched.pieces += len(made)
        return made


# Bounds for one answer where a pattern wants the worst. To search a block costs as much as a call or two in
# Python; but to split one into blank lines and to throw them away, a thousand times as much.
LOOKED_AT: Final = 4 * LARGEST_BLOCK
PIECES: Final = 600


def watched(unit: bytes, size: int = CHUNK) -> ReadBuffer:
    """Give a buffer with one segment, `unit` over and over, that keeps account from now on."""
    buffer = filled(Watched(unit * (size // len(unit))))
    Watched.looked_at = Watched.pieces = 0
    return buffer


def assert_cost(answers: int, size: int, looked_at: float, pieces: float) -> None:
    """Compare the account of `size` bytes with its bounds, for all and for each answer."""
    if is_compiled() and Watched.looked_at < size * 0.9:
        pytest.skip("native code reads bytes without calling their methods")
    assert Watched.looked_at >= size * 0.9, "the account is blind: the buffer reads in some other way"
    assert Watched.looked_at <= looked_at
    assert Watched.pieces <= pieces * answers


@pytest.mark.parametrize("unit", [b"\r", b"a\r", b"a\n", b"a\r\n", b"x" * 79 + b"\n"])
@nim_kinds
def test_many_lines_in_a_row_are_split_once(unit: bytes, lines: Lines) -> None:
    found = sum(1 for _ in lines(watched(unit), 65536))
    assert found in (CHUNK // len(unit), CHUNK // len(unit) - 1)
    assert_cost(found, CHUNK, looked_at=40 * CHUNK, pieces=1.5)


@pytest.mark.parametrize("unit", [b"\n", b"a\n", b"a\r\n", b"\r\r\n", b"\r" * 99 + b"\n", b"x" * 79 + b"\n"])
def test_many_python_lines_in_a_row_are_split_at_most_twice(unit: bytes) -> None:
    found = sum(1 for _ in py_lines(watched(unit), 65536))
    assert found == CHUNK // len(unit)
    # Twice if lone CRs were taken for ends at first.
    assert_cost(found, CHUNK, looked_at=40 * CHUNK, pieces=3 + unit.count(b"\r"))


@pytest.mark.parametrize("limit", [1, LARGEST_BLOCK - 1])
def test_lone_crs_under_a_small_limit_are_searched_a_block_each_at_most(limit: int) -> None:
    found = sum(1 for _ in bare_cr_lines(watched(b"a\r", SEGMENT), limit))
    assert found == SEGMENT // 2 - 1
    assert_cost(found, SEGMENT, looked_at=LOOKED_AT * found, pieces=3)


@pytest.mark.parametrize(
    ("unit", "count", "size", "pieces"),
    [
        (b"$3\r\nabc\r\n", 1, 5, 0),  # RESP: no line is to be split ahead in vain
        (b"a\rx", 1, 1, 0),
        (b"A\nB\n\nxx", 3, 2, PIECES),
        (b"A\nB\nC\n\nxx", 4, 2, PIECES),
        (b"\n\n\n\nx", 4, 1, PIECES),
        (b"\r\r\r\rx", 4, 1, PIECES),
        (b"\r\n\r\n\r\n\r\n\r\nx", 5, 1, PIECES),
    ],
)
def test_lines_and_bytes_in_turns_do_not_split_the_segment_again_and_again(
    unit: bytes, count: int, size: int, pieces: int
) -> None:
    segment = SEGMENT // len(unit) * len(unit)
    buffer = watched(unit, segment)  # as in RESP and HTTP: lines, then counted data
    found = 0
    while buffer.has_data():
        for _ in range(count):
            assert buffer.take_line(65536) is not None
            found += 1
        assert buffer.take_exactly(size) is not None
    assert found == segment // len(unit) * count
    assert_cost(found, segment, looked_at=LOOKED_AT * found, pieces=pieces)


@pytest.mark.parametrize(
    "look", [len, lambda buffer: buffer.peek(1), lambda buffer: buffer.take(0)], ids=["len", "peek", "take"]
)
@pytest.mark.parametrize("bare_cr", [False, True])
def test_a_look_after_each_ready_line_does_not_split_the_segment_again_and_again(
    look: Callable[[ReadBuffer], object], bare_cr: bool
) -> None:
    buffer = watched(b"a\n", SEGMENT)
    found = 0
    while ready := buffer.ready_lines(65536, bare_cr):
        ready.pop()
        found += 1
        look(buffer)
    assert found == SEGMENT // 2
    assert_cost(found, SEGMENT, looked_at=LOOKED_AT * found, pieces=PIECES)


@pytest.mark.parametrize("unit", [b"\n", b"a\r\n", b"x" * 79 + b"\n"])
def test_the_kinds_of_lines_in_turns_do_not_split_the_segment_again_and_again(unit: bytes) -> None:
    buffer = watched(unit, SEGMENT)
    found = 0
    for ask in itertools.cycle([ask_line, ask_python_line, ask_bare_cr_line]):
        if ask(buffer, 65536) is None:
            break
        found += 1
    assert found == SEGMENT // len(unit)
    assert_cost(found, SEGMENT, looked_at=LOOKED_AT * found, pieces=PIECES)


@pytest.mark.parametrize("limit", [1, 2, 100, LARGEST_BLOCK, 2 * LARGEST_BLOCK])
def test_parts_of_a_line_without_end_are_searched_a_block_and_a_part_each_at_most(limit: int) -> None:
    buffer = watched(b"x")
    parts = 0
    while buffer.take_line(limit) is not None:
        parts += 1
    assert parts == (CHUNK - 1) // limit
    assert_cost(parts, CHUNK, looked_at=4 * (LARGEST_BLOCK + limit) * (parts + 1), pieces=0)


def test_a_limit_below_a_block_does_not_make_a_list_of_lines_dear_to_ask_for() -> None:
    def one_line_for_each_list(limit: int) -> None:
        buffer = filled(b"\n" * 20_000)
        while ready := buffer.ready_lines(limit, False):
            ready.pop()

    small, large = (
        min(cpu_seconds(one_line_for_each_list, limit) for _ in range(2))
        for limit in (LARGEST_BLOCK - 1, LARGEST_BLOCK)
    )
    # To look for the longest of all the lines each time was 400 times as dear.
    assert small < 20 * large


@pytest.mark.parametrize("bare_cr", [False, True])
def test_short_lines_behind_long_ones_are_not_all_split_ahead(bare_cr: bool) -> None:
    # Between two looks at what else there is to do, a reader hands out all lines that were split ahead: with
    # 10 µs for each, 2,048 of them take the 20 ms that another connection may have to wait.
    for long_lines in range(1, 1500, 83):
        buffer = filled((b"x" * 63 + b"\n") * long_lines + b"\n" * 100_000)
        while ready := buffer.ready_lines(65536, bare_cr):
            assert len(ready) <= 2048, f"{long_lines} long lines before"
            ready.clear()


# The count of work, for whoever shares the processor fairly


def test_work_is_one_for_each_line_and_take_and_one_for_each_512_bytes() -> None:
    buffer = filled(b"1\n2\n" + b"x" * 5120 + b"yz")
    assert buffer.work == 0
    assert [buffer.take_line(9), buffer.take_line(9)] == [b"1", b"2"]
    assert buffer.work == 2
    buffer.take(5120)
    assert buffer.work == 2 + 1 + 10
    buffer.take(1)
    assert buffer.work == 2 + 1 + 10 + 1


def test_work_counts_bytes_that_came_in_several_segments() -> None:
    buffer = filled(b"x" * 5120, b"y" * 5120)
    buffer.take(1024)
    assert buffer.work == 1 + 2
    buffer.take(9216)
    assert buffer.work == 1 + 2 + 1 + 18


def test_work_counts_the_bytes_that_a_take_gave_and_not_those_it_asked_for() -> None:
    buffer = filled(b"abc")
    assert buffer.take(1_000_000) == b"abc"
    assert buffer.work == 1


@all_kinds
def test_work_counts_lines_that_are_split_ahead(lines: Lines) -> None:
    buffer = filled(b"a\n" * 1000)
    assert len(list(lines(buffer, 65536))) == 1000
    assert buffer.work == 1000


# Memory


def held_bytes(buffer: ReadBuffer) -> int:
    """Give the memory of the objects that a buffer holds, wherever in it."""
    return sum(sys.getsizeof(held) for held in gc.get_referents(buffer) if not isinstance(held, type))


@pytest.mark.parametrize("ask", [ask_line, ask_python_line, ask_bare_cr_line, ask_until, ask_exactly])
@pytest.mark.parametrize("left", [b"", b"ab"])
@all_kinds
def test_a_buffer_that_has_no_answer_holds_only_what_was_not_taken(
    lines: Lines, left: bytes, ask: Ask
) -> None:
    count = CHUNK // 4
    buffer = filled(b"abc\n" * count + left)
    for _ in itertools.islice(lines(buffer, 65536), count):
        pass
    assert ask(buffer, 99) is None
    assert held_bytes(buffer) < 1024
    assert rest_of(buffer) == left


def test_a_buffer_that_holds_a_segment_is_seen_to_hold_it() -> None:
    # Else the test above could not fail.
    assert held_bytes(filled(b"x" * CHUNK)) >= CHUNK
    assert held_bytes(filled(b"x" * JOINED * 2, b"y")) >= JOINED * 2


@pytest.mark.parametrize("segment", [1, 100, 4000, CHUNK])
@pytest.mark.parametrize("ask", [ask_python_line, ask_bare_cr_line, ask_until])
def test_a_message_without_end_raises_before_it_holds_more_than_the_limit_and_a_segment(
    ask: Ask, segment: int
) -> None:
    buffer = ReadBuffer()

    def feed_and_ask() -> None:
        for _ in range(2 * CHUNK // segment):
            buffer.feed(b"x" * segment)
            assert ask(buffer, 65536) is None

    with pytest.raises(LimitReachedError):
        feed_and_ask()
    assert 65536 <= len(buffer) <= 65536 + segment


def test_a_line_without_end_in_parts_never_holds_more_than_the_limit_and_two_segments() -> None:
    buffer = ReadBuffer()
    most = given = 0
    for _ in range(500):
        buffer.feed(b"x" * 4000)
        while part := buffer.take_line(65536):
            given += len(part)
        most = max(most, held_bytes(buffer))
    assert given + len(buffer) == 500 * 4000
    # A bytearray that grows has an eighth to spare.
    assert most <= 1.2 * (65536 + 2 * 4000)


# The write queue


def test_a_large_message_of_which_the_kernel_takes_little_at_a_time_costs_linear_time() -> None:
    # Little: what each costs is to count, and not the pages that the allocator takes from the system.
    taken = 256

    def drain(megabytes: int) -> None:
        queue = WriteQueue()
        queue.append(bytes(megabytes << 20))
        while queue.size:
            queue.discard(len(queue.joined()[:taken]))

    assert_linear(drain, 16)


def test_a_large_message_does_not_stay_until_its_last_byte_is_out() -> None:
    queue = WriteQueue()
    queue.append(bytes(1 << 20))
    while queue.size > 1000:
        queue.discard(1000)
        assert sum(len(memoryview(piece).obj) for piece in queue.pieces) <= 2 * queue.size
