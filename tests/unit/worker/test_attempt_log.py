"""One attempt's output: its offsets stay whatever happens to the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.worker.attempt_log import AttemptLog
from corps.worker.marks import Times, Why

NOW = 4_000_000_000.0  # after every mtime of this test
BLOCK = 4_096


class Writer:
    """An app: appends, through descriptors of its own."""

    def __init__(self, directory: Path) -> None:
        self.stem = str(directory / "1")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self.fds = {name: os.open(f"{self.stem}.{name}", flags) for name in ("stdout", "stderr")}

    def write(self, name: str, data: bytes) -> None:
        assert os.write(self.fds[name], data) == len(data)

    def truncate(self, name: str, size_bytes: int) -> None:
        os.ftruncate(self.fds[name], size_bytes)

    def open(self, limit_bytes: int = 1 << 20, *, is_live: bool = True) -> AttemptLog:
        log = AttemptLog(self.stem, "web.1", limit_bytes)
        if is_live:
            log.go_live(limit_bytes)
        return log

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.close()


def _flat(log: AttemptLog) -> list[tuple[int, int]]:
    marks = log.marks()
    return [marks[number][1:] for number in range(len(marks))]


def test_a_look_marks_what_grew_and_reads_nothing(app: Writer) -> None:
    log = app.open()
    assert log.look(NOW) == (False, [])
    app.write("stderr", b"b\n")
    assert log.look(NOW) == (True, [])
    app.write("stdout", b"aa\n")
    log.look(NOW + 1)
    assert log.look(NOW + 2) == (False, [])
    assert _flat(log) == [(0, 2), (3, 2)]
    assert log.peek() == (3, 2)


def test_the_stream_that_was_written_to_earlier_comes_first(app: Writer) -> None:
    log = app.open()
    app.write("stderr", b"b\n")
    app.write("stdout", b"a\n")
    os.utime(f"{app.stem}.stderr", (NOW - 9, NOW - 9))
    os.utime(f"{app.stem}.stdout", (NOW - 5, NOW - 5))
    log.look(NOW)
    marks = log.marks()
    assert [marks[0], marks[1]] == [
        ((NOW - 9) * 1_000_000, 0, 2),
        ((NOW - 5) * 1_000_000, 2, 2),
    ]


def test_a_mark_is_no_older_than_the_last_look_and_no_newer_than_this_one(app: Writer) -> None:
    log = app.open()
    log.look(NOW)
    app.write("stdout", b"a\n")
    os.utime(f"{app.stem}.stdout", (1, 1))  # an app may say anything
    log.look(NOW + 1)
    app.write("stdout", b"b\n")
    os.utime(f"{app.stem}.stdout", (NOW * 2, NOW * 2))
    log.look(NOW + 2)
    assert [log.marks()[n].at / 1_000_000 for n in (0, 1)] == [NOW, NOW + 2]


def test_the_dead_have_times_although_nobody_looked(app: Writer) -> None:
    app.write("stdout", b"out\n")
    app.write("stderr", b"err\n")
    os.utime(f"{app.stem}.stderr", (100, 100))
    os.utime(f"{app.stem}.stdout", (200, 200))
    log = app.open(is_live=False)
    log.look(NOW)
    assert [tuple(log.marks()[n]) for n in (0, 1)] == [(10**8, 0, 4), (2 * 10**8, 4, 4)]
    assert not os.path.exists(f"{app.stem}.times")


def test_a_head_is_freed_in_whole_blocks_and_offsets_stay(app: Writer) -> None:
    log = app.open(limit_bytes=10 * BLOCK)
    lines = b"".join(b"%07d\n" % number for number in range(20 * BLOCK // 8))
    app.write("stdout", lines)
    log.look(NOW)
    assert log.enforce() == []
    assert os.stat(f"{app.stem}.stdout").st_size == len(lines)
    assert log.disk_bytes() <= 10 * BLOCK
    piece = log.read("stdout", 0, len(lines))
    assert piece.offset == piece.first == 10 * BLOCK + 8  # the line at the edge may be torn
    assert piece.data == lines[piece.offset :] and piece.why is Why.LIMIT
    assert log.read("stdout", -8, 100).data == lines[-8:]
    assert log.read("stdout", 15 * BLOCK, 8).data == lines[15 * BLOCK : 15 * BLOCK + 8]
    again = app.open(is_live=False)
    again.look(NOW)
    assert again.read("stdout", 0, 1 << 20) == piece


def test_what_is_not_far_over_its_limit_is_left(app: Writer) -> None:
    log = app.open(limit_bytes=10 * BLOCK)
    app.write("stdout", b"x" * (12 * BLOCK))
    log.look(NOW)
    assert log.enforce() == []
    assert log.read("stdout", 0, 1).offset == 0


def test_a_limit_is_known_to_the_next_life(app: Writer) -> None:
    app.open(limit_bytes=2 * BLOCK).remember_limit()
    log = app.open(limit_bytes=1 << 30)
    app.write("stderr", b"x" * (9 * BLOCK))
    log.look(NOW)
    log.enforce()
    assert log.disk_bytes() <= 2 * BLOCK


def test_a_truncation_is_told_and_what_comes_is_new(app: Writer) -> None:
    log = app.open()
    app.write("stdout", b"old old old\n")
    log.look(NOW)
    app.truncate("stdout", 0)
    app.write("stdout", b"new\n")
    grown, (note,) = log.look(NOW)
    assert grown
    assert (note.kind, note.subject) == ("log-truncated", "web.1")
    assert note.message == "it truncated its stdout to 4 bytes: 12 bytes are gone"
    piece = log.read("stdout", 0, 100)
    assert (piece.offset, piece.data, piece.why) == (12, b"new\n", Why.APP)
    assert log.read("stdout", 12, 100).data == b"new\n"  # a follower goes on where it was
    for life in (app.open(), app.open(is_live=False)):
        assert life.look(NOW) == (False, [])
        assert life.read("stdout", 0, 100) == piece


def test_a_truncation_that_nobody_saw_is_found_by_the_next_life(app: Writer) -> None:
    log = app.open()
    app.write("stdout", b"old old old\n")
    log.look(NOW)
    app.truncate("stdout", 4)
    late = app.open(is_live=False)
    _, (note,) = late.look(NOW)
    assert note.kind == "log-truncated"
    assert late.read("stdout", 12, 100).data == b"old "


def test_an_app_that_truncates_all_the_time_makes_one_event_a_minute(app: Writer) -> None:
    log = app.open()
    said = []
    for number in range(100):
        app.write("stdout", b"line\n")
        said += log.look(NOW + number)[1]
        app.truncate("stdout", 0)
        said += log.look(NOW + number)[1]
    assert len(said) == 2
    assert log.read("stdout", 0, 100).offset == 500


def test_a_file_grown_by_truncation_is_no_trouble(app: Writer) -> None:
    log = app.open(limit_bytes=BLOCK)
    app.truncate("stdout", 1 << 40)
    app.write("stdout", b"end\n")
    log.look(NOW)
    log.enforce()
    assert log.read("stdout", -4, 100).data == b"end\n"
    assert log.disk_bytes() <= 2 * BLOCK


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "1.stdout"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    log = AttemptLog(str(tmp_path / "1"), "web.1", 1 << 20)
    log.look(NOW)
    assert log.error() is not None
    assert log.read("stdout", 0, 100).data == b""


def test_without_a_page_the_hole_says_what_is_gone(app: Writer) -> None:
    log = app.open(is_live=False)
    app.write("stdout", b"%0999d\n" % 0 * 40)
    log.look(NOW)
    assert log.shrink(4 * BLOCK) > 0
    os.unlink(f"{app.stem}.times")
    del log
    again = app.open(is_live=False)
    again.look(NOW)
    piece = again.read("stdout", 0, 1 << 20)
    assert piece.offset % 1000 == 0 and piece.offset > 0
    assert piece.offset + len(piece.data) == 40_000


def test_marks_that_cannot_be_written_are_kept_in_mind(app: Writer) -> None:
    os.mkdir(f"{app.stem}.times")
    log = app.open()
    for number in range(3):
        app.write("stdout", b"a\n")
        log.look(NOW + number)
    assert _flat(log) == [(2, 0), (4, 0), (6, 0)]


def test_the_page_of_a_living_log_is_there_and_holds_its_marks(app: Writer) -> None:
    log = app.open()
    app.write("stdout", b"a\n")
    log.look(NOW)
    times = Times(f"{app.stem}.times")
    assert times.load() is not None and times.last()[1:] == (2, 0)
