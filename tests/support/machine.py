"""Commands that run as if the machine were another: another boot, a clock that somebody steps."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.compiled import compile_c

STEPPED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* The wall clock is off by as many seconds as the file STEP says at the moment. */
static volatile long *step;
__attribute__((constructor)) static void begin(void) {
    int fd = open(STEP, O_RDONLY | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(0, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) step = page;
    if (fd >= 0) close(fd);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, now);
    if (step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *step;
    return status;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class SteppedClock:
    """A wall clock that only what runs behind `prefix` sees, children and all, and we step."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._step = directory / "step"
        self.step_s(0)
        flags = ("-shared", "-fPIC", "-ldl", f'-DSTEP="{self._step}"')
        library = compile_c(directory, "stepped.so", STEPPED, *flags)
        preload = directory / "ld.so.preload"
        preload.write_text(f"{library}\n")
        self._etc = directory / "etc"
        script = 'cp -a /etc "$1" && cp "$2" "$1/ld.so.preload" && mount --bind "$1" /etc'
        script += ' && shift 2 && exec "$@"'
        self._script = [str(preload), script]

    def step_s(self, seconds: int) -> None:
        """From now on the clock is so far ahead of the machine's."""
        data = struct.pack("=q", seconds)
        if self._step.exists():
            with self._step.open("r+b") as file:
                file.write(data)
        else:
            self._step.write_bytes(data)

    def prefix(self, name: str) -> list[str]:
        """Runs a command whose wall clock is ours. Each name is used once."""
        preload, script = self._script
        etc = f"{self._etc}.{name}"
        return ["unshare", "-m", "sh", "-c", script, "sh", etc, preload]


def another_boot(directory: Path, boot_id: str) -> list[str]:
    """The prefix of a command that finds the machine booted anew; `boot_id` has its 36 digits."""
    file = directory / boot_id
    file.write_text(f"{boot_id}\n")
    script = 'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh", str(file)]
