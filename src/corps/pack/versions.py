"""Symbol versions of an ELF file: what it asks of each library, and which it defines itself.

Tables as in the LSB core specification, "Symbol Versioning", and in glibc's elf/dl-version.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from corps.pack.elf import damaged, image_of, machine_of, open_file
from corps.pack.image import DAMAGE, Image, Tag

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
    return _with_image(path, _asked) or {}


def defined_versions(path: str | Path) -> frozenset[str]:
    """The versions that a library has, beside its own name; empty when it is no ELF file."""
    return _with_image(path, _defined) or frozenset()


def _with_image(path: str | Path, read: Callable[[Image], T]) -> T | None:
    """None when it is no ELF file; raise Invalid when it is a damaged one."""
    machine = machine_of(path)
    if machine is None:
        return None
    try:
        with open_file(path) as file:
            return read(image_of(file.fileno(), machine))
    except DAMAGE as error:
        raise damaged(path, error) from error


class _Asking(NamedTuple):
    library: str
    version: str
    number: int
    is_weak: bool


def _asked(image: Image) -> Asked:
    wanted = list(_asking(image))
    symbols = _symbols_of(image, {asking.number for asking in wanted})
    found: Asked = {}
    for asking in wanted:
        if not asking.is_weak:
            versions = found.setdefault(asking.library, {})
            versions.setdefault(asking.version, symbols.get(asking.number, ""))
    return found


def _defined(image: Image) -> frozenset[str]:
    data = image.table(Tag.VERDEF)
    found: set[str] = set()
    for at, entry in _chain(image, data, _VERDEF, 0, image.tag(Tag.VERDEFNUM) or 0):
        if not entry[1] & _VER_FLG_BASE:
            _, (name, _) = next(_chain(image, data, _VERDAUX, at + entry[5], 1))
            found.add(image.string(name))
    return frozenset(found)


def _asking(image: Image) -> Iterator[_Asking]:
    data = image.table(Tag.VERNEED)
    for at, entry in _chain(image, data, _VERNEED, 0, image.tag(Tag.VERNEEDNUM) or 0):
        library = image.string(entry[2])
        for _, version in _chain(image, data, _VERNAUX, at + entry[3], entry[1]):
            _, flags, number, name, _ = version
            yield _Asking(library, image.string(name), number, bool(flags & _VER_FLG_WEAK))


def _chain(
    image: Image, data: bytes, form: str, at: int, count: int
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Entries, each with the distance to its next one as the last field."""
    if count > ENTRIES_MAX:
        raise ValueError(f"it has more than {ENTRIES_MAX} symbol versions")
    for _ in range(count):
        entry = struct.unpack_from(image.order + form, data, at)
        yield at, entry
        if not entry[-1]:
            return
        at += entry[-1]


def _symbols_of(image: Image, wanted: set[int]) -> dict[int, str]:
    """The first symbol of each version, by the number of that version in this file."""
    count = _symbol_count(image) if wanted else 0
    if not count:
        return {}
    numbers = [number for (number,) in image.words("H", image.table(Tag.VERSYM, 2 * count))]
    size = 24 if image.is_64 else 16
    symbols = image.table(Tag.SYMTAB, size * count)
    found: dict[int, str] = {}
    for number in sorted(wanted):
        shown = number if number in numbers else number | _HIDDEN
        if shown in numbers:
            at = size * numbers.index(shown)
            (name,) = struct.unpack_from(f"{image.order}I", symbols, at)
            found[number] = image.string(name)
    return found


def _symbol_count(image: Image) -> int:
    """No table says it: the last hash chain ends with the last symbol."""
    if image.tag(Tag.GNU_HASH) is None:
        header = image.table(Tag.HASH, 8)
        return int(struct.unpack(f"{image.order}II", header)[1]) if header else 0
    header = image.table(Tag.GNU_HASH, 16)
    buckets, first, bloom_size, _ = struct.unpack(f"{image.order}IIII", header)
    start = 16 + bloom_size * (8 if image.is_64 else 4)
    table = image.words("I", image.table(Tag.GNU_HASH, 4 * buckets, start))
    last = max((bucket for (bucket,) in table), default=0)
    if last < first:
        return int(first)
    chain = image.table(Tag.GNU_HASH, None, start + 4 * (buckets + last - first))
    ends = (index for index, (hash,) in enumerate(image.words("I", chain)) if hash & 1)
    return int(last + 1 + next(ends, 0))
