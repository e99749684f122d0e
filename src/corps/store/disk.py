"""What the stores ask of a disk, and what is said when it fails."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from corps.errors import Unavailable

_libc = ctypes.CDLL(None, use_errno=True)


def disk_failure(error: OSError, what: str, where: Path) -> Unavailable:
    """What an operator should know of a failing disk."""
    hint = (
        "free some space there, then repeat"
        if error.errno in (errno.ENOSPC, errno.EDQUOT)
        else "look at the disk and its permissions, then repeat"
    )
    reason = (error.strerror or str(error)).lower()
    return Unavailable(f"{what} in '{where}': {reason}; {hint}", errno=error.errno or 0)


def make_directory(path: Path, mode: int) -> None:
    """The directory with exactly this mode, whatever the umask."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    except OSError as error:
        raise disk_failure(error, "cannot make a directory", path) from error


def sync_directory(path: str | Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """syncfs(2): one wait for all that was written, whoever wrote it. Raise Unavailable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_failure(error, "cannot make durable what was written", path) from error
