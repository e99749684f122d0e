/* witness LEDGER: its first act is to append `ATTEMPT PID` to LEDGER, in one write. Then it waits:
 * SIGINT makes it exit 7, SIGUSR1 makes it exit 5. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void leave(int number) { _exit(number == SIGINT ? 7 : 5); }

int main(int argc, char **argv) {
    char line[256];
    signal(SIGINT, leave);
    signal(SIGUSR1, leave);
    int fd = open(argv[argc - 1], O_WRONLY | O_APPEND | O_CREAT, 0644);
    snprintf(line, sizeof line, "%s %d\n", getenv("CORPS_ATTEMPT"), (int)getpid());
    if (fd < 0 || write(fd, line, strlen(line)) < 0) return 9;
    close(fd);
    for (;;) pause();
}
