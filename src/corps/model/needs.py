"""What an artifact needs of the machine it runs on, and does not bring along."""

from __future__ import annotations

import msgspec


class LibraryNeed(msgspec.Struct, frozen=True, kw_only=True):
    """A library of the system, and of each symbol version one symbol that asks for it:
    `{"GLIBC_2.34": "__libc_start_main"}`, "" when none does (`GLIBC_ABI_DT_RELR`). Without versions
    its presence is enough. `name` is as DT_NEEDED has it: with a slash it is a path."""

    name: str
    versions: dict[str, str] = {}


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """`machine` as `pack.elf.Machine.name`; `loader` is PT_INTERP; `programs` are interpreters and
    runners, by full path or by a name looked for in the PATH of launches; `python` is `3.11` when
    the artifact has extension modules of that version. None and empty: it does not matter.
    `library_path`: directories of the machine where the program looks for libraries by itself, as
    its RPATH and RUNPATH say."""

    machine: str | None = None
    loader: str | None = None
    libraries: tuple[LibraryNeed, ...] = ()
    programs: tuple[str, ...] = ()
    python: str | None = None
    library_path: tuple[str, ...] = ()
