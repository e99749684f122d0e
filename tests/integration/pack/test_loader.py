"""The search for libraries, beside what ld.so itself does on the same files."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from corps.pack.build import pack
from corps.pack.loader import HWCAPS, Closure, Places, closure, read_cache
from corps.pack.parcel import Packed
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from tests.support.compiled import compile_c

LOADER = "/lib64/ld-linux-x86-64.so.2"
SAY = '#include <stdio.h>\nvoid say(void) { puts("%s"); }\n'
PROG = "void say(void);\nint main(void) { say(); return 0; }\n"
MIDDLE = "void say(void);\nvoid middle(void) { say(); }\n"
# every x86-64 processor of the last fifteen years
LEVEL = "x86-64-v2"


def a_library(directory: Path, name: str, *flags: str, word: str = "") -> Path:
    source = SAY % (word or name)
    return compile_c(directory, f"lib{name}.so", source, "-shared", "-fPIC", *flags)


def a_middle(directory: Path, *flags: str) -> Path:
    """libmiddle.so, which needs another."""
    return compile_c(directory, "libmiddle.so", MIDDLE, "-shared", "-fPIC", *flags)


def a_program(directory: Path, *flags: str, name: str = "prog", calls: str = "say") -> Path:
    return compile_c(directory, name, PROG.replace("say", calls), *flags)


def loaded(program: Path, **env: str) -> dict[str, str]:
    """Name -> path of what ld.so loads; not the names that it does not find."""
    env |= {"LD_TRACE_LOADED_OBJECTS": "1"}
    output = subprocess.run([LOADER, program], env=env, capture_output=True, text=True).stdout
    lines = [line.split() for line in output.splitlines() if " => " in line]
    return {
        line[0]: os.path.realpath(line[2])
        for line in lines
        if line[2] != "not" and not line[0].startswith(("linux-vdso", "/lib64/ld-linux"))
    }


def found(program: Path, library_path: tuple[str, ...] = ()) -> dict[str, str]:
    return {
        library.name: os.path.realpath(library.path)
        for library in _closure(program, library_path).libraries
        if not library.name.startswith("ld-linux") and not library.hwcap
    }


def _closure(program: Path, library_path: tuple[str, ...] = ()) -> Closure:
    return closure(program, (), Places(library_path=library_path), lambda name: None)


def pack_it(program: Path) -> Packed:
    return pack(program, entry=None, libraries=(), with_libraries=True)


def installed(directory: Path, packed: Packed) -> tuple[str, str]:
    """As on a worker: the program, and its LD_LIBRARY_PATH."""
    blobs = BlobStore(directory, durable=False)
    for path in packed.sources.values():
        blobs.put_bytes(path.read_bytes())
    blobs.put_bytes(packed.manifest_bytes)
    trees = Trees(directory, blobs)
    trees.build(packed.digest)
    return trees.launch_paths(packed.digest)


@pytest.fixture
def libs(tmp_path: Path) -> Path:
    """A directory with libsay.so."""
    return a_library(tmp_path / "libs", "say").parent


# ---- the programs of this machine

PROGRAMS = ["/usr/bin/*", "/usr/sbin/*", "/usr/lib/git-core/*", "/usr/lib/x86_64-linux-gnu/*.so.*"]
EVERY = 25


def test_programs_and_libraries_of_debian_load_what_is_found() -> None:
    """The whole closure, the C library too: every 25th file, and the large ones."""
    paths = sorted(
        {os.path.realpath(path) for mask in PROGRAMS for path in Path("/").glob(mask[1:])}
    )
    files = [Path(path) for path in paths if _is_dynamic(path)]
    chosen = dict.fromkeys([*files[::EVERY], *(f for f in files if f.stat().st_size > 4 << 20)])
    assert len(chosen) > 10
    for path in chosen:
        mine = found(path)
        assert mine == loaded(path), path


def _is_dynamic(path: str) -> bool:
    """What ld.so can list; a static program or a text it cannot."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
    return subprocess.run([LOADER, "--verify", path], capture_output=True).returncode in (0, 2)


