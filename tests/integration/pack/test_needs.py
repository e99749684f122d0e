"""What an artifact asks of the machine: read from real files, checked against readelf and ld.so."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from corps.errors import Invalid
from corps.model.artifact import decode_manifest
from corps.model.needs import LibraryNeed, Needs
from corps.pack.build import pack
from corps.pack.libraries import POLICY, Choice
from corps.pack.parcel import Packed
from corps.pack.versions import asked_versions, defined_versions
from tests.support.compiled import compile_c

PROG = "int say(void);\nint main(void) { return say(); }\n"
SAY = "int say(void) { return 0; }\n"
LOADER = "/lib64/ld-linux-x86-64.so.2"


def a_library(
    directory: Path, name: str, version: str = "", source: str = SAY, *flags: str
) -> Path:
    """lib`name`.so, whose `say` has this symbol version."""
    script = directory / f"{name}.map"
    directory.mkdir(parents=True, exist_ok=True)
    script.write_text(f"{version} {{ global: say; local: *; }};\n")
    versioned = (f"-Wl,--version-script={script}",) if version else ()
    return compile_c(directory, f"lib{name}.so", source, "-shared", "-fPIC", *versioned, *flags)


def pack_it(
    program: Path, *libraries: Path, choice: Choice = POLICY, with_libraries: bool = True
) -> Packed:
    return pack(
        program, entry=None, libraries=libraries, with_libraries=with_libraries, choice=choice
    )


def needs(packed: Packed) -> Needs:
    """As a worker would read them."""
    return decode_manifest(packed.manifest_bytes).needs


def need(packed: Packed, name: str) -> dict[str, str] | None:
    """What is asked of the machine's library; None: nothing."""
    found = {need.name: need.versions for need in needs(packed).libraries}
    return found.get(name)


@pytest.fixture
def say(tmp_path: Path) -> Path:
    return a_library(tmp_path / "libs", "say", "SAY_1.2")


@pytest.fixture
def program(tmp_path: Path, say: Path) -> Path:
    flags = (f"-L{say.parent}", "-lsay", f"-Wl,-rpath,{say.parent}")
    return compile_c(tmp_path, "prog", PROG, *flags)


def test_a_program_needs_its_machine_its_loader_and_its_c_library(program: Path) -> None:
    packed = pack_it(program)
    found = needs(packed)
    assert (found.machine, found.loader) == ("x86_64", LOADER)
    assert [library.name for library in found.libraries] == ["libc.so.6"]
    assert found.programs == ()
    assert found.python is None
    assert need(packed, "libc.so.6") == asked_versions(program)["libc.so.6"]
    assert need(packed, "libc.so.6") == {"GLIBC_2.2.5": "__cxa_finalize"} | {
        "GLIBC_2.34": "__libc_start_main"
    }


def test_what_travelling_libraries_ask_of_the_machine_counts_as_well(tmp_path: Path) -> None:
    """The program itself asks for nothing of libm."""
    source = "#include <math.h>\nint say(void) { volatile double x = 2; return exp(x) > 9; }\n"
    say = a_library(tmp_path, "say", "", source, "-lm")
    program = compile_c(tmp_path, "prog", PROG, f"-L{tmp_path}", "-lsay", "-Wl,-rpath,$ORIGIN")
    assert need(pack_it(program), "libm.so.6") == {"GLIBC_2.29": "exp"}
    assert "libm.so.6" not in asked_versions(program)
    assert asked_versions(say)["libm.so.6"] == {"GLIBC_2.29": "exp"}


def test_a_static_program_needs_the_machine_alone(tmp_path: Path) -> None:
    program = compile_c(tmp_path, "prog", "int main(void) { return 0; }", "-static")
    assert needs(pack_it(program)) == Needs(machine="x86_64")


@pytest.mark.parametrize(
    ("line", "programs"),
    [
        ("#!/bin/sh -e", ("/bin/sh",)),
        ("#! /bin/sh", ("/bin/sh",)),
        ("#!/usr/bin/env python3", ("/usr/bin/env", "python3")),
        ("#!/usr/bin/env -S -u LANG A=1 python3 -I", ("/usr/bin/env", "python3")),
        ("#!/usr/bin/env", ("/usr/bin/env",)),
        ("#!", ()),
        ("echo", ()),
    ],
)
def test_a_script_needs_what_runs_it(tmp_path: Path, line: str, programs: tuple[str, ...]) -> None:
    script = tmp_path / "script"
    script.write_text(f"{line}\n")
    script.chmod(0o755)
    assert needs(pack_it(script)) == Needs(programs=programs)


