"""Files that hold secrets: only their owner's, from their first byte on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corps.errors import Denied


def write_private(path: Path, data: bytes) -> None:
    """0600 from its first byte on, whole or not at all, also after a crash."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def read_private(path: Path, limit_bytes: int) -> bytes:
    """As far as `limit_bytes`. Raise OSError, or Denied as `check_private` does."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        _check(path, os.fstat(fd))
        return file.read(limit_bytes)


def check_private(path: Path) -> None:
    """Raise Denied for a file that others can read or write, or that is theirs."""
    _check(path, path.stat())


def _check(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        raise Denied(f"'{path}' is no file")
    if mode & 0o077:
        raise Denied(f"'{path}' can be read by others (mode {mode:04o}): chmod 600 it")
    if status.st_uid not in (0, os.geteuid()):
        raise Denied(f"'{path}' belongs to another user (id {status.st_uid}): it must be yours")
