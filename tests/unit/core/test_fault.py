"""What the last line on stderr says of an exit: lines as glibc, musl, env and shells write them."""

from __future__ import annotations

import pytest

from corps.core.fault import fault, hint
from corps.model.instance import Evidence, LogLine
from tests.support.build import NOW

LOADING = "/t/greeter: error while loading shared libraries: "


def said(*lines: str, stream: str = "stderr") -> Evidence:
    return Evidence(
        seen_at=NOW, last_lines=tuple(LogLine(stream=stream, text=line) for line in lines)
    )


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        (
            127,
            LOADING + "libfoo.so.1: cannot open shared object file: No such file or directory",
            "library libfoo.so.1 is missing on w1: copy it too (--lib FILE) or install it there",
        ),
        (
            127,
            LOADING + "/t/libfoo.so: wrong ELF class: ELFCLASS32",
            "library /t/libfoo.so is built for another machine type",
        ),
        (
            127,
            LOADING + "/t/libfoo.so: invalid ELF header",
            "library /t/libfoo.so is damaged (invalid ELF header): copy it again",
        ),
        (
            127,
            LOADING + "/t/libfoo.so: file too short",
            "library /t/libfoo.so is damaged (file too short): copy it again",
        ),
        (
            127,
            LOADING + "libc.so.6: failed to map segment from shared object",
            "library libc.so.6 could not be mapped: no memory within its limits",
        ),
        (
            127,
            LOADING + "libc.so.6: cannot create shared object descriptor: Cannot allocate memory",
            "library libc.so.6 could not be mapped: no memory within its limits",
        ),
        (
            1,
            "/t/app: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found "
            "(required by /t/app)",
            "libc.so.6 on w1 is older than the program needs (GLIBC_2.38): "
            "build it on the oldest system it runs on, or update w1",
        ),
        (
            127,
            "/t/app: symbol lookup error: /t/app: undefined symbol: greet, version V1",
            "symbol greet that /t/app needs is in no library on w1: they are of different versions",
        ),
        (
            127,
            "Error loading shared library libfoo.so: No such file or directory (needed by /t/app)",
            "library libfoo.so is missing on w1: copy it too (--lib FILE) or install it there",
        ),
        (
            127,
            "Error relocating /t/app: greet: symbol not found",
            "symbol greet is in no library on w1: they are of different versions",
        ),
        (
            127,
            "/usr/bin/env: \u2018node\u2019: No such file or directory",
            "node is not in the PATH on w1: install it there",
        ),
        (
            127,
            "env: 'node': No such file or directory",
            "node is not in the PATH on w1: install it there",
        ),
        (127, "/t/app: 3: jq: not found", "command jq was not found on w1"),
        (127, "/t/app: line 3: jq: command not found", "command jq was not found on w1"),
        # what another exit code, or another line, does not say
        (3, LOADING + "libfoo.so.1: cannot open shared object file: No such file", None),
        (1, "grep: x: command not found", None),
        (127, "all is well", None),
        (127, "", None),
    ],
)
def test_the_last_line_tells_what_is_missing(code: int, line: str, words: str | None) -> None:
    assert fault(code, said("something before", line), "w1") == words


def test_only_the_last_line_on_stderr_counts() -> None:
    line = LOADING + "libfoo.so: cannot open shared object file: No such file or directory"
    assert fault(127, said(line, "and I went on"), "w1") is None
    assert fault(127, said(line, stream="stdout"), "w1") is None
    assert fault(127, said(), "w1") is None
    assert fault(127, None, "w1") is None


def test_exit_codes_by_the_convention_of_shells_are_hints() -> None:
    assert "could not be executed" in (hint(126) or "")
    assert "not found" in (hint(127) or "")
    assert "killed by SIGKILL" in (hint(137) or "")
    assert "killed by signal 35" in (hint(163) or "")
    assert [hint(code) for code in (0, 1, 125, 128, 193, 255)] == [None] * 6
