"""Blobs on disk: immutable bytes under the BLAKE3 digest of their content. One process per store.

root/blobs/ab/<digest>    whole, verified, never written again
root/tmp/*.tmp            arriving; gone at the next start
root/tmp/<digest>.part    arriving, and big enough to be continued after a break
root/tmp/<digest>.pieces  arriving in any order (`pieces`)
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3

from corps.clock import Clock
from corps.errors import Invalid, NotFound, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest, check_digest
from corps.model.pieces import check_pieces
from corps.store.disk import (
    disk_failure,
    make_directory,
    sync_directory,
    sync_file_system,
)
from corps.store.pieces import PIECES_SUFFIX, PieceLists, PieceReader, PieceWriter
from corps.store.writer import BLOB_MODE, BlobWriter

__all__ = [
    "BLOB_MODE",
    "BlobStore",
    "BlobWriter",
    "disk_failure",
    "make_directory",
    "sync_directory",
]

PART_MIN_BYTES = 1 << 20
PART_KEEP_S = 86_400.0
STAT_BLOCK_BYTES = 512
PART_SUFFIX = ".part"
_DIGEST = re.compile("[0-9a-f]{64}")
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobStore:
    """`root` is the state directory of a daemon: it gets the directories `blobs` and `tmp`.

    With `durable` a blob is on the disk, not only in the page cache, before it has its name. A
    worker does without: page cache survives kill -9, and after a power loss `Trees` looks again.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self.durable = durable
        self._blobs = root / "blobs"
        self._blobs_name = str(self._blobs)  # Path is slow where blobs are small and many
        self._tmp = root / "tmp"
        self._numbers = itertools.count()
        self._lists = PieceLists(self)
        self._arriving: dict[Digest, PieceWriter] = {}
        for directory in (self._blobs, self._tmp):
            make_directory(directory, 0o700)
        self._remove_stale()

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return Path(self._name(digest))

    def has(self, digest: Digest) -> bool:
        return os.path.lexists(self._name(digest))

    def missing(self, digests: Iterable[Digest]) -> tuple[Digest, ...]:
        """Those that are not here, each once, in their order."""
        return tuple(digest for digest in dict.fromkeys(digests) if not self.has(digest))

    def size_bytes(self, digest: Digest) -> int:
        fd = self.open_blob(digest)
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def open_blob(self, digest: Digest) -> int:
        """A file descriptor to read from; the caller closes it. Raise NotFound."""
        try:
            return os.open(self._name(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"no blob {digest!r} here", digest=digest) from None
        except OSError as error:
            raise disk_failure(error, f"cannot read blob {digest!r}", self._blobs) from error

    def read_bytes(self, digest: Digest, limit_bytes: int) -> bytes:
        """The whole blob, verified; for small ones."""
        with os.fdopen(self.open_blob(digest), "rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise Invalid(f"blob {digest!r} is larger than {limit_bytes} bytes", field="digest")
        if blake3(data).hexdigest() != digest:
            raise Invalid(f"blob {digest!r} is damaged on disk", field="digest")
        return data

    def digests(self) -> tuple[Digest, ...]:
        """All that are here, sorted."""
        return tuple(
            sorted(
                path.name
                for path in self._blobs.glob("[0-9a-f][0-9a-f]/*")
                if _DIGEST.fullmatch(path.name)
            )
        )

    def put_bytes(self, data: bytes) -> Digest:
        digest = blake3(data).hexdigest()
        if not self.has(digest):
            with self.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()
        return digest

    def writer(self, digest: Digest, size_bytes: int, *, resumable: bool = False) -> BlobWriter:
        """A blob that will arrive from its first byte on."""
        check_digest(digest)
        self.check_room(digest, size_bytes)
        try:
            fd = self._open_part(digest, os.O_CREAT) if _is_worth(size_bytes, resumable) else None
            if fd is not None:
                if os.fstat(fd).st_size:  # else ext4 would flush the file when it is closed
                    os.ftruncate(fd, 0)
                return BlobWriter(self, digest, fd, self._part(digest)).expect(size_bytes)
            name = f"{self._tmp}/{digest}.{os.getpid()}.{next(self._numbers)}.tmp"
            fd = os.open(name, _NEW_FILE, 0o600)
        except OSError as error:
            raise disk_failure(error, f"cannot store blob {digest!r}", self._tmp) from error
        return BlobWriter(self, digest, fd, name, is_resumable=False).expect(size_bytes)

    def resume(self, digest: Digest) -> BlobWriter | None:
        """Continue a blob that broke off, after hashing what is there; None when there is none."""
        if not os.path.exists(self._part(digest)):
            return None
        try:
            fd = self._open_part(digest, 0)
        except OSError as error:
            raise disk_failure(error, f"cannot continue blob {digest!r}", self._tmp) from error
        if fd is None:
            return None
        writer = BlobWriter(self, digest, fd, self._part(digest))
        writer.hash_received()
        return writer

    def pieces(self, digest: Digest, size_bytes: int, pieces: bytes) -> PieceWriter:
        """A blob that will arrive piece by piece; it has what an earlier writer left of it."""
        check_pieces(pieces, size_bytes)
        if not self.partial_bytes(digest):
            self.check_room(digest, size_bytes)
        try:
            fd = self._open_pieces(digest)
            name = self._part(digest, PIECES_SUFFIX)
            if fd is None:
                name = f"{self._tmp}/{digest}.{os.getpid()}.{next(self._numbers)}.tmp"
                fd = os.open(name, _NEW_FILE, 0o600)
        except OSError as error:
            raise disk_failure(error, f"cannot store blob {digest!r}", self._tmp) from error
        writer = PieceWriter(self, digest, fd, name, size_bytes, pieces)
        writer.look()
        self._arriving.setdefault(digest, writer)
        return writer

    def open_pieces(self, digest: Digest) -> PieceReader:
        """Read what is here of a blob, whole or still arriving. Raise NotFound."""
        writer = self._arriving.get(digest)
        if writer is not None and not self.has(digest):
            return writer.reader()
        fd = self.open_blob(digest)
        return PieceReader(digest, fd, os.fstat(fd).st_size)

    def piece_list(self, digest: Digest) -> tuple[int, bytes]:
        """Size and piece list of a blob that is here whole. Raise NotFound."""
        return self._lists.get(digest)

    def forget_arriving(self, writer: PieceWriter) -> None:
        if self._arriving.get(writer.digest) is writer:
            del self._arriving[writer.digest]

    def partial_bytes(self, digest: Digest) -> int:
        """How much of a blob that broke off is here: in a part, or on the disk in pieces."""
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._part(digest)).st_size
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._part(digest, PIECES_SUFFIX)).st_blocks * STAT_BLOCK_BYTES
        return 0

    def parts(self) -> dict[Digest, os.stat_result]:
        """What broke off, and nobody writes any more."""
        found: dict[Digest, os.stat_result] = {}
        for path in self._tmp.glob(f"*{PART_SUFFIX}"):
            if _DIGEST.fullmatch(path.stem) and (fd := self._open_part(path.stem, 0)) is not None:
                found[path.stem] = os.fstat(fd)
                os.close(fd)
        return found

    def remove_part(self, digest: Digest) -> None:
        """As `remove`; one that is being written stays."""
        fd = self._open_part(digest, 0)
        if fd is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._part(digest))
            os.close(fd)  # lets go of the lock, so after the unlink

    def remove(self, digest: Digest) -> None:
        """Remove the blob; none there is fine."""
        try:
            os.unlink(self._name(digest))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_failure(error, f"cannot remove blob {digest!r}", self._blobs) from error
        self._lists.remove(digest)

    def free_bytes(self) -> int:
        try:
            disk = os.statvfs(self._blobs)
        except OSError as error:
            raise disk_failure(error, "cannot look for free space", self._blobs) from error
        return disk.f_bavail * disk.f_frsize

    def check_room(self, digest: Digest, size_bytes: int) -> None:
        """Raise Invalid for a size no blob has, Unavailable when the disk has no room for it."""
        if not 0 <= size_bytes <= BLOB_MAX_BYTES:
            raise Invalid(
                f"blob {digest!r} of {size_bytes} bytes: at most {BLOB_MAX_BYTES}", field="bytes"
            )
        if size_bytes < PART_MIN_BYTES:
            return  # asking the disk for every small blob costs more than it tells
        free_bytes = self.free_bytes()
        if size_bytes > free_bytes:
            raise Unavailable(
                f"no room for blob {digest!r}: {size_bytes} bytes, but {free_bytes} are free in "
                f"'{self.root}'; free some space there, then repeat",
                needed_bytes=size_bytes,
                free_bytes=free_bytes,
            )

    def sync(self) -> None:
        """All that was written and renamed here is on the disk; nothing to do if not `durable`."""
        if self.durable:
            sync_file_system(self._blobs)

    def place(self, temp: str, digest: Digest, *, durable: bool = True) -> None:
        """Give the verified file its name. Same bytes there already: keep those, trees use them."""
        if self.has(digest):
            os.unlink(temp)
            return
        target = self._name(digest)
        directory = os.path.dirname(target)
        try:
            os.rename(temp, target)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            os.rename(temp, target)
            if self.durable and durable:
                sync_directory(self._blobs_name)
        if self.durable and durable:
            sync_directory(directory)

    def _name(self, digest: Digest) -> str:
        """A digest becomes a path here, and only as 64 hexadecimal digits."""
        check_digest(digest)
        return f"{self._blobs_name}/{digest[:2]}/{digest}"

    def _part(self, digest: Digest, suffix: str = PART_SUFFIX) -> str:
        return f"{self._tmp}/{check_digest(digest)}{suffix}"

    def _open_pieces(self, digest: Digest) -> int | None:
        """As `_open_part`; what arrived in one stream until now goes on in pieces."""
        fd = self._open_part(digest, 0)
        if fd is not None:
            with contextlib.suppress(FileExistsError):
                os.link(self._part(digest), self._part(digest, PIECES_SUFFIX))
            os.unlink(self._part(digest))
            os.close(fd)
        return self._open_part(digest, os.O_CREAT, PIECES_SUFFIX)

    def _open_part(self, digest: Digest, flags: int, suffix: str = PART_SUFFIX) -> int | None:
        """The locked partial file; None when it is absent, or another writer's."""
        path = self._part(digest, suffix)
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        except (FileNotFoundError, PermissionError):
            return None  # or read-only: its writer is about to give it its final name
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its last owner may have given the file its final name before it let go of the lock
            if _is_same_file(fd, path):
                return fd
        except BlockingIOError:
            pass
        os.close(fd)
        return None

    def _remove_stale(self) -> None:
        try:
            for path in self._tmp.iterdir():
                if not self._can_continue(path):
                    path.unlink()
        except OSError as error:
            raise disk_failure(error, "cannot remove old temporary files", self._tmp) from error

    def _can_continue(self, path: Path) -> bool:
        """A part, not old, that its writer had not finished."""
        digest, suffix = path.stem, path.suffix
        if suffix not in (PART_SUFFIX, PIECES_SUFFIX) or not _DIGEST.fullmatch(digest):
            return False
        if self.has(digest):
            return False
        status = path.lstat()
        return bool(status.st_mode & 0o200) and status.st_mtime > Clock()() - PART_KEEP_S


def _is_worth(size_bytes: int, resumable: bool) -> bool:
    return resumable and size_bytes >= PART_MIN_BYTES


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
