"""The words for each stage and errno; files really executed are in tests/integration/keeper."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from corps.worker.binary import elf_reason, loader_of, shebang_of
from corps.worker.diagnose import Launched, diagnose


@pytest.mark.parametrize(
    ("stage", "number", "words"),
    [
        ("chdir", errno.ENOENT, "cannot enter the directory '/gone': it is missing"),
        ("chdir", errno.EIO, "cannot enter the directory '/gone': it is missing"),
        ("log", errno.ELOOP, "log file: it is a symbolic link"),
        ("log", errno.ENOSPC, "the disk is full"),
        ("log", errno.EDQUOT, "the quota"),
        ("log", errno.EROFS, "read-only"),
        ("fork", errno.EAGAIN, "another process: a limit on processes is reached"),
        ("fork", errno.EMFILE, "the keeper has no descriptor left"),
        ("fork", errno.ENFILE, "fs.file-max"),
        ("fork", errno.ENOMEM, "no memory left"),
        ("fork", errno.EPERM, "cannot fork"),
        ("never_executed", 0, "its keeper died before it was executed"),
        ("killed_before_exec", 0, "it was killed before it was executed"),
        ("journal", errno.ENOSPC, "is the disk full?"),
        ("timeout", 0, "not executed in time: its keeper ended it"),
        ("some_stage", 0, "some stage"),
        ("some_stage", errno.EINVAL, "some stage: Invalid argument"),
        ("execve", errno.E2BIG, "together are too long"),
        ("execve", errno.EAGAIN, "a limit on processes is reached"),
        ("execve", errno.EPERM, "a security policy"),
        ("execve", errno.ETXTBSY, "open for writing"),
        ("execve", errno.ELIBBAD, "its loader is damaged"),
        ("execve", errno.EIO, "interpreter '/bin/sh' cannot be executed: the disk reports"),
    ],
)
def test_every_stage_has_its_words(tmp_path: Path, stage: str, number: int, words: str) -> None:
    path = tmp_path / "program"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    text = diagnose(Launched(str(path), cwd="/gone"), stage, number)
    assert words in text


def test_a_deadline_is_named() -> None:
    text = diagnose(Launched("/bin/true"), "timeout", 0, 30.0)
    assert "not executed within 30 s: its keeper ended it" in text


def test_a_policy_is_suspected_when_nothing_else_forbids_it() -> None:
    assert "ausearch" in diagnose(Launched("/bin/true"), "execve", errno.EACCES)


def test_heads_that_are_cut_anywhere_break_nothing() -> None:
    whole = Path("/bin/true").read_bytes()[:4_096]
    loader = loader_of(whole)
    assert loader is not None and loader.startswith("/")
    for length in range(64, len(whole), 7):
        assert loader_of(whole[:length]) in (None, loader)
    for length in range(5, 64):
        assert "cut short" in (elf_reason(whole[:length], errno.ENOEXEC) or "")
    for at in range(len(whole[:200])):
        broken = whole[:at] + b"\xff" + whole[at + 1 :]
        assert elf_reason(broken, errno.ENOEXEC) != ""
    assert shebang_of(b"#!") == ""
    assert shebang_of(b"#! /bin/sh -x\n") == "/bin/sh"
