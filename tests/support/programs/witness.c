/* witness LEDGER: its first act is to append `ATTEMPT PID` to LEDGER, in one write. Then it waits:
 * SIGINT makes it exit 7, SIGUSR1 makes it exit 5.
 * witness guard LEDGER: heeds no signal, and appends `signal:NUMBER PID` for each. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void leave(int number) { _exit(number == SIGINT ? 7 : 5); }

static void say(const char *ledger, const char *word) {
    char line[256];
    int fd = open(ledger, O_WRONLY | O_APPEND | O_CREAT, 0644);
    snprintf(line, sizeof line, "%s %d\n", word, (int)getpid());
    if (fd < 0 || write(fd, line, strlen(line)) < 0) _exit(9);
    close(fd);
}

int main(int argc, char **argv) {
    sigset_t all;
    int number;
    char word[32];
    if (argc == 2) {
        signal(SIGINT, leave);
        signal(SIGUSR1, leave);
    }
    sigfillset(&all);
    if (argc > 2) sigprocmask(SIG_BLOCK, &all, NULL);
    say(argv[argc - 1], getenv("CORPS_ATTEMPT"));
    while (argc > 2 && sigwait(&all, &number) == 0) {
        snprintf(word, sizeof word, "signal:%d", number);
        say(argv[argc - 1], word);
    }
    for (;;) pause();
}
