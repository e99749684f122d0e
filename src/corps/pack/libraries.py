"""Decides of each library of a program whether it travels, and what the machine must have.

It travels unless the policy (pack/system.py) or the operator says that it is the machine's. Of what
stays, all that the travelling files ask of it becomes the artifact's needs.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from corps.errors import Invalid, NotFound
from corps.model.artifact import FileKind
from corps.model.needs import LibraryNeed
from corps.pack.elf import Elf, machine_of, read_elf
from corps.pack.loader import HWCAPS, Closure, Library, Places, closure, found_by_name
from corps.pack.opened import names_of_opened, opened_libraries
from corps.pack.parcel import LibraryRow, Parcel
from corps.pack.source import Source, Tree, has_library_name
from corps.pack.system import is_musl, owner_of
from corps.pack.versions import asked_versions, defined_versions

GIVEN = "given with --lib"
INSIDE = "in the directory already"
ORDINARY = "no library of the system"
LEFT_OUT = "left out with --no-lib"
ALONE = "left out with --no-libs"
SYSTEM = "the machine's, by --system-lib"
MISSING = "not on this machine"
OPENED = "opened while it was traced"
BY_PATH = "needed by its path"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says against the policy, by names that may be patterns (`libnv*`).

    `travelling` goes along although it is the machine's; `system` is the machine's, which must have
    it; `left_out` stays as well, and nobody asks whether the machine has it; `is_alone`: nothing
    travels but what is given; `opened`: program -> what it mapped while it was traced.
    """

    travelling: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    is_alone: bool = False
    opened: dict[str, tuple[str, ...]] = {}

    def reason_to_stay(self, name: str) -> str | None:
        """None: the library of this name travels."""
        if _is_among(name, self.left_out):
            return LEFT_OUT
        if _is_among(name, self.system):
            return SYSTEM
        if _is_among(name, self.travelling):
            return None
        return owner_of(name) or (ALONE if self.is_alone else None)

    def unused(self, names: Sequence[str]) -> list[tuple[str, str]]:
        """Options, and the names given with them that mean none of these libraries."""
        said = {
            "--lib": self.travelling,
            "--no-lib": self.left_out,
            "--system-lib": self.system,
        }
        return [
            (option, pattern)
            for option, patterns in said.items()
            for pattern in patterns
            if not any(fnmatchcase(name, pattern) for name in names)
        ]


POLICY = Choice()


def nearby_libraries(root: Path, tree: Tree) -> dict[str, list[Path]]:
    """The libraries of a directory, by their names; links only to what is inside."""
    nearby: dict[str, list[Path]] = {}
    for path in (*tree.files, *(link for link, _ in tree.links)):
        if not has_library_name(path):
            continue
        real = _real(root / path)
        if real.is_relative_to(root) and real.is_file():
            nearby.setdefault(posixpath.basename(path), []).append(root / path)
    return nearby


def add_given(
    parcel: Parcel, libraries: Sequence[Path], program: Source, directory: str
) -> dict[str, Path]:
    """The --lib files under their own names and those they are asked for by (SONAME)."""
    machine = machine_of(program.path)
    given: dict[str, Path] = {}
    for path in libraries:
        source = parcel.read(_real(path))
        elf = read_elf(source.path)
        if elf is None:
            raise Invalid(f"'{path}' is no shared library (ELF): leave it out", field="lib")
        if machine is not None and elf.machine != machine:
            raise Invalid(
                f"'{path}' is for {elf.machine.name}, '{program.path}' for {machine.name}",
                field="lib",
            )
        for name in _names_of(path, elf):
            file = parcel.files.get(f"{directory}/{name}")
            if file is not None and file.digest != source.digest:
                raise Invalid(f"two --lib files are called '{name}': give one", field="lib")
            parcel.add(f"{directory}/{name}", source, FileKind.LIBRARY, False)
            given[name] = path
    return given


