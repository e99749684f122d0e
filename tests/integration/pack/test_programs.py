"""Real programs: what is packed is what ld.so would load, and it runs from where it is put."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from corps.errors import Invalid
from corps.model.artifact import FileKind
from corps.pack.build import pack
from corps.pack.elf import machine_of, read_elf
from corps.pack.loader import Places, closure
from corps.pack.parcel import Packed
from corps.pack.system import is_system
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from tests.support.compiled import compile_c

SAY = '#include <stdio.h>\nvoid say(void) { puts("%s"); }\n'
PROG = "void say(void);\nint main(void) { say(); return 0; }\n"
# a program that needs liba, which needs libb
LIB_B = 'const char *word(void) { return "deep"; }\n'
LIB_A = "#include <stdio.h>\nconst char *word(void);\nvoid say(void) { puts(word()); }\n"


def a_library(
    directory: Path, name: str, source: str, *flags: str, soname: str | None = None
) -> Path:
    """lib`name`.so, or what `soname` says, with a link for the linker."""
    path = compile_c(
        directory, f"lib{name}.so", source, "-shared", "-fPIC",
        *((f"-Wl,-soname,{soname}",) if soname else ()), *flags,
    )  # fmt: skip
    if soname:
        path.rename(directory / soname)
        path.symlink_to(soname)
    return path


def a_program(directory: Path, *flags: str, name: str = "prog") -> Path:
    return compile_c(directory, name, PROG, *flags)


def pack_it(
    source: Path, *libraries: Path, entry: str | None = None, with_libraries: bool = True
) -> Packed:
    return pack(source, entry=entry, libraries=libraries, with_libraries=with_libraries)


def paths(packed: Packed) -> list[str]:
    return [file.path for file in packed.manifest.files]


def run(directory: Path, packed: Packed) -> str:
    """What it prints when it is installed elsewhere and its sources are gone."""
    blobs = BlobStore(directory / "elsewhere", durable=False)
    for path in packed.sources.values():
        blobs.put_bytes(path.read_bytes())
    blobs.put_bytes(packed.manifest_bytes)
    trees = Trees(directory / "elsewhere", blobs)
    trees.build(packed.digest)
    entry, library_path = trees.launch_paths(packed.digest)
    hidden = directory / "source"
    hidden.rename(directory / "hidden")
    try:
        env = {"LD_LIBRARY_PATH": library_path}
        return subprocess.run([entry], env=env, capture_output=True, text=True, check=True).stdout
    finally:
        (directory / "hidden").rename(hidden)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
@pytest.mark.parametrize("place", ["$ORIGIN/libs", "${ORIGIN}/libs", "SOURCE/libs"])
def test_a_library_is_found_by_rpath_and_runpath(
    tmp_path: Path, source: Path, tags: str, place: str
) -> None:
    library = a_library(source / "libs", "say", SAY % "by path", soname="libsay.so.1")
    rpath = f"-Wl,{tags},-rpath,{place.replace('SOURCE', str(source))}"
    program = a_program(source, f"-L{library.parent}", "-lsay", rpath)
    packed = pack_it(program)
    assert paths(packed) == ["lib/libsay.so.1", "prog"]
    assert packed.manifest.library_dirs == ("lib",)
    assert packed.warnings == ()
    kinds = {file.path: (file.kind, file.executable) for file in packed.manifest.files}
    assert kinds["lib/libsay.so.1"] == (FileKind.LIBRARY, False)
    assert run(tmp_path, packed) == "by path\n"


@pytest.mark.parametrize("token", ["$LIB", "${LIB}", "$PLATFORM"])
def test_lib_and_platform_are_replaced_as_ld_so_does(source: Path, token: str) -> None:
    """What $LIB is depends on the loader's own build, so every known value has the library."""
    machine = machine_of("/proc/self/exe")
    assert machine is not None
    here = source / "here"
    a_library(here, "say", SAY % "hello")
    program = a_program(source, f"-L{here}", "-lsay", f"-Wl,-rpath,$ORIGIN/{token}")
    for place in ("lib", "lib64", f"lib/{machine.name}-linux-gnu", machine.name):
        (source / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(here / "libsay.so", source / place)
    packed = pack_it(program)
    assert packed.warnings == ()
    assert "lib/libsay.so" in paths(packed)
    loaded = Path(traced(str(program))["libsay.so"]).parent
    assert loaded in {path.parent for path in packed.sources.values()} | {source / "lib64"}


def test_a_library_is_found_by_ld_library_path(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = a_library(source / "libs", "say", SAY % "by environment")
    program = a_program(source, f"-L{library.parent}", "-lsay")
    (warning,) = pack_it(program).warnings
    assert warning == ("'prog' needs libsay.so, which is not on this machine: give it with --lib")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{library.parent}")
    packed = pack_it(program)
    assert packed.warnings == ()
    assert run(tmp_path, packed) == "by environment\n"


def test_a_library_that_is_given_wins_and_has_both_its_names(tmp_path: Path, source: Path) -> None:
    library = a_library(source / "libs", "say", SAY % "found", soname="libsay.so.1")
    program = a_program(source, f"-L{library.parent}", "-lsay", f"-Wl,-rpath,{library.parent}")
    other = a_library(source / "other", "say", SAY % "given", soname="libsay.so.1")
    packed = pack_it(program, other)
    assert paths(packed) == ["lib/libsay.so", "lib/libsay.so.1", "prog"]
    assert len(packed.sources) == 2
    assert run(tmp_path, packed) == "given\n"


def test_without_libraries_only_what_is_given_travels(tmp_path: Path, source: Path) -> None:
    deep = a_library(source / "libs", "deep", LIB_B)
    library = a_library(source / "libs", "say", LIB_A, f"-L{deep.parent}", "-ldeep")
    program = a_program(source, f"-L{deep.parent}", "-lsay", f"-Wl,-rpath,{deep.parent}")
    assert paths(pack_it(program, with_libraries=False)) == ["prog"]
    assert paths(pack_it(program, library, with_libraries=False)) == ["lib/libsay.so", "prog"]


@pytest.mark.parametrize("given", [True, False])
def test_libraries_of_libraries_come_too(tmp_path: Path, source: Path, given: bool) -> None:
    """libdeep is found by the RUNPATH of libsay, not by that of the program."""
    deep = a_library(source / "deep", "deep", LIB_B, soname="libdeep.so.2")
    library = a_library(
        source / "libs", "say", LIB_A, f"-L{deep.parent}", "-ldeep", "-Wl,-rpath,$ORIGIN/../deep"
    )
    flags = [] if given else [f"-Wl,-rpath,{library.parent}"]
    program = a_program(
        source, f"-L{library.parent}", "-lsay", f"-Wl,-rpath-link,{deep.parent}", *flags
    )
    packed = pack_it(program, *([library] if given else []))
    assert paths(packed) == ["lib/libdeep.so.2", "lib/libsay.so", "prog"]
    assert packed.warnings == ()
    assert run(tmp_path, packed) == "deep\n"


def test_the_rpath_of_a_program_counts_for_its_libraries_but_its_runpath_does_not(
    source: Path,
) -> None:
    """ld.so(8): DT_RPATH goes up the chain of loaders, DT_RUNPATH is for direct needs only."""
    deep = a_library(source / "deep", "deep", LIB_B)
    library = a_library(source / "libs", "say", LIB_A, f"-L{deep.parent}", "-ldeep")
    both = f"-rpath,{library.parent}:{deep.parent}"
    link = (f"-L{library.parent}", "-lsay", f"-Wl,-rpath-link,{deep.parent}")
    old = a_program(source, *link, f"-Wl,--disable-new-dtags,{both}", name="old")
    new = a_program(source, *link, f"-Wl,--enable-new-dtags,{both}", name="new")
    assert paths(pack_it(old)) == ["lib/libdeep.so", "lib/libsay.so", "old"]
    packed = pack_it(new)
    assert paths(packed) == ["lib/libsay.so", "new"]
    assert packed.warnings == (
        "'libsay.so' needs libdeep.so, which is not on this machine: give it with --lib",
    )


def test_a_program_called_lib_keeps_its_name(tmp_path: Path, source: Path) -> None:
    library = a_library(source / "libs", "say", SAY % "hello")
    program = a_program(
        source, f"-L{library.parent}", "-lsay", f"-Wl,-rpath,{library.parent}", name="lib"
    )
    packed = pack_it(program)
    assert paths(packed) == [".corps-lib-1/libsay.so", "lib"]
    assert run(tmp_path, packed) == "hello\n"


def test_a_library_needed_by_its_path_is_warned_of(source: Path) -> None:
    library = a_library(source / "libs", "say", SAY % "hello")
    program = a_program(source, str(library))
    packed = pack_it(program)
    assert paths(packed) == ["prog"]
    assert packed.warnings == (f"'prog' needs '{library}' by its path: put it on each worker",)


def test_a_static_program_needs_nothing(tmp_path: Path, source: Path) -> None:
    program = compile_c(source, "prog", "int main(void) { return 0; }", "-static")
    packed = pack_it(program)
    assert paths(packed) == ["prog"]
    assert packed.warnings == ()
    assert run(tmp_path, packed) == ""


# ---- directories


def test_libraries_inside_a_directory_that_it_finds_itself_stay_where_they_are(
    tmp_path: Path, source: Path
) -> None:
    app = source / "app"
    library = a_library(app / "libs", "say", SAY % "inside", soname="libsay.so.1")
    a_program(app / "bin", f"-L{library.parent}", "-lsay", "-Wl,-rpath,$ORIGIN/../libs")
    packed = pack_it(app, entry="bin/prog")
    assert packed.manifest.library_dirs == ()
    assert "libs/libsay.so.1" in paths(packed)
    assert run(tmp_path, packed) == "inside\n"


@pytest.mark.parametrize("rpath", [True, False])
def test_libraries_inside_a_directory_that_it_would_not_find_elsewhere_are_linked(
    tmp_path: Path, source: Path, rpath: bool
) -> None:
    """By an absolute path into the source, or by nothing at all: `source` is not on a worker."""
    app = source / "app"
    library = a_library(app / "libs", "say", SAY % "inside", soname="libsay.so.1")
    flags = [f"-Wl,-rpath,{library.parent}"] if rpath else []
    a_program(app / "bin", f"-L{library.parent}", "-lsay", *flags)
    packed = pack_it(app, entry="bin/prog")
    assert packed.manifest.library_dirs == (".corps-lib",)
    assert ".corps-lib/libsay.so.1" in paths(packed)
    assert packed.warnings == ()
    assert run(tmp_path, packed) == "inside\n"


def test_libraries_outside_of_a_directory_are_added_beside(tmp_path: Path, source: Path) -> None:
    library = a_library(source / "libs", "say", SAY % "outside")
    app = source / "app"
    a_program(app, f"-L{library.parent}", "-lsay", f"-Wl,-rpath,{library.parent}")
    (app / ".corps-lib").mkdir()
    (app / ".corps-lib" / "taken").write_text("")
    packed = pack_it(app, entry="prog")
    assert packed.manifest.library_dirs == (".corps-lib-1",)
    assert ".corps-lib-1/libsay.so" in paths(packed)
    assert run(tmp_path, packed) == "outside\n"


# ---- damage


def test_a_program_cut_short_is_refused_or_warned_of(source: Path) -> None:
    program = a_program(source, "-Wl,--unresolved-symbols=ignore-all")
    whole = program.read_bytes()
    for count in (4, 20, 63, 64, 100, 700, 2000, len(whole) // 2):
        program.write_bytes(whole[:count])
        try:
            assert paths(pack_it(program))[-1] == "prog"
        except Invalid as error:
            assert "damaged" in error.message


def test_any_flipped_byte_of_the_headers_is_no_crash(source: Path) -> None:
    program = a_program(source, "-Wl,--unresolved-symbols=ignore-all")
    whole = bytearray(program.read_bytes())
    for at in range(16, 900, 3):
        damaged = whole.copy()
        damaged[at] ^= 0xFF
        program.write_bytes(damaged)
        try:
            read_elf(program)
        except Invalid as error:
            assert "damaged" in error.message


def test_a_library_for_another_machine_is_refused(source: Path) -> None:
    library = a_library(source / "libs", "say", SAY % "hello")
    program = a_program(source, f"-L{library.parent}", "-lsay", "-Wl,-rpath,$ORIGIN/libs")
    data = bytearray(library.read_bytes())
    data[18:20] = (0xF3).to_bytes(2, "little")  # RISC-V
    library.write_bytes(data)
    machine = machine_of(library)
    assert machine is not None
    assert machine.name == "riscv64"
    with pytest.raises(Invalid, match="is for riscv64"):
        pack_it(program, library)
    (warning,) = pack_it(program).warnings
    assert "libsay.so, which is not on this machine" in warning


def test_a_program_for_another_machine_is_warned_of(source: Path) -> None:
    program = compile_c(source, "prog", "int main(void) { return 0; }", "-static")
    data = bytearray(program.read_bytes())
    data[18:20] = (0xF3).to_bytes(2, "little")
    program.write_bytes(data)
    (warning,) = pack_it(program).warnings
    assert warning == "'prog' is for riscv64: other workers cannot start it"


# ---- programs of this machine


def traced(program: str) -> dict[str, str]:
    """What ld.so itself says."""
    env = {**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}
    output = subprocess.run([program], env=env, capture_output=True, text=True).stdout
    words = [line.split() for line in output.splitlines()]
    return {
        line[0]: os.path.realpath(line[2])
        for line in words
        if "=>" in line and not is_system(line[0])
    }


PROGRAMS = ["git", "ls", "cc", "python3", "redis-server", "perl", "openssl", "ip"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_libraries_are_those_that_ld_so_would_load(name: str) -> None:
    program = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    assert program is not None and read_elf(program) is not None
    found = closure(Path(program), (), Places())
    assert found.missing == ()
    mine = {library.name: os.path.realpath(library.path) for library in found.libraries}
    assert mine == traced(program)


def test_git_runs_from_its_tree(tmp_path: Path) -> None:
    program = shutil.which("git")
    assert program is not None
    packed = pack_it(Path(program))
    assert not any(is_system(os.path.basename(path)) for path in paths(packed))
    blobs = BlobStore(tmp_path, durable=False)
    for path in packed.sources.values():
        blobs.put_bytes(path.read_bytes())
    blobs.put_bytes(packed.manifest_bytes)
    trees = Trees(tmp_path, blobs)
    trees.build(packed.digest)
    entry, library_path = trees.launch_paths(packed.digest)
    env = {"LD_LIBRARY_PATH": library_path, "LD_TRACE_LOADED_OBJECTS": "1"}
    output = subprocess.run([entry], env=env, capture_output=True, text=True, check=True).stdout
    assert library_path in output
    for line in output.splitlines():
        name = line.split()[0]
        assert is_system(os.path.basename(name)) or library_path in line, line
