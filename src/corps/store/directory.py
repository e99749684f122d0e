"""Directories of a tree: opened name by name, so that no link is followed, and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

DIRECTORY_MODE = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def opened(root_fd: int, directory: str) -> Iterator[int]:
    """The directory below `root_fd`, made when it is not there; no link on the way is followed."""
    fd = os.dup(root_fd)
    try:
        for name in directory.split("/") if directory else ():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=fd)
            child = os.open(name, _DIRECTORY, dir_fd=fd)
            os.fchmod(child, DIRECTORY_MODE)
            os.close(fd)
            fd = child
        yield fd
    finally:
        os.close(fd)


def remove_directory(path: Path) -> None:
    """With all that is in it; none there is fine."""
    if not os.path.lexists(path):
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _unlock(path)  # an app took away its own rights
        shutil.rmtree(path)


def remove(path: Path) -> None:
    """Whatever is there; nothing is fine."""
    if path.is_dir() and not path.is_symlink():
        remove_directory(path)
    else:
        path.unlink(missing_ok=True)


def _unlock(path: Path) -> None:
    os.chmod(path, 0o700)
    for directory, names, _ in os.walk(path):
        for name in names:
            child = f"{directory}/{name}"
            if not os.path.islink(child):
                os.chmod(child, 0o700)
