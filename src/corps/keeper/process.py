"""Processes: a child from its fork to its program, and any process known by a pidfd.

fork (into its group); gate (the attempt is in the journal now); log; work; nice, umask, limits,
user; chdir; mark the right to exec as used; execve. What fails in the child is told as `stage
errno` in a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import stat
import struct
import time

from corps.keeper.limits import NOFILE, TERMS, Json
from corps.keeper.secrets import give, out_of_the_way
from corps.keeper.users import LIBC

TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from corps.keeper.cgroup import Made
    from corps.keeper.rules import Rules

UNUSED, USED, FAILED, REVOKED, USING = range(5)  # the right to exec, a flag in the journal
MARK = struct.Struct(">BI")  # the flag, and the resident set in KiB before exec
PLACE = struct.Struct("=Q")  # what goes through the gate: where the flag is
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
AGAIN_S = (0.1, 0.4, 1.6)  # between four tries to execute
SPARE_FDS, FD_END = 64, 1 << 20
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
KEY_MAX = 200
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), Linux >= 6.13
PIDFD_INFO = struct.Struct("=Q52xi")  # mask first, exit_code last
PIDFD_INFO_EXIT = 1 << 3  # Linux >= 6.15, and only once the process is reaped
STARTED, EXIT_CODE = 22, 52  # fields of /proc/PID/stat, proc_pid_stat(5)
GONE = (errno.ESRCH, errno.EINVAL, errno.ENOENT)  # no such process, or now a mere thread
HIDDEN = (errno.EACCES, errno.EPERM)  # another user's, or made so by a setuid program

CLONE3, CLONE_PIDFD, CLONE_INTO_CGROUP = 435, 0x1000, 0x200000000
CLONE_ARGS = struct.Struct("=11Q")  # clone3(2): flags, pidfd, 2 more, exit_signal, 5 more, cgroup


def _is_spared() -> bool:
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read()) < 0


IS_SPARED = _is_spared()  # by the OOM killer, as its unit has it


class Fd:
    """A descriptor that closes with its last reference: never while a message waits with it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Child:
    """What this keeper holds of a living attempt. `pipe` is there until it has executed."""

    errno, report, doom, deadline, floor_bytes = 0, b"", "killed_before_exec", float("inf"), 0
    pidfd: Fd | None = None
    gate: Fd | None = None
    pipe: Fd | None = None
    waiting: tuple[int, ...] = ()  # signals for when it has executed
    over: Json | None = None  # facts of its tree, once that is over

    def __init__(self, key: str, pid: int = 0) -> None:
        self.key, self.pid = key, pid
        self.usage: Json = {}  # of it and of its orphans that are reaped
        self.terms: Json = {}  # groups, tree, enforced, keeps_children: as the journal has them


class Launch:
    """What a child needs, as bytes. `secrets`: file, number or neither, and the value."""

    secrets: tuple[tuple[str | None, int | None, bytes], ...] = ()
    secrets_in = ""

    rules: Rules | None = None

    def __init__(self, message: Json) -> None:
        names = ("path", "cwd", "stdout", "stderr")
        self.path, self.cwd, self.stdout, self.stderr = (_bytes(message[name]) for name in names)
        self.argv = [_bytes(word) for word in message["argv"]]
        self.env = {_bytes(name): _bytes(value) for name, value in message["env"].items()}
        self.message = message


def prepare(message: Json) -> Launch:
    """ValueError says what can never be executed."""
    launch = Launch(message)
    if not launch.argv or any(not name or b"=" in name for name in launch.env):
        raise ValueError("argv is empty, or a name in env is or has a '='")
    return launch


