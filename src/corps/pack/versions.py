"""Symbol versions of an ELF file: what it asks of each library, and which it defines itself.

By hand, and not by pyelftools, which takes 100 us for each symbol: 4.8 s for libLLVM (ADR 18).
Tables as in the LSB core specification, "Symbol Versioning", and in glibc's elf/dl-version.c.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile

from corps.pack.elf import DAMAGE, damaged, machine_of

TABLE_MAX_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
ENTRIES_MAX = 65_536
_VER_FLG_BASE, _VER_FLG_WEAK = 1, 2
_HIDDEN = 0x8000
_VERNEED = "HHIII"  # version, count, file, first of the count, next
_VERNAUX = "IHHII"  # hash, flags, index, name, next
_VERDEF = "HHHHIII"  # version, flags, index, count, hash, first of the count, next
_VERDAUX = "II"  # name, next

T = TypeVar("T")
Asked = dict[str, dict[str, str]]


def asked_versions(path: str | Path) -> Asked:
    """Library -> version -> one symbol that is asked for in it, "" when no symbol is
    (GLIBC_ABI_DT_RELR). Weak versions are left out: ld.so starts a program without them."""
    return _with_image(path, lambda image: image.asked()) or {}


def defined_versions(path: str | Path) -> frozenset[str]:
    """The versions that a library has, beside its own name; empty when it is no ELF file."""
    return _with_image(path, lambda image: image.defined()) or frozenset()


def _with_image(path: str | Path, read: Callable[[_Image], T]) -> T | None:
    """None when it is no ELF file; raise Invalid when it is a damaged one."""
    if machine_of(path) is None:
        return None
    try:
        with open(path, "rb") as file:
            return read(_Image(file.fileno(), ELFFile(file)))
    except DAMAGE as error:
        raise damaged(path, error) from error


class _Asking(NamedTuple):
    library: str
    version: str
    number: int
    is_weak: bool


class _Image:
    """The tables of one file, found as ld.so finds them: by the dynamic segment."""

    def __init__(self, fd: int, elf: ELFFile) -> None:
        self._fd, self._elf = fd, elf
        self._order = "<" if elf.little_endian else ">"
        self._is_64 = elf.elfclass == 64
        self._tags: dict[str, int] = {}
        for segment in elf.iter_segments():
            if isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags():
                    self._tags.setdefault(tag.entry.d_tag, tag.entry.d_val)
        self._segments = [
            (segment["p_vaddr"], segment["p_vaddr"] + segment["p_filesz"], segment["p_offset"])
            for segment in elf.iter_segments(type="PT_LOAD")
        ]
        self._strings = self._table("DT_STRTAB", self._tags.get("DT_STRSZ", 0))

    def asked(self) -> Asked:
        wanted = list(self._asking())
        symbols = self._symbols_of({asking.number for asking in wanted})
        found: Asked = {}
        for asking in wanted:
            if not asking.is_weak:
                versions = found.setdefault(asking.library, {})
                versions.setdefault(asking.version, symbols.get(asking.number, ""))
        return found

    def defined(self) -> frozenset[str]:
        data = self._table("DT_VERDEF")
        found: set[str] = set()
        for at, entry in self._chain(data, _VERDEF, 0, self._tags.get("DT_VERDEFNUM", 0)):
            if not entry[1] & _VER_FLG_BASE:
                _, (name, _) = next(self._chain(data, _VERDAUX, at + entry[5], 1))
                found.add(self._string(name))
        return frozenset(found)

    def _asking(self) -> Iterator[_Asking]:
        data = self._table("DT_VERNEED")
        for at, entry in self._chain(data, _VERNEED, 0, self._tags.get("DT_VERNEEDNUM", 0)):
            library = self._string(entry[2])
            for _, version in self._chain(data, _VERNAUX, at + entry[3], entry[1]):
                _, flags, number, name, _ = version
                yield _Asking(library, self._string(name), number, bool(flags & _VER_FLG_WEAK))

    def _chain(
        self, data: bytes, form: str, at: int, count: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Entries, each with the distance to its next one as the last field."""
        if count > ENTRIES_MAX:
            raise ValueError(f"more than {ENTRIES_MAX} symbol versions")
        for _ in range(count):
            entry = struct.unpack_from(self._order + form, data, at)
            yield at, entry
            if not entry[-1]:
                return
            at += entry[-1]

    def _symbols_of(self, wanted: set[int]) -> dict[int, str]:
        """The first symbol of each version, by the number of that version in this file."""
        count = self._symbol_count() if wanted else 0
        if not count:
            return {}
        numbers = struct.unpack(f"{self._order}{count}H", self._table("DT_VERSYM", 2 * count))
        size = 24 if self._is_64 else 16
        symbols = self._table("DT_SYMTAB", size * count)
        found: dict[int, str] = {}
        for number in sorted(wanted):
            shown = number if number in numbers else number | _HIDDEN
            if shown in numbers:
                (name,) = struct.unpack_from(
                    f"{self._order}I", symbols, size * numbers.index(shown)
                )
                found[number] = self._string(name)
        return found

    def _symbol_count(self) -> int:
        """No table says it: the last hash chain ends with the last symbol."""
        if "DT_GNU_HASH" not in self._tags:
            header = self._table("DT_HASH", 8) if "DT_HASH" in self._tags else bytes(8)
            return int(struct.unpack(f"{self._order}II", header)[1])
        header = self._table("DT_GNU_HASH", 16)
        buckets, first, bloom_size, _ = struct.unpack(f"{self._order}IIII", header)
        start = 16 + bloom_size * (8 if self._is_64 else 4)
        table = self._table("DT_GNU_HASH", 4 * buckets, start)
        last = max(struct.unpack(f"{self._order}{buckets}I", table), default=0)
        if last < first:
            return int(first)
        chain = self._table("DT_GNU_HASH", None, start + 4 * (buckets + last - first))
        ends = (index for index, (hash,) in enumerate(self._words(chain)) if hash & 1)
        return int(last + 1 + next(ends, 0))

    def _words(self, data: bytes) -> Iterator[tuple[int]]:
        return struct.iter_unpack(f"{self._order}I", data[: len(data) // 4 * 4])

    def _table(self, tag: str, size_bytes: int | None = None, skip_bytes: int = 0) -> bytes:
        """What a tag points to: so many bytes, or at most CHUNK_BYTES of its segment."""
        address = self._tags.get(tag, 0) + skip_bytes
        if tag not in self._tags or size_bytes == 0:
            return b""
        if size_bytes is not None and size_bytes > TABLE_MAX_BYTES:
            raise ValueError(f"{tag} is too long")
        for start, end, offset in self._segments:
            if start <= address < end:
                wanted = CHUNK_BYTES if size_bytes is None else size_bytes
                data = os.pread(self._fd, min(wanted, end - address), offset + address - start)
                if size_bytes is not None and len(data) < size_bytes:
                    raise ValueError(f"{tag} is cut short")
                return data
        raise ValueError(f"{tag} points to nowhere")

    def _string(self, start: int) -> str:
        return os.fsdecode(self._strings[start : self._strings.index(b"\0", start)])
