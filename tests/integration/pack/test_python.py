"""Python applications, built by pip and run elsewhere by a python3 without any package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from corps.errors import CorpsError, Failed, Invalid
from corps.pack.build import pack
from corps.pack.kinds import Kind, Wish, kind_of, name_of, prepared
from corps.pack.parcel import Packed
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from tests.support.compiled import compile_c
from tests.support.wheels import a_project, a_wheel

MAIN = "import colour, sys\ndef main():\n    print(sys.argv[0], colour.NAME, *sys.argv[1:])\n"
# a module of CPython without its headers: a PyModuleDef is 13 words on 64 bits
EXTENSION = """
extern void *PyModule_Create2(void *, int);
const char *word(void);
int getpid(void);
static void *def[13];
void *PyInit_fast(void) {
    def[0] = (void *)(long)(getpid() > 0); def[5] = (void *)word(); def[7] = (void *)-1;
    return PyModule_Create2(def, 1013);
}
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pip finds packages, instead of the network: `colour`."""
    directory = tmp_path / "index"
    a_wheel(directory, "colour", {"colour.py": "NAME = 'blue'\n"}, scripts={"paint": "colour:x"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def pack_it(path: Path, **said: object) -> Packed:
    return installed(path, None, **said)


def installed(path: Path, store: Path | None, **said: object) -> Packed:
    with prepared(path, Wish(**said)) as what:  # type: ignore[arg-type]  # fields of Wish
        packed = pack(
            what.source, entry=what.entry, libraries=(), with_libraries=True, form=what.form
        )
        if store is not None:
            blobs = BlobStore(store, durable=False)
            for source in packed.sources.values():
                blobs.put_bytes(source.read_bytes())
            blobs.put_bytes(packed.manifest_bytes)
            Trees(store, blobs).build(packed.digest)
    return packed


def run(store: Path, packed: Packed, *args: str, python: str = "/usr/bin/python3") -> str:
    """What it prints, as a worker starts it. Nothing is written into its tree."""
    trees = Trees(store, BlobStore(store, durable=False))
    paths, tree = trees.launch_paths(packed.digest), store / "trees" / packed.digest
    before = sorted(tree.rglob("*"))
    argv = [python, *packed.manifest.runner[1:], paths.entry_path, *args]
    env = {"LD_LIBRARY_PATH": paths.library_path} if paths.library_path else {}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert sorted(tree.rglob("*")) == before
    return done.stdout


def paths_of(packed: Packed) -> list[str]:
    return [file.path for file in packed.manifest.files]


def test_a_wheel_runs_with_what_it_requires(tmp_path: Path, index: Path) -> None:
    wheel = a_wheel(
        tmp_path, "Web_App", {"web.py": MAIN}, scripts={"web": "web:main"}, requires=("colour",)
    )
    packed = installed(wheel, tmp_path / "store")
    assert packed.warnings == ()
    assert packed.manifest.runner == ("python3", "-S", "-B")
    assert packed.manifest.needs.programs == ("python3",)
    assert packed.manifest.needs.python is None, "pure: any version will do"
    assert name_of(wheel, kind_of(wheel, Wish())) == "web_app"
    wheel.unlink()
    assert run(tmp_path / "store", packed, "a b") == "web blue a b\n"


def test_the_same_application_is_the_same_artifact(tmp_path: Path, index: Path) -> None:
    """So that again nothing travels: no path, no time, no order of this build is in it."""
    wheel = a_wheel(tmp_path, "web", {"web.py": MAIN}, scripts={"web": "web:main"})
    one = installed(wheel, tmp_path / "store")
    assert pack_it(wheel).digest == one.digest
    assert any(path.endswith(".pyc") for path in paths_of(one))
    assert not any(path.startswith("site/bin/") for path in paths_of(one))
    for file in (tmp_path / "store" / "trees" / one.digest).rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert os.fsencode(tmp_path) not in data and b"/corps-" not in data, file


def test_a_project_is_installed_and_left_as_it_was(tmp_path: Path, index: Path) -> None:
    project = a_project(tmp_path / "shop", "colour")
    before = sorted(project.rglob("*"))
    packed = installed(project, tmp_path / "store")
    assert sorted(project.rglob("*")) == before
    assert not any(path.startswith("app/") for path in paths_of(packed))
    assert run(tmp_path / "store", packed) == "shop blue\n"


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A project that is not installable: files, and what they require."""
    root = tmp_path / "scripts"
    (root / "inner").mkdir(parents=True)
    (root / "requirements.txt").write_text("colour\n")
    (root / "helper.py").write_text(
        "def square(x):\n    return x * x\ndef hi():\n    print('hi')\n"
    )
    (root / "app.py").write_text(
        "import colour, helper, multiprocessing, os, sys\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(pool.map(helper.square, [2, 3]), os.path.basename(sys.argv[0]))\n"
    )
    (root / "inner" / "__init__.py").write_text("")
    (root / "inner" / "__main__.py").write_text(
        "import helper, sys\nprint('inner', sys.argv[1:])\n"
    )
    (root / "data.txt").write_text("data")
    (root / ".venv").mkdir()
    (root / ".venv" / "large").write_text("")
    return root


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("app.py", "[4, 9] app.py\n"),
        ("inner", "inner ['x']\n"),
        ("inner/__main__.py", "inner ['x']\n"),
        ("helper:hi", "hi\n"),
    ],
)
def test_a_project_with_requirements_runs_what_is_named(
    tmp_path: Path, index: Path, scripts: Path, entry: str, says: str
) -> None:
    assert kind_of(scripts, Wish(entry=entry)) is Kind.PYTHON
    packed = installed(scripts, tmp_path / "store", entry=entry)
    assert "app/data.txt" in paths_of(packed)
    assert not any(".venv" in path for path in paths_of(packed))
    assert run(tmp_path / "store", packed, "x") == says


