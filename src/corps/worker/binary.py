"""What the first bytes of a file say about why it cannot be executed: ELF headers, `#!` lines."""

from __future__ import annotations

import errno
import os
import platform
import struct
import sys

ELF, SHEBANG = b"\x7fELF", b"#!"
SHEBANG_MAX_BYTES = 256  # BINPRM_BUF_SIZE of the kernel
MACHINES = {
    2: "sparc",
    3: "x86",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    43: "sparc64",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
    258: "loongarch",
}
ALIASES = {"i386": "x86", "i486": "x86", "i586": "x86", "i686": "x86", "riscv64": "riscv"}
ALIASES |= {"armv7l": "arm", "armv6l": "arm", "ppc64le": "ppc64", "loongarch64": "loongarch"}
NOT_PROGRAMS = {0: "of no type", 1: "an object file: it must be linked first", 4: "a core dump"}
ALWAYS_BIG = ("sparc", "sparc64", "s390x")
PT_INTERP = 3
HEADER_BYTES = 64
ELF32, LITTLE = 1, 1


def shebang_of(head: bytes) -> str:
    """The interpreter that a script names, execve(2)."""
    words = head[2:SHEBANG_MAX_BYTES].split(b"\n", 1)[0].split()
    return os.fsdecode(words[0]) if words else ""


def shebang_reason(head: bytes, said: str) -> str | None:
    """What is wrong with a script's first line itself."""
    line, newline, _ = head[2:SHEBANG_MAX_BYTES].partition(b"\n")
    if line.endswith(b"\r"):
        return f"its first line ends in CR LF: convert it to Unix line ends ({said})"
    words = line.split()
    if not words:
        return f"its first line names no interpreter ({said})"
    if not newline and len(head) >= SHEBANG_MAX_BYTES and len(words) == 1:
        return f"its first line is longer than {SHEBANG_MAX_BYTES - 1} bytes ({said})"
    return None


def elf_reason(head: bytes, number: int) -> str | None:
    """What is wrong with an ELF file, elf(5); None when its header is no reason."""
    said = os.strerror(number)
    if len(head) < (52 if head[4:5] == bytes([ELF32]) else HEADER_BYTES):
        return f"the ELF file is cut short ({said})"
    order = "<" if head[5] == LITTLE else ">"
    kind, machine = struct.unpack_from(f"{order}HH", head, 16)
    built = _built_for(machine, head)
    loader = loader_of(head)
    if number == errno.ENOENT and loader is not None and not os.path.exists(loader):
        advice = loader_advice(loader, built)
        return f"its loader {loader!r} is missing on this worker: {advice} ({said})"
    if built != _host():
        return f"it is for {built}, this worker is {_host()} ({said})"
    if kind in NOT_PROGRAMS:
        return f"it is {NOT_PROGRAMS[kind]} ({said})"
    if number == errno.EACCES and loader is not None and not os.access(loader, os.X_OK):
        return f"its loader {loader!r} may not be executed ({said})"
    if number == errno.EIO and loader is not None and os.stat(loader).st_size < HEADER_BYTES:
        return f"its loader {loader!r} is cut short ({said})"
    return None


def loader_of(head: bytes) -> str | None:
    """PT_INTERP, when it lies in the part read."""
    order = "<" if head[5] == LITTLE else ">"
    is_short = head[4] == ELF32
    (table,) = struct.unpack_from(
        f"{order}I" if is_short else f"{order}Q", head, 28 if is_short else 32
    )
    size, count = struct.unpack_from(f"{order}HH", head, 42 if is_short else 54)
    entry = struct.Struct(f"{order}IIIII" if is_short else f"{order}IIQQQQ")
    for index in range(count):
        at = table + index * size
        if at + entry.size > len(head):
            return None
        fields = entry.unpack_from(head, at)
        offset, length = (fields[1], fields[4]) if is_short else (fields[2], fields[5])
        if fields[0] == PT_INTERP and offset + length <= len(head):
            return os.fsdecode(head[offset : offset + length].rstrip(b"\0"))
    return None


def _built_for(machine: int, head: bytes) -> str:
    name = MACHINES.get(machine, f"machine {machine}")
    if machine == 62 and head[4] == ELF32:
        name = "x86_64 with 32-bit pointers (x32)"
    if head[5] != LITTLE and name not in ALWAYS_BIG:
        name = f"{name} (big endian)"
    return name


def _host() -> str:
    name = ALIASES.get(platform.machine(), platform.machine())
    return name if sys.byteorder == "little" or name in ALWAYS_BIG else f"{name} (big endian)"


def loader_advice(loader: str, built: str) -> str:
    if "musl" in loader:
        return "it was built for musl; install musl there, link it statically, or build for glibc"
    if built != _host():
        return f"it is built for {built}; install that C library, or build it for {_host()}"
    if "ld-linux" in loader or "/ld64" in loader:
        return "it was built for glibc; install glibc there, or link it statically"
    return "install it there, or build the program with the usual one"
