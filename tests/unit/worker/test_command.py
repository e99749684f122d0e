"""What is executed: the entry, or a runner that PATH leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from corps.store.trees import LaunchPaths
from corps.worker.command import command, is_found, no_runner

PATHS = LaunchPaths(entry_path="/trees/ab/app.jar", library_path="")


@pytest.fixture
def bin(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def a_program(path: Path, mode: int = 0o755) -> Path:
    path.write_text("")
    path.chmod(mode)
    return path


def test_without_a_runner_the_entry_is_executed() -> None:
    assert command(PATHS, (), ("x",), "/bin") == ("/trees/ab/app.jar", "x")


def test_a_runner_gets_the_entry_behind_its_own_words(bin: Path) -> None:
    java = a_program(bin / "java")
    argv = command(PATHS, ("java", "-jar"), ("serve", "8080"), f"/nowhere:{bin}")
    assert argv == (str(java), "-jar", "/trees/ab/app.jar", "serve", "8080")
    assert is_found(argv)


def test_the_first_program_of_path_is_taken(bin: Path, tmp_path: Path) -> None:
    """A directory, a file without x bit and a link to nothing are none."""
    other = tmp_path / "other"
    other.mkdir()
    wanted = a_program(other / "java")
    path = f"{bin}:{other}"
    (bin / "java").symlink_to("nowhere")
    assert command(PATHS, ("java",), (), path)[0] == str(wanted)
    (bin / "java").unlink()
    a_program(bin / "java", 0o644)
    assert command(PATHS, ("java",), (), path)[0] == str(wanted)
    (bin / "java").unlink()
    (bin / "java").mkdir()
    assert command(PATHS, ("java",), (), path)[0] == str(wanted)


def test_a_runner_is_never_taken_from_the_working_directory(
    bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_program(bin / "java")
    monkeypatch.chdir(bin)
    for path in (".", "", "::", "../bin"):
        assert not is_found(command(PATHS, ("java",), (), path))


def test_a_full_path_is_not_looked_for() -> None:
    argv = command(PATHS, ("/no/such/java",), (), "/bin")
    assert argv[0] == "/no/such/java" and is_found(argv)


def test_a_runner_that_is_missing_is_named_with_where_it_was_looked_for() -> None:
    argv = command(PATHS, ("java", "-jar"), (), "/no:/where")
    text = no_runner(argv, PATHS, "/no:/where")
    assert text.startswith("cannot execute 'app.jar': its runner 'java' is in no directory of PATH")
    assert "'/no:/where'" in text
