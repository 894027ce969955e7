"""gnet.buffers: lines at the limit to the byte, NUL bytes, lone CRs. Fault rows C2 to C5."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gnet.buffers import LimitReachedError, ReadBuffer
from tests.test_buffers import (
    BLOCK,
    JOINED,
    LARGEST_BLOCK,
    NO_LIMIT,
    Lines,
    all_kinds,
    bare_cr_lines,
    cuts,
    filled,
    nim_kinds,
    nim_lines,
    py_kinds,
    py_lines,
    rest_of,
)

pytestmark = pytest.mark.plain_only  # pure code: nothing that patching could change

# C2: at the limit, to the byte

# Limits inside what is split ahead, around it, and beyond.
limits = pytest.mark.parametrize(
    "limit", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, LARGEST_BLOCK - 1, LARGEST_BLOCK, 65536]
)
ends = pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])


@ends
@limits
@cuts
def test_c2_read_line_gives_a_line_of_the_limit_whole_and_a_longer_one_in_parts(
    limit: int, end: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    exact, longer = b"x" * limit, b"y" * (limit + 1)
    buffer = ReadBuffer()
    found: list[bytes] = []
    for piece in cut(exact + end + longer + end + exact + end + b"z"):
        buffer.feed(piece)
        while (line := buffer.take_line(limit)) is not None:
            found.append(line)
    assert found == [exact, longer[:-1], b"y", exact]
    assert rest_of(buffer) == b"z"


@ends
@limits
def test_c2_read_line_gives_a_longer_line_in_parts_if_it_is_all_that_is_there(limit: int, end: bytes) -> None:
    for length in (limit, limit + 1, limit + 2):
        buffer = filled(b"x" * length + end)
        buffer.feed_eof()
        parts = [buffer.take_line(limit), buffer.take_line(limit)]
        assert parts == [b"x" * limit, b"x" * (min(length, 2 * limit) - limit) or None]


@limits
def test_c2_read_line_waits_for_the_end_of_a_line_that_is_at_the_limit(limit: int) -> None:
    exact = b"x" * limit
    for more, line, left in (
        (b"\n", exact, b""),
        (b"\r\n", exact, b""),
        (b"\ry", exact, b"y"),
        (b"y", exact, b"y"),
        (b"y\n", exact, b"y\n"),
    ):
        buffer = filled(exact)
        assert buffer.take_line(limit) is None
        for at in range(len(more)):
            buffer.feed(more[at : at + 1])
        assert (buffer.take_line(limit), rest_of(buffer)) == (line, left)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@limits
@py_kinds
@cuts
def test_c2_lines_may_have_just_the_limit_without_their_end(
    limit: int, end: bytes, lines: Lines, cut: Callable[[bytes], list[bytes]]
) -> None:
    expected = [b"x" * limit, b"", b"y" * (limit - 1), b"z" * limit]
    buffer = ReadBuffer()
    found: list[bytes] = []
    for piece in cut(end.join(expected) + end):
        buffer.feed(piece)
        found += lines(buffer, limit)
    assert found == expected


@limits
@py_kinds
def test_c2_lines_over_the_limit_raise_as_soon_as_that_is_sure_and_take_nothing(
    limit: int, lines: Lines
) -> None:
    exact = b"x" * limit
    for ok in (exact, exact + b"\r"):
        assert list(lines(filled(ok), limit)) == []
    for too_long in (exact + b"y", exact + b"y\n", exact + b"y\r\n", exact + b"y\r"):
        buffer = filled(b"ok\n" if limit > 1 else b"\n", too_long)
        found: list[bytes] = []
        with pytest.raises(LimitReachedError) as caught:
            found.extend(lines(buffer, limit))
        assert (found, rest_of(buffer)) == ([b"ok" if limit > 1 else b""], too_long)
        assert caught.value.limit == limit
        assert limit < caught.value.seen <= len(too_long)


@limits
def test_c2_a_cr_over_the_edge_that_no_lf_follows_counts_as_data_of_python_lines(limit: int) -> None:
    buffer = filled(b"x" * limit + b"\r")
    assert buffer.ready_lines(limit, False) is None
    buffer.feed(b"\r")
    with pytest.raises(LimitReachedError):
        buffer.ready_lines(limit, False)
    buffer = filled(b"x" * limit + b"\ry")
    assert buffer.ready_lines(limit, True) == [b"x" * limit]


# C3 to C5


@all_kinds
def test_c3_nul_bytes_pass_through(lines: Lines) -> None:
    buffer = filled(b"\0\n\0a\0\r\n" + b"\0" * 9 + b"\n\0")
    assert list(lines(buffer, 100)) == [b"\0", b"\0a\0", b"\0" * 9]
    assert rest_of(buffer) == b"\0"
    assert filled(b"ab\0cd").take_until(b"\0", 100) == b"ab\0"


def test_c4_a_lone_cr_ends_nim_lines_and_is_data_in_python_lines() -> None:
    wire = b"a\rb\r\nc\r\r\nd\n\re\n"
    assert list(nim_lines(filled(wire), 9)) == [b"a", b"b", b"c", b"", b"d", b"", b"e"]
    assert list(bare_cr_lines(filled(wire), 9)) == [b"a", b"b", b"c", b"", b"d", b"", b"e"]
    assert list(py_lines(filled(wire), 9)) == [b"a\rb", b"c\r", b"d", b"\re"]


c5_starts = pytest.mark.parametrize(
    "start", [b"", b"a", b"a" * (JOINED + 9), b"a" * (2 * LARGEST_BLOCK)], ids=len
)


@c5_starts
@nim_kinds
def test_c5_a_cr_at_the_end_of_a_segment_waits_and_then_ends_its_line_in_any_case(
    start: bytes, lines: Lines
) -> None:
    for then, left in ((b"\n", b""), (b"\nb", b"b"), (b"b", b"b"), (None, b"")):
        buffer = filled(start, b"\r")
        assert list(lines(buffer, NO_LIMIT)) == []
        assert rest_of(buffer) == start + b"\r", "what waits was taken"
        if then is None:
            buffer.feed_eof()
        else:
            buffer.feed(then)
        assert list(lines(buffer, NO_LIMIT)) == [start]
        assert rest_of(buffer) == left


@c5_starts
@nim_kinds
def test_c5_another_cr_makes_the_first_one_end_its_line_and_waits_itself(start: bytes, lines: Lines) -> None:
    buffer = filled(start, b"\r", b"\r")
    assert list(lines(buffer, NO_LIMIT)) == [start]
    assert rest_of(buffer) == b"\r"
    buffer.feed(b"\n")
    assert list(lines(buffer, NO_LIMIT)) == [b""]
    assert not buffer.has_data()


@c5_starts
def test_c5_a_cr_at_the_end_of_a_segment_is_judged_by_what_comes_in_python_lines(start: bytes) -> None:
    for then, expected, left in (
        (b"\n", [start], b""),
        (b"b\n", [start + b"\rb"], b""),
        (b"\r\n", [start + b"\r"], b""),
        (b"", [], start + b"\r"),
    ):
        buffer = filled(start, b"\r")
        assert list(py_lines(buffer, NO_LIMIT)) == []
        buffer.feed(then)
        buffer.feed_eof()
        assert list(py_lines(buffer, NO_LIMIT)) == expected
        assert rest_of(buffer) == left


@c5_starts
def test_c5_the_last_line_ends_at_a_cr_and_an_lf_that_comes_anyway_is_a_line(start: bytes) -> None:
    buffer = filled(start, b"\r")
    assert buffer.take_line(NO_LIMIT) is None
    assert buffer.take_last_line(NO_LIMIT) == (start or b"\r\n")
    buffer.feed(b"\n")
    assert buffer.take_line(NO_LIMIT) == b"\r\n"
