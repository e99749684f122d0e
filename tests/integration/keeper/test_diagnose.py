"""Files that cannot be executed, really executed by a keeper; and the words for what it says."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corps.wire import keeper as wire
from corps.worker.diagnose import Launched, diagnose
from tests.integration.keeper.driver import Keeper
from tests.support import compiled
from tests.support.compiled import compile_c

Order = Callable[..., wire.Spawn]
Why = Callable[..., str]
GLIBC = b"/lib64/ld-linux-x86-64.so.2\0"
NOBODY = 65_534


@pytest.fixture
def why(keeper: Keeper, order: Order) -> Why:
    """Have the keeper execute it; the words, or the status of what ran after all."""
    numbers = iter(range(1, 100))

    def run(path: Path | str, *args: str, **fields: object) -> str:
        said = order(f"app.{next(numbers)}#1", str(path), *args, **fields)
        ended = keeper.link.run(said)
        if ended.failed_stage is None:
            return f"ran: {ended.status}"
        launched = Launched(path=said.path, argv=said.argv, cwd=said.cwd, env=said.env)
        return diagnose(launched, ended.failed_stage, ended.failed_errno or 0, ended.deadline_s)

    return run


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """`make(NAME, CONTENT, MODE)`: a file."""

    def file(name: str, content: bytes, mode: int = 0o755) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return file


@pytest.fixture(scope="module")
def elf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A compiled program that needs a loader."""
    return compile_c(tmp_path_factory.mktemp("elf"), "exit3", compiled.EXIT_3).read_bytes()


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "noexec"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "corps-test", str(path)]
    subprocess.run(mount, check=True)
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_what_is_no_file_to_execute(why: Why, make: Callable[..., Path], tmp_path: Path) -> None:
    make("plain", b"#!/bin/sh\n", 0o644)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "the file is missing on this worker" in why(tmp_path / "nothing")
    assert "a directory, no regular file" in why(tmp_path / "dir")
    assert "a pipe, no regular file" in why(tmp_path / "fifo")
    assert "a device, no regular file" in why("/dev/null")
    assert "it has no x bit" in why(tmp_path / "plain")
    assert "a symbolic link to 'nowhere', which is missing" in why(tmp_path / "dangling")
    assert "too many symbolic links" in why(tmp_path / "a")
    assert f"'{tmp_path}/plain' is no directory" in why(tmp_path / "plain" / "x" / "y")
    assert f"'{tmp_path}/gone' is missing" in why(tmp_path / "gone" / "x")
    assert "longer than 255 bytes" in why(tmp_path / ("x" * 256))
    assert "the path is longer than 4095 bytes" in why(f"{tmp_path}/{'x/' * 2_100}")


def test_a_noexec_mount(why: Why, noexec: Path) -> None:
    path = noexec / "program"
    path.write_bytes(b"#!/bin/sh\n")
    path.chmod(0o755)
    assert "mounted noexec" in why(path)


