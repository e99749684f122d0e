"""Programs that use a known amount of something and say how much, and points of a series."""

from __future__ import annotations

from typing import Any

import msgspec

from corps.model.series import Measured, Point

MIB = 1 << 20
NOW = 1_750_000_000.0

ALLOCATE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Touch every page of argv[1] MiB, then wait. */
int main(int argc, char **argv) {
    size_t size = (size_t)atoi(argv[1]) << 20;
    char *memory = malloc(size);
    memset(memory, 1, size);
    printf("ready %d\n", memory[size / 2]); fflush(stdout);
    for (;;) pause();
}
"""
OPEN_50 = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    for (int i = 0; i < 50; i++) open("/dev/null", O_RDONLY);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"""
WRITE_10_MB = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    static char block[100000];
    int fd = open("out", O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 100; i++) if (write(fd, block, sizeof block) != sizeof block) return 9;
    write(1, "ready\n", 6);
    for (;;) pause();
}
"""
BURN = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
/* A grandchild burns a second of CPU, by its own getrusage, says how much, waits for the file
   "go" and ends. argv[1]: `waited` for by its parent and that by the leader; `ignored`, as the
   parent ignores SIGCHLD; `orphan`, its parent ended before and it has a session of its own. */
static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
static void burn(int is_orphan) {
    volatile unsigned long sum = 0;
    if (is_orphan) setsid();
    while (cpu() < 1.0) for (int i = 0; i < 1000000; i++) sum += i;
    printf("burnt %f\n", cpu()); fflush(stdout);
    while (access("go", F_OK) != 0) usleep(10000);
    _exit(0);
}
int main(int argc, char **argv) {
    int is_orphan = !strcmp(argv[1], "orphan");
    if (fork() == 0) {
        if (!strcmp(argv[1], "ignored")) signal(SIGCHLD, SIG_IGN);
        if (fork() == 0) burn(is_orphan);
        if (is_orphan) _exit(0);
        wait(NULL);
        if (!strcmp(argv[1], "waited")) _exit(0);
        for (;;) pause();
    }
    while (is_orphan ? wait(NULL) < 0 : wait(NULL) < 0);
    puts("over"); fflush(stdout);
    for (;;) pause();
}
"""


def a_point(number: int = 0, **facts: Any) -> Point:
    """The sample number `number` of one each 5 s: a second of CPU, 1 MiB written, in each."""
    point = Point(
        at=NOW + 5 * (number + 1),
        span_s=5.0,
        samples=1,
        cpu_user_s=0.75 * (number + 1),
        cpu_system_s=0.25 * (number + 1),
        io_read_bytes=0,
        io_write_bytes=MIB * (number + 1),
        rss_mean_bytes=10 * MIB,
        rss_max_bytes=10 * MIB,
        processes=1,
        threads=1,
        fds=3,
    )
    return msgspec.structs.replace(point, **facts)


def a_measured(**facts: Any) -> Measured:
    measured = Measured(
        at=NOW + 5,
        samples=1,
        cpu_user_s=1.0,
        cpu_system_s=0.5,
        rss_bytes=10 * MIB,
        rss_mean_bytes=10 * MIB,
        rss_peak_bytes=20 * MIB,
        processes=1,
        processes_max=2,
        threads=1,
        threads_max=2,
        fds=3,
        fds_max=4,
        io_read_bytes=5,
        io_write_bytes=6,
    )
    return msgspec.structs.replace(measured, **facts)
