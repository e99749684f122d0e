"""The words for each way in which a program does not start; the errno is what execve(2) gave."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from corps.worker.diagnose import diagnose


def _errno_of(path: Path) -> int:
    """What the kernel says to this file."""
    try:
        os.posix_spawn(path, [str(path)], {})
    except OSError as error:
        assert error.errno is not None
        return error.errno
    raise AssertionError(f"{path} was executed")


def _file(directory: Path, content: bytes, mode: int = 0o755) -> Path:
    path = directory / "program"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("content", "number", "words"),
    [
        (b"", errno.ENOEXEC, "the file is empty"),
        (b"just text\n", errno.ENOEXEC, "neither ELF nor begins with"),
        (b"#!/no/such\n", errno.ENOENT, "interpreter '/no/such' is missing"),
        (b"#!/bin/sh\r\n", errno.ENOENT, "CR LF"),
        (b"#!\n", errno.ENOEXEC, "names no interpreter"),
        (b"\x7fELF\x02\x01\x01", errno.ENOEXEC, "cut short"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xb7\0" + bytes(80), errno.ENOEXEC, "aarch64"),
        (b"\x7fELF\x02\x02\x01" + bytes(9) + b"\0\x02\0\x15" + bytes(80), errno.ENOEXEC, "ppc64"),
    ],
)
def test_content_that_cannot_be_executed(
    tmp_path: Path, content: bytes, number: int, words: str
) -> None:
    path = _file(tmp_path, content)
    assert _errno_of(path) == number
    assert words in diagnose(path, "/", "execve", number)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert "missing on this worker" in diagnose(missing, "/", "execve", _errno_of(missing))
    assert "no regular file" in diagnose(tmp_path, "/", "execve", _errno_of(tmp_path))


def test_no_x_bit(tmp_path: Path) -> None:
    path = _file(tmp_path, b"#!/bin/sh\n", 0o644)
    assert _errno_of(path) == errno.EACCES
    assert "no x bit" in diagnose(path, "/", "execve", errno.EACCES)


def test_a_missing_loader_is_named(tmp_path: Path) -> None:
    real = Path("/bin/true").read_bytes()
    at = real.index(b"/lib64/ld-linux-x86-64.so.2\0")
    path = _file(tmp_path, real[:at] + b"/lib64/no-such-loader.so.2\0\0" + real[at + 28 :])
    assert _errno_of(path) == errno.ENOENT
    assert "/lib64/no-such-loader.so.2" in diagnose(path, "/", "execve", errno.ENOENT)


@pytest.mark.parametrize(
    ("stage", "number", "words"),
    [
        ("chdir", errno.ENOENT, "cannot enter the directory '/gone'"),
        ("log", errno.ELOOP, "log file"),
        ("fork", errno.EAGAIN, "another process"),
        ("never_executed", 0, "never executed"),
        ("timeout", errno.ETIMEDOUT, "timeout"),
        ("execve", errno.E2BIG, "too long"),
    ],
)
def test_every_stage_has_its_words(tmp_path: Path, stage: str, number: int, words: str) -> None:
    path = _file(tmp_path, b"#!/bin/sh\n")
    assert words in diagnose(path, "/gone", stage, number)
