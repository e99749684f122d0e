"""Makes an artifact of what an operator points at: the files, the libraries, the manifest.

a file        ->  prog, and lib/ with the libraries it needs
a directory   ->  the same tree, and .corps-lib/ with what is not already in it
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

import msgspec
from blake3 import blake3

from corps.errors import Invalid
from corps.model.artifact import (
    LIBRARY_DIR,
    FileEntry,
    FileKind,
    LinkEntry,
    Manifest,
    check_link,
    check_manifest,
    check_path,
    encode_manifest,
)
from corps.model.name import NAME_RULE, Digest, check_name
from corps.model.needs import Needs
from corps.pack.elf import ELF_MAGIC, Elf, machine_of, read_elf
from corps.pack.form import PLAIN, Form, shebang_programs
from corps.pack.loader import Places, closure
from corps.pack.source import (
    Source,
    Tree,
    has_library_name,
    read_source,
    read_tree,
    shebang_warnings,
)

TREE_LIBRARY_DIR = ".corps-lib"
WARNINGS_MAX = 100


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be put: the blobs `sources`, then `manifest_bytes`, whose digest names all."""

    manifest: Manifest
    sources: dict[Digest, Path]
    warnings: tuple[str, ...]
    size_bytes: int

    @property
    def manifest_bytes(self) -> bytes:
        return encode_manifest(self.manifest)

    @property
    def digest(self) -> Digest:
        return blake3(self.manifest_bytes).hexdigest()


def default_name(path: Path) -> str:
    """What the artifact of this path is called when nobody says."""
    name = Path(os.path.abspath(path)).name
    try:
        return check_name("artifact", name.lower())
    except Invalid:
        raise Invalid(
            f"'{name}' cannot be the name of an artifact ({NAME_RULE}): choose one with --name",
            field="name",
        ) from None


def pack(
    source: Path,
    *,
    entry: str | None,
    libraries: Sequence[Path],
    with_libraries: bool,
    form: Form = PLAIN,
) -> Packed:
    """Read everything once. Raise NotFound or Invalid before anything travels."""
    for path in (source, *libraries):
        if "\0" in str(path):
            raise Invalid(f"bad path {str(path)[:80]!r}: it has a NUL character", field="path")
    parcel = _Parcel(form)
    nearby: dict[str, list[Path]] = {}
    if os.path.isdir(source):
        root = Path(os.path.realpath(source))
        tree = read_tree(root)
        program, inside = _add_tree(parcel, root, tree, entry)
        directory = parcel.free_directory(TREE_LIBRARY_DIR)
        nearby = _nearby(root, tree)
    else:
        program, inside = _add_program(parcel, source, entry), source.name
        directory = parcel.free_directory(LIBRARY_DIR)
    for beside, file in form.beside:
        parcel.add(beside, parcel.read(_real(file)), FileKind.DATA, False)
    if not form.runner:
        _warn_of_start(parcel, program, inside)
    given = _add_given(parcel, libraries, program, directory)
    if with_libraries:
        _add_libraries(parcel, program, given, nearby, directory)
    return parcel.packed(inside, directory, _needs(program, form))


def _needs(program: Source, form: Form) -> Needs:
    programs = form.all_programs if form.runner else shebang_programs(program.head)
    return Needs(programs=programs, python=form.python)


