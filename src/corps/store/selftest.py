"""What a state directory's file system can do, tried out before anything is trusted to it.

Without rename, exclusive creation and locks there is no store. Without hard links each tree takes a
copy of its own, without holes no log can be cut, and over a network others may see a file late.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from corps.errors import Unavailable
from corps.store.punch import punch

SHARED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs")
VOLATILE = ("tmpfs", "ramfs")
BLOCK_BYTES = 4_096
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def try_disk(directory: Path) -> tuple[str, ...]:
    """What it cannot do, a sentence each. Raise Unavailable when it can be no store."""
    stem = directory / f".selftest-{secrets.token_hex(8)}"
    try:
        with stem.open("xb") as file:
            file.write(bytes(2 * BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
            missing = [name for name, can in _NEEDED.items() if not can(stem, file.fileno())]
            warnings = [text for can, text in _WANTED if not can(stem, file.fileno())]
    except OSError as error:  # full, or read-only: what runs there must be taken over all the same
        return (f"'{directory}' cannot be tried out: {(error.strerror or str(error)).lower()}",)
    finally:
        for path in (stem, _beside(stem)):
            path.unlink(missing_ok=True)
    if missing:
        raise Unavailable(
            f"cannot keep state in '{directory}': its file system has no {' and no '.join(missing)}"
            "; choose a --dir on a local disk"
        )
    kind = file_system(directory)
    if kind in VOLATILE:
        warnings.insert(0, f"is on {kind}: all of it is gone with the next boot")
    if kind in SHARED:
        warnings.insert(0, f"is on {kind}: no other machine may use this directory")
    return tuple(f"'{directory}' {text}" for text in warnings)


def file_system(directory: Path) -> str:
    """Its name as in /proc/filesystems; empty when that cannot be told."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split(" ")
        if words[2] == wanted and "-" in words:
            return words[words.index("-") + 1]
    return ""


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.2")


def _can_rename(path: Path, fd: int) -> bool:
    """Over another file, which is gone then."""
    other = _beside(path)
    other.write_bytes(b"old")
    os.rename(path, other)
    is_done = os.path.samestat(os.fstat(fd), other.stat()) and not path.exists()
    os.rename(other, path)
    return is_done


def _is_exclusive(path: Path, _: int) -> bool:
    try:
        os.close(os.open(path, _NEW, 0o600))
    except FileExistsError:
        return True
    return False


def _can_lock(path: Path, fd: int) -> bool:
    other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # ENOLCK, ENOTSUP: no locks at all
        return False
    finally:
        os.close(other)
    return False


def _can_link(path: Path, _: int) -> bool:
    try:
        os.link(path, _beside(path))
        os.unlink(_beside(path))
    except OSError:
        return False
    return True


def _can_punch(_: Path, fd: int) -> bool:
    return punch(fd, 0, BLOCK_BYTES)


_NEEDED: dict[str, Callable[[Path, int], bool]] = {
    "rename over a file": _can_rename,
    "exclusive creation": _is_exclusive,
    "locks": _can_lock,
}
_WANTED: tuple[tuple[Callable[[Path, int], bool], str], ...] = (
    (_can_link, "has no hard links: every artifact takes the room of its files once more"),
    (_can_punch, "cannot punch holes: logs are not cut to their limit there"),
)
