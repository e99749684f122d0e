"""How a range of a blob travels: raw, compressed, or as a patch of what the asker has.

A sample decides for the whole range whether compressing pays; then segment by segment the smallest
is taken. What is encoded at once is bounded, on both sides, and at most a piece on the wire: so
memory stays flat and a broken connection costs little (ADR 21).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import zstandard

from corps.errors import CorpsError, Invalid
from corps.model.name import Digest
from corps.model.pieces import PIECE_BYTES
from corps.wire.bulk import Encoding, Sending, Want

PATCH_BYTES = 4 << 20
WIRE_MAX_BYTES = 1 << 20  # of one answer: so much is sent again after a cut
PATCH_MIN_BYTES = 4 << 10
ZSTD_MIN_BYTES = 2 << 10
REACH_BYTES = 2 << 20
SHIFT_MAX_BYTES = 4 << 20
REGION_MAX_BYTES = PATCH_BYTES + 2 * REACH_BYTES + SHIFT_MAX_BYTES
BASES_MAX = 4
WORTH = 0.9  # of what it would be otherwise
CLEAR = 0.05  # so small that nothing has to be compared with it
POOR_MAX = 2
SAMPLES = 8
SAMPLE_BYTES = 16 << 10
LEVEL = 1  # 3 saves 8 % more and takes a third longer
HASH_LOG_MAX = 22
HASH_LOG_MIN = 12
MEMO_BYTES = 16 << 20

OpenBlob: TypeAlias = Callable[[Digest], int]


class Memo:
    """What was encoded lately: workers that ask for the same at the same time share the work."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._changed = threading.Condition()
        self._making: set[tuple[object, ...]] = set()
        self._made: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: tuple[object, ...], make: Callable[[], bytes]) -> bytes:
        with self._changed:
            while key in self._making:
                self._changed.wait()
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            self._making.add(key)
        try:
            made = make()
            with self._changed:
                self._made[key] = made
                self._size_bytes += len(made)
                while self._size_bytes > self._limit_bytes:
                    _, oldest = self._made.popitem(last=False)
                    self._size_bytes -= len(oldest)
            return made
        finally:
            with self._changed:
                self._making.discard(key)
                self._changed.notify_all()


class _Known(NamedTuple):
    digest: Digest
    fd: int
    size_bytes: int


_MEMO = Memo(MEMO_BYTES)  # of all connections: a digest means the same bytes to each
_PATCHING = threading.Lock()  # one patch takes some 40 MiB while it is made


