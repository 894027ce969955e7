"""The boundaries of records: the same wherever the stream is cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gnet.tls.records import RecordBoundaries

sizes = st.lists(st.integers(0, 300) | st.sampled_from([255, 256, 16401]), min_size=1, max_size=12)


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size)


@given(sizes, st.data())
def test_one_whole_record_is_known_wherever_the_stream_was_cut(sizes: list[int], data: st.DataObject) -> None:
    stream = b"".join(map(record, sizes))
    edges = {0}
    for size in sizes:
        edges.add(max(edges) + 5 + size)
    ordered = sorted(edges)
    near = sorted({edge + step for edge in edges for step in range(-6, 7) if 0 < edge + step < len(stream)})
    inside = st.sampled_from(near) if near else st.just(len(stream))
    cuts = sorted({*data.draw(st.lists(inside, max_size=12)), len(stream)})
    boundaries = RecordBoundaries()
    start = 0
    for end in cuts:
        whole = (start, end) in itertools.pairwise(ordered)
        # A record without a body carries nothing: it is as well to ask OpenSSL about it.
        assert boundaries.feed(stream[start:end]) == (whole and end - start > 5)
        start = end


def test_bytes_one_by_one_are_no_whole_record() -> None:
    boundaries = RecordBoundaries()
    stream = record(3) + record(700)
    assert not any(boundaries.feed(stream[at : at + 1]) for at in range(len(stream)))
    assert boundaries.feed(record(1))