def add_libraries(
    parcel: Parcel, program: Source, places: Places, choice: Choice, directory: str
) -> None:
    """What the program needs and a worker would not find, unless it is the machine's. One that is
    no ELF file may load some from its tree: then it is they who need."""
    elf = read_elf(program.path)
    shipment = _Shipment(parcel, places, choice, directory)
    if elf is not None:
        if elf.interpreter and not os.path.exists(elf.interpreter):
            parcel.warn(
                f"'{program.path.name}' needs '{elf.interpreter}', which is not on this machine"
            )
        shipment.add(program.path)
    for loaded in parcel.form.objects:
        shipment.add(loaded)
    for path in choice.opened:
        if Path(path) != program.path and parcel.has_read(path):
            shipment.add(Path(path))
    if elf is None and not shipment.programs:
        _warn_of_trace(parcel, program, choice)
        return
    main = elf or read_elf(shipment.programs[0])
    assert main is not None, "only ELF files are added"
    parcel.libraries = shipment.rows()
    parcel.needs = msgspec.structs.replace(
        parcel.needs,
        machine=main.machine.name,
        loader=main.interpreter,
        libraries=tuple(_need(row) for row in parcel.libraries if _is_needed(row)),
        library_path=shipment.library_path(),
    )
    for row in parcel.libraries:
        _warn_of_versions(parcel, row)
    for option, name in choice.unused([row.name for row in parcel.libraries]):
        text = f"'{program.path.name}' needs no library of the name '{name}'"
        if option == "--lib":
            raise NotFound(f"no file '{name}', and {text}")
        parcel.warn(f"{option} {name}: {text}")


def _warn_of_versions(parcel: Parcel, row: LibraryRow) -> None:
    """What travels must have what is asked of it; a library without versions serves all who ask."""
    have = defined_versions(row.path) if row.path is not None and row.versions else frozenset()
    for version, symbol in row.versions.items() if have else ():
        if version not in have:
            named = f" (symbol {symbol})" if symbol else ""
            parcel.warn(
                f"'{row.asked_by}' needs {version} of {row.name}{named}, which '{row.path}' has "
                "not: give another with --lib"
            )


def _warn_of_trace(parcel: Parcel, program: Source, choice: Choice) -> None:
    if choice.opened:
        parcel.warn(
            f"nothing that was traced travels: '{program.path.name}' is run by "
            f"'{next(iter(choice.opened))}', which is the machine's"
        )


