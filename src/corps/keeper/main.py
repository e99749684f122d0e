"""The keeper: the tiny process that forks, execs and reaps for one worker, and outlives it.

    PYTHON -I -S -E -c "import sys; sys.path.insert(0, SRC); from corps.keeper.main import main; \\
        main()" DIR [OPTION...]

`command` makes this argv. Options: --durable --copied --lost-status --no-cgroup --no-controllers
--nice=N --idle-s=SECONDS --launch-s=SECONDS; --worker=USER --policy=FILE where the worker is
without rights, and rules.py decides. DIR has keeper.lock, keeper.sock and journal. The messages are
those of corps/wire/keeper.py. Standard library only. One epoll loop, in which nothing waits for
anybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections import deque

from corps.keeper import process
from corps.keeper.cgroup import Groups, homes
from corps.keeper.children import Children
from corps.keeper.journal import Journal, encode, log
from corps.keeper.limits import Json
from corps.keeper.process import Fd

LAUNCH_MAX_S, IDLE_MAX_S, LOOK_S = 30.0, 60.0, 1.0
FLYING_MAX = 128  # children between fork and exec
FRAME_MAX_BYTES, QUEUE_MAX_BYTES, READ_BYTES = 4 << 20, 64 << 20, 64 << 10
PART_MAX, PART_BYTES = 200, 256 << 10  # of a listing; SCM_RIGHTS takes 253 descriptors
POLICY = "/etc/corps/worker-policy.toml"
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
RT_SIGACTION = {"x86_64": 13, "aarch64": 134}  # the number of rt_sigaction(2)
SIGACTION_BYTES = 32  # of the kernel's struct: all zero is SIG_DFL
NONE = type(None)
SHAPES: dict[str, dict[str, tuple[type, ...]]] = {
    "spawn": dict.fromkeys(("key", "path", "cwd", "stdout", "stderr", "note", "work"), (str,))
    | {"argv": (list,), "env": (dict,), "rlimits": (dict,), "groups": (list,), "watched": (list,)}
    | {"secrets": (list,)}
    | dict.fromkeys(("uid", "gid", "nice", "umask", "memory_bytes", "pids"), (int, NONE))
    | {"cpus": (float, NONE), "keeps_children": (bool,), "new_privileges": (bool,)},
    "signal": {"key": (str,), "signal": (int,), "note": (str,)},
    "forget": {"keys": (list,)},
    "list": {},
    "clear": {"directory": (str,)},
    "quit": {},
}


def command(python: str, directory: str) -> list[str]:
    """The argv of a keeper on `directory`."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.insert(0, {source!r}); "
    code += "from corps.keeper.main import main; main()"
    return [python, "-I", "-S", "-E", "-c", code, directory]


def main() -> None:
    """Serve until Quit, SIGTERM or idleness. Status 5: another keeper serves it; 1: it cannot."""
    directory, *options = sys.argv[1:]
    try:
        os.chdir(directory)
        keeper = Keeper(options)
    except OSError as error:
        log(f"{directory}: {error}")
        sys.exit(5 if isinstance(error, BlockingIOError) else 1)
    keeper.run()


