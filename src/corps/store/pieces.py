"""Blobs that arrive in pieces, from several sides and in any order, and their piece lists.

root/pieces/<digest>      the piece list of a blob, behind its own digest; made when first asked for
root/tmp/<digest>.pieces  arriving; which pieces it has is not noted but looked up by hashing them,
                          so that nothing, not even a power loss, can make it claim too much
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from blake3 import blake3

from corps.errors import CorpsError, Invalid, NotFound, Unavailable
from corps.model.name import Digest
from corps.model.pieces import (
    PIECE_BYTES,
    PIECE_DIGEST_BYTES,
    add_piece,
    empty_bitmap,
    full_bitmap,
    has_piece,
    piece_count,
    piece_span,
)
from corps.store.disk import disk_failure
from corps.store.writer import BLOB_MODE

if TYPE_CHECKING:
    from corps.store.blobs import BlobStore

PIECES_SUFFIX = ".pieces"


class PieceWriter:
    """One blob on its way in; threads may `put` at once. Then commit; closed before that, it leaves
    what it has for the next one."""

    def __init__(
        self, store: BlobStore, digest: Digest, fd: int, temp: str, size_bytes: int, pieces: bytes
    ) -> None:
        self.digest = digest
        self.size_bytes = size_bytes
        self._store = store
        self._fd = fd
        self._temp: str | None = temp
        self._pieces = pieces
        self._have = empty_bitmap(size_bytes)
        self._received_bytes = 0
        self._hash = blake3()
        self._hashed_count = 0  # the leading pieces that `_hash` has seen
        self._lock = threading.Lock()
        self._busy_count = 0
        self._is_closing = False

    def __enter__(self) -> PieceWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def have(self) -> bytes:
        """The bitmap of the pieces that are here, verified."""
        return bytes(self._have)

    @property
    def received_bytes(self) -> int:
        return self._received_bytes

    def has(self, index: int) -> bool:
        return has_piece(self._have, index)

    def missing(self) -> tuple[int, ...]:
        return tuple(i for i in range(piece_count(self.size_bytes)) if not self.has(i))

    def look(self) -> None:
        """Take the pieces that an earlier writer left."""
        try:
            for index in _with_data(self._fd, self.size_bytes):
                offset, length = piece_span(index, self.size_bytes)
                data = os.pread(self._fd, length, offset)
                if self._is_right(index, data):
                    self._add(index, data)
        except OSError as error:
            raise self._fail(error) from error

    def put(self, index: int, data: bytes | memoryview) -> None:
        """Verify one piece and write it. Raise Invalid when it is not the right one, Unavailable
        when the disk fails; the other pieces stay."""
        offset, _ = piece_span(index, self.size_bytes)
        if not self._is_right(index, data):
            raise Invalid(
                f"piece {index} of blob {self.digest!r} arrived with other bytes", field="piece"
            )
        with self._in_use() as fd:
            if self.has(index):
                return
            rest = memoryview(data)
            try:
                while rest:
                    written = os.pwrite(fd, rest, offset)
                    rest, offset = rest[written:], offset + written
            except OSError as error:
                raise self._fail(error) from error
            self._add(index, data)

    def commit(self) -> None:
        """Verify the whole, make it durable and place it. A whole that is wrong is removed."""
        try:
            with self._in_use() as fd:
                self._verify()
                if self._store.durable:
                    os.fsync(fd)
                os.fchmod(fd, BLOB_MODE)
                assert self._temp is not None, "committed twice"
                self._store.place(self._temp, self.digest)
                self._temp = None
        except OSError as error:
            raise self._fail(error) from error
        except CorpsError:
            self.discard()
            raise
        self.close()

    def discard(self) -> None:
        """Remove what has arrived."""
        with self._lock:
            temp, self._temp = self._temp, None
        if temp is not None:
            with contextlib.suppress(OSError):
                os.unlink(temp)
        self.close()

    def close(self) -> None:
        with self._lock:
            temp, self._temp = self._temp, None
            if temp is not None and not (self._received_bytes and temp.endswith(PIECES_SUFFIX)):
                with contextlib.suppress(OSError):
                    os.unlink(temp)
            self._is_closing = True
            self._let_go()
        self._store.forget_arriving(self)

    def reader(self) -> PieceReader:
        with self._in_use() as fd:
            return PieceReader(self.digest, os.dup(fd), self.size_bytes, self._have)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[int]:
        """Nobody closes the file under a thread that uses it: its number may be another's then."""
        with self._lock:
            if self._is_closing:
                raise NotFound(f"blob {self.digest!r} does not arrive any more")
            self._busy_count += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._busy_count -= 1
                self._let_go()

    def _let_go(self) -> None:
        if self._is_closing and not self._busy_count and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_right(self, index: int, data: bytes | memoryview) -> bool:
        start = index * PIECE_DIGEST_BYTES
        return blake3(data).digest() == self._pieces[start : start + PIECE_DIGEST_BYTES]

    def _add(self, index: int, data: bytes | memoryview) -> None:
        with self._lock:
            if self.has(index):
                return
            add_piece(self._have, index)
            self._received_bytes += len(data)
            if index == self._hashed_count:
                self._hash.update(data)
                self._hashed_count += 1

    def _verify(self) -> None:
        missing = self.missing()
        if missing:
            raise Invalid(
                f"blob {self.digest!r} lacks {len(missing)} pieces, the first is {missing[0]}",
                field="bytes",
            )
        with self._lock:
            for index in range(self._hashed_count, piece_count(self.size_bytes)):
                offset, length = piece_span(index, self.size_bytes)
                self._hash.update(os.pread(self._fd, length, offset))
                self._hashed_count = index + 1
        if self._hash.hexdigest() != self.digest:
            raise Invalid(
                f"blob {self.digest!r} arrived with other bytes "
                f"({self._hash.hexdigest()!r}), as its piece list has them; send it again",
                field="digest",
            )

    def _fail(self, error: OSError) -> Unavailable:
        done = f"{self.received_bytes} of {self.size_bytes} bytes"
        self.discard()
        return disk_failure(error, f"cannot store blob {self.digest!r} ({done})", self._store.root)


