"""Finds the libraries of a program as ld.so(8) would find them on this machine.

One departure: the variants for newer processors (glibc-hwcaps) are left out, since a copy must run
on any worker of the same architecture.
"""

from __future__ import annotations

import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from corps.errors import Invalid
from corps.pack.elf import Elf, Machine, machine_of, read_elf
from corps.pack.system import owner_of

CACHE = Path("/etc/ld.so.cache")
CACHE_MAX_BYTES = 64 << 20
LIBRARIES_MAX = 10_000
_OLD_MAGIC = b"ld.so-1.7.0\0"
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_NEW_HEADER = struct.Struct("=20sII20x")
_NEW_ENTRY = struct.Struct("=iIIIQ")
_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")
_TRIPLETS: dict[tuple[int, int], tuple[str, ...]] = {
    (62, 64): ("x86_64-linux-gnu",),
    (62, 32): ("x86_64-linux-gnux32",),
    (3, 32): ("i386-linux-gnu", "i686-linux-gnu"),
    (183, 64): ("aarch64-linux-gnu",),
    (40, 32): ("arm-linux-gnueabihf", "arm-linux-gnueabi"),
    (243, 64): ("riscv64-linux-gnu",),
    (21, 64): ("powerpc64le-linux-gnu",),
    (22, 64): ("s390x-linux-gnu",),
}


class Found(NamedTuple):
    """`via_origin`: found beside the file that needs it, wherever the two of them are."""

    path: str
    via_origin: bool = False


class Library(NamedTuple):
    """One file the program needs, under the name it is asked for."""

    name: str
    path: Path
    via_origin: bool
    asked_by: str


class Closure(NamedTuple):
    """Of a program: what travels with it, and what was not found: (who needs it, its name)."""

    libraries: tuple[Library, ...]
    missing: tuple[tuple[str, str], ...]


class Places(NamedTuple):
    """Where to look beside what the files and the system say.

    `given` goes before everything, `nearby` before the system's directories; both by name.
    """

    given: Mapping[str, Path] = {}
    nearby: Mapping[str, Sequence[Path]] = {}
    library_path: tuple[str, ...] = ()


class _Object(NamedTuple):
    path: str
    elf: Elf
    loader: _Object | None

    @property
    def origin(self) -> str:
        return os.path.dirname(os.path.abspath(self.path))


def closure(
    program: Path,
    extras: Sequence[Path],
    places: Places,
    reason_to_stay: Callable[[str], str | None] = owner_of,
) -> Closure:
    """All that `program`, and the libraries `extras` it will load, need; breadth first, as ld.so.

    What stays, for a reason, is left out, and what only it needs: the machine brings that itself.
    """
    main = _opened(os.path.realpath(program), None)
    search = _Search(main.elf, places)
    queue = deque([main, *(_opened(str(extra), main) for extra in extras)])
    known: dict[str, Library] = {}
    by_soname: dict[str, Library] = {}
    missing: dict[str, tuple[str, str]] = {}
    while queue:
        asking = queue.popleft()
        for name in asking.elf.needed:
            if name in known or name in missing or reason_to_stay(name):
                continue
            if name in by_soname:
                known[name] = by_soname[name]._replace(name=name)
                continue
            found = search.find(name, asking)
            if found is None or len(known) >= LIBRARIES_MAX:
                missing[name] = (os.path.basename(asking.path), name)
                continue
            loaded = _opened(found.path, asking)
            known[name] = library = Library(
                name, Path(found.path), found.via_origin, os.path.basename(asking.path)
            )
            if loaded.elf.soname:
                by_soname.setdefault(loaded.elf.soname, library)
            queue.append(loaded)
    return Closure(tuple(known.values()), tuple(missing.values()))


