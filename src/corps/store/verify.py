"""Hold a tree and its blobs against their manifest, byte by byte. It reads, and changes nothing.

A blob and its places in trees are one inode as a rule, read once; where a hand replaced a file, or
two modes need two copies, each is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from blake3 import blake3

from corps.model.artifact import FileEntry, LinkEntry, Manifest
from corps.model.finding import Drift, Finding
from corps.model.name import Digest

EXECUTABLE_MODE = 0o555
DATA_MODE = 0o444
READ_BYTES = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
BYTECODE = "__pycache__"  # Python writes it beside its sources, as root does


class Examined(NamedTuple):
    """`files` and `links` must be placed again; `damaged` are blobs with other bytes; `saved` are
    places whose bytes are right while their blob is damaged or missing."""

    findings: tuple[Finding, ...]
    files: tuple[FileEntry, ...]
    links: tuple[LinkEntry, ...]
    damaged: tuple[Digest, ...]
    saved: tuple[FileEntry, ...]


def file_mode(entry: FileEntry) -> int:
    """Of the placed file."""
    return EXECUTABLE_MODE if entry.executable else DATA_MODE


def examine(tree: str, manifest: Manifest, blob_path: Callable[[Digest], str]) -> Examined:
    """Everything in it. Raise OSError when the disk cannot be read at all."""
    os.stat(tree)  # else every file would be missing
    read: dict[tuple[int, int], Digest] = {}
    findings: list[Finding] = []
    files: list[FileEntry] = []
    damaged: dict[Digest, None] = {}
    saved: dict[Digest, FileEntry] = {}
    for entry in manifest.files:
        place = f"{tree}/{entry.path}"
        blob = _content(blob_path(entry.digest), read)
        finding = _judge(place, entry, read, is_blob_right=blob == entry.digest)
        if blob not in (None, entry.digest):
            damaged[entry.digest] = None
        if finding is not None:
            findings.append(finding)
            files.append(entry)
        elif blob != entry.digest:
            saved[entry.digest] = entry
            text = "its blob in the store is " + ("missing" if blob is None else "damaged on disk")
            drift = Drift.MISSING if blob is None else Drift.DAMAGED
            findings.append(Finding(drift=drift, path=entry.path, text=text))
    links = [link for link in manifest.links if _target(f"{tree}/{link.path}") != link.target]
    for link in links:
        text = f"no link to {link.target!r} any more"
        findings.append(Finding(drift=Drift.EDITED, path=link.path, text=text))
    findings += _extra(tree, manifest)
    return Examined(tuple(findings), tuple(files), tuple(links), tuple(damaged), (*saved.values(),))


def content(path: str) -> Digest | None:
    """The digest of a regular file as it is on the disk; None when there is none."""
    return _content(path, {})


def _judge(
    place: str, entry: FileEntry, read: dict[tuple[int, int], Digest], *, is_blob_right: bool
) -> Finding | None:
    try:
        status = os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return Finding(drift=Drift.MISSING, path=entry.path, text="missing")
    if not stat.S_ISREG(status.st_mode):
        return Finding(drift=Drift.EDITED, path=entry.path, text="replaced by what is no file")
    # Written after it was linked here, or another file than the blob.
    is_written = is_blob_right or status.st_mtime_ns == status.st_ctime_ns
    if status.st_size != entry.size_bytes:
        text = f"has {status.st_size} bytes, should have {entry.size_bytes}"
        drift = Drift.EDITED if is_written else Drift.DAMAGED
        return Finding(drift=drift, path=entry.path, text=text)
    if _content(place, read) != entry.digest:
        if is_written:
            return Finding(drift=Drift.EDITED, path=entry.path, text="edited by hand")
        return Finding(drift=Drift.DAMAGED, path=entry.path, text="damaged on disk")
    mode = stat.S_IMODE(status.st_mode)
    if mode != file_mode(entry):
        text = f"has mode {mode:04o}, should have {file_mode(entry):04o}"
        return Finding(drift=Drift.EDITED, path=entry.path, text=text)
    return None


def _content(path: str, read: dict[tuple[int, int], Digest]) -> Digest | None:
    """Of a place that cannot be read to its end (EIO): a digest that nothing has."""
    try:
        fd = os.open(path, _FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return ""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return ""
        inode = (status.st_dev, status.st_ino)
        if inode not in read:
            read[inode] = _hash(fd)
        return read[inode]
    finally:
        os.close(fd)


def _hash(fd: int) -> Digest:
    hash = blake3()
    view = memoryview(bytearray(READ_BYTES))
    try:
        while count := os.readv(fd, [view]):
            hash.update(view[:count])
    except OSError:
        return ""
    return hash.hexdigest()


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _extra(tree: str, manifest: Manifest) -> Iterator[Finding]:
    """Files and links that nobody copied, and directories that hold none that was."""
    known = {entry.path for entry in manifest.files} | {link.path for link in manifest.links}
    above = {path[:at] for path in known for at in range(len(path)) if path[at] == "/"}
    for directory, names, files in os.walk(tree):
        below = os.path.relpath(directory, tree)
        prefix = "" if below == "." else f"{below}/"
        links = [name for name in names if os.path.islink(f"{directory}/{name}")]
        strange = [n for n in names if n not in links and prefix + n not in above]
        names[:] = [n for n in names if n not in links and n not in strange]
        for name in sorted([*files, *links, *strange]):
            if prefix + name not in known and name != BYTECODE:
                text = "nobody copied it"
                yield Finding(drift=Drift.EXTRA, path=prefix + name, text=text)
