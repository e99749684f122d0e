"""What an ELF file (elf(5)) says of itself: for which machine it is, which libraries it needs."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from corps.errors import Invalid
from corps.pack.image import DAMAGE, Image, Tag

ELF_MAGIC = b"\x7fELF"
DF_1_NODEFLIB = 0x800
STRING_MAX = 4096
NEEDED_MAX = 4096
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


def open_file(path: str | Path) -> BinaryIO:
    """A regular file, to read. Raise OSError for all else, which is not touched: whoever names a
    path may name a pipe that nobody writes to, or a device that does something when it is opened.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return open(f"/proc/self/fd/{found}", "rb")
    finally:
        os.close(found)


def machine_of(path: str | Path) -> Machine | None:
    """From the first 20 bytes; None when it is no ELF file, or cannot be read."""
    try:
        with open_file(path) as file:
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
        with open_file(path) as file:
            return _read(image_of(file.fileno(), machine), machine)
    except DAMAGE as error:
        raise damaged(path, error) from error


def image_of(fd: int, machine: Machine) -> Image:
    return Image(fd, is_64=machine.bits == 64, is_little_endian=machine.is_little_endian)


def damaged(path: str | Path, error: Exception) -> Invalid:
    return Invalid(
        f"'{path}' is a damaged program or library ({error}); build or install it again",
        field="path",
    )


def _read(image: Image, machine: Machine) -> Elf:
    needed = [value for tag, value in image.tags if tag == Tag.NEEDED]
    if len(needed) > NEEDED_MAX:
        raise ValueError(f"it needs more than {NEEDED_MAX} libraries")
    return Elf(
        machine=machine,
        interpreter=image.interpreter,
        soname=_text(image, Tag.SONAME) or None,
        needed=tuple(dict.fromkeys(_checked(image.string(value)) for value in needed)),
        rpath=_directories(_text(image, Tag.RPATH)),
        runpath=_directories(_text(image, Tag.RUNPATH)),
        has_default_path=not (image.tag(Tag.FLAGS_1) or 0) & DF_1_NODEFLIB,
    )


def _directories(text: str) -> tuple[str, ...]:
    return tuple(text.split(":")) if text else ()


def _text(image: Image, tag: Tag) -> str:
    value = image.tag(tag)
    return "" if value is None else image.string(value)


def _checked(name: str) -> str:
    if not name or len(name) > STRING_MAX:
        raise ValueError("the name of a library it needs is empty or too long")
    return name
