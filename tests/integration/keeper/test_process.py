"""The right to exec, and processes known by a pidfd, without a keeper around them."""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from corps.keeper import process
from corps.keeper.cgroup import Made
from corps.keeper.process import FAILED, REVOKED, UNUSED, USED, USING, Child, Fd
from corps.wire import keeper as wire
from tests.integration.keeper.driver import status_of
from tests.support.waiting import until

PLACE = 5


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "journal", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, bytes(16), 0)
    yield fd
    os.close(fd)


@pytest.fixture
def start(journal: int, tmp_path: Path) -> Callable[..., Child]:
    """A child at its gate that would write `ran` to a file."""

    def make(path: str = "/bin/sh") -> Child:
        out, argv = str(tmp_path / "out"), ("sh", "-c", "echo ran; exit 3")
        said = wire.Spawn(
            key="app.1#1", path=path, argv=argv, env={}, cwd="/", stdout=out, stderr=out
        )
        launch = process.prepare(msgspec.to_builtins(said))
        child = process.start("app.1#1", launch, journal, Made([], {}))
        assert child.pid and child.pidfd and child.gate and child.pipe
        return child

    return make


def _open_gate(child: Child) -> int:
    assert child.gate
    os.write(child.gate.number, process.PLACE.pack(PLACE))
    return os.waitpid(child.pid, 0)[1]


def _report(child: Child) -> bytes:
    assert child.pipe
    return os.read(child.pipe.number, 64)


def _flag(journal: int) -> int:
    return os.pread(journal, 1, PLACE)[0]


def test_through_its_gate_a_child_uses_its_right_and_runs(
    start: Callable[..., Child], journal: int, tmp_path: Path
) -> None:
    child = start()
    assert _flag(journal) == UNUSED
    assert not (tmp_path / "out").exists(), "nothing is opened before the gate"
    assert _open_gate(child) == status_of(3)
    assert (_report(child), _flag(journal)) == (b"", USED)
    assert (tmp_path / "out").read_text() == "ran\n"


def test_a_gate_that_closes_ends_the_child_unexecuted(
    start: Callable[..., Child], journal: int
) -> None:
    child = start()
    child.gate = None
    assert os.waitpid(child.pid, 0)[1] == status_of(126)
    assert (_report(child), _flag(journal)) == (b"", UNUSED)


def test_a_revoked_right_ends_the_child_unexecuted(
    start: Callable[..., Child], journal: int, tmp_path: Path
) -> None:
    child = start()
    assert process.revoke(journal, PLACE) == REVOKED
    assert _open_gate(child) == status_of(126)
    assert (_report(child), _flag(journal)) == (b"", REVOKED)
    assert (tmp_path / "out").read_text() == ""
    assert process.revoke(journal, PLACE) == REVOKED


def test_a_right_that_is_used_or_just_being_used_cannot_be_revoked(journal: int) -> None:
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done_w)
        fcntl.lockf(journal, fcntl.LOCK_EX, 1, PLACE)
        os.write(ready_w, b"x")
        os.read(done_r, 1)
        os._exit(0)
    os.read(ready_r, 1)
    assert process.revoke(journal, PLACE) == USING
    assert _flag(journal) == UNUSED, "the child decides"
    os.close(done_w)
    os.waitpid(pid, 0)
    os.pwrite(journal, bytes([USED]), PLACE)
    assert process.revoke(journal, PLACE) == USED
    for fd in (ready_r, ready_w, done_r):
        os.close(fd)


def test_a_failed_exec_is_told_and_marked(start: Callable[..., Child], journal: int) -> None:
    child = start("/nowhere")
    assert _open_gate(child) == status_of(126)
    assert (_report(child), _flag(journal)) == (b"execve 2", FAILED)


def test_a_failed_exec_is_marked_even_if_nobody_hears_it(
    start: Callable[..., Child], journal: int
) -> None:
    child = start("/nowhere")
    child.pipe = None
    assert _open_gate(child) == status_of(126)
    assert _flag(journal) == FAILED


def test_a_child_killed_at_its_gate_has_not_used_its_right(
    start: Callable[..., Child], journal: int
) -> None:
    child = start()
    os.kill(child.pid, signal.SIGKILL)
    assert os.waitpid(child.pid, 0)[1] == signal.SIGKILL
    assert (_report(child), _flag(journal)) == (b"", UNUSED)


@pytest.mark.parametrize("status", [status_of(0), status_of(42), status_of(255), signal.SIGKILL])
def test_the_status_of_a_process_is_read_from_its_pidfd(status: int) -> None:
    gate_r, gate_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate_w)
        os.read(gate_r, 1)
        os._exit(status >> 8)
    pidfd = Fd(os.pidfd_open(pid))
    assert process.ended(pidfd) == 0
    if status & 0x7F:
        os.kill(pid, status & 0x7F)
    os.close(gate_w)
    os.close(gate_r)
    until(lambda: process.ended(pidfd))
    assert process.exit_status(pid, pidfd.number) == status, "a zombie"
    assert os.waitpid(pid, 0)[1] == status
    assert process.ended(pidfd) == select.POLLIN | select.POLLHUP
    assert process.exit_status(pid, pidfd.number) == status, "reaped"


@pytest.mark.parametrize("is_new_kernel", [True, False])
def test_a_process_is_found_by_its_identity_only(is_new_kernel: bool) -> None:
    key = "app.1#1"
    env = {"CORPS_ATTEMPT": key}
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], env)
    pidfd = Fd(os.pidfd_open(pid))
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    known = process.identity(pid, pidfd, is_new_kernel)
    assert (known > 0) == is_new_kernel
    assert process.find(pid, key, known) is not None
    assert process.find(pid, key, known + (1 if known > 0 else -1)) is None
    assert process.find(pid, key, 0) is None
    assert (process.find(pid, "app.1#2", known) is None) != is_new_kernel
    assert process.find(os.getpid(), key, known) is None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert process.find(pid, key, known) is None


@pytest.mark.root
def test_a_status_that_proc_hides_is_not_taken_for_a_zero() -> None:
    """proc_pid_stat(5): without ptrace access the exit code is shown as 0."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    pidfd = Fd(os.pidfd_open(pid))
    until(lambda: process.ended(pidfd) == select.POLLIN)
    looker = os.fork()
    if looker == 0:
        code = 99
        try:
            os.setresuid(65_534, 65_534, 65_534)
            code = 1 if process.exit_status(pid, pidfd.number) is None else 0
        finally:
            os._exit(code)
    assert os.waitpid(looker, 0)[1] == status_of(1)
    assert process.exit_status(pid, pidfd.number) == status_of(7)
    os.waitpid(pid, 0)
