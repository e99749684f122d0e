"""Who holds a lock is asked of the kernel, so real processes hold real locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM

from corps.cli.lock import Holder, holder, keeper_holder
from corps.daemon import hold_lock

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def _held(path: Path, function: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), function],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None
    assert keeper_holder(tmp_path / "lock") is None
    (tmp_path / "lock").touch()
    assert holder(tmp_path / "lock") is None
    assert keeper_holder(tmp_path / "lock") is None
    assert Holder.find(tmp_path / "lock", holder) is None


def test_the_holder_of_a_posix_lock_is_named_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _held(path, "lockf") as process:
        assert holder(path) == process.pid
        assert keeper_holder(path) is None
        found = Holder.find(path, holder)
        assert found is not None and not found.is_gone()
        found.send(SIGTERM)
        assert found.is_gone(10)
        assert process.wait(10) == -SIGTERM
        found.send(SIGKILL)
        found.close()
        assert holder(path) is None


def test_the_holder_of_a_bsd_lock_is_named_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "keeper.lock"
    with _held(path, "flock") as process:
        assert keeper_holder(path) == process.pid
        assert holder(path) is None
        found = Holder.find(path, keeper_holder)
        assert found is not None and found.pid == process.pid
        found.send(SIGKILL)
        assert found.is_gone(10)
        found.close()
        assert keeper_holder(path) is None


def test_the_lock_of_a_daemon_is_such_a_lock(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from corps.daemon import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1]), 'master'):\n"
        "    print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert holder(tmp_path / "lock") == process.pid
        process.kill()
    with hold_lock(tmp_path, "master"):
        pass