# ---- each rule of ld.so(8)


def test_ld_library_path_comes_after_rpath_and_before_runpath(tmp_path: Path, libs: Path) -> None:
    other = a_library(tmp_path / "other", "say").parent
    for tags, winner in (("--disable-new-dtags", libs), ("--enable-new-dtags", other)):
        program = a_program(tmp_path, f"-L{libs}", "-lsay", f"-Wl,{tags},-rpath,{libs}")
        mine = found(program, (str(other),))
        assert mine == loaded(program, LD_LIBRARY_PATH=str(other))
        assert mine["libsay.so"] == str(winner / "libsay.so")


def test_rpath_goes_up_the_chain_of_loaders_until_an_object_with_runpath_asks(
    tmp_path: Path,
) -> None:
    """prog (RPATH) -> libmiddle -> libsay: a RUNPATH of its own ends the chain."""
    libs = tmp_path / "libs"
    a_library(libs / "deep", "say")
    for runpath, is_found in (("", True), ("/nowhere", False)):
        flags = (f"-Wl,--enable-new-dtags,-rpath,{runpath}",) if runpath else ()
        a_middle(libs, f"-L{libs}/deep", "-lsay", *flags)
        rpath = f"-Wl,--disable-new-dtags,-rpath,{libs}:{libs}/deep,-rpath-link,{libs}/deep"
        program = a_program(tmp_path, f"-L{libs}", "-lmiddle", rpath, calls="middle")
        assert found(program) == loaded(program)
        assert ("libsay.so" in found(program)) is is_found
        assert bool(_closure(program).missing) is not is_found


def test_origin_is_where_a_library_was_found_and_dots_behind_links_count(tmp_path: Path) -> None:
    """RUNPATH through a link: `LINK/../libs` is not beside LINK, but beside what it leads to."""
    real = tmp_path / "real" / "here"
    libs = a_library(tmp_path / "real" / "libs", "say").parent
    a_library(tmp_path / "libs", "say", word="wrong")
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    program = a_program(tmp_path, f"-L{libs}", "-lsay", "-Wl,-rpath,$ORIGIN/link/../libs")
    assert found(program) == loaded(program)
    assert found(program)["libsay.so"] == str(libs / "libsay.so")


def test_tokens_in_ld_library_path_are_of_the_program(tmp_path: Path, libs: Path) -> None:
    program = a_program(tmp_path, f"-L{libs}", "-lsay")
    assert found(program, ("$ORIGIN/libs",)) == loaded(program, LD_LIBRARY_PATH="$ORIGIN/libs")
    assert "libsay.so" in found(program, ("$ORIGIN/libs",))


def test_without_default_directories_there_is_no_cache_of_them(tmp_path: Path) -> None:
    """DF_1_NODEFLIB, `-z nodefaultlib`: libz is in the cache, and in a default directory."""
    (libz,) = list(Path("/usr/lib/x86_64-linux-gnu").glob("libz.so.1"))
    source = "const char *zlibVersion(void);\nint main(void) { return !zlibVersion(); }\n"
    usual = compile_c(tmp_path, "usual", source, str(libz))
    program = compile_c(tmp_path, "prog", source, str(libz), "-Wl,-z,nodefaultlib")
    assert "libz.so.1" in found(usual)
    assert found(usual) == loaded(usual)
    assert loaded(program) == found(program) == {}
    assert [name for _, name in _closure(program).missing] == ["libz.so.1", "libc.so.6"]


def test_a_library_that_is_loaded_already_answers_to_its_soname(tmp_path: Path) -> None:
    """libmiddle asks for libodd.so.9, which is no file: it is the SONAME of libsay.so."""
    libs, other = tmp_path / "libs", tmp_path / "other"
    a_library(libs, "say")
    odd = a_library(other, "say", "-Wl,-soname,libodd.so.9")
    a_middle(libs, str(odd))
    program = a_program(
        tmp_path, f"-L{libs}", "-Wl,--no-as-needed", "-lsay", "-lmiddle", f"-Wl,-rpath,{libs}",
        "-Wl,--unresolved-symbols=ignore-in-shared-libs",
    )  # fmt: skip
    assert "libodd.so.9" not in loaded(program)
    assert [name for _, name in _closure(program).missing] == ["libodd.so.9"]
    shutil.copy(odd, libs)
    assert set(found(program).values()) == set(loaded(program).values())
    assert _closure(program).missing == ()


