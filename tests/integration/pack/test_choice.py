"""Which libraries travel: the policy, and what the operator says against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.errors import NotFound
from corps.pack.build import pack
from corps.pack.libraries import POLICY, Choice
from corps.pack.parcel import Packed
from corps.pack.system import C_LIBRARY, GRAPHICS
from tests.support.compiled import compile_c

FUNCTION = "int %s(void) { return 0; }\n"
NAMES = ("draw", "say")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """It needs libGL.so.1, which needs libsay.so.2; and libsay.so.2 itself."""
    libs = tmp_path / "libs"
    for file, name in (("libsay.so.2", "say"), ("libGL.so.1", "draw")):
        more = (f"-L{libs}", "-Wl,--no-as-needed", "-l:libsay.so.2") if name == "draw" else ()
        shared = ("-shared", "-fPIC", f"-Wl,-soname,{file}")
        compile_c(libs, file, FUNCTION % name, *shared, *more)
    source = "int draw(void);\nint say(void);\nint main(void) { return draw() + say(); }\n"
    flags = (f"-L{libs}", "-l:libGL.so.1", "-l:libsay.so.2", f"-Wl,-rpath,{libs}")
    return compile_c(tmp_path, "prog", source, *flags)


def pack_it(program: Path, *libraries: Path, choice: Choice = POLICY) -> Packed:
    return pack(program, entry=None, libraries=libraries, with_libraries=True, choice=choice)


def decided(packed: Packed) -> dict[str, tuple[bool, str]]:
    """Of each library: does it travel, and why; and it is so."""
    rows = {row.name: (row.travels, row.why) for row in packed.libraries}
    files = {path.name for path in map(Path, (file.path for file in packed.manifest.files))}
    assert files - {"prog"} == {name for name, (travels, _) in rows.items() if travels}
    return rows


def needed(packed: Packed) -> list[str]:
    return [need.name for need in packed.manifest.needs.libraries]


ORDINARY = "no library of the system"
PLAIN = {
    "libGL.so.1": (False, GRAPHICS),
    "libsay.so.2": (True, ORDINARY),
    "libc.so.6": (False, C_LIBRARY),
}


def test_the_policy_keeps_the_c_library_and_the_graphics_driver_at_home(program: Path) -> None:
    packed = pack_it(program)
    assert decided(packed) == PLAIN
    assert sorted(needed(packed)) == ["libGL.so.1", "libc.so.6"]
    (row,) = [row for row in packed.libraries if row.name == "libsay.so.2"]
    assert (row.path, row.asked_by) == (str(program.parent / "libs" / "libsay.so.2"), "prog")


def test_a_system_library_travels_when_it_is_named_or_given(program: Path) -> None:
    named = pack_it(program, choice=Choice(travelling=("libGL.so.1",)))
    assert decided(named) == PLAIN | {"libGL.so.1": (True, ORDINARY)}
    given = pack_it(program, program.parent / "libs" / "libGL.so.1")
    assert decided(given) == PLAIN | {"libGL.so.1": (True, "given with --lib")}
    assert needed(named) == needed(given) == ["libc.so.6"]
    assert named.manifest.files == given.manifest.files


@pytest.mark.parametrize("name", ["libsay.so.2", "libsay*", "*say.so.?"])
def test_a_library_may_be_the_machines(program: Path, name: str) -> None:
    packed = pack_it(program, choice=Choice(system=(name,)))
    assert decided(packed) == PLAIN | {"libsay.so.2": (False, "the machine's, by --system-lib")}
    assert sorted(needed(packed)) == ["libGL.so.1", "libc.so.6", "libsay.so.2"]


def test_a_library_may_be_left_out_and_nobody_asks_for_it(program: Path) -> None:
    packed = pack_it(program, choice=Choice(left_out=("libsay.so.2", "libGL*")))
    left_out = (False, "left out with --no-lib")
    assert decided(packed) == PLAIN | {"libsay.so.2": left_out, "libGL.so.1": left_out}
    assert needed(packed) == ["libc.so.6"]


def test_nothing_travels_but_what_is_given(program: Path) -> None:
    packed = pack(program, entry=None, libraries=(), with_libraries=False)
    assert decided(packed) == PLAIN | {"libsay.so.2": (False, "left out with --no-libs")}
    assert sorted(needed(packed)) == ["libGL.so.1", "libc.so.6", "libsay.so.2"]


def test_a_name_that_means_no_library_is_said(program: Path) -> None:
    with pytest.raises(NotFound, match=r"no file 'libsay.so', and 'prog' needs no library of"):
        pack_it(program, choice=Choice(travelling=("libsay.so",)))
    packed = pack_it(program, choice=Choice(left_out=("libzz*",), system=("libyy.so",)))
    assert packed.warnings == (
        "--no-lib libzz*: 'prog' needs no library of the name 'libzz*'",
        "--system-lib libyy.so: 'prog' needs no library of the name 'libyy.so'",
    )


def test_where_a_program_looks_by_itself_is_told_to_the_machine(tmp_path: Path) -> None:
    libs = tmp_path / "libs"
    compile_c(libs, "libsay.so", FUNCTION % "say", "-shared", "-fPIC", "-Wl,-rpath,/opt/deep")
    program = compile_c(
        tmp_path, "prog", "int say(void);\nint main(void) { return say(); }", f"-L{libs}",
        "-lsay", f"-Wl,-rpath,$ORIGIN/here:{libs}:/opt/lib",
    )  # fmt: skip
    assert pack_it(program).manifest.needs.library_path == (str(libs), "/opt/lib", "/opt/deep")
    alone = pack(program, entry=None, libraries=(), with_libraries=False)
    assert alone.manifest.needs.library_path == (str(libs), "/opt/lib")


def test_a_travelling_library_without_the_version_that_is_asked_is_warned_of(
    tmp_path: Path,
) -> None:
    def a_say(directory: Path, version: str) -> Path:
        directory.mkdir()
        script = directory / "map"
        script.write_text(f"{version} {{ global: say; local: *; }};\n")
        flags = ("-shared", "-fPIC", f"-Wl,--version-script={script}")
        return compile_c(directory, "libsay.so", FUNCTION % "say", *flags)

    new, old = a_say(tmp_path / "new", "SAY_2"), a_say(tmp_path / "old", "SAY_1")
    source = "int say(void);\nint main(void) { return say(); }"
    flags = (f"-L{new.parent}", "-lsay", f"-Wl,-rpath,{new.parent}")
    program = compile_c(tmp_path, "prog", source, *flags)
    assert pack_it(program).warnings == ()
    assert pack_it(program, old).warnings == (
        f"'prog' needs SAY_2 of libsay.so (symbol say), which '{old}' has not: "
        "give another with --lib",
    )
