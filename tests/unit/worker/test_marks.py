"""The times of output: a small file that never grows beyond its limit and survives anything."""

from __future__ import annotations

import os
from array import array
from itertools import pairwise
from pathlib import Path

import pytest

from corps.worker.marks import MARK, MARKS_MAX, PAGE_BYTES, Mark, Marks, Page, Place, Times, Why

PAGE = Page(1_000, Place(10, 20, Why.APP), Place(1, 2, Why.LIMIT, is_cutting=True))


def _marks(*marks: tuple[int, int, int]) -> Marks:
    return Marks(array("q", [number for mark in marks for number in mark]))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "1.times")
    times = Times(path)
    assert not times.is_there and times.load() is None
    times.save(PAGE)
    for number in range(3):
        times.append(Mark(number, 2 * number, 3 * number))
    again = Times(path)
    assert again.load() == PAGE
    assert again.last() == Mark(2, 4, 6)
    assert again.read() == array("q", [0, 0, 0, 1, 2, 3, 2, 4, 6])


def test_a_page_that_was_not_written_whole_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "1.times"
    Times(str(path)).save(PAGE)
    path.write_bytes(path.read_bytes()[:30])
    assert not Times(str(path)).is_there
    Times(str(path)).save(PAGE)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    assert not Times(str(path)).is_there


def test_half_a_mark_is_overwritten_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "1.times"
    times = Times(str(path))
    times.save(PAGE)
    times.append(Mark(1, 1, 1))
    with path.open("ab") as file:
        file.write(b"half a mark")
    again = Times(str(path))
    assert again.last() == Mark(1, 1, 1)
    again.append(Mark(2, 2, 2))
    assert Times(str(path)).read() == array("q", [1, 1, 1, 2, 2, 2])


def test_at_its_limit_marks_get_coarser_with_their_age(tmp_path: Path) -> None:
    path = tmp_path / "1.times"
    times = Times(str(path))
    times.save(PAGE)
    count = 4 * MARKS_MAX
    for number in range(1, count + 1):
        times.append(Mark(number, number, 0))
    assert path.stat().st_size <= PAGE_BYTES + MARKS_MAX * MARK.size
    at = list(times.read()[0::3])
    assert at == sorted(at) and at[-1] == count
    assert at[-100:] == list(range(count - 99, count + 1))
    assert all(after - before <= 2 + (count - before) / 200 for before, after in pairwise(at))
    assert Times(str(path)).load() == PAGE
    assert [name.name for name in tmp_path.iterdir()] == ["1.times"]


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hard link"])
def test_what_stands_in_its_place_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "1.times", tmp_path / "precious"
    other.write_bytes(b"x" * PAGE_BYTES * 2)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(other)
    else:
        path.hardlink_to(other)
    times = Times(str(path))
    assert not times.is_there
    with pytest.raises(FileExistsError):
        times.save(PAGE)
    assert other.read_bytes() == b"x" * PAGE_BYTES * 2


def test_marks_are_found_by_time_and_by_offset() -> None:
    marks = _marks((10, 5, 0), (20, 5, 7), (30, 9, 7))
    assert marks.before(10) == (0, 0, 0)
    assert marks.before(20) == (10, 5, 0)
    assert marks.before(99) == (30, 9, 7)
    assert [marks.next_after(*at) for at in ((0, 0), (5, 0), (5, 7), (9, 7))] == [0, 1, 2, 3]


def test_so_many_bytes_back_is_a_point_in_the_order_of_time() -> None:
    marks = _marks((10, 5, 0), (20, 5, 7), (30, 9, 7))
    assert marks.back(0) == (9, 7)
    assert marks.back(1) == (8, 7)
    assert marks.back(4) == (5, 7)
    assert marks.back(5) == (5, 6)
    assert marks.back(12) == (4, 0)
    assert marks.back(16) == marks.back(1 << 60) == (0, 0)
    assert marks.back(-1) == (9, 7)
    assert _marks().back(10) == (0, 0)


def test_within_one_mark_stdout_comes_first_also_backwards() -> None:
    marks = _marks((10, 4, 4))
    assert [marks.back(size) for size in (3, 4, 5, 8)] == [(4, 1), (4, 0), (3, 0), (0, 0)]
