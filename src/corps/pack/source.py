"""Reads what an operator wants to copy: the files, hashed, and what is odd about them."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from corps.errors import CorpsError, Invalid, NotFound
from corps.model.artifact import BLOB_MAX_BYTES, FILES_MAX
from corps.model.name import Digest

READ_BYTES = 4 << 20
THREADS_FROM_BYTES = 1 << 20
SHEBANG_MAX_BYTES = 256
_LIBRARY = re.compile(r"[^/]+\.so(?:\.[0-9A-Za-z_.-]+)?")


class Source(NamedTuple):
    """One regular file, as it was when it was hashed."""

    path: Path
    size_bytes: int
    digest: Digest
    mode: int
    head: bytes
    attributes: tuple[str, ...] = ()

    @property
    def is_executable(self) -> bool:
        return bool(self.mode & 0o111)


class Tree(NamedTuple):
    """What is below a directory, by relative path."""

    files: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]


def read_source(path: Path) -> Source:
    """Hash the file: plain reads, since a mapped file that gets shorter would kill us (SIGBUS)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        before = os.fstat(fd)
        _check_regular(path, before)
        digest = blake3(max_threads=_threads(before.st_size))
        buffer = memoryview(bytearray(max(1, min(READ_BYTES, before.st_size))))
        head, read_bytes = b"", 0
        while count := os.readv(fd, [buffer]):
            head = head or bytes(buffer[:SHEBANG_MAX_BYTES])
            digest.update(buffer[:count])
            read_bytes += count
            if read_bytes > before.st_size:
                break
        after, attributes = os.fstat(fd), _attributes(fd)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(fd)
    if read_bytes != before.st_size or _stamp(before) != _stamp(after):
        raise Invalid(
            f"'{path}' changed while it was read; copy it when nobody writes to it", field="path"
        )
    mode = stat.S_IMODE(before.st_mode)
    return Source(path, read_bytes, digest.hexdigest(), mode, head, attributes)


def read_tree(root: Path) -> Tree:
    """Every file and link below `root`, sorted; links are not followed."""
    files: list[str] = []
    links: list[tuple[str, str]] = []
    empty: list[str] = []
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        entries = _entries(root / directory)
        if directory and not entries:
            empty.append(directory)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if entry.is_symlink():
                links.append((path, os.readlink(entry.path)))
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_file(follow_symlinks=False):
                files.append(path)
            else:
                _check_regular(Path(entry.path), entry.stat(follow_symlinks=False))
        if len(files) + len(links) > FILES_MAX:
            raise Invalid(
                f"'{root}' has more than {FILES_MAX} files; copy a smaller directory", field="path"
            )
    return Tree(tuple(sorted(files)), tuple(sorted(links)), tuple(sorted(empty)))


def unreadable(path: Path, error: OSError) -> CorpsError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"no file '{path}'; give the path of a program on this machine")
    if isinstance(error, PermissionError):
        return Invalid(f"cannot read '{path}': permission denied; make it readable", field="path")
    reason = (error.strerror or str(error)).lower()
    return Invalid(f"cannot read '{path}': {reason}", field="path")


def has_library_name(path: str) -> bool:
    """`libfoo.so`, `libfoo.so.1.2`: by its name it is a shared library."""
    return _LIBRARY.fullmatch(os.path.basename(path)) is not None


def interpreters(head: bytes) -> tuple[str, ...]:
    """The programs that run a script of these first bytes: `/bin/sh`; `/usr/bin/env`, `python3`."""
    if not head.startswith(b"#!"):
        return ()
    words = os.fsdecode(head[2:].split(b"\n", 1)[0]).split()
    if not words or not words[0].startswith("/"):
        return ()  # looked for where the launch begins, so it says nothing of the machine
    program = _run_by_env(words[1:]) if os.path.basename(words[0]) == "env" else ""
    return (words[0], program) if program else (words[0],)


def _run_by_env(words: list[str]) -> str:
    """Of the arguments of env(1); `-u NAME` and `-C DIR` take one of their own."""
    names = iter(words)
    for word in names:
        if word in ("-u", "-C", "--unset", "--chdir"):
            next(names, "")
        elif not word.startswith("-") and "=" not in word:
            return word
    return ""


def shebang_warnings(name: str, head: bytes) -> Iterator[str]:
    """Why a script may fail to start on a worker, or here."""
    line = head[2:].split(b"\n", 1)[0]
    if line.endswith(b"\r"):
        yield (
            f"the first line of '{name}' ends in a carriage return, so its interpreter will not "
            "be found: save it with unix line ends"
        )
    words = os.fsdecode(line).split()
    if not words:
        yield f"the first line of '{name}' names no interpreter: it cannot be started"
        return
    interpreter = words[0]
    if not interpreter.startswith("/"):
        yield (
            f"'{name}' has the relative interpreter '{interpreter}': it is looked up in the "
            "directory of the launch, so give its full path"
        )
    elif not line.endswith(b"\r") and not os.path.exists(interpreter):
        yield f"'{name}' needs '{interpreter}', which is not on this machine"
    if os.path.basename(interpreter) == "env":
        program = _run_by_env(words[1:])
        here = "" if shutil.which(program) else ", and is not in the PATH here"
        yield f"'{name}' is run by '{program}', which must be in the PATH of each worker{here}"


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        if status.st_size > BLOB_MAX_BYTES:
            raise Invalid(
                f"'{path}' has {status.st_size} bytes: at most {BLOB_MAX_BYTES}", field="path"
            )
        return
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(status.st_mode), "something else")
    raise Invalid(
        f"'{path}' is {kind}, no regular file: only files, directories and links can be copied",
        field="path",
    )


def _attributes(fd: int) -> tuple[str, ...]:
    try:
        return tuple(os.listxattr(fd))
    except OSError:
        return ()  # a file system without


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError as error:
        raise unreadable(directory, error) from error


def _threads(size_bytes: int) -> int:
    return blake3.AUTO if size_bytes >= THREADS_FROM_BYTES else 1
