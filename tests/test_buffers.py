"""gnet.buffers: what each call answers.

Fault rows C2 to C5 (lines at the limit, NUL bytes, lone CRs) are in test_buffer_limits.py, C7 to C9 (time)
and memory in test_buffer_costs.py; any order of calls is tried in test_buffer_model.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import pytest

from gnet.buffers import LimitReachedError, ReadBuffer, WriteQueue

pytestmark = pytest.mark.plain_only  # pure code: nothing that patching could change

NO_LIMIT: Final = 10_000_000

# What the buffer joins at most, and the bounds of what it splits ahead. The tests hold for any other sizes,
# but it is around these that mistakes would hide.
JOINED: Final = 4096
BLOCK: Final = 2048
LARGEST_BLOCK: Final = 32768

Lines = Callable[[ReadBuffer, int], Iterator[bytes]]

# Readers: all lines that are complete, without their terminators, by each way to take them


def nim_lines(buffer: ReadBuffer, limit: int) -> Iterator[bytes]:
    while (line := buffer.take_line(limit)) is not None:
        yield b"" if line == b"\r\n" else line


def py_lines(buffer: ReadBuffer, limit: int, bare_cr: bool = False) -> Iterator[bytes]:
    while (ready := buffer.ready_lines(limit, bare_cr)) is not None:
        assert ready
        while ready:
            yield ready.pop()


def bare_cr_lines(buffer: ReadBuffer, limit: int) -> Iterator[bytes]:
    return py_lines(buffer, limit, bare_cr=True)


nim_kinds = pytest.mark.parametrize("lines", [nim_lines, bare_cr_lines])
py_kinds = pytest.mark.parametrize("lines", [py_lines, bare_cr_lines])
all_kinds = pytest.mark.parametrize("lines", [nim_lines, py_lines, bare_cr_lines])


def filled(*arrivals: bytes) -> ReadBuffer:
    buffer = ReadBuffer()
    for data in arrivals:
        buffer.feed(data)
    return buffer


def rest_of(buffer: ReadBuffer) -> bytes:
    return buffer.peek(NO_LIMIT)


def read_all(arrivals: Iterable[bytes], lines: Lines) -> tuple[list[bytes], bytes]:
    """Read lines after each arrival and once more at the end; give them and what is left."""
    buffer = ReadBuffer()
    found: list[bytes] = []
    for data in arrivals:
        buffer.feed(data)
        found += lines(buffer, NO_LIMIT)
    buffer.feed_eof()
    found += lines(buffer, NO_LIMIT)
    return found, rest_of(buffer)


# Lines do not depend on chunks


def whole(wire: bytes) -> list[bytes]:
    return [wire]


def byte_by_byte(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


def in_threes(wire: bytes) -> list[bytes]:
    return [wire[at : at + 3] for at in range(0, len(wire), 3)]


cuts = pytest.mark.parametrize("cut", [whole, byte_by_byte, in_threes])

NO_ENDS: Final = b"\x0b\x0c\x1c\x1d\x1e\x85\xe2\x80\xa8"  # they end lines of a str, but none of bytes
NUMBERS: Final = [b"%d" % number for number in range(40)]

# The wire, its lines where LF, CRLF and a lone CR end one, and what is left.
NIM_CASES: Final = [
    (b"", [], b""),
    (b"a", [], b"a"),
    (b"\n", [b""], b""),
    (b"\r\n", [b""], b""),
    (b"\r", [b""], b""),
    (b"a\nb\r\nc\rd\n", [b"a", b"b", b"c", b"d"], b""),
    (b"a\nb", [b"a"], b"b"),
    (b"a\r\nb\rc", [b"a", b"b"], b"c"),
    (b"a\r", [b"a"], b""),
    (b"a\r\r", [b"a", b""], b""),
    (b"a\r\r\nb\n", [b"a", b"", b"b"], b""),
    (b"a\n\rb\n", [b"a", b"", b"b"], b""),
    (b"\n\n\r\n\r\n\r\r", [b""] * 6, b""),
    (b"\r\n" * 9 + b"a", [b""] * 9, b"a"),
    (b"\0\n\0\0\r\n\0", [b"\0", b"\0\0"], b"\0"),
    (b" a \t\n", [b" a \t"], b""),
    (NO_ENDS + b"\n\xff\n", [NO_ENDS, b"\xff"], b""),
    (b"\n".join(NUMBERS), NUMBERS[:-1], NUMBERS[-1]),
    (b"\r\n".join(NUMBERS) + b"\r\n", NUMBERS, b""),
    (b"\r".join(NUMBERS) + b"\r", NUMBERS, b""),
    (b"a\rb\r\nc\n" * 12, [b"a", b"b", b"c"] * 12, b""),
]

# The same where a lone CR is data.
PY_CASES: Final = [
    (b"", [], b""),
    (b"a", [], b"a"),
    (b"\n", [b""], b""),
    (b"\r\n", [b""], b""),
    (b"\r", [], b"\r"),
    (b"a\nb\r\nc\rd\n", [b"a", b"b", b"c\rd"], b""),
    (b"a\nb\r", [b"a"], b"b\r"),
    (b"a\r\r\nb\n", [b"a\r", b"b"], b""),
    (b"a\n\rb\n", [b"a", b"\rb"], b""),
    (b"\r\r\n\r\r\r\n", [b"\r", b"\r\r"], b""),
    (b"\r\n" * 9 + b"a", [b""] * 9, b"a"),
    (b"\0\n\0\r\0\r\n\0", [b"\0", b"\0\r\0"], b"\0"),
    (NO_ENDS + b"\n\xff\n", [NO_ENDS, b"\xff"], b""),
    (b"\n".join(NUMBERS), NUMBERS[:-1], NUMBERS[-1]),
    (b"\r\n".join(NUMBERS) + b"\r\n", NUMBERS, b""),
    (b"\r".join(NUMBERS) + b"\r", [], b"\r".join(NUMBERS) + b"\r"),
    (b"a\rb\r\nc\n" * 12, [b"a\rb", b"c"] * 12, b""),
]


@nim_kinds
@cuts
@pytest.mark.parametrize(("wire", "expected", "left"), NIM_CASES)
def test_nim_lines_do_not_depend_on_chunks(
    wire: bytes, expected: list[bytes], left: bytes, cut: Callable[[bytes], list[bytes]], lines: Lines
) -> None:
    assert read_all(cut(wire), lines) == (expected, left)


@cuts
@pytest.mark.parametrize(("wire", "expected", "left"), PY_CASES)
def test_python_lines_do_not_depend_on_chunks(
    wire: bytes, expected: list[bytes], left: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    assert read_all(cut(wire), py_lines) == (expected, left)


@nim_kinds
@pytest.mark.parametrize(("wire", "expected", "left"), NIM_CASES)
def test_nim_lines_do_not_depend_on_where_the_one_cut_is(
    wire: bytes, expected: list[bytes], left: bytes, lines: Lines
) -> None:
    for at in range(len(wire) + 1):
        assert read_all([wire[:at], wire[at:]], lines) == (expected, left), f"cut at {at}"


@pytest.mark.parametrize(("wire", "expected", "left"), PY_CASES)
def test_python_lines_do_not_depend_on_where_the_one_cut_is(
    wire: bytes, expected: list[bytes], left: bytes
) -> None:
    for at in range(len(wire) + 1):
        assert read_all([wire[:at], wire[at:]], py_lines) == (expected, left), f"cut at {at}"


# Four lines before, as lines are split ahead only in a row; long ones are split in another way.
AHEAD: Final = [b"1\n", b"1\r\n", b"1\r", b"x" * 200 + b"\n", b"x" * 200 + b"\r\n"]


@nim_kinds
@pytest.mark.parametrize("ahead", AHEAD)
def test_nim_lines_do_not_depend_on_being_split_ahead(ahead: bytes, lines: Lines) -> None:
    before = [ahead.rstrip(b"\r\n")] * 4
    for wire, expected, left in NIM_CASES:
        if ahead.endswith(b"\r") and wire.startswith(b"\n"):
            continue  # this LF would belong to that CR
        assert read_all([4 * ahead + wire], lines) == (before + expected, left)
        long_lines = [line.replace(b"a", b"a" * 150) for line in expected]
        long_wire = 4 * ahead + wire.replace(b"a", b"a" * 150)
        assert read_all([long_wire], lines) == (before + long_lines, left.replace(b"a", b"a" * 150))


@pytest.mark.parametrize("ahead", AHEAD)
def test_python_lines_do_not_depend_on_being_split_ahead(ahead: bytes) -> None:
    if ahead.endswith(b"\r"):
        ahead += b"1\n"
    before = [ahead.rstrip(b"\r\n")] * 4
    for wire, expected, left in PY_CASES:
        assert read_all([4 * ahead + wire], py_lines) == (before + expected, left)
        long_wire = 4 * ahead + wire.replace(b"a", b"a" * 150)
        long_lines = [line.replace(b"a", b"a" * 150) for line in expected]
        assert read_all([long_wire], py_lines) == (before + long_lines, left.replace(b"a", b"a" * 150))


@all_kinds
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("edge", [BLOCK, JOINED, LARGEST_BLOCK])
@pytest.mark.parametrize("ahead", [b"1", b"x" * 100])
def test_lines_do_not_depend_on_the_sizes_inside(ahead: bytes, edge: int, end: bytes, lines: Lines) -> None:
    before = 4 * [ahead]
    for length in range(edge - 12, edge + 3):
        for line in (length, length - len(end.join([*before, b""]))):
            expected = [*before, b"x" * line, b"", b"6"]
            wire = end.join(expected) + end
            line_end = wire.index(b"x" * line) + line
            for at in (0, line_end, line_end + 1, len(wire)):
                assert read_all([wire[:at], wire[at:]], lines) == (expected, b""), (
                    f"{line} bytes, cut at {at}"
                )


@nim_kinds
@pytest.mark.parametrize("edge", [128, 256, 512, 1024, BLOCK, 4 * BLOCK, LARGEST_BLOCK])
@pytest.mark.parametrize("ahead", [b"1", b"x" * 100])
def test_lone_crs_at_the_edge_of_a_block_end_lines(ahead: bytes, edge: int, lines: Lines) -> None:
    for length in range(edge - 12, edge + 3):
        for line in (length, max(0, length - 4 * len(ahead) - 4)):
            for end in (b"\r", b"\r\n"):  # this CRLF may lie across the edge
                expected = [*(4 * [ahead]), b"x" * line, b"y", b"y" * line]
                wire = 4 * (ahead + b"\r") + b"x" * line + end + b"y\r" + b"y" * line + b"\r"
                assert read_all([wire], lines) == (expected, b""), f"{line} bytes, {end!r}"


# Lines one at a time among other calls


def test_blank_lines_are_crlf_and_no_line_is_none() -> None:
    buffer = filled(b"\n\r\n\r\r\n")
    assert [buffer.take_line(9) for _ in range(5)] == [b"\r\n", b"\r\n", b"\r\n", b"\r\n", None]
    assert filled(b"a").take_line(9) is None


def test_a_line_limit_of_zero_gives_nothing_and_takes_nothing() -> None:
    for wire in (b"", b"a\n", b"\n"):
        buffer = filled(wire)
        assert (buffer.take_line(0), rest_of(buffer)) == (b"", wire)


def test_a_line_limit_of_zero_takes_nothing_from_lines_split_ahead_either() -> None:
    # Once, a blank line that had been split ahead was given as b"", and was gone.
    for zero in (ReadBuffer.take_line, ReadBuffer.take_ready_line):
        buffer = filled(b"1\n2\n3\n4\n\n6\n")
        assert [buffer.take_line(9) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
        zero(buffer, 0)
        assert buffer.take_line(9) == b"\r\n"
        assert buffer.take_line(9) == b"6"


def test_a_line_is_found_after_a_search_for_crlf_found_none() -> None:
    # Once, the search for the delimiter CRLF and that for any line end shared one mark.
    buffer = filled(b"abc\ndef")
    assert buffer.take_until(b"\r\n", 100) is None
    assert buffer.take_line(100) == b"abc"
    with pytest.raises(LimitReachedError):
        filled(b"abc\n").take_until(b"\r\n", 2)
    buffer = filled(b"abc\rdef")
    assert buffer.take_until(b"\r\n", 100) is None
    assert buffer.ready_lines(100, True) == [b"abc"]


def test_each_kind_of_line_is_found_after_a_search_for_the_other_found_none() -> None:
    buffer = filled(b"a\rb")
    assert buffer.ready_lines(100, False) is None
    assert buffer.take_line(100) == b"a"
    buffer = filled(b"a|b")
    assert (buffer.take_line(100), buffer.take_until(b"|", 100)) == (None, b"a|")


def test_a_line_is_found_before_one_that_came_after_a_search_for_something_else() -> None:
    # Once, this gave b"a\nbc": the shortcut for a segment of one line began where the search had ended.
    for delimiter in (b"|", b"\r\n", b"\r"):
        buffer = filled(b"a\nb")
        assert buffer.take_until(delimiter, 100) is None
        buffer.feed(b"c\n")
        assert [buffer.take_line(100) for _ in range(3)] == [b"a", b"bc", None]


def test_a_delimiter_is_found_after_a_search_for_another_found_none() -> None:
    delimiters = [b"\n", b"\r", b"\r\n", b"\n\r", b"|", b"x|"]
    for first, second in itertools.permutations(delimiters, 2):
        buffer = filled(b"a" + second + b"b")
        if first not in second:
            assert buffer.take_until(first, 100) is None
        assert buffer.take_until(second, 100) == b"a" + second
        assert rest_of(buffer) == b"b"


def test_ready_lines_that_were_not_popped_are_there_for_whoever_reads_next() -> None:
    for take, expected in {
        (lambda buffer: buffer.take(3)): b"b\nc",
        (lambda buffer: buffer.peek(3)): b"b\nc",
        (lambda buffer: buffer.take_line(9)): b"b",
        (lambda buffer: buffer.take_until(b"c", 9)): b"b\nc",
        len: 4,
    }.items():
        buffer = filled(b"a\nb\nc\n")
        ready = buffer.ready_lines(9, False)
        assert ready is not None
        assert ready.pop() == b"a"
        assert take(buffer) == expected
        assert ready == [], "the loop over these lines would read them a second time"


def test_lines_over_a_limit_that_became_smaller_are_not_given() -> None:
    # Once, a limit of at least a block was never compared with what had been split ahead.
    for length, limit in ((100, 99), (BLOCK + 1, BLOCK), (10_000, 8192), (LARGEST_BLOCK + 1, LARGEST_BLOCK)):
        for bare_cr in (False, True):
            buffer = filled(b"x" * length + b"\nb\n")
            assert buffer.ready_lines(NO_LIMIT, bare_cr)
            with pytest.raises(LimitReachedError):
                buffer.ready_lines(limit, bare_cr)


def test_ready_lines_hold_no_line_over_the_limit_behind_the_first() -> None:
    for bare_cr in (False, True):
        buffer = filled(b"a\nbb\nccc\ndddd\n")
        with pytest.raises(LimitReachedError):
            list(py_lines(buffer, 2, bare_cr))
        assert rest_of(buffer) == b"ccc\ndddd\n"


def test_clear_empties_the_list_of_a_running_loop_too() -> None:
    buffer = filled(b"a\nb\nc\n")
    ready = buffer.ready_lines(9, False)
    buffer.clear()
    assert (ready, buffer.has_data(), len(buffer), buffer.take_line(9)) == ([], False, 0, None)
    buffer.feed(b"d\n")
    assert buffer.take_line(9) == b"d"


def test_clear_forgets_how_far_the_old_bytes_were_searched() -> None:
    searches: list[Callable[[ReadBuffer], bytes | list[bytes] | None]] = [
        lambda buffer: buffer.take_until(b";", 99),
        lambda buffer: buffer.take_line(99),
        lambda buffer: buffer.ready_lines(99, False),
        lambda buffer: buffer.ready_lines(99, True),
    ]
    for search in searches:
        buffer = filled(b"a long start")
        assert search(buffer) is None
        buffer.clear()
        buffer.feed(b"b;\n")
        assert search(buffer) in (b"b;", [b"b;"])


def test_take_ready_line_gives_only_what_was_split_ahead() -> None:
    buffer = filled(b"1\n2\n3\n4\n5\n\n12345\n8\n")
    assert buffer.take_ready_line(9) is None
    assert [buffer.take_line(9) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
    assert [buffer.take_ready_line(1) for _ in range(2)] == [b"5", b"\r\n"]
    assert buffer.take_ready_line(4) is None
    assert buffer.take_line(4) == b"1234"
    assert buffer.take_ready_line(9) is None
    assert rest_of(buffer) == b"5\n8\n"


def test_a_line_popped_from_those_split_ahead_is_taken() -> None:
    buffer = filled(b"1\n2\n3\n4\n5\n\n7\n8")
    ready = buffer.nim_ready
    assert ready == []
    assert [buffer.take_line(9) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
    assert [ready.pop(), ready.pop()] == [b"5", b""]
    assert rest_of(buffer) == b"7\n8"
    assert ready == []
    assert buffer.nim_ready is ready


def test_the_last_line_is_told_that_no_lf_follows() -> None:
    buffer = filled(b"a\r\nb\r")
    assert [buffer.take_last_line(9) for _ in range(3)] == [b"a", b"b", None]
    assert filled(b"ab").take_last_line(9) is None


# Bytes


def test_bytes_are_taken_exactly_or_not_at_all() -> None:
    buffer = filled(b"abc", b"def")
    assert buffer.take_exactly(7) is None
    assert buffer.take_exactly(0) == b""
    assert buffer.take_exactly(4) == b"abcd"
    assert (buffer.take(9), buffer.take(9)) == (b"ef", b"")


def test_bytes_are_moved_into_memory_as_far_as_it_goes() -> None:
    buffer = filled(b"abcdef")
    memory = bytearray(b"....")
    assert buffer.take_into(memoryview(memory)[1:3]) == 2
    assert memory == b".ab."
    assert (buffer.discard(3), buffer.take_into(memoryview(memory)), memory) == (3, 1, bytearray(b"fab."))
    assert (buffer.discard(1), buffer.take_into(memoryview(memory))) == (0, 0)


def test_a_delimiter_may_come_in_pieces_at_any_cut() -> None:
    wire = b"x" * 20 + b"\r\n\r" + b"y\r\n\r\n" + b"z"
    for pieces in (byte_by_byte(wire), in_threes(wire), [wire], *([wire[:n], wire[n:]] for n in range(30))):
        buffer = ReadBuffer()
        found: list[bytes] = []
        for piece in pieces:
            buffer.feed(piece)
            while (message := buffer.take_until(b"\r\n\r\n", 100)) is not None:
                found.append(message)
        assert (found, rest_of(buffer)) == ([wire[:-1]], b"z")


@pytest.mark.parametrize("ahead", [0, JOINED, LARGEST_BLOCK])
def test_a_message_with_its_delimiter_may_have_just_the_limit(ahead: int) -> None:
    limit = ahead + 6
    exact = b"x" * ahead + b"1234||"
    assert filled(exact + b"5").take_until(b"||", limit) == exact
    assert filled(exact[:-1]).take_until(b"||", limit) is None
    for too_long in (b"0" + exact, b"0" + exact[:-1]):
        buffer = filled(too_long)
        with pytest.raises(LimitReachedError) as caught:
            buffer.take_until(b"||", limit)
        assert (caught.value.limit, caught.value.seen) == (limit, len(too_long))
        assert rest_of(buffer) == too_long


# The write queue


def test_a_write_queue_gives_all_as_one_and_keeps_it_until_it_is_out() -> None:
    queue = WriteQueue()
    assert (queue.joined(), queue.size) == (b"", 0)
    for data in (b"ab", b"", b"cde"):
        queue.append(data)
    assert (queue.joined(), queue.joined(), queue.size) == (b"abcde", b"abcde", 5)
    queue.discard(3)
    queue.append(b"f")
    assert (queue.joined(), queue.size) == (b"def", 3)
    queue.discard(3)
    assert (queue.joined(), queue.size) == (b"", 0)


def test_a_write_queue_takes_more_between_joined_and_discard() -> None:
    queue = WriteQueue()
    queue.append(b"abc")
    queue.joined()
    queue.append(b"de")
    queue.discard(3)
    assert (queue.joined(), queue.size) == (b"de", 2)


def test_a_write_queue_says_how_much_went_since_it_was_last_empty() -> None:
    queue = WriteQueue()
    queue.append(b"abcdef")
    queue.joined()
    queue.discard(2)
    queue.append(b"g")
    queue.joined()
    queue.discard(5)
    assert queue.went == 7
    queue.append(b"next")
    assert queue.went == 0


def test_a_cleared_write_queue_is_empty() -> None:
    queue = WriteQueue()
    queue.append(b"abc")
    queue.append(b"def")
    queue.clear()
    assert (queue.joined(), queue.size) == (b"", 0)
    queue.append(b"g")
    assert (queue.joined(), queue.size) == (b"g", 1)
