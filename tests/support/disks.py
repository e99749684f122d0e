"""Small filesystems that a test mounts, fills and takes away again. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ext4(image: Path, directory: Path, size_mib: int) -> Iterator[Path]:
    """A filesystem with an end, in a file, on `directory`."""
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
    with _mounted(directory, "-o", "loop", str(image)):
        yield directory
    image.unlink()


@contextmanager
def quota(image: Path, directory: Path, size_mib: int, quota_mib: int) -> Iterator[Path]:
    """A filesystem with room that nobody may use: beyond so much a write fails with EDQUOT."""
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    _run("mkfs.btrfs", "-q", str(image))
    with _mounted(directory, "-o", "loop", str(image)):
        _run("btrfs", "quota", "enable", str(directory))
        _run("btrfs", "qgroup", "limit", f"{quota_mib}M", str(directory))
        yield directory
    image.unlink()


@contextmanager
def ramfs(directory: Path) -> Iterator[Path]:
    """A filesystem that cannot punch holes, and does not say how large it is."""
    with _mounted(directory, "-t", "ramfs", "ramfs"):
        yield directory


@contextmanager
def tmpfs(directory: Path, size_mib: int) -> Iterator[Path]:
    with _mounted(directory, "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs"):
        yield directory


@contextmanager
def noexec(directory: Path) -> Iterator[Path]:
    """A filesystem from which nothing is executed."""
    with _mounted(directory, "-t", "tmpfs", "-o", "noexec", "tmpfs"):
        yield directory


def fill(directory: Path, leave_bytes: int) -> Path:
    """A file that takes all room but so much, or a little less: to the last block where it is 0."""
    path = directory / "filler"
    found = os.statvfs(directory)
    with path.open("wb") as file:
        room = found.f_bavail * found.f_frsize - max(leave_bytes, 1 << 20)
        os.posix_fallocate(file.fileno(), 0, room)
        file.seek(room)
        if not leave_bytes:
            with contextlib.suppress(OSError):
                while os.write(file.fileno(), bytes(found.f_bsize)):
                    pass
    return path


@contextmanager
def _mounted(directory: Path, *words: str) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    _run("mount", *words, str(directory))
    try:
        yield
    finally:
        _run("umount", "-l", str(directory))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
