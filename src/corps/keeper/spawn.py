"""From a Spawn message to a child at its gate, and from there to its program.

fork; gate (the attempt is in the journal now); log; chdir; mark the right to exec as used; execve.
What fails after the fork is told as `stage errno` in a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
import struct

from corps.keeper.journal import FAILED, UNUSED, USED, Attempt, Json, Launch
from corps.keeper.kernel import Fd

NOFILE = resource.getrlimit(resource.RLIMIT_NOFILE)  # before the keeper raises its own
FD_END = 1 << 20
SPARE_FDS = 64  # for pidfds of one batch, the journal, the worker
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
PLACE = struct.Struct("=Q")  # what goes through the gate: where the child's flag is


def prepare(message: Json) -> Launch:
    """All that the child needs, as bytes; ValueError says what can never be executed."""
    argv, env = message.get("argv"), message.get("env")
    if not isinstance(argv, list) or not argv:
        raise ValueError("argv must be a list, and not empty")
    if not isinstance(env, dict):
        raise ValueError("env must be an object")
    environment = {_bytes("env", name): _bytes("env", value) for name, value in env.items()}
    if any(not name or b"=" in name for name in environment):
        raise ValueError("env has a name that is empty or has a '='")
    names = ("path", "cwd", "stdout", "stderr")
    path, cwd, stdout, stderr = (_bytes(name, message.get(name)) for name in names)
    return path, [_bytes("argv", word) for word in argv], environment, cwd, stdout, stderr


def start(attempts: list[Attempt], journal: int) -> None:
    """Fork a child for each; it waits at its gate. One without pid has a failed_errno instead.

    The forks follow each other closely: after each, every page that the keeper touches costs it
    a page fault, so that a child alone costs twice as much as one of many.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FDS
    pipes = []
    for attempt in attempts:
        try:
            gate, status = list(map(Fd, os.pipe())), list(map(Fd, os.pipe()))
            if status[1].number >= limit:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pipes.append((attempt, gate, status))
        except OSError as error:
            attempt.failed_errno = error.errno
    for attempt, gate, status in pipes:
        try:
            attempt.pid = os.fork()
        except OSError as error:
            attempt.failed_errno = error.errno
            continue
        if attempt.pid == 0:
            try:
                _become(attempt.launch, gate[0].number, status[1].number, journal)
            finally:
                os._exit(126)
    for attempt, gate, status in pipes:
        if attempt.pid:
            attempt.gate, attempt.status_pipe = gate[1], status[0]
            os.set_blocking(status[0].number, False)
            with contextlib.suppress(OSError):
                attempt.pidfd = Fd(os.pidfd_open(attempt.pid))


def _become(launch: Launch, gate: int, status: int, journal: int) -> None:
    """In the child. Exec resets the signals: the keeper ignores none, it has handlers for them."""
    path, argv, env, cwd, stdout, stderr = launch
    stage, place = "gate", 0
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        low = 3
        for kept in sorted((gate, status, journal)):
            os.closerange(low, kept)
            low = kept + 1
        os.closerange(low, FD_END)
        resource.setrlimit(resource.RLIMIT_NOFILE, NOFILE)
        right = os.read(gate, PLACE.size)
        if not right:
            return  # the keeper died, or gave up
        (place,) = PLACE.unpack(right)
        stage = "log"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _open_log(stdout, 1)
        _open_log(stderr, 2)
        stage = "chdir"
        os.chdir(cwd)
        stage = "mark"  # the lock is held until exec closes `journal`: see Journal.revoke
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        if (
            os.pread(journal, 1, place)[0] != UNUSED
            or os.pwrite(journal, bytes([USED]), place) != 1
        ):
            return
        stage = "execve"
        os.execve(path, argv, env)
    except BaseException as error:
        if stage == "execve":
            os.pwrite(journal, bytes([FAILED]), place)
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        os.write(status, f"{stage} {number}".encode())


def _open_log(path: bytes, number: int) -> None:
    fd = os.open(path, LOG_FLAGS, 0o640)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.ENXIO, "not a regular file with one name")
    os.set_blocking(fd, True)
    os.dup2(fd, number)


def _bytes(name: str, value: object) -> bytes:
    """Bytes that are no UTF-8 travel as surrogates; UnicodeEncodeError is a ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text")
    data = value.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise ValueError(f"{name} has a NUL byte")
    return data
