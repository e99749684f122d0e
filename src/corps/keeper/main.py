"""The keeper: the tiny process that forks, execs and reaps for one worker, and outlives it.

    PYTHON -I -S -E -c "import sys; sys.path.insert(0, SRC); from corps.keeper.main import main; \\
        main()" DIR [--durable] [--lost-status] [--idle-s=SECONDS] [--launch-s=SECONDS]

`command` makes this argv. DIR has keeper.lock, keeper.sock and journal. The messages are those of
corps/wire/keeper.py. Standard library only; one epoll loop, in which nothing waits for anybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

from corps.keeper.children import NEVER, Children, told
from corps.keeper.journal import Journal, Json
from corps.keeper.kernel import Fd, Poll, log
from corps.keeper.link import Link
from corps.keeper.spawn import FD_END

PR_SET_CHILD_SUBREAPER = 36
LAUNCH_MAX_S = 30.0
IDLE_S = 60.0
FLYING_MAX = 128
TURN_MAX = 32  # requests between two looks at everything else
PART_MAX, PART_BYTES = 200, 256 << 10  # of a listing; SCM_RIGHTS takes 253 descriptors


def command(python: str, directory: str) -> list[str]:
    """The argv of a keeper on `directory`."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {source!r}); "
    code += "from corps.keeper.main import main; main()"
    return [python, "-I", "-S", "-E", "-c", code, directory]


def main() -> None:
    """Serve until Quit, SIGTERM or idleness; status 1 when the directory cannot be served."""
    directory, *options = sys.argv[1:]
    try:
        os.chdir(directory)
        keeper = Keeper(options)
    except OSError as error:
        sys.exit(f"corps keeper: {directory}: {error}")
    keeper.run()


