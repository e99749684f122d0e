"""What a machine says of a program, against what its loader, its kernel and its disk say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from corps.errors import Unavailable
from corps.model.check import Check, check_of
from corps.model.needs import LibraryNeed, Needs
from corps.pack.build import pack
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.worker.fit import Here, MachineCheck, is_emulated, unmet
from tests.support.artifacts import a_manifest, put_artifact
from tests.support.compiled import compile_c
from tests.support.disks import noexec, tmpfs
from tests.support.versioned import NEWER, OLDER, SONAME, compile_asking, compile_library

PATH = "/usr/local/bin:/usr/bin:/bin"
HERE = Here("w3", "app", PATH)
HOST = "x86_64"
MIB = 1 << 20


def needs_of(program: Path, *, with_libraries: bool = False) -> Needs:
    packed = pack(program, entry=None, libraries=(), with_libraries=with_libraries)
    return packed.manifest.needs


def lib(name: str, **versions: str) -> Needs:
    return Needs(machine=HOST, libraries=(LibraryNeed(name=name, versions=versions),))


# ---- libraries, as ld.so finds them


def _gone(directory: Path) -> None:
    (directory / SONAME).unlink()


def _foreign(directory: Path) -> None:
    """Of another machine type: ld.so looks further, and finds none."""
    compile_library(directory, NEWER)
    with (directory / SONAME).open("r+b") as file:
        file.seek(18)
        file.write(b"\xb7\x00")


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda where: compile_library(where, NEWER), None),
        (
            lambda where: compile_library(where, OLDER),
            "w3 has libfoo.so.1 up to FOO_1.5, app needs FOO_10.2 (symbol foo)",
        ),
        (
            lambda where: compile_library(where, ("BAR_1",)),
            "w3 has libfoo.so.1 without FOO, app needs FOO_10.2 (symbol foo)",
        ),
        (
            lambda where: compile_library(where, ()),
            "w3 has libfoo.so.1 without symbol versions, app needs FOO_10.2 (symbol foo)",
        ),
        (_gone, "w3 has no libfoo.so.1, which app needs: install it there"),
        (_foreign, "w3 has no libfoo.so.1, which app needs: install it there"),
    ],
    ids=["same", "older", "other", "unversioned", "gone", "foreign"],
)
def test_the_verdict_on_a_library_is_that_of_the_loader(
    tmp_path: Path, prepare: Callable[[Path], object], problem: str | None
) -> None:
    libraries = tmp_path / "libraries"
    compile_library(libraries, NEWER)
    program = compile_asking(tmp_path, "app", libraries)
    needs = needs_of(program)
    prepare(libraries)
    said = unmet(needs, HERE)
    started = subprocess.run([program], capture_output=True, text=True)
    assert (started.returncode == 0) is (problem is None), started.stderr
    if problem is None:
        assert said == []
    else:
        assert len(said) == 1 and said[0].startswith(problem)


def test_a_launch_may_say_where_a_library_is(tmp_path: Path) -> None:
    program = compile_asking(tmp_path, "app", tmp_path / "nowhere")
    needs = needs_of(program)
    assert unmet(needs, HERE) != []
    assert unmet(needs, HERE._replace(library_path=(str(tmp_path / "linked"),))) == []


def test_an_older_glibc_is_named_with_the_newest_version_that_it_lacks() -> None:
    version = os.confstr("CS_GNU_LIBC_VERSION")
    libc = LibraryNeed(
        name="libc.so.6", versions={"GLIBC_2.2.5": "puts", "GLIBC_9.9": "a", "GLIBC_9.34": "start"}
    )
    libm = LibraryNeed(name="libm.so.6", versions={"GLIBC_9.10": "hypot", "GLIBC_2.2.5": "sin"})
    said = unmet(Needs(machine=HOST, libraries=(libm, libc)), HERE)
    assert said == [f"w3 has {version}, app needs GLIBC_9.34 (symbol start)"]
    said = unmet(Needs(machine=HOST, libraries=(libm,)), HERE)
    assert said == [f"w3 has {version}, app needs GLIBC_9.10 (symbol hypot of libm.so.6)"]
    said = unmet(lib("libc.so.6", GLIBC_ABI_LATER=""), HERE)
    assert said == [f"w3 has {version}, app needs GLIBC_ABI_LATER"]


def test_a_program_of_this_compiler_on_a_machine_of_years_ago(tmp_path: Path) -> None:
    """As its loader says it, and in the words of an operator."""
    program = compile_c(tmp_path, "app", "int main(void) { return 0; }")
    text = "GNU C Library (Debian GLIBC 2.31-13+deb11u11) stable release version 2.31."
    script = tmp_path / "map"
    script.write_text("GLIBC_2.2.5 { global: banner; };\nGLIBC_2.31 { global: none; };\n")
    source = f'const char banner[] = "{text}\\n"; int none;'
    flags = ("-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libc.so.6")
    compile_c(tmp_path / "old", "libc.so.6", source, *flags, f"-Wl,--version-script={script}")
    old = str(tmp_path / "old")
    said = unmet(needs_of(program), HERE._replace(library_path=(old,)))
    assert said == ["w3 has glibc 2.31, app needs GLIBC_2.34 (symbol __libc_start_main)"]
    started = subprocess.run(
        [program], env={"LD_LIBRARY_PATH": old}, capture_output=True, text=True
    )
    assert started.returncode and "`GLIBC_2.34' not found" in started.stderr


def test_libraries_that_are_missing_are_told_together() -> None:
    names = [f"libnone{number}.so.1" for number in range(8)]
    needs = Needs(machine=HOST, libraries=tuple(LibraryNeed(name=name) for name in names))
    (said,) = unmet(needs, HERE)
    assert ", ".join(names[:5]) + " and 3 more, which app needs" in said


def test_libraries_by_path_are_looked_for_there(tmp_path: Path) -> None:
    library = compile_library(tmp_path, NEWER)
    assert unmet(lib(str(library), **{"FOO_9.9": "foo"}), HERE) == []
    assert unmet(lib("$ORIGIN/../libfoo.so"), HERE) == []
    (said,) = unmet(lib(f"{tmp_path}/none/libfoo.so"), HERE)
    assert f"w3 has no {tmp_path}/none/libfoo.so" in said


@pytest.mark.parametrize("with_libraries", [True, False])
def test_nothing_speaks_against_the_programs_of_this_machine(with_libraries: bool) -> None:
    for program in (sys.executable, "/bin/bash", "/usr/bin/perl", "/usr/bin/gcc", "/usr/bin/git"):
        real = Path(os.path.realpath(program))
        needs = needs_of(real, with_libraries=with_libraries)
        assert needs.libraries and unmet(needs, HERE) == []


# ---- machine, loader, programs


def test_another_machine_type_is_the_only_thing_said() -> None:
    needs = Needs(machine="aarch64", loader="/lib/ld-none.so", programs=("none",))
    assert unmet(needs, HERE) == ["w3 is x86_64, app is for aarch64: build it for x86_64"]
    assert unmet(Needs(machine="x86"), HERE) == []  # static: the kernel runs it


def test_an_emulator_of_another_machine_type_counts_when_it_is_enabled(tmp_path: Path) -> None:
    text = "{}\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\nmagic {}\nmask ffff\n"
    magic = "7f454c460201010000000000000000000200b700"
    (tmp_path / "status").write_text("enabled\n")
    (tmp_path / "qemu").write_text(text.format("enabled", magic))
    assert is_emulated("aarch64", str(tmp_path))
    assert not is_emulated("riscv64", str(tmp_path))
    (tmp_path / "qemu").write_text(text.format("disabled", magic))
    assert not is_emulated("aarch64", str(tmp_path))
    assert not is_emulated("aarch64", str(tmp_path / "none"))
    assert not is_emulated("machine 4711", str(tmp_path))


def test_a_missing_loader_is_told_with_a_way_out() -> None:
    (said,) = unmet(Needs(machine=HOST, loader="/lib/ld-musl-none.so.1"), HERE)
    assert said.startswith("w3 has no /lib/ld-musl-none.so.1, the loader of app: it was built for")
    assert "musl" in said


def test_programs_are_looked_for_as_a_launch_looks(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    runner.write_text("#!/bin/sh\n")
    needs = Needs(programs=("runner", "/bin/sh"))
    here = HERE._replace(path=str(tmp_path))
    (said,) = unmet(needs, here)
    assert said == f"w3 has no runner in PATH ({tmp_path}), which runs app: install it there"
    runner.chmod(0o755)
    assert unmet(needs, here) == []
    (said,) = unmet(Needs(programs=("/opt/none/perl",)), HERE)
    assert said == "w3 has no /opt/none/perl, which runs app: install it there"


def test_extension_modules_want_their_own_python(tmp_path: Path) -> None:
    real = tmp_path / "python3.9"
    shutil.copy("/bin/true", real)
    (tmp_path / "python3").symlink_to("python3.9")
    here = HERE._replace(path=str(tmp_path))
    assert unmet(Needs(programs=("python3",), python="3.9"), here) == []
    (said,) = unmet(Needs(programs=("python3",), python="3.11"), here)
    assert said.startswith(
        f"w3 has Python 3.9 ({tmp_path}/python3), app has modules built for 3.11"
    )


# ---- the disk


def _machine(directory: Path) -> tuple[MachineCheck, BlobStore, Trees]:
    blobs = BlobStore(directory, durable=False)
    trees = Trees(directory, blobs)
    return MachineCheck("w3", blobs, trees), blobs, trees


def test_what_is_missing_must_fit_on_the_disk(tmp_path: Path) -> None:
    files = {"prog": b"#!/bin/sh\n", "data": os.urandom(6 * MIB)}
    manifest = a_manifest(files)
    with tmpfs(tmp_path / "disk", 8) as directory:
        machine, blobs, trees = _machine(directory)
        digest = put_artifact(blobs, {}, manifest)
        check = check_of("app", digest, manifest)
        assert machine.problems(check, None) == ()
        garbage = blobs.put_bytes(os.urandom(4 * MIB))
        assert machine.problems(check, None) == ()  # nobody needs it, so it makes room
        assert not blobs.has(garbage)
        filler = directory / "filler"
        filler.write_bytes(bytes(2 * MIB))
        (said,) = machine.problems(check, None)
        assert said.startswith("w3 has ") and f"bytes free in '{directory}', app needs " in said
        filler.unlink()
        put_artifact(blobs, files, manifest)
        trees.build(digest)
        filler.write_bytes(bytes(MIB))
        assert machine.problems(check, None) == ()  # all is there


def test_a_worker_that_takes_nothing_new_says_so(tmp_path: Path) -> None:
    machine, _, _ = _machine(tmp_path)
    check = Check(name="app", digest="1" * 64)
    assert machine.problems(check, "its disk is full") == ("w3: its disk is full",)


def test_a_filesystem_that_executes_nothing_is_no_place_for_programs(tmp_path: Path) -> None:
    manifest = a_manifest({"prog": b"#!/bin/sh\n"})
    with noexec(tmp_path / "disk") as directory:
        machine, _, _ = _machine(directory)
        check = check_of("app", "1" * 64, manifest)
        (said,) = machine.problems(check, None)
        assert said.startswith(f"w3 keeps artifacts in '{directory}', which is mounted noexec")
        with pytest.raises(Unavailable, match="mounted noexec, so prog could not be executed"):
            machine.require("1" * 64, manifest)
        assert machine.problems(msgspec.structs.replace(check, is_mapped=False), None) == ()


def test_what_cannot_be_looked_at_is_told_and_not_raised(tmp_path: Path) -> None:
    machine, _, _ = _machine(tmp_path / "disk")
    shutil.rmtree(tmp_path / "disk")
    check = Check(name="app", digest="1" * 64, blobs=(("2" * 64, 10),))
    (said,) = machine.problems(check, None)
    assert said.startswith("w3 cannot look: ")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would never answer; to open some devices does something, /dev/watchdog for one."""
    os.mkfifo(tmp_path / SONAME)
    (problem,) = unmet(lib(str(tmp_path / SONAME)), HERE)
    assert f"w3 has no {tmp_path / SONAME}" in problem
    beside = Here("w3", "app", PATH, library_path=(str(tmp_path),))
    assert "w3 has no libfoo.so.1" in unmet(lib(SONAME), beside)[0]