class Encoder:
    """Cuts one asked range into what follows each Sending. For one thread; close it."""

    def __init__(self, want: Want, fd: int, size_bytes: int, open_blob: OpenBlob) -> None:
        self._want, self._fd, self._size_bytes = want, fd, size_bytes
        self._end = size_bytes if want.length is None else want.offset + want.length
        count = self._end - want.offset
        may_patch = Encoding.PATCH in want.encodings and count >= PATCH_MIN_BYTES
        self._base = _open_base(want.bases, open_blob) if may_patch else None
        self._poor_count = 0
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
        self._may_compress = (
            Encoding.ZSTD in want.encodings and count >= ZSTD_MIN_BYTES and self._is_compressible()
        )

    def close(self) -> None:
        base, self._base = self._base, None
        if base is not None:
            os.close(base.fd)

    def next(self, offset: int) -> tuple[Sending, bytes | None]:
        """What to send from `offset` on; None: the bytes as they are."""
        left = self._end - offset
        if self._base is not None and left:
            found = self._patch(self._base, offset, min(left, PATCH_BYTES))
            if found is not None:
                self._poor_count = 0
                return found
            self._poor_count += 1
            if self._poor_count > POOR_MAX:
                self.close()
        if self._may_compress and left:
            length = min(left, PIECE_BYTES)
            data = self._compress(offset, length)
            return self._sending(offset, length, data, Encoding.ZSTD)
        if self._base is not None and left:
            return self._sending(offset, min(left, PATCH_BYTES), b"", Encoding.RAW)
        is_all = offset == self._want.offset
        return self._sending(offset, self._want.length if is_all else left, b"", Encoding.RAW)

    def _sending(
        self, offset: int, length: int | None, data: bytes, encoding: Encoding
    ) -> tuple[Sending, bytes | None]:
        """Without `data` encoding did not pay."""
        sending = Sending(
            digest=self._want.digest,
            size_bytes=self._size_bytes,
            offset=offset,
            length=length,
            encoding=encoding if data else Encoding.RAW,
            wire_bytes=len(data) if data else None,
        )
        return sending, data or None

    def _is_compressible(self) -> bool:
        count = self._end - self._want.offset
        step = max(SAMPLE_BYTES, count // SAMPLES)
        sample = b"".join(
            os.pread(self._fd, min(SAMPLE_BYTES, self._end - at), at)
            for at in range(self._want.offset, self._end, step)
        )
        return len(self._compressor.compress(sample)) <= WORTH * len(sample)

    def _compress(self, offset: int, length: int) -> bytes:
        def make() -> bytes:
            plain = _read(self._fd, offset, length)
            data = self._compressor.compress(plain)
            return data if len(data) <= WORTH * len(plain) else b""

        if length < PIECE_BYTES:
            return make()
        return _MEMO.get((self._want.digest, offset, length), make)

    def _patch(self, base: _Known, offset: int, length: int) -> tuple[Sending, bytes | None] | None:
        region = self._region(base, offset, length)
        if region[1] <= 0:
            return None

        def make() -> bytes:
            plain = _read(self._fd, offset, length)
            with _PATCHING:
                data = patch(plain, _read(base.fd, *region))
            if len(data) > WIRE_MAX_BYTES:
                return b""
            if len(data) > CLEAR * length:
                otherwise = min(length, len(self._compressor.compress(plain)))
                return data if len(data) <= WORTH * otherwise else b""
            return data

        data = _MEMO.get((self._want.digest, offset, length, base.digest), make)
        if not data:
            return None
        sending = Sending(
            digest=self._want.digest,
            size_bytes=self._size_bytes,
            offset=offset,
            length=length,
            encoding=Encoding.PATCH,
            wire_bytes=len(data),
            base=base.digest,
            base_offset=region[0],
            base_length=region[1],
        )
        return sending, data

    def _region(self, base: _Known, offset: int, length: int) -> tuple[int, int]:
        """Where the same bytes were, if something was put in or taken out somewhere."""
        shift = base.size_bytes - self._size_bytes
        shift = max(-SHIFT_MAX_BYTES, min(SHIFT_MAX_BYTES, shift))
        start = max(0, offset + min(0, shift) - REACH_BYTES)
        end = min(base.size_bytes, offset + length + max(0, shift) + REACH_BYTES)
        return start, end - start


def patch(plain: bytes, region: bytes) -> bytes:
    """`plain` by what it has in common with `region`; `decode` is the way back."""
    log = (len(plain) + len(region)).bit_length()
    params = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        window_log=max(zstandard.WINDOWLOG_MIN, log),
        hash_log=max(HASH_LOG_MIN, min(HASH_LOG_MAX, log)),
    )
    raw = zstandard.ZstdCompressionDict(region, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(compression_params=params, dict_data=raw).compress(plain)


def decode(data: bytes, length: int, region: bytes = b"") -> bytes:
    """What was compressed, or patched by `region`. Raise Invalid for anything but `length` bytes of
    it; nothing larger is ever made of it."""
    raw = (
        zstandard.ZstdCompressionDict(region, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if region
        else None
    )
    try:
        if zstandard.frame_content_size(data) != length:
            raise Invalid(f"encoded bytes that are not the announced {length}", field="bytes")
        decompressor = zstandard.ZstdDecompressor(dict_data=raw)
        return decompressor.decompress(data, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Invalid(f"encoded bytes that are damaged: {error}", field="bytes") from error


def _open_base(bases: tuple[Digest, ...], open_blob: OpenBlob) -> _Known | None:
    """The first of them that is here too."""
    for digest in bases[:BASES_MAX]:
        with contextlib.suppress(CorpsError):
            fd = open_blob(digest)
            return _Known(digest, fd, os.fstat(fd).st_size)
    return None


def _read(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) < length:
        raise OSError("a blob was cut short on disk")
    return data
