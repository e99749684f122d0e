"""Python applications: a wheel, or a project, becomes a tree that runs wherever it lies.

    start.py    finds the packages beside itself, and starts the application
    site/       what pip installed, compiled
    app/        the project itself, when it is not installed but only has a requirements.txt

It is isolated as a virtual environment is: of the worker it takes python3 and the standard library.
Building runs code of the project, and of what it requires, on this machine: as `pip install` does.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.request import url2pathname

import msgspec

from corps.errors import Invalid
from corps.pack.elf import Machine, machine_of
from corps.pack.form import Form
from corps.pack.pip import Python
from corps.pack.start import Callable, Module, Script, Start, starter
from corps.pack.zips import ZIP_MAGICS

RUNNER = ("python3", "-S", "-B")  # no packages of the worker, and nothing written into the tree
STARTER, SITE, APP = "start.py", "site", "app"
REQUIREMENTS = "requirements.txt"
PYPROJECT_MAX_BYTES = 1 << 20
CONSOLE = "console_scripts"
NOT_COPIED = ("__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache")
_TAGGED = re.compile(r".*\.cpython-[0-9]+[a-z]*(?:-.*)?\.so")
_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_MODULE = re.compile(r"[A-Za-z_][\w.]*")


class Built(NamedTuple):
    """The tree is below `root`."""

    root: Path
    entry: str
    form: Form


class _Url(msgspec.Struct):
    url: str = ""


def is_wheel(path: Path) -> bool:
    return path.suffix == ".whl" and path.is_file()


def is_project(root: Path) -> bool:
    """Can pip install it, or what it requires?"""
    return _is_installable(root) or (root / REQUIREMENTS).is_file()


def name_of_wheel(path: Path) -> str:
    return path.name.partition("-")[0]


def build(path: Path, entry: str | None, python: str | None, work: Path) -> Built:
    """`work` is a directory of our own; the tree is made in it."""
    source = path.absolute()
    if not source.is_dir() and not _is_archive(source):
        raise Invalid(
            f"'{path}' is neither a wheel nor a directory with pyproject.toml, setup.py or "
            f"{REQUIREMENTS}",
            field="path",
        )
    interpreter = Python(python)
    root = work / path.name
    site = root / SITE
    site.mkdir(parents=True)
    if source.is_dir():
        own = _install_project(interpreter, source, work, root)
    else:
        interpreter.install([str(source)], site, work)
        own = _own_scripts(site, source)
    start = _start_of(entry, own, root)
    _tidy(site)
    (root / STARTER).write_text(starter(start, has_app=(root / APP).is_dir()))
    interpreter.compile(root)
    objects = tuple(_objects(root, machine_of(interpreter.binary)))
    is_bound = any(_TAGGED.fullmatch(file.name) for file in objects)
    form = Form(runner=RUNNER, python=interpreter.version if is_bound else None, objects=objects)
    return Built(root, STARTER, form)


# ---- installing


def _install_project(python: Python, source: Path, work: Path, root: Path) -> dict[str, str] | None:
    """The console scripts of the project; None when it is not installed, only what it requires.

    From a copy, since setuptools builds inside of what it builds.
    """
    is_installable = _is_installable(source)
    if not is_installable and not (source / REQUIREMENTS).is_file():
        raise Invalid(
            f"'{source}' has no pyproject.toml, setup.py or {REQUIREMENTS}: nothing to install",
            field="path",
        )
    copied = work / "project" / source.name if is_installable else root / APP
    _copy(source, copied, () if is_installable else (".git", ".hg"))
    words = [str(copied)] if is_installable else []
    if (copied / REQUIREMENTS).is_file():
        words += ["-r", REQUIREMENTS]
    python.install(words, root / SITE, copied)
    return _own_scripts(root / SITE, copied) if is_installable else None


def _copy(source: Path, target: Path, more: tuple[str, ...]) -> None:
    ignored = shutil.ignore_patterns(*NOT_COPIED, *more)
    try:
        shutil.copytree(source, target, symlinks=True, ignore=ignored)
    except shutil.Error as error:
        path, _, why = error.args[0][0]
        raise Invalid(f"cannot copy '{path}' of the project: {why}", field="path") from error
    except OSError as error:
        raise Invalid(f"cannot copy '{source}': {error.strerror}", field="path") from error


def _tidy(site: Path) -> None:
    """Away with what names this machine: the scripts that pip writes for its own interpreter, and
    the place from which something was installed."""
    doomed: set[str] = set()
    for script in (site / "bin").glob("*"):
        with script.open("rb") as file:
            if file.read(2) == b"#!":
                doomed.add(f"bin/{script.name}")
    doomed.update(str(file.relative_to(site)) for file in site.glob("*.dist-info/direct_url.json"))
    for name in doomed:
        (site / name).unlink()
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split(",")[0].lstrip("./") not in doomed]
        record.write_text("".join(sorted(kept)))
    if (site / "bin").is_dir() and not any((site / "bin").iterdir()):
        (site / "bin").rmdir()


def _objects(root: Path, machine: Machine | None) -> Iterator[Path]:
    """The ELF files for this machine: extension modules, and what they brought along."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            found = machine_of(path)
            if found is not None and found == machine:
                yield path


