"""tar and zip archives, read by us on the operator's machine; a worker never unpacks one.

Python's tarfile and zipfile only say what the entries are. Their data comes through a stream that
goes forward, in bounded parts, so that no entry makes us allocate what it claims; where it goes is
decided by `pack.nest`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import zstandard

from corps.errors import CorpsError, Invalid
from corps.pack.nest import Nest
from corps.pack.source import unreadable
from corps.pack.zips import ZIP_MAGICS, contents, opened_zip

CHUNK_BYTES = 1 << 20
PADDING_MAX_BYTES = 64 << 20
TARGET_MAX_BYTES = 4_096
ZSTD_WINDOW_MAX_BYTES = 128 << 20
SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
_UNIX = 3  # of zip's "version made by"
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_KINDS = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe"}
_DAMAGE = (
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    OverflowError,
    ValueError,
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def archive_suffix(path: Path) -> str:
    """The part of the name that says it is an archive; empty: none."""
    name = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), "")


def is_archive(path: Path) -> bool:
    """By its name, or because it begins as one."""
    try:
        with path.open("rb") as file:
            head = file.read(6)
            if head.startswith(ZIP_MAGICS):
                return True
            if archive_suffix(path):
                return path.is_file()
            file.seek(0)
            block = _decompressed(file, head).read(tarfile.BLOCKSIZE)
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            return True
    except _DAMAGE:
        return False


def unpack(path: Path, root: Path) -> dict[str, int]:
    """Everything of it below `root`, a new directory; the modes that its files had."""
    nest = Nest(root, path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) in ZIP_MAGICS
    except OSError as error:
        raise unreadable(path, error) from error
    if is_zip:
        _unpack_zip(path, nest)
    else:
        _unpack_tar(path, nest)
    nest.finish()
    return nest.modes


# ---- tar


def _unpack_tar(path: Path, nest: Nest) -> None:
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        try:
            stream = _Forward(_decompressed(file, head))
            with tarfile.TarFile(fileobj=stream, errors="surrogateescape") as tar:  # type: ignore[arg-type]  # all it uses
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all
                    _add_member(nest, tar, member)
            stream.finish()
        except CorpsError:
            raise
        except _DAMAGE as error:
            raise Invalid(
                f"'{path}' is a damaged or incomplete archive ({error}); make it again",
                field="path",
            ) from error


def _add_member(nest: Nest, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if member.isdir():
        nest.add_directory(member.name)
    elif member.issym():
        nest.add_link(member.name, member.linkname)
    elif member.islnk():
        nest.add_hard_link(member.name, member.linkname)
    elif member.isreg():
        data = tar.extractfile(member)
        assert data is not None
        nest.add_file(member.name, member.mode, member.size, _chunks(data, member.size))
    else:
        raise nest.refuse(member.name, _KINDS.get(member.type, "of an unknown kind"))


def _chunks(data: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left:
        try:
            chunk = data.read(min(CHUNK_BYTES, left))
        except OSError as error:  # not to be mistaken for one of the disk that is written to
            raise tarfile.ReadError(str(error)) from error
        if not chunk:
            raise tarfile.ReadError("unexpected end of data")
        left -= len(chunk)
        yield chunk


def _decompressed(file: IO[bytes], head: bytes) -> _Readable:
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(_BZIP2):
        return bz2.BZ2File(file)
    if head.startswith(_XZ):
        return lzma.LZMAFile(file)
    if head.startswith(_ZSTD):
        engine = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX_BYTES)
        return engine.stream_reader(file, read_across_frames=True, closefd=False)
    return file


class _Forward:
    """What tarfile needs of a file, without going back: it looks again at one byte at most."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self._at = 0
        self._last = b""
        self._is_back = False
        self._tail = b""

    def finish(self) -> None:
        """Nothing is missing: the last block is tar's end mark, and the compressor's checksum,
        which stands behind the padding, is right."""
        if len(self._tail) < tarfile.BLOCKSIZE or any(self._tail):
            raise tarfile.ReadError("it has no end mark")
        padding = 0
        while data := self.read(CHUNK_BYTES):
            padding += len(data)
            if padding > PADDING_MAX_BYTES:
                raise tarfile.ReadError("much follows its end mark")

    def tell(self) -> int:
        return self._at - self._is_back

    def seek(self, to: int, whence: int = 0) -> int:
        assert whence == 0
        if to == self._at - 1 and self._last:
            self._is_back = True
        elif to < self.tell():
            raise tarfile.ReadError("an entry claims a negative size")
        while self.tell() < to and self.read(min(CHUNK_BYTES, to - self.tell())):
            pass
        return self.tell()

    def read(self, size: int) -> bytes:
        if not 0 <= size <= CHUNK_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        parts: list[bytes] = []
        left = size
        if self._is_back and left:
            parts, left, self._is_back = [self._last], left - 1, False
        while left and (data := self._source.read(left)):
            parts.append(data)
            left -= len(data)
            self._at += len(data)
        whole = b"".join(parts)
        if whole:
            self._last = whole[-1:]
            self._tail = (self._tail + whole[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        return whole


# ---- zip


def _unpack_zip(path: Path, nest: Nest) -> None:
    with opened_zip(path) as archive:
        for info in archive.infolist():
            _add_info(path, nest, archive, info)


def _add_info(path: Path, nest: Nest, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    if "\0" in info.orig_filename:
        raise nest.refuse(info.orig_filename, "a name with a NUL character")
    if info.is_dir():
        nest.add_directory(info.filename)
    elif stat.S_ISLNK(mode):
        nest.add_link(info.filename, _target(path, nest, archive, info))
    elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
        chunks = contents(path, archive, info)
        first = next(chunks, b"")
        if not mode and first.startswith((b"\x7fELF", b"#!")):
            mode = 0o755  # made where files have no x bit
        nest.add_file(info.filename, mode or 0o644, info.file_size, _with(first, chunks))
    else:
        raise nest.refuse(info.filename, "a device, a pipe or a socket")


def _with(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _target(path: Path, nest: Nest, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    if info.file_size > TARGET_MAX_BYTES:
        raise nest.refuse(info.filename, "a link with a target that is too long")
    return b"".join(contents(path, archive, info)).decode("utf-8", "surrogateescape")
