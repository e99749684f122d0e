"""Logs on real filesystems: one that cannot punch holes, one that is full, one that lives on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from corps.store.punch import punch
from corps.worker.attempt_log import AttemptLog
from corps.worker.layout import Layout
from corps.worker.marks import Why
from corps.worker.reserve import FLOOR_BYTES, Reserve
from tests.support.disks import ext4, fill, ramfs, tmpfs

NOW = 4_000_000_000.0
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with ext4(tmp_path / "image", tmp_path / "disk", 64) as directory:
        yield directory


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _log(directory: Path, limit_bytes: int) -> AttemptLog:
    for name in ("stdout", "stderr"):
        (directory / f"1.{name}").touch()
    log = AttemptLog(str(directory / "1"), "web.1", limit_bytes)
    log.go_live(limit_bytes)
    return log


def _refuses(reserve: Reserve) -> bool:
    return reserve.refusal is not None


def _nothing() -> Iterator[tuple[int, Callable[[], int]]]:
    return iter(())


def test_punching_frees_blocks_where_the_filesystem_can(disk: Path, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "tmpfs", 16) as memory:
        for directory in (disk, memory):
            path = directory / "file"
            path.write_bytes(b"x" * MIB)
            with path.open("rb+") as file:
                assert punch(file.fileno(), 0, MIB // 2)
                os.fsync(file.fileno())
            assert path.stat().st_size == MIB
            assert path.stat().st_blocks * 512 <= MIB // 2 + 64 * 1024
            assert path.read_bytes()[MIB // 2 :] == b"x" * (MIB // 2)


def test_where_no_hole_can_be_punched_all_goes_and_offsets_go_on(tmp_path: Path) -> None:
    with ramfs(tmp_path / "ramfs") as directory:
        log = _log(directory, 64 << 10)
        _append(directory / "1.stdout", b"%099d\n" % 1 * 1_000)
        log.look(NOW)
        (note,) = log.enforce()
        assert (note.kind, note.subject) == ("log-cut", "web.1")
        assert "all 100000 bytes" in note.message
        assert (directory / "1.stdout").stat().st_size == 0
        _append(directory / "1.stdout", b"torn\nwhole\n")
        assert log.look(NOW) == (True, [])
        assert log.enforce() == []
        piece = log.read("stdout", 0, 1_000)
        assert (piece.offset, piece.data, piece.why) == (100_005, b"whole\n", Why.CUT)
        assert log.read("stdout", 100_000, 1_000).data == b"torn\nwhole\n"
        again = AttemptLog(str(directory / "1"), "web.1", MIB)
        again.look(NOW)
        assert again.read("stdout", 0, 1_000) == piece
        del log, again


def test_a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room(disk: Path) -> None:
    log = _log(disk, 1 << 30)
    _append(disk / "1.stdout", b"a\n")
    log.look(NOW)
    filler = fill(disk, 0)
    for number in range(400):  # the marks need a third block, the output fits in its first
        _append(disk / "1.stdout", b"x")
        log.look(NOW + number)
    size = 2 + 400
    assert log.read("stdout", 0, MIB).size_bytes == size
    assert log.marks()[len(log.marks()) - 1][1:] == (size, 0)
    with pytest.raises(OSError, match="No space left"), (disk / "1.stderr").open("ab") as file:
        file.write(b"x" * MIB)
    filler.unlink()
    _append(disk / "1.stdout", b"c\n")
    log.look(NOW + 999)
    again = AttemptLog(str(disk / "1"), "web.1", MIB)
    assert again.marks()[len(again.marks()) - 1][1] == size + 2
    assert len(again.marks()) > 390


def test_below_the_reserve_the_largest_logs_give_up_their_heads_first(disk: Path) -> None:
    sizes = {"small.1": 2, "large.1": 20, "middle.1": 8}
    layout = Layout(disk)
    logs = {}
    for instance, size_mib in sizes.items():
        layout.make(f"{instance}#1")
        directory = disk / "instances" / instance
        logs[instance] = _log(directory, 1 << 30)
        _append(directory / "1.stdout", b"x" * (size_mib * MIB - 1) + b"\n")
        logs[instance].look(NOW)
    assert sorted(layout.attempts()) == ["large.1#1", "middle.1#1", "small.1#1"]

    def shrinkable() -> Iterator[tuple[int, Callable[[], int]]]:
        for log in logs.values():
            yield log.disk_bytes(), partial(log.shrink, FLOOR_BYTES)

    room = os.statvfs(disk)
    reserve = Reserve(str(disk), room.f_bavail * room.f_frsize + 4 * MIB, shrinkable)
    assert reserve.check(NOW) == []  # enough could be given up
    assert reserve.refusal is None
    assert logs["large.1"].disk_bytes() <= FLOOR_BYTES + 64 * 1024
    assert logs["small.1"].disk_bytes() >= 2 * MIB
    assert logs["large.1"].read("stdout", -5, 10).data == b"xxxx\n"


def test_with_nothing_to_give_up_nothing_new_starts_until_there_is_room(disk: Path) -> None:
    reserve = Reserve(str(disk), 8 * MIB, _nothing)
    assert (reserve.check(NOW), reserve.refusal) == ([], None)
    filler = fill(disk, MIB)
    (low,) = reserve.check(NOW + 10)
    assert low.kind == "disk-low" and low.subject is None
    assert reserve.refusal is not None and reserve.refusal in low.message
    assert f"{8 * MIB} are kept in reserve" in reserve.refusal
    assert reserve.check(NOW + 20) == []  # told once
    filler.unlink()
    (ok,) = reserve.check(NOW + 30)
    assert ok.kind == "disk-ok" and not _refuses(reserve)
    assert reserve.check(NOW + 40) == []


def test_the_reserve_is_a_share_of_a_small_disk_and_none_where_no_size_is_told(
    disk: Path, tmp_path: Path
) -> None:
    fill(disk, MIB)
    reserve = Reserve(str(disk), None, _nothing)
    assert [note.kind for note in reserve.check(NOW)] == ["disk-low"]
    assert Reserve(str(disk), 0, _nothing).check(NOW) == []
    with ramfs(tmp_path / "ramfs") as directory:
        assert Reserve(str(directory), None, _nothing).check(NOW) == []
