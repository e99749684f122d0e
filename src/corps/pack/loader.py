"""Finds the libraries of a program as ld.so(8) would find them on this machine.

Of a library with variants for newer processors (glibc-hwcaps) it finds what any processor can run,
and the variants that ld.so would prefer to it: all travel, and each worker's own ld.so chooses.
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
HWCAPS = "glibc-hwcaps"
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
    """`via_origin`: found beside the file that needs it, wherever the two of them are.

    `variants`: for newer processors, (name of the subdirectory, path); without a library for all
    processors `path` is None.
    """

    path: str | None
    via_origin: bool = False
    variants: tuple[tuple[str, str], ...] = ()


class Library(NamedTuple):
    """One file the program needs, under the name it is asked for. `hwcap`: for which processors
    only, "" for all (`x86-64-v3`)."""

    name: str
    path: Path
    via_origin: bool
    asked_by: str
    hwcap: str = ""


class Closure(NamedTuple):
    """Of a program: what travels with it, and what was not found: (who needs it, its name)."""

    libraries: tuple[Library, ...]
    missing: tuple[tuple[str, str], ...]


class Places(NamedTuple):
    """Where to look beside what the files and the system say.

    `given` goes before everything, `nearby` before the system's directories; both by name.
    `library_path` is what LD_LIBRARY_PATH says.
    """

    given: Mapping[str, Path] = {}
    nearby: Mapping[str, Sequence[Path]] = {}
    library_path: tuple[str, ...] = ()


class _Step(NamedTuple):
    paths: list[str]
    via_origin: bool = False


class _Object(NamedTuple):
    path: str
    elf: Elf
    loader: _Object | None

    @property
    def origin(self) -> str:
        return os.path.dirname(_absolute(self.path))


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
    search = _Search(main, places)
    queue = deque([main, *(_opened(str(extra), main) for extra in extras)])
    known: dict[str, list[Library]] = {}
    by_soname: dict[str, list[Library]] = {}
    missing: dict[str, tuple[str, str]] = {}
    while queue:
        asking = queue.popleft()
        for name in asking.elf.needed:
            if name in known or name in missing or reason_to_stay(name):
                continue
            if name in by_soname:
                known[name] = [library._replace(name=name) for library in by_soname[name]]
                continue
            found = search.find(name, asking)
            if found is None or len(known) >= LIBRARIES_MAX:
                missing[name] = (os.path.basename(asking.path), name)
                continue
            known[name] = libraries = list(_libraries(name, found, asking))
            for library in libraries:
                loaded = _opened(str(library.path), asking)
                if loaded.elf.soname:
                    by_soname.setdefault(loaded.elf.soname, libraries)
                queue.append(loaded)
    return Closure(
        tuple(library for libraries in known.values() for library in libraries),
        tuple(missing.values()),
    )


def found_by_name(program: Path, names: Sequence[str], places: Places) -> set[str]:
    """Where dlopen(3) of these names, called by the program, would lead: real paths."""
    main = _opened(os.path.realpath(program), None)
    search = _Search(main, places)
    found = [search.find(name, main) for name in names]
    paths = [library.path for library in found if library is not None and library.path is not None]
    return {os.path.realpath(path) for path in paths}


def _libraries(name: str, found: Found, asking: _Object) -> Iterator[Library]:
    asked_by = os.path.basename(asking.path)
    if found.path is not None:
        yield Library(name, Path(found.path), found.via_origin, asked_by)
    for hwcap, path in found.variants:
        yield Library(name, Path(path), found.via_origin, asked_by, hwcap)


def read_cache(path: Path = CACHE) -> dict[str, list[str]]:
    """Names -> paths of ld.so.cache (glibc: elf/cache.c); empty when it cannot be understood.

    Of the entries for some processors only those in a glibc-hwcaps directory: the others are of an
    ldconfig before 2.33, and mean what no loader from 2.37 on looks for.
    """
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
            name, target = _string(data, start + key), _string(data, start + value)
            if not hwcap or _hwcap_of(target):
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
    def __init__(self, main: _Object, places: Places) -> None:
        interpreter = main.elf.interpreter or ""
        self._main = main
        self._machine = main.elf.machine
        self._places = places
        self._is_musl = "/ld-musl-" in interpreter
        self._defaults = tuple(_default_directories(self._machine, interpreter))
        self._cache = {} if self._is_musl else read_cache()
        self._hwcaps: dict[str, tuple[str, ...]] = {}

    def find(self, name: str, asking: _Object) -> Found | None:
        given = self._places.given.get(name)
        if given is not None:
            return Found(str(given))
        if "/" in name:
            steps: Iterator[_Step] = iter([_Step(self._expanded(name, asking), "$" in name)])
        else:
            steps = self._steps(name, asking)
        variants: dict[str, str] = {}
        for paths, via_origin in steps:
            for path in paths:
                hwcap = _hwcap_of(path)
                if hwcap in variants or machine_of(path) != self._machine:
                    continue
                if not hwcap:
                    return Found(_absolute(path), via_origin, tuple(variants.items()))
                variants[hwcap] = _absolute(path)
        return Found(None, False, tuple(variants.items())) if variants else None

    def _steps(self, name: str, asking: _Object) -> Iterator[_Step]:
        """What ld.so tries, in its order."""
        if not asking.elf.runpath:
            above: _Object | None = asking
            while above is not None:
                if not above.elf.runpath:
                    yield from self._below(above.elf.rpath, name, above)
                above = above.loader
        yield from self._below(self._places.library_path, name, self._main)
        yield from self._below(asking.elf.runpath, name, asking)
        yield _Step([str(path) for path in self._places.nearby.get(name, ())], False)
        cached = [path for path in self._cache.get(name, ()) if self._may_use(path, asking)]
        yield _Step(sorted(cached, key=_hwcap_rank, reverse=True))
        if asking.elf.has_default_path:
            for directory in self._defaults:
                yield _Step(self._in(directory, name))

    def _may_use(self, cached: str, asking: _Object) -> bool:
        """With DF_1_NODEFLIB: nothing that begins like a default directory (elf/dl-load.c)."""
        return asking.elf.has_default_path or not cached.startswith(
            tuple(f"{directory}/" for directory in self._defaults)
        )

    def _below(self, directories: tuple[str, ...], name: str, owner: _Object) -> Iterator[_Step]:
        for directory in directories:
            for expanded in self._expanded(directory, owner):
                yield _Step(self._in(expanded or ".", name), "ORIGIN" in directory)

    def _in(self, directory: str, name: str) -> list[str]:
        """The paths of one directory, variants for newer processors first."""
        if directory not in self._hwcaps:
            self._hwcaps[directory] = () if self._is_musl else _hwcaps_in(directory)
        variants = [os.path.join(directory, HWCAPS, h, name) for h in self._hwcaps[directory]]
        return [*variants, os.path.join(directory, name)]

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


def _hwcaps_in(directory: str) -> tuple[str, ...]:
    """The best processors first, as their names have it: x86-64-v4, v3, v2; power10, power9."""
    try:
        names = os.listdir(os.path.join(directory, HWCAPS))
    except OSError:
        return ()
    return tuple(sorted(names, key=_rank, reverse=True))


def _rank(hwcap: str) -> tuple[int, str]:
    return len(hwcap), hwcap


def _hwcap_rank(path: str) -> tuple[int, str]:
    return _rank(_hwcap_of(path))


def _hwcap_of(path: str) -> str:
    parts = path.rsplit("/", 3)
    return parts[2] if len(parts) == 4 and parts[1] == HWCAPS else ""


def _absolute(path: str) -> str:
    """`..` stays: what is before it may be a link."""
    return os.path.join(os.getcwd(), path)


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
