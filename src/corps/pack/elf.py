"""What an ELF file (elf(5)) says of itself: for which machine it is, which libraries it needs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import msgspec
from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from corps.errors import Invalid

ELF_MAGIC = b"\x7fELF"
DF_1_NODEFLIB = 0x800
STRING_MAX = 4096
NEEDED_MAX = 4096
# what a parser of hostile bytes may come across, beside ELFError
DAMAGE = (
    ELFError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
_NAMES = {3: "x86", 8: "mips", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64"}
_NAMES |= {183: "aarch64", 243: "riscv64", 258: "loongarch64"}


class Machine(NamedTuple):
    """Two ELF files can live in one process only if these are equal."""

    bits: int
    is_little_endian: bool
    number: int

    @property
    def name(self) -> str:
        if self.number == 62 and self.bits == 32:
            return "x32"
        return _NAMES.get(self.number, f"machine {self.number}")


class Elf(msgspec.Struct, frozen=True, kw_only=True):
    """`rpath` and `runpath` are as written, with $ORIGIN."""

    machine: Machine
    interpreter: str | None = None
    soname: str | None = None
    needed: tuple[str, ...] = ()
    rpath: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    has_default_path: bool = True


def machine_of(path: str | Path) -> Machine | None:
    """From the first 20 bytes; None when it is no ELF file, or cannot be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != ELF_MAGIC or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    is_little_endian = head[5] == 1
    (number,) = struct.unpack_from("<H" if is_little_endian else ">H", head, 18)
    return Machine(32 * head[4], is_little_endian, number)


def read_elf(path: str | Path) -> Elf | None:
    """None when it is no ELF file; raise Invalid when it is a damaged one."""
    machine = machine_of(path)
    if machine is None:
        return None
    try:
        with open(path, "rb") as file:
            return _read(ELFFile(file), machine)
    except DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: str | Path, error: Exception) -> Invalid:
    return Invalid(
        f"'{path}' is a damaged program or library ({error}); build or install it again",
        field="path",
    )


def _read(file: ELFFile, machine: Machine) -> Elf:
    texts: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
    texts["DT_SONAME"] = []
    interpreter: str | None = None
    flags = 0
    for segment in file.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        if not isinstance(segment, DynamicSegment):
            continue
        for tag in segment.iter_tags():
            kind = tag.entry.d_tag
            if kind in texts:
                texts[kind].append(_text(tag, kind))
            elif kind == "DT_FLAGS_1":
                flags = tag.entry.d_val
            if len(texts["DT_NEEDED"]) > NEEDED_MAX:
                raise ValueError(f"needs more than {NEEDED_MAX} libraries")
    return Elf(
        machine=machine,
        interpreter=interpreter,
        soname=texts["DT_SONAME"][0] if texts["DT_SONAME"] else None,
        needed=tuple(dict.fromkeys(texts["DT_NEEDED"])),
        rpath=tuple(":".join(texts["DT_RPATH"]).split(":")) if texts["DT_RPATH"] else (),
        runpath=tuple(":".join(texts["DT_RUNPATH"]).split(":")) if texts["DT_RUNPATH"] else (),
        has_default_path=not flags & DF_1_NODEFLIB,
    )


def _text(tag: object, kind: str) -> str:
    text = getattr(tag, kind.removeprefix("DT_").lower())
    if not isinstance(text, str) or not text or len(text) > STRING_MAX or "\0" in text:
        raise ValueError(f"bad {kind}")
    return text
