"""Runs a program once, and writes down which files it and its children map: a process of its own.

A seccomp filter stops a process only where it maps a file privately, as every loader maps what it
loads; there ptrace(2) tells us the descriptor, before a short program is over. Nothing is asked of
the program or its C library, and nothing is written into its descriptors as LD_DEBUG does (ADR 18).

    python -m corps.pack.tracer FD SECONDS PROG ARG...     one JSON object to FD
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import shutil
import signal
import struct
import sys
from types import FrameType

GRACE_S = 2.0
FILES_MAX = 100_000
# <linux/ptrace.h>, <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>
_TRACEME, _CONT, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 0x4200, 0x420E
_EVENT_EXEC, _EVENT_SECCOMP = 4, 7
_OPTIONS = (
    0x02 | 0x04 | 0x08 | 0x10 | 0x80 | 0x100000
)  # fork, vfork, clone, exec, seccomp, exitkill
_NO_NEW_PRIVS, _SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_KIND_OF_MAP, _PRIVATE_FILE = 0x20 | 0x0F, 0x02  # MAP_ANONYMOUS | MAP_TYPE, MAP_PRIVATE
_WALL = 0x40000000
# architecture -> number of mmap(2), or mmap2(2): the descriptor is the fifth argument of both
_MMAP = {
    "x86_64": ((0xC000003E, 9), (0x40000003, 192)),
    "aarch64": ((0xC00000B7, 222), (0x40000028, 192)),
    "riscv64": ((0xC00000F3, 222),),
    "loongarch64": ((0xC0000102, 222),),
    "ppc64le": ((0xC0000015, 90),),
}
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong]
_libc.prctl.argtypes += [ctypes.c_ulong]


def main() -> None:
    """Write `{"status", "is_over", "mapped": {program: [file, ...]}}` or `{"error"}`."""
    fd, seconds, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us will kill us
    os.set_inheritable(fd, False)
    with open(fd, "w") as out:
        json.dump(_traced(command, seconds), out)


def _traced(command: list[str], seconds: float) -> dict[str, object]:
    if platform.machine() not in _MMAP:
        return {"error": f"programs cannot be traced on {platform.machine()}"}
    program = shutil.which(command[0])
    if program is None:
        return {"error": f"no program '{command[0]}': give its path, and make it executable"}
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(program, command, writing)
    os.close(writing)
    with open(reading) as pipe:
        if reason := pipe.read():
            os.waitpid(pid, 0)
            return {"error": reason}
    run = _Run(pid)
    run.watch(seconds)
    mapped = {program: list(files) for program, files in run.mapped.items()}
    return {"status": run.status, "is_over": run.is_over, "mapped": mapped}


def _become(program: str, command: list[str], failed: int) -> None:
    """In the child: traced from its exec on, in a session of its own."""
    step = "cannot trace"
    try:
        os.setsid()
        if os.isatty(0):
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # Python or we ignore them
            signal.signal(number, signal.SIG_DFL)
        _ptrace(_TRACEME, 0, 0, None)
        _filter()
        step = "cannot run"
        os.execv(program, command)
    except OSError as error:
        os.write(failed, f"{step} '{command[0]}': {error.strerror or error}".encode())
    finally:
        os._exit(127)


class _Run:
    """All processes that descend from the first one."""

    def __init__(self, pid: int) -> None:
        self.mapped: dict[str, dict[str, None]] = {}
        self.status: int | None = None
        self.is_over = True
        self._pid = pid
        self._alive: set[int] = set()
        self._signal = signal.SIGTERM
        self._count = 0

    def watch(self, seconds: float) -> None:
        """Until nobody is left; after `seconds` they are asked to end, later killed."""
        os.waitpid(self._pid, _WALL)  # stopped by its exec
        _ptrace(_SETOPTIONS, self._pid, 0, _OPTIONS)
        self._note_program(self._pid)
        self._alive.add(self._pid)
        signal.signal(signal.SIGALRM, self._end)
        signal.setitimer(signal.ITIMER_REAL, seconds, GRACE_S)
        _proceed(self._pid, 0)
        while True:
            try:
                tid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                self._stopped(tid, status)
                continue
            self._alive.discard(tid)
            if tid == self._pid:
                self.status = os.waitstatus_to_exitcode(status)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _stopped(self, tid: int, status: int) -> None:
        number, event = os.WSTOPSIG(status), status >> 16
        is_new = tid not in self._alive
        self._alive.add(tid)
        if event == _EVENT_SECCOMP:
            self._note_file(tid)
        elif event == _EVENT_EXEC:
            self._note_program(tid)
        is_ours = event or (is_new and number == signal.SIGSTOP)
        _proceed(tid, 0 if is_ours else number)

    def _note_program(self, tid: int) -> None:
        if program := _link(f"/proc/{tid}/exe"):
            self.mapped.setdefault(program, {})

    def _note_file(self, tid: int) -> None:
        info = ctypes.create_string_buffer(88)
        try:
            _ptrace(_GET_SYSCALL_INFO, tid, len(info), ctypes.addressof(info))
        except ProcessLookupError:
            return  # killed meanwhile
        fd = struct.unpack_from("=QQQQQQ", info, 32)[4]
        program, file = _link(f"/proc/{tid}/exe"), _link(f"/proc/{tid}/fd/{fd & 0xFFFFFFFF}")
        if program and file and file.startswith("/") and self._count < FILES_MAX:
            self._count += file not in self.mapped.setdefault(program, {})
            self.mapped[program][file] = None

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.is_over = False
        for pid in {_process_of(tid) for tid in self._alive} - {0}:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, self._signal)
        self._signal = signal.SIGKILL


def _proceed(tid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # killed while it was stopped: waitpid tells
        _ptrace(_CONT, tid, 0, number)


def _process_of(tid: int) -> int:
    """One signal for all threads of a process; 0: it is gone."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            return next((int(line[5:]) for line in file if line.startswith(b"Tgid:")), 0)
    except OSError:
        return 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _ptrace(request: int, pid: int, address: int, data: int | None) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _filter() -> None:
    """Stop only for mmap(2) of a file, privately; `no_new_privs` lets everybody set a filter."""
    code = b"".join(_block(arch, number) for arch, number in _MMAP[platform.machine()])
    code += _instruction(_RETURN, _ALLOW)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    for arguments in ((_NO_NEW_PRIVS, 1, None, 0, 0), (_SET_SECCOMP, _MODE_FILTER, program, 0, 0)):
        if _libc.prctl(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _block(arch: int, number: int) -> bytes:
    """Of struct seccomp_data: the number at 0, the architecture at 4, the flags at 40."""
    return b"".join(
        (
            _instruction(_LOAD, 4),
            _instruction(_JUMP_EQUAL, arch, 0, 7),  # another: the next block
            _instruction(_LOAD, 0),
            _instruction(_JUMP_EQUAL, number, 0, 3),
            _instruction(_LOAD, 40),
            _instruction(_AND, _KIND_OF_MAP),
            _instruction(_JUMP_EQUAL, _PRIVATE_FILE, 1, 0),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _TRACE),
        )
    )


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


if __name__ == "__main__":
    main()