# ---- what is started


def _own_scripts(site: Path, source: Path) -> dict[str, str]:
    """The console scripts of what was installed from `source`."""
    for info in site.glob("*.dist-info"):
        try:
            url = msgspec.json.decode((info / "direct_url.json").read_bytes(), type=_Url).url
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            continue
        if Path(url2pathname(url.removeprefix("file://"))) == source:
            return _scripts([metadata.Distribution.at(info)])
    return {}


def _scripts(distributions: list[metadata.Distribution]) -> dict[str, str]:
    return {
        point.name: point.value.partition("[")[0].strip()
        for distribution in distributions
        for point in distribution.entry_points
        if point.group == CONSOLE
    }


def _start_of(entry: str | None, own: dict[str, str] | None, root: Path) -> Start:
    if entry is None:
        return _default_start(own, root)
    scripts = _scripts(list(metadata.distributions(path=[str(root / SITE)])))
    if entry in scripts:
        return _callable(entry, scripts[entry])
    if _CALLABLE.fullmatch(entry):
        return _callable(entry.partition(":")[0], entry)
    if own is None and (root / APP / entry).is_file():
        return Script(path=entry)
    if _MODULE.fullmatch(entry) and _has_module(root, entry):
        return Module(name=entry)
    known = ", ".join(sorted(scripts)[:10]) or "none"
    raise Invalid(
        f"no entry {entry!r}: name a console script ({known}), a module, MODULE:FUNCTION"
        + (" or a file of the project" if own is None else ""),
        field="entry",
    )


def _default_start(own: dict[str, str] | None, root: Path) -> Start:
    if own is None and (root / APP / "__main__.py").is_file():
        return Script(path="__main__.py")
    if own and len(own) == 1:
        ((name, value),) = own.items()
        return _callable(name, value)
    choices = f"one of its console scripts ({', '.join(sorted(own))})" if own else "what it starts"
    raise Invalid(
        f"name {choices} with --entry: a console script, a module, MODULE:FUNCTION"
        + (", or a file as app.py" if own is None else ""),
        field="entry",
    )


def _callable(name: str, value: str) -> Start:
    module, _, function = value.partition(":")
    return Callable(name=name, module=module, function=function)


def _has_module(root: Path, name: str) -> bool:
    below = name.replace(".", "/")
    return any(
        (root / top / f"{below}{end}").is_file()
        for top in (SITE, APP)
        for end in (".py", "/__main__.py")
    )


# ---- what it looks like


def _is_installable(root: Path) -> bool:
    """A pyproject.toml may only configure tools."""
    if (root / "setup.py").is_file():
        return True
    try:
        with (root / "pyproject.toml").open("rb") as file:
            tables = tomllib.loads(file.read(PYPROJECT_MAX_BYTES).decode())
    except (OSError, ValueError):
        return False
    return "project" in tables or "build-system" in tables


def _is_archive(path: Path) -> bool:
    """A wheel, or a source distribution."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return head.startswith(ZIP_MAGICS) or head.startswith(b"\x1f\x8b")
