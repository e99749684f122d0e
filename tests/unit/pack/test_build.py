"""What an operator may point at, and what is said when it cannot be copied."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from corps.errors import CorpsError, Invalid, NotFound
from corps.model.artifact import FileKind, LinkEntry, check_manifest
from corps.pack import build
from corps.pack.build import default_name
from corps.pack.parcel import WARNINGS_MAX, Packed
from corps.pack.source import READ_BYTES, read_source
from tests.support.artifacts import digest_of
from tests.support.waiting import until


def pack(
    source: Path,
    entry: str | None = None,
    libraries: Sequence[Path] = (),
    with_libraries: bool = True,
) -> Packed:
    packed = build.pack(source, entry=entry, libraries=libraries, with_libraries=with_libraries)
    check_manifest(packed.manifest)
    by_digest = {file.digest for file in packed.manifest.files}
    assert set(packed.sources) == by_digest, "everything has a source, and nothing more"
    for digest, path in packed.sources.items():
        assert digest_of(path.read_bytes()) == digest
    assert packed.digest == digest_of(packed.manifest_bytes)
    return packed


def a_script(path: Path, text: str = "#!/bin/sh\necho hello\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    path.chmod(mode)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    a_script(root / "bin" / "run")
    a_script(root / "bin" / "tool")
    a_script(root / "etc" / "conf", "x=1\n", 0o644)
    (root / "current").symlink_to("bin")
    return root


# ---- one file


def test_a_file_is_its_own_entry(tmp_path: Path) -> None:
    packed = pack(a_script(tmp_path / "hello"))
    (file,) = packed.manifest.files
    assert packed.manifest.entry == file.path == "hello"
    assert file.executable
    assert file.kind is FileKind.EXECUTABLE
    assert packed.manifest.library_dirs == ()
    assert packed.size_bytes == file.size_bytes == 21
    assert packed.warnings == ()


def test_a_link_to_a_program_gives_its_own_name(tmp_path: Path) -> None:
    script = a_script(tmp_path / "versions" / "hello-1.2")
    (tmp_path / "hello").symlink_to(script)
    packed = pack(tmp_path / "hello")
    assert packed.manifest.entry == "hello"
    assert list(packed.sources.values()) == [script]


def test_the_same_file_gives_the_same_digest(tmp_path: Path) -> None:
    one = pack(a_script(tmp_path / "a" / "hello"))
    assert pack(a_script(tmp_path / "b" / "hello")).digest == one.digest
    assert pack(a_script(tmp_path / "c" / "hello", "#!/bin/sh\n")).digest != one.digest


@pytest.mark.parametrize(
    ("head", "warning"),
    [
        ("#!/bin/sh\r\necho\r\n", "carriage return"),
        ("#!/no/such/interpreter -x\n", "'/no/such/interpreter', which is not on this machine"),
        ("#!python3\n", "relative interpreter 'python3'"),
        ("#! \n", "names no interpreter"),
        ("#!/usr/bin/env python3\n", "'python3', which must be in the PATH of each worker"),
        ("#!/usr/bin/env -S no-such-program -x\n", "and is not in the PATH here"),
        ("echo hello\n", "neither a program nor a script"),
        ("", "is empty: workers cannot start it"),
    ],
)
def test_a_script_that_may_not_start_is_warned_of(tmp_path: Path, head: str, warning: str) -> None:
    packed = pack(a_script(tmp_path / "hello", head))
    assert len(packed.warnings) == 1
    assert warning in packed.warnings[0]
    assert len(packed.manifest.files) == 1


def test_a_setuid_program_is_copied_without_its_rights(tmp_path: Path) -> None:
    packed = pack(a_script(tmp_path / "hello", mode=0o4755))
    assert "its copy is not" in packed.warnings[0]


def test_a_long_list_of_warnings_is_cut(tmp_path: Path) -> None:
    for number in range(WARNINGS_MAX + 5):
        a_script(tmp_path / "app" / f"tool-{number}", mode=0o4755)
    packed = pack(tmp_path / "app", "tool-1")
    assert len(packed.warnings) == WARNINGS_MAX + 1
    assert packed.warnings[-1] == "and 5 more warnings"


def test_what_is_not_there_or_no_program_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    a_script(tmp_path / "data", mode=0o644)
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    a_script(tmp_path / "good")
    refusals: list[tuple[Path, str | None, type[CorpsError], str]] = [
        (tmp_path / "nothing", None, NotFound, "give the path of a program"),
        (tmp_path / "dangling", None, NotFound, "give the path of a program"),
        (tmp_path / "good" / "below", None, Invalid, "not a directory"),
        (tmp_path / "pipe", None, Invalid, "is a pipe"),
        (Path("/dev/null"), None, Invalid, "is a device"),
        (tmp_path / "data", None, Invalid, r"chmod \+x it"),
        (tmp_path / "directory", None, Invalid, "name the program in it with --entry"),
        (tmp_path / "loop", None, Invalid, "symbolic links"),
        (tmp_path / "good", "good", Invalid, "leave out --entry"),
        (tmp_path / "a\0b", None, Invalid, "NUL"),
        (tmp_path / ("x" * 300), None, Invalid, "too long"),
    ]
    for path, entry, error, complaint in refusals:
        with pytest.raises(error, match=complaint):
            pack(path, entry)


def test_an_unreadable_file_is_refused() -> None:
    """As an ordinary user, in a directory that one can enter: root may read everything."""
    with tempfile.TemporaryDirectory() as directory:
        path = a_script(Path(directory) / "hello", mode=0o111)
        path.parent.chmod(0o755)
        own = os.geteuid()
        os.seteuid(65534 if own == 0 else own)
        try:
            with pytest.raises(Invalid, match="make it readable"):
                pack(path)
        finally:
            os.seteuid(own)


@pytest.mark.parametrize("name", ["new\nline", "back\\slash", "tab\there"])
def test_a_file_name_that_no_tree_may_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="bad path"):
        pack(a_script(tmp_path / name))


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"x" * (3 * READ_BYTES))
    done = threading.Event()

    def write() -> None:
        with path.open("ab") as file:
            while not done.is_set():
                file.write(b"y")
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()

    def is_refused() -> bool:
        try:
            read_source(path)
        except Invalid as error:
            return "changed while it was read" in error.message
        return False

    try:
        until(is_refused)
    finally:
        done.set()
        writer.join()


def test_a_sparse_file_is_read_as_zeros(tmp_path: Path) -> None:
    path = a_script(tmp_path / "hello", "#!/bin/sh\n")
    os.truncate(path, 5 << 20)
    assert pack(path).size_bytes == 5 << 20


# ---- a directory


def test_a_directory_stays_as_it_is(tree: Path) -> None:
    packed = pack(tree, "bin/run")
    kinds = {file.path: (file.kind, file.executable) for file in packed.manifest.files}
    assert kinds == {
        "bin/run": (FileKind.EXECUTABLE, True),
        "bin/tool": (FileKind.EXECUTABLE, True),
        "etc/conf": (FileKind.DATA, False),
    }
    assert packed.manifest.links == (LinkEntry(path="current", target="bin"),)
    assert packed.manifest.entry == "bin/run"
    assert len(packed.sources) == 2, "the same bytes travel once"


def test_a_directory_may_be_named_by_a_link_or_a_dot(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tree)
    monkeypatch.chdir(tree)
    expected = pack(tree, "bin/run").digest
    assert pack(tmp_path / "link", "./bin/run").digest == expected
    assert pack(Path("."), "bin/run").digest == expected


def test_the_entry_may_be_a_link_inside(tree: Path) -> None:
    (tree / "start").symlink_to("current/run")
    packed = pack(tree, "start")
    assert packed.manifest.entry == "start"
    assert LinkEntry(path="start", target="current/run") in packed.manifest.links


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("nothing", "name another with --entry"),
        ("bin", "name another with --entry"),
        ("current/run", "name another with --entry"),
        ("../app/bin/run", "bad path"),
        ("/bin/sh", "bad path"),
        ("", "bad path"),
        ("etc/conf", r"chmod \+x it"),
        ("dangling", "no file"),
    ],
)
def test_an_entry_that_is_no_program_inside_is_refused(
    tree: Path, entry: str, complaint: str
) -> None:
    (tree / "dangling").symlink_to("nowhere")
    with pytest.raises(CorpsError, match=complaint):
        pack(tree, entry)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "bin/../../.."])
def test_a_link_that_leads_out_is_refused(tree: Path, target: str) -> None:
    (tree / "out").symlink_to(target)
    with pytest.raises(Invalid, match="replace it by what it points to"):
        pack(tree, "bin/run")


def test_a_link_with_a_target_that_is_no_text_is_refused(tree: Path) -> None:
    os.symlink(b"\xff\xfe", os.fsencode(tree / "odd"))
    with pytest.raises(Invalid, match="not UTF-8"):
        pack(tree, "bin/run")


def test_links_that_lead_nowhere_or_in_circles_are_kept(tree: Path) -> None:
    (tree / "loop").symlink_to("loop")
    (tree / "dangling").symlink_to("etc/nothing")
    assert len(pack(tree, "bin/run").manifest.links) == 3


def test_special_files_in_a_directory_are_refused(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(Invalid, match="pipe' is a pipe"):
        pack(tree, "bin/run")
    os.unlink(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "sock"))
        with pytest.raises(Invalid, match="sock' is a socket"):
            pack(tree, "bin/run")


def test_empty_directories_are_named(tree: Path) -> None:
    for name in "abcde":
        (tree / "var" / name).mkdir(parents=True)
    (warning,) = pack(tree, "bin/run").warnings
    assert warning.startswith("empty directories are not copied: 'var/a', 'var/b', 'var/c' and 2")


# ---- names


@pytest.mark.parametrize(
    ("path", "name"),
    [("/usr/bin/Git", "git"), ("bin/web-1.2", "web-1.2"), ("app/", "app"), ("./x/../Y", "y")],
)
def test_an_artifact_is_called_as_its_file(path: str, name: str) -> None:
    assert default_name(Path(path)) == name


@pytest.mark.parametrize("path", ["/", "g++", "my app", "ünicode", "_x", "x" * 64])
def test_a_file_name_that_is_no_name_needs_another(path: str) -> None:
    with pytest.raises(Invalid, match="choose one with --name"):
        default_name(Path(path))


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    script = a_script(tmp_path / "hello")
    with pytest.raises(Invalid, match="no shared library"):
        pack(script, libraries=[script])
    with pytest.raises(NotFound):
        pack(script, libraries=[tmp_path / "libgone.so"])