def start(key: str, launch: Launch, journal: int, groups: Made) -> Child:
    """Fork a child that waits at its gate. One without a pid has an errno instead."""
    child = Child(key)
    child.terms, child.errno = groups.terms, groups.errno
    if child.errno:
        child.doom = "cgroup"
        return child
    try:
        gate, pipe = [Fd(fd) for fd in os.pipe()], [Fd(fd) for fd in os.pipe()]
        if pipe[1].number >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FDS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        child.pid, child.pidfd = fork(groups.birthplace)
    except OSError as error:
        child.errno, child.doom = error.errno or errno.EAGAIN, "fork"
        return child
    if child.pid == 0:
        try:
            _become(launch, groups.to_join, gate[0].number, pipe[1].number, journal)
        finally:
            os._exit(126)
    child.gate, child.pipe = gate[1], pipe[0]
    os.set_blocking(pipe[0].number, False)
    return child


def fork(group: str) -> tuple[int, Fd | None]:
    """A child and its pidfd, born in this group: to move it there later would cost more than the
    fork. A group on which cgroup.kill was ever written would kill it at birth (Linux 6.18)."""
    if not group:
        pid = os.fork()
        with contextlib.suppress(OSError):
            return pid, Fd(os.pidfd_open(pid)) if pid else None
        return pid, None
    at = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pidfd = ctypes.c_int()
    args = CLONE_ARGS.pack(
        CLONE_PIDFD | CLONE_INTO_CGROUP,
        ctypes.addressof(pidfd),
        *(0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0),
        at,
    )
    pid = LIBC.syscall(CLONE3, args, CLONE_ARGS.size)
    if pid == 0:
        return 0, None
    os.close(at)
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return pid, Fd(pidfd.value)


def _become(launch: Launch, groups: list[str], gate: int, status: int, journal: int) -> None:
    """In the child. Exec resets the signals: the keeper ignores none, it has handlers for them."""
    stage, place = "cgroup", 0
    try:
        signal.set_wakeup_fd(-1)
        for group in groups:
            fd = os.open(f"{group}/cgroup.procs", os.O_WRONLY)
            os.write(fd, b"0")
        stage = "gate"
        os.setsid()
        gate, status, journal = out_of_the_way(launch, (gate, status, journal))
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
        _open_logs(launch)
        stage = "oom"
        _be_as_killable_as_others()
        stage = "work"
        if launch.rules and launch.message["work"]:
            uid, gid = launch.message["uid"], launch.message["gid"]
            launch.rules.give(launch.message["work"], uid, gid)
        stage = "secrets"
        give(launch)
        for name, accept in TERMS:
            stage = name
            accept(launch.message)
        stage = "chdir"
        os.chdir(launch.cwd)
        floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        stage = "mark"  # the lock is held until exec closes `journal`
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        if (
            os.pread(journal, 1, place)[0] != UNUSED
            or os.pwrite(journal, MARK.pack(USED, floor), place) != MARK.size
        ):
            return
        stage = "execve"
        _execute(launch)
    except (OSError, MemoryError) as error:
        if stage == "execve":
            os.pwrite(journal, bytes([FAILED]), place)
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ENOMEM
        os.write(status, f"{stage} {number}".encode())


def _execute(launch: Launch) -> None:
    """Its user may have too many processes just now, execve(2): EAGAIN."""
    for pause_s in AGAIN_S:
        with contextlib.suppress(BlockingIOError):
            os.execve(launch.path, launch.argv, launch.env)
        time.sleep(pause_s)
    os.execve(launch.path, launch.argv, launch.env)


def _open_logs(launch: Launch) -> None:
    """In the child. Where the worker has less rights than we, with its rights."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if launch.rules:
        launch.rules.enter()
    for number, path in ((1, launch.stdout), (2, launch.stderr)):
        fd = os.open(path, LOG_FLAGS, 0o640)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.ENXIO, "not a regular file with one name")
        os.set_blocking(fd, True)
        os.dup2(fd, number)
    if launch.rules:
        launch.rules.leave()


def _be_as_killable_as_others() -> None:
    """In the child: when memory is short the keeper is not to go, but its programs may."""
    if not IS_SPARED:
        return
    is_dumpable = LIBC.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)  # else the file is root's
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")
    LIBC.prctl(PR_SET_DUMPABLE, is_dumpable, 0, 0, 0)


def add(total: Json, usage: Json) -> None:
    """CPU is a sum, the resident set a maximum; the floor is the leader's."""
    for name in ("cpu_user_s", "cpu_system_s"):
        total[name] = round(total.get(name, 0.0) + usage[name], 6)
    for name in ("max_rss_bytes", "floor_bytes"):
        total[name] = max(total.get(name, 0), usage[name])


