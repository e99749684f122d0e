/* tree OPTIONS FILE DEPTH: a chain of DEPTH descendants, each forked by the one before. Each
 * appends its pid to FILE and waits for ever; the leader prints "ready" when all have.
 * OPTIONS: s each in a session of its own; d forked twice, so that its parent is gone; i ignores
 * all signals; w with an empty environment; x the leader exits with 7; k the leader exits at
 * SIGINT, with 3; - nothing. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int lines(const char *path) {
    int count = 0;
    FILE *file = fopen(path, "r");
    for (int c; file && (c = fgetc(file)) != EOF;) count += c == '\n';
    if (file) fclose(file);
    return count;
}

static void leave(int number) {
    (void)number;
    _exit(3);
}

int main(int argc, char **argv) {
    const char *options = argv[1], *path = argv[2];
    int depth = atoi(argv[3]), level = argc > 4 ? atoi(argv[4]) : 0;
    if (level == 0 && strchr(options, 'k')) signal(SIGINT, leave);
    if (level < depth) {
        pid_t child = fork();
        if (child == 0) {
            if (strchr(options, 's')) setsid();
            if (strchr(options, 'd') && fork() != 0) _exit(0);
            char next[16], *none[] = {NULL};
            snprintf(next, sizeof next, "%d", level + 1);
            char *words[] = {argv[0], argv[1], argv[2], argv[3], next, NULL};
            execve(argv[0], words, strchr(options, 'w') ? none : environ);
            _exit(9);
        }
        if (strchr(options, 'd')) waitpid(child, NULL, 0);
    }
    if (level > 0) {
        for (int number = 1; number < NSIG && strchr(options, 'i'); number++)
            signal(number, SIG_IGN);
        char line[16];
        int length = snprintf(line, sizeof line, "%d\n", getpid());
        int file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
        if (write(file, line, length) != length) _exit(9);
        close(file);
    } else {
        while (lines(path) < depth) usleep(1000);
        puts("ready");
        fflush(stdout);
        if (strchr(options, 'x')) return 7;
    }
    for (;;) pause();
}
