"""Could an artifact run on this machine? Each reason against it is a sentence for a person.

Only what is certain speaks against it: what cannot be found out here is left to the launch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from corps.errors import CorpsError, Unavailable
from corps.model.artifact import Manifest
from corps.model.check import Check, check_of
from corps.model.name import Digest
from corps.model.needs import Needs
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.worker.binary import loader_advice
from corps.worker.command import PATH
from corps.worker.diagnose import ST_NOEXEC
from corps.worker.libraries import Libraries
from corps.worker.room import lack_of_room

LISTED_MAX = 5
HOSTS = {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86", "amd64": "x86_64"}
HOSTS |= {"armv6l": "arm", "armv7l": "arm", "ppc64le": "ppc64", "mips64": "mips"}
ALSO_RUNS = {"x86_64": ("x86", "x32"), "aarch64": ("arm",)}  # given their loader and libraries
BINFMT = "/proc/sys/fs/binfmt_misc"
ELF_NUMBERS = {"x86": 3, "mips": 8, "ppc64": 21, "s390x": 22, "arm": 40, "x86_64": 62}
ELF_NUMBERS |= {"aarch64": 183, "riscv64": 243, "loongarch64": 258}
_PYTHON = re.compile(r"python(\d+\.\d+)")
_NUMBER = re.compile(r"\d+")


class Here(NamedTuple):
    """Who is asked, and of what. `path` is the PATH of the launch."""

    worker: str
    app: str
    path: str
    library_path: tuple[str, ...] = ()


class MachineCheck:
    """The machine of one worker."""

    def __init__(self, worker: str, blobs: BlobStore, trees: Trees) -> None:
        self._worker, self._blobs, self._trees = worker, blobs, trees
        # Not of those that installs keep busy for long: somebody waits for the answer.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="probe")

    def problems(self, check: Check, refusal: str | None) -> tuple[str, ...]:
        """Blocking. Every reason why the artifact could not run here, or has no room.

        `refusal`: why nothing new may come here at all, if so.
        """
        try:
            found = [] if refusal is None else [f"{self._worker}: {refusal}"]
            found += self._unfit(check)
            return (*found, *_no_room(check, self._worker, self._blobs, self._trees))
        except CorpsError as error:
            return (f"{self._worker} cannot look: {error.message}",)
        except OSError as error:
            return (f"{self._worker} cannot look: {error}",)

    def require(self, digest: Digest, manifest: Manifest) -> None:
        """Blocking. Raise Unavailable when it cannot run here, whoever sent it. What is looked for
        in a PATH is not: that of its launches may be another."""
        check = check_of(os.path.basename(manifest.entry), digest, manifest)
        located = tuple(program for program in check.needs.programs if "/" in program)
        check = msgspec.structs.replace(
            check, needs=msgspec.structs.replace(check.needs, programs=located)
        )
        if problems := self._unfit(check):
            raise Unavailable("; ".join(problems))

    def _unfit(self, check: Check) -> list[str]:
        library_path = tuple(filter(None, (check.library_path or "").split(":")))
        here = Here(self._worker, check.name, check.path or PATH, library_path)
        found = unmet(check.needs, here)
        if check.is_mapped and os.statvfs(self._blobs.root).f_flag & ST_NOEXEC:
            found.append(
                f"{self._worker} keeps artifacts in '{self._blobs.root}', which is mounted noexec, "
                f"so {check.name} could not be executed: start this worker with another --dir"
            )
        return found


def unmet(needs: Needs, here: Here) -> list[str]:
    """What the machine lacks of `needs`."""
    foreign = _foreign(needs, here)
    if foreign is not None:
        return [foreign]  # all else would follow from it
    found = list(_missing_programs(needs, here))
    found += _other_python(needs, here)
    if needs.loader is not None and not os.path.exists(needs.loader):
        advice = loader_advice(needs.loader, needs.machine or "")
        return [f"{here.worker} has no {needs.loader}, the loader of {here.app}: {advice}", *found]
    return [*_unmet_libraries(needs, here), *found]


# ---- the machine


def _foreign(needs: Needs, here: Here) -> str | None:
    host = os.uname().machine
    host = HOSTS.get(host, host)
    wanted = needs.machine
    if wanted is None or wanted == host or wanted in ALSO_RUNS.get(host, ()) or is_emulated(wanted):
        return None
    return f"{here.worker} is {host}, {here.app} is for {wanted}: build it for {host}"


def is_emulated(machine: str, binfmt: str = BINFMT) -> bool:
    """An emulator is registered for it, Documentation/admin-guide/binfmt-misc.rst."""
    number = ELF_NUMBERS.get(machine)
    if number is None:
        return False
    wanted = {number.to_bytes(2, order).hex() for order in ("little", "big")}
    for name in _listed(binfmt):
        try:
            with open(f"{binfmt}/{name}") as file:
                words = file.read(4_096).split()
        except (OSError, ValueError):
            continue
        magic = words[words.index("magic") + 1] if "magic" in words[:-1] else ""
        is_on = words[:1] == ["enabled"] and magic.startswith("7f454c46")
        if is_on and magic[36:40] in wanted:
            return True
    return False


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


# ---- its libraries


def _unmet_libraries(needs: Needs, here: Here) -> Iterator[str]:
    libraries = Libraries(needs, here.library_path)
    absent: list[str] = []
    of_glibc: list[tuple[str, str, str]] = []
    for need in needs.libraries:
        path = libraries.find(need.name)
        if path is None:
            absent.append(need.name)
            continue
        version = max(libraries.missing(need, path), key=_order, default=None)
        if version is None:
            continue
        symbol = need.versions[version]
        if version.startswith("GLIBC_"):
            of_glibc.append((version, symbol, need.name))
        else:
            yield _older(here, need.name, version, symbol, libraries.versions(path))
    if of_glibc:
        version, symbol, name = max(of_glibc, key=lambda found: _order(found[0]))
        where = "" if name.startswith("libc.so") else f" of {name}"
        have = libraries.glibc() or "an older glibc"
        yield f"{here.worker} has {have}, {here.app} needs {version}{_of_symbol(symbol, where)}"
    if absent:
        names = ", ".join(absent[:LISTED_MAX])
        more = f" and {len(absent) - LISTED_MAX} more" if len(absent) > LISTED_MAX else ""
        yield (
            f"{here.worker} has no {names}{more}, which {here.app} needs: install it there, or "
            "copy it along with --lib"
        )


def _older(here: Here, name: str, version: str, symbol: str, have: frozenset[str]) -> str:
    family = version.rpartition("_")[0]
    known = [one for one in have if one.rpartition("_")[0] == family]
    without = f"without {family or version}" if have else "without symbol versions"
    up_to = f"up to {max(known, key=_order)}" if known else without
    return (
        f"{here.worker} has {name} {up_to}, {here.app} needs {version}{_of_symbol(symbol, '')}: "
        "install a newer one there, or copy it along with --lib"
    )


def _of_symbol(symbol: str, where: str) -> str:
    return f" (symbol {symbol}{where})" if symbol else ""


def _order(version: str) -> tuple[bool, list[int], str]:
    """`GLIBC_2.34` comes after `GLIBC_2.4`, and names without a number before both."""
    last = version.rpartition("_")[2]
    return last[:1].isdecimal(), [int(number) for number in _NUMBER.findall(last)], version


# ---- its programs


def _missing_programs(needs: Needs, here: Here) -> Iterator[str]:
    for program in needs.programs:
        if _looked_up(program, here.path) is None:
            where = "" if "/" in program else f" in PATH ({here.path})"
            yield f"{here.worker} has no {program}{where}, which runs {here.app}: install it there"


def _other_python(needs: Needs, here: Here) -> Iterator[str]:
    """Extension modules are for one version of Python, which the name of its file tells."""
    if needs.python is None:
        return
    names = (name for name in needs.programs if os.path.basename(name).startswith("python"))
    python = _looked_up(next(names, "python3"), here.path)
    version = _PYTHON.fullmatch(os.path.basename(os.path.realpath(python))) if python else None
    if version is not None and version[1] != needs.python:
        yield (
            f"{here.worker} has Python {version[1]} ({python}), {here.app} has modules built for "
            f"{needs.python}: install that one there, or build {here.app} with {version[1]}"
        )


def _looked_up(program: str, path: str) -> str | None:
    """As a launch looks it up, execvp(3)."""
    candidates: Sequence[str] = [program]
    if "/" not in program:
        candidates = [f"{directory}/{program}" for directory in path.split(":") if directory]
    found = (one for one in candidates if os.path.isfile(one) and os.access(one, os.X_OK))
    return next(found, None)


# ---- its files


def _no_room(check: Check, worker: str, blobs: BlobStore, trees: Trees) -> Iterator[str]:
    if not check.blobs or trees.is_installed(check.digest):
        return
    if lack := lack_of_room(dict(check.blobs), blobs, trees):
        yield (
            f"{worker} has {lack.free_bytes} bytes free in '{blobs.root}', {check.name} needs "
            f"{lack.needed_bytes}: delete artifacts or free space there"
        )
