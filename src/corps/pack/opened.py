"""What a program opens while it runs (dlopen): found by running it once, under pack/tracer.py."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from corps.errors import Invalid, TimedOut
from corps.pack.elf import Elf, machine_of, read_elf
from corps.pack.versions import asked_versions

TRACE_S = 10.0
PATIENCE_S = 10.0
PRIVATE = "GLIBC_PRIVATE"


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """`mapped`: program -> the files that it mapped, real paths, children's too; `status` is that
    of the first program, as waitpid has it; `is_over`: it ended by itself, before its time was up.
    """

    mapped: dict[str, tuple[str, ...]] = {}
    status: int | None = None
    is_over: bool = True
    error: str | None = None


def trace(command: Sequence[str], trace_s: float = TRACE_S) -> Trace:
    """Run `command` here for at most so long; what it prints goes to stderr. Raise Invalid when it
    cannot be run or traced."""
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "corps.pack.tracer", str(writing), str(trace_s), *command]
    try:
        with subprocess.Popen(words, pass_fds=(writing,)) as tracer:
            os.close(writing)
            try:
                data = _read(reading)
                tracer.wait(trace_s + PATIENCE_S)
            except subprocess.TimeoutExpired:
                raise TimedOut(f"'{command[0]}' cannot be ended: it was traced in vain") from None
            finally:
                tracer.kill()  # and with it, all that it traces
    finally:
        os.close(reading)
    try:
        found = msgspec.json.decode(data, type=Trace)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"'{command[0]}' could not be traced: {error}", field="trace") from error
    if found.error is not None:
        raise Invalid(found.error, field="trace")
    return found


def opened_libraries(program: Path, mapped: Sequence[str], known: set[str]) -> Iterator[Path]:
    """The shared libraries of what was mapped, without `known` and the C library's own plug-ins."""
    machine = machine_of(program)
    for text in mapped:
        path = Path(text)
        if text in known or path == program or machine_of(path) != machine:
            continue
        elf = read_elf(path)
        if elf is not None and _is_library(elf) and not _is_of_c_library(path):
            yield path


def names_of_opened(path: Path) -> tuple[str, ...]:
    """By which names it may be opened: its own, its SONAME, and links beside it that lead to it."""
    elf = read_elf(path)
    names = [path.name]
    if elf is not None and elf.soname and "/" not in elf.soname:
        names.append(elf.soname)
    with os.scandir(path.parent) as entries:
        links = sorted(entry.name for entry in entries if entry.is_symlink())
    names += [link for link in links if os.path.realpath(path.parent / link) == str(path)]
    return tuple(dict.fromkeys(names))


def _is_library(elf: Elf) -> bool:
    return elf.interpreter is None or elf.soname is not None


def _is_of_c_library(path: Path) -> bool:
    """Character sets (gconv) and the like: they fit the libc that they were built with only."""
    return any(PRIVATE in versions for versions in asked_versions(path).values())


def _read(fd: int) -> bytes:
    parts: list[bytes] = []
    while data := os.read(fd, 1 << 16):
        parts.append(data)
    return b"".join(parts)
