"""Zip files of strangers: opened with limits, read in small parts, damage told in one line."""

from __future__ import annotations

import contextlib
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from corps.errors import Invalid
from corps.pack.source import unreadable

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # the second: an empty one
DIRECTORY_MAX_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20
_IS_ENCRYPTED = 1
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class _Bounded(io.BufferedReader):
    """zipfile reads its whole directory at once, however large that claims to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > DIRECTORY_MAX_BYTES:
            raise zipfile.BadZipFile(f"its list of files claims {size} bytes")
        return super().read(size)


@contextlib.contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Raise Invalid when it is none."""
    try:
        file = _Bounded(io.FileIO(path))
    except OSError as error:
        raise unreadable(path, error) from error
    with file:
        with telling_damage(path):
            archive = zipfile.ZipFile(file)
        with archive:
            yield archive


@contextlib.contextmanager
def telling_damage(path: Path) -> Iterator[None]:
    """While the zip file itself is read."""
    try:
        yield
    except _DAMAGE as error:
        raise Invalid(
            f"'{path}' is a damaged zip file ({error}); make it again", field="path"
        ) from error


def contents(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of one file in it, verified by their CRC."""
    if info.flag_bits & _IS_ENCRYPTED:
        raise Invalid(
            f"'{path}' has the encrypted file {info.filename[:80]!r}: unpack it, then copy that",
            field="path",
        )
    left = info.file_size
    with telling_damage(path):
        file = archive.open(info)
    with file:
        while True:
            with telling_damage(path):
                data = file.read(CHUNK_BYTES)
            if not data:
                break
            left -= len(data)
            yield data
    if left:
        raise Invalid(
            f"'{path}' is a damaged zip file ({info.filename[:80]!r} has not the size it claims); "
            "make it again",
            field="path",
        )
