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

from corps.errors import Invalid
from corps.model.artifact import (
    LIBRARY_DIR,
    FileKind,
    LinkEntry,
    check_link,
    check_path,
)
from corps.model.name import NAME_RULE, check_name
from corps.model.needs import Needs
from corps.pack.elf import ELF_MAGIC, machine_of
from corps.pack.form import PLAIN, Form
from corps.pack.libraries import POLICY, Choice, add_given, add_libraries, nearby_libraries
from corps.pack.loader import Places
from corps.pack.parcel import TREE_LIBRARY_DIR, Packed, Parcel
from corps.pack.source import (
    Source,
    Tree,
    has_library_name,
    interpreters,
    read_tree,
    shebang_warnings,
)

PROGRAMS_NAMED_MAX = 8


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
    choice: Choice = POLICY,
    form: Form = PLAIN,
) -> Packed:
    """Read everything once. Raise NotFound or Invalid before anything travels."""
    for path in (source, *libraries):
        if "\0" in str(path):
            raise Invalid(f"bad path {str(path)[:80]!r}: it has a NUL character", field="path")
    parcel = Parcel(form)
    nearby: dict[str, list[Path]] = {}
    if os.path.isdir(source):
        root = Path(os.path.realpath(source))
        tree = read_tree(root)
        program, inside = _add_tree(parcel, root, tree, entry)
        directory = parcel.free_directory(TREE_LIBRARY_DIR)
        nearby = nearby_libraries(root, tree)
    else:
        program, inside = _add_program(parcel, source, entry), source.name
        directory = parcel.free_directory(LIBRARY_DIR)
    for beside, file in form.beside:
        parcel.add(beside, parcel.read(_real(file)), FileKind.DATA, False)
    if not form.runner:
        _warn_of_start(parcel, program, inside)
    programs = form.all_programs if form.runner else interpreters(program.head)
    parcel.needs = Needs(programs=programs, python=form.python)
    places = Places(add_given(parcel, libraries, program, directory), nearby, _library_path())
    choice = msgspec.structs.replace(choice, is_alone=choice.is_alone or not with_libraries)
    add_libraries(parcel, program, places, choice, directory)
    return parcel.packed(inside, directory)


# ---- the program


def _add_program(parcel: Parcel, source: Path, entry: str | None) -> Source:
    if entry is not None:
        raise Invalid(
            f"'{source}' is a file, so it is the program: leave out --entry", field="entry"
        )
    program = parcel.read(_real(source))
    if not parcel.form.runner:
        _check_executable(source, program)
    parcel.add(source.name, program, FileKind.EXECUTABLE, program.is_executable)
    return program


def _add_tree(parcel: Parcel, root: Path, tree: Tree, entry: str | None) -> tuple[Source, str]:
    """The tree as it is, and its program: where it is here, and its path inside."""
    if entry is None:
        raise Invalid(
            f"'{root}' is a directory: name the program in it with --entry{_programs(root, tree)}",
            field="entry",
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


def _programs(root: Path, tree: Tree) -> str:
    """` (bin/run, bin/tool)`: what could be meant."""
    able = (path for path in tree.files if os.access(root / path, os.X_OK))
    names = [path for path in able if not has_library_name(path)][: PROGRAMS_NAMED_MAX + 1]
    if len(names) > PROGRAMS_NAMED_MAX:
        names[PROGRAMS_NAMED_MAX:] = ["..."]
    return f" ({', '.join(names)})" if names else ""


def _kind(path: str, entry: str, file: Source) -> FileKind:
    if path == entry:
        return FileKind.EXECUTABLE
    if has_library_name(path) and file.head.startswith(ELF_MAGIC):
        return FileKind.LIBRARY
    return FileKind.EXECUTABLE if file.is_executable else FileKind.DATA


def _check_executable(path: Path, source: Source) -> None:
    if not source.is_executable:
        raise Invalid(f"'{path}' is not executable: chmod +x it, then copy again", field="path")


def _warn_of_start(parcel: Parcel, program: Source, inside: str) -> None:
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


def _library_path() -> tuple[str, ...]:
    text = os.environ.get("LD_LIBRARY_PATH", "").replace(";", ":")
    return tuple(text.split(":")) if text else ()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
