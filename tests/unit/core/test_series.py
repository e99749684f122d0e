"""Merging, thinning and summing points: nothing that a series says is lost, only its detail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corps.core.series import Sum, cpu_percents, halved, merged, summed, thinned
from corps.model.series import Point
from tests.support.usage import MIB, NOW, a_point


def test_of_two_points_the_counters_are_the_later_and_the_gauges_mean_and_largest() -> None:
    first = a_point(0, samples=3, rss_mean_bytes=10, rss_max_bytes=90, threads=7, fds=2)
    second = a_point(1, rss_mean_bytes=50, rss_max_bytes=60, processes=4, fds=9)
    one = merged(first, second)
    assert (one.at, one.span_s, one.samples) == (second.at, 10.0, 4)
    assert (one.cpu_user_s, one.io_write_bytes) == (second.cpu_user_s, second.io_write_bytes)
    assert (one.rss_mean_bytes, one.rss_max_bytes) == (20, 90)
    assert (one.processes, one.threads, one.fds) == (4, 7, 9)


@pytest.mark.parametrize(
    ("first", "second", "fds", "written"),
    [(None, None, None, None), (3, None, 3, 3), (None, 4, 4, 4), (9, 4, 9, 4)],
)
def test_what_was_not_known_once_is_what_is_known_else(
    first: int | None, second: int | None, fds: int | None, written: int | None
) -> None:
    one = merged(
        a_point(0, fds=first, io_write_bytes=first), a_point(1, fds=second, io_write_bytes=second)
    )
    assert (one.fds, one.io_write_bytes) == (fds, written)


def test_an_odd_last_point_stays_as_it_is() -> None:
    points = [a_point(number) for number in range(5)]
    assert [point.samples for point in halved(points)] == [2, 2, 1]
    assert halved(points)[-1] == points[-1]
    assert halved([]) == []


@given(
    st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 5), st.integers(0, 99))),
    st.integers(1, 50),
)
def test_thinning_keeps_time_counters_peaks_and_the_mean(
    facts: list[tuple[int, int, int]], most: int
) -> None:
    points = [
        a_point(number, rss_mean_bytes=rss, rss_max_bytes=rss, samples=samples, fds=fds)
        for number, (rss, samples, fds) in enumerate(facts)
    ]
    thin = thinned(points, most)
    assert len(thin) <= most
    whole, less = summed(points), summed(thin)
    assert less.samples == whole.samples
    assert (less.rss_peak_bytes, less.fds_max) == (whole.rss_peak_bytes, whole.fds_max)
    if points:
        assert less.last is not None and less.last.at == points[-1].at
        assert less.last.cpu_user_s == points[-1].cpu_user_s
        assert sum(point.span_s for point in thin) == 5.0 * len(points)
        mean = whole.rss_total_bytes / whole.samples
        assert less.rss_total_bytes / less.samples == pytest.approx(mean, abs=len(points))


def test_cpu_percent_is_what_was_used_since_the_point_before() -> None:
    points = [a_point(0), a_point(1), a_point(2, cpu_user_s=12.25, cpu_system_s=0.75)]
    assert cpu_percents(points, NOW) == [20.0, 20.0, pytest.approx(220.0)]


def test_cpu_percent_of_a_first_point_without_a_start_is_not_known() -> None:
    assert cpu_percents([a_point(0), a_point(1)], None) == [None, 20.0]
    assert cpu_percents([a_point(0)], a_point(0).at) == [None]
    assert cpu_percents([], NOW) == []


def test_a_sum_before_the_first_sample_says_nothing() -> None:
    assert Sum().measured() is None


def test_a_sum_is_the_last_sample_with_the_mean_and_peak_of_all() -> None:
    series: list[Point] = [
        a_point(0, rss_mean_bytes=10 * MIB, rss_max_bytes=10 * MIB, threads=9),
        a_point(1, rss_mean_bytes=30 * MIB, rss_max_bytes=40 * MIB, fds=None),
    ]
    measured = summed(series).measured()
    assert measured is not None
    assert (measured.at, measured.samples) == (series[1].at, 2)
    assert (measured.rss_bytes, measured.rss_mean_bytes) == (30 * MIB, 20 * MIB)
    assert measured.rss_peak_bytes == 40 * MIB
    assert (measured.threads, measured.threads_max) == (1, 9)
    assert (measured.fds, measured.fds_max) == (None, 3)


def test_a_sample_for_a_question_counts_for_the_peak_and_not_for_the_mean() -> None:
    now = a_point(1, rss_mean_bytes=50 * MIB, rss_max_bytes=50 * MIB)
    measured = summed([a_point(0)]).measured(now)
    assert measured is not None
    assert (measured.samples, measured.rss_mean_bytes) == (1, 10 * MIB)
    assert (measured.rss_bytes, measured.rss_peak_bytes) == (50 * MIB, 50 * MIB)
