"""What a file system cannot do is known before anything is trusted to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from corps.store.selftest import file_system, try_disk
from tests.support.disks import ext4, ramfs, tmpfs


def test_a_usual_file_system_can_do_all(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "tmpfs", 1) as directory:
        gone = f"'{directory}' is on tmpfs: all of it is gone with the next boot"
        assert try_disk(directory) == (gone,)
        assert list(directory.iterdir()) == []
        assert file_system(directory) == "tmpfs"
    with ext4(tmp_path / "image", tmp_path / "ext4", 8) as directory:
        assert try_disk(directory) == ()
        assert file_system(directory) == "ext4"


def test_what_it_cannot_do_is_said(tmp_path: Path) -> None:
    with ramfs(tmp_path / "ramfs") as directory:
        gone, warning = try_disk(directory)
        assert gone == f"'{directory}' is on ramfs: all of it is gone with the next boot"
        assert warning == f"'{directory}' cannot punch holes: logs are not cut to their limit there"
        assert list(directory.iterdir()) == []


def test_a_full_disk_keeps_no_daemon_from_what_runs_there(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "full", 1) as directory:
        with (directory / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 20)
        (warning,) = try_disk(directory)
        assert warning == f"'{directory}' cannot be tried out: no space left on device"
        assert [path.name for path in directory.iterdir()] == ["filler"]


def test_a_daemon_says_so_in_its_log(tmp_path: Path) -> None:
    with ramfs(tmp_path / "ramfs") as directory:
        words = ["--dir", str(directory), "master", "--listen", "127.0.0.1:0"]
        master = subprocess.Popen(
            [sys.executable, "-m", "corps.cli.main", *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert master.stderr is not None
        try:
            assert any("cannot punch holes" in line for line in master.stderr)
        finally:
            master.terminate()
            master.communicate(timeout=20)