class Keeper:
    """The loop: requests of the one worker in, what happens to its children out."""

    def __init__(self, options: list[str]) -> None:
        _settle_down()
        self._lock = Fd(os.open("keeper.lock", os.O_RDWR | os.O_CREAT, 0o600))
        try:
            fcntl.flock(self._lock.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError("another keeper serves this directory") from None
        self._floor_bytes, has_pidfs = _probe()
        self._idle_s = _seconds(options, "--idle-s=", IDLE_S)
        self._idle_at = NEVER
        self._is_done = self._is_told_to_end = self._is_behind = False
        self._link: Link | None = None
        self._poll = Poll()
        wakeup, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._told_to_end)
        self._poll.watch(wakeup, lambda: self._woken(wakeup))
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        self._journal = Journal(boot, is_durable="--durable" in options)
        has_pidfs &= "--lost-status" not in options
        launch_s = _seconds(options, "--launch-s=", LAUNCH_MAX_S)
        self._children = Children(self._journal, self._poll, has_pidfs, launch_s, self._send)
        self._children.take_over()
        self._listener = _listen()
        self._poll.watch(self._listener.fileno(), self._accept)

    def run(self) -> None:
        while not self._is_done:
            self._poll.turn(self._timeout_s())
            self._answer()
            self._children.fork_all()
            self._look_at_the_clock()
            self._children.commit()
            self._flush()
        with contextlib.suppress(FileNotFoundError):
            os.unlink("keeper.sock")

    def _timeout_s(self) -> float:
        if self._is_behind and len(self._children.flying) < FLYING_MAX:
            return 0
        next_at = min(self._idle_at, self._children.next_deadline())
        return -1 if next_at == NEVER else max(0.0, next_at - time.monotonic())

    def _answer(self) -> None:
        """Some of the requests that are here; none while too many children fly."""
        for _ in range(TURN_MAX):
            self._is_behind = self._link is not None
            if self._link is None or self._is_done or len(self._children.flying) >= FLYING_MAX:
                return
            try:
                message = self._link.next()
            except ValueError as error:
                log(f"bad frame: {error}")
                self._hang_up()
                return
            if message is None:
                self._is_behind = False
                return
            self._request(message)

    def _request(self, message: Json) -> None:
        refused: str | None = None
        if message.get("type") != "spawn":
            self._children.fork_all()
        match message.get("type"):
            case "spawn":
                refused = self._children.spawn(message)
            case "signal":
                refused = self._children.signal(message)
            case "forget":
                self._children.forget(message)
            case "list":
                if self._link:
                    self._link.listings.append(self._parts())
            case "quit" if self._journal.living:
                refused = f"{self._journal.living} children live"
            case "quit":
                self._is_done = True
            case unknown:
                log(f"unknown request {unknown!r}")
                self._hang_up()
        if refused:
            key = message.get("key")
            key = key if isinstance(key, str) and key.isascii() else None
            self._send({"type": "refused", "key": key, "reason": refused})

    def _parts(self) -> Iterator[tuple[Json, list[Fd]]]:
        keys = list(reversed(self._journal.table))
        is_last = False
        while not is_last:
            part: list[Json] = []
            pidfds: list[Fd] = []
            size = 0
            while keys and len(part) < PART_MAX and size < PART_BYTES:
                if attempt := self._journal.table.get(keys.pop()):
                    part.append(told(attempt))
                    pidfds += [attempt.pidfd] if attempt.pidfd else []
                    size += len(attempt.note)
            is_last = not keys
            listing: Json = {"type": "listing", "attempts": part, "totals": self._journal.totals}
            listing |= {"keeper_pid": os.getpid(), "floor_bytes": self._floor_bytes}
            yield listing | {"is_last": is_last}, pidfds

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        self._children.end_late_launches(now)
        living = self._journal.living
        self._idle_at = NEVER if self._link or living else min(self._idle_at, now + self._idle_s)
        if self._is_told_to_end and living:
            log(f"SIGTERM: not ending, {living} children live")
        self._is_done |= now >= self._idle_at or (self._is_told_to_end and not living)
        self._is_told_to_end = False

    def _told_to_end(self, *_: object) -> None:
        self._is_told_to_end = True

    def _woken(self, wakeup: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup, 4096)
        self._children.reap()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("=3i", peer)[1] not in (0, os.getuid()):
                log("a stranger was turned away")
                return
            self._hang_up()
            self._link = Link(connection)
            self._poll.watch(connection.fileno(), self._receive)

    def _receive(self) -> None:
        if self._link and not self._link.read():
            self._hang_up()

    def _hang_up(self) -> None:
        if self._link:
            self._poll.unwatch(self._link.socket.fileno())
            self._link.socket.close()
            self._link = None

    def _send(self, message: Json, pidfd: Fd | None = None) -> None:
        if self._link:
            self._link.send(message, [pidfd] if pidfd else [])

    def _flush(self) -> None:
        if self._link and not self._link.flush():
            self._hang_up()
        if self._link:
            wanted = 0 if self._is_behind else select.EPOLLIN
            wanted |= select.EPOLLOUT if self._link.queued_bytes else 0
            self._poll.epoll.modify(self._link.socket.fileno(), wanted)


def _seconds(options: list[str], name: str, default: float) -> float:
    return next((float(text[len(name) :]) for text in options if text.startswith(name)), default)


def _settle_down() -> None:
    """A session of its own, and nothing inherited that a child would inherit in turn."""
    os.closerange(3, FD_END)
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)
    with contextlib.suppress(PermissionError):
        os.setsid()
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    for name in ("SIGHUP", "SIGINT", "SIGPIPE", "SIGXFSZ", "SIGCHLD"):
        signal.signal(signal.Signals[name], lambda *_: None)  # unlike SIG_IGN, gone after exec
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    gc.disable()
    gc.freeze()


def _probe() -> tuple[int, bool]:
    """The resident set that a child has before exec; whether a pidfd's inode names its process."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfds = [Fd(os.pidfd_open(one)) for one in (pid, os.getpid())]
    pidfds = [Fd(os.pidfd_open(one)) for one in (pid, os.getpid())]
    inodes = {os.fstat(pidfd.number).st_ino for pidfd in pidfds}
    return os.wait4(pid, 0)[2].ru_maxrss * 1024, len(inodes) == 2


def _listen() -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink("keeper.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    listener.bind("keeper.sock")
    os.umask(mask)
    listener.listen()
    return listener
