"""What kind of thing an operator points at, and what it has to become before it is packed.

file     a program, or a script with #!    tree     a directory; --entry is executed
jar      given to `java -jar`              archive  tar or zip, unpacked here: then a tree
python   a wheel, or a project: installed by pip into a tree
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec

from corps.errors import Invalid, Unavailable
from corps.model.artifact import check_runner
from corps.pack.archive import archive_suffix, is_archive, unpack
from corps.pack.build import default_name
from corps.pack.form import PLAIN, Form
from corps.pack.jar import is_jar, jar_form
from corps.pack.python import build, is_project, is_wheel, name_of_wheel

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:https?|ftps?|file|gopher|data|s3|gs|oci):", re.I)


class Kind(StrEnum):
    FILE = "file"
    TREE = "tree"
    JAR = "jar"
    ARCHIVE = "archive"
    PYTHON = "python"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says of PATH. `kind` None: as it looks; `python` is the interpreter whose
    pip builds, of the version that the workers have."""

    kind: Kind | None = None
    entry: str | None = None
    runner: tuple[str, ...] = ()
    python: str | None = None


class Prepared(NamedTuple):
    """What is to be packed."""

    source: Path
    entry: str | None
    form: Form


def check_no_url(text: str) -> None:
    """corps fetches nothing for anybody: an address may mean another host than it seems, and one
    with a password should not even be repeated."""
    if _URL.match(text) and not os.path.lexists(text):
        raise Invalid(
            "PATH is a URL, and corps fetches none: download it, verify it, then copy the file",
            field="path",
        )


def kind_of(path: Path, wish: Wish) -> Kind:
    """As the operator says, else by what it is."""
    if wish.kind is not None:
        return wish.kind
    if os.path.isdir(path):
        is_python = not wish.runner and not _names_program(path, wish) and is_project(path)
        return Kind.PYTHON if is_python else Kind.TREE
    if wish.runner and wish.entry is None:
        return Kind.FILE
    if is_jar(path):
        return Kind.JAR
    if is_wheel(path):
        return Kind.PYTHON
    return Kind.ARCHIVE if is_archive(path) else Kind.FILE


def name_of(path: Path, kind: Kind) -> str:
    """What the artifact is called when nobody says."""
    match kind:
        case Kind.JAR:
            return default_name(path.with_suffix(""))
        case Kind.ARCHIVE:
            return default_name(path.with_name(path.name[: -len(archive_suffix(path)) or None]))
        case Kind.PYTHON if is_wheel(path):
            return default_name(path.with_name(name_of_wheel(path)))
    return default_name(path)


@contextlib.contextmanager
def prepared(path: Path, wish: Wish) -> Iterator[Prepared]:
    """Ready for `pack`, for as long as the context lasts: its files may be temporary."""
    check_runner(wish.runner)
    kind = kind_of(path, wish)
    match kind:
        case Kind.FILE:
            yield Prepared(path, wish.entry, _plain(wish))
        case Kind.TREE:
            yield _prepared_tree(path, wish)
        case Kind.JAR:
            form = jar_form(path, in_tree=False)
            yield Prepared(path, wish.entry, _with_runner(form, wish))
        case Kind.ARCHIVE:
            with _new_directory(path) as work:
                root = work / path.name
                root.mkdir(mode=0o700)
                modes = unpack(path, root)
                tree = _prepared_tree(root, wish)
                form = msgspec.structs.replace(tree.form, modes=modes)
                yield tree._replace(form=form)
        case Kind.PYTHON:
            with _new_directory(path) as work:
                built = build(path, wish.entry, wish.python, work)
                yield Prepared(built.root, built.entry, _with_runner(built.form, wish))
        case _:
            assert_never(kind)


@contextlib.contextmanager
def _new_directory(path: Path) -> Iterator[Path]:
    """Gone afterwards, with all that is in it."""
    try:
        top = tempfile.mkdtemp(prefix="corps-")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(
            f"cannot make a directory for '{path}': {reason}; name one with room in TMPDIR"
        ) from error
    try:
        yield Path(top)
    finally:
        shutil.rmtree(top)


def _plain(wish: Wish) -> Form:
    return Form(runner=wish.runner) if wish.runner else PLAIN


def _with_runner(form: Form, wish: Wish) -> Form:
    return msgspec.structs.replace(form, runner=wish.runner) if wish.runner else form


def _prepared_tree(root: Path, wish: Wish) -> Prepared:
    """A directory whose --entry is a jar is started as that jar."""
    form = _plain(wish)
    if wish.entry is not None and not wish.runner:
        entry = root / posixpath.normpath(wish.entry)
        if is_jar(entry):
            return Prepared(root, wish.entry, jar_form(entry, in_tree=True))
    if not wish.runner and wish.kind is None and is_project(root):
        warning = f"'{root.name}' is copied as it is; --kind python installs what it requires"
        form = msgspec.structs.replace(form, warnings=(warning,))
    return Prepared(root, wish.entry, form)


def _names_program(root: Path, wish: Wish) -> bool:
    """What can be executed itself needs nothing built."""
    entry = root / (wish.entry or ".")
    return entry.is_file() and os.access(entry, os.X_OK)
