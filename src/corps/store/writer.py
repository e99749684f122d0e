"""A blob that arrives from its first byte to its last, hashed as it comes."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import TYPE_CHECKING

from blake3 import blake3

from corps.errors import CorpsError, Invalid, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest
from corps.store.disk import disk_failure

if TYPE_CHECKING:
    from corps.store.blobs import BlobStore

READ_BYTES = 1 << 20
BLOB_MODE = 0o444


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

    def seal(self) -> None:
        """Verify it, so that only `BlobStore.sync`, for many at once, and `commit` are left."""
        try:
            self._verify()
            os.fchmod(self._fd, BLOB_MODE)
        except OSError as error:
            raise self._fail(error) from error
        except CorpsError:
            self.discard()
            raise
        os.close(self._fd)
        self._fd = -1

    def commit(self) -> None:
        """Verify, make durable and place it. Whatever fails, nothing is left behind."""
        is_sealed = self._fd < 0
        try:
            if not is_sealed:
                self._verify()
                if self._store.durable:
                    os.fsync(self._fd)
                os.fchmod(self._fd, BLOB_MODE)
            assert self._temp is not None, "committed twice"
            self._store.place(self._temp, self.digest, durable=not is_sealed)
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
        is_whole = self._fd < 0  # and has no name: its writer, sealed, was given up
        if temp is not None and (is_whole or not (self._is_resumable and self.received_bytes)):
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
