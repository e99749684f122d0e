"""An ELF file (elf(5)) as a loader reads it: by its segments and its dynamic table. Its sections,
which may be missing, do not count.

By hand, and not by pyelftools, which is 30 times slower (ADR 18). Bytes may be hostile: every
offset and size is checked before it is used.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from enum import IntEnum

CHUNK_BYTES = 1 << 20
TABLE_MAX_BYTES = 64 << 20
STRING_MAX_BYTES = 64 << 10
STRING_CHUNK_BYTES = 256
SEGMENTS_MAX = 1_024
DYNAMIC_MAX_BYTES = 4 << 20
_LOAD, _DYNAMIC, _INTERP = 1, 2, 3
# what reading hostile bytes may raise here
DAMAGE = (OSError, OverflowError, ValueError, struct.error)


class Tag(IntEnum):
    """<elf.h>"""

    NULL = 0
    NEEDED = 1
    HASH = 4
    STRTAB = 5
    SYMTAB = 6
    STRSZ = 10
    SONAME = 14
    RPATH = 15
    RUNPATH = 29
    GNU_HASH = 0x6FFFFEF5
    VERSYM = 0x6FFFFFF0
    FLAGS_1 = 0x6FFFFFFB
    VERDEF = 0x6FFFFFFC
    VERDEFNUM = 0x6FFFFFFD
    VERNEED = 0x6FFFFFFE
    VERNEEDNUM = 0x6FFFFFFF


class Image:
    """`tags` are the entries of the dynamic table in their order; none: it is static."""

    def __init__(self, fd: int, *, is_64: bool, is_little_endian: bool) -> None:
        self.order = "<" if is_little_endian else ">"
        self.is_64 = is_64
        self.interpreter: str | None = None
        self.tags: list[tuple[int, int]] = []
        self._fd = fd
        self._loads: list[tuple[int, int, int]] = []
        dynamic = (0, 0)
        for kind, offset, address, size_bytes in self._segments():
            if kind == _LOAD:
                self._loads.append((address, address + size_bytes, offset))
            elif kind == _DYNAMIC:
                dynamic = offset, size_bytes
            elif kind == _INTERP:
                self.interpreter = self._interpreter(offset, size_bytes)
        self.tags = list(self._read_tags(*dynamic))
        self._last = dict(self.tags)  # of two the last one counts, as in ld.so

    def tag(self, tag: Tag) -> int | None:
        return self._last.get(tag)

    def words(self, form: str, data: bytes) -> Iterator[tuple[int, ...]]:
        """Entries of `form` as long as there are whole ones."""
        entry = struct.Struct(self.order + form)
        return entry.iter_unpack(data[: len(data) // entry.size * entry.size])

    def table(self, tag: Tag, size_bytes: int | None = None, skip_bytes: int = 0) -> bytes:
        """What a tag points to: so many bytes, or at most CHUNK_BYTES of its segment; empty without
        that tag."""
        base = self.tag(tag)
        if base is None or size_bytes == 0:
            return b""
        if size_bytes is not None and size_bytes > TABLE_MAX_BYTES:
            raise ValueError(f"the table of {tag.name} is too long")
        address = base + skip_bytes
        for start, end, offset in self._loads:
            if start <= address < end:
                wanted = CHUNK_BYTES if size_bytes is None else size_bytes
                data = os.pread(self._fd, min(wanted, end - address), offset + address - start)
                if size_bytes is not None and len(data) < size_bytes:
                    raise ValueError(f"the table of {tag.name} is cut short")
                return data
        raise ValueError(f"the table of {tag.name} is nowhere")

    def string(self, start: int) -> str:
        """From the table of strings."""
        if start >= (self.tag(Tag.STRSZ) or 0):
            raise ValueError("a string is nowhere")
        count = STRING_CHUNK_BYTES
        while count <= STRING_MAX_BYTES:
            left = min(count, (self.tag(Tag.STRSZ) or 0) - start)
            text, end, _ = self.table(Tag.STRTAB, left, start).partition(b"\0")
            if end:
                return os.fsdecode(text)
            count *= 16
        raise ValueError("a string has no end")

    def _segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Kind, offset, address and size in the file of each."""
        header = self._exactly(0, 64 if self.is_64 else 52)
        (table,) = struct.unpack_from(
            self.order + ("Q" if self.is_64 else "I"), header, 32 if self.is_64 else 28
        )
        size, count = struct.unpack_from(f"{self.order}HH", header, 54 if self.is_64 else 42)
        form = struct.Struct(self.order + ("IIQQQQQQ" if self.is_64 else "IIIIIIII"))
        if count > SEGMENTS_MAX or (count and size != form.size):
            raise ValueError("its header makes no sense")
        for fields in form.iter_unpack(self._exactly(table, size * count)):
            if self.is_64:
                yield fields[0], fields[2], fields[3], fields[5]
            else:
                yield fields[0], fields[1], fields[2], fields[4]

    def _read_tags(self, offset: int, size_bytes: int) -> Iterator[tuple[int, int]]:
        if size_bytes > DYNAMIC_MAX_BYTES:
            raise ValueError("its dynamic table is too long")
        for tag, value in self.words(
            "QQ" if self.is_64 else "II", self._exactly(offset, size_bytes)
        ):
            if tag == Tag.NULL:
                return
            yield tag, value

    def _interpreter(self, offset: int, size_bytes: int) -> str:
        if size_bytes > STRING_MAX_BYTES:
            raise ValueError("the name of its loader is too long")
        return os.fsdecode(self._exactly(offset, size_bytes).partition(b"\0")[0])

    def _exactly(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._fd, size_bytes, offset)
        if len(data) < size_bytes:
            raise ValueError("it is cut short")
        return data
