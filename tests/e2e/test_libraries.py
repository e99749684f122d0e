"""Which libraries go with a program, as an operator sees and says it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.compiled import GREET_LIBRARY, compile_c, compile_greeter
from tests.support.waiting import until

OPENER = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    void *library = dlopen("libgreet.so", RTLD_NOW);
    void (*greet)(const char *);
    if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 3; }
    greet = (void (*)(const char *))dlsym(library, "greet");
    greet(argv[1]);
    return 0;
}
"""


@pytest.fixture
def opener(tmp_path: Path) -> Path:
    """A program that opens libgreet.so when it runs, and nothing says so before."""
    libs = tmp_path / "libs"
    compile_c(libs, "libgreet.so", GREET_LIBRARY, "-shared", "-fPIC")
    return compile_c(tmp_path, "opener", OPENER, f"-Wl,-rpath,{libs}")


def test_a_traced_copy_brings_what_the_program_opens(
    shared: Cluster, tmp_path: Path, opener: Path
) -> None:
    command = ("copy", "--name", "traced", "-o", "json", "--trace", "--", str(opener), "here")
    copied = shared.corps(*command)
    assert {row["result"] for row in json.loads(copied.stdout)} == {"installed"}
    assert "hello, here\n" in copied.stderr
    shutil.rmtree(tmp_path / "libs")
    instance = shared.launch_one("traced", "there")
    assert shared.wait_dead(instance.id).death.message == "exited 0"  # type: ignore[union-attr]  # it is dead
    assert shared.log_of(instance.id) == "hello, there\n"


def test_a_traced_copy_may_be_of_a_directory(shared: Cluster, tmp_path: Path, opener: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    shutil.move(opener, app / "opener")
    command = (
        "copy",
        str(app),
        "--entry",
        "opener",
        "--name",
        "app",
        "--trace",
        "--trace-for",
        "30",
    )
    shared.corps(*command, "--", str(app / "opener"), "here")
    (artifact,) = [row for row in shared.client.artifacts() if row.name == "app"]
    assert ".corps-lib/libgreet.so" in [file.path for file in artifact.files]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--trace",), 2, "--trace runs a program once: give it behind --"),
        (("PROG", "--trace"), 2, "--trace runs a program once: give it behind --"),
        (("--trace", "--"), 2, "--trace runs a program once: give it behind --"),
        ((), 2, "give the PATH of what to copy"),
        (("--trace", "--", "/nowhere/prog"), 4, "no program '/nowhere/prog'"),
        (("PROG", "--trace", "--trace-for", "0", "--", "PROG"), 2, "0"),
        (("PROG", "--lib", "libnone.so"), 4, "no file 'libnone.so', and 'opener' needs no library"),
    ],
)
def test_a_bad_word_on_libraries_is_said(
    shared: Cluster, opener: Path, words: tuple[str, ...], code: int, complaint: str
) -> None:
    words = tuple(str(opener) if word == "PROG" else word for word in words)
    run = shared.corps("copy", *words, check=False)
    assert run.returncode == code
    assert complaint in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_an_interrupted_trace_leaves_no_process_and_no_copy(
    shared: Cluster, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    program = tmp_path / "endless"
    program.write_text(f"#!/bin/sh\necho $$ > {mark}\nexec sleep 1000\n")
    program.chmod(0o755)
    words = ("--dir", shared.settings.dir, "copy", "--trace", "--trace-for", "600", "--")
    command = [sys.executable, "-m", "corps.cli.main", *words, str(program)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as copy:
        until(lambda: mark.exists() and mark.read_text().strip() != "")
        copy.send_signal(signal.SIGINT)
        assert copy.wait(30) == 130
    until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists())
    assert "endless" not in [row.name for row in shared.client.artifacts()]


def test_each_library_is_listed_with_its_reason_without_any_master(
    shared: Cluster, tmp_path: Path
) -> None:
    program = compile_greeter(tmp_path / "built")
    check = ("check", str(program), "--libs", "--system-lib", "libgreet*")
    rows = json.loads(shared.corps(*check, "-o", "json").stdout)
    assert {row["name"]: (row["travels"], row["why"]) for row in rows} == {
        "libgreet.so": (False, "the machine's, by --system-lib"),
        "libc.so.6": (False, "part of the C library, which each machine has"),
    }
    assert "GLIBC_2.34" in rows[-1]["versions"]
    table = shared.corps("--dir", str(tmp_path), "check", str(program), "--libs").stdout
    assert "libgreet.so" in table and "no library of the system" in table
    assert shared.corps("check", str(program), "--libs", "-o", "name").stdout.splitlines() == [
        "libgreet.so",
        "libc.so.6",
    ]


def test_what_is_the_machines_is_asked_of_each_worker(shared: Cluster, tmp_path: Path) -> None:
    program = compile_greeter(tmp_path / "built")
    copy = ("copy", str(program), "--name", "asked")
    shutil.move(tmp_path / "built" / "libgreet.so", tmp_path)
    refused = shared.corps(*copy, "--system-lib", "libgreet.so", check=False)
    assert refused.returncode == 7
    assert "has no libgreet.so, which asked needs" in refused.stderr
    shared.corps(*copy, "--no-lib", "libgreet.so")
    shared.corps(*copy, "--lib", str(tmp_path / "libgreet.so"))
    instance = shared.launch_one("asked", "corps")
    shared.wait_dead(instance.id)
    assert shared.log_of(instance.id) == "hello, corps\n"
