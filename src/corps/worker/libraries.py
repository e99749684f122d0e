"""The libraries of this machine: where the loader would find one, which symbol versions it has."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

from corps.errors import Invalid
from corps.model.needs import LibraryNeed, Needs
from corps.pack.elf import machine_of, open_file
from corps.pack.loader import read_cache
from corps.pack.versions import defined_versions

GLIBC_MAX_BYTES = 16 << 20
FILES_KEPT = 500
_NAMES = ("lib/*-linux-*", "lib64", "libx32", "lib32", "lib")
_DIRECTORIES = [f"{root}{name}" for name in _NAMES for root in ("/", "/usr/")]
_MUSL_DIRECTORIES = ("/lib", "/usr/local/lib", "/usr/lib")
_GLIBC = re.compile(rb"GNU C Library [^\n]*version (\d+\.\d+)")
Stamp: TypeAlias = tuple[int, int, int, int]


class Libraries:
    """As the loader of a program with these needs sees them."""

    def __init__(self, needs: Needs, library_path: tuple[str, ...] = ()) -> None:
        self._machine = needs.machine
        self._is_musl = "/ld-musl-" in (needs.loader or "")
        self._first = (*library_path, *needs.library_path)

    def find(self, name: str) -> str | None:
        """The file that would be loaded; None when there is none for this machine type."""
        if "$" in name:
            return name  # relative to the program itself
        candidates = iter((name,)) if "/" in name else self._candidates(name)
        return next((path for path in candidates if self._is_one(path)), None)

    def missing(self, need: LibraryNeed, path: str) -> list[str]:
        """The versions that it lacks. musl's loader asks for none; glibc's warns of a library that
        has none at all, and fails as soon as a symbol of it is wanted (elf/dl-lookup.c)."""
        if self._is_musl:
            return []
        have = self.versions(path)
        wanted = need.versions.items()
        return [version for version, symbol in wanted if version not in have and (have or symbol)]

    def versions(self, path: str) -> frozenset[str]:
        """The symbol versions it defines; empty when it has none, or cannot be read."""
        stamp = _stamp(path)
        return frozenset() if stamp is None else _versions(path, stamp)

    def glibc(self) -> str | None:
        """`glibc 2.36`, as the C library itself says."""
        path = self.find("libc.so.6") or self.find("libc.so.6.1")
        stamp = None if path is None else _stamp(path)
        return None if path is None or stamp is None else _glibc(path, stamp)

    def _candidates(self, name: str) -> Iterator[str]:
        for directory in self._first:
            yield f"{directory}/{name}"
        if not self._is_musl:
            yield from _cache().get(name, ())
        for directory in _musl_directories() if self._is_musl else _directories():
            yield f"{directory}/{name}"

    def _is_one(self, path: str) -> bool:
        machine = machine_of(path)
        return machine is not None and self._machine in (None, machine.name)


def _directories() -> Iterator[str]:
    for pattern in _DIRECTORIES:
        yield from sorted(glob.glob(pattern))


def _musl_directories() -> tuple[str, ...]:
    """musl: ldso/dynlink.c."""
    for path in glob.glob("/etc/ld-musl-*.path"):
        try:
            with open(path) as file:
                return tuple(filter(None, file.read().replace("\n", ":").split(":")))
        except (OSError, ValueError):
            continue
    return _MUSL_DIRECTORIES


def _cache() -> dict[str, list[str]]:
    stamp = _stamp("/etc/ld.so.cache")
    return {} if stamp is None else _read_cache(stamp)


def _stamp(path: str) -> Stamp | None:
    """Changes when the file does; None when there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(1)
def _read_cache(stamp: Stamp) -> dict[str, list[str]]:
    return read_cache()


@lru_cache(FILES_KEPT)
def _versions(path: str, stamp: Stamp) -> frozenset[str]:
    try:
        return defined_versions(path)
    except Invalid:
        return frozenset()  # damaged: its loader will say so


@lru_cache(FILES_KEPT)
def _glibc(path: str, stamp: Stamp) -> str | None:
    try:
        with open_file(path) as file:
            found = _GLIBC.search(file.read(GLIBC_MAX_BYTES))
    except OSError:
        return None
    return f"glibc {found[1].decode()}" if found else None