def read_cache(path: Path = CACHE) -> dict[str, list[str]]:
    """Names -> paths of ld.so.cache (glibc: elf/cache.c); empty when it cannot be understood."""
    try:
        with path.open("rb") as file:
            data = file.read(CACHE_MAX_BYTES)
        start = 0
        if data.startswith(_OLD_MAGIC):
            (count,) = struct.unpack_from("=I", data, len(_OLD_MAGIC))
            start = -(-(len(_OLD_MAGIC) + 4 + 12 * count) // 8) * 8
        magic, count, _ = _NEW_HEADER.unpack_from(data, start)
        if magic != _NEW_MAGIC:
            return {}
        found: dict[str, list[str]] = {}
        first = start + _NEW_HEADER.size
        entries = data[first : first + count * _NEW_ENTRY.size]
        for _, key, value, _, hwcap in _NEW_ENTRY.iter_unpack(entries):
            if not hwcap:
                name, target = _string(data, start + key), _string(data, start + value)
                found.setdefault(name, []).append(target)
        return found
    except (OSError, struct.error, ValueError):
        return {}


def _string(data: bytes, start: int) -> str:
    return os.fsdecode(data[start : data.index(b"\0", start)])


def _opened(path: str, loader: _Object | None) -> _Object:
    elf = read_elf(path)
    if elf is None:
        raise Invalid(f"'{path}' is no program or library (ELF)", field="path")
    return _Object(path, elf, loader)


class _Search:
    def __init__(self, main: Elf, places: Places) -> None:
        self._machine = main.machine
        self._places = places
        self._is_musl = "/ld-musl-" in (main.interpreter or "")
        self._defaults = tuple(_default_directories(main.machine, main.interpreter or ""))
        self._cache = {} if self._is_musl else read_cache()

    def find(self, name: str, asking: _Object) -> Found | None:
        given = self._places.given.get(name)
        if given is not None:
            return Found(str(given))
        if "/" in name:
            return self._first(
                ((path, "$" in name) for path in self._expanded(name, asking)),
            )
        return self._first(self._candidates(name, asking))

    def _candidates(self, name: str, asking: _Object) -> Iterator[tuple[str, bool]]:
        """Paths in ld.so's order, each with whether $ORIGIN led to it."""
        if not asking.elf.runpath:
            above: _Object | None = asking
            while above is not None:
                if not above.elf.runpath:
                    yield from self._below(above.elf.rpath, name, above)
                above = above.loader
        for directory in self._places.library_path:
            yield os.path.join(directory or ".", name), False
        yield from self._below(asking.elf.runpath, name, asking)
        for path in self._places.nearby.get(name, ()):
            yield str(path), False
        if asking.elf.has_default_path:
            for cached in self._cache.get(name, ()):
                yield cached, False
            for directory in self._defaults:
                yield os.path.join(directory, name), False

    def _below(
        self, directories: tuple[str, ...], name: str, owner: _Object
    ) -> Iterator[tuple[str, bool]]:
        for directory in directories:
            for expanded in self._expanded(directory, owner):
                yield os.path.join(expanded or ".", name), "ORIGIN" in directory

    def _expanded(self, text: str, owner: _Object) -> list[str]:
        """$LIB depends on how the loader was built, so each of its known values is tried."""
        if "$" not in text:
            return [text]
        triplets = _TRIPLETS.get((self._machine.number, self._machine.bits), ())
        libs = [*(f"lib/{triplet}" for triplet in triplets), "lib64", "lib"]
        texts: list[str] = []
        for lib in libs if "LIB" in text else libs[:1]:
            values = {"ORIGIN": owner.origin, "LIB": lib, "PLATFORM": self._machine.name}
            texts.append(_replace_tokens(text, values))
        return texts

    def _first(self, candidates: Iterator[tuple[str, bool]]) -> Found | None:
        for path, via_origin in candidates:
            if machine_of(path) == self._machine:
                return Found(os.path.abspath(path), via_origin)
        return None


def _replace_tokens(text: str, values: Mapping[str, str]) -> str:
    return _TOKEN.sub(lambda token: values[token[1] or token[2]], text)


def _default_directories(machine: Machine, interpreter: str) -> Iterator[str]:
    if "/ld-musl-" in interpreter:
        configured = Path("/etc") / f"{os.path.basename(interpreter).split('.so')[0]}.path"
        try:
            yield from configured.read_text().replace("\n", ":").split(":")
        except (OSError, ValueError):
            yield from ("/lib", "/usr/local/lib", "/usr/lib")
        return
    for triplet in _TRIPLETS.get((machine.number, machine.bits), ()):
        yield f"/lib/{triplet}"
        yield f"/usr/lib/{triplet}"
    if machine.bits == 64:
        yield from ("/lib64", "/usr/lib64")
    yield from ("/lib", "/usr/lib")