class PieceReader:
    """Reads the pieces that are there of a blob, whole or still arriving; for who gives them on."""

    def __init__(
        self, digest: Digest, fd: int, size_bytes: int, have: bytes | bytearray | None = None
    ) -> None:
        self.digest = digest
        self.fd = fd
        self.size_bytes = size_bytes
        self._have = full_bitmap(size_bytes) if have is None else have  # a writer's goes on growing

    def __enter__(self) -> PieceReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def have(self) -> bytes:
        return bytes(self._have)

    def has(self, index: int) -> bool:
        return has_piece(self._have, index)

    def read(self, index: int) -> bytes:
        """Raise NotFound for a piece that is not here (yet), Unavailable when the disk fails."""
        offset, length = piece_span(index, self.size_bytes)
        if not self.has(index):
            raise NotFound(f"no piece {index} of blob {self.digest!r} here", digest=self.digest)
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Unavailable(f"cannot read blob {self.digest!r}: {reason}") from error
        if len(data) < length:
            raise Unavailable(f"blob {self.digest!r} was cut short on disk")
        return data

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class PieceLists:
    """The lists of the blobs of a store. Each is made once, and made again when it is damaged."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._root = store.root / "pieces"
        self._lock = threading.Lock()

    def get(self, digest: Digest) -> tuple[int, bytes]:
        """Size and piece list of a blob that is here whole. Raise NotFound."""
        fd = self._store.open_blob(digest)
        try:
            size_bytes = os.fstat(fd).st_size
            with self._lock:
                pieces = self._load(digest, size_bytes)
                if pieces is None:
                    pieces = _hash_pieces(fd, size_bytes)
                    self._save(digest, pieces)
        except OSError as error:
            raise disk_failure(error, f"cannot read blob {digest!r}", self._store.root) from error
        finally:
            os.close(fd)
        return size_bytes, pieces

    def remove(self, digest: Digest) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._root / digest)

    def _load(self, digest: Digest, size_bytes: int) -> bytes | None:
        try:
            data = (self._root / digest).read_bytes()
        except FileNotFoundError:
            return None
        proof, pieces = data[:PIECE_DIGEST_BYTES], data[PIECE_DIGEST_BYTES:]
        is_whole = len(pieces) == PIECE_DIGEST_BYTES * piece_count(size_bytes)
        return pieces if is_whole and blake3(pieces).digest() == proof else None

    def _save(self, digest: Digest, pieces: bytes) -> None:
        """Without it the list is only made again; so a full disk is no failure."""
        temp = self._root / f"{digest}.tmp"
        with contextlib.suppress(OSError):
            self._root.mkdir(mode=0o700, exist_ok=True)
            temp.write_bytes(blake3(pieces).digest() + pieces)
            temp.rename(self._root / digest)


def _hash_pieces(fd: int, size_bytes: int) -> bytes:
    pieces = []
    for index in range(piece_count(size_bytes)):
        offset, length = piece_span(index, size_bytes)
        pieces.append(blake3(os.pread(fd, length, offset)).digest())
    return b"".join(pieces)


def _with_data(fd: int, size_bytes: int) -> Iterator[int]:
    """The pieces that are no hole."""
    there_bytes = min(size_bytes, os.fstat(fd).st_size)
    index = 0
    while index < piece_count(there_bytes):
        try:
            data_at = os.lseek(fd, piece_span(index, size_bytes)[0], os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        index = max(index, data_at // PIECE_BYTES)
        if index < piece_count(there_bytes):
            yield index
        index += 1
