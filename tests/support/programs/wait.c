/* Prints "ready"; exits with status argv[1] at SIGUSR1, or by default at any other signal. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int status;

static void leave(int number) {
    (void)number;
    _exit(status);
}

int main(int argc, char **argv) {
    status = argc > 1 ? atoi(argv[1]) : 0;
    signal(SIGUSR1, leave);
    puts("ready");
    fflush(stdout);
    for (;;) pause();
}
