"""What PATH is, and what starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.errors import Invalid
from corps.model.artifact import FileKind
from corps.pack.build import pack
from corps.pack.kinds import Kind, Wish, check_no_url, kind_of, name_of, prepared
from corps.pack.parcel import Packed
from corps.pack.source import interpreters
from tests.support.jars import a_jar


def pack_it(path: Path, **said: object) -> Packed:
    with prepared(path, Wish(**said)) as what:  # type: ignore[arg-type]  # fields of Wish
        return pack(
            what.source, entry=what.entry, libraries=(), with_libraries=True, form=what.form
        )


def a_file(path: Path, text: str = "hello\n", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# ---- runners


def test_a_jar_is_given_to_java(tmp_path: Path) -> None:
    jar = a_jar(tmp_path / "Hello-1.0.jar", Main_Class="Hello")
    packed = pack_it(jar)
    assert packed.manifest.runner == ("java", "-jar")
    assert packed.manifest.entry == "Hello-1.0.jar"
    assert packed.manifest.needs.programs == ("java",)
    assert not packed.manifest.files[0].executable
    assert packed.warnings == ()
    assert name_of(jar, kind_of(jar, Wish())) == "hello-1.0"


def test_the_runner_of_a_jar_may_be_another(tmp_path: Path) -> None:
    jar = a_jar(tmp_path / "hello.jar", Main_Class="Hello")
    runner = ("/opt/java/bin/java", "-Xmx1g", "-jar")
    packed = pack_it(jar, runner=runner)
    assert packed.manifest.runner == runner
    assert packed.manifest.needs.programs == ("/opt/java/bin/java",)


def test_the_class_path_of_a_jar_goes_along(tmp_path: Path) -> None:
    """Also what its jars need in turn, and a line that is folded at 72 bytes."""
    names = " ".join(f"lib/{'x' * 20}-{number}.jar" for number in range(6))
    jar = a_jar(tmp_path / "app" / "hello.jar", Main_Class="Hello", Class_Path=names)
    for name in names.split():
        a_jar(jar.parent / name, Class_Path="deep/one.jar ../hello.jar")
    a_jar(jar.parent / "lib" / "deep" / "one.jar")
    packed = pack_it(jar)
    assert packed.warnings == ()
    paths = {file.path for file in packed.manifest.files}
    assert paths == {"hello.jar", "lib/deep/one.jar", *names.split()}


def test_what_a_class_path_names_and_cannot_travel_is_warned_of(tmp_path: Path) -> None:
    names = "gone.jar ../outside.jar file:/x.jar classes/ a%20b.jar"
    jar = a_jar(tmp_path / "app" / "hello.jar", Main_Class="Hello", Class_Path=names)
    (jar.parent / "classes").mkdir()
    a_jar(jar.parent / "a b.jar")
    a_jar(tmp_path / "outside.jar")
    packed = pack_it(jar)
    assert [file.path for file in packed.manifest.files] == ["a b.jar", "hello.jar"]
    assert [warning.split("needs ")[1] for warning in packed.warnings] == [
        "'gone.jar', which is not there",
        "'../outside.jar', which lies outside: it does not travel",
        "'file:/x.jar', which lies outside: it does not travel",
        "the directory 'classes/': copy the directory that has both",
    ]


def test_a_jar_in_a_directory_is_started_as_one(tmp_path: Path) -> None:
    a_jar(tmp_path / "app" / "lib" / "main.jar", Main_Class="Hello", Class_Path="other.jar")
    a_jar(tmp_path / "app" / "lib" / "other.jar")
    packed = pack_it(tmp_path / "app", entry="lib/main.jar")
    assert packed.manifest.runner == ("java", "-jar")
    assert [file.path for file in packed.manifest.files] == ["lib/main.jar", "lib/other.jar"]


def test_a_jar_that_cannot_be_started_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no Main-Class"):
        pack_it(a_jar(tmp_path / "library.jar"))
    jar = a_jar(tmp_path / "hello.jar", Main_Class="Hello")
    whole = jar.read_bytes()
    jar.write_bytes(whole[:-30])
    with pytest.raises(Invalid, match=r"hello.jar' is a damaged zip file"):
        pack_it(jar)
    jar.write_bytes(whole)
    with pytest.raises(Invalid, match="leave out --entry"):
        pack_it(jar, entry="hello.jar")


def test_what_only_has_the_name_of_a_jar_is_a_file(tmp_path: Path) -> None:
    script = a_file(tmp_path / "hello.jar", "#!/bin/sh\n", 0o755)
    assert kind_of(script, Wish()) is Kind.FILE
    assert pack_it(script).manifest.runner == ()


def test_any_file_may_have_a_runner(tmp_path: Path) -> None:
    packed = pack_it(a_file(tmp_path / "server.js"), runner=("node", "--no-warnings"))
    (file,) = packed.manifest.files
    assert packed.manifest.runner == ("node", "--no-warnings")
    assert (file.kind, file.executable) == (FileKind.EXECUTABLE, False)
    assert packed.warnings == ()
    a_file(tmp_path / "app" / "main.js")
    assert pack_it(tmp_path / "app", entry="main.js", runner=("node",)).warnings == ()


def test_a_runner_that_could_start_nothing_is_refused(tmp_path: Path) -> None:
    for runner in (("./node",), ("",), ("a\0b",)):
        with pytest.raises(Invalid, match="runner"):
            pack_it(a_file(tmp_path / "server.js"), runner=runner)


@pytest.mark.parametrize(
    ("head", "programs"),
    [
        (b"#!/bin/sh\n", ("/bin/sh",)),
        (b"#! /usr/bin/perl -w\n", ("/usr/bin/perl",)),
        (b"#!/usr/bin/env python3\n", ("/usr/bin/env", "python3")),
        (b"#!/usr/bin/env -S A=1 node --x\n", ("/usr/bin/env", "node")),
        (b"#!/usr/bin/env\n", ("/usr/bin/env",)),
        (b"#!python3\n", ()),
        (b"#!\n", ()),
        (b"\x7fELF", ()),
        (b"", ()),
    ],
)
def test_a_script_needs_its_interpreter(head: bytes, programs: tuple[str, ...]) -> None:
    assert interpreters(head) == programs


def test_a_script_says_what_it_needs(tmp_path: Path) -> None:
    script = a_file(tmp_path / "run", "#!/usr/bin/env sh\n", 0o755)
    assert pack_it(script).manifest.needs.programs == ("/usr/bin/env", "sh")


# ---- addresses


@pytest.mark.parametrize(
    "text",
    ["http://host/app", "https://me:secret@host/app", "file:///etc/passwd", "gopher://x", "FTP://x",
     "http://169.254.169.254/", "http://[::1]/", "http://2130706433/", "file:/etc/passwd",
     "s3://bucket/key", "data:,x", "git+ssh://host/x"],
)  # fmt: skip
def test_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(Invalid, match="corps fetches none") as refusal:
        check_no_url(text)
    assert "secret" not in refusal.value.message


def test_a_path_that_only_looks_like_one_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a_file(tmp_path / "file:x")
    for text in ("file:x", "a:b", "./http:/x", "C:\\x", "/usr/bin/env"):
        check_no_url(text)
