"""A library with symbol versions, and a program that asks for the newest of them."""

from __future__ import annotations

from pathlib import Path

from tests.support.compiled import compile_c

SONAME = "libfoo.so.1"
NEWER = ("FOO_1.0", "FOO_9.9", "FOO_10.2")
OLDER = ("FOO_1.0", "FOO_1.5")


def compile_library(directory: Path, versions: tuple[str, ...]) -> Path:
    """`foo` in each of these versions, the last one by default; without any when there is none."""
    source = ["int answer(void) { return 42; }"]
    script = []
    for number, version in enumerate(versions):
        at = "@@" if version == versions[-1] else "@"
        source.append(f"int foo{number}(void) {{ return {number}; }}")
        source.append(f'__asm__(".symver foo{number}, foo{at}{version}");')
        script.append(f"{version} {{ global: foo; }};")
    if not versions:
        source.append("int foo(void) { return 0; }")
    directory.mkdir(parents=True, exist_ok=True)
    map_file = directory / "versions.map"
    map_file.write_text("\n".join(script))
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{SONAME}"]
    if versions:
        flags.append(f"-Wl,--version-script={map_file}")
    return compile_c(directory, SONAME, "\n".join(source), *flags)


def compile_asking(directory: Path, name: str, libraries: Path) -> Path:
    """Needs FOO_10.2 of the library, which it looks for in the directory `libraries`."""
    newest = compile_library(directory / "linked", NEWER)
    source = "int foo(void); int main(void) { return foo() < 0; }"
    return compile_c(directory, name, source, str(newest), f"-Wl,-rpath,{libraries}")