class Keeper:
    """The loop: what its one worker asks, what its children do."""

    def __init__(self, options: list[str]) -> None:
        _settle_down()
        nice = _seconds(options, "--nice=", os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, 0, int(nice))
        self._lock = Fd(os.open("keeper.lock", os.O_RDWR | os.O_CREAT, 0o600))
        try:
            fcntl.flock(self._lock.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError("another keeper serves this directory") from None
        is_new_kernel = _has_pidfs()
        self._idle_s = _seconds(options, "--idle-s=", IDLE_MAX_S)
        self._idle_at = time.monotonic() + self._idle_s
        self._is_done = self._is_told_to_end = False
        self._notify_at = 0.0
        self._link: socket.socket | None = None
        self._inbox, self._queued_bytes = bytearray(), 0
        self._outbox: deque[tuple[bytes, list[Fd]]] = deque()
        self._wakeup, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._told_to_end)
        with open("/proc/sys/kernel/random/boot_id") as file:
            self._journal = Journal(file.read().strip(), "--durable" in options)
        is_new_kernel &= "--lost-status" not in options
        launch_s = _seconds(options, "--launch-s=", LAUNCH_MAX_S)
        has_limits = "--no-controllers" not in options
        self._groups = Groups(_places(), "--no-cgroup" not in options, has_limits)
        self._children = Children(self._journal, self._groups, self._send, is_new_kernel, launch_s)
        self._children.take_over("--copied" in options)
        self._children.secrets.clean(self._journal.living)
        self._welcome = [0, os.getuid()]
        if worker := _text(options, "--worker="):
            self._hold_to_rules(worker, _text(options, "--policy=") or POLICY)
        self._listener = _listen(self._welcome[-1])
        self._epoll = select.epoll()
        for fd in (self._wakeup, self._children.epoll.fileno(), self._listener.fileno()):
            self._epoll.register(fd, select.EPOLLIN)

    def _hold_to_rules(self, worker: str, policy: str) -> None:
        from corps.keeper.clearing import Clearing  # noqa: PLC0415  # a megabyte, for these only
        from corps.keeper.rules import Rules  # noqa: PLC0415  # a megabyte, for these only

        rules = Rules(worker, policy)
        self._children.rules = rules
        self._children.clearing = Clearing(rules, self._tell_cleared)
        self._welcome.append(rules.uid)

    def run(self) -> None:
        _notify("READY=1")
        while not self._is_done:
            ready = dict(self._epoll.poll(self._timeout_s()))
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._children.reap()
            if self._children.epoll.fileno() in ready:
                self._children.listen()
            if self._listener.fileno() in ready:
                self._accept()
            if self._link and self._link.fileno() in ready:
                self._receive()
            self._children.fork_asked()
            self._look_at_the_clock()
            self._children.commit()
            self._flush()
        with contextlib.suppress(FileNotFoundError):
            os.unlink("keeper.sock")
        self._groups.clean(is_over=True)

    def _timeout_s(self) -> float:
        deadlines = [child.deadline for child in self._children.flying.values()]
        deadlines.append(self._children.trees.wake_at())
        return max(0.0, min(LOOK_S, min([self._idle_at, *deadlines]) - time.monotonic()))

    def _look_at_the_clock(self) -> None:
        now, living = time.monotonic(), len(self._journal.living)
        if now >= self._notify_at:
            self._notify_at = now + LOOK_S
            _notify("WATCHDOG=1")
        self._children.end_late_launches(now)
        self._children.trees.look(now)
        self._idle_at = math.inf if self._link or living else min(self._idle_at, now + self._idle_s)
        if self._is_told_to_end and living:
            log(f"SIGTERM: not ending, {living} children live")
        self._is_done |= now >= self._idle_at or (self._is_told_to_end and not living)
        self._is_told_to_end = False
        if not self._link and not os.path.exists("keeper.sock"):  # somebody has cleaned up
            self._epoll.unregister(self._listener)
            self._listener.close()
            self._listener = _listen(self._welcome[-1])
            self._epoll.register(self._listener, select.EPOLLIN)

    def _told_to_end(self, *_: object) -> None:
        self._is_told_to_end = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            link, _ = self._listener.accept()
            peer = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("=3i", peer)[1] in self._welcome:
                self._hang_up()
                link.setblocking(False)
                self._link = link
                self._epoll.register(link, select.EPOLLIN)

    def _hang_up(self) -> None:
        if self._link:
            self._epoll.unregister(self._link)
            self._link.close()
        self._link, self._queued_bytes = None, 0
        self._inbox.clear()
        self._outbox.clear()

    def _receive(self) -> None:
        assert self._link
        try:
            data = self._link.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._inbox += data
        try:
            while self._link and not self._is_done and (message := self._next()):
                self._request(message)
        except (ValueError, RecursionError) as error:
            log(f"not a message of ours: {error}")
            data = b""
        if not data:
            self._hang_up()

    def _next(self) -> Json | None:
        """The next message when it is whole; ValueError when it is none of ours."""
        if len(self._inbox) < 4:
            return None
        end = 4 + int.from_bytes(self._inbox[:4], "big")
        if end > 4 + FRAME_MAX_BYTES:
            raise ValueError(f"frame of {end - 4} bytes")
        if len(self._inbox) < end:
            return None
        message = json.loads(self._inbox[4:end].decode("utf-8", "surrogateescape"))
        del self._inbox[:end]
        shape = SHAPES.get(str(message.get("type"))) if type(message) is dict else None
        if shape is None or any(type(message.get(name)) not in shape[name] for name in shape):
            raise ValueError("its type is unknown, or a field is missing or wrong")
        return dict.fromkeys(shape) | dict(message)

    def _request(self, message: Json) -> None:
        kind, living = message["type"], len(self._journal.living)
        refused: Json | None = None
        if kind == "spawn":
            refused = self._children.spawn(message)
        else:
            self._children.fork_asked()
        if kind == "signal":
            self._children.signal(message)
        elif kind == "forget":
            self._children.forget(message)
        elif kind == "clear" and self._children.clearing:
            self._children.clearing.begin(message["directory"])
        elif kind == "clear":
            self._tell_cleared(message["directory"], errno.EPERM)
        elif kind == "list":
            self._list()
        elif kind == "quit":
            refused = {"reason": f"{living} children live"} if living else None
            self._is_done = not living
        if refused:
            self._send({"type": "refused", "key": message.get("key"), "stage": "keeper"} | refused)

    def _list(self) -> None:
        keys, told = list(reversed(self._journal.table)), self._children.told
        listing = {"type": "listing", "keeper_pid": os.getpid(), "now": self._journal.now()}
        listing |= {
            "gives_secrets": True,
            "attempts": [],
            "totals": self._journal.totals,
            "is_last": False,
        }
        while not listing["is_last"]:
            part: list[Json] = []
            size = 0
            while keys and len(part) < PART_MAX and size < PART_BYTES:
                part.append(told(keys.pop()))
                size += len(part[-1]["note"])
            pidfds = [self._journal.living[one["key"]].pidfd for one in part if one["has_pidfd"]]
            listing |= {"attempts": part, "is_last": not keys}
            self._send(listing, *pidfds)

    def _tell_cleared(self, directory: str, number: int) -> None:
        self._send({"type": "cleared", "directory": directory, "errno": number})

    def _send(self, message: Json, *pidfds: Fd | None) -> None:
        """Queue it for the worker, if there is one: the next listing says all that was missed."""
        if self._link:
            body = encode(message).encode()
            self._outbox.append((len(body).to_bytes(4, "big") + body, [fd for fd in pidfds if fd]))
            self._queued_bytes += 4 + len(body)

    def _flush(self) -> None:
        while self._link and self._outbox:
            data, pidfds = self._outbox.popleft()
            try:
                sent = socket.send_fds(self._link, [data], [pidfd.number for pidfd in pidfds])
            except BlockingIOError:
                self._outbox.appendleft((data, pidfds))
                break
            except OSError:
                self._hang_up()
                break
            self._queued_bytes -= sent
            if sent < len(data):  # the pidfds left with the first byte
                self._outbox.appendleft((data[sent:], []))
        if self._queued_bytes > QUEUE_MAX_BYTES:
            log("the worker does not read")
            self._hang_up()
        if self._link:
            wanted = select.EPOLLIN if len(self._children.flying) < FLYING_MAX else 0
            self._epoll.modify(self._link, wanted | (select.EPOLLOUT if self._outbox else 0))