class _Shipment:
    """The programs that travel, and one row for each library that a travelling file asks for, with
    all that is asked of it."""

    def __init__(self, parcel: Parcel, places: Places, choice: Choice, directory: str) -> None:
        self.programs: list[Path] = []
        self._parcel, self._places = parcel, places
        self._choice, self._directory = choice, directory
        self._inside = {os.path.realpath(p) for paths in places.nearby.values() for p in paths}
        self._travelling: dict[str, tuple[Path, str]] = {}
        for name, path in places.given.items():
            self._travelling[name] = path, GIVEN

    def add(self, program: Path) -> None:
        """A program with its closure, and with what it opened while it was traced."""
        if read_elf(program) is None:
            return
        self.programs.append(program)
        given = tuple(dict.fromkeys(self._places.given.values()))
        found = closure(program, given, self._places, self._choice.reason_to_stay)
        known = {os.path.realpath(path) for path in given} | _real_paths(found)
        mapped = self._choice.opened.get(str(program), ())
        opened = [
            path
            for path in opened_libraries(program, mapped, known)
            if not any(map(self._choice.reason_to_stay, names_of_opened(path)))
        ]
        if opened:
            extras = (*given, *opened)
            found = closure(program, extras, self._places, self._choice.reason_to_stay)
        for library in found.libraries:
            self._add_found(library)
        _warn_of_processors(self._parcel, found.libraries)
        for path in opened:
            if str(path) not in _real_paths(found):
                self._add_opened(program, path)
        for who, name in found.missing:
            self._parcel.warn(
                f"'{who}' needs {name}, which is not on this machine: give it with --lib"
            )

    def library_path(self) -> tuple[str, ...]:
        """Directories of any machine, in which the travelling files themselves say to look."""
        found: dict[str, None] = {}
        for path in self._paths():
            elf = read_elf(path)
            assert elf is not None, "only ELF files are in a closure"
            directories = elf.runpath or elf.rpath
            found |= dict.fromkeys(d for d in directories if d.startswith("/") and "$" not in d)
        return tuple(found)

    def _paths(self) -> Iterator[Path]:
        paths = (*self.programs, *(path for path, _ in self._travelling.values()))
        yield from dict.fromkeys(paths)

    def rows(self) -> tuple[LibraryRow, ...]:
        """In the order of the search."""
        asked_by: dict[str, str] = {}
        versions: dict[str, dict[str, str]] = {}
        for path in self._paths():
            elf, asked = read_elf(path), asked_versions(path)
            assert elf is not None, "only ELF files are in a closure"
            for name in (*elf.needed, *asked):
                asked_by.setdefault(name, path.name)
                for version, symbol in asked.get(name, {}).items():
                    known = versions.setdefault(name, {})
                    known[version] = known.get(version) or symbol
        return tuple(
            self._row(name, asked_by.get(name, ""), versions.get(name, {}))
            for name in dict.fromkeys((*self._travelling, *asked_by))
        )

    def _row(self, name: str, asked_by: str, versions: dict[str, str]) -> LibraryRow:
        path, why = self._travelling.get(name, (None, ""))
        if path is None:
            why = BY_PATH if "/" in name else self._choice.reason_to_stay(name) or MISSING
        return LibraryRow(
            name=name,
            travels=path is not None,
            why=why,
            path=None if path is None else os.path.abspath(path),
            asked_by=asked_by,
            versions=versions,
        )

    def _add_found(self, library: Library) -> None:
        name, path, why = library.name, library.path, ORDINARY
        if "/" in name:
            self._parcel.warn(
                f"'{library.asked_by}' needs '{name}' by its path: put it on each worker"
            )
            return
        if library.hwcap:
            name = f"{HWCAPS}/{library.hwcap}/{name}"
            why = f"preferred by processors: {library.hwcap}"
        if library.via_origin and os.path.realpath(path) in self._inside:
            self._travelling.setdefault(name, (path, INSIDE))
        else:
            self._put(name, path, why)

    def _add_opened(self, program: Path, path: Path) -> None:
        """Beside the other libraries; but a program that opens it by its path must be told."""
        if self._parcel.has_read(str(path)):
            self._travelling.setdefault(path.name, (path, INSIDE))
            return
        names = names_of_opened(path)
        for name in names:
            self._put(name, path, OPENED)
        if str(path) not in found_by_name(program, names, self._places):
            self._parcel.warn(
                f"'{program.name}' opened '{path}' by its path: its copy is "
                f"'{self._directory}/{path.name}', so tell the program, or put it on each worker"
            )

    def _put(self, name: str, path: Path, why: str) -> None:
        """The first of a name wins, as in one process of ld.so; what is given was there before."""
        inside = f"{self._directory}/{name}"
        if inside not in self._parcel.files:
            source = self._parcel.read(_real(path))
            self._parcel.add(inside, source, FileKind.LIBRARY, False)
            self._travelling[name] = path, why


def _real_paths(found: Closure) -> set[str]:
    return {os.path.realpath(library.path) for library in found.libraries}


def _warn_of_processors(parcel: Parcel, libraries: Sequence[Library]) -> None:
    for_all = {library.name for library in libraries if not library.hwcap}
    for name in dict.fromkeys(library.name for library in libraries):
        some = [library for library in libraries if library.name == name]
        if name not in for_all:
            levels = ", ".join(library.hwcap for library in some)
            parcel.warn(
                f"'{some[0].asked_by}' needs {name}, which is here for some processors only "
                f"({levels})"
            )


def _is_needed(row: LibraryRow) -> bool:
    """musl's loader is its C library, so Needs.loader says it all."""
    return not row.travels and row.why != LEFT_OUT and not is_musl(row.name)


def _need(row: LibraryRow) -> LibraryNeed:
    return LibraryNeed(name=row.name, versions=row.versions)


def _names_of(path: Path, elf: Elf) -> tuple[str, ...]:
    soname = elf.soname
    has_other = soname is not None and "/" not in soname and soname != path.name
    return (path.name, soname) if has_other and soname else (path.name,)


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
