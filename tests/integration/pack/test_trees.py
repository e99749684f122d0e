"""The libraries of a directory: what all its programs and libraries need, not the entry alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corps.pack.build import pack
from corps.pack.parcel import Packed
from tests.support import compiled

PLUGIN = 'void greet(const char *name); void start(void) { greet("plugin"); }'
DIRECTORY = ".corps-lib"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """With a script as its entry; `elsewhere` has libgreet.so and who needs it."""
    compiled.compile_greeter(tmp_path / "elsewhere")
    root = tmp_path / "tree"
    root.mkdir()
    script = root / "start"
    script.write_text('#!/bin/sh\nexec "$(dirname "$0")/bin/greeter"\n')
    script.chmod(0o755)
    return root


def packed(root: Path, entry: str = "start") -> Packed:
    return pack(root, entry=entry, libraries=(), with_libraries=True)


def own_libraries(made: Packed) -> set[str]:
    return {file.path for file in made.manifest.files if file.path.startswith(DIRECTORY)}


def needed(made: Packed) -> set[str]:
    return {need.name for need in made.manifest.needs.libraries}


def test_what_a_script_starts_brings_its_libraries(tree: Path, tmp_path: Path) -> None:
    (tree / "bin").mkdir()
    shutil.copy(tmp_path / "elsewhere" / "greeter", tree / "bin")
    made = packed(tree)
    assert own_libraries(made) == {f"{DIRECTORY}/libgreet.so"}
    assert "libc.so.6" in needed(made)
    assert made.manifest.needs.loader is not None
    assert made.manifest.needs.programs == ("/bin/sh",)


def test_what_a_plugin_of_a_tree_needs_travels(tree: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    flags = ("-shared", "-fPIC", f"-L{elsewhere}", "-lgreet", f"-Wl,-rpath,{elsewhere}")
    compiled.compile_c(tmp_path / "built", "plugin.so", PLUGIN, *flags)
    (tree / "plugins").mkdir()
    shutil.copy(tmp_path / "built" / "plugin.so", tree / "plugins")
    shutil.copy("/bin/true", tree / "program")
    for entry in ("start", "program"):
        made = packed(tree, entry)
        assert own_libraries(made) == {f"{DIRECTORY}/libgreet.so"}
        assert made.warnings == ()


def test_what_is_missing_here_for_a_plugin_is_told_and_no_need(tree: Path, tmp_path: Path) -> None:
    shutil.copy("/bin/true", tree / "program")
    shutil.copy(tmp_path / "elsewhere" / "greeter", tree / "helper")
    shutil.rmtree(tmp_path / "elsewhere")
    made = packed(tree, "program")
    assert "'helper' needs libgreet.so, which is not on this machine" in "".join(made.warnings)
    assert "libgreet.so" not in needed(made)
    made = packed(tree, "helper")
    assert "libgreet.so" in needed(made)


def test_what_is_of_no_use_here_is_data(tree: Path) -> None:
    """Damaged, of another machine, a part of the C library that the tree brings along."""
    header = bytearray(Path("/bin/true").read_bytes()[:4096])
    (tree / "cut-short").write_bytes(header)
    header[18:20] = b"\xf3\x00"  # e_machine of RISC-V, elf(5)
    (tree / "foreign").write_bytes(header)
    (tree / "libc.so.6").write_bytes(b"\x7fELF, but nobody looks")
    made = packed(tree)
    assert needed(made) == set() and own_libraries(made) == set()
    (warning,) = made.warnings
    assert "cut-short' is a damaged program or library" in warning