def _text(options: list[str], name: str) -> str:
    return next((text[len(name) :] for text in options if text.startswith(name)), "")


def _notify(state: str) -> None:
    """To the service manager that has started us, if one has: sd_notify(3)."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            to.send(state.encode())


def _seconds(options: list[str], name: str, default: float) -> float:
    return next((float(text[len(name) :]) for text in options if text.startswith(name)), default)


def _settle_down() -> None:
    """A session of its own, and nothing inherited that a child would inherit in turn."""
    os.closerange(3, process.FD_END)
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
    libc = ctypes.CDLL(None)
    if (call := RT_SIGACTION.get(os.uname().machine)) is not None:
        for internal in (
            32,
            33,
        ):  # glibc's own: its posix_spawn ignores them, and hides them from us
            libc.syscall(call, internal, bytes(SIGACTION_BYTES), None, 8)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:  # secrets pass through it; until the next exec
        raise OSError("prctl(PR_SET_DUMPABLE) failed")
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")
    gc.disable()
    gc.freeze()


def _places() -> dict[str, str]:
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as own:
        return homes(mounts.read(), own.read())


def _has_pidfs() -> bool:
    """A pidfd's inode names its process: not the same for two of them."""
    pidfds = [Fd(os.pidfd_open(one)) for one in (1, os.getpid())]
    return len({os.fstat(pidfd.number).st_ino for pidfd in pidfds}) == 2


def _listen(uid: int) -> socket.socket:
    """For root, and for this user."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink("keeper.sock")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    listener.bind("keeper.sock")
    os.umask(mask)
    os.chown("keeper.sock", uid, -1)
    listener.listen()
    return listener
