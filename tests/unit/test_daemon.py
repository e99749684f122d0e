"""What every daemon does at its start."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from corps.daemon import PR_SET_DUMPABLE, hide_memory

NOBODY = 65534


def test_a_daemon_is_not_to_be_looked_into_and_what_it_starts_is() -> None:
    """Of what may be dumped /proc/PID belongs to its user, of the rest to root (proc(5))."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            libc = ctypes.CDLL(None)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # setuid(2) has taken it away
            owners = [os.stat("/proc/self/mem").st_uid]
            hide_memory()
            owners.append(os.stat("/proc/self/mem").st_uid)
            os.write(write, repr(owners).encode())
            os.dup2(write, 1)
            os.execv("/usr/bin/stat", ["stat", "-c", " then %u", "/proc/self/mem"])
        finally:
            os._exit(1)
    os.close(write)
    assert os.waitpid(pid, 0)[1] == 0
    with os.fdopen(read) as said:
        assert said.read() == f"[{NOBODY}, 0] then {NOBODY}\n"


def test_it_dumps_no_core_whatever_its_limit_says() -> None:
    program = (
        "import os, resource; from corps.daemon import hide_memory; hide_memory();"
        "resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); os.abort()"
    )
    done = subprocess.Popen([sys.executable, "-c", program], cwd="/dev/shm")
    _, status = os.waitpid(done.pid, 0)
    done.returncode = status
    assert os.WIFSIGNALED(status) and not os.WCOREDUMP(status)
