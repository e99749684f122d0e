"""Java programs: a jar is given to `java -jar`, and the jars of its Class-Path go along.

The main section of META-INF/MANIFEST.MF (JAR File Specification) names the class to start and,
relative to the jar itself, the files it needs.
"""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from corps.errors import Invalid
from corps.pack.form import Form
from corps.pack.zips import ZIP_MAGICS, contents, opened_zip

RUNNER = ("java", "-jar")
MANIFEST = "META-INF/MANIFEST.MF"
MANIFEST_MAX_BYTES = 1 << 20
CLASS_PATH_MAX = 10_000


def is_jar(path: Path) -> bool:
    """By its name and its first bytes: one that begins with `#!` starts itself."""
    if path.suffix.lower() != ".jar":
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) in ZIP_MAGICS
    except OSError:
        return False  # whoever reads it will say why


def jar_form(jar: Path, *, in_tree: bool) -> Form:
    """How this jar is started; `in_tree`: what is beside it travels anyway."""
    warnings: list[str] = []
    main = _main_section(jar)
    if "Main-Class" not in main:
        raise Invalid(
            f"'{jar}' has no Main-Class, so `java -jar` cannot start it: name the jar of the "
            "program, or the runner with --runner 'java -cp'",
            field="path",
        )
    beside = tuple(_class_path(jar, main, warnings))
    return Form(runner=RUNNER, beside=() if in_tree else beside, warnings=tuple(warnings))


def _class_path(jar: Path, main: dict[str, str], warnings: list[str]) -> Iterator[tuple[str, Path]]:
    """What is needed beside the jar, and by what is there again, by its place from the jar."""
    known: set[str] = {jar.name}
    waiting = [(jar.name, main)]
    while waiting:
        owner, section = waiting.pop()
        for text in section.get("Class-Path", "").split():
            inside = posixpath.normpath(posixpath.join(posixpath.dirname(owner), unquote(text)))
            if inside in known:
                continue
            known.add(inside)
            path = jar.parent / inside
            if ":" in text or inside.startswith(("/", "..")):
                warnings.append(f"'{owner}' needs '{text}', which lies outside: it does not travel")
            elif os.path.isdir(path):
                warnings.append(
                    f"'{owner}' needs the directory '{text}': copy the directory that has both"
                )
            elif not os.path.exists(path):
                warnings.append(f"'{owner}' needs '{text}', which is not there")
            else:
                yield inside, path
                if is_jar(path) and len(known) < CLASS_PATH_MAX:
                    waiting.append((inside, _main_section(path)))


def _main_section(jar: Path) -> dict[str, str]:
    with opened_zip(jar) as archive:
        try:
            info = archive.getinfo(MANIFEST)
        except KeyError:
            return {}
        text = _read(jar, archive, info)
    section: dict[str, str] = {}
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n ", "").split("\n")
    for line in lines:
        if not line:
            break
        name, _, value = line.partition(":")
        section[name] = value.strip()
    return section


def _read(jar: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    data = b""
    for chunk in contents(jar, archive, info):
        data += chunk
        if len(data) > MANIFEST_MAX_BYTES:
            raise Invalid(f"the {MANIFEST} of '{jar}' is too long", field="path")
    return data.decode("utf-8", "replace")