# ---- variants for newer processors


def a_variant(directory: Path, level: str = LEVEL) -> Path:
    return a_library(directory / HWCAPS / level, "say", word=f"for {level}")


def test_a_variant_travels_beside_the_library_and_the_loader_there_chooses(
    tmp_path: Path, libs: Path
) -> None:
    variant = a_variant(libs)
    future = a_variant(libs, "x86-64-v9")
    program = a_program(tmp_path, f"-L{libs}", "-lsay", f"-Wl,-rpath,{libs}")
    assert loaded(program)["libsay.so"] == str(variant)
    packed = pack_it(program)
    paths = {file.path for file in packed.manifest.files}
    both = {f"lib/{HWCAPS}/{level}/libsay.so" for level in (LEVEL, "x86-64-v9")}
    assert paths == {"prog", "lib/libsay.so", *both}
    assert packed.warnings == ()
    assert future in packed.sources.values()
    entry, library_path = installed(tmp_path / "worker", packed)
    shutil.move(libs, tmp_path / "gone")
    assert said(entry, library_path) == f"for {LEVEL}\n"
    without = said(entry, library_path, "--glibc-hwcaps-mask", "nothing")
    assert without == "say\n", "as on a worker with an older processor"


def said(entry: str, library_path: str, *loader_options: str) -> str:
    command = [LOADER, *loader_options, entry] if loader_options else [entry]
    env = {"LD_LIBRARY_PATH": library_path}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_variant_behind_the_library_in_the_search_is_none(tmp_path: Path, libs: Path) -> None:
    later = a_variant(tmp_path / "later")
    program = a_program(tmp_path, f"-L{libs}", "-lsay", f"-Wl,-rpath,{libs}:{later.parents[2]}")
    assert loaded(program) == found(program)
    assert [file.path for file in pack_it(program).manifest.files] == ["lib/libsay.so", "prog"]
    earlier = a_program(
        tmp_path, f"-L{libs}", "-lsay", f"-Wl,-rpath,{later.parents[2]}:{libs}", name="earlier"
    )
    assert loaded(earlier)["libsay.so"] == str(later)
    assert f"lib/{HWCAPS}/{LEVEL}/libsay.so" in [f.path for f in pack_it(earlier).manifest.files]


def test_a_library_for_some_processors_alone_is_found_and_warned_of(
    tmp_path: Path, libs: Path
) -> None:
    variant = a_variant(libs)
    program = a_program(tmp_path, f"-L{libs}", "-lsay", f"-Wl,-rpath,{libs}")
    (libs / "libsay.so").unlink()
    assert loaded(program)["libsay.so"] == str(variant)
    packed = pack_it(program)
    assert [f.path for f in packed.manifest.files] == [f"lib/{HWCAPS}/{LEVEL}/libsay.so", "prog"]
    assert packed.warnings == (
        f"'prog' needs libsay.so, which is here for some processors only ({LEVEL})",
    )
    entry, library_path = installed(tmp_path / "worker", packed)
    assert said(entry, library_path) == f"for {LEVEL}\n"


def test_variants_in_the_cache_of_ld_so_are_found(tmp_path: Path, libs: Path) -> None:
    """A cache as ldconfig writes it, of our own directory."""
    variant = a_variant(libs)
    cache = tmp_path / "cache"
    command = ["/sbin/ldconfig", "-X", "-f", "/dev/null", "-C", str(cache), str(libs)]
    subprocess.run(command, check=True)
    assert sorted(read_cache(cache)["libsay.so"]) == sorted([str(libs / "libsay.so"), str(variant)])
