"""What every daemon does at its start: one instance a directory, a log, private sockets."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from corps.errors import Conflict, Unavailable

BACKLOG = 128
NICE = -10
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGE_BYTES = 64 << 10
PR_SET_DUMPABLE = 4
ARG_START = 45  # in proc_pid_stat(5) field 48, counted after the name


def refuse_optimized() -> None:
    """Assertions are our fuses: without them a daemon must not run."""
    if sys.flags.optimize:
        raise Conflict("corps does not run under python -O: its assertions guard the truth")


def conceal_argument(text: str) -> None:
    """Have `ps` show crosses in its place from now on: the kernel reads our own memory for it."""
    said, secret = Path("/proc/self/cmdline").read_bytes(), os.fsencode(text)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[ARG_START]), int(fields[ARG_START + 1])
    at = said.find(secret)
    while secret and at >= 0 and len(said) == end - begin:
        ctypes.memset(begin + at, ord("x"), len(secret))
        at = said.find(secret, at + len(secret))


@contextlib.contextmanager
def hold_lock(directory: Path, noun: str) -> Iterator[None]:
    """Hold `directory`/lock, a POSIX lock, so that F_GETLK tells the holder's pid truthfully.

    Raise Conflict when another daemon holds it, Unavailable when the directory cannot be used.
    """
    try:
        make_private(directory)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"cannot use the state directory {directory}: {error.strerror}"
        ) from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise Conflict(
            f"a {noun} already runs on {directory}: end it first, or use another --dir"
        ) from error
    try:
        yield
    finally:
        os.close(fd)


def hide_memory() -> None:
    """Keys and secrets pass through it: no core, and no debugger but root's (prctl(2)).

    An exec makes it as usual again, so what a daemon starts is not touched by it.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise Unavailable(f"cannot keep this process from dumps: {os.strerror(ctypes.get_errno())}")


def raise_descriptor_limit() -> None:
    """A descriptor for each connection, three for each process under watch: all we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def raise_priority() -> int:
    """Beat also when apps take all there is, as far as we may; returns the nice of before.

    What a daemon starts must be given that one again.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, NICE))
    return before


def settle_memory() -> None:
    """What was imported stays for good: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def spare_memory() -> None:
    """Of a daemon with thousands of TLS connections: what a handshake took goes back to the system
    (mallopt(3)). uvloop gives each connection 256 KiB, of which it touches a page or two; glibc
    would soon take these from its heap, where they had been touched before: 80 KiB for each
    connection, not 46."""
    with contextlib.suppress(AttributeError):  # another C library has another way
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """What lies free between what is used goes back as well: a millisecond, rarely some more."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _OneLine(logging.Formatter):
    """What strangers say is told in errors, decoders repeat it: it begins no line of its own, and
    does nothing to the terminal that shows it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return text if text.isprintable() else "".join(map(_spell, text))


def _spell(one: str) -> str:
    return one if one.isprintable() else one.encode("unicode_escape").decode("ascii")


def start_log() -> None:
    """Lines on stderr: time, level, what."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def unix_listener(path: Path) -> socket.socket:
    """A listening Unix socket, 0600, in place of a stale one. The caller holds the lock.

    Bound through a directory descriptor: sun_path has 108 bytes (unix(7)), a path may have more.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Unavailable(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
        os.close(directory)
    return sock


def make_private(directory: Path) -> None:
    """With what is missing above it; what is there stays as it is."""
    for path in (*reversed(directory.parents), directory):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


def private(path: str, flags: int) -> int:
    """An opener: what it makes is for its owner only, whatever the umask says."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads sees the old text or the new one, also after a crash."""
    new = path.with_name(f".{path.name}.new")
    with open(new, "w", encoding="utf-8", opener=private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
