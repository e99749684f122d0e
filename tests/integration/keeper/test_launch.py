"""What a launched program is born with, and how exactly a failed launch is told."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.wire import keeper as wire
from tests.integration.keeper.driver import ENCODER, Keeper, frame, status_of

Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]


def test_an_exit_status_and_the_usage_are_exact(keeper: Keeper, order: Order) -> None:
    keeper.link.send(order("app.1#1", "/bin/sh", "-c", "exit 3", note="kept as it is: \u00fc\n"))
    spawned = keeper.link.wait(wire.Spawned, "app.1#1")
    ended = keeper.link.ended("app.1#1")
    assert (ended.status, ended.is_live, ended.executed) == (status_of(3), False, True)
    assert (ended.failed_stage, ended.lost, ended.has_pidfd) == (None, None, False)
    assert (ended.pid, ended.note) == (spawned.pid, "kept as it is: \u00fc\n")
    assert ended.ended_at is not None
    assert ended.forked_at == spawned.forked_at <= spawned.executed_at <= ended.ended_at
    assert ended.usage is not None
    totals = keeper.link.wait(wire.TotalsNow).totals
    assert totals.children_dead == 1
    # A shell that only exits stays below the image that its keeper's child had before exec.
    assert 0 < ended.usage.floor_bytes <= ended.usage.max_rss_bytes
    assert ended.usage.max_rss_bytes < 1.05 * ended.usage.floor_bytes
    assert totals.max_rss_bytes == 0


@pytest.mark.parametrize("core_bytes", [0, 1 << 20])
def test_a_death_by_signal_has_the_core_flag_as_the_kernel_set_it(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path, core_bytes: int
) -> None:
    ended = keeper.link.run(order("app.1#1", built("crash"), str(core_bytes)))
    argv = ["env", "-C", str(tmp_path), built("crash"), str(core_bytes)]
    assert ended.status == os.waitpid(os.posix_spawn("/usr/bin/env", argv, {}), 0)[1]
    assert ended.status is not None
    assert ended.status & 0x7F == signal.SIGSEGV


def test_a_program_inherits_nothing_but_what_was_ordered(
    start: Callable[..., Keeper], order: Order, built: Built, tmp_path: Path
) -> None:
    limits = "trap '' HUP INT TERM PIPE USR2; exec 7</dev/null; ulimit -Sn 200; umask 027"
    keeper = start(limits=limits)
    env = {"B": "2 x\n", "A": "", "EMPTY": "=", "CORPS_TEST": str(tmp_path)}
    said = order("app.1#1", built("probe"), "", "*", "$HOME; x\n", env=env)
    assert keeper.link.run(said).status == 0
    facts = (tmp_path / "app.1.out").read_bytes()
    lines = facts.decode().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    for mask in ("SigBlk", "SigIgn", "SigCgt", "SigPnd"):
        assert int(fields[mask], 16) == 0, f"{mask} {fields[mask]}"
    assert [line for line in lines if line.startswith("fd:")] == ["fd:0", "fd:1", "fd:2"]
    assert (fields["open0"], fields["open1"]) == ("/dev/null", str(tmp_path / "app.1.out"))
    assert fields["open2"] == str(tmp_path / "app.1.err")
    assert fields["pid"] == fields["sid"] == fields["pgid"]
    assert fields["cwd"] == str(tmp_path)
    assert fields["nofile"] == f"200 {resource.getrlimit(resource.RLIMIT_NOFILE)[1]}"
    assert fields["umask"] == "27"
    argv = b"arg:%s\narg:\narg:*\narg:$HOME; x\n\n" % os.fsencode(built("probe"))
    assert argv + b"env:B=2 x\n\nenv:A=\nenv:EMPTY==\nenv:CORPS_TEST=" in facts
    assert facts.count(b"env:") == 4
    assert (tmp_path / "app.1.out").stat().st_mode & 0o777 == 0o640


def test_logs_are_appended_to_and_may_be_one_file(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    log = tmp_path / "both"
    log.write_text("before\n")
    script = "echo out; echo err >&2; echo out"
    said = order("app.1#1", "/bin/sh", "-c", script, stdout=str(log), stderr=str(log))
    keeper.link.run(said)
    assert log.read_text() == "before\nout\nerr\nout\n"


def _prepare(tmp_path: Path) -> None:
    """The bad things that the next test orders."""
    files = {
        "plain": ("echo no shebang\n", 0o755),
        "no_x": ("#!/bin/sh\n", 0o644),
        "lost": ("#!/nonexistent/interpreter\n", 0o755),
        "crlf": ("#!/bin/sh\r\n", 0o755),
        "empty": ("", 0o755),
        "target": ("", 0o644),
    }
    for name, (text, mode) in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "link").symlink_to("target")
    os.link(tmp_path / "target", tmp_path / "twin")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()


FAILURES: dict[str, tuple[str, int, dict[str, object]]] = {
    "missing": ("execve", errno.ENOENT, {"path": "nothing_here"}),
    "a file on the way": ("execve", errno.ENOTDIR, {"path": "plain/x"}),
    "no x bit": ("execve", errno.EACCES, {"path": "no_x"}),
    "directory": ("execve", errno.EACCES, {"path": "dir"}),
    "fifo": ("execve", errno.EACCES, {"path": "fifo"}),
    "no shebang": ("execve", errno.ENOEXEC, {"path": "plain"}),
    "empty file": ("execve", errno.ENOEXEC, {"path": "empty"}),
    "interpreter missing": ("execve", errno.ENOENT, {"path": "lost"}),
    "shebang with CRLF": ("execve", errno.ENOENT, {"path": "crlf"}),
    "name too long": ("execve", errno.ENAMETOOLONG, {"path": "x" * 256}),
    "empty path": ("execve", errno.ENOENT, {"path": ""}),
    "argument too big": ("execve", errno.E2BIG, {"argv": ("true", "x" * 131_072)}),
    "cwd missing": ("chdir", errno.ENOENT, {"cwd": "nothing_here"}),
    "cwd is a file": ("chdir", errno.ENOTDIR, {"cwd": "target"}),
    "cwd empty": ("chdir", errno.ENOENT, {"cwd": ""}),
    "log is a symlink": ("log", errno.ELOOP, {"stdout": "link"}),
    "log is a fifo": ("log", errno.ENXIO, {"stderr": "fifo"}),
    "log is a directory": ("log", errno.EISDIR, {"stdout": "dir"}),
    "log has two names": ("log", errno.ENXIO, {"stdout": "twin"}),
    "log is a device": ("log", errno.ENXIO, {"stdout": "/dev/null"}),
    "log directory missing": ("log", errno.ENOENT, {"stdout": "nothing/here"}),
}


def test_a_failed_launch_names_stage_and_errno(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    _prepare(tmp_path)
    expected = {}
    for number, (stage, code, fields) in enumerate(FAILURES.values(), 1):
        said: dict[str, object] = {
            name: str(tmp_path / value) if isinstance(value, str) and value else value
            for name, value in fields.items()
        }
        keeper.link.send(order(f"app.{number}#1", "/bin/true", **said))
        expected[f"app.{number}#1"] = (stage, code)
    found = {key: keeper.link.ended(key) for key in expected}
    assert {key: (one.failed_stage, one.failed_errno) for key, one in found.items()} == expected
    for ended in found.values():
        assert (ended.executed, ended.status, ended.lost, ended.usage) == (False, None, None, None)
    assert {key: keeper.link.listing()[key] for key in found} == found
    assert (tmp_path / "target").read_bytes() == b""


def test_a_fifo_with_a_reader_is_no_log_either(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    ended = keeper.link.run(order("app.1#1", "/bin/true", stdout=str(tmp_path / "fifo")))
    os.close(reader)
    assert (ended.failed_stage, ended.failed_errno) == ("log", errno.ENXIO)


REFUSED: dict[str, dict[str, object]] = {
    "NUL in argv": {"argv": ("true", "a\0b")},
    "NUL in path": {"path": "/bin/true\0"},
    "NUL in env": {"env": {"A": "\0"}},
    "empty argv": {"argv": ()},
    "env name empty": {"env": {"": "x"}},
    "env name with =": {"env": {"A=B": "x"}},
    "long note": {"note": "x" * 8_193},
}


def test_what_can_never_be_executed_is_refused(keeper: Keeper, order: Order) -> None:
    for number, fields in enumerate(REFUSED.values(), 1):
        keeper.link.send(order(f"app.{number}#1", "/bin/true", **fields))
        assert keeper.link.wait(wire.Refused, f"app.{number}#1").reason
    assert keeper.link.listing() == {}


def test_names_that_are_no_utf8_reach_the_kernel_as_they_are(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/odd\xff\xc3"
    os.link(built("probe"), odd)
    said = order("app.1#1", "/bin/true", stdout=str(tmp_path / "odd.out"))
    message = json.loads(ENCODER.encode(said)) | {"path": os.fsdecode(odd), "argv": ["x\udcff"]}
    keeper.link.send_raw(frame(json.dumps(message).encode()))
    assert keeper.link.ended("app.1#1").status == 0
    assert b"arg:x\xff\n" in (tmp_path / "odd.out").read_bytes()
    body = json.dumps(message | {"key": "app.2#1"}, ensure_ascii=False)
    keeper.link.send_raw(frame(body.encode("utf-8", "surrogateescape")))
    assert keeper.link.ended("app.2#1").status == 0
    message = message | {"key": "app.3#1", "note": "\udcff"}
    keeper.link.send_raw(frame(json.dumps(message).encode()))
    assert "utf-8" in keeper.link.wait(wire.Refused, "app.3#1").reason


def test_a_known_key_is_answered_and_never_run_again(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path
) -> None:
    script = f"echo ran >> {tmp_path}/runs"
    once = order("app.1#1", "/bin/sh", "-c", script)
    keeper.link.send(once, once, once)
    first = keeper.link.ended("app.1#1")
    keeper.link.send(once)
    assert keeper.link.ended("app.1#1") == first
    lives = order("app.2#1", built("wait"))
    spawned = keeper.link.spawn(lives)
    assert keeper.link.spawn(lives) == spawned
    assert keeper.link.pidfds["app.2#1"] >= 0
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_no_descriptor_left_is_a_failed_fork_and_others_live_on(
    start: Callable[..., Keeper], order: Order, built: Built
) -> None:
    keeper = start(limits="ulimit -n 120")
    keys = [f"app.{number}#1" for number in range(1, 100)]
    keeper.link.send(*(order(key, built("wait")) for key in keys))
    failed = keeper.link.wait(wire.Ended).attempt  # which one depends on how they are read
    assert (failed.failed_stage, failed.failed_errno) == ("fork", errno.EMFILE)
    assert (failed.pid, failed.executed) == (0, False)
    listing = keeper.link.listing()
    living = [key for key in keys if listing[key].is_live]
    assert 10 < len(living) < 99
    assert keeper.link.signal(living[0], signal.SIGTERM) == 0
    assert keeper.link.ended(living[0]).status == signal.SIGTERM


def test_a_launch_that_hangs_is_killed_and_a_stop_waits_for_its_program(
    start: Callable[..., Keeper], order: Order, built: Built, tmp_path: Path
) -> None:
    """A write lease makes execve(2) wait in open, fcntl(2)."""
    keeper = start("--launch-s=1.0")
    slow = tmp_path / "slow"
    slow.write_bytes(Path(built("wait")).read_bytes())
    slow.chmod(0o755)
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    lease = os.open(slow, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    keeper.link.send(order("app.1#1", str(slow)), order("app.2#1", "/bin/true"))
    assert keeper.link.ended("app.2#1").status == 0, "one that hangs holds up no other"
    flying = keeper.link.listing()["app.1#1"]
    assert (flying.is_live, flying.executed, flying.has_pidfd) == (True, False, True)
    keeper.link.send(wire.SendSignal(key="app.1#1", signal=signal.SIGINT))
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    os.close(lease)
    ended = keeper.link.ended("app.1#1")
    assert (ended.status, [one.signal for one in ended.signals]) == (signal.SIGINT, [signal.SIGINT])
    assert keeper.link.wait(wire.Signaled, "app.1#1").errno == 0

    lease = os.open(slow, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    keeper.link.send(order("app.3#1", str(slow)))
    keeper.link.send(wire.SendSignal(key="app.3#1", signal=signal.SIGTERM))
    late = keeper.link.ended("app.3#1")
    assert (late.status, late.executed) == (signal.SIGKILL, True), "it may have run"
    assert late.deadline_s == 1.0, "not a stranger's signal: the keeper's own deadline"
    assert keeper.link.wait(wire.Signaled, "app.3#1").errno == errno.ESRCH
    keeper.link.send(order("app.4#1", str(slow)))
    assert keeper.link.signal("app.4#1", signal.SIGKILL) == 0, "SIGKILL waits for nothing"
    killed = keeper.link.ended("app.4#1")
    if killed.executed:
        assert killed.status == signal.SIGKILL
    else:
        assert (killed.status, killed.failed_stage) == (None, "killed_before_exec")
    os.close(lease)
    signal.signal(signal.SIGIO, handler)