def test_what_is_left_at_home_is_asked_of_the_machine(program: Path) -> None:
    packed = pack_it(program, with_libraries=False)
    assert [file.path for file in packed.manifest.files] == ["prog"]
    assert need(packed, "libsay.so") == {"SAY_1.2": "say"}
    assert need(pack_it(program), "libsay.so") is None


def test_a_library_that_is_nowhere_is_asked_of_the_machine(program: Path, say: Path) -> None:
    say.unlink()
    packed = pack_it(program)
    assert need(packed, "libsay.so") == {"SAY_1.2": "say"}
    assert "is not on this machine" in packed.warnings[0]


def test_a_library_needed_by_its_path_is_asked_of_the_machine(tmp_path: Path) -> None:
    say = a_library(tmp_path, "say")
    packed = pack_it(compile_c(tmp_path, "prog", PROG, str(say)))
    assert LibraryNeed(name=str(say)) in needs(packed).libraries


def test_weak_versions_are_not_asked_for(tmp_path: Path) -> None:
    """ld.so starts a program whose weak versions are missing. The linker here never says weak."""
    say = a_library(tmp_path, "say", "SAY_1.2")
    weak = PROG.replace("int say(void);", "int say(void) __attribute__((weak));")
    weak = weak.replace("say();", "say ? say() : 0;")
    flags = (f"-L{say.parent}", "-Wl,--no-as-needed", "-lsay", "-Wl,-rpath,$ORIGIN")
    program = compile_c(tmp_path, "prog", weak, *flags)
    a_library(tmp_path, "say", "SAY_1.1")
    strong = subprocess.run([program], capture_output=True, text=True)
    assert "version `SAY_1.2' not found" in strong.stderr
    assert asked_versions(program)["libsay.so"] == {"SAY_1.2": "say"}
    data = program.read_bytes()
    at = data.index(struct.pack("<IH", elf_hash("SAY_1.2"), 0))
    program.write_bytes(data[: at + 4] + struct.pack("<H", 2) + data[at + 6 :])
    subprocess.run([program], check=True)
    assert "libsay.so" not in asked_versions(program)


def elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0xFFFFFFF
    return value


# ---- every file of this machine, beside readelf

FILES = ["git", "python3", "redis-server", "openssl", "perl", "gcc"]


def readelf(path: Path) -> str:
    command = ["readelf", "--version-info", "--wide", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_versions_are_those_that_readelf_shows() -> None:
    paths = [Path(found) for name in FILES if (found := shutil.which(name, path="/usr/bin"))]
    libraries = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("lib[cgst]*.so.*"))
    paths += [path for path in libraries if not path.is_symlink()]
    assert len(paths) > 10
    for path in paths:
        wanted, own = _read_by_readelf(path)
        asked = asked_versions(path)
        assert {library: set(versions) for library, versions in asked.items()} == wanted
        assert defined_versions(path) == own
        without = [v for versions in asked.values() for v, symbol in versions.items() if not symbol]
        assert all("_ABI_" in version for version in without), path


def _read_by_readelf(path: Path) -> tuple[dict[str, set[str]], set[str]]:
    wanted: dict[str, set[str]] = {}
    own: set[str] = set()
    library = ""
    for line in readelf(path).splitlines():
        if match := re.search(r"Version: 1  File: (\S+)", line):
            library = match[1]
        elif match := re.search(r"Name: (\S+)  Flags: (.*?)  Version: \d+", line):
            if "WEAK" not in match[2]:
                wanted.setdefault(library, set()).add(match[1])
        elif (
            match := re.search(r"Flags: (.*?) +Index: \d+ +Cnt: \d+ +Name: (\S+)", line)
        ) and "BASE" not in match[1]:
            own.add(match[2])
    return wanted, own


def test_a_damaged_table_is_refused_and_never_a_crash(program: Path, say: Path) -> None:
    for path in (program, say):
        whole = path.read_bytes()
        for at in range(64, min(len(whole), 2_400), 19):
            damaged = bytearray(whole)
            damaged[at] ^= 0xFF
            path.write_bytes(damaged)
            try:
                asked_versions(path)
                defined_versions(path)
            except Invalid as error:
                assert "damaged" in error.message
        path.write_bytes(whole)


def test_what_is_no_elf_file_has_no_versions(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("#!/bin/sh\n")
    assert asked_versions(path) == {}
    assert defined_versions(path) == frozenset()
