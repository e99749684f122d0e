"""worker.json: who this state directory is, how often a worker began on it, and what it heard.

The file names itself by its handle (name_to_handle_at(2)), which no copy of it has: a directory
that was restored or cloned is known as a copy until a master has noted that.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
from pathlib import Path

import msgspec

from corps.daemon import private
from corps.errors import Unavailable

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HANDLE_MAX_BYTES = 128  # MAX_HANDLE_SZ
AT_EMPTY_PATH = 0x1000

_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger("corps.worker")


class WorkerFile(msgspec.Struct, frozen=True, kw_only=True):
    """What must outlive the daemon beside its keeper's journal. `handle` is that of the file."""

    state_id: str
    cluster: str | None = None
    incarnation: int = 0
    boot_id: str = ""
    epoch: int = 0
    life: str = ""
    heard_seq: int = 0
    is_copy: bool = False
    handle: str = ""


def begin(directory: Path) -> WorkerFile:
    """One more start on this directory, durable. Raise Unavailable: nothing is guessed."""
    path = directory / "worker.json"
    try:
        file = _read(path) if path.exists() else WorkerFile(state_id=secrets.token_hex(16))
        boot_id = BOOT_ID.read_text().strip()
        if file.boot_id not in ("", boot_id):
            _log.warning("the machine was rebooted: what ran here before is dead with that boot")
        if file.handle and file.handle != _handle_of(path):
            _log.warning("%s is a copy: this directory was restored or cloned", path)
            file = msgspec.structs.replace(file, is_copy=True)
        begun = msgspec.structs.replace(file, incarnation=file.incarnation + 1, boot_id=boot_id)
        return save(directory, begun)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unavailable(
            f"cannot use {path}: {error}; nothing was changed and nothing ended: mend it, or put "
            "the newest copy of the directory back"
        ) from error


def save(directory: Path, file: WorkerFile) -> WorkerFile:
    """The file as it is on the disk now: old or new after a crash, never neither."""
    path, new = directory / "worker.json", directory / ".worker.json.new"
    with open(new, "wb", opener=private) as opened:
        file = msgspec.structs.replace(file, handle=_handle(opened.fileno()))
        opened.write(msgspec.json.encode(file))
        opened.flush()
        os.fsync(opened.fileno())
    new.rename(path)
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)
    return file


def _read(path: Path) -> WorkerFile:
    return msgspec.json.decode(path.read_bytes(), type=WorkerFile)


def _handle_of(path: Path) -> str:
    with path.open("rb") as file:
        return _handle(file.fileno())


def _handle(fd: int) -> str:
    """Inode and generation in the words of the file system; of one that has none, the inode."""
    buffer = ctypes.create_string_buffer(8 + HANDLE_MAX_BYTES)
    size = ctypes.c_uint.from_buffer(buffer)
    size.value = HANDLE_MAX_BYTES
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(mount), AT_EMPTY_PATH) != 0:
        return f"inode {os.fstat(fd).st_ino}"
    return buffer.raw[4 : 8 + size.value].hex()
