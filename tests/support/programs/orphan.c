/* Leaves a daemon behind, which writes its pid to argv[1], works a little and ends at SIGUSR1. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void leave(int number) {
    (void)number;
    _exit(5);
}

int main(int argc, char **argv) {
    (void)argc;
    pid_t middle = fork();
    if (middle == 0) {
        setsid();
        if (fork() != 0) _exit(0);
        signal(SIGUSR1, leave);
        while (clock() < CLOCKS_PER_SEC / 20) {}
        FILE *file = fopen(argv[1], "w");
        fprintf(file, "%d\n", getpid());
        fclose(file);
        for (;;) pause();
    }
    waitpid(middle, 0, 0);
    return 0;
}