def revoke(journal: int, place: int) -> int:
    """Take an unused right to exec from a child whose keeper died; return how it stands."""
    with contextlib.suppress(BlockingIOError):  # locked: execve has neither failed nor succeeded
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        if os.pread(journal, 1, place)[0] == UNUSED:
            os.pwrite(journal, bytes([REVOKED]), place)
        fcntl.lockf(journal, fcntl.LOCK_UN, 1, place)
        return os.pread(journal, 1, place)[0]
    return USING


def check_key(key: str) -> None:
    if not (0 < len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
        raise ValueError("a key that is none")


def deliver(pidfd: Fd, number: int) -> None:
    """Raise OSError. A stopped process acts on a signal that is to end it only when it runs."""
    signal.pidfd_send_signal(pidfd.number, number)
    if number in ENDING:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd.number, signal.SIGCONT)


def ended(pidfd: Fd) -> int:
    """0 while the process lives; then POLLIN, and POLLHUP as well when it is reaped."""
    poll = select.poll()
    poll.register(pidfd.number, select.POLLIN)
    return sum(events for _, events in poll.poll(0))


def identity(pid: int, pidfd: Fd, is_new_kernel: bool) -> int:
    """The inode of its pidfd; negative: when it started, in ticks."""
    return os.fstat(pidfd.number).st_ino if is_new_kernel else -_stat(pid, STARTED)


def find(pid: int, key: str, known: int) -> Fd | None:
    """The process of an attempt, unless it is reaped. Known by its start it must name itself."""
    try:
        pidfd = Fd(os.pidfd_open(pid))
        is_it = identity(pid, pidfd, known > 0) == known
        if known < 0:
            is_it &= has_begun(pid, key)
        return pidfd if is_it else None
    except OSError as error:
        if error.errno in GONE + HIDDEN:
            return None
        raise


def has_begun(pid: int, key: str) -> bool:
    """It runs its program: before exec it has the keeper's environment, which is empty."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
        return f"CORPS_ATTEMPT={key}".encode() in file.read().split(b"\0")
    return False


def exit_status(pid: int, pidfd: int) -> int | None:
    """The wait status of an ended process that is no child of ours; None if it cannot be known.

    The kernel tells it once the process is reaped. Until then /proc/PID/stat has it, and a pidfd
    that can be signalled afterwards proves that the pid still was this process.
    """
    with contextlib.suppress(OSError):  # a kernel without PIDFD_GET_INFO
        for _ in range(2):
            info = bytearray(PIDFD_INFO.pack(PIDFD_INFO_EXIT, 0))
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
            mask, status = PIDFD_INFO.unpack(info)
            if mask & PIDFD_INFO_EXIT:
                return int(status)
            with contextlib.suppress(OSError):
                with contextlib.suppress(FileNotFoundError):  # a zombie has no cwd,
                    os.readlink(f"/proc/{pid}/cwd")  # but to whom it is hidden its status is 0
                status = _stat(pid, EXIT_CODE)
                signal.pidfd_send_signal(pidfd, 0)
                return status
    return None


def _stat(pid: int, field: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[field - 3])


def _bytes(value: object) -> bytes:
    """Bytes that are no UTF-8 travel as surrogates; UnicodeEncodeError is a ValueError."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else b"\0"
    if b"\0" in data:
        raise ValueError("a value is no text, or has a NUL")
    return data
