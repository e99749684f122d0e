"""Blobs on disk: immutable bytes under the BLAKE3 digest of their content. One process per store.

root/blobs/ab/<digest>    whole, verified, never written again
root/tmp/*.tmp            arriving; gone at the next start
root/tmp/<digest>.part    arriving, and big enough to be continued after a break
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from blake3 import blake3

from corps.clock import Clock
from corps.errors import CorpsError, Invalid, NotFound, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest, check_digest

PART_MIN_BYTES = 1 << 20
PART_KEEP_S = 86_400.0
READ_BYTES = 1 << 20
BLOB_MODE = 0o444
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

    def partial_bytes(self, digest: Digest) -> int:
        """How much of a blob that broke off is here."""
        try:
            return os.stat(self._part(digest)).st_size
        except FileNotFoundError:
            return 0

    def remove(self, digest: Digest) -> None:
        """Remove the blob; none there is fine."""
        try:
            os.unlink(self._name(digest))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_failure(error, f"cannot remove blob {digest!r}", self._blobs) from error

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

    def place(self, temp: str, digest: Digest) -> None:
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
            if self.durable:
                sync_directory(self._blobs_name)
        if self.durable:
            sync_directory(directory)

    def _name(self, digest: Digest) -> str:
        """A digest becomes a path here, and only as 64 hexadecimal digits."""
        check_digest(digest)
        return f"{self._blobs_name}/{digest[:2]}/{digest}"

    def _part(self, digest: Digest) -> str:
        return f"{self._tmp}/{check_digest(digest)}.part"

    def _open_part(self, digest: Digest, flags: int) -> int | None:
        """The locked partial file; None when it is absent, or another writer's."""
        path = self._part(digest)
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
        digest = path.name.removesuffix(".part")
        if _DIGEST.fullmatch(digest) is None or digest == path.name or self.has(digest):
            return False
        status = path.lstat()
        return bool(status.st_mode & 0o200) and status.st_mtime > Clock()() - PART_KEEP_S


class BlobWriter:
    """One blob on its way in, hashed as it comes: write, then commit.

    Closed before that, it leaves nothing, or a partial blob if it is one worth continuing.
    """

    def __init__(
        self, store: BlobStore, digest: Digest, fd: int, temp: str, *, is_resumable: bool = True
    ) -> None:
        self.digest = digest
        self.received_bytes = 0
        self._store = store
        self._fd = fd
        self._temp: str | None = temp
        self._is_resumable = is_resumable
        self._size_bytes = BLOB_MAX_BYTES
        self._hash = blake3()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def expect(self, size_bytes: int) -> BlobWriter:
        """The size of the whole blob, once it is known."""
        self._size_bytes = size_bytes
        return self

    def hash_received(self) -> None:
        """Take what an earlier writer left as received."""
        view = memoryview(bytearray(READ_BYTES))
        try:
            while count := os.readv(self._fd, [view]):
                self._hash.update(view[:count])
                self.received_bytes += count
        except OSError as error:
            raise self._fail(error) from error

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes. Raise Invalid when they are too many, Unavailable when the disk fails."""
        if self.received_bytes + len(data) > self._size_bytes:
            self.discard()
            raise Invalid(
                f"blob {self.digest!r} has more than the announced {self._size_bytes} bytes",
                field="bytes",
            )
        self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise self._fail(error) from error
        self.received_bytes += len(data)

    def commit(self) -> None:
        """Verify, make durable and place it. Whatever fails, nothing is left behind."""
        try:
            self._verify()
            if self._store.durable:
                os.fsync(self._fd)
            os.fchmod(self._fd, BLOB_MODE)
            assert self._temp is not None, "committed twice"
            self._store.place(self._temp, self.digest)
        except OSError as error:
            raise self._fail(error) from error
        except CorpsError:
            self.discard()
            raise
        self._temp = None
        self.close()

    def discard(self) -> None:
        """Remove what has arrived."""
        self._is_resumable = False
        self.close()

    def close(self) -> None:
        temp, self._temp = self._temp, None
        if temp is not None and not (self._is_resumable and self.received_bytes):
            with contextlib.suppress(OSError):
                os.unlink(temp)
        if self._fd >= 0:
            os.close(self._fd)  # lets go of the lock, so after the unlink
            self._fd = -1

    def _verify(self) -> None:
        if self.received_bytes != self._size_bytes:
            raise Invalid(
                f"blob {self.digest!r} ended after {self.received_bytes} of {self._size_bytes} "
                "bytes; send it again",
                field="bytes",
            )
        digest = self._hash.hexdigest()
        if digest != self.digest:
            raise Invalid(
                f"blob {self.digest!r} arrived with other bytes ({digest!r}); send it again",
                field="digest",
            )

    def _fail(self, error: OSError) -> Unavailable:
        done = f"{self.received_bytes} of {self._size_bytes} bytes"
        self.discard()
        return disk_failure(error, f"cannot store blob {self.digest!r} ({done})", self._store.root)


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


def _is_worth(size_bytes: int, resumable: bool) -> bool:
    return resumable and size_bytes >= PART_MIN_BYTES


def _is_same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
