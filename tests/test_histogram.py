"""The histogram that keeps three digits: its percentiles beside those of the sorted values."""

from __future__ import annotations

import json
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnet.histogram import Histogram

values_of_any_size = st.lists(st.integers(0, 2**50) | st.integers(0, 5000), min_size=1, max_size=200)
percents = st.floats(0, 100) | st.sampled_from([0, 50, 90, 99, 99.9, 100])


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def nearest_rank(values: list[int], percent: float) -> int:
    return sorted(values)[max(1, -int(-len(values) * percent // 100)) - 1]


@given(values_of_any_size, percents)
def test_a_percentile_is_that_of_the_sorted_values_to_a_tenth_of_a_percent(
    values: list[int], percent: float
) -> None:
    exact = nearest_rank(values, percent)
    assert of(values).percentile(percent) == pytest.approx(exact, rel=0.001)


@given(values_of_any_size, st.lists(percents))
def test_several_percentiles_are_those_that_are_asked_for_one_by_one(
    values: list[int], wanted: list[float]
) -> None:
    histogram = of(values)
    assert histogram.percentiles(wanted) == [histogram.percentile(percent) for percent in wanted]


@given(st.lists(st.integers(0, 2047), min_size=1), percents)
def test_small_values_are_kept_as_they_are(values: list[int], percent: float) -> None:
    assert of(values).percentile(percent) == nearest_rank(values, percent)


@given(values_of_any_size)
def test_number_sum_least_and_most_are_exact(values: list[int]) -> None:
    histogram = of(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    assert (histogram.least, histogram.most) == (min(values), max(values))


def test_percentiles_of_many_values() -> None:
    rng = random.Random(7)
    values = [int(rng.lognormvariate(12, 3)) for _ in range(20_000)]
    histogram = of(values)
    for percent in (0.01, 1, 50, 90, 95, 99, 99.9, 100):
        assert histogram.percentile(percent) == pytest.approx(nearest_rank(values, percent), rel=0.001)
    assert histogram.mean == pytest.approx(statistics.fmean(values))


def test_a_histogram_does_not_grow_with_the_number_of_values() -> None:
    histogram = of(list(range(2**20, 2**21, 10)))
    assert histogram.count > 100_000
    assert len(histogram.as_json()["buckets"]) == 1024


@given(values_of_any_size, values_of_any_size)
def test_histograms_are_merged_and_survive_json(some: list[int], others: list[int]) -> None:
    merged = Histogram.merged([of(some), Histogram(), of(others)])
    copied = Histogram.from_json(json.loads(json.dumps(merged.as_json())))
    assert copied.as_json() == of(some + others).as_json()


@given(st.integers(0, 2**40), st.integers(1, 1000))
def test_a_value_that_came_several_times_is_as_if_recorded_so_often(value: int, times: int) -> None:
    histogram = Histogram()
    histogram.record(value, times)
    assert histogram.as_json() == of([value] * times).as_json()


def test_its_buckets_come_in_their_order() -> None:
    assert list(of([7, 3, 3, 2048, 2049])) == [(3, 2), (7, 1), (2048, 2)]


def test_without_values_all_is_zero() -> None:
    histogram = Histogram()
    assert histogram.percentiles([0, 50, 100]) == [0, 0, 0]
    assert (histogram.mean, histogram.count, list(histogram)) == (0, 0, [])


def test_a_negative_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Histogram().record(-1)


def test_a_value_that_did_not_come_is_refused() -> None:
    with pytest.raises(ValueError, match="at least once, got 0"):
        Histogram().record(1, 0)