def test_a_main_module_needs_no_entry(tmp_path: Path, index: Path, scripts: Path) -> None:
    (scripts / "__main__.py").write_text("import colour\nprint(colour.NAME)\n")
    packed = installed(scripts, tmp_path / "store")
    assert run(tmp_path / "store", packed) == "blue\n"


def test_what_the_application_starts_finds_its_packages(
    tmp_path: Path, index: Path, scripts: Path
) -> None:
    (scripts / "app.py").write_text(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'import colour; print(colour.NAME)'], check=True)\n"
    )
    packed = installed(scripts, tmp_path / "store", entry="app.py")
    assert run(tmp_path / "store", packed) == "blue\n"


def test_packages_of_the_machine_are_not_seen(tmp_path: Path, index: Path, scripts: Path) -> None:
    """Else it would run where somebody happened to install them, and nowhere else."""
    (scripts / "app.py").write_text(
        "import sys\nprint([p for p in sys.path if '-packages' in p], callable(exit))\n"
    )
    packed = installed(scripts, tmp_path / "store", entry="app.py")
    assert run(tmp_path / "store", packed) == "[] True\n"


def test_an_extension_module_binds_to_its_python_and_brings_its_libraries(
    tmp_path: Path, index: Path
) -> None:
    library = compile_c(
        tmp_path / "lib", "libword.so", 'const char *word(void){return "fast";}', "-shared", "-fPIC"
    )
    name = f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"
    module = compile_c(
        tmp_path / "c", name, EXTENSION, "-shared", "-fPIC",
        f"-L{library.parent}", "-lword", f"-Wl,-rpath,{library.parent}",
    )  # fmt: skip
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    main = "import fast\ndef main(): print(fast.__name__)\n"
    files: dict[str, str | bytes] = {name: module.read_bytes(), "web.py": main}
    wheel = a_wheel(tmp_path, "web", files, scripts={"web": "web:main"})
    packed = installed(wheel, tmp_path / "store", python=sys.executable)
    shutil.rmtree(library.parent)
    needs = packed.manifest.needs
    assert needs.python == version
    assert needs.machine == os.uname().machine
    assert "libc.so.6" in [need.name for need in needs.libraries]
    assert ".corps-lib/libword.so" in paths_of(packed)
    assert packed.manifest.library_dirs == (".corps-lib",)
    assert run(tmp_path / "store", packed, python=sys.executable) == "fast\n"


def test_a_console_script_of_any_package_may_be_the_entry(tmp_path: Path, index: Path) -> None:
    wheel = a_wheel(
        tmp_path, "web", {"web.py": MAIN}, scripts={"a": "web:main", "b": "web:x"},
        requires=("colour",),
    )  # fmt: skip
    with pytest.raises(Invalid, match=r"one of its console scripts \(a, b\) with --entry"):
        pack_it(wheel)
    packed = installed(wheel, tmp_path / "store", entry="a")
    assert run(tmp_path / "store", packed) == "a blue\n"
    assert pack_it(wheel, entry="paint").digest != packed.digest
    with pytest.raises(Invalid, match=r"no entry 'c': name a console script \(a, b, paint\)"):
        pack_it(wheel, entry="c")


def test_what_cannot_be_installed_is_told_in_a_line(tmp_path: Path, index: Path) -> None:
    odd = a_wheel(tmp_path, "odd", {}, tag="cp27-cp27m-win32")
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"PK\x03\x04")
    lonely = a_project(tmp_path / "lonely", "no-such-package")
    no_project = tmp_path / "empty"
    no_project.mkdir()
    cases: list[tuple[Path, dict[str, object], type[CorpsError], str]] = [
        (odd, {}, Failed, "is not a supported wheel on this platform"),
        (broken, {}, Failed, "pip cannot install it: "),
        (lonely, {}, Failed, "pip cannot install it: No matching distribution found for no-such"),
        (no_project, {"kind": Kind.PYTHON}, Invalid, "nothing to install"),
        (lonely / "shop.py", {"kind": Kind.PYTHON}, Invalid, "neither a wheel nor a directory"),
        (odd, {"python": "/bin/false"}, Invalid, "no pip for '/bin/false'"),
        (odd, {"python": "/bin/true"}, Invalid, "no pip for '/bin/true'"),
        (odd, {"python": "no-such-python"}, Invalid, "no pip for 'no-such-python'"),
    ]
    for path, said, error, complaint in cases:
        with pytest.raises(error, match=complaint) as refusal:
            pack_it(path, **said)
        assert "\n" not in refusal.value.message


def test_special_files_of_a_project_are_refused(tmp_path: Path, index: Path, scripts: Path) -> None:
    os.mkfifo(scripts / "pipe")
    with pytest.raises(Invalid, match=r"cannot copy '.*pipe' of the project"):
        pack_it(scripts, entry="app.py")


def test_a_directory_that_only_configures_tools_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    assert kind_of(tmp_path, Wish()) is Kind.TREE
    (tmp_path / "pyproject.toml").write_text("not toml")
    assert kind_of(tmp_path, Wish()) is Kind.TREE


def test_a_project_with_a_program_is_copied_as_it_is_and_says_so(
    tmp_path: Path, scripts: Path
) -> None:
    shutil.rmtree(scripts / ".venv")
    program = scripts / "run.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert kind_of(scripts, Wish(entry="run.sh")) is Kind.TREE
    packed = pack_it(scripts, entry="run.sh")
    assert packed.manifest.runner == ()
    assert packed.warnings == (
        "'scripts' is copied as it is; --kind python installs what it requires",
    )
