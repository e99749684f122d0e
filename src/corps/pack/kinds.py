"""What kind of thing an operator points at, and what it has to become before it is packed.

file     a program, or a script with #!        tree     a directory; --entry is executed
jar      given to `java -jar`
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, assert_never

import msgspec

from corps.errors import Invalid
from corps.model.artifact import check_runner
from corps.pack.build import default_name
from corps.pack.form import PLAIN, Form
from corps.pack.jar import is_jar, jar_form

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|(?:https?|ftps?|file|gopher|data|s3|gs|oci):", re.I)


class Kind(StrEnum):
    FILE = "file"
    TREE = "tree"
    JAR = "jar"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator says of PATH. `kind` None: as it looks."""

    kind: Kind | None = None
    entry: str | None = None
    runner: tuple[str, ...] = ()


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
        return Kind.TREE
    return Kind.JAR if is_jar(path) and not wish.runner else Kind.FILE


def name_of(path: Path, kind: Kind) -> str:
    """What the artifact is called when nobody says."""
    return default_name(path.with_suffix("") if kind is Kind.JAR else path)


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
        case _:
            assert_never(kind)


def _plain(wish: Wish) -> Form:
    return Form(runner=wish.runner) if wish.runner else PLAIN


def _with_runner(form: Form, wish: Wish) -> Form:
    return msgspec.structs.replace(form, runner=wish.runner) if wish.runner else form


def _prepared_tree(root: Path, wish: Wish) -> Prepared:
    """A directory whose --entry is a jar is started as that jar."""
    if wish.entry is not None and not wish.runner:
        entry = root / posixpath.normpath(wish.entry)
        if is_jar(entry):
            return Prepared(root, wish.entry, jar_form(entry, in_tree=True))
    return Prepared(root, wish.entry, _plain(wish))
