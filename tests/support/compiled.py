"""Small C programs for tests, compiled where the test runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

EXIT_3 = "int main(void) { return 3; }"
SEGV = "int main(void) { *(volatile int *)0 = 1; return 0; }"
IGNORE_SIGINT = r"""
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    signal(SIGINT, SIG_IGN);
    puts("ready"); fflush(stdout);
    for (;;) pause();
}
"""
DOUBLE_FORK = r"""
#include <stdio.h>
#include <unistd.h>
/* Leaves a daemon behind that ends by itself, and exits 0. */
int main(void) {
    if (fork() == 0) {
        setsid();
        if (fork() == 0) { sleep(2); puts("grandchild done"); fflush(stdout); }
        _exit(0);
    }
    sleep(1);
    return 0;
}
"""
CHATTER = r"""
#include <stdio.h>
#include <stdlib.h>
/* COUNT numbered lines of 100 bytes. */
int main(int argc, char **argv) {
    long count = atol(argv[1]);
    (void)argc;
    for (long i = 0; i < count; i++) printf("%09ld %089d\n", i, 0);
    return 0;
}
"""
LEDGER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Its first act: append its attempt to the file argv[1]. Then sleep argv[2] milliseconds. */
int main(int argc, char **argv) {
    char line[256];
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    snprintf(line, sizeof line, "%s\n", getenv("CORPS_ATTEMPT"));
    if (fd < 0 || write(fd, line, strlen(line)) < 0) return 9;
    close(fd);
    usleep(1000 * (argc > 2 ? atoi(argv[2]) : 0));
    return 0;
}
"""
GREET_LIBRARY = r"""
#include <stdio.h>
void greet(const char *name) { printf("hello, %s\n", name); fflush(stdout); }
"""
GREETER = r"""
#include <unistd.h>
void greet(const char *name);
int main(int argc, char **argv) {
    greet(argc > 1 ? argv[1] : "world");
    if (argc > 2) sleep(1000);
    return 0;
}
"""


def compile_c(directory: Path, name: str, source: str, *flags: str) -> Path:
    """`directory`/`name`, an executable made of `source`."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.c"
    file.write_text(source)
    binary = directory / name
    subprocess.run(["cc", "-O1", "-w", "-o", str(binary), str(file), *flags], check=True)
    return binary


def compile_greeter(directory: Path) -> Path:
    """A program and a library of its own, libgreet.so, found by RUNPATH."""
    library = compile_c(directory, "libgreet.so", GREET_LIBRARY, "-shared", "-fPIC")
    flags = (f"-L{library.parent}", "-lgreet", f"-Wl,-rpath,{library.parent}")
    return compile_c(directory, "greeter", GREETER, *flags)