def test_scripts(why: Why, make: Callable[..., Path], tmp_path: Path) -> None:
    loop = make("loop", f"#!{tmp_path}/loop\n".encode())
    make("no_x", b"#!/bin/sh\n", 0o644)
    cases: list[tuple[bytes, str]] = [
        (b"", "the file is empty"),
        (b"echo hello\n", "no shell is tried"),
        (b"#!/no/such\n", "its interpreter '/no/such' is missing on this worker"),
        (b"#!/bin/sh\r\necho\r\n", "ends in CR LF"),
        (b"#!\n", "names no interpreter"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        (b"#!/" + b"x" * 300 + b"\n", "longer than 255 bytes"),
        (b"#!bin/sh\n", f"'bin/sh', looked for from '{tmp_path}', is missing"),
        (f"#!{tmp_path}/no_x\n".encode(), "cannot be executed: it has no x bit"),
        (f"#!{tmp_path}\n".encode(), "cannot be executed: it is a directory"),
    ]
    for number, (content, words) in enumerate(cases):
        assert words in why(make(f"script{number}", content))
    text = why(loop)
    assert "is a script itself" in text and "more than 5 deep" in text


def test_a_relative_interpreter_is_looked_for_from_the_working_directory(
    why: Why, make: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "bin").symlink_to("/bin")
    assert why(make("relative", b"#!bin/sh\nexit 0\n")) == "ran: 0"


def test_programs_for_other_machines(why: Why, make: Callable[..., Path], elf: bytes) -> None:
    def patched(*changes: tuple[int, bytes]) -> Path:
        data = bytearray(elf)
        for at, new in changes:
            data[at : at + len(new)] = new
        return make("patched", bytes(data))

    host = os.uname().machine
    assert why(make("good", elf)) == f"ran: {3 << 8}"
    aarch64 = why(patched((18, struct.pack("<H", 183))))
    assert f"it is for aarch64, this worker is {host}" in aarch64
    assert "it is for arm," in why(patched((4, b"\x01"), (18, struct.pack("<H", 40))))
    assert "it is for s390x," in why(patched((5, b"\x02"), (18, struct.pack(">H", 22))))
    big = why(patched((5, b"\x02"), (18, struct.pack(">H", 183))))
    assert "it is for aarch64 (big endian)," in big
    assert "it is for machine 4660," in why(patched((18, struct.pack("<H", 4660))))
    assert "an object file" in why(patched((16, struct.pack("<H", 1))))
    assert "a core dump" in why(patched((16, struct.pack("<H", 4))))
    assert "cut short" in why(make("short", elf[:40]))


def test_a_32_bit_program(why: Why, make: Callable[..., Path]) -> None:
    """With IA32 emulation its loader is missing, without the kernel takes it for a foreign one."""
    loader = b"/lib/no-such-ld.so.2\0"
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048000, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    head += struct.pack("<8I", 3, 84, 0, 0, len(loader), len(loader), 4, 1)
    text = why(make("small", (head + loader).ljust(4_096, b"\0")))
    assert "for x86" in text
    assert "No such file" not in text or "'/lib/no-such-ld.so.2' is missing" in text


def test_a_loader_that_is_missing_or_none(
    why: Why, make: Callable[..., Path], elf: bytes, tmp_path: Path
) -> None:
    def with_loader(path: bytes) -> Path:
        assert GLIBC in elf
        return make("odd", elf.replace(GLIBC, path.ljust(len(GLIBC), b"\0"), 1))

    glibc = why(with_loader(b"/lib64/ld-linux-nope.so.2"))
    assert "loader '/lib64/ld-linux-nope.so.2' is missing" in glibc and "built for glibc" in glibc
    assert "built for musl" in why(with_loader(b"/lib/ld-musl-nope.so.1"))
    assert "loader '/etc/passwd' may not be executed" in why(with_loader(b"/etc/passwd"))
    script = make("l", b"#!/bin/sh\n")
    short = Path("/tmp") / f"corps-{os.getpid()}"
    short.symlink_to(script)
    try:
        assert f"its loader '{short}' is cut short" in why(with_loader(os.fsencode(short)))
        script.write_bytes(b"#!/bin/sh\n".ljust(4_096))
        assert "its loader is damaged" in why(with_loader(os.fsencode(short)))
    finally:
        short.unlink()


def test_somebody_writes_it(why: Why, make: Callable[..., Path], elf: bytes) -> None:
    path = make("busy", elf)
    with path.open("ab"):
        assert "open for writing" in why(path)
    assert why(path) == f"ran: {3 << 8}"


def test_too_many_words(why: Why) -> None:
    assert "its argument 2 has 131072 bytes" in why("/bin/true", "x", "y" * 131_072)
    env = {"PATH": "/bin", "BIG": "z" * 131_072}
    assert "its variable 'BIG' has 131076 bytes" in why("/bin/true", env=env)
    total = why("/bin/true", *(["w" * 100_000] * 30))
    assert "together (" in total and "a quarter" in total


def test_directories_that_cannot_be_entered(why: Why, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    assert "it is missing" in why("/bin/true", cwd=str(tmp_path / "gone"))
    assert "it is no directory" in why("/bin/true", cwd=str(tmp_path / "file"))
    assert f"'{tmp_path}/file' is no directory" in why("/bin/true", cwd=f"{tmp_path}/file/x")
    assert "too many symbolic links" in why("/bin/true", cwd=str(tmp_path / "loop"))


def test_what_another_user_may_not() -> None:
    """Really executed as that user, by the one call of Python that can."""
    base = Path(f"/tmp/corps-user-{os.getpid()}")
    base.mkdir(mode=0o755)
    program, closed = base / "program", base / "closed"
    try:
        program.write_bytes(b"#!/bin/sh\n")
        program.chmod(0o700)
        closed.mkdir(mode=0o700)
        (closed / "inner").write_bytes(b"#!/bin/sh\n")
        (closed / "inner").chmod(0o755)

        def why(path: Path) -> str:
            with pytest.raises(PermissionError):
                subprocess.run([path], user=NOBODY, group=NOBODY, extra_groups=[])
            what = Launched(str(path), uid=NOBODY, groups=(NOBODY,))
            return diagnose(what, "execve", errno.EACCES)

        assert f"uid {NOBODY} may not: it belongs to uid 0, mode 0700" in why(program)
        assert f"uid {NOBODY} may not enter '{closed}': its mode is 0700" in why(closed / "inner")
        enter = ["/bin/sh", "-c", f"cd {closed}"]
        assert subprocess.run(enter, user=NOBODY, capture_output=True).returncode != 0
        what = Launched("/bin/true", uid=NOBODY, groups=(NOBODY,), cwd=str(closed))
        entered = diagnose(what, "chdir", errno.EACCES)
        assert "cannot enter the directory" in entered and "may not enter it" in entered
    finally:
        for path in (program, closed / "inner"):
            path.unlink()
        closed.rmdir()
        base.rmdir()
