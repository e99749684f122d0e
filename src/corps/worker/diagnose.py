"""Why a program did not start, in the words a person needs.

execve(2) says ENOENT for a missing file, a missing interpreter and a missing ELF loader alike, and
EACCES for a directory, a missing x bit and a noexec mount alike: here the file itself is asked.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import struct
from pathlib import Path

HEAD_BYTES = 4_096
SHEBANG_MAX_BYTES = 256
ELF_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv", 21: "ppc64"}
PT_INTERP = 3
ST_NOEXEC = 8  # statvfs(3)


def diagnose(path: Path, cwd: str, stage: str, number: int) -> str:
    """One sentence: what failed, on what, why."""
    if stage == "chdir":
        return f"cannot enter the directory {cwd!r}: {os.strerror(number)}"
    if stage == "log":
        return f"cannot open its log file: {os.strerror(number)}"
    if stage == "fork" and number in (errno.EMFILE, errno.ENFILE):
        return "the keeper has no file descriptor left: end something, or raise 'ulimit -n'"
    if stage == "fork":
        return f"cannot make another process: {os.strerror(number)} (a limit on processes?)"
    if stage != "execve":
        return (
            f"{stage.replace('_', ' ')}: {os.strerror(number)}"
            if number
            else stage.replace("_", " ")
        )
    return f"cannot execute {path.name!r}: {_exec_reason(path, number)}"


def _exec_reason(path: Path, number: int) -> str:
    said = os.strerror(number)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return f"it is no regular file ({said})"
        if number == errno.EACCES:
            return _denied(path, status, said)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return f"the file is missing on this worker ({said})"
    except OSError as error:
        return f"{said}; and it cannot be read: {error.strerror}"
    if number == errno.E2BIG:
        return f"its arguments and environment are too long ({said})"
    if head.startswith(b"#!"):
        return _shebang(head, said)
    if head.startswith(b"\x7fELF"):
        return _elf(head, said)
    if not head:
        return f"the file is empty ({said})"
    if number == errno.ENOEXEC:
        return f"it is neither ELF nor begins with '#!INTERPRETER' ({said}); no shell is tried"
    return said


def _denied(path: Path, status: os.stat_result, said: str) -> str:
    if not status.st_mode & 0o111:
        return f"it has no x bit: chmod +x and copy it again ({said})"
    if os.statvfs(path).f_flag & ST_NOEXEC:
        return f"it lies on a file system mounted noexec ({said})"
    return f"this user may not ({said})"


def _shebang(head: bytes, said: str) -> str:
    line = head[2:SHEBANG_MAX_BYTES].split(b"\n", 1)[0]
    if line.endswith(b"\r"):
        return f"its first line ends in CR LF: convert it to Unix line ends ({said})"
    words = line.split()
    if not words:
        return f"its first line names no interpreter ({said})"
    interpreter = os.fsdecode(words[0])
    if not os.path.exists(interpreter):
        return f"its interpreter {interpreter!r} is missing on this worker ({said})"
    return f"its interpreter {interpreter!r} cannot be executed ({said})"


def _elf(head: bytes, said: str) -> str:
    if len(head) < 64:
        return f"the ELF file is cut short ({said})"
    order = "<" if head[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    name = ELF_MACHINES.get(machine, f"machine {machine}")
    host = platform.machine()
    if name != host:
        return f"it is for {name}, this worker is {host} ({said})"
    loader = _loader(head, order)
    if loader is not None and not os.path.exists(loader):
        return f"its loader {loader!r} is missing on this worker ({said})"
    return said


def _loader(head: bytes, order: str) -> str | None:
    """PT_INTERP of a 64-bit ELF file, elf(5), when it lies in the part read."""
    if head[4] != 2:
        return None
    (table,) = struct.unpack_from(f"{order}Q", head, 32)
    size, count = struct.unpack_from(f"{order}HH", head, 54)
    for index in range(count):
        at = table + index * size
        if at + 56 > len(head):
            return None
        kind, _, offset, _, _, length = struct.unpack_from(f"{order}IIQQQQ", head, at)
        if kind == PT_INTERP and offset + length <= len(head):
            return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    return None