class _Parcel:
    """Collects entries, sources and warnings; a file that is met twice is hashed once."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.files: dict[str, FileEntry] = {}
        self.links: list[LinkEntry] = []
        self.sources: dict[Digest, Path] = {}
        self.warnings: dict[str, None] = dict.fromkeys(form.warnings)
        self._read: dict[str, Source] = {}

    def read(self, real: Path) -> Source:
        """`real` has no links in it."""
        key = str(real)
        if key not in self._read:
            self._read[key] = read_source(real)
        return self._read[key]

    def warn(self, text: str) -> None:
        self.warnings[text] = None

    def add(self, path: str, source: Source, kind: FileKind, executable: bool) -> None:
        check_path(path)
        if source.is_set_id:
            self.warn(f"'{path}' is setuid or setgid; its copy is not, and runs as who launches it")
        self.sources.setdefault(source.digest, source.path)
        self.files[path] = FileEntry(
            path=path,
            size_bytes=source.size_bytes,
            digest=source.digest,
            kind=kind,
            executable=executable,
        )

    def free_directory(self, wanted: str) -> str:
        """A top directory that nothing packed has: libraries of ours must not hide others."""
        taken = {path.split("/")[0] for path in self.files}
        taken |= {link.path.split("/")[0] for link in self.links}
        names = (wanted, *(f"{TREE_LIBRARY_DIR}-{number}" for number in range(1, len(taken) + 2)))
        return next(name for name in names if name not in taken)

    def packed(self, entry: str, library_directory: str, needs: Needs) -> Packed:
        has_libraries = any(path.startswith(f"{library_directory}/") for path in self.files)
        manifest = Manifest(
            entry=entry,
            files=tuple(self.files[path] for path in sorted(self.files)),
            links=tuple(sorted(self.links, key=lambda link: link.path)),
            library_dirs=(library_directory,) if has_libraries else (),
            runner=self.form.runner,
            needs=needs,
        )
        check_manifest(manifest)
        warnings = list(self.warnings)
        if len(warnings) > WARNINGS_MAX:
            warnings[WARNINGS_MAX:] = [f"and {len(warnings) - WARNINGS_MAX} more warnings"]
        return Packed(
            manifest=manifest,
            sources=self.sources,
            warnings=tuple(warnings),
            size_bytes=sum(file.size_bytes for file in manifest.files),
        )


# ---- the program


def _add_program(parcel: _Parcel, source: Path, entry: str | None) -> Source:
    if entry is not None:
        raise Invalid(
            f"'{source}' is a file, so it is the program: leave out --entry", field="entry"
        )
    program = parcel.read(_real(source))
    if not parcel.form.runner:
        _check_executable(source, program)
    parcel.add(source.name, program, FileKind.EXECUTABLE, program.is_executable)
    return program


def _add_tree(parcel: _Parcel, root: Path, tree: Tree, entry: str | None) -> tuple[Source, str]:
    """The tree as it is, and its program: where it is here, and its path inside."""
    if entry is None:
        raise Invalid(
            f"'{root}' is a directory: name the program in it with --entry", field="entry"
        )
    inside = check_path(posixpath.normpath(entry))
    for path in tree.files:
        file = parcel.read(root / path)
        parcel.add(path, file, _kind(path, inside, file), file.is_executable)
    for path, target in tree.links:
        check_path(path)
        try:
            parcel.links.append(check_link(LinkEntry(path=path, target=target)))
        except Invalid as error:
            raise Invalid(
                f"{error.message}; replace it by what it points to", field="path"
            ) from None
    if tree.empty:
        names = ", ".join(f"'{path}'" for path in tree.empty[:3])
        more = f" and {len(tree.empty) - 3} more" if len(tree.empty) > 3 else ""
        parcel.warn(f"empty directories are not copied: {names}{more}")
    if inside not in tree.files and inside not in dict(tree.links):
        raise Invalid(f"no file {entry!r} in '{root}': name another with --entry", field="entry")
    program = _real(root / inside)
    if not program.is_relative_to(root):
        raise Invalid(f"entry {entry!r} leads out of '{root}'", field="entry")
    found = parcel.read(program)
    if not parcel.form.runner:
        _check_executable(root / inside, found)
    return found, inside


def _kind(path: str, entry: str, file: Source) -> FileKind:
    if path == entry:
        return FileKind.EXECUTABLE
    if has_library_name(path) and file.head.startswith(ELF_MAGIC):
        return FileKind.LIBRARY
    return FileKind.EXECUTABLE if file.is_executable else FileKind.DATA


def _check_executable(path: Path, source: Source) -> None:
    if not source.is_executable:
        raise Invalid(f"'{path}' is not executable: chmod +x it, then copy again", field="path")


def _warn_of_start(parcel: _Parcel, program: Source, inside: str) -> None:
    """What would make the launch fail although the copy succeeds."""
    if program.head.startswith(b"#!"):
        for text in shebang_warnings(inside, program.head):
            parcel.warn(text)
    elif program.head.startswith(ELF_MAGIC):
        machine, here = machine_of(program.path), machine_of("/proc/self/exe")
        if machine is not None and here is not None and machine != here:
            parcel.warn(f"'{inside}' is for {machine.name}: other workers cannot start it")
    else:
        parcel.warn(
            f"'{inside}' is {'neither a program nor a script with #!' if program.head else 'empty'}"
            ": workers cannot start it"
        )
    if "security.capability" in _attributes(program.path):
        parcel.warn(f"'{inside}' has file capabilities; its copy has not")


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:
        return []


# ---- its libraries


def _add_given(
    parcel: _Parcel, libraries: Sequence[Path], program: Source, directory: str
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


def _names_of(path: Path, elf: Elf) -> tuple[str, ...]:
    soname = elf.soname
    has_other = soname is not None and "/" not in soname and soname != path.name
    return (path.name, soname) if has_other and soname else (path.name,)


def _add_libraries(
    parcel: _Parcel,
    program: Source,
    given: dict[str, Path],
    nearby: dict[str, list[Path]],
    directory: str,
) -> None:
    """What the program needs and a worker would not find, unless it is the system's."""
    elf = read_elf(program.path)
    if elf is None:
        return
    interpreter = elf.interpreter
    if interpreter and not os.path.exists(interpreter):
        parcel.warn(f"'{program.path.name}' needs '{interpreter}', which is not on this machine")
    library_path = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":")
    places = Places(given, nearby, tuple(library_path.split(":")) if library_path else ())
    found = closure(program.path, tuple(dict.fromkeys(given.values())), places)
    inside = {os.path.realpath(path) for paths in nearby.values() for path in paths}
    for name, path, via_origin in found.libraries:
        if "/" in name:
            parcel.warn(f"'{program.path.name}' needs '{name}' by its path: put it on each worker")
        elif f"{directory}/{name}" in parcel.files:
            pass  # given with --lib
        elif not (via_origin and os.path.realpath(path) in inside):
            parcel.add(f"{directory}/{name}", parcel.read(_real(path)), FileKind.LIBRARY, False)
    for who, name in found.missing:
        parcel.warn(f"'{who}' needs {name}, which is not on this machine: give it with --lib")


def _nearby(root: Path, tree: Tree) -> dict[str, list[Path]]:
    """The libraries of a directory, by their names; links only to what is inside."""
    nearby: dict[str, list[Path]] = {}
    for path in (*tree.files, *(link for link, _ in tree.links)):
        if not has_library_name(path):
            continue
        real = _real(root / path)
        if real.is_relative_to(root) and real.is_file():
            nearby.setdefault(posixpath.basename(path), []).append(root / path)
    return nearby


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
