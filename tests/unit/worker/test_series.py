"""The file of a series: it goes on after anything, and is never longer than it may be."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from corps.worker.series import FILE_MAX_BYTES, RECORD_BYTES, RECORDS_MAX, Series, load
from tests.support.usage import a_point


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "1.usage"


def test_samples_are_read_back_as_they_were(path: Path) -> None:
    points = [a_point(0), a_point(1, fds=None, io_read_bytes=None, io_write_bytes=None)]
    series = Series(str(path))
    for point in points:
        series.add(point)
    assert load(str(path)) == (points, 1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_goes_on_where_an_earlier_life_ended(path: Path) -> None:
    for number in range(5):
        series = Series(str(path))
        assert series.sum.samples == number
        series.add(a_point(number))
    points, _ = load(str(path))
    assert points == [a_point(number) for number in range(5)]
    assert os.listdir(path.parent) == ["1.usage"]


def test_a_full_file_is_halved_and_holds_twice_the_time(path: Path) -> None:
    series = Series(str(path))
    for number in range(RECORDS_MAX + 3):
        series.add(a_point(number, rss_mean_bytes=number, rss_max_bytes=number))
    points, stride = load(str(path))
    assert (stride, len(points)) == (2, RECORDS_MAX // 2 + 2)
    assert [point.samples for point in points[-3:]] == [2, 2, 1]
    assert (points[0].at, points[0].rss_max_bytes) == (a_point(1).at, 1)
    assert sum(point.samples for point in points) == RECORDS_MAX + 3
    assert points[-1].cpu_user_s == a_point(RECORDS_MAX + 2).cpu_user_s


def test_it_is_never_longer_than_it_may_be_and_survives_restarts_between(path: Path) -> None:
    series, written = Series(str(path)), 5 * RECORDS_MAX
    for number in range(written):
        if number % 97 == 0:
            series = Series(str(path))
        series.add(a_point(number))
    points, stride = load(str(path))
    assert path.stat().st_size <= FILE_MAX_BYTES
    assert (stride, sum(point.samples for point in points)) == (8, written)
    assert series.sum.samples == written
    assert all(first.at < second.at for first, second in itertools.pairwise(points))


@pytest.mark.parametrize("cut", [1, RECORD_BYTES - 1])
def test_a_torn_last_record_is_left_out_and_written_over(path: Path, cut: int) -> None:
    series = Series(str(path))
    for number in range(3):
        series.add(a_point(number))
    os.truncate(path, path.stat().st_size - cut)
    assert load(str(path))[0] == [a_point(0), a_point(1)]
    Series(str(path)).add(a_point(7))
    assert load(str(path))[0] == [a_point(0), a_point(1), a_point(7)]


def test_a_flipped_bit_ends_the_series_there(path: Path) -> None:
    series = Series(str(path))
    for number in range(3):
        series.add(a_point(number))
    data = bytearray(path.read_bytes())
    data[-2 * RECORD_BYTES + 5] ^= 0x10
    path.write_bytes(data)
    assert load(str(path))[0] == [a_point(0)]


@pytest.mark.parametrize("data", [b"", b"x", b"corpsUS1", b"\0" * 5_000, b"corpsUS1" * 900])
def test_what_is_no_series_has_no_points_and_is_replaced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert load(str(path)) == ([], 1)
    Series(str(path)).add(a_point(0))
    assert load(str(path))[0] == [a_point(0)]


def test_a_symlink_is_not_followed(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    path.symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        Series(str(path))
    assert other.read_bytes() == b"precious"


def test_a_file_that_was_taken_away_is_begun_again(path: Path) -> None:
    series = Series(str(path))
    series.add(a_point(0))
    path.unlink()
    series.add(a_point(1))
    series.add(a_point(2))
    assert load(str(path))[0] == [a_point(1), a_point(2)]
    assert series.sum.samples == 3


def test_a_write_that_fails_loses_one_sample_and_nothing_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    series = Series(str(home / "1.usage"))
    series.add(a_point(0))
    home.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        series.add(a_point(1))
    (tmp_path / "away").rename(home)
    series.add(a_point(2))
    assert load(str(home / "1.usage"))[0] == [a_point(0), a_point(2)]
